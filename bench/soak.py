"""A long mixed load on one agent: does its memory grow, does it get slower, is anything lost? Linux only.

    python bench/soak.py                       200,000 events, about half a minute
    python bench/soak.py --events 10000000     a night's work

Publishers send as fast as they are taken, one event in a hundred of them refused. Subscribers have filters of every tier and check that
what they get is exactly what they should, in order; others come and go with filters of their own, reconnect, and give commands. A bystander
is timed at the start, in the middle and at the end. Ends with 1 if the agent's memory grew by more than `--growth` after a twentieth of
the events, that of its sandboxes after the half, or if an event was lost, came twice or out of order.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from clacks.amqp import ACCEPTED, Connection, Credentials, Described, Draft, Outcome, Receiver, Rejected, Sender, Symbol, Terminus, connect
from clacks.common.components.client import BusClient
from processes import Client, Server, agent, percentile
from relay import ADDRESS, NAMESPACE, STAMP

XQUERY: Final = Symbol("apache.org:xquery-filter:string")
PUBLISHERS: Final = 4
# Events of a publisher's under way, and those that a subscriber may be behind: what is measured is the agent, not a backlog.
UNDER_WAY: Final = 20
BEHIND: Final = 2_000
WINDOW: Final = 500
REFUSED_OF: Final = 100
HELD_OF: Final = 200  # events that the sandboxed filters are asked about: an evaluation takes a millisecond
# Seconds between two of a kind beside the load: links that come and go, connections that do, commands.
CHURN, RECONNECT, COMMAND = 0.005, 0.1, 0.05
# Looks at the agent, at equal distances. At the first one caches are full and every part has been used: from there nothing may grow.
LOOKS: Final = 20
PATIENCE: Final = 60.0
BYSTANDER_RATE: Final = 200.0
BYSTANDER_SECONDS: Final = 3.0

_EVENT: Final = re.compile(rb"<CallerId>p(\d+)</CallerId><ReceiverId>(\d+)</ReceiverId>")


def status(number: int) -> str:
    return "held" if number % HELD_OF == 0 else "busy" if number % 3 == 0 else "idle"


def event(publisher: int, number: int) -> str:
    fields = f"<CallerId>p{publisher}</CallerId><ReceiverId>{number:08d}</ReceiverId><Status>{status(number)}</Status>"
    return f'<Event xmlns="{NAMESPACE}"><PhoneStatus>{fields}</PhoneStatus></Event>'


@dataclass(frozen=True)
class Wanted:
    """A filter, and which numbers match it."""

    name: str
    text: str | None
    matches: Callable[[int], bool]


FILTERS: Final = (
    Wanted("no filter", None, lambda number: True),
    Wanted("index", "//*:PhoneStatus/*:Status = 'busy'", lambda number: status(number) == "busy"),
    Wanted("native", "contains(//*:ReceiverId, '77')", lambda number: "77" in f"{number:08d}"),
    Wanted(
        "native, with an index", "//*:Status = 'idle' and number(//*:ReceiverId) mod 7 = 0", lambda n: status(n) == "idle" and n % 7 == 0
    ),
    Wanted("sandboxed", "//*:Status = 'held' and count(1 to 20000) = 20000", lambda number: status(number) == "held"),
    Wanted(
        "sandboxed, full XQuery",
        "//*:Status = 'held' and map:size(map{'a': 1}) = 1 and number(//*:ReceiverId) mod 400 = 0",
        lambda number: number % 400 == 0,
    ),
)


class Checked:
    """The handler of a subscriber's link: knows what has to come next of each publisher."""

    def __init__(self, wanted: Wanted, *, from_here: bool = False) -> None:
        """`from_here`: it has come in the middle, and the first event of each publisher is any that matches."""
        self.wanted, self._from_here = wanted, from_here
        self.seen: dict[int, int] = {} if from_here else dict.fromkeys(range(PUBLISHERS), -1)
        self.count = 0
        self.faults: list[str] = []

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        link.settle(number, ACCEPTED)
        found = _EVENT.search(encoded)
        if found is None:
            self.faults.append(f"{self.wanted.name}: got something else")
            return
        self.count += 1
        publisher, got = int(found[1]), int(found[2])
        expected = self.next(publisher) if publisher in self.seen or not self._from_here else got
        if got != expected and len(self.faults) < 10:
            self.faults.append(f"{self.wanted.name}: of publisher {publisher} got {got} and not {expected}")
        self.seen[publisher] = got

    def next(self, publisher: int) -> int:
        number = self.seen[publisher] + 1
        while not self.wanted.matches(number):
            number += 1
        return number

    def complete(self, sent: list[int]) -> bool:
        return all(self.next(publisher) >= count for publisher, count in enumerate(sent))

    def detached(self, link: Any, condition: Any, *, closed: bool) -> None:
        if condition is not None:
            self.faults.append(f"{self.wanted.name}: detached: {condition}")

    def credit(self, link: Sender) -> None: ...

    def outcome(self, link: Sender, number: int, outcome: Outcome) -> None: ...


