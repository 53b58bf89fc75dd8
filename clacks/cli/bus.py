"""How a command reaches an agent: the URL option, and one connection for the time of the command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..common.errors import ClacksError
from .command import TIME

if TYPE_CHECKING:
    from ..common.components.client import BusClient

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_URL = "amqp://localhost/org.clacks"


def url_option(function: F) -> F:
    where = "amqp[s]://USER:PASSWORD@HOST[:PORT]/DOMAIN; several with commas between them"
    text = f"The URL of an agent, or of a domain's broker: {where}. Default: {DEFAULT_URL}."
    return click.option("--url", metavar="U", envvar="CLACKS_URL", default=DEFAULT_URL, show_envvar=True, help=text)(function)


def timeout_option(function: F) -> F:
    text = "How long to wait until the agent is reached, and again for its answer; 30s, 15m, 12h, 7d, or seconds."
    return click.option("--timeout", metavar="T", type=TIME, default="30s", show_default=True, help=text)(function)


def on_bus(url: str, work: Callable[[BusClient], Awaitable[T]], timeout: float | None = None) -> T:
    """Connect, do the work, say goodbye. `timeout` (seconds) is for connecting, and for each call that the work does. Raises ClacksError,
    and KeyboardInterrupt for Ctrl-C."""
    import asyncio

    from ..common.components.client import BusClient

    async def main() -> T:
        client = BusClient(url) if timeout is None else BusClient(url, timeout=timeout)
        try:
            await _reach(client, timeout)
            async with client:
                return await work(client)
        except ClacksError as error:
            if error.code == "mechanism-unusable" and not any(one.user for one in client.urls):
                hint = f"Say who you are: export CLACKS_URL={_example(url)} (or --url)."
                raise ClacksError("mechanism-unusable", offered=error.values["offered"], hint=hint) from error
            raise

    return asyncio.run(main())


async def _reach(client: BusClient, timeout: float | None) -> None:
    import asyncio

    try:
        async with asyncio.timeout(timeout):
            await client.route()
    except TimeoutError as error:
        raise ClacksError("unreachable", url=", ".join(map(str, client.urls)), reason=f"no answer within {timeout:g} s") from error


def _example(url: str) -> str:
    """The URL with the place where user and password go."""
    first = url.replace(",", " ").split()[0]
    return first.replace("://", "://USER:PASSWORD@", 1) if "@" not in first else "amqp://USER:PASSWORD@localhost/org.clacks"
