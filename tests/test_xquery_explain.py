"""Explanations as transcripts, and generated filters, which match the event they come from."""

from __future__ import annotations

import io
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from clacks.xquery import Clause, compile_filter, generate

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
