"""`sendEvent`: publish one event from a shell."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ..common.errors import ClacksError
from .bus import on_bus, url_option
from .command import TIME, Command, json_option, version_option
from .output import print_json

if TYPE_CHECKING:
    from ..common.components.client import BusClient

# Seconds: a message's header has milliseconds, in 32 bits (AMQP 1.0 3.2.1).
LONGEST_TTL: Final = (2**32 - 1) / 1000


@click.command(
    cls=Command,
    examples="""
        sendEvent PhoneStatus CallerId=012345 ReceiverId=12343424 Status=busy
        sendEvent AsteriskNotification Call/Type=CallMissed Call/Identity=17 Call/From=012 Call/To=345 Call/Timestamp=2024-05-31T13:20:00Z
        sendEvent UserSession Id=desk-17 User=anna User=berta State=login
        sendEvent --property site=oslo --ttl 5m ClientPoll
        sendEvent --file event.xml
        sendEvent - < event.xml
    """,
)
@click.argument("name", metavar="[NAME|-]", required=False)
@click.argument("fields", metavar="[FIELD=VALUE]...", nargs=-1)
@click.option("--file", metavar="F", type=click.Path(path_type=Path), help="Send the event in this file (XML); - is the standard input.")
@click.option("--property", "properties", metavar="NAME=VALUE", multiple=True, help="An application property; may be given several times.")
@click.option("--ttl", metavar="T", type=TIME, help="Do not deliver it any more after this time; 30s, 15m, 12h, 7d, or seconds.")
@click.option("--dry-run", is_flag=True, help="Print the event's XML and send nothing.")
@click.option(
    "--timeout", metavar="T", type=TIME,
    help="How long to wait until it is accepted; 30s, 15m, 12h, 7d, or seconds. Default: as long as it takes; on a broker 30s.",
)  # fmt: skip
@url_option
@json_option
@version_option("sendEvent")
def send_event(
    name: str | None,
    fields: tuple[str, ...],
    file: Path | None,
    properties: tuple[str, ...],
    ttl: float | None,
    dry_run: bool,
    timeout: float | None,
    url: str,
    as_json: bool,
) -> None:
    """Publish an event and tell what the agent says to it.

    Fields are written in the order of the event's schema, which `clacks schemas NAME` shows. A nested field has its path before the =, an
    attribute an @ in front of its name: Value/@name=load. A field given twice is there twice; what belongs into the second of two
    nested elements says so: NetworkInformation/NetworkDevice[2]/Name=eth1.

    Exit codes: 0 accepted, 2 usage, 3 the event is invalid, 4 not permitted, 5 no agent can be reached, 6 no answer in time.
    """
    if ttl is not None and ttl > LONGEST_TTL:
        raise click.UsageError("An event cannot expire that late. Give a --ttl of 49d at most, or none.")
    body = _event(name, fields, file)
    if dry_run:
        if as_json:
            from ..common.event import to_text

            print_json({"accepted": False, "dry_run": True, "event": _called(name, body), "bytes": len(body), "xml": to_text(body)})
        else:
            click.echo(body.rstrip(b"\n"))
        return
    values = dict(_pair(text) for text in properties)

    async def send(bus: BusClient) -> None:
        import asyncio

        try:
            async with asyncio.timeout(timeout):
                await bus.send(body, properties=values, ttl=ttl)
        except TimeoutError as error:
            raise ClacksError("event-unanswered", seconds=timeout) from error

    on_bus(url, send, timeout)
    sent = _called(name, body)
    if as_json:
        print_json({"accepted": True, "event": sent, "bytes": len(body)})
    else:
        click.echo(f"accepted: {sent} ({len(body)} bytes)")


def _event(name: str | None, fields: tuple[str, ...], file: Path | None) -> bytes:
    """The event's bytes: a file's as they are, those of arguments as indented XML."""
    if name is None and file is None:
        raise click.UsageError("Which event? Give NAME FIELD=VALUE..., --file F, or - for the standard input.")
    if file is not None and name is not None:
        raise click.UsageError("Give either NAME FIELD=VALUE... or --file F.")
    if name == "-" or (file is not None and str(file) == "-"):
        if fields:
            raise click.UsageError("With - the event comes from the standard input; leave the fields out.")
        return sys.stdin.buffer.read()
    if file is not None:
        try:
            return file.read_bytes()
        except OSError as error:
            raise click.UsageError(f"{file} cannot be read: {error.strerror or error}") from error
    assert name is not None
    if not fields and set(name) & set("./") and Path(name).is_file():  # no event is called event.xml
        raise click.UsageError(f"{click.format_filename(name)} is a file. Send what is in it with --file.")
    from lxml import etree

    from .fields import build_event

    element = build_event(name, fields)
    etree.indent(element)
    return etree.tostring(element, encoding="utf-8", xml_declaration=False) + b"\n"


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.UsageError(f"The property {text!r} is not NAME=VALUE.")
    return key, value


def _called(name: str | None, body: bytes) -> str:
    """The name of the event, as far as it can be told here."""
    if name not in (None, "-"):
        return name
    from ..common.event import event_name, parse

    try:
        return event_name(parse(body)).localname
    except ClacksError:  # our limits are lower than that agent's, or it was not asked
        return "the event"


if __name__ == "__main__":
    send_event(prog_name="sendEvent")
