"""A domain's topology on ActiveMQ: queues and topics are there by being used, and what is special of them stands in the broker's
configuration (docs/domain.md, docker/activemq.xml), which is tried out before anything else.

What the broker has no limits for is limited in time: each message for a live subscription, an answer or a refused event says how long it
may stay. Who sent a message the broker tells only selectors, which compare it with what the message says; what does not match has
queues of its own, or other selectors, and is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Sequence
from typing import Final

from ....amqp import ACCEPTED, AmqpError, Condition, Connection, Draft, Link, Message, Outcome, Properties, Receiver, Sender
from ....common.brokers import ENDED, Broker
from ....common.errors import ClacksError
from .log import LogReader
from .names import (
    EVENTS,
    asked_queue,
    command_key,
    command_queue,
    control_log,
    ingress_queue,
    own_reply_queue,
    sender_of,
    slot_key,
    unverified_queue,
    verified_queue,
)
from .sequence import SequencedLog
from .topology import Place, QueueTerms

# The key, and what the queues that it leads to end with, by which the configuration is tried out.
TRIAL: Final = "trial"
TRIAL_SECONDS: Final = 5.0
TRIAL_TTL: Final = 60_000  # milliseconds; what another agent's trial leaves goes by itself
# How long a refused event stays, in milliseconds: a day.
REJECTED_TTL: Final = 86_400_000
# How long the word that a subscription has ended waits for its consumers, in milliseconds: for one that has lost its connection.
ENDED_TTL: Final = 60_000
# How much longer than its lease a live subscription's events stay, in seconds: it may be renewed late.
GRACE: Final = 60.0
# How many messages are taken out of a queue at a time that is to be deleted.
EMPTIED: Final = 500

_QUEUE: Final = "queue://"
_HINT: Final = "Let agents read it, as docker/activemq.xml does."


class ActiveTopology:
    """A `Topology`. `account` is the user that all agents of the domain are at the broker. There is an ingress queue for each slot: how
    many of them get events, the broker's configuration says."""

    def __init__(self, domain: str, node: str, slots: int, account: str) -> None:
        self._domain, self._node, self._account = domain, node, account
        self._numbers = range(slots)
        self._connection: Connection | None = None
        self._broker: Broker | None = None
        self._tried = False

    @property
    def ingress(self) -> Sequence[tuple[str, bool]]:
        verified = [(ingress_queue(self._domain, number), True) for number in self._numbers]
        return [*verified, (unverified_queue(self._domain), False)]

    deletes = False
    rejected_ttl = REJECTED_TTL

    async def attach(self, connection: Connection, broker: Broker) -> None:
        self._connection, self._broker = connection, broker

    def _there(self) -> tuple[Connection, Broker]:
        if self._connection is None or self._broker is None or not self._connection.alive:
            raise ClacksError("domain-unsettled", reason="the broker cannot be reached")
        return self._connection, self._broker

    # --- what is declared elsewhere ---

    async def declare(self, targets: Sequence[str]) -> None:
        """Try the broker's configuration, and make what others send to: they may not make it themselves. Raises ClacksError config-invalid
        with what is missing."""
        connection, broker = self._there()
        try:
            if not self._tried:
                await self._try(connection, broker)
                self._tried = True
            for key in (EVENTS, *map(slot_key, range(broker.dialect.slots)), *map(command_key, targets)):
                (await connection.attach_sender(broker.entry(self._domain, key))).close()
        except AmqpError as error:
            raise self._wanting(f"the user {self._account!r} may not do what an agent has to ({error.condition})") from error

    async def declare_rejected(self) -> None:
        """It is there by being used."""

    async def _try(self, connection: Connection, broker: Broker) -> None:
        """What says its sender's name must come where events come, and what says another one where such are put aside. Other agents may be
        at it too: each takes what is its own."""
        own, false = _Trial(2), _Trial(1)
        queues = {ingress_queue(self._domain, TRIAL): own, unverified_queue(self._domain, TRIAL): false}
        selector = f"JMSCorrelationID IN ('{own.token}', '{false.token}')"
        links: list[Link] = []
        try:
            for queue, end in queues.items():
                links.append(link := await connection.attach_receiver(broker.queue(queue, selector=selector), handler=end))
                link.window = 10
            links.append(sender := await connection.attach_sender(broker.entry(self._domain, slot_key(TRIAL)), handler=own))
            await own.wait(own.credited)
            # A false one that is not put aside comes before the second true one.
            for user, end in ((self._account, own), ("nobody", false), (self._account, own)):
                sender.send(Draft(b"trial", broker.signed(Properties(correlation_id=end.token), user), ttl=TRIAL_TTL).encode())
            arrived = await own.wait(own.came) and await false.wait(false.came)
            where = f"its composite queue {self._domain}.{slot_key(TRIAL)}"
            if {own.token, false.token} & {*own.others, *false.others}:
                raise self._wanting(f"it does not tell senders apart: see its populateJMSXUserID, and the selectors of {where}")
            if not arrived:
                raise self._wanting(f"what is sent to {where} arrives nowhere: is it there, and is the connector's transformer native?")
        finally:
            for one in links:
                one.close()

    def _wanting(self, reason: str) -> ClacksError:
        return ClacksError(
            "config-invalid", source="the broker's configuration", reason=reason,
            hint=f"See docs/domain.md, \"On ActiveMQ\", and use docker/activemq.xml with the name {self._domain}.",
        )  # fmt: skip

    # --- queues of subscriptions ---

    def check(self, max_bytes: int | None) -> None:
        if max_bytes is not None:
            raise ClacksError("link-refused", reason="ActiveMQ has no limit of a queue's bytes. Leave max_bytes out, or use max_age.")

    def spelled(self, queue: str) -> str:
        _, broker = self._there()
        return broker.spelled(queue)

    def stay(self, max_age: float, lease: float) -> float | None:
        return max_age or (lease + GRACE if lease else None)

    async def make(self, queue: str, terms: QueueTerms) -> None:
        """It is there by being used; whoever may only receive has to find it."""
        connection, broker = self._there()
        with contextlib.suppress(AmqpError):
            (await connection.attach_sender(broker.queue(queue))).close()

    async def delete(self, queue: str, *, tell: bool = False) -> None:
        """Nobody can delete a queue over AMQP: it is emptied, and the broker deletes it when it has been empty and unused for a while. Its
        consumers find a message that says so."""
        connection, broker = self._there()
        taking = _Emptying()
        try:
            link = await connection.attach_receiver(broker.queue(queue, exclusive=True), handler=taking)
            taken = -1
            while taking.taken > taken:  # it gives no more at a time than it has read from its disk
                taken = taking.taken
                await link.drain(EMPTIED)
            link.close()
            if tell:
                sender = await connection.attach_sender(broker.queue(queue))
                sender.send(Draft(b"", annotations={ENDED: True}, ttl=ENDED_TTL).encode(), settled=True)
                sender.close()
        except AmqpError as error:
            raise ClacksError("broker-refused", doing=f"Emptying the queue {queue!r}", reason=str(error.condition), hint=_HINT) from error

    async def exists(self, queue: str) -> bool:
        """It does when it is used."""
        return True

    # --- the rest ---

    def log(self, reader: LogReader) -> SequencedLog:
        return SequencedLog(control_log(self._domain), reader)

    def reply_queue(self, user: str, given: str) -> str:
        """In the form of an address, which the broker makes of a bare name."""
        _, broker = self._there()
        return own_reply_queue(self._domain, user, given.removeprefix(_QUEUE), broker.spelled)

    def sender_of(self, message: Message) -> str:
        said = message.properties.reply_to_group_id
        if said is None:  # the sentence on a missing user-id would lead astray
            raise ClacksError("user-id-unverified")
        return sender_of(said)

    def asked_queue(self, target: str, node: str) -> str:
        """One where only agents may send: what comes from any of them the broker takes for one sender's."""
        return asked_queue(self._domain, target, node)

    def places(self, target: str) -> Sequence[Place]:
        _, broker = self._there()
        verified, unverified = broker.dialect.verified, broker.dialect.unverified
        shared, own = command_queue(self._domain, target), command_queue(self._domain, target, self._node)
        return [
            # What is sent to `shared`, sorted by the broker; where it does not for a target, this agent does, less safely.
            Place(verified_queue(self._domain, command_key(target)), shared=True),
            Place(unverified_queue(self._domain, command_key(target)), verified=False),
            Place(shared, shared=True, selector=verified),
            Place(shared, selector=unverified, verified=False),
            Place(own, selector=verified),
            Place(own, selector=unverified, verified=False),
            Place(asked_queue(self._domain, target), shared=True, behalf=True),
            Place(asked_queue(self._domain, target, self._node), behalf=True),
        ]


class _Trial:
    """One message of the trial, and the handler of the links where it is expected."""

    def __init__(self, times: int) -> None:
        """It is sent so many times."""
        self.token = uuid.uuid4().hex
        self._times, self.count = times, 0
        self.others: list[str] = []  # what came here and should not
        self.credited, self.came = asyncio.Event(), asyncio.Event()

    async def wait(self, event: asyncio.Event) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TRIAL_SECONDS):
                await event.wait()
        return event.is_set()

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        link.settle(number, ACCEPTED)
        token = str(Message(encoded).properties.correlation_id)
        if token == self.token:
            self.count += 1
            if self.count == self._times:
                self.came.set()
        else:
            self.others.append(token)

    def credit(self, link: Sender) -> None:
        self.credited.set()

    def outcome(self, link: Sender, token: object, outcome: Outcome) -> None: ...

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None: ...


class _Emptying:
    """Takes everything, and nobody wants it."""

    def __init__(self) -> None:
        self.taken = 0

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        self.taken += 1
        link.settle(number, ACCEPTED)

    def credit(self, link: Sender) -> None: ...

    def outcome(self, link: Sender, token: object, outcome: Outcome) -> None: ...

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None: ...
