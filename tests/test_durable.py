"""Durable and shared subscriptions, redelivery, dead letters and full queues, over AMQP."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import frames
from clacks.agent.access import ADMINISTRATORS, Access, Rule
from clacks.agent.agent import Agent
from clacks.agent.broker.compiler import BURST as BURST_SECONDS
from clacks.agent.broker.compiler import LONG, SHARE
from clacks.agent.broker.store import Batch
from clacks.agent.broker.subscription import BURST
from clacks.agent.config import load
from clacks.agent.users import UserBook, make_user
from clacks.amqp import (
    ACCEPTED,
    RELEASED,
    AmqpError,
    Condition,
    Connection,
    Credentials,
    Described,
    Draft,
    Modified,
    Options,
    Outcome,
    Properties,
    Receiver,
    Rejected,
    Sender,
    Symbol,
    Terminus,
    connect,
)
from clacks.amqp.codec import UByte, ULong
from clacks.common.components.client import BusClient
from clacks.common.errors import ClacksError
from frames import ByHand
from support import DEADLINE, End, run, until

DOMAIN = "org.clacks"
RULES = (Rule(users=("anna",), publish=("*",), subscribe=("*",), durable=("anna-*",), block=("slow",)),)


def phone(number: int) -> str:
    return (
        '<Event xmlns="http://www.gonicus.de/Events"><PhoneStatus>'
        f"<CallerId>{number}</CallerId><ReceiverId>1</ReceiverId><Status>busy</Status></PhoneStatus></Event>"
    )


def number_of(message: Any) -> int:
    return int(message.body.split(b"CallerId>")[1].removesuffix(b"</"))


class Scene:
    """An agent on a folder, and the connections to it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder, self.settings = folder, settings
        self.connections: list[Connection] = []

    async def __aenter__(self) -> Scene:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self) -> None:
        settings = {"listen": "localhost:0", "state_dir": str(self.folder), "node_id": "one", "drain_timeout": 0.2, **self.settings}
        book = UserBook({name: make_user(name, name, groups) for name, groups in (("admin", [ADMINISTRATORS]), ("anna", ()))})
        self.agent = Agent(load(None, settings, {}), book, RULES)
        self.url = (await self.agent.start(watch=False))[0]
        self.port = int(self.url.rpartition(":")[2].partition("/")[0])

    async def stop(self) -> None:
        for connection in self.connections:
            connection.abort()
        self.connections.clear()
        await self.agent.close()

    async def connect(self, user: str = "admin", container: str = "test") -> Connection:
        connection = await connect("localhost", self.port, Credentials(user, user), Options(container_id=container, hostname="localhost"))
        self.connections.append(connection)
        return connection

    def client(self, user: str = "admin") -> BusClient:
        return BusClient(f"amqp://{user}:{user}@localhost:{self.port}/{DOMAIN}")

    async def publish(self, *numbers: int, ttl: int | None = None) -> list[Outcome]:
        """Publish events in their order, all at once, and wait for their outcomes; `ttl` in milliseconds."""
        connection = await self.connect(container="publisher")
        link, end = await connection.attach_sender(Terminus(DOMAIN)), End()
        link.handler = end
        for number in numbers:
            link.send(Draft(phone(number).encode(), ttl=ttl).encode())
        await until(lambda: len(end.outcomes) == len(numbers), "every event has an outcome")
        connection.abort()
        return [outcome for _, outcome in sorted(end.outcomes, key=lambda pair: pair[0])]


async def receive(
    connection: Connection, name: str, end: End, *, xquery: str = "", credit: int = 100, source: Terminus | None = None, **properties: Any
) -> Receiver:
    filters = {"f": Described(Symbol("apache.org:xquery-filter:string"), xquery)} if xquery else {}
    asked = source or Terminus(DOMAIN, durable=2, expiry="never", filter=filters)
    told = {key.replace("_", "-"): item for key, item in properties.items()}
    link = await connection.attach_receiver(asked, name=name, properties=told, handler=end)
    link.window = credit
    return link


def scene(**settings: Any) -> Callable[[Callable[[Scene], Any]], Callable[[Path], None]]:
    """A test that gets a scene with an agent of these settings."""

    def decorate(play: Callable[[Scene], Any]) -> Callable[[Path], None]:
        def test(tmp_path: Path) -> None:
            @run
            async def body() -> None:
                async with Scene(tmp_path, **settings) as stage:
                    await play(stage)

            body()

        test.__name__, test.__doc__ = play.__name__, play.__doc__
        return test

    return decorate


def permit(stage: Scene, *rules: Rule) -> None:
    """Other rules than those the agent has begun with."""
    stage.agent.bus.access = Access(rules, stage.agent.users.members(stage.agent.users.users))
    stage.agent.broker.permissions_changed()


def numbers(end: End) -> list[int]:
    return [number_of(message) for message in end.messages]


@scene()
async def test_events_are_kept_while_the_consumer_is_away(stage: Scene) -> None:
    first = End()
    link = await receive(await stage.connect(), "billing", first)
    assert await stage.publish(1, 2) == [ACCEPTED, ACCEPTED]
    await until(lambda: len(first.received) == 2, "the consumer has both")
    link.close(closed=False)
    assert await stage.publish(3, 4) == [ACCEPTED, ACCEPTED]
    second = End()
    await receive(await stage.connect(), "billing", second)
    await until(lambda: len(second.received) == 2, "what was kept is there")
    assert numbers(second) == [3, 4]


