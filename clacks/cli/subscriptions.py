"""`clacks subscriptions`: the durable and shared subscriptions of an agent, for those who look after them.

It only calls the agent's commands and shows their answers; `clacks consume` is what makes a subscription.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from .bus import on_bus, timeout_option, url_option
from .command import Group, json_option
from .output import counted, print_json, print_table, printable, shown_queue, shown_size, styled

if TYPE_CHECKING:
    from ..common.components.client import BusClient

F = TypeVar("F", bound=Callable[..., Any])

_LIST: Final = "list"


class _Listing(Group):
    """A group that lists if it is not told what to do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = [_LIST, *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_Listing,
    examples="""
        clacks subscriptions
        clacks subscriptions show billing
        clacks subscriptions replay billing
        clacks subscriptions delete billing --owner anna
    """,
)
def subscriptions() -> None:
    """Look after the subscriptions that are kept or shared.

    Yours; for administrators, everybody's. Without a command it lists them. `clacks consume --durable NAME` makes one.
    """


def _owner_option(function: F) -> F:
    text = "Whose it is, for administrators; needed where several users have one of this name."
    return click.option("--owner", metavar="USER", help=text)(function)


@subscriptions.command(
    _LIST,
    examples="""
        clacks subscriptions list
        clacks subscriptions list --json | jq '.[] | select(.waiting > 1000)'
    """,
)
@timeout_option
@url_option
@json_option
def list_(timeout: float, url: str, as_json: bool) -> None:
    """List them: how much waits for each, and what was lost."""

    async def work(bus: BusClient) -> Any:
        return await bus.call("getSubscriptions")

    found = on_bus(url, work, timeout)
    if as_json:
        print_json(found)
    elif found:
        print_table(_COLUMNS, [_row(one) for one in found], seldom=["suspended"])
    else:
        click.echo("No subscriptions are kept or shared. `clacks consume --durable NAME` makes one.")


_COLUMNS: Final = ("name", "user", "kind", "consumers", "waiting", "dropped", "dead", "suspended")


def _row(one: Mapping[str, Any]) -> list[str]:
    row = [one["name"], one["user"], one["kind"], one["consumers"], shown_queue(one), one["dropped"], one["dead"], one.get("suspended", "")]
    return [str(cell) for cell in row]


@subscriptions.command(
    examples="""
        clacks subscriptions show billing
        clacks subscriptions show billing --owner anna --json
    """,
)
@click.argument("name")
@_owner_option
@timeout_option
@url_option
@json_option
def show(name: str, owner: str | None, timeout: float, url: str, as_json: bool) -> None:
    """Show the subscription NAME, with its filter, its terms and all it counts."""

    async def work(bus: BusClient) -> Any:
        return await bus.call("getSubscription", name, owner)

    found = on_bus(url, work, timeout)
    if as_json:
        print_json(found)
        return
    rows = [(key.replace("_", " "), _shown(key, value)) for key, value in found.items() if key not in _UNTOLD]
    width = max(len(key) for key, _ in rows)
    for key, value in rows:
        click.echo(f"{styled(printable(f'{key:{width}}'), bold=True)}  {printable(value)}".rstrip())


# The link of a subscription that has a name is called as it is.
_UNTOLD: Final = ("link",)
_BYTES: Final = ("waiting_bytes", "max_bytes")


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "unlimited"
    if key == "filters":
        return " and ".join(" ".join(text.split()) for text in value) or "none: every event"
    if key in _BYTES:
        return shown_size(value)
    if key == "max_age":
        return f"{value:g} s"
    return str(value) or "-"


@subscriptions.command(
    examples="""
        clacks subscriptions delete billing
        clacks subscriptions delete billing --owner anna --force
        clacks subscriptions delete dead-letters
    """,
)
@click.argument("name")
@_owner_option
@click.option("--force", is_flag=True, help="Also while it has consumers, who are told.")
@timeout_option
@url_option
@json_option
def delete(name: str, owner: str | None, force: bool, timeout: float, url: str, as_json: bool) -> None:
    """Delete the durable subscription NAME, and everything that waits for it."""

    async def work(bus: BusClient) -> Any:
        found = await bus.call("getSubscription", name, owner)
        await bus.call("deleteSubscription", name, found["user"], force)
        return found

    found = on_bus(url, work, timeout)
    lost = found.get("kept", 0)
    if as_json:
        print_json({"deleted": name, "user": found["user"], "events": lost})
    else:
        with_it = f", and with it {counted(lost, 'event')} that waited" if lost else ""
        click.echo(f"deleted: {name} of {found['user']}{with_it}")


@subscriptions.command(
    examples="""
        clacks subscriptions replay billing
        clacks subscriptions replay billing --owner anna
    """,
)
@click.argument("name")
@_owner_option
@timeout_option
@url_option
@json_option
def replay(name: str, owner: str | None, timeout: float, url: str, as_json: bool) -> None:
    """Give the durable subscription NAME its dead letters again.

    They go to the end of its queue, and are dead letters no more. `clacks consume --dead-letters` shows them.
    """

    async def work(bus: BusClient) -> Any:
        return await bus.call("replaySubscription", name, owner)

    count = on_bus(url, work, timeout)
    if as_json:
        print_json({"replayed": count})
    else:
        click.echo(f"replayed: {counted(count, 'dead letter')} of {name}")
