"""What differs between AMQP 1.0 brokers, in one table, how a broker is told from its open frame, and whether a domain can run on it.

A domain runs on a broker whose row has all features of one of the WAYS. The other rows are there so that such a broker is known for what
it is, and refused with what it lacks. Pure values: nothing here connects or declares.

RabbitMQ's row is what was seen on 4.0.5 and 4.3.6, that of ActiveMQ what was seen on 5.17; those of Artemis and qpidd follow their
documents and sources.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final
from urllib.parse import quote

from ...amqp import Described, Properties, Symbol, Terminus
from ..errors import ClacksError

Version = tuple[int, ...]


class Feature(Enum):
    """What only some brokers, or only some of their versions, can do."""

    MANAGEMENT = "queues and exchanges that are declared by requests to /management"
    STREAMS = "queues that are read again and again, from any offset"
    ACTIVE_CONSUMER = "one active consumer at a time, the one with the highest priority; the next follows when it goes"
    COPIES = "one message into several queues with one settlement (annotation x-cc)"
    BY_USE = "queues and topics that are there as soon as they are used"
    EXCLUSIVE = "consumers that may ask to be a queue's only one; the next follows when it goes"
    SELECTORS = "filters on links that are JMS selectors"
    TIMESTAMPS = "messages that expire though they have timestamps among their annotations"
    BOTH_WAYS = "a connection that is read while it is written to"
    DYNAMIC_REPLIES = "a dynamic source for replies"
    CREDIT = "no delivery without credit from any kind of queue"
    LINK_ERRORS = "a refused link leaves the others of its session alone, unless for want of permission"


ALWAYS: Final[Version] = (0,)

_SELECTOR: Final = Symbol("apache.org:selector-filter:string")

# What agents cannot do without: queues, a log that all of them read, and ingress queues that move from one agent to the next with their
# order kept. There are two ways to have that: what is declared, and what is there by being used.
DECLARED: Final = (Feature.MANAGEMENT, Feature.STREAMS, Feature.ACTIVE_CONSUMER)
USED: Final = (Feature.BY_USE, Feature.EXCLUSIVE, Feature.SELECTORS)
WAYS: Final = (DECLARED, USED)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of broker.

    `product` is that of its open's properties, `oldest` the first version that will do. `queue`, `topic` and `entry` are addresses with
    {name} and {key}: `topic` is where all who receive at that time get a copy, `entry` the way into a domain by a key, of which there are
    `slots` for events. `exclusive` is what an address ends with where the consumer wants to be the only one. `sender` is the property
    that says who sends; the broker checks it, or compares it in selectors with what it knows: `verified` and `unverified`. `escapes`:
    names are percent-encoded; otherwise they are limited to `names`. Limits are None where the broker has none of its own or tells them in
    its attach; sizes are in bytes. A feature that is not in `since` is one that it has not, or that nobody has looked for.
    """

    name: str
    product: str
    oldest: Version
    queue: str
    entry: str
    topic: str = ""
    slots: int = 64
    exclusive: str = ""
    sender: str = "user_id"
    verified: str = ""
    unverified: str = ""
    escapes: bool = False
    names: str = r"[A-Za-z0-9._-]+"
    queue_capabilities: tuple[str, ...] = ()
    topic_capabilities: tuple[str, ...] = ()
    links_per_session: int | None = None
    sessions: int | None = None
    message_size: int | None = None
    checks_user_id: bool = False
    since: Mapping[Feature, Version] = field(default_factory=dict)


_SENDER: Final = "JMS_AMQP_ReplyToGroupID"
_PLAIN: Final = "JMS_AMQP_NATIVE = TRUE AND JMS_AMQP_MESSAGE_FORMAT IS NULL"

# Without escapes, names are limited to what means nothing in an address: ActiveMQ takes `>`, `*`, `,` and `?`, Artemis `#`, `*` and `::`,
# qpidd `/` and `;` for something else.
DIALECTS: Final = (
    Dialect(
        "RabbitMQ",
        product="RabbitMQ",
        oldest=(4,),  # 3 has AMQP 1.0 as a plug-in: no management, and exchange subscriptions that leak a queue each
        queue="/queues/{name}",
        entry="/exchanges/{name}/{key}",
        escapes=True,
        links_per_session=256,
        sessions=64,
        message_size=16 * 1024 * 1024,
        checks_user_id=True,
        since={
            Feature.MANAGEMENT: ALWAYS,
            Feature.STREAMS: ALWAYS,
            Feature.ACTIVE_CONSUMER: ALWAYS,
            Feature.TIMESTAMPS: ALWAYS,
            Feature.BOTH_WAYS: ALWAYS,
            Feature.COPIES: (4, 1),
            # These three are missing in 4.0.5 and there in 4.3.6; what lies between was not looked at.
            Feature.DYNAMIC_REPLIES: (4, 3),
            Feature.CREDIT: (4, 3),
            Feature.LINK_ERRORS: (4, 3),
        },
    ),
    Dialect(
        "ActiveMQ",
        product="ActiveMQ",
        oldest=(5, 14),
        queue="queue://{name}",
        entry="queue://{name}.{key}",
        topic="topic://{name}",
        slots=16,  # each is some lines of the broker's configuration
        exclusive="?consumer.exclusive=true",
        # It knows who sends, and tells only selectors; they know this property as it stands in the message. What _PLAIN leaves out is not
        # passed on as it is, or costs whoever receives it a credit and never arrives.
        sender="reply_to_group_id",
        verified=f"{_PLAIN} AND JMSXUserID = {_SENDER}",
        unverified=f"{_PLAIN} AND ({_SENDER} IS NULL OR JMSXUserID <> {_SENDER})",
        names=r"[A-Za-z0-9._%~-]+",
        since={
            Feature.BY_USE: ALWAYS,
            Feature.EXCLUSIVE: ALWAYS,
            Feature.SELECTORS: ALWAYS,
            Feature.DYNAMIC_REPLIES: ALWAYS,
            Feature.CREDIT: ALWAYS,
            Feature.LINK_ERRORS: ALWAYS,
        },
    ),
    Dialect(
        "Artemis",
        product="apache-activemq-artemis",
        oldest=(2,),
        queue="{name}",
        entry="{name}.{key}",
        topic="{name}",
        queue_capabilities=("queue",),
        topic_capabilities=("topic",),
        since={Feature.DYNAMIC_REPLIES: ALWAYS, Feature.CREDIT: ALWAYS, Feature.LINK_ERRORS: ALWAYS},
    ),
    Dialect(
        "qpidd",
        product="qpid-cpp",
        oldest=(1,),
        queue="{name}",
        entry="{name}",
        queue_capabilities=("create-on-demand",),
        checks_user_id=True,
        since={Feature.DYNAMIC_REPLIES: ALWAYS, Feature.CREDIT: ALWAYS, Feature.LINK_ERRORS: ALWAYS},
    ),
)


