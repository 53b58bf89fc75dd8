"""AMQP values and messages: what is written is read again, other implementations' bytes are understood, any bytes are survived."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import proton
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clacks.amqp.codec import CodecError, Described, Symbol, SymbolArray, Timestamp, UByte, UInt, ULong, decode, decode_all, encode, skip
from clacks.amqp.message import Draft, Message, Properties, annotate

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**32 - 1).map(UInt),
    st.integers(0, 2**64 - 1).map(ULong),
    st.integers(0, 255).map(UByte),
    st.integers(-(2**63), 2**63 - 1).map(Timestamp),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(max_size=400),
    st.uuids(),
    st.text(st.characters(max_codepoint=127), max_size=300).map(Symbol),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.text(max_size=5), inner, max_size=5),
        st.builds(Described, st.integers(0, 2**64 - 1), inner),
    ),
    max_leaves=20,
)


@given(values)
def test_what_is_written_is_read(value: Any) -> None:
    raw = encode(value)
    assert decode(raw) == (value, len(raw))
    assert skip(raw, 0) == len(raw)


@given(st.lists(values, max_size=4))
def test_values_follow_each_other(several: list[Any]) -> None:
    assert decode_all(b"".join(map(encode, several))) == several


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_our_error(raw: bytes) -> None:
    for read in (lambda: decode(raw), lambda: skip(raw, 0), lambda: Message(raw).body, lambda: Message(raw).properties):
        with contextlib.suppress(CodecError):
            read()


@given(values, st.integers(0, 400), st.integers(0, 255))
def test_a_broken_byte_is_survived(value: Any, where: int, byte: int) -> None:
    raw = bytearray(encode(value))
    raw[where % len(raw)] = byte
    with contextlib.suppress(CodecError):
        decode(bytes(raw))


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"\x40", None), (b"\x41", True), (b"\x42", False), (b"\x56\x01", True), (b"\x56\x00", False), (b"\x50\x07", 7), (b"\x51\xff", -1),
        (b"\x60\x01\x00", 256), (b"\x61\xff\xff", -1), (b"\x43", 0), (b"\x52\x09", 9), (b"\x70\0\0\x01\0", 256), (b"\x44", 0),
        (b"\x54\xff", -1), (b"\x71\xff\xff\xff\xff", -1), (b"\x55\xfe", -2), (b"\x72\x3f\x80\0\0", 1.0), (b"\x73\0\0\0A", "A"),
        (b"\x83\0\0\0\0\0\0\x03\xe8", 1000), (b"\xa3\x02ab", "ab"), (b"\xb1\0\0\0\x02ab", "ab"), (b"\x45", []), (b"\xc1\x01\0", {}),
        (b"\xe0\x06\x02\xa1\x01a\x01b", ["a", "b"]), (b"\xe0\x03\x03\x41", [True, True, True]),
        (b"\xe0\x09\x02\0\x53\x07\x52\x01\x02", [Described(7, 1), Described(7, 2)]),
    ],
)  # fmt: skip
def test_every_encoding_of_the_specification(raw: bytes, value: Any) -> None:
    if raw[0] == 0xE0 and len(raw) != raw[1] + 2:
        raw = bytes((0xE0, len(raw) - 2)) + raw[2:]
    assert decode(raw) == (value, len(raw))


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"\x00", b"\x3f", b"\xa1\x05ab", b"\xb1\xff\xff\xff\xffab", b"\xa1\x01\xff", b"\xc0\x01\x05", b"\xc0\x02\x01\x40\x40"[:3],
        b"\xf0\0\0\0\x05\xff\xff\xff\xff\x40", b"\xf0\0\0\0\x05\xff\xff\xff\xff\x41", b"\xd0\0\0\0\x04\xff\xff\xff\xff",
        b"\xc1\x03\x03\x40\x40", b"\0" * 100, b"\xc0\x03\x01" * 100, b"\x73\0\x11\0\0", b"\0\xa1\x01a\x40", b"\xc1\x04\x02\xc0\x01\x00\x40",
        b"\0\x55\xfb\x40", b"\xe0\x06\x01\0\x55\xfb\x52\x01",
    ],
    ids=repr,
)  # fmt: skip
def test_nonsense_is_refused(raw: bytes) -> None:
    with pytest.raises(CodecError):
        decode(raw)


@pytest.mark.parametrize("value", [object(), 2**63, ULong(2**64), "\ud800", datetime(2020, 1, 1), Symbol("ä"), UByte(300)], ids=repr)
def test_what_has_no_encoding(value: Any) -> None:
    with pytest.raises((CodecError, ValueError)):
        encode(value)


def test_times() -> None:
    moment = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)
    assert decode(encode(moment))[0].as_datetime() == moment


def test_capabilities_are_an_array() -> None:
    assert decode(encode(SymbolArray((Symbol("a"), Symbol("bc")))))[0] == ["a", "bc"]


# --- messages, against proton's own codec ----------------------------------------------------------------------------------------


def test_we_read_what_proton_writes() -> None:
    theirs = proton.Message(
        body="<Event/>", id=UUID(int=7), subject="s", reply_to="r", correlation_id="c", user_id=b"admin", ttl=3, durable=True, priority=7,
        properties={"a": 1, "b": True, "c.d": "x"}, content_type="text/xml", group_sequence=3,
    )  # fmt: skip
    theirs.annotations = {proton.symbol("x-opt-a"): 1}
    ours = Message(bytes(theirs.encode()))
    assert ours.body == "<Event/>"
    assert (ours.header.durable, ours.header.priority, ours.header.ttl) == (True, 7, 3000)
    properties = ours.properties
    assert (properties.message_id, properties.subject, properties.reply_to) == (UUID(int=7), "s", "r")
    assert (properties.correlation_id, properties.user_id, properties.content_type) == ("c", b"admin", "text/xml")
    assert ours.application_properties == {"a": 1, "b": True, "c.d": "x"}
    assert ours.annotations == {"x-opt-a": 1}
    assert ours.encoded.endswith(ours.bare)
    assert Message(annotate(ours.bare, {})).properties == properties


def test_proton_reads_what_we_write() -> None:
    draft = Draft(
        b"<Event/>", Properties("m", b"u", "t", reply_to="r", correlation_id=5, content_type="text/xml", creation_time=1),
        {"flag": True, "big": 2**40, "text": "ä"}, {"x-opt-clacks-id": "1"}, ttl=1500,
    )  # fmt: skip
    theirs = proton.Message()
    theirs.decode(draft.encode())
    assert bytes(theirs.body) == b"<Event/>"
    assert (theirs.id, bytes(theirs.user_id), theirs.address, theirs.reply_to) == ("m", b"u", "t", "r")
    assert (theirs.ttl, theirs.content_type) == (1.5, "text/xml")
    assert theirs.properties == {"flag": True, "big": 2**40, "text": "ä"}
    assert theirs.annotations == {"x-opt-clacks-id": "1"}


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"\0\x53\x75\xa0\x02ab", b"ab"),
        (b"\0\x53\x75\xa0\x02ab\0\x53\x75\xa0\x01c", b"abc"),
        (b"\0\x53\x77\xa1\x02ab", "ab"),
        (b"\0\x53\x77\x40", None),
        (b"\0\x80\0\0\0\0\0\0\0\x75\xa0\x01a", b"a"),
        (b"\0\xa3\x10amqp:data:binary\xa0\x01a", b"a"),
        (b"\0\x53\x70\x45\0\x53\x73\x45\0\x53\x75\xb0\0\0\0\x01a\0\x53\x78\xc1\x01\0", b"a"),
        (b"\0\x53\x73\x45", None),
    ],
)
def test_bodies(raw: bytes, body: Any) -> None:
    assert Message(raw).body == body


@pytest.mark.parametrize("raw", [b"\0\x53\x76\x45", b"\0\x53\x75\xa0\x01a\0\x53\x77\x40", b"\0\x53\x75\x40\0\x53\x75\x40"])
def test_bodies_that_are_none(raw: bytes) -> None:
    with pytest.raises(CodecError):
        _ = Message(raw).body
