"""Explanations as transcripts, and generated filters, which match the event they come from."""

from __future__ import annotations

import io
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from clacks.xquery import Clause, compile_filter, generate
from clacks.xquery import syntax as s
from clacks.xquery.module import parse
from test_xquery_properties import Maker, verdict

P = "declare namespace f='http://www.gonicus.de/Events';\n"
EVENT = (
    b"<Event xmlns='http://www.gonicus.de/Events'><PhoneStatus line='2'><CallerId>55</CallerId><Status>busy</Status></PhoneStatus></Event>"
)
SIGNS = {True: "+", False: "-", None: "?"}


def lines(clause: Clause, depth: int = 0) -> list[str]:
    values = f" {list(clause.values)}" if clause.values else ""
    told = [f"{'  ' * depth}{SIGNS[clause.held]} {clause.line}:{clause.column} {clause.text}{values}"]
    return told + [line for inner in clause.clauses for line in lines(inner, depth + 1)]


def transcript(text: str, **variables: object) -> list[str]:
    explanation = compile_filter(P + text).explain(etree.parse(io.BytesIO(EVENT)), variables)
    return [line for clause in explanation.clauses for line in lines(clause)]


def test_predicates() -> None:
    assert transcript("/f:Event/f:PhoneStatus[f:CallerId = '55' and f:Status = 'idle']") == [
        "- 2:1 /f:Event/f:PhoneStatus[f:CallerId = '55' and f:Status = 'idle']",
        "  - 2:24 f:CallerId = '55' and f:Status = 'idle'",
        "    + 2:24 f:CallerId = '55' ['55']",
        "    - 2:46 f:Status = 'idle' ['busy']",
    ]


def test_the_step_that_selects_nothing() -> None:
    assert transcript("//f:PhoneStatus/f:Duration > 5") == [
        "- 2:1 //f:PhoneStatus/f:Duration > 5",
        "  - 2:17 f:Duration selects nothing",
    ]


def test_alternatives_and_negations() -> None:
    assert transcript("not(//f:Status = 'busy')\n or contains(//f:CallerId, '6')") == [
        "- 2:1 not(//f:Status = 'busy') or contains(//f:CallerId, '6')",
        "  - 2:1 not(//f:Status = 'busy')",
        "    + 2:5 //f:Status = 'busy' ['busy']",
        "  - 3:5 contains(//f:CallerId, '6') ['55']",
    ]


def test_clauses_of_a_flwor() -> None:
    assert transcript("for $p in //f:PhoneStatus where $p/f:Status = 'idle' return $p/f:CallerId") == [
        "- 2:1 for $p in //f:PhoneStatus where $p/f:Status = 'idle' return $p/f:CallerId",
        "  - 2:33 $p/f:Status = 'idle' ['busy']",
        "  ? 2:61 $p/f:CallerId",
    ]


def test_failures() -> None:
    explanation = compile_filter(P + "//f:Status = 5").explain(etree.parse(io.BytesIO(EVENT)))
    assert not explanation.matches
    assert explanation.error is not None
    assert explanation.error.code == "FORG0001"
    assert [clause.held for clause in explanation.clauses] == [None]
    assert "FORG0001" in explanation.clauses[0].error


def test_variables_and_the_innermost_failures() -> None:
    text = P + "declare variable $who external;\n$who = 'me' and //f:Status = 'busy'"
    explanation = compile_filter(text).explain(etree.parse(io.BytesIO(EVENT)), {"who": "you"})
    assert [(clause.text, clause.values, clause.line) for clause in explanation.failed()] == [("$who = 'me'", ("you",), 3)]
    assert explanation.tier == "native"
    assert compile_filter(text).explain(etree.parse(io.BytesIO(EVENT)), {"who": "me"}).failed() == []


ITEMS = b"<e><i><a>1</a><b>1</b></i><i><a>2</a><b>2</b></i><s>x  y</s></e>"


def told(text: str, **variables: object) -> list[str]:
    """The transcript of a filter on ITEMS, with notes and errors."""
    explanation = compile_filter(text).explain(etree.parse(io.BytesIO(ITEMS)), variables)
    found = []
    for root in explanation.clauses:
        for clause in root.walk():
            found += [f"{SIGNS[clause.held]} {clause.text} {list(clause.values)}".replace(" []", "")]
            found += [f"  {more}" for more in (clause.note, clause.error) if more]
    return found


def test_parts_that_hold_for_different_elements() -> None:
    apart = "  each part holds, but not all for the same element"
    assert told("//i[a = 1 and b = 2]")[1:] == ["- a = 1 and b = 2", apart, "+ a = 1 ['1', '2']", "+ b = 2 ['1', '2']"]
    nothing = "  each side selects something, but nothing in common"
    assert told("//a intersect //b") == ["- //a intersect //b", nothing, "+ //a ['1', '2']", "+ //b ['1', '2']"]


