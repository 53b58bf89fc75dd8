"""What it costs to keep events: an agent with durable subscriptions beside one with as many live ones, on this disk.

    python bench/durable.py                           1 and 100 durable subscriptions, with consumers and without
    python bench/durable.py --subscriptions 1,10,1000
    python bench/durable.py --folder /var/tmp          on another disk

Each case is an agent of its own; they are measured in turns, and the ratios are those of one run. CPU time is the agent's alone, all
threads. An event is through when its consumers have it and its publisher knows; while the consumers are away, when its publisher knows.
`accepted` is timed from the call that sends to the outcome: for events that come one at a time, and at a quarter of the rate measured
before (beyond that the clients, which share this process, would be measured). Events per fsync come from one more round, in which the
agent's calls are logged (tests/faultshim.c; without cc they are left out).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from clacks.amqp import ACCEPTED, Connection, Credentials, Draft, Options, Outcome, Receiver, Sender, Terminus, connect
from processes import BENCH, Client, Server, percentile
from relay import ADDRESS, STAMP, body

CONNECTIONS: Final = 10
WINDOW: Final = 1000
# Samples of what one fsync costs, and of the latency of events that come one at a time: enough for a p99.
SAMPLES: Final = 200
_RECORD: Final = struct.Struct("=qqqqIIII")  # faultshim.c: struct record
_SYNC: Final = 1


def agent(folder: str, **environment: str) -> Server:
    """As processes.agent, with room for what nobody fetches."""
    where = ("--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0", "--state-dir", folder, "--node-id", "bench")
    own = {
        "HOME": folder,
        "CLACKS_STATUS_INTERVAL": "86400",
        "CLACKS_QUEUE_EVENTS": "10000000",
        "CLACKS_QUEUE_BYTES": "4000000000",
        "CLACKS_DURABLE_EVENTS": "10000000",
        "CLACKS_DURABLE_BYTES": "4000000000",
        "CLACKS_DURABLE_PER_USER": "100000",
    }
    return Server("-m", "clacks.cli.agent", "--demo", *where, user="admin", password="secret", **own, **environment)


class Consumers:
    """The handler of every consumer's link."""

    def __init__(self) -> None:
        self.count = 0
        self.last = 0.0

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        link.settle(number, ACCEPTED)
        self.count += 1
        self.last = time.monotonic()

    def detached(self, link: Any, condition: Any, *, closed: bool) -> None: ...

    def credit(self, link: Sender) -> None: ...

    def outcome(self, link: Sender, number: int, outcome: Outcome) -> None: ...


class Timed(Consumers):
    """The handler of a publisher's link: how long each `accepted` took, in milliseconds."""

    def __init__(self, link: Sender) -> None:
        super().__init__()
        self.link = link
        link.handler = self
        self.sent: dict[int, float] = {}
        self.times: list[float] = []

    def send(self) -> None:
        self.sent[self.link.send(Draft(body(1).encode()).encode())] = time.monotonic()

    def outcome(self, link: Sender, number: int, outcome: Outcome) -> None:
        assert outcome is ACCEPTED
        self.times.append((time.monotonic() - self.sent.pop(number)) * 1e3)