@scene()
async def test_and_across_a_restart_of_the_agent(stage: Scene) -> None:
    phones = Terminus(f"{DOMAIN}.event.PhoneStatus", durable=2, expiry="never")
    await receive(await stage.connect(), "billing", End(), credit=0, source=phones)
    await stage.publish(*range(200))
    await stage.stop()
    await stage.start()
    end = End(outcome_for=None)
    link = await receive(await stage.connect(), "billing", end, credit=1000, source=phones)
    await until(lambda: len(end.received) == 200, "they are there")
    for number, _, _ in end.received[:100:2]:
        link.settle(number, ACCEPTED)
    await until(lambda: stage.agent.broker.subscriptions.snapshot()[0].unsettled == 150, "the agent knows")
    await stage.stop()
    await stage.start()
    again = End()
    await receive(await stage.connect(), "billing", again, source=phones)
    await until(lambda: len(again.received) == 150, "what was not settled comes again, and the rest")
    assert numbers(again) == [*range(1, 100, 2), *range(100, 200)]


@scene()
async def test_a_second_link_of_the_name_takes_it_over(stage: Scene) -> None:
    first, second = End(outcome_for=None), End()
    await receive(await stage.connect(), "billing", first)
    await stage.publish(1, 2, 3)
    await until(lambda: len(first.received) == 3, "the first one has them")
    await receive(await stage.connect(), "billing", second)
    await until(lambda: first.ended, "the first link is told")
    condition, closed = first.ended[0]
    assert condition is not None
    assert condition.name == "amqp:link:stolen"
    assert not closed
    await until(lambda: len(second.received) == 3, "what the first had not settled is the second's")
    assert numbers(second) == [1, 2, 3]
    assert [message.header.delivery_count for message in second.messages] == [1, 1, 1]


@scene()
async def test_another_container_or_user_has_its_own(stage: Scene) -> None:
    mine, other, anna = End(), End(), End()
    await receive(await stage.connect(), "anna-1", mine)
    await receive(await stage.connect(container="other"), "anna-1", other)
    await receive(await stage.connect("anna"), "anna-1", anna)
    await stage.publish(1)
    await until(lambda: all(len(end.received) == 1 for end in (mine, other, anna)), "each has it")
    assert len(stage.agent.broker.subscriptions.kept.all) == 3


@scene()
async def test_closing_removes_and_detaching_does_not(stage: Scene) -> None:
    connection = await stage.connect()
    (await receive(connection, "a", End())).close(closed=False)
    (await receive(connection, "b", End())).close(closed=True)
    durable = stage.agent.broker.subscriptions.kept.all
    await until(lambda: [one.terms.name for one in durable.values()] == ["a"], "only b is gone")
    assert stage.agent.bus.subscriptions == 1


@scene()
async def test_a_link_without_a_source_takes_it_up_as_it_is(stage: Scene) -> None:
    await receive(await stage.connect(), "billing", End(), xquery="//*:CallerId = 1")
    link = await (await stage.connect()).attach_receiver(None, name="billing")  # type: ignore[arg-type]
    source = link.remote_source
    assert source is not None
    assert source.address == DOMAIN
    assert source.durable == 2
    assert source.expiry == "never"
    assert [item.value for item in source.filter.values()] == ["//*:CallerId = 1"]


@scene()
async def test_it_expires_after_its_timeout(stage: Scene) -> None:
    source = Terminus(DOMAIN, durable=2, expiry="link-detach", timeout=1)
    link = await receive(await stage.connect(), "brief", End(), source=source)
    assert link.remote_source is not None
    assert link.remote_source.timeout == 1
    link.close(closed=False)
    await until(lambda: not stage.agent.broker.subscriptions.kept.all, "it is gone")
    assert stage.agent.bus.subscriptions == 0


@scene()
async def test_what_is_released_comes_again_in_its_place(stage: Scene) -> None:
    await refused_once(stage, RELEASED, [0, 0, 0])


@scene()
async def test_what_is_modified_comes_again_with_its_count(stage: Scene) -> None:
    await refused_once(stage, Modified(failed=True), [1, 1, 1])


@scene(**{"durable.events": 2})
async def test_what_has_expired_makes_room_also_while_nobody_consumes(stage: Scene) -> None:
    """Of what waits and of what has come back, and after a restart."""
    connection, end = await stage.connect(), End(outcome_for=None)
    link = await receive(connection, "billing", end, credit=1)
    for restart in (False, True):
        assert await stage.publish(1, 2, ttl=2_000) == [ACCEPTED, ACCEPTED]
        assert (await stage.publish(3))[0] is not ACCEPTED, "it is full"
        if restart:
            await stage.stop()
            await stage.start()
        else:
            await until(lambda: end.received, "one is sent")
            link.close(closed=False)
        subscription = next(iter(stage.agent.broker.subscriptions.kept.all.values()))
        await until(lambda one=subscription: one.expired == 2, "both have expired")
        assert (subscription.kept_events, subscription.kept_bytes, stage.agent.broker.subscriptions.kept.journal().events) == (0, 0, 0)
    assert await stage.publish(4, 5) == [ACCEPTED, ACCEPTED]
    last = End()
    await receive(await stage.connect(), "billing", last)
    await until(lambda: numbers(last) == [4, 5], "what came after that")


@scene()
async def test_the_time_that_an_event_has_waited_is_taken_off_its_ttl(stage: Scene) -> None:
    (await receive(await stage.connect(), "billing", End())).close(closed=False)
    assert await stage.publish(1, ttl=60_000) == [ACCEPTED]
    since = time.monotonic()
    await until(lambda: time.monotonic() > since + 0.05, "a while is over")
    end = End()
    await receive(await stage.connect(), "billing", end)
    await until(lambda: end.received, "it comes")
    assert 0 < end.messages[0].header.ttl <= 60_000 - 50


