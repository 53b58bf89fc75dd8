"""The log of a domain, as `control` needs it: one order of records that all agents read, whatever the broker keeps it in.

An implementation reads for one agent, and writes what that agent says. What the records mean it does not know.
"""

from __future__ import annotations

from typing import Final, Protocol

from ....amqp import Connection
from ....common.brokers import Broker

# Records of the log under way to this agent: some milliseconds of work.
WINDOW: Final = 500


class LogReader(Protocol):
    """Who reads and writes: the `Control` of this agent."""

    def record(self, offset: int, body: bytes | None, size: int) -> None:
        """The next record, or one that was there before; None for one that is no record. `size` is in bytes."""

    @property
    def ready(self) -> bool:
        """Whether it has the state that the log makes."""

    @property
    def stopped(self) -> bool:
        """Whether another process has its place."""

    def restart(self) -> None:
        """Forget what was read: the log is read from its beginning."""

    def stored(self, number: int) -> None:
        """What was written under this number is in the log, or will be whatever happens to this agent."""

    def cut_off(self, offset: int) -> None:
        """What comes at `offset` does not follow what was read: records are missing, or it is another log."""


class Log(Protocol):
    """A log on a broker."""

    name: str  # what an administrator finds on the broker

    async def attach(self, connection: Connection, broker: Broker) -> None:
        """Read on behind the last record that was read. Raises AmqpError. If a link is lost, so is the connection: all is made again."""

    def write(self, number: int, encoded: bytes) -> None:
        """Add a record, after all that was written before. Nothing is said of one that is lost with the connection."""

    def down(self) -> None:
        """The connection is gone."""

    def again(self) -> None:
        """Forget what was read: the next `attach` reads from the beginning."""

    @property
    def writable(self) -> bool:
        """Whether what is written now goes to the broker at once."""

    def deaf(self, seconds: float) -> bool:
        """Whether records have been stored for longer than that, and none was read."""

    def resign(self) -> None:
        """Its reader has stopped: others are not to depend on it."""

    def needless(self, base: int) -> None:
        """A snapshot of what the record at `base` and those before it have made is in the log."""
