"""The log that all agents of a domain read and write: a stream on the broker, and this agent's `Domain` on it.

It reads records, lets the domain decide what they mean, and hands the changes on; it writes heartbeats, and what the domain wants written.
Whoever asks for something (`subscribe`) waits here until the log says what became of it, and until every agent has read that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator
from typing import Any, Final

from ....amqp import (
    ACCEPTED,
    CodecError,
    Condition,
    Connection,
    Described,
    Draft,
    Link,
    Message,
    Outcome,
    Receiver,
    Sender,
    Symbol,
    Terminus,
)
from ....common.brokers import Broker, Management
from ....common.errors import ClacksError
from ...domain import (
    Change,
    Domain,
    Method,
    Record,
    Refused,
    Renewed,
    Snapshot,
    Subscribed,
    SubscriptionAdded,
    SubscriptionChanged,
    SubscriptionTaken,
    Timing,
    Unsubscribed,
    decode,
    encode,
)

log = logging.getLogger("clacks.domain")

# How often time-outs are looked at, in seconds: a lease of six may be exceeded by that much.
TICK: Final = 0.1
# Records of the log under way to this agent: some milliseconds of work.
WINDOW: Final = 500
# How long an agent that starts waits for the state of the domain, in seconds: it may have to be written first.
JOIN_SECONDS: Final = 60.0

_OFFSET: Final = "rabbitmq:stream-offset-spec"


def now() -> float:
    """The clock of leases: that of the machine, which goes on while it is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Control:
    """The domain as this agent knows it, and the links to its log."""

    def __init__(
        self,
        node: str,
        stream: str,
        on_change: Callable[[Change], None],
        vitals: Callable[[], tuple[float, float, int, tuple[Method, ...]]],
    ) -> None:
        """`on_change` hears of every change before the next record is read; `vitals` are load, latency, workers and methods."""
        self.domain = Domain(node, time.time_ns(), Timing())
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stream, self._on_change, self._vitals = stream, on_change, vitals
        self._receiver: Receiver | None = None
        self._sender: Sender | None = None
        self._asked: dict[str, asyncio.Future[Change]] = {}
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._offset = -1
        self._renewals: set[str] = set()
        self._snapshot: Generator[Snapshot, None, None] | None = None
        self._ticker = asyncio.get_running_loop().create_task(self._tick())

    # --- links ---

    async def declare(self, management: Management) -> None:
        """Make the stream. Raises ClacksError if there is one with other sizes."""
        timing = self.domain.timing
        sizes = {"x-max-length-bytes": timing.retention, "x-stream-max-segment-size-bytes": timing.segment}
        await management.declare_queue(self._stream, arguments={"x-queue-type": "stream", **sizes})

    async def attach(self, reading: Connection, writing: Connection, broker: Broker) -> None:
        """Read on from where this agent was."""
        start: Any = "first" if self._offset < 0 else self._offset + 1
        queue = broker.queue(self._stream)
        source = Terminus(queue.address, filter={_OFFSET: Described(Symbol(_OFFSET), start)})
        self._sender = await writing.attach_sender(queue, handler=self)
        self._receiver = await reading.attach_receiver(source, settled=True, handler=self)
        self._receiver.window = WINDOW

    def down(self) -> None:
        """The broker cannot be reached. The own lease runs out by itself."""
        self._receiver = self._sender = None
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None

    async def leave(self) -> None:
        """Say that this agent takes no more events."""
        self._ticker.cancel()
        if self._sender is not None and not self.domain.stopped:
            self._write(self.domain.leave())
            await asyncio.sleep(0)

    # --- asking ---

    async def subscribe(self, record: Subscribed) -> Change:
        """Write it, and wait until every agent of the domain has it, or takes no events any more. The answer says which subscription it
        is. Raises ClacksError domain-unsettled if the broker cannot be reached."""
        future: asyncio.Future[Change] = asyncio.get_running_loop().create_future()
        self._asked[record.id] = future
        try:
            change, offset = await self._written(record, future)
            if not isinstance(change, Refused):
                await self._reached(offset)
            return change
        finally:
            del self._asked[record.id]

    async def _written(self, record: Record, future: asyncio.Future[Change]) -> tuple[Change, int]:
        if self._sender is None:
            raise ClacksError("domain-unsettled", reason="the broker cannot be reached")
        self._write(record)
        try:
            async with asyncio.timeout(2 * self.domain.timing.lease):
                return await future, self._offset
        except TimeoutError:
            raise ClacksError("domain-unsettled", reason="what was written has not been read back") from None

    async def _reached(self, offset: int) -> None:
        if not self.domain.reached(offset, now()):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((offset, future))
            await future

    def unsubscribe(self, id: str, reason: str) -> None:  # noqa: A002
        self._write(Unsubscribed(self.domain.by(), id, reason))

    def renew(self, ids: list[str]) -> list[str]:
        """Those that are not known."""
        known = [one for one in ids if self.domain.subscription(one) is not None]
        self._renewals.update(known)
        return [one for one in ids if one not in self._renewals]

    # --- reading ---

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        if not settled:
            link.settle(number, ACCEPTED)
        try:
            message = Message(encoded)
            offset = int(message.annotations["x-stream-offset"])
        except (CodecError, KeyError, ValueError):
            return
        try:
            body = message.body
            record = decode(body if isinstance(body, bytes) else str(body).encode())
        except (ClacksError, CodecError) as error:
            log.warning("a record cannot be read", extra={"offset": offset, "reason": str(error)})
            record = None
        self._offset = offset
        ready = self.domain.ready
        for change in self.domain.apply(offset, record, now(), len(encoded)):
            self._changed(change)
        if self.domain.ready and not ready:
            self._write(self._heartbeat())  # the others count on whoever says that it has the state
        elif not self.joined.done() and self.domain.node in self.domain.nodes(now()):
            self.joined.set_result(None)
        self._look()

    def _heartbeat(self) -> Record:
        return self.domain.heartbeat(now(), *self._vitals())

    def _changed(self, change: Change) -> None:
        self._on_change(change)
        asked = ""
        if isinstance(change, SubscriptionAdded):
            asked = change.subscription.id
        elif isinstance(change, SubscriptionTaken | SubscriptionChanged):
            asked = change.asked
        elif isinstance(change, Refused):
            asked = change.id
        future = self._asked.get(asked)
        if future is not None and not future.done():
            future.set_result(change)

    def _look(self) -> None:
        """Whoever waits for all agents."""
        if not self._waiting:
            return
        moment, still = now(), []
        for offset, future in self._waiting:
            if future.done():
                continue
            if self.domain.reached(offset, moment):
                future.set_result(None)
            else:
                still.append((offset, future))
        self._waiting = still

    # --- writing ---

    def _write(self, record: Record) -> None:
        if self._sender is not None and self._sender.alive:
            self._sender.send(Draft(encode(record)).encode())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK if not self.domain.heartbeat_due(now()) else 0.0)
            try:
                self._beat()
            except Exception:
                log.exception("the domain's clock failed")
                await asyncio.sleep(TICK)

    def _beat(self) -> None:
        domain = self.domain
        if self._sender is None or not self._sender.sendable:
            return
        if domain.heartbeat_due(now()):
            self._write(self._heartbeat())
        for record in domain.tick(now()):
            self._write(record)
        if self._renewals and domain.may_take(now()):
            ids, self._renewals = self._renewals, set()
            self._write(Renewed(domain.by(), tuple(ids)))
        if self._snapshot is None and domain.snapshot_due(now()):
            self._snapshot = domain.snapshot()
        if self._snapshot is not None:
            part = next(self._snapshot, None)
            if part is None:
                self._snapshot = None
            else:
                self._write(part)
        self._look()

    # --- the rest of amqp.LinkHandler ---

    def credit(self, link: Sender) -> None: ...

    def outcome(self, link: Sender, token: Any, outcome: Outcome) -> None: ...

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        if link in (self._sender, self._receiver) and link.connection.alive:
            log.warning("the domain's log was detached", extra={"reason": str(condition)})
            link.connection.abort()  # then everything is made again
