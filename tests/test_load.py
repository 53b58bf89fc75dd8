"""Peers that cost something by doing little: stuck, slow, silent, gone, or many. A bystander beside them gets everything, in order.

bench/idle.py and bench/soak.py have the figures at size; here the sizes are small, and what is asserted is that nothing is lost, that
memory and descriptors come back, and that the counters tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from clacks.amqp import ACCEPTED, Connection, Credentials, Described, Draft, Symbol, Terminus, UInt, connect
from clacks.amqp.codec import encode
from clacks.amqp.sasl import AMQP_HEADER, SASL_HEADER
from clacks.common.components import AMQPServiceProxy
from conftest import AgentProcess, RunningAgent, wait_for
from samples import leave
from support import End, until

XQUERY: Final = Symbol("apache.org:xquery-filter:string")
EVENTS: Final = 300
# An event that fills buffers fast: 300 of them are more than the sockets, the engine and a queue of 100 hold.
LARGE: Final = 64 * 1024
QUEUE: Final = 100
IDLE: Final = 200
# Bytes that an idle connection may cost: bench/idle.py has 34 KiB; so few of them bear the allocator's rounding.
IDLE_COST: Final = 64 * 1024
CYCLES: Final = 1_000
# What an agent may keep for one subscriber that takes nothing: its queue, 8 MiB of the engine, and the allocator's share.
KEPT: Final = QUEUE * LARGE + 24 * 1024 * 1024

_INIT, _OPEN, _BEGIN, _ATTACH, _FLOW = 0x41, 0x10, 0x11, 0x12, 0x13


def frame(code: int, *fields: Any, kind: int = 0) -> bytes:
    content = encode(Described(code, list(fields)))
    return struct.pack(">IBBH", len(content) + 8, 2, kind, 0) + content


LOGIN: Final = SASL_HEADER + frame(_INIT, Symbol("PLAIN"), b"\0admin\0secret", kind=1)
OPEN: Final = AMQP_HEADER + frame(_OPEN, "silent")


def subscribing(address: str) -> bytes:
    """All that a subscriber says until events may come."""
    begin = frame(_BEGIN, None, UInt(0), UInt(2**31 - 1), UInt(2**31 - 1))
    attach = frame(_ATTACH, "silent", UInt(0), True, None, None, Described(0x28, [address]), Described(0x29, []))
    credit = frame(_FLOW, None, UInt(2**31 - 1), UInt(0), UInt(2**31 - 1), UInt(0), UInt(0), UInt(10_000))
    return LOGIN + OPEN + begin + attach + credit


# How far a peer gets before it falls silent.
SILENT: Final = {
    "TCP and nothing": b"",
    "TCP and half a header": SASL_HEADER[:5],
    "half a SASL frame": LOGIN[:20],
    "a mechanism and no answer": SASL_HEADER + frame(_INIT, Symbol("SCRAM-SHA-256"), b"n,,n=admin,r=abc", kind=1),
    "let in and no open": LOGIN,
    "half an open": LOGIN + OPEN[:15],
}
AFTER_THE_OPEN: Final = {"open and nothing": LOGIN + OPEN, "subscribed, and gone without a word": subscribing("org.clacks")}


def silent(port: int, said: bytes, receive: int | None = None) -> socket.socket:
    """A peer that says this, and then neither reads nor answers: to the agent the same as one that has vanished without a FIN."""
    peer = socket.socket()
    if receive is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    peer.connect(("127.0.0.1", port))
    peer.sendall(said)
    return peer


def dropped(peer: socket.socket) -> bool:
    """Whether the agent has closed the socket. What it has said before is read away."""
    peer.setblocking(False)
    try:
        while peer.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


@contextlib.asynccontextmanager
async def dialled(port: int, count: int = 1) -> AsyncIterator[list[Connection]]:
    connections = [await connect("127.0.0.1", port, Credentials("admin", "secret")) for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()
            await connection.wait_closed()


class Bystander:
    """A publisher and a subscriber who go on beside whatever happens, and are no load of their own: they wait for what is on the way."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def play(self, size: int = 0, beside: Callable[[], Any] = lambda: None) -> None:
        """Publish EVENTS events of at least `size` bytes; all have to arrive, in order. `beside` is called after every ten of them."""
        texts = [leave(f"{number}-".ljust(size, "x")) for number in range(EVENTS)]
        async with dialled(self._port, 2) as (sending, receiving):
            subscriber = await receiving.attach_receiver(Terminus("org.clacks.event.ClientLeave"))
            publisher = await sending.attach_sender(Terminus("org.clacks"))
            subscriber.handler, publisher.handler = received, sent = End(), End()
            subscriber.window = 20
            await until(lambda: publisher.sendable, "it may send")
            for number, text in enumerate(texts, 1):
                publisher.send(Draft(text.encode()).encode())
                if number % 10 == 0:
                    await until(lambda: len(received.received) == len(sent.outcomes) == number, "the bystander's events arrive")  # noqa: B023
                    beside()
            assert [body.decode() for body in received.bodies] == texts
            assert {type(outcome) for _, outcome in sent.outcomes} == {type(ACCEPTED)}


