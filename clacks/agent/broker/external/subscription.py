"""A subscription of a domain, as one agent has it: the key of its filters in the bus, and the way to its queue on the broker.

What its filter has not decided about waits in its order for the sandbox, and what comes after it waits with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from typing import NamedTuple

from ...bus import Incoming
from ...sandbox import Answer, Job, Sandbox
from ..subscription import STRIKES, Counts
from ..terms import Terms
from .outlets import Outlets


class Waiting(NamedTuple):
    """A message that cannot go yet; `question` is what the sandbox is to be asked first, if anything."""

    encoded: bytes
    question: Incoming | None
    done: Callable[[], None]


class DomainSubscription:
    """Everything up to the broker's queue; what happens in it is the broker's matter."""

    def __init__(self, id: str, user: str, queue: str, terms: Terms, sandbox: Sandbox, on_suspended: Callable[[str, str], None]) -> None:  # noqa: A002
        self.id, self.user, self.queue, self.terms = id, user, queue, terms
        self.sight: Container[str] = ()
        self.outlets: Outlets | None = None
        self.delivered = 0
        self.expired = 0
        self.filter_errors = 0
        self._sandbox, self._on_suspended = sandbox, on_suspended
        self._waiting: deque[Waiting] = deque()
        self._job: Job | None = None
        self._strikes = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    consumers: tuple[()] = ()  # these, and what they do, the broker sees
    waiting_bytes = unsettled = dropped = unaccepted = buried = 0

    @property
    def counts(self) -> Counts:
        return Counts(delivered=self.delivered, expired=self.expired, filter_errors=self.filter_errors)

    def offer(self, encoded: bytes, question: Incoming | None, done: Callable[[], None]) -> None:
        """Send one message; `done` is called when the broker has it, when its filter says no, or when the queue is gone."""
        if question is None and not self._waiting and self.outlets is not None:
            self._send(encoded, done)
        else:
            self._waiting.append(Waiting(encoded, question, done))
            self.pump()

    def pump(self) -> None:
        """Send what waits, as far as it is decided about."""
        while self._waiting and self.outlets is not None:
            encoded, question, done = self._waiting[0]
            if question is not None:
                if self._job is None:
                    self._job = Job(self.user, self.terms.filters, question.body, question.properties, self._decided)
                    self._sandbox.submit(self._job)
                return
            self._waiting.popleft()
            self._send(encoded, done)

    def _send(self, encoded: bytes, done: Callable[[], None]) -> None:
        assert self.outlets is not None
        self.delivered += 1
        self.outlets.send(self.queue, encoded, lambda taken: done())

    def _decided(self, answer: Answer) -> None:
        self._job = None
        if answer.exceeded:
            self._strikes += 1
            if self._strikes >= STRIKES:
                self._on_suspended(self.id, answer.exceeded)
                return
        else:
            self._strikes = 0
        self.filter_errors += bool(answer.error or answer.exceeded)
        encoded, _, done = self._waiting.popleft()
        if answer.matched:
            self._waiting.appendleft(Waiting(encoded, None, done))
        else:
            done()
        self.pump()

    def end(self) -> None:
        """It is over: nobody waits for what waits here."""
        if self._job is not None:
            self._job.cancelled = True
            self._job = None
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            one.done()
