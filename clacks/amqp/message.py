"""The sections of an AMQP 1.0 message (part 3.2), found without decoding what nobody asks for.

A broker forwards the bare message byte for byte and writes its own header and annotations in front of it. `Message` therefore keeps
the encoded bytes and where each section lies; a section is decoded when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from .codec import CodecError, Described, Symbol, Timestamp, UInt, decode, encode, skip

HEADER: Final = 0x70
DELIVERY_ANNOTATIONS: Final = 0x71
MESSAGE_ANNOTATIONS: Final = 0x72
PROPERTIES: Final = 0x73
APPLICATION_PROPERTIES: Final = 0x74
DATA: Final = 0x75
SEQUENCE: Final = 0x76
VALUE: Final = 0x77
FOOTER: Final = 0x78
_BODY: Final = (DATA, SEQUENCE, VALUE)
_SYMBOLIC: Final = {
    f"amqp:{name}:{kind}": code
    for code, name, kind in (
        (HEADER, "header", "list"),
        (DELIVERY_ANNOTATIONS, "delivery-annotations", "map"),
        (MESSAGE_ANNOTATIONS, "message-annotations", "map"),
        (PROPERTIES, "properties", "list"),
        (APPLICATION_PROPERTIES, "application-properties", "map"),
        (DATA, "data", "binary"),
        (SEQUENCE, "amqp-sequence", "list"),
        (VALUE, "amqp-value", "*"),
        (FOOTER, "footer", "map"),
    )
}

# Sections of a message. A body may come in several; 400,000 of them took a second to find.
SECTIONS_LIMIT: Final = 1_000
# Bytes of a section that is decoded value by value, 3 ms at its densest (single bytes). Text and binary may be of any size.
DECODED_LIMIT: Final = 16 * 1024
_AS_A_WHOLE: Final = frozenset({0xA0, 0xB0, 0xA1, 0xB1})

# The fields of the two lists, in their order (3.2.1 and 3.2.4).
_HEADER_FIELDS: Final = ("durable", "priority", "ttl", "first_acquirer", "delivery_count")
_PROPERTY_FIELDS: Final = (
    "message_id", "user_id", "to", "subject", "reply_to", "correlation_id", "content_type", "content_encoding",
    "absolute_expiry_time", "creation_time", "group_id", "group_sequence", "reply_to_group_id",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """Transport data of a message (3.2.1); `ttl` in milliseconds."""

    durable: bool = False
    priority: int = 4
    ttl: int | None = None
    first_acquirer: bool = False
    delivery_count: int = 0


@dataclass(frozen=True, slots=True)
class Properties:
    """What the sender says of its message (3.2.4); times in milliseconds since the epoch."""

    message_id: Any = None
    user_id: bytes | None = None
    to: str | None = None
    subject: str | None = None
    reply_to: str | None = None
    correlation_id: Any = None
    content_type: str | None = None
    content_encoding: str | None = None
    absolute_expiry_time: int | None = None
    creation_time: int | None = None
    group_id: str | None = None
    group_sequence: int | None = None
    reply_to_group_id: str | None = None


_NO_HEADER: Final = Header()
_NO_PROPERTIES: Final = Properties()
_NO_MAP: Final[Mapping[str, Any]] = {}


class Message:
    """An encoded message and where its sections lie. Raises CodecError if `encoded` is not a message."""

    __slots__ = ("__dict__", "bare_start", "encoded", "spans")

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded
        self.spans: list[tuple[int, int, int]] = []  # (section, start of its value, end)
        bare_start = -1
        pos, size = 0, len(encoded)
        while pos < size:
            start = pos
            section, pos = _section(encoded, pos)
            end = skip(encoded, pos)
            self.spans.append((section, pos, end))
            if bare_start < 0 and section >= PROPERTIES:
                bare_start = start
            pos = end
            if len(self.spans) > SECTIONS_LIMIT:
                raise CodecError(f"it has more than {SECTIONS_LIMIT} sections")
        self.bare_start = bare_start if bare_start >= 0 else size

    @property
    def bare(self) -> bytes:
        """The immutable part: properties, application properties, body and footer, byte for byte (3.2)."""
        return self.encoded[self.bare_start :]

    def _read(self, section: int) -> Any:
        for code, start, end in self.spans:
            if code == section:
                return self._value(start, end)
        return None

    def _value(self, start: int, end: int) -> Any:
        if end - start > DECODED_LIMIT and self.encoded[start] not in _AS_A_WHOLE:
            raise CodecError(f"a section has {end - start} bytes; the limit is {DECODED_LIMIT} for what is neither text nor binary")
        return decode(self.encoded, start)[0]

    @cached_property
    def header(self) -> Header:
        fields = self._read(HEADER)
        return Header(**_named(_HEADER_FIELDS, fields)) if fields else _NO_HEADER

    @cached_property
    def properties(self) -> Properties:
        fields = self._read(PROPERTIES)
        return Properties(**_named(_PROPERTY_FIELDS, fields)) if fields else _NO_PROPERTIES

    @cached_property
    def application_properties(self) -> Mapping[str, Any]:
        return _map(self._read(APPLICATION_PROPERTIES))

    @cached_property
    def annotations(self) -> Mapping[str, Any]:
        """The message annotations (3.2.3)."""
        return _map(self._read(MESSAGE_ANNOTATIONS))

    @cached_property
    def body(self) -> Any:
        """The bytes of the data sections joined, or the value of the value section; None without a body.

        Raises CodecError for sequences, which carry no event and no command.
        """
        found = [(code, start, end) for code, start, end in self.spans if code in _BODY]
        if not found:
            return None
        kind = found[0][0]
        if kind == SEQUENCE or any(code != kind for code, _, _ in found):
            raise CodecError("the body is neither data nor one value")
        values = [self._value(start, end) for _, start, end in found]
        if kind == VALUE:
            return values[0]
        if len(values) == 1:
            return values[0]
        if not all(isinstance(value, bytes) for value in values):
            raise CodecError("a data section holds something else than binary")
        return b"".join(values)


def _section(encoded: bytes, pos: int) -> tuple[int, int]:
    """The code of the section whose descriptor starts at `pos`, and where its value starts."""
    if encoded[pos] == 0 and encoded[pos + 1 : pos + 2] == b"\x53" and HEADER <= encoded[pos + 2 : pos + 3].ljust(1)[0] <= FOOTER:
        return encoded[pos + 2], pos + 3
    if encoded[pos] != 0:
        raise CodecError("a section has no descriptor")
    descriptor, pos = decode(encoded, pos + 1)
    code = _SYMBOLIC.get(descriptor) if isinstance(descriptor, Symbol) else descriptor
    if not isinstance(code, int) or not HEADER <= code <= FOOTER:
        raise CodecError(f"{descriptor!r} is no section of a message")
    return code, pos


def _named(names: tuple[str, ...], fields: Any) -> dict[str, Any]:
    if not isinstance(fields, list) or len(fields) > len(names):
        raise CodecError("a section is not the list it should be")
    return {name: value for name, value in zip(names, fields, strict=False) if value is not None}


def _map(value: Any) -> Mapping[str, Any]:
    if value is None:
        return _NO_MAP
    if not isinstance(value, dict):
        raise CodecError("a section is not the map it should be")
    return value


def annotate(bare: bytes, annotations: Mapping[str, Any], ttl: int | None = None, delivery_count: int = 0) -> bytes:
    """The message that a broker sends: its own header and message annotations in front of `bare`. `ttl` in milliseconds."""
    front = b""
    if ttl is not None or delivery_count:
        header = [None, None, None if ttl is None else UInt(ttl), None, UInt(delivery_count)]
        front = b"\0\x53\x70" + encode(header)
    if annotations:
        front += b"\0\x53\x72" + encode({Symbol(key): value for key, value in annotations.items()})
    return front + bare


@dataclass(slots=True)
class Draft:
    """A message to be written. `body` bytes go into a data section, anything else into a value section."""

    body: Any = b""
    properties: Properties = _NO_PROPERTIES
    application_properties: Mapping[str, Any] = field(default_factory=dict)
    annotations: Mapping[str, Any] = field(default_factory=dict)
    ttl: int | None = None

    def encode(self) -> bytes:
        """The encoded message. Raises CodecError if a value has no AMQP encoding."""
        parts = []
        given = [getattr(self.properties, name) for name in _PROPERTY_FIELDS]
        while given and given[-1] is None:
            given.pop()
        if given:
            for position in (6, 7):  # content-type and content-encoding are symbols
                if len(given) > position and given[position] is not None:
                    given[position] = Symbol(given[position])
            for position in (8, 9):
                if len(given) > position and given[position] is not None:
                    given[position] = Timestamp(given[position])
            parts.append(encode(Described(PROPERTIES, given)))
        if self.application_properties:
            parts.append(encode(Described(APPLICATION_PROPERTIES, dict(self.application_properties))))
        kind = DATA if isinstance(self.body, bytes) else VALUE
        parts.append(encode(Described(kind, self.body)))
        return annotate(b"".join(parts), self.annotations, self.ttl)
