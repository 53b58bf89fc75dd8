"""One subscriber's queue: what is sent when there is credit, what waits when there is none, and what is dropped when it is too much."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ...amqp import ACCEPTED, Condition, Link, Outcome, Receiver, Sender


class Subscription:
    """A link that receives events. It is the key of its filters in the bus, and the handler of its link."""

    def __init__(
        self,
        link: Sender,
        *,
        events: int,
        size: int,
        clock: Callable[[], float],
        on_detached: Callable[[Subscription], None],
    ) -> None:
        """At most `events` messages and `size` bytes wait; `clock` is the loop's."""
        self.link = link
        self.user = link.connection.user
        self.address = ""
        self.filters: tuple[str, ...] = ()
        self.delivered = 0
        self.dropped = 0
        self.expired = 0
        self.unaccepted = 0
        self.filter_errors = 0
        self._settled = link.wants_settled
        self._events, self._size = events, size
        self._clock = clock
        self._on_detached = on_detached
        self._queue: deque[tuple[bytes, float]] = deque()
        self._bytes = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def offer(self, encoded: bytes, expires: float = 0.0) -> None:
        """Take one message: send it if the way is free, keep it otherwise; `expires` is a time of the loop's clock, 0.0 for never.

        The oldest are dropped, and counted, when it is too much.
        """
        link = self.link
        if not self._queue and link.sendable:
            link.send(encoded, settled=self._settled)
            self.delivered += 1
            return
        self._queue.append((encoded, expires))
        self._bytes += len(encoded)
        while len(self._queue) > self._events or self._bytes > self._size:
            self._bytes -= len(self._queue.popleft()[0])
            self.dropped += 1

    # --- amqp.LinkHandler ---

    def credit(self, link: Sender) -> None:
        queue = self._queue
        while queue and link.sendable:
            encoded, expires = queue.popleft()
            self._bytes -= len(encoded)
            if expires and expires < self._clock():
                self.expired += 1
                continue
            link.send(encoded, settled=self._settled)
            self.delivered += 1
        if not queue:
            link.drained()

    def outcome(self, link: Sender, number: int, outcome: Outcome) -> None:
        if outcome is not ACCEPTED:
            self.unaccepted += 1
        if self._queue:
            self.credit(link)

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        raise AssertionError("a sender receives nothing")

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        self._queue.clear()
        self._bytes = 0
        self._on_detached(self)
