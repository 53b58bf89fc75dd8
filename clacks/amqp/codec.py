"""The AMQP 1.0 type system (part 1): values to bytes and back.

Pure functions over bytes; nothing here knows what a frame or a message is. Bytes from a peer are untrusted: whatever they hold,
`decode` answers a value or raises `CodecError`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

# Real filters and maps nest three or four deep; Python's own stack would end at about 300 of our frames.
MAX_DEPTH: Final = 32


class CodecError(ValueError):
    """The bytes are not an AMQP value, or the value has no AMQP encoding."""


class Symbol(str):
    """A symbolic value (1.6.21): ASCII, from a constrained domain."""

    __slots__ = ()


class Int(int):
    """An int to be encoded as int (1.6.7) instead of long."""

    __slots__ = ()


class UInt(int):
    """An int to be encoded as uint (1.6.4) instead of long."""

    __slots__ = ()


class ULong(int):
    """An int to be encoded as ulong (1.6.5) instead of long."""

    __slots__ = ()


class UByte(int):
    """An int to be encoded as ubyte (1.6.2) instead of long."""

    __slots__ = ()


class Timestamp(int):
    """Milliseconds since the Unix epoch (1.6.17)."""

    __slots__ = ()

    def as_datetime(self) -> datetime:
        """The moment in UTC. Raises OverflowError outside the years 1 to 9999."""
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(self))


class SymbolArray(tuple[Symbol, ...]):
    """Several symbols as one AMQP array (1.6.24), the form that capabilities travel in."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Described:
    """A value with its descriptor (1.2): a Symbol, or an int for the ulong form."""

    descriptor: Symbol | int
    value: Any


# --- decoding -------------------------------------------------------------------------------------------------------------------

_Reader = Callable[[bytes, int, int], tuple[Any, int]]


def _fixed(fmt: str, convert: Callable[[Any], Any] | None = None) -> _Reader:
    layout = struct.Struct(">" + fmt)
    size, unpack = layout.size, layout.unpack_from

    def read(data: bytes, pos: int, depth: int) -> tuple[Any, int]:
        (value,) = unpack(data, pos)
        return (convert(value) if convert else value), pos + size

    return read


def _constant(value: Any) -> _Reader:
    return lambda data, pos, depth: (value, pos)


def _sized(width: int, convert: Callable[[bytes], Any]) -> _Reader:
    def read(data: bytes, pos: int, depth: int) -> tuple[Any, int]:
        start = pos + width
        end = start + int.from_bytes(data[pos:start], "big")
        if end > len(data):
            raise CodecError("a value ends after its data")
        return convert(data[start:end]), end

    return read


def _items(data: bytes, pos: int, width: int) -> tuple[int, int, int]:
    """The count, the start and the end of a compound value's items."""
    size = int.from_bytes(data[pos : pos + width], "big")
    end = pos + width + size
    if size < width or end > len(data):
        raise CodecError("a compound value ends after its data")
    count = int.from_bytes(data[pos + width : pos + 2 * width], "big")
    return count, pos + 2 * width, end


def _list(width: int) -> _Reader:
    def read(data: bytes, pos: int, depth: int) -> tuple[Any, int]:
        count, pos, end = _items(data, pos, width)
        if count > end - pos:  # an item takes at least its constructor byte
            raise CodecError("a list counts more items than it has bytes")
        values = []
        for _ in range(count):
            value, pos = _decode(data, pos, depth + 1)
            values.append(value)
        if pos != end:
            raise CodecError("a list's items do not fill it")
        return values, end

    return read


# What a map's key may be: texts and bytes hash with a secret, and of 64-bit integers at most nine have the same hash. Of UUIDs and
# described values anybody can make a hundred thousand that have, and a map of 4,000 such keys took half a second to build.
_KEYS: Final = frozenset({str, Symbol, bytes, bool, int, UByte, UInt, ULong, Timestamp, type(None)})


def _map(width: int) -> _Reader:
    read_list = _list(width)

    def read(data: bytes, pos: int, depth: int) -> tuple[Any, int]:
        flat, end = read_list(data, pos, depth)
        if len(flat) % 2:
            raise CodecError("a map has a key without a value")
        keys = flat[::2]
        if not _KEYS.issuperset(map(type, keys)):
            raise CodecError("a map's key is no text, no binary and no integer")
        return dict(zip(keys, flat[1::2], strict=True)), end

    return read


