"""A domain of many agents on one external broker: what they agree on, from one log that all of them read.

`Domain` (domain.py) is one agent's part in it. `records` go through the log, `state` is what they make, `changes` is what the driver
carries out. Nothing in this package does I/O, or knows a clock or AMQP.
"""

from .changes import (
    SUSPENDED,
    Change,
    Ignored,
    MethodsChanged,
    NodeCame,
    NodeLeft,
    QueueComing,
    QueueUnused,
    Ready,
    Refused,
    SubscriptionAdded,
    SubscriptionChanged,
    SubscriptionRemoved,
    SubscriptionSuspended,
    SubscriptionTaken,
    Superseded,
)
from .domain import Domain
from .records import (
    Announced,
    By,
    Expired,
    Left,
    Making,
    Method,
    Record,
    Renewed,
    Snapshot,
    SnapshotWanted,
    Subscribed,
    Suspended,
    Unsubscribed,
    decode,
    encode,
)
from .subscriptions import Subscription
from .timing import Timing

__all__ = [
    "SUSPENDED",
    "Announced",
    "By",
    "Change",
    "Domain",
    "Expired",
    "Ignored",
    "Left",
    "Making",
    "Method",
    "MethodsChanged",
    "NodeCame",
    "NodeLeft",
    "QueueComing",
    "QueueUnused",
    "Ready",
    "Record",
    "Refused",
    "Renewed",
    "Snapshot",
    "SnapshotWanted",
    "Subscribed",
    "Subscription",
    "SubscriptionAdded",
    "SubscriptionChanged",
    "SubscriptionRemoved",
    "SubscriptionSuspended",
    "SubscriptionTaken",
    "Superseded",
    "Suspended",
    "Timing",
    "Unsubscribed",
    "decode",
    "encode",
]
