"""Compiles the filters that links are attached with, each user within a share of the agent's time.

A filter may take a quarter of a second to read, and somebody may attach bad ones in a loop: what is long is compiled in a thread, and who
has used up more than a share waits, in the order of asking. Others do not notice.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, NamedTuple, Protocol

from ...common.errors import ClacksError
from ...xquery import Filter
from .terms import compiled

# The share of one processor that one user's attaches may take in the long run, and the seconds that may be used up at once: 8,000 usual
# filters, 100 refused ones, or one of the longest.
SHARE: Final = 0.02
BURST: Final = 0.1
# What a refused attach costs besides the compiling, in seconds: the link, and the line in the log.
REFUSAL: Final = 0.0005
# Characters from which on a filter is compiled in a thread: 2 ms.
LONG: Final = 400

# Characters of filters that may wait for one user's share: thousands of usual ones, which are there at once when a gateway has come back.
# Whoever attaches and detaches without end behind one that waits makes the agent keep no more than these.
WAITING_LIMIT: Final = 4 * 2**20
# What a request costs besides, in characters.
REQUEST: Final = 500

# How long the thread that compiles keeps the interpreter when the loop wants it, in seconds. In bench/hostile_filters.py, beside all of the
# hostile filters, the bystanders' p99 is 1.6 to 2.2 ms with it (1.5 to 2.0 alone); with the agent's usual 0.5 ms it was 2.2 to 20.
GIVE_WAY: Final = 0.00005

Compiled = list[Filter] | ClacksError


class Asker(Protocol):
    """Whose filters they are."""

    @property
    def alive(self) -> bool:
        """Whether anybody waits for the answer."""


class Request(NamedTuple):
    asker: Asker
    texts: Sequence[str]
    then: Callable[[Compiled], None]

    @property
    def size(self) -> int:
        return REQUEST + sum(map(len, self.texts))


class Compiler:
    """`compile` calls back with the filters, or with why there are none; at once where that is possible, and not at all if nobody waits
    for it any more when its turn comes."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="clacks-compile")
        self._paid: dict[str, float] = {}  # when a user has paid for what was compiled, at the rate of SHARE
        self._waiting: dict[str, deque[Request]] = {}
        self._sizes: dict[str, int] = {}  # of what waits

    def compile(self, user: str, asker: Asker, texts: Sequence[str], then: Callable[[Compiled], None]) -> None:
        if user in self._waiting:
            self._append(user, Request(asker, texts, then))
        elif self._wait(user) > 0 or sum(map(len, texts)) > LONG:
            request = Request(asker, texts, then)
            self._waiting[user], self._sizes[user] = deque([request]), request.size
            self._next(user)
        else:
            then(self._charged(user, *_compile(texts)))

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _append(self, user: str, request: Request) -> None:
        if self._sizes[user] + request.size > WAITING_LIMIT:
            first, *others = self._waiting[user]  # the first may be in the thread
            self._waiting[user] = deque([first, *(one for one in others if one.asker.alive)])
            self._sizes[user] = sum(one.size for one in self._waiting[user])
        if self._sizes[user] + request.size > WAITING_LIMIT:
            request.then(ClacksError("link-refused", reason=f"Too many filters of {user} wait to be read. Attach again in a while."))
            return
        self._sizes[user] += request.size
        self._waiting[user].append(request)

    def _first(self, user: str) -> Request:
        """The first, which does not wait any more."""
        request = self._waiting[user].popleft()
        self._sizes[user] -= request.size
        return request

    def _wait(self, user: str) -> float:
        """Seconds until the user may go on."""
        return self._paid.get(user, 0.0) - self._loop.time() - BURST / SHARE

    def _charged(self, user: str, answer: Compiled, seconds: float) -> Compiled:
        cost = seconds + (REFUSAL if isinstance(answer, ClacksError) else 0.0)
        now = self._loop.time()
        self._paid[user] = max(self._paid.get(user, 0.0), now) + cost / SHARE
        if len(self._paid) > 10_000:  # who has paid owes nothing
            self._paid = {name: paid for name, paid in self._paid.items() if paid > now}
        return answer

    def _next(self, user: str) -> None:
        requests = self._waiting[user]
        while requests and not requests[0].asker.alive:
            self._first(user)
        if not requests:
            del self._waiting[user], self._sizes[user]
            return
        wait = self._wait(user)
        if wait > 0:
            self._loop.call_later(wait, self._next, user)
            return
        try:
            work = self._loop.run_in_executor(self._thread, _compile_beside, requests[0].texts)
        except RuntimeError:  # the agent stops
            return
        work.add_done_callback(lambda finished: self._done(user, finished))

    def _done(self, user: str, finished: asyncio.Future[tuple[Compiled, float]]) -> None:
        if finished.cancelled():
            return
        request = self._first(user)
        try:
            request.then(self._charged(user, *finished.result()))
        finally:
            self._next(user)


def _compile(texts: Sequence[str]) -> tuple[Compiled, float]:
    """The filters, or why there are none, and the seconds of processor time that it took."""
    with _COLLECTOR.away():
        began = time.thread_time()
        try:
            filters = [compiled(text) for text in texts]
            for one in filters:
                one.shed()  # what is dear is evaluated in the sandbox
            answer: Compiled = filters
        except ClacksError as error:
            answer = error.without_frames()
        return answer, time.thread_time() - began


def _compile_beside(texts: Sequence[str]) -> tuple[Compiled, float]:
    """The same in a thread, which gives way to the loop at once: what the loop does lets go of the interpreter dozens of times, and would
    wait each time."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(min(usual, GIVE_WAY))
    try:
        return _compile(texts)
    finally:
        sys.setswitchinterval(usual)


class _Collector:
    """Sends the collector away while filters are compiled, on the loop and in the thread: what a long one is made of takes it up to 112 ms
    to look through, in which no thread goes on, and nearly all of it is gone when the filter is compiled. A collection that happens to fall
    into a short one would be put to its user's account."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._compiling = 0

    @contextmanager
    def away(self) -> Iterator[None]:
        with self._lock:
            self._compiling += 1
            gc.disable()
        try:
            yield
        finally:
            with self._lock:
                self._compiling -= 1
                if not self._compiling:
                    gc.enable()


_COLLECTOR: Final = _Collector()
