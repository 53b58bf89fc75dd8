"""What the handlers of incoming links share: an account of what is being worked on, and a halt when it is too much.

A link that is paused leaves its deliveries in the engine, whose session window (AMQP 1.0 2.5.6) then closes: the publisher waits, and what
it can make the agent keep is bounded, whatever its messages' size.
"""

from __future__ import annotations

from typing import Final

from ...amqp import Condition, Connection, Link, Outcome, Receiver, Sender

# Bytes of one link's messages that may be under work before it is paused: four of the largest events, thousands of usual ones.
WORK_LIMIT: Final = 4 * 2**20


def peer_of(connection: Connection) -> str:
    """Where a connection comes from, for the log."""
    return f"{connection.peer[0]}:{connection.peer[1]}" if connection.peer else "in memory"


def origin_of(connection: Connection) -> str:
    """The door that a connection stands for, for the audit."""
    return f"amqp {peer_of(connection)}"


class Inlet:
    """The handler of a link that we receive on."""

    def __init__(self, link: Receiver) -> None:
        self.link = link
        self._work = 0

    def begin(self, size: int) -> None:
        """A message of `size` bytes is being worked on."""
        self._work += size
        if self._work > WORK_LIMIT:
            self.link.pause()

    def finish(self, size: int) -> None:
        """The work on it is done."""
        self._work -= size
        if self.link.paused and self._work <= WORK_LIMIT // 2:
            self.link.connection.loop.call_soon(self.link.resume)

    # --- amqp.LinkHandler; `message` is its own of each ---

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None: ...

    def credit(self, link: Sender) -> None:
        raise AssertionError("a receiver has no credit to spend")

    def outcome(self, link: Sender, token: object, outcome: Outcome) -> None:
        raise AssertionError("a receiver's deliveries have no outcome to wait for")
