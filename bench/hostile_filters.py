"""What subscribers with cheap filters feel of others whose filters mean harm: their latency, without and beside them, in turns.

    python bench/hostile_filters.py                        everything, five turns
    python bench/hostile_filters.py --kinds ranges,sort    filters whose name has one of these in it

The filters are those of tests/test_xquery_hostile.py. *Dear* ones are let in and evaluated in the sandbox: each of some users subscribes
with all of them, and again as soon as one is suspended. *Refused* ones are tried by each user in a loop, as fast as the agent says no.
*Long* are those of either kind that take long to compile.
The bystanders' clients get the CPU time they ask for and the hostile ones what is left (as root), as if they were on machines of their
own; the agent and its sandbox share the rest as they are. Latency goes from the call that sends to the call that receives.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from clacks.agent.access import ADMINISTRATORS
from clacks.agent.users import make_user, write_users
from processes import BENCH, Client, Server, percentile
from relay import ADDRESS, NAMESPACE, STAMP, body

sys.path.append(str(BENCH.parent / "tests"))
import test_xquery_hostile as hostility

# How much more the bystanders' p99 may be.
GOAL = 1.5
PASSWORD = "secret"
# An attach has to fit into one frame (AMQP 1.0 section 2.3), of which the agent takes 32 KiB.
FRAME = 30_000
# Characters from which a filter is a long one. Shorter ones are compiled, or refused, in less than 2 ms.
MANY = 2_000
# Filters as people write them; all match the event that is published.
CHEAP = (
    f"declare namespace f='{NAMESPACE}'; ./f:Event/f:PhoneStatus[f:ReceiverId = '00000000']",
    "/*:Event/*:PhoneStatus[*:Status = 'busy']",
    "//*:Status = ('busy', 'ringing')",
    "/*:Event/*:PhoneStatus[starts-with(*:ReceiverId, '0000') and string-length(*:CallerId) > 3]",
    "count(//*:PhoneStatus) = 1 and not(//*:Status = 'idle')",
    "//*:PhoneStatus[matches(*:ReceiverId, '^[0-9]{8}$')]",
)
NOBODY, DEAR, REFUSED, LONG, ALL = "nobody", "dear", "refused", "long", "everything"


@dataclass
class Row:
    """One kind of company: the bystanders' latency in each turn in milliseconds, and what became of the hostile filters."""

    company: str
    filters: list[str]
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    lost: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    exceeded: int = 0


def agent(state: Path, users: list[str]) -> Server:
    """An agent with the limits that agents have; every user is known to it."""
    write_users(state / "users.toml", {user: make_user(user, PASSWORD, [ADMINISTRATORS]) for user in users})
    where = ("--listen", "127.0.0.1:0", "--state-dir", str(state), "--node-id", "bench")
    environment = {"HOME": str(state), "XDG_DATA_HOME": str(state), "CLACKS_STATUS_INTERVAL": "86400"}
    return Server("-m", "clacks.cli.agent", *where, user=users[0], password=PASSWORD, **environment)