@dataclass
class Process:
    """An agent as a process: its memory and its descriptors are its own."""

    agent: AgentProcess
    port: int

    @property
    def memory(self) -> int:
        return int(self._proc("statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def descriptors(self) -> int:
        return len(list(self._proc("fd").iterdir()))

    def subscriptions(self) -> list[dict[str, Any]]:
        with AMQPServiceProxy(self.agent.url()) as proxy:
            found: list[dict[str, Any]] = proxy.getStatus()["subscriptions"]
            return found

    def _proc(self, name: str) -> Path:
        return Path(f"/proc/{self.agent.process.pid}/{name}")


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One for all: what was done to it must not be felt by the next test either. It has had some guests, so its caches are full."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is read from /proc")
    folder = tmp_path_factory.mktemp("load")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CLACKS_", "XDG_"))}
    environment = {**kept, "HOME": str(folder), "CLACKS_QUEUE_EVENTS": str(QUEUE)}
    arguments = ["--demo", "--listen", "localhost:0", "--listen-tls", "localhost:0", "--state-dir", str(folder / "state")]
    with AgentProcess(arguments, environment, folder / "log") as agent:
        process = Process(agent, int(agent.url().rpartition(":")[2].partition("/")[0]))
        asyncio.run(Bystander(process.port).play())
        process.subscriptions()
        yield process


# --- subscribers that do not read ------------------------------------------------------------------------------------------------


def test_a_stuck_subscriber_costs_a_bounded_amount_and_nobody_else_feels_it(process: Process) -> None:
    """It grants credit and reads nothing: its socket, the agent's, the engine and its queue are full, one after the other."""
    before, descriptors, most = process.memory, process.descriptors, []
    for _ in range(2):
        stuck = silent(process.port, subscribing("org.clacks.event.ClientLeave"), receive=4096)
        wait_for(lambda: process.subscriptions(), "it has subscribed")
        asyncio.run(Bystander(process.port).play(LARGE))
        (found,) = process.subscriptions()
        assert found["waiting"] == QUEUE
        assert found["dropped"] > 0
        assert found["delivered"] + found["waiting"] + found["dropped"] == EVENTS
        most.append(process.memory)
        stuck.close()
        wait_for(lambda: not process.subscriptions(), "its subscription has ended")
    assert max(most) - before < KEPT
    assert most[1] - most[0] < KEPT // 2, "what the first one cost was there for the second"
    wait_for(lambda: process.descriptors <= descriptors, "its descriptor is free")


def test_a_slow_subscriber_gets_the_newest_in_order_and_the_rest_is_counted(process: Process) -> None:
    async def scene() -> None:
        async with dialled(process.port) as (connection,):
            slow = await connection.attach_receiver(Terminus("org.clacks.event.ClientLeave"))
            slow.handler = end = End()

            def take_one() -> None:
                slow.window = 1
                slow.window = 0

            await Bystander(process.port).play(beside=take_one)
            (found,) = await asyncio.to_thread(process.subscriptions)
            slow.window = QUEUE
            await until(lambda: len(end.received) + found["dropped"] == EVENTS, "all that was kept arrives")
            numbers = [int(bytes(body).split(b"<Id>")[1].split(b"-")[0]) for body in end.bodies]
            assert len(numbers) > QUEUE, "it has taken some on the way"
            assert numbers == sorted(set(numbers))
            assert numbers[-QUEUE:] == list(range(EVENTS - QUEUE, EVENTS))
            assert found["dropped"] >= EVENTS // 2

    asyncio.run(scene())


# --- connections that fall silent ------------------------------------------------------------------------------------------------


def test_whoever_falls_silent_before_the_open_is_dropped_and_counted(tmp_path: Path) -> None:
    with RunningAgent(tmp_path, {"access.handshake_timeout": 0.5}) as agent:
        peers = [silent(agent.port, said) for said in SILENT.values() for _ in range(5)]
        asyncio.run(Bystander(agent.port).play())
        for name, peer in zip([name for name in SILENT for _ in range(5)], peers, strict=True):
            wait_for(lambda: dropped(peer), f"dropped: {name}")  # noqa: B023
            peer.close()
        gate = agent.agent.gate
        wait_for(lambda: agent.run(lambda: (gate.half_open, gate.connections)) == (0, 0), "nobody is left")
        assert gate.refusals == {"timeout": len(peers)}


@pytest.mark.parametrize("said", AFTER_THE_OPEN.values(), ids=list(AFTER_THE_OPEN))
def test_whoever_falls_silent_after_the_open_is_dropped_after_the_idle_time_out(tmp_path: Path, said: bytes) -> None:
    with RunningAgent(tmp_path, {"idle_timeout": 1.0}) as agent:
        gate = agent.agent.gate
        peers = [silent(agent.port, said) for _ in range(5)]
        wait_for(lambda: agent.run(lambda: gate.connections) == len(peers), "they are let in")
        asyncio.run(Bystander(agent.port).play())
        # Only the agent's own account counts: a peer that has vanished cannot be asked, and reads nothing.
        wait_for(lambda: agent.run(lambda: gate.connections) == 0, "they are dropped")
        with AMQPServiceProxy(agent.url()) as proxy:
            assert proxy.getStatus()["subscriptions"] == []
        for peer in peers:
            peer.close()


# --- many ------------------------------------------------------------------------------------------------------------------------


def test_idle_connections_cost_little_and_leave_nothing(process: Process) -> None:
    before, descriptors, here = process.memory, process.descriptors, []
    for _ in range(2):
        peers = [silent(process.port, subscribing("org.clacks.event.NodeLeave")) for _ in range(IDLE)]
        wait_for(lambda: len(process.subscriptions()) == IDLE, "they are here")
        asyncio.run(Bystander(process.port).play())
        here.append(process.memory)
        assert process.descriptors >= descriptors + IDLE
        for peer in peers:
            peer.close()
        wait_for(lambda: process.descriptors <= descriptors, "their descriptors are free")
        assert process.subscriptions() == []
    assert here[0] - before < IDLE * IDLE_COST
    assert here[1] - here[0] < IDLE * IDLE_COST // 2, "what the first ones cost was there for the second"


def test_attaching_and_detaching_leaves_nothing(process: Process) -> None:
    async def cycles(first: int, last: int) -> None:
        async with dialled(process.port) as (connection,):
            for number in range(first, last):
                described = Described(XQUERY, f"//*:CallerId = '{number}'")
                link = await connection.attach_receiver(Terminus("org.clacks", filter={"filter": described}))
                link.close()

    async def beside(first: int, last: int) -> None:
        await asyncio.gather(cycles(first, last), Bystander(process.port).play())

    asyncio.run(beside(0, CYCLES // 2))
    before = process.memory
    asyncio.run(beside(CYCLES // 2, CYCLES))
    assert process.subscriptions() == []
    assert process.memory - before < CYCLES // 2 * 4096  # a subscription that is kept costs 8 KiB and more