@scene()
async def test_an_event_that_expires_far_away_comes_again_too(stage: Scene) -> None:
    """Further than the ttl of a header (3.2.1) can say: what is sent again says the most it can."""
    connection, end = await stage.connect(), End(outcome_for=None)
    link = await receive(connection, "billing", end)
    publisher = await connection.attach_sender(Terminus(DOMAIN))
    far = Properties(absolute_expiry_time=int(time.time() * 1000) + 2**33)
    publisher.send(Draft(phone(1).encode(), far, annotations={"x-opt-own": UByte(7)}).encode())
    await until(lambda: end.received, "it is there")
    link.settle(end.received[0][0], Modified(failed=True))
    await until(lambda: len(end.received) == 2, "it comes again")
    first, second = end.messages
    assert (second.header.ttl, second.header.delivery_count) == (2**32 - 1, 1)
    assert (second.annotations, second.bare) == (first.annotations, first.bare)


async def refused_once(stage: Scene, outcome: Outcome, counts: list[int]) -> None:
    for name, source in (("durable", None), ("live", Terminus(DOMAIN))):
        end = End(outcome_for=None)
        link = await receive(await stage.connect(), name, end, source=source, credit=3)
        link.window = 0
        await stage.publish(1, 2, 3)
        await until(lambda end=end: len(end.received) == 3, "three are there")
        for place in (2, 0, 1):
            link.settle(end.received[place][0], outcome)
        await until(lambda link=link: link.unsettled == 0, "all are settled")
        await stage.publish(4, 5)
        link.window = 10
        await until(lambda end=end: len(end.received) >= 8, "they come again, and the others after them")
        assert numbers(end)[3:8] == [1, 2, 3, 4, 5]
        assert [message.header.delivery_count or 0 for message in end.messages[3:8]] == [*counts, 0, 0]
        link.close()


@scene(**{"queue.deliveries": 3})
async def test_an_event_that_kills_its_consumers_is_a_dead_letter(stage: Scene) -> None:
    """It was the first that each of them had not settled; what was behind it is not to blame, and comes on."""
    dead = End()
    await receive(await stage.connect(), "dead", dead, source=Terminus(f"{DOMAIN}.dead-letters"))
    for victim in range(3):
        end, connection = End(outcome_for=None), await stage.connect()
        await receive(connection, "billing", end)
        if victim == 0:
            await stage.publish(1, 2, 3)
        await until(lambda end=end: numbers(end) == [1, 2, 3], "all are in its hands")
        connection.abort()
        await until(lambda: sum(len(one.consumers) for one in stage.agent.broker.subscriptions.all) == 1, "it is lost")
    await until(lambda: dead.received, "a letter is dead")
    assert number_of(dead.messages[0]) == 1
    assert "3 consumers were lost" in dead.messages[0].annotations["x-opt-clacks-dead-reason"]
    last = End()
    await receive(await stage.connect(), "billing", last)
    await until(lambda: len(last.received) == 2, "the others come on")
    assert [(number_of(message), message.header.delivery_count) for message in last.messages] == [(2, 3), (3, 3)]


@scene()
async def test_dead_letters_are_their_owners_and_can_be_replayed(stage: Scene) -> None:
    picky, again = End(outcome_for=Rejected(Condition("x:y", "not now"))), End()
    connection = await stage.connect("anna")
    await receive(connection, "anna-1", picky)
    await stage.publish(1, 2)
    await until(lambda: stage.agent.broker.subscriptions.totals().buried == 2, "both are dead")
    stranger = End()
    await receive(await stage.connect(), "dead", stranger, source=Terminus(f"{DOMAIN}.dead-letters"))
    connection.abort()
    async with stage.client("admin") as bus:
        listed = await bus.call("getSubscriptions")
        assert {(one["user"], one["name"]) for one in listed} >= {("anna", "anna-1"), ("anna", "dead-letters")}
        assert await bus.call("replaySubscription", "anna-1", "anna") == 2
    await receive(await stage.connect("anna"), "anna-1", again)
    await until(lambda: len(again.received) == 2, "they are delivered again")
    assert numbers(again) == [1, 2]
    assert not stranger.received
    assert not any("dead" in key for message in again.messages for key in message.annotations)


@scene()
async def test_a_shared_subscription_is_one(stage: Scene) -> None:
    """Each event goes to one consumer; what one had not settled when it went is the others'."""
    for durable in (False, True):
        source = Terminus(DOMAIN, capabilities=("shared",), **({"durable": 2, "expiry": "never"} if durable else {}))
        ends = [End(outcome_for=None) for _ in range(3)]
        connections = [await stage.connect(container=f"worker {place}") for place in range(3)]
        for connection, end in zip(connections, ends, strict=True):
            await receive(connection, f"workers-{durable}", end, source=source)
        await stage.publish(*range(30))
        await until(lambda ends=ends: sum(len(end.received) for end in ends) == 30, "all are with somebody")
        assert sorted(number for end in ends for number in numbers(end)) == list(range(30))
        assert all(len(end.received) == 10 for end in ends)
        lost = numbers(ends[0])
        connections[0].abort()
        await until(lambda ends=ends: len(ends[1].received) + len(ends[2].received) == 30, "the others have what the first had")
        more = [message for end in ends[1:] for message in end.messages[10:]]
        assert sorted(map(number_of, more)) == lost
        assert {message.header.delivery_count for message in more} == {1}
        for connection in connections[1:]:
            connection.abort()
    await until(lambda: len(stage.agent.broker.subscriptions.all) == 1, "the live one ended with its last consumer")


