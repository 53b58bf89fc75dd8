"""A subscription of a client: attached again whenever it is lost, and each event with its settlement."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from ...amqp import ACCEPTED, Condition, Link, Message, Modified, Outcome, Receiver
from ..errors import ClacksError
from .links import FATAL, WINDOW, LinkUser
from .received import ReceivedEvent
from .route import Route
from .terms import Wanted

log = logging.getLogger("clacks.client")

# Pauses between attempts to connect again, in seconds: at once for a restart of the agent, then doubling, each shortened at random by up to
# a half so that a thousand clients do not come back in step.
BACKOFF_FIRST: Final = 0.1
BACKOFF_MOST: Final = 10.0

# The outcome of what is given back. `released` means the same, but after it a quorum queue of RabbitMQ 4.0 may give nobody anything.
BACK: Final = Modified(failed=False)


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


class Subscription(LinkUser):
    """A link that events come in on, attached again whenever it is lost. Each event goes to `deliver`, in its order."""

    def __init__(
        self, route: Callable[[], Awaitable[Route]], wanted: Wanted, deliver: Callable[[Delivery], None], *, settles: bool = True
    ) -> None:
        """`route` gives the way there is at the moment, or raises ClacksError. Whoever `settles` has no more than WINDOW events ahead; the
        others have them all."""
        self._find_route, self._wanted, self._deliver, self._settles = route, wanted, deliver, settles
        self._lost: asyncio.Event = asyncio.Event()
        self._reason: Condition | None = None
        self._route: Route | None = None
        self._link: Receiver | None = None

    async def attach(self) -> None:
        """Raises ClacksError if the bus cannot be reached or refuses."""
        self._route = await self._find_route()
        self._lost.clear()
        self._link = None
        self._link = await self._route.attach(self._wanted, self)
        if self._link.alive:
            self._link.counts_unsettled = self._settles
            self._link.window = WINDOW
        else:
            self._lost.set()

    async def keep(self) -> None:
        """Stay attached until cancelled. Raises ClacksError when attaching again is of no use."""
        while True:
            await self._lost.wait()
            assert self._route is not None
            error = await self._route.verdict(self._wanted, self._reason)
            if error is not None:
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
        if self._route is not None:
            self._route.detach(self._wanted, self._link, delete=delete)

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        try:
            event = ReceivedEvent.read(Message(encoded))
        except ValueError as error:
            log.warning("an event cannot be read", extra={"reason": str(error)})
            if not settled:
                link.settle(number, Modified(failed=True, undeliverable=True))
            return
        if event.undecided and self._route is not None:
            self._route.doubt()
        self._deliver(Delivery(event, link, None if settled else number))

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        if link is self._link:
            self._reason = condition
            self._lost.set()
