"""How far a domain goes: a table of measured costs, a model that multiplies them, a simulation that queues by them, both against reality.

    python bench/scale_model.py                                      the question of docs/scale.md: 10^6 subscribers, 10^5 events a second
    python bench/scale_model.py --subscribers 20000 --events 5000 --matching 20 --kind durable
    python bench/scale_model.py --check                              a short run of bench/domain.py beside model and simulation, 1 minute

The costs are those of one machine, most of them taken while others worked on it. `--check` therefore takes one number from the run, how
much RabbitMQ alone costs there, scales all by that, and fails (exit code 1) if anything else is off by more than a quarter.
"""

from __future__ import annotations

import argparse
import heapq
import math
import os
import statistics
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from clacks.agent.broker.external.ingress import priority
from clacks.agent.broker.external.names import ingress_queue
from clacks.common.brokers import DIALECTS
from domain import BEHIND, KINDS, NODES, Result, parser, run

SLOTS: Final = DIALECTS[0].slots


@dataclass(frozen=True)
class Cost:
    """One measured number; `command` shows it."""

    value: float
    unit: str
    what: str
    command: str


_DOMAIN: Final = "bench/domain.py"
_COSTS: Final = "bench/domain.py --costs --kinds live --subscriptions 1500"
_IDLE: Final = "bench/domain.py --costs --kinds live --subscriptions 10"
_DURABLE: Final = "bench/domain.py --costs --kinds durable --agents 1"

# Microseconds of CPU and bytes, with RabbitMQ 4.0.5, CPython 3.11 and events of 232 bytes. What depends on the number of subscriptions that
# match is the line through what 1 and 5 of them cost.
COSTS: Final = {
    "agent event": Cost(75.0, "us", "an agent takes, validates, matches, settles an event", _DOMAIN),
    "agent delivery": Cost(11.0, "us", "an agent sends an event to one queue and hears that it is stored", _DOMAIN),
    "broker event": Cost(55.0, "us", "the broker takes an event into a quorum ingress queue and gives it to an agent", _DOMAIN),
    "broker live": Cost(36.0, "us", "the broker takes an event for a live subscription (classic queue) and delivers it", _DOMAIN),
    "broker durable": Cost(58.0, "us", "the same for a durable one (quorum queue, one replica)", _DOMAIN),
    "alone event": Cost(4.0, "us", "RabbitMQ alone: what is per event and not per queue", _DOMAIN),
    "alone live": Cost(43.0, "us", "RabbitMQ alone: per classic queue that the event is copied into", _DOMAIN),
    "alone durable": Cost(35.0, "us", "RabbitMQ alone: per quorum queue", _DOMAIN),
    "client event": Cost(9.0, "us", "the benchmark's publisher", _DOMAIN),
    "client delivery": Cost(6.0, "us", "the benchmark's consumer", _DOMAIN),
    "agent idle": Cost(3600.0, "us/s", "an agent that does nothing: its clock, its heartbeat, reading it", _IDLE),
    "agent heartbeat": Cost(250.0, "us/s", "an agent reads the heartbeats of one other agent", _IDLE),
    "agent command": Cost(115.0, "us", "an agent answers a command that does nothing", _COSTS),
    "broker command": Cost(140.0, "us", "the broker carries a command and its answer", _COSTS),
    "renewal": Cost(6.0, "us", "every agent notes that one lease goes on", _COSTS),
    "agent subscribe": Cost(765.0, "us", "a subscription is made: all that one agent does", _COSTS),
    "agent index": Cost(550.0, "us", "a subscription is made: what every other agent does", _COSTS),
    "broker subscribe live": Cost(3000.0, "us", "the same in the broker, with its queue", _COSTS),
    "broker subscribe durable": Cost(8800.0, "us", "the same for a quorum queue", _DURABLE),
    "agent subscription": Cost(2200.0, "bytes", "a subscription with a filter of its own, in every agent", _COSTS),
    "broker queue live": Cost(43e3, "bytes", "a classic queue that is in use (empty and never used: 17,000)", _COSTS),
    "broker queue durable": Cost(96e3, "bytes", "a quorum queue that is in use, in each of its replicas (empty: 62,000)", _DURABLE),
    "broker connection": Cost(45e3, "bytes", "a connection with one link, at most", _COSTS),
}

