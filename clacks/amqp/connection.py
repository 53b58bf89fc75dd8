"""One AMQP 1.0 connection on asyncio: SASL first, then bytes into proton's engine, events out of it, bytes to the socket.

It owns its links and frees what it made. It does not know what an address or a message means: the handler of the
connection answers attaches, the handler of a link takes its deliveries. Everything runs on the loop's thread; nothing here blocks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from .engine import (
    SCRATCH_SIZE,
    Engine,
    c_text,
    ffi,
    lib,
    read_condition,
    read_map,
    read_symbols,
    text,
    thread_scratch,
    write_condition,
    write_map,
    write_symbols,
)  # fmt: skip
from .link import OUTPUT_LIMIT, LinkHandler, Receiver, Sender, end_all, open_link
from .links import Links
from .options import Options
from .outcome import AmqpError, Condition
from .peer import certificate_names, is_loopback, reason_of_loss
from .sasl import Handshake, SaslFailure
from .sessions import Sessions
from .terminus import Terminus
from .turns import Attaches, Reading

log = logging.getLogger("clacks.amqp")

# How long a peer may take to answer a close, in seconds: what is under way to it goes first.
CLOSE_SECONDS: Final = 5.0
# Links one connection may have. A consumer has a few; a gateway of another project has been seen with hundreds.
LINK_LIMIT: Final = 4096
# What a frame has besides the condition in it, in bytes, and generously: its header, numbers, descriptors.
FRAME_ROOM: Final = 128
# The shortest idle time-out that a peer may ask for, in milliseconds: it gets an empty frame in each half of it.
IDLE_LEAST: Final = 100
# Bytes that are taken of a peer whose socket is full, before it has to wait until it reads: somebody who asks and asks, and reads none of
# the answers. In the engine a session that is begun and ended costs 60 times the bytes it came in while its end is not written.
HEARD_LIMIT: Final = 256 * 1024
# Bytes that a client reads ahead of what it works off. A broker that reads nothing while it writes (ActiveMQ) must not be kept writing:
# where the buffers of both directions are full, two ends of one connection were seen to wait for each other for good (Linux 6.18).
READ_AHEAD: Final = 4 * 2**20

# How long a session of ours that the peer has ended keeps its channel, in seconds. RabbitMQ 4.0 does not hear what comes at once on the
# channel of a session that it has just ended: half of the attaches that followed a refused one had no answer.
RESTING_SECONDS: Final = 1.0

# The property of an open that is followed by a close at once: a convention, not a standard, of several brokers and client libraries.
NOT_ESTABLISHED: Final = "amqp:connection-establishment-failed"

_push, _capacity, _peek_event, _pop_event = lib.pn_transport_push, lib.pn_transport_capacity, lib.pn_collector_peek, lib.pn_collector_pop
_event_type, _event_delivery, _event_link = lib.pn_event_type, lib.pn_event_delivery, lib.pn_event_link
_delivery_link, _pending, _peek, _pop = lib.pn_delivery_link, lib.pn_transport_pending, lib.pn_transport_peek, lib.pn_transport_pop
_unpack = ffi.unpack
_DELIVERY, _FLOW = lib.PN_DELIVERY, lib.PN_LINK_FLOW


class ConnectionHandler(Protocol):
    """What a connection tells the one who uses it."""

    def opened(self, connection: Connection) -> None:
        """The peer's open has arrived, and it is authenticated."""

    def attach(self, link: Sender | Receiver) -> None:
        """The peer attaches a link: call its `accept` or its `refuse`, now or later."""

    def closed(self, connection: Connection, condition: Condition | None) -> None:
        """The connection is gone and its links have been told."""


