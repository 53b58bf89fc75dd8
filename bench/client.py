"""A publisher or a group of subscribers as lean as clacks.amqp allows; `processes.Client` talks to it in lines of JSON.

Started as `client.py ROLE -`. The first line says where to connect and what to do there, each further one asks for one run. Times are those
of the machine's monotonic clock in nanoseconds, which all processes share; an event carries the time of its sending in its body.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from clacks.amqp import (
    ACCEPTED,
    AmqpError,
    Connection,
    Credentials,
    Described,
    Draft,
    Options,
    Outcome,
    Receiver,
    Rejected,
    Sender,
    Symbol,
    Terminus,
    connect,
)  # fmt: skip

XQUERY = Symbol("apache.org:xquery-filter:string")
# Events fetched ahead by each subscriber, so that the broker never waits for its credit.
WINDOW = 1000
# Links on a connection, and attaches under way on each: the agent permits 4,096 of the former, and a round trip takes 1 ms.
LINKS = 4000
ATTACHING = 16
STAMP = 16  # hexadecimal digits of a time

Answer = dict[str, Any]
_now = time.monotonic_ns


async def dial(where: Answer) -> Connection:
    return await connect(where["host"], where["port"], Credentials(where["user"], where["password"]), Options(max_message_size=2**24))


# --- publishing ------------------------------------------------------------------------------------------------------------------


class Publisher:
    """Sends the given bodies in turn; the sixteen digits of `stamp` in a body are replaced by the time of sending."""

    def __init__(self, link: Sender, bodies: list[str], stamp: str) -> None:
        self.link = link
        link.handler = self
        self.messages = []
        for body in bodies:
            encoded = Draft(body.encode()).encode()
            head, found, tail = encoded.partition(stamp.encode())
            self.messages.append((head, tail, bool(found)))
        self.outcomes: dict[str, int] = {}
        self.due = 0
        self.sent = 0
        self.settled = 0
        self.deadline = 0
        self.finished: asyncio.Future[None] | None = None

    def credit(self, link: Sender) -> None:
        while self.sent < self.due and link.sendable:
            head, tail, stamped = next(self.turn)
            link.send(head + b"%016x" % _now() + tail if stamped else head)
            self.sent += 1
            if not self.sent % 64 and _now() > self.deadline:
                self.due = self.sent

    def outcome(self, link: Sender, number: int, outcome: Outcome) -> None:
        self.settled += 1
        if outcome is not ACCEPTED:
            what = outcome.condition.name if isinstance(outcome, Rejected) else type(outcome).__name__.lower()
            self.outcomes[what] = self.outcomes.get(what, 0) + 1
        if self.settled == self.due and self.finished is not None and not self.finished.done():
            self.finished.set_result(None)

    def detached(self, link: Any, condition: Any, *, closed: bool) -> None:
        raise SystemExit(f"the publisher's link was closed: {condition}")

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None: ...

    async def run(self, events: int, seconds: float, rate: float | None = None) -> Answer:
        """Send `events`, or as many as go in `seconds`: as fast as they are taken, or `rate` of them a second."""
        self.turn = itertools.cycle(self.messages)
        self.sent = self.settled = 0
        self.outcomes = {}
        begin = _now()
        self.deadline = begin + int(seconds * 1e9)
        if rate is None:
            self.due = events
        else:
            # A millisecond is what the event loop can keep to; what is due in it is sent together.
            self.due = 0
            while self.due < events and _now() < self.deadline:
                self.due = min(events, int((_now() - begin) * rate / 1e9) + 1)
                self.credit(self.link)
                await asyncio.sleep(0.001)
            self.due = self.sent if self.sent < self.due else self.due
        self.finished = asyncio.get_running_loop().create_future()
        self.credit(self.link)
        if self.settled < self.due:
            await self.finished
        return {"begin": begin, "sent": self.sent, "accepted": self.sent - sum(self.outcomes.values()), "refused": self.outcomes}


async def publisher(where: Answer) -> Callable[[Answer], Awaitable[Answer]]:
    connection = await dial(where)
    link = await connection.attach_sender(Terminus(where["address"]))
    one = Publisher(link, where["bodies"], where["stamp"])

    async def run(question: Answer) -> Answer:
        return await one.run(**question)

    return run


# --- subscribing -----------------------------------------------------------------------------------------------------------------


class Subscribers:
    """The handler of many links: counts what arrives, and how long it took if it is asked for that."""

    def __init__(self, before: bytes) -> None:
        self.before = before
        self.count = 0
        self.last = 0
        self.expected = -1
        self.latencies: list[float] | None = None
        self.arrived: asyncio.Future[None] | None = None

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        if not settled:
            link.settle(number, ACCEPTED)
        self.last = now = _now()
        if self.latencies is not None:
            start = encoded.index(self.before) + len(self.before)
            self.latencies.append((now - int(encoded[start : start + STAMP], 16)) / 1e6)
        self.count += 1
        if self.count == self.expected and self.arrived is not None:
            self.arrived.set_result(None)

    def detached(self, link: Any, condition: Any, *, closed: bool) -> None:
        raise SystemExit(f"a subscriber's link was closed: {condition}")

    def credit(self, link: Sender) -> None: ...

    def outcome(self, link: Sender, number: int, outcome: Outcome) -> None: ...

    async def run(self, do: str, deliveries: int = 0, latencies: bool = False, patience: float = 20.0) -> Answer:
        if do == "reset":
            self.count = 0
            self.latencies = [] if latencies else None
            return {}
        if self.count < deliveries:
            self.expected = deliveries
            self.arrived = asyncio.get_running_loop().create_future()
            with contextlib.suppress(TimeoutError):  # the count says what is missing
                await asyncio.wait_for(self.arrived, patience)
            self.expected = -1
        return {"count": self.count, "last": self.last, "latencies": self.latencies}


async def subscribers(where: Answer) -> Callable[[Answer], Awaitable[Answer]]:
    """One link per filter (null for none), spread over `connections`."""
    filters, count = where["filters"], where["connections"]
    connections = [await dial(where) for _ in range(min(max(count, len(filters) // LINKS + 1), len(filters)))]
    handler = Subscribers(where["before"].encode())

    async def attach(connection: Connection, texts: Iterator[str | None]) -> None:
        for text in texts:
            source = Terminus(where["address"], filter={} if text is None else {"xquery": Described(XQUERY, text)})
            link = await connection.attach_receiver(source, settled=where["settled"])
            link.handler = handler
            link.window = WINDOW

    shares = [iter(filters[number :: len(connections)]) for number in range(len(connections))]
    await asyncio.gather(*(attach(*one) for one in zip(connections, shares, strict=True) for _ in range(ATTACHING)))

    async def run(question: Answer) -> Answer:
        return await handler.run(**question)

    return run


# --- attacking -------------------------------------------------------------------------------------------------------------------


class Attacker:
    """Sends one message again and again, with so many under way; counts what becomes of them by the agent's error code."""

    def __init__(self, link: Sender, message: bytes, under_way: int) -> None:
        self.link, self.message, self.under_way = link, message, under_way
        link.handler = self
        self.sent = self.settled = 0
        self.codes: dict[str, int] = {}
        self.condition: Any = None

    def credit(self, link: Sender) -> None:
        while self.sent - self.settled < self.under_way and link.sendable:
            link.send(self.message)
            self.sent += 1

    def outcome(self, link: Sender, number: int, outcome: Outcome) -> None:
        self.settled += 1
        code = outcome.condition.info.get("code", "") if isinstance(outcome, Rejected) else type(outcome).__name__.lower()
        self.codes[code] = self.codes.get(code, 0) + 1
        self.credit(link)

    def detached(self, link: Any, condition: Any, *, closed: bool) -> None:
        self.condition = condition


