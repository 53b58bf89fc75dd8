"""A link that messages are sent on. It knows neither what they are nor what their outcomes mean to whom."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from ...amqp import Condition, Link, Outcome, Sender
from ..errors import ClacksError
from .links import LinkUser, as_error


class Publisher(LinkUser):
    """Each message is awaited until its outcome; they are sent in the order of the calls."""

    def __init__(self, link: Sender, url: object) -> None:
        """`url` is how errors call the other end."""
        self.link = link
        self._url = url
        self._limit = link.remote_max_message_size
        self._sent: set[asyncio.Future[Outcome]] = set()
        self._queue: deque[tuple[bytes, asyncio.Future[Outcome]]] = deque()
        link.handler = self

    async def send(self, encoded: bytes) -> Outcome:
        """Raises ClacksError: message-too-large, and why the link ended if it did before the outcome is known."""
        if 0 < self._limit < len(encoded):  # it would cost all that is sent on the link meanwhile, too
            raise ClacksError("message-too-large", found=len(encoded), limit=self._limit)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.append((encoded, future))
        self.credit(self.link)
        return await future

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


class Publishers:
    """One publisher a target, attached when it is first needed and again when it is gone."""

    def __init__(self, attach: Callable[[str], Awaitable[Sender]], url: object) -> None:
        """`attach(target)` gives a sender, or raises ClacksError."""
        self._attach, self._url = attach, url
        self._open: dict[str, Publisher] = {}
        self._attaching = asyncio.Lock()

    async def to(self, target: str) -> Publisher:
        publisher = self._open.get(target)
        if publisher is None or not publisher.link.alive:
            async with self._attaching:
                publisher = self._open.get(target)
                if publisher is None or not publisher.link.alive:
                    publisher = self._open[target] = Publisher(await self._attach(target), self._url)
        return publisher
