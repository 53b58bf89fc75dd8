"""The embedded broker: what a link to an address of the domain means, and where an event goes that the bus has let through.

It answers attaches (`attach`) and carries verdicts out (`hand_over`). It decides nothing about events, and knows of AMQP only what
`clacks.amqp` offers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from typing import Any, Final

from ...amqp import (
    ACCEPTED,
    RELEASED,
    AmqpError,
    CodecError,
    Condition,
    Connection,
    Described,
    Outcome,
    Receiver,
    Rejected,
    Sender,
    Symbol,
    Terminus,
)  # fmt: skip
from ...amqp import Message as Encoded
from ...common.errors import ClacksError
from ...xquery import Filter, FilterError, compile_filter
from ..bus import Bus, Incoming, Routed
from ..command import CommandRegistry
from ..config import Config
from ..intake import Done, Intake, Lane
from ..sandbox import Budget, Sandbox
from .addresses import Address, event_address, parse_address, reply_address
from .commands import CommandLink
from .envelope import Stamp, bare_message, header, incoming_event
from .inlet import Inlet, peer_of
from .subscription import Counts, Subscription

log = logging.getLogger("clacks.broker")

# The descriptors of an XQuery filter on a link, as registered for Apache Qpid.
XQUERY_SYMBOL: Final = Symbol("apache.org:xquery-filter:string")
XQUERY_CODE: Final = 0x0000468C00000005

# Credit for a publisher: some hundred kilobytes of usual events under way, so that a fast one never waits for a round trip.
PUBLISHER_WINDOW: Final = 1000

# Refusals that a publisher should try again (AMQP `released`) instead of taking for final (`rejected`).
_TEMPORARY: Final = frozenset({"bus-overloaded", "bus-stopping"})


class EmbeddedBroker:
    """One agent's broker. It is the handler of every connection that comes in, and the driver of the bus."""

    def __init__(self, config: Config, bus: Bus, commands: CommandRegistry) -> None:
        self.config = config
        self.commands = commands
        self.intake = Intake(bus, self)
        self.sandbox = Sandbox(config.sandbox_workers, Budget(config.sandbox_seconds, config.sandbox_memory))
        self.connections: set[Connection] = set()
        self.subscriptions: set[Subscription] = set()
        self.replies: dict[str, Subscription] = {}
        self.accepting = True
        self._gone = Counts()
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._stamp = Stamp(f"{config.node_id}-{os.urandom(4).hex()}-")

    # --- amqp.ConnectionHandler ---

    def opened(self, connection: Connection) -> None:
        self.connections.add(connection)
        log.info("connected", extra=_who(connection))
        if not self._bus.access.has(connection.user):  # removed since it gave the password
            connection.close(as_condition(ClacksError("user-removed", user=connection.user)))

    def closed(self, connection: Connection, condition: Condition | None) -> None:
        self.connections.discard(connection)
        log.info("disconnected", extra={**_who(connection), "reason": str(condition or "closed")})

    def attach(self, link: Sender | Receiver) -> None:
        try:
            if isinstance(link, Receiver):
                self._attach_publisher(link)
            else:
                self._attach_subscriber(link)
        except ClacksError as error:
            log.info("link refused", extra={**_who(link.connection), "code": error.code, "reason": str(error)})
            raise AmqpError(as_condition(error)) from error

    def _attach_publisher(self, link: Receiver) -> None:
        target = link.remote_target or Terminus()
        if target.address is None and not target.dynamic:
            relay = Relay(self, link)  # the anonymous terminus: each message says where it goes
            link.handler = relay
        elif target.dynamic:
            raise ClacksError(
                "link-refused", reason="A dynamic target is not offered. Ask for a dynamic source to get an address for replies."
            )
        else:
            address = parse_address(target.address or "", self.config.domain)
            link.handler = self.entrance(address, target.address or "", link)
        link.accept(link.remote_source, target)
        link.window = PUBLISHER_WINDOW

    def entrance(self, address: Address, text: str, link: Receiver) -> Publisher | CommandLink:
        """Who takes the messages that come in on a link for an address. Raises ClacksError if nobody does."""
        if address.what == "events":
            return Publisher(self, link)
        if address.what == "command":
            return CommandLink(self.commands, self.replies, address, link)
        hint = "Publish events to the domain's own address." if address.what == "event" else "Replies are sent by the agent only."
        raise ClacksError("address-unknown", address=text, hint=hint)

    def _attach_subscriber(self, link: Sender) -> None:
        source = link.remote_source
        if source is None:
            raise ClacksError("address-unknown", address="", hint=f"Events are at {self.config.domain}.")
        if source.dynamic:
            self._attach_replies(link, source)
            return
        address = parse_address(source.address or "", self.config.domain)
        if address.what not in ("events", "event"):
            raise ClacksError(
                "address-unknown", address=source.address, hint="Receive from the domain's address, or from a dynamic source."
            )
        filters, in_force = read_filters(source.filter)
        subscription = self._subscription(link)
        subscription.address = event_address(self.config.domain, address.name) if address.name else self.config.domain
        subscription.event = address.name
        subscription.filters = tuple(one.text for one in filters)
        subscription.sight = self._bus.subscribe(subscription, link.connection.user, filters, address.name, _origin(link.connection))
        if any(one.cost == "dear" for one in filters):
            self.sandbox.warm()
        self.subscriptions.add(subscription)
        link.accept(Terminus(source.address, filter=in_force, capabilities=source.capabilities), link.remote_target)
        log.info("subscribed", extra={**_who(link.connection), "address": subscription.address})

    def _attach_replies(self, link: Sender, source: Terminus) -> None:
        address = reply_address(self.config.domain, os.urandom(16).hex())  # not to be guessed
        subscription = self._subscription(link)
        subscription.address = address
        self.replies[address] = subscription
        link.accept(Terminus(address, dynamic=True, expiry=source.expiry), link.remote_target)

    def _subscription(self, link: Sender) -> Subscription:
        config = self.config
        subscription = Subscription(
            link,
            events=config.queue_events,
            size=config.queue_bytes,
            clock=self._loop.time,
            on_detached=self._forget,
            sandbox=self.sandbox,
        )
        link.handler = subscription
        return subscription

    def _forget(self, subscription: Subscription) -> None:
        if subscription in self.subscriptions:
            self.subscriptions.discard(subscription)
            self._gone += subscription.counts
            self._bus.unsubscribe(subscription)
        else:
            self.replies.pop(subscription.address, None)

    def permissions_changed(self) -> None:
        """The bus has other rules, or other users: whoever is no user goes, and every subscription to what its user may not see. The
        others go on; what they may not see any more stays in their queues unsent."""
        access = self._bus.access
        removed = {user: ClacksError("user-removed", user=user) for user in {one.user for one in self.connections} if not access.has(user)}
        for connection in [one for one in self.connections if one.user in removed]:
            connection.close(as_condition(removed[connection.user]))
        fine: set[tuple[str, str]] = set()
        for subscription in list(self.subscriptions):
            what = user, event = subscription.user, subscription.event
            if what in fine:
                continue
            error = removed.get(user) or self._bus.forbidden(user, event, _origin(subscription.link.connection))
            if error is None:
                fine.add(what)
            else:
                subscription.end(error)

    def snapshot(self) -> list[Subscription]:
        """The subscriptions there are now; also for other threads."""
        return list(self.subscriptions)

    def totals(self) -> Counts:
        """What all subscriptions have counted, those that have gone among them."""
        return sum((one.counts for one in self.snapshot()), self._gone)

    # --- bus driver ---

    def hand_over(self, incoming: Incoming, routed: Routed, done: Done) -> None:
        ttl = incoming.ttl
        if (routed.matched or routed.undecided) and (ttl is None or ttl > 0):
            encoded = self._stamp.front(incoming.user, int(time.time() * 1000), incoming.annotations) + bare_message(incoming)
            expires = 0.0
            if ttl is not None:
                encoded = header(ttl) + encoded
                expires = self._loop.time() + ttl
            message = (encoded, expires, None, routed.event.name)
            for subscription in routed.matched:
                subscription.offer(message)
            if routed.undecided:
                question = (encoded, expires, incoming, routed.event.name)
                for subscription in routed.undecided:
                    subscription.offer(question)
        done(None)

    # --- stopping ---

    async def drain(self, timeout: float) -> None:
        """Take no more events; give the subscribers `timeout` seconds to take what waits for them."""
        self.accepting = False
        end = self._loop.time() + timeout
        while any(one.waiting for one in self.subscriptions) and self._loop.time() < end:
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        self.intake.close()
        await self.sandbox.close()


