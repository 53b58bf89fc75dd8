"""From an AMQP message to what the bus takes, and from there to the message that subscribers get.

The bare message goes through byte for byte. In front of it stands what is the broker's: the header, and annotations with the event's
id, the authenticated sender and the time of acceptance (names that begin with x-opt-clacks- are nobody else's to set).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

from ...amqp import CodecError, Draft, Message, Symbol, UInt
from ...amqp.codec import encode
from ...amqp.message import MESSAGE_ANNOTATIONS
from ...common.errors import ClacksError
from ...common.event import to_bytes
from ..bus import Incoming

ID: Final = "x-opt-clacks-id"
USER: Final = "x-opt-clacks-user"
TIME: Final = "x-opt-clacks-time"
_RESERVED: Final = "x-opt-clacks-"

_ID_KEY, _USER_KEY, _TIME_KEY = (encode(Symbol(name)) for name in (ID, USER, TIME))
_NOTHING: Final[Mapping[str, Any]] = {}

# What a value section may hold instead of text, in the words of its sender.
_KINDS: Final = ((bool, "a boolean"), (int | float, "a number"), (list, "a list"), (dict, "a map"))


def incoming_event(message: Message, user: str, origin: str, now: float) -> Incoming:
    """What the bus is asked about a message. `now` in seconds since the epoch. Raises ClacksError if its body cannot be an event."""
    try:
        properties = message.properties
        body = message.body
        variables = message.application_properties
        annotations, ttl = _foreign_annotations(message), _time_to_live(message, now)
    except CodecError as error:
        raise ClacksError("event-body-type", found=f"not in order ({error})") from error
    if properties.content_encoding:
        raise ClacksError("event-encoding", found=str(properties.content_encoding))
    if body is None:
        raise ClacksError("event-empty")
    if isinstance(body, str):
        body = to_bytes(body)
    elif not isinstance(body, bytes):
        found = next((name for kind, name in _KINDS if isinstance(body, kind)), "of a type that carries no text")
        raise ClacksError("event-body-type", found=found)
    if properties.user_id is not None and not isinstance(properties.user_id, bytes):
        raise ClacksError("event-body-type", found="a message whose user-id is not binary")
    return Incoming(body, user, message.bare, properties.user_id, variables, annotations, ttl, origin)


def _time_to_live(message: Message, now: float) -> float | None:
    """The shorter of the header's ttl (3.2.1) and what is left until the absolute-expiry-time (3.2.4)."""
    ttl, expiry = message.header.ttl, message.properties.absolute_expiry_time
    if ttl is None and expiry is None:
        return None
    left = [] if not isinstance(ttl, int) else [ttl / 1000]
    if isinstance(expiry, int):
        left.append(expiry / 1000 - now)
    return min(left, default=None)


def _foreign_annotations(message: Message) -> Mapping[str, Any]:
    if not any(section == MESSAGE_ANNOTATIONS for section, _, _ in message.spans):
        return _NOTHING
    return {key: value for key, value in message.annotations.items() if isinstance(key, str) and not key.startswith(_RESERVED)}


def header(ttl: float | None) -> bytes:
    """The header (3.2.1) of what is sent on; `ttl` in seconds. Durability and priority of a hop are not the next one's."""
    if ttl is None:
        return b""
    return b"\0\x53\x70" + encode([None, None, UInt(min(max(0, int(ttl * 1000)), 2**32 - 1))])


def stamp(event_id: str, user_encoded: bytes, milliseconds: int, others: Mapping[str, Any] = _NOTHING) -> bytes:
    """The message annotations (3.2.3), written by hand because every event has them. `user_encoded` is an AMQP string."""
    raw = event_id.encode()
    body = b"".join((
        _ID_KEY, bytes((0xA1, len(raw))), raw, _USER_KEY, user_encoded, _TIME_KEY, struct.pack(">Bq", 0x83, milliseconds),
    ))  # fmt: skip
    for key, value in others.items():
        body += encode(Symbol(key)) + encode(value)
    count = 6 + 2 * len(others)
    if len(body) < 255 and count < 256:
        return b"\0\x53\x72\xc1" + bytes((len(body) + 1, count)) + body
    return b"\0\x53\x72\xd1" + struct.pack(">II", len(body) + 4, count) + body


def bare_message(incoming: Incoming) -> bytes:
    """The bare message of an event: the one it came in, or one made for it."""
    return incoming.encoded or Draft(incoming.body, application_properties=incoming.properties).encode()
