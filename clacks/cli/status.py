"""`clacks status`: what an agent is doing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from .bus import on_bus, timeout_option, url_option
from .command import Command, json_option
from .output import counted, print_json, print_table, printable, shown_queue, shown_size, styled

if TYPE_CHECKING:
    from ..common.components.client import BusClient

LIVE_SECONDS: Final = 2.0  # slow enough to be read, and nothing to an agent


@click.command(
    cls=Command,
    examples="""
        clacks status
        clacks status --live
        clacks status --json | jq .published
        clacks status --url amqps://admin:secret@bus.example.net/org.clacks
    """,
)
@click.option("--live", is_flag=True, help="Show it again every two seconds, until Ctrl-C; with --json one line each time.")
@timeout_option
@url_option
@json_option
def status(live: bool, timeout: float, url: str, as_json: bool) -> None:
    """Show what an agent is doing.

    Its counters, who is connected, and what each subscription gets.
    """

    async def work(bus: BusClient) -> None:
        import asyncio

        while True:
            found = await bus.call("getStatus")
            if as_json:
                print_json(found, indent=None) if live else print_json(found)
            else:
                if live and sys.stdout.isatty():
                    click.clear()
                _print(found)
            if not live:
                return
            await asyncio.sleep(LIVE_SECONDS)

    with contextlib.suppress(KeyboardInterrupt) if live else contextlib.nullcontext():
        on_bus(url, work, timeout)


def _print(found: Mapping[str, Any]) -> None:
    # What is not known here, as from a later agent, is shown by its own name.
    subscriptions = found.get("subscriptions", [])
    problems = found.get("schema_problems", [])
    rows = [(key, _shown(key, value)) for key, value in found.items() if key not in ("subscriptions", "schema_problems")]
    if store := _store(subscriptions):
        rows.append(("store", store))
    width = max(len(key) for key, _ in rows)
    for key, value in rows:
        click.echo(f"{styled(printable(f'{key:{width}}'), bold=True)}  {printable(value)}")
    for problem in problems:
        click.echo(f"{styled('schema refused:', fg='red')} {printable(problem)}")
    click.echo()
    if not subscriptions:
        click.echo("No subscriptions. `clacks consume` makes one.")
        return
    print_table(
        ["user", "name", "kind", "consumers", "sent", "waiting", "lost", "suspended", "filter"],
        [_row(one) for one in subscriptions],
        seldom=["lost", "suspended"],
    )


def _row(one: Mapping[str, Any]) -> list[str]:
    # The name of a link that is only a link says nothing; where it receives from does.
    name = one["address"] if one["kind"] == "live" else one["name"]
    lost = ", ".join(f"{one[kind]} {kind}" for kind in ("dropped", "dead") if one[kind])
    row = [one["user"], name, one["kind"], one["consumers"], one["delivered"], shown_queue(one), lost, one.get("suspended", ""),
           _one_line(one["filters"])]  # fmt: skip
    return [str(cell) for cell in row]


def _store(subscriptions: Sequence[Mapping[str, Any]]) -> str:
    """What durable subscriptions have on the agent's disk."""
    durable = [one for one in subscriptions if "kept" in one]
    events, size = sum(one["kept"] for one in durable), sum(one["waiting_bytes"] for one in durable)
    return f"{counted(events, 'event')} ({shown_size(size)}) for {counted(len(durable), 'durable subscription')}" if durable else ""


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
