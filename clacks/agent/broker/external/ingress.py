"""The way in: events from the ingress queues of the domain, each settled when every subscription's queue has it, or that of refused ones.

Each queue gives its events to one agent at a time. Which one, the consumers' priorities say: every agent computes its own for each queue
from the names of both, so the queues spread over the agents without a word between them, and move when an agent comes or goes. A broker
that knows no such priorities gives a queue to who stands first in line, who makes way for one with a better claim. What cannot be taken
for the moment is held, with all that comes after it: given back it would come again behind it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from ....amqp import (
    ACCEPTED,
    RELEASED,
    AmqpError,
    CodecError,
    Condition,
    Connection,
    Int,
    Link,
    Message,
    Modified,
    Outcome,
    Receiver,
    Sender,
)
from ....common.brokers import Broker, Feature
from ....common.errors import ClacksError
from ...intake import Intake, Lane
from ..conditions import as_outcome
from ..envelope import incoming_event
from .names import ANSWER, TOKEN
from .outlets import Fate, Sent
from .subscription import Owed
from .topology import Topology

# Events of one queue that are asked for at a time: enough for some milliseconds of the broker's.
WINDOW: Final = 400
# Events of one queue in hand, and their bytes, beyond which the agent reads no more of it until half is done. That is what it may have to
# do again if it is killed, and what it keeps where a durable queue is full: at full speed a broker has some 400 of them to confirm, and
# large ones fill the memory long before there are as many.
MOST: Final = 2_000
MOST_BYTES: Final = 32 * 2**20
# How long an agent keeps a queue that another one has the better claim to, in seconds: that one may not stand in line yet, or not be the
# next one. And how often it looks whether what it has in hand is settled.
KEPT_SECONDS: Final = 2.0
GIVING_WAY: Final = 0.005
# How long it stands still for what was settled before filters had decided about it, which nothing is to overtake, in seconds; and how often
# it tries that before it gives way all the same: somebody's filter may always be asked about something.
DECIDING_SECONDS: Final = 0.5
DECIDING_TIMES: Final = 15
# Pause before what the bus could not take is tried again, in seconds.
PAUSE: Final = 0.1

# Given back. Where `released` is the last outcome before another consumer's turn, RabbitMQ 4.0 gives nobody anything.
BACK: Final = Modified(failed=False)

# What the broker itself notes on a message is not its sender's.
_BROKERS_OWN: Final = ("x-exchange", "x-routing-key", "x-delivery-count", "x-acquired-count", "x-opt-deaths")

log = logging.getLogger("clacks.broker")

Answer = Callable[[str, str, str, ClacksError | None], None]


def priority(node: str, queue: str) -> int:
    """The agent's claim to a queue: a number that depends on both names and is as good as random."""
    return int.from_bytes(hashlib.sha256(f"{node} {queue}".encode()).digest()[:4], "big") >> 1


