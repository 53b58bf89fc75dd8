"""A subscription of a client: its terms, the link that its events come in on, and each event's settlement."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ...amqp import ACCEPTED, Condition, Described, Link, Message, Modified, Outcome, Receiver, Symbol, Terminus
from ..errors import ClacksError
from .links import FATAL, WINDOW, LinkUser, as_error, attached
from .received import ReceivedEvent

if TYPE_CHECKING:
    from .client import BusClient

log = logging.getLogger("clacks.client")

XQUERY_FILTER: Final = Symbol("apache.org:xquery-filter:string")
CAPABILITY: Final = "clacks-bus"
DEAD_LETTERS: Final = "dead-letters"

# Pauses between attempts to connect again, in seconds: at once for a restart of the agent, then doubling, each shortened at random by up to
# a half so that a thousand clients do not come back in step.
BACKOFF_FIRST: Final = 0.1
BACKOFF_MOST: Final = 10.0


class Delivery:
    """One received event and its settlement. Settling a delivery whose link has gone does nothing: the agent has it back."""

    __slots__ = ("_link", "_number", "event")

    def __init__(self, event: ReceivedEvent, link: Receiver, number: int | None) -> None:
        self.event = event
        self._link, self._number = link, number

    def settle(self, outcome: Outcome = ACCEPTED) -> None:
        if self._number is not None:
            self._link.settle(self._number, outcome)
            self._number = None


@dataclass(frozen=True, slots=True)
class Keep:
    """How an agent keeps a subscription's events.

    `durable` is its name on the agent's disk, where it is kept across the ends of consumers and agents; without `max_age` (seconds) and
    `max_bytes` nothing is ever dropped, and publishers have to wait when it is full. `shared` is the name under which several consumers
    share the events (that of `durable`, if both are given). `overflow` is what a live subscription does when more waits than may:
    drop-oldest (the default), detach, or block-publisher. `replace` gives a subscription that exists other terms.
    """

    durable: str = ""
    shared: str = ""
    max_age: float | None = None
    max_bytes: int | None = None
    overflow: str = ""
    replace: bool = False

    def __post_init__(self) -> None:
        if self.durable and self.shared and self.durable != self.shared:
            raise ValueError("a subscription has one name: that of durable and shared must be the same")

    def source(self, address: str, filters: Mapping[str, Any]) -> Terminus:
        """The link's source (AMQP 1.0 3.5.3)."""
        capabilities = (*(["shared"] if self.shared else []), *(["global"] if self.durable or self.shared else []))
        if not self.durable:
            return Terminus(address, filter=filters, capabilities=capabilities)
        return Terminus(address, durable=2, expiry="never", filter=filters, capabilities=capabilities)

    @property
    def name(self) -> str | None:
        return self.durable or self.shared or None

    @property
    def properties(self) -> dict[str, Any]:
        """The link's properties."""
        asked: dict[str, Any] = {
            "clacks:max-age": self.max_age, "clacks:max-bytes": self.max_bytes, "clacks:overflow": self.overflow or None,
            "clacks:replace": self.replace or None,
        }  # fmt: skip
        return {key: value for key, value in asked.items() if value is not None}


class Subscription(LinkUser):
    """A link that events come in on, attached again whenever it is lost. Each event goes to `deliver`, in its order."""

    def __init__(
        self, client: BusClient, xquery: str | None, event: str | None, deliver: Callable[[Delivery], None], keep: Keep | None = None,
        *, dead_letters: bool = False,
    ) -> None:  # fmt: skip
        self._client, self._deliver = client, deliver
        self._keep = keep or Keep()
        address = f"{client.domain}.{DEAD_LETTERS}" if dead_letters else f"{client.domain}.event.{event}" if event else client.domain
        self._source = self._keep.source(address, {"xquery": Described(XQUERY_FILTER, xquery)} if xquery is not None else {})
        self._lost: asyncio.Event = asyncio.Event()
        self._reason: Condition | None = None
        self._link: Receiver | None = None

    async def attach(self) -> None:
        """Raises ClacksError if the agent cannot be reached or refuses."""
        connection = await self._client.connection()
        link: Receiver = await attached(connection.attach_receiver(self._source, name=self._name(), properties=self._keep.properties))
        if CAPABILITY not in connection.remote_capabilities:
            link.close()
            raise ClacksError("link-refused", reason=f"{connection.options.hostname} is no Clacks agent: it does not offer {CAPABILITY}.")
        self._lost.clear()
        self._link = link
        link.handler = self
        link.window = WINDOW

    def _name(self) -> str | None:
        """The link's name. Those of a shared subscription are told apart by what stands behind a bar."""
        if not self._keep.shared:
            return self._keep.name
        return f"{self._keep.shared}|{os.urandom(6).hex()}"

    async def keep(self) -> None:
        """Stay attached until cancelled. Raises ClacksError when attaching again is of no use."""
        while True:
            await self._lost.wait()
            if self._reason is not None and self._reason.info:
                error = as_error(self._reason)
                if error.code in FATAL:
                    raise error
            await self._again()

    async def _again(self) -> None:
        pause = BACKOFF_FIRST
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            try:
                await self.attach()
            except ClacksError as error:
                if error.code in FATAL or error.code == "closed":
                    raise
                log.info("still without a connection", extra={"reason": str(error), "pause": pause})
            else:
                return
            pause = min(pause * 2, BACKOFF_MOST)

    def hold(self) -> None:
        """Ask for no more events."""
        if self._link is not None:
            self._link.window = 0

    def close(self, *, delete: bool = False) -> None:
        """Detach. What is durable stays, unless it is to be deleted."""
        if self._link is not None:
            self._link.close(closed=delete or not self._keep.durable)

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        try:
            event = ReceivedEvent.read(Message(encoded))
        except ValueError as error:
            log.warning("an event cannot be read", extra={"reason": str(error)})
            if not settled:
                link.settle(number, Modified(failed=True, undeliverable=True))
            return
        self._deliver(Delivery(event, link, None if settled else number))

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        if link is self._link:
            self._reason = condition
            self._lost.set()
