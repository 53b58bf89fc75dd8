"""Links (AMQP 1.0 part 2.6): credit, deliveries and their settlement, behind handles.

A delivery is known outside by its number on its link, or by what its sender gave for it. proton reuses the addresses of deliveries, so a
number that is not in the link's table any more is answered with False, never looked up in the engine. All methods belong to the thread of
the connection's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol

from .engine import (
    ABORTED,
    NULL,
    SCRATCH_SIZE,
    c_text,
    ffi,
    lib,
    read_map,
    read_outcome,
    read_terminus,
    text,
    write_condition,
    write_map,
    write_outcome,
    write_terminus,
)
from .outcome import ACCEPTED, AmqpError, Condition, LinkGone, Outcome, Rejected
from .terminus import Terminus

if TYPE_CHECKING:
    from .connection import Connection

# Output that waits in the engine for one session, in bytes, before its senders count as blocked: enough to fill a socket's buffer,
# little enough that a peer which grants endless credit and reads nothing costs no more than this.
OUTPUT_LIMIT: Final = 256 * 1024

# The condition of a link that ended because of a message beyond what it takes (2.6.3).
TOO_LARGE: Final = "amqp:link:message-size-exceeded"

# How many times the permitted size of a message is taken and thrown away before the connection is closed: a client that sends too much by
# mistake gets its error on the link, whoever sends without end costs no more than this.
DISCARD_FACTOR: Final = 8

# How many messages of the permitted size the unfinished deliveries of one connection may come to, on all its links together: client
# libraries send one message after the other.
UNFINISHED_FACTOR: Final = 16

# Deliveries that a peer may have without settling them. Each costs some 300 bytes in the engine; no client library grants more credit.
UNSETTLED_LIMIT: Final = 10_000

# Credit of a link of ours before anything has come; and the least, however large messages are: some are on their way while others are read.
FIRST: Final = 32
FEWEST: Final = 4

_recv, _advance, _settled, _settle = lib.pn_link_recv, lib.pn_link_advance, lib.pn_delivery_settled, lib.pn_delivery_settle
_delivery, _send, _unpack, _credit = lib.pn_delivery, lib.pn_link_send, ffi.unpack, lib.pn_link_credit
_readable, _partial = lib.pn_delivery_readable, lib.pn_delivery_partial
_state, _update, _ACCEPTED = lib.pn_delivery_remote_state, lib.pn_delivery_update, lib.PN_ACCEPTED


class LinkHandler(Protocol):
    """What a link tells the one who uses it."""

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        """A delivery is complete. Unless `settled`, it has to be settled by its number."""

    def credit(self, link: Sender) -> None:
        """`link.sendable` may have become true."""

    def outcome(self, link: Sender, token: Any, outcome: Outcome) -> None:
        """The peer has settled a delivery, or told its outcome, after which it is settled. `token` is what `Sender.send` was given."""

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        """The link is gone, by the peer (`closed`: for good) or with its connection. Not called for one's own `close`."""