class Publisher:
    """Sends its share, numbered; every so often one that has to be refused."""

    def __init__(self, link: Sender, number: int, share: int) -> None:
        self.link, self.number, self.share = link, number, share
        link.handler = self
        self.sent = self.settled = self.refused = 0
        self.most = 0  # the subscriber without a filter is not further behind
        self._bad: set[int] = set()
        self.faults: list[str] = []

    def go_on(self) -> None:
        while self.sent < min(self.share, self.most) and self.link.sendable and self.sent - self.settled < UNDER_WAY:
            if self.sent % REFUSED_OF == 0:
                bad = event(self.number, self.sent).replace("<Status>", "<Statsu>").replace("</Status>", "</Statsu>")
                self._bad.add(self.link.send(Draft(bad.encode()).encode()))
            self.link.send(Draft(event(self.number, self.sent).encode()).encode())
            self.sent += 1

    def outcome(self, link: Sender, number: int, outcome: Outcome) -> None:
        if number in self._bad:
            self._bad.discard(number)
            self.refused += isinstance(outcome, Rejected)
            if not isinstance(outcome, Rejected):
                self.faults.append(f"publisher {self.number}: an event that is not valid was {outcome}")
            return
        self.settled += 1
        if outcome is not ACCEPTED:
            self.faults.append(f"publisher {self.number}: {outcome}")
        self.go_on()

    def credit(self, link: Sender) -> None: ...

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None: ...

    def detached(self, link: Any, condition: Any, *, closed: bool) -> None:
        if condition is not None:
            self.faults.append(f"publisher {self.number}: detached: {condition}")


@dataclass
class Row:
    """One look at the agent: events so far; since the last look events a second and microseconds of the agent's CPU for each, which other
    work on the machine leaves alone; MiB of the agent and of its sandboxes; a bystander's latency in milliseconds."""

    events: int
    rate: float
    cpu: float
    memory: float
    sandboxes: float
    p50: float = float("nan")
    p99: float = float("nan")


