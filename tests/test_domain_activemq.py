"""A domain on ActiveMQ: what it does itself there that RabbitMQ does for it. Its log in a queue, turns at the ingress, who sends, and what
the broker has to be configured for.

What it has in common with a domain on RabbitMQ is in test_domain.py and test_bus.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from activemq import DomainActiveMQ
from brokers import AGENT
from clacks.agent.agent import Agent
from clacks.agent.broker.external import activemq as topology
from clacks.agent.broker.external import ingress, sequence
from clacks.agent.broker.external.clock import now
from clacks.agent.broker.external.control import Control
from clacks.agent.broker.external.sequence import SequencedLog
from clacks.agent.domain import Timing
from clacks.amqp import ACCEPTED, AmqpError, Draft, Message, Properties, Receiver, Timestamp
from clacks.common.components.client import dial
from clacks.common.components.url import parse_url
from clacks.common.errors import ClacksError
from domains import ACTIVEMQ, DEADLINE, Domain, messages_in, new_domain, number_of, numbers, on, permit, phone
from support import PATIENCE, End, eventually, until

SMALL = Timing(snapshot_floor=20_000, part_bytes=4_000, lease=2.0, interval=0.2)

POISONED = 2500  # more than the broker looks at for a message that fits a selector (maxPageSize)
PHONES = "//*:PhoneStatus"

on_activemq = partial(on, only="activemq")


def broker_of(agent: Agent) -> Any:
    return agent.broker


def numbering(domain: Domain) -> list[str]:
    """The agents that think that they number the log."""
    logs = {node: broker_of(agent).control._log for node, agent in domain.agents.items()}
    return [node for node, log in logs.items() if log is not None and log._numbering is not None and log._numbering._keeper is not None]


async def alike(domain: Domain) -> None:
    domains = [broker_of(agent).control.domain for agent in domain.agents.values()]
    await until(lambda: len({one.digest() for one in domains}) == 1, "all know the same")


async def at_most(domain: Domain, queue: str, count: int) -> bool:
    return (await messages_in(domain.broker, queue) or 0) <= count


# --- the log -----------------------------------------------------------------------------------------------------------------------


@on_activemq("one", "two", "three")
async def test_one_agent_numbers_the_log_and_the_next_goes_on_where_it_died(domain: Domain) -> None:
    anna = await domain.guest("anna")
    ids = []
    for round_ in range(2):
        (first,) = numbering(domain)
        ids += [(await anna.subscribe(f"//*:CallerId = {round_}"))["id"] for _ in range(5)]
        asked = [asyncio.create_task(anna.subscribe(f"//*:CallerId > {number}")) for number in range(5)]
        await asyncio.sleep(0)
        term = broker_of(domain.agents[first]).control._log._numbering._term
        domain.crash(first)
        ids += [one["id"] for one in await asyncio.gather(*asked)]
        await until(lambda: numbering(domain), "another one does it")
        (second,) = numbering(domain)
        assert second != first
        assert broker_of(domain.agents[second]).control._log._numbering._term == term + 1
        await domain.agent(first)
    await alike(domain)
    assert {one.id for one in broker_of(domain.agents["one"]).control.domain.subscriptions()} == set(ids)
    assert len(set(ids)) == 20, "each was made once"


@on_activemq("one", "two", **{"broker.lease": 600.0})
async def test_what_all_agents_knew_is_known_when_all_of_them_are_others(domain: Domain) -> None:
    anna = await domain.guest("anna")
    kept = await anna.subscribe(PHONES, durable="kept")
    live = await anna.subscribe(PHONES)
    for node in list(domain.agents):
        domain.crash(node)
    await anna.publish(phone(1))
    for node in ("three", "four"):
        await domain.agent(node)
    for subscription in (kept, live):
        _, end = await anna.consume(subscription)
        await until(lambda end=end: numbers(end) == [1], "what came while nobody was there")  # type: ignore[misc]
    assert (await anna.subscribe(PHONES, durable="kept"))["id"] == kept["id"]


class Book:
    """What a Control tells."""

    def __init__(self) -> None:
        self.changes: list[Any] = []
        self.begun = 0

    def restart(self) -> None:
        self.begun += 1
        self.changes.clear()


class Reader:
    """A Control alone, as an agent has it."""

    def __init__(self, activemq: DomainActiveMQ, name: str, node: str, timing: Timing) -> None:
        self.activemq, self.book, self.name = activemq, Book(), name
        self.control = Control(node, self.book.changes.append, lambda: None, self.book.restart, lambda: (0.0, 0.0, 1, ()), timing)

    @property
    def log(self) -> Any:
        return self.control._log

    async def up(self) -> None:
        self.connection = await dial(parse_url(self.activemq.url(AGENT.name)))
        await self.control.attach(self.connection, ACTIVEMQ, lambda reader: SequencedLog(self.name, reader))

    def down(self) -> None:
        self.connection.abort()
        self.control.down()

    def close(self) -> None:
        self.control._ticker.cancel()
        self.down()


@asynccontextmanager
async def readers(domain: Domain, *nodes: str, timing: Timing = SMALL) -> AsyncIterator[list[Reader]]:
    made = [Reader(domain.broker, f"{domain.name}.control", node, timing) for node in nodes]  # type: ignore[arg-type]
    try:
        for one in made:
            await one.up()
            await one.control.joined
        yield made
    finally:
        for one in made:
            one.close()


async def write(reader: Reader, count: int, size: int = 100) -> None:
    """Records that mean nothing."""
    sender = await reader.connection.attach_sender(ACTIVEMQ.queue(f"{reader.name}.in"), handler=(end := End()))
    await until(lambda: sender.sendable, "credit")
    for _ in range(count):
        sender.send(Draft(b'{"kind": "Unknown"}' + b" " * size, durable=True).encode())
    await until(lambda: len(end.outcomes) == count, "the broker has them")
    sender.close()


@on_activemq()
async def test_who_missed_records_is_told_them_again(domain: Domain) -> None:
    async with readers(domain, "one", "two") as (one, two):
        incarnation = two.control.domain.incarnation
        two.down()
        await write(one, 300)
        await until(lambda: one.control.domain.applied >= 300, "they are in the log")
        await two.up()
        await until(lambda: two.control.domain.applied >= one.control.domain.applied - 5, "the other one has them too")
        await until(lambda: two.control.domain.digest() == one.control.domain.digest(), "both know the same")
        assert (two.control.restarts, two.control.domain.incarnation) == (0, incarnation)


@on_activemq()
async def test_who_missed_more_than_anybody_has_begins_anew(domain: Domain) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sequence, "AT_HAND", 50)
        patched.setattr(sequence, "GAP_SECONDS", 0.5)
        async with readers(domain, "one", "two") as (one, two):
            two.down()
            await write(one, 300)
            await until(lambda: one.control.domain.applied >= 300, "they are in the log")
            await two.up()
            await until(lambda: two.control.restarts == 1, "it sees that something is missing")
            assert two.book.begun == 1
            await until(lambda: not two.connection.alive, "it lets go")
            await two.up()
            await until(lambda: two.control.domain.may_take(now()), "it is back, with a snapshot")
            await until(lambda: two.control.domain.digest() == one.control.domain.digest(), "both know the same")


@on_activemq()
async def test_what_a_snapshot_has_made_needless_is_taken_out_of_the_queue(domain: Domain) -> None:
    async with readers(domain, "one", "two") as (one, two):
        for _ in range(5):
            await write(one, 200, 200)
        await until(lambda: one.control.domain.base > 800, "a snapshot stands for the first ones")
        kept = f"{domain.name}.control"
        await eventually(lambda: at_most(domain, kept, 400), "the first ones are gone")
        for each in (one, two):
            each.close()
        async with readers(domain, "three") as (three,):
            assert three.control.domain.applied > 1000


@on_activemq()
async def test_a_long_log_is_taken_over_too(domain: Domain) -> None:
    """It is read as a whole before anything of it is settled, and no queue may limit that."""
    async with readers(domain, "one", "two", timing=replace(SMALL, snapshot_floor=1 << 30)) as (one, two):
        for _ in range(10):
            await write(one, 300, 10_000)
        one.down()
        await until(lambda: two.log._numbering._keeper is not None, "the other one numbers")
        await write(two, 20)
        await until(lambda: two.control.domain.applied >= 3020, "the log goes on")


@on_activemq()
async def test_what_comes_late_from_an_earlier_term_counts_nowhere(domain: Domain) -> None:
    """As if the broker had taken something of an agent's after it gave its place to another one."""
    async with readers(domain, "one", "two") as (one, two):
        log, term = one.log._log, one.log._numbering._term
        one.down()
        await until(lambda: two.log._numbering._keeper is not None, "the other one numbers")
        await until(lambda: two.log._term == term + 1, "a new term")
        late = sequence._kept(Draft(b'{"kind": "Late"}').encode(), {sequence.LOG: log, sequence.TERM: term, sequence.OFFSET: 10_000})
        for target in (ACTIVEMQ.queue(two.name), ACTIVEMQ.topic(two.name)):
            sender = await two.connection.attach_sender(target, handler=(end := End()))
            await until(lambda sender=sender: sender.sendable, "credit")  # type: ignore[misc]
            sender.send(late)
            await until(lambda end=end: end.outcomes, "it is there")  # type: ignore[misc]
        await write(two, 20)
        await until(lambda: two.control.domain.applied >= 20, "the log goes on")
        await one.up()
        two.down()
        await until(lambda: one.log._numbering._keeper is not None, "the first one again")
        assert one.log._numbering._offset < 10_000
        await until(lambda: one.control.domain.may_take(now()), "it is there")


