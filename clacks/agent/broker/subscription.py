"""One subscriber's queue: what is sent when there is credit, what waits when there is none, and what is dropped when it is too much.

An event that a filter has not decided about waits in its place like any other. When it is its turn the sandbox is asked, and only this
queue waits for the answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from typing import Final, NamedTuple

from ...amqp import ACCEPTED, Condition, Link, Outcome, Receiver, Sender
from ...common.errors import ClacksError
from ..bus import Incoming
from ..sandbox import Answer, Job, Sandbox

# Evaluations in a row that may exceed the sandbox's budget before the filter is suspended: one may be bad luck, three are a habit.
STRIKES: Final = 3


# One message for any number of queues: encoded; when it expires, a time of the loop's clock, 0.0 for never; what the sandbox is to be
# asked if nobody has decided about it yet; and the event's name, "" for an answer to a command. A plain tuple, shared by all queues: the
# collector looks at it once, where objects of our own in 1,000 full queues took a quarter of the agent's time.
Message = tuple[bytes, float, Incoming | None, str]


class Counts(NamedTuple):
    """What a subscription counts."""

    delivered: int = 0
    dropped: int = 0
    expired: int = 0
    unaccepted: int = 0
    filter_errors: int = 0

    def __add__(self, other: object) -> Counts:
        assert isinstance(other, Counts)
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


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
        sandbox: Sandbox | None = None,
    ) -> None:
        """At most `events` messages and `size` bytes wait; `clock` is the loop's. Without a `sandbox` nothing may be undecided."""
        self.link = link
        self.user = link.connection.user
        self.address = ""
        self.event = ""  # the only one it is for, if it is for one
        self.sight: Container[str] = ("",)  # the names of events that its user may see at present
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
        self._queue: deque[Message] = deque()
        self._bytes = 0
        self._sandbox = sandbox
        self._job: Job | None = None
        self._strikes = 0

    @property
    def counts(self) -> Counts:
        return Counts(self.delivered, self.dropped, self.expired, self.unaccepted, self.filter_errors)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def offer(self, message: Message) -> None:
        """Take one message: send it if the way is free, keep it otherwise. The oldest are dropped, and counted, when it is too much."""
        link = self.link
        if not self._queue and link.sendable and message[2] is None:
            link.send(message[0], settled=self._settled)
            self.delivered += 1
            return
        self._queue.append(message)
        self._bytes += len(message[0])
        while len(self._queue) > self._events or self._bytes > self._size:
            self._drop_first()
            self.dropped += 1
        if message[2] is not None:
            self.credit(link)

    def _drop_first(self) -> None:
        self._bytes -= len(self._queue.popleft()[0])
        if self._job is not None:  # it was about the first
            self._job.cancelled = True
            self._job = None

    # --- amqp.LinkHandler ---

    def credit(self, link: Sender) -> None:
        queue = self._queue
        while queue and link.sendable:
            encoded, expires, undecided, name = queue[0]
            if name not in self.sight:  # the rules have changed while it waited
                self._drop_first()
                continue
            if expires and expires < self._clock():
                self._drop_first()
                self.expired += 1
                continue
            if undecided is not None:
                self._ask(undecided)
                return
            self._drop_first()
            link.send(encoded, settled=self._settled)
            self.delivered += 1
        if not queue:
            link.drained()

    def _ask(self, incoming: Incoming) -> None:
        if self._job is None and self._sandbox is not None:
            self._job = Job(self.user, self.filters, incoming.body, incoming.properties, self._decided)
            self._sandbox.submit(self._job)

    def _decided(self, answer: Answer) -> None:
        self._job = None
        if self._queue[0][3] not in self.sight:
            self.credit(self.link)
            return
        if answer.exceeded:
            self._strikes += 1
            if self._strikes >= STRIKES:
                self.end(ClacksError("filter-suspended", reason=answer.exceeded))
                return
        else:
            self._strikes = 0
        self.filter_errors += bool(answer.error or answer.exceeded)
        if answer.matched:
            encoded, expires, _, name = self._queue[0]
            self._queue[0] = (encoded, expires, None, name)
        else:
            self._drop_first()
        self.credit(self.link)

    def end(self, error: ClacksError) -> None:
        """Detach it, with the reason."""
        self.link.close(Condition(error.condition, str(error), error.to_json()))
        self.detached(self.link, None, closed=True)

    def outcome(self, link: Sender, number: int, outcome: Outcome) -> None:
        if outcome is not ACCEPTED:
            self.unaccepted += 1
        if self._queue:
            self.credit(link)

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        raise AssertionError("a sender receives nothing")

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        if self._job is not None:
            self._job.cancelled = True
        self._queue.clear()
        self._bytes = 0
        self.sight = ()  # what is left of it until the collector comes keeps no account of the user's rights
        self._on_detached(self)
