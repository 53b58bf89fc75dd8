"""This agent's `Domain` on the log that all agents read and write.

It reads records, lets the domain decide what they mean, and hands the changes on; it writes heartbeats, and what the domain wants written.
What the log has not confirmed is written again after a reconnect, in its order. Whoever asks for something (`subscribe`) waits here
until the log says what became of it, and until every agent has read that. If the log has been cut off behind this agent's back, it
begins anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, Final

from ....amqp import Connection, Draft
from ....common.brokers import Broker
from ....common.errors import ClacksError
from ...domain import (
    Announced,
    Change,
    Domain,
    Making,
    Method,
    QueueComing,
    Record,
    Refused,
    Renewed,
    Snapshot,
    Subscribed,
    SubscriptionAdded,
    SubscriptionChanged,
    SubscriptionRemoved,
    SubscriptionTaken,
    Superseded,
    Suspended,
    Timing,
    Unsubscribed,
    decode,
    encode,
)
from .clock import now
from .log import Log, LogReader

log = logging.getLogger("clacks.domain")

# How often time-outs are looked at, in seconds: a lease of six may be exceeded by that much.
TICK: Final = 0.1
# How long an agent that starts waits for the state of the domain, in seconds: it may have to be written first.
JOIN_SECONDS: Final = 60.0
# How many leases an agent that writes reads nothing before it takes the log for another one (deleted, or lost with its broker).
DEAF: Final = 2


class Control:
    """The domain as this agent knows it, and the reader of its log."""

    def __init__(
        self,
        node: str,
        on_change: Callable[[Change], None],
        on_lease: Callable[[], None],
        on_restart: Callable[[], None],
        vitals: Callable[[], tuple[float, float, int, tuple[Method, ...]]],
        timing: Timing | None = None,
    ) -> None:
        """`on_change` hears of every change before the next record is read, `on_lease` when this agent may take events for another while,
        `on_restart` before a fresh domain reads the log from its beginning; `vitals` are load, latency, workers and methods."""
        self.domain = Domain(node, time.time_ns(), timing)
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.restarts = 0
        self._log: Log | None = None
        self._on_change, self._vitals = on_change, vitals
        self._on_lease, self._on_restart = on_lease, on_restart
        self._connection: Connection | None = None
        self._asked: dict[str, asyncio.Future[Change]] = {}
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._behind: list[asyncio.Future[None]] = []
        self._offset = -1
        self._base = -1
        self._number = 0
        self._unconfirmed: dict[int, bytes] = {}
        self._renewals: set[str] = set()
        self._snapshot: Generator[Snapshot, None, None] | None = None
        self._ticker = asyncio.get_running_loop().create_task(self._tick())

    # --- the log's connection ---

    async def attach(self, connection: Connection, broker: Broker, log_of: Callable[[LogReader], Log]) -> None:
        """Read on from where this agent was, and write again what the log may not have. `log_of` makes the log, the first time."""
        if self._log is None:
            self._log = log_of(self)
        self._connection = connection
        await self._log.attach(connection, broker)
        for number, encoded in self._unconfirmed.items():
            self._log.write(number, encoded)

    def down(self) -> None:
        """The broker cannot be reached. The own lease runs out by itself."""
        self._connection = None
        if self._log is not None:
            self._log.down()
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None

    async def leave(self) -> None:
        """Say that this agent takes no more events."""
        self._ticker.cancel()
        if self._connection is not None and not self.domain.stopped:
            self._write(self.domain.leave())
            await asyncio.sleep(0)

    # --- asking ---

    async def subscribe(self, record: Subscribed) -> Change:
        """Write it, and wait until every agent of the domain has it, or takes no events any more. The answer says which subscription it
        is. Raises ClacksError bus-overloaded if the broker cannot be reached."""
        change, offset = await self._written(record, record.id)
        if not isinstance(change, Refused):
            await self._reached(offset)
        return change

    async def making(self, queue: str) -> None:
        """Write that a queue is about to be made here, and wait until the log has it: should this agent go before it has written the
        subscription, whoever leads deletes the queue. Raises ClacksError bus-overloaded if the broker cannot be reached, or this agent is
        taken for gone already."""
        await self._written(Making(self.domain.by(), queue), queue)
        if not self.domain.makes(queue):
            raise ClacksError("bus-overloaded")

    def give_up(self, queue: str) -> None:
        """The queue was not made, or nobody knows: no subscription will be written that has it. If one was, this means nothing."""
        self._write(Making(self.domain.by(), queue, given_up=True))

    async def unsubscribe(self, id: str, reason: str) -> Change:  # noqa: A002
        """Write it, and wait until the log has it: whoever subscribes under the same name after that gets another subscription. Raises
        ClacksError bus-overloaded if the broker cannot be reached."""
        change, _ = await self._written(Unsubscribed(self.domain.by(), id, reason), id)
        return change

    def suspend(self, id: str, filters: tuple[str, ...], reason: str) -> None:  # noqa: A002
        """The filters of a subscription cost too much. Nobody waits for that: the change says so, here as everywhere."""
        self._write(Suspended(self.domain.by(), id, filters, reason))

    async def _written(self, record: Record, asked: str) -> tuple[Change, int]:
        if self._connection is None:
            raise ClacksError("bus-overloaded")
        future = self._asked.get(asked)
        if future is None:
            future = self._asked[asked] = asyncio.get_running_loop().create_future()
        self._write(record)
        try:
            async with asyncio.timeout(2 * self.domain.timing.lease):
                change = await asyncio.shield(future)
                return change, self._offset
        except TimeoutError:
            raise ClacksError("bus-overloaded") from None
        finally:
            self._asked.pop(asked, None)

    async def _reached(self, offset: int) -> None:
        if not self.domain.reached(offset, now()):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((offset, future))
            await future

    async def current(self) -> None:
        """Wait until this agent may take events: then it knows every subscription that anybody was told of. One that has been away for
        longer than its lease, or has to begin anew, would answer for less."""
        if not self.domain.may_take(now()):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._behind.append(future)
            await future

    def renew(self, ids: Iterable[str]) -> None:
        self._renewals.update(ids)

    # --- reading ---

    def record(self, offset: int, body: bytes | None, size: int) -> None:
        try:
            record = None if body is None else decode(body)
        except ClacksError as error:
            log.warning("a record cannot be read", extra={"offset": offset, "reason": str(error)})
            record = None
        moment = now()
        self._offset = offset
        ready = self.domain.ready
        for change in self.domain.apply(offset, record, moment, size):
            self._changed(change)
        if self.domain.ready and not ready:
            self._write(self._heartbeat())  # the others count on whoever says that it has the state
        elif not self.joined.done() and self.domain.may_take(moment):
            self.joined.set_result(None)
        if isinstance(record, Announced) and record.by.node == self.domain.node:
            self._on_lease()
            self._catch_up()
        elif isinstance(record, Snapshot) and self.domain.base > self._base and self._log is not None:
            self._base = self.domain.base
            self._log.needless(self._base)
        self._look()

    def stored(self, number: int) -> None:
        self._unconfirmed.pop(number, None)

    def cut_off(self, offset: int) -> None:
        if not self.domain.stopped:
            log.warning("the domain's log was cut off, or is another one", extra={"read": self._offset, "next": offset})
            self._start_again()

    @property
    def ready(self) -> bool:
        return self.domain.applied >= 0 or self.domain.stopped

    @property
    def stopped(self) -> bool:
        return self.domain.stopped

    def _catch_up(self) -> None:
        if self._behind and self.domain.may_take(now()):
            behind, self._behind = self._behind, []
            for future in behind:
                if not future.done():
                    future.set_result(None)

    def _start_again(self) -> None:
        """Forget everything, and read the log from its beginning, on another connection."""
        self.restarts += 1
        self._on_restart()
        self.restart()
        if self._connection is not None:
            self._connection.abort()  # then everything is made again
        self.down()

    def restart(self) -> None:
        """Forget everything: what follows is the log from its beginning, for another process of this node."""
        # The time of the machine may have been set back, and an incarnation that is not greater would be taken for an older process.
        self.domain = Domain(self.domain.node, max(time.time_ns(), self.domain.incarnation + 1), self.domain.timing)
        self._offset = self._base = -1
        if self._log is not None:
            self._log.again()
        self._unconfirmed.clear()
        self._renewals.clear()
        lost: list[asyncio.Future[Any]] = [*self._asked.values(), *(future for _, future in self._waiting)]
        self._asked, self._waiting = {}, []
        for future in lost:
            if not future.done():
                future.set_exception(ClacksError("bus-overloaded"))

    def _heartbeat(self) -> Record:
        return self.domain.heartbeat(now(), *self._vitals())

    def _changed(self, change: Change) -> None:
        self._on_change(change)
        asked = ""
        if isinstance(change, SubscriptionAdded | SubscriptionRemoved):
            asked = change.subscription.id
        elif isinstance(change, SubscriptionTaken | SubscriptionChanged):
            asked = change.asked
        elif isinstance(change, Refused):
            asked = change.id
        elif isinstance(change, QueueComing):
            asked = change.queue
        elif isinstance(change, Superseded):
            self._superseded()
        future = self._asked.get(asked)
        if future is not None and not future.done():
            future.set_result(change)

    def _superseded(self) -> None:
        if self._log is not None:
            self._log.resign()
        if not self.joined.done():
            self.joined.set_exception(
                ClacksError(
                    "config-invalid",
                    source="node_id",
                    reason=f"there is another agent called {self.domain.node} in the domain",
                    hint="Give each agent its own node_id. If there is none, this machine's clock was set back.",
                )
            )

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
        self._number += 1
        encoded = self._unconfirmed[self._number] = Draft(encode(record)).encode()
        if self._log is not None:
            self._log.write(self._number, encoded)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK if self._connection is None or not self.domain.heartbeat_due(now()) else 0.0)
            try:
                self._beat()
            except Exception:
                log.exception("the domain's clock failed")
                await asyncio.sleep(TICK)

    def _beat(self) -> None:
        domain = self.domain
        self._look()
        if self._log is None or not self._log.writable:
            return
        if self._log.deaf(DEAF * domain.timing.lease) and not domain.stopped:
            log.warning("the domain's log is another one", extra={"read": self._offset})
            self._start_again()
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
