"""The semantics of filters, one row each: what the bus promises to every subscriber."""

from __future__ import annotations

import io
import itertools
import random
from decimal import Decimal

import pytest
from lxml import etree

from clacks.xquery import FilterError, FilterIndex, compare, compile_filter
from clacks.xquery.dates import parse_datetime
from clacks.xquery.values import AnyURI, Untyped

GUIDE = "declare namespace f='http://www.gonicus.de/Events'; let $e := ./f:Event return $e/f:PhoneStatus"
F = "declare namespace f='http://www.gonicus.de/Events'; "
EVENT = b"""<Event xmlns='http://www.gonicus.de/Events'><PhoneStatus><CallerId>55</CallerId><ReceiverId>4711</ReceiverId>
<Status>busy</Status></PhoneStatus></Event>"""


def document(xml: bytes = EVENT) -> etree._ElementTree:
    return etree.parse(io.BytesIO(xml))


MATCHES = [
    ("the guide's filter", GUIDE, {}, True),
    ("the context item is the document node", F + "./f:Event", {}, True),
    ("a rooted path", F + "/f:Event", {}, True),
    ("a relative path", F + "f:Event", {}, True),
    ("the document node itself", ".", {}, True),
    ("the root element is not the context item", F + "./f:PhoneStatus", {}, False),
    ("a node sequence matches", F + "//f:PhoneStatus/*", {}, True),
    ("a number matches", "1", {}, True),
    ("a string matches, whatever it says", "'false'", {}, True),
    ("the empty sequence does not", "()", {}, False),
    ("zero does not", "0", {}, False),
    ("the empty string does not", "''", {}, False),
    ("NaN does not", "number('x')", {}, False),
    ("an untyped external variable", "declare variable $a external; $a = 'x'", {"a": "x"}, True),
    ("a typed one", "declare variable $a as xs:string external; $a = 'x'", {"a": "x"}, True),
    ("a name with dots and dashes", "declare variable $a.b-c as xs:string external; $a.b-c = 'x'", {"a.b-c": "x"}, True),
    ("booleans arrive as xs:boolean", "declare variable $a as xs:boolean external; not($a)", {"a": False}, True),
    ("64-bit integers survive", "declare variable $a as xs:integer external; $a = 9223372036854775807", {"a": 2**63 - 1}, True),
    ("64-bit integers are not doubles", "declare variable $a external; $a = 9223372036854775806", {"a": 2**63 - 1}, False),
    ("doubles", "declare variable $a as xs:double external; $a lt 1.5", {"a": 1.25}, True),
    ("decimals", "declare variable $a as xs:decimal external; $a = 1.1", {"a": Decimal("1.1")}, True),
    ("a default", "declare variable $a external := 7; $a = 7", {}, True),
    ("a value in place of the default", "declare variable $a external := 7; $a = 7", {"a": 8}, False),
    ("a colon in another property's name", "declare variable $a external; $a = 1", {"a": 1, "x:y": 2, "a b": 3}, True),
    ("properties nobody asks for", "1", {"a": 1}, True),
    ("codepoint order", "'Z' lt 'a' and not('a' = 'A')", {}, True),
]


@pytest.mark.parametrize(("text", "variables", "expected"), [pytest.param(*row[1:], id=row[0]) for row in MATCHES])
def test_a_filter_matches_by_its_effective_boolean_value(text: str, variables: dict[str, object], expected: bool) -> None:
    assert compile_filter(text).matches(document(), variables) is expected


FAILS = [
    ("two strings have no effective boolean value", "('a', 'b')", {}, "FORG0006"),
    ("a date has none", "xs:date('2026-01-01')", {}, "FORG0006"),
    ("an unset external variable", "declare variable $a external; $a", {}, "XPDY0002"),
    ("an unset external variable that is not used", "declare variable $a external; 1", {}, "XPDY0002"),
    ("a type that does not fit", "declare variable $a as xs:string external; $a", {"a": 1}, "XPTY0004"),
    ("a runtime error", F + "xs:integer(//f:Status) = 1", {}, "FORG0001"),
]


@pytest.mark.parametrize(("text", "variables", "code"), [pytest.param(*row[1:], id=row[0]) for row in FAILS])
def test_a_failing_filter_does_not_match_and_is_reported_and_the_others_go_on(text: str, variables: dict[str, object], code: str) -> None:
    compiled = compile_filter(text)
    with pytest.raises(FilterError) as failure:
        compiled.matches(document(), variables)
    assert failure.value.code == code
    reported: list[tuple[str, str]] = []
    index = FilterIndex[str](on_error=lambda key, error: reported.append((key, error.code)))
    index.add("bad", compiled)
    index.add("good", compile_filter("1"))
    assert index.match(document(), variables) == (["good"], [])
    assert reported == [("bad", code)]
    assert index.errors == 1