def sandboxes(server: Server) -> float:
    """MiB of the agent's child processes."""
    pages = 0
    for children in Path(f"/proc/{server.pid}/task").glob("*/children"):
        for child in children.read_text().split():
            with contextlib.suppress(OSError):
                pages += int(Path(f"/proc/{child}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


class Soak:
    """The load: publishers, subscribers, and those who come and go."""

    def __init__(self, server: Server, events: int) -> None:
        self._server = server
        self._share = events // PUBLISHERS
        self.rows: list[Row] = []
        self.checked: list[Checked] = []
        self.publishers: list[Publisher] = []
        self.faults: list[str] = []
        self.counts = dict.fromkeys(("links", "connections", "commands"), 0)
        self._random = random.Random(1)

    async def run(self, bystander: Callable[[], tuple[float, float]], looks: int) -> None:
        receiving = await self._dial()
        for wanted in FILTERS:
            self.checked.append(await self._subscribe(receiving, Checked(wanted)))
        for number in range(PUBLISHERS):
            link = await (await self._dial()).attach_sender(Terminus(ADDRESS))
            self.publishers.append(Publisher(link, number, self._share))
        beside = [asyncio.create_task(work) for work in (self._churn(), self._reconnect(), self._command())]
        publishing = asyncio.create_task(self._publish())
        at, since, used = 0, time.monotonic(), self._server.cpu
        for look in range(1, looks + 1):
            while self.sent < PUBLISHERS * self._share * look // looks and not publishing.done():
                await asyncio.sleep(0.02)
            if self.sent == at:
                continue  # passed while the bystander was timed
            events, seconds, cpu = self.sent - at, time.monotonic() - since, (self._server.cpu - used) * 1e6
            at, since, used = self.sent, time.monotonic(), self._server.cpu
            row = Row(at, events / seconds, cpu / events, self._server.memory / 2**20, sandboxes(self._server))
            self.rows.append(row)
            if look in (1, (looks + 1) // 2, looks - 1):
                row.p50, row.p99 = await asyncio.to_thread(bystander)
            print(
                f"{row.events:>10} events {row.rate:8.0f}/s {row.cpu:6.0f} us  {row.memory:7.1f} MiB + {row.sandboxes:5.1f}"
                f"  p50 {row.p50:6.2f} p99 {row.p99:6.2f} ms", file=sys.stderr, flush=True,
            )  # fmt: skip
        await publishing
        await self._finish()
        for task in beside:
            task.cancel()
        for outcome in await asyncio.gather(*beside, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError):
                self.faults.append(f"beside the load: {outcome!r}")

    @property
    def sent(self) -> int:
        return sum(one.sent for one in self.publishers)

    async def _publish(self) -> None:
        behind = self.checked[0]
        while any(one.settled < self._share for one in self.publishers):
            for one in self.publishers:
                one.most = behind.seen[one.number] + 1 + BEHIND // PUBLISHERS
                one.go_on()
            await asyncio.sleep(0.001)

    async def _finish(self) -> None:
        sent, end = [one.sent for one in self.publishers], time.monotonic() + PATIENCE
        for one in self.checked:
            while not one.complete(sent) and time.monotonic() < end:
                await asyncio.sleep(0.05)
            if not one.complete(sent):
                one.faults.append(f"{one.wanted.name}: the last have not come; seen {one.seen} of {sent}")

    async def _dial(self) -> Connection:
        server = self._server
        return await connect(server.host, server.port, Credentials(server.user, server.password))

    async def _subscribe(self, connection: Connection, checked: Checked) -> Checked:
        text = checked.wanted.text
        source = Terminus(f"{ADDRESS}.event.PhoneStatus", filter={} if text is None else {"xquery": Described(XQUERY, text)})
        link = await connection.attach_receiver(source)
        link.handler = checked
        link.window = WINDOW
        return checked

    # --- those who come and go ---

    async def _churn(self) -> None:
        connection = await self._dial()
        while True:
            number = self._random.randrange(10**8)
            text = f"//*:ReceiverId = '{number:08d}'" if number % 2 else f"starts-with(//*:ReceiverId, '{number:08d}')"
            link = await connection.attach_receiver(Terminus(ADDRESS, filter={"xquery": Described(XQUERY, text)}))
            await asyncio.sleep(CHURN)
            link.close()
            self.counts["links"] += 1

    async def _reconnect(self) -> None:
        while True:
            connection = await self._dial()
            guest = await self._subscribe(connection, Checked(self._random.choice(FILTERS[:4]), from_here=True))
            await asyncio.sleep(RECONNECT)
            if self.counts["connections"] % 2:
                connection.close()
            else:
                connection.abort()
            await connection.wait_closed()
            self.faults += [fault for fault in guest.faults if "detached" not in fault]
            self.counts["connections"] += 1

    async def _command(self) -> None:
        server = self._server
        async with BusClient(f"amqp://{server.user}:{server.password}@{server.host}:{server.port}/{ADDRESS}") as bus:
            while True:
                if await bus.call("getSessionUser") != server.user:
                    self.faults.append("a command had another's answer")
                self.counts["commands"] += 1
                await asyncio.sleep(COMMAND)

    # --- what came of it ---

    @property
    def wrong(self) -> list[str]:
        of_links = [one.faults for one in self.checked] + [one.faults for one in self.publishers]
        return [*self.faults, *(fault for faults in of_links for fault in faults)]


def soak(arguments: argparse.Namespace) -> Soak:
    text = f'<Event xmlns="{NAMESPACE}"><ClientLeave><Id>{STAMP}</Id></ClientLeave></Event>'
    subscribing = {"address": f"{ADDRESS}.event.ClientLeave", "filters": [None], "connections": 1, "settled": False}
    publishing = {"address": ADDRESS, "bodies": [text], "stamp": STAMP}
    with tempfile.TemporaryDirectory() as state, agent(state) as server:
        one = Soak(server, arguments.events)
        with (
            Client(server, "subscribers", nice=-10, before="<Id>", **subscribing) as subscriber,
            Client(server, "publisher", nice=-10, **publishing) as publisher,
        ):

            def bystander() -> tuple[float, float]:
                subscriber.ask(do="reset", latencies=True)
                events = int(BYSTANDER_RATE * BYSTANDER_SECONDS)
                told = publisher.ask(events=events, seconds=10 * BYSTANDER_SECONDS, rate=BYSTANDER_RATE)
                got = subscriber.ask(do="wait", deliveries=told["accepted"])
                if got["count"] != told["sent"]:
                    one.faults.append(f"the bystander sent {told['sent']} and got {got['count']}")
                times = sorted(got["latencies"])
                return percentile(times, 0.5), percentile(times, 0.99)

            asyncio.run(one.run(bystander, LOOKS))
    return one


def grown(rows: list[Row]) -> tuple[float, float]:
    """MiB that the agent has grown by since the first look, and its sandboxes since the middle: the full engine fills its heap first."""
    return rows[-1].memory - rows[0].memory, rows[-1].sandboxes - rows[len(rows) // 2].sandboxes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--events",
        type=int,
        default=200_000,
        metavar="N",
        help="events published (default 200000; a tenth of it is too few to fill the caches)",
    )
    parser.add_argument(
        "--growth", type=float, default=16.0, metavar="MIB", help="that the agent may grow by, and its sandboxes (default 16)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    one = soak(arguments)
    growth = grown(one.rows)
    if arguments.json:
        print(json.dumps({"rows": [asdict(row) for row in one.rows], "growth": growth, "faults": one.wrong, **one.counts}, indent=2))
    else:
        refused = sum(publisher.refused for publisher in one.publishers)
        got = ", ".join(f"{checked.wanted.name} {checked.count}" for checked in one.checked)
        print(f"{one.sent} events and {refused} refused; deliveries: {got}")
        print(", ".join(f"{count} {what}" for what, count in one.counts.items()) + " came and went")
        print(f"the agent has grown by {growth[0]:.1f} MiB, its sandboxes by {growth[1]:.1f} MiB (bound {arguments.growth:g})")
        print("\n".join(one.wrong) or "nothing was lost, came twice or out of order")
    return 1 if one.wrong or max(growth) > arguments.growth else 0


if __name__ == "__main__":
    sys.exit(main())
