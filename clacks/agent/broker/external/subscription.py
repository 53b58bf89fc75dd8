"""A subscription of a domain, as one agent has it: the key of its filters in the bus, and the way to its queue on the broker.

What its filter has not decided about waits in its order for the sandbox, and what comes after it waits with it. For a live subscription it
counts as handed over then, or a slow filter would keep the events of all others waiting; what is too much is dropped from its front. For a
durable one it does not: what is accepted for it is with the broker. What its filter has not decided about when it is suspended goes along,
marked: a durable subscription would rather have too much than too little.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from typing import Final, NamedTuple

from ....amqp import Message, annotate
from ...bus import Incoming
from ...sandbox import Answer, Job, Sandbox
from ..envelope import UNDECIDED, header
from ..subscription import STRIKES, Counts
from ..terms import Terms
from .outlets import Fate, Outlets, Sent

# Events and bytes that wait for the filter of one live subscription: seconds of a slow filter, and no more memory than some large events.
WAITING: Final = 1_000
WAITING_BYTES: Final = 16 * 2**20


class Waiting(NamedTuple):
    """A message that cannot go yet; `question` is what the sandbox is to be asked first, if anything; `over`: it counts as handed over."""

    encoded: bytes
    question: Incoming | None
    done: Sent
    over: bool


class Owed:
    """How many messages count as handed over and are not with the broker yet: nothing should overtake them."""

    def __init__(self) -> None:
        self.count = 0

    def one(self) -> Sent:
        """One more; what is answered is called when it is settled."""
        self.count += 1
        return self._settled

    def _settled(self, fate: Fate) -> None:
        self.count -= 1


class DomainSubscription:
    """Everything up to the broker's queue; what happens in it is the broker's matter."""

    def __init__(
        self, id: str, user: str, queue: str, terms: Terms, sandbox: Sandbox, owed: Owed,  # noqa: A002
        on_exceeded: Callable[[DomainSubscription, str], None],
    ) -> None:  # fmt: skip
        """`on_exceeded(self, reason)` is called when its filter costs too much. Nothing is decided then until something follows from it."""
        self.id, self.user, self.queue, self.terms = id, user, queue, terms
        self.sight: Container[str] = ()
        self.outlets: Outlets | None = None
        self.stay: float | None = None  # seconds that each message says, if it says any
        self.suspension = ""  # why it gets no events at present, says the domain, if it does not
        self.barred = ""  # why not, says this agent
        self.delivered = 0
        self.expired = 0
        self.filter_errors = 0
        self._sandbox, self._owed, self._on_exceeded = sandbox, owed, on_exceeded
        self.waiting_bytes = 0
        self.dropped = 0
        self._waiting: deque[Waiting] = deque()
        self._job: Job | None = None
        self._strikes = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    consumers: tuple[()] = ()  # these, and what they do, the broker sees
    unsettled = unaccepted = buried = 0

    @property
    def counts(self) -> Counts:
        return Counts(delivered=self.delivered, dropped=self.dropped, expired=self.expired, filter_errors=self.filter_errors)

    def headed(self, ttl: float | None, encoded: bytes) -> bytes:
        """A message with the header for this subscription; `ttl` in seconds is what its sender gives it."""
        stay = self.stay if ttl is None else ttl if self.stay is None else min(ttl, self.stay)
        return header(stay, durable=self.terms.durable) + encoded

    def offer(self, encoded: bytes, question: Incoming | None, done: Sent) -> None:
        """Send one message; `done` is called when the broker has it, when its filter says no, when the queue is gone, or the connection."""
        if question is None and not self._waiting and self.outlets is not None:
            self._send(encoded, done)
            return
        over = not self.terms.durable and (question is not None or bool(self._waiting))
        self._waiting.append(Waiting(encoded, question, self._owed.one() if over else done, over))
        self.waiting_bytes += len(encoded)
        self.pump()
        if over:
            done(Fate.STORED)
            while len(self._waiting) > WAITING or self.waiting_bytes > WAITING_BYTES:
                self._drop()

    def _drop(self) -> None:
        """The oldest; if its filter is being asked about it, the answer does not matter any more."""
        self.dropped += 1
        self._forget_job()
        one = self._next()
        one.done(Fate.STORED)
        self.pump()

    def _next(self) -> Waiting:
        one = self._waiting.popleft()
        self.waiting_bytes -= len(one.encoded)
        return one

    def pump(self) -> None:
        """Send what waits, as far as it is decided about."""
        while self._waiting and self.outlets is not None and self._strikes < STRIKES:
            encoded, question, done, _ = self._waiting[0]
            if question is not None:
                if self._job is None:
                    self._job = Job(self.user, self.terms.filters, question.body, question.properties, self._decided)
                    self._sandbox.submit(self._job)
                return
            self._next()
            self._send(encoded, done)

    def _send(self, encoded: bytes, done: Sent) -> None:
        assert self.outlets is not None
        self.delivered += 1
        self.outlets.send(self.queue, encoded, done)

    def _decided(self, answer: Answer) -> None:
        self._job = None
        if answer.exceeded:
            self._strikes += 1
            if self._strikes >= STRIKES:
                self._on_exceeded(self, answer.exceeded)
                return
        else:
            self._strikes = 0
        self.filter_errors += bool(answer.error or answer.exceeded)
        one = self._next()
        if answer.matched:
            self._waiting.appendleft(one._replace(question=None))
            self.waiting_bytes += len(one.encoded)
        else:
            one.done(Fate.STORED)
        self.pump()

    def suspend(self, reason: str) -> None:
        """Its filter is asked no more."""
        self.suspension = reason
        self._strikes = 0
        self._forget_job()
        self._waiting = deque(
            one if one.question is None else one._replace(encoded=_undecided(one.encoded), question=None) for one in self._waiting
        )
        self.waiting_bytes = sum(len(one.encoded) for one in self._waiting)
        self.pump()

    def disconnect(self) -> None:
        """The connection is gone: what does not count as handed over comes again from where it came."""
        self.outlets = None
        if self._waiting and not self._waiting[0].over:
            self._forget_job()
        waiting, self._waiting = self._waiting, deque(one for one in self._waiting if one.over)
        self.waiting_bytes = sum(len(one.encoded) for one in self._waiting)
        for one in waiting:
            if not one.over:
                one.done(Fate.LOST)

    def end(self) -> None:
        """It is over: nobody waits for what waits here."""
        for one in self._release():
            one.done(Fate.NO_QUEUE)

    def succeed(self, former: DomainSubscription) -> None:
        """Go on in the place of a subscription whose terms have changed: what waits for its filter's answer is asked anew."""
        self.waiting_bytes = former.waiting_bytes
        self._waiting = former._release()
        self.delivered, self.dropped = former.delivered, former.dropped
        self.expired, self.filter_errors = former.expired, former.filter_errors
        self.pump()

    def _release(self) -> deque[Waiting]:
        self._forget_job()
        waiting, self._waiting = self._waiting, deque()
        self.waiting_bytes = 0
        return waiting

    def _forget_job(self) -> None:
        if self._job is not None:
            self._job.cancelled = True
            self._job = None


def _undecided(encoded: bytes) -> bytes:
    message = Message(encoded)
    ttl = message.header.ttl
    return header(None if ttl is None else ttl / 1000, durable=message.header.durable) + annotate(
        message.bare, {**message.annotations, UNDECIDED: True}
    )
