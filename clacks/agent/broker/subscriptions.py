"""All subscriptions of the embedded broker: which there are, what became of them, and what else its rules say when they change.

A live subscription is its link's. A shared one is its consumers', by its name. A durable one is on the disk (`kept.py`), and a link finds
it again by user, container and name. How a link comes to its subscription is told in `attaching.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

from ...common.errors import ClacksError
from ...xquery import Filter
from ..access import option, refusal
from ..bus import Bus
from ..config import Config
from ..sandbox import Budget, Sandbox
from .conditions import as_condition
from .durable import DurableSubscription
from .kept import Kept
from .replies import Account, Replies
from .subscription import Counts, Identity, Message, Subscription, say_suspended
from .terms import Terms, compiled


class Subscriptions:
    """The host of every subscription (subscription.Host). `named` are those that a link finds by name, `replies` those of dynamic sources,
    by address; these are not among `all`."""

    def __init__(self, config: Config, bus: Bus) -> None:
        """Raises ClacksError store-failed if there is a file of durable subscriptions which cannot be used."""
        self.all: set[Subscription] = set()
        self.named: dict[Identity, Subscription] = {}
        self.replies: dict[str, Subscription] = {}
        self.blocking = 0  # those that may slow publishers down
        self.sandbox = Sandbox(config.sandbox_workers, Budget(config.sandbox_seconds, config.sandbox_memory))
        self.delivery_limit = config.queue_deliveries
        self._config = config
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._gone = Counts()
        self._accounts: WeakValueDictionary[str, Account] = WeakValueDictionary()
        self.kept = Kept(self, config, bus)
        self.kept.open()

    # --- subscription.Host ---

    def clock(self) -> float:
        return self._loop.time()

    def call_soon(self, function: Callable[[], None]) -> None:
        self._loop.call_soon(function)

    def abandoned(self, subscription: Subscription, *, closed: bool) -> None:
        if isinstance(subscription, DurableSubscription):
            self.kept.abandoned(subscription, closed=closed)
        else:
            self.end(subscription)

    def suspended(self, subscription: Subscription, error: ClacksError) -> None:
        if isinstance(subscription, DurableSubscription):
            self.kept.suspended(subscription, error)
        else:
            say_suspended(subscription, error)
        subscription.dismiss(as_condition(error))

    def bury(self, subscription: Subscription, message: Message, reason: str) -> None:
        self.kept.bury(subscription, message, reason)

    # --- beginning and end ---

    def live(self, user: str, terms: Terms) -> Subscription:
        """One that lives in memory, not yet in the bus."""
        return Subscription(self, user, terms, events=self._config.queue_events, size=self._config.queue_bytes)

    def at_reply_address(self, user: str, terms: Terms) -> Subscription:
        """What waits for a user at a dynamic source."""
        account = self._accounts.get(user)
        if account is None:
            account = self._accounts[user] = Account(self._config.queue_bytes)
        found = Replies(self, user, terms, account, events=self._config.queue_events, size=self._config.queue_bytes)
        self.replies[terms.address] = found
        return found

    def subscribe(self, subscription: Subscription, filters: Sequence[Filter], origin: str) -> None:
        """Give it to the bus. Raises ClacksError not-permitted, schema-unknown."""
        subscription.sight = self._bus.subscribe(subscription, subscription.user, filters, subscription.terms.event, origin)
        if subscription not in self.all:
            self.all.add(subscription)
            self.blocking += subscription.terms.overflow == "block-publisher"

    def replace(self, subscription: Subscription, terms: Terms, filters: Sequence[Filter], origin: str) -> None:
        """It has other terms from here on; what waits stays. Raises ClacksError as `subscribe` does, and then it is as it was."""
        before, subscription.terms = subscription.terms, terms
        in_force = not subscription.suspension
        if in_force:
            self._bus.unsubscribe(subscription)
        try:
            self.subscribe(subscription, filters, origin)
        except ClacksError:
            subscription.terms = before
            if in_force:
                self.subscribe(subscription, [compiled(text) for text in before.filters], origin)
            raise
        self.blocking += (terms.overflow == "block-publisher") - (before.overflow == "block-publisher")

    def end(self, subscription: Subscription) -> None:
        """Nobody has it any more."""
        terms = subscription.terms
        subscription.clear()
        if self.replies.pop(terms.address, None) is not None:
            return
        if subscription not in self.all:
            return
        self.all.discard(subscription)
        self.blocking -= terms.overflow == "block-publisher"
        self._gone += subscription.counts
        if self.named.get(subscription.identity) is subscription:
            del self.named[subscription.identity]
        if not subscription.suspension and not self.kept.is_dead_letters(subscription):
            self._bus.unsubscribe(subscription)

    def unpermitted(self, user: str, terms: Terms, origin: str) -> ClacksError | None:
        """Why a user may not have a subscription on these terms, whatever is in it; None if they may."""
        rights, name = self._bus.access.rights(user), terms.name
        if terms.durable and not rights.durable(name):
            return refusal(user, "keep a subscription called", name, option("--durable", name), origin)
        if terms.overflow == "block-publisher" and not rights.block(name):
            return refusal(user, "slow publishers by", name, option("--block", name), origin)
        return None

    def permissions_changed(self, removed: dict[str, ClacksError]) -> None:
        """The bus has other rules, or other users (`removed` are those that are none any more): every subscription to what its user may
        not see, or have on its terms, ends; a durable one is suspended until they may again. The others go on; what they may not see any
        more stays in their queues unsent."""
        fine: set[tuple[object, ...]] = set()
        for subscription in list(self.all):
            user, terms = subscription.user, subscription.terms
            by_name = (terms.name, terms.overflow) if terms.durable or terms.overflow == "block-publisher" else ()
            what = (user, terms.event, *by_name)
            if what not in fine:
                error = removed.get(user) or self._bus.forbidden(user, terms.event, "rules")
                if error is None and not self.kept.is_dead_letters(subscription):
                    error = self.unpermitted(user, terms, "rules")
                if error is None:
                    fine.add(what)
            else:
                error = None
            if isinstance(subscription, DurableSubscription):
                self.kept.permit(subscription, error)
            elif error is not None:
                subscription.dismiss(as_condition(error))

    async def close(self) -> None:
        await self.sandbox.close()
        await self.kept.close()

    # --- what there is ---

    def snapshot(self) -> list[Subscription]:
        """The subscriptions there are now; also for other threads."""
        return list(self.all)

    def totals(self) -> Counts:
        """What all subscriptions have counted, those that have gone among them."""
        return sum((one.counts for one in self.snapshot()), self._gone)
