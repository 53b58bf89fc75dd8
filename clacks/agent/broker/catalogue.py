"""The subscriptions by name, for those who look after them: what there is, deleting one, and giving it its dead letters again."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ...amqp import Message as Encoded
from ...amqp.message import annotate
from ...common.errors import ClacksError
from ..access import refusal
from ..bus import Bus
from .durable import DurableSubscription
from .envelope import DEAD_NAME, DEAD_REASON
from .external.subscription import DomainSubscription
from .store import StoredEvent
from .subscription import Subscription
from .subscriptions import Subscriptions


class Catalogue:
    """Answers the commands about subscriptions (command.Catalogue)."""

    def __init__(self, subscriptions: Subscriptions, bus: Bus) -> None:
        self._subscriptions, self._bus = subscriptions, bus
        self._replaying = asyncio.Lock()  # what one replay has in hand is not another's

    def all(self, user: str) -> list[dict[str, Any]]:
        everything = self._bus.administers(user)
        found = [one for one in self._named() if everything or one.user == user]
        return [described(one) for one in sorted(found, key=lambda one: (one.user, one.terms.name))]

    def show(self, user: str, name: str, owner: str | None) -> dict[str, Any]:
        return described(self._find(user, name, owner))

    def delete(self, user: str, name: str, owner: str | None, *, force: bool) -> bool:
        found = self._durable(user, name, owner)
        if found.consumers and not force:
            raise ClacksError("subscription-in-use", name=name)
        self._subscriptions.kept.remove(found, ClacksError("subscription-deleted", name=name, user=user))
        return True

    async def replay(self, user: str, name: str, owner: str | None) -> int:
        target = self._durable(user, name, owner)
        dead = self._subscriptions.kept.dead_letters(target.user)
        if dead is None:
            return 0
        count = 0
        async with self._replaying:
            for number in dead.numbers():
                if await self._revive(number, dead, target):
                    count += 1
        return count

    async def _revive(self, number: int, dead: DurableSubscription, target: DurableSubscription) -> bool:
        """Put one dead letter into the queue that it came from, if it is that one's. Raises ClacksError subscription-full, store-failed,
        subscription-unknown."""
        journal = self._subscriptions.kept.journal()
        stored = journal.recent(number) or await journal.get(number)
        letter = Encoded(stored[0]) if stored is not None else None
        if stored is None or letter is None or letter.annotations.get(DEAD_NAME) != target.terms.name:
            return False
        annotations = {key: value for key, value in letter.annotations.items() if key not in (DEAD_NAME, DEAD_REASON)}
        encoded = annotate(letter.bare, annotations)
        gone = ClacksError("subscription-unknown", name=target.terms.name, hint="It was deleted meanwhile; the dead letters stay.")
        if target.removed:
            raise gone
        if not target.reserve(len(encoded)):
            raise ClacksError("subscription-full")
        again = StoredEvent(self._subscriptions.kept.next_number(), stored[2], time.time(), 0.0, (target.id,), (), encoded)
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def written(error: ClacksError | None) -> None:
            if error is not None:
                target.give_up(len(encoded))
            else:
                target.stored(again.number, undecided=False)
                if target.removed:
                    error = gone
                else:
                    dead.remove(number)
            if not kept.done():
                kept.set_exception(error) if error is not None else kept.set_result(None)

        journal.keep(again, written)
        await kept
        return True

    def _named(self) -> list[Subscription]:
        return [one for one in self._subscriptions.all if one.terms.durable or one.terms.shared]

    def _find(self, user: str, name: str, owner: str | None) -> Subscription:
        if owner not in (None, user) and not self._bus.administers(user):
            raise refusal(user, "see the subscriptions of", str(owner), "--administer", "command getSubscription")
        of_name = [one for one in self._named() if one.terms.name == name]
        found = [one for one in of_name if one.user == (owner or user)]
        if not found and owner is None and self._bus.administers(user):
            found = of_name
        if len(found) == 1:
            return found[0]
        if found:
            owners = ", ".join(sorted({one.user for one in found}))
            hint = f"There are several of that name, of {owners}. Name the owner; containers of one user cannot be told apart here."
        else:
            hint = "`clacks subscriptions` lists them."
        raise ClacksError("subscription-unknown", name=name, hint=hint)

    def _durable(self, user: str, name: str, owner: str | None) -> DurableSubscription:
        found = self._find(user, name, owner)
        if not isinstance(found, DurableSubscription):
            raise ClacksError("subscription-unknown", name=name, hint="It is not durable, and ends with its last consumer.")
        return found


def described(one: Subscription | DomainSubscription) -> dict[str, Any]:
    """A subscription in JSON."""
    terms = one.terms
    kind = "durable" if terms.durable else "live"
    named: dict[str, Any] = {
        "name": terms.name,
        "kind": f"{kind}, shared" if terms.shared else kind,
        "consumers": len(one.consumers),
        "overflow": terms.overflow,
    }
    if isinstance(one, DurableSubscription):
        named |= {
            "container": terms.container,
            "suspended": one.suspension,
            "max_age": terms.max_age,
            "max_bytes": terms.max_bytes,
            "kept": one.kept_events,
        }
    elif terms.durable and isinstance(one, DomainSubscription):
        named["suspended"] = one.suspension or one.barred
    return {
        "user": one.user,
        "link": terms.name,
        "address": terms.address,
        "filters": [*terms.filters],
        **named,
        "delivered": one.delivered,
        "waiting": one.waiting,
        "waiting_bytes": one.waiting_bytes,
        "unsettled": one.unsettled,
        "dropped": one.dropped,
        "expired": one.expired,
        "unaccepted": one.unaccepted,
        "dead": one.buried,
        "filter_errors": one.filter_errors,
    }
