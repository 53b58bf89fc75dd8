"""Which schemas may be judged on the event loop: what is called cheap must be, what is slow must not be called cheap."""

from __future__ import annotations

import time

import pytest
from lxml import etree

from clacks.common.cost import XS, is_cheap, is_cheap_pattern

CHEAP = [
    "", "a", "[0-9]+", "[a-z]{1,30}", "a|b|c|d|e|f|g", "(busy|idle)", "[0-9]{2}(:[0-9]{2}){5}", r"[^\]]+@x", r"\p{Lu}[\]a]*",
    "((ab){2}c){2}", "(ab)?c*", "[A-Z]{2}[0-9]{2}[A-Z0-9]{1,30}", r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}", "(a|aa)(a|aa)(a|aa)",
]  # fmt: skip
NOT_PROVEN = [
    "(a|aa)+b", "(a+)+b", "(a*)*b", ".*a.*b", "(a?){30}a{30}", "(a|b){3}", "[a-z]{1,100}[a-z]{1,100}1", "((a|aa)b?){2}",
    "(a|aa)(a|aa)(a|aa)(a|aa)(a|aa)(a|aa)(a|aa)", "a?" * 9, r"\d+\.\d+", "(a|b|c)?(a|b)?x*", "a{1,",
]  # fmt: skip


@pytest.mark.parametrize("pattern", CHEAP)
def test_a_cheap_pattern_is_cheap(pattern: str) -> None:
    assert is_cheap_pattern(pattern)
    schema = etree.XMLSchema(restricting(pattern))
    for unit in ("a", "0", "00:", "aa", "ab", "x", "0.0", "b", "AA00"):
        element = etree.Element("v")
        element.text = unit * (24_000 // len(unit))
        start = time.perf_counter()
        schema(element)
        assert time.perf_counter() - start < 0.05  # 1 ms where nothing else runs


@pytest.mark.parametrize("pattern", NOT_PROVEN)
def test_a_pattern_that_may_be_slow_is_not_called_cheap(pattern: str) -> None:
    assert not is_cheap_pattern(pattern)


def restricting(pattern: str) -> etree._Element:
    type_ = f'<xs:simpleType><xs:restriction base="xs:string"><xs:pattern value="{pattern}"/></xs:restriction></xs:simpleType>'
    return etree.fromstring(f'<xs:schema xmlns:xs="{XS}"><xs:element name="v">{type_}</xs:element></xs:schema>')


@pytest.mark.parametrize(
    ("model", "cheap"),
    [
        ('<xs:sequence><xs:element name="a" maxOccurs="500"/></xs:sequence>', True),
        ('<xs:choice maxOccurs="unbounded"><xs:element name="a"/><xs:element name="b"/></xs:choice>', True),
        ('<xs:sequence maxOccurs="unbounded"><xs:element name="a" maxOccurs="unbounded"/></xs:sequence>', True),
        ('<xs:sequence maxOccurs="3000"><xs:element name="a" minOccurs="0" maxOccurs="500"/></xs:sequence>', False),
        ('<xs:sequence maxOccurs="unbounded"><xs:choice maxOccurs="5"><xs:element name="a"/></xs:choice></xs:sequence>', False),
        ('<xs:sequence><xs:group ref="g" maxOccurs="9"/><xs:element name="a" maxOccurs="5"/></xs:sequence>', False),
    ],
)
def test_counted_repetitions_in_repeated_groups_are_not_cheap(model: str, cheap: bool) -> None:
    root = etree.fromstring(f'<xs:schema xmlns:xs="{XS}"><xs:complexType name="t">{model}</xs:complexType></xs:schema>')
    assert is_cheap([root]) is cheap
    assert is_cheap([restricting("[0-9]+"), root]) is cheap
    assert not is_cheap([restricting("(a|aa)+"), root])
