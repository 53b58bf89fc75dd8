"""An agent's connections to the broker, opened again when one is lost.

Taking and giving have one each: a broker that is short of memory stops those who publish, and settlements must go on. What is declared has
a third: RabbitMQ ends the session of a request that it does not permit.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from ....amqp import Condition, Connection
from ....common.brokers import Broker, Management, recognise
from ....common.components.client import dial
from ....common.components.url import Url
from ....common.errors import ClacksError

log = logging.getLogger("clacks.broker")

# Pauses between attempts, in seconds: a broker that is restarted is back after three, a cluster's other node at once.
PAUSE_FIRST: Final = 0.1
PAUSE_MOST: Final = 5.0


class Lines(NamedTuple):
    """What there is while the broker can be reached."""

    broker: Broker
    taking: Connection
    giving: Connection
    management: Management


class Uplink:
    """`up` is called with the lines each time there are any, `down` when they are no more."""

    def __init__(self, urls: Sequence[Url], up: Callable[[Lines], Awaitable[None]], down: Callable[[], None]) -> None:
        self._urls, self._up, self._down = urls, up, down
        self._task: asyncio.Task[None] | None = None
        self.reconnects = 0

    async def start(self) -> None:
        """Connect once, and from then on stay connected. Raises ClacksError if that fails at first."""
        lines = await self._connect()
        await self._up(lines)
        self._task = asyncio.get_running_loop().create_task(self._keep(lines))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self, lines: Lines) -> None:
        connections: tuple[Connection, ...] = ()
        try:
            while True:
                connections = (lines.taking, lines.giving, lines.management.connection)
                await asyncio.wait([asyncio.shield(one.lost) for one in connections], return_when=asyncio.FIRST_COMPLETED)
                lost = next(one for one in connections if one.lost.done())
                log.warning("broker lost", extra={"reason": str(lost.condition or "the connection was closed")})
                for one in connections:
                    one.abort()
                self._down()
                lines = await self._again()
                self.reconnects += 1
        except asyncio.CancelledError:
            goodbye = Condition("amqp:connection:forced", "the agent stops")
            for one in connections:
                one.close(goodbye)
            await asyncio.gather(*(one.wait_closed() for one in connections))
            raise

    async def _again(self) -> Lines:
        pause = PAUSE_FIRST
        while True:
            try:
                lines = await self._connect()
                await self._up(lines)
            except ClacksError as error:
                log.warning("broker not reached", extra={"reason": str(error), "pause": pause})
            else:
                log.info("broker reached", extra={"broker": str(lines.broker)})
                return lines
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, PAUSE_MOST)

    async def _connect(self) -> Lines:
        failures: list[ClacksError] = []
        for url in self._urls:
            opened: list[Connection] = []
            try:
                for _ in range(3):
                    opened.append(await dial(url))
                broker = recognise(opened[0].remote_properties, url)
                return Lines(broker, opened[0], opened[1], await Management.attach(opened[2]))
            except ClacksError as error:
                failures.append(error)
                for one in opened:
                    one.abort()
        raise failures[0]