# The lease of a live subscription and how often it is renewed (clacks/agent/broker/external/services.py; clients renew each third).
LEASE: Final = 60.0
RENEWED_OF_A_LEASE: Final = 3
# How busy a server may be on average. Above that, what waits in front of it grows faster than the load.
BUSY: Final = 0.7
# One queue is one process in Erlang: no core of the broker but one works for it. What one quorum queue took in and gave away in a second,
# with nothing else to do (BROKERS.md has 27,000 to 29,000 for the queue alone).
QUEUE_RATE: Final = 27_000.0
# What --check allows: the costs of one run differ from the next one's by half of that where other work is on the machine.
TOLERANCE: Final = 0.25


@dataclass(frozen=True)
class Load:
    """What is asked: events a second, each for `matching` of the subscribers; the rest of the subscriptions lies there."""

    events: float
    subscribers: int
    matching: float
    kind: str = "live"
    replicas: int = 1


# --- the model -------------------------------------------------------------------------------------------------------------------


def agent_event(matching: float) -> float:
    """Microseconds of an agent for one event."""
    return COSTS["agent event"].value + COSTS["agent delivery"].value * matching


def broker_event(kind: str, matching: float, replicas: int = 1) -> float:
    """Microseconds of the broker's nodes for one event. A replica does about what the first one does."""
    deliveries = COSTS[f"broker {kind}"].value * matching
    return COSTS["broker event"].value * replicas + deliveries * (replicas if kind == "durable" else 1)


def alone_event(kind: str, matching: float) -> float:
    """Microseconds of RabbitMQ for one event without agents."""
    return COSTS["alone event"].value + COSTS[f"alone {kind}"].value * matching


def client_event(matching: float) -> float:
    return COSTS["client event"].value + COSTS["client delivery"].value * matching


def at_most(cores: int, kind: str, matching: float, agents: int, ingress: int = 4) -> float:
    """Events a second on one machine whose `cores` broker, agents and clients share; an agent is on one core at a time. RabbitMQ alone for
    no agents."""
    if not agents:
        return cores * 1e6 / (alone_event(kind, matching) + client_event(matching))
    everything = agent_event(matching) + broker_event(kind, matching) + client_event(matching)
    return min(cores * 1e6 / everything, 1e6 / (agent_event(matching) * max(shares(agents, ingress))))


def shares(agents: int, ingress: int) -> list[float]:
    """Each agent's part of the slots: the agent with the highest priority has an ingress queue, and the queue its slots."""
    names = _names(agents)
    parts = dict.fromkeys(names, 0.0)
    for slot in range(SLOTS):
        parts[_owner(names, slot % ingress)] += 1 / SLOTS
    return list(parts.values())


def _names(agents: int) -> list[str]:
    return [*NODES, *(f"n{number}" for number in range(agents))][:agents]


def _owner(names: Sequence[str], queue: int) -> str:
    return max(names, key=lambda name: priority(name, ingress_queue("org.clacks", queue)))


@dataclass(frozen=True)
class Size:
    """What a load takes, with no server busier than BUSY."""

    agents: int
    agent_cores: float
    agent_bytes: float
    upkeep: float  # cores of every agent for leases and heartbeats, whatever its events
    broker_cores: float
    broker_bytes: float
    ingress: int
    renewals: float  # commands a second, if every subscriber sends its own
    load_seconds: float  # until an agent that joins has indexed every subscription

    @property
    def possible(self) -> bool:
        return self.agents > 0


def size(load: Load) -> Size:
    """Agents are added until none is busier than BUSY. 0 agents: what every one of them has to do is more than one can."""
    live = load.kind == "live"
    renewals = load.subscribers * RENEWED_OF_A_LEASE / LEASE if live else 0.0
    agents, upkeep, work = 0, 0.0, 0.0
    while True:
        agents += 1
        upkeep = (COSTS["agent idle"].value + COSTS["agent heartbeat"].value * (agents - 1) + COSTS["renewal"].value * renewals) / 1e6
        work = (load.events * agent_event(load.matching) + renewals * COSTS["agent command"].value) / 1e6
        if upkeep + work / agents <= BUSY:
            break
        if upkeep > BUSY or agents >= SLOTS:  # each needs an ingress queue, and there is one for a slot
            agents = 0
            break
    broker = (load.events * broker_event(load.kind, load.matching, load.replicas) + renewals * COSTS["broker command"].value) / 1e6
    queues = COSTS[f"broker queue {load.kind}"].value * (1 if live else load.replicas) + COSTS["broker connection"].value
    ingress = max(math.ceil(load.events / (BUSY * QUEUE_RATE)), agents)
    return Size(
        agents, work + upkeep * agents, COSTS["agent subscription"].value * load.subscribers, upkeep, broker, queues * load.subscribers,
        ingress, renewals, load.subscribers * COSTS["agent index"].value / 1e6,
    )  # fmt: skip


