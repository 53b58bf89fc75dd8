"""libxml2 decides, xmlschema explains: the two must agree on what a value of each type looks like, but for the table below.

Where they differ libxml2's verdict stands. A row that is no longer true fails too, so that a new release of either is noticed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import xmlschema
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

WHOLE = ["integer", "int", "long", "unsignedLong", "nonNegativeInteger"]
TYPES = [
    "string", "token", "boolean", "decimal", "float", "double", *WHOLE, "byte", "duration", "dateTime", "date", "time", "gYear", "gMonth",
    "gDay", "gYearMonth", "gMonthDay", "anyURI", "base64Binary", "hexBinary", "language", "Name", "NCName", "NMTOKEN", "QName",
]  # fmt: skip
VALUES = [
    "", "1", "-1", "+1", "1_000", "1.", "00.5", ".5", "1e3", "1E-3", "INF", "+INF", "-INF", "NaN", "nan", "Infinity", "true", "TRUE", "0",
    "abc", " 1 ", "1 2", "\t1\n", "1.5", "٣", "1" * 25, "-" + "1" * 19, "1" * 30 + ".5", "0x10", "1e400", "PT1.S", "PT1S", "P1Y", "P",
    "PT", "P1DT", "-P1D", "PT1.5S", "P1M2D", "2024-05-31", "2024-02-30", "2024-05-31T13:20:00", "2024-05-31T24:00:00",
    "2024-05-31T13:20:00Z", "2024-05-31T13:20:00+14:00", "2024-05-31T13:20:00+15:00", "0000-01-01", "-0001-01-01", "12024-01-01",
    "2024-05-31Z", "13:20:00", "24:00:00", "13:20:60", "13:20", "2024", "--05", "---31", "2024-05", "--05-31", "--02-30", "%zz",
    "http://a b", "http://[", "a%20b", "ü", "://", "QUJD", "QUJ", "QU JD", "Q===", "0fb7", "0fb", "0FB7", "en", "en-GB", "toolonglanguage",
    "a:b", "e:a", "a b", "-a", "_a", "a.b", "1a",
]  # fmt: skip

# type, value -> whether libxml2 takes it; xmlschema says the opposite, or raises an error of Python (marked by its name).
DIFFERENT: dict[tuple[str, str], bool] = {
    # Python's int() and Decimal() know more forms.
    **{(type_, "1_000"): False for type_ in WHOLE},
    **{(type_, "٣"): False for type_ in [*WHOLE, "byte", "Name", "NCName"]},
    ("decimal", "1 2"): False,
    # libxml2 takes seconds without digits after the point, and checks URIs by RFC 3986.
    ("duration", "PT1.S"): True,
    **{("anyURI", value): False for value in ["%zz", "http://[", "://", "13:20", "13:20:00", "13:20:60", "24:00:00"]},
    **{("anyURI", value): False for value in VALUES if value.startswith("2024-05-31T")},
    # libxml2 skips what is no base64 in between.
    **{
        ("base64Binary", value): True
        for value in [
            "1_000", "٣", "PT1.S", "2024-05-31", "2024-02-30", "2024-05-31T13:20:00Z", "2024-05-31T13:20:00+14:00",
            "2024-05-31T13:20:00+15:00", "0000-01-01", "-0001-01-01", "13:20", "--05-31", "--02-30", "http://a b", "a%20b", "ü", "en-GB",
        ]
    },
    # OverflowError
    ("gYear", "1" * 25): False,
    ("gYear", "-" + "1" * 19): True,
}  # fmt: skip


@cache
def both(type_: str) -> tuple[etree.XMLSchema, Any]:
    text = f'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="v" type="xs:{type_}"/></xs:schema>'
    return etree.XMLSchema(etree.fromstring(text)), xmlschema.XMLSchema10(text)


def verdicts(type_: str, value: str) -> tuple[bool, bool | None]:
    """libxml2's and xmlschema's; None where xmlschema gives up."""
    decides, explains = both(type_)
    element = etree.Element("v", nsmap={"e": "urn:e"})
    element.text = value
    try:
        return decides(element), explains.is_valid(element)
    except OverflowError:
        return decides(element), None


@pytest.mark.parametrize("type_", TYPES)
def test_both_take_the_same_values_but_for_a_known_few(type_: str) -> None:
    found = {value: judged[0] for value in VALUES if (judged := verdicts(type_, value))[0] is not judged[1]}
    assert found == {value: libxml2 for (name, value), libxml2 in DIFFERENT.items() if name == type_}


NUMBERS = st.one_of(st.integers(), st.decimals(allow_nan=False, allow_infinity=False).map("{:f}".format), st.floats()).map(str)


@given(st.sampled_from(["decimal", "float", "double", *WHOLE, "byte", "boolean"]), NUMBERS)
def test_both_take_the_same_numbers(type_: str, value: str) -> None:
    libxml2, explained = verdicts(type_, value)
    assert libxml2 is explained


@given(st.sampled_from(["dateTime", "date", "time"]), st.datetimes(), st.sampled_from(["", "Z", "+02:00", "-14:00"]))
def test_both_take_the_same_moments(type_: str, moment: Any, zone: str) -> None:
    text = {"dateTime": moment, "date": moment.date(), "time": moment.time()}[type_].isoformat() + zone
    assert verdicts(type_, text) == (True, True)
