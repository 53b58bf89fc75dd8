"""`clacks consume`: events as they come, for people or for the next program in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ..common.errors import ClacksError
from .bus import on_bus, url_option
from .command import Command, json_option
from .output import console, print_json, styled

if TYPE_CHECKING:
    from ..common.components.client import BusClient
    from ..common.components.received import ReceivedEvent


@click.command(
    cls=Command,
    examples="""
        clacks consume
        clacks consume "/*:Event/*:PhoneStatus[*:Status = 'busy']"
        clacks consume --event PuppetReport "//*:Level = ('err', 'crit')"
        clacks consume --event UserSession --count 1 --timeout 60 --format xml
        clacks consume --format json | jq .content.Status
    """,
)
@click.argument("xquery", required=False)
@click.option("--event", metavar="NAME", help="Only events of this name.")
@click.option("--count", metavar="N", type=click.IntRange(1), help="End after N events.")
@click.option("--timeout", metavar="S", type=click.FloatRange(min=0, min_open=True), help="End after S seconds.")
@click.option(
    "--format", "form", type=click.Choice(["pretty", "xml", "json"]), default="pretty", show_default=True,
    help="xml and json print one event a line; json adds what the bus knows about it.",
)  # fmt: skip
@url_option
@json_option
def consume(xquery: str | None, event: str | None, count: int | None, timeout: float | None, form: str, url: str, as_json: bool) -> None:
    """Print events as they come.

    Those that XQUERY matches, or all of them, until Ctrl-C.

    The context of XQUERY is the event's document; `*:Event` stands for the name Event in whatever namespace.

    With --timeout the exit code is 6 if no event came until then, or with --count fewer than that.
    """

    async def work(bus: BusClient) -> None:
        import asyncio

        seen = 0
        async with bus.events(xquery, event=event) as events:
            show = await _printer("json" if as_json else form, bus)
            if sys.stderr.isatty():
                click.echo(styled(f"listening on {bus.urls[0]}, Ctrl-C ends", dim=True), err=True)
            try:
                async with asyncio.timeout(timeout):
                    async for received in events:
                        show(received)
                        seen += 1
                        if seen == count:
                            return
            except TimeoutError as error:
                if not seen or count:
                    found = f"{seen} of {count} events" if seen else "No event"
                    raise ClacksError("nothing-arrived", found=found, seconds=timeout) from error

    try:
        with _notes():
            on_bus(url, work)
    except KeyboardInterrupt:
        if sys.stdout.isatty():
            click.echo()  # after the terminal's ^C


async def _printer(form: str, bus: BusClient) -> Callable[[ReceivedEvent], None]:
    if form == "xml":
        return _print_xml
    if form == "pretty":
        return _print_pretty
    from .projection import Projection

    try:
        projection = Projection(await bus.call("getEvents"))
    except ClacksError as error:
        click.echo(f"note: every value is text, since the schemas are not known: {error}", err=True)
        projection = Projection([])
    return lambda event: print_json(projection.of(event), indent=None)


def _print_xml(event: ReceivedEvent) -> None:
    from lxml import etree

    # A line break in a text is the same text as &#10;, and an event is one line.
    click.echo(etree.tostring(event.tree, encoding="unicode").replace("\n", "&#10;"))


def _print_pretty(event: ReceivedEvent) -> None:
    from lxml import etree

    time = f"{event.time.astimezone():%H:%M:%S}" if event.time else ""
    properties = "".join(f" {key}={value}" for key, value in event.properties.items())
    click.echo(f"{styled(f'{time} {event.name}', fg='green', bold=True)} from {event.user}{styled(properties, dim=True)}")
    text = etree.tostring(event.tree, encoding="unicode", pretty_print=True)
    if sys.stdout.isatty():
        from rich.syntax import Syntax

        console().print(Syntax(text, "xml", theme="ansi_dark", background_color="default", word_wrap=True))
    else:
        click.echo(text)


@contextmanager
def _notes() -> Iterator[None]:
    """The client library connects again by itself and logs it; meanwhile its log is what people are told."""
    import logging

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            reason: Any = getattr(record, "reason", "")
            click.echo(f"note: {record.getMessage()}" + (f": {reason}" if reason else ""), err=True)

    logger, handler = logging.getLogger("clacks"), Notes()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel("INFO")
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
