"""For users' own tests: the whole bus, consumers and proxies in one process, without a socket.

    from clacks.testing import LocalBus, sample

    with LocalBus() as bus:
        seen = []
        with bus.consumer("/*:Event/*:PhoneStatus[*:Status = 'busy']", seen.append):
            bus.proxy().sendEvent(sample("PhoneStatus"))
            bus.wait_for(lambda: seen)

Everything but the sockets is the real thing: AMQP frames, authentication, validation, filters, commands.
"""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from .agent.access import ADMINISTRATORS
from .agent.agent import Agent
from .agent.config import load
from .agent.users import UserBook, make_user
from .amqp import Connection, Credentials
from .amqp.client import Silent
from .amqp.sasl import ClientHandshake
from .common.components import AMQPEventConsumer, AMQPServiceProxy
from .common.components.background import Background
from .common.components.client import BusClient
from .common.components.consumer import Callback
from .common.components.dialling import client_options
from .common.components.url import Url
from .common.schema import installed_folder

T = TypeVar("T")

URL = "amqp://admin:secret@localhost/org.clacks"


class LocalBus:
    """A bus for the time of a test. `schemas` are folders with further event schemas; `settings` are an agent's, by name."""

    def __init__(self, schemas: Sequence[Path] = (), **settings: Any) -> None:
        self._settings = {"schemas": [str(folder) for folder in schemas], "node_id": "local", **settings}
        self._background = Background.get()
        self._opened: list[AMQPEventConsumer | AMQPServiceProxy | BusClient] = []

    def __enter__(self) -> Self:
        self._background.run(self._start())
        return self

    def __exit__(self, *exc: object) -> None:
        for one in reversed(self._opened):
            if isinstance(one, BusClient):
                self._background.run(one.close())
            else:
                one.close()
        self._background.run(self.agent.close())
        self._folder.cleanup()

    async def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="clacks-")
        settings = {"state_dir": self._folder.name, **self._settings}
        config = dataclasses.replace(load(None, settings, {}), listen=(), listen_tls=(), drain_timeout=1.0)
        self.agent = Agent(config, UserBook({"admin": make_user("admin", "secret", [ADMINISTRATORS])}))
        await self.agent.start(watch=False)
        self._listener = self.agent.listener()

    def consumer(self, xquery: str | None = None, callback: Callback | None = None, **options: Any) -> AMQPEventConsumer:
        """An `AMQPEventConsumer` on this bus; closed with it."""
        consumer = AMQPEventConsumer(URL, xquery=xquery, callback=callback, dial=self.dial, **options)
        self._opened.append(consumer)
        return consumer

    def proxy(self, **options: Any) -> AMQPServiceProxy:
        """An `AMQPServiceProxy` on this bus; closed with it."""
        proxy = AMQPServiceProxy(URL, dial=self.dial, **options)
        self._opened.append(proxy)
        return proxy

    def send(self, event: Any, **options: Any) -> None:
        """Publish an event as `BusClient.send` does. Raises ClacksError if it is refused."""
        client = next((one for one in self._opened if isinstance(one, BusClient)), None)
        if client is None:
            client = BusClient(URL, dial=self.dial)
            self._opened.append(client)
        self._background.run(client.send(event, **options))

    def wait_for(self, condition: Callable[[], T], seconds: float = 10.0) -> T:
        """The first true answer of `condition`. Raises TimeoutError after `seconds`."""
        end = time.monotonic() + seconds
        while not (answer := condition()):
            if time.monotonic() > end:
                raise TimeoutError(f"nothing came of it within {seconds:g} s")
            time.sleep(0.002)
        return answer

    async def dial(self, url: Url) -> Connection:
        """A connection to this bus over a transport in memory: what the client classes take as `dial`."""
        loop = asyncio.get_running_loop()
        credentials = Credentials(url.user, url.password)

        def handshake(connection: Connection) -> ClientHandshake:
            return ClientHandshake(credentials, hostname=url.host, private=True)

        client = Connection(client_options(url), Silent(), handshake, server=False)
        here, there = _Pipe(loop, client), _Pipe(loop, self._listener.accept())
        here.peer, there.peer = there, here
        there.protocol.connection_made(there)
        here.protocol.connection_made(here)
        await client.ready
        return client


class _Pipe(asyncio.Transport):
    """One end of a connection in memory."""

    peer: _Pipe

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self._loop = loop
        self._closing = False
        self._held: list[bytes] | None = None  # what has come in while reading is paused

    def pause_reading(self) -> None:
        self._held = self._held or []

    def resume_reading(self) -> None:
        held, self._held = self._held or [], None
        for data in held:
            self._loop.call_soon(self._deliver, data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self._loop.call_soon(self.peer._deliver, bytes(data))

    def _deliver(self, data: bytes) -> None:
        if self._held is not None:
            self._held.append(data)
        elif not self._closing:
            self.protocol.data_received(data)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self.protocol.connection_lost, None)
            self._loop.call_soon(self.peer.close)

    def abort(self) -> None:
        self.close()


def sample(name: str) -> bytes:
    """The example event that comes with Clacks for one of its events. Raises FileNotFoundError for an event without one."""
    return (installed_folder() / f"{name}.xml").read_bytes()
