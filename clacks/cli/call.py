"""`clacks call`: any command of an agent."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from .bus import on_bus, timeout_option, url_option
from .command import Command, json_option
from .output import print_json, print_pretty

if TYPE_CHECKING:
    from ..common.components.client import BusClient

_KEYWORD: Final = re.compile(r"[A-Za-z_]\w*=")


@click.command(
    cls=Command,
    examples="""
        clacks call getMethods
        clacks call getNodes --json
        clacks call getSchema PhoneStatus
        clacks call getMethods queue=core
        clacks call --target core.node1 shutdown
    """,
)
@click.argument("method")
@click.argument("arguments", metavar="[ARG...]", nargs=-1)
@click.option(
    "--target", default="core", show_default=True, metavar="T", help="The commands' queue: core, a plugin's, or core.NODE for one agent."
)
@timeout_option
@url_option
@json_option
def call(method: str, arguments: tuple[str, ...], target: str, timeout: float, url: str, as_json: bool) -> None:
    """Call a command of an agent.

    The result of METHOD is printed. `clacks call getMethods` lists the commands there are.

    An argument that is JSON is taken as JSON (17, true, '["a", "b"]', '"17"'), any other as text. NAME=VALUE gives an argument by its name;
    arguments are given either all by name or all by position. A text that looks like NAME=VALUE is written as JSON: '"a=b"'.
    """
    positional, named = _arguments(arguments)

    async def work(bus: BusClient) -> Any:
        return await bus.request(method, named or list(positional), target=target)

    result = on_bus(url, work, timeout)
    if as_json:
        print_json(result)
    else:
        print_pretty(result)


def _arguments(texts: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Raises click.UsageError where both kinds are mixed."""
    named = {text.partition("=")[0]: _value(text.partition("=")[2]) for text in texts if _KEYWORD.match(text)}
    positional = [_value(text) for text in texts if not _KEYWORD.match(text)]
    if named and positional:
        raise click.UsageError("Give the arguments either all by name (NAME=VALUE) or all by position.")
    return positional, named


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
