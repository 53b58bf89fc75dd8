"""The index: what it keeps, what it forgets, what it reports; and templates, which make a million filters normal."""

from __future__ import annotations

import gc
import io
import random
from typing import Any

import pytest
from lxml import etree

from clacks.xquery import FilterError, FilterIndex, Kinds, compile_filter
from clacks.xquery.buckets import Bounds, Intervals, inside

P = "declare namespace f='http://www.gonicus.de/Events'; "


def event(inside_of_it: str, name: str = "PhoneStatus") -> etree._ElementTree:
    text = f"<Event xmlns='http://www.gonicus.de/Events'><{name}>{inside_of_it}</{name}></Event>"
    return etree.parse(io.BytesIO(text.encode()))


def phone(caller: str, status: str = "busy") -> etree._ElementTree:
    return event(f"<CallerId>{caller}</CallerId><Status>{status}</Status>")


def test_keys_come_in_the_order_they_were_added() -> None:
    index = FilterIndex[int]()
    texts = ["//f:CallerId = '5'", "1", "/f:Event/f:PhoneStatus[f:CallerId > 3]", "contains(//f:Status, 'b')", "//f:Status = ('busy', 'x')"]
    keys = random.Random(1).sample(range(100), 50)
    for key in keys:
        index.add(key, compile_filter(P + texts[key % len(texts)]))
    assert index.match(phone("5")) == (keys, [])


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("/f:Event/f:PhoneStatus/f:CallerId = '5'", ("/Event/PhoneStatus/CallerId = '5'",)),
        ("let $p := /f:Event/f:PhoneStatus return $p[f:CallerId = '5']", ("/Event/PhoneStatus/CallerId = '5'",)),
        ("/f:Event/f:PhoneStatus[f:CallerId >= 3 and f:CallerId < 7]", ("/Event/PhoneStatus/CallerId >= 3 and < 7",)),
        ("//f:CallerId = ('4', '5')", ("//CallerId = '4'", "//CallerId = '5'")),
        ("/f:Event/*/f:CallerId = 5", ("/Event/*/CallerId = 5",)),
        ("starts-with(//f:CallerId, '5')", ("//CallerId starts with '5'",)),
        ("//f:CallerId[. = '5']/../f:Status", ("//CallerId = '5'",)),
        ("//f:CallerId/text() = '5'", ("//CallerId/text() = '5'",)),
        ("//f:CallerId[contains(., '5')]", ("//CallerId exists",)),
        ("some $x in //f:CallerId satisfies $x = '5' and $x != '6'", ("//CallerId = '5'",)),
        ("for $x in //f:PhoneStatus where $x/f:CallerId = '5' return $x", ("//PhoneStatus/CallerId = '5'",)),
    ],
)
def test_what_the_index_looks_for(text: str, place: tuple[str, ...]) -> None:
    compiled = compile_filter(P + text)
    assert compiled.conditions == place
    index = FilterIndex[str]()
    index.add("it", compiled)
    assert index.match(phone("5")) == (["it"], [])
    assert index.match(phone("x")) == ([], [])


def test_conditions_on_application_properties() -> None:
    index = FilterIndex[str]()
    index.add("eu", compile_filter("declare variable $region external; $region = 'eu'"))
    index.add("7", compile_filter("declare variable $level as xs:integer external; $level = 7"))
    index.add("both", compile_filter("declare variable $level external; declare variable $region external; $level = 7 and $region = 'eu'"))
    assert index.match(phone("1"), {"region": "eu"}) == (["eu"], [])
    assert index.match(phone("1"), {"region": "eu", "level": 7}) == (["eu", "7", "both"], [])
    assert index.match(phone("1"), {"region": "us", "level": 7.0}) == ([], [])
    assert index.match(phone("1"), {"a:b": "x", "level": None}) == ([], [])
    assert index.match(phone("1")) == ([], [])


def test_the_bounds_of_an_interval_can_be_met_by_different_values() -> None:
    index = FilterIndex[str]()
    index.add("wide", compile_filter(P + "//f:v > 5 and //f:v < 10"))
    index.add("one", compile_filter(P + "//f:v[. > 5 and . < 10]"))
    assert index.match(event("<v>3</v><v>20</v>")) == (["wide"], [])
    assert index.match(event("<v>7</v>")) == (["wide", "one"], [])
    assert index.match(event("<v>3</v>")) == ([], [])


def test_what_is_not_provably_cheap_is_undecided_when_it_is_deferred() -> None:
    dear = compile_filter(P + "for $a in //f:CallerId for $b in //f:Status where $a != $b return $a")
    for defer, expected in ((True, (["cheap"], ["dear"])), (False, (["dear", "cheap"], []))):
        index = FilterIndex[str](defer=defer)
        index.add("dear", dear)
        index.add("elsewhere", dear, kinds=["NodeAnnounce"])
        index.add("cheap", compile_filter(P + "//f:Status"))
        assert index.match(phone("1")) == expected
        assert index.match(event("")) == ([], [])  # without a CallerId it cannot match, which the index knows
        index.add("both", [dear, compile_filter("//*")])
        assert "both" in index.match(phone("1"))[defer]


