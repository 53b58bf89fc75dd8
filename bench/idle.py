"""What subscribers cost that get nothing: memory, descriptors, and what a busy pair beside them feels. Linux only.

    python bench/idle.py                                   10,000 of them, each a connection with one link
    python bench/idle.py --connections 1000 --filter       each with a filter of its own
    python bench/idle.py --connections 0 --attach-detach 100000

Idle clients speak just enough AMQP to stay connected, from a few processes with a loopback address each (one address has 28,000 ports).
They log in with SCRAM as a fleet does that comes back, with the password's key derived once: the agent's share is all there. They come
twice: what the second coming adds is kept for ever, what the first added and the second did not is the allocator's. The descriptors of
all have to fit into `ulimit -Hn`. `--attach-detach` is as many subscriptions with a filter of their own, one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Final

from clacks.amqp import Credentials, Described, Symbol, Terminus, connect
from clacks.amqp.codec import UInt, decode, encode
from clacks.common.components import AMQPServiceProxy
from processes import Client, Server, agent, percentile
from relay import ADDRESS, STAMP, body, filter_of

XQUERY: Final = Symbol("apache.org:xquery-filter:string")
# KiB of the agent's memory that an idle subscriber may cost without TLS: 20,000 of them, as many as are let in, are 800 MB.
GOAL: Final = 40.0
# Handshakes under way in each client process: together well below access.half_open.
UNDER_WAY: Final = 100
# Seconds between two empty frames of a client: the agent drops whoever is silent for 60.
HEARTBEAT: Final = 20.0
IDLE_TIMEOUT: Final = 60_000  # milliseconds; what clients of clacks.amqp announce
# Connections and attaches under way on each in --attach-detach, and cycles before the first figure: caches are full then.
CONNECTIONS, ATTACHING, WARM_UP = 4, 8, 5_000
PATIENCE: Final = 120.0  # seconds for all to come or to go

_INIT, _CHALLENGE, _RESPONSE, _OUTCOME, _OPEN, _BEGIN, _ATTACH, _FLOW = 0x41, 0x42, 0x43, 0x44, 0x10, 0x11, 0x12, 0x13
_EMPTY: Final = b"\0\0\0\x08\x02\0\0\0"


# --- idle clients ----------------------------------------------------------------------------------------------------------------


def _frame(code: int, fields: list[Any], kind: int = 0) -> bytes:
    content = encode(Described(code, fields))
    return (len(content) + 8).to_bytes(4, "big") + bytes((2, kind, 0, 0)) + content


@cache  # they are all the same user
def _salted(password: str, salt: str, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), iterations)


class Idler(asyncio.Protocol):
    """One idle subscriber: `attached` is done when its link is, or fails."""

    def __init__(self, user: str, password: str, address: str, text: str) -> None:
        self.user, self.password = user, password
        self.source = Described(0x28, [address, *[None] * 6, {Symbol("xquery"): Described(XQUERY, text)} if text else None])
        self.attached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unread = b""
        self._first = f"n={user},r={base64.b64encode(os.urandom(18)).decode()}"

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        hello = _frame(_INIT, [Symbol("SCRAM-SHA-256"), b"n,," + self._first.encode()], kind=1)
        transport.write(b"AMQP\x03\x01\0\0" + hello)

    def data_received(self, data: bytes) -> None:
        if self.attached.done():
            return  # empty frames
        self._unread += data
        for code, fields in self._frames():
            if code == _CHALLENGE:
                self.transport.write(_frame(_RESPONSE, [self._proof(fields[0].decode())], kind=1))
            elif code == _OUTCOME and fields[0] == 0:
                self.transport.write(self._subscribe())
            elif code == _ATTACH:
                self.attached.set_result(None)
                self._unread = b""

    def connection_lost(self, error: Exception | None) -> None:
        if not self.attached.done():
            self.attached.set_exception(ConnectionError(f"the agent has closed the connection: {error}"))
            self.attached.exception()  # one that fails speaks for all

    def _frames(self) -> Iterator[tuple[int, list[Any]]]:
        while len(self._unread) >= 8:
            size = 8 if self._unread.startswith(b"AMQP") else int.from_bytes(self._unread[:4], "big")
            if len(self._unread) < size:
                return
            content, self._unread = self._unread[8:size], self._unread[size:]
            if content:
                value, _ = decode(content)
                yield int(value.descriptor), value.value

    def _proof(self, challenge: str) -> bytes:
        """RFC 5802 section 3."""
        given = dict(part.split("=", 1) for part in challenge.split(","))
        salted = _salted(self.password, given["s"], int(given["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        final = f"c=biws,r={given['r']}"
        signed = hmac.digest(hashlib.sha256(client_key).digest(), f"{self._first},{challenge},{final}".encode(), "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signed, strict=True))
        return f"{final},p={base64.b64encode(proof).decode()}".encode()

    def _subscribe(self) -> bytes:
        opening = _frame(_OPEN, ["idle", None, None, None, UInt(IDLE_TIMEOUT)]) + _frame(_BEGIN, [None, UInt(0), UInt(2048), UInt(2048)])
        attach = _frame(_ATTACH, ["idle", UInt(0), True, None, None, self.source, Described(0x29, [])])
        credit = _frame(_FLOW, [None, UInt(2048), UInt(0), UInt(2048), UInt(0), UInt(0), UInt(100)])
        return b"AMQP\0\x01\0\0" + opening + attach + credit


def crowd(place: tuple[str, int], user: str, password: str, filters: list[str], source: str, pipe: Pipe) -> None:
    """A process of idle subscribers: connects them all, says so, and stays until it is told to go."""
    asyncio.run(_crowd(place, user, password, filters, source, pipe))


async def _crowd(place: tuple[str, int], user: str, password: str, filters: list[str], source: str, pipe: Pipe) -> None:
    loop, turn = asyncio.get_running_loop(), asyncio.Semaphore(UNDER_WAY)
    address = f"{ADDRESS}.event.NodeLeave"

    async def come(text: str) -> Idler:
        async with turn:
            _, idler = await loop.create_connection(lambda: Idler(user, password, address, text), *place, local_addr=(source, 0))
            await idler.attached
            return idler

    idlers = await asyncio.gather(*map(come, filters))
    pipe.send(len(idlers))
    told = asyncio.ensure_future(asyncio.to_thread(pipe.recv))
    while not told.done():
        for idler in idlers:
            idler.transport.write(_EMPTY)
            await asyncio.wait((told,), timeout=HEARTBEAT / len(idlers))
    for idler in idlers:
        idler.transport.close()


class Crowd:
    """All idle subscribers, in `processes` processes."""

    def __init__(self, server: Server, filters: list[str], processes: int) -> None:
        self._members: list[tuple[multiprocessing.process.BaseProcess, Pipe]] = []
        spawn = multiprocessing.get_context("spawn")
        for number in range(processes):
            ours, theirs = spawn.Pipe()
            share = filters[number::processes]
            place = (server.host, server.port)
            arguments = (place, server.user, server.password, share, f"127.0.1.{number + 1}", theirs)
            process = spawn.Process(target=crowd, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._members.append((process, ours))
        for _, pipe in self._members:
            try:
                pipe.recv()
            except EOFError:
                raise SystemExit("a process of idle clients ended; its reason stands above") from None

    def go(self) -> None:
        for process, pipe in self._members:
            pipe.send("go")
            process.join(PATIENCE)


# --- what is measured ------------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """The agent at one moment: memory in MiB, descriptors, and a bystander's latency in milliseconds."""

    when: str
    memory: float
    descriptors: int
    p50: float = float("nan")
    p99: float = float("nan")
    lost: int = 0
    seconds: float = 0.0
    cpu: float = 0.0  # microseconds of the agent's for each that has come, gone, or come and gone


def descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def row_of(server: Server, when: str, **more: Any) -> Row:
    return Row(when, server.memory / 2**20, descriptors(server), **more)


def subscriptions(server: Server) -> int:
    """How many there are by the agent's own account. Asked when few are left: the answer lists them."""
    with AMQPServiceProxy(f"amqp://{server.user}:{server.password}@{server.host}:{server.port}/{ADDRESS}") as proxy:
        return len(proxy.getStatus()["subscriptions"])


def emptied(server: Server, most: int) -> None:
    """Wait until the agent has at most so many descriptors."""
    end = time.monotonic() + PATIENCE
    while descriptors(server) > most:
        if time.monotonic() > end:
            raise SystemExit(f"the agent keeps {descriptors(server)} descriptors, {most} before")
        time.sleep(0.1)


def idle(server: Server, arguments: argparse.Namespace) -> list[Row]:
    count = arguments.connections
    filters = [filter_of(10_000_000 + number) if arguments.filter else "" for number in range(count)]
    subscribing = {"address": f"{ADDRESS}.event.PhoneStatus", "filters": [None], "connections": 1, "settled": False}
    publishing = {"address": ADDRESS, "bodies": [body(0)], "stamp": STAMP}
    with (
        Client(server, "subscribers", nice=-10, before="<CallerId>", **subscribing) as subscriber,
        Client(server, "publisher", nice=-10, **publishing) as publisher,
    ):

        def row(when: str, **more: Any) -> Row:
            subscriber.ask(do="reset", latencies=True)
            events = int(arguments.rate * arguments.seconds)
            told = publisher.ask(events=events, seconds=10 * arguments.seconds, rate=arguments.rate)
            got = subscriber.ask(do="wait", deliveries=told["accepted"])
            times = sorted(got["latencies"])
            return row_of(server, when, p50=percentile(times, 0.5), p99=percentile(times, 0.99), lost=told["sent"] - got["count"], **more)

        row("(warm-up)")
        rows = [row("before")]
        for coming in ("first", "second"):
            begin, cpu = time.monotonic(), server.cpu
            everybody = Crowd(server, filters, arguments.processes)
            spent = {"seconds": time.monotonic() - begin, "cpu": (server.cpu - cpu) / count * 1e6}
            rows.append(row(f"{coming}: {count} are here", **spent))
            begin, cpu = time.monotonic(), server.cpu
            everybody.go()
            emptied(server, rows[0].descriptors)
            spent = {"seconds": time.monotonic() - begin, "cpu": (server.cpu - cpu) / count * 1e6}
            rows.append(row(f"{coming}: they have gone", **spent))
        return rows


