"""Hostile publishers are refused with the right words, and nobody else feels it: the kinds of tests/hostility.py against a real agent.

What the others feel in milliseconds is bench/hostile.py's; here is that they get everything, in order, and that memory stays bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clacks.agent.access import EVERYTHING, Access
from clacks.agent.bus import Bus, Incoming, Refused
from clacks.agent.users import write_users
from clacks.amqp import ACCEPTED, Connection, Credentials, Draft, Message, Outcome, Rejected, Terminus, connect
from clacks.amqp.turns import TURN_SIZE
from clacks.common.errors import ClacksError
from clacks.common.schema import SchemaRegistry
from conftest import USERS, AgentProcess, RunningAgent, wait_for
from hostility import GREEDY, KINDS, Bare, Endless, Hostile, encoded
from samples import leave
from support import DEADLINE, End, resident, until

EVENTS_OF_THE_BYSTANDER = 40


async def dial(port: int) -> Connection:
    return await connect("127.0.0.1", port, Credentials("admin", "secret"))


def in_order(end: End) -> list[Outcome]:
    """The outcomes in the order of the deliveries."""
    return [outcome for _, outcome in sorted(end.outcomes, key=lambda pair: pair[0])]


async def closed(*connections: Connection) -> None:
    for connection in connections:
        connection.close()
        await connection.wait_closed()


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """One agent for all: what a hostile publisher did to it must not be felt by the next test either."""
    with RunningAgent(tmp_path_factory.mktemp("hostile")) as running:
        yield running


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_hostile_event_is_refused_and_the_bystander_gets_its_own(agent: RunningAgent, kind: Hostile) -> None:
    texts = [leave(f"c-{number}") for number in range(EVENTS_OF_THE_BYSTANDER)]

    async def scene() -> tuple[list[Outcome], list[Outcome], list[str]]:
        attacking, standing_by = await dial(agent.port), await dial(agent.port)
        subscriber = await standing_by.attach_receiver(Terminus("org.clacks.event.ClientLeave"))
        attacker = await attacking.attach_sender(Terminus("org.clacks"))
        bystander = await standing_by.attach_sender(Terminus("org.clacks"))
        subscriber.handler, attacker.handler, bystander.handler = received, attacked, stood_by = End(), End(), End()
        subscriber.window = 100
        await until(lambda: attacker.sendable and bystander.sendable, "both may send")
        attacker.send(encoded(kind.name))
        for text in texts:
            bystander.send(Draft(text.encode()).encode())
        attacker.send(encoded(kind.name))
        await until(lambda: len(attacked.outcomes) == 2, "the hostile events are settled")
        await until(lambda: len(stood_by.outcomes) == len(texts), "the bystander's events are settled")
        await until(lambda: len(received.received) == len(texts), "the bystander's events have arrived")
        await closed(attacking, standing_by)
        return in_order(attacked), in_order(stood_by), [body.decode() for body in received.bodies]

    hostile, others, arrived = asyncio.run(scene())
    for outcome in hostile:
        assert isinstance(outcome, Rejected)
        assert outcome.condition.info["code"] == kind.code
        assert kind.sentence in outcome.condition.description
        assert len(outcome.condition.description) < 2000
    assert others == [ACCEPTED] * len(texts)
    assert arrived == texts


# What a connection may make the agent keep: a message of twice the event's limit and its envelope, a session's window of 8 MiB and
# the sockets' buffers. A delivery of 200 MiB that were kept would show.
KEPT = 24 * 1024 * 1024
ENDLESS = 200 * 1024 * 1024


# One that keeps to the session's window is told of the size; one that does not may be told of the window first.
CUT_OFF = {"patient": {"amqp:link:message-size-exceeded"}, "rude": {"amqp:link:message-size-exceeded", "amqp:session:window-violation"}}


@pytest.mark.parametrize("manners", CUT_OFF)
def test_a_delivery_without_an_end_is_cut_off_and_not_kept(tmp_path: Path, environment: dict[str, str], manners: str) -> None:
    arguments = ["--demo", "--listen", "localhost:0", "--listen-tls", "localhost:0", "--state-dir", str(tmp_path / "state")]
    with AgentProcess(arguments, environment, tmp_path / "log") as process:
        port = int(process.url().rpartition(":")[2].partition("/")[0])
        statm = Path(f"/proc/{process.process.pid}/statm")
        if not statm.exists():
            pytest.skip("memory is read from /proc")

        def memory() -> int:
            return int(statm.read_text().split()[1]) * 4096

        before = memory()
        endless = Endless("127.0.0.1", port, "admin", "secret", patient=manners == "patient")
        most = 0
        while endless.sent < ENDLESS and endless.pump(ENDLESS // 50, 1.0):
            most = max(most, memory())
            if endless.stalled:
                break
        wait_for(lambda: endless.read() or endless.ended, "the agent says why")
        assert endless.ended in CUT_OFF[manners]
        assert most - before < KEPT

        async def bystander() -> list[str]:
            connection = await dial(port)
            subscriber = await connection.attach_receiver(Terminus("org.clacks.event.ClientLeave"))
            publisher = await connection.attach_sender(Terminus("org.clacks"))
            subscriber.handler, publisher.handler = received, _ = End(), End()
            subscriber.window = 1
            await until(lambda: publisher.sendable, "it may send")
            publisher.send(Draft(leave("c-1").encode()).encode())
            await until(lambda: bool(received.received), "the bystander's event has arrived")
            await closed(connection)
            return [body.decode() for body in received.bodies]

        assert asyncio.run(bystander()) == [leave("c-1")]
        endless.close()
        wait_for(lambda: memory() - before < KEPT, "nothing of it is kept")


@pytest.mark.parametrize("name", ["many comments", "as many bad values as may be"])
def test_a_refused_event_leaves_nothing_in_memory(name: str) -> None:
    """lxml never frees the tree of a parser that was fed and not closed: 24 MB for each event of comments."""
    kind = next(kind for kind in KINDS if kind.name == name)
    body = bytes(Message(kind.make()).body)
    schemas = SchemaRegistry(()).current

    def refuse(times: int) -> int:
        for _ in range(times):
            with contextlib.suppress(ClacksError):  # pytest.raises would keep the error, and with it the tree
                schemas.examine(body)
            schemas.explain(body)
            gc.collect()
        return resident()

    before = refuse(3)
    assert refuse(10) - before < 20_000_000


@pytest.mark.parametrize("name", ["many elements", "depth beyond the limit", "as many bad values as may be", "not XML at all"])
def test_a_refusal_keeps_nothing_of_the_event(name: str) -> None:
    """It must not take the collector: that would free a hundred megabytes at once, on the loop."""
    bus = Bus(SchemaRegistry(()), access=Access([EVERYTHING], {"admin": frozenset()}))
    incoming = Incoming(bytes(Message(encoded(name)).body), "admin")
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            verdict = bus.publish(incoming)
            assert isinstance(verdict, Refused)
        del verdict
        assert not [one for one in gc.get_objects() if isinstance(one, ClacksError)]
    finally:
        gc.enable()


def test_a_publisher_in_full_flow_takes_turns(agent: RunningAgent) -> None:
    """However much its socket brings at once, what is worked off in one turn of the loop is bounded."""
    message = Draft(leave("c" * 1000).encode()).encode()
    count = 200  # less than the agent's windows for a session and a publisher: all may come at once
    turn = 0
    turns: Counter[int] = Counter()
    counting = True

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        if counting:
            agent.loop.call_soon(next_turn)

    intake = agent.agent.broker.intake
    submit = intake.submit

    def counted(incoming: Incoming, *more: Any) -> None:
        turns[turn] += incoming.user == "admin"  # the agent has events of its own
        submit(incoming, *more)

    async def flow() -> None:
        connection = await dial(agent.port)
        publisher = await connection.attach_sender(Terminus("org.clacks"))
        publisher.handler = end = End()
        await until(lambda: publisher.sendable, "it may send")
        held = threading.Event()  # the agent's loop waits meanwhile, and then finds everything at once
        agent.loop.call_soon_threadsafe(held.wait, DEADLINE)
        for _ in range(count):
            publisher.send(message)
        await until(lambda: not connection.touched, "all are written")
        held.set()
        await until(lambda: len(end.outcomes) == count, "all are settled")
        await closed(connection)

    agent.loop.call_soon_threadsafe(next_turn)
    intake.submit = counted  # type: ignore[method-assign]
    try:
        asyncio.run(flow())
    finally:
        counting = False
        del intake.submit
    assert turns.total() == count
    assert max(turns.values()) <= TURN_SIZE // len(message) + 1


@pytest.mark.parametrize("what", GREEDY)
def test_what_a_user_without_any_right_can_make_an_agent_keep(tmp_path: Path, environment: dict[str, str], what: str) -> None:
    ask, bound, bursts = GREEDY[what]
    write_users(tmp_path / "state" / "users.toml", USERS)
    with AgentProcess(["--listen", "localhost:0", "--state-dir", str(tmp_path / "state")], environment, tmp_path / "log") as process:
        port = int(process.urls[0].rpartition(":")[2].partition("/")[0])
        statm = Path(f"/proc/{process.process.pid}/statm")
        if not statm.exists():
            pytest.skip("memory is read from /proc")

        def memory() -> int:
            return int(statm.read_text().split()[1]) * 4096

        before = memory()
        with contextlib.closing(Bare(port)) as bare:
            for _ in itertools.takewhile(lambda _: memory() - before < bound, itertools.islice(ask(bare), bursts)):
                pass
            Bare(port, "admin", "secret").close()  # everybody else comes in
            assert memory() - before < bound
