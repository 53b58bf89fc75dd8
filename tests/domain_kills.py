"""The machine that kills what a domain is made of: agents, the broker, consumers, under load; and every event is accounted for.

    python tests/domain_kills.py --kills 20                  20 of each kind, a report, exit code 1 if a promise was broken
    python tests/domain_kills.py --kills 5 --kinds agent     one kind only
    python tests/domain_kills.py --broker activemq           on another broker than RabbitMQ

Agents are processes, the broker is a real one that comes back on its state; a consumer is killed by its socket, which is all that others
see of it. What the publishers were told is the ledger's: it knows what had to arrive, in which order, and what came twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from activemq import DomainActiveMQ
from brokers import AGENT, RabbitMQ
from clacks.amqp import ACCEPTED, AmqpError, Condition, Draft, Link, Outcome, Properties, Receiver, Sender
from clacks.common.errors import ClacksError
from domains import ACTIVEMQ, RABBITMQ, Failed, Guest, new_domain, number_of, phone
from support import End

NODES: Final = ("one", "two", "three")
PUBLISHERS: Final = 3
RATE: Final = 100.0  # events a second of each publisher: load enough that something is always under way, on two shared processors
UNDER_WAY: Final = 100  # of each publisher, unconfirmed
SPAN: Final = 10_000_000  # the numbers of one publisher
HANG: Final = 9.0  # seconds that an agent hangs if not told otherwise: longer than its lease
RECOVERY: Final = 90.0  # seconds after which a bus that delivers nothing counts as dead
QUIET: Final = 1.5  # seconds of undisturbed delivery between two kills
RULES: Final = '[[rules]]\nusers = ["*"]\npublish = ["*"]\nsubscribe = ["*"]\ndurable = ["*"]\ncall = [{ target = "*", method = "*" }]\n'
TROUBLE: Final = (AmqpError, ClacksError, Failed, OSError, AssertionError)  # of a guest whose broker is away


class Publisher:
    """Sends numbered events, and those again whose fate it did not hear of: in their order, so the first time they come is in order."""

    def __init__(self, number: int, guest_of: Callable[[], Guest]) -> None:
        self.first = number * SPAN
        self.next = self.first
        self.accepted: set[int] = set()
        self.waiting: dict[int, None] = {}
        self.stopping = False
        self._guest_of = guest_of
        self._key = f"events.{number * 7}"

    async def run(self) -> None:
        while not self.stopping or self.waiting:
            guest = self._guest_of()
            try:
                await guest.open()
                sender = await guest.connection.attach_sender(guest.broker.entry(guest.domain, self._key), handler=self)
                for number in list(self.waiting):
                    self._send(guest, sender, number)
                while sender.alive and (self.waiting or not self.stopping):
                    await asyncio.sleep(1 / RATE)
                    if not self.stopping and len(self.waiting) < UNDER_WAY:
                        self.waiting[self.next] = None
                        self._send(guest, sender, self.next)
                        self.next += 1
            except TROUBLE:
                await asyncio.sleep(0.1)
            finally:
                _close(guest)

    def missing(self, consumer: Consumer) -> set[int]:
        """What was accepted and has not arrived."""
        return self.accepted - consumer.seen.keys()

    def _send(self, guest: Guest, sender: Sender, number: int) -> None:
        sender.send(Draft(phone(number), guest.broker.signed(Properties(), "admin"), durable=True).encode(), number)

    # --- amqp.LinkHandler ---

    def outcome(self, link: Sender, number: int, outcome: Outcome) -> None:
        if outcome is ACCEPTED:
            self.waiting.pop(number, None)
            self.accepted.add(number)
        else:  # not now: with what came after it again, from the next connection on
            link.connection.abort()

    def credit(self, link: Sender) -> None: ...

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None: ...

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None: ...


class Consumer(End):
    """Takes from the durable subscription's queue, and notes what came, when, and how often."""

    def __init__(self, guest_of: Callable[[], Guest]) -> None:
        super().__init__()
        self.times: defaultdict[int, list[float]] = defaultdict(list)
        self.seen: Counter[int] = Counter()
        self.last: dict[int, int] = {}
        self.disorder: list[tuple[int, int]] = []
        self.twice = 0
        self.guest: Guest | None = None
        self._guest_of = guest_of

    async def run(self) -> None:
        while True:
            guest = self._guest_of()
            try:
                await guest.open()
                subscription = await guest.subscribe("//*:CallerId", durable="kept")
                await guest.consume(subscription, self, window=50)
                self.guest = guest
                await guest.connection.wait_closed()
            except TROUBLE:
                await asyncio.sleep(0.1)
            finally:
                _close(guest)

    def kill(self) -> None:
        """As SIGKILL does: what it has not settled goes back."""
        if self.guest is not None:
            _close(self.guest)

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        super().message(link, number, encoded, settled)
        event = number_of(self.messages.pop())
        self.received.clear()
        self.note(event)

    def note(self, event: int) -> None:
        self.times[event // SPAN].append(time.monotonic())
        self.seen[event] += 1
        self.twice += self.seen[event] > 1
        if self.seen[event] == 1:
            publisher = event // SPAN
            if event < self.last.get(publisher, -1):
                self.disorder.append((self.last[publisher], event))
            self.last[publisher] = max(event, self.last.get(publisher, -1))


def _close(guest: Guest) -> None:
    with contextlib.suppress(AttributeError):  # it did not come so far
        guest.close()


class Machine:
    """One domain under load, and those who disturb it."""

    def __init__(self, broker: RabbitMQ | DomainActiveMQ, folder: Path, seed: int, hanging: float) -> None:
        self.server, self.folder = broker, folder
        self.domain = broker.domains.pop() if isinstance(broker, DomainActiveMQ) else new_domain()
        self.name, dialect = ("ActiveMQ", ACTIVEMQ) if isinstance(broker, DomainActiveMQ) else ("RabbitMQ", RABBITMQ)
        self.random, self.hanging = random.Random(seed), hanging
        self.agents: dict[str, subprocess.Popen[bytes]] = {}

        def guest() -> Guest:
            return Guest(broker.url(), self.domain, "admin", dialect)

        self.publishers = [Publisher(number, guest) for number in range(PUBLISHERS)]
        self.consumer = Consumer(guest)
        self.pauses: defaultdict[str, list[float]] = defaultdict(list)
        self.twice: Counter[str] = Counter()
        self.faults: list[str] = []

    # --- agents ---

    def start(self, node: str) -> None:
        state = self.folder / node
        state.mkdir(exist_ok=True)
        (state / "access.toml").write_text(RULES)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("CLACKS_")}
        broker = {"CLACKS_BROKER_URL": self.server.url(AGENT.name), "CLACKS_BROKER_INGRESS": "3"}
        settings = {"HOME": str(state), "CLACKS_DOMAIN": self.domain, **broker}
        command = [sys.executable, "-m", "clacks.cli.agent", "--state-dir", str(state), "--node-id", node]
        with (state / "log").open("ab") as log:
            self.agents[node] = subprocess.Popen(command, env=kept | settings, stdout=log, stderr=log)

    def stop(self) -> None:
        for agent in self.agents.values():
            agent.kill()
            agent.wait()

    # --- what is done to them ---

    async def agent(self) -> None:
        node = self.random.choice(NODES)
        self.agents[node].kill()
        await asyncio.to_thread(self.agents[node].wait)
        await asyncio.sleep(self.random.uniform(0.0, 2.0))
        self.start(node)

    async def broker(self) -> None:
        if isinstance(self.server, RabbitMQ):
            await asyncio.to_thread(self.server.flush)
        await asyncio.to_thread(self.server.restart)

    async def client(self) -> None:
        self.consumer.kill()

    async def hang(self) -> None:
        agent = self.agents[self.random.choice(NODES)]
        agent.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self.hanging)
        agent.send_signal(signal.SIGCONT)

    # --- the run ---

    async def run(self, kinds: tuple[str, ...], kills: int) -> None:
        for node in NODES:
            self.start(node)
        tasks = [asyncio.create_task(self.consumer.run())]
        await self._wait(lambda: self.consumer.guest is not None, "the consumer has its subscription")
        publishing = [asyncio.create_task(publisher.run()) for publisher in self.publishers]
        await self._flowing()
        undisturbed = self.consumer.twice
        if undisturbed:
            self.faults.append(f"{undisturbed} events came twice though nothing was killed")
        for kind in self._order(kinds, kills):
            begin, before = time.monotonic(), self.consumer.twice
            await getattr(self, kind)()
            await self._flowing()
            self.pauses[kind].append(max(_longest(times, begin) for times in self.consumer.times.values()))
            self.twice[kind] += self.consumer.twice - before
        for publisher in self.publishers:
            publisher.stopping = True
        await asyncio.wait_for(asyncio.gather(*publishing), RECOVERY)
        with contextlib.suppress(TimeoutError):
            await self._wait(lambda: not self._missing(), "everything has arrived")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if missing := self._missing():
            self.faults.append(f"{len(missing)} accepted events did not arrive: {sorted(missing)[:10]}")
        if self.consumer.disorder:
            self.faults.append(f"out of order: {self.consumer.disorder[:10]}")

    def _order(self, kinds: tuple[str, ...], kills: int) -> list[str]:
        order = [kind for kind in kinds for _ in range(kills)]
        self.random.shuffle(order)
        return order

    def _missing(self) -> set[int]:
        return set().union(*(publisher.missing(self.consumer) for publisher in self.publishers))

    async def _flowing(self) -> None:
        """Wait until every publisher's events of from here on arrive, and for a while of that."""
        goals = {publisher.first // SPAN: publisher.next + 5 for publisher in self.publishers}
        await self._wait(lambda: all(self.consumer.last.get(one, -1) >= goal for one, goal in goals.items()), "events arrive")
        await asyncio.sleep(QUIET)

    async def _wait(self, condition: Any, what: str) -> None:
        end = time.monotonic() + RECOVERY
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"after {RECOVERY:g} s still not: {what}")
            await asyncio.sleep(0.02)

    def report(self) -> Iterator[str]:
        accepted = sum(len(publisher.accepted) for publisher in self.publishers)
        yield f"{self.name} {self.server.version}, {len(NODES)} agents: {accepted} events accepted, {len(self._missing())} of them missing,"
        yield f"{self.consumer.twice} came twice, {len(self.consumer.disorder)} out of order"
        for kind, pauses in self.pauses.items():
            median, worst = statistics.median(pauses), max(pauses)
            yield f"{kind}: {len(pauses)} times, pause median {median:.2f} s, worst {worst:.2f} s, {self.twice[kind]} came twice"