class Publisher(Inlet):
    """The handler of a link that events come in on."""

    def __init__(self, broker: EmbeddedBroker, link: Receiver) -> None:
        super().__init__(link)
        self._broker = broker
        self._intake = broker.intake
        self._lane = Lane()
        self._user = link.connection.user
        self._origin = _origin(link.connection)

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        size = len(encoded)

        def done(error: ClacksError | None) -> None:
            self.finish(size)
            if not settled:
                link.settle(number, ACCEPTED if error is None else as_outcome(error))

        self.begin(size)
        if not self._broker.accepting:
            done(ClacksError("bus-stopping"))
            return
        try:
            incoming = incoming_event(Encoded(encoded), self._user, self._origin, time.time())
        except ClacksError as error:
            self._intake.refuse(error, self._user, self._origin, done)
        except CodecError as error:
            self._intake.refuse(ClacksError("event-body-type", found=f"no message ({error})"), self._user, self._origin, done)
        else:
            self._intake.submit(incoming, self._lane, done)


class Relay(Publisher):
    """The handler of a link to the anonymous terminus: each message's `to` says where it goes."""

    def __init__(self, broker: EmbeddedBroker, link: Receiver) -> None:
        super().__init__(broker, link)
        self._entrances: dict[str, Publisher | CommandLink] = {}

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        try:
            text = str(Encoded(encoded).properties.to or "")
            entrance = self._entrances.get(text)
            if entrance is None:
                address = parse_address(text, self._broker.config.domain)
                entrance = self._entrances[text] = self._broker.entrance(address, text, link)
        except (ClacksError, CodecError) as error:
            refusal = error if isinstance(error, ClacksError) else ClacksError("event-body-type", found=f"no message ({error})")
            if not settled:
                link.settle(number, as_outcome(refusal))
            return
        entrance.message(link, number, encoded, settled)


