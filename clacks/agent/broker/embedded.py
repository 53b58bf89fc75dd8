"""The embedded broker: what a link to an address of the domain means, and where an event goes that the bus has let through.

It answers attaches (`attach`) and carries verdicts out (`hand_over`). It decides nothing about events, and knows of AMQP only what
`clacks.amqp` offers. Who subscribes, and on what terms, is `subscriptions`' matter.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any, Final, NamedTuple

from ...amqp import ACCEPTED, TOO_LARGE, CodecError, Condition, Connection, Link, Receiver, Sender, Terminus
from ...amqp import Message as Encoded
from ...common.errors import ClacksError
from ..bus import Bus, Incoming, Routed
from ..command import CommandRegistry
from ..config import Config
from ..intake import Done, Intake, Lane
from .addresses import Address, parse_address
from .attaching import Attaching
from .commands import CommandLink
from .conditions import as_condition, as_outcome, refuse
from .durable import DurableSubscription
from .envelope import Stamp, bare_message, header, incoming_event
from .inlet import Inlet, origin_of, peer_of
from .store import StoredEvent
from .subscription import Message, Subscription
from .subscriptions import Subscriptions

log = logging.getLogger("clacks.broker")

# Credit for a publisher: some hundred kilobytes of usual events under way, so that a fast one never waits for a round trip.
PUBLISHER_WINDOW: Final = 1000


class Delivery(NamedTuple):
    """An event on its way to its subscribers: as it is for those who matched, and for those who have yet to be asked."""

    message: Message
    question: Message
    matched: list[Subscription]
    undecided: list[Subscription]


class Held:
    """A delivery that waits: for the disk, if it has durable subscribers (with whether their filters matched), and for those before it."""

    __slots__ = ("delivery", "done", "durable", "error", "ready", "size")

    def __init__(self, delivery: Delivery, durable: list[tuple[DurableSubscription, bool]], done: Done) -> None:
        self.delivery, self.durable, self.done = delivery, durable, done
        self.size = len(delivery.message[1])
        self.ready = not durable
        self.error: ClacksError | None = None


class EmbeddedBroker:
    """One agent's broker. It is the handler of every connection that comes in, and the driver of the bus."""

    def __init__(self, config: Config, bus: Bus, commands: CommandRegistry) -> None:
        """Raises ClacksError store-failed if there is a file of durable subscriptions which cannot be used."""
        self.config = config
        self.commands = commands
        self.intake = Intake(bus, self)
        self.connections: set[Connection] = set()
        self.subscriptions = Subscriptions(config, bus)
        self.attaching = Attaching(self.subscriptions, config, bus)
        self.accepting = True
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
                self.attaching.attach(link)
        except ClacksError as error:
            refuse(link, error)

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
            return CommandLink(self.commands, self.subscriptions.replies, address, link)
        hint = "Publish events to the domain's own address." if address.what == "event" else "Only the agent sends there."
        raise ClacksError("address-unknown", address=text, hint=hint)

    def permissions_changed(self) -> None:
        """The bus has other rules, or other users: whoever is no user goes, and then `Subscriptions` looks."""
        access = self._bus.access
        users = {one.user for one in self.connections} | {one.user for one in self.subscriptions.all}
        removed = {user: ClacksError("user-removed", user=user) for user in users if not access.has(user)}
        for connection in [one for one in self.connections if one.user in removed]:
            connection.close(as_condition(removed[connection.user]))
        self.subscriptions.permissions_changed(removed)

    # --- bus driver ---

    def hand_over(self, incoming: Incoming, routed: Routed, lane: Lane, done: Done) -> None:
        ttl, matched, undecided = incoming.ttl, routed.matched, routed.undecided
        if not (matched or undecided) or (ttl is not None and ttl <= 0):
            done(None)
            return
        encoded = self._stamp.front(incoming.user, int(time.time() * 1000), incoming.annotations) + bare_message(incoming)
        expires = 0.0
        if ttl is not None:
            encoded = header(ttl) + encoded
            expires = self._loop.time() + ttl
        subscriptions, kept = self.subscriptions, self.subscriptions.kept
        number, name = kept.next_number(), routed.event.name
        message = (number, encoded, expires, None, name)
        if not kept.all and not subscriptions.blocking and not lane.held:
            for subscription in matched:
                subscription.offer(message)
            if undecided:
                question = (number, encoded, expires, incoming, name)
                for subscription in undecided:
                    subscription.offer(question)
            done(None)
            return
        self._hold(Delivery(message, (number, encoded, expires, incoming, name), list(matched), list(undecided)), incoming, lane, done)

    def _hold(self, delivery: Delivery, incoming: Incoming, lane: Lane, done: Done) -> None:
        """The way of an event that a durable subscription may want: nobody has it before it is on the disk, and what its publisher has
        sent after it waits with it."""
        matched, undecided = _durable_of(delivery.matched), _durable_of(delivery.undecided)
        durable = [*((one, False) for one in matched), *((one, True) for one in undecided)]
        if not durable and not lane.held:
            self._deliver(delivery, done)
            return
        if durable:
            delivery = delivery._replace(matched=_live_of(delivery.matched), undecided=_live_of(delivery.undecided))
        held = Held(delivery, durable, done)
        if not self._reserve(held):
            self.intake.take_back(ClacksError("subscription-full"), incoming, done)
            return
        lane.held.append(held)
        if durable:
            number, encoded, _, _, name = delivery.message
            now = time.time()
            expires = 0.0 if incoming.ttl is None else now + incoming.ttl
            members, unsure = tuple(one.id for one, _ in durable), tuple(one.id for one in undecided)
            event = StoredEvent(number, name, now, expires, members, unsure, encoded)
            self.subscriptions.kept.journal().keep(event, lambda error: self._kept(held, error, incoming, lane))

    def _reserve(self, held: Held) -> bool:
        """Room in every durable subscription, or in none."""
        for place, (subscription, _) in enumerate(held.durable):
            if not subscription.reserve(held.size):
                log.warning("subscription full", extra={"user": subscription.user, "subscription": subscription.terms.name})
                for earlier, _ in held.durable[:place]:
                    earlier.give_up(held.size)
                return False
        return True

    def _kept(self, held: Held, error: ClacksError | None, incoming: Incoming, lane: Lane) -> None:
        held.ready, held.error = True, error
        while lane.held and lane.held[0].ready:
            first: Held = lane.held.popleft()
            if first.error is not None:
                for subscription, _ in first.durable:
                    subscription.give_up(first.size)
                self.intake.take_back(first.error, incoming, first.done)
                continue
            number = first.delivery.message[0]
            for subscription, undecided in first.durable:
                subscription.stored(number, undecided=undecided)
            self._deliver(first.delivery, first.done)

    def _deliver(self, delivery: Delivery, done: Done) -> None:
        for subscription in delivery.matched:
            subscription.offer(delivery.message)
        for subscription in delivery.undecided:
            subscription.offer(delivery.question)
        slow = [one for one in (*delivery.matched, *delivery.undecided) if one.terms.overflow == "block-publisher" and one.over]
        self._when_room(slow, done)

    def _when_room(self, slow: list[Subscription], done: Done) -> None:
        """Settle when every subscriber that may slow publishers down has room again."""
        while slow and not slow[-1].over:
            slow.pop()
        if slow:
            slow[-1].when_room(lambda: self._when_room(slow, done))
        else:
            done(None)

    # --- stopping ---

    async def drain(self, timeout: float) -> None:
        """Take no more events; give the subscribers `timeout` seconds to take what waits for them. What is on the disk stays there."""
        self.accepting = False
        end = self._loop.time() + timeout
        while any(one.waiting and not one.terms.durable for one in self.subscriptions.all) and self._loop.time() < end:
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        self.intake.close()
        self.attaching.close()
        await self.subscriptions.close()


