"""`clacks`: the group of the commands that look at a bus."""

from __future__ import annotations

import click

from .command import Group, version_option


@click.group(
    cls=Group,
    examples="""
        clacks demo
        export CLACKS_URL=amqp://admin:secret@localhost/org.clacks
        clacks status
        clacks consume "/*:Event/*:PhoneStatus[*:Status = 'busy']"
        clacks schemas PhoneStatus
        clacks call getNodes
        clacks user add anna
    """,
)
@version_option("clacks")
def clacks() -> None:
    """Clacks, an event bus for infrastructure: look at it from a shell.

    `clacks demo` shows the main job in seconds. An agent is run by `clacks-agent`, an event published by `sendEvent`.

    CLACKS_URL names the agent for all of them.

    Exit codes: 0 done, 1 failed, 2 usage, 3 the event is invalid, 4 not permitted, 5 no agent can be reached, 6 nothing arrived in time.
    """
