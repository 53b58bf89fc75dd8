"""One AMQP 1.0 connection on asyncio: SASL first, then bytes into proton's engine, events out of it, bytes to the socket.

It owns its sessions and links and frees what it made. It does not know what an address or a message means: the handler of the
connection answers attaches, the handler of a link takes its deliveries. Everything runs on the loop's thread; nothing here blocks.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
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
from .link import OUTPUT_LIMIT, LinkHandler, Receiver, Sender, open_link
from .outcome import AmqpError, Condition
from .sasl import Handshake, SaslFailure
from .terminus import Terminus

# How long a peer may take for what is due at once (SASL, the answer to close), in seconds: generous to a slow link, short for an attacker.
HANDSHAKE_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 5.0
# Links one connection may have. A consumer has a few; a gateway of another project has been seen with hundreds.
LINK_LIMIT: Final = 4096
# Links of our own in one session: RabbitMQ takes 256, and is mute from the next one on.
LINKS_PER_SESSION: Final = 250
# Attaches of one peer that are answered in one turn of the loop: half a millisecond.
ATTACHES_PER_TURN: Final = 2
# Bytes of one peer's that are worked off in one turn of the loop: some 150 small events, 3 ms. uvloop brings up to 250 KB in one piece,
# and several pieces in one turn; beside a publisher in full flow others waited for 40 ms.
TURN_SIZE: Final = 32 * 1024

# The property of an open that is followed by a close at once: a convention, not a standard, of several brokers and client libraries.
NOT_ESTABLISHED: Final = "amqp:connection-establishment-failed"

_push, _capacity, _peek_event, _pop_event = lib.pn_transport_push, lib.pn_transport_capacity, lib.pn_collector_peek, lib.pn_collector_pop
_event_type, _event_delivery, _event_link = lib.pn_event_type, lib.pn_event_delivery, lib.pn_event_link
_delivery_link, _pending, _peek, _pop = lib.pn_delivery_link, lib.pn_transport_pending, lib.pn_transport_peek, lib.pn_transport_pop
_outgoing_bytes, _unpack = lib.pn_session_outgoing_bytes, ffi.unpack
_DELIVERY, _FLOW = lib.PN_DELIVERY, lib.PN_LINK_FLOW


@dataclass(frozen=True, slots=True)
class Options:
    """What a connection announces and permits. Sizes in bytes, times in seconds.

    Frames of 32 KiB at the most: bigger ones help only big messages. The session's capacity bounds what a peer can make the engine keep
    (2.5.6), at 8 MiB it lets 256 frames be under way. An idle time-out of 60 s finds a dead peer within a minute and costs an idle one two
    empty frames in that time (2.4.5).
    """

    container_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    hostname: str | None = None
    max_frame: int = 32 * 1024
    session_capacity: int = 8 * 1024 * 1024
    max_message_size: int = 1024 * 1024
    channel_max: int = 255
    idle_timeout: float = 60.0
    handshake_timeout: float = HANDSHAKE_SECONDS
    capabilities: tuple[str, ...] = ()
    properties: dict[str, Any] = field(default_factory=dict)


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
        self._links: dict[Any, Sender | Receiver] = {}
        self._sessions: set[Any] = set()
        self._own_sessions: dict[Any, int] = {}  # with their links; one that is for a single link counts as full before it
        self._leaving: set[tuple[Any, str, bool]] = set()  # links of ours with a detach to be written: an attach goes before it
        self._attaching: deque[Sender | Receiver] = deque()
        self._names = 0
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._closing = False
        self._unread = bytearray()
        self._farewell = False
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
        self._living()
        session = self._own_session(receives=receives, alone=alone, name=name)
        self._names += 1
        link = open_link(
            self, session, name or f"{self.options.container_id}-{self._names}", source, target,
            receives=receives, settled=settled, properties=properties,
        )  # fmt: skip
        self._links[link._pointer] = link
        self._own_sessions[session] += 1
        return link

    def _own_session(self, *, receives: bool, alone: bool, name: str | None) -> Any:
        """A session of ours for another link. Brokers have limits: RabbitMQ that of 256 links. The peer's engine ends the connection if one
        has two links of one name and direction; a name is free when both sides have detached, and have written that."""
        if not alone:
            same = [link for link in self._links.values() if link.name == name and isinstance(link, Receiver) == receives] if name else []
            taken = {lib.pn_link_session(link._pointer) for link in same}
            taken.update(session for session, *former in self._leaving if former == [name, receives])
            for session, links in self._own_sessions.items():
                if links < LINKS_PER_SESSION and session not in taken:
                    return session
        session = lib.pn_session(self._living().connection)
        lib.pn_session_set_incoming_capacity(session, self.options.session_capacity)
        lib.pn_session_open(session)
        self._sessions.add(session)
        self._own_sessions[session] = LINKS_PER_SESSION if alone else 0
        return session

    def _leave_session(self, session: Any) -> None:
        """A link of ours is gone. A session that had but one link ends with it."""
        links = self._own_sessions.get(session)
        if links is None:
            return
        if links > LINKS_PER_SESSION:
            del self._own_sessions[session]
            lib.pn_session_close(session)
            self.touch()
        else:
            self._own_sessions[session] = links - 1

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
        write_condition(lib.pn_connection_condition(self._engine.connection), condition)
        self.touch()
        self._deadline = self.loop.call_later(CLOSE_SECONDS, self.abort)

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
        elif len(data) <= TURN_SIZE and not self._unread:
            self._receive(data)
        else:
            if not self._unread and self._transport is not None and not self._transport.is_closing():
                self._transport.pause_reading()
                self.loop.call_soon(self._go_on)
            self._unread += data

    def _go_on(self) -> None:
        """Take a part of what is unread; the rest when every other connection has had its turn."""
        if self._engine is None:
            return
        part = bytes(self._unread[:TURN_SIZE])
        del self._unread[:TURN_SIZE]
        self._receive(part)
        if self._unread:
            self.loop.call_soon(self._go_on)
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

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
            condition = Condition("amqp:connection:forced", _reason(error))
        for link in list(self._links.values()):
            link.on_remote_end(condition, closed=False)
            link.release()
        self._links.clear()
        self._sessions.clear()
        self._own_sessions.clear()
        self.blocked.clear()
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.free()
        self._transport = None
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
                if type(link) is Sender and link.alive:
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

    def _remote_close(self, event: Any) -> None:
        pointer = lib.pn_event_connection(event)
        self._condition = self._condition or read_condition(lib.pn_connection_remote_condition(pointer))
        self._closing = True
        lib.pn_connection_close(pointer)

    def _session_remote_open(self, event: Any) -> None:
        session = lib.pn_event_session(event)
        if session in self._own_sessions:
            return
        lib.pn_session_set_incoming_capacity(session, self.options.session_capacity)
        lib.pn_session_open(session)
        self._sessions.add(session)

    def _session_remote_close(self, event: Any) -> None:
        session = lib.pn_event_session(event)
        condition = read_condition(lib.pn_session_remote_condition(session))
        others = Condition("amqp:session:errant-link", f"its session ended because of another link: {condition}")
        for pointer, link in list(self._links.items()):
            if lib.pn_link_session(pointer) == session:
                del self._links[pointer]
                attached = link.attached is not None and link.attached.done() and self._own_sessions.get(session, 0) <= LINKS_PER_SESSION
                link.on_remote_end(others if attached else condition, closed=False)
                link.release()
        self._own_sessions.pop(session, None)
        self._sessions.discard(session)
        lib.pn_session_close(session)
        lib.pn_session_free(session)

    def _link_remote_open(self, event: Any) -> None:
        if not self._told:
            return  # it was not admitted, and did not wait to hear of it
        pointer = _event_link(event)
        link = self._links.get(pointer)
        if link is not None:
            link.on_remote_open()
            return
        link = (Sender if lib.pn_link_is_sender(pointer) else Receiver)(self, pointer)
        self._links[pointer] = link
        if len(self._links) > LINK_LIMIT:
            link.refuse(
                Condition("amqp:resource-limit-exceeded", f"A connection may have {LINK_LIMIT} links. Close some, or open another.")
            )
            return
        self._attaching.append(link)
        if len(self._attaching) == 1:
            self.loop.call_soon(self._answer_attaches)

    def _answer_attaches(self) -> None:
        """A few in one turn: what comes in one read may be hundreds, and each takes the handler some 0.2 ms."""
        for _ in range(min(ATTACHES_PER_TURN, len(self._attaching))):
            link = self._attaching.popleft()
            if not link.alive:
                continue
            try:
                self.handler.attach(link)
            except AmqpError as error:
                link.refuse(error.condition)
            except ValueError as error:  # CodecError: a terminus that cannot be read
                link.refuse(Condition("amqp:decode-error", str(error)))
        if self._attaching:
            self.loop.call_soon(self._answer_attaches)

    def _link_remote_close(self, event: Any) -> None:
        self._link_remote_end(event, closed=True)

    def _link_remote_detach(self, event: Any) -> None:
        self._link_remote_end(event, closed=False)

    def _link_remote_end(self, event: Any, *, closed: bool) -> None:
        pointer = _event_link(event)
        link = self._links.pop(pointer, None)
        if link is None:
            return
        if link.alive:
            link.on_remote_end(read_condition(lib.pn_link_remote_condition(pointer)), closed=closed)
            if closed:
                lib.pn_link_close(pointer)
            else:
                lib.pn_link_detach(pointer)
        session = lib.pn_link_session(pointer)
        if session in self._own_sessions:
            self._leaving.add((session, link.name, isinstance(link, Receiver)))
            self.touch()
        link.release()
        self._leave_session(session)

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
            self._leaving.clear()
        self._dispatch(engine)
        waiting = sum(map(_outgoing_bytes, self._sessions))  # for the peer's session window (2.5.6), or for the socket
        self.room = 0 if self.paused else OUTPUT_LIMIT - waiting
        if self._farewell and not waiting:
            self._farewell = False
            lib.pn_connection_close(engine.connection)
            self.touch()
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


def certificate_names(certificate: dict[str, Any]) -> tuple[str, ...]:
    """The names in a verified certificate (as `ssl.SSLSocket.getpeercert` gives it) in the form of OpenSSL: CN=anna, DNS:host.example.net,
    email:anna@example.net, URI:spiffe://example.net/anna. Each kind has a prefix of its own, so no name of one can pass for another's."""
    common = [f"CN={value}" for rdn in certificate.get("subject", ()) for key, value in rdn if key == "commonName"]
    kinds = ("DNS", "email", "URI")
    return (*common, *(f"{kind}:{value}" for kind, value in certificate.get("subjectAltName", ()) if kind in kinds))


def is_loopback(host: str) -> bool:
    """Whether an IP address, or the name localhost, stands for this machine only."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _reason(error: Exception | None) -> str:
    if error is None:
        return "the peer closed the socket"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error) or type(error).__name__


def _retrieve(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()  # nobody has to wait for `ready`