class Link:
    """What senders and receivers share."""

    def __init__(self, connection: Connection, pointer: Any) -> None:
        self.connection = connection
        self.name = text(lib.pn_link_name(pointer)) or ""
        self.handler: LinkHandler | None = None
        self.attached: asyncio.Future[None] | None = None  # set on links of our own: resolves when the peer has attached too
        self.alive = True
        self.closed = False  # the peer has detached it for good
        self._pointer = pointer

    # --- what the peer asked for; read before the attach is answered ---

    @property
    def remote_source(self) -> Terminus | None:
        """Raises CodecError if the peer sent nonsense, LinkGone if the link is closed."""
        return read_terminus(lib.pn_link_remote_source(self._living()))

    @property
    def remote_target(self) -> Terminus | None:
        return read_terminus(lib.pn_link_remote_target(self._living()))

    @property
    def remote_properties(self) -> dict[str, Any]:
        return read_map(lib.pn_link_remote_properties(self._living()))

    @property
    def wants_settled(self) -> bool:
        """The peer asked for pre-settled deliveries (snd-settle-mode 1, 2.8.2)."""
        return bool(lib.pn_link_remote_snd_settle_mode(self._living()) == lib.PN_SND_SETTLED)

    @property
    def remote_max_message_size(self) -> int:
        """Bytes that the peer takes in one message, 0 for any number (2.7.3)."""
        return int(lib.pn_link_remote_max_message_size(self._living()))

    def accept(self, source: Terminus | None, target: Terminus | None, *, properties: dict[str, Any] | None = None) -> None:
        """Answer the attach (2.6.3) with what is in force."""
        pointer = self._living()
        write_terminus(lib.pn_link_source(pointer), lib.PN_SOURCE, source)
        write_terminus(lib.pn_link_target(pointer), lib.PN_TARGET, target)
        lib.pn_link_set_snd_settle_mode(pointer, lib.pn_link_remote_snd_settle_mode(pointer))
        lib.pn_link_set_rcv_settle_mode(pointer, lib.pn_link_remote_rcv_settle_mode(pointer))
        write_map(lib.pn_link_properties(pointer), properties or {})
        self._open()

    def refuse(self, condition: Condition) -> None:
        """Answer the attach with null termini and detach with an error, as 2.6.3 asks for."""
        pointer = self._living()
        write_terminus(lib.pn_link_source(pointer), lib.PN_SOURCE, None)
        write_terminus(lib.pn_link_target(pointer), lib.PN_TARGET, None)
        self._open()
        self.close(condition)

    def close(self, condition: Condition | None = None, *, closed: bool = True) -> None:
        """Detach, for good if `closed`. Nothing is sent or told on this link afterwards."""
        if not self.alive:
            return
        pointer = self._pointer
        write_condition(lib.pn_link_condition(pointer), condition and self.connection.fitted(condition))
        if closed:
            lib.pn_link_close(pointer)
        else:
            lib.pn_link_detach(pointer)
        self._end()
        self.connection.touch()

    # --- called by the connection ---

    def on_remote_open(self) -> None:
        if self.attached is not None and not self.attached.done() and self._accepted_by_peer():
            self.attached.set_result(None)

    def on_remote_end(self, condition: Condition | None, *, closed: bool) -> None:
        """The peer detached."""
        if not self.alive:
            return
        self.closed = closed
        self._end(condition)
        if self.handler is not None:
            self.handler.detached(self, condition, closed=closed)

    def release(self) -> None:
        """Free the engine's link: both sides have detached, or the connection is gone."""
        self.handler = None  # it knows the link too: the two would wait for the collector
        pointer, self._pointer = self._pointer, NULL
        if pointer:
            lib.pn_link_free(pointer)

    def _accepted_by_peer(self) -> bool:
        raise NotImplementedError

    def _open(self) -> None:
        lib.pn_link_set_max_message_size(self._living(), self.connection.options.max_message_size)
        lib.pn_link_open(self._pointer)
        self.connection.touch()

    def _end(self, condition: Condition | None = None) -> None:
        self.alive = False
        if self.attached is not None and not self.attached.done():
            self.attached.set_exception(AmqpError(condition or Condition("amqp:internal-error", "the peer gave no reason")))

    def _living(self) -> Any:
        if not self.alive:
            raise LinkGone(self.name)
        return self._pointer


