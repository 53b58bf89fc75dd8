"""`clacks consume`: events as they come, for people or for the next program in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ..common.errors import ClacksError
from .bus import on_bus, url_option
from .command import SIZE, TIME, Command, json_option
from .filter import filter_text
from .output import console, counted, print_json, printable, printable_xml, styled

if TYPE_CHECKING:
    from ..common.components.client import BusClient, EventStream
    from ..common.components.received import ReceivedEvent


@click.command(
    cls=Command,
    examples="""
        clacks consume
        clacks consume "/*:Event/*:PhoneStatus[*:Status = 'busy']"
        clacks consume filter.xq
        clacks consume --event PuppetReport "//*:Level = ('err', 'crit')"
        clacks consume --event UserSession --count 1 --timeout 1m --format xml
        clacks consume --format json | jq .content.Status
        clacks consume --durable billing --event AsteriskNotification
        clacks consume --durable audit --max-age 7d --max-bytes 1G
        clacks consume --shared workers
        clacks consume --durable jobs --shared jobs
        clacks consume --dead-letters
    """,
)
@click.argument("query", metavar="[QUERY|FILE]", required=False)
@click.option("--event", metavar="NAME", help="Only events of this name.")
@click.option("--count", metavar="N", type=click.IntRange(1), help="End after N events.")
@click.option("--timeout", metavar="T", type=TIME, help="End after this time; 30s, 15m, 12h, 7d, or seconds.")
@click.option(
    "--format", "form", type=click.Choice(["pretty", "xml", "json"]), default="pretty", show_default=True,
    help="xml and json print one event a line; json adds what the bus knows about it.",
)  # fmt: skip
@click.option("--durable", metavar="NAME", help="Keep events under this name on the agent's disk, also while nobody consumes.")
@click.option("--shared", metavar="NAME", help="Share the events with all who use this name. With --durable: the same name.")
@click.option("--max-age", metavar="T", type=TIME, help="Durable: drop what is older; 30s, 15m, 12h, 7d, or seconds.")
@click.option("--max-bytes", metavar="B", type=SIZE, help="Durable: drop the oldest when more waits; 64M, 1G (MiB, GiB), or bytes.")
@click.option(
    "--overflow", type=click.Choice(["drop-oldest", "detach", "block-publisher", "refuse"]),
    help="What happens when more waits than may; refuse is for durable ones, detach and block-publisher are for others.",
)  # fmt: skip
@click.option("--replace", is_flag=True, help="Give a subscription that exists this filter and these terms. What waits stays.")
@click.option("--dead-letters", is_flag=True, help="Print your dead letters with the reason. They stay where they are.")
@url_option
@json_option
def consume(
    query: str | None, event: str | None, count: int | None, timeout: float | None, form: str, dead_letters: bool, url: str, as_json: bool,
    **keep: Any,
) -> None:  # fmt: skip
    """Print events as they come.

    Those that QUERY (XQuery) matches, or all of them, until Ctrl-C. What names an existing file is that file, - is the standard input.

    The context of QUERY is the event's document; `*:Event` stands for the name Event in whatever namespace.

    A durable subscription stays after the end, and events wait for it: `clacks subscriptions delete NAME` deletes it.

    With --timeout the exit code is 6 if no event came until then, or with --count fewer than that.
    """
    _check(keep)
    if dead_letters and (query is not None or event or any(keep.values())):
        raise click.UsageError("--dead-letters are one queue of yours: leave out the filter, --event, and what says how events are kept.")
    xquery = None if query is None else filter_text(query)

    async def work(bus: BusClient) -> None:
        import asyncio

        seen = 0
        async with _events(bus, xquery, event, keep, dead_letters) as events:
            show = await _printer("json" if as_json else form, bus)
            if sys.stderr.isatty():
                stays = f". The subscription {keep['durable']} stays until `clacks subscriptions delete {keep['durable']}`"
                click.echo(styled(f"listening on {bus.urls[0]}, Ctrl-C ends{stays if keep['durable'] else ''}", dim=True), err=True)
            try:
                async with asyncio.timeout(timeout):
                    async for received in events:
                        if received.dropped:
                            were = "was" if received.dropped == 1 else "were"
                            lost = f"{counted(received.dropped, 'event')} {were} dropped before this one"
                            click.echo(f"note: {lost}: more waited than may", err=True)
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


def _check(keep: dict[str, Any]) -> None:
    """What the agent would refuse in words of the wire. Raises click.UsageError."""
    durable, shared = keep["durable"], keep["shared"]
    if "" in (durable, shared):  # a variable of a script that is not set must not make a live subscription of a durable one
        raise click.UsageError("A subscription that is kept or shared has a name, and this one is empty.")
    if durable and shared and durable != shared:
        raise click.UsageError(f"A subscription has one name. Give --durable {durable} --shared {durable}.")
    for option in ("max_age", "max_bytes"):
        if keep[option] is not None and not durable:
            raise click.UsageError(f"--{option.replace('_', '-')} is for durable subscriptions. Give --durable NAME too.")
    if keep["replace"] and not (durable or shared):
        raise click.UsageError("What is to be replaced? Give its name with --durable or --shared.")
    if keep["overflow"] == "block-publisher" and not shared:
        raise click.UsageError("Who may slow publishers down is said by name: give --shared NAME.")


def _events(bus: BusClient, xquery: str | None, event: str | None, keep: dict[str, Any], dead_letters: bool) -> EventStream:
    from ..common.components.client import Keep

    if dead_letters:
        return bus.events(dead_letters="look")
    return bus.events(xquery, event=event, keep=Keep(**{key: value for key, value in keep.items() if value}))


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
    click.echo(printable_xml(etree.tostring(event.tree, encoding="unicode").replace("\n", "&#10;")))


def _print_pretty(event: ReceivedEvent) -> None:
    from lxml import etree

    time = f"{event.time.astimezone():%H:%M:%S}" if event.time else ""
    properties = "".join(f" {key}={value}" for key, value in event.properties.items())
    if event.attempts:
        properties += f" (delivered before: {event.attempts})"
    head = styled(f"{time} {event.name}", fg="green", bold=True)
    click.echo(f"{head} from {printable(event.user)}{styled(printable(properties), dim=True)}")
    if event.dead_reason:
        died = f"of {event.dead_subscription}: {event.dead_reason}"
        click.echo(f"{styled('dead letter', fg='red', bold=True)} {printable(died)}")
    text = printable_xml(etree.tostring(event.tree, encoding="unicode", pretty_print=True))
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
            click.echo(printable(f"note: {record.getMessage()}" + (f": {reason}" if reason else "")), err=True)

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