class Case:
    """One agent: so many subscriptions, `durable` or live, whose consumers are there or `away`."""

    def __init__(self, count: int, *, durable: bool, away: bool, arguments: argparse.Namespace) -> None:
        self.count, self.durable, self.away, self.arguments = count, durable, away, arguments
        self.name = f"{count} durable, {'away' if away else 'attached'}" if durable else f"{count} live"
        self.copies = 0 if away else count
        self.rates: list[float] = []
        self.costs: list[float] = []
        self.alone: list[float] = []
        self.loaded: list[float] = []
        self.batches = self.sync = float("nan")
        self._stack = ExitStack()
        self._consumers = Consumers()
        self._connections: list[Connection] = []

    async def open(self, **environment: str) -> None:
        self.folder = self._stack.enter_context(tempfile.TemporaryDirectory(dir=self.arguments.folder))
        self.server = self._stack.enter_context(agent(self.folder, **environment))
        for number in range(self.count):
            if number < CONNECTIONS:
                self._connections.append(await self._connect())
            kept: dict[str, Any] = {"durable": 2, "expiry": "never"} if self.durable else {}
            connection = self._connections[number % CONNECTIONS]
            link = await connection.attach_receiver(Terminus(f"{ADDRESS}.event.PhoneStatus", **kept), name=f"kept-{number}")
            if self.away:
                link.close(closed=False)
            else:
                link.handler = self._consumers
                link.window = WINDOW
        self._connections.append(await self._connect())
        self._timed = Timed(await self._connections[-1].attach_sender(Terminus(ADDRESS)))
        self.publisher = self._stack.enter_context(Client(self.server, "publisher", address=ADDRESS, bodies=[body(1)], stamp=STAMP))

    async def _connect(self) -> Connection:
        who = Credentials(self.server.user, self.server.password)
        return await connect(self.server.host, self.server.port, who, Options(container_id="bench"))

    async def close(self) -> None:
        for connection in self._connections:
            connection.abort()
        await asyncio.gather(*(one.wait_closed() for one in self._connections))
        self._stack.close()

    async def through(self) -> int:
        """Publish as fast as it is taken; answers how many."""
        self._consumers.count = 0
        events = max(200, self.arguments.events // max(1, self.copies))
        cpu = self.server.cpu
        told = await asyncio.to_thread(self.publisher.ask, events=events, seconds=self.arguments.seconds)
        end = time.monotonic()
        if told["refused"]:
            raise SystemExit(f"{self.name}: refused {told['refused']}")
        await self._arrived(told["sent"] * self.copies)
        self.costs.append((self.server.cpu - cpu) / told["sent"] * 1e6)
        self.rates.append(told["sent"] / (max(end, self._consumers.last) - told["begin"] / 1e9))
        return int(told["sent"])

    async def _arrived(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while self._consumers.count < count:
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.name}: of {count} deliveries {self._consumers.count} arrived")
            await asyncio.sleep(0.01)

    async def latency(self) -> None:
        """One at a time; then at a quarter of the rate."""
        timed = self._timed
        for count in range(1, SAMPLES + 1):
            timed.send()
            while len(timed.times) < count:
                await asyncio.sleep(0)
        self.alone, timed.times = sorted(timed.times), []
        rate = statistics.median(self.rates) / 4
        begin, sent = time.monotonic(), 0
        while sent < rate * self.arguments.seconds:
            due = int((time.monotonic() - begin) * rate) + 1
            while sent < due and timed.link.sendable:
                timed.send()
                sent += 1
            await asyncio.sleep(0.001)
        while timed.sent:
            await asyncio.sleep(0.001)
        self.loaded, timed.times = sorted(timed.times), []


async def count_syncs(case: Case, library: str) -> None:
    """One round of a case in an agent whose calls are logged: events per fsync, and what one takes in it, in milliseconds."""
    with tempfile.TemporaryDirectory(dir=case.arguments.folder) as folder:
        log = Path(folder) / "calls"
        watched = Case(case.count, durable=True, away=case.away, arguments=case.arguments)
        await watched.open(LD_PRELOAD=library, FAULTSHIM_FILES=str(Path(case.arguments.folder).resolve()), FAULTSHIM_LOG=str(log))
        await watched.through()
        start = log.stat().st_size
        events = await watched.through()
        times = list(_syncs(log, start))
        await watched.close()
        case.batches, case.sync = events / max(1, len(times)), statistics.median(times) if times else float("nan")


def _syncs(log: Path, start: int) -> Any:
    with log.open("rb") as file:
        file.seek(start)
        while len(head := file.read(_RECORD.size)) == _RECORD.size:
            begin, end, _, _, kind, name, data, _ = _RECORD.unpack(head)
            file.seek(name + data, os.SEEK_CUR)
            if kind == _SYNC:
                yield (end - begin) / 1e6


def fsync_cost(folder: str) -> list[float]:
    """Milliseconds of an fdatasync after 8 KiB were appended, as a small batch does."""
    times = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(SAMPLES):
            file.write(bytes(8192))
            begin = time.monotonic()
            os.fdatasync(file.fileno())
            times.append((time.monotonic() - begin) * 1e3)
    return sorted(times)


def shim(folder: str) -> str | None:
    """The compiled shim, if there is a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    made = str(Path(folder) / "faultshim.so")
    source = str(BENCH.parent / "tests" / "faultshim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl", "-lpthread"], check=True)
    return made


async def measure(arguments: argparse.Namespace) -> list[Case]:
    kinds = ((False, False), (True, False), (True, True))
    cases = [Case(count, durable=durable, away=away, arguments=arguments) for count in arguments.subscriptions for durable, away in kinds]
    for case in cases:
        await case.open()
        await case.through()
        case.rates.clear()
        case.costs.clear()
    for _ in range(arguments.rounds):
        for case in cases:
            await case.through()
    for case in cases:
        await case.latency()
        await case.close()
    with tempfile.TemporaryDirectory() as folder:
        library = shim(folder)
        for case in cases:
            if library is not None and case.durable:
                await count_syncs(case, library)
    return cases


def show(cases: list[Case], syncs: list[float], arguments: argparse.Namespace) -> None:
    print(
        f"{arguments.rounds} rounds of {arguments.events} deliveries (at most {arguments.seconds:g} s), {len(body(1))} bytes each; "
        f"CPython {platform.python_version()}, {os.cpu_count()} cores\n"
        f"fdatasync of 8 KiB in {arguments.folder}: median {statistics.median(syncs):.2f} ms, p99 {percentile(syncs, 0.99):.2f} ms\n"
    )
    head = (
        f"{'case':24}{'events/s':>10}{'of live':>9}{'us/event':>10}{'of live':>9}{'per fsync':>11}{'fsync ms':>10}"
        f"{'alone p50':>11}{'p99 ms':>8}{'quarter p50':>13}{'p99 ms':>8}"
    )
    print(head + "\n" + "-" * len(head))
    for one in cases:
        if not one.durable:
            live = one
        rate, cost = statistics.median(one.rates), statistics.median(one.costs)
        print(
            f"{one.name:24}{rate:10,.0f}{rate / statistics.median(live.rates):9.2f}{cost:10.1f}{cost / statistics.median(live.costs):9.2f}"
            f"{one.batches:11.1f}{one.sync:10.2f}{percentile(one.alone, 0.5):11.2f}{percentile(one.alone, 0.99):8.2f}"
            f"{percentile(one.loaded, 0.5):13.2f}{percentile(one.loaded, 0.99):8.2f}"
        )


def main() -> int:
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscriptions", type=numbers, default=[1, 100], metavar="N[,N...]", help="durable ones (default 1,100)")
    parser.add_argument("--events", type=int, default=20_000, metavar="E", help="deliveries per round (default 20,000)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="after which a round's publishing ends (default 3)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of which the medians are shown (default 3)")
    parser.add_argument("--folder", default=tempfile.gettempdir(), metavar="D", help="the disk (default: that of temporary files)")
    arguments = parser.parse_args()
    syncs = fsync_cost(arguments.folder)
    show(asyncio.run(measure(arguments)), syncs, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