def test_of_a_large_event_only_the_index_answers_when_deferring() -> None:
    index = FilterIndex[str](defer=True)
    index.add("index", compile_filter(P + "//f:v = '7'"))
    index.add("evaluated", compile_filter(P + "//f:v[contains(., '7')]"))
    index.add("ruled out", compile_filter(P + "//f:w[contains(., '7')]"))
    assert index.match(event("<v>7</v>" * 10)) == (["index", "evaluated"], [])
    assert index.match(event("<v>7</v>" * 1_000)) == (["index"], ["evaluated"])


def test_failures_are_counted_and_told_with_their_key() -> None:
    told: list[tuple[str, str]] = []
    index = FilterIndex[str](on_error=lambda key, error: told.append((key, error.code)))
    index.add("a", compile_filter(P + "xs:integer(//f:Status) = 1"))
    index.add("b", compile_filter(P + "//f:Status = 'busy'"))
    assert index.match(phone("1")) == (["b"], [])
    assert index.match(phone("1", "7")) == ([], [])
    assert told == [("a", "FORG0001")]
    assert index.errors == 1


def test_kinds_that_change_are_asked_for_every_event() -> None:
    index: FilterIndex[str] = FilterIndex(defer=True)
    mine, theirs = Kinds({"PhoneStatus"}), Kinds()
    for name, kinds in (("mine", mine), ("theirs", theirs)):
        index.add(name, None, kinds)
        index.add(f"{name} with a filter", compile_filter(P + "//f:CallerId = '5'"), kinds)
        index.add(f"{name} without conditions", compile_filter("count(//*) > 0"), kinds)
    keys = ["mine", "mine with a filter", "mine without conditions"]
    assert index.match(phone("5")) == index.match(phone("5"), None, "PhoneStatus") == (keys, [])
    mine.clear()
    assert index.match(phone("5")) == ([], [])
    theirs.add("PhoneStatus")
    assert len(index.match(phone("5"))[0]) == 3
    for name in ("mine", "theirs"):
        for key in (name, f"{name} with a filter", f"{name} without conditions"):
            index.remove(key)
    assert index.is_empty()
    index.add("one", compile_filter(P + "//f:CallerId = '5'"), mine)
    assert index.match(phone("5")) == ([], []), "the only candidate is looked at too"


def test_a_filter_that_many_keys_have_fails_for_each_of_them() -> None:
    told: list[int] = []
    index = FilterIndex[int](on_error=lambda key, error: told.append(key))
    for key in range(5):
        index.add(key, compile_filter(P + "xs:integer(//f:Status) = 1"))
    index.add(5, [compile_filter(P + "//f:Status"), compile_filter(P + "xs:integer(//f:Status) = 1")])
    index.add(6, [compile_filter(P + "//f:Nothing"), compile_filter(P + "xs:integer(//f:Status) = 1")])
    assert index.match(phone("1")) == ([], [])
    assert told == [0, 1, 2, 3, 4, 5]
    assert index.match(phone("1", "1")) == ([0, 1, 2, 3, 4, 5], [])


def test_a_key_sees_only_its_kinds() -> None:
    index = FilterIndex[str]()
    for name, kinds in (("phones", ["PhoneStatus"]), ("both", ["PhoneStatus", "Other"]), ("none", []), ("all", None)):
        index.add(name, None, kinds)
        index.add(f"{name} with a filter", compile_filter(P + "//f:CallerId = '5'"), kinds)
        index.add(f"{name} without conditions", compile_filter("count(//*) > 0"), kinds)
    assert len(index.match(phone("5"))[0]) == 9
    assert set(index.match(event("<CallerId>5</CallerId>", "Other"))[0]) == {
        name + more for name in ("both", "all") for more in ("", " with a filter", " without conditions")
    }
    for name in ("phones", "both", "none", "all"):
        for more in ("", " with a filter", " without conditions"):
            index.remove(name + more)
    assert index.is_empty()


def test_comments_and_instructions_are_no_events() -> None:
    index = FilterIndex[str]()
    index.add("p", compile_filter(P + "/f:Event/f:PhoneStatus"), kinds=["PhoneStatus"])
    text = b"<!-- a --><?b c?><Event xmlns='http://www.gonicus.de/Events'><!-- d --><?e f?><PhoneStatus/></Event><!-- g -->"
    assert index.match(etree.parse(io.BytesIO(text))) == (["p"], [])


def test_ten_thousand_subscribers_come_and_go() -> None:
    index = FilterIndex[int]()
    shapes = ["//f:CallerId = '{0}'", "/f:Event/f:PhoneStatus[f:CallerId >= {0} and f:CallerId < {0}.5]", "//f:Status = ('{0}', 'x{0}')",
              "/f:Event/*/@a{0}", "//f:CallerId > {0}",
              "starts-with(//f:Status, '{0}')", "contains(//f:Status, '{0}')", "not(//f:a{0})",
              "/f:Event/f:PhoneStatus/f:Status = '{0}' and //f:CallerId = '{0}'"]  # fmt: skip
    for key in range(10_000):
        index.add(key, compile_filter(P + shapes[key % len(shapes)].format(key)))
    assert len(index) == 10_000
    index.match(phone("77", "busy"))
    order = list(range(10_000))
    random.Random(2).shuffle(order)
    for key in order:
        index.remove(key)
    assert index.is_empty()
    assert index.match(phone("77")) == ([], [])


