"""A subscription: the queue of what its filters matched, and the consumers who take from it.

What is sent when there is credit, what waits when there is none, what comes back, and what happens when it is too much. An event that a
filter has not decided about waits in its place like any other. When it is its turn the sandbox is asked, and only this queue waits for
the answer. Nothing here knows of disks (`durable`) or of who may attach (`attaching`).
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Container
from heapq import heapify, heappop, heappush
from typing import Any, Final, NamedTuple, Protocol

from ...amqp import ACCEPTED, Condition, Link, Modified, Outcome, Receiver, Rejected, Sender
from ...common.errors import ClacksError
from ..bus import Incoming
from ..sandbox import Answer, Job, Sandbox
from .envelope import DROPPED, marked, with_header
from .terms import Terms

log = logging.getLogger("clacks.broker")

# Evaluations in a row that may exceed the sandbox's budget before the filter is suspended: one may be bad luck, three are a habit.
STRIKES: Final = 3
# Why a message is a dead letter that each consumer wants to be another's.
SHUNNED: Final = "undeliverable here, says every consumer"
_NOBODY: Final[frozenset[Consumer]] = frozenset()
# Messages that one subscription sends in one turn of the loop, a third of a millisecond: the others have theirs before it goes on.
BURST: Final = 64


# One message for any number of queues: its number, by which they are in order; encoded; when it expires, a time of the loop's clock, 0.0
# for never; what the sandbox is to be asked if nobody has decided about it yet; and the event's name, "" for an answer to a command. A
# plain tuple, shared by all queues: the collector looks at it once, where objects of our own in 1,000 full queues took a quarter of the
# agent's time.
Message = tuple[int, bytes, float, Incoming | None, str]


class Counts(NamedTuple):
    """What a subscription counts."""

    delivered: int = 0
    dropped: int = 0
    expired: int = 0
    unaccepted: int = 0
    buried: int = 0
    filter_errors: int = 0

    def __add__(self, other: object) -> Counts:
        assert isinstance(other, Counts)
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


Identity = tuple[str, str, str]  # user, container, name


class Host(Protocol):
    """What a subscription needs from the one who keeps it."""

    sandbox: Sandbox
    delivery_limit: int

    def clock(self) -> float: ...

    def call_soon(self, function: Callable[[], None]) -> None: ...

    def abandoned(self, subscription: Subscription, *, closed: bool) -> None:
        """Its last consumer has gone, `closed`: for good."""

    def suspended(self, subscription: Subscription, error: ClacksError) -> None:
        """It must not go on, for this reason."""

    def bury(self, subscription: Subscription, message: Message, reason: str) -> None:
        """A message that cannot be delivered is to be put among the dead letters, and then `laid_to_rest`."""


class Subscription:
    """The key of its filters in the bus. This one lives in memory, and as long as it has consumers. `suspension` says why it gets nothing
    at present, if it does not: only one that outlives its consumers can be suspended."""

    suspension = ""

    # As many as links: see amqp.Connection.
    __slots__ = (
        "__weakref__",
        "_attempts",
        "_bytes",
        "_durable",
        "_events",
        "_fatal",
        "_host",
        "_job",
        "_most",
        "_on_room",
        "_only",
        "_out",
        "_pumping",
        "_queue",
        "_returned",
        "_settled",
        "_shunned",
        "_size",
        "_strikes",
        "_turn",
        "_untold",
        "buried",
        "consumers",
        "delivered",
        "dropped",
        "expired",
        "filter_errors",
        "sight",
        "terms",
        "unaccepted",
        "user",
    )

    def __init__(self, host: Host, user: str, terms: Terms, *, events: int, size: int) -> None:
        """At most `events` messages and `size` bytes wait; as many bytes again may be with consumers, unsettled."""
        self.user = user
        self.terms = terms
        self.sight: Container[str] = ("",)  # the names of events that its user may see at present
        self.consumers: list[Consumer] = []
        self.delivered = 0
        self.dropped = 0
        self.expired = 0
        self.unaccepted = 0
        self.buried = 0
        self.filter_errors = 0
        self._host = host
        self._events, self._size = events, size
        self._queue: deque[Any] = deque()
        self._bytes = 0
        self._out = 0  # bytes with consumers, unsettled
        self._durable = terms.durable
        self._only: Sender | None = None  # the link, where there is one
        self._settled = False
        self._most = 0  # bytes that it takes in one message
        self._returned: list[Message] = []  # a heap
        self._attempts: dict[int, int] = {}  # of what has come back: deliveries without success, by number
        self._fatal: dict[int, int] = {}  # how many consumers were lost while this was the first that they had not settled, by number
        self._shunned: dict[int, set[Consumer]] = {}  # who does not want it again, by number
        self._turn = 0
        self._untold = 0  # dropped, and the consumer does not know
        self._on_room: list[Callable[[], None]] = []
        self._pumping = False
        self._job: Job | None = None
        self._strikes = 0

    @property
    def identity(self) -> Identity:
        """By this a link finds it again, if it can be found."""
        return self.user, self.terms.container, self.terms.name

    @property
    def counts(self) -> Counts:
        return Counts(self.delivered, self.dropped, self.expired, self.unaccepted, self.buried, self.filter_errors)

    @property
    def waiting(self) -> int:
        return len(self._queue) + len(self._returned)

    @property
    def waiting_bytes(self) -> int:
        return self._bytes

    @property
    def unsettled(self) -> int:
        return sum(one.link.unsettled for one in self.consumers)

    # --- consumers ---

    def join(self, link: Sender) -> None:
        """Another consumer. The link is to be accepted before, so that it can send."""
        consumer = Consumer(link, self)
        self.consumers.append(consumer)
        self._elect()
        self.pump()  # its credit may have come with its attach, before there was a consumer to hear of it

    def leave(self, consumer: Consumer, *, closed: bool, lost: bool) -> None:
        """A consumer has gone: what it had not settled is there again; if it was `lost`, after one more failure."""
        self.consumers.remove(consumer)
        self._elect()
        self._take_back(consumer, failed=lost, lost=lost)
        if self.consumers:
            self.pump()
        else:
            self._cancel()
            self._host.abandoned(self, closed=closed)

    def _take_back(self, consumer: Consumer, *, failed: bool, lost: bool) -> None:
        if self.consumers or self.terms.durable:
            returned = consumer.link.returned
            for message in returned:
                self._out -= len(message[1])
                self._give_back(message, failed=failed)
            if lost and returned:
                self._suspect(returned[0])
            for shunning in self._shunned.values():
                shunning.discard(consumer)

    def _elect(self) -> None:
        only = self.consumers[0] if len(self.consumers) == 1 else None
        self._only = only.link if only is not None else None
        self._settled = only is not None and only.settled
        self._most = only.most if only is not None else 0

    def dismiss(self, condition: Condition, *, closed: bool = True) -> None:
        """Detach every consumer, with the reason; what they had not settled is there again. None gets what another has given back."""
        if not self.consumers:
            return
        dismissed, self.consumers = self.consumers, []
        self._elect()
        for consumer in dismissed:
            consumer.link.close(condition, closed=closed)
            self._take_back(consumer, failed=True, lost=False)
        self._cancel()
        self._host.abandoned(self, closed=False)

    def clear(self) -> None:
        """It is over: whatever waits is gone."""
        self._cancel()
        self._queue.clear()
        self._returned.clear()
        self._attempts.clear()
        self._fatal.clear()
        self._shunned.clear()
        self._bytes = 0
        self.sight = ()  # what is left of it until the collector comes keeps no account of the user's rights
        self._room_again()

    # --- what comes in ---

    def offer(self, message: Message) -> None:
        """Take one message: send it if the way is free, keep it otherwise."""
        link = self._only
        if (
            link is not None and message[3] is None and not self._queue and not self._returned
            and link.sendable and self._out < self._size and len(message[1]) <= self._most
        ):  # fmt: skip
            encoded = message[1]
            if self._settled:
                link.send(encoded, settled=True)
            else:
                self._out += len(encoded)
                link.send(encoded, message)
            self.delivered += 1
            return
        self._queue.append(message)
        self._bytes += len(message[1])
        if self.over:
            self._overflow()
        if link is None or message[3] is not None or len(message[1]) > self._most:
            self.pump()

    @property
    def over(self) -> bool:
        """More waits than may."""
        return len(self._queue) > self._events or self._bytes > self._size

    def _overflow(self) -> None:
        if self.terms.overflow == "detach":
            self._host.suspended(self, ClacksError("queue-full", limit=f"{self._events} events or {self._size} bytes"))
        elif self.terms.overflow == "drop-oldest":
            while self.over:
                self._drop_first()
                self._lost()

    def _lost(self) -> None:
        self.dropped += 1
        self._untold += 1

    def when_room(self, call: Callable[[], None]) -> None:
        """Call once when no more waits than may (block-publisher), or when it is over."""
        self._on_room.append(call)

    def _room_again(self) -> None:
        waiting, self._on_room = self._on_room, []
        for call in waiting:
            self._host.call_soon(call)

    # --- what goes out ---

    def pump(self) -> None:
        """Send what waits, as far as consumers take it."""
        if not self.consumers:
            return
        for _ in range(BURST):
            message = self._returned[0] if self._returned else self._first() if self._queue else None
            if message is None:
                break
            _, _, expires, undecided, name = message
            if name not in self.sight:  # the rules have changed while it waited
                self._drop(message)
                continue
            if expires and expires < self._host.clock():
                self._drop(message)
                self.expired += 1
                continue
            if undecided is not None:
                self._ask(undecided)
                break
            if all(len(message[1]) > one.most for one in self.consumers):
                self._oversized(message)
                continue
            if self._shunned and self._shunned.get(message[0], _NOBODY).issuperset(self.consumers):  # others have left
                heappop(self._returned)
                self._bury(message, SHUNNED)
                continue
            consumer = self._taker(message)
            if consumer is None:
                break
            if self._returned:
                heappop(self._returned)
            else:
                self._take_first()
            self._send(consumer, message)
        else:
            if not self._pumping:
                self._pumping = True
                self._host.call_soon(self._pump_on)
        if self._on_room and not self.over:
            self._room_again()
        if not self._queue and not self._returned:
            for consumer in self.consumers:
                consumer.link.drained()

    def _pump_on(self) -> None:
        self._pumping = False
        self.pump()

    def _oversized(self, message: Message) -> None:
        """A link would be closed for it (2.7.3: a sender must not send more than its peer takes)."""
        most = max(one.most for one in self.consumers)
        if self._returned:
            heappop(self._returned)
        else:
            self._take_first()
        self._bury(message, f"it has {len(message[1])} bytes, and no consumer takes more than {most}")

    def _taker(self, message: Message) -> Consumer | None:
        """Whose turn it is, of those who can take it."""
        if self._out >= self._size:
            return None
        consumers, shunning = self.consumers, self._shunned.get(message[0], ()) if self._shunned else ()
        for step in range(len(consumers)):
            place = (self._turn + step) % len(consumers)
            consumer = consumers[place]
            if consumer.link.sendable and consumer not in shunning and len(message[1]) <= consumer.most:
                self._turn = place + 1
                return consumer
        return None

    def _send(self, consumer: Consumer, message: Message) -> None:
        number, encoded, expires, _, _ = message
        if self._attempts and (attempts := self._attempts.get(number)):
            told = with_header(encoded, expires - self._host.clock() if expires else None, attempts)
            if len(told) <= consumer.most:  # a link is closed for a byte more than its peer takes
                encoded = told
        if self._untold:
            told = marked(encoded, {DROPPED: self._untold})
            if len(told) <= consumer.most:
                encoded = told
                self._untold = 0
        if consumer.settled:
            consumer.link.send(encoded, settled=True)
            self._end_of(message)
        else:
            self._out += len(message[1])
            consumer.link.send(encoded, message)
        self.delivered += 1

    # --- the queue, which a durable one has elsewhere ---

    def _first(self) -> Message | None:
        """The first of those that wait; None if it is not at hand yet, and `pump` is called when it is."""
        first: Message = self._queue[0]
        return first

    def _take_first(self) -> None:
        """It is on its way to a consumer."""
        self._bytes -= len(self._queue.popleft()[1])
        self._cancel()

    def _drop_first(self) -> None:
        """Nobody will get it."""
        self._take_first()

    def _decide_first(self) -> None:
        number, encoded, expires, _, name = self._queue[0]
        self._queue[0] = (number, encoded, expires, None, name)

    def _end_of(self, message: Message) -> None:
        """A message that was sent has got its outcome, and is over."""
        if self._attempts or self._shunned:
            self._attempts.pop(message[0], None)
            self._fatal.pop(message[0], None)
            self._shunned.pop(message[0], None)

    def _drop(self, message: Message) -> None:
        if self._returned and self._returned[0] is message:
            heappop(self._returned)
            self._end_of(message)
        else:
            self._drop_first()

    # --- what comes back (AMQP 1.0 3.4) ---

    def taken(self, message: Message) -> None:
        """Accepted."""
        self._out -= len(message[1])
        if self._attempts or self._shunned or self._durable:
            self._end_of(message)
        if self._queue or self._returned:
            self.pump()

    def not_taken(self, consumer: Consumer, message: Message, outcome: Outcome) -> None:
        """Rejected: to the dead letters, as what fails too often. Released, or modified: again."""
        self.unaccepted += 1
        self._out -= len(message[1])
        if isinstance(outcome, Rejected):
            self._bury(message, str(outcome.condition))
        elif isinstance(outcome, Modified):
            self._modified(consumer, message, outcome)
        else:
            self._give_back(message, failed=False)
        self.pump()

    def _modified(self, consumer: Consumer, message: Message, outcome: Modified) -> None:
        number = message[0]
        if outcome.undeliverable:
            shunning = self._shunned.setdefault(number, set())
            shunning.add(consumer)
            if shunning.issuperset(self.consumers):
                self._bury(message, SHUNNED)
                return
        if outcome.failed and self._attempts.get(number, 0) + 1 >= self._host.delivery_limit:
            self._bury(message, f"delivered {self._host.delivery_limit} times, and failed every time")
        else:
            self._give_back(message, failed=outcome.failed)

    def _give_back(self, message: Message, *, failed: bool) -> None:
        if failed:
            self._attempts[message[0]] = self._attempts.get(message[0], 0) + 1
        heappush(self._returned, message)

    def _suspect(self, message: Message) -> None:
        """A consumer was lost that had this in hand: an event that kills whoever takes it must not come for ever. What was behind it on the
        same link is not to blame."""
        lost = self._fatal[message[0]] = self._fatal.get(message[0], 0) + 1
        if lost >= self._host.delivery_limit:
            self._returned.remove(message)
            heapify(self._returned)
            self._bury(message, f"{lost} consumers were lost while they had it in hand")

    def _bury(self, message: Message, reason: str) -> None:
        self.buried += 1
        self._host.bury(self, message, reason)

    def laid_to_rest(self, message: Message) -> None:
        """It is among the dead letters."""
        self._end_of(message)

    # --- the sandbox ---

    def _cancel(self) -> None:
        if self._job is not None:  # it was about the first
            self._job.cancelled = True
            self._job = None

    def _ask(self, incoming: Incoming) -> None:
        if self._job is None and self.consumers:
            self._job = Job(self.user, self.terms.filters, incoming.body, incoming.properties, self._decided)
            self._host.sandbox.submit(self._job)

    def _decided(self, answer: Answer) -> None:
        self._job = None
        if answer.exceeded:
            self._strikes += 1
            if self._strikes >= STRIKES:
                self._host.suspended(self, ClacksError("filter-suspended", reason=answer.exceeded))
                return
        else:
            self._strikes = 0
        self.filter_errors += bool(answer.error or answer.exceeded)
        if answer.matched:
            self._decide_first()
        else:
            self._drop_first()
        self.pump()


class Consumer:
    """The handler of a link on which a subscription's messages are sent."""

    __slots__ = ("_taken", "link", "most", "settled", "subscription")

    def __init__(self, link: Sender, subscription: Subscription) -> None:
        self.link = link
        self.settled = link.wants_settled
        self.most = link.remote_max_message_size or sys.maxsize
        self.subscription = subscription
        self._taken = subscription.taken
        link.handler = self

    # --- amqp.LinkHandler ---

    def credit(self, link: Sender) -> None:
        self.subscription.pump()

    def outcome(self, link: Sender, token: Message, outcome: Outcome) -> None:
        if outcome is ACCEPTED:
            self._taken(token)
        else:
            self.subscription.not_taken(self, token, outcome)

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        self.subscription.leave(self, closed=closed, lost=condition is not None)

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        raise AssertionError("a sender receives nothing")


def say_suspended(subscription: Subscription, error: ClacksError) -> None:
    """To whoever reads the log."""
    what = {"user": subscription.user, "subscription": subscription.terms.name}
    log.warning("subscription suspended", extra={**what, "reason": str(error)})
