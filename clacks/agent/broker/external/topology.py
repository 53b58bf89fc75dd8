"""What a domain has on its broker: queues, what leads into them, and the log. Each way of having it is one class of this shape.

The names are those of `names`, and all ways share them. Which way a broker wants, `ways` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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


@dataclass(frozen=True, slots=True)
class Place:
    """A queue of commands: the `shared` one of all agents, or one for this agent. Who sent a request the broker says; where only agents can
    send, they do (`behalf`). What does not match the selector is for the place that is not `verified`, and is refused."""

    queue: str
    shared: bool = False
    behalf: bool = False
    selector: str = ""
    verified: bool = True


class Topology(Protocol):
    """One agent's hands on it."""

    @property
    def ingress(self) -> Sequence[tuple[str, bool]]:
        """The queues of events, each with whether the broker has verified who sends what is in it."""

    @property
    def deletes(self) -> bool:
        """Whether what is deleted is not there any more; otherwise it is by being used."""

    @property
    def rejected_ttl(self) -> int | None:
        """How many milliseconds a refused event is kept, where the queue has no other limit."""

    async def attach(self, connection: Connection, broker: Broker) -> None:
        """The broker can be reached (again), and this connection is for what is asked here. Raises ClacksError, AmqpError."""

    async def declare(self, targets: Sequence[str]) -> None:
        """Everything that a domain has, whoever comes first; `targets` are those of commands. Raises ClacksError."""

    async def declare_rejected(self) -> None:
        """The queue of refused events. Raises ClacksError."""

    def check(self, max_bytes: int | None) -> None:
        """Raises ClacksError link-refused if the broker cannot limit a queue to so many bytes as somebody asks for."""

    def spelled(self, queue: str) -> str:
        """A queue's name as the broker has it."""

    def stay(self, max_age: float, lease: float) -> float | None:
        """How many seconds each message for a subscription may stay, where that has to stand in the message; None if it need not. 0 says
        that there is no greatest age, and no lease."""

    async def make(self, queue: str, terms: QueueTerms) -> None:
        """The queue of a subscription; nothing happens if there is one. Raises ClacksError."""

    async def delete(self, queue: str, *, tell: bool = False) -> None:
        """With what is in it; nothing is wrong if there is none. `tell` its consumers, if the broker does not. Raises ClacksError."""

    async def exists(self, queue: str) -> bool:
        """Raises ClacksError if that cannot be found out."""

    def log(self, reader: LogReader) -> Log:
        """The log of the domain, for one reader."""

    def reply_queue(self, user: str, given: str) -> str:
        """The queue for a user's answers, in the form that the user has named it in. Raises ClacksError address-unknown if the user may
        not have answers there."""

    def sender_of(self, message: Message) -> str:
        """Who sent a message, as the broker has checked it. Raises ClacksError user-id-missing, user-id-unverified, user-removed."""

    def asked_queue(self, target: str, node: str) -> str:
        """The queue where an agent asks another one for a user."""

    def places(self, target: str) -> Sequence[Place]:
        """Where this agent gets the commands of a target."""
