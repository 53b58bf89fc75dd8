"""An agent's connections to the broker, opened again when one is lost.

Taking and giving events have one each: a broker that is short of memory stops those who publish, and settlements must go on. The log and
the commands have a third, so that events do not keep them waiting. What is made and deleted has a fourth: RabbitMQ ends the session of a
request that it does not permit.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from ....amqp import AmqpError, Condition, Connection
from ....common.brokers import Broker, domain_broker
from ....common.components.client import dial
from ....common.components.url import Url
from ....common.errors import ClacksError

log = logging.getLogger("clacks.broker")

# Pauses between attempts, in seconds: a broker that is restarted is back after three, a cluster's other node at once.
PAUSE_FIRST: Final = 0.1
PAUSE_MOST: Final = 5.0
# How long it may take until all is declared and attached, in seconds: a broker that has just come back with thousands of queues is slow.
UP_SECONDS: Final = 60.0
# Bytes of the greatest message that is taken: RabbitMQ's own limit, and some more for what it puts in front. What is too large for an
# event is for the bus to say; what the agent could not take would stay at the head of its queue for ever.
MESSAGE_SIZE: Final = 20 * 2**20


class Lines(NamedTuple):
    """What there is while the broker can be reached."""

    broker: Broker
    taking: Connection
    giving: Connection
    asking: Connection
    making: Connection

    @property
    def connections(self) -> tuple[Connection, ...]:
        return self[1:]


class Uplink:
    """`up` is called with the lines each time there are any, `down` when they are no more."""

    def __init__(self, urls: Sequence[Url], up: Callable[[Lines], Awaitable[None]], down: Callable[[], None]) -> None:
        self._urls, self._up, self._down = urls, up, down
        self._task: asyncio.Task[None] | None = None
        self.reconnects = 0

    async def start(self) -> None:
        """Connect once, and from then on stay connected. Raises ClacksError if that fails at first."""
        lines = await self._come_up()
        self._task = asyncio.get_running_loop().create_task(self._keep(lines))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self, lines: Lines) -> None:
        try:
            while True:
                await asyncio.wait([asyncio.shield(one.lost) for one in lines.connections], return_when=asyncio.FIRST_COMPLETED)
                lost = next(one for one in lines.connections if one.lost.done())
                log.warning("broker lost", extra={"reason": str(lost.condition or "the connection was closed")})
                self._give_up(lines)
                lines = await self._again()
                self.reconnects += 1
        except asyncio.CancelledError:
            goodbye = Condition("amqp:connection:forced", "the agent stops")
            for one in lines.connections:
                one.close(goodbye)
            await asyncio.gather(*(one.wait_closed() for one in lines.connections))
            raise

    def _give_up(self, lines: Lines) -> None:
        for one in lines.connections:
            one.abort()
        self._down()

    async def _again(self) -> Lines:
        pause = PAUSE_FIRST
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            try:
                lines = await self._come_up()
            except ClacksError as error:
                pause = min(2 * pause, PAUSE_MOST)
                log.warning("broker not reached", extra={"reason": str(error), "pause": pause})
            else:
                log.info("broker reached", extra={"broker": str(lines.broker)})
                return lines

    async def _come_up(self) -> Lines:
        """Connect, and let everything be attached. Raises ClacksError."""
        lines = await self._connect()
        try:
            async with asyncio.timeout(UP_SECONDS):
                await self._up(lines)
        except TimeoutError:
            self._give_up(lines)
            raise ClacksError("unreachable", url=self._urls[0], reason=f"it is not ready after {UP_SECONDS:g} s") from None
        except AmqpError as error:
            self._give_up(lines)
            raise ClacksError("connection-lost", url=self._urls[0], reason=str(error.condition)) from error
        except BaseException:
            self._give_up(lines)
            raise
        return lines

    async def _connect(self) -> Lines:
        failures: list[ClacksError] = []
        for url in self._urls:
            opened: list[Connection] = []
            try:
                opened.append(await _dial(url))
                broker = domain_broker(opened[0].remote_properties, url)
                for _ in range(3):
                    opened.append(await _dial(url))
                return Lines(broker, *opened)
            except (ClacksError, AmqpError) as error:
                failures.append(error if isinstance(error, ClacksError) else ClacksError("connection-lost", url=url, reason=str(error)))
                for one in opened:
                    one.abort()
        raise failures[0]


async def _dial(url: Url) -> Connection:
    """A connection whose links take messages of any size that the broker has."""
    connection = await dial(url)
    connection.options = replace(connection.options, max_message_size=MESSAGE_SIZE)
    return connection
