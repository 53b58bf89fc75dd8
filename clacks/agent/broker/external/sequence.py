"""A domain's log in queues, for a broker that has no streams: one agent numbers the records, keeps them in a queue, and tells them to all.

    any agent --> NAME.in (queue) --> the one who numbers --> NAME (queue: what is kept) --> NAME (topic) --> all agents

NAME.in goes to one consumer at a time, which is what makes that agent the one; the broker chooses it, and the next when it goes. The agent
receives and keeps on one connection: when the broker gives NAME.in to another one, nothing more of the former is taken. The successor reads
what is kept from its beginning, up to a mark that it puts behind it, and goes on from there. A record is told when it is kept, and
settled when it is told, so it may be kept twice and is never lost; its writer's number says which is which.

Records have a log, a term and an offset. A term is the time of one agent's numbering: what comes late from an earlier term, after the mark
of a later one, counts nowhere. Whoever finds a gap asks for what is missing, and begins anew if nobody has it any more. What a snapshot
has made needless is taken out of the queue.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from ....amqp import (
    ACCEPTED,
    AmqpError,
    CodecError,
    Condition,
    Connection,
    Draft,
    Link,
    Message,
    Outcome,
    Receiver,
    Sender,
    annotate,
)
from ....common.brokers import Broker
from .log import WINDOW, LogReader
from .stream import body_of

log = logging.getLogger("clacks.domain")

# Annotations of a record, and of what is said about the log. KNOWN is the offset up to which somebody has it, who asks for the rest; MARK
# ends what a new term reads, BEGINS is its number, where it begins.
LOG: Final = "x-opt-clacks-log"
TERM: Final = "x-opt-clacks-term"
OFFSET: Final = "x-opt-clacks-offset"
KNOWN: Final = "x-opt-clacks-known"
MARK: Final = "x-opt-clacks-mark"
BEGINS: Final = "x-opt-clacks-begins"

# Records that the one who numbers has in hand for those who missed some: minutes of a domain at work.
AT_HAND: Final = 5_000
AT_HAND_BYTES: Final = 8 * 2**20
# How long a gap may stay until an agent begins anew, and how long a new term may take to read what is kept, in seconds.
GAP_SECONDS: Final = 5.0
TERM_SECONDS: Final = 60.0
# What a message is sent with that is no record; records have numbers from 1.
_NO_RECORD: Final = 0
# Records in hand that are not numbered yet, beyond which no more are read: the queue takes none at present, or a term begins.
MOST: Final = 2_000
# Records taken out of the queue at a time.
TRIMMED: Final = 500


@dataclass(slots=True)
class Entry:
    """A message of the log, decoded."""

    body: bytes | None
    size: int
    log: str = ""
    term: int = 0
    offset: int = -1
    mark: str = ""
    begins: bool = False

    @classmethod
    def of(cls, encoded: bytes) -> Entry | None:
        try:
            message = Message(encoded)
            said = message.annotations
            return cls(
                body_of(message), len(encoded), str(said.get(LOG, "")), int(said.get(TERM, 0)), int(said.get(OFFSET, -1)),
                str(said.get(MARK, "")), bool(said.get(BEGINS)),
            )  # fmt: skip
        except (CodecError, ValueError, TypeError):
            return None


class SequencedLog:
    """One agent's part: it reads the topic, writes to NAME.in, and may be the one who numbers (a `Log`)."""

    def __init__(self, name: str, reader: LogReader) -> None:
        self.name, self._reader = name, reader
        self._log, self._term, self._offset = "", 0, -1
        self._early: dict[int, Entry] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writer: Sender | None = None
        self._receiver: Receiver | None = None
        self._numbering: Numbering | None = None
        self._base = -1

    async def attach(self, connection: Connection, broker: Broker) -> None:
        self._receiver = await connection.attach_receiver(broker.topic(self.name), settled=True, handler=self)
        self._receiver.window = WINDOW
        inlet = f"{self.name}.in"
        writer = await connection.attach_sender(broker.queue(inlet), handler=self)
        numbering = self._numbering = Numbering(self, connection, broker)
        if not self._reader.stopped:
            await numbering.stand(broker.queue(inlet, exclusive=True))
        self._writer = writer
        if self._offset >= 0:
            self._ask()

    def down(self) -> None:
        self._writer = self._receiver = None
        if self._numbering is not None:
            self._numbering.end()
            self._numbering = None
        self._filled()

    def again(self) -> None:
        self._log, self._term, self._offset, self._base = "", 0, -1, -1
        self._filled()

    @property
    def writable(self) -> bool:
        return self._writer is not None and self._writer.sendable

    def write(self, number: int, encoded: bytes) -> None:
        if self._writer is not None and self._writer.alive:
            self._writer.send(_kept(Message(encoded).bare, {}), number)

    def deaf(self, seconds: float) -> bool:
        """What is written waits in a queue as long as nobody numbers it, and another log has another name."""
        return False

    def resign(self) -> None:
        if self._numbering is not None:
            self._numbering.resign()

    def needless(self, base: int) -> None:
        self._base = base
        if self._numbering is not None:
            self._numbering.trim(base)

    # --- reading ---

    def take(self, entry: Entry) -> None:
        """The next record, from the topic or from what is kept."""
        if entry.log != self._log:
            if self._log:
                self._reader.cut_off(entry.offset)
                return
            self._log = entry.log
        if entry.term < self._term:
            return
        self._term = entry.term
        if entry.begins:
            if entry.offset < self._offset:  # the broker has lost what was told
                self._reader.cut_off(entry.offset)
            elif 0 <= self._offset < entry.offset:
                self._ask()
            return
        if entry.offset <= self._offset:
            return
        if 0 <= self._offset < entry.offset - 1:
            self._gap(entry)
            return
        self._next(entry)
        while (following := self._early.pop(self._offset + 1, None)) is not None:
            self._next(following)
        if self._timer is not None and not self._early:
            self._filled()

    def _next(self, entry: Entry) -> None:
        self._offset = entry.offset
        self._reader.record(entry.offset, entry.body, entry.size)

    def _gap(self, entry: Entry) -> None:
        self._early[entry.offset] = entry
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GAP_SECONDS, self._lost)
            self._ask()

    def _ask(self) -> None:
        """For what comes behind what is known."""
        if self._writer is not None and self._writer.alive:
            self._writer.send(_kept(_EMPTY, {KNOWN: self._offset}), _NO_RECORD)

    def _lost(self) -> None:
        missing = min(self._early, default=self._offset + 1)
        self._filled()
        self._reader.cut_off(missing)

    def _filled(self) -> None:
        self._early.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def known(self, log_id: str) -> int:
        """How far this log has been read: no number of what was told is given again, though the broker may have lost it."""
        return self._offset if log_id == self._log else -1

    def recall(self, kept: list[Entry]) -> None:
        """A new term has read what is kept. A reader without a state has a better beginning there than where it began to listen."""
        if kept and not self._reader.ready:
            self._reader.restart()
        elif kept and self._offset < kept[0].offset - 1:
            self._reader.cut_off(kept[0].offset)
            return
        for entry in kept:
            self.take(entry)
        if self._base >= 0:
            self.needless(self._base)

    # --- amqp.LinkHandler ---

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        if not settled:
            link.settle(number, ACCEPTED)
        entry = Entry.of(encoded)
        if entry is not None and link is self._receiver:
            self.take(entry)

    def credit(self, link: Sender) -> None: ...

    def outcome(self, link: Sender, number: int, outcome: Outcome) -> None:
        if outcome is not ACCEPTED:
            log.warning("a record was not taken", extra={"outcome": str(outcome)})
            link.connection.abort()
        elif number != _NO_RECORD:
            self._reader.stored(number)

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        if link in (self._writer, self._receiver) and link.connection.alive:
            log.warning("the domain's log was detached", extra={"reason": str(condition)})
            link.connection.abort()  # then everything is made again