def _array(width: int) -> _Reader:
    def read(data: bytes, pos: int, depth: int) -> tuple[Any, int]:
        count, pos, end = _items(data, pos, width)
        if pos >= end:
            raise CodecError("an array has no constructor")
        descriptor = None
        if data[pos] == 0:
            descriptor, pos = _descriptor(data, pos + 1, depth + 1)
        code, pos = data[pos], pos + 1
        reader = _READERS.get(code)
        if reader is None:
            raise CodecError(f"0x{code:02x} is no type")
        zero_width = code in _ZERO_WIDTH
        if count > (MAX_DEPTH if zero_width else end - pos):  # else four bytes could ask for 2^32 items
            raise CodecError("an array counts more items than it has bytes")
        values = []
        for _ in range(count):
            value, pos = reader(data, pos, depth + 1)
            values.append(value if descriptor is None else Described(descriptor, value))
        if pos != end:
            raise CodecError("an array's items do not fill it")
        return values, end

    return read


def _text(raw: bytes) -> str:
    return raw.decode("utf-8")


def _symbol(raw: bytes) -> Symbol:
    return Symbol(raw.decode("ascii"))


_READERS: Final[dict[int, _Reader]] = {
    0x40: _constant(None),
    0x41: _constant(True),
    0x42: _constant(False),
    0x43: _constant(UInt(0)),
    0x44: _constant(ULong(0)),
    0x45: lambda data, pos, depth: ([], pos),
    0x50: _fixed("B", UByte),
    0x51: _fixed("b"),
    0x52: _fixed("B", UInt),
    0x53: _fixed("B", ULong),
    0x54: _fixed("b"),
    0x55: _fixed("b"),
    0x56: _fixed("?"),
    0x60: _fixed("H"),
    0x61: _fixed("h"),
    0x70: _fixed("I", UInt),
    0x71: _fixed("i"),
    0x72: _fixed("f"),
    0x73: _fixed("4s", lambda raw: raw.decode("utf-32-be")),
    0x74: _fixed("4s"),  # decimal32: kept as its bytes, Python's Decimal has another coefficient
    0x80: _fixed("Q", ULong),
    0x81: _fixed("q"),
    0x82: _fixed("d"),
    0x83: _fixed("q", Timestamp),
    0x84: _fixed("8s"),
    0x94: _fixed("16s"),
    0x98: _fixed("16s", lambda raw: UUID(bytes=raw)),
    0xA0: _sized(1, bytes),
    0xA1: _sized(1, _text),
    0xA3: _sized(1, _symbol),
    0xB0: _sized(4, bytes),
    0xB1: _sized(4, _text),
    0xB3: _sized(4, _symbol),
    0xC0: _list(1),
    0xC1: _map(1),
    0xD0: _list(4),
    0xD1: _map(4),
    0xE0: _array(1),
    0xF0: _array(4),
}
_ZERO_WIDTH: Final = frozenset({0x40, 0x41, 0x42, 0x43, 0x44, 0x45})


def _descriptor(data: bytes, pos: int, depth: int) -> tuple[Symbol | int, int]:
    descriptor, pos = _decode(data, pos, depth)
    # Some write a ulong's number as another integer. One below 0 could not be encoded again.
    if not isinstance(descriptor, Symbol) and not (isinstance(descriptor, int) and descriptor >= 0):
        raise CodecError("a descriptor is neither a symbol nor a ulong")
    return descriptor, pos


