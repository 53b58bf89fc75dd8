"""The commands by which clients of a domain subscribe: what a link with a filter is on an agent's own listener."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ....common.components.command import Command
from ....common.errors import ClacksError
from ...access import option, refusal
from ...domain import Refused, Subscribed, SubscriptionAdded, SubscriptionChanged, SubscriptionTaken
from ...domain import Subscription as Known
from ..addresses import event_address
from ..terms import LIVE_OVERFLOWS, Terms, compiled, read_limits
from .control import Control
from .names import subscription_queue
from .topology import QueueTerms

if TYPE_CHECKING:
    from .broker import ExternalBroker

log = logging.getLogger("clacks.broker")

# What the broker keeps of a queue that nobody uses beyond the lease, in seconds: the agents delete it, if there is one.
_GRACE: Final = 60.0
# How many leases a command waits for the state of the domain: as with what is written, half of what a client waits.
BEHIND_LEASES: Final = 2


class Services:
    """The provider of these commands. Each checks what its caller may do: a rule that lets somebody subscribe is enough."""

    def __init__(self, broker: ExternalBroker) -> None:
        self._broker = broker

    @Command(needs_user=True, idempotent=True, checks_rights=True)
    async def subscribe(
        self, user: str, filters: Sequence[str] = (), event: str = "", durable: str = "", shared: str = "",
        max_age: float | None = None, max_bytes: int | None = None, overflow: str = "", replace: bool = False,
        restore: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """Subscribe to the events that all filters match; the answer names the queue to receive from, and the lease to renew. To restore is
        for a queue that was named and is not there: it is made again."""
        broker = self._broker
        _check(filters)
        for text in filters:
            compiled(text)
        self._permit(user, event, durable)
        name = durable or shared
        if durable and shared and durable != shared:
            raise ClacksError("link-refused", reason="A subscription has one name: that of durable and shared must be the same.")
        policy, age, size = read_limits(name, bool(durable), overflow or None, max_age, max_bytes, LIVE_OVERFLOWS[:1])
        queue_terms = self._queue_terms(bool(durable), bool(shared), policy == "drop-oldest", age, size)
        broker.topology.check(size)
        address = event_address(broker.domain, event) if event else broker.domain
        given = uuid.uuid4().hex[:16]
        kind = f"{'durable' if durable else 'shared'}.{name}.{given}" if name else given
        queue = broker.topology.spelled(subscription_queue(broker.domain, user, kind))
        declared = broker.control.domain.named(user, name) is None
        made = declared and bool(durable) and broker.topology.deletes  # the broker deletes what is not durable, if nobody uses it
        try:
            if made:
                await broker.control.making(queue)
            if declared:  # before anything is routed to it
                await broker.topology.make(queue, queue_terms)
            by = broker.control.domain.by()
            lease, limit = (0.0, broker.config.durable_per_user) if durable else (broker.config.broker_lease, 0)
            record = Subscribed(
                by, f"{broker.config.node_id}-{by.incarnation:x}-{by.sequence:x}", user, queue, tuple(filters), event, address, name,
                bool(shared), lease, limit, bool(replace), age or 0.0, made,
            )  # fmt: skip
            change = await broker.control.subscribe(record)
        except BaseException:
            if made:
                broker.control.give_up(queue)
            raise
        if isinstance(change, Refused):
            raise self._refused(change, record)
        assert isinstance(change, SubscriptionAdded | SubscriptionTaken | SubscriptionChanged)
        known = change.after if isinstance(change, SubscriptionChanged) else change.subscription
        if restore or (known.queue == queue and not declared):  # the one of this name has ended meanwhile
            await broker.restore(known, queue_terms)
        return {"id": known.id, "queue": known.queue, "lease": known.lease, "exclusive": not (known.lease or known.shared)}

    def _permit(self, user: str, event: str, durable: str) -> None:
        bus = self._broker.subscriptions.bus
        error = bus.forbidden(user, event, "command subscribe")
        if error is not None:
            raise error
        if event:
            bus.schema(user, event, "command subscribe")
        if durable and not bus.access.rights(user).durable(durable):
            raise refusal(user, "keep a subscription called", durable, option("--durable", durable), "command subscribe")

    def _refused(self, change: Refused, record: Subscribed) -> ClacksError:
        name, there = record.name, self._broker.control.domain.named(record.user, record.name)
        if change.reason == "limit":
            return ClacksError("subscriptions-full", user=record.user, limit=self._broker.config.durable_per_user)
        if change.reason == "name-taken":
            what = "filter" if there is None or there.filters != record.filters else "event"
            return ClacksError("subscription-differs", name=name, what=what)
        if change.reason == "kind":
            return ClacksError("subscription-other", name=name, what=change.why)
        if change.reason == "suspended":
            return ClacksError("filter-suspended", reason=change.why)
        if change.reason == "late":
            return ClacksError("bus-overloaded")
        return ClacksError("internal", reason=f"the subscription was refused: {change.reason}")

    def _queue_terms(self, durable: bool, shared: bool, loses: bool, max_age: float | None, max_bytes: int | None) -> QueueTerms:
        config = self._broker.config
        if not durable:
            return QueueTerms(
                durable, shared, loses=True, max_bytes=config.queue_bytes, max_events=config.queue_events,
                expires=config.broker_lease + _GRACE,
            )  # fmt: skip
        size = int(min(max_bytes or config.durable_bytes, config.durable_bytes))
        return QueueTerms(durable, shared, loses, size, max_age=max_age, deliveries=config.queue_deliveries)

    @Command(needs_user=True, idempotent=True, checks_rights=True)
    async def renew(self, user: str, ids: Sequence[str]) -> list[str]:
        """Go on with live subscriptions for another lease. The answer are those to subscribe to again: there is none (any more), or it is
        suspended, which the answer to that explains."""
        control = await current(self._broker.control)
        found = [control.domain.subscription(str(one)) for one in ids]
        own = [known for known in found if known is not None and known.user == user and not known.suspended]
        control.renew(known.id for known in own if known.lease)
        going = {known.id for known in own}
        return [str(one) for one in ids if str(one) not in going]

    @Command(needs_user=True, idempotent=True, checks_rights=True)
    async def unsubscribe(self, user: str, id: str, delete: bool = False) -> bool:  # noqa: A002
        """End a subscription of yours. A shared one that is live ends with its last consumer, unless it is to be deleted."""
        control = await current(self._broker.control)
        known = control.domain.subscription(str(id))
        if known is None or (known.user != user and not self._broker.subscriptions.bus.administers(user)):
            return False
        if not (known.shared and known.lease and not delete):
            await control.unsubscribe(known.id, f"by {user}")
        return True

    @Command(needs_user=True, idempotent=True, checks_rights=True)
    def whyEnded(self, user: str, id: str) -> dict[str, Any] | None:  # noqa: A002
        """Why a subscription of yours has ended, as an error; null where you have ended it yourself, or not renewed it, or long ago."""
        error = self._broker.ends.why(user, str(id))
        return None if error is None else error.to_json()


def _check(filters: Any) -> None:
    """Raises ClacksError link-refused for what is no list of texts: JSON may hold anything."""
    if not isinstance(filters, list | tuple) or not all(isinstance(text, str) for text in filters):
        raise ClacksError("link-refused", reason="filters is a list of texts, each an XQuery filter.")


async def current(control: Control) -> Control:
    """The domain as it is now. Raises ClacksError domain-unsettled if this agent does not find out."""
    try:
        async with asyncio.timeout(BEHIND_LEASES * control.domain.timing.lease):
            await control.current()
    except TimeoutError:
        raise ClacksError("domain-unsettled", reason="this agent has lost touch with the others") from None
    return control


def terms_of(known: Known) -> Terms:
    """The terms of a subscription that the domain knows."""
    return Terms(
        known.address, known.name, "", known.event, known.filters, known.shared, durable=not known.lease,
        overflow="drop-oldest" if known.lease else "refuse",
    )  # fmt: skip
