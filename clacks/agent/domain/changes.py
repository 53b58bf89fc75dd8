"""What the application of a record has changed: values for whoever carries it out (indexes, deletes queues, answers clients)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .records import By
from .subscriptions import Subscription

# What the reason begins with where a live subscription ends because its filters cost too much.
SUSPENDED: Final = "suspended: "


@dataclass(frozen=True, slots=True)
class SubscriptionAdded:
    subscription: Subscription


@dataclass(frozen=True, slots=True)
class SubscriptionRemoved:
    """`reason` is "lease", or what the record gave."""

    subscription: Subscription
    reason: str


@dataclass(frozen=True, slots=True)
class SubscriptionTaken:
    """A durable subscription was asked for once more, under the id `asked`: its client uses the one that there is, with its queue."""

    subscription: Subscription
    asked: str


@dataclass(frozen=True, slots=True)
class SubscriptionChanged:
    """As SubscriptionTaken, but it has other filters or another lease. Id and queue, with the events in it, stay."""

    before: Subscription
    after: Subscription
    asked: str


@dataclass(frozen=True, slots=True)
class SubscriptionSuspended:
    """A durable subscription gets no more events. Id, name and queue, with the events in it, stay."""

    subscription: Subscription


@dataclass(frozen=True, slots=True)
class QueueComing:
    """An agent may make this queue now: should it go before somebody has subscribed with it, the queue is unused."""

    queue: str


@dataclass(frozen=True, slots=True)
class QueueUnused:
    """This queue has been made, or may have been, and no subscription has it."""

    queue: str


@dataclass(frozen=True, slots=True)
class Refused:
    """What `by` wrote about a subscription has no effect: "limit", "name-taken" (by a durable one with other filters), "kind" (that
    one has another `why`: durability or sharing), "suspended" (that one is, for the reason `why`), "late" (its queue is unused since),
    "id-taken" or "unknown"."""

    id: str
    reason: str
    by: By
    why: str = ""


@dataclass(frozen=True, slots=True)
class NodeCame:
    node: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class NodeLeft:
    """`reason` is "left", "silent" or "superseded" (by a later process of the same node)."""

    node: str
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class MethodsChanged:
    node: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """A record without effect: "repeated", "superseded" (its writer is), or "stale" (what it was decided on has changed)."""

    by: By
    reason: str


@dataclass(frozen=True, slots=True)
class Ready:
    """This agent has the state of the domain, and what came after up to its own heartbeat."""


@dataclass(frozen=True, slots=True)
class Superseded:
    """Another process with this agent's node id has a greater incarnation: this one must stop. If it has only just started and that process
    is no more (the machine's time was set back), it may start again with an incarnation above this one."""

    incarnation: int


Change = (
    SubscriptionAdded
    | SubscriptionRemoved
    | SubscriptionTaken
    | SubscriptionChanged
    | SubscriptionSuspended
    | QueueComing
    | QueueUnused
    | Refused
    | NodeCame
    | NodeLeft
    | MethodsChanged
    | Ignored
    | Ready
    | Superseded
)
