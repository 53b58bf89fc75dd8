"""What a domain has on its broker: queues, what leads into them, and the log. Each way of having it is one class of this shape.

The names are those of `names`, and all ways share them. Which way a broker wants, `ways` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ....amqp import Connection, Message
from ....common.brokers import Broker
from .log import Log, LogReader


@dataclass(frozen=True, slots=True)
class QueueTerms:
    """What a subscription's queue is to be like. `expires` is for how many seconds the broker keeps one that nobody uses (None: always);
    a message stays for `max_age` seconds at most (None: any time), and no more than `max_events` and `max_bytes` of them; beyond that the
    oldest go if it `loses` them, and otherwise no more are taken. `deliveries` is how often a message is given out in vain."""

    durable: bool
    shared: bool
    loses: bool
    max_bytes: int
    max_events: int | None = None
    max_age: float | None = None
    expires: float | None = None
    deliveries: int | None = None


class Topology(Protocol):
    """One agent's hands on it."""

    @property
    def ingress(self) -> Sequence[str]:
        """The queues of events."""

    async def attach(self, connection: Connection, broker: Broker) -> None:
        """The broker can be reached (again), and this connection is for what is asked here. Raises ClacksError, AmqpError."""

    async def declare(self, targets: Sequence[str]) -> None:
        """Everything that a domain has, whoever comes first; `targets` are those of commands. Raises ClacksError."""

    async def declare_rejected(self) -> None:
        """The queue of refused events. Raises ClacksError."""

    def check(self, terms: QueueTerms) -> None:
        """Raises ClacksError link-refused if the broker has no such queues."""

    async def make(self, queue: str, terms: QueueTerms) -> None:
        """The queue of a subscription; nothing happens if there is one. Raises ClacksError."""

    async def delete(self, queue: str) -> None:
        """With what is in it; nothing is wrong if there is none. Raises ClacksError."""

    async def exists(self, queue: str) -> bool:
        """Raises ClacksError if that cannot be found out."""

    def log(self, reader: LogReader) -> Log:
        """The log of the domain, for one reader."""

    def reply_queue(self, user: str, given: str) -> str:
        """The queue for a user's answers, in the form that the user has named it in. Raises ClacksError address-unknown if the user may
        not have answers there."""

    def sender_of(self, message: Message) -> str:
        """Who sent a message, as the broker has checked it. Raises ClacksError user-id-missing, user-removed."""

    def on_behalf(self, user: str) -> Mapping[str, Any]:
        """The annotations with which an agent asks another one for a user."""