def test_predicates_are_asked_of_what_is_left() -> None:
    assert told("//i[a = 1][b = 2]")[1:] == ["+ a = 1 ['1', '2']", "- b = 2 ['1']"]
    assert told("//i[2][a = 1]")[1:] == ["+ 2", "- a = 1 ['2']"]
    assert told("//i[last()][a = 1]")[1:] == ["+ last()", "- a = 1 ['2']"]
    assert told("//i[3][a = 1]")[1:] == ["- 3", "? a = 1"]
    assert told("//s/preceding-sibling::*[1][a = 1]")[1:] == ["+ 1", "- a = 1 ['2']"]
    assert told("//i[if (a = 1) then b = 2 else b = 1]")[2:] == ["+ a = 1 ['1', '2']", "- b = 2 ['1']", "- b = 1 ['2']"]


def test_every_shows_what_speaks_against_it() -> None:
    assert told("every $x in //a satisfies $x = 1")[1:] == ["- $x = 1 ['2']"]
    assert told("every $x in //a satisfies $x = (1, 2)")[1:] == ["+ $x = (1, 2) ['1', '2']"]


def test_unions() -> None:
    assert told("//x | //y") == ["- //x | //y", "- //x", "- x selects nothing", "- //y", "- y selects nothing"]
    assert told("//x except //a") == ["- //x except //a", "- //x", "- x selects nothing"]


def test_texts_are_as_written() -> None:
    text = "//s = 'x   y'\n or   //s = \"b  (: c\"\n(: don't  :) or 'x  ' = //s"
    assert [line[2:] for line in told(text)[1:]] == [
        "//s = 'x   y' ['x  y']", "//s = \"b  (: c\" ['x  y']", "'x  ' = //s ['x  y']",
    ]  # fmt: skip


def test_a_variable_that_does_not_fit() -> None:
    number = "declare namespace p = 'urn:p';\ndeclare variable $n as xs:integer external; $n > 2"
    explanation = compile_filter(number).explain(etree.parse(io.BytesIO(ITEMS)), {"n": "3"})
    assert explanation.error is not None
    assert (explanation.error.code, explanation.error.line, explanation.error.column) == ("XPTY0004", 2, 18)
    assert explanation.error.detail == "The variable $n is not of type xs:integer: it is the xs:string '3'."
    assert [(clause.text, clause.line, clause.held) for clause in explanation.clauses] == [("$n as xs:integer external", 2, None)]
    assert told("declare variable $n external := xs:date('x;y'); $n")[0] == "? $n external := xs:date('x;y')"
    assert told(number)[1].startswith("  [XPDY0002] The variable $n has no value.")


def test_the_place_of_what_is_dear_is_the_filter_s_own() -> None:
    for literal in ("'x'", "'longer'"):  # one template for both
        before = f"//a = {literal} and\n(some $x in //*, "
        compiled = compile_filter(f"{before}$y in //* satisfies $x/@id = $y/@ref)")
        assert (compiled.cost, compiled.cost_place) == ("dear", (2, 18))
        same = compile_filter(before.replace("\n", " ") + "$y in //* satisfies $x/@id = $y/@ref)")
        assert same.cost_place == (1, len(before) + 1)
    assert compile_filter("//a").cost_place == (0, 0)


def test_external_variables_by_name_and_type() -> None:
    declared = "declare variable $host.name external; declare variable $n as xs:integer? external := 5; declare variable $own := 1;"
    assert compile_filter(f"{declared} $n > $own and $host.name").external == {"host.name": "", "n": "xs:integer?"}


def explained(chance: random.Random) -> None:
    """Random filters and events: an explanation says what `matches` does, and each part of it what that part does by itself."""
    maker = Maker(chance)
    shape = maker.shape()
    document = maker.event(shape)
    variables = chance.choice(({}, {"v": "x"}, {"v": 5}))
    for text in (maker.filter() for _ in range(8)):
        one = compile_filter(text)
        answer = verdict(one, document, variables)
        explanation = one.explain(document, variables)
        said = f"\n{text}\n{etree.tostring(document).decode()} {variables}\nby itself {answer}, {explanation}"
        assert explanation.matches == (answer is True), said
        assert (explanation.error.code if explanation.error else bool(answer)) == answer, said
        if not explanation.clauses:
            continue
        assert explanation.matches or explanation.failed(), said
        (root,) = explanation.clauses
        assert (root.held is True, root.held is None) == (explanation.matches, explanation.error is not None), said
        module = parse(text)
        for clause in root.clauses:
            before = text[: clause.column - 1]
            if isinstance(module.body, (s.And, s.Or)):
                part = f"{text[: module.start]} {clause.text}"
            elif isinstance(module.body, (s.Slash, s.Postfix)) and before.endswith("[") and before.count("[") == before.count("]") + 1:
                part = f"{before}{clause.text}]"  # the path up to this predicate
            else:
                continue
            assert (clause.held is True) == (verdict(compile_filter(part), document, variables) is True), f"{part}{said}"


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.integers(0, 2**64))
def test_an_explanation_says_what_the_filter_does(seed: int) -> None:
    explained(random.Random(seed))


