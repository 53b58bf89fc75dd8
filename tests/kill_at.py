"""`clacks-agent` that is killed on its way: `kill_at.py STEP N ARGUMENTS...` starts it, and SIGKILL comes the N-th time it gets to a step.

The steps are those of an event's acceptance and of a consumer's outcome. They are wrapped here, so the product has no hooks for tests.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from typing import Any, Final, NamedTuple

from clacks.agent.broker.journal import Journal
from clacks.agent.broker.store import Store
from clacks.agent.broker.subscription import Consumer
from clacks.agent.bus import Bus
from clacks.amqp.connection import Connection
from clacks.amqp.link import Receiver


class Step(NamedTuple):
    """Before or after a call of `owner.name`; it is come to about `often` times in a second of the machine's load."""

    owner: type
    name: str
    before: bool
    often: int


STEPS: Final = {
    "examined": Step(Bus, "examine", False, 300),
    "matched": Step(Bus, "publish", False, 300),
    "about to write": Step(Store, "write", True, 20),
    "on the disk": Step(Store, "write", False, 20),
    "the loop hears of it": Step(Journal, "_written", True, 20),
    "about to accept": Step(Receiver, "settle", True, 300),
    "accepted": Step(Receiver, "settle", False, 300),
    "about to flush": Step(Connection, "_flush", True, 80),
    "flushed": Step(Connection, "_flush", False, 80),
    "an outcome came in": Step(Consumer, "outcome", False, 800),
}


def arm(step: Step, place: int) -> None:
    """Die at the `place`-th time."""
    plain: Callable[..., Any] = getattr(step.owner, step.name)
    calls = count(1)

    @functools.wraps(plain)
    def deadly(*arguments: Any, **named: Any) -> Any:
        last = next(calls) == place
        if last and step.before:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return plain(*arguments, **named)
        finally:
            if last:
                os.kill(os.getpid(), signal.SIGKILL)

    setattr(step.owner, step.name, deadly)


if __name__ == "__main__":
    from clacks.cli.agent import clacks_agent

    name, place, *arguments = sys.argv[1:]
    arm(STEPS[name], int(place))
    clacks_agent(arguments, prog_name="clacks-agent")
