"""`clacks demo`: the main job in one terminal. An agent, a consumer and a publisher in this process, over real connections on loopback.

The agent lives in this process so that nothing can be left behind, however the demo ends: no child, no user, no file of this machine's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ..common.errors import ClacksError
from .command import Command
from .output import print_error, styled

if TYPE_CHECKING:
    from ..common.components.client import BusClient, EventStream

FILTER: Final = "/*:Event/*:PhoneStatus[*:Status = 'busy']"
# What is published, and whether the filter matches it: None for an event that the agent refuses.
SENT: Final = (
    (("CallerId=012345", "ReceiverId=12343424", "Status=ringing"), False),
    (("CallerId=012345", "ReceiverId=12343424", "Status=busy"), True),
    (("CallerId=012345", "State=busy"), None),
)

# Everything is on this machine; what takes longer has gone wrong.
SECONDS: Final = 30


@click.command(cls=Command, examples="clacks demo")
def demo() -> None:
    """Show what Clacks does, in seconds.

    An agent, a consumer with a filter and a publisher of a few events run in this terminal. The agent listens on a free
    loopback port with a password made up on the spot. Nothing of yours is used, it ends by itself, and it leaves nothing behind.
    """
    import asyncio
    import tempfile

    with tempfile.TemporaryDirectory(prefix="clacks-demo-") as folder:
        asyncio.run(_demo(Path(folder)))


async def _demo(folder: Path) -> None:
    import asyncio
    import secrets

    from ..agent.access import ADMINISTRATORS
    from ..agent.agent import Agent
    from ..agent.config import load
    from ..agent.users import UserBook, make_user
    from ..common.components.client import BusClient

    password = secrets.token_urlsafe(12)
    config = load(None, {"listen": ["localhost:0"], "state_dir": folder, "drain_timeout": 1}, {})
    agent = Agent(config, UserBook({"demo": make_user("demo", password, [ADMINISTRATORS])}))
    try:
        async with asyncio.timeout(SECONDS):
            [url] = await agent.start()
            _step("An agent serves the bus.", "clacks-agent --demo")
            click.echo(f"  ready {url}")
            there = url.replace("://", f"://demo:{password}@")
            async with BusClient(there) as consumer, BusClient(there) as publisher, consumer.events(FILTER) as events:
                _step("A consumer says in XQuery which events it wants: phones that are busy.", f'clacks consume "{FILTER}"')
                click.echo("  listening")
                for fields, matches in SENT:
                    await _publish(publisher, events, fields, matches)
    finally:
        await agent.close()
    click.echo("\nThat was it; the agent has stopped. To go on, type the commands above (the agent in a terminal of its own), after")
    click.echo(styled("  export CLACKS_URL=amqp://admin:secret@localhost/org.clacks", bold=True))


async def _publish(publisher: BusClient, events: EventStream, fields: tuple[str, ...], matches: bool | None) -> None:
    from lxml import etree

    from .fields import build_event

    said = "This one does not fit its schema, so nobody gets it." if matches is None else "An event is published."
    _step(said, f"sendEvent PhoneStatus {' '.join(fields)}")
    try:
        await publisher.send(build_event("PhoneStatus", fields))
    except ClacksError as error:
        print_error(error, err=False, indent="  ")
        return
    click.echo("  accepted: PhoneStatus")
    if not matches:
        click.echo("  The consumer does not get it: its filter does not match.")
        return
    event = await anext(events)  # the first one that comes is this one, so the one before did not
    click.echo(f"  The consumer gets, from {event.user}:")
    text = etree.tostring(event.tree, encoding="unicode", pretty_print=True)
    click.echo(styled("".join(f"    {line}\n" for line in text.splitlines()), fg="green"), nl=False)


def _step(said: str, typed: str) -> None:
    click.echo(f"\n{said}\n  {styled('$ ' + typed, bold=True)}")
