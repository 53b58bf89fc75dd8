"""The ways out: a link to each queue that something is sent to, made when it is first needed, and what becomes of what is sent.

Whoever sends hears once, through `done`, what became of it. What a broker does not take for the moment is sent again, in its order, until
it does; unless the queue is one that a user has made and named, which must not keep an agent busy, whatever kind of queue it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum, auto
from typing import Any, Final

from ....amqp import ACCEPTED, AmqpError, Condition, Connection, Link, Outcome, Receiver, Sender
from ....common.brokers import Broker

log = logging.getLogger("clacks.broker")


class Fate(Enum):
    """What became of a message: the broker has it; there is no such queue, so nobody waits for it; the broker did not take it, and nobody
    insisted; or the connection was lost before the broker said anything, which may have it or not."""

    STORED = auto()
    NO_QUEUE = auto()
    NOT_TAKEN = auto()
    LOST = auto()


Sent = Callable[[Fate], None]

# Links that are kept open: RabbitMQ has room for 16,384 on one connection, and an idle one costs either side some kilobytes.
LINKS: Final = 8_000
# Pauses before a full queue is tried again, in seconds.
PAUSE: Final = 0.5
# How long an attach may take, in seconds: it is milliseconds, and some seconds where a broker with thousands of queues has just come back.
ATTACH_SECONDS: Final = 10.0
# Conditions that say that there is no queue: nobody waits for what is sent there.
_GONE: Final = frozenset({"amqp:not-found", "amqp:resource-deleted"})
# The condition of a link whose session ended because of another one: nothing is wrong with its queue.
_BYSTANDER: Final = "amqp:session:errant-link"


async def _surely(queue: str) -> bool:
    return True


class Outlets:
    """All of them, on one connection."""

    def __init__(self, connection: Connection, broker: Broker, exists: Callable[[str], Awaitable[bool]] = _surely) -> None:
        """`exists` answers whether there is a queue."""
        self.connection, self.broker, self.exists = connection, broker, exists
        self.probing = asyncio.Lock()
        self._open: OrderedDict[str, Outlet] = OrderedDict()

    def send(self, queue: str, encoded: bytes, done: Sent, *, insist: bool = True) -> None:
        """Always with the same `insist` for one queue: whether what is not taken is sent again."""
        outlet = self._open.get(queue)
        if outlet is None:
            outlet = self._open[queue] = Outlet(self, queue, insist)
            if len(self._open) > LINKS:
                self._close_one()
        else:
            self._open.move_to_end(queue)
        outlet.send(encoded, done)

    def forget(self, queue: str) -> None:
        """The queue is wanted no more."""
        outlet = self._open.pop(queue, None)
        if outlet is not None:
            outlet.end(Fate.NO_QUEUE)

    def lost(self) -> None:
        """The connection is gone, or has to be treated so."""
        outlets, self._open = list(self._open.values()), OrderedDict()
        for outlet in outlets:
            outlet.end(Fate.LOST)

    def _close_one(self) -> None:
        for queue, outlet in self._open.items():
            if outlet.idle:
                self.forget(queue)
                return


class Outlet:
    """The handler of a link to one queue."""

    def __init__(self, outlets: Outlets, queue: str, insists: bool) -> None:
        self._outlets, self._queue, self._insists = outlets, queue, insists
        self._waiting: deque[tuple[bytes, Sent]] = deque()
        self._again: list[tuple[int, tuple[bytes, Sent]]] = []
        self._number = 0
        self._unsettled = 0
        self._link: Sender | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._unsettled and not self._again and self._task is None

    def send(self, encoded: bytes, done: Sent) -> None:
        self._waiting.append((encoded, done))
        if self._link is not None:
            self.credit(self._link)
        elif self._task is None and self._timer is None:
            self._attach()

    def end(self, fate: Fate) -> None:
        """Whoever waits here hears that."""
        if self._task is not None:
            self._task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._link is not None:
            self._link.close()
        self._return()
        waiting, self._waiting = self._waiting, deque()
        for _, done in waiting:
            done(fate)

    def _return(self) -> None:
        """What was under way waits again, in its place before what was not."""
        link, self._link = self._link, None
        returned = sorted([*self._again, *(link.returned if link is not None else [])], key=lambda pair: pair[0])
        self._again, self._unsettled = [], 0
        self._waiting.extendleft(message for _, message in reversed(returned))

    # --- the link ---

    def _attach(self) -> None:
        self._timer = None
        self._task = asyncio.get_running_loop().create_task(self._attaching())

    async def _attaching(self) -> None:
        try:
            link = await self._shared()
        except AmqpError as error:
            self._task = None
            self._lost(error.condition)
        else:
            self._task, self._link = None, link
            if link.alive:
                self.credit(link)
            else:
                self._lost(None)

    async def _shared(self) -> Sender:
        """A link in a session with others. RabbitMQ 4.0 refuses one by ending its session, and all that are attached at that time hear of
        the queue that is not there: which one it is tells an attempt in a session of its own, one at a time as there are only 64. What a
        user has named is looked for by other means first, as nobody is to end that session at will."""
        connection, target = self._outlets.connection, self._outlets.broker.queue(self._queue)
        if not (self._insists or await self._outlets.exists(self._queue)):
            raise AmqpError(Condition("amqp:not-found", "there is no such queue"))
        while True:
            try:
                return await self._answered(connection.attach_sender(target, handler=self))
            except AmqpError:
                async with self._outlets.probing:
                    probe = await self._answered(connection.attach_sender(target, alone=True))
                    probe.close()

    async def _answered(self, attach: Coroutine[Any, Any, Sender]) -> Sender:
        """RabbitMQ 4.0 may overhear what comes right behind the end of a session: then everything is made again, or all would wait for
        ever. Raises AmqpError."""
        try:
            async with asyncio.timeout(ATTACH_SECONDS):
                return await attach
        except TimeoutError:
            log.warning("an attach was not answered", extra={"queue": self._queue})
            self._outlets.connection.abort()
            raise AmqpError(Condition("amqp:connection:forced", "the attach was not answered")) from None

    def _lost(self, condition: Condition | None) -> None:
        """The link is gone. Where the queue is gone too, so is what was for it; otherwise another link takes it."""
        self._return()
        if condition is not None and condition.name in _GONE:
            self._outlets.forget(self._queue)
        elif self._outlets.connection.alive and self._waiting:
            if condition is not None and condition.name == _BYSTANDER:
                self._attach()
            elif not self._insists:
                self._outlets.forget(self._queue)
            else:
                log.warning("queue not reached", extra={"queue": self._queue, "reason": str(condition)})
                self._retry(self._attach)

    def _retry(self, what: Callable[[], None]) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PAUSE, what)

    def _send_again(self) -> None:
        self._timer = None
        self._waiting.extendleft(message for _, message in sorted(self._again, key=lambda pair: pair[0], reverse=True))
        self._again = []
        if self._link is not None:
            self.credit(self._link)
        elif self._task is None:
            self._attach()

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
            token[1][1](Fate.STORED)
        elif not self._insists:
            token[1][1](Fate.NOT_TAKEN)
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
