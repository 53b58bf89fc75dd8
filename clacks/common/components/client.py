"""The client on asyncio: receives events, publishes them, calls commands, and reconnects. The blocking classes are built on it.

async with clacks.connect("amqps://admin:secret@localhost") as bus:
    async for event in bus.events("/*:Event/*:PhoneStatus[*:Status = 'busy']"):
        print(event.name, event.tree.PhoneStatus.CallerId.text)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from ...amqp import Draft
from ..errors import ClacksError
from ..trust import Certificate
from .command import CORE
from .dialling import Dial, dial
from .direct import CAPABILITY, AgentRoute
from .leases import Leases
from .links import FATAL
from .received import ReceivedEvent
from .route import Route
from .stream import DeadLetters, EventStream
from .subscribing import Delivery, Subscription
from .terms import Keep, Wanted
from .url import DEFAULT_DOMAIN, Url, parse_urls

if TYPE_CHECKING:
    from lxml import etree

CALL_SECONDS: Final = 30.0

_dial: Final = dial  # by a name that no parameter has


class BusClient:
    """A client of the bus: one connection to one of several agents, or to one of the broker that a domain of agents runs on. It is opened
    when it is needed, and again when it is lost."""

    def __init__(
        self, url: str | Sequence[str], domain: str = DEFAULT_DOMAIN, *, timeout: float = CALL_SECONDS,
        certificate: Certificate | None = None, dial: Dial = dial,
    ) -> None:  # fmt: skip
        """`timeout` (seconds) bounds each call, and on a broker what is waited for an event's answer. `certificate` (chain and key, PEM
        files) says who comes where the URL has no password; default: CLACKS_CERT_FILE and CLACKS_KEY_FILE. `dial` makes the connection
        (tests have one without a socket). Raises ClacksError url-invalid."""
        self.urls = parse_urls(url, domain)
        self._timeout = timeout
        self._dial: Dial = dial if certificate is None else partial(_dial, certificate=certificate)
        self._route: Route | None = None
        self._connecting = asyncio.Lock()
        self._leases = Leases(self._renew)
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.route()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def domain(self) -> str:
        return self.urls[0].domain

    async def route(self) -> Route:
        """The way to the bus over the open connection; one attempt per URL if there is none. Raises ClacksError (that of the first URL that
        is worth telling)."""
        async with self._connecting:
            if self._closed:
                raise ClacksError("closed", what="connection")
            if self._route is not None and self._route.connection.alive:
                return self._route
            failures: list[ClacksError] = []
            for url in self.urls:
                try:
                    self._route = await self._reach(url)
                except ClacksError as error:
                    failures.append(error)
                else:
                    return self._route
            raise next((error for error in failures if error.code in FATAL), failures[0])

    async def _reach(self, url: Url) -> Route:
        """Connect, and see who is there."""
        connection = await self._dial(url)
        if CAPABILITY in connection.remote_capabilities:
            self._leases.clear()
            return AgentRoute(connection, url, self.domain)
        from ..brokers import domain_broker
        from .domain import DomainRoute  # loaded by those who meet a broker

        try:
            broker = domain_broker(connection.remote_properties, url)
            return DomainRoute(connection, broker, url, self.domain, self._leases, self._dial, self._timeout)
        except ClacksError:
            connection.close()
            raise

    async def _renew(self, ids: list[str], timeout: float) -> list[str]:
        unknown = await self.request("renew", {"ids": ids}, timeout=timeout)
        return [str(one) for one in unknown]

    async def close(self) -> None:
        """Close gracefully and wait for the other end's answer."""
        self._closed = True
        route, self._route = self._route, None
        if route is not None:
            await route.leave()
            route.connection.close()
            await route.connection.wait_closed()
        self._leases.clear()

    # --- the three things a client does ---

    def events(
        self, xquery: str | None = None, *, event: str | None = None, keep: Keep | None = None, dead_letters: DeadLetters | None = None
    ) -> EventStream:
        """The events that `xquery` matches (all without one), only those called `event` if given. Iterate over it, or use it as a context.

        An event is accepted when the next one is asked for; those fetched ahead are given back when the iteration ends. The stream is
        attached again after a lost connection. `keep` says how the agent keeps events meanwhile, and for whom. `dead_letters` gives those
        of this user instead: "take" accepts them like events, "look" gives all of them back in the end. Raises ClacksError
        (filter-invalid, ...) at the first step, and ValueError for dead letters with something to choose them by.
        """
        if dead_letters is not None and (xquery is not None or event or keep is not None):
            raise ValueError("dead letters are one queue: there is nothing to choose or to keep")
        wanted = Wanted(xquery, event or "", keep or Keep(), dead_letters is not None)
        return EventStream(self.route, wanted, accepts=dead_letters != "look")

    async def send(
        self, event: bytes | str | etree._Element, *, properties: dict[str, Any] | None = None, ttl: float | None = None
    ) -> None:
        """Publish an event and wait until it is accepted. `ttl` in seconds. Raises ClacksError with the agent's refusal."""
        from ..event import to_bytes

        draft = Draft(to_bytes(event), application_properties=properties or {}, ttl=None if ttl is None else int(ttl * 1000))
        await (await self.route()).send(draft)

    async def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a command of any agent, with positional or with keyword arguments. Raises ClacksError."""
        return await self.request(method, parameters(args, kwargs))

    async def request(self, method: str, params: list[Any] | dict[str, Any], *, target: str = CORE, timeout: float | None = None) -> Any:
        """Call a command served from `target` ("core", "core.NODE" or a plugin's); `timeout` in seconds, if not that of all calls. Raises
        ClacksError."""
        return await (await self.route()).request(method, params, target, self._timeout if timeout is None else timeout)


def parameters(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any] | dict[str, Any]:
    """A command's parameters as they travel. Raises TypeError for a mixture, which JSON has no form for."""
    if args and kwargs:
        raise TypeError("a command takes positional or keyword arguments, not both")
    return kwargs or list(args)


__all__ = [
    "CALL_SECONDS", "BusClient", "Delivery", "Dial", "EventStream", "Keep", "ReceivedEvent", "Subscription", "dial", "parameters",
]  # fmt: skip
