"""`clacks schemas`: which events there are, and what belongs into one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

import click

from ..common.errors import ClacksError
from .bus import on_bus, timeout_option, url_option
from .command import Command, json_option
from .output import print_json, print_table, styled

if TYPE_CHECKING:
    from ..common.components.client import BusClient

Entry = Mapping[str, Any]

# A value of each type for an example; "text" for the rest.
_SAMPLES: Final = {
    "boolean": "true", "decimal": "0.5", "float": "0.5", "double": "0.5", "dateTime": "2024-05-31T13:20:00Z", "date": "2024-05-31",
    "dateTimeStamp": "2024-05-31T13:20:00Z", "time": "13:20:00", "duration": "PT90S", "gYear": "2024", "anyURI": "https://example.net/",
    "base64Binary": "AA==", "hexBinary": "00", "language": "en", "integer": "1", "long": "1", "int": "1", "short": "1", "byte": "1",
    "nonNegativeInteger": "1", "positiveInteger": "1", "nonPositiveInteger": "-1", "negativeInteger": "-1", "unsignedLong": "1",
    "unsignedInt": "1", "unsignedShort": "1", "unsignedByte": "1",
}  # fmt: skip


@click.command(
    cls=Command,
    examples="""
        clacks schemas
        clacks schemas PhoneStatus
        clacks schemas PhoneStatus --xsd > PhoneStatus.xsd
        clacks schemas --json | jq .[].name
    """,
)
@click.argument("name", required=False)
@click.option("--xsd", is_flag=True, help="Print the schema file of NAME.")
@timeout_option
@url_option
@json_option
def schemas(name: str | None, xsd: bool, timeout: float, url: str, as_json: bool) -> None:
    """Show which events there are.

    With NAME it shows what belongs into that event, and a command line that sends one.
    """
    if xsd and name is None:
        raise click.UsageError("Of which event? Give NAME with --xsd.")

    async def work(bus: BusClient) -> Any:
        return await (bus.call("getSchema", name) if xsd else bus.call("getEvents"))

    answer = on_bus(url, work, timeout)
    if xsd:
        click.echo(answer, nl=not answer.endswith("\n"))
    elif name is None and as_json:
        print_json(answer)
    elif name is None:
        print_table(["event", "meaning"], [[entry["name"], _line(entry)] for entry in answer])
    else:
        entry = _named(name, answer)
        if as_json:
            print_json(entry)
        else:
            _print(entry)


def _named(name: str, entries: Sequence[Entry]) -> Entry:
    names = [entry["name"] for entry in entries]
    if name in names:
        return entries[names.index(name)]
    close = get_close_matches(name, names, n=1)
    raise ClacksError("schema-unknown", name=name, hint=f"Did you mean {close[0]}?" if close else "`clacks schemas` lists those there are.")


def _line(entry: Entry) -> str:
    return " ".join(str(entry.get("documentation", "")).split())


def _print(entry: Entry) -> None:
    click.echo(f"{styled(entry['name'], bold=True)}: {_line(entry)}\n")
    fields: Sequence[Entry] | None = entry.get("fields")
    if fields:
        print_table(
            ["field", "occurs", "type", "meaning"],
            [[field["path"], _occurs(field), " | ".join(field.get("values", ())) or field["type"], _line(field)] for field in fields],
        )
    elif fields is not None:
        click.echo("It has no fields.")
    click.echo(
        f"\n{styled('Example:', bold=True)} {example(entry)}"
        if fields is not None
        else f"`clacks schemas {entry['name']} --xsd` shows its schema."
    )


def _occurs(field: Entry) -> str:
    least, most = field["min"], field["max"]
    return str(least) if least == most else f"{least}..{'n' if most is None else most}"


def example(entry: Entry) -> str:
    """A command line that sends this event with the fields it must have."""
    fields = {field["path"]: field for field in entry.get("fields") or ()}
    return " ".join(["sendEvent", entry["name"], *(shlex.quote(text) for text in _needed(fields, ""))])


def _needed(fields: Mapping[str, Entry], parent: str) -> Iterator[str]:
    """The assignments of what must be inside `parent`; of a choice, and where nothing must be, of the first."""
    inside = [path for path in fields if path.rpartition("/")[0] == parent]
    for path in [path for path in inside if fields[path]["min"]] or inside[:1]:
        if fields[path]["type"]:
            yield f"{path}={_sample(fields[path])}"
        yield from _needed(fields, path)


def _sample(field: Entry) -> str:
    if field.get("values"):
        return str(field["values"][0])
    sample = _SAMPLES.get(field["type"])
    if sample is None:  # what the documentation gives as an example, in the words of our own schemas
        said = re.search(r", as (\S+)\.$", _line(field))
        return said[1] if said else "text"
    low = re.search(r"from (\d+)", str(field.get("expected", ""))) if sample == "1" else None
    return low[1] if low and low[1] != "0" else sample
