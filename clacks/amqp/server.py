"""Listening: each accepted socket becomes a `Connection` with a handshake in front, if the gate lets it.

Sockets are accepted here and not by asyncio's server, which would hide those whose TLS handshake is not done: they are to be counted by
address, and dropped when there are too many.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import socket
import ssl
from typing import Any

from .connection import Connection, ConnectionHandler
from .gate import Entrant, Gate, GateLimits, Refused, origin
from .options import Options
from .outcome import Condition
from .peer import is_loopback
from .sasl import Authenticator, ServerHandshake, refusal

log = logging.getLogger("clacks.amqp")

# Connections the kernel keeps while the loop is busy: a fleet that comes back at once after a restart is larger than asyncio's 100.
BACKLOG = 1024
# Connections accepted in one turn of the loop, a few hundred microseconds.
ACCEPTED_AT_ONCE = 16
# The pause when a socket cannot be had, in seconds, as asyncio's server makes it: descriptors come back when connections end.
ACCEPT_PAUSE = 1.0
# Connections that go before their memory is given back to the system: 2 us for each (1,000 are 34 MB), so 2 ms at once. Without it the C
# library keeps all of it, in pieces that fit the next crowd badly: bench/idle.py had 42 KiB for each at its third coming, not 34.
GONE_AT_ONCE = 1000
# Descriptors besides those of connections: the loop, files, listeners, sandboxed processes, metrics.
OTHER_DESCRIPTORS = 100


class Listener:
    """A listening address and the connections that came in through it."""

    def __init__(self, options: Options, handler: ConnectionHandler, authenticator: Authenticator, gate: Gate | None = None) -> None:
        """`gate` is shared by listeners that have their limits together."""
        self._options, self._handler, self._authenticator = options, handler, authenticator
        self._own_gate = gate is None
        self.gate = gate or Gate()
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections: set[Connection] = set()
        self._gone = 0

    def accept(self) -> Connection:
        """The protocol of one connection that comes in by another way than a socket; it counts as one from this machine."""
        entrant = Entrant("", lambda: connection.abort())
        connection = self._connection(entrant)
        with contextlib.suppress(Refused):  # this machine has no limit of its own
            self.gate.enter(entrant)
        return connection

    def listen(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Take connections from a listening socket."""
        self._sockets.append(sock)
        # Closed when nobody waits on it any more: a loop must not watch a descriptor that is somebody else's by then.
        self._spawn(self._accept(sock, tls)).add_done_callback(lambda _: sock.close())

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first socket."""
        host, port = self._sockets[0].getsockname()[:2]
        return host, port

    def stop(self) -> None:
        """Take no more connections; those that are open stay."""
        for task in self._tasks:
            task.cancel()

    async def close(self, condition: Condition | None = None) -> None:
        """Close everything gracefully and wait for it."""
        self.stop()
        connections = list(self.connections)
        for connection in connections:
            connection.close(condition)
        if connections:
            await asyncio.gather(*(connection.wait_closed() for connection in connections))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._own_gate:
            self.gate.close()

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        count = 0
        while True:
            try:
                sock, peer = await loop.sock_accept(listening)
            except ConnectionError:
                continue  # it went away while it waited
            except OSError as error:
                log.error("no connection can be accepted", extra={"reason": error.strerror or str(error)})
                await asyncio.sleep(ACCEPT_PAUSE)
                continue
            self._take(sock, str(peer[0]), tls)
            count += 1
            if count % ACCEPTED_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _take(self, sock: socket.socket, host: str, tls: ssl.SSLContext | None) -> None:
        def drop() -> None:
            task.cancel()

        entrant = Entrant("" if is_loopback(host) else origin(host), drop)
        try:
            self.gate.enter(entrant)
        except Refused as refused:
            self.gate.refused(refused.kind, refused.condition.description, host)
            if tls is None:  # TLS would cost more than the refusal is to save
                with contextlib.suppress(OSError):
                    sock.send(refusal(self._authenticator.mechanisms(secure=False, loopback=is_loopback(host))))
            sock.close()
            return
        task = self._spawn(self._let_in(sock, host, tls, entrant))

    async def _let_in(self, sock: socket.socket, host: str, tls: ssl.SSLContext | None, entrant: Entrant) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # it may be gone; asyncio does this for sockets that its own server accepts
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        timeout = self._options.handshake_timeout if tls else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._connection(entrant), sock, ssl=tls, ssl_handshake_timeout=timeout
            )
        except (OSError, asyncio.CancelledError) as error:
            self.gate.leave(entrant)
            if isinstance(error, ssl.SSLError):
                self.gate.refused("tls", error.reason or str(error), host)
            elif isinstance(error, asyncio.CancelledError):
                raise

    def _connection(self, entrant: Entrant) -> Connection:
        def lost(connection: Connection) -> None:
            self.connections.discard(connection)
            self.gate.leave(entrant)
            entrant.drop = _nothing  # it would hold the connection, which holds it, until the collector comes
            self._gone += 1
            if self._gone % GONE_AT_ONCE == 0:
                _give_memory_back()
            if connection.too_slow and connection.condition is not None:
                self.gate.refused("timeout", connection.condition.description, _host(connection))

        def admit(connection: Connection) -> None:
            try:
                self.gate.seat(entrant)
            except Refused as refused:
                self.gate.refused(refused.kind, refused.condition.description, _host(connection), connection.user)
                raise

        def handshake(connection: Connection) -> ServerHandshake:
            entrant.drop = connection.abort
            self.connections.add(connection)  # from here on it will be lost once; before TLS is up it may end without a word
            return ServerHandshake(
                self._authenticator,
                secure=connection.secure,
                loopback=connection.loopback,
                certificate=connection.certificate,
                gate=self.gate,
                address=_host(connection),
            )

        return Connection(self._options, self._handler, handshake, server=True, admit=admit, on_lost=lost)


def _nothing() -> None: ...


def _give_memory_back() -> None:
    """Only the GNU C library has to be asked (malloc_trim(3))."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def fit_descriptors(limits: GateLimits) -> None:
    """Let this process have as many descriptors as the system permits it, and warn where `limits` need more."""
    import resource  # not everywhere where clients are

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = limits.connections + limits.half_open + OTHER_DESCRIPTORS
    most = needed if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):  # some systems have one more limit, and say so only here
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    if soft != resource.RLIM_INFINITY and soft < needed:
        hint = f"raise the limit of open files to {needed} (ulimit -n, LimitNOFILE), or lower access.connections"
        log.warning("connections do not fit", extra={"connections": limits.connections, "descriptors": soft, "hint": hint})


def _host(connection: Connection) -> str:
    return str(connection.peer[0]) if connection.peer else ""


async def serve(
    host: str,
    port: int,
    handler: ConnectionHandler,
    authenticator: Authenticator,
    options: Options | None = None,
    tls: ssl.SSLContext | None = None,
    gate: Gate | None = None,
) -> Listener:
    """Listen on every address of `host` (the name localhost has two); port 0 picks one, the same for all of them.

    Raises OSError if no address can be bound.
    """
    loop = asyncio.get_running_loop()
    listener = Listener(options or Options(), handler, authenticator, gate)
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    refused: OSError | None = None
    for family, _, _, _, address in sorted(set(found)):  # IPv4 before IPv6
        try:
            sock = socket.create_server((str(address[0]), port), family=family, backlog=BACKLOG)
        except OSError as error:
            refused = error
            continue
        sock.setblocking(False)
        listener.listen(sock, tls)
        port = sock.getsockname()[1]
    if not listener._sockets:
        raise refused or OSError(f"{host} has no address")
    return listener
