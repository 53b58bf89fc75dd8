"""From an AMQP message to what the bus takes, and from there to the message that subscribers get.

The bare message goes through byte for byte. In front of it stands what is the broker's: the header, and annotations with the event's
id, the authenticated sender and the time of acceptance (names that begin with x-opt-clacks- are nobody else's to set).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ...amqp import CodecError, Draft, Message, Timestamp, UInt, annotate
from ...amqp.codec import encode
from ...amqp.message import HEADER
from ...common.errors import ClacksError
from ...common.event import to_bytes
from ..bus import Incoming

ID: Final = "x-opt-clacks-id"
USER: Final = "x-opt-clacks-user"
TIME: Final = "x-opt-clacks-time"
DROPPED: Final = "x-opt-clacks-dropped"  # how many events were dropped just before this one, because too many waited
DEAD_REASON: Final = "x-opt-clacks-dead-reason"
DEAD_NAME: Final = "x-opt-clacks-dead-subscription"
UNDECIDED: Final = "x-opt-clacks-undecided"  # its filter was suspended before it had decided about this one
_RESERVED: Final = "x-opt-clacks-"

_NOTHING: Final[Mapping[str, Any]] = {}

# What a value section may hold instead of text, in the words of its sender.
_KINDS: Final = ((bool, "a boolean"), (int | float, "a number"), (list, "a list"), (dict, "a map"))


def incoming_event(message: Message, user: str, origin: str, now: float) -> Incoming:
    """What the bus is asked about a message. `now` in seconds since the epoch. Raises ClacksError if its body cannot be an event."""
    try:
        body = message.body
        if message.sections:
            user_id, encoding, ttl = _transport(message, now)
            variables, annotations = message.application_properties, _foreign_annotations(message)
        else:
            user_id, encoding, ttl, variables, annotations = None, None, None, _NOTHING, _NOTHING
    except CodecError as error:
        raise ClacksError("event-body-type", found=f"not in order ({error})") from error
    if encoding:
        raise ClacksError("event-encoding", found=str(encoding))
    if type(body) is not bytes:
        if body is None:
            raise ClacksError("event-empty")
        if not isinstance(body, str):
            found = next((name for kind, name in _KINDS if isinstance(body, kind)), "of a type that carries no text")
            raise ClacksError("event-body-type", found=found)
        body = to_bytes(body)
    return Incoming(body, user, message.bare, user_id, variables, annotations, ttl, origin)


def _transport(message: Message, now: float) -> tuple[bytes | None, str | None, float | None]:
    """The user-id, the content-encoding, and the seconds left: the shorter of the header's ttl (3.2.1) and of what is left until the
    absolute-expiry-time (3.2.4)."""
    properties = message.properties
    if properties.user_id is not None and not isinstance(properties.user_id, bytes):
        raise CodecError("its user-id is no binary")
    ttl, expiry = message.header.ttl, properties.absolute_expiry_time
    left = [ttl / 1000] if isinstance(ttl, int) else []
    if isinstance(expiry, int):
        left.append(expiry / 1000 - now)
    return properties.user_id, properties.content_encoding, min(left, default=None)


def _foreign_annotations(message: Message) -> Mapping[str, Any]:
    given = {key: value for key, value in message.annotations.items() if isinstance(key, str) and not key.startswith(_RESERVED)}
    if not all(map(str.isascii, given)):
        raise CodecError("the key of an annotation is no symbol")
    return given


def header(ttl: float | None, *, durable: bool | None = None) -> bytes:
    """The header (3.2.1) of what is sent on; `ttl` in seconds. Durability and priority of a hop are not the next one's."""
    return b"\0\x53\x70" + encode([durable, None, None if ttl is None else UInt(_milliseconds(ttl))])


def _milliseconds(ttl: float) -> int:
    """As a header has it: an absolute-expiry-time may be further away than that can say."""
    return min(max(0, int(ttl * 1000)), 2**32 - 1)


def with_header(encoded: bytes, ttl: float | None, attempts: int) -> bytes:
    """A message that is sent again, after so many attempts; `ttl` in seconds. Everything behind the header stays as it is."""
    _, end = Message(encoded).sections.get(HEADER, (0, 0))
    return annotate(encoded[end:], {}, None if ttl is None else _milliseconds(ttl), attempts)


def marked(encoded: bytes, marks: Mapping[str, Any]) -> bytes:
    """A message with further annotations."""
    message = Message(encoded)
    header = message.header
    return annotate(message.bare, {**message.annotations, **marks}, header.ttl, header.delivery_count or 0)


class Stamp:
    """Writes the annotations (3.2.3) of the events that an agent accepts: id, sender, time. By hand, because every event has them."""

    def __init__(self, prefix: str, time: type[int] = Timestamp) -> None:
        """Ids begin with `prefix`, which no other agent has and no other run of this one had. `time` is the type of the time: int where
        a broker has no timestamps."""
        self._prefix, self._time = prefix, time
        self._count = 0
        self._users: dict[str, tuple[bytes, bytes]] = {}  # what stands before the id and between id and time

    def front(self, user: str, milliseconds: int, others: Mapping[str, Any] = _NOTHING) -> bytes:
        """The section for the next event; `milliseconds` since the epoch; `others` are the sender's annotations that go on."""
        self._count += 1
        if others:
            own = {ID: f"{self._prefix}{self._count:012x}", USER: user, TIME: self._time(milliseconds)}
            return annotate(b"", {**others, **own})
        parts = self._users.get(user) or self._learn(user)
        return b"%b%012x%b%b" % (parts[0], self._count, parts[1], milliseconds.to_bytes(8, "big"))

    def _learn(self, user: str) -> tuple[bytes, bytes]:
        # The greatest number has the encoding that each number can have.
        whole = annotate(b"", {ID: f"{self._prefix}{0:012x}", USER: user, TIME: self._time(2**63 - 1)})
        place = whole.index(b"0" * 12)
        parts = self._users[user] = whole[:place], whole[place + 12 : -8]
        return parts


def bare_message(incoming: Incoming) -> bytes:
    """The bare message of an event: the one it came in, or one made for it."""
    return incoming.encoded or Draft(incoming.body, application_properties=incoming.properties).encode()
