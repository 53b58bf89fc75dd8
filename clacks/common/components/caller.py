"""Calling commands of one target: requests out on one link, answers in on another."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Iterator
from typing import Any, Self

from ...amqp import ACCEPTED, Condition, Connection, Draft, Link, Message, Properties, Receiver, Sender, Terminus
from ..errors import ClacksError
from .links import WINDOW, LinkUser, attached
from .publisher import Publisher

log = logging.getLogger("clacks.client")


class Caller(LinkUser):
    """Commands to one target: a link for requests, one with a dynamic source for replies."""

    def __init__(self, requests: Sender, replies: Receiver) -> None:
        self._publisher = Publisher(requests, requests.name)
        self._replies = replies
        source = replies.remote_source
        self._reply_to = source.address if source is not None else None
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids: Iterator[int] = itertools.count(1)
        replies.handler = self
        replies.window = WINDOW

    @classmethod
    async def attach(cls, connection: Connection, address: str) -> Self:
        """Raises ClacksError if the target is not served."""
        requests = await attached(connection.attach_sender(Terminus(address)))
        replies = await attached(connection.attach_receiver(Terminus(dynamic=True), settled=True))
        return cls(requests, replies)

    @property
    def alive(self) -> bool:
        return self._publisher.link.alive and self._replies.alive

    async def call(self, method: str, params: list[Any] | dict[str, Any], timeout: float) -> Any:
        number = next(self._ids)
        request = json.dumps({"method": method, "params": params, "id": number})
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        properties = Properties(message_id=str(number), reply_to=self._reply_to, content_type="application/json")
        try:
            async with asyncio.timeout(timeout):
                await self._publisher.send(Draft(request, properties).encode())
                answer = await future
        except TimeoutError:
            raise ClacksError("command-timeout", method=method, seconds=timeout) from None
        finally:
            del self._pending[number]
        if answer.get("error") is not None:
            raise ClacksError.from_json(answer["error"])
        return answer.get("result")

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        try:
            answer = json.loads(Message(encoded).body)
            future = self._pending.get(answer["id"])
        except (ValueError, TypeError, KeyError) as error:
            log.warning("an answer cannot be read", extra={"reason": str(error)})
            future = None
        if future is not None and not future.done():
            future.set_result(answer)
        if not settled:
            link.settle(number, ACCEPTED)

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ClacksError("connection-lost", url=link.name, reason=str(condition or "it was closed")))