@dataclass(slots=True)
class _Put:
    """A record that is on its way into the queue; `number` is that of its delivery from NAME.in, and `told` what the topic gets."""

    number: int
    told: bytes
    kept: bool = False


class Numbering:
    """What this agent does if NAME.in is given to it (the handler of that link): at most one term in the life of a connection."""

    def __init__(self, reader: SequencedLog, connection: Connection, broker: Broker) -> None:
        self._reader, self._connection, self._broker = reader, connection, broker
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._puts: deque[_Put] = deque()
        self._at_hand: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._trimming = asyncio.Lock()
        self._log, self._term, self._offset = "", 0, -1
        self._inlet: Receiver | None = None
        self._keeper: Sender | None = None
        self._teller: Sender | None = None
        self._opens = False

    async def stand(self, source: Any) -> None:
        """Stand in line for NAME.in. Raises AmqpError."""
        self._inlet = await self._connection.attach_receiver(source, handler=self, alone=True)  # who does not read it goes on with the rest
        self._inlet.window = WINDOW

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()

    def resign(self) -> None:
        """Let the next in line have NAME.in. What is half done may be known to be done by its connection's end only."""
        if self._opens:
            self._connection.abort()
        elif self._inlet is not None:
            self._inlet.close()

    # --- a new term ---

    async def _begin(self) -> None:
        name = self._reader.name
        try:
            async with asyncio.timeout(TERM_SECONDS):
                keeper = await self._connection.attach_sender(self._broker.queue(name), handler=self)
                teller = await self._connection.attach_sender(self._broker.topic(name), handler=self)
                kept = await self._read_kept(keeper)
        except (AmqpError, TimeoutError) as error:
            log.warning("the domain's log was not taken over", extra={"reason": str(error) or f"it took {TERM_SECONDS:g} s"})
            self._connection.abort()
            return
        log.info("this agent numbers the domain's log", extra={"term": self._term, "offset": self._offset})
        self._keeper, self._teller = keeper, teller
        for entry, encoded in kept[-AT_HAND:]:
            self._keep_at_hand(entry.offset, _told(Message(encoded).bare, self._place(entry.offset)))
        self._tell(_told(_EMPTY, {**self._place(self._offset), BEGINS: True}))
        self._reader.recall([entry for entry, _ in kept])
        self._go_on()

    async def _read_kept(self, keeper: Sender) -> list[tuple[Entry, bytes]]:
        """All that is kept, in its order, and where this term begins. It stays in the queue."""
        reading = _Kept()
        link = await self._connection.attach_receiver(self._broker.queue(self._reader.name, exclusive=True), handler=reading)
        link.window = WINDOW
        mark = uuid.uuid4().hex
        await _sendable(keeper)
        keeper.send(_kept(_EMPTY, {MARK: mark}), _NO_RECORD)
        await reading.until(lambda entry: entry.mark == mark)
        found = [entry for _, entry, _ in reading.entries]
        self._term = max((entry.term for entry in found), default=0) + 1
        self._log = next((entry.log for entry in found if entry.log), uuid.uuid4().hex)
        keeper.send(_kept(_EMPTY, {**self._place(-1), BEGINS: True}), _NO_RECORD)
        await reading.until(lambda entry: entry.begins and entry.term == self._term)
        kept: list[tuple[Entry, bytes]] = []
        term = 0
        for number, entry, encoded in reading.entries:
            counts = not entry.mark and entry.term >= term
            term = max(term, entry.term)
            if counts and not entry.begins and entry.offset > self._offset:
                self._offset = entry.offset
                kept.append((entry, encoded))
            elif entry.term != self._term:
                link.settle(number, ACCEPTED)
        link.close()
        self._offset = max(self._offset, self._reader.known(self._log))
        return kept

    def _place(self, offset: int) -> dict[str, Any]:
        return {LOG: self._log, TERM: self._term, OFFSET: offset}

    # --- numbering ---

    def _go_on(self) -> None:
        keeper = self._keeper
        while self._waiting and keeper is not None and keeper.alive and keeper.sendable:
            number, encoded = self._waiting.popleft()
            try:
                message = Message(encoded)
                known = message.annotations.get(KNOWN)
                bare = message.bare
            except CodecError as error:
                log.warning("what is no record was put into the domain's log", extra={"reason": str(error)})
                known, bare = None, b""
            if known is not None or not bare:
                if isinstance(known, int):
                    self._tell_again(known)
                self._settle(number)
                continue
            self._offset += 1
            annotations = self._place(self._offset)
            put = _Put(number, _told(bare, annotations))
            self._puts.append(put)
            keeper.send(_kept(bare, annotations), put)
        inlet = self._inlet
        if inlet is not None and inlet.paused and len(self._waiting) < MOST // 2:
            inlet.paused = False
            asyncio.get_running_loop().call_soon(inlet.resume)

    def _settle(self, number: int) -> None:
        if self._inlet is not None:
            self._inlet.settle(number, ACCEPTED)

    def _tell_again(self, known: int) -> None:
        """To whoever has it only up to there."""
        for offset, told in self._at_hand:
            if offset > known:
                self._tell(told)

    def _tell(self, told: bytes) -> None:
        if self._teller is not None and self._teller.alive:
            self._teller.send(told, settled=True)

    def _keep_at_hand(self, offset: int, told: bytes) -> None:
        self._at_hand.append((offset, told))
        self._bytes += len(told)
        while len(self._at_hand) > AT_HAND or self._bytes > AT_HAND_BYTES:
            self._bytes -= len(self._at_hand.popleft()[1])

    # --- trimming ---

    def trim(self, base: int) -> None:
        """Take out of the queue what comes before and at `base`."""
        if self._keeper is not None:
            task = asyncio.get_running_loop().create_task(self._trim(base))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _trim(self, base: int) -> None:
        async with self._trimming:
            taking = _Kept()
            with suppress(AmqpError):
                link = await self._connection.attach_receiver(self._broker.queue(self._reader.name, exclusive=True), handler=taking)
                done = False
                while not done and link.alive:
                    await link.drain(TRIMMED)
                    taken = taking.take()
                    done = not taken  # the broker gives no more at a time than it has read from its disk
                    for number, entry, _ in taken:
                        if entry.offset > base:
                            done = True
                        elif not done and not (entry.begins and entry.term == self._term):
                            link.settle(number, ACCEPTED)
                    await asyncio.sleep(0)  # what is settled goes out before more is asked for, or the broker has no room for it
                link.close()

    # --- amqp.LinkHandler ---

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        if not self._opens:
            self._opens = True
            task = asyncio.get_running_loop().create_task(self._begin())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._waiting.append((number, encoded))
        if len(self._waiting) > MOST:
            link.pause()
        self._go_on()

    def credit(self, link: Sender) -> None:
        self._go_on()

    def outcome(self, link: Sender, put: _Put | int, outcome: Outcome) -> None:
        if outcome is not ACCEPTED:
            log.warning("a record was not kept", extra={"outcome": str(outcome)})
            link.connection.abort()
            return
        if isinstance(put, _Put):
            put.kept = True
        while self._puts and self._puts[0].kept:
            first = self._puts.popleft()
            self._tell(first.told)
            self._keep_at_hand(self._offset - len(self._puts), first.told)
            self._settle(first.number)

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        if link.connection.alive:
            log.warning("the domain's log was detached", extra={"reason": str(condition)})
            link.connection.abort()


