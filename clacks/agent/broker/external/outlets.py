"""The ways out: a link to each queue that something is sent to, made when it is first needed, and what becomes of what is sent.

A message is confirmed when the broker has it; then, and only then, `done` is called. What a broker does not take for the moment is sent
again, in its order, until it does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from ....amqp import ACCEPTED, AmqpError, Condition, Connection, Link, Outcome, Receiver, Sender
from ....common.brokers import Broker

log = logging.getLogger("clacks.broker")

Sent = Callable[[bool], None]  # True: the broker has it; False: there is no such queue

# Links that are kept open: RabbitMQ has room for 16,384 on one connection, and an idle one costs either side some kilobytes.
LINKS: Final = 8_000
# Pauses before a full queue is tried again, in seconds.
PAUSE: Final = 0.5
# Conditions that say that there is no queue: nobody waits for what is sent there.
_GONE: Final = frozenset({"amqp:not-found", "amqp:resource-deleted"})


class Outlets:
    """All of them, on one connection."""

    def __init__(self, connection: Connection, broker: Broker) -> None:
        self.connection, self.broker = connection, broker
        self._open: OrderedDict[str, Outlet] = OrderedDict()

    def send(self, queue: str, encoded: bytes, done: Sent) -> None:
        outlet = self._open.get(queue)
        if outlet is None:
            outlet = self._open[queue] = Outlet(self, queue)
            if len(self._open) > LINKS:
                self._close_one()
        else:
            self._open.move_to_end(queue)
        outlet.send(encoded, done)

    def forget(self, queue: str) -> None:
        outlet = self._open.pop(queue, None)
        if outlet is not None:
            outlet.close()

    def _close_one(self) -> None:
        for queue, outlet in self._open.items():
            if outlet.idle:
                self.forget(queue)
                return


class Outlet:
    """The handler of a link to one queue."""

    def __init__(self, outlets: Outlets, queue: str) -> None:
        self._outlets, self._queue = outlets, queue
        self._waiting: deque[tuple[bytes, Sent]] = deque()
        self._again: list[tuple[int, tuple[bytes, Sent]]] = []
        self._number = 0
        self._unsettled = 0
        self._link: Sender | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task = self._attaching()

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._unsettled and not self._again and self._link is not None

    def send(self, encoded: bytes, done: Sent) -> None:
        self._waiting.append((encoded, done))
        if self._link is not None:
            self.credit(self._link)

    def _attaching(self) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(self._attach())

    async def _attach(self) -> None:
        """RabbitMQ 4.0 refuses a link by ending its session, so all that are attached at that time hear of the queue that is not there:
        which one it is tells an attempt in a session of its own."""
        connection, target = self._outlets.connection, self._outlets.broker.queue(self._queue)
        try:
            try:
                link = await connection.attach_sender(target, handler=self)
            except AmqpError as error:
                if error.condition.name not in _GONE:
                    raise
                link = await connection.attach_sender(target, handler=self, alone=True)
        except AmqpError as error:
            self._lost(error.condition)
        else:
            self._link = link
            self.credit(link)

    def close(self) -> None:
        self._task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._link is not None:
            self._link.close()

    def _lost(self, condition: Condition | None) -> None:
        """The link is gone. Where the queue is gone too, so is what was for it; otherwise another link takes it."""
        link, self._link = self._link, None
        returned = sorted([*self._again, *(link.returned if link is not None else [])], key=lambda pair: pair[0])
        self._again, self._unsettled = [], 0
        self._waiting.extendleft(message for _, message in reversed(returned))
        if condition is not None and condition.name in _GONE:
            waiting, self._waiting = self._waiting, deque()
            self._outlets.forget(self._queue)
            for _, done in waiting:
                done(False)
        elif self._outlets.connection.alive and self._waiting:
            log.warning("queue not reached", extra={"queue": self._queue, "reason": str(condition)})
            self._retry(self._reattach)

    def _retry(self, what: Callable[[], None]) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PAUSE, what)

    def _reattach(self) -> None:
        self._timer = None
        self._task = self._attaching()

    def _send_again(self) -> None:
        self._timer = None
        self._waiting.extendleft(message for _, message in sorted(self._again, key=lambda pair: pair[0], reverse=True))
        self._again = []
        if self._link is not None:
            self.credit(self._link)

    # --- amqp.LinkHandler ---

    def credit(self, link: Sender) -> None:
        while self._waiting and not self._again and link.sendable:
            message = self._waiting.popleft()
            self._number += 1
            self._unsettled += 1
            link.send(message[0], (self._number, message))

    def outcome(self, link: Sender, token: tuple[int, tuple[bytes, Sent]], outcome: Outcome) -> None:
        self._unsettled -= 1
        if outcome is ACCEPTED:
            token[1][1](True)
        else:  # full, or one of its replicas is away: a broker refuses nothing for what it says
            self._again.append(token)
        if self._again:
            if not self._unsettled:  # what was on its way has its outcome: now it goes in its order
                self._retry(self._send_again)
        elif self._waiting:
            self.credit(link)

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        if link is self._link:
            self._lost(condition)

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        raise AssertionError("a sender receives nothing")
