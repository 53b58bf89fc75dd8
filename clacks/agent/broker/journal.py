"""Between the loop and the store's thread: gathers what is to be written into batches, and knows which events are still needed.

While one batch is on its way to the disk the next one gathers, so one fsync serves as many publishers as have sent meanwhile. An event is
kept as long as one subscription has not settled it. What a consumer has settled is written with the next batch, at the latest after
SETTLED_SECONDS: until then an end of the process means that it is delivered again.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from heapq import heappop, heappush
from pathlib import Path
from typing import Final

from ...common.errors import ClacksError
from .store import Batch, Store, StoredEvent, StoredSubscription

log = logging.getLogger("clacks.store")

Kept = Callable[[ClacksError | None], None]
Stored = tuple[bytes, float, str]  # encoded, when it expires (seconds since the epoch, 0.0: never), the event's name

# How long what was settled may stay unwritten, in seconds: what a killed agent delivers twice, against one fsync for every single one.
SETTLED_SECONDS: Final = 0.1
# Bytes of the newest events that are kept in memory too: a consumer that keeps up never waits for the disk.
RECENT_BYTES: Final = 32 * 2**20
# What is read at once for a consumer that is behind: two bursts of deliveries, and no more bytes than eight consumers can have at hand.
FETCH_EVENTS: Final = 128
FETCH_BYTES: Final = 4 * 2**20

_SIZE_BITS: Final = 32


class Journal:
    """The durable half of the embedded broker."""

    def __init__(self, path: Path) -> None:
        """Opens the file. Raises ClacksError store-failed. Needs a running loop."""
        self._store = Store(path)
        self._loop = asyncio.get_running_loop()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="clacks-store")
        self._batch = Batch()
        self._calls: list[Kept] = []
        self._writing: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._recent: OrderedDict[int, Stored] = OrderedDict()
        self._recent_bytes = 0
        self._needed: dict[int, int] = {}  # by number: subscriptions that have it to settle, and above these bits its size
        self._expiring: list[tuple[float, int]] = []  # a heap: when an event expires, and its number
        self._marks: deque[tuple[float, int]] = deque()  # at a time, the next number: one a second
        self._dirty: dict[int, Callable[[], StoredSubscription]] = {}
        self.batches = 0
        self.failures = 0

    # --- what is there at the start ---

    def load(self) -> tuple[list[StoredSubscription], int]:
        """The subscriptions, and the highest id there was. `replay` is next."""
        return self._store.subscriptions()

    def replay(self, take: Callable[[int, StoredEvent, int], None], subscriptions: Sequence[StoredSubscription]) -> int:
        """Call `take(id, event, size)` for every subscription that has yet to settle an event. Answers the highest number there was."""
        open_ones = {one.id: (one.settled, frozenset(one.open)) for one in subscriptions}
        last = max((one.settled for one in subscriptions), default=0)
        for event, size in self._store.events():
            takers = 0
            for member in event.members:
                settled, still = open_ones.get(member, (event.number, ()))
                if event.number > settled or event.number in still:
                    take(member, event, size)
                    takers += 1
            if takers:
                self._need(event, size, takers)
            else:
                self._batch.gone.append(event.number)
            last = max(last, event.number)
        return last

    # --- what is kept ---

    def keep(self, event: StoredEvent, done: Kept) -> None:
        """Write an event; `done` is called when it is on the disk, or with the reason why not, in the order of these calls."""
        self._batch.events.append(event)

        def written(error: ClacksError | None) -> None:
            if error is None:
                self._need(event, len(event.encoded), len(event.members))
                self._remember(event.number, (event.encoded, event.expires, event.name))
            done(error)

        self._calls.append(written)
        self._write()

    def define(self, subscription: StoredSubscription, done: Kept) -> None:
        """Write a subscription; `done` as with `keep`."""
        self._batch.subscriptions[subscription.id] = subscription
        self._calls.append(done)
        self._write()

    def remove(self, number: int) -> None:
        """Forget a subscription. What it had to settle is to be `release`d."""
        self._dirty.pop(number, None)
        self._batch.subscriptions.pop(number, None)
        self._batch.removed.append(number)
        self._write()

    def changed(self, number: int, state: Callable[[], StoredSubscription]) -> None:
        """A subscription has settled something: `state` is asked when it is written."""
        self._dirty[number] = state
        if self._timer is None and self._writing is None:
            self._timer = self._loop.call_later(SETTLED_SECONDS, self._due)

    def release(self, number: int) -> None:
        """One subscription less needs an event."""
        left = self._needed[number] - 1
        if left & ((1 << _SIZE_BITS) - 1):
            self._needed[number] = left
            return
        del self._needed[number]
        self._batch.gone.append(number)
        known = self._recent.pop(number, None)
        if known is not None:
            self._recent_bytes -= len(known[0])

    def expired(self, moment: float) -> set[int]:
        """The events that are needed and expired before `moment`, seconds since the epoch; each is told of once."""
        found = set()
        while self._expiring and self._expiring[0][0] < moment:
            _, number = heappop(self._expiring)
            if number in self._needed:
                found.add(number)
        return found

    def size(self, number: int) -> int:
        """The bytes of an event that is needed."""
        return self._needed[number] >> _SIZE_BITS

    def first_since(self, moment: float) -> int:
        """A number before which every event is older than `moment`, seconds since the epoch, by a second or less."""
        place = bisect_left(self._marks, (moment, 0))
        return self._marks[place][1] if place < len(self._marks) else 2**63

    @property
    def events(self) -> int:
        """Events that are kept."""
        return len(self._needed)

    def _need(self, event: StoredEvent, size: int, takers: int) -> None:
        self._needed[event.number] = (size << _SIZE_BITS) + takers
        if event.expires:
            heappush(self._expiring, (event.expires, event.number))
        self._mark(event.time, event.number)

    def _mark(self, moment: float, number: int) -> None:
        marks = self._marks
        if not marks or moment - marks[-1][0] >= 1.0:
            marks.append((moment, number))
            if len(marks) % 1024 == 0:  # forget the times of what nobody needs any more
                oldest = next(iter(self._needed), number)
                while len(marks) > 1 and marks[1][1] <= oldest:
                    marks.popleft()

    # --- what is read ---

    def recent(self, number: int) -> Stored | None:
        """An event, if it is in memory."""
        return self._recent.get(number)

    def fetch(self, numbers: Sequence[int], then: Callable[[ClacksError | None], None]) -> None:
        """Bring events into memory, and call `then`."""

        def read(finished: asyncio.Future[dict[int, Stored]]) -> None:
            if finished.cancelled():
                return
            error = finished.exception()
            if error is None:
                for number, stored in finished.result().items():
                    if number in self._needed and number not in self._recent:
                        self._remember(number, stored)
            then(error if isinstance(error, ClacksError) else None)

        self._loop.run_in_executor(self._writer, self._store.read, numbers).add_done_callback(read)

    async def get(self, number: int) -> Stored | None:
        """An event from the disk, None if it is not there (any more). Raises ClacksError."""
        found = await self._loop.run_in_executor(self._writer, self._store.read, (number,))
        return found.get(number)

    def _remember(self, number: int, stored: Stored) -> None:
        self._recent[number] = stored
        self._recent_bytes += len(stored[0])
        while self._recent_bytes > RECENT_BYTES and len(self._recent) > 1:
            _, oldest = self._recent.popitem(last=False)
            self._recent_bytes -= len(oldest[0])

    # --- writing ---

    def _due(self) -> None:
        self._timer = None
        self._write()

    def _write(self) -> None:
        if self._writing is not None:
            return
        for number, state in self._dirty.items():
            self._batch.subscriptions[number] = state()
        dirty, self._dirty = self._dirty, {}
        if not self._batch:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._batch = self._batch, Batch()
        calls, self._calls = self._calls, []
        self._writing = self._loop.run_in_executor(self._writer, self._store.write, batch)
        self._writing.add_done_callback(lambda finished: self._written(finished, batch, calls, dirty))

    def _written(
        self, finished: asyncio.Future[None], batch: Batch, calls: list[Kept], dirty: dict[int, Callable[[], StoredSubscription]]
    ) -> None:
        self._writing = None
        failure = finished.exception()
        error = failure if isinstance(failure, ClacksError) else ClacksError("store-failed", reason=repr(failure)) if failure else None
        self.batches += 1
        if error is not None:
            self.failures += 1
            log.error("not written", extra={"reason": str(error), "events": len(batch.events)})
            self._batch.gone[:0] = batch.gone
            self._batch.removed[:0] = batch.removed
            self._dirty = {number: state for number, state in dirty.items() if number not in batch.removed} | self._dirty
            self._batch.subscriptions = batch.subscriptions | self._batch.subscriptions
        for call in calls:
            try:
                call(error)
            except Exception:  # the others of the batch are to hear of it all the same
                log.exception("what was written could not be told")
        if error is None:
            if self._batch.events or self._calls or self._batch.removed:
                self._write()
            elif self._dirty and self._timer is None:
                self._timer = self._loop.call_later(SETTLED_SECONDS, self._due)
        elif self._timer is None:
            self._timer = self._loop.call_later(SETTLED_SECONDS, self._due)

    async def close(self) -> None:
        """Write what there is, and close the file."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._writing is not None:
            await asyncio.wait([self._writing])
            await asyncio.sleep(0)  # its callbacks
        failures = self.failures
        self._write()
        while self._writing is not None and self.failures == failures:
            await asyncio.wait([self._writing])
            await asyncio.sleep(0)
        await self._loop.run_in_executor(self._writer, self._store.close)
        self._writer.shutdown(wait=False)