# --- the simulation --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Simulated:
    """Events a second, and the part of the time that the busiest agent was at work."""

    rate: float
    busiest: float


PUBLISH, JUDGE, DELIVER = range(3)


class Machine:
    """Cores that take what is ready in its turn: the client's and the broker's part of publishing an event, the agent's, and of each
    delivery the broker's and the client's. An agent is at one event at a time; the others for it wait without a core."""

    def __init__(self, kind: str, matching: int, agents: int, cores: int, ingress: int) -> None:
        names = _names(agents)
        self._owners = [names.index(_owner(names, slot % ingress)) if agents else -1 for slot in range(SLOTS)]
        once = broker_event(kind, 0) if agents else COSTS["alone event"].value
        each = COSTS[f"broker {kind}" if agents else f"alone {kind}"].value
        judge = agent_event(matching) if agents else 0.0
        self._takes = (client_event(0) + once, judge, each + COSTS["client delivery"].value)
        self._matching, self._cores = matching, cores
        self._ready: deque[tuple[int, int]] = deque()  # event and stage
        self._running: list[tuple[float, int, int]] = []
        self._at_work: set[int] = set()
        self._waiting: list[deque[tuple[int, int]]] = [deque() for _ in names]
        self._busy = [0.0] * max(agents, 1)
        self._now = 0.0

    def run(self, events: int, behind: int) -> Simulated:
        left = dict.fromkeys(range(events), self._matching)
        self._ready.extend((number, PUBLISH) for number in range(min(behind, events)))
        following = len(self._ready)
        while self._ready or self._running:
            self._start()
            number, stage = self._finish()
            if stage == PUBLISH:
                self._ready.append((number, JUDGE))
            elif stage == JUDGE:
                self._ready.extend((number, DELIVER) for _ in range(self._matching))
            else:
                left[number] -= 1
                if not left[number] and following < events:
                    self._ready.append((following, PUBLISH))
                    following += 1
        return Simulated(events / self._now * 1e6, max(self._busy) / self._now)

    def _start(self) -> None:
        while self._ready and len(self._running) < self._cores:
            number, stage = self._ready.popleft()
            agent = self._owners[number % SLOTS]
            if stage == JUDGE and agent >= 0:
                if agent in self._at_work:
                    self._waiting[agent].append((number, stage))
                    continue
                self._at_work.add(agent)
                self._busy[agent] += self._takes[JUDGE]
            heapq.heappush(self._running, (self._now + self._takes[stage], number, stage))

    def _finish(self) -> tuple[int, int]:
        self._now, number, stage = heapq.heappop(self._running)
        agent = self._owners[number % SLOTS]
        if stage == JUDGE and agent >= 0:
            self._at_work.discard(agent)
            if self._waiting[agent]:
                self._ready.appendleft(self._waiting[agent].popleft())
        return number, stage


def simulate(
    kind: str, matching: int, agents: int, *, cores: int, ingress: int = 4, events: int = 20_000, behind: int = BEHIND
) -> Simulated:
    """As in bench/domain.py, where `behind` events are under way at most, and everybody shares the cores."""
    return Machine(kind, matching, agents, cores, ingress).run(events, behind)


# --- against reality -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    what: str
    model: float
    simulation: float | None
    measured: float

    @property
    def off(self) -> float:
        """The greater of the two differences, as a part of what was measured."""
        found = [self.model] if self.simulation is None else [self.model, self.simulation]
        return max(abs(one / self.measured - 1) for one in found)


