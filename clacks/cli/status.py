"""`clacks status`: what an agent is doing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from .bus import on_bus, url_option
from .command import Command, json_option
from .output import print_json, print_table, styled

if TYPE_CHECKING:
    from ..common.components.client import BusClient


@click.command(
    cls=Command,
    examples="""
        clacks status
        clacks status --json | jq .published
        clacks status --url amqps://admin:secret@bus.example.net/org.clacks
    """,
)
@url_option
@json_option
def status(url: str, as_json: bool) -> None:
    """Show what an agent is doing.

    Its counters, who is connected, and what each subscription gets.
    """

    async def work(bus: BusClient) -> dict[str, Any]:
        answer: dict[str, Any] = await bus.call("getStatus")
        return answer

    found = on_bus(url, work)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: Mapping[str, Any]) -> None:
    # What is not known here, as from a later agent, is shown by its own name.
    subscriptions = found.get("subscriptions", [])
    problems = found.get("schema_problems", [])
    rows = [(key, _shown(key, value)) for key, value in found.items() if key not in ("subscriptions", "schema_problems")]
    width = max(len(key) for key, _ in rows)
    for key, value in rows:
        click.echo(f"{styled(f'{key:{width}}', bold=True)}  {value}")
    for problem in problems:
        click.echo(f"{styled('schema refused:', fg='red')} {problem}")
    click.echo()
    if not subscriptions:
        click.echo("No subscriptions. `clacks consume` makes one.")
        return
    counters = [key for key in subscriptions[0] if key not in ("user", "address", "filters", "link")]
    print_table(
        ["user", "address", *(key.replace("_", " ") for key in counters), "filter"],
        [[one["user"], one["address"], *(str(one.get(key, "")) for key in counters), _one_line(one["filters"])] for one in subscriptions],
    )


def _one_line(filters: Sequence[str]) -> str:
    """Several filters on one link all have to match."""
    return " and ".join(" ".join(text.split()) for text in filters)


def _shown(key: str, value: Any) -> str:
    if key == "uptime":
        minutes, seconds = divmod(int(value), 60)
        hours, minutes = divmod(minutes, 60)
        days, hours = divmod(hours, 24)
        return (f"{days} d " if days else "") + f"{hours}:{minutes:02}:{seconds:02}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
