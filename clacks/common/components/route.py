"""How a client reaches the bus over one open connection: what it can do, whoever is at the other end.

`direct` is the way to an agent's own listener, `domain` the one through the broker of a domain. Nobody else knows the difference.
"""

from __future__ import annotations

from typing import Any, Protocol

from ...amqp import Condition, Connection, Draft, LinkHandler, Receiver
from ..errors import ClacksError
from .terms import Wanted


class Route(Protocol):
    """Lives as long as its connection."""

    connection: Connection

    async def send(self, draft: Draft) -> None:
        """Publish an event and wait until every subscription that it is for has it. Raises ClacksError with the refusal."""

    async def request(self, method: str, params: list[Any] | dict[str, Any], target: str, timeout: float) -> Any:
        """Call a command; `timeout` in seconds. Raises ClacksError."""

    async def attach(self, wanted: Wanted, handler: LinkHandler) -> Receiver:
        """A link on which the events come; set its window. Raises ClacksError."""

    def detach(self, wanted: Wanted, link: Receiver | None, *, delete: bool) -> None:
        """End it; None if it is just without a link. What is durable stays, unless it is to be deleted."""

    async def verdict(self, wanted: Wanted, condition: Condition | None) -> ClacksError | None:
        """Why attaching again is of no use after a link has ended with this; None if it is."""

    def doubt(self) -> None:
        """An event came that its filter has not decided about: find out whether its subscription goes on."""

    async def leave(self) -> None:
        """Say what is to be said before the connection is closed. It takes no longer than a goodbye may."""