def test_a_generated_filter_reads_well() -> None:
    assert generate(etree.parse(io.BytesIO(EVENT))) == (
        "declare namespace f = 'http://www.gonicus.de/Events';\n/f:Event/f:PhoneStatus[\n  @line = '2'\n  and f:CallerId = '55'\n"
        "  and f:Status = 'busy'\n]"
    )


def test_a_generated_filter_keeps_what_is_together_and_says_what_is_missing() -> None:
    event = (
        f"<Event><Report>all <Log n='1'><L>err</L><M>a\n\tb</M></Log><Log n='2'><L>info</L><M>{'x' * 121}</M></Log>"
        "fine<Host>a</Host><Host>b</Host></Report></Event>"
    )
    assert generate(etree.parse(io.BytesIO(event.encode()))).split("\n") == [
        "/Event/Report[",
        "  text() = 'all '",
        "  and text() = 'fine'",
        "  and Log[@n = '1' and L = 'err' and M = 'a&#xA;&#x9;b']",
        "  and Log[@n = '2' and L = 'info' and M (: its text is too long to stand here :)]",
        "  and Host = 'a'",
        "  and Host = 'b'",
        "]",
    ]
    many = generate(etree.parse(io.BytesIO(f"<Event><K>{''.join(f'<a>{n}</a>' for n in range(1000))}</K></Event>".encode())))
    assert many.endswith("\n  (: cut off here, the event has more values :)\n]")
    assert generate(etree.parse(io.BytesIO(b"<Event><Ping>hello</Ping></Event>"))) == "/Event/Ping[\n  . = 'hello'\n]"


EVENTS = "http://www.gonicus.de/Events"
TAGS = (
    f"{{{EVENTS}}}a",
    f"{{{EVENTS}}}a",
    "{urn:x}b",
    "c",
    "for",
    "text",
    "{http://www.w3.org/2001/XMLSchema}d",
    "\u2170x",
    "a\u00b7b",
)
ODD = ("", "'", '"', "&", "&amp;", "<", "]]>", "\r\n", "\n", "\t", " ", "{", "(:", ":)", "\x85", "\u2028", "\x9b", "\U0001f600", "x" * 130)
TEXT = st.builds(
    str.__add__,
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"), exclude_characters="￾￿"), max_size=10),
    st.sampled_from(ODD),
)


def strange(chance: random.Random, texts: list[str]) -> etree._ElementTree:
    """An event with these texts in elements, attributes, mixed content, comments, CDATA and processing instructions."""
    root = etree.Element(f"{{{EVENTS}}}Event")
    open_elements = [etree.SubElement(root, chance.choice((f"{{{EVENTS}}}Kind", "{urn:y}Kind", "Kind")))]
    for text in texts:
        parent = chance.choice(open_elements)
        what = chance.random()
        if what < 0.25:
            parent.set(chance.choice(("a", "{urn:x}b", "{http://www.w3.org/XML/1998/namespace}lang")), text)
        elif what < 0.35:
            parent.append(etree.Comment("c") if chance.random() < 0.5 else etree.ProcessingInstruction("a", "b"))
            parent[-1].tail = text
        elif what < 0.4 and not len(parent):
            parent.text = etree.CDATA(text.replace("]]>", ""))
        else:
            child = etree.SubElement(parent, chance.choice(TAGS))
            child.text = text
            child.tail = chance.choice((None, "\n", text))
            if chance.random() < 0.5:
                open_elements.append(child)
    return etree.parse(io.BytesIO(etree.tostring(root, encoding="utf-8")))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.randoms(use_true_random=False), st.lists(TEXT, max_size=30))
def test_a_generated_filter_matches_its_event(chance: random.Random, texts: list[str]) -> None:
    document = strange(chance, texts)
    text = generate(document)
    compiled = compile_filter(text)
    assert compiled.cost == "cheap"
    assert compiled.matches(document)
    assert compiled.explain(document).matches
    assert all(line.startswith(("declare ", "/", "  ", "]")) for line in text.splitlines())


def test_events_too_strange_for_every_value() -> None:
    deep = "<b>" * 240 + "x" + "</b>" * 240
    wide = "".join(f"<n{n}:b xmlns:n{n}='urn:{n}'>x</n{n}:b>" for n in range(5000))
    name = "n" * 40_000
    for inside in (deep, wide, f"<{name}/>", "<b><c>" * 100 + "</c><d/></b><b><c/></b>" * 100):
        document = etree.parse(io.BytesIO(f"<Event><Kind>{inside}</Kind></Event>".encode()))
        text = generate(document)
        assert compile_filter(text).cost == "cheap"
        assert compile_filter(text).matches(document)
