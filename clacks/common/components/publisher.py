"""A link that messages are sent on. It knows neither what they are nor what their outcomes mean to whom."""

from __future__ import annotations

import asyncio
from collections import deque

from ...amqp import ACCEPTED, Condition, Link, Outcome, Rejected, Sender
from ..errors import ClacksError
from .links import LinkUser, as_error


class Publisher(LinkUser):
    """A link that events are sent on, each awaited until its outcome."""

    def __init__(self, link: Sender, url: str) -> None:
        self.link = link
        self._url = url
        self._sent: set[asyncio.Future[Outcome]] = set()
        self._queue: deque[tuple[bytes, asyncio.Future[Outcome]]] = deque()
        link.handler = self

    async def send(self, encoded: bytes) -> None:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.append((encoded, future))
        self.credit(self.link)
        outcome = await future
        if isinstance(outcome, Rejected):
            raise as_error(outcome.condition)
        if outcome is not ACCEPTED:
            raise ClacksError("bus-overloaded")

    def credit(self, link: Sender) -> None:
        while self._queue and link.sendable:
            encoded, future = self._queue.popleft()
            if not future.done():
                link.send(encoded, future)
                self._sent.add(future)
        if not link.alive:
            self.detached(link, None, closed=False)

    def outcome(self, link: Sender, token: asyncio.Future[Outcome], outcome: Outcome) -> None:
        self._sent.discard(token)
        if not token.done():
            token.set_result(outcome)

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        error = as_error(condition) if closed else ClacksError("connection-lost", url=self._url, reason=str(condition or "it was closed"))
        for future in (*self._sent, *(future for _, future in self._queue)):
            if not future.done():
                future.set_exception(error)
        self._sent.clear()
        self._queue.clear()