@scene(**{"durable.events": 3})
async def test_a_full_one_refuses_for_all(stage: Scene) -> None:
    """Nobody gets an event that a durable subscription has no room for; its publisher is told to try again."""
    live = End()
    await receive(await stage.connect(), "full", End(), credit=0)
    await receive(await stage.connect(), "live", live, source=Terminus(DOMAIN))
    assert await stage.publish(1, 2, 3, 4) == [ACCEPTED, ACCEPTED, ACCEPTED, RELEASED]
    await until(lambda: len(live.received) == 3, "the live one has what was accepted")
    async with stage.client() as bus:
        with pytest.raises(ClacksError) as caught:
            await bus.call("sendEvent", phone(5))
        assert caught.value.code == "subscription-full"
        assert (await bus.call("getStatus"))["refusals"] == {"subscription-full": 2}
        assert await bus.call("deleteSubscription", "full", None, True)
        assert await bus.call("sendEvent", phone(6))
    await until(lambda: len(live.received) == 4, "the way is free")
    assert numbers(live) == [1, 2, 3, 6]


@scene()
async def test_declared_loss_is_counted_and_told(stage: Scene) -> None:
    end = End()
    size = 3 * 350
    link = await receive(await stage.connect(), "lossy", end, credit=0, **{"clacks:max-bytes": size})
    assert link.remote_properties == {"clacks:overflow": "drop-oldest", "clacks:max-bytes": size}
    assert await stage.publish(*range(10)) == [ACCEPTED] * 10
    subscription = next(iter(stage.agent.broker.subscriptions.kept.all.values()))
    assert subscription.kept_bytes <= size
    assert subscription.dropped == 10 - subscription.waiting > 0
    link.window = 100
    await until(lambda: len(end.received) == 10 - subscription.dropped, "the newest are there")
    assert end.messages[0].annotations["x-opt-clacks-dropped"] == subscription.dropped
    assert "x-opt-clacks-dropped" not in end.messages[1].annotations
    aged = End()
    old = await receive(await stage.connect(), "aged", aged, credit=0, **{"clacks:max-age": 0.5})
    await stage.publish(1)
    await until(lambda: stage.agent.broker.subscriptions.totals().dropped > subscription.dropped, "it is too old")
    old.window = 1
    number = 1
    while not aged.received:  # a machine may stand still for half a second, and more than once
        number += 1
        lost = stage.agent.broker.subscriptions.totals().dropped
        await stage.publish(number)
        await until(lambda lost=lost: aged.received or stage.agent.broker.subscriptions.totals().dropped > lost, "it is there or too old")
    assert numbers(aged) == [number]


@scene(**{"queue.events": 3})
async def test_policies_of_live_queues(stage: Scene) -> None:
    dropping, leaving = End(), End()
    drops = await receive(await stage.connect(), "drops", dropping, source=Terminus(DOMAIN), credit=0)
    await receive(await stage.connect(), "leaves", leaving, source=Terminus(DOMAIN), credit=0, **{"clacks:overflow": "detach"})
    assert await stage.publish(1, 2, 3, 4, 5) == [ACCEPTED] * 5
    await until(lambda: leaving.ended, "the one is detached")
    condition, closed = leaving.ended[0]
    assert closed
    assert condition is not None
    assert condition.info["code"] == "queue-full"
    drops.window = 10
    await until(lambda: len(dropping.received) == 3, "the other has the newest")
    assert numbers(dropping) == [3, 4, 5]
    assert dropping.messages[0].annotations["x-opt-clacks-dropped"] == 2


@scene(**{"queue.events": 3})
async def test_a_publisher_is_slowed_only_where_that_is_allowed(stage: Scene) -> None:
    asked: dict[str, Any] = {"clacks:overflow": "block-publisher"}
    for user, name in (("admin", "slow"), ("anna", "slower")):
        with pytest.raises(AmqpError) as caught:
            await receive(await stage.connect(user), name, End(), source=Terminus(DOMAIN), **asked)
        assert caught.value.condition.info["code"] == "not-permitted"
    end, sent = End(), End()
    link = await receive(await stage.connect("anna"), "slow", end, source=Terminus(DOMAIN), credit=0, **asked)
    connection = await stage.connect()
    publisher: Sender = await connection.attach_sender(Terminus(DOMAIN))
    publisher.handler = sent
    for number in range(6):
        publisher.send(Draft(phone(number).encode()).encode())
    await until(lambda: stage.agent.broker.subscriptions.snapshot()[0].waiting == 6, "all have come in")
    assert len(sent.outcomes) == 3
    link.window = 10
    await until(lambda: len(sent.outcomes) == 6, "and the rest is accepted when there is room")
    assert numbers(end) == list(range(6))
    assert {outcome for _, outcome in sent.outcomes} == {ACCEPTED}


@scene()
async def test_undecided_events_are_kept_too(stage: Scene) -> None:
    """A filter that only the sandbox can answer: its events are on the disk before anybody has asked it."""
    dear = "count(for $a in //*, $b in //* where $a = $b and $a = '3' return 1) > 0"
    end = End()
    await receive(await stage.connect(), "dear", End(), xquery=dear, credit=0)
    assert await stage.publish(*range(6)) == [ACCEPTED] * 6
    await stage.stop()
    await stage.start()
    await receive(await stage.connect(), "dear", end, xquery=dear)
    await until(lambda: end.received, "the one that matches is there")
    await until(lambda: stage.agent.broker.subscriptions.snapshot()[0].waiting == 0, "all are decided about")
    assert numbers(end) == [3]


@scene()
async def test_large_backlogs_are_on_the_disk_and_not_in_memory(stage: Scene) -> None:
    end = End()
    link = await receive(await stage.connect(), "behind", end, credit=0)
    journal = stage.agent.broker.subscriptions.kept.journal()
    await stage.publish(*range(300))
    journal._recent.clear()
    journal._recent_bytes = 0
    link.window = 1000
    await until(lambda: len(end.received) == 300, "everything is there")
    assert numbers(end) == list(range(300))
    await until(lambda: journal.events == 0, "and nothing is left")


