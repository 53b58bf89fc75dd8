"""Between the doors and the bus: keeps what is slow off the loop, keeps one publisher's events in order, and sees a verdict through.

A door calls `Intake.submit` with what came in and hears once what became of it. Nothing here decides anything: `Bus.publish` does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

from ..common.errors import ClacksError
from ..common.event import Event
from .bus import Bus, Incoming, Refused, Routed

log = logging.getLogger("clacks.bus")

T = TypeVar("T")

Done = Callable[[ClacksError | None], None]

# Explanations waiting for the worker; beyond that an invalid event is refused with its short reason, so that a flood of nonsense
# keeps its publisher waiting and nobody else.
EXPLANATIONS: Final = 64
# Bytes of events that wait for a worker, of all publishers together: seconds of work. Beyond that a publisher is told to try again.
WAITING_LIMIT: Final = 128 * 2**20

# Of so many events (a power of two, less one) the time of one is taken.
SAMPLE: Final = 0xFF


class Driver(Protocol):
    """Carries verdicts out: the embedded broker, or an adapter to an external one."""

    def hand_over(self, incoming: Incoming, routed: Routed, lane: Lane, done: Done) -> None:
        """Hand the event to every subscription of the verdict, in the order of its lane, and call `done` once when all have confirmed:
        with None, or with the error that the publisher is to see (then none of them will deliver it). What is raised is told to the
        publisher instead."""


class Lane:
    """One publisher's events, in their order: `waiting` to be examined, and `held` until those before them are handed over."""

    __slots__ = ("__weakref__", "held", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[tuple[Incoming, Done]] = deque()
        self.held: deque[Any] = deque()


class Intake:
    """The way of every event into the bus and out of it again."""

    def __init__(self, bus: Bus, driver: Driver) -> None:
        self._bus, self._driver = bus, driver
        # Two: one long parse must not hold up every other publisher's large events; more would only fight for the two cores.
        self._workers = ThreadPoolExecutor(2, thread_name_prefix="clacks-examine")
        self._explaining = 0
        self._waiting = 0
        self.published = 0
        self.refused = 0
        self.refusals: Counter[str] = Counter()
        self.sampled = 0
        self.sampled_seconds = 0.0

    def submit(self, incoming: Incoming, lane: Lane, done: Done) -> None:
        """Take one event. `done` is called exactly once, maybe before this returns: with None, or with the refusal."""
        if lane.waiting or self._bus.needs_worker(incoming):
            if self._waiting + len(incoming.body) > WAITING_LIMIT:
                self.refuse(ClacksError("bus-overloaded"), incoming.user, incoming.origin, done)
                return
            self._waiting += len(incoming.body)
            lane.waiting.append((incoming, done))
            if len(lane.waiting) == 1:
                self._next(lane)
        else:
            self._decide(incoming, None, lane, done)

    def refuse(self, error: ClacksError, user: str, origin: str, done: Done) -> None:
        """What comes in is no event at all: count and log it, and tell its publisher."""
        self.refused += 1
        self.refusals[error.code] += 1
        log.info("refused", extra={"code": error.code, "user": user, "origin": origin, "reason": str(error)})
        done(error)

    def take_back(self, error: ClacksError, incoming: Incoming, done: Done) -> None:
        """What was to be handed over cannot be: nobody has it, and its publisher is told."""
        self.published -= 1
        self.refuse(error, incoming.user, incoming.origin, done)

    def close(self) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _next(self, lane: Lane) -> None:
        incoming, _ = lane.waiting[0]
        work = self._in_worker(self._examine, incoming)
        work.add_done_callback(lambda finished: self._examined(lane, finished))

    def _in_worker(self, function: Callable[[Incoming], T], incoming: Incoming) -> asyncio.Future[T]:
        """A worker's answer; cancelled if the agent has closed its workers."""
        loop = asyncio.get_running_loop()
        try:
            return loop.run_in_executor(self._workers, function, incoming)
        except RuntimeError:  # shut down
            answer: asyncio.Future[T] = loop.create_future()
            answer.cancel()
            return answer

    def _examine(self, incoming: Incoming) -> Event | ClacksError:
        try:
            return self._bus.examine(incoming)
        except ClacksError as error:
            return error.without_frames()

    def _examined(self, lane: Lane, finished: asyncio.Future[Event | ClacksError]) -> None:
        if finished.cancelled():
            examined: Event | ClacksError = ClacksError("bus-stopping")
        else:
            failure = finished.exception()
            examined = _internal(failure) if failure is not None else finished.result()
        self._decide_first(lane, examined)
        while lane.waiting and not self._bus.needs_worker(lane.waiting[0][0]):
            self._decide_first(lane, None)
        if lane.waiting:
            self._next(lane)

    def _decide_first(self, lane: Lane, examined: Event | ClacksError | None) -> None:
        """The first that waits is decided on, and until then those that come in wait behind it."""
        incoming, done = lane.waiting[0]
        try:
            self._decide(incoming, examined, lane, done)
        finally:
            self._waiting -= len(lane.waiting.popleft()[0].body)

    def _decide(self, incoming: Incoming, examined: Event | ClacksError | None, lane: Lane, done: Done) -> None:
        sampled = not self.published & SAMPLE and time.perf_counter()
        try:
            verdict = self._bus.publish(incoming, examined)
        except Exception as error:
            log.exception("publish failed", extra={"origin": incoming.origin, "user": incoming.user})
            verdict = Refused(_internal(error))
        if sampled:
            self.sampled += 1
            self.sampled_seconds += time.perf_counter() - sampled
        if isinstance(verdict, Routed):
            self.published += 1
            self._hand_over(incoming, verdict, lane, done)
        elif verdict.explainable and self._explaining < EXPLANATIONS:
            self._explaining += 1
            work = self._in_worker(self._bus.explain, incoming)
            work.add_done_callback(lambda finished: self._explained(incoming, verdict.error, finished, done))
        else:
            self.refuse(verdict.error, incoming.user, incoming.origin, done)

    def _hand_over(self, incoming: Incoming, verdict: Routed, lane: Lane, done: Done) -> None:
        try:
            self._driver.hand_over(incoming, verdict, lane, done)
        except Exception as error:  # of one event: those behind it go on
            log.exception("not handed over", extra={"origin": incoming.origin, "user": incoming.user})
            self.take_back(_internal(error), incoming, done)

    def _explained(self, incoming: Incoming, short: ClacksError, finished: asyncio.Future[ClacksError], done: Done) -> None:
        self._explaining -= 1
        failed: Any = finished.cancelled() or finished.exception()
        self.refuse(short if failed else finished.result(), incoming.user, incoming.origin, done)


def _internal(error: BaseException) -> ClacksError:
    return ClacksError("internal", reason=f"{type(error).__name__}: {error}")
