"""The corpus in `tests/filters`, one test for each case: by itself, through the index, and confirmed by the full engine.

`python tests/test_xquery_corpus.py` prints how many cases each tier answers, and where the full engine differs.
"""

from __future__ import annotations

import io
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from clacks.xquery import FilterError, FilterIndex, compile_filter, saxon
from clacks.xquery.frames import Event
from clacks.xquery.module import parse

FOLDER = Path(__file__).parent / "filters"
P = "declare namespace f='http://www.gonicus.de/Events'; "

# Where the full engine answers otherwise: the filter (its end), and the sentence of the specification that decides.
DIFFERENCES = {
    "//f:Total > 0": "F&O 4.3.3: op:numeric-greater-than is false when an operand is NaN; saxonche 13.1.1 says true for an untyped NaN",
    "/e/a >= 5": "F&O 4.3.3, with 4.3.1: NaN is not equal to 5 nor greater; saxonche 13.1.1 says true for an untyped NaN",
    "/f:Event/f:NodeStatus/* > 5": "XPath 2.3.4: an engine may answer although one of the pairs fails; ours answers when it can",
    "/f:Event/f:NodeStatus[f:Load gt 0.5]": "XPath 3.7.1: an untyped operand is cast to xs:string; saxonche fails without saying XPTY0004",
    "//f:Status/string()/x": "XPath 3.3.1.1: XPTY0019 where E1 gives a value; saxonche fails without saying so",
    "exactly-one(()) = 1": "F&O 14.2.6: FORG0005; saxonche finds it by static typing and says FORG0006",
    "one-or-more(()) = 1": "F&O 14.2.5: FORG0004; saxonche finds it by static typing and says FORG0006",
    "() cast as xs:integer": "XPath 3.18.2: XPTY0004; saxonche says FORG0006",
    ". treat as element()": "XPath 2.3.4: saxonche knows the static type of an effective boolean value and does not evaluate the operand",
    "string-join((xs:date('2026-01-01') or true()) ! string(), '|') = 'true'": "XPath 2.3.4: `or` may answer although one operand fails",
    "string-join((true() or xs:date('2026-01-01')) ! string(), '|') = 'true'": "XPath 2.3.4: `or` may answer although one operand fails",
}


@dataclass(frozen=True)
class Case:
    family: str
    filter: str
    event: str
    variables: dict[str, Any]
    matches: bool | None
    fails: str | None
    refused: str | None

    @property
    def known(self) -> str | None:
        ends = (end for end in DIFFERENCES if self.filter == end or self.filter.endswith("; " + end))
        return DIFFERENCES.get(next(ends, ""))


def load() -> Iterator[Case]:
    for path in sorted(FOLDER.glob("*.toml")):
        table = tomllib.loads(path.read_text())
        for one in table["case"]:
            yield Case(table["family"], one["filter"], table["events"][one["event"]], one.get("variables", {}), one.get("matches"),
                       one.get("fails"), one.get("refused"))  # fmt: skip


CASES = list(load())


def document(case: Case) -> etree._ElementTree:
    return etree.parse(io.BytesIO(case.event.encode()))


def names(case: Case) -> str:
    return f"{case.family}-{case.filter.removeprefix(P)[:60]}"


@pytest.mark.parametrize("case", CASES, ids=names)
def test_a_case_of_the_corpus(case: Case) -> None:
    if case.refused is not None:
        with pytest.raises(FilterError) as refused:
            compile_filter(case.filter)
        assert refused.value.code == case.refused
        assert refused.value.line >= 1
        return
    if case.family == "full" and not saxon.available():
        pytest.skip("the case needs the full engine")
    compiled = compile_filter(case.filter)
    failures: list[str] = []
    index = FilterIndex[int](on_error=lambda key, error: failures.append(error.code))
    index.add(1, compiled)
    assert index.match(document(case), case.variables) == ([1] if case.matches else [], [])
    if case.fails is not None:
        with pytest.raises(FilterError) as failed:
            compiled.matches(document(case), case.variables)
        assert failed.value.code == case.fails
        assert failures in ([], [case.fails])  # the index may have ruled the filter out without evaluating it
    else:
        assert compiled.matches(document(case), case.variables) is case.matches


def oracle(case: Case) -> bool | str:
    """What the full engine says."""
    try:
        event = Event(document(case), case.variables)
        supplied = compile_filter(case.filter).compiled.supplied(event)
        return saxon.SaxonFilter(parse(case.filter)).matches(event, supplied)
    except FilterError as error:
        return error.code


@pytest.mark.skipif(not saxon.available(), reason="the xquery extra is not installed")
@pytest.mark.parametrize("case", [case for case in CASES if case.refused is None], ids=names)
def test_the_full_engine_confirms_it(case: Case) -> None:
    expected = case.fails if case.fails is not None else case.matches
    assert (oracle(case) == expected) == (case.known is None), case.known


def test_the_corpus_is_large_and_nearly_all_of_it_is_native() -> None:
    assert len(CASES) >= 900
    assert len({case.family for case in CASES}) >= 15
    tiers = Counter(compile_filter(case.filter).tier for case in CASES if case.refused is None and case.family != "full")
    assert set(tiers) == {"index", "native"}


if __name__ == "__main__":
    accepted = [case for case in CASES if case.refused is None]
    print(len(CASES), "cases,", len(CASES) - len(accepted), "of them refused when they are compiled")
    for tier, number in Counter(f"{one.tier}, {one.cost}" for one in (compile_filter(case.filter) for case in accepted)).most_common():
        print(f"{number:6} {tier}")
    print("not native:")
    for case in accepted:
        foreign = compile_filter(case.filter).compiled.foreign
        if foreign is not None:
            print(f"       {foreign[1]}: {case.filter.removeprefix(P)[:90]}")
    print("the full engine differs:")
    for case in accepted:
        expected = case.fails if case.fails is not None else case.matches
        if saxon.available() and (found := oracle(case)) != expected:
            print(f"       {case.filter.removeprefix(P)[:70]}: {found}, not {expected}; {case.known}")