@scene()
async def test_nothing_is_left_in_the_file(stage: Scene) -> None:
    link = await receive(await stage.connect(), "billing", End())
    await stage.publish(*range(50))
    link.close(closed=True)
    await until(lambda: not stage.agent.broker.subscriptions.kept.all, "it is removed")
    await stage.stop()
    db = sqlite3.connect(stage.folder / "events.db")
    assert db.execute("SELECT (SELECT count(*) FROM event), (SELECT count(*) FROM subscription)").fetchone() == (0, 0)
    db.close()
    await stage.start()


@scene()
async def test_much_that_waits_goes_out_in_bursts(stage: Scene) -> None:
    """A subscription that has much to send sends a burst in a turn of the loop: in between come the others'."""
    end = End()
    link = await receive(await stage.connect(), "behind", end, credit=0)
    await stage.publish(*range(300))
    subscription = stage.agent.broker.subscriptions.snapshot()[0]
    turns: list[int] = []
    pump = subscription.pump

    def counted() -> None:
        before = subscription.delivered
        pump()
        turns.append(subscription.delivered - before)

    subscription.pump = counted  # type: ignore[method-assign]
    link.window = 1000
    await until(lambda: len(end.received) == 300, "everything is there")
    assert max(turns) == BURST
    assert numbers(end) == list(range(300))


@scene()
async def test_dead_letters_that_were_looked_at_are_replayed_once(stage: Scene) -> None:
    connection = await stage.connect()
    await receive(connection, "billing", End(outcome_for=Rejected(Condition("x:y", "not now"))))
    await stage.publish(1, 2)
    await until(lambda: stage.agent.broker.subscriptions.totals().buried == 2, "both are dead")
    connection.abort()
    looked = End(outcome_for=None)
    letters = await receive(await stage.connect(), "dead", looked, source=Terminus(f"{DOMAIN}.dead-letters"))
    await until(lambda: len(looked.received) == 2, "somebody has seen them")
    letters.close(closed=False)
    async with stage.client() as bus:
        assert [await bus.call("replaySubscription", "billing") for _ in range(2)] == [2, 0]


@scene()
async def test_amounts_have_an_upper_limit(stage: Scene) -> None:
    for properties in ({"clacks:max-bytes": math.inf}, {"clacks:max-age": ULong(2**64 - 1)}):
        with pytest.raises(AmqpError) as caught:
            await receive(await stage.connect(), "x", End(), **properties)  # type: ignore[arg-type]
        assert caught.value.condition.info["code"] == "link-refused"
        assert "up to" in str(caught.value)


@scene()
async def test_what_is_too_large_for_its_consumer_is_a_dead_letter(stage: Scene) -> None:
    """The link goes on (AMQP 1.0 2.7.3), and what others take they get."""
    small, large, dead = End(), End(), End()
    options = Options(container_id="small", hostname="localhost", max_message_size=1000)
    narrow = await connect("localhost", stage.port, Credentials("admin", "admin"), options)
    stage.connections.append(narrow)
    await receive(narrow, "small", small)
    await receive(await stage.connect(), "large", large)
    publisher = stage.client()
    async with publisher as bus:
        for status in ("a" * 2000, "b"):
            await bus.send(phone(1).replace("busy", status))
    await until(lambda: len(small.received) == 1 and len(large.received) == 2, "each has what it takes")
    await receive(await stage.connect(), "dead", dead, source=Terminus(f"{DOMAIN}.dead-letters"))
    await until(lambda: dead.received, "the rest is a dead letter")
    assert "no consumer takes more than 1000" in dead.messages[0].annotations["x-opt-clacks-dead-reason"]


@scene()
async def test_a_suspended_one_is_not_taken_up_as_it_is(stage: Scene) -> None:
    """Its user may see nothing at present: what waits stays, and an attach says why."""
    await receive(await stage.connect("anna"), "anna-1", End(), credit=0)
    await stage.publish(1)
    subscription = next(iter(stage.agent.broker.subscriptions.kept.all.values()))
    permit(stage)
    with pytest.raises(AmqpError) as caught:
        await (await stage.connect("anna")).attach_receiver(None, name="anna-1")  # type: ignore[arg-type]
    assert caught.value.condition.info["code"] == "filter-suspended"
    assert (subscription.waiting, subscription.dropped) == (1, 0)


XQUERY = Symbol("apache.org:xquery-filter:string")


@scene()
async def test_what_cannot_be_answered_is_refused_and_holds_nobody_up(stage: Scene) -> None:
    """A capability or a filter's key that is no symbol: nothing of its subscription stays, and its user's other attaches are answered."""
    long = Described(XQUERY, "1 = " + " " * LONG + "1")
    async with ByHand.connected(stage.port) as peer:
        peer.send(
            frames.attach(0, "a", receives=frames.source(DOMAIN, filters={"ä": Described(XQUERY, "1")})),
            frames.attach(1, "b", receives=frames.source(DOMAIN, filters={"ä": long})),
            frames.attach(2, "c", receives=frames.source(DOMAIN, filters={"f": long}, capabilities=["ä", "shared", 7])),
            frames.attach(3, "d", receives=frames.source(DOMAIN, filters={"f": long})),
        )
        refused = await peer.frames(frames.DETACH, 2)
        assert [fields[2].value[2]["code"] for fields in refused] == ["filter-invalid"] * 2
        answers = {fields[0]: fields[5] for fields in await peer.frames(frames.ATTACH, 4)}
        assert answers["c"].value[10] == ["shared"]
        await until(lambda: {one.terms.name for one in stage.agent.broker.subscriptions.all} == {"c", "d"}, "two have subscribed")
    await until(lambda: not stage.agent.broker.subscriptions.all, "nothing is left")


