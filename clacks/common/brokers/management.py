"""RabbitMQ 4's management over AMQP 1.0: queues, exchanges and bindings, asked for on a pair of links to /management.

Requests and answers follow "HTTP over AMQP": the subject is the method, `to` the path, the answer's subject the status. Nothing here knows
what the queues are for. What the broker refuses is a ClacksError with its own words; `values["status"]` is 400, 403, 404 or 409.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from ...amqp import (
    ACCEPTED,
    AmqpError,
    CodecError,
    Condition,
    Connection,
    Draft,
    Link,
    Message,
    Outcome,
    Properties,
    Receiver,
    Sender,
    Terminus,
)  # fmt: skip
from ..errors import ClacksError
from .dialects import escaped

NODE: Final = "/management"
# A declaration takes 3 to 15 ms, in a cluster as long as its slowest node; a broker that does not answer in this time is not well.
REQUEST_SECONDS: Final = 30.0
# How long to attach again is tried the first time: RabbitMQ 4.0 may overhear what comes right behind the end of a session.
REVIVE_SECONDS: Final = 3.0
# Answers on their way at once; the broker itself works on one after the other.
WINDOW: Final = 50

_OK: Final = frozenset({200, 201, 204})
_HINTS: Final = {
    400: "See the broker's log.",
    403: "Let the broker's administrator permit it, or take another name.",
    404: "Declare it first.",
    409: "Delete it on the broker, or ask for it as it is.",
}
# Conditions with which the broker ends the link instead of answering.
_STATUS: Final = {"amqp:unauthorized-access": 403, "amqp:not-found": 404, "amqp:resource-locked": 409}


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """A queue as the broker describes it. `messages` counts those that wait or are out unsettled; for a stream it is always 0."""

    name: str
    type: str
    durable: bool
    exclusive: bool
    auto_delete: bool
    arguments: Mapping[str, Any]
    messages: int
    consumers: int


@dataclass(frozen=True, slots=True)
class Binding:
    """What an exchange copies into a queue. `location` is the broker's name for it."""

    exchange: str
    queue: str
    key: str
    arguments: Mapping[str, Any]
    location: str


