"""How many events go through, what one costs, and how long it takes, beside the same engine as a bare relay and a `Container` broker.

    python bench/relay.py                              one publisher, one subscriber, no filter
    python bench/relay.py --filters 1,100,10000        so many subscribers, each with a filter of its own; one of them gets each event
    python bench/relay.py --filters 1,100000 --receivers 1   the same, and it is always the same one
    python bench/relay.py --subscribers 1000           every event to so many subscribers

Publisher, subscribers and broker are processes of their own; all three brokers meet the same clients and the same messages, in turns.
CPU time is the broker's alone, from the start of a run to its end. Latency is measured at half the rate that was measured before, from the
call that sends to the call that receives. An event is through when its subscribers have it and its publisher's delivery is settled.

Events for many receivers cost more than events for one: each receiver's links and queues are memory that the processor's caches have lost
since its last event. `--receivers` keeps their number, so that what is left of a difference comes from the filters that wait.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from processes import BENCH, Client, Server, agent, percentile

ADDRESS = "org.clacks"
NAMESPACE = "http://www.gonicus.de/Events"
STAMP = "5374616d70486572"  # sixteen digits that a publisher replaces by the time of sending

# Expected of a run on the machine that the design was measured on; ratios of CPU time per event, so mostly independent of the machine.
OF_THE_BARE_RELAY = 0.4
OVER_THE_CONTAINER = 7.0
MICROSECONDS_PER_DELIVERY = 4.0
MANY = 100  # subscribers from which the cost of a delivery says something
MANY_ATTACHES = 10_000  # from which an attach's cost says something: each connection's password takes as long as some hundred of them


def body(number: int) -> str:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Event xmlns="{NAMESPACE}">\n  <PhoneStatus>\n    <CallerId>{STAMP}</CallerId>\n'
        f"    <ReceiverId>{number:08d}</ReceiverId>\n    <Status>busy</Status>\n  </PhoneStatus>\n</Event>\n"
    )


def filter_of(number: int) -> str:
    return f"declare namespace f='{NAMESPACE}'; ./f:Event/f:PhoneStatus[f:ReceiverId = '{number:08d}']"


@dataclass
class Result:
    """One broker's figures: events a second, microseconds of CPU per event and per delivery, milliseconds of latency at half load."""

    broker: str
    filters: int
    subscribers: int
    events: int
    rate: float
    cpu_per_event: float
    cpu_per_delivery: float
    p50: float
    p99: float
    lost: int
    cpu_per_attach: float