@dataclass(frozen=True, slots=True)
class Broker:
    """The broker at the other end of a connection."""

    dialect: Dialect
    version: Version

    def __str__(self) -> str:
        return f"{self.dialect.name} {'.'.join(map(str, self.version))}"

    def has(self, feature: Feature) -> bool:
        since = self.dialect.since.get(feature)
        return since is not None and self.version >= since

    @property
    def declares(self) -> bool:
        """Whether what a domain needs is declared; otherwise it is there by being used."""
        return all(map(self.has, DECLARED))

    def queue(self, name: str, *, exclusive: bool = False, selector: str = "") -> Terminus:
        """A queue as source or as target; a source may be `exclusive` where the consumer has to ask for it, and have a selector where there
        are any. Raises ClacksError if the name cannot be written in an address."""
        dialect = self.dialect
        address = self._address(dialect.queue, name) + (dialect.exclusive if exclusive else "")
        filters = {str(_SELECTOR): Described(_SELECTOR, selector)} if selector else {}
        return Terminus(address, filter=filters, capabilities=dialect.queue_capabilities)

    def entry(self, name: str, key: str = "") -> Terminus:
        """The target for what goes into a domain by a key. Raises ClacksError if the name cannot be written in an address."""
        address = self._address(self.dialect.entry, name, key)
        return Terminus(address.rstrip("/."), capabilities=() if self.dialect.escapes else self.dialect.queue_capabilities)

    def topic(self, name: str) -> Terminus:
        """A topic as source or as target. Raises ClacksError if the name cannot be written in an address."""
        return Terminus(self._address(self.dialect.topic, name), capabilities=self.dialect.topic_capabilities)

    def signed(self, properties: Properties, user: str) -> Properties:
        """The properties of a message, with who sends it."""
        own = replace(properties, user_id=user.encode())
        return replace(own, reply_to_group_id=user) if self.dialect.sender == "reply_to_group_id" else own

    def spelled(self, name: str) -> str:
        """A name as this broker can have it: where none is escaped in an address, it is in the name itself."""
        return name if self.dialect.escapes else quote(name, safe="%")

    def _address(self, form: str, name: str, key: str = "") -> str:
        if not self.dialect.escapes and not re.fullmatch(self.dialect.names, name + key):
            raise ClacksError(
                "config-invalid", source=f"the name {name!r}", reason=f"it means something else in an address of {self.dialect.name}",
                hint="Use letters, digits, '.', '-' and '_'.",
            )  # fmt: skip
        return form.format(name=escaped(name), key=escaped(key)) if self.dialect.escapes else form.format(name=name, key=key)


def escaped(name: str) -> str:
    """A name as a part of an address or path of RabbitMQ: everything is percent-encoded but letters, digits, '-', '.', '_' and '~'."""
    return quote(name, safe="")


def domain_broker(properties: Mapping[str, Any], url: object) -> Broker:
    """As `recognise`, for a broker that a domain is to run on. Raises ClacksError also if it lacks a feature that is needed there."""
    broker = recognise(properties, url)
    missing = min(([feature.value for feature in way if not broker.has(feature)] for way in WAYS), key=len)
    if missing:
        raise _unusable(url, f"it is {broker}, and a domain needs what that does not have ({'; '.join(missing)})")
    return broker


def recognise(properties: Mapping[str, Any], url: object) -> Broker:
    """The broker that announces these properties in its open frame (2.7.1); `url` is how an error calls it.

    Raises ClacksError if it is none of the table, or too old."""
    product, told = str(properties.get("product", "")), str(properties.get("version", ""))
    dialect = next((dialect for dialect in DIALECTS if dialect.product == product), None)
    if dialect is None:
        raise _unusable(
            url, f"it calls itself {product!r}, which is no broker that a domain can run on" if product else "it does not say what it is"
        )
    version = tuple(map(int, re.findall(r"\d+", told.partition("-")[0])))
    if version < dialect.oldest:
        raise _unusable(url, f"it is {product} {told or 'of an unknown version'}")
    return Broker(dialect, version)


def _unusable(url: object, reason: str) -> ClacksError:
    oldest = [Broker(dialect, dialect.oldest) for dialect in DIALECTS]
    needed = " or ".join(str(broker) for broker in oldest if any(all(map(broker.has, way)) for way in WAYS))
    return ClacksError("broker-unusable", url=url, reason=reason, needed=needed)