def test_filters_that_differ_in_free_literals_share_a_template() -> None:
    one, other = (compile_filter(f"{P}/f:Event/f:PhoneStatus[f:CallerId = '{caller}']") for caller in ("1", "it''s"))
    assert one.compiled is compile_filter(f"{P}/f:Event/f:PhoneStatus[f:CallerId = '2']").compiled
    assert one.compiled is not other.compiled or other.params == ("it's",)
    assert other.matches(phone("it's"))
    assert not one.matches(phone("it's"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("//f:a[1] = 'x'", "//f:a[2] = 'x'"),
        ("matches(//f:a, 'x')", "matches(//f:a, '(x+)+\\1')"),
        ("//f:a = 1", "//f:a = 1.0"),
        ("//f:a = 1.0", "//f:a = 1e0"),
        ("count(1 to 5) = 5", "count(1 to 50000000) = 5"),
        ("contains(//f:a, 'x')", "contains(//f:a, '')"),
        ("//Q{u:1}a = 'x'", "//Q{u:2}a = 'x'"),
        ("'x'", "'y'"),
    ],
)
def test_literals_that_affect_meaning_or_cost_belong_to_the_template(one: str, other: str) -> None:
    assert compile_filter(P + one).compiled is not compile_filter(P + other).compiled


def test_texts_that_look_alike_are_not_mixed_up() -> None:
    document = phone("5", "a'b")
    rows: list[tuple[str, bool]] = [
        ("//f:Status = 'a''b'", True), ('//f:Status = "a\'b"', True), ("//f:Status = 'a&apos;b'", True), ("//f:Status = 'ab'", False),
        ("(: 'x' :) //f:CallerId = '5'", True), ("(: 'y' :) //f:CallerId = '6'", False), ("//f:CallerId = 5", True),
        ("//f:CallerId = '5' (: 7 :)", True), ("//f:CallerId = 05", True), ("//f:CallerId =6", False), ("//f:CallerId=5.0", True),
        ("//f:CallerId = 5e0", True), ("//f:CallerId - 5 = 0", True), ("//f:CallerId -5 = 1", False), ("-5 = -//f:CallerId", True),
        ("``[5]`` = //f:CallerId", True), ("``[6]`` = //f:CallerId", False), ("//f:CallerId = (5, 6)", True),
        ("//f:CallerId = (7, 6)", False),
    ]  # fmt: skip
    for _ in range(2):
        for text, expected in rows:
            assert compile_filter(P + text).matches(document) is expected, text


def test_wrong_keys() -> None:
    index = FilterIndex[str]()
    index.add("a", None)
    with pytest.raises(KeyError):
        index.add("a", None)
    with pytest.raises(KeyError):
        index.remove("b")
    assert "a" in index
    with pytest.raises(TypeError):
        compile_filter(b"1")  # type: ignore[arg-type]
    with pytest.raises(FilterError):
        compile_filter("")


def test_filters_that_differ_in_what_a_function_of_theirs_does_are_answered_apart() -> None:
    document = etree.fromstring("<e><a><b>x</b></a></e>").getroottree()
    texts = [f"declare function local:f($a) {{ $a/b = '{word}' and $a/b != 'z' }}; //a[local:f(.)]" for word in "xyx"]
    index = FilterIndex[int]()
    for number, text in enumerate(texts):
        index.add(number, compile_filter(text))
    assert index.match(document) == ([0, 2], [])


def test_intervals_and_bounds_answer_as_a_list_does() -> None:
    chance = random.Random(3)
    intervals, bounds, kept = Intervals(), Bounds(), []
    numbers = [0.0, 0.1, 1.0, 1.5, 7.0, 1e9, 1e300, -1e300, 5e-324, -3.0, float("inf"), 2.0**70]
    for step in range(3_000):
        if kept and chance.random() < 0.4:
            one = kept.pop(chance.randrange(len(kept)))
            intervals.remove(one)
            bounds.remove(one[0], one[4])
        else:
            low, high = chance.choice(numbers) + chance.random(), chance.choice(numbers) * chance.choice((1, 1.0000001))
            one = (low, chance.random() < 0.5, high, chance.random() < 0.5, step)
            kept.append(one)
            intervals.add(one)
            bounds.add(one[0], one[4])
        value = chance.choice(numbers)
        assert sorted(intervals.at(value)) == sorted(one[4] for one in kept if inside(value, one))
        below: list[Any] = []
        for bucket in bounds.below(value, True):
            below.extend(bucket if type(bucket) is dict else [bucket])
        assert sorted(below) == sorted(one[4] for one in kept if one[0] <= value)
    for one in kept:
        intervals.remove(one)
        bounds.remove(one[0], one[4])
    assert not intervals
    assert not bounds
    assert not intervals.levels
    gc.collect()