def compare(results: Sequence[Result], cores: int, ingress: int) -> Iterator[Compared]:
    """What a run of bench/domain.py says beside model and simulation, at the speed that RabbitMQ alone had in it."""
    alone = [one for one in results if not one.agents]
    slower = statistics.median(one.broker / alone_event(one.kind, one.matching) for one in alone)
    yield Compared("this machine, as slow as the table's (times)", slower, None, slower)
    for one in results:
        if not one.agents:
            continue
        case = f"{one.agents} agents, {one.kind}, {one.matching} matching: "
        model = at_most(cores, one.kind, one.matching, one.agents, ingress) / slower
        simulated = simulate(one.kind, one.matching, one.agents, cores=cores, ingress=ingress, events=6_000).rate / slower
        yield Compared(f"{case}us of agents", agent_event(one.matching) * slower, None, one.agent)
        yield Compared(f"{case}us of the broker", broker_event(one.kind, one.matching) * slower, None, one.broker)
        yield Compared(f"{case}events/s at most", model, simulated, one.at_most)


def check() -> int:
    chosen = ["--agents", "1,2", "--kinds", "live", "--events", "12000", "--seconds", "3"]
    arguments = parser().parse_args(chosen)
    broker, results = run(arguments)
    print(f"{broker}: python {_DOMAIN} {' '.join(chosen)}\n")
    print(f"{'':44}{'model':>10}{'simulated':>11}{'measured':>10}{'off by':>9}")
    worst = 0.0
    for one in compare(results, os.cpu_count() or 1, arguments.ingress):
        worst = max(worst, one.off)
        simulated = "" if one.simulation is None else f"{one.simulation:,.1f}"
        print(f"{one.what:44}{one.model:10,.1f}{simulated:>11}{one.measured:10,.1f}{one.off:9.0%}")
    print(f"\nat most {worst:.0%} off; {TOLERANCE:.0%} are allowed: {'met' if worst <= TOLERANCE else 'MISSED'}")
    return int(worst > TOLERANCE)


def show(load: Load) -> None:
    found, gib = size(load), 2**30
    print(f"{load.subscribers:,} {load.kind} subscriptions, {load.events:,.0f} events/s, each for {load.matching:g} of them\n")
    rows = [
        ("agents", f"{found.agents}" if found.possible else "none are enough", f"none busier than {BUSY:.0%}, one core each"),
        ("  cores of the agents", f"{found.agent_cores:.1f}", "events and upkeep"),
        ("  upkeep of every agent", f"{found.upkeep:.0%}", "of a core: leases, heartbeats"),
        ("  memory of every agent", f"{found.agent_bytes / gib:.1f} GiB", "every agent has every subscription"),
        ("  until one has joined", f"{found.load_seconds:.0f} s", "of indexing"),
        ("cores of the broker", f"{found.broker_cores:.1f}", "in use; on all nodes"),
        ("  memory of the broker", f"{found.broker_bytes / gib:.0f} GiB", "queues, and a connection for each"),
        ("ingress queues", f"{found.ingress}", f"broker.ingress; {SLOTS} at most"),
        ("renewals", f"{found.renewals:,.0f}/s", "commands, if every subscriber has a client of its own"),
    ]
    for what, value, why in rows:
        print(f"{what:26}{value:>18}   {why}")


def costs_table() -> str:
    """The costs as docs/scale.md shows them."""
    rows = [f"| {cost.what} | {cost.value:,.6g} | {cost.unit} | `{cost.command}` |" for cost in COSTS.values()]
    return "\n".join(["| what | | | shown by `python ...` |", "|---|---:|---|---|", *rows])


def main() -> int:
    parsed = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsed.add_argument("--subscribers", type=int, default=1_000_000, metavar="N", help="subscriptions (default 1,000,000)")
    parsed.add_argument("--events", type=float, default=100_000.0, metavar="E", help="events a second (default 100,000)")
    parsed.add_argument("--matching", type=float, default=1.0, metavar="M", help="subscriptions that an event is for (default 1)")
    parsed.add_argument("--kind", choices=list(KINDS), default="live")
    parsed.add_argument("--replicas", type=int, default=1, metavar="R", help="of a quorum queue (default 1)")
    parsed.add_argument("--costs", action="store_true", help="print the table of costs instead")
    parsed.add_argument("--check", action="store_true", help="measure, and compare")
    given = parsed.parse_args()
    if given.check:
        return check()
    if given.costs:
        print(costs_table())
    else:
        show(Load(given.events, given.subscribers, given.matching, given.kind, given.replicas))
    return 0


if __name__ == "__main__":
    sys.exit(main())