def attach_detach(server: Server, cycles: int) -> list[Row]:
    async def run(first: int, many: int) -> None:
        connections = [await connect(server.host, server.port, Credentials(server.user, server.password)) for _ in range(CONNECTIONS)]
        numbers = iter(range(first, first + many))

        async def cycle(connection: Any) -> None:
            for number in numbers:
                link = await connection.attach_receiver(Terminus(ADDRESS, filter={"xquery": Described(XQUERY, filter_of(number))}))
                link.close()

        await asyncio.gather(*(cycle(connection) for connection in connections for _ in range(ATTACHING)))
        for connection in connections:
            connection.close()
            await connection.wait_closed()

    rows = [row_of(server, "attach/detach: before")]
    done = 0
    for when, many in (("warmed up", WARM_UP), ("a half", cycles // 2), ("all", cycles - cycles // 2)):
        begin, cpu = time.monotonic(), server.cpu
        asyncio.run(run(done, many))
        done += many
        spent = {"seconds": time.monotonic() - begin, "cpu": (server.cpu - cpu) / many * 1e6}
        rows.append(row_of(server, f"attach/detach: {when} ({many})", **spent))
    return rows


def show(rows: list[Row], arguments: argparse.Namespace) -> None:
    head = f"{'':32}{'MiB':>8}{'fds':>8}{'p50 ms':>9}{'p99 ms':>9}{'lost':>6}{'s':>8}{'us CPU':>9}"
    print(head + "\n" + "-" * len(head))
    for one in rows:
        figures = f"{one.memory:8.1f}{one.descriptors:8}{one.p50:9.2f}{one.p99:9.2f}{one.lost:6}"
        print(f"{one.when:32}{figures}{one.seconds:8.1f}{one.cpu:9.0f}")
    if arguments.connections:
        before, here, gone, again, left = rows[:5]
        each = (here.memory - before.memory) * 1024 / arguments.connections
        print(f"\nan idle subscriber costs {each:.1f} KiB (goal {GOAL:g}{'' if each <= GOAL else ': MISSED'});", end=" ")
        print(f"kept after the first coming {gone.memory - before.memory:.1f} MiB,", end=" ")
        print(f"the second added {left.memory - gone.memory:.1f} MiB ({again.memory - here.memory:.1f} while they were here)")
    if arguments.attach_detach:
        warm, last = rows[-3], rows[-1]
        print(f"\n{arguments.attach_detach} cycles of attach and detach added {(last.memory - warm.memory) * 1024:.0f} KiB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000, metavar="N", help="idle subscribers (default 10000)")
    parser.add_argument("--processes", type=int, default=4, metavar="N", help="that they are in (default 4)")
    parser.add_argument("--filter", action="store_true", help="each has a filter of its own")
    parser.add_argument("--rate", type=float, default=200.0, metavar="N", help="the bystander's events a second (default 200)")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of each look at the bystander (default 5)")
    parser.add_argument("--attach-detach", type=int, default=0, metavar="N", help="cycles of attach and detach with a filter")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # all of ours inherit it
    with tempfile.TemporaryDirectory() as state, agent(state) as server:
        rows = idle(server, arguments) if arguments.connections else []
        if arguments.attach_detach:
            rows += attach_detach(server, arguments.attach_detach)
        left = subscriptions(server)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        show(rows, arguments)
    if left:
        print(f"{left} subscriptions are LEFT")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
