"""A domain on a broker: how many events go through with one, two, three agents, and what an event costs the agents and the broker.

    python bench/domain.py                             1, 2 and 3 agents; 1 and 5 matching subscriptions; live and durable ones
    python bench/domain.py --agents 1 --matching 1 --kinds live --seconds 20      something for a profiler to look at
    python bench/domain.py --broker activemq           the same on ActiveMQ
    python bench/domain.py --costs                     what a subscription, a lease, a heartbeat and an idle agent cost

The broker and the agents are processes; the load is this process: publishers, each on a slot of its own, and one consumer for each
subscription. An event is through when all its subscribers have it. BEHIND events are under way at most, so that nothing but the work in
hand is measured. Beside each figure stands the broker alone: the same clients, messages and queues, copies into all of them by the broker,
no validation and no filter.

Everything shares the machine's cores: with two of them, more agents cannot be faster once both are busy. `cores` says how many were at
work for the bus (other work on the machine leaves fewer), `at most` what all cores could do at this cost. The CPU time per event hardly
depends on either; it is what to calculate with (docs/scale.md), and its ratio to the broker alone is what to compare.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from clacks.amqp import ACCEPTED, Connection, Draft, Message, Outcome, Properties, Receiver, Rejected, Sender, Terminus
from clacks.common.brokers import Broker, Management, recognise, replies_of
from clacks.common.components.client import dial
from clacks.common.components.url import parse_url
from client import Publisher, Subscribers, loop_factory
from domain_brokers import ADMIN, AGENT, BEDS, KINDS, Bed, OnRabbitMQ, RabbitMQ
from processes import Server, percentile
from relay import ADDRESS, NAMESPACE, STAMP, body

NODES: Final = ("one", "two", "three", "four", "five", "six")
# Events under way: some tens of milliseconds of work, so that no queue runs empty and none grows.
BEHIND: Final = 2_000
CONSUMER_WINDOW: Final = 1_000
PATIENCE: Final = 60.0


def node(name: str, bed: Bed, state: str, ingress: int) -> Server:
    """An agent of the domain, with `admin` as its administrator. Its own NodeStatus events would be among those that are measured."""
    environment = {
        "HOME": state,
        "CLACKS_BROKER_URL": bed.server.url(AGENT.name),
        "CLACKS_BROKER_INGRESS": str(ingress),
        "CLACKS_STATUS_INTERVAL": "86400",
        "CLACKS_QUEUE_EVENTS": "10000000",
        "CLACKS_QUEUE_BYTES": "4000000000",
        "CLACKS_DURABLE_PER_USER": "1000000",
        "CLACKS_LOG_LEVEL": "warning",
    }
    return Server("-m", "clacks.cli.agent", "--demo", "--state-dir", state, "--node-id", name, **environment)


def cpu_of(pid: int) -> float:
    """CPU time of a process, all threads, in seconds (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def memory_of(pid: int) -> int:
    """Resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def filter_of(number: int) -> str:
    """One that every event of this benchmark matches, and no two of which are the same."""
    return f"declare namespace f='{NAMESPACE}'; ./f:Event/f:PhoneStatus[f:Status = ('busy', 'held-{number}')]"


# --- clients ---------------------------------------------------------------------------------------------------------------------


class Load:
    """Publishers on slots of their own, one consumer per queue, in this process."""

    def __init__(self, copies: int) -> None:
        self.copies = copies
        self.publishers: list[SlotPublisher] = []
        self.consumers = Consumers(self)

    @property
    def room(self) -> bool:
        return sum(one.sent for one in self.publishers) - self.consumers.count // self.copies < BEHIND

    def go_on(self) -> None:
        for one in self.publishers:
            one.credit(one.link)

    async def run(self, events: int, seconds: float, rate: float | None = None, *, latencies: bool = False) -> tuple[int, float]:
        """Publish, and wait for every delivery: events, and seconds from the first sending to the last arrival."""
        await self.consumers.run("reset", latencies=latencies)
        for one in self.publishers:
            one.sent = 0
        each = events // len(self.publishers) or 1
        share = None if rate is None else rate / len(self.publishers)
        told = await asyncio.gather(*(one.run(each, seconds, share) for one in self.publishers))
        if any(one["refused"] for one in told):
            raise SystemExit(f"events were refused: {[one['refused'] for one in told]}")
        sent = sum(one["sent"] for one in told)
        got = await self.consumers.run("wait", sent * self.copies, patience=PATIENCE)
        if got["count"] != sent * self.copies:
            raise SystemExit(f"{got['count']} deliveries arrived of {sent * self.copies}")
        return sent, (got["last"] - min(one["begin"] for one in told)) / 1e9


class SlotPublisher(Publisher):
    """One that says who it is, which a domain asks for, and waits while too much is under way."""

    def __init__(self, load: Load, link: Sender, bodies: Sequence[str], who: Properties, *, durable: bool) -> None:
        super().__init__(link, [], STAMP)
        self.load = load
        for text in bodies:
            encoded = Draft(text.encode(), who, durable=durable).encode()
            head, found, tail = encoded.partition(STAMP.encode())
            self.messages.append((head, tail, bool(found)))

    def credit(self, link: Sender) -> None:
        if self.load.room:
            super().credit(link)

    def outcome(self, link: Sender, number: int, outcome: Outcome) -> None:
        super().outcome(link, number, outcome)
        if self.due > self.sent:
            self.credit(link)

    def detached(self, link: Any, condition: Any, *, closed: bool) -> None:
        if condition is not None:  # not of our own doing
            super().detached(link, condition, closed=closed)


class Consumers(Subscribers):
    """Lets the publishers go on as events arrive."""

    def __init__(self, load: Load) -> None:
        super().__init__(b"<CallerId>")
        self.load = load

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        super().message(link, number, encoded, settled)
        if not self.count % 64:
            self.load.go_on()

    def detached(self, link: Any, condition: Any, *, closed: bool) -> None:
        if condition is not None:  # not of our own doing
            super().detached(link, condition, closed=closed)


class Commands:
    """The domain's commands, asked for over the broker."""

    def __init__(self, broker: Broker, link: Sender, queue: str) -> None:
        self.broker = broker
        self._link, self._queue = link, queue
        self._numbers = itertools.count(1)
        self._asked: dict[str, asyncio.Future[Any]] = {}

    @classmethod
    async def attach(cls, asking: Connection, receiving: Connection, broker: Broker) -> Commands:
        queue = broker.spelled(replies_of(ADDRESS, ADMIN.name)) + uuid.uuid4().hex[:24]
        if broker.declares:
            await (await Management.attach(receiving)).declare_queue(queue, durable=False, auto_delete=True)
        one = cls(broker, await asking.attach_sender(broker.entry(ADDRESS, "command.core")), queue)
        one._link.handler = one
        (await receiving.attach_receiver(broker.queue(queue), handler=one)).window = CONSUMER_WINDOW
        return one

    async def call(self, method: str, **params: Any) -> Any:
        number = str(next(self._numbers))
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        asked = self.broker.signed(Properties(message_id=number, reply_to=self._queue), ADMIN.name)
        while not self._link.sendable:
            await asyncio.sleep(0.001)
        self._link.send(Draft(json.dumps({"method": method, "params": params, "id": number}), asked).encode())
        async with asyncio.timeout(PATIENCE):
            return await future

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        link.settle(number, ACCEPTED)
        message = Message(encoded)
        told = json.loads(message.body)
        future = self._asked.pop(str(message.properties.correlation_id))
        if told["error"]:
            future.set_exception(SystemExit(f"a command failed: {told['error']}"))
        else:
            future.set_result(told["result"])

    def credit(self, link: Sender) -> None: ...

    def outcome(self, link: Sender, number: int, outcome: Outcome) -> None:
        if isinstance(outcome, Rejected):
            raise SystemExit(f"a command was not taken: {outcome.condition}")

    def detached(self, link: Any, condition: Any, *, closed: bool) -> None:
        if condition is not None:
            raise SystemExit(f"a link for commands was closed: {condition}")


# --- a run -----------------------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """One row: `agents` 0 is the broker alone. CPU in microseconds per event, latency in milliseconds at half the rate; `busiest` is the
    part of the agents' work that the busiest of them did."""

    agents: int
    kind: str
    matching: int
    events: int
    rate: float
    agent: float
    broker: float
    client: float
    cores: float
    busiest: float
    p50: float
    p99: float

    @property
    def at_most(self) -> float:
        """Events a second, if every core of the machine worked for them."""
        return (os.cpu_count() or 1) * 1e6 / (self.agent + self.broker + self.client)


class Run:
    """One arrangement of the domain, or of the broker alone, with the load on it."""

    def __init__(self, arguments: argparse.Namespace, bed: Bed, agents: Sequence[Server], kind: str, matching: int) -> None:
        self.arguments, self.bed, self.agents = arguments, bed, agents
        self.kind, self.matching = kind, matching
        self.load = Load(matching)

    def _cpu(self) -> tuple[float, ...]:
        return (cpu_of(self.bed.server.pid), time.process_time(), *(one.cpu for one in self.agents))

    async def measure(self, broker: Broker, targets: Sequence[Terminus], sources: Sequence[Terminus], *, durable: bool) -> Result:
        """`targets` take turns among the publishers."""
        arguments = self.arguments
        async with AsyncExitStack() as stack:
            consuming = await stack.enter_async_context(connected(self.bed))
            for source in sources:
                link = await consuming.attach_receiver(source, handler=self.load.consumers, alone=True)
                link.window = CONSUMER_WINDOW
            bodies, who = [body(number) for number in range(100)], broker.signed(Properties(), ADMIN.name)
            publishing = await stack.enter_async_context(connected(self.bed))
            for slot in range(arguments.publishers):
                sender = await publishing.attach_sender(targets[slot % len(targets)])
                self.load.publishers.append(SlotPublisher(self.load, sender, bodies, who, durable=durable))
            await self.load.run(max(200, arguments.events // 20), 2.0)
            rounds = [await self._round() for _ in range(arguments.rounds)]
            middle = sorted(rounds)[len(rounds) // 2]
            rate, events, broker, client, *agents = middle
            await self.load.run(int(rate / 2 * 2.0), 4.0, rate / 2, latencies=True)
            latencies = sorted(self.load.consumers.latencies or ())
        each = statistics.fsum(agents)
        return Result(
            len(self.agents), self.kind, self.matching, int(events), rate, each, broker, client, rate * (each + broker + client) / 1e6,
            max(agents, default=0.0) / each if each else 0.0, percentile(latencies, 0.5), percentile(latencies, 0.99),
        )  # fmt: skip

    async def _round(self) -> tuple[float, ...]:
        """Rate, events, and CPU per event in microseconds of broker, clients and each agent."""
        before = self._cpu()
        events, seconds = await self.load.run(self.arguments.events, self.arguments.seconds)
        used = [(after - start) / events * 1e6 for after, start in zip(self._cpu(), before, strict=True)]
        return (events / seconds, events, *used)


@contextlib.asynccontextmanager
async def connected(bed: Bed) -> AsyncIterator[Connection]:
    connection = await dial(parse_url(bed.server.url(ADMIN.name)))
    try:
        yield connection
    finally:
        connection.close()
        await connection.wait_closed()


@contextlib.asynccontextmanager
async def commanding(bed: Bed) -> AsyncIterator[Commands]:
    async with connected(bed) as one, connected(bed) as other:
        yield await Commands.attach(one, other, recognise(one.remote_properties, bed.server.url()))


async def in_the_domain(run: Run, commands: Commands) -> Result:
    # Names of its own: the queues of the run before may still be on their way out.
    names = [f"{uuid.uuid4().hex}" if run.kind == "durable" else "" for _ in range(run.matching)]
    made = [await commands.call("subscribe", filters=[filter_of(number)], durable=name) for number, name in enumerate(names)]
    renewing = asyncio.create_task(_renew(commands, [one["id"] for one in made], made[0]["lease"]))
    broker = commands.broker
    entries = [broker.entry(ADDRESS, f"events.{slot}") for slot in range(broker.dialect.slots)]
    try:
        return await run.measure(broker, entries, [broker.queue(one["queue"], exclusive=one["exclusive"]) for one in made], durable=True)
    finally:
        renewing.cancel()
        for one in made:
            await commands.call("unsubscribe", id=one["id"])


async def _renew(commands: Commands, ids: list[str], lease: float) -> None:
    while lease:
        await asyncio.sleep(lease / 3)
        await commands.call("renew", ids=ids)


async def on_the_broker_alone(run: Run, connection: Connection) -> Result:
    broker = recognise(connection.remote_properties, run.bed.server.url())
    async with run.bed.alone(connection, broker, run.kind, run.matching) as (target, sources):
        return await run.measure(broker, [target], sources, durable=run.bed.durable(run.kind))


async def measure(arguments: argparse.Namespace, bed: Bed, stack: ExitStack) -> list[Result]:
    cases = [(kind, matching) for kind in arguments.kinds for matching in arguments.matching]
    async with connected(bed) as connection:
        results = [await on_the_broker_alone(Run(arguments, bed, (), *case), connection) for case in cases]
    for agents in growing(arguments, bed, stack):
        print(f"agents {' '.join(str(one.pid) for one in agents)}, broker {bed.server.pid}", file=sys.stderr)
        async with commanding(bed) as commands:
            results += [await in_the_domain(Run(arguments, bed, agents, *case), commands) for case in cases]
    return results


def growing(arguments: argparse.Namespace, bed: Bed, stack: ExitStack) -> Iterator[list[Server]]:
    """The agents of the domain, each time that there are as many as are asked for."""
    agents: list[Server] = []
    for count in range(1, max(arguments.agents) + 1):
        state = stack.enter_context(tempfile.TemporaryDirectory())
        agents.append(stack.enter_context(node(NODES[count - 1], bed, state, arguments.ingress)))
        if count in arguments.agents:
            yield agents


# --- what is there without events ----------------------------------------------------------------------------------------------------


@dataclass
class Costs:
    """Of `subscriptions` of a kind: microseconds of CPU to make one, in all agents and in the broker; bytes that one takes in an agent and
    in the broker; microseconds of CPU of all agents to renew one lease. `idle`: CPU of an agent and of the broker in a second without
    anything, in microseconds, where there are `agents`. `command`: microseconds of CPU for one that does nothing. `connection_bytes`: what
    one with a link takes in the broker."""

    agents: int
    kind: str
    subscriptions: int
    agent_made: float
    broker_made: float
    agent_bytes: float
    broker_bytes: float
    agent_renewed: float
    agent_idle: float
    broker_idle: float
    agent_command: float
    broker_command: float
    connection_bytes: float


def broker_memory(rabbit: RabbitMQ) -> int:
    """Bytes that Erlang has in use, after a collection."""
    rabbit.evaluate("[erlang:garbage_collect(P) || P <- erlang:processes()].")
    return int(rabbit.evaluate("erlang:memory(total)."))


async def costs(arguments: argparse.Namespace, bed: OnRabbitMQ, agents: Sequence[Server], commands: Commands, kind: str) -> Costs:
    rabbit = bed.server
    count = arguments.subscriptions
    idle = await _idle(rabbit, agents)
    await commands.call("unsubscribe", id=(await commands.call("subscribe", filters=[filter_of(0)]))["id"])
    memory = broker_memory(rabbit), sum(one.memory for one in agents)
    before = cpu_of(rabbit.pid), sum(one.cpu for one in agents)
    made = []
    for first in range(0, count, 50):
        numbers = range(first, min(first + 50, count))
        asked = (commands.call("subscribe", filters=[filter_of(n)], durable=f"b{n}" if kind == "durable" else "") for n in numbers)
        made += await asyncio.gather(*asked)
    after = cpu_of(rabbit.pid), sum(one.cpu for one in agents)
    grown = broker_memory(rabbit), sum(one.memory for one in agents)
    ids, renewed = [one["id"] for one in made], 0.0
    if kind == "live":
        begin, seconds = sum(one.cpu for one in agents), 4.0
        for _ in range(2):  # what is gathered in a second is one record, so a lease is renewed once in each of these calls
            await commands.call("renew", ids=ids)
            await asyncio.sleep(seconds / 2)
        renewed = (sum(one.cpu for one in agents) - begin - seconds * len(agents) * idle[0] / 1e6) / 2 / count * 1e6
    command = await _command(rabbit, agents, commands)
    for first in range(0, count, 50):
        await asyncio.gather(*(commands.call("unsubscribe", id=id) for id in ids[first : first + 50]))  # noqa: A001
    return Costs(
        len(agents), kind, count, (after[1] - before[1]) / count * 1e6, (after[0] - before[0]) / count * 1e6,
        (grown[1] - memory[1]) / count / len(agents), (grown[0] - memory[0]) / count, renewed, *idle, *command,
        await _connection(bed),
    )  # fmt: skip


async def _idle(rabbit: RabbitMQ, agents: Sequence[Server]) -> tuple[float, float]:
    await asyncio.sleep(2.0)  # what the start left to do
    before, seconds = (cpu_of(rabbit.pid), sum(one.cpu for one in agents)), 5.0
    await asyncio.sleep(seconds)
    return (sum(one.cpu for one in agents) - before[1]) / seconds / len(agents) * 1e6, (cpu_of(rabbit.pid) - before[0]) / seconds * 1e6


async def _command(rabbit: RabbitMQ, agents: Sequence[Server], commands: Commands) -> tuple[float, float]:
    """Fifty at a time, as of clients that know nothing of each other."""
    count, before = 1_000, (cpu_of(rabbit.pid), sum(one.cpu for one in agents))
    for _ in range(count // 50):
        await asyncio.gather(*(commands.call("renew", ids=[]) for _ in range(50)))
    return (sum(one.cpu for one in agents) - before[1]) / count * 1e6, (cpu_of(rabbit.pid) - before[0]) / count * 1e6


async def _connection(bed: OnRabbitMQ) -> float:
    """Of resident memory: Erlang's own count has megabytes of buffers for each, which are reserved and never touched."""
    count, before = 400, memory_of(bed.server.pid)
    async with AsyncExitStack() as stack:
        for _ in range(count):
            connection = await stack.enter_async_context(connected(bed))
            await connection.attach_sender(Terminus(f"/exchanges/{ADDRESS}/events"))
        return (memory_of(bed.server.pid) - before) / count


async def measure_costs(arguments: argparse.Namespace, bed: OnRabbitMQ, stack: ExitStack) -> list[Costs]:
    results = []
    for agents in growing(arguments, bed, stack):
        async with commanding(bed) as commands:
            results += [await costs(arguments, bed, agents, commands, kind) for kind in arguments.kinds]
    return results


# --- showing it ------------------------------------------------------------------------------------------------------------------


def show(results: Sequence[Result], arguments: argparse.Namespace, broker: str) -> None:
    print(
        f"{broker}; {arguments.rounds} rounds of {arguments.events} events (at most {arguments.seconds:g} s),"
        f" {len(body(0))} bytes each; {arguments.publishers} publishers;"
        f" CPython {platform.python_version()}, {os.cpu_count()} cores for broker, agents and clients\n"
    )
    alone = {(one.kind, one.matching): one for one in results if not one.agents}
    head = (
        f"{'agents':>8}{'queues':>9}{'matching':>10}{'events/s':>10}{'at most':>9}{'of alone':>10}{'us agent':>10}{'us broker':>11}"
        f"{'of alone':>10}{'us client':>11}{'cores':>7}{'busiest':>9}{'p50 ms':>8}{'p99 ms':>8}"
    )
    print(head + "\n" + "-" * len(head))
    for one in results:
        other = alone[one.kind, one.matching]
        part = one.at_most / other.at_most
        print(
            f"{one.agents or 'none':>8}{one.kind:>9}{one.matching:10}{one.rate:10,.0f}{one.at_most:9,.0f}{part:10.2f}"
            f"{one.agent:10.1f}{one.broker:11.1f}{one.broker / other.broker:10.2f}{one.client:11.1f}{one.cores:7.2f}{one.busiest:9.0%}"
            f"{one.p50:8.2f}{one.p99:8.2f}"
        )


def show_costs(results: Sequence[Costs], broker: str) -> None:
    print(f"{broker}; CPU of all agents together in microseconds (idle: of one, in a second), memory of one in KiB\n")
    columns = (
        ("agents", "agents"), ("queues", "kind"), ("made", "subscriptions"), ("us agents", "agent_made"), ("us broker", "broker_made"),
        ("KiB agent", "agent_bytes"), ("KiB broker", "broker_bytes"), ("renewal", "agent_renewed"), ("idle agent", "agent_idle"),
        ("idle broker", "broker_idle"), ("command: agents", "agent_command"), ("broker", "broker_command"),
        ("KiB connection", "connection_bytes"),
    )  # fmt: skip
    head = "".join(f"{title:>{max(8, len(title) + 2)}}" for title, _ in columns)
    print(head + "\n" + "-" * len(head))
    for one in results:
        values = asdict(one)
        cells = [(title, values[name] / 1024 if title.startswith("KiB") else values[name]) for title, name in columns]
        print("".join(f"{f'{cell:.1f}' if isinstance(cell, float) else cell:>{max(8, len(title) + 2)}}" for title, cell in cells))


def parser() -> argparse.ArgumentParser:
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", choices=list(BEDS), default="rabbitmq", help="what the domain runs on (default rabbitmq)")
    parser.add_argument("--agents", type=numbers, default=[1, 2, 3], metavar="N[,N...]", help="how many agents (default 1,2,3)")
    parser.add_argument("--matching", type=numbers, default=[1, 5], metavar="N[,N...]", help="subscriptions that get every event")
    kinds = lambda text: [kind for kind in text.split(",") if kind in KINDS or parser.error(f"no kind: {kind}")]  # noqa: E731
    parser.add_argument("--kinds", type=kinds, default=list(KINDS), metavar="KIND[,KIND]", help="live, durable (default both)")
    parser.add_argument("--publishers", type=int, default=8, metavar="N", help="each on a slot of its own (default 8)")
    parser.add_argument("--ingress", type=int, default=4, metavar="N", help="ingress queues of the domain, on RabbitMQ (default 4)")
    parser.add_argument("--events", type=int, default=30_000, metavar="E", help="per round (default 30,000)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="after which a round ends (default 3)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of which the one with the median rate is shown (default 3)")
    parser.add_argument("--costs", action="store_true", help="measure what is there without events; on RabbitMQ")
    parser.add_argument("--subscriptions", type=int, default=500, metavar="N", help="with --costs: how many are made (default 500)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


def run(arguments: argparse.Namespace) -> tuple[str, list[Any]]:
    """The broker's name and version, and the results."""
    gc.disable()  # what it costs to collect the load's garbage is nobody's figure
    with ExitStack() as stack, asyncio.Runner(loop_factory=loop_factory()) as runner:
        bed = BEDS[arguments.broker](ADDRESS, arguments.matching)
        stack.enter_context(bed.server)
        try:
            work = measure_costs if arguments.costs else measure
            return f"{bed.server.name} {bed.server.version}", runner.run(work(arguments, bed, stack))
        finally:
            gc.enable()


def main() -> int:
    parsing = parser()
    arguments = parsing.parse_args()
    if arguments.costs and arguments.broker != "rabbitmq":
        parsing.error("--costs measures a domain on RabbitMQ")
    broker, results = run(arguments)
    if arguments.json:
        json.dump({"arguments": vars(arguments), "broker": broker, "results": [asdict(one) for one in results]}, sys.stdout, indent=2)
        print()
    elif arguments.costs:
        show_costs(results, broker)
    else:
        show(results, arguments, broker)
    return 0


if __name__ == "__main__":
    sys.exit(main())