async def attacker(where: Answer) -> Callable[[Answer], Awaitable[Answer]]:
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    import hostility

    attack: Attacker | None = None

    async def prepare(name: str, under_way: int) -> None:
        """Everything that takes the attacker's own time."""
        nonlocal attack
        message = Draft(where["flood"].encode()).encode() if name == "flood" else hostility.encoded(name)
        connection = await dial(where)
        attack = Attacker(await connection.attach_sender(Terminus(where["address"])), message, under_way)
        while not attack.link.sendable:
            await asyncio.sleep(0.01)

    async def run(question: Answer) -> Answer:
        nonlocal attack
        name = question["kind"]
        endless = hostility.ENDLESS.get(name)
        if "seconds" not in question:
            if endless is None:
                await prepare(name, question["under_way"])
            return {}
        end = time.monotonic() + question["seconds"]
        if endless is not None:
            return attack_without_end(where, endless, end)
        assert attack is not None
        while time.monotonic() < end and attack.condition is None:
            attack.credit(attack.link)
            await asyncio.sleep(0.01)
        attack.under_way = 0
        attack.link.connection.close()
        await attack.link.connection.wait_closed()
        return attack.codes

    return run


def attack_without_end(where: Answer, options: Answer, end: float) -> Answer:
    """One endless delivery after the other; how they were ended."""
    import hostility

    ends: dict[str, int] = {}
    while time.monotonic() < end:
        endless = hostility.Endless(where["host"], where["port"], where["user"], where["password"], **options)
        while time.monotonic() < end and endless.pump(2**20, 0.2) and not endless.ended:
            pass
        how = endless.ended or "goes on"
        ends[how] = ends.get(how, 0) + 1
        endless.close()
    return ends


