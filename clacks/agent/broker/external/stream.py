"""A domain's log in a stream of RabbitMQ: whoever comes reads it from any offset, and it keeps as much as it was declared with."""

from __future__ import annotations

import logging
from typing import Any, Final

from ....amqp import (
    ACCEPTED,
    CodecError,
    Condition,
    Connection,
    Described,
    Link,
    Message,
    Outcome,
    Receiver,
    Sender,
    Symbol,
    Terminus,
)
from ....common.brokers import Broker, Management
from ...domain import Timing
from .clock import now
from .log import WINDOW, LogReader

log = logging.getLogger("clacks.domain")

# Offsets that a stream may leave out between two records: RabbitMQ puts one entry of its own in front of each segment.
SKIPPED: Final = 1

_OFFSET: Final = "rabbitmq:stream-offset-spec"


async def declare(management: Management, name: str, timing: Timing) -> None:
    """Make the stream. Raises ClacksError if there is one with other sizes."""
    sizes = {"x-max-length-bytes": timing.retention, "x-stream-max-segment-size-bytes": timing.segment}
    await management.declare_queue(name, arguments={"x-queue-type": "stream", **sizes})


class StreamLog:
    """One agent's links to the stream, and its place in it."""

    def __init__(self, name: str, reader: LogReader) -> None:
        self.name, self._reader = name, reader
        self._receiver: Receiver | None = None
        self._sender: Sender | None = None
        self._offset = -1
        self._last: bytes | None = None
        self._found = False
        self._stored_at = self._read_at = float("-inf")

    async def attach(self, connection: Connection, broker: Broker) -> None:
        """From the last record that was read, which must be the same one still."""
        start: Any = "first" if self._offset < 0 else self._offset
        queue = broker.queue(self.name)
        source = Terminus(queue.address, filter={_OFFSET: Described(Symbol(_OFFSET), start)})
        self._found = False
        self._receiver = await connection.attach_receiver(source, settled=True, handler=self)
        self._sender = await connection.attach_sender(queue, handler=self)
        self._stored_at = self._read_at = now()
        self._receiver.window = WINDOW

    def write(self, number: int, encoded: bytes) -> None:
        if self._sender is not None and self._sender.alive:
            self._sender.send(encoded, number)

    def down(self) -> None:
        self._receiver = self._sender = None

    def again(self) -> None:
        self._offset, self._last = -1, None

    @property
    def writable(self) -> bool:
        return self._sender is not None and self._sender.sendable

    def deaf(self, seconds: float) -> bool:
        """Then it is another stream than the one that is read (deleted, or lost with its broker)."""
        return self._stored_at > self._read_at + seconds

    def resign(self) -> None:
        """Nobody depends on it."""

    def needless(self, base: int) -> None:
        """It keeps what it was declared with."""

    def _other(self, offset: int, body: bytes | None) -> bool:
        """Whether the last record that was read is there no more, or another one is in its place, or records are missing behind it."""
        if offset < self._offset:
            return False
        known, self._found = self._found, True
        if not known and self._offset >= 0:
            return offset > self._offset or body != self._last
        return 0 <= self._offset < offset - 1 - SKIPPED

    # --- amqp.LinkHandler ---

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        if not settled:
            link.settle(number, ACCEPTED)
        try:
            message = Message(encoded)
            offset = int(message.annotations["x-stream-offset"])
        except (CodecError, KeyError, ValueError):
            return
        body = body_of(message)
        self._read_at = now()
        if self._other(offset, body):
            self._reader.cut_off(offset)
            return
        self._offset, self._last = offset, body
        self._reader.record(offset, body, len(encoded))

    def credit(self, link: Sender) -> None: ...

    def outcome(self, link: Sender, number: int, outcome: Outcome) -> None:
        if outcome is ACCEPTED:
            self._stored_at = now()
            self._reader.stored(number)
        else:  # a replica is away; what was written behind it must not overtake it
            log.warning("a record was not taken", extra={"outcome": str(outcome)})
            link.connection.abort()

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        if link in (self._sender, self._receiver) and link.connection.alive:
            log.warning("the domain's log was detached", extra={"reason": str(condition)})
            link.connection.abort()  # then everything is made again


def body_of(message: Message) -> bytes | None:
    """What the message says, if that is bytes or a text."""
    try:
        body = message.body
    except CodecError:
        return None
    return body if isinstance(body, bytes) else str(body).encode()
