"""What the agent says of itself: NodeAnnounce and NodeCapabilities when it comes up, NodeStatus regularly, NodeLeave at the end."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any, Final

from lxml import etree

from ..common.errors import ClacksError
from ..common.event import EventMaker
from .bus import Incoming
from .command import CommandRegistry
from .intake import Intake, Lane

log = logging.getLogger("clacks.node")

# Threads that examine large events.
WORKERS: Final = 2
# How often the loop's lag is measured, in seconds: often enough to see a stall within a status interval, rare enough to cost nothing.
LAG_INTERVAL: Final = 1.0


class Node:
    """This agent as a member of its domain."""

    def __init__(self, node_id: str, intake: Intake, commands: CommandRegistry, interval: float) -> None:
        """`interval` in seconds between two NodeStatus events."""
        self.id = node_id
        self.latency = 0.0
        self._intake, self._commands, self._interval = intake, commands, interval
        self._lane = Lane()
        self._make = EventMaker()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def user(self) -> str:
        """Who the agent's own events come from; no user's name has a slash."""
        return f"node/{self.id}"

    @property
    def load(self) -> float:
        """The machine's load per processor, averaged over a minute."""
        return os.getloadavg()[0] / (os.cpu_count() or 1)

    def start(self) -> None:
        e = self._make
        self._publish(e.NodeAnnounce(e.Id(self.id)))
        self._publish(e.NodeCapabilities(e.Id(self.id), *(self._method(name) for name in sorted(self._commands.methods))))
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._report()), loop.create_task(self._measure())]

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        e = self._make
        self._publish(e.NodeLeave(e.Id(self.id)))

    def as_json(self) -> dict[str, Any]:
        return {"load": round(self.load, 3), "latency": round(self.latency, 6), "workers": WORKERS}

    def _method(self, name: str) -> etree._Element:
        e, method = self._make, self._commands.methods[name]
        described: etree._Element = e.NodeMethod(
            e.Name(name),
            e.Path(name),
            e.Target(method.target),
            e.Signature(",".join(method.parameters)),
            e.Type(str(method.mark.type)),
            e.QueueRequired(method.mark.needs_queue),
            e.Documentation(method.mark.documentation),
        )
        return described

    def _status(self) -> None:
        e = self._make
        self._publish(e.NodeStatus(e.Id(self.id), e.Load(self.load), e.Latency(self.latency), e.Workers(WORKERS), e.Indexed(True)))

    def _publish(self, event: etree._Element) -> None:
        def done(error: ClacksError | None) -> None:
            if error is not None:
                log.error("own event refused", extra={"reason": str(error)})

        body = etree.tostring(self._make.Event(event))
        self._intake.submit(Incoming(body, self.user, origin="node"), self._lane, done)

    async def _report(self) -> None:
        while True:
            self._status()
            await asyncio.sleep(self._interval)

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            self.latency = max(0.0, loop.time() - due)


def notify(state: str, environ: Callable[[str], str | None] = os.environ.get) -> None:
    """Tell systemd (sd_notify(3)): READY=1, STOPPING=1, RELOADING=1. Does nothing where nobody asked for it."""
    import socket

    where = environ("NOTIFY_SOCKET")
    if not where:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect("\0" + where[1:] if where.startswith("@") else where)
            sock.sendall(state.encode())
        except OSError as error:
            log.warning("systemd cannot be told", extra={"reason": str(error)})