def read_filters(given: Mapping[str, Any]) -> tuple[list[Filter], dict[str, Described]]:
    """The XQuery filters in a source's filter map, compiled, and the part of the map that is in force (3.5.3: the answer tells).

    Other filters are not in force and not in the answer. Raises ClacksError filter-invalid.
    """
    filters, in_force = [], {}
    for key, value in given.items():
        if not isinstance(value, Described) or value.descriptor not in (XQUERY_SYMBOL, XQUERY_CODE):
            continue
        if not isinstance(value.value, str):
            raise ClacksError("filter-invalid", line=1, column=1, w3c="XPST0003", reason="An XQuery filter is a string.")
        try:
            filters.append(compile_filter(value.value))
        except FilterError as error:
            raise ClacksError("filter-invalid", line=error.line, column=error.column, w3c=error.code, reason=error.sentence) from error
        in_force[key] = value
    return filters, in_force


def as_condition(error: ClacksError) -> Condition:
    """The AMQP form of an error: its condition, its sentence, and for machines its code and problems."""
    return Condition(error.condition, str(error), error.to_json())


def as_outcome(error: ClacksError) -> Outcome:
    return RELEASED if error.code in _TEMPORARY else Rejected(as_condition(error))


def _origin(connection: Connection) -> str:
    return f"amqp {peer_of(connection)}"


def _who(connection: Connection) -> dict[str, Any]:
    return {"user": connection.user, "peer": peer_of(connection)}
