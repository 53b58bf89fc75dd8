"""Listening: each accepted socket becomes a `Connection` with a handshake in front."""

from __future__ import annotations

import asyncio
import socket
import ssl

from .connection import HANDSHAKE_SECONDS, Connection, ConnectionHandler, Options
from .outcome import Condition
from .sasl import Authenticator, ServerHandshake

# Connections the kernel keeps while the loop is busy: a fleet that comes back at once after a restart is larger than asyncio's 100.
BACKLOG = 1024


class Listener:
    """A listening address and the connections that came in through it."""

    def __init__(self, options: Options, handler: ConnectionHandler, authenticator: Authenticator) -> None:
        self._options, self._handler, self._authenticator = options, handler, authenticator
        self._servers: list[asyncio.Server] = []
        self.connections: set[Connection] = set()

    def accept(self) -> Connection:
        """The protocol of one connection that comes in."""
        return Connection(self._options, self._handler, self._handshake, server=True, on_lost=self.connections.discard)

    def _handshake(self, connection: Connection) -> ServerHandshake:
        self.connections.add(connection)  # from here on it will be lost once; before TLS is up it may end without a word
        return ServerHandshake(self._authenticator, secure=connection.secure, loopback=connection.loopback)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first socket."""
        host, port = self._servers[0].sockets[0].getsockname()[:2]
        return host, port

    def stop(self) -> None:
        """Take no more connections; those that are open stay."""
        for server in self._servers:
            server.close()

    async def close(self, condition: Condition | None = None) -> None:
        """Close everything gracefully and wait for it."""
        self.stop()
        connections = list(self.connections)
        for connection in connections:
            connection.close(condition)
        if connections:
            await asyncio.gather(*(connection.wait_closed() for connection in connections))


async def serve(
    host: str,
    port: int,
    handler: ConnectionHandler,
    authenticator: Authenticator,
    options: Options | None = None,
    tls: ssl.SSLContext | None = None,
) -> Listener:
    """Listen on every address of `host` (the name localhost has two); port 0 picks one, the same for all of them.

    Raises OSError if no address can be bound.
    """
    loop = asyncio.get_running_loop()
    listener = Listener(options or Options(), handler, authenticator)
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    refused: OSError | None = None
    for family, _, _, _, address in sorted(set(found)):  # IPv4 before IPv6
        try:
            server = await loop.create_server(
                listener.accept,
                str(address[0]),
                port,
                family=family,
                backlog=BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if tls else None,
                reuse_address=True,
            )
        except OSError as error:
            refused = error
            continue
        listener._servers.append(server)
        port = server.sockets[0].getsockname()[1]
    if not listener._servers:
        raise refused or OSError(f"{host} has no address")
    return listener
