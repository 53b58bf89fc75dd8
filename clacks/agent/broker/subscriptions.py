"""All subscriptions of the embedded broker: who may attach to which, which outlive their links, and what becomes of dead letters.

A live subscription is its link's. A shared one is its consumers', by its name. A durable one is on the disk, and a link finds it again by
user, container and name (AMQP 1.0 2.6.1: a second link of that name takes it over). Detaching leaves a durable one, closing removes it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from ...amqp import Described, Sender, Terminus
from ...common.errors import ClacksError
from ...xquery import Filter
from ..access import option, refusal
from ..bus import Bus
from ..config import Config
from ..sandbox import Budget, Sandbox
from .addresses import DEAD_LETTERS, event_address, parse_address, reply_address
from .compiler import Compiled, Compiler
from .conditions import as_condition, refuse
from .durable import DurableSubscription
from .envelope import DEAD_NAME, DEAD_REASON, marked
from .inlet import origin_of
from .journal import Journal
from .store import StoredEvent, StoredSubscription
from .subscription import Counts, Message, Subscription
from .terms import REPLACE, XQUERY_SYMBOL, Terms, compiled, filters_in, read_terms

log = logging.getLogger("clacks.broker")

# What is kept of what a user's subscriptions could not deliver: enough to see what is wrong, and no more than somebody can look through.
DEAD_AGE: Final = 7 * 86400.0
DEAD_BYTES: Final = 64 * 2**20
# How often what is too old is dropped, in seconds.
TRIM_SECONDS: Final = 1.0
# What a message that cannot be buried waits before it is tried again, in seconds: the disk is full, or broken.
BURY_SECONDS: Final = 1.0

Identity = tuple[str, str, str]  # user, container, name


class Subscriptions:
    """The host of every subscription."""

    def __init__(self, config: Config, bus: Bus) -> None:
        self.all: set[Subscription] = set()
        self.replies: dict[str, Subscription] = {}
        self.sandbox = Sandbox(config.sandbox_workers, Budget(config.sandbox_seconds, config.sandbox_memory))
        self.delivery_limit = config.queue_deliveries
        self.durable: dict[int, DurableSubscription] = {}
        self.blocking = 0  # those that may slow publishers down
        self._named: dict[Identity, Subscription] = {}
        self._dead: dict[str, DurableSubscription] = {}
        self._config = config
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._compiler = Compiler()
        self._journal: Journal | None = None
        self._number = 0
        self._last_id = 0
        self._gone = Counts()
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._trimmer: asyncio.TimerHandle | None = None
        self._path = config.state_dir / "events.db"
        if self._path.exists():
            self.journal()

    # --- subscription.Host ---

    def clock(self) -> float:
        return self._loop.time()

    def call_soon(self, function: Callable[[], None]) -> None:
        self._loop.call_soon(function)

    def abandoned(self, subscription: Subscription, *, closed: bool) -> None:
        if not isinstance(subscription, DurableSubscription):
            self._end(subscription)
        elif subscription.removed or subscription.terms.address == self._dead_address:
            return
        elif closed:
            self.remove(subscription)
        elif subscription.terms.timeout is not None:
            self._timers[subscription.id] = self._loop.call_later(subscription.terms.timeout, self.remove, subscription)

    def suspended(self, subscription: Subscription, error: ClacksError) -> None:
        _say_suspended(subscription, error)
        if isinstance(subscription, DurableSubscription):
            subscription.suspension = str(error)
            self._bus.unsubscribe(subscription)
            self.journal().changed(subscription.id, subscription.state)
        subscription.dismiss(as_condition(error))

    def bury(self, subscription: Subscription, message: Message, reason: str) -> None:
        _, encoded, _, _, name = message
        own = subscription.terms
        if not name or own.address == self._dead_address:
            subscription.laid_to_rest(message)
            return
        log.info("dead letter", extra={"user": subscription.user, "subscription": own.name, "event": name, "reason": reason})
        try:
            dead = self._dead_letters(subscription.user)
        except ClacksError as error:
            log.error("dead letters cannot be kept", extra={"reason": str(error)})
            subscription.laid_to_rest(message)
            return
        letter = marked(encoded, {DEAD_REASON: reason[:1024], DEAD_NAME: own.name})
        dead.reserve(len(letter))

        def kept(error: ClacksError | None) -> None:
            if error is None:
                dead.stored(event.number, undecided=False)
                subscription.laid_to_rest(message)
            else:
                dead.give_up(len(letter))
                self._loop.call_later(BURY_SECONDS, self.bury, subscription, message, reason)

        event = StoredEvent(self.next_number(), name, time.time(), 0.0, (dead.id,), (), letter)
        self.journal().keep(event, kept)

    # --- attaching ---

    def attach(self, link: Sender) -> None:
        """Answer a link that wants to receive. Raises ClacksError."""
        source = link.remote_source
        if source is None:
            self._resume(link)
            return
        if source.dynamic:
            self._attach_replies(link, source)
            return
        address = parse_address(source.address or "", self._config.domain)
        if address.what == "dead-letters":
            self._attach_dead_letters(link, source)
            return
        if address.what not in ("events", "event"):
            raise ClacksError(
                "address-unknown", address=source.address, hint="Receive from the domain's address, or from a dynamic source."
            )
        in_force = filters_in(source.filter)
        texts = tuple(value.value for value in in_force.values())
        place = event_address(self._config.domain, address.name) if address.name else self._config.domain
        container = link.connection.remote_container
        terms = read_terms(link.name, container, source, link.remote_properties, texts, address.name, place)
        self._permit(link, terms)
        answer = Terminus(
            source.address, durable=2 if terms.durable else 0, expiry=source.expiry, timeout=source.timeout if terms.durable else 0,
            filter=in_force, capabilities=source.capabilities,
        )  # fmt: skip
        self._compiler.compile(link.connection.user, texts, lambda filters: self._compiled(link, terms, answer, filters))

    def _compiled(self, link: Sender, terms: Terms, answer: Terminus, filters: Compiled) -> None:
        if not link.alive:
            return
        try:
            if isinstance(filters, ClacksError):
                raise filters
            if any(one.cost == "dear" for one in filters):
                self.sandbox.warm()
            if terms.durable or terms.shared:
                self._attach_named(link, terms, filters, answer)
            else:
                self._join(link, self._live(link, terms, filters), answer)
        except ClacksError as error:
            refuse(link, error)

    def _permit(self, link: Sender, terms: Terms) -> None:
        user, rights = link.connection.user, self._bus.access.rights(link.connection.user)
        if terms.durable and not rights.durable(terms.name):
            raise refusal(user, "keep a subscription called", terms.name, option("--durable", terms.name), origin_of(link.connection))
        if terms.overflow == "block-publisher" and not rights.block(terms.name):
            raise refusal(user, "slow publishers by", terms.name, option("--block", terms.name), origin_of(link.connection))

    def _live(self, link: Sender, terms: Terms, filters: Sequence[Filter]) -> Subscription:
        subscription = self._subscription(link.connection.user, terms)
        self._subscribe(subscription, filters, origin_of(link.connection))
        return subscription

    def _subscription(self, user: str, terms: Terms) -> Subscription:
        return Subscription(self, user, terms, events=self._config.queue_events, size=self._config.queue_bytes)

    def _subscribe(self, subscription: Subscription, filters: Sequence[Filter], origin: str) -> None:
        terms = subscription.terms
        subscription.sight = self._bus.subscribe(subscription, subscription.user, filters, terms.event, origin)
        if subscription not in self.all:
            self.all.add(subscription)
            self.blocking += terms.overflow == "block-publisher"

    def _join(self, link: Sender, subscription: Subscription, answer: Terminus) -> None:
        if not link.alive:  # it has gone while the disk was at work
            return
        if isinstance(subscription, DurableSubscription) and (timer := self._timers.pop(subscription.id, None)) is not None:
            timer.cancel()
        link.accept(answer, link.remote_target, properties=subscription.terms.properties)
        subscription.join(link)
        connection = link.connection
        log.info("subscribed", extra={"user": connection.user, "peer": origin_of(connection), "address": subscription.terms.address})

    def _attach_named(self, link: Sender, terms: Terms, filters: Sequence[Filter], answer: Terminus) -> None:
        identity = (link.connection.user, terms.container, terms.name)
        found = self._named.get(identity)
        replace = link.remote_properties.get(REPLACE) is True
        if found is not None:
            changed = _difference(found.terms, terms, link.remote_properties)
            if changed in ("durability", "sharing"):
                raise ClacksError("subscription-other", name=terms.name, what=changed)
            if changed and not replace:
                raise ClacksError("subscription-differs", name=terms.name, what=changed)
            if isinstance(found, DurableSubscription) and found.suspension and not replace:
                raise ClacksError("filter-suspended", reason=found.suspension)
            if not found.terms.shared:
                taken = ClacksError("subscription-taken", name=terms.name)
                found.dismiss(as_condition(taken), closed=False)
        if found is None:
            if terms.durable:
                self._make(link, terms, filters, answer)
                return
            found = self._named[identity] = self._live(link, terms, filters)
        elif replace and terms != found.terms:
            self._replace(link, found, terms, filters, answer)
            return
        self._join(link, found, answer)

    def _make(self, link: Sender, terms: Terms, filters: Sequence[Filter], answer: Terminus) -> None:
        user = link.connection.user
        limit = self._config.durable_per_user
        if sum(one.user == user for one in self.durable.values()) >= limit:
            raise ClacksError("subscriptions-full", user=user, limit=limit)
        subscription = self._durable(user, terms)
        try:
            self._subscribe(subscription, filters, origin_of(link.connection))
        except ClacksError:
            del self.durable[subscription.id]
            raise
        self._named[(user, terms.container, terms.name)] = subscription

        def defined(error: ClacksError | None) -> None:
            if error is None:
                self._join(link, subscription, answer)
            else:
                self.remove(subscription)
                refuse(link, error)

        self.journal().define(subscription.state(), defined)

    def _replace(self, link: Sender, subscription: Subscription, terms: Terms, filters: Sequence[Filter], answer: Terminus) -> None:
        before, subscription.terms = subscription.terms, terms
        in_force = not (isinstance(subscription, DurableSubscription) and subscription.suspension)
        if in_force:
            self._bus.unsubscribe(subscription)
        try:
            self._subscribe(subscription, filters, origin_of(link.connection))
        except ClacksError:
            subscription.terms = before
            if in_force:
                self._subscribe(subscription, [compiled(text) for text in before.filters], origin_of(link.connection))
            raise
        self.blocking += (terms.overflow == "block-publisher") - (before.overflow == "block-publisher")
        if not isinstance(subscription, DurableSubscription):
            self._join(link, subscription, answer)
            return
        subscription.reform()

        def defined(error: ClacksError | None) -> None:
            if error is None:
                self._join(link, subscription, answer)
            else:
                refuse(link, error)

        self.journal().define(subscription.state(), defined)

    def _resume(self, link: Sender) -> None:
        """A link without a source asks for the subscription of its name, as it is."""
        user, container, name = link.connection.user, link.connection.remote_container, link.name
        found = self._named.get((user, container, name)) or self._named.get((user, "", name.partition("|")[0]))
        if found is None or not found.terms.durable:
            raise ClacksError("subscription-unknown", name=name, hint=f"Events are at {self._config.domain}.")
        if isinstance(found, DurableSubscription) and found.suspension:
            raise ClacksError("filter-suspended", reason=found.suspension)
        terms = found.terms
        filters = {f"xquery-{place}": Described(XQUERY_SYMBOL, text) for place, text in enumerate(terms.filters, 1)}
        if not terms.shared:
            found.dismiss(as_condition(ClacksError("subscription-taken", name=name)), closed=False)
        capabilities = (*(["shared"] if terms.shared else []), *([] if terms.container else ["global"]))
        expiry = "never" if terms.timeout is None else "link-detach"
        answer = Terminus(terms.address, durable=2, expiry=expiry, timeout=terms.timeout or 0, filter=filters, capabilities=capabilities)
        self._join(link, found, answer)

    def _attach_replies(self, link: Sender, source: Terminus) -> None:
        address = reply_address(self._config.domain, os.urandom(16).hex())  # not to be guessed
        subscription = self._subscription(link.connection.user, Terms(address, link.name))
        self.replies[address] = subscription
        link.accept(Terminus(address, dynamic=True, expiry=source.expiry), link.remote_target)
        subscription.join(link)

    def _attach_dead_letters(self, link: Sender, source: Terminus) -> None:
        user = link.connection.user
        error = self._bus.forbidden(user, "", origin_of(link.connection))
        if error is not None:
            raise error
        dead = self._dead_letters(user)
        self._join(link, dead, Terminus(source.address, durable=2, expiry="never", capabilities=("shared",)))

    # --- the durable ones ---

    def journal(self) -> Journal:
        """The durable half, opened when it is first needed. Raises ClacksError store-failed."""
        if self._journal is None:
            self._journal = Journal(self._path)
            try:
                self._load(self._journal)
            except ClacksError:
                self._journal = None
                raise
        return self._journal

    def _load(self, journal: Journal) -> None:
        stored, self._last_id = journal.load()
        for one in stored:
            self._restore(one)

        def restore(number: int, event: StoredEvent, size: int) -> None:
            self._bus.learn(event.name)
            self.durable[number].restore(event, size)

        last = journal.replay(restore, stored)
        self._number = max(self._number, last)
        for subscription in self.durable.values():
            timeout = subscription.terms.timeout
            if timeout is not None:
                self._timers[subscription.id] = self._loop.call_later(timeout, self.remove, subscription)
        if stored:
            log.info("durable subscriptions", extra={"count": len(stored), "events": journal.events, "file": str(self._path)})
            self._trim()

    def _restore(self, one: StoredSubscription) -> None:
        terms = Terms.from_json(one.terms)
        subscription = self._durable(one.user, terms, one)
        if terms.address == self._dead_address:
            self._dead[one.user] = subscription
            subscription.sight = self._bus.sight(one.user)
            self.all.add(subscription)
            return
        self._named[(one.user, terms.container, terms.name)] = subscription
        self._reinstate(subscription)

    def _reinstate(self, subscription: DurableSubscription) -> None:
        """Give its filters to the bus again, if that is possible."""
        self.all.add(subscription)
        if subscription.suspension:
            return
        try:
            self._subscribe(subscription, [compiled(text) for text in subscription.terms.filters], "store")
        except ClacksError as error:
            subscription.sight = ()
            subscription.suspension = str(error)
            _say_suspended(subscription, error)

    def _durable(self, user: str, terms: Terms, stored: StoredSubscription | None = None) -> DurableSubscription:
        journal, config = self.journal(), self._config
        if stored is None:
            self._last_id += 1
        number = stored.id if stored is not None else self._last_id
        subscription = self.durable[number] = DurableSubscription(
            self, user, terms, journal, number,
            events=config.queue_events, size=config.queue_bytes, kept_events=config.durable_events, kept_bytes=config.durable_bytes,
            settled=stored.settled if stored is not None else self._number, suspension=stored.suspended if stored is not None else "",
        )  # fmt: skip
        if terms.max_age is not None and self._trimmer is None:
            self._trimmer = self._loop.call_later(TRIM_SECONDS, self._trim)
        return subscription

    def _dead_letters(self, user: str) -> DurableSubscription:
        dead = self._dead.get(user)
        if dead is None:
            terms = Terms(
                self._dead_address, DEAD_LETTERS, shared=True, durable=True, overflow="drop-oldest", max_age=DEAD_AGE, max_bytes=DEAD_BYTES
            )
            dead = self._dead[user] = self._durable(user, terms)
            dead.sight = self._bus.sight(user)
            self.all.add(dead)
            self.journal().define(dead.state(), lambda error: None)
        return dead

    def dead_letters(self, user: str) -> DurableSubscription | None:
        """Those of a user, if there have been any."""
        return self._dead.get(user)

    @property
    def _dead_address(self) -> str:
        return f"{self._config.domain}.{DEAD_LETTERS}"

    def _trim(self) -> None:
        for subscription in self.durable.values():
            subscription.trim()
        aging = any(one.terms.max_age is not None for one in self.durable.values())
        self._trimmer = self._loop.call_later(TRIM_SECONDS, self._trim) if aging else None

    def next_number(self) -> int:
        """By these events are in order."""
        self._number += 1
        return self._number

    def remove(self, subscription: DurableSubscription, error: ClacksError | None = None) -> None:
        """A durable subscription, and everything that waits for it, is no more. `error` is what its consumers are told."""
        if subscription.removed:
            return
        if (timer := self._timers.pop(subscription.id, None)) is not None:
            timer.cancel()
        subscription.removed = True
        if subscription.consumers:
            subscription.dismiss(as_condition(error or ClacksError("bus-stopping")))
        subscription.clear()
        del self.durable[subscription.id]
        if subscription.terms.address == self._dead_address:
            del self._dead[subscription.user]
        self._end(subscription)
        self.journal().remove(subscription.id)

    # --- the end of any of them ---

    def _end(self, subscription: Subscription) -> None:
        terms = subscription.terms
        subscription.clear()
        if self.replies.pop(terms.address, None) is not None:
            return
        if subscription not in self.all:
            return
        self.all.discard(subscription)
        self.blocking -= terms.overflow == "block-publisher"
        self._gone += subscription.counts
        identity = (subscription.user, terms.container, terms.name)
        if self._named.get(identity) is subscription:
            del self._named[identity]
        if not (isinstance(subscription, DurableSubscription) and subscription.suspension) and terms.address != self._dead_address:
            self._bus.unsubscribe(subscription)

    def permissions_changed(self, removed: dict[str, ClacksError]) -> None:
        """The bus has other rules, or other users (`removed` are those that are none any more): every subscription to what its user may
        not see ends; a durable one is suspended until they may again. The others go on; what they may not see any more stays in their
        queues unsent."""
        fine: set[tuple[str, str]] = set()
        for subscription in list(self.all):
            what = user, event = subscription.user, subscription.terms.event
            if what not in fine:
                error = removed.get(user) or self._bus.forbidden(user, event, "rules")
                if error is None:
                    fine.add(what)
            else:
                error = None
            if isinstance(subscription, DurableSubscription):
                self._permit_durable(subscription, error)
            elif error is not None:
                subscription.dismiss(as_condition(error))

    def _permit_durable(self, subscription: DurableSubscription, error: ClacksError | None) -> None:
        forbidden = subscription.sight == ()
        if error is not None and not forbidden:
            if subscription.terms.address != self._dead_address and not subscription.suspension:
                self._bus.unsubscribe(subscription)
                subscription.suspension = str(error)
            subscription.sight = ()
            subscription.dismiss(as_condition(error))
        elif error is None and forbidden:
            if subscription.terms.address == self._dead_address:
                subscription.sight = self._bus.sight(subscription.user)
            else:
                subscription.suspension = ""
                self._reinstate(subscription)

    # --- what there is ---

    def snapshot(self) -> list[Subscription]:
        """The subscriptions there are now; also for other threads."""
        return list(self.all)

    def totals(self) -> Counts:
        """What all subscriptions have counted, those that have gone among them."""
        return sum((one.counts for one in self.snapshot()), self._gone)

    async def close(self) -> None:
        for timer in (*self._timers.values(), self._trimmer):
            if timer is not None:
                timer.cancel()
        self._compiler.close()
        await self.sandbox.close()
        if self._journal is not None:
            await self._journal.close()


def _say_suspended(subscription: Subscription, error: ClacksError) -> None:
    what = {"user": subscription.user, "subscription": subscription.terms.name}
    log.warning("subscription suspended", extra={**what, "reason": str(error)})


def _difference(found: Terms, asked: Terms, properties: Any) -> str:
    """What an attach asks for that is not as it was."""
    if found.durable != asked.durable:
        return "durability"
    if found.shared != asked.shared:
        return "sharing"
    if found.filters != asked.filters:
        return "filter"
    if found.event != asked.event:
        return "event"
    stated = {"overflow", "max_age", "max_bytes"} if any(key in properties for key in asked.properties) else set()
    return "retention" if any(getattr(found, name) != getattr(asked, name) for name in stated) else ""
