"""Dialling: one socket to one address, and the connection on it, open."""

from __future__ import annotations

import asyncio
import ssl

from .connection import Connection, ConnectionHandler
from .link import Receiver, Sender
from .options import Options
from .outcome import AmqpError, Condition
from .sasl import ClientHandshake, Credentials


class Silent:
    """A connection's handler that refuses what nobody asked for and lets the rest pass."""

    def opened(self, connection: Connection) -> None: ...

    def attach(self, link: Sender | Receiver) -> None:
        raise AmqpError(Condition("amqp:not-allowed", "This is a client; it serves no links."))

    def closed(self, connection: Connection, condition: Condition | None) -> None: ...


async def connect(
    host: str,
    port: int,
    credentials: Credentials,
    options: Options | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    handler: ConnectionHandler | None = None,
) -> Connection:
    """Connect, authenticate and open.

    Raises OSError (no way to the host; ssl.SSLError among them), SaslFailure (not let in), AmqpError (closed before it was open).
    """
    loop = asyncio.get_running_loop()
    options = options or Options(hostname=host)

    def handshake(connection: Connection) -> ClientHandshake:
        return ClientHandshake(credentials, hostname=host, private=connection.secure or connection.loopback)

    def protocol() -> Connection:
        return Connection(options, handler or Silent(), handshake, server=False)

    _, connection = await loop.create_connection(protocol, host, port, ssl=tls, server_hostname=host if tls else None)
    try:
        await connection.ready
    except BaseException:
        connection.abort()
        raise
    return connection