def _decode(data: bytes, pos: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise CodecError(f"values nest deeper than {MAX_DEPTH}")
    code = data[pos]
    if code == 0:
        descriptor, pos = _descriptor(data, pos + 1, depth + 1)
        value, pos = _decode(data, pos, depth + 1)
        return Described(descriptor, value), pos
    reader = _READERS.get(code)
    if reader is None:
        raise CodecError(f"0x{code:02x} is no type")
    return reader(data, pos + 1, depth)


def decode(data: bytes, pos: int = 0) -> tuple[Any, int]:
    """The value that starts at `pos`, and where the next one starts. Raises CodecError."""
    try:
        return _decode(data, pos, 0)
    except CodecError:
        raise
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise CodecError(f"not an AMQP value: {error}") from error


def decode_all(data: bytes) -> list[Any]:
    """Every value in `data`, one after the other. Raises CodecError."""
    values, pos = [], 0
    while pos < len(data):
        value, pos = decode(data, pos)
        values.append(value)
    return values


# Bytes that follow a constructor, by its high nibble (1.2.2: the subcategory says how wide a value is).
_FIXED_WIDTH: Final = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
_LENGTH_WIDTH: Final = {0xA: 1, 0xB: 4, 0xC: 1, 0xD: 4, 0xE: 1, 0xF: 4}


def skip(data: bytes, pos: int) -> int:
    """Where the value at `pos` ends, without decoding it. Raises CodecError if that is behind the end of `data`."""
    try:
        code = data[pos]
        while code == 0:
            pos = skip(data, pos + 1)
            code = data[pos]
        width = _FIXED_WIDTH.get(code >> 4)
        if width is not None:
            pos += 1 + width
        else:
            width = _LENGTH_WIDTH[code >> 4]
            pos += 1 + width + int.from_bytes(data[pos + 1 : pos + 1 + width], "big")
    except (IndexError, KeyError, RecursionError):
        raise CodecError("not an AMQP value") from None
    if pos > len(data):
        raise CodecError("a value ends after its data")
    return pos


# --- encoding -------------------------------------------------------------------------------------------------------------------


def _variable(short: int, long: int, raw: bytes) -> bytes:
    if len(raw) < 256:
        return bytes((short, len(raw))) + raw
    return bytes((long,)) + len(raw).to_bytes(4, "big") + raw


def _compound(short: int, long: int, count: int, body: bytes) -> bytes:
    if len(body) < 255 and count < 256:
        return bytes((short, len(body) + 1, count)) + body
    return bytes((long,)) + struct.pack(">II", len(body) + 4, count) + body


def _unsigned(zero: int, small: int, full: int, fmt: str) -> Callable[[int], bytes]:
    def write(value: int) -> bytes:
        if value == 0:
            return bytes((zero,))
        if 0 < value < 256:
            return bytes((small, value))
        return bytes((full,)) + struct.pack(fmt, value)

    return write


def _long(value: int) -> bytes:
    return struct.pack(">Bb", 0x55, value) if -128 <= value < 128 else struct.pack(">Bq", 0x81, value)


def _milliseconds(value: datetime) -> bytes:
    if value.tzinfo is None:
        raise CodecError("a datetime without a time zone has no AMQP encoding")
    return struct.pack(">Bq", 0x83, (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1))


def _described(value: Described) -> bytes:
    descriptor = value.descriptor
    return b"\0" + encode(descriptor if isinstance(descriptor, Symbol) else ULong(descriptor)) + encode(value.value)


def _symbols(value: SymbolArray) -> bytes:
    body = b"".join(len(item).to_bytes(4, "big") + item.encode("ascii") for item in value)
    return _compound(0xE0, 0xF0, len(value), b"\xb3" + body)


def _flat(value: Mapping[Any, Any]) -> bytes:
    return _compound(0xC1, 0xD1, 2 * len(value), b"".join(encode(k) + encode(v) for k, v in value.items()))


def _listed(value: Sequence[Any]) -> bytes:
    return _compound(0xC0, 0xD0, len(value), b"".join(map(encode, value))) if value else b"\x45"


_WRITERS: Final[dict[type, Callable[[Any], bytes]]] = {
    type(None): lambda value: b"\x40",
    bool: lambda value: b"\x41" if value else b"\x42",
    UByte: lambda value: bytes((0x50, value)),
    UInt: _unsigned(0x43, 0x52, 0x70, ">I"),
    ULong: _unsigned(0x44, 0x53, 0x80, ">Q"),
    Timestamp: lambda value: struct.pack(">Bq", 0x83, value),
    Int: lambda value: struct.pack(">Bi", 0x71, value),
    int: _long,
    float: lambda value: struct.pack(">Bd", 0x82, value),
    Symbol: lambda value: _variable(0xA3, 0xB3, value.encode("ascii")),
    str: lambda value: _variable(0xA1, 0xB1, value.encode("utf-8")),
    bytes: lambda value: _variable(0xA0, 0xB0, value),
    UUID: lambda value: b"\x98" + value.bytes,
    datetime: _milliseconds,
    Described: _described,
    SymbolArray: _symbols,
    dict: _flat,
    list: _listed,
    tuple: _listed,
}


def encode(value: Any) -> bytes:
    """The bytes of a Python value in its most compact encoding. Raises CodecError if it has none."""
    writer = _WRITERS.get(type(value))
    if writer is None:
        writer = next((w for kind, w in _WRITERS.items() if isinstance(value, kind)), None)
        if writer is None:
            raise CodecError(f"a {type(value).__name__} has no AMQP encoding")
    try:
        return writer(value)
    except (struct.error, UnicodeEncodeError) as error:
        raise CodecError(f"{value!r} has no AMQP encoding: {error}") from error