@on_activemq()
async def test_no_number_that_was_told_is_given_again(domain: Domain) -> None:
    """Though the broker has lost the end of the log: who knows more than the one who numbers begins anew."""
    async with readers(domain, "one", "two", "three") as (one, two, three):
        term, log = one.log._term, one.log._log
        lost = sequence.Entry(b'{"kind": "Unknown"}', 19, log, term, 0)
        for reader, count in ((two, 10), (three, 30)):
            for _ in range(count):
                reader.log.take(replace(lost, offset=reader.log._offset + 1))
        one.down()
        await until(lambda: two.log._numbering is not None and two.log._numbering._keeper is not None, "the next one numbers")
        known = two.log._offset
        assert two.log._numbering._offset >= known
        await until(lambda: three.control.restarts == 1, "who knows more sees it")
        await three.up()
        await until(lambda: three.control.domain.may_take(now()), "it is back")
        await until(lambda: three.control.domain.digest() == two.control.domain.digest(), "both know the same")


@on_activemq("one", "two")
async def test_another_log_in_its_place_is_begun_anew(domain: Domain) -> None:
    """Somebody has deleted the queue while no agent was there; one that comes back knows more than there is."""
    logs = [broker_of(agent).control._log for agent in domain.agents.values()]
    entry = sequence.Entry(b'{"kind": "Unknown"}', 19, "another", 1, 0)
    logs[1].take(entry)
    two = broker_of(domain.agents["two"]).control
    await until(lambda: two.restarts == 1 and two.domain.may_take(now()), "it has begun anew")
    await alike(domain)