class Publisher(Inlet):
    """The handler of a link that events come in on."""

    def __init__(self, broker: EmbeddedBroker, link: Receiver) -> None:
        super().__init__(link)
        self._broker = broker
        self._intake = broker.intake
        self._lane = Lane()
        self._user = link.connection.user
        self._origin = origin_of(link.connection)

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        done = self._begun(link, number, len(encoded), settled=settled)
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

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        if condition is not None and condition.name == TOO_LARGE:  # of the message itself nobody hears: it was thrown away unread
            limit = link.connection.options.max_message_size
            error = ClacksError("event-too-large", found=f"more than {limit}", limit=limit)
            self._intake.refuse(error, self._user, self._origin, lambda error: None)

    def _begun(self, link: Receiver, number: int, size: int, *, settled: bool) -> Done:
        """A message is being worked on, until the answer is called."""

        def done(error: ClacksError | None) -> None:
            self.finish(size)
            if not settled:
                link.settle(number, ACCEPTED if error is None else as_outcome(error))

        self.begin(size)
        return done


class Relay(Publisher):
    """The handler of a link to the anonymous terminus: each message's `to` says where it goes."""

    def __init__(self, broker: EmbeddedBroker, link: Receiver) -> None:
        super().__init__(broker, link)
        self._entrances: dict[Address, Publisher | CommandLink] = {}

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        try:
            text = str(Encoded(encoded).properties.to or "")
            address = parse_address(text, self._broker.config.domain)
            entrance = self._entrances.get(address)
            if entrance is None:
                entrance = self._entrances[address] = self._broker.entrance(address, text, link)
        except (ClacksError, CodecError) as error:
            refusal = error if isinstance(error, ClacksError) else ClacksError("event-body-type", found=f"no message ({error})")
            self._intake.refuse(refusal, self._user, self._origin, self._begun(link, number, len(encoded), settled=settled))
            return
        entrance.message(link, number, encoded, settled)


def _durable_of(subscriptions: list[Subscription]) -> list[DurableSubscription]:
    return [one for one in subscriptions if isinstance(one, DurableSubscription)]


def _live_of(subscriptions: list[Subscription]) -> list[Subscription]:
    return [one for one in subscriptions if not one.terms.durable]


def _who(connection: Connection) -> dict[str, Any]:
    return {"user": connection.user, "peer": peer_of(connection)}
