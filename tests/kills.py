"""The machine that kills agents: publishers and durable consumers go on over any number of SIGKILLs, and every event is accounted for.

    python tests/kills.py --kills 1000            a report, and exit code 1 if a promise was broken
    python tests/kills.py --kills 100 --seed 7    the same choices again (what the scheduler does is its own)

One agent after the other runs on the same state. Each is killed at a random moment, or at a chosen step of an event's acceptance
(`kill_at`). What the clients of this process were told is the ledger's: it knows what had to arrive, in which order, and what may
have come twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import signal
import sqlite3
import sys
import tempfile
import time
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from clacks.agent.broker.journal import SETTLED_SECONDS
from clacks.amqp import (
    ACCEPTED,
    RELEASED,
    AmqpError,
    Condition,
    Connection,
    Credentials,
    Described,
    Draft,
    Link,
    Message,
    Modified,
    Options,
    Outcome,
    Receiver,
    Rejected,
    SaslFailure,
    Sender,
    Symbol,
    Terminus,
    connect,
)
from kill_at import STEPS

DOMAIN: Final = "org.clacks"
PUBLISHERS: Final = 4
# Of each publisher under way: enough for batches of several publishers, few enough that every step is come to in a short life.
UNDER_WAY: Final = 15
# Events of one life: what the consumers can keep up with on a busy machine.
QUOTA: Final = 600
# Every so many events one that a worker examines, which small ones must not overtake.
LARGE_EVERY: Final = 25
LARGE: Final = b"<!--" + b"x" * 9000 + b"-->"
# Seconds that a life may last once its clients are connected.
LIFE: Final = 0.4
# After which every outcome is certain to be written: SETTLED_SECONDS, and what reading and writing take on a machine with other work.
QUIET: Final = 20 * SETTLED_SECONDS
# How long the end may take: the backlog is some thousand events.
PATIENCE: Final = 120.0

_NUMBERS: Final = re.compile(rb"<CallerId>(\d+)</CallerId><ReceiverId>(\d+)<")
_GONE: Final = (OSError, AmqpError, SaslFailure)


def event(publisher: int, number: int) -> bytes:
    large = LARGE if number % LARGE_EVERY == 0 else b""
    return (
        b'<Event xmlns="http://www.gonicus.de/Events"><PhoneStatus>%b<CallerId>%d</CallerId><ReceiverId>%d</ReceiverId>'
        b"<Status>busy</Status></PhoneStatus></Event>" % (large, number, publisher)
    )


class Account:
    """One publisher's events: how many were sent, and what it was told about each."""

    UNKNOWN, ACCEPTED, RELEASED = range(3)

    def __init__(self) -> None:
        self.told = bytearray(1)  # by number, from 1

    def send(self) -> int:
        self.told.append(self.UNKNOWN)
        return len(self.told) - 1


