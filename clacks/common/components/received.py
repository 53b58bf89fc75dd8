"""An event as a subscriber gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from lxml import etree, objectify

from ...amqp import Message, Timestamp

# The agent has checked all of this; a client checks again because it may be connected to something else.
_parser = objectify.makeparser(resolve_entities=False, no_network=True, load_dtd=False, remove_blank_text=True)


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """`tree` is the `<Event>` element (lxml.objectify), `name` the event's, `body` the bytes it came in; `id`, `user` (the authenticated
    sender) and `time` (of acceptance, UTC) are the agent's word; `properties` the sender's application properties. `dropped` events were
    lost just before this one, because more waited than may; `attempts` to deliver this one have failed. A dead letter has the
    `dead_reason`, and is one of the subscription `dead_subscription`; elsewhere both are empty. `undecided`: the filter
    was suspended before it had decided about this one, so it may be none that was asked for (in a domain only, docs/domain.md)."""

    name: str
    tree: objectify.ObjectifiedElement
    body: bytes
    id: str
    user: str
    time: datetime | None
    properties: Mapping[str, Any]
    dropped: int = 0
    attempts: int = 0
    dead_reason: str = ""
    dead_subscription: str = ""
    undecided: bool = False

    @classmethod
    def read(cls, message: Message) -> Self:
        """Raises ValueError if the message holds no event."""
        body = message.body
        if isinstance(body, str):
            body = body.encode()
        if not isinstance(body, bytes):
            raise ValueError(f"the body is a {type(body).__name__}")
        try:
            tree = objectify.fromstring(body, _parser)
        except etree.XMLSyntaxError as error:
            raise ValueError(str(error)) from error
        children = [child for child in tree.iterchildren() if isinstance(child.tag, str)]
        annotations = message.annotations
        time = annotations.get("x-opt-clacks-time")
        return cls(
            name=etree.QName(children[0]).localname if children else "",
            tree=tree,
            body=body,
            id=str(annotations.get("x-opt-clacks-id", "")),
            user=str(annotations.get("x-opt-clacks-user", "")),
            time=Timestamp(time).as_datetime() if isinstance(time, int) else None,
            properties=message.application_properties,
            dropped=int(annotations.get("x-opt-clacks-dropped", 0)),
            attempts=int(message.header.delivery_count or 0),
            dead_reason=str(annotations.get("x-opt-clacks-dead-reason", "")),
            dead_subscription=str(annotations.get("x-opt-clacks-dead-subscription", "")),
            undecided=annotations.get("x-opt-clacks-undecided") is True,
        )
