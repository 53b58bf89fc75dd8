"""What every event has in common, how programs make one, and Python values as XSD text."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
import xmlschema
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree, objectify

from clacks.common.errors import ClacksError
from clacks.common.event import EVENTS, EventMaker, event_name, parse, to_bytes
from clacks.common.schema import SchemaRegistry
from clacks.common.values import text_of

HEAD = f'<Event xmlns="{EVENTS}">'


# --- the root ---


@pytest.mark.parametrize(
    ("inside", "name"),
    [
        ("<PhoneStatus/>", f"{{{EVENTS}}}PhoneStatus"),
        ("\n <!-- a --><?b c?>\n<ClientPoll/><!-- d -->\n", f"{{{EVENTS}}}ClientPoll"),
        ('<x:Load xmlns:x="urn:x"/>', "{urn:x}Load"),
        ('<Load xmlns=""/>', "Load"),
    ],
)
def test_the_name_of_an_event(inside: str, name: str) -> None:
    assert event_name(parse(f"<!-- before -->{HEAD}{inside}</Event><!-- after -->".encode())).text == name


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<Event/>", "<Event>"),
        ('<Event xmlns="urn:x"><a/></Event>', '<Event xmlns="urn:x">'),
        ("<PhoneStatus/>", "<PhoneStatus>"),
        (f"{HEAD}</Event>", "around no elements"),
        (f"{HEAD}<!-- --></Event>", "around no elements"),
        (f"{HEAD}<a/><b/></Event>", "around 2 elements"),
        (f"{HEAD}x<a/></Event>", "the text 'x'"),
        (f"{HEAD}<a/>x</Event>", "the text 'x'"),
        (f"{HEAD}<!-- -->\u00a0<a/></Event>", "the text"),
        (f"<{'n' * 5000}/>", "nnn…>"),
    ],
)
def test_what_is_no_event(text: str, found: str) -> None:
    with pytest.raises(ClacksError) as refused:
        event_name(parse(text.encode()))
    assert refused.value.code == "event-root"
    assert found in refused.value.values["found"]
    assert len(str(refused.value)) < 400


# --- bytes ---


def test_bytes_stay_as_they_are() -> None:
    body = "<a>ä</a>".encode("utf-16")
    assert to_bytes(body) is body
    assert to_bytes(bytearray(body)) == to_bytes(memoryview(body)) == body


@pytest.mark.parametrize(
    "text",
    [
        "<a>ä€</a>",
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<a>ä€</a>',
        '\ufeff<?xml version="1.0" encoding="UTF-16"?><a>ä€</a>',
        "<?xml version='1.0' standalone='yes'?>\n<!-- <?xml --><a>ä€</a>",
    ],
)
def test_a_string_is_utf_8_whatever_it_declares(text: str) -> None:
    assert parse(to_bytes(text)).getroot().text == "ä€"


def test_an_element_is_serialised_without_what_follows_it_or_what_objectify_notes() -> None:
    tree = etree.fromstring("<r><a>ä</a>tail</r>")
    assert to_bytes(tree[0]) == "<a>ä</a>".encode()
    assert to_bytes(tree.getroottree()) == to_bytes(tree)
    made = objectify.ElementMaker(namespace=EVENTS, nsmap={None: EVENTS})
    annotated = made.Event(made.NodeStatus(made.Workers(3)))
    assert to_bytes(annotated) == f"{HEAD}<NodeStatus><Workers>3</Workers></NodeStatus></Event>".encode()
    assert b"pytype" in etree.tostring(annotated), "the caller's element was changed"


@pytest.mark.parametrize("wrong", [None, 3, {"a": 1}, ["<a/>"]])
def test_nothing_else_is_an_event(wrong: Any) -> None:
    with pytest.raises(TypeError, match=type(wrong).__name__):
        to_bytes(wrong)


def test_half_a_character_is_our_error() -> None:
    with pytest.raises(ClacksError, match="surrogate"):
        to_bytes("<a>\ud800</a>")


# --- values ---


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "type_", "text"),
    [
        ("ä", "string", "ä"),
        (True, "boolean", "true"),
        (False, "boolean", "false"),
        (3, "int", "3"),
        (10**20, "integer", "100000000000000000000"),
        (0.1, "double", "0.1"),
        (1e300, "double", "1e+300"),
        (float("inf"), "float", "INF"),
        (float("-inf"), "float", "-INF"),
        (float("nan"), "float", "NaN"),
        (Decimal("1E-7"), "decimal", "0.0000001"),
        (datetime(2024, 5, 31, 13, 20), "dateTime", "2024-05-31T13:20:00"),
        (datetime(2024, 5, 31, 13, 20, tzinfo=UTC), "dateTime", "2024-05-31T13:20:00Z"),
        (datetime(2024, 5, 31, 13, 20, 0, 5, timezone(timedelta(hours=2))), "dateTime", "2024-05-31T13:20:00.000005+02:00"),
        (date(2024, 5, 31), "date", "2024-05-31"),
        (time(13, 20), "time", "13:20:00"),
        (timedelta(days=1, seconds=5), "duration", "P1DT5S"),
        (timedelta(microseconds=-1500), "duration", "-P0DT0.0015S"),
        (b"ABC", "base64Binary", "QUJD"),
        ([1, 2.5, True], "string", "1 2.5 true"),
        (Colour.RED, "string", "red"),
        (UUID(int=1), "string", "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_a_python_value_as_the_text_of_its_type(value: Any, type_: str, text: str) -> None:
    assert text_of(value) == text
    schema = f'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="v" type="xs:{type_}"/></xs:schema>'
    element = etree.Element("v")
    element.text = text
    assert etree.XMLSchema(etree.fromstring(schema))(element)
    assert xmlschema.XMLSchema10(schema).is_valid(element)


@given(st.timedeltas())
def test_every_duration_is_one_of_xsd(value: timedelta) -> None:
    schema = '<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="v" type="xs:duration"/></xs:schema>'
    element = etree.Element("v")
    element.text = text_of(value)
    assert etree.XMLSchema(etree.fromstring(schema))(element)


# --- EventMaker ---


def test_the_guides_event() -> None:
    e = EventMaker()
    status = e.Event(e.PhoneStatus(e.CallerId("012345"), e.ReceiverId("12343424"), e.Status("busy")))
    assert etree.tostring(status, pretty_print=True) == (
        b'<Event xmlns="http://www.gonicus.de/Events">\n  <PhoneStatus>\n    <CallerId>012345</CallerId>\n'
        b"    <ReceiverId>12343424</ReceiverId>\n    <Status>busy</Status>\n  </PhoneStatus>\n</Event>\n"
    )


def test_values_none_lists_and_attributes() -> None:
    e = EventMaker()
    made = e.A(e.B(True), None, e.C(None), [e.D(1), e.D(2)], e.E([1, 2]), name="x", self=3, left_out=None)
    assert to_bytes(made) == (f'<A xmlns="{EVENTS}" name="x" self="3"><B>true</B><D>1</D><D>2</D><E>1 2</E></A>'.encode())
    assert e.C(None) is None
    assert to_bytes(e("has-hyphen", "a", e.b(), "c")) == f'<has-hyphen xmlns="{EVENTS}">a<b/>c</has-hyphen>'.encode()
    assert to_bytes(EventMaker(namespace="urn:x").A()) == b'<A xmlns="urn:x"/>'


def test_no_character_of_a_value_becomes_markup() -> None:
    assert parse(to_bytes(EventMaker().A("<b>&\"'"))).getroot().text == "<b>&\"'"
    with pytest.raises(ValueError, match="NULL bytes"):
        EventMaker().A("\0")


@pytest.fixture(scope="module")
def e() -> EventMaker:
    return EventMaker(SchemaRegistry())


def test_a_checked_maker_makes_the_same_event(e: EventMaker) -> None:
    free = EventMaker()
    for maker in (e, free):
        event = maker.Event(maker.NodeStatus(maker.Id("a"), maker.Load(0.5), maker.Latency(0), maker.Workers(2), maker.Indexed(True)))
        assert (
            to_bytes(event)
            == (
                f"{HEAD}<NodeStatus><Id>a</Id><Load>0.5</Load><Latency>0</Latency><Workers>2</Workers><Indexed>true</Indexed></NodeStatus></Event>"
            ).encode()
        )


def test_a_checked_maker_writes_a_value_for_its_type(e: EventMaker) -> None:
    assert e.Interval(1e-9).text == "0.000000001"  # decimal has no exponent
    assert e.Load(1e-9).text == "1e-09"
    assert e.Duration(None) is None
    assert e.Value(float("inf"), name="x").text == "INF"
    assert len(e.Tag([e.value(tag) for tag in "ab"])) == 2


@pytest.mark.parametrize(
    ("make", "path", "reason", "expected"),
    [
        (lambda e: e.PhoneStat(), "PhoneStat", "no event has", "Did you mean PhoneStatus?"),
        (lambda e: e.Qwertz(), "Qwertz", "no event has", "clacks schemas"),
        (lambda e: e.Workers("many"), "Workers", "'many' is not allowed", "a whole number"),
        (lambda e: e.Workers(True), "Workers", "'true' is not allowed", "a whole number"),
        (lambda e: e.Workers(2**31), "Workers", "'2147483648' is not allowed", "2147483647"),
        (lambda e: e.Indexed("yes"), "Indexed", "'yes' is not allowed", "true or false"),
        (lambda e: e.Level("loud"), "Level", "'loud' is not allowed", "one of: debug, info"),
        (lambda e: e.Timestamp(date(2024, 5, 31)), "Timestamp", "'2024-05-31' is not allowed", "date and time"),
        (lambda e: e.Value(1, nam="x"), "Value/@nam", "there is no attribute nam", "There are: name"),
        (lambda e: e.Value(1), "Value", "the attribute name is missing", ""),
        (lambda e: e.value(["a", "b"]), "value", "a list cannot be one element", "[e.value(item) for item in items]"),
        (lambda e: e.PhoneStatus(e.CallerId("1"), e.Status("busy")), "PhoneStatus", "ReceiverId is missing", ""),
        (lambda e: e.PhoneStatus(e.Workers(1)), "PhoneStatus/Workers", "there is no element Workers in PhoneStatus", "one of: CallerId"),
        (lambda e: e.Workers(e.Id("a")), "Workers", "there are elements in it", ""),
    ],
)
def test_a_checked_maker_refuses_at_the_call(e: EventMaker, make: Any, path: str, reason: str, expected: str) -> None:
    with pytest.raises(ClacksError) as refused:
        make(e)
    error = refused.value
    assert (error.code, error.values["path"]) == ("event-field", path)
    assert reason in error.values["reason"]
    assert expected in error.values["expected"]


def test_a_checked_maker_judges_the_whole_event_like_the_bus(e: EventMaker) -> None:
    with pytest.raises(ClacksError, match="around no elements"):
        e.Event()
    with pytest.raises(ClacksError, match="No schema describes the event Tag"):
        e.Event(e.Tag(e.value("x")))


def test_importing_the_library_half_does_not_import_xmlschema() -> None:
    code = "import sys, clacks.common.event, clacks.common.schema; clacks.common.schema.SchemaRegistry(); print('xmlschema' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