class Ledger:
    """What one subscription has delivered. `faults` are the promises that were broken."""

    UNSEEN, OPEN = 0.0, -1.0  # instead of the time at which an event was settled

    def __init__(self, name: str, accounts: list[Account], *, publisher: int | None = None, ordered: bool = True) -> None:
        self.name = name
        self.publishers = range(PUBLISHERS) if publisher is None else [publisher]
        self.ordered = ordered
        self.accounts = accounts
        self.breaks: list[float] = []  # when the agent was killed, or a consumer went
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.ages: list[float] = []  # of what was settled and came again: seconds from its outcome to the break
        self.rejected: set[tuple[int, int]] = set()
        self.others = 0  # the agent's own events
        self.over = False  # nothing may come any more
        self._state = [array("d", [0.0]) for _ in accounts]
        self._last = [0] * len(accounts)
        self._raised: dict[tuple[int, int], int] = {}  # sent back with `modified`, by the break before which that was

    def delivered(self, publisher: int, number: int, attempts: int) -> None:
        self.counts["deliveries"] += 1
        state, told = self._state[publisher], self.accounts[publisher].told
        if publisher not in self.publishers or number >= len(told):
            self._fault(f"{publisher}/{number} was not for it, or never sent")
            return
        if told[number] == Account.RELEASED:
            self._fault(f"{publisher}/{number} was released, and is delivered")
        state.extend([self.UNSEEN] * (len(told) - len(state)))
        if state[number] == self.UNSEEN:
            self.counts["first deliveries"] += 1
            if self.ordered and number < self._last[publisher]:
                self._fault(f"{publisher}/{number} comes first after {self._last[publisher]}")
            self._last[publisher] = number
        elif state[number] == self.OPEN:
            self.counts["again, not settled"] += 1
            if self._raised.pop((publisher, number), -1) == len(self.breaks) and not attempts:
                self._fault(f"{publisher}/{number} was modified, and comes again without a count")
        else:
            self._again(publisher, number, state[number])
        state[number] = self.OPEN

    def _again(self, publisher: int, number: int, settled: float) -> None:
        place = bisect_left(self.breaks, settled)
        if place == len(self.breaks):
            self._fault(f"{publisher}/{number} was settled, and comes again though nothing broke")
            return
        self.ages.append(self.breaks[place] - settled)
        self.counts["again, settled just before"] += 1
        if self.over:
            self._fault(f"{publisher}/{number} comes again, {QUIET:g} s and a kill after it was settled")

    def settled(self, publisher: int, number: int, outcome: Outcome) -> None:
        """The consumer says what became of it; what is not over comes again."""
        self.rejected.discard((publisher, number))
        if outcome is ACCEPTED or isinstance(outcome, Rejected):
            self._state[publisher][number] = time.monotonic()
            if outcome is not ACCEPTED:
                self.rejected.add((publisher, number))
        else:
            self.counts["sent back"] += 1
            if isinstance(outcome, Modified):
                self._raised[publisher, number] = len(self.breaks)

    def missing(self) -> Iterator[tuple[int, int]]:
        """What was accepted and has not been delivered."""
        for publisher in self.publishers:
            state, told = self._state[publisher], self.accounts[publisher].told
            for number in range(1, len(told)):
                if told[number] == Account.ACCEPTED and (number >= len(state) or state[number] == self.UNSEEN):
                    yield publisher, number

    def unsettled(self) -> int:
        return sum(one == self.OPEN for state in self._state for one in state)

    def saw(self, publisher: int, number: int) -> bool:
        state = self._state[publisher]
        return number < len(state) and state[number] != self.UNSEEN

    def seen(self) -> Iterator[tuple[int, int]]:
        for publisher, state in enumerate(self._state):
            yield from ((publisher, number) for number in range(1, len(state)) if state[number] != self.UNSEEN)

    def _fault(self, what: str) -> None:
        self.faults.append(f"{self.name}: {what}")


class Quiet:
    """The handler of a link: what it does not want to hear."""

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None: ...

    def credit(self, link: Sender) -> None: ...

    def outcome(self, link: Sender, number: Any, outcome: Outcome) -> None: ...

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None: ...


class Publishing(Quiet):
    """One publisher in one life."""

    def __init__(self, publisher: int, account: Account, quota: int) -> None:
        self.publisher, self.account, self.left = publisher, account, quota
        self.open: dict[int, int] = {}

    def credit(self, link: Sender) -> None:
        while self.left and len(self.open) < UNDER_WAY and link.sendable:
            self.left -= 1
            number = self.account.send()
            self.open[link.send(Draft(event(self.publisher, number)).encode())] = number

    def outcome(self, link: Sender, number: Any, outcome: Outcome) -> None:
        self.account.told[self.open.pop(number)] = Account.ACCEPTED if outcome is ACCEPTED else Account.RELEASED
        self.credit(link)


class Consuming(Quiet):
    """A consumer of a ledger in one life: accepts; sometimes after others, sometimes not at all or not at once, by chance."""

    def __init__(self, ledger: Ledger, chance: random.Random | None) -> None:
        self.ledger, self.chance = ledger, chance
        self.waiting: list[tuple[Receiver, int, tuple[int, int]]] = []

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        found = _NUMBERS.search(encoded)
        if found is None:
            self.ledger.others += 1
            if not settled:
                link.settle(number, ACCEPTED)
            return
        key = int(found[2]), int(found[1])
        attempts = Message(encoded).header.delivery_count or 0 if encoded[2] == 0x70 else 0
        self.ledger.delivered(*key, attempts)
        if settled:
            return
        outcome = self._outcome()
        if outcome is None:
            self.waiting.append((link, number, key))
        else:
            self._settle(link, number, key, outcome)
        if len(self.waiting) > 5 or self.chance is None:
            waiting, self.waiting = self.waiting, []
            for late in waiting:
                self._settle(*late, ACCEPTED)

    def _outcome(self) -> Outcome | None:
        dice = self.chance.random() if self.chance is not None else 1.0
        if dice < 0.01:
            return RELEASED
        if dice < 0.02:
            return Modified(failed=True)
        if dice < 0.025:
            return Rejected(Condition("kills:rejected"))
        return None if dice < 0.1 else ACCEPTED

    def _settle(self, link: Receiver, number: int, key: tuple[int, int], outcome: Outcome) -> None:
        if link.settle(number, outcome):
            self.ledger.settled(*key, outcome)


