"""The way to a domain through the broker that it runs on: events and commands by its exchange, answers in a queue of one's own.

What is on the wire stands in docs/domain.md. Agents are not seen here: what one of them is asked, any of them answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import zlib
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, Final

from ...amqp import (
    ACCEPTED,
    RELEASED,
    Condition,
    Connection,
    Draft,
    Link,
    LinkHandler,
    Message,
    Properties,
    Receiver,
    Sender,
)  # fmt: skip
from ..brokers import ENDED, Broker, Feature, reply_queue
from ..errors import ClacksError
from .answers import Answers
from .command import CORE
from .dialling import Dial
from .leases import Lease, Leases
from .links import attached
from .publisher import Publishers
from .terms import Wanted
from .url import Url

ANSWER: Final = "x-opt-clacks-answer"
TOKEN: Final = "x-opt-clacks-token"

# How long to subscribe may take, in seconds: an agent that has died is waited for until its lease is over.
SUBSCRIBE_SECONDS: Final = 30.0
# How long it is asked why a subscription has ended, in seconds. Without an answer a live one is made again.
WHY_SECONDS: Final = 5.0
# How long a goodbye waits for an agent, in seconds: as long as a lease.
FAREWELL_SECONDS: Final = 60.0
# What saying goodbye may cost, in seconds: less than the whole of a program's end, so that the connection is closed in order too.
LEAVE_SECONDS: Final = 1.0
# Links that have a session of their own, because RabbitMQ 4.0 ends the session of one that it refuses. It has 64 a connection; further
# subscriptions share one, and are attached again if it ends.
SESSIONS: Final = 48

# The annotation that says that a subscription has ended, and where in a message it stands if it is there.
_ENDED: Final = ENDED.encode()
_FRONT: Final = 200

_NO_QUEUE: Final = frozenset({"amqp:not-found", "amqp:resource-deleted"})
_HINTS: Final = {
    "amqp:unauthorized-access": "Let the broker's administrator permit it.",
    "amqp:resource-locked": "Let the broker's administrator see who has it.",
    "amqp:not-allowed": "See the broker's log.",
}


class DomainRoute:
    """A `Route` through a broker."""

    def __init__(
        self, connection: Connection, broker: Broker, url: Url, domain: str, leases: Leases, dial: Dial, timeout: float
    ) -> None:  # fmt: skip
        """`dial` makes another connection where one is needed. `timeout`, in seconds, is how long an event's answer is waited for, which
        comes when every subscription's queue has the event. Raises ClacksError url-invalid without a user's name: every message has to say
        who sends it, and the broker checks."""
        if not url.user:
            raise ClacksError("url-invalid", url=str(url), reason="it names no user, which a broker wants to know of every message")
        self.connection = connection
        self._broker, self._url, self._domain, self._leases = broker, url, domain, leases
        self._user, self._timeout = url.user, timeout
        # One of the keys for events: who keeps to one keeps the order.
        self._key = f"events.{zlib.crc32(self._user.encode() + connection.options.container_id.encode()) % broker.dialect.slots}"
        self._publishers = Publishers(self._sender, url)
        self._answers = Answers(url)
        self._attaching = asyncio.Lock()
        self._dial, self._dialling = dial, asyncio.Lock()
        self._sending: Connection | None = None
        connection.lost.add_done_callback(self._lost)
        self._farewells: set[asyncio.Task[None]] = set()

    def _lost(self, lost: asyncio.Future[None]) -> None:
        if self._sending is not None:
            self._sending.abort()

    # --- publishing and asking ---

    async def send(self, draft: Draft) -> None:
        publisher = await self._publishers.to(self._key)
        answers = await self._replies()

        async def send(token: str) -> None:
            properties = self._broker.signed(draft.properties, self._user)
            annotations = {**draft.annotations, ANSWER: answers.address, TOKEN: token}
            outcome = await publisher.send(replace(draft, properties=properties, annotations=annotations, durable=True).encode())
            if outcome is RELEASED:
                raise self._nobody(self._key)
            if outcome is not ACCEPTED:  # a broker refuses nothing for what it says: a queue is full, or away
                raise ClacksError("bus-overloaded")

        await answers.ask(send, self._timeout, ClacksError("event-unanswered", seconds=self._timeout))

    async def request(self, method: str, params: list[Any] | dict[str, Any], target: str, timeout: float) -> Any:
        answers = await self._replies()

        async def send(token: str) -> None:
            await self._post(method, params, target, Properties(message_id=token, reply_to=answers.address), timeout)

        return await answers.ask(send, timeout, ClacksError("command-timeout", method=method, seconds=timeout))

    async def _post(self, method: str, params: list[Any] | dict[str, Any], target: str, properties: Properties, seconds: float) -> None:
        """It means nothing any more after so many seconds: nobody waits for its answer."""
        publisher = await self._publishers.to(f"command.{target}")
        question = json.dumps({"method": method, "params": params, "id": properties.message_id})
        properties = replace(self._broker.signed(properties, self._user), content_type="application/json")
        outcome = await publisher.send(Draft(question, properties, ttl=int(seconds * 1000)).encode())
        if outcome is RELEASED:
            raise ClacksError("command-unserved", method=f"{method} of {target}")
        if outcome is not ACCEPTED:
            raise ClacksError("bus-overloaded")

    async def _sender(self, key: str) -> Sender:
        def explain(condition: Condition) -> ClacksError:
            if condition.name in _NO_QUEUE or self._may_not_make(condition):
                return self._nobody(key)
            return self._explained(f"Sending to {target.address}", condition)

        target = self._broker.entry(self._domain, key)
        link: Sender = await attached((await self._outwards()).attach_sender(target, alone=self._alone), explain)
        return link

    async def _outwards(self) -> Connection:
        """The connection to send on: another one than to receive on, where a broker reads nothing while it writes. Raises ClacksError."""
        if self._broker.has(Feature.BOTH_WAYS):
            return self.connection
        async with self._dialling:
            if self._sending is None or not self._sending.alive:
                self._sending = await self._dial(self._url)
            return self._sending

    async def _replies(self) -> Answers:
        """The link to the reply queue, both made when they are first needed. The queue goes with the connection."""
        async with self._attaching:
            if not self._answers.alive:
                answers = Answers(self._url)
                name = await reply_queue(self.connection, self._broker, self._domain, self._url.user or "")
                answers.start(await self._receiver(name, answers, settled=True), name)
                self._answers = answers
            return self._answers

    # --- subscribing ---

    async def attach(self, wanted: Wanted, handler: LinkHandler) -> Receiver:
        """To the queue that the subscription has, if there is one: what came while nobody received is in it."""
        if not self._broker.declares:
            handler = _Ending(handler)
        if wanted.dead_letters:
            hint = "On a broker, dead letters are a matter of the broker's administrator."
            raise ClacksError("address-unknown", address=f"{self._domain}.dead-letters", hint=hint)
        lease = self._leases.get(wanted)
        if lease is not None:
            try:
                link = await self._receiver(lease.queue, handler, exclusive=lease.exclusive)
            except _QueueGone:
                self._leases.remove(wanted)
            else:
                self._bind(wanted, lease, link, handler)
                self._leases.soon()
                return link
        lease = await self._subscribe(wanted)
        try:
            link = await self._receiver(lease.queue, handler, exclusive=lease.exclusive)
        except _QueueGone:  # the broker has lost it, or somebody deleted it
            lease = await self._subscribe(wanted, restore=True)
            link = await self._receiver(lease.queue, handler, exclusive=lease.exclusive)
        except BaseException:
            self._end(lease, delete=False)
            raise
        self._bind(wanted, lease, link, handler)
        return link

    def _bind(self, wanted: Wanted, lease: Lease, link: Receiver, handler: LinkHandler) -> None:
        def lost() -> None:
            link.close()
            handler.detached(link, None, closed=False)

        lease.lost = lost
        self._leases.add(wanted, lease)

    async def _subscribe(self, wanted: Wanted, *, restore: bool = False) -> Lease:
        keep = wanted.keep
        # Whoever goes on replaces nothing: neither what others have made of it meanwhile, nor the reason why it was suspended.
        replace = keep.replace and not self._leases.over(wanted)
        asked = {
            "filters": [wanted.xquery] if wanted.xquery is not None else [], "event": wanted.event, "durable": keep.durable,
            "shared": keep.shared, "max_age": keep.max_age, "max_bytes": keep.max_bytes, "overflow": keep.overflow,
            "replace": replace, **({"restore": True} if restore else {}),
        }  # fmt: skip
        told = await self.request("subscribe", asked, CORE, SUBSCRIBE_SECONDS)
        try:
            return Lease(str(told["id"]), str(told["queue"]), float(told["lease"]), lambda: None, bool(told.get("exclusive")))
        except (TypeError, KeyError, ValueError) as error:
            raise ClacksError("remote", sentence=f"the agent's answer to subscribe cannot be read: {error!r}") from error

    async def _receiver(self, queue: str, handler: LinkHandler, *, settled: bool = False, exclusive: bool = False) -> Receiver:
        """Raises _QueueGone if there is no such queue."""

        def explain(condition: Condition) -> ClacksError:
            error = self._nobody("") if self._may_not_make(condition) else self._explained(f"Receiving from the queue {queue!r}", condition)
            return _QueueGone(error) if condition.name in _NO_QUEUE else error

        source = self._broker.queue(queue, exclusive=exclusive)
        attach = self.connection.attach_receiver(source, settled=settled, handler=handler, alone=self._alone)
        link: Receiver = await attached(attach, explain)
        return link

    def detach(self, wanted: Wanted, link: Receiver | None, *, delete: bool) -> None:
        if link is not None:
            link.close()
        lease = self._leases.remove(wanted)
        if lease is not None:
            self._end(lease, delete=delete)

    def _end(self, lease: Lease, *, delete: bool) -> None:
        """Nobody waits for an answer: if the request does not arrive, the lease runs out."""
        if (lease.seconds or delete) and self.connection.alive:
            farewell = self._post("unsubscribe", {"id": lease.id}, CORE, Properties(), FAREWELL_SECONDS)
            task = asyncio.get_running_loop().create_task(_quietly(farewell))
            self._farewells.add(task)
            task.add_done_callback(self._farewells.discard)

    async def verdict(self, wanted: Wanted, condition: Condition | None) -> ClacksError | None:
        """A queue is deleted when its subscription has ended, and agents know why that was."""
        if condition is None or condition.name != "amqp:resource-deleted":
            return None
        lease = self._leases.remove(wanted)
        if lease is not None:
            with contextlib.suppress(ClacksError):
                told = await self.request("whyEnded", {"id": lease.id}, CORE, WHY_SECONDS)
                if told is not None:
                    return ClacksError.from_json(told)
        return ClacksError("subscription-deleted", name=wanted.keep.durable, user="another client") if wanted.keep.durable else None

    def doubt(self) -> None:
        self._leases.soon()

    async def leave(self) -> None:
        """End what is live; wait until the broker has the requests."""
        for lease in self._leases.clear():
            self._end(lease, delete=False)
        if self._farewells:
            await asyncio.wait(self._farewells, timeout=LEAVE_SECONDS)
        if self._sending is not None:
            self._sending.close()

    # --- what a broker says ---

    @property
    def _alone(self) -> bool:
        return self.connection.links < SESSIONS

    def _may_not_make(self, condition: Condition) -> bool:
        """Whether a broker says that there is no such queue by not letting this user make it."""
        return not self._broker.declares and condition.name == "amqp:unauthorized-access" and "to create" in condition.description

    def _nobody(self, key: str) -> ClacksError:
        hint = f"Is the domain's name right? An agent of the domain {self._domain} has to have run on this broker once."
        return ClacksError("address-unknown", address=self._broker.entry(self._domain, key).address, hint=hint)

    def _explained(self, doing: str, condition: Condition) -> ClacksError:
        hint = _HINTS.get(condition.name)
        if hint is None:
            return ClacksError("connection-lost", url=self._url, reason=f"{doing}: {condition}")
        return ClacksError("broker-refused", doing=doing, reason=condition.description.partition("\n")[0], hint=hint)


class _Ending:
    """The handler of a link to a subscription's queue, where the broker does not delete it under its consumers: a message says so."""

    def __init__(self, handler: LinkHandler) -> None:
        self._handler = handler
        self.credit, self.outcome = handler.credit, handler.outcome

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        if _ENDED not in encoded[:_FRONT] or not Message(encoded).annotations.get(ENDED):
            self._handler.message(link, number, encoded, settled)
            return
        link.settle(number, ACCEPTED)
        link.close()
        self._handler.detached(link, Condition("amqp:resource-deleted", "the subscription has ended"), closed=True)

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        self._handler.detached(link, condition, closed=closed)


class _QueueGone(ClacksError):
    """A queue that is not there: to be made again, or told as what it is."""

    def __init__(self, error: ClacksError) -> None:
        super().__init__("connection-lost", **error.values)


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(ClacksError):
        await work
