"""A domain of agents on a real RabbitMQ, end to end: what publishers, subscribers, callers and their administrators are promised there."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from brokers import RabbitMQ
from clacks.agent.access import Call, Rule
from clacks.agent.agent import Agent
from clacks.agent.broker.external import activemq, commands
from clacks.agent.broker.external.clock import now
from clacks.agent.broker.external.control import Control
from clacks.agent.broker.external.ingress import MOST, Ingress
from clacks.agent.broker.external.names import sender_of
from clacks.agent.broker.external.stream import StreamLog, declare
from clacks.agent.broker.external.topology import Place
from clacks.agent.config import load
from clacks.agent.domain import Timing
from clacks.agent.users import UserBook
from clacks.amqp import ACCEPTED, RELEASED, AmqpError, Draft, Message, Options, Properties, Terminus, Timestamp, serve
from clacks.common.brokers import Management
from clacks.common.components.client import BusClient, dial
from clacks.common.components.command import Command, CommandType
from clacks.common.components.url import parse_url
from clacks.common.errors import ClacksError
from domains import (
    BROKERS,
    RABBITMQ,
    Domain,
    Failed,
    Guest,
    messages_in,
    new_domain,
    numbers,
    on,
    permit,
    phone,
    queue_there,
    queues_of,
    queues_with,
)
from support import PATIENCE, End, eventually, run, until

EVENTS = '<Event xmlns="http://www.gonicus.de/Events">'


async def refused(call: Coroutine[Any, Any, Any]) -> Failed:
    with pytest.raises(Failed) as caught:
        await call
    return caught.value


# --- publishing ------------------------------------------------------------------------------------------------------------------


@on("one", "two")
async def test_whoever_publishes_by_any_key_is_heard(domain: Domain) -> None:
    anna = await domain.guest("anna")
    _, end = await anna.consume(await anna.subscribe())
    slots = domain.dialect.dialect.slots
    for number, key in enumerate(["events", *(f"events.{slot}" for slot in range(slots))]):
        published = await anna.publish(phone(number), key=key)
        assert published.outcomes[-1][1] is ACCEPTED
    await until(lambda: len(end.received) > slots, "all events")
    assert sorted(numbers(end)) == list(range(slots + 1))


@on("one", only="rabbitmq")
async def test_a_key_that_is_none_is_said_to_reach_nobody(domain: Domain) -> None:
    anna = await domain.guest("anna")
    assert (await anna.publish(phone(1), key="events.64")).outcomes[0][1] is RELEASED
    assert (await anna.publish(phone(1), key="elsewhere")).outcomes[0][1] is RELEASED


@on("one", only="rabbitmq")
async def test_a_refused_event_lies_in_rejected_with_code_and_reason(domain: Domain) -> None:
    anna, admin = await domain.guest("anna"), await domain.guest()
    bad = f"{EVENTS}<PhoneStatus><CallerId>1</CallerId></PhoneStatus></Event>".encode()
    assert (await anna.publish(bad, b"<nothing", b"")).outcomes[-1][1] is ACCEPTED
    end = End()
    receiver = await admin.connection.attach_receiver(Terminus(f"/queues/{domain.name}.rejected"), handler=end)
    receiver.window = 10
    await until(lambda: len(end.received) == 3, "the refused events")
    by_body = {bytes(message.body): message.annotations for message in end.messages}
    assert by_body[bad]["x-opt-clacks-code"] == "event-invalid"
    assert "ReceiverId" in by_body[bad]["x-opt-clacks-reason"]
    assert by_body[b"<nothing"]["x-opt-clacks-code"] == "xml-malformed"
    assert by_body[b""]["x-opt-clacks-code"] == "event-empty"


@on("one", only="rabbitmq")
async def test_a_refused_event_is_kept_though_its_agent_dies_or_its_queue_is_deleted(domain: Domain) -> None:
    anna, admin = await domain.guest("anna"), await domain.guest()
    broker = _broker(domain.agents["one"])
    held: list[str] = []
    broker.send = lambda queue, *message, **how: held.append(queue)
    await anna.publish(b"<first")
    rejected = f"{domain.name}.rejected"
    await until(lambda: held == [rejected], "the agent is about to put it aside")
    domain.crash("one")
    await domain.agent("two")

    async def kept() -> list[bytes]:
        end = End()
        (await admin.connection.attach_receiver(Terminus(f"/queues/{rejected}"), handler=end, alone=True)).window = 10
        await until(lambda: end.received, "the refused event")
        return [bytes(message.body) for message in end.messages]

    assert await kept() == [b"<first"]
    management = await Management.attach(await dial(parse_url(domain.rabbit.url())))
    await management.delete_queue(rejected)
    await anna.publish(b"<second")
    await eventually(lambda: queue_there(domain.rabbit, rejected), "the queue is there again")
    assert await kept() == [b"<second"]
    management.connection.abort()


@on("one")
async def test_whoever_asks_is_told_what_became_of_the_event(domain: Domain) -> None:
    anna = await domain.guest("anna")
    _, end = await anna.consume(await anna.subscribe())
    assert await anna.tell(phone(1)) is None
    assert await messages_in(domain.broker, f"{domain.name}.ingress.7") in (0, 1, None)
    await until(lambda: numbers(end) == [1], "the event")
    error = await anna.tell(f"{EVENTS}<PhoneStatus><CallerId>1</CallerId></PhoneStatus></Event>".encode())
    assert error is not None
    assert error["code"] == "event-invalid"
    assert "ReceiverId" in str(error["problems"])


@on("one", only="rabbitmq")
async def test_without_a_user_id_an_event_is_refused_and_a_forged_one_the_broker_refuses(domain: Domain) -> None:
    anna, admin = await domain.guest("anna"), await domain.guest()
    _, end = await anna.consume(await anna.subscribe())
    await anna.publish(phone(1), user_id=None)
    rejected = End()
    receiver = await admin.connection.attach_receiver(Terminus(f"/queues/{domain.name}.rejected"), handler=rejected)
    receiver.window = 10
    await until(lambda: rejected.received, "it is refused")
    assert rejected.messages[0].annotations["x-opt-clacks-code"] == "user-id-missing"
    sender, told = await anna.sender("events.3")
    sender.send(Draft(phone(2), Properties(user_id=b"admin")).encode())
    await until(lambda: told.ended, "the broker ends the link")
    assert told.ended[0][0] is not None
    assert "user_id" in str(told.ended[0][0])
    await anna.publish(phone(3), key="events.4")
    await until(lambda: end.received, "an honest one")
    assert numbers(end) == [3]


@on("one", only="rabbitmq")
async def test_a_user_of_the_broker_is_not_taken_for_an_agent(domain: Domain) -> None:
    """Who is called node/NAME there would have every right."""
    domain.rules = ()
    await domain.stop("one")
    await domain.agent("one")
    permit(domain.rabbit, "node/one")
    false, admin = await domain.guest("node/one"), await domain.guest()
    _, end = await admin.consume(await admin.subscribe())
    number = await false.ask("shutdown")
    await false.publish(phone(1))
    rejected = End()
    (await admin.connection.attach_receiver(Terminus(f"/queues/{domain.name}.rejected"), handler=rejected)).window = 10
    await until(lambda: rejected.received, "it is refused")
    assert rejected.messages[0].annotations["x-opt-clacks-code"] == "user-removed"
    assert await admin.tell(phone(2)) is None
    await until(lambda: numbers(end) == [2], "an honest one")
    assert number not in false.answers
    with pytest.raises(ClacksError, match="not known to the agent"):
        sender_of(b"\xff")


@on("one", "two")
async def test_an_event_that_is_larger_than_any_may_be_is_refused_and_stops_nobody(domain: Domain) -> None:
    anna = await domain.guest("anna")
    _, end = await anna.consume(await anna.subscribe())
    huge = b" " * 6_000_000
    error = await anna.tell(huge)
    assert error is not None
    assert error["code"] == "event-too-large"
    assert await anna.tell(phone(2)) is None
    await until(lambda: numbers(end) == [2], "the event behind it")


@on("one", "two")
async def test_many_large_events_wait_their_turn_and_keep_their_order(domain: Domain) -> None:
    """More than an agent reads at once, and than it examines at once."""
    anna = await domain.guest("anna")
    _, end = await anna.consume(await anna.subscribe(), End(), 2000)
    size = 700_000
    bodies = [phone(number).replace(b"<CallerId>", b"<!--" + b"x" * size + b"--><CallerId>") for number in range(120)]
    await anna.publish(*bodies)
    # An agent that a busy machine does not let work for ten seconds is taken for one that hangs, and what it had comes again.
    await until(lambda: len(set(numbers(end))) == 120, "all of them")
    assert list(dict.fromkeys(numbers(end))) == list(range(120))
    assert len(end.received) == 120 or any(_broker(agent)._uplink.reconnects for agent in domain.agents.values())


@on("one")
async def test_only_events_for_durable_subscriptions_are_written_to_the_brokers_disk(domain: Domain) -> None:
    anna = await domain.guest("anna")
    _, live = await anna.consume(await anna.subscribe())
    _, kept = await anna.consume(await anna.subscribe(durable="kept"))
    await anna.publish(phone(1))
    await until(lambda: live.received and kept.received, "the event")
    assert [bool(end.messages[0].header.durable) for end in (live, kept)] == [False, True]


@on("one", "two")
async def test_the_bare_message_arrives_byte_for_byte(domain: Domain) -> None:
    anna = await domain.guest("anna")
    _, end = await anna.consume(await anna.subscribe())
    properties = Properties(message_id="m-1", user_id=b"anna", subject="s", creation_time=Timestamp(1_700_000_000_000), group_id="g")
    properties = domain.dialect.signed(properties, "anna")
    sent = Draft(phone(1), properties, {"n": 5, "é": "ü", "b": True, "long": 2**40}, {"x-opt-mine": "kept", "x-opt-clacks-user": "forged"})
    sender, _ = await anna.sender("events.7")
    sender.send(sent.encode())
    await until(lambda: end.received, "the event")
    (message,) = end.messages
    assert message.bare == Message(sent.encode()).bare
    assert message.annotations["x-opt-mine"] == "kept"
    assert message.annotations["x-opt-clacks-user"] == "anna"
    assert isinstance(message.annotations["x-opt-clacks-time"], Timestamp if domain.dialect.declares else int)
    assert str(message.annotations["x-opt-clacks-id"]).startswith(("one-", "two-"))
    assert message.annotations.get("x-exchange", "") == ""  # how it got into the domain is not told


@on("one", "two", "three")
async def test_events_of_one_slot_arrive_in_their_order(domain: Domain) -> None:
    anna, bert = await domain.guest("anna"), await domain.guest("bert")
    _, end = await bert.consume(await bert.subscribe(), window=2000)
    await asyncio.gather(
        *(anna.publish(*(phone(slot * 1000 + number) for number in range(100)), key=f"events.{slot}") for slot in range(8))
    )  # fmt: skip
    await until(lambda: len(end.received) >= 800, "all events")
    got = numbers(end)
    for slot in range(8):
        assert [number for number in got if number // 1000 == slot] == list(range(slot * 1000, slot * 1000 + 100))


def _ingress(domain: Domain) -> list[Ingress]:
    return [ingress for agent in domain.agents.values() for ingress in _broker(agent).ingress]


def _broker(agent: Agent) -> Any:
    return agent.broker


# --- subscribing -----------------------------------------------------------------------------------------------------------------


@on("one", only="rabbitmq")
async def test_by_name_of_the_event_and_only_of_those_that_one_may_see(domain: Domain) -> None:
    domain.rules = (Rule(users=("anna",), publish=("*",), call=(Call("*", "*"),), subscribe=("Phone*",)),)
    await domain.stop("one")
    await domain.agent("one")
    anna, admin = await domain.guest("anna"), await domain.guest()
    _, named = await anna.consume(await anna.subscribe(event="PhoneStatus"))
    _, all_she_may = await anna.consume(await anna.subscribe())
    assert (await refused(anna.subscribe(event="ClientLeave"))).code == "not-permitted"
    assert (await refused(anna.subscribe(durable="kept"))).code == "not-permitted"
    assert (await refused(admin.subscribe(event="NoSuchEvent"))).code == "schema-unknown"
    leave = f"{EVENTS}<ClientLeave><Id>c-1</Id></ClientLeave></Event>".encode()
    assert await admin.tell(leave) is None
    assert await anna.tell(phone(1)) is None
    await until(lambda: named.received and all_she_may.received, "the event")
    assert numbers(named) == numbers(all_she_may) == [1]


@on("one", "two")
async def test_a_durable_subscription_outlives_its_consumer_and_all_agents(domain: Domain) -> None:
    anna = await domain.guest("anna")
    first = await anna.subscribe("//*:CallerId > 1", durable="kept")
    assert first["lease"] == 0
    receiver, end = await anna.consume(first)
    assert await anna.tell(phone(2)) is None
    await until(lambda: numbers(end) == [2], "the first one")
    receiver.close()
    assert await anna.tell(phone(3)) is None
    for node in ("one", "two"):
        await domain.stop(node)
    published = await anna.publish(phone(4), phone(1), phone(5))
    assert {outcome for _, outcome in published.outcomes} == {ACCEPTED}
    await domain.agent("three")
    again = await anna.subscribe("//*:CallerId > 1", durable="kept")
    assert again["queue"] == first["queue"]
    assert again["id"] == first["id"]
    _, later = await anna.consume(again)
    await until(lambda: len(later.received) >= 3, "what waited")
    assert numbers(later) == [3, 4, 5]


@on("one", "two", only="rabbitmq", **{"broker.lease": 1.0})
async def test_a_durable_subscription_does_not_become_a_live_one_and_end_with_its_lease(domain: Domain) -> None:
    anna = await domain.guest("anna")
    jobs = await anna.subscribe(durable="jobs", shared="jobs")
    for terms in ({"shared": "jobs"}, {"durable": "jobs"}):
        for replace in (False, True):
            assert (await refused(anna.subscribe(replace=replace, **terms))).code == "subscription-other"
    assert await anna.subscribe(durable="jobs", shared="jobs") == jobs
    assert queues_of(domain.rabbit, domain.name, "sub.anna.") == [jobs["queue"]]


@on("one", "two", "three", only="rabbitmq")
async def test_many_who_ask_for_one_name_at_once_get_one_subscription(domain: Domain) -> None:
    anna = await domain.guest("anna")
    answers = await asyncio.gather(*(anna.subscribe(durable="kept") for _ in range(12)))
    assert len({answer["queue"] for answer in answers}) == 1
    await until(lambda: len(queues_of(domain.rabbit, domain.name, "sub.")) == 1, "no other queue is left")


@on("one", "two", only="rabbitmq")
async def test_deleting_deletes_the_queue_and_the_name_is_free_at_once(domain: Domain) -> None:
    anna, bert = await domain.guest("anna"), await domain.guest("bert")
    for number in range(5):
        one = await anna.subscribe("//*:CallerId > 1", durable="kept")
        assert await bert.call("unsubscribe", {"id": one["id"]}) is False
        assert await anna.call("unsubscribe", {"id": one["id"]}) is True
        other = await anna.subscribe(f"//*:CallerId > {number}", durable="kept")
        assert other["queue"] != one["queue"]
        assert await anna.tell(phone(9)) is None
        _, end = await anna.consume(other)
        await until(lambda end=end: numbers(end) == [9], "the event")  # type: ignore[misc]
        assert await anna.call("deleteSubscription", ["kept"]) is True
    await until(lambda: queues_of(domain.rabbit, domain.name, "sub.") == [], "all queues are gone")


@on("one", "two", only="rabbitmq")
async def test_a_queue_is_deleted_by_the_next_leader_if_the_first_dies(domain: Domain) -> None:
    anna = await domain.guest("anna")
    kept = await anna.subscribe(durable="kept")
    broker = _broker(domain.agents["one"])
    broker.topology._declaring.delete_queue = lambda queue: asyncio.Event().wait()
    assert await anna.call("unsubscribe", {"id": kept["id"]}, node="two") is True
    domain.crash("one")
    assert queues_of(domain.rabbit, domain.name, "sub.") == [kept["queue"]]
    await until(lambda: not queues_of(domain.rabbit, domain.name, "sub."), "the next one has deleted it")


@on("one", "two", only="rabbitmq")
async def test_a_queue_is_deleted_whose_agent_dies_before_it_is_subscribed_with(domain: Domain) -> None:
    anna, bert = await domain.guest("anna"), await domain.guest("bert")
    _broker(domain.agents["one"]).control.subscribe = lambda record: asyncio.Event().wait()
    await anna.ask("subscribe", {"durable": "kept"}, node="one")
    await until(lambda: queues_of(domain.rabbit, domain.name, "sub."), "the queue is made")
    assert (await bert.call("subscribe", {"durable": "kept"}, node="two"))["queue"]
    domain.crash("one")
    await until(lambda: len(queues_of(domain.rabbit, domain.name, "sub.")) == 1, "the other agent has deleted it")
    assert (await bert.call("subscribe", {"durable": "kept"}))["queue"] in queues_of(domain.rabbit, domain.name, "sub.bert.")


@on("one", only="rabbitmq")
async def test_a_queue_that_cannot_be_made_is_given_up(domain: Domain) -> None:
    anna, broker = await domain.guest("anna"), _broker(domain.agents["one"])
    make = broker.topology.make

    async def fail(queue: str, terms: Any) -> None:
        raise ClacksError("bus-overloaded")

    broker.topology.make = fail
    assert (await refused(anna.subscribe(durable="kept"))).code == "bus-overloaded"
    broker.topology.make = make
    assert (await anna.subscribe(durable="kept"))["queue"]
    assert not any(member.making for member in broker.control.domain._state.members.values())


@on("one", "two", only="rabbitmq")
async def test_a_queue_that_the_broker_lost_is_made_again_for_whoever_subscribes(domain: Domain) -> None:
    """As with a young quorum queue after a crash: its subscription is in the log, and its owner could never receive again."""
    anna = await domain.guest("anna")
    management = await Management.attach(await dial(parse_url(domain.rabbit.url())))
    for terms in ({"durable": "kept", "max_age": 60}, {"shared": "work"}):
        first = await anna.subscribe(**terms)
        await management.delete_queue(first["queue"])
        assert await anna.subscribe(**terms, restore=True) == first
        _, end = await anna.consume(first)
        assert await anna.tell(phone(1)) is None
        await until(lambda end=end: numbers(end) == [1], "the event")  # type: ignore[misc]
    kept = await anna.subscribe(durable="kept", max_age=60)
    assert await anna.subscribe(durable="kept", max_age=60, max_bytes=10_000, restore=True) == kept
    management.connection.abort()


@on("one")
async def test_terms_of_the_wrong_kind_are_refused_with_what_is_expected(domain: Domain) -> None:
    anna = await domain.guest("anna")
    wrong: list[dict[str, Any]] = [
        *({"filters": filters} for filters in ("//*", None, 5, [None], {"a": 1})),
        *({"durable": "d", "max_age": value} for value in (-1, 0, "5", 1e300, True)),
        *({"durable": "d", "max_bytes": value} for value in (-1, "x", 2**70, [1])),
    ]
    for params in wrong:
        error = await refused(anna.call("subscribe", params))
        assert (error.code, next(reversed(params)).replace("_", "-") in error.message) == ("link-refused", True)
    if domain.dialect.declares:
        assert queues_of(domain.rabbit, domain.name, "sub.") == []


@on("one", "two", "three", only="rabbitmq")
async def test_whatever_crosses_leaves_no_queue_and_no_subscription_that_not_every_agent_knows(domain: Domain) -> None:
    """One name: asked for, replaced and ended through all agents at once."""
    guests = [await domain.guest("anna") for _ in range(6)]

    async def work(guest: Guest, chance: random.Random) -> None:
        for _ in range(25):
            node = chance.choice(("one", "two", "three"))
            filters = [f"//*:CallerId > {chance.randint(1, 2)}"]
            terms = {"filters": filters, "durable": "kept", "replace": chance.random() < 0.5}
            try:
                known = await guest.call("subscribe", terms, node=node)
            except Failed as error:
                if error.code != "subscription-differs":
                    raise
                continue
            if chance.random() < 0.7:
                await guest.call("unsubscribe", {"id": known["id"]}, node=chance.choice(("one", "two", "three")))

    await asyncio.gather(*(work(guest, random.Random(number)) for number, guest in enumerate(guests)))
    controls = [_broker(agent).control for agent in domain.agents.values()]
    await until(lambda: len({control.domain.digest() for control in controls}) == 1, "all know the same")
    kept = sorted(one.queue for one in controls[0].domain.subscriptions())
    while queues_of(domain.rabbit, domain.name, "sub.") != kept:  # the test's deadline ends it; the agents need the loop in between
        await asyncio.sleep(0.2)
    assert not any(control._asked or control._waiting for control in controls)


@on("one", only="rabbitmq")
async def test_an_agent_whose_requests_the_broker_ended_makes_others(domain: Domain) -> None:
    """As RabbitMQ 4.0.5 does where a declaration crosses the deletion of the same queue."""
    anna = await domain.guest("anna")
    management = _broker(domain.agents["one"]).topology._declaring
    kept = await anna.subscribe(durable="kept")
    management.close()
    other = await anna.subscribe(durable="other")
    management.close()
    assert await anna.call("unsubscribe", {"id": kept["id"]}) is True
    await until(lambda: queues_of(domain.rabbit, domain.name, "sub.") == [other["queue"]], "it is deleted")


@on("one", "two", only="rabbitmq")
async def test_a_queue_that_cannot_be_deleted_keeps_no_other_from_it(domain: Domain) -> None:
    anna = await domain.guest("anna")
    first, second = await anna.subscribe(durable="first"), await anna.subscribe(durable="second")
    for agent in domain.agents.values():
        management = _broker(agent).topology._declaring

        async def delete(queue: str, delete: Any = management.delete_queue) -> None:
            if queue == first["queue"]:
                raise ClacksError("broker-refused", doing="Deleting", reason="it has no majority", hint="")
            await delete(queue)

        management.delete_queue = delete
    for one in (first, second):
        assert await anna.call("unsubscribe", {"id": one["id"]}) is True
    await until(lambda: queues_of(domain.rabbit, domain.name, "sub.") == [first["queue"]], "the other one is deleted")


@on("one", "two", only="rabbitmq", **{"broker.lease": 1.0})
async def test_a_lease_that_runs_out_ends_the_subscription_and_its_queue(domain: Domain) -> None:
    """It is stretched by twelve seconds, in which agents find out what they have missed."""
    anna = await domain.guest("anna")
    left, kept = await anna.subscribe(), await anna.subscribe()
    assert left["lease"] == 1.0
    domains = [_broker(agent).control.domain for agent in domain.agents.values()]

    async def renew() -> None:
        while True:
            assert await anna.call("renew", {"ids": [kept["id"], "no-such"]}) == ["no-such"]
            await asyncio.sleep(0.3)

    renewing = asyncio.create_task(renew())

    async def gone() -> bool:
        return not any(one.subscription(left["id"]) for one in domains) and not await queue_there(domain.rabbit, left["queue"])

    await eventually(gone, "the one that is not renewed is gone, with its queue")
    assert all(one.subscription(kept["id"]) for one in domains)
    assert await queue_there(domain.rabbit, kept["queue"])
    assert await anna.call("renew", {"ids": [left["id"]]}) == [left["id"]]
    renewing.cancel()


@on("one", "two")
async def test_nobody_renews_what_is_anothers(domain: Domain) -> None:
    anna, bert = await domain.guest("anna"), await domain.guest("bert")
    hers = await anna.subscribe()
    assert await bert.call("renew", {"ids": [hers["id"]]}) == [hers["id"]]
    assert await anna.call("renew", {"ids": [hers["id"]]}) == []


DEAR = "every $x in (1 to xs:integer(//*:CallerId)) satisfies string($x) != 'x'"  # for the sandbox: as long as the event says


@on("one", only="rabbitmq", **{"sandbox.seconds": 30.0})
async def test_a_slow_filter_of_a_live_subscription_holds_up_nobody_else(domain: Domain) -> None:
    anna, bert = await domain.guest("anna"), await domain.guest("bert")
    hers = await anna.subscribe(DEAR)
    _, end = await bert.consume(await bert.subscribe(), window=5000)
    await bert.publish(phone(400_000), *(phone(number) for number in range(1500)))  # the first takes seconds, and more than a window waits
    await until(lambda: len(end.received) >= 1501, "all events")
    subscriptions = _broker(domain.agents["one"]).subscriptions
    (slow,) = [one for one in subscriptions.all if one.user == "anna"]
    assert slow.waiting > 0
    assert slow.dropped > 0
    assert subscriptions.owed.count == slow.waiting
    await anna.call("unsubscribe", {"id": hers["id"]})
    await until(lambda: not subscriptions.owed.count, "nobody waits for what was hers")


@on("one", "two", **{"sandbox.seconds": 0.2})
async def test_a_suspended_durable_subscription_stays_with_its_queue_until_it_is_taken_up(domain: Domain) -> None:
    """In every agent, in one that starts later, and whoever asks is told why."""
    anna = await domain.guest("anna")
    dear = await anna.subscribe(DEAR, durable="dear")
    others = (await anna.consume(await anna.subscribe()))[1]
    await anna.publish(phone(1))
    await anna.publish(*(phone(10_000_000 + number) for number in range(3)))
    await until(lambda: all(known.suspended for known in _known(domain, dear["id"])), "every agent knows it")
    assert await anna.tell(phone(2)) is None
    assert numbers(others) == [1, 10_000_000, 10_000_001, 10_000_002, 2]

    for node in ("one", "two"):
        await domain.stop(node)
    await domain.agent("three")
    (known,) = _known(domain, dear["id"])
    assert "budget" in known.suspended
    (shown,) = await anna.call("getSubscriptions")
    assert (shown["name"], shown["suspended"]) == ("dear", known.suspended)
    assert await anna.call("renew", {"ids": [dear["id"]]}) == [dear["id"]]
    error = await refused(anna.subscribe(DEAR, durable="dear"))
    assert (error.code, known.suspended in error.message) == ("filter-suspended", True)

    cheap = "//*:CallerId > 2"
    assert await anna.subscribe(cheap, durable="dear") == dear
    assert await anna.call("renew", {"ids": [dear["id"]]}) == []
    assert await anna.tell(phone(3)) is None
    _, end = await anna.consume(dear)
    await until(lambda: 3 in numbers(end), "what it takes with another filter")
    assert numbers(end) == [1, 10_000_002, 3], "what was decided about, and what it was suspended for, stays in its place"
    marks = ["x-opt-clacks-undecided" in message.annotations for message in end.messages]
    assert marks == [False, True, False]


def _known(domain: Domain, id: str) -> list[Any]:  # noqa: A002
    return [_broker(agent).control.domain.subscription(id) for agent in domain.agents.values()]


@on("one", "two", only="rabbitmq", **{"sandbox.seconds": 0.2})
async def test_a_suspended_live_subscription_ends_and_a_durable_one_goes_on_with_the_same_filter_on_request(domain: Domain) -> None:
    anna = await domain.guest("anna")
    live, dear = await anna.subscribe(DEAR), await anna.subscribe(DEAR, durable="dear")
    await anna.publish(*(phone(10_000_000) for _ in range(6)))
    await until(lambda: all(known.suspended for known in _known(domain, dear["id"])), "it is suspended")
    await until(lambda: _known(domain, live["id"]) == [None, None], "it has ended")
    assert await anna.subscribe(DEAR, durable="dear", replace=True) == dear
    assert [known.suspended for known in _known(domain, dear["id"])] == ["", ""]
    assert await anna.tell(phone(5)) is None
    _, end = await anna.consume(dear)
    await until(lambda: 5 in numbers(end), "the event")


# --- nodes -----------------------------------------------------------------------------------------------------------------------


@on("one", "two")
async def test_every_agent_knows_all_nodes_and_all_methods(domain: Domain) -> None:
    await domain.agent("three", lambda agent: agent.commands.register(Plugin("three"), target="plugin"))
    anna = await domain.guest("anna")
    for node in ("one", "two", "three"):
        await until(lambda node=node: len(_broker(domain.agents[node]).control.domain.nodes(now())) == 3, "all nodes")  # type: ignore[misc]
        assert list(await anna.call("getNodes", node=node)) == ["one", "three", "two"]
        assert list(await anna.call("getMethods", {"queue": "plugin"}, node=node)) == ["add", "fails", "first", "names", "slow", "who"]
    assert "subscribe" in await anna.call("getMethods")


@on("one", "two", only="rabbitmq")
async def test_comings_and_goings_are_events(domain: Domain) -> None:
    anna = await domain.guest("anna")
    _, end = await anna.consume(await anna.subscribe("/*:Event/(*:NodeAnnounce | *:NodeStatus | *:NodeLeave)"))
    await domain.agent("three")
    await until(lambda: {"NodeAnnounce", "NodeStatus"} <= _seen(end, "three"), "it has come")
    await domain.stop("three")
    await until(lambda: "NodeLeave" in _seen(end, "three"), "it has gone")
    assert {message.annotations["x-opt-clacks-user"] for message in end.messages} == {"node/three"}


def _seen(end: End, node: str) -> set[str]:
    texts = [bytes(message.body).decode() for message in end.messages]
    return {name for name in ("NodeAnnounce", "NodeStatus", "NodeLeave") for text in texts if name in text and f">{node}<" in text}


@on("one", "two", "three", only="rabbitmq")
async def test_a_node_that_dies_disappears_within_a_lease_and_that_is_an_event(domain: Domain) -> None:
    anna = await domain.guest("anna")
    _, end = await anna.consume(await anna.subscribe("/*:Event/*:NodeLeave"))
    domain.crash("one")  # the one that leads
    lease = Timing().lease
    begin = asyncio.get_running_loop().time()
    others = [_broker(agent).control.domain for agent in domain.agents.values()]
    await until(lambda: all("one" not in one.nodes(now()) for one in others), "it is gone")
    assert asyncio.get_running_loop().time() - begin < 2 * lease
    await until(lambda: _seen(end, "one"), "the event")
    assert numbers_of_leaves(end) == ["one"]
    assert "one" not in await anna.call("getNodes")


def numbers_of_leaves(end: End) -> list[str]:
    return [bytes(message.body).decode().split("Id>")[1].removesuffix("</") for message in end.messages]


@on("one")
async def test_a_second_process_of_a_node_takes_the_place_of_the_first(domain: Domain) -> None:
    first = domain.agents.pop("one")
    second = await domain.agent("one")
    await until(lambda: _broker(first).superseded, "the first one knows")
    await asyncio.wait_for(first.run(), 10)
    anna = await domain.guest("anna")
    _, end = await anna.consume(await anna.subscribe())
    assert await anna.tell(phone(1)) is None
    await until(lambda: numbers(end) == [1], "the event")
    assert _broker(second).control.domain.may_take(now())


@on("one", only="rabbitmq")
async def test_agents_with_another_number_of_ingress_queues_are_refused(domain: Domain) -> None:
    domain.settings["broker.ingress"] = 3
    with pytest.raises(ClacksError, match=r"broker.ingress.*another number than 3"):
        await domain.agent("two")


class Elsewhere:
    """A broker that lets everybody in and answers no attach, as ActiveMQ does for what it does not know; its authenticator too."""

    def mechanisms(self, *, secure: bool, loopback: bool) -> tuple[str, ...]:
        return ("ANONYMOUS",)

    def verifier(self, user: str) -> Any:
        raise AssertionError

    def admits(self, user: str) -> bool:
        return True

    def certified(self, names: Any) -> Any:
        return ()

    def opened(self, connection: Any) -> None: ...

    def attach(self, link: Any) -> None:
        raise AssertionError("it is asked for something")

    def closed(self, connection: Any, condition: Any) -> None: ...


def test_a_broker_without_what_a_domain_needs_is_refused_at_once(tmp_path: Path) -> None:
    """By agents, clients and `clacks migrate` alike, before they ask it for anything."""

    @run
    async def scene() -> None:
        other = Elsewhere()
        listener = await serve("127.0.0.1", 0, other, other, Options(properties={"product": "qpid-cpp", "version": "1.39.0"}))
        url = f"amqp://127.0.0.1:{listener.address[1]}"
        agent = Agent(load(None, {"broker.url": [url], "node_id": "one", "state_dir": str(tmp_path)}, {}), UserBook({}), ())
        for attempt in (agent.start(watch=False), BusClient(url).call("getNodes")):
            with pytest.raises(
                ClacksError, match=r"qpidd 1.39.0, and .* not have \(.*/management; .*again and.*\). Use RabbitMQ 4"
            ) as caught:
                await attempt
            assert caught.value.code == "broker-unusable"
        await agent.close()
        await listener.close()

    scene()


# --- commands --------------------------------------------------------------------------------------------------------------------


class Plugin:
    """Commands of which one knows how often they ran: `runs` are the nodes by token."""

    def __init__(self, node: str, runs: dict[str, list[str]] | None = None) -> None:
        self.node = node
        self.runs = runs if runs is not None else {}
        self.go_on = threading.Event()
        self.waiting = 0

    @Command(idempotent=True)
    def add(self, first: int, second: int) -> int:
        """Adds."""
        return first + second

    @Command(type=CommandType.FIRSTRESULT)
    def first(self, wanted: str) -> str:
        """The one that is wanted answers."""
        if wanted != self.node:
            raise ClacksError("command-failed", method="first", reason="not me")
        return self.node

    @Command(type=CommandType.CUMULATIVE)
    def names(self) -> str:
        """Everybody answers."""
        return self.node

    @Command()
    def fails(self) -> None:
        """Never succeeds."""
        raise ValueError("no")

    async def _until(self, token: str) -> str:
        self.runs.setdefault(token, []).append(self.node)
        self.waiting += 1
        while not self.go_on.is_set():
            await asyncio.sleep(0.01)
        return self.node

    @Command(idempotent=True)
    async def who(self, token: str) -> str:
        """Who ran it, when it may end."""
        return await self._until(token)

    @Command()
    async def slow(self, token: str) -> str:
        """As who, but not to be run again."""
        return await self._until(token)


def serving(plugin: Plugin) -> Callable[[Agent], Any]:
    return lambda agent: agent.commands.register(plugin, target="plugin")


@on()
async def test_a_command_is_answered_though_one_node_only_serves_it(domain: Domain) -> None:
    await domain.agent("three", serving(Plugin("three")))
    for node in ("one", "two"):
        await domain.agent(node)
    anna = await domain.guest("anna")
    assert await asyncio.gather(*(anna.call("add", [number, 1], "plugin") for number in range(20))) == list(range(1, 21))
    assert await anna.call("add", {"first": 1, "second": 2}, "plugin", "three") == 3
    assert (await refused(anna.call("fails", [], "plugin"))).code == "command-failed"
    assert (await refused(anna.call("add", [1], "plugin"))).code == "command-arguments"
    assert (await refused(anna.call("ad", [1, 1], "plugin"))).code == "command-unknown"
    assert (await refused(anna.call("getNoders"))).code == "command-unknown"


@on("four", only="rabbitmq")
async def test_an_agent_that_serves_nothing_of_a_target_passes_it_on(domain: Domain) -> None:
    """Its own queue of the target is there: an agent that had served it before."""
    plugin = Plugin("three")
    await domain.agent("three", serving(plugin))
    broker = _broker(domain.agents["four"])
    await until(lambda: broker.elsewhere("plugin", "add") == ["three"], "the one knows of the other")
    queue = commands.CommandQueue(broker, "plugin", Place(f"{domain.name}.command.plugin", shared=True))
    assert '"result": 3' in await queue._answer("anna", {"method": "add", "params": [1, 2], "id": 1})
    assert '"result": "three"' in await queue._answer("anna", {"method": "first", "params": ["three"], "id": 1})
    assert '"three": {"result": "three"' in await queue._answer("anna", {"method": "names", "params": [], "id": 1})
    methods = ("slow", "who")  # there is no other to run the second one again
    asked = [asyncio.create_task(queue._answer("anna", {"method": method, "params": [method], "id": 1})) for method in methods]
    await until(lambda: plugin.waiting == len(methods), "they run")
    domain.crash("three")
    assert all("command-interrupted" in answer for answer in await asyncio.gather(*asked))


@on(only="rabbitmq")
async def test_the_first_that_succeeds_answers_or_all_do(domain: Domain) -> None:
    for node in ("one", "two", "three"):
        await domain.agent(node, serving(Plugin(node)))
    anna = await domain.guest("anna")
    broker = _broker(domain.agents["one"])
    await until(lambda: len(broker.elsewhere("plugin", "names")) == 2, "all are known")
    for node in ("one", "two", "three"):
        assert await anna.call("first", [node], "plugin") == node
    assert (await refused(anna.call("first", ["nobody"], "plugin"))).code == "command-failed"
    answer = await anna.call("names", [], "plugin")
    assert answer == {node: {"result": node, "error": None} for node in ("one", "two", "three")}


@pytest.mark.parametrize("graceful", [False, True], ids=["crash", "stop"])
@pytest.mark.parametrize("method", ["who", "slow"])
@pytest.mark.parametrize("kind", BROKERS)
def test_a_command_whose_agent_goes_is_run_again_or_said_to_be_interrupted(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, method: str, graceful: bool
) -> None:
    @on(drain_timeout=0.1)
    async def scene(domain: Domain) -> None:
        runs: dict[str, list[str]] = {}
        plugins = {node: Plugin(node, runs) for node in ("one", "two")}
        for node, plugin in plugins.items():
            await domain.agent(node, serving(plugin))
        anna = await domain.guest("anna")
        number = await anna.ask(method, ["t"], "plugin")
        await until(lambda: "t" in runs, "it runs")
        (first,) = runs["t"]
        other = "two" if first == "one" else "one"
        if graceful:
            await domain.stop(first)
        else:
            domain.crash(first)
        for plugin in plugins.values():
            plugin.go_on.set()
        await until(lambda: anna.answers[number], "an answer")
        (answer,) = anna.answers[number]
        if method == "who":
            assert answer["result"] == other
            assert runs["t"] == [first, other]
        else:
            assert answer["error"]["code"] == "command-interrupted"
            assert answer["id"] == number
            assert runs["t"] == [first]

    scene(kind, request, tmp_path)


@on("one", only="rabbitmq")
async def test_an_agent_whose_queue_for_answers_was_deleted_is_answered_again(domain: Domain) -> None:
    await domain.agent("two", serving(Plugin("two")))
    broker = _broker(domain.agents["one"])
    management = await Management.attach(await dial(parse_url(domain.rabbit.url())))
    await management.delete_queue(f"{domain.name}.agent.one")
    await until(lambda: broker._uplink.reconnects == 1, "it makes everything again")
    asked = {"method": "add", "params": [1, 2], "id": "1"}
    assert '"result": 3' in await broker.ask("plugin", "two", "anna", asked, 10.0)
    management.connection.abort()


@on("one", "two", only="rabbitmq")
async def test_a_node_without_its_queue_is_not_waited_for(domain: Domain) -> None:
    broker = _broker(domain.agents["one"])
    asked = {"method": "getNodes", "params": [], "id": "1"}
    with pytest.raises(commands.Gone):
        await broker.ask("core", "nobody", "anna", asked, 600.0)
    assert not broker._asking


@on("one", only="rabbitmq")
async def test_a_reply_queue_that_takes_nothing_or_is_not_there_costs_nobody_else_anything(domain: Domain) -> None:
    """An ordinary user may make reply queues of any kind, and name those that there are not."""
    anna, bert = await domain.guest("anna"), await domain.guest("bert")
    hers = await bert.subscribe()
    _, end = await bert.consume(hers)
    assert await bert.tell(phone(1)) is None
    broker = _broker(domain.agents["one"])
    link = broker._outlets._open[hers["queue"]]._link
    full = f"{anna.reply}full"
    management = await Management.attach(await dial(parse_url(domain.rabbit.url("anna"))))
    await management.declare_queue(full, arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    for number in range(100):
        await anna.ask("getSessionUser", reply=full if number % 2 else f"{anna.reply}{number}")
    sender, _ = await anna.sender("events.7")
    answer = {"x-opt-clacks-answer": full, "x-opt-clacks-token": "t"}
    sender.send(Draft(phone(2), Properties(user_id=b"anna"), annotations=answer).encode())
    await until(lambda: numbers(end) == [1, 2], "the event")
    assert await bert.call("getSessionUser") == "bert"
    await until(lambda: not any(queue.under_way for queue in broker._queues), "all are done with")
    assert broker._outlets._open[hers["queue"]]._link is link
    assert link.alive
    assert all(outlet.idle for outlet in broker._outlets._open.values())
    assert not [queue for queue in broker._outlets._open if queue.startswith(anna.reply) and queue not in (full, anna.reply)]
    management.connection.abort()


@on("one", "two")
async def test_an_answer_goes_to_a_queue_of_the_one_who_asks_only(domain: Domain) -> None:
    anna, bert = await domain.guest("anna"), await domain.guest("bert")
    number = await anna.ask("getNodes", reply=bert.reply)
    assert await anna.call("getSessionUser") == "anna"
    assert await bert.call("getSessionUser") == "bert"
    assert number not in bert.answers
    assert number not in anna.answers


# --- the broker goes and comes; the log is cut off -------------------------------------------------------------------------------


@on("one", "two")
async def test_what_the_broker_did_not_confirm_is_written_again_in_its_order(domain: Domain) -> None:
    """The connection is lost while records are under way: whoever asked is answered all the same."""
    anna = await domain.guest("anna")
    for _ in range(5):
        asked = [await anna.ask("subscribe", {"filters": []}, node="one") for _ in range(20)]
        broker = _broker(domain.agents["one"])
        await until(lambda broker=broker: broker.control._asked, "it writes")  # type: ignore[misc]
        broker._lines.asking.abort()
        await until(lambda asked=asked: all(anna.answers[one] for one in asked), "all are answered")  # type: ignore[misc]
        assert {answer["error"] and answer["error"]["code"] for one in asked for answer in anna.answers[one]} <= {None, "bus-overloaded"}
    one, two = (_broker(agent).control for agent in domain.agents.values())
    await until(lambda: not one._unconfirmed and one.domain.digest() == two.domain.digest(), "both know the same")


class Book:
    """What a Control tells."""

    def __init__(self) -> None:
        self.changes: list[Any] = []
        self.begun = 0

    def restart(self) -> None:
        self.begun += 1
        self.changes.clear()


SMALL = Timing(retention=3_000_000, segment=1_000_000, snapshot_floor=400_000, part_bytes=20_000, lease=2.0, interval=0.3)


class Reader:
    """A Control alone, as an agent has it."""

    def __init__(self, rabbit: RabbitMQ, stream: str, node: str) -> None:
        self.rabbit, self.book, self.stream = rabbit, Book(), stream
        self.control = Control(node, self.book.changes.append, lambda: None, self.book.restart, lambda: (0.0, 0.0, 1, ()), SMALL)

    async def up(self) -> None:
        self.connection = await dial(parse_url(self.rabbit.url()))
        management = await Management.attach(await dial(parse_url(self.rabbit.url())))
        await declare(management, self.stream, SMALL)
        management.connection.abort()
        await self.control.attach(self.connection, RABBITMQ, lambda reader: StreamLog(self.stream, reader))

    def down(self) -> None:
        self.connection.abort()
        self.control.down()

    def close(self) -> None:
        self.control._ticker.cancel()
        self.connection.abort()


@on(only="rabbitmq")
async def test_an_agent_whose_place_in_the_log_was_cut_off_begins_again(domain: Domain) -> None:
    stream = f"{new_domain()}.control"
    one, two = Reader(domain.rabbit, stream, "one"), Reader(domain.rabbit, stream, "two")
    for reader in (one, two):
        await reader.up()
        await reader.control.joined
    first = two.control.domain.incarnation
    two.down()
    sender = await one.connection.attach_sender(Terminus(f"/queues/{stream}"), handler=End())
    for written in range(0, 200, 10):
        for _ in range(10):
            sender.send(Draft(b'{"kind": "Unknown"}' + b" " * 50_000).encode())
        await until(lambda written=written: one.control.domain.applied > written, "the log has moved on, and is read")  # type: ignore[misc]
    with contextlib.suppress(AmqpError):  # it may let go before all is attached
        await two.up()
    await until(lambda: two.control.restarts == 1, "it sees that something is missing")
    assert two.book.begun == 1
    await until(lambda: not two.connection.alive, "it lets go")
    await two.up()
    await until(lambda: two.control.domain.may_take(now()), "it is back")
    assert two.control.domain.incarnation > first
    await until(lambda: two.control.domain.digest() == one.control.domain.digest(), "both know the same")
    for reader in (one, two):
        reader.close()


@on("one", "two", "three", **{"broker.ingress": 8})
async def test_an_agent_that_reads_the_log_anew_holds_up_nobody_and_answers_for_nothing(domain: Domain) -> None:
    anna = await domain.guest("anna")
    live = await anna.subscribe()
    _, end = await anna.consume(live)
    broker = _broker(domain.agents["two"])
    control, held = broker.control, []
    read, control.record = control.record, lambda *record: held.append(record)
    control._start_again()
    await until(lambda: broker._uplink.reconnects == 1 and held, "it is back, and has not read the log yet")
    for slot in range(16):
        assert await anna.tell(phone(slot), key=f"events.{slot}") is None
    assert numbers(end) == list(range(16))
    number = await anna.ask("renew", {"ids": [live["id"]]}, node="two")
    deleted = await anna.ask("unsubscribe", {"id": live["id"]}, node="two")
    control.record = read
    while held:
        read(*held.pop(0))
    await until(lambda: anna.answers[number] and anna.answers[deleted], "it answers")
    assert anna.answers[number][0]["result"] == []
    assert anna.answers[deleted][0]["result"] is True
    assert {queue.queue for queue in broker.ingress if queue._link is not None and queue._link.alive}


@run
async def test_an_agent_that_begins_anew_is_a_later_process_whatever_the_clock_says() -> None:
    control = Control("one", lambda change: None, lambda: None, lambda: None, lambda: (0.0, 0.0, 1, ()))
    first = control.domain.incarnation
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("time.time_ns", lambda: first - 10**12)
        control._start_again()
    assert control.domain.incarnation > first
    control._ticker.cancel()


@on("one", "two", only="rabbitmq")
async def test_a_log_that_was_deleted_is_begun_anew(domain: Domain) -> None:
    anna = await domain.guest("anna")
    lost = await anna.subscribe()
    management = await Management.attach(await dial(parse_url(domain.rabbit.url())))
    await management.delete_queue(f"{domain.name}.control")
    controls = [_broker(agent).control for agent in domain.agents.values()]
    await until(lambda: all(one.restarts and one.domain.may_take(now()) for one in controls), "a new log", 2 * PATIENCE)
    assert await anna.call("renew", {"ids": [lost["id"]]}) == [lost["id"]]
    _, got = await anna.consume(await anna.subscribe())
    assert await anna.tell(phone(2)) is None
    await until(lambda: numbers(got) == [2], "the event")
    management.connection.abort()


@on("one", "two", only="rabbitmq")
async def test_a_queue_that_the_broker_lost_stops_nobody_else(domain: Domain) -> None:
    """RabbitMQ 4.0 ends the session of all outlets for one that has no queue."""
    anna = await domain.guest("anna")
    several = [await anna.subscribe() for _ in range(10)]
    ends = [(await anna.consume(one))[1] for one in several]
    assert await anna.tell(phone(1)) is None
    management = await Management.attach(await dial(parse_url(domain.rabbit.url())))
    for gone in several[:5]:
        await management.delete_queue(gone["queue"])
    await anna.publish(*(phone(number) for number in range(2, 300)))
    await until(lambda: all(len(set(numbers(end))) >= 299 for end in ends[5:]), "the others get all")
    for end in ends[5:]:  # what was under way then may come twice, the first time in its order
        assert list(dict.fromkeys(numbers(end))) == list(range(1, 300))
    management.connection.abort()


@on("one", **{"durable.bytes": 60_000})
async def test_a_full_queue_keeps_its_publishers_waiting_and_loses_nothing(domain: Domain) -> None:
    anna = await domain.guest("anna")
    kept = await anna.subscribe(durable="kept")
    await anna.publish(*(phone(number) for number in range(600)))
    _, end = await anna.consume(kept)
    await until(lambda: len(end.received) >= 600, "all of them")
    assert sorted(set(numbers(end))) == list(range(600))


@on("one", only="rabbitmq", **{"durable.bytes": 60_000})
async def test_an_agent_has_so_many_events_in_hand_and_no_more(domain: Domain) -> None:
    """Where a durable queue is full, what is behind waits at the broker."""
    anna = await domain.guest("anna")
    kept = await anna.subscribe(durable="kept")
    (ingress,) = [one for one in _ingress(domain) if one.queue.endswith("1")]
    await anna.publish(*(phone(number) for number in range(8000)))
    await until(lambda: ingress._link is not None and ingress._link.unsettled >= MOST, "it has as many as may be")
    assert ingress._link is not None
    for _ in range(20):
        assert await anna.call("getSessionUser") == "anna"
        assert ingress._link.unsettled <= MOST + 1
    _, end = await anna.consume(kept, window=2000)
    await until(lambda: len(end.received) >= 8000, "all of them")
    assert ingress._link.alive


@on(only="rabbitmq")
async def test_an_agent_has_so_many_commands_under_way_and_no_more(domain: Domain) -> None:
    plugin = Plugin("one")
    await domain.agent("one", serving(plugin))
    anna = await domain.guest("anna")
    (queue,) = [one for one in _broker(domain.agents["one"])._queues if one.queue.endswith(".plugin")]
    asked = [await anna.ask("who", ["t"], "plugin") for _ in range(1300)]
    await until(lambda: plugin.waiting >= commands.MOST, "as many as may be")
    assert await anna.call("getSessionUser") == "anna", "others go on"
    assert queue.under_way == commands.MOST
    plugin.go_on.set()
    await until(lambda: all(anna.answers[one] for one in asked), "all are answered")


@on("one")
async def test_an_ordinary_user_reads_no_queue_of_another(domain: Domain) -> None:
    anna, bert = await domain.guest("anna"), await domain.guest("bert")
    hers = await anna.subscribe()
    with pytest.raises(AmqpError, match="unauthorized-access"):
        await bert.consume(hers)
    with pytest.raises(AmqpError, match="unauthorized-access"):
        await bert.connection.attach_receiver(Terminus(f"/queues/{domain.name}.ingress.0"), handler=End(), alone=True)
    with pytest.raises(AmqpError, match="unauthorized-access"):
        await bert.connection.attach_sender(Terminus(f"/queues/{hers['queue']}"), handler=End(), alone=True)


@on("one", only="rabbitmq")
async def test_a_users_pattern_fits_nothing_of_one_whose_name_begins_alike(domain: Domain) -> None:
    """With the permissions that docs/domain.md has; `%` and `.` are what could be mistaken."""
    users = ("anna", "anna.work", "anna%2Ework", "a+b")
    permit(domain.rabbit, *users)
    guests = [await domain.guest(user) for user in users]
    hers = [await guest.subscribe(durable="work.x") for guest in guests]
    await guests[0].publish(phone(1))
    for guest in guests:
        for one, owner in zip(hers, guests, strict=True):
            if owner is guest:
                _, end = await guest.consume(one)
                await until(lambda end=end: numbers(end) == [1], "the event")  # type: ignore[misc]
                continue
            with pytest.raises(AmqpError, match="unauthorized-access"):
                await guest.consume(one)
            number = await guest.ask("getSessionUser", reply=owner.reply)
            assert await owner.call("getSessionUser") == owner.user
            assert number not in owner.answers
        number = await guest.ask("getSessionUser", reply=RABBITMQ.queue(guest.reply).address)
        await until(lambda guest=guest, number=number: guest.answers[number], "an answer to its address")  # type: ignore[misc]


# --- many of them ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BROKERS)
def test_subscriptions_come_and_go_while_agents_do(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter is dropped, a quarter orphaned, the rest renewed: in the end every agent has the same, and the broker no other queues."""
    count = {"rabbitmq": 1000, "activemq": 300}[kind]  # where each record is two writes to the disk; 1,000 pass too, in a minute
    monkeypatch.setattr(activemq, "ENDED_TTL", 1000)

    @on("one", "two", **{"broker.lease": 4.0})
    async def scene(domain: Domain) -> None:
        guests = [await domain.guest(user) for user in ("anna", "bert") for _ in range(5)]
        kept: dict[str, Guest] = {}

        async def renew() -> None:
            while True:
                await asyncio.sleep(1.0)
                for guest in guests:
                    ids = [one for one, owner in kept.items() if owner is guest]
                    if ids:
                        await guest.ask("renew", {"ids": ids})

        async def work(guest: Guest) -> None:
            for number in range(count // len(guests)):
                one = await guest.subscribe(
                    f"//*:CallerId > {number}", **({"durable": f"d{id(guest)}-{number}"} if number % 8 == 7 else {})
                )
                if number % 4 == 0:
                    assert await guest.call("unsubscribe", {"id": one["id"]}) is True
                elif number % 4 != 1:
                    kept[one["id"]] = guest

        async def move() -> None:
            for node in ("three", "four"):
                await domain.agent(node)
                await asyncio.sleep(1.0)
            await domain.stop("three")
            await domain.agent("five")
            await domain.stop("two")

        renewing = asyncio.create_task(renew())
        await asyncio.gather(move(), *(work(guest) for guest in guests))
        domains = [_broker(agent).control.domain for agent in domain.agents.values()]

        def differing() -> list[set[str]]:
            return [others for known in domains if (others := {one.id for one in known.subscriptions()} ^ set(kept))]

        await until(lambda: not differing(), lambda: f"what is kept, but for {differing()}", 2 * PATIENCE)
        await until(lambda: len({known.digest() for known in domains}) == 1, "all agents know the same")
        queues = {one.queue for one in domains[0].subscriptions()}
        if domain.dialect.declares:  # otherwise a queue is there when something is in it, or somebody there
            assert set(queues_of(domain.rabbit, domain.name, "sub.")) >= queues

        others: list[str] = []

        async def no_other() -> bool:
            others[:] = set(await queues_with(domain.broker, domain.name, "sub.")) - queues
            return not others

        # In less than the lease and a minute after which the broker deletes by itself what nobody uses.
        await eventually(no_other, lambda: f"the broker has no other queues, and these are {others}", 2 * PATIENCE)
        assert all({one.id for one in _broker(agent).subscriptions.all} == set(kept) for agent in domain.agents.values())
        renewing.cancel()

    scene(kind, request, tmp_path)


class Counting:
    """Commands of every type, which note by token who ran them."""

    def __init__(self, node: str, runs: dict[str, list[str]]) -> None:
        self.node, self.runs = node, runs

    async def _run(self, token: str) -> str:
        self.runs.setdefault(token, []).append(self.node)
        await asyncio.sleep(0.02)
        return self.node

    @Command()
    async def normal(self, token: str) -> str:
        """Any one."""
        return await self._run(token)

    @Command(type=CommandType.FIRSTRESULT)
    async def first(self, token: str) -> str:
        """The first one."""
        return await self._run(token)

    @Command(type=CommandType.CUMULATIVE)
    async def everybody(self, token: str) -> str:
        """All."""
        return await self._run(token)


@on()
async def test_commands_while_an_agent_dies_are_answered_once_or_fail_with_a_reason(domain: Domain) -> None:
    runs: dict[str, list[str]] = {}
    for node in ("one", "two", "three"):
        await domain.agent(node, lambda agent, node=node: agent.commands.register(Counting(node, runs), target="plugin"))  # type: ignore[misc]
    broker = _broker(domain.agents["one"])
    await until(lambda: len(broker.elsewhere("plugin", "normal")) == 2, "all are known")
    anna = await domain.guest("anna")
    asked: dict[str, tuple[str, str]] = {}
    for number in range(100):
        for method in ("normal", "first", "everybody"):
            token = f"{method}-{number}"
            asked[await anna.ask(method, [token], "plugin")] = method, token
        await asyncio.sleep(0.005)
        if number == 50:
            domain.crash("two")
    await until(lambda: all(anna.answers[one] for one in asked), "all are answered", 2 * PATIENCE)
    assert await anna.call("normal", ["last"], "plugin") in ("one", "three")
    for one, (method, token) in asked.items():
        answer, *more = anna.answers[one]
        # Whoever dies between an answer and its settlement has answered; a caller takes the first, and nothing is run a second time.
        assert all(other["error"] is not None and other["error"]["code"] == "command-interrupted" for other in more)
        ran = runs.get(token, [])
        assert len(set(ran)) == len(ran), "no agent ran it twice"
        if answer["error"] is not None:
            assert answer["error"]["code"] == "command-interrupted"
        elif method == "everybody":
            assert {node for node, part in answer["result"].items() if part["error"] is None} <= set(ran)
            assert {part["error"]["code"] for part in answer["result"].values() if part["error"]} <= {"command-interrupted"}
        else:
            assert ran == [answer["result"]], "and no other one"