@dataclass(slots=True)
class _Kept:
    """The handler of a link that reads what is kept, and settles nothing by itself."""

    entries: list[tuple[int, Entry, bytes]] = field(default_factory=list)
    _wanted: Callable[[Entry], bool] | None = None
    _found: asyncio.Future[None] | None = None

    async def until(self, wanted: Callable[[Entry], bool]) -> None:
        """Read on to such an entry. Raises AmqpError if the link ends before."""
        if not any(wanted(entry) for _, entry, _ in self.entries):
            self._wanted, self._found = wanted, asyncio.get_running_loop().create_future()
            await self._found

    def take(self) -> Iterator[tuple[int, Entry, bytes]]:
        taken, self.entries = self.entries, []
        return iter(taken)

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        entry = Entry.of(encoded)
        if entry is None:  # nobody but an agent may write here
            link.settle(number, ACCEPTED)
            return
        self.entries.append((number, entry, encoded))
        if self._wanted is not None and self._found is not None and self._wanted(entry) and not self._found.done():
            self._found.set_result(None)

    def credit(self, link: Sender) -> None: ...

    def outcome(self, link: Sender, token: object, outcome: Outcome) -> None: ...

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        if self._found is not None and not self._found.done():
            self._found.set_exception(AmqpError(condition or Condition("amqp:connection:forced", "the link is gone")))


async def _sendable(link: Sender) -> None:
    """Wait for credit, which follows an attach at once. Raises AmqpError if the link ends."""
    while not link.sendable:
        if not link.alive:
            raise AmqpError(Condition("amqp:connection:forced", "the link is gone"))
        await asyncio.sleep(0.005)


_EMPTY: Final = Draft(b"").encode()


def _kept(bare: bytes, annotations: dict[str, Any]) -> bytes:
    return annotate(bare, annotations, durable=True)


def _told(bare: bytes, annotations: dict[str, Any]) -> bytes:
    return annotate(bare, annotations)