def measure(arguments: argparse.Namespace) -> list[Row]:
    kinds = {**hostility.DEAR, **hostility.TOO_LARGE, **dict(zip(hostility.OUTSIDE, hostility.OUTSIDE, strict=True))}
    kinds = {name: text for name, text in kinds.items() if len(text) < FRAME and any(part in name for part in arguments.kinds.split(","))}
    everything = {LONG: [text for text in kinds.values() if len(text) >= MANY]}
    everything[DEAR] = [text for name, text in kinds.items() if name in hostility.DEAR and len(text) < MANY]
    everything[REFUSED] = [text for name, text in kinds.items() if name not in hostility.DEAR and len(text) < MANY]
    rows = [Row(NOBODY, []), *(Row(company, everything[company]) for company in (DEAR, REFUSED, LONG)), Row(ALL, list(kinds.values()))]
    rows = [row for row in rows if row.company == NOBODY or any(part in row.company for part in arguments.company.split(","))]
    users = [f"hostile-{number}" for number in range(arguments.users)]
    with tempfile.TemporaryDirectory() as state, agent(Path(state), ["bystander", *users]) as server:
        filters = [CHEAP[number % len(CHEAP)] for number in range(arguments.bystanders)]
        subscribing = {"address": ADDRESS, "filters": filters, "connections": len(filters), "settled": False}
        publishing = {"address": ADDRESS, "bodies": [body(0)], "stamp": STAMP}
        with (
            Client(server, "subscribers", nice=-10, before="<CallerId>", **subscribing) as subscribers,
            Client(server, "publisher", nice=-10, **publishing) as publisher,
            Client(server, "hostile", nice=10, address=ADDRESS, users=users) as hostile,
        ):

            def turn(row: Row, seconds: float) -> None:
                if row.filters:
                    hostile.start(filters=row.filters, seconds=1.5 * seconds)
                subscribers.ask(do="reset", latencies=False)
                told = publisher.ask(events=int(arguments.rate * seconds / 4), seconds=10 * seconds, rate=arguments.rate)
                subscribers.ask(do="wait", deliveries=told["accepted"] * len(filters))  # by then the others have attached
                subscribers.ask(do="reset", latencies=True)
                told = publisher.ask(events=int(arguments.rate * seconds), seconds=10 * seconds, rate=arguments.rate)
                got = subscribers.ask(do="wait", deliveries=told["accepted"] * len(filters))
                if row.filters:
                    row.ends.update(hostile.answer())
                times = sorted(got["latencies"])
                row.p50.append(percentile(times, 0.5))
                row.p99.append(percentile(times, 0.99))
                row.lost += told["sent"] * len(filters) - got["count"]

            turn(Row("warming up", []), arguments.seconds / 2)
            for _ in range(arguments.turns):
                for row in rows:
                    before = server.log.count("filter exceeded its budget")
                    turn(row, arguments.seconds)
                    row.exceeded += server.log.count("filter exceeded its budget") - before
    return rows


def show(rows: list[Row], arguments: argparse.Namespace) -> None:
    print(
        f"{arguments.bystanders} bystanders, {arguments.rate:g} events/s for {arguments.seconds:g} s, {arguments.turns} turns of which the"
        f" medians are shown; {arguments.users} hostile users; {os.cpu_count()} cores\n"
    )
    head = f"{'beside':18}{'filters':>8}{'p50 ms':>9}{'ratio':>7}{'p99 ms':>9}{'ratio':>7}  what became of the filters"
    print(head + "\n" + "-" * (len(head) + 20))
    usual = rows[0]
    for row in rows:
        p50, p99 = (statistics.median(getattr(row, what)) for what in ("p50", "p99"))
        ratios = [statistics.median(getattr(row, what)) / statistics.median(getattr(usual, what)) for what in ("p50", "p99")]
        ends = ", ".join(f"{count} {code}" for code, count in row.ends.items())
        evaluations = f"; {row.exceeded} evaluations exceeded the budget" if row.exceeded else ""
        verdict = "   MISSED" if ratios[1] > GOAL else ""
        lost = f"   {row.lost} LOST" if row.lost else ""
        filters = len(row.filters) * arguments.users
        print(f"{row.company:18}{filters:8}{p50:9.2f}{ratios[0]:7.2f}{p99:9.2f}{ratios[1]:7.2f}  {ends}{evaluations}{lost}{verdict}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default="", metavar="PART[,PART...]", help="only filters with one of these in their name")
    parser.add_argument("--company", default="", metavar="PART[,PART...]", help=f"only beside these: {DEAR}, {REFUSED}, {LONG}, {ALL}")
    parser.add_argument("--bystanders", type=int, default=10, metavar="N", help="subscribers with a cheap filter each (default 10)")
    parser.add_argument("--users", type=int, default=4, metavar="N", help="hostile users, each with all the filters (default 4)")
    parser.add_argument("--rate", type=float, default=200.0, metavar="N", help="events a second (default 200)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="of a turn (default 3)")
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="of each kind (default 5)")
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