class Sender(Link):
    """A link that we send on."""

    def __init__(self, connection: Connection, pointer: Any) -> None:
        super().__init__(connection, pointer)
        self.credit = 0
        """Deliveries that the peer will take (2.6.7)."""
        self.returned: list[Any] = []
        """When it is gone: the tokens of the deliveries that the peer had not settled, in their order."""
        self._numbers = 0
        self._unsettled: dict[Any, Any] = {}
        self._scratch = connection.scratch

    @property
    def sendable(self) -> bool:
        """There is credit, the peer settles what it gets, and the way to it is not stuffed. `handler.credit` and `handler.outcome` tell
        when this may have become true."""
        if self.credit <= 0 or len(self._unsettled) >= UNSETTLED_LIMIT:
            return False
        if self.connection.room <= 0:
            self.connection.blocked.add(self)
            return False
        return True

    @property
    def unsettled(self) -> int:
        """Deliveries sent that the peer has not settled."""
        return len(self._unsettled)

    def send(self, encoded: bytes, token: Any = None, *, settled: bool = False) -> int:
        """Send an encoded message; answer its number on this link. Unless `settled`, its outcome is told with the `token` (default: the
        number). Raises LinkGone."""
        if not self.alive:
            raise LinkGone(self.name)
        pointer, scratch, connection = self._pointer, self._scratch, self.connection
        self._numbers = number = self._numbers + 1
        scratch.number[0] = number
        delivery = _delivery(pointer, scratch.tag)
        size = len(encoded)
        _send(pointer, encoded, size)
        _advance(pointer)
        self.credit -= 1
        connection.room -= size
        if settled:
            _settle(delivery)
        else:
            self._unsettled[delivery] = number if token is None else token
        if not connection.touched:
            connection.touch()
        return number

    def drained(self) -> None:
        """Nothing more to send: give the credit back if the peer asked to drain it (2.6.7)."""
        if self.alive and lib.pn_link_get_drain(self._pointer):
            lib.pn_link_drained(self._pointer)
            self.credit = 0
            self.connection.touch()

    def on_flow(self) -> None:
        self.credit = _credit(self._pointer)
        if self.handler is not None:
            self.handler.credit(self)

    def on_delivery(self, delivery: Any) -> None:
        if _state(delivery) == _ACCEPTED:
            outcome: Outcome = ACCEPTED
        else:
            told = read_outcome(delivery)
            if told is None and not _settled(delivery):
                return  # `received` (3.4.1) is no terminal state
            outcome = told or ACCEPTED  # settled without a state: the source's default outcome, which we announce as accepted
        token = self._unsettled.pop(delivery, None)
        if token is None:
            return
        _settle(delivery)
        if not self.connection.touched:
            self.connection.touch()
        if self.handler is not None:
            self.handler.outcome(self, token, outcome)

    def _accepted_by_peer(self) -> bool:
        return self.remote_target is not None

    def _end(self, condition: Condition | None = None) -> None:
        super()._end(condition)
        self.credit = 0
        self.returned = list(self._unsettled.values())
        self._unsettled.clear()
        self.connection.blocked.discard(self)


