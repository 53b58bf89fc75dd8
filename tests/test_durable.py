"""Durable and shared subscriptions, redelivery, dead letters and full queues, over AMQP."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clacks.agent.access import ADMINISTRATORS, Access, Rule
from clacks.agent.agent import Agent
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
    Receiver,
    Rejected,
    Sender,
    Symbol,
    Terminus,
    connect,
)
from clacks.common.components.client import BusClient
from clacks.common.errors import ClacksError
from support import End, run, until

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

    async def publish(self, *numbers: int) -> list[Outcome]:
        """Publish events in their order, all at once, and wait for their outcomes."""
        connection = await self.connect(container="publisher")
        link, end = await connection.attach_sender(Terminus(DOMAIN)), End()
        link.handler = end
        for number in numbers:
            link.send(Draft(phone(number).encode()).encode())
        await until(lambda: len(end.outcomes) == len(numbers), "every event has an outcome")
        connection.abort()
        return [outcome for _, outcome in sorted(end.outcomes, key=lambda pair: pair[0])]


async def receive(
    connection: Connection, name: str, end: End, *, xquery: str = "", credit: int = 100, source: Terminus | None = None, **properties: Any
) -> Receiver:
    filters = {"f": Described(Symbol("apache.org:xquery-filter:string"), xquery)} if xquery else {}
    asked = source or Terminus(DOMAIN, durable=2, expiry="never", filter=filters)
    link = await connection.attach_receiver(asked, name=name, properties={key.replace("_", "-"): item for key, item in properties.items()})
    link.handler = end
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
    assert len(stage.agent.broker.subscriptions.durable) == 3


@scene()
async def test_closing_removes_and_detaching_does_not(stage: Scene) -> None:
    connection = await stage.connect()
    (await receive(connection, "a", End())).close(closed=False)
    (await receive(connection, "b", End())).close(closed=True)
    durable = stage.agent.broker.subscriptions.durable
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
    await until(lambda: not stage.agent.broker.subscriptions.durable, "it is gone")
    assert stage.agent.bus.subscriptions == 0


@scene()
async def test_what_is_released_comes_again_in_its_place(stage: Scene) -> None:
    await refused_once(stage, RELEASED, [0, 0, 0])


@scene()
async def test_what_is_modified_comes_again_with_its_count(stage: Scene) -> None:
    await refused_once(stage, Modified(failed=True), [1, 1, 1])


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
    subscription = next(iter(stage.agent.broker.subscriptions.durable.values()))
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
    await stage.publish(2)
    await until(lambda: aged.received, "the next one is there")
    assert numbers(aged) == [2]


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
    journal = stage.agent.broker.subscriptions.journal()
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
    await until(lambda: not stage.agent.broker.subscriptions.durable, "it is removed")
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
    subscription = next(iter(stage.agent.broker.subscriptions.durable.values()))
    stage.agent.bus.access = Access((), stage.agent.users.members(stage.agent.users.users))
    stage.agent.broker.permissions_changed()
    with pytest.raises(AmqpError) as caught:
        await (await stage.connect("anna")).attach_receiver(None, name="anna-1")  # type: ignore[arg-type]
    assert caught.value.condition.info["code"] == "filter-suspended"
    assert (subscription.waiting, subscription.dropped) == (1, 0)