# --- filters that mean harm ------------------------------------------------------------------------------------------------------


class Subscriber:
    """The handler of one link whose end is waited for."""

    def __init__(self, link: Receiver) -> None:
        self.ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        link.handler = self
        link.window = WINDOW

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None: ...

    def detached(self, link: Any, condition: Any, *, closed: bool) -> None:
        self.ended.set_result(condition)

    def credit(self, link: Sender) -> None: ...

    def outcome(self, link: Sender, number: int, outcome: Outcome) -> None: ...


async def hostile(where: Answer) -> Callable[[Answer], Awaitable[Answer]]:
    """Each of `users` subscribes with all `filters` of a run, and again as soon as one is refused or suspended; counts what became of them
    by the agent's error code."""

    async def run(question: Answer) -> Answer:
        codes: dict[str, int] = {}
        connections = [await dial(where | {"user": user}) for user in where["users"]]

        async def insist(connection: Connection, text: str) -> None:
            source = Terminus(where["address"], filter={"xquery": Described(XQUERY, text)})
            while connection.alive:
                try:
                    condition = await Subscriber(await connection.attach_receiver(source, settled=True)).ended
                except AmqpError as error:
                    condition = error.condition
                if connection.alive:
                    code = condition.info.get("code", condition.name)
                    codes[code] = codes.get(code, 0) + 1

        tasks = [asyncio.create_task(insist(connection, text)) for connection in connections for text in question["filters"]]
        await asyncio.sleep(question["seconds"])
        if not all(connection.alive for connection in connections):
            raise SystemExit(f"a hostile connection was closed: {connections[0].condition}")
        for connection in connections:
            connection.close()
        await asyncio.gather(*tasks, *(connection.wait_closed() for connection in connections))
        return codes

    return run


ROLES = {"publisher": publisher, "subscribers": subscribers, "attacker": attacker, "hostile": hostile}


async def main(role: str) -> None:
    loop = asyncio.get_running_loop()

    async def question() -> Answer | None:
        line = await loop.run_in_executor(None, sys.stdin.readline)
        return json.loads(line) if line else None

    where = await question()
    assert where is not None
    run = await ROLES[role](where)
    gc.disable()  # what it costs to collect a client's garbage is no figure of the broker's
    print(json.dumps({}), flush=True)
    while (asked := await question()) is not None:
        print(json.dumps(await run(asked)), flush=True)


def loop_factory() -> Any:
    """uvloop where it is installed, as in the agent."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main(sys.argv[1]))
