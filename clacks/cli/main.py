"""`clacks`: the group of the commands that look at a bus. Each is in a file of its own and loads what it needs when it runs."""

from __future__ import annotations

import click

from .call import call
from .cert import cert
from .command import Group, version_option
from .consume import consume
from .demo import demo
from .filter import filters
from .migrate import migrate
from .schemas import schemas
from .status import status
from .subscriptions import subscriptions
from .user import user


@click.group(
    cls=Group,
    examples="""
        clacks demo
        export CLACKS_URL=amqp://admin:secret@localhost/org.clacks
        clacks status
        clacks consume "/*:Event/*:PhoneStatus[*:Status = 'busy']"
        clacks filter check "/*:Event/*:PhoneStatus[*:Status = 'busy']"
        clacks consume --durable billing
        clacks subscriptions
        clacks schemas PhoneStatus
        clacks call getNodes
        clacks user add anna
    """,
)
@version_option("clacks")
def clacks() -> None:
    """Clacks, an event bus for infrastructure: look at it from a shell.

    `clacks demo` shows the main job in seconds. `clacks-agent` runs an agent, `sendEvent` publishes an event. CLACKS_URL names the agent
    for all of them.

    Exit codes: 0 done, 1 failed, 2 usage, 3 the event is invalid, 4 not permitted, 5 no agent can be reached, 6 nothing arrived in time.
    """


for command in (call, cert, consume, demo, filters, migrate, schemas, status, subscriptions, user):
    clacks.add_command(command)
