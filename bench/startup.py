"""How long a user waits: an agent until it serves, `sendEvent` against a running agent, `clacks --help`; medians over whole processes.

python bench/startup.py --runs 20
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from processes import agent

# Milliseconds. An agent that is restarted is missed for less than half a second; a command that answers within a quarter feels immediate.
READY = 400.0
SEND_EVENT = 250.0
HELP = 250.0

EVENT = ("PhoneStatus", "CallerId=012345", "ReceiverId=12343424", "Status=busy")


def program(name: str) -> str:
    """An installed command of the interpreter that runs this."""
    return str(Path(sys.executable).with_name(name))


def timed(*command: str, **environment: str) -> float:
    begin = time.monotonic()
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    took = time.monotonic() - begin
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return took


def ready(state_dir: str) -> float:
    begin = time.monotonic()
    with agent(state_dir):
        return time.monotonic() - begin


def first_ready() -> float:
    """With its state folder empty, as after the installation: it makes a certificate too."""
    with tempfile.TemporaryDirectory() as state_dir:
        return ready(state_dir)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, metavar="N", help="of each (default 10)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as state_dir, agent(state_dir) as running:
        url = f"amqp://admin:secret@{running.host}:{running.port}/org.clacks"
        rows: list[tuple[str, float | None, Callable[[], float]]] = [
            ("python -c pass", None, lambda: timed(sys.executable, "-c", "pass")),
            ("clacks --help", HELP, lambda: timed(program("clacks"), "--help")),
            ("sendEvent", SEND_EVENT, lambda: timed(program("sendEvent"), *EVENT, CLACKS_URL=url)),
            ("clacks-agent, first start", None, first_ready),
            ("clacks-agent, ready", READY, lambda: ready(state_dir)),
        ]
        found = {}
        for what, goal, run in rows:
            run()  # the first one reads the files from the disk
            times = sorted(run() * 1000 for _ in range(arguments.runs))
            found[what] = {"median": statistics.median(times), "least": times[0], "most": times[-1], "goal": goal, "runs": len(times)}
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    head = f"{'milliseconds':28}{'median':>9}{'least':>9}{'most':>9}{'goal':>9}"
    print(head + "\n" + "-" * len(head))
    for what, one in found.items():
        goal = one["goal"]
        verdict = "" if goal is None else f"{goal:9.0f}   {'met' if one['median'] <= goal else 'MISSED'}"
        print(f"{what:28}{one['median']:9.0f}{one['least']:9.0f}{one['most']:9.0f}{verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
