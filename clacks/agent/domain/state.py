"""What all agents of a domain agree on: writers, members and subscriptions, as the log makes them.

Every change of the state comes out of `State.apply`, which sees an offset and a record and nothing else: no clock, no configuration,
not who this agent is. So two agents that have applied the same records have the same state.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from .changes import (
    SUSPENDED,
    Change,
    Ignored,
    MethodsChanged,
    NodeCame,
    NodeLeft,
    QueueComing,
    QueueUnused,
    Refused,
    SubscriptionAdded,
    SubscriptionChanged,
    SubscriptionRemoved,
    SubscriptionSuspended,
    SubscriptionTaken,
)
from .members import Member, Writers
from .records import Announced, Expired, Left, Making, Record, Renewed, Subscribed, Suspended, Unsubscribed
from .subscriptions import Subscription, Subscriptions


class State:
    """The state after the record at offset `applied` (-1: before the first one)."""

    def __init__(self) -> None:
        self.applied = -1
        self.writers = Writers()
        self.members: dict[tuple[str, int], Member] = {}
        self.subscriptions = Subscriptions()
        self._handlers: dict[type, Callable[[int, Any], list[Change]]] = {
            Announced: self._announced,
            Left: self._left,
            Making: self._making,
            Subscribed: self._subscribed,
            Unsubscribed: self._unsubscribed,
            Suspended: self._suspended,
            Renewed: self._renewed,
            Expired: self._expired,
        }

    def apply(self, offset: int, record: Record) -> list[Change]:
        self.applied = offset
        ignored = self.writers.take(record.by, offset)
        if ignored:
            return [Ignored(record.by, ignored)]
        handler = self._handlers.get(type(record))
        return handler(offset, record) if handler is not None else []

    def digest(self) -> str:
        """The same for the same state. Takes some seconds for a million subscriptions: for tests and for the search for a fault."""
        total = blake2b(digest_size=16)
        for part in self.rows():
            total.update(json.dumps(part, sort_keys=True).encode())
        return total.hexdigest()

    def rows(self) -> list[tuple[Any, ...]]:
        writers = [(node, one.incarnation, one.last, one.window, one.heard) for node, one in sorted(self.writers.by_node.items())]
        members = [member.row() for _, member in sorted(self.members.items())]
        return [(self.applied,), *writers, *members, *sorted(one.row() for one in self.subscriptions)]

    # --- members ---

    def _announced(self, offset: int, record: Announced) -> list[Change]:
        node, incarnation, _ = record.by
        changes: list[Change] = []
        member = self.members.get((node, incarnation))
        if member is None:
            changes += self._supersede(node)
            member = self.members[node, incarnation] = Member(node, incarnation)
            changes.append(NodeCame(node, incarnation))
        if member.hear(offset, record):
            changes.append(MethodsChanged(node))
        return changes

    def _supersede(self, node: str) -> list[Change]:
        """The other processes of the node: the writers' table lets no older one announce itself."""
        changes: list[Change] = []
        for member in self.members.values():
            if member.node == node and not member.superseded:
                member.superseded = True
                changes += [NodeLeft(node, member.incarnation, "superseded"), *_unused(member)]
        return changes

    def _left(self, offset: int, record: Left) -> list[Change]:
        key = record.node, record.incarnation
        member = self.members.get(key)
        itself = key == record.by[:2] and record.heard < 0
        if member is None or not (itself or member.heard == record.heard):
            return [Ignored(record.by, "stale")]
        del self.members[key]
        self.writers.forget({node for node, _ in self.members}, offset)
        if member.superseded:
            return []
        return [NodeLeft(record.node, record.incarnation, "left" if itself else "silent"), *_unused(member)]

    # --- subscriptions ---

    def _making(self, offset: int, record: Making) -> list[Change]:
        member = self.members.get(record.by[:2])
        if member is None or (record.given_up and record.queue not in member.making):
            return [Ignored(record.by, "stale")]
        if record.given_up:
            member.making.remove(record.queue)
            return [QueueUnused(record.queue)]
        member.making.add(record.queue)
        return [QueueComing(record.queue)]

    def _subscribed(self, offset: int, record: Subscribed) -> list[Change]:
        if not record.made:
            return [self._decided(offset, record)]
        member = self.members.get(record.by[:2])
        if member is None or record.queue not in member.making:
            return [Refused(record.id, "late", record.by), *self._left_over(record)]
        member.making.remove(record.queue)
        return [self._decided(offset, record), *self._left_over(record)]

    def _left_over(self, record: Subscribed) -> list[Change]:
        used = any(one.queue == record.queue for one in self.subscriptions.of(record.user))
        return [] if used else [QueueUnused(record.queue)]

    def _decided(self, offset: int, record: Subscribed) -> Change:
        table = self.subscriptions
        there = table.named(record.user, record.name)
        if there is not None:
            return self._again(offset, record, there)
        if record.id in table.by_id:
            return Refused(record.id, "id-taken", record.by)
        if record.limit and sum(not one.lease for one in table.of(record.user)) >= record.limit:
            return Refused(record.id, "limit", record.by)
        made = _subscription(record, record.id, record.queue, offset)
        table.add(made)
        return SubscriptionAdded(made)

    def _again(self, offset: int, record: Subscribed, there: Subscription) -> Change:
        made = _subscription(record, there.id, there.queue, offset)
        kind = _kind_differs(made, there)
        if kind:
            return Refused(record.id, "kind", record.by, kind)
        same = made.asks_for == there.asks_for
        # Other filters than suspended ones take nothing from anybody, so they need not say that they replace them.
        replaces = record.replace or (there.suspended and made.filters != there.filters)
        if there.suspended and not replaces:
            return Refused(record.id, "suspended", record.by, there.suspended)
        if not (same or replaces):
            return Refused(record.id, "name-taken", record.by)
        if same and made.lease == there.lease and not there.suspended:
            there.renewed = offset
            return SubscriptionTaken(there, record.id)
        self.subscriptions.add(made)
        return SubscriptionChanged(there, made, record.id)

    def _unsubscribed(self, offset: int, record: Unsubscribed) -> list[Change]:
        one = self.subscriptions.remove(record.id)
        return [Refused(record.id, "unknown", record.by)] if one is None else [SubscriptionRemoved(one, record.reason)]

    def _suspended(self, offset: int, record: Suspended) -> list[Change]:
        """A durable one stays as it is; of a live one nothing would be left but its lease, so it ends."""
        one = self.subscriptions.by_id.get(record.id)
        if one is None or one.suspended or one.filters != record.filters:
            return [Ignored(record.by, "stale")]
        if one.lease:
            self.subscriptions.remove(one.id)
            return [SubscriptionRemoved(one, f"{SUSPENDED}{record.reason}")]
        made = one.suspend(record.reason)
        self.subscriptions.add(made)
        return [SubscriptionSuspended(made)]

    def _renewed(self, offset: int, record: Renewed) -> list[Change]:
        find = self.subscriptions.by_id.get
        changes: list[Change] = []
        for id in record.ids:  # noqa: A001
            one = find(id)
            if one is None:
                changes.append(Refused(id, "unknown", record.by))
            else:
                one.renewed = offset
        return changes

    def _expired(self, offset: int, record: Expired) -> list[Change]:
        changes: list[Change] = []
        for id, renewed in record.leases:  # noqa: A001
            one = self.subscriptions.by_id.get(id)
            if one is not None and one.renewed == renewed:
                self.subscriptions.remove(id)
                changes.append(SubscriptionRemoved(one, "lease"))
        return changes or [Ignored(record.by, "stale")]


def _unused(member: Member) -> list[Change]:
    """What a member that has gone was making: whatever it still writes about it counts no more."""
    queues, member.making = sorted(member.making), set()
    return [QueueUnused(queue) for queue in queues]


def _kind_differs(one: Subscription, other: Subscription) -> str:
    """What nothing changes: their queues are of other kinds, and one that got a lease would be deleted at its end with what is in it."""
    if bool(one.lease) != bool(other.lease):
        return "durability"
    return "sharing" if one.shared != other.shared else ""


def _subscription(record: Subscribed, id: str, queue: str, offset: int) -> Subscription:  # noqa: A002
    return Subscription(
        id,
        record.user,
        record.event,
        record.address,
        queue,
        record.name,
        record.shared,
        record.lease,
        offset,
        record.filters,
        "",
        record.max_age,
    )
