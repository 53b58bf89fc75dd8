"""The way in: events from the ingress queues of the domain, each settled when every subscription's queue has it.

Each queue gives its events to one agent at a time. Which one, the consumers' priorities say: every agent computes its own for each queue
from the names of both, so the queues spread over the agents without a word between them, and move when an agent comes or goes.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from ....amqp import ACCEPTED, RELEASED, CodecError, Condition, Connection, Int, Link, Message, Modified, Outcome, Receiver, Sender
from ....common.brokers import Broker
from ....common.errors import ClacksError
from ...intake import Intake, Lane
from ..conditions import as_outcome
from ..envelope import incoming_event
from .names import ANSWER, TOKEN, sender_of

# Events of one queue under way in an agent: what it may have to do again if it is killed, and enough for some milliseconds of the broker's.
WINDOW: Final = 400

# Given back. Where `released` is the last outcome before another consumer's turn, RabbitMQ 4.0 gives nobody anything.
BACK: Final = Modified(failed=False)

# What the broker itself notes on a message is not its sender's.
_BROKERS_OWN: Final = ("x-exchange", "x-routing-key", "x-delivery-count", "x-acquired-count", "x-opt-deaths")

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
        may_take: Callable[[], bool],
        answer: Answer,
        reject: Callable[[bytes, ClacksError], None],
    ) -> None:
        """`answer(user, queue, token, error)` tells a publisher who asked; `reject` puts aside what was refused."""
        self.queue = queue
        self.taken = 0
        self._node, self._intake = node, intake
        self._may_take, self._answer, self._reject = may_take, answer, reject
        self._lane = Lane()
        self._held: deque[tuple[int, bytes]] = deque()
        self._link: Receiver | None = None

    async def attach(self, connection: Connection, broker: Broker) -> None:
        self._held.clear()
        properties = {"rabbitmq:priority": Int(priority(self._node, self.queue))}
        self._link = await connection.attach_receiver(broker.queue(self.queue), properties=properties, handler=self)
        self._link.window = WINDOW

    def detach(self) -> None:
        """Take no more; what is under way goes on."""
        if self._link is not None:
            self._link.window = 0

    @property
    def under_way(self) -> int:
        return self._link.unsettled if self._link is not None and self._link.alive else 0

    def go_on(self) -> None:
        """Take what was held while this agent must not take events."""
        while self._held and self._link is not None and self._may_take():
            number, encoded = self._held.popleft()
            self._take(self._link, number, encoded)

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        if self._held or not self._may_take():
            self._held.append((number, encoded))
        else:
            self._take(link, number, encoded)

    def _take(self, link: Receiver, number: int, encoded: bytes) -> None:
        self.taken += 1
        user = queue = token = ""

        def done(error: ClacksError | None) -> None:
            if error is not None and as_outcome(error) is RELEASED:  # not now: the broker gives it to somebody, or here again
                link.settle(number, BACK)
                return
            if queue:
                self._answer(user, queue, token, error)
            if error is not None:
                self._reject(encoded, error)
            link.settle(number, ACCEPTED)

        try:
            message = Message(encoded)
            annotations = message.annotations
            queue, token = str(annotations.get(ANSWER, "")), str(annotations.get(TOKEN, ""))
            user = sender_of(message)
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