class Receiver(Link):
    """A link that we receive on. Credit is topped up to `window` whenever half of it is used; a window of 0 stops the peer. With
    `counts_unsettled`, what we have not settled counts as credit that is not used yet: no more than `window` is ever ahead of us.

    One that we attach ourselves asks for no more than the session has room for (2.5.6), by the size of what came last, and for FIRST
    before anything has come: a peer may write all that it has credit for into its memory, where we read slowly, and ActiveMQ does.
    """

    def __init__(self, connection: Connection, pointer: Any) -> None:
        super().__init__(connection, pointer)
        self._numbers = 0
        self._unsettled: dict[int, Any] = {}
        self._answered: dict[Any, int] = {}  # of these, where the peer settles second: those whose outcome it has been told
        self._scratch = connection.scratch
        self._partial: bytearray | None = None
        self.paused = False
        self.counts_unsettled = False
        self._discarded = 0
        self._window = self._ahead = self._half = 0
        self._fitting = FIRST
        self._credit = 0
        self._measured = self._bytes = 0  # which message the last measurement ended with, and the bytes of those after it
        self._max_size = connection.options.max_message_size
        self._settles_first = True
        self._drained: asyncio.Future[None] | None = None

    @property
    def window(self) -> int:
        return self._window

    @window.setter
    def window(self, window: int) -> None:
        self._window = window
        self._ask_for(window)
        if self.alive:
            self._top_up()

    async def drain(self, credit: int) -> None:
        """Take what there is at the peer now, `credit` deliveries at most: returns when it has sent them or has no more (2.6.7). The window
        must be 0 and stays so. Raises AmqpError if the link ends before."""
        assert self._drained is None
        self._drained = asyncio.get_running_loop().create_future()
        try:
            lib.pn_link_drain(self._living(), credit)
            self._credit += credit
            self.connection.touch()
            await self._drained
        finally:
            self._drained = None

    def on_flow(self) -> None:
        """The peer has given credit back."""
        if self._drained is not None and not _credit(self._pointer):
            lib.pn_link_set_drain(self._pointer, False)
            self._credit = 0
            if not self._drained.done():
                self._drained.set_result(None)

    @property
    def unsettled(self) -> int:
        """Deliveries received and not settled."""
        return len(self._unsettled)

    def pause(self) -> None:
        """Leave what comes in the engine; once the session's capacity (2.5.6) is used up the peer has to wait."""
        self.paused = True

    def resume(self) -> None:
        """Go on with what has come meanwhile."""
        self.paused = False
        while self.alive and not self.paused:
            delivery = lib.pn_link_current(self._pointer)
            if not delivery:
                return
            self._read(delivery)
            if self.alive and lib.pn_link_current(self._pointer) == delivery:
                return  # it is not complete; the rest of it will be an event of its own

    def settle(self, number: int, outcome: Outcome) -> bool:
        """Tell the peer what became of a delivery. False if there is no such delivery (any more)."""
        delivery = self._unsettled.get(number)
        if delivery is None:
            return False
        if outcome is ACCEPTED:
            _update(delivery, _ACCEPTED)
        else:
            if isinstance(outcome, Rejected):
                outcome = Rejected(self.connection.fitted(outcome.condition))
            write_outcome(delivery, outcome)
        if self._settles_first:
            del self._unsettled[number]
            _settle(delivery)
            if self.counts_unsettled:
                self._top_up()
        else:
            self._answered[delivery] = number
        connection = self.connection
        if not connection.touched:
            connection.touch()
        return True

    def on_delivery(self, delivery: Any) -> None:
        if _readable(delivery):
            if not self.paused:
                self._read(delivery)
        elif lib.pn_delivery_updated(delivery) and _settled(delivery):
            number = self._answered.pop(delivery, None)
            if number is None:
                number = next((number for number, known in self._unsettled.items() if known == delivery), None)
            if number is not None:  # settled by its sender before we did (rcv-settle-mode second, or a sender that gave up)
                del self._unsettled[number]
                _settle(delivery)
                self._top_up()
                self.connection.touch()

    def _read(self, delivery: Any) -> None:
        if self._discarded:
            self._too_large(delivery, 0)
            return
        pointer, buffer = self._pointer, self._scratch.buffer
        size = _recv(pointer, buffer, SCRATCH_SIZE)
        if size == ABORTED:
            self._finished()
            _settle(delivery)
            self._credit -= 1
            self._replenish()
            return
        encoded: bytes = _unpack(buffer, size) if size > 0 else b""
        partial = _partial(delivery)
        if partial or self._partial is not None or size == SCRATCH_SIZE:
            whole = self._collect(delivery, encoded, size)
            if whole is None or partial:
                return
            encoded = bytes(whole)
            self._finished()
        elif size > self._max_size > 0:
            self._too_large(delivery, size)
            return
        settled = bool(_settled(delivery))
        _advance(pointer)
        self._bytes += len(encoded)
        self._numbers = number = self._numbers + 1
        if settled:
            _settle(delivery)
        else:
            self._unsettled[number] = delivery
        self._credit -= 1
        if self._credit <= self._half:
            self._replenish()
        if self.handler is not None:
            self.handler.message(self, number, encoded, settled)
        if self._drained is not None:
            self.on_flow()  # the last credit may be used, and nothing is left to give back

    def _collect(self, delivery: Any, first: bytes, size: int) -> bytearray | None:
        """Gather a delivery of several frames: what there is of it, None if it was refused for its size."""
        if self._partial is None:
            self._partial = bytearray()
        whole, connection = self._partial, self.connection
        before = len(whole)
        whole += first
        buffer = self._scratch.buffer
        while size > 0 and not (self._max_size and len(whole) > self._max_size):
            size = _recv(self._pointer, buffer, SCRATCH_SIZE)
            if size > 0:
                whole += _unpack(buffer, size)
        connection.unfinished += len(whole) - before
        if self._max_size and len(whole) > self._max_size:
            self._too_large(delivery, len(whole))
            return None
        if self._max_size and connection.unfinished > UNFINISHED_FACTOR * self._max_size:
            connection.close(Condition("amqp:resource-limit-exceeded", "Too many messages are unfinished. Send one after the other."))
        return whole

    def _finished(self) -> None:
        """Of the delivery of several frames nothing is kept any more."""
        if self._partial is not None:
            self.connection.unfinished -= len(self._partial)
            self._partial = None

    def _too_large(self, delivery: Any, size: int) -> None:
        """Take the rest of the delivery and throw it away, reject it, then detach (2.6.3: message-size-exceeded).

        Settled without an outcome it would count as accepted where it comes from. Detached at once, the link would leave the rest in the
        session's window, and the session's other links without one. Who goes on and on loses the connection.
        """
        self._finished()
        self._discarded += size
        while (size := _recv(self._pointer, self._scratch.buffer, SCRATCH_SIZE)) > 0:
            self._discarded += size
        condition = Condition(TOO_LARGE, f"A message on this link may have {self._max_size} bytes. Send less.")
        if not _partial(delivery):
            write_outcome(delivery, Rejected(condition))
            _settle(delivery)
            self._end_with(condition)
        elif self._discarded > DISCARD_FACTOR * self._max_size:
            _settle(delivery)
            self.connection.close(condition)

    def _end_with(self, condition: Condition) -> None:
        """Detach because of what the peer did, and say so to both sides."""
        self.close(condition)
        if self.handler is not None:
            self.handler.detached(self, condition, closed=True)

    def _replenish(self) -> None:
        if (
            self._credit < 0 and self.attached is None
        ):  # a broker of our choice may: RabbitMQ 4.0 sends what is ready before it reads the credit
            self._end_with(Condition("amqp:link:transfer-limit-exceeded", "More was sent than this link has credit for."))
        else:
            self._top_up()

    def _top_up(self) -> None:
        unused = self._credit + len(self._unsettled) if self.counts_unsettled else self._credit
        if unused > self._half:
            return
        if self._measured < self._numbers:
            self._measure()
        missing = self._ahead - unused
        if missing > 0 and (self._settles_first or len(self._unsettled) < UNSETTLED_LIMIT):
            lib.pn_link_flow(self._pointer, missing)
            self._credit += missing
            if not self.connection.touched:
                self.connection.touch()

    def _measure(self) -> None:
        count, self._measured = self._numbers - self._measured, self._numbers
        size, self._bytes = self._bytes // count + 1, 0
        self._fitting = max(self.connection.options.session_capacity // size, FEWEST)
        self._ask_for(self._window)

    def _ask_for(self, window: int) -> None:
        self._ahead = window if self.attached is None else min(window, self._fitting)
        self._half = self._ahead // 2

    def _open(self) -> None:
        super()._open()
        self._settles_first = lib.pn_link_rcv_settle_mode(self._pointer) != lib.PN_RCV_SECOND

    def _accepted_by_peer(self) -> bool:
        return self.remote_source is not None

    def _end(self, condition: Condition | None = None) -> None:
        super()._end(condition)
        if self._drained is not None and not self._drained.done():
            self._drained.set_exception(AmqpError(condition or Condition("amqp:link:detach-forced", "the link ended")))
        self._unsettled.clear()
        self._answered.clear()
        self._finished()


def end_all(links: Iterable[tuple[Sender | Receiver, Condition | None]]) -> None:
    """Links that end at once because their session or connection has, each with the reason: none is told before all have ended, so that
    nobody sends on one what another has given back."""
    gone = [(link, condition) for link, condition in links if link.alive]
    for link, condition in gone:
        link._end(condition)
    for link, condition in gone:
        if link.handler is not None:
            link.handler.detached(link, condition, closed=False)


def open_link(
    connection: Connection,
    session: Any,
    name: str,
    source: Terminus,
    target: Terminus,
    *,
    receives: bool,
    settled: bool = False,
    properties: dict[str, Any] | None = None,
) -> Sender | Receiver:
    """Attach a link of our own; `link.attached` resolves when the peer agrees."""
    make = lib.pn_receiver if receives else lib.pn_sender
    pointer = make(session, c_text(name))
    link: Sender | Receiver = Receiver(connection, pointer) if receives else Sender(connection, pointer)
    link.attached = connection.loop.create_future()
    write_terminus(lib.pn_link_source(pointer), lib.PN_SOURCE, source)
    write_terminus(lib.pn_link_target(pointer), lib.PN_TARGET, target)
    lib.pn_link_set_snd_settle_mode(pointer, lib.PN_SND_SETTLED if settled else lib.PN_SND_MIXED)
    write_map(lib.pn_link_properties(pointer), properties or {})
    link._open()
    return link
