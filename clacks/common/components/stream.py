"""Events as an asynchronous iterator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal, Self

from ..errors import ClacksError
from .received import ReceivedEvent
from .route import Route
from .subscribing import BACK, Delivery, Subscription
from .terms import Wanted

DeadLetters = Literal["look", "take"]


class EventStream:
    """What `BusClient.events` gives: an asynchronous iterator of `ReceivedEvent`s."""

    def __init__(self, route: Callable[[], Awaitable[Route]], wanted: Wanted, *, accepts: bool = True) -> None:
        """Without `accepts` every event is given back in the end."""
        self._queue: asyncio.Queue[Delivery | ClacksError] = asyncio.Queue()
        self._subscription = Subscription(route, wanted, self._queue.put_nowait, settles=accepts)
        self._accepts = accepts
        self._keeper: asyncio.Task[None] | None = None
        self._current: Delivery | None = None

    async def open(self) -> Self:
        """Attach; afterwards no matching event is missed. Raises ClacksError."""
        if self._keeper is None:
            await self._subscription.attach()
            self._keeper = asyncio.get_running_loop().create_task(self._keep())
        return self

    async def _keep(self) -> None:
        try:
            await self._subscription.keep()
        except ClacksError as error:
            self._queue.put_nowait(error)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is not None and self._current is not None:  # whoever had the event in hand has not finished with it
            self._current.settle(BACK)
            self._current = None
        self.close()

    def __aiter__(self) -> AsyncIterator[ReceivedEvent]:
        return self

    async def __anext__(self) -> ReceivedEvent:
        await self.open()
        if self._current is not None:
            self._current.settle()
            self._current = None
        item = await self._queue.get()
        if isinstance(item, ClacksError):
            raise item
        self._current = item if self._accepts else None  # what is left unsettled is given back when the link ends
        return item.event

    async def aclose(self) -> None:
        self.close()

    def close(self, *, delete: bool = False) -> None:
        """Detach. The event in hand is accepted, those fetched ahead are given back. A durable subscription stays, unless `delete`."""
        if self._current is not None:
            self._current.settle()
            self._current = None
        while not self._queue.empty():
            item = self._queue.get_nowait()
            if isinstance(item, Delivery):
                item.settle(BACK)
        if self._keeper is not None:
            self._keeper.cancel()
        self._subscription.close(delete=delete)