class SlowDisk:
    """The disk of a scene's agent, on which nothing is done until it is told to."""

    def __init__(self, stage: Scene) -> None:
        journal = stage.agent.broker.subscriptions.kept.journal()
        self.defining = stage.agent.broker.attaching._defining
        self.go = threading.Event()
        write = journal._store.write

        def slow(batch: Batch) -> None:
            assert self.go.wait(DEADLINE)
            write(batch)

        journal._store.write = slow  # type: ignore[method-assign]

    async def wait(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """An attach under way, whose subscription is on its way to the disk."""
        task = asyncio.ensure_future(work)
        await until(lambda: self.defining, "its definition is to be written")
        return task


@scene()
async def test_who_comes_while_a_definition_is_written_takes_it_over_afterwards(stage: Scene) -> None:
    disk, ends = SlowDisk(stage), (End(), End(), End())
    connections = [await stage.connect() for _ in ends]
    first = await disk.wait(receive(connections[0], "billing", ends[0]))
    second = asyncio.ensure_future(receive(connections[1], "billing", ends[1]))
    third = asyncio.ensure_future(connections[2].attach_receiver(None, name="billing", handler=ends[2]))  # type: ignore[arg-type]
    await until(lambda: [len(others) for others in disk.defining.values()] == [2], "the others have come")
    disk.go.set()
    link = (await asyncio.gather(first, second, third))[2]
    await until(lambda: ends[0].ended and ends[1].ended, "the first two have lost it")
    assert [end.ended[0][0].name for end in ends[:2] if end.ended[0][0]] == ["amqp:link:stolen"] * 2
    link.window = 10
    assert await stage.publish(1, 2) == [ACCEPTED] * 2
    await until(lambda: len(ends[2].received) == 2, "the last one has it")
    assert not ends[0].received
    assert not disk.defining


@scene()
async def test_one_that_is_deleted_while_it_is_written_is_not_joined(stage: Scene) -> None:
    disk = SlowDisk(stage)
    attaching = await disk.wait(receive(await stage.connect(), "billing", End()))
    async with stage.client() as bus:
        assert await bus.call("deleteSubscription", "billing", None, True)
    disk.go.set()
    with pytest.raises(AmqpError) as caught:
        await attaching
    assert caught.value.condition.info["code"] == "subscription-deleted"


@scene()
async def test_one_whose_user_loses_their_rights_while_it_is_written_keeps_what_waits(stage: Scene) -> None:
    (await receive(await stage.connect("anna"), "anna-1", End(), credit=0)).close(closed=False)
    await stage.publish(*range(10))
    disk = SlowDisk(stage)
    replaced = receive(await stage.connect("anna"), "anna-1", End(), xquery="//*:CallerId = 1", **{"clacks:replace": True})
    attaching = await disk.wait(replaced)
    permit(stage)
    disk.go.set()
    with pytest.raises(AmqpError) as caught:
        await attaching
    assert caught.value.condition.info["code"] == "filter-suspended"
    assert next(iter(stage.agent.broker.subscriptions.kept.all.values())).waiting == 10


@scene()
async def test_one_whose_link_goes_while_it_is_written_expires(stage: Scene) -> None:
    disk, kept = SlowDisk(stage), stage.agent.broker.subscriptions.kept.all
    for closed in (False, True):
        disk.go.clear()
        source = Terminus(DOMAIN, durable=2, expiry="link-detach", timeout=1 if not closed else 1000)
        connection = await stage.connect()
        attaching = await disk.wait(receive(connection, "brief", End(), source=source))
        assert len(kept) == 1
        if closed:
            next(iter(connection._links.values())).close()
        else:
            connection.abort()
        await until(lambda: not any(one.links for one in stage.agent.broker.connections), "the agent knows")
        disk.go.set()
        with pytest.raises(AmqpError):
            await attaching
        await until(lambda: not kept, "it is gone")


@scene()
async def test_the_answer_says_how_long_it_is_kept(stage: Scene) -> None:
    """A subscription stays as it was made, whatever expiry policy a later link asks for."""
    for name, made, asked in (("a", ("never", 0), ("link-detach", 5)), ("b", ("session-end", 7), ("never", 0))):
        for expiry, timeout in (made, asked):
            source = Terminus(DOMAIN, durable=2, expiry=expiry, timeout=timeout)
            link = await receive(await stage.connect(), name, End(), source=source)
            assert link.remote_source is not None
            assert link.remote_source.timeout == made[1]
            assert (link.remote_source.expiry == "never") == (made[0] == "never")


@scene()
async def test_rules_that_change_while_a_filter_is_compiled_are_asked_again(stage: Scene) -> None:
    """For all that the attach wants: to keep it, and to slow publishers down."""
    compiler, long = stage.agent.broker.attaching._compiler, "1 = " + " " * LONG + "1"
    permits = Rule(users=("anna",), subscribe=("*",))
    rounds: list[tuple[str, Terminus | None, dict[str, Any]]] = [
        ("anna-1", None, {}),
        ("slow", Terminus(DOMAIN, filter={"f": Described(XQUERY, long)}), {"clacks:overflow": "block-publisher"}),
    ]
    for name, asked, properties in rounds:
        permit(stage, *RULES)
        compiler._paid["anna"] = compiler._loop.time() + 2 * BURST_SECONDS / SHARE
        connection = await stage.connect("anna")
        attaching = asyncio.ensure_future(receive(connection, name, End(), source=asked, xquery=long, **properties))
        await until(lambda: compiler._waiting, "it waits for its turn")
        permit(stage, permits)
        compiler._paid.clear()
        compiler._next("anna")
        with pytest.raises(AmqpError) as caught:
            await attaching
        assert caught.value.condition.info["code"] == "not-permitted"
        connection.abort()
    assert not stage.agent.broker.subscriptions.all


@scene()
async def test_filters_of_links_that_have_gone_are_not_compiled(stage: Scene) -> None:
    """And not charged to their user, whose next attach has its turn at once."""
    compiler, long = stage.agent.broker.attaching._compiler, "1 = " + " " * LONG + "1"
    compiler._paid["anna"] = compiler._loop.time() + 2 * BURST_SECONDS / SHARE
    gone, here = await stage.connect("anna"), await stage.connect("anna")
    lost = [asyncio.ensure_future(receive(gone, f"anna-{number}", End(), xquery=long)) for number in range(5)]
    await until(lambda: [len(requests) for requests in compiler._waiting.values()] == [5], "they wait for their turn")
    gone.abort()
    await asyncio.gather(*lost, return_exceptions=True)
    attaching = asyncio.ensure_future(receive(here, "anna-5", End(), xquery=long))
    await until(lambda: [len(requests) for requests in compiler._waiting.values()] == [6], "one more waits")
    compiler._paid.clear()
    calls = []
    compiler._charged = lambda user, answer, seconds: calls.append(user) or answer  # type: ignore[method-assign, func-returns-value]
    compiler._next("anna")
    await attaching
    assert calls == ["anna"]
    assert not compiler._waiting


WORKERS = Terminus(DOMAIN, durable=2, expiry="never", capabilities=("shared",))


@scene()
async def test_a_suspended_shared_one_keeps_what_waits(stage: Scene) -> None:
    """None of its consumers, which all go, takes anything along."""
    for _ in range(3):
        await receive(await stage.connect("anna"), "anna-1", End(outcome_for=None), source=WORKERS, credit=2)
    await stage.publish(*range(20))
    permit(stage)
    subscription = next(iter(stage.agent.broker.subscriptions.kept.all.values()))
    assert (subscription.waiting, subscription.dropped) == (20, 0)
    permit(stage, *RULES)
    end = End()
    await receive(await stage.connect("anna"), "anna-1", end, source=WORKERS)
    await until(lambda: len(end.received) == 20, "all of it is there")
    assert numbers(end) == [*range(20)]


@scene()
async def test_consumers_that_are_lost_together_give_nothing_to_each_other(stage: Scene) -> None:
    connection, ends = await stage.connect(), [End(outcome_for=None) for _ in range(5)]
    for place, end in enumerate(ends):
        await receive(connection, f"workers|{place}", end, source=WORKERS, credit=10)
    await stage.publish(*range(5))
    await until(lambda: all(len(end.received) == 1 for end in ends), "each has one")
    connection.abort()
    again = End()
    await receive(await stage.connect(), "workers", again, source=WORKERS)
    await until(lambda: len(again.received) == 5, "another one has them")
    assert [message.header.delivery_count for message in again.messages] == [1] * 5


class Choosy(End):
    """Wants another consumer to have the first `shunned` messages."""

    shunned = 10**6

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        self.outcome_for = Modified(failed=False, undeliverable=True) if len(self.received) < self.shunned else ACCEPTED
        super().message(link, number, encoded, settled)


@scene()
async def test_nothing_is_kept_of_what_another_consumer_takes(stage: Scene) -> None:
    for name, source in (("live", Terminus(DOMAIN, capabilities=("shared",))), ("durable", WORKERS)):
        choosy, other = Choosy(), End()
        await receive(await stage.connect(), name, choosy, source=source)
        await receive(await stage.connect(), name, other, source=source)
        await stage.publish(*range(20))
        await until(lambda other=other: len(other.received) == 20, "the other one has all")
        subscription = next(one for one in stage.agent.broker.subscriptions.all if one.terms.name == name)
        await until(lambda subscription=subscription: subscription.unsettled == 0, "and has settled them")
        assert choosy.received
        assert not subscription._shunned


@scene()
async def test_what_nobody_wants_any_more_is_a_dead_letter_and_holds_up_nothing(stage: Scene) -> None:
    """The only consumer that might have taken it has left."""
    choosy, dead = Choosy(), End()
    choosy.shunned = 1
    leaving = await stage.connect()
    await receive(leaving, "workers", End(), source=WORKERS, credit=0)
    await receive(await stage.connect(), "workers", choosy, source=WORKERS)
    await stage.publish(1)
    subscription = next(iter(stage.agent.broker.subscriptions.kept.all.values()))
    await until(lambda: subscription.waiting == 1, "it has come back")
    leaving.abort()
    await stage.publish(2)
    await until(lambda: numbers(choosy) == [1, 2], "the next one comes")
    await receive(await stage.connect(), "dead", dead, source=Terminus(f"{DOMAIN}.dead-letters"))
    await until(lambda: numbers(dead) == [1], "the first one is a dead letter")


async def bury(stage: Scene, name: str, count: int) -> None:
    """Have dead letters of a subscription."""
    connection = await stage.connect()
    await receive(connection, name, End(outcome_for=Rejected(Condition("x:y", "not now"))))
    await stage.publish(*range(count))
    await until(lambda: stage.agent.broker.subscriptions.totals().buried == count, "all are dead")
    connection.abort()
    dead = stage.agent.broker.subscriptions.kept.dead_letters("admin")
    assert dead is not None
    await until(lambda: dead.waiting == count, "and on the disk")


@scene()
async def test_two_replays_at_once_replay_once(stage: Scene) -> None:
    await bury(stage, "billing", 5)
    end = End()
    async with stage.client() as bus:
        counts = await asyncio.gather(*(bus.call("replaySubscription", "billing") for _ in range(3)))
    assert sorted(counts) == [0, 0, 5]
    await receive(await stage.connect(), "billing", end)
    await stage.publish(7)
    await until(lambda: 7 in numbers(end), "the next one comes")
    assert numbers(end) == [0, 1, 2, 3, 4, 7]


@scene()
async def test_a_replay_to_one_that_is_deleted_loses_nothing(stage: Scene) -> None:
    await bury(stage, "billing", 3)
    dead = stage.agent.broker.subscriptions.kept.dead_letters("admin")
    assert dead is not None
    async with stage.client() as bus:
        disk = SlowDisk(stage)
        replaying = asyncio.ensure_future(bus.call("replaySubscription", "billing"))
        target = next(one for one in stage.agent.broker.subscriptions.all if one.terms.name == "billing")
        await until(lambda: target.kept_events, "one is on its way to the disk")
        assert await bus.call("deleteSubscription", "billing")
        disk.go.set()
        with pytest.raises(ClacksError) as caught:
            await replaying
    assert caught.value.code == "subscription-unknown"
    assert dead.waiting == 3


@scene()
async def test_credit_that_comes_with_the_attach_is_used(stage: Scene) -> None:
    """As clients send it that do not wait for the answer: for what waits, and to be given back where nothing does."""
    (await receive(await stage.connect(container="by hand"), "billing", End(), credit=0)).close(closed=False)
    await stage.publish(1, 2, 3)
    async with ByHand.connected(stage.port) as peer:
        peer.send(frames.attach(0, "billing", receives=frames.source(DOMAIN, expiry="never")), frames.credit(0, 2))
        await peer.frames(frames.TRANSFER, 2)
        peer.send(frames.attach(1, "live", receives=frames.source(DOMAIN)), frames.credit(1, 5, drain=True))
        await until(lambda: any(len(fields) > 6 and fields[4] == 1 for fields in peer.of(frames.FLOW)), "the credit is given back")
        told = next(fields for fields in peer.of(frames.FLOW) if len(fields) > 6 and fields[4] == 1)
        assert told[5:7] == [5, 0]
        assert len(peer.of(frames.TRANSFER)) == 2


@scene(**{"queue.events": 1})
async def test_what_is_just_small_enough_stays_so(stage: Scene) -> None:
    """Neither how often it has come, nor how many were dropped before it, makes a message larger than its consumer takes."""
    first = End()
    await receive(await stage.connect(), "measure", first, source=Terminus(DOMAIN))
    await stage.publish(1)
    await until(lambda: first.received, "one has come")
    size = len(first.received[0][1])
    options = Options(container_id="narrow", hostname="localhost", max_message_size=size)
    for name, source in (("durable", None), ("live", Terminus(DOMAIN))):
        narrow = await connect("localhost", stage.port, Credentials("admin", "admin"), options)
        stage.connections.append(narrow)
        end = End(outcome_for=None)
        link = await receive(narrow, name, end, source=source, credit=0)
        await stage.publish(1, 2, 3)
        link.window = 10
        await until(lambda end=end: end.received, "the first one is there")
        link.settle(end.received[0][0], Modified(failed=True))
        await until(lambda end=end: numbers(end).count(numbers(end)[0]) == 2, "it comes again")
        assert not end.ended
        narrow.abort()


# --- other rules -----------------------------------------------------------------------------------------------------------------


def allow_anna(stage: Scene, **more: Any) -> None:
    """Anna may do this, and see and publish everything."""
    stage.agent._rules = (Rule(users=("anna",), publish=("*",), subscribe=("*",), **more),)
    stage.agent._permit()


@scene()
async def test_who_may_not_keep_one_any_more_gets_nothing_into_it_until_they_may_again(stage: Scene) -> None:
    allow_anna(stage, durable=("billing",))
    end = End()
    await receive(await stage.connect("anna"), "billing", end)
    assert await stage.publish(1) == [ACCEPTED]
    await until(lambda: numbers(end) == [1], "the event arrives")
    allow_anna(stage, durable=("other",))
    await until(lambda: end.ended, "it is detached")
    assert end.ended[0][0].info["code"] == "not-permitted"  # type: ignore[union-attr]
    assert await stage.publish(2) == [ACCEPTED]
    (kept,) = stage.agent.broker.subscriptions.kept.all.values()
    assert (kept.waiting, stage.agent.bus.subscriptions) == (0, 0)
    allow_anna(stage, durable=("billing",))
    assert await stage.publish(3) == [ACCEPTED]
    await receive(await stage.connect("anna"), "billing", end)
    await until(lambda: numbers(end) == [1, 3], "what has come since arrives")
    await stage.stop()
    await stage.start()  # with the usual rules, by which she may not
    (kept,) = stage.agent.broker.subscriptions.kept.all.values()
    assert "may not keep" in kept.suspension
    assert stage.agent.bus.subscriptions == 0


@scene(**{"queue.events": 3})
async def test_who_may_not_slow_publishers_down_any_more_does_not(stage: Scene) -> None:
    allow_anna(stage, block=("slow",))
    end, sent = End(), End()
    await receive(await stage.connect("anna"), "slow", end, source=Terminus(DOMAIN), credit=0, **{"clacks:overflow": "block-publisher"})
    publisher: Sender = await (await stage.connect()).attach_sender(Terminus(DOMAIN))
    publisher.handler = sent
    for number in range(6):
        publisher.send(Draft(phone(number).encode()).encode())
    await until(lambda: len(sent.outcomes) == 3, "the publisher waits for her")
    allow_anna(stage)
    await until(lambda: len(sent.outcomes) == 6, "it does not any more")
    await until(lambda: end.ended, "she is detached")
    assert end.ended[0][0].info["code"] == "not-permitted"  # type: ignore[union-attr]