class Watching(Quiet):
    """A live subscriber in one life: everything once, in order."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        found = _NUMBERS.search(encoded)
        if found is not None:
            self.ledger.delivered(int(found[2]), int(found[1]), 0)
        link.settle(number, ACCEPTED)


class Burial(Quiet):
    """Who reads the dead letters."""

    def __init__(self) -> None:
        self.found: set[tuple[int, int]] = set()

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        found = _NUMBERS.search(encoded)
        if found is not None:
            self.found.add((int(found[2]), int(found[1])))
        link.settle(number, ACCEPTED)


@dataclass
class Process:
    """One agent's life."""

    folder: Path
    step: str | None = None
    place: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    port: int = 0

    async def start(self) -> bool:
        """False if it has died on the way."""
        state = ("--demo", "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0", "--state-dir", str(self.folder), "--node-id", "kills")
        here = Path(__file__).resolve().parent
        how = ("-m", "clacks.cli.agent") if self.step is None else (str(here / "kill_at.py"), self.step, str(self.place))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("CLACKS_", "XDG_"))}
        # A message may come back as often as chance wants; the agent's own events are not what is counted.
        own = {"HOME": str(self.folder), "CLACKS_QUEUE_DELIVERIES": "1000000", "CLACKS_STATUS_INTERVAL": "86400"}
        path = os.pathsep.join(filter(None, [str(here.parent), kept.get("PYTHONPATH")]))
        with (self.folder / "agent.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, *how, *state, stdout=asyncio.subprocess.PIPE, stderr=log,
                env={**kept, **own, "PYTHONPATH": path, **self.environment},
            )  # fmt: skip
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode()
        found = re.match(r"ready amqp://[^/]*:(\d+)/", line)
        if found is None:
            await self.process.wait()
            return False
        self.port = int(found[1])
        return True

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.process.returncode is None:
                os.kill(self.process.pid, signal.SIGKILL)  # `send_signal` would take the exit status that its watcher waits for
        await self.process.wait()

    async def stop(self) -> int:
        self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), PATIENCE)


