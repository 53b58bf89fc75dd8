"""What is known about the other engines' answers: a test for each, so that a new release of theirs is noticed, and ours stays right."""

from __future__ import annotations

import io

import pytest
from lxml import etree

from clacks.xquery import FilterError, compile_filter, engines, fallback, saxon, template
from clacks.xquery.frames import Event
from clacks.xquery.module import parse


def document(text: str = "<Event><a k='x'><b>1</b><a><b>2</b></a></a><c>NaN</c></Event>") -> etree._ElementTree:
    return etree.parse(io.BytesIO(text.encode()))


NATIVE = [
    ("elementpath orders elements with descendants wrongly", "string-join(//b/ancestor-or-self::*/name(), ' ') = 'Event a b a b'"),
    ("elementpath walks from an attribute to its own attributes", "empty(//@k/@*)"),
    ("elementpath's collation is the locale's", "'Z' lt 'a' and contains('straße', 'ß') and starts-with('a', 'a')"),
    ("elementpath leaves references in literals alone", "'&lt;&#65;' = codepoints-to-string((60, 65))"),
    ("elementpath refuses a variable that hides another", "let $x := //a return count(for $x in $x return $x) = 2"),
    ("elementpath does not know FLWOR's where", "for $x in //b where $x = '2' return $x"),
    ("elementpath evaluates constants while it parses", "count(1 to 90) = 90"),
    ("saxonche says true for an untyped NaN", "not(//c > 1)"),
    ("an engine may fail where one pair fails: ours answers", "(//c, //b) = 2"),
]


@pytest.mark.parametrize(("reason", "text"), NATIVE, ids=[row[0] for row in NATIVE])
def test_ours_is_right(reason: str, text: str) -> None:
    compiled = compile_filter(text)
    assert compiled.tier in ("native", "index")
    assert compiled.matches(document())


@pytest.mark.skipif(not saxon.available(), reason="the xquery extra is not installed")
def test_saxonche_is_known_to_be_wrong_about_an_untyped_nan() -> None:
    """Functions and Operators 3.1 section 4.3.3; when this fails, the table of known differences has one row too many."""
    assert saxon.SaxonFilter(parse("xs:untypedAtomic('NaN') > 1")).matches(Event(document()), {})


def test_nothing_is_evaluated_while_a_filter_is_compiled() -> None:
    compile_filter("count(1 to 1000000000000) = 1")  # would take all the memory there is
    assert fallback.knows(parse("count(1 to 1000000000000) = 1"))


@pytest.fixture
def without_saxon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saxon, "available", lambda: False)
    monkeypatch.setattr(template, "_skeletons", type(template._skeletons)())


@pytest.mark.usefixtures("without_saxon")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("let $f := function($x) { $x + 1 } return $f(2) = 3", True),
        ("map { 'a': //b }?a = 2", True),
        ("for $x in //b let $m := map { 'v': $x } where $m?v = 2 return $x", True),
        ("declare variable $v external; [$v, 2](1) = 'q'", True),
        ("declare default element namespace 'urn:none'; array { //b }?1", False),
        ("format-date(xs:date('2026-12-31'), '[Y]') = '2026'", True),
    ],
)
def test_elementpath_answers_what_is_not_native_without_the_extra(text: str, expected: bool) -> None:
    compiled = compile_filter(text)
    assert (compiled.tier, compiled.cost) == ("elementpath", "dear")
    try:
        found = compiled.matches(document(), {"v": "q"})
    except FilterError:
        found = False
    assert found is expected


@pytest.mark.usefixtures("without_saxon")
@pytest.mark.parametrize(
    ("text", "line", "column", "what"),
    [
        ("1,\n  <a/>", 2, 3, "direct constructor"),
        ("element a { 1 }", 1, 1, "computed element constructor"),
        ("for tumbling window $w in 1 to 3 start when true() return $w", 1, 1, "window clause"),
        ("declare function local:f($x) { map { 'a': $x } }; local:f(1)?a", 1, 32, "map"),
    ],
)
def test_what_nobody_can_answer_is_refused_with_its_name_and_the_hint(text: str, line: int, column: int, what: str) -> None:
    with pytest.raises(FilterError) as refused:
        compile_filter(text)
    error = refused.value
    assert (error.code, error.line, error.column) == ("CLXQ0003", line, column)
    assert what in error.sentence
    assert "clacks[xquery]" in error.sentence


def test_the_engines_are_not_loaded_before_a_filter_needs_them() -> None:
    assert engines.full_engine.__module__ == "clacks.xquery.engines"