# --- the ingress --------------------------------------------------------------------------------------------------------------------


@on_activemq("one")
async def test_a_queue_comes_to_the_agent_with_the_better_claim_and_nothing_overtakes(domain: Domain) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ingress, "KEPT_SECONDS", 0.2)
        anna = await domain.guest("anna")
        _, end = await anna.consume(await anna.subscribe(PHONES))
        await domain.agent("two")
        queues = [f"{domain.name}.ingress.{slot}" for slot in range(16)]
        wanted = {queue: max(("one", "two"), key=lambda node, queue=queue: ingress.priority(node, queue)) for queue in queues}  # type: ignore[misc]
        assert set(wanted.values()) == {"one", "two"}
        count, stop = 0, asyncio.get_running_loop().time() + 2 * PATIENCE

        def taken() -> dict[tuple[str, str], int]:
            return {(one.queue, node): one.taken for node, agent in domain.agents.items() for one in broker_of(agent).ingress}

        last: dict[str, str] = {}
        while last != wanted:
            assert asyncio.get_running_loop().time() < stop, (last, wanted)
            before = taken()
            for slot in range(16):
                await anna.publish(*(phone(count * 10 + number) for number in range(10)), key=f"events.{slot}")
                count += 1
            await until(lambda count=count: len(end.received) >= count * 10, "all events")  # type: ignore[misc]
            last = dict(place for place, known in taken().items() if known > before[place])
        for batch in range(count):
            own = [number for number in numbers(end) if number // 10 == batch]
            assert own == sorted(own)
        assert len(set(numbers(end))) == len(end.received) == count * 10


@on_activemq(**{"sandbox.seconds": 30.0})
async def test_nothing_overtakes_what_a_filter_is_asked_about_when_a_queue_changes_hands(domain: Domain) -> None:
    """A live subscription's event is settled before."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ingress, "KEPT_SECONDS", 0.0)
        patched.setattr(ingress, "DECIDING_TIMES", 10_000)
        await domain.agent("one")
        anna = await domain.guest("anna")
        dear = "every $x in (1 to xs:integer(//*:CallerId)) satisfies string($x) != 'x'"  # as long as the event says
        _, end = await anna.consume(await anna.subscribe(dear, event="PhoneStatus"))
        await domain.agent("two")
        await until(lambda: len(list(broker_of(domain.agents["one"])._nodes())) == 2, "the one knows of the other")
        better = next(slot for slot in range(16) if _claims(domain, slot, "two") > _claims(domain, slot, "one"))
        both = [next(one for one in broker_of(domain.agents[node]).ingress if one.queue.endswith(f".{better}")) for node in ("one", "two")]
        before = both[1].taken
        slow = [100_000, 20_000]
        await anna.publish(phone(slow[0]), phone(1), key=f"events.{better}")
        count, owed = 2, broker_of(domain.agents["one"]).subscriptions.owed
        while both[1].taken == before:
            await anna.publish(phone(count), key=f"events.{better}")
            count += 1
            await until(lambda: owed.count < 3 or both[1].taken > before, "the filter keeps up, or the other one has the queue")
        await anna.publish(phone(slow[1]), phone(count), key=f"events.{better}")
        wanted = [slow[0], *range(1, count), slow[1], count]
        await until(lambda: len(end.received) >= len(wanted), "all events", 3 * PATIENCE)
        assert numbers(end) == wanted
        agents = [broker_of(agent) for agent in domain.agents.values()]
        await until(lambda: not any(one.subscriptions.owed.count for one in agents), "the broker has said so")


def _claims(domain: Domain, slot: int, node: str) -> int:
    return ingress.priority(node, f"{domain.name}.ingress.{slot}")


@on_activemq("one", "two")
async def test_what_an_agent_that_dies_had_in_hand_comes_first_and_in_its_order(domain: Domain) -> None:
    anna = await domain.guest("anna")
    _, end = await anna.consume(await anna.subscribe(PHONES))
    sending = asyncio.create_task(anna.publish(*(phone(number) for number in range(2000)), key="events.3"))
    await until(lambda: len(end.received) > 100, "it is at work")
    (first,) = [node for node, agent in domain.agents.items() if any(one.taken for one in broker_of(agent).ingress)]
    domain.crash(first)
    await sending
    await until(lambda: len(set(numbers(end))) == 2000, "all events")
    assert list(dict.fromkeys(numbers(end))) == list(range(2000)), "twice perhaps, the first time in its order"


# --- who sends ----------------------------------------------------------------------------------------------------------------------


@on_activemq("one", "two")
async def test_nobody_sends_for_another_and_what_nobody_can_verify_is_refused(domain: Domain) -> None:
    anna, bert = await domain.guest("anna"), await domain.guest("bert")
    _, got = await anna.consume(await anna.subscribe())
    looking, refused = await dial(parse_url(domain.broker.url(AGENT.name))), End()
    (await looking.attach_receiver(ACTIVEMQ.queue(f"{domain.name}.rejected"), handler=refused)).window = 100
    sender, outcomes = await bert.sender("events.5")
    own = ACTIVEMQ.signed(Properties(), "bert")
    attacks: list[Draft] = [
        Draft(phone(1), ACTIVEMQ.signed(Properties(), "anna")),
        Draft(phone(2), replace(own, reply_to_group_id=None)),
        Draft(phone(3), replace(own, reply_to_group_id="anna")),
        Draft(phone(4), replace(own, reply_to_group_id="anna"), {"JMS_AMQP_ReplyToGroupID": "bert"}),
        Draft(phone(5), replace(own, reply_to_group_id=None), {"JMS_AMQP_ReplyToGroupID": "bert"}),
        Draft(phone(6), replace(own, reply_to_group_id="anna"), {"JMSXUserID": "anna"}),
        Draft(phone(7), own, {"when": Timestamp(0)}),
        Draft(phone(8), own, annotations={"when": Timestamp(0)}),
        Draft(phone(9), replace(own, user_id=b"anna")),
    ]  # fmt: skip
    for draft in attacks:
        sender.send(draft.encode())
    await until(lambda: len(outcomes.outcomes) == len(attacks), "the broker has them")
    assert await bert.tell(phone(100), key="events.5") is None
    await until(lambda: len(refused.received) == len(attacks), "all of them are put aside")
    assert numbers(got) == [100]
    codes = {number_of(message): str(message.annotations["x-opt-clacks-code"]) for message in refused.messages}
    assert codes == {
        **dict.fromkeys(range(1, 9), "user-id-unverified"), 9: "user-id-forged",
    }  # fmt: skip
    assert [message.annotations["x-opt-clacks-user"] for message in got.messages] == ["bert"]
    looking.abort()


@on_activemq("one")
async def test_what_the_broker_cannot_pass_on_stops_nobody(domain: Domain) -> None:
    """Messages that ActiveMQ would take a credit of the agent for, and never bring: more of them than an agent has credit."""
    anna, bert = await domain.guest("anna"), await domain.guest("bert")
    _, got = await anna.consume(await anna.subscribe())
    sender, outcomes = await bert.sender("events.5")
    own = ACTIVEMQ.signed(Properties(), "bert")
    poison = [{"JMS_AMQP_MESSAGE_FORMAT": "abc"}, {"JMS_AMQP_NATIVE": False}, {"JMS_AMQP_NATIVE": False, "JMS_AMQP_MESSAGE_FORMATx": "abc"}]
    await until(lambda: sender.sendable, "credit")
    for number in range(ingress.WINDOW * 2):
        await until(lambda: sender.sendable, "credit")
        sender.send(Draft(phone(number), own, poison[number % 3]).encode())
    await until(lambda: len(outcomes.outcomes) == ingress.WINDOW * 2, "the broker has them")
    assert await anna.tell(phone(5000), key="events.5") is None
    assert numbers(got) == [5000]
    sender, outcomes = await bert.sender("command.core")
    for number in range(POISONED):
        await until(lambda: sender.sendable, "credit")
        sender.send(Draft("{}", own, poison[number % 3]).encode())
    await until(lambda: len(outcomes.outcomes) == POISONED, "the broker has them")
    assert await anna.call("getSessionUser") == "anna"


@on_activemq("one")
async def test_a_command_is_run_for_who_asks_and_nobody_else(domain: Domain) -> None:
    anna, bert = await domain.guest("anna"), await domain.guest("bert")
    assert await bert.call("getSessionUser") == "bert"
    assert await bert.call("getSessionUser", node="one") == "bert"
    sender, _ = await bert.sender("command.core")
    for properties in (Properties(), ACTIVEMQ.signed(Properties(), "admin"), ACTIVEMQ.signed(Properties(), "anna")):
        asked = replace(properties, message_id="forged", reply_to=bert.reply)
        sender.send(Draft('{"method": "getSessionUser", "params": [], "id": 1}', asked).encode())
    assert await bert.call("getSessionUser") == "bert"
    assert not [one for one in bert.answers["forged"] if one["error"] is None]
    inner = ("agent.command.core", "verified.command.core", "ingress.0", "control", "control.in", "sub.bert.x", "reply.anna.x")
    for target in (*(ACTIVEMQ.queue(f"{domain.name}.{name}") for name in inner), ACTIVEMQ.topic(f"{domain.name}.control")):
        with pytest.raises(AmqpError, match=r"not authorized to (write|create)"):
            await bert.connection.attach_sender(target)
    assert await anna.call("getSessionUser") == "anna"


@on_activemq("one")
async def test_no_pattern_of_names_shows_what_is_others(domain: Domain) -> None:
    anna, bert = await domain.guest("anna"), await domain.guest("bert")
    subscription = await anna.subscribe()
    spied: list[End] = []
    for pattern in ("sub.>", "reply.>", "sub.anna.>", "reply.anna.>", "ingress.>", "control.>", "rejected"):
        end = End(None)
        with contextlib.suppress(AmqpError):
            link: Receiver = await bert.connection.attach_receiver(
                replace(ACTIVEMQ.queue("x"), address=f"queue://{domain.name}.{pattern}?consumer.priority=100"), handler=end, alone=True
            )
            link.window = 100
            spied.append(end)
    assert await anna.tell(phone(1)) is None
    assert await anna.call("getSessionUser") == "anna"
    _, got = await anna.consume(subscription)
    await until(lambda: numbers(got) == [1], "the event is its subscriber's")
    assert not any(message.properties.correlation_id or "CallerId" in str(message.body) for end in spied for message in end.messages)


# --- queues -------------------------------------------------------------------------------------------------------------------------


@on_activemq("one", "two")
async def test_a_queue_whose_subscription_has_ended_is_emptied(domain: Domain) -> None:
    anna = await domain.guest("anna")
    kept = await anna.subscribe(durable="kept")
    await anna.publish(*(phone(number) for number in range(700)))

    async def all_are_there() -> bool:
        return await messages_in(domain.broker, kept["queue"]) == 700

    await eventually(all_are_there, "all are in the queue")
    assert await anna.call("unsubscribe", {"id": kept["id"], "delete": True}) is True
    await eventually(lambda: at_most(domain, kept["queue"], 1), "nothing but the word that it has ended", 2 * PATIENCE)


@on_activemq("one")
async def test_names_that_mean_something_to_the_broker_are_names(domain: Domain) -> None:
    anna = await domain.guest("anna")
    for name in ("a,b", "a>", "*", "a b", "ä/ö", "x?consumer.exclusive=true", "50%"):
        kept = await anna.subscribe(durable=name)
        _, end = await anna.consume(kept)
        assert await anna.tell(phone(1)) is None
        await until(lambda end=end: numbers(end) == [1], f"the event for {name!r}")  # type: ignore[misc]
        assert await anna.call("unsubscribe", {"id": kept["id"], "delete": True}) is True


# --- the broker's configuration -----------------------------------------------------------------------------------------------------


@on_activemq()
async def test_agents_that_start_at_once_do_not_take_each_others_trial(domain: Domain) -> None:
    await asyncio.gather(*(domain.agent(node) for node in ("one", "two", "three", "four")))
    assert set(await (await domain.guest()).call("getNodes")) == {"one", "two", "three", "four"}


@pytest.mark.parametrize(
    ("wrong", "right", "sentence"),
    [
        ('populateJMSXUserID="true"', 'populateJMSXUserID="false"', "does not tell senders apart"),
        ("transformer=native", "transformer=jms", "arrives nowhere"),
        (" AND JMSXUserID = JMS_AMQP_ReplyToGroupID", "", "does not tell senders apart"),
        (".events.trial", ".events.other", "arrives nowhere"),
        ('write="agents" admin="agents"', 'write="nobody" admin="nobody"', "may not do what an agent has to"),
    ],
    ids=["who", "transformer", "selector", "composite", "rights"],
)
def test_a_broker_that_is_not_configured_for_it_is_refused_with_what_is_missing(
    activemq: DomainActiveMQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, right: str, sentence: str
) -> None:
    monkeypatch.setattr(topology, "TRIAL_SECONDS", 1.0)

    def edit(text: str) -> str:
        assert wrong in text
        return text.replace(wrong, right)

    async def scene(broker: DomainActiveMQ) -> None:
        async with asyncio.timeout(DEADLINE), Domain(broker, tmp_path) as domain:
            with pytest.raises(ClacksError, match=sentence) as caught:
                await domain.agent("one")
            assert caught.value.code == "config-invalid"
            assert "docker/activemq.xml" in str(caught.value)

    with DomainActiveMQ([new_domain()], edit) as broker:
        asyncio.run(scene(broker))


def test_the_broker_goes_and_comes_back_with_all_that_was_accepted(activemq: DomainActiveMQ, tmp_path: Path) -> None:
    async def scene(broker: DomainActiveMQ) -> None:
        permit(broker, "anna")
        async with asyncio.timeout(DEADLINE), Domain(broker, tmp_path) as domain:
            for node in ("one", "two"):
                await domain.agent(node)
            anna = await domain.guest("anna")
            kept = await anna.subscribe(durable="kept")
            assert (await anna.publish(*(phone(number) for number in range(300)))).outcomes[-1][1] is ACCEPTED
            await asyncio.to_thread(broker.restart)
            later = await domain.guest("anna")
            assert (await later.subscribe(durable="kept"))["id"] == kept["id"]
            _, end = await later.consume(kept)
            await until(lambda: set(numbers(end)) >= set(range(300)), "all that was accepted")
            assert list(dict.fromkeys(numbers(end))) == list(range(300))
            await alike(domain)
            assert all(broker_of(agent).control.restarts == 0 for agent in domain.agents.values())

    with DomainActiveMQ([new_domain()]) as broker:
        asyncio.run(scene(broker))


def test_what_waits_in_queues_lies_on_the_disk_and_not_in_the_brokers_memory(activemq: DomainActiveMQ, tmp_path: Path) -> None:
    """More than its memory in each place: for a live and for a durable subscription, and at the ingress."""
    count, size, batch = 3000, 70_000, 50

    async def scene(broker: DomainActiveMQ) -> None:
        permit(broker, "anna")
        async with asyncio.timeout(DEADLINE), Domain(broker, tmp_path, **{"broker.lease": 600.0}) as domain:
            anna = await domain.guest("anna")
            await domain.agent("one")
            queues = [await anna.subscribe(PHONES), await anna.subscribe(PHONES, durable="kept")]

            async def publish(first: int) -> None:
                for number in range(first, first + count, batch):
                    large = [
                        phone(n).replace(b"<CallerId>", b"<!--" + b"x" * size + b"--><CallerId>") for n in range(number, number + batch)
                    ]
                    await anna.publish(*large, key=f"events.{number // batch % 4}")

            await publish(0)
            ingress = broker_of(domain.agents["one"]).ingress
            await until(lambda: sum(one.taken for one in ingress) >= count, "the agent has taken them")
            await domain.stop("one")
            await publish(count)
            await domain.agent("one")
            ends = [(await anna.consume(queue))[1] for queue in queues]

            async def all_are_here() -> bool:
                return all(len(end.received) >= 2 * count and len(set(numbers(end))) == 2 * count for end in ends)

            await eventually(all_are_here, "all of them in both", DEADLINE, pause=1.0)
            for end in ends:
                came = list(dict.fromkeys(numbers(end)))  # an agent that stops may not have settled all
                for slot in range(4):
                    of_slot = [number for number in came if number // batch % 4 == slot]
                    assert of_slot == sorted(of_slot)

    with DomainActiveMQ([new_domain()], heap="192m") as broker:
        asyncio.run(scene(broker))


def test_what_is_sent_while_there_is_no_agent_waits_for_one(activemq: DomainActiveMQ, tmp_path: Path) -> None:
    """Also where the broker knows none since it started, and where its empty queues were gone."""

    async def scene(broker: DomainActiveMQ) -> None:
        permit(broker, "anna")
        async with asyncio.timeout(DEADLINE), Domain(broker, tmp_path) as domain:
            await domain.agent("one")
            kept = await (await domain.guest("anna")).subscribe(PHONES, durable="kept")
            await domain.stop("one")
            await asyncio.to_thread(broker.restart)
            other, anna = await domain.guest("anna"), await domain.guest("anna")
            before = await anna.ask("getSessionUser")
            await anna.publish(*map(phone, range(16)), key="events")
            other.close()

            async def gone() -> bool:
                return await messages_in(broker, other.reply) is None

            await eventually(gone, "what is empty and unused is gone")
            for slot in range(16):
                assert (await anna.publish(phone(16 + slot), key=f"events.{slot}")).outcomes[-1][1] is ACCEPTED
            after = await anna.ask("getSessionUser")
            await domain.agent("one")
            _, end = await anna.consume(kept)
            await until(lambda: sorted(numbers(end)) == list(range(32)), "all that was accepted")
            await until(lambda: anna.answers[before] and anna.answers[after], "both questions are answered")

    with DomainActiveMQ([new_domain()]) as broker:
        asyncio.run(scene(broker))


def test_a_message_is_read_as_the_broker_reads_it() -> None:
    """Who sends stands in the first section of properties for both."""
    first, second = Draft(b"", Properties(reply_to_group_id="anna")).encode(), Draft(b"", Properties(reply_to_group_id="bert")).encode()
    assert Message(first + second).properties.reply_to_group_id == "anna"