class Ingress:
    """The handler of the link to one ingress queue."""

    def __init__(
        self,
        queue: str,
        node: str,
        intake: Intake,
        topology: Topology,
        may_take: Callable[[], bool],
        answer: Answer,
        reject: Callable[[bytes, ClacksError, Sent], None],
        nodes: Callable[[], Iterable[str]],
        owed: Owed,
        *,
        verified: bool = True,
    ) -> None:
        """`answer(user, queue, token, error)` tells a publisher who asked; `reject` puts aside what was refused; `nodes` are the agents
        that take events; `owed` counts what was settled before a subscriber's queue had it. If it is not `verified` who has sent what comes
        here, all of it is refused."""
        self.queue, self.verified = queue, verified
        self.taken = 0
        self._node, self._intake, self._topology, self._nodes, self._owed = node, intake, topology, nodes, owed
        self._may_take, self._answer, self._reject = may_take, answer, reject
        self._lane = Lane()
        self._held: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._link: Receiver | None = None
        self._broker: Broker | None = None
        self._way: asyncio.Task[None] | None = None
        self._kept_until = 0.0
        self._tried = 0

    async def attach(self, connection: Connection, broker: Broker) -> None:
        self._held.clear()
        self._bytes = 0
        self._broker = broker
        properties = {"rabbitmq:priority": Int(priority(self._node, self.queue))}
        source = broker.queue(self.queue, exclusive=self.verified)
        self._kept_until = asyncio.get_running_loop().time() + KEPT_SECONDS
        self._link = await connection.attach_receiver(source, properties=properties, handler=self)
        self._link.window = WINDOW

    def stop(self) -> None:
        """Take no more; what is under way goes on."""
        if self._way is not None:
            self._way.cancel()
        if self._link is not None:
            self._link.window = 0

    # --- whose turn it is, where the broker knows no priorities ---

    def _is_anothers(self) -> bool:
        """Whether the queue has come to this agent, and another one has the better claim to it."""
        if self._way is not None or self._broker is None or not self.verified or self._broker.has(Feature.ACTIVE_CONSUMER):
            return False
        moment = asyncio.get_running_loop().time()
        if moment < self._kept_until:
            return False
        self._kept_until = moment + KEPT_SECONDS
        return max(self._nodes(), key=lambda node: priority(node, self.queue), default=self._node) != self._node

    async def _give_way(self, link: Receiver, broker: Broker) -> None:
        """Settle what is in hand, and stand in line again behind the others: nobody gets a later event before that."""
        try:
            link.window = 0
            while link.alive and link.unsettled:
                await asyncio.sleep(GIVING_WAY)
            end = asyncio.get_running_loop().time() + DECIDING_SECONDS
            while link.alive and self._owed.count and asyncio.get_running_loop().time() < end:
                await asyncio.sleep(GIVING_WAY)
            if not link.alive or link is not self._link:
                return
            self._tried += 1
            if self._owed.count and self._tried < DECIDING_TIMES:
                link.window = WINDOW
                return
            self._tried = 0
            link.close()
            await self.attach(link.connection, broker)
        except AmqpError as error:
            log.warning("an ingress queue was not attached", extra={"queue": self.queue, "reason": str(error)})
            link.connection.abort()  # then everything is made again
        finally:
            self._way = None

    def leave(self) -> None:
        """Give what was not taken to another agent, at once and in its order."""
        if self._link is not None:
            self._link.close()

    @property
    def under_way(self) -> int:
        return self._link.unsettled - len(self._held) if self._link is not None and self._link.alive else 0

    def go_on(self) -> None:
        """Take what was held while this agent could not take events."""
        while self._held and self._timer is None and self._link is not None and self._may_take():
            number, encoded = self._held.popleft()
            self._take(self._link, number, encoded)

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        if self._is_anothers() and self._broker is not None:
            self._way = asyncio.get_running_loop().create_task(self._give_way(link, self._broker))
        self._bytes += len(encoded)
        if self._bytes > MOST_BYTES or link.unsettled > MOST:
            link.pause()
        if self._held or not self._may_take():
            self._held.append((number, encoded))
        else:
            self._take(link, number, encoded)

    def _settle(self, link: Receiver, number: int, encoded: bytes) -> None:
        link.settle(number, ACCEPTED)
        self._bytes -= len(encoded)
        if link.paused and self._bytes < MOST_BYTES // 2 and link.unsettled < MOST // 2:
            link.paused = False
            asyncio.get_running_loop().call_soon(link.resume)

    def _hold(self, number: int, encoded: bytes) -> None:
        """Not now: it goes back to its place."""
        self._held = deque(sorted([(number, encoded), *self._held]))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PAUSE, self._again)

    def _again(self) -> None:
        self._timer = None
        self.go_on()

    def _take(self, link: Receiver, number: int, encoded: bytes) -> None:
        self.taken += 1
        user = queue = token = ""

        def done(error: ClacksError | None) -> None:
            if link is not self._link or not link.alive:  # it comes again, here or to another agent, which answers
                return
            if error is not None and as_outcome(error) is RELEASED:
                self._hold(number, encoded)
                return
            if queue:
                self._answer(user, queue, token, error)
            if error is None:
                self._settle(link, number, encoded)
            else:
                self._reject(encoded, error, put_aside)

        def put_aside(fate: Fate) -> None:
            if fate is not Fate.LOST and link is self._link and link.alive:
                self._settle(link, number, encoded)

        try:
            message = Message(encoded)
            annotations = message.annotations
            queue, token = str(annotations.get(ANSWER, "")), str(annotations.get(TOKEN, ""))
            user = self._topology.sender_of(message)
            if not self.verified:
                raise ClacksError("user-id-unverified")
            incoming = incoming_event(message, user, f"broker {self.queue}", time.time())
            foreign = {key: value for key, value in incoming.annotations.items() if key not in _BROKERS_OWN}
        except ClacksError as error:
            self._intake.refuse(error, user, self.queue, done)
        except CodecError as error:
            self._intake.refuse(ClacksError("event-body-type", found=f"no message ({error})"), user, self.queue, done)
        else:
            self._intake.submit(incoming._replace(annotations=foreign), self._lane, done)

    # --- the rest of amqp.LinkHandler ---

    def credit(self, link: Sender) -> None: ...

    def outcome(self, link: Sender, token: object, outcome: Outcome) -> None: ...

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        if link is self._link and condition is not None and link.connection.alive:
            link.connection.abort()  # then everything is made again