def _longest(times: list[float], begin: float) -> float:
    """The longest time without an event of one publisher."""
    return max((after - max(before, begin) for before, after in itertools.pairwise(times) if after > begin), default=0.0)


KINDS: Final = ("agent", "broker", "client", "hang")


def play(
    folder: Path, kinds: tuple[str, ...], kills: int, seed: int, hanging: float = HANG, settings: dict[str, Any] | None = None,
    broker: str = "rabbitmq",
) -> Machine:  # fmt: skip
    """Run it; its `faults` are the promises that were broken."""
    with RabbitMQ(settings=settings) if broker == "rabbitmq" else DomainActiveMQ([new_domain()]) as server:
        machine = Machine(server, folder, seed, hanging)
        try:
            asyncio.run(machine.run(kinds, kills))
        except TimeoutError as error:
            machine.faults.append(str(error))
        finally:
            machine.stop()
        return machine


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--broker", choices=("rabbitmq", "activemq"), default="rabbitmq")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--heartbeat", type=int, help="RabbitMQ's setting of that name, in seconds")
    parser.add_argument("--hanging", type=float, default=HANG, help="seconds that an agent hangs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = {} if options.heartbeat is None else {"heartbeat": options.heartbeat}
        machine = play(Path(folder), tuple(options.kinds), options.kills, options.seed, options.hanging, settings, options.broker)
    print(*machine.report(), *machine.faults, sep="\n")
    return bool(machine.faults)


if __name__ == "__main__":
    raise SystemExit(main())