class Management:
    """Requests to one broker, any number at a time, each answered within `timeout` seconds or failing with ClacksError command-timeout.

    Give it a connection of its own: RabbitMQ answers a request without permission by ending the session with all its links, and so it does
    where it stumbles itself (4.0.5: a declaration that crosses the deletion of the same queue). It is not `alive` then; `revive` it.
    """

    def __init__(self, requests: Sender, answers: Receiver, timeout: float = REQUEST_SECONDS) -> None:
        self._requests, self._answers, self._timeout = requests, answers, timeout
        self._pending: dict[str, asyncio.Future[Message]] = {}
        self._ids = itertools.count(1)
        self._credit = asyncio.Event()
        self._reason: Condition | None = None
        self._reviving = asyncio.Lock()
        requests.handler = answers.handler = self
        answers.window = WINDOW

    @classmethod
    async def attach(cls, connection: Connection, timeout: float = REQUEST_SECONDS) -> Self:
        """Raises ClacksError if the broker has no management over AMQP, or does not let this user have it."""
        name = f"{connection.options.container_id}-management-{next(_names)}"
        try:
            async with asyncio.timeout(timeout):
                # The pair has one name, and only pre-settled links are taken.
                requests = await connection.attach_sender(Terminus(NODE), settled=True, properties={"paired": True}, name=name)
                answers = await connection.attach_receiver(Terminus(NODE), settled=True, properties={"paired": True}, name=name)
        except AmqpError as error:
            raise _refused("Using the broker's management", error.condition) from error
        except TimeoutError:
            raise ClacksError("command-timeout", method=NODE, seconds=timeout) from None
        return cls(requests, answers, timeout)

    async def revive(self) -> None:
        """Attach again if that is needed and the connection is there. Raises ClacksError as `attach` does."""
        async with self._reviving:
            if self.alive or not self.connection.alive:
                return
            try:
                fresh = await Management.attach(self.connection, REVIVE_SECONDS)
            except ClacksError:
                if not self.connection.alive:
                    raise
                fresh = await Management.attach(self.connection, self._timeout)
            self._requests, self._answers, self._reason = fresh._requests, fresh._answers, None
            self._requests.handler = self._answers.handler = self

    @property
    def connection(self) -> Connection:
        return self._requests.connection

    @property
    def alive(self) -> bool:
        return self._requests.alive and self._answers.alive

    def close(self) -> None:
        """Detach. What is not answered yet fails."""
        self._requests.close()
        self._answers.close()
        self._fail(None)

    # --- queues ---

    async def declare_queue(
        self,
        name: str,
        *,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> QueueInfo:
        """Make the queue, or find that it is there and the same. Raises ClacksError (status 409) if it is there and different."""
        body = {"durable": durable, "exclusive": exclusive, "auto_delete": auto_delete, "arguments": dict(arguments or {})}
        return _queue(await self._request("PUT", f"/queues/{escaped(name)}", f"Declaring the queue {name!r}", body))

    async def queue_info(self, name: str) -> QueueInfo | None:
        """None if there is no such queue."""
        found = await self._request("GET", f"/queues/{escaped(name)}", f"Looking at the queue {name!r}", absent=True)
        return None if found is None else _queue(found)

    async def delete_queue(self, name: str) -> int:
        """How many messages went with it: 0 also if there was no such queue."""
        return _count(await self._request("DELETE", f"/queues/{escaped(name)}", f"Deleting the queue {name!r}"))

    async def purge_queue(self, name: str) -> int:
        """How many messages were thrown away. Raises ClacksError for a stream, which cannot be purged."""
        return _count(await self._request("DELETE", f"/queues/{escaped(name)}/messages", f"Purging the queue {name!r}"))

    # --- exchanges and bindings ---

    async def declare_exchange(
        self,
        name: str,
        type: str = "direct",  # noqa: A002  the broker's own word
        *,
        durable: bool = True,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the exchange, or find that it is there and the same. Raises ClacksError (status 409) if it is there and different."""
        body = {"type": type, "durable": durable, "auto_delete": auto_delete, "internal": internal, "arguments": dict(arguments or {})}
        await self._request("PUT", f"/exchanges/{escaped(name)}", f"Declaring the exchange {name!r}", body)

    async def delete_exchange(self, name: str) -> None:
        """Nothing is wrong if there was no such exchange."""
        await self._request("DELETE", f"/exchanges/{escaped(name)}", f"Deleting the exchange {name!r}")

    async def bind(self, queue: str, exchange: str, key: str = "", arguments: Mapping[str, Any] | None = None) -> None:
        """Nothing is wrong if it is bound already. Raises ClacksError (status 400) if there is no such queue or exchange."""
        body = {"source": exchange, "destination_queue": queue, "binding_key": key, "arguments": dict(arguments or {})}
        await self._request("POST", "/bindings", f"Binding the queue {queue!r} to the exchange {exchange!r}", body)

    async def unbind(self, queue: str, exchange: str, key: str = "") -> None:
        """Remove what binds them with this key, whatever its arguments. Nothing is wrong if nothing does."""
        for binding in await self.bindings(queue, exchange, key):
            await self._request("DELETE", binding.location, f"Unbinding the queue {queue!r} from the exchange {exchange!r}")

    async def bindings(self, queue: str, exchange: str, key: str = "") -> list[Binding]:
        """What binds them with this key. The broker can be asked for nothing less: without one of the three it ends the session."""
        path = f"/bindings?src={escaped(exchange)}&dstq={escaped(queue)}&key={escaped(key)}"
        found = await self._request("GET", path, f"Looking at the bindings of the queue {queue!r}")
        return [
            Binding(item["source"], item["destination_queue"], item["binding_key"], item.get("arguments") or {}, item["location"])
            for item in found or []
        ]

    # --- asking ---

    async def _request(self, method: str, path: str, doing: str, body: Any = None, *, absent: bool = False) -> Any:
        """The body of the answer; None for a 404 if `absent` is an answer too.

        A request without a body still has a value section (null): RabbitMQ ends the session of one without (seen in 4.0 and 4.3)."""
        number = str(next(self._ids))
        request = Draft(body, Properties(message_id=number, to=path, subject=method, reply_to="$me"))
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        try:
            async with asyncio.timeout(self._timeout):
                await self._send(request.encode(), doing)
                answer = await future
        except TimeoutError:
            raise ClacksError("command-timeout", method=doing, seconds=self._timeout) from None
        except AmqpError as error:
            raise _refused(doing, error.condition) from error
        finally:
            del self._pending[number]
        try:
            status, content = int(answer.properties.subject or 0), answer.body
        except ValueError as error:  # CodecError among them
            raise ClacksError("remote", sentence=f"{doing}: the broker's answer cannot be read ({error}).") from error
        if status == 404 and absent:
            return None
        if status not in _OK:
            raise _error(doing, status, str(content))
        return content

    async def _send(self, encoded: bytes, doing: str) -> None:
        while self.alive and not self._requests.sendable:
            self._credit.clear()
            await self._credit.wait()
        if not self.alive:
            raise AmqpError(self._reason or Condition("amqp:connection:forced", "the link is closed"))
        self._requests.send(encoded, settled=True)

    # --- LinkHandler ---

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        if not settled:
            link.settle(number, ACCEPTED)
        try:
            answer = Message(encoded)
            future = self._pending.get(str(answer.properties.correlation_id))
        except CodecError:
            return  # its request runs into its time-out, which names it
        if future is not None and not future.done():
            future.set_result(answer)

    def credit(self, link: Sender) -> None:
        self._credit.set()

    def outcome(self, link: Sender, token: Any, outcome: Outcome) -> None:
        """Requests are sent settled; none is told."""

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        if link in (self._requests, self._answers):
            self._fail(condition)

    def _fail(self, condition: Condition | None) -> None:
        self._reason = self._reason or condition or Condition("amqp:connection:forced", "the link was closed")
        self._credit.set()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(AmqpError(self._reason))


_names: Final = itertools.count(1)


def _queue(body: Mapping[str, Any]) -> QueueInfo:
    return QueueInfo(
        str(body["name"]), str(body["type"]), bool(body["durable"]), bool(body["exclusive"]), bool(body["auto_delete"]),
        body.get("arguments") or {}, int(body.get("message_count", 0)), int(body.get("consumer_count", 0)),
    )  # fmt: skip


def _count(body: Any) -> int:
    return int(body.get("message_count", 0)) if isinstance(body, dict) else 0


def _refused(doing: str, condition: Condition) -> ClacksError:
    """Why the links went. Where their session went with them, its condition stands in the description of theirs."""
    whole = str(condition).partition("\n")[0]
    for name, status in _STATUS.items():
        if name in whole:
            return _error(doing, status, whole.partition(name)[2].lstrip(": "))
    return ClacksError("connection-lost", url=NODE, reason=f"{doing}: {whole}")


def _error(doing: str, status: int, said: str) -> ClacksError:
    hint = _HINTS.get(status, "See the broker's log.")
    return ClacksError("broker-refused", doing=doing, reason=said, hint=hint, status=status)