class Machine:
    """Everything that outlives the agents."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.accounts = [Account() for _ in range(PUBLISHERS)]
        self.all = Ledger("all", self.accounts)
        self.one = Ledger("one", self.accounts, publisher=1)
        self.lazy = Ledger("lazy", self.accounts)
        self.shared = Ledger("shared", self.accounts, ordered=False)
        self.durable = [self.all, self.one, self.lazy, self.shared]
        self.live: list[Ledger] = []
        self.counts: Counter[str] = Counter()
        self.lives = 0
        self.port = 0
        self.environment: dict[str, str] = {}  # of the agents
        self._connections: list[Connection] = []

    def ended(self) -> None:
        """An agent has. What becomes of its files until the next one starts is for those to say who test more than kills."""

    async def _connect(self, container: str) -> Connection:
        options = Options(container_id=container, hostname="localhost")
        connection = await connect("127.0.0.1", self.port, Credentials("admin", "secret"), options)
        self._connections.append(connection)
        return connection

    async def _receive(self, connection: Connection, ledger: Ledger, window: int, chance: random.Random | None) -> Receiver:
        shared = ledger is self.shared
        text = "//*:ReceiverId = 1"
        filters = {"f": Described(Symbol("apache.org:xquery-filter:string"), text)} if ledger is self.one else {}
        source = Terminus(DOMAIN, durable=2, expiry="never", filter=filters, capabilities=("shared",) if shared else ())
        link = await connection.attach_receiver(source, name=ledger.name)
        link.handler = Consuming(ledger, chance)
        link.window = window
        return link

    async def _publish(self) -> list[Publishing]:
        publishers = []
        for place in range(2):
            connection = await self._connect(f"publisher {place}")
            for publisher in range(place, PUBLISHERS, 2):
                one = Publishing(publisher, self.accounts[publisher], QUOTA // PUBLISHERS)
                link = await connection.attach_sender(Terminus(DOMAIN))
                link.handler = one
                one.credit(link)
                publishers.append(one)
        return publishers

    async def _come_and_go(self) -> None:
        """The consumer of `one`: detaches, or loses its connection, and comes back."""
        chance = self.chance
        while True:
            connection = await self._connect("c")
            link = await self._receive(connection, self.one, chance.randint(1, 50), chance)
            await asyncio.sleep(chance.uniform(0.02, 0.2))
            if chance.random() < 0.5:
                connection.abort()
            else:
                link.close(closed=False)
                connection.close()
            self.one.breaks.append(time.monotonic())
            await connection.wait_closed()

    async def _clients(self) -> None:
        """All of them, as long as the agent lives."""
        chance = self.chance
        watcher = Ledger(f"live {self.lives}", self.accounts)
        self.live.append(watcher)
        first, second = await self._connect("c"), await self._connect("d")
        live = await first.attach_receiver(Terminus(DOMAIN))
        live.handler = Watching(watcher)
        live.window = 1000
        await self._receive(first, self.all, 100, chance)
        for connection in (first, second):
            await self._receive(connection, self.shared, 20, chance)
        if chance.random() < 0.3:
            await self._receive(second, self.lazy, 1000, chance)
        going = asyncio.create_task(self._come_and_go())
        try:
            await self._publish()
            await going
        finally:
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)

    async def define(self) -> None:
        """The first life: the subscriptions are made, and nothing is published."""
        async with self._agent(None, 0):
            connection, other = await self._connect("c"), await self._connect("d")
            for ledger in self.durable:
                await self._receive(other if ledger is self.lazy else connection, ledger, 0, None)

    @contextlib.asynccontextmanager
    async def _agent(self, step: str | None, place: int) -> AsyncIterator[Process]:
        process = Process(self.folder, step, place, self.environment)
        self.lives += 1
        alive = await process.start()
        self.port = process.port
        try:
            if alive:
                yield process
            else:
                raise ConnectionError
        finally:
            if process.process.returncode is None:
                await process.kill()
            now = time.monotonic()
            for ledger in self.durable:
                ledger.breaks.append(now)
            connections, self._connections = self._connections, []
            for connection in connections:
                connection.abort()
            await asyncio.gather(*(one.wait_closed() for one in connections))
            self.ended()

    async def kill(self) -> None:
        """One life, and its end."""
        chance = self.chance
        step = chance.choice([None, None, *STEPS])
        place = chance.randint(1, max(2, int(STEPS[step].often * LIFE))) if step is not None else 0
        moment = chance.uniform(0.0, LIFE) if step is None else LIFE
        try:
            async with self._agent(step, place) as process:
                clients = asyncio.create_task(self._clients())
                await asyncio.wait([asyncio.create_task(process.process.wait())], timeout=moment)
                by_itself = process.process.returncode is not None
                await process.kill()
                clients.cancel()
                with contextlib.suppress(asyncio.CancelledError, *_GONE):
                    await clients
        except ConnectionError:
            by_itself = True
        self.counts[step if step is not None and by_itself else "at a random moment"] += 1

    async def finish(self) -> list[str]:
        """A life without an end: everything is taken. Answers what is wrong."""
        burial = Burial()
        async with self._agent(None, 0):
            connection = await self._receive_all()
            for publisher in await self._publish():
                await self._until(lambda publisher=publisher: not publisher.left and not publisher.open, "the last are accepted")
            with contextlib.suppress(TimeoutError):
                await self._until(lambda: not any(any(one.missing()) or one.unsettled() for one in self.durable), "all is taken")
            dead = await connection.attach_receiver(Terminus(f"{DOMAIN}.dead-letters"))
            dead.handler = burial
            dead.window = 1000
            rejected = set().union(*(one.rejected for one in self.durable))
            with contextlib.suppress(TimeoutError):
                await self._until(lambda: rejected <= burial.found, "the dead letters are there")
            await asyncio.sleep(QUIET)
        code = await self._silence()
        faults = [f"the agent ended with {code}"] if code else []
        for ledger in (*self.durable, *self.live):
            faults += ledger.faults
        for ledger in self.durable:
            faults += [f"{ledger.name}: {publisher}/{number} is missing" for publisher, number in ledger.missing()]
        for ledger in self.live:
            # nobody has an event before it is on the disk
            faults += [f"{ledger.name}: {key} was seen live, and was not kept" for key in ledger.seen() if not self.all.saw(*key)]
            self.counts["seen live"] += ledger.counts["first deliveries"]
        faults += [f"{key} was rejected, and is no dead letter" for key in rejected - burial.found]
        self.counts["rejected"], self.counts["dead letters"] = len(rejected), len(burial.found)
        return faults + self._left()

    async def _receive_all(self) -> Connection:
        connection, other = await self._connect("c"), await self._connect("d")
        for ledger in self.durable:
            await self._receive(other if ledger is self.lazy else connection, ledger, 1000, None)
        return connection

    async def _silence(self) -> int:
        """After a last kill nothing comes but what that agent itself has to say, which is behind everything else. Answers its exit code."""
        told = [one for one in self.durable if one is not self.one]  # its filter takes none of the agent's own
        for ledger in self.durable:
            ledger.others, ledger.over = 0, True
        async with self._agent(None, 0) as process:
            await self._receive_all()
            await self._until(lambda: all(one.others for one in told), "the agent's own events have come")
            for connection in self._connections:
                connection.close()  # and not abort: what they have settled arrives before
                await connection.wait_closed()
            return await process.stop()

    def _left(self) -> list[str]:
        log = (self.folder / "agent.log").read_text()
        faults = [f"the agent's log has a traceback: {log[place - 400 : place + 2000]}" for place in [log.find("Traceback")] if place >= 0]
        path = self.folder / "events.db"
        db = sqlite3.connect(path)
        # the agent's own NodeLeave comes when its consumers have gone
        events = db.execute("SELECT name, count(*) FROM event WHERE name NOT LIKE 'Node%' GROUP BY name").fetchall()
        db.close()
        self.size = path.stat().st_size
        return faults + [f"{count} {name} events are left in the file" for name, count in events]

    async def _until(self, condition: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"still not: {what}")
            await asyncio.sleep(0.05)

    def report(self) -> str:
        told = Counter(one for account in self.accounts for one in account.told[1:])
        lines = ["kills                       " + ", ".join(f"{name}: {count}" for name, count in sorted(self.counts.items()))]
        lines.append(
            f"events                      {sum(told.values())} sent: {told[Account.ACCEPTED]} accepted, {told[Account.RELEASED]} released,"
            f" {told[Account.UNKNOWN]} without an outcome"
        )
        for one in self.durable:
            lines.append(f"{one.name:28}" + ", ".join(f"{name}: {count}" for name, count in sorted(one.counts.items())))
            if one.ages:
                ages = sorted(one.ages)
                late = sum(age > SETTLED_SECONDS for age in ages)
                lines.append(
                    f"{'':28}settled before the break: median {ages[len(ages) // 2]:.3f} s, longest {ages[-1]:.3f} s, {late} above 0.1"
                )
        lines.append(f"the file at the end         {self.size} bytes")
        return "\n".join(lines)


async def play(machine: Machine, kills: int, say: Callable[[str], None] = lambda text: None) -> list[str]:
    """So many kills; answers what is wrong afterwards."""
    await machine.define()
    for done in range(1, kills + 1):
        await machine.kill()
        if done % 50 == 0:
            say(f"{done} kills, {sum(len(one.faults) for one in machine.durable)} faults")
    return await machine.finish()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, metavar="N")
    parser.add_argument("--seed", type=int, default=int(time.time()), metavar="N")
    arguments = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder), arguments.seed)
        faults = asyncio.run(play(machine, arguments.kills, lambda text: print(text, flush=True)))
    print(f"seed {arguments.seed}, {time.monotonic() - begin:.0f} s\n{machine.report()}")
    print(f"faults                      {len(faults)}")
    for fault in faults[:20]:
        print(f"  {fault}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
