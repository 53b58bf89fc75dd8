"""Questions and their answers: the link that answers come in on, each for whoever waits for it."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ...amqp import ACCEPTED, Condition, Link, Message, Receiver
from ..errors import ClacksError
from .links import WINDOW, LinkUser

log = logging.getLogger("clacks.client")


class Answers(LinkUser):
    """The handler of a link for answers. An answer names its question in its correlation-id and is JSON with `error` and `result`."""

    def __init__(self, url: object) -> None:
        """`url` is how errors call the other end."""
        self.address = ""
        self._url = url
        self._link: Receiver | None = None
        self._pending: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._tokens = itertools.count(1)

    def start(self, link: Receiver, address: str) -> None:
        """Take answers that come to `address`, on a link whose handler this is."""
        self._link, self.address = link, address
        link.window = WINDOW

    @property
    def alive(self) -> bool:
        return self._link is not None and self._link.alive

    async def ask(self, send: Callable[[str], Awaitable[None]], timeout: float, unanswered: ClacksError) -> Any:
        """Send a question with the token that it is given, and wait for its result for `timeout` seconds; after that `unanswered` is
        raised. Raises ClacksError: that of the answer, connection-lost."""
        token = str(next(self._tokens))
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[token] = future
        try:
            async with asyncio.timeout(timeout):
                await send(token)
                answer = await future
        except TimeoutError:
            raise unanswered from None
        finally:
            del self._pending[token]
            if future.done() and not future.cancelled():
                future.exception()  # it may have failed while the sending did, too
        if answer.get("error") is not None:
            raise ClacksError.from_json(answer["error"])
        return answer.get("result")

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        if not settled:
            link.settle(number, ACCEPTED)
        try:
            message = Message(encoded)
            future = self._pending.get(str(message.properties.correlation_id))
            answer = json.loads(message.body)
            if not isinstance(answer, dict):
                raise ValueError("it is no object")
        except (ValueError, TypeError) as error:
            log.warning("an answer cannot be read", extra={"reason": str(error)})
        else:
            if future is not None and not future.done():
                future.set_result(answer)

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ClacksError("connection-lost", url=self._url, reason=str(condition or "it was closed")))
