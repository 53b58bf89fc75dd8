"""What a bystander feels of a hostile publisher: the latency of small valid events at a steady rate, without and with each kind of attack.

    python bench/hostile.py                       every kind, two seconds each
    python bench/hostile.py --kinds values,depth  those whose name has one of these in it

One process attacks in a loop with the messages of tests/hostility.py; `refused` says how often and as what. So that the agent is measured
and not the scheduler, the attacker gets what CPU time is left and the bystander what it asks for (as root; else its latency on few
cores has the scheduler's share in it). `flood`, nothing but valid events as fast as they are taken, shows what mere load does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass

from processes import BENCH, Client, agent, percentile
from relay import ADDRESS, NAMESPACE, STAMP, body

sys.path.append(str(BENCH.parent / "tests"))
import hostility

# Milliseconds above its usual latency that a bystander may feel: what one turn of the agent's loop may take.
GOAL = 5.0
FLOOD = f'<Event xmlns="{NAMESPACE}"><ClientLeave><Id>c-1</Id></ClientLeave></Event>'
KINDS = ("flood", *hostility.ENDLESS, *(kind.name for kind in hostility.KINDS))


@dataclass
class Row:
    """The bystander's latency in milliseconds, what came of the attack, and the agent's memory afterwards in megabytes."""

    kind: str
    p50: float
    p99: float
    most: float
    lost: int
    refused: dict[str, int]
    memory: float


def measure(arguments: argparse.Namespace) -> list[Row]:
    chosen = [kind for kind in KINDS if any(part in kind for part in arguments.kinds.split(","))]
    with tempfile.TemporaryDirectory() as state, agent(state) as server:
        subscribing = {"address": f"{ADDRESS}.event.PhoneStatus", "filters": [None], "connections": 1, "settled": False}
        publishing = {"address": ADDRESS, "bodies": [body(0)], "stamp": STAMP}
        with (
            Client(server, "subscribers", nice=-10, before="<CallerId>", **subscribing) as subscriber,
            Client(server, "publisher", nice=-10, **publishing) as publisher,
            Client(server, "attacker", nice=10, address=ADDRESS, flood=FLOOD) as attacker,
        ):

            def run(kind: str) -> Row:
                subscriber.ask(do="reset", latencies=True)
                events = int(arguments.rate * arguments.seconds)
                if kind:
                    attacker.ask(kind=kind, under_way=1000 if kind == "flood" else arguments.under_way)
                    attacker.start(kind=kind, seconds=arguments.seconds)
                told = publisher.ask(events=events, seconds=10 * arguments.seconds, rate=arguments.rate)
                refused = attacker.answer() if kind else {}
                got = subscriber.ask(do="wait", deliveries=told["accepted"])
                times = sorted(got["latencies"])
                return Row(
                    kind or "(nobody attacks)", percentile(times, 0.5), percentile(times, 0.99), times[-1],
                    told["sent"] - got["count"], refused, server.memory / 1e6,
                )  # fmt: skip

            run("")
            return [run(""), *(run(kind) for kind in chosen), run("")]


def show(rows: list[Row], arguments: argparse.Namespace) -> None:
    usual = max(rows[0].p99, rows[-1].p99)
    print(
        f"{arguments.rate:g} events/s for {arguments.seconds:g} s beside each attack, {arguments.under_way} hostile messages under way;"
        f" {os.cpu_count()} cores; usual p99 {usual:.2f} ms, goal {GOAL:g} ms more\n"
    )
    head = f"{'attack':38}{'p50 ms':>8}{'p99 ms':>9}{'max ms':>9}{'MB':>7}  refused"
    print(head + "\n" + "-" * (len(head) + 20))
    for row in rows:
        refused = ", ".join(f"{count} {code}" for code, count in row.refused.items())
        verdict = "" if row.p99 <= usual + GOAL else "   MISSED"
        lost = f"   {row.lost} LOST" if row.lost else ""
        print(f"{row.kind:38}{row.p50:8.2f}{row.p99:9.2f}{row.most:9.2f}{row.memory:7.0f}  {refused}{lost}{verdict}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default="", metavar="PART[,PART...]", help="only those with one of these in their name")
    parser.add_argument("--rate", type=float, default=200.0, metavar="N", help="the bystander's events a second (default 200)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="of each attack (default 2)")
    parser.add_argument("--under-way", type=int, default=4, metavar="N", help="hostile messages sent ahead of their refusal (default 4)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    rows = measure(arguments)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        show(rows, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
