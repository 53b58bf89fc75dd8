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


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"), exclude_characters="￾￿"), max_size=20)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.randoms(use_true_random=False), st.lists(TEXT, min_size=1, max_size=8))
def test_a_generated_filter_matches_its_event(chance: random.Random, texts: list[str]) -> None:
    root = etree.Element("{http://www.gonicus.de/Events}Event")
    open_elements = [etree.SubElement(root, f"{{{chance.choice(('http://www.gonicus.de/Events', 'urn:x', 'urn:y'))}}}Kind")]
    for text in texts:
        parent = chance.choice(open_elements)
        if chance.random() < 0.3:
            parent.set(chance.choice(("a", "{urn:x}b")), text + chance.choice(("", "\n", "\r", "\t")))
            continue
        child = etree.SubElement(parent, chance.choice(("{http://www.gonicus.de/Events}a", "{urn:x}b", "c", "for")))
        child.text = text + chance.choice(("", "'", '"', "&", "<", "]]>", "\r\n", "{", "(:"))
        if chance.random() < 0.4:
            open_elements.append(child)
    document = etree.parse(io.BytesIO(etree.tostring(root)))
    compiled = compile_filter(generate(document))
    assert compiled.cost == "cheap"
    assert compiled.matches(document)
    assert compiled.explain(document).matches