class Run:
    """One broker with its clients, connected; `measure` may be called again."""

    def __init__(self, name: str, server: Server, arguments: argparse.Namespace, filters: int) -> None:
        self.name, self.filters, self.arguments = name, filters, arguments
        self.server = server
        self.copies = 1 if filters else arguments.subscribers  # deliveries of each event
        numbers = list(range(filters)) or [0]
        texts = [filter_of(number) for number in numbers] if filters else [None] * arguments.subscribers
        chance = random.Random(arguments.seed)
        receivers = chance.sample(numbers, min(arguments.receivers, len(numbers)))
        chosen = chance.choices(receivers, k=min(1000, 10 * len(receivers)))
        self.stack = ExitStack()
        before = server.cpu
        subscribing = {"address": ADDRESS, "filters": texts, "connections": arguments.connections, "settled": arguments.settled}
        self.subscribers = self.stack.enter_context(Client(server, "subscribers", before="<CallerId>", **subscribing))
        self.attach_cost = (server.cpu - before) / len(texts) * 1e6
        publishing = {"address": ADDRESS, "bodies": [body(number) for number in chosen], "stamp": STAMP}
        self.publisher = self.stack.enter_context(Client(server, "publisher", **publishing))
        self.rates: list[float] = []
        self.costs: list[float] = []
        self.latencies: list[float] = []
        self.events = self.lost = 0

    def _through(self, latencies: bool = False, **run: Any) -> tuple[int, float, float]:
        """Publish and wait until all has arrived: events, seconds, and the broker's CPU seconds."""
        self.subscribers.ask(do="reset", latencies=latencies)
        before = self.server.cpu
        told = self.publisher.ask(**run)
        got = self.subscribers.ask(do="wait", deliveries=told["accepted"] * self.copies)
        cpu = self.server.cpu - before
        if told["refused"]:
            raise SystemExit(f"{self.name} refused events: {told['refused']}")
        self.lost += told["accepted"] * self.copies - got["count"]
        self.latencies += got["latencies"] or ()
        return told["sent"], (got["last"] - told["begin"]) / 1e9, cpu

    def warm_up(self) -> None:
        self._through(events=max(20, 2000 // self.copies), seconds=2.0)

    def measure(self) -> None:
        events, seconds, cpu = self._through(events=max(20, self.arguments.events // self.copies), seconds=self.arguments.seconds)
        self.events += events
        self.rates.append(events / seconds)
        self.costs.append(cpu / events * 1e6)

    def measure_latency(self) -> None:
        rate = statistics.median(self.rates) / 2
        seconds = min(2.0, self.arguments.seconds)
        self._through(latencies=True, events=max(20, int(rate * seconds)), seconds=2 * seconds, rate=rate)

    def result(self) -> Result:
        self.latencies.sort()
        cost = statistics.median(self.costs)
        return Result(
            self.name, self.filters, self.filters or self.copies, self.events, statistics.median(self.rates), cost, cost / self.copies,
            percentile(self.latencies, 0.5), percentile(self.latencies, 0.99), self.lost, self.attach_cost,
        )  # fmt: skip


def measure(arguments: argparse.Namespace) -> list[Result]:
    brokers = {"agent": None, "bare relay": "bare_relay.py", "Container broker": "container_broker.py"}
    with ExitStack() as stack:
        runs = []
        for filters in arguments.filters:
            for name, script in brokers.items():
                if script is not None and filters:
                    continue  # they know no filters
                if name == "Container broker" and arguments.subscribers >= MANY:
                    continue  # it would keep its clients waiting beyond their idle time-out
                if name in arguments.without:
                    continue
                state = stack.enter_context(tempfile.TemporaryDirectory())
                server = stack.enter_context(Server(str(BENCH / script)) if script else agent(state))
                runs.append(Run(name, server, arguments, filters))
                stack.enter_context(runs[-1].stack)
        for run in runs:
            run.warm_up()
        for _ in range(arguments.rounds):
            for run in runs:
                run.measure()
        for run in runs:
            run.measure_latency()
        return [run.result() for run in runs]


def goals(results: Sequence[Result]) -> list[tuple[str, float, str, bool]]:
    """What is expected, what was measured, and whether it is met."""
    plain = {result.broker: result for result in results if not result.filters}
    ours = plain.get("agent")
    lines = []
    if ours is not None and ours.subscribers >= MANY:
        cost = ours.cpu_per_delivery
        lines.append(("CPU per delivery, us", cost, f"<= {MICROSECONDS_PER_DELIVERY:g}", cost <= MICROSECONDS_PER_DELIVERY))
    elif ours is not None:
        if "bare relay" in plain:
            ratio = plain["bare relay"].cpu_per_event / ours.cpu_per_event
            lines.append(("of the bare relay's efficiency", ratio, f">= {OF_THE_BARE_RELAY:g}", ratio >= OF_THE_BARE_RELAY))
        if "Container broker" in plain:
            ratio = plain["Container broker"].cpu_per_event / ours.cpu_per_event
            lines.append(("times the Container broker's efficiency", ratio, f">= {OVER_THE_CONTAINER:g}", ratio >= OVER_THE_CONTAINER))
    return lines


def show(results: Sequence[Result], arguments: argparse.Namespace) -> None:
    settled = "settled" if arguments.settled else "unsettled"
    print(
        f"{arguments.rounds} rounds of {arguments.events} events (at most {arguments.seconds:g} s), {len(body(0))} bytes each; deliveries"
        f" {settled}; seed {arguments.seed}; CPython {platform.python_version()}, {os.cpu_count()} cores\n"
    )
    head = f"{'broker':18}{'filters':>9}{'subscribers':>13}{'events/s':>11}{'us/event':>10}{'us/delivery':>13}{'p50 ms':>9}{'p99 ms':>9}"
    print(head + "\n" + "-" * len(head))
    for one in results:
        print(
            f"{one.broker:18}{one.filters:9}{one.subscribers:13}{one.rate:11,.0f}{one.cpu_per_event:10.1f}{one.cpu_per_delivery:13.2f}"
            f"{one.p50:9.2f}{one.p99:9.2f}" + (f"   {one.lost} LOST" if one.lost else "")
        )
    for one in results:
        if one.subscribers >= MANY_ATTACHES:
            print(f"\n{one.broker}, {one.subscribers} subscribers: {one.cpu_per_attach:.0f} us of CPU per attach")
    print()
    for what, found, expected, met in goals(results):
        print(f"{what:42}{found:8.2f}   expected {expected:8}{'met' if met else 'MISSED'}")


def main() -> int:
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filters", type=numbers, default=[0], metavar="N[,N...]", help="subscribers with a filter each; 0: without")
    parser.add_argument("--subscribers", type=int, default=1, metavar="M", help="subscribers without a filter; each gets every event")
    parser.add_argument("--connections", type=int, default=10, metavar="N", help="that the subscribers share (default 10)")
    parser.add_argument("--receivers", type=int, default=1000, metavar="N", help="with a filter that get events at all (default 1,000)")
    parser.add_argument("--events", type=int, default=50_000, metavar="E", help="per round, divided by the subscribers (default 50,000)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="after which a round ends (default 3)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of which the medians are shown (default 3)")
    parser.add_argument("--settled", action="store_true", help="subscribers ask for deliveries that are settled already")
    parser.add_argument("--without", action="append", default=[], metavar="BROKER", help="leave one out, as 'Container broker'")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    results = measure(arguments)
    if arguments.json:
        lines = [{"what": what, "found": found, "expected": expected, "met": met} for what, found, expected, met in goals(results)]
        json.dump({"arguments": vars(arguments), "results": [asdict(one) for one in results], "goals": lines}, sys.stdout, indent=2)
        print()
    else:
        show(results, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
