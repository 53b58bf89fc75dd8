"""A durable subscription: the same as any other to its consumers, but its queue is on the disk and outlives them.

In memory are the numbers of the events that wait; the events themselves are the journal's. An event is `reserve`d before anything is
written, and `stored` when it is on the disk.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Set
from heapq import heapify
from itertools import islice, takewhile

from ...amqp import Message as Encoded
from ...common.errors import ClacksError
from .conditions import as_condition
from .envelope import incoming_event, with_header
from .journal import FETCH_BYTES, FETCH_EVENTS, Journal
from .store import StoredEvent, StoredSubscription
from .subscription import Host, Message, Subscription, say_suspended
from .terms import Terms

log = logging.getLogger("clacks.store")


class DurableSubscription(Subscription):
    """Its `id` is its row in the store."""

    def __init__(
        self, host: Host, user: str, terms: Terms, journal: Journal, number: int, *,
        events: int, size: int, kept_events: int, kept_bytes: int, settled: int, suspension: str = "",
    ) -> None:  # fmt: skip
        """`events` and `size` as for a live one, for what is on its way; at most `kept_events` and `kept_bytes` are kept. Everything up
        to the number `settled` is."""
        super().__init__(host, user, terms, events=events, size=size)
        self.id = number
        self.suspension = suspension
        self.removed = False
        self.kept_events = 0
        self.kept_bytes = 0
        self._journal = journal
        self._quota, self._most_events, self._most_bytes = kept_bytes, kept_events, min(kept_bytes, terms.max_bytes or kept_bytes)
        self._undecided: set[int] = set()
        self._open: set[int] = set()  # what was sent, or has come back, and is not settled
        self._settled_to = settled
        self._fetching = False

    @property
    def waiting_bytes(self) -> int:
        return self.kept_bytes

    def state(self) -> StoredSubscription:
        """What the store has to know."""
        high = self._settled_to
        still = {number for number in self._open if number <= high}
        still.update(takewhile(lambda number: number <= high, self._queue))  # `remove` settles out of turn
        return StoredSubscription(self.id, self.user, self.terms.to_json(), high, sorted(still), self.suspension)

    def reform(self) -> None:
        """It has other terms; what waits stays."""
        self._most_bytes = min(self._quota, self.terms.max_bytes or self._quota)
        self.suspension = ""
        self._strikes = 0

    def suspend(self, error: ClacksError) -> None:
        """It gets nothing until it has other terms, or its user may have it again."""
        self.suspension = str(error)
        say_suspended(self, error)

    # --- what comes in ---

    def reserve(self, size: int) -> bool:
        """Whether there is room for an event; then it is taken."""
        if self.terms.overflow == "refuse" and (self.kept_events >= self._most_events or self.kept_bytes + size > self._most_bytes):
            return False
        self.kept_events += 1
        self.kept_bytes += size
        return True

    def give_up(self, size: int) -> None:
        """The event that room was reserved for does not come."""
        self.kept_events -= 1
        self.kept_bytes -= size

    def stored(self, number: int, *, undecided: bool) -> None:
        """An event is on the disk."""
        if self.removed:
            self._journal.release(number)
            return
        self._queue.append(number)
        if undecided:
            self._undecided.add(number)
        self.trim()
        self.pump()

    def restore(self, event: StoredEvent, size: int) -> None:
        """An event that was stored in an earlier run."""
        number = event.number
        self._queue.append(number)
        if number <= self._settled_to:
            self._open.add(number)
        if self.id in event.undecided:
            self._undecided.add(number)
        self.kept_events += 1
        self.kept_bytes += size

    def offer(self, message: Message) -> None:
        raise AssertionError("what a durable subscription gets is stored first")

    def trim(self) -> None:
        """Drop what its terms say may be lost."""
        if self.terms.overflow != "drop-oldest":
            return
        queue = self._queue
        since = 0 if self.terms.max_age is None else self._journal.first_since(time.time() - self.terms.max_age)
        while queue and (self.kept_bytes > self._most_bytes or self.kept_events > self._most_events or queue[0] < since):
            self._drop_first()
            self._lost()

    def expire(self, numbers: Set[int]) -> None:
        """Drop what waits of these, whose time is over: while nobody consumes they are not to fill it."""
        waiting = [number for number in self._queue if number in numbers]
        if waiting:
            self._cancel()
            self._queue = deque(number for number in self._queue if number not in numbers)
        returned = [message for message in self._returned if message[0] in numbers]
        if returned:
            self._returned = [message for message in self._returned if message[0] not in numbers]
            heapify(self._returned)
        for number in waiting:
            self._settle(number)
        for message in returned:
            self._end_of(message)
        self.expired += len(waiting) + len(returned)
        if waiting:
            self.pump()

    # --- what a keeper of dead letters needs ---

    def numbers(self) -> list[int]:
        """What waits, by number."""
        return [*(message[0] for message in self._returned), *self._queue]

    def remove(self, number: int) -> None:
        """What waits is done with, without a delivery. Nothing happens if it does not wait any more."""
        if number in self._queue:
            if self._queue[0] == number:
                self._cancel()
            self._queue.remove(number)
            self._settle(number)
            return
        message = next((one for one in self._returned if one[0] == number), None)
        if message is not None:
            self._returned.remove(message)
            heapify(self._returned)
            self._end_of(message)

    # --- the queue ---

    def _first(self) -> Message | None:
        number: int = self._queue[0]
        stored = self._journal.recent(number)
        if stored is None:
            self._fetch()
            return None
        encoded, expires, name = stored
        if expires:
            left = expires - time.time()
            encoded, expires = with_header(encoded, left, 0), self._host.clock() + left
        undecided = None
        if number in self._undecided:
            undecided = incoming_event(Encoded(encoded), self.user, "", time.time())
        return number, encoded, expires, undecided, name

    def _fetch(self) -> None:
        if self._fetching or not self.consumers:
            return
        self._fetching = True
        numbers: list[int] = []
        size = 0
        for number in islice(self._queue, FETCH_EVENTS):
            size += self._journal.size(number)
            if numbers and size > FETCH_BYTES:
                break
            numbers.append(number)
        self._journal.fetch(numbers, self._fetched)

    def _fetched(self, error: ClacksError | None) -> None:
        self._fetching = False
        if error is None:
            self.pump()
        else:
            log.error("events not read", extra={"user": self.user, "subscription": self.terms.name, "reason": str(error)})
            self.dismiss(as_condition(error), closed=False)

    def _take_first(self) -> None:
        number = self._queue.popleft()
        self._open.add(number)
        self._cancel()

    def _drop_first(self) -> None:
        self._cancel()
        self._settle(self._queue.popleft())

    def _decide_first(self) -> None:
        self._undecided.discard(self._queue[0])

    def _end_of(self, message: Message) -> None:
        super()._end_of(message)
        self._settle(message[0])

    def _settle(self, number: int) -> None:
        if self.removed:
            return
        self._settled_to = max(self._settled_to, number)
        self._open.discard(number)
        self._undecided.discard(number)
        self.kept_events -= 1
        self.kept_bytes -= self._journal.size(number)
        self._journal.release(number)
        self._journal.changed(self.id, self.state)

    def clear(self) -> None:
        self.removed = True
        for number in {*self._queue, *self._open}:
            self._journal.release(number)
        self._open.clear()
        super().clear()
