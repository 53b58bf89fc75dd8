"""`sendEvent`: publish one event from a shell."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..common.errors import ClacksError
from .bus import on_bus, url_option
from .command import Command, json_option, version_option
from .output import print_json

if TYPE_CHECKING:
    from ..common.components.client import BusClient


@click.command(
    cls=Command,
    examples="""
        sendEvent PhoneStatus CallerId=012345 ReceiverId=12343424 Status=busy
        sendEvent AsteriskNotification Call/Type=CallMissed Call/Identity=17 Call/From=012 Call/To=345 Call/Timestamp=2024-05-31T13:20:00Z
        sendEvent UserSession Id=desk-17 User=anna User=berta State=login
        sendEvent --property site=oslo --ttl 60 ClientPoll
        sendEvent --file event.xml
        sendEvent - < event.xml
    """,
)
@click.argument("name", metavar="[NAME|-]", required=False)
@click.argument("fields", metavar="[FIELD=VALUE]...", nargs=-1)
@click.option("--file", metavar="F", type=click.Path(path_type=Path), help="Send the event in this file (XML); - is the standard input.")
@click.option("--property", "properties", metavar="NAME=VALUE", multiple=True, help="An application property; may be given several times.")
@click.option("--ttl", metavar="S", type=click.FloatRange(min=0, min_open=True), help="Seconds after which it is not delivered any more.")
@click.option("--dry-run", is_flag=True, help="Print the event's XML and send nothing.")
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
    url: str,
    as_json: bool,
) -> None:
    """Publish an event and tell what the agent says to it.

    Fields are written in the order of the event's schema, which `clacks schemas NAME` shows. A nested field has its path before the =, an
    attribute an @ in front of its name: Value/@name=load. A field given twice is there twice; what belongs into the second of two
    nested elements says so: NetworkInformation/NetworkDevice[2]/Name=eth1.

    Exit codes: 0 accepted, 2 usage, 3 the event is invalid, 4 not permitted, 5 no agent can be reached.
    """
    body = _event(name, fields, file)
    if dry_run:
        click.echo(body.rstrip(b"\n"))
        return
    values = dict(_pair(text) for text in properties)

    async def send(bus: BusClient) -> None:
        await bus.send(body, properties=values, ttl=ttl)

    on_bus(url, send)
    sent = name if name not in (None, "-") else _name_in(body)
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


def _name_in(body: bytes) -> str:
    """The name of an event that the agent took."""
    from ..common.event import event_name, parse

    try:
        return event_name(parse(body)).localname
    except ClacksError:  # our limits are lower than that agent's
        return "the event"


if __name__ == "__main__":
    send_event(prog_name="sendEvent")