class Connection(asyncio.Protocol):
    """Both sides of AMQP 1.0: a listener makes it with `server`, a client without."""

    # There may be 20,000 of them, and a dict of more than 30 attributes is not shared: 2 KiB each.
    __slots__ = (
        "__weakref__",
        "_admit",
        "_attaches",
        "_closing",
        "_condition",
        "_deadline",
        "_engine",
        "_farewell",
        "_handshake",
        "_heard",
        "_links",
        "_make_handshake",
        "_names",
        "_on_lost",
        "_reading",
        "_server",
        "_sessions",
        "_timer",
        "_told",
        "_transport",
        "blocked",
        "certificate",
        "handler",
        "loop",
        "lost",
        "options",
        "paused",
        "peer",
        "ready",
        "room",
        "scratch",
        "secure",
        "too_slow",
        "touched",
        "unfinished",
        "user",
    )

    def __init__(
        self,
        options: Options,
        handler: ConnectionHandler,
        make_handshake: Callable[[Connection], Handshake],
        *,
        server: bool,
        admit: Callable[[Connection], None] | None = None,
        on_lost: Callable[[Connection], None] | None = None,
    ) -> None:
        """`make_handshake` is asked when `peer`, `secure` and `certificate` are known. `admit` is asked when the peer is authenticated and
        opens; if it raises AmqpError, the connection is closed with its condition. `on_lost` comes last of all."""
        self.options = options
        self.handler = handler
        self.user = ""
        self.loop = asyncio.get_running_loop()
        self.peer: tuple[Any, ...] | None = None
        self.secure = False
        self.certificate: tuple[str, ...] = ()
        self.too_slow = False
        self.paused = False
        self.touched = False
        self.scratch = thread_scratch()
        self.unfinished = 0  # bytes of deliveries that have not come to their end
        self.room = OUTPUT_LIMIT  # bytes that may be sent before the next flush says how much is left
        self.blocked: set[Sender] = set()
        self.ready: asyncio.Future[None] = self.loop.create_future()
        self.lost: asyncio.Future[None] = self.loop.create_future()
        self._make_handshake = make_handshake
        self._handshake: Handshake | None = None
        self._server = server
        self._admit = admit
        self._on_lost = on_lost
        self._engine: Engine | None = None
        self._transport: asyncio.Transport | None = None
        self._links = Links()
        self._sessions = Sessions(options.session_capacity)
        self._reading: Reading | None = None
        self._attaches: Attaches | None = None
        self._names = 0
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._closing = False
        self._farewell = False
        self._heard = 0  # bytes since the socket was full
        self._condition: Condition | None = None
        self._told = False
        self.ready.add_done_callback(_retrieve)

    # --- what the peer said ---

    @property
    def remote_container(self) -> str:
        return text(lib.pn_connection_remote_container(self._living().connection)) or ""

    @property
    def remote_hostname(self) -> str:
        return text(lib.pn_connection_remote_hostname(self._living().connection)) or ""

    @property
    def remote_capabilities(self) -> tuple[str, ...]:
        """The capabilities that the peer offers (2.7.1)."""
        return read_symbols(lib.pn_connection_remote_offered_capabilities(self._living().connection))

    @property
    def remote_properties(self) -> dict[str, Any]:
        return read_map(lib.pn_connection_remote_properties(self._living().connection))

    @property
    def condition(self) -> Condition | None:
        """Why it ended, or is about to."""
        return self._condition

    @property
    def loopback(self) -> bool:
        """The peer is on this machine. A transport in memory has no address and is."""
        return not self.peer or is_loopback(str(self.peer[0]))

    @property
    def links(self) -> int:
        return len(self._links)

    @property
    def alive(self) -> bool:
        return self._engine is not None and not self._closing

    # --- links of our own ---

    async def attach_sender(
        self, target: Terminus, *, settled: bool = False, properties: dict[str, Any] | None = None, name: str | None = None,
        handler: LinkHandler | None = None, alone: bool = False,
    ) -> Sender:  # fmt: skip
        """A link to send on, `alone` in a session of its own: there are brokers that end the session of a link which they refuse. Raises
        AmqpError with the peer's condition if it is refused."""
        link = self._attach(Terminus(), target, receives=False, settled=settled, properties=properties, name=name, alone=alone)
        assert isinstance(link, Sender)
        link.handler = handler
        await self._attached(link)
        return link

    async def attach_receiver(
        self, source: Terminus, *, settled: bool = False, properties: dict[str, Any] | None = None, name: str | None = None,
        handler: LinkHandler | None = None, alone: bool = False,
    ) -> Receiver:  # fmt: skip
        """A link to receive on; set its `window`. `alone` as with `attach_sender`. Raises AmqpError with the peer's condition if it is
        refused."""
        link = self._attach(source, Terminus(), receives=True, settled=settled, properties=properties, name=name, alone=alone)
        assert isinstance(link, Receiver)
        link.handler = handler
        await self._attached(link)
        return link

    def _attach(
        self, source: Terminus, target: Terminus, *, receives: bool, settled: bool, properties: dict[str, Any] | None, name: str | None,
        alone: bool = False,
    ) -> Sender | Receiver:  # fmt: skip
        taken = self._links.taken(name, receives=receives) if name and not alone else ()
        session = self._sessions.place(self._living().connection, alone=alone, taken=taken)
        self._names += 1
        link = open_link(
            self, session, name or f"{self.options.container_id}-{self._names}", source, target,
            receives=receives, settled=settled, properties=properties,
        )  # fmt: skip
        self._links.add(link)
        return link

    async def _attached(self, link: Sender | Receiver) -> None:
        assert link.attached is not None
        try:
            await link.attached
        except asyncio.CancelledError:
            link.close()
            raise

    # --- closing ---

    def close(self, condition: Condition | None = None) -> None:
        """Close gracefully: the peer gets what is under way, is told, and has CLOSE_SECONDS for all of it (2.4.3).

        The close frame waits until no delivery waits for the peer's session window any more: the engine would forget them."""
        if self._closing:
            return
        self._closing = True
        if self._engine is None:
            self.abort()
            return
        self._farewell = True
        write_condition(lib.pn_connection_condition(self._engine.connection), condition and self.fitted(condition))
        self.touch()
        self._deadline = self.loop.call_later(CLOSE_SECONDS, self.abort)

    def fitted(self, condition: Condition) -> Condition:
        """What of a condition fits into one frame of the peer's: the engine would write a larger one, and the peer would close."""
        return condition.within(lib.pn_transport_get_remote_max_frame(self._living().transport) - FRAME_ROOM)

    async def wait_closed(self) -> None:
        """Wait until the socket is gone."""
        await asyncio.shield(self.lost)

    def abort(self) -> None:
        """Drop the socket at once."""
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._reading = Reading(self.loop, self._transport, self._receive, 0 if self._server else READ_AHEAD)
        self._attaches = Attaches(self.loop, self._answer_attach)
        self.peer = transport.get_extra_info("peername")
        self.secure = transport.get_extra_info("ssl_object") is not None
        if self._server:
            self.certificate = certificate_names(transport.get_extra_info("peercert") or {})
        self._deadline = self.loop.call_later(self.options.handshake_timeout, self._too_slow)
        self._handshake = self._make_handshake(self)
        self._handshake.start(self._transport, self._authenticated, self._not_authenticated)

    def data_received(self, data: bytes) -> None:
        if self._handshake is not None:
            self._handshake.receive(data)
        elif self._reading is not None:
            self._reading.add(data)

    def eof_received(self) -> bool:
        return False  # half-closed connections make no sense in AMQP: let asyncio close the other half

    def pause_writing(self) -> None:
        self.paused = True
        self.room = 0

    def resume_writing(self) -> None:
        self.paused = False
        self.touch()

    def connection_lost(self, error: Exception | None) -> None:
        if self._handshake is not None:
            self._handshake.stop()
            self._handshake = None
        for timer in (self._timer, self._deadline):
            if timer is not None:
                timer.cancel()
        condition = self._condition
        if condition is None and not self._closing:
            condition = Condition("amqp:connection:forced", reason_of_loss(error))
        links = list(self._links.values())
        self._links.clear()
        end_all((link, condition) for link in links)
        for link in links:
            link.release()
        self._sessions.clear()
        self.blocked.clear()
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.free()
        for turns in (self._reading, self._attaches):
            if turns is not None:
                turns.stop()
        self._transport = self._reading = self._attaches = None  # they know the connection too, and would wait for the collector
        if not self.ready.done():
            self.ready.set_exception(AmqpError(condition or Condition("amqp:connection:forced", "closed")))
        if not self.lost.done():
            self.lost.set_result(None)
        if self._told:
            self.handler.closed(self, condition)
        if self._on_lost is not None:
            self._on_lost(self)

    # --- the handshake's two ends ---

    def _authenticated(self, user: str, rest: bytes) -> None:
        self._handshake = None
        self.user = user
        options = self.options
        self._engine = engine = Engine(
            server=self._server, max_frame=options.max_frame, channel_max=options.channel_max, idle_timeout=options.idle_timeout
        )
        lib.pn_connection_set_container(engine.connection, c_text(options.container_id))
        if not self._server:
            lib.pn_connection_set_hostname(engine.connection, c_text(options.hostname))
            self._open()
        if rest:
            self._receive(rest)
        self.touch()

    def _not_authenticated(self, failure: SaslFailure) -> None:
        self._handshake = None
        self._condition = failure.condition
        self._closing = True
        if not self.ready.done():
            self.ready.set_exception(failure)
        if self._transport is not None:
            self._transport.close()

    def _too_slow(self) -> None:
        if not self.ready.done():
            self.too_slow = True
            seconds = self.options.handshake_timeout
            self._condition = Condition("amqp:connection:forced", f"the peer did not open the connection within {seconds:g} s")
            self.abort()

    def _open(self, **properties: Any) -> None:
        pointer = self._living().connection
        write_symbols(lib.pn_connection_offered_capabilities(pointer), self.options.capabilities)
        write_map(lib.pn_connection_properties(pointer), self.options.properties | properties)
        lib.pn_connection_open(pointer)

    # --- bytes in, events out ---

    def _receive(self, data: bytes) -> None:
        engine = self._engine
        if engine is None:
            return
        transport = engine.transport
        pos, size = 0, len(data)
        self._heard += size
        source = ffi.from_buffer(data)
        while pos < size:
            room = _capacity(transport)
            if room <= 0:
                break
            taken = _push(transport, source + pos, min(room, size - pos))
            if taken < 0:
                break
            pos += taken
            self._dispatch(engine)
            if self._engine is None:
                return
        if not self.touched:
            self.touch()

    def _dispatch(self, engine: Engine) -> None:
        collector, links = engine.collector, self._links
        event = _peek_event(collector)
        while event:
            kind = _event_type(event)
            if kind == _DELIVERY:
                delivery = _event_delivery(event)
                link = links.get(_delivery_link(delivery))
                if link is not None and link.alive:
                    link.on_delivery(delivery)
            elif kind == _FLOW:
                link = links.get(_event_link(event))
                if link is not None and link.alive:
                    link.on_flow()
            else:
                react = _REACTIONS.get(kind)
                if react is not None:
                    react(self, event)
            if self._engine is None:
                return  # the socket went while a handler was at work
            _pop_event(collector)
            event = _peek_event(collector)

    def _remote_open(self, event: Any) -> None:
        if self._server:
            try:
                self._check_idle()
                if self._admit is not None:
                    self._admit(self)
            except AmqpError as error:
                self._open(**{NOT_ESTABLISHED: True})
                if self._deadline is not None:
                    self._deadline.cancel()
                if not self.ready.done():
                    self.ready.set_exception(error)
                self.close(error.condition)
                return
            self._open()
        elif self.remote_properties.get(NOT_ESTABLISHED):
            return  # the close comes next, and says why
        if self._deadline is not None:
            self._deadline.cancel()
        self._tick()
        self._told = True
        if not self.ready.done():
            self.ready.set_result(None)
        self.handler.opened(self)

    def _check_idle(self) -> None:
        """2.4.5: who cannot support the other's idle time-out says why."""
        asked = lib.pn_transport_get_remote_idle_timeout(self._living().transport)
        if 0 < asked < IDLE_LEAST:
            raise AmqpError(Condition("amqp:not-allowed", f"An idle time-out of {asked} ms is too short. Ask for {IDLE_LEAST} or more."))

    def _remote_close(self, event: Any) -> None:
        pointer = lib.pn_event_connection(event)
        self._condition = self._condition or read_condition(lib.pn_connection_remote_condition(pointer))
        self._closing = True
        lib.pn_connection_close(pointer)

    def _session_remote_open(self, event: Any) -> None:
        self._sessions.opened(lib.pn_event_session(event))

    def _session_remote_close(self, event: Any) -> None:
        session = lib.pn_event_session(event)
        condition = read_condition(lib.pn_session_remote_condition(session))
        others = Condition("amqp:session:errant-link", f"its session ended because of another link: {condition}")
        shared = self._sessions.shared(session)
        links = [self._gone(pointer) for pointer in self._links.in_session(session)]
        end_all((link, others if link.attached is not None and link.attached.done() and shared else condition) for link in links)
        for link in links:
            link.release()
        if self._sessions.ended(session):
            self.loop.call_later(RESTING_SECONDS, self._rested, session)
            return
        self._sessions.close(session)
        # The engine lets go of a session when it writes its end. One that has as many unwritten as there are channels is mute from then
        # on, and keeps what comes: 3 KB for each session that a peer begins and ends.
        if self._engine is not None:
            _pending(self._engine.transport)

    def _rested(self, session: Any) -> None:
        if self._engine is not None:
            self._sessions.close(session)
            self.touch()

    def _link_remote_open(self, event: Any) -> None:
        if not self._told or self._attaches is None:
            return  # it was not admitted, and did not wait to hear of it
        pointer = _event_link(event)
        link = self._links.get(pointer)
        if link is not None:
            link.on_remote_open()
            return
        too_many = Condition("amqp:resource-limit-exceeded", f"A connection may have {LINK_LIMIT} links. Close some, or open another.")
        if len(self._links) >= 2 * LINK_LIMIT:  # refused ones stay until the peer has detached them too, and it does not
            self.close(too_many)
            return
        link = (Sender if lib.pn_link_is_sender(pointer) else Receiver)(self, pointer)
        self._links.add(link)
        if len(self._links) > LINK_LIMIT:
            link.refuse(too_many)
            return
        self._attaches.add(link)

    def _answer_attach(self, link: Sender | Receiver) -> None:
        if self.touched:
            self._flush()  # the engine would write this before the detach of an earlier link, which may be of the same name (2.6.1)
        if not link.alive:
            return
        try:
            self.handler.attach(link)
        except AmqpError as error:
            link.refuse(error.condition)
        except ValueError as error:  # CodecError: a terminus that cannot be read
            link.refuse(Condition("amqp:decode-error", str(error)))
        except Exception as error:  # of one link: those behind it are answered all the same
            log.exception("an attach failed")
            link.refuse(Condition("amqp:internal-error", type(error).__name__))

    def _link_remote_close(self, event: Any) -> None:
        self._link_remote_end(event, closed=True)

    def _link_remote_detach(self, event: Any) -> None:
        self._link_remote_end(event, closed=False)

    def _link_remote_end(self, event: Any, *, closed: bool) -> None:
        pointer = _event_link(event)
        if pointer not in self._links:
            return
        link = self._gone(pointer)
        if link.alive:
            link.on_remote_end(read_condition(lib.pn_link_remote_condition(pointer)), closed=closed)
            lib.pn_link_open(pointer)  # if it has not been answered yet: without an attach of ours there is no detach either
            if closed:
                lib.pn_link_close(pointer)
            else:
                lib.pn_link_detach(pointer)
        session = lib.pn_link_session(pointer)
        if self._sessions.ours(session):
            self._links.leaving(link, session)
            self.touch()
        link.release()
        self._sessions.leave(session)

    def _gone(self, pointer: Any) -> Sender | Receiver:
        """A link that the peer has ended, forgotten."""
        link = self._links.remove(pointer)
        if self._attaches is not None:
            self._attaches.drop(link)
        return link

    def _transport_error(self, event: Any) -> None:
        engine = self._living()
        condition = read_condition(lib.pn_transport_condition(engine.transport))
        self._condition = self._condition or condition

    # --- bytes out ---

    def touch(self) -> None:
        """Something is to be sent: flush once, at the end of this turn of the loop."""
        if not self.touched:
            self.touched = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self.touched = False
        engine, out = self._engine, self._transport
        if engine is None or out is None:
            return
        transport, buffer = engine.transport, self.scratch.buffer
        pending = _pending(transport)
        while pending > 0 and not self.paused:
            size = _peek(transport, buffer, min(pending, SCRATCH_SIZE))
            if size <= 0:
                break
            out.write(_unpack(buffer, size))
            _pop(transport, size)
            pending = _pending(transport)
        if pending <= 0:
            self._links.written()
        self._dispatch(engine)
        waiting = self._sessions.waiting()
        self.room = 0 if self.paused else OUTPUT_LIMIT - waiting
        if self._farewell and not waiting:
            self._farewell = False
            lib.pn_connection_close(engine.connection)
            self.touch()
        if not self.paused:
            self._heard = 0
        if self._server and self._reading is not None:  # of two peers that both do this neither might ever read again
            self._reading.hold(self._heard > HEARD_LIMIT)
        if pending < 0:  # the engine has said all: our close is out, and the peer's is in or will not be waited for
            self._closing = True
            out.close()
        elif self.blocked and self.room > 0:
            blocked, self.blocked = self.blocked, set()
            for link in blocked:
                if link.alive and link.handler is not None:
                    link.handler.credit(link)

    def _tick(self) -> None:
        """Idle time-outs both ways (2.4.5): the engine says when it wants to be asked again."""
        engine = self._engine
        if engine is None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = int(self.loop.time() * 1000)
        deadline = lib.pn_transport_tick(engine.transport, now)
        if deadline > 0:
            self._timer = self.loop.call_later(max(deadline - now, 1) / 1000, self._tick)
        self.touch()

    def _living(self) -> Engine:
        if self._engine is None:
            raise AmqpError(self._condition or Condition("amqp:connection:forced", "the connection is closed"))
        return self._engine


_REACTIONS: Final[dict[int, Callable[[Connection, Any], None]]] = {
    lib.PN_CONNECTION_REMOTE_OPEN: Connection._remote_open,
    lib.PN_CONNECTION_REMOTE_CLOSE: Connection._remote_close,
    lib.PN_SESSION_REMOTE_OPEN: Connection._session_remote_open,
    lib.PN_SESSION_REMOTE_CLOSE: Connection._session_remote_close,
    lib.PN_LINK_REMOTE_OPEN: Connection._link_remote_open,
    lib.PN_LINK_REMOTE_CLOSE: Connection._link_remote_close,
    lib.PN_LINK_REMOTE_DETACH: Connection._link_remote_detach,
    lib.PN_TRANSPORT_ERROR: Connection._transport_error,
}


def _retrieve(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()  # nobody has to wait for `ready`