REFUSED = [
    ("a syntax error", F + "\n  f:Event[", "XPST0003", 2),
    ("an undeclared prefix", "g:Event", "XPST0081", 1),
    ("an undeclared variable", "1,\n\n$x", "XPST0008", 3),
    ("an unknown function", "nonsense(1)", "XPST0017", 1),
    ("a wrong number of arguments", "contains('a')", "XPST0017", 1),
    ("an unknown version", "xquery version '4.7'; 1", "XQST0031", 1),
    ("reading a file", "doc('/etc/passwd')", "CLXQ0001", 1),
    ("reading a file by prefix", "fn:doc('/etc/passwd')", "CLXQ0001", 1),
    ("reading a file by URI", "Q{http://www.w3.org/2005/xpath-functions}doc('/etc/passwd')", "CLXQ0001", 1),
    ("reading a file by another prefix", "declare namespace q='http://www.w3.org/2005/xpath-functions'; q:doc('x')", "CLXQ0001", 1),
    ("reading a file by reference", "(doc#1)('/etc/passwd')", "CLXQ0001", 1),
    ("reading text", "unparsed-text('/etc/passwd')", "CLXQ0001", 1),
    ("reading lines", "unparsed-text-lines('/etc/passwd')", "CLXQ0001", 1),
    ("reading JSON", "json-doc('x')", "CLXQ0001", 1),
    ("reading the environment", "environment-variable('HOME')", "CLXQ0001", 1),
    ("reading a collection", "collection()", "CLXQ0001", 1),
    ("running a stylesheet", "transform(map{})", "CLXQ0001", 1),
    ("loading a module", "load-xquery-module('x')", "CLXQ0001", 1),
]


@pytest.mark.parametrize(("text", "code", "line"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_a_filter_that_does_not_compile_is_refused_with_its_place(text: str, code: str, line: int) -> None:
    with pytest.raises(FilterError) as failure:
        compile_filter(text)
    assert (failure.value.code, failure.value.line) == (code, line)
    assert failure.value.column >= 1
    assert failure.value.sentence


def test_no_filter_means_everything_and_several_filters_must_all_match() -> None:
    index = FilterIndex[str]()
    index.add("all", None)
    index.add("both", [compile_filter("1"), compile_filter(GUIDE)])
    index.add("one of two", [compile_filter("0"), compile_filter(GUIDE)])
    assert index.match(document()) == (["all", "both"], [])


def test_a_key_sees_only_the_kinds_it_may_see() -> None:
    index = FilterIndex[str]()
    index.add("phones", None, kinds=["PhoneStatus"])
    index.add("nodes", None, kinds=["NodeAnnounce", "NodeLeave"])
    index.add("nothing", None, kinds=[])
    assert index.match(document()) == (["phones"], [])


def test_what_was_removed_is_forgotten() -> None:
    index = FilterIndex[int]()
    index.add(1, compile_filter(GUIDE))
    with pytest.raises(KeyError):
        index.add(1, None)
    index.remove(1)
    with pytest.raises(KeyError):
        index.remove(1)
    assert index.match(document()) == ([], [])
    assert len(index) == 0


VALUES = [
    *map(Untyped, ("5", "NaN", "x", "INF", "1e0", str(2**60 + 1))), "5", "x", "", AnyURI("x"), 5, Decimal("5.0"), Decimal("0.1"), 0.1,
    float("nan"), float("inf"), True, False, parse_datetime("date", "2026-01-01"), 2**60 + 1, float(2**60),
]  # fmt: skip


def test_long_sequences_compare_as_their_pairs_do() -> None:
    chance = random.Random(1)
    for _ in range(1_000):
        sides = [chance.choices(chance.sample(VALUES, chance.randint(1, 6)), k=chance.randint(8, 12)) for _ in "lr"]
        for op in compare.OPERATORS:
            holds = failed = False
            for one, other in itertools.product(*sides):
                try:
                    holds = holds or compare.general_pair(op, one, other)
                except FilterError:
                    failed = True
            try:
                assert compare.general(op, *sides) is holds
            except FilterError:
                assert failed
                assert not holds
