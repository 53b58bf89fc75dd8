"""How a link that wants to receive comes to its subscription: what it asks for, whether its user may, and which one it is.

A second link of a durable subscription's name takes it over (AMQP 1.0 2.6.1). Filters are compiled beside the loop where they are long, and
definitions are written to the disk: when such an answer is here, the link may be gone, or its user may not any more, or the subscription
may have been deleted. Whoever asks for a name whose definition is being written waits for that.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ...amqp import Described, Sender, Terminus
from ...common.errors import ClacksError
from ...xquery import Filter
from ..bus import Bus
from ..config import Config
from .addresses import event_address, parse_address, reply_address
from .compiler import Compiled, Compiler
from .conditions import as_condition, refuse
from .durable import DurableSubscription
from .inlet import origin_of
from .subscription import Identity, Subscription
from .subscriptions import Subscriptions
from .terms import REPLACE, XQUERY_SYMBOL, Terms, filters_in, read_terms

log = logging.getLogger("clacks.broker")


class Attaching:
    """Answers the attaches of links that want to receive."""

    def __init__(self, subscriptions: Subscriptions, config: Config, bus: Bus) -> None:
        self._subscriptions, self._kept, self._config, self._bus = subscriptions, subscriptions.kept, config, bus
        self._compiler = Compiler()
        self._defining: dict[Identity, list[Callable[[], None]]] = {}  # with those who wait for it

    def close(self) -> None:
        self._compiler.close()

    def attach(self, link: Sender) -> None:
        """Answer a link, now or later. Raises ClacksError."""
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
        answer = Terminus(source.address, expiry=source.expiry, filter=in_force, capabilities=source.capabilities)
        self._compiler.compile(link.connection.user, link, texts, lambda filters: self._compiled(link, terms, answer, filters))

    def _permit(self, link: Sender, terms: Terms) -> None:
        if (error := self._subscriptions.unpermitted(link.connection.user, terms, origin_of(link.connection))) is not None:
            raise error

    def _compiled(self, link: Sender, terms: Terms, answer: Terminus, filters: Compiled) -> None:
        def attach() -> None:
            if isinstance(filters, ClacksError):
                raise filters
            self._permit(link, terms)  # the rules may have changed meanwhile
            if any(one.cost == "dear" for one in filters):
                self._subscriptions.sandbox.warm()
            if terms.durable or terms.shared:
                self._attach_named(link, terms, filters, answer)
            else:
                self._join(link, self._live(link, terms, filters), answer)

        self._go_on(link, attach)

    def _go_on(self, link: Sender, attach: Callable[[], None]) -> None:
        """What is left of an attach after it had to wait."""
        if not link.alive:
            return
        try:
            attach()
        except ClacksError as error:
            refuse(link, error)

    def _live(self, link: Sender, terms: Terms, filters: Sequence[Filter]) -> Subscription:
        subscription = self._subscriptions.live(link.connection.user, terms)
        self._subscriptions.subscribe(subscription, filters, origin_of(link.connection))
        return subscription

    def _join(self, link: Sender, subscription: Subscription, answer: Terminus) -> None:
        if isinstance(subscription, DurableSubscription):
            self._kept.taken_up(subscription)
        link.accept(_in_force(answer, subscription.terms), link.remote_target, properties=subscription.terms.properties)
        subscription.join(link)
        connection = link.connection
        log.info("subscribed", extra={"user": connection.user, "peer": origin_of(connection), "address": subscription.terms.address})

    # --- by name ---

    def _attach_named(self, link: Sender, terms: Terms, filters: Sequence[Filter], answer: Terminus) -> None:
        identity = (link.connection.user, terms.container, terms.name)
        if identity in self._defining:
            self._defining[identity].append(lambda: self._compiled(link, terms, answer, list(filters)))
            return
        found = self._subscriptions.named.get(identity)
        replacing = link.remote_properties.get(REPLACE) is True
        if found is not None:
            changed = _difference(found.terms, terms, link.remote_properties)
            if changed in ("durability", "sharing"):
                raise ClacksError("subscription-other", name=terms.name, what=changed)
            if changed and not replacing:
                raise ClacksError("subscription-differs", name=terms.name, what=changed)
            if found.suspension and not replacing:
                raise ClacksError("filter-suspended", reason=found.suspension)
            self._steal(found)
        if found is None:
            if terms.durable:
                self._make(link, terms, filters, answer)
                return
            found = self._subscriptions.named[identity] = self._live(link, terms, filters)
        elif replacing and terms != found.terms:
            self._replace(link, found, terms, filters, answer)
            return
        self._join(link, found, answer)

    def _steal(self, subscription: Subscription) -> None:
        """A link takes it over from the one that has it, unless it is for several."""
        if not subscription.terms.shared:
            taken = ClacksError("subscription-taken", name=subscription.terms.name)
            subscription.dismiss(as_condition(taken), closed=False)

    def _make(self, link: Sender, terms: Terms, filters: Sequence[Filter], answer: Terminus) -> None:
        subscription = self._kept.make(link.connection.user, terms)
        try:
            self._subscriptions.subscribe(subscription, filters, origin_of(link.connection))
        except ClacksError:
            self._kept.unmake(subscription)
            raise
        self._subscriptions.named[subscription.identity] = subscription
        self._define(link, subscription, answer, made=True)

    def _replace(self, link: Sender, subscription: Subscription, terms: Terms, filters: Sequence[Filter], answer: Terminus) -> None:
        self._subscriptions.replace(subscription, terms, filters, origin_of(link.connection))
        if not isinstance(subscription, DurableSubscription):
            self._join(link, subscription, answer)
            return
        subscription.reform()
        self._define(link, subscription, answer, made=False)

    def _define(self, link: Sender, subscription: DurableSubscription, answer: Terminus, *, made: bool) -> None:
        """Write it to the disk; then its link joins, and after that those who have asked for it meanwhile have their turn. If it was `made`
        for this link, it is nothing without the disk."""
        self._kept.taken_up(subscription)
        waiting = self._defining[subscription.identity] = []

        def defined(error: ClacksError | None) -> None:
            del self._defining[subscription.identity]
            if error is not None and made:
                self._kept.remove(subscription, error)
            if not link.alive and not subscription.consumers:
                self._kept.abandoned(subscription, closed=link.closed)
            self._go_on(link, lambda: self._join_defined(link, subscription, answer, error))
            for attach in waiting:
                attach()

        self._kept.journal().define(subscription.state(), defined)

    def _join_defined(self, link: Sender, subscription: DurableSubscription, answer: Terminus, error: ClacksError | None) -> None:
        if error is not None:
            raise error
        if subscription.removed:
            raise ClacksError("subscription-deleted", name=subscription.terms.name, user=subscription.user)
        if subscription.suspension:
            raise ClacksError("filter-suspended", reason=subscription.suspension)
        self._join(link, subscription, answer)

    def _resume(self, link: Sender) -> None:
        """A link without a source asks for the subscription of its name, as it is."""
        user, container, name = link.connection.user, link.connection.remote_container, link.name
        named = self._subscriptions.named
        found = named.get((user, container, name)) or named.get((user, "", name.partition("|")[0]))
        if found is not None and found.identity in self._defining:
            self._defining[found.identity].append(lambda: self._go_on(link, lambda: self._resume(link)))
            return
        if found is None or not found.terms.durable:
            raise ClacksError("subscription-unknown", name=name, hint=f"Events are at {self._config.domain}.")
        if found.suspension:
            raise ClacksError("filter-suspended", reason=found.suspension)
        terms = found.terms
        filters = {f"xquery-{place}": Described(XQUERY_SYMBOL, text) for place, text in enumerate(terms.filters, 1)}
        self._steal(found)
        capabilities = (*(["shared"] if terms.shared else []), *([] if terms.container else ["global"]))
        self._join(link, found, Terminus(terms.address, filter=filters, capabilities=capabilities))

    # --- what is not in the bus ---

    def _attach_replies(self, link: Sender, source: Terminus) -> None:
        address = reply_address(self._config.domain, os.urandom(16).hex())  # not to be guessed
        subscription = self._subscriptions.at_reply_address(link.connection.user, Terms(address, link.name))
        link.accept(Terminus(address, dynamic=True, expiry=source.expiry), link.remote_target)
        subscription.join(link)

    def _attach_dead_letters(self, link: Sender, source: Terminus) -> None:
        user = link.connection.user
        error = self._bus.forbidden(user, "", origin_of(link.connection))
        if error is not None:
            raise error
        dead = self._kept.dead_letters_for(user)
        self._join(link, dead, Terminus(source.address, capabilities=("shared",)))


def _in_force(answer: Terminus, terms: Terms) -> Terminus:
    """The answer, with how long a subscription is really kept: it may have been made with another expiry policy than was asked for."""
    if not terms.durable:
        return answer
    if terms.timeout is None:
        return replace(answer, durable=2, expiry="never")
    return replace(answer, durable=2, expiry="link-detach" if answer.expiry == "never" else answer.expiry, timeout=terms.timeout)


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
