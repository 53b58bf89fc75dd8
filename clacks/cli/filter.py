"""`clacks filter`: try a filter before it goes to an agent. It only reads files; no agent need be running.

What a filter means is `clacks.xquery`'s to say; here stands how people are told. Texts from filters and events are shown with whatever a
terminal would act upon spelled out.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ..common.errors import EXIT_DONE, EXIT_FAILED, EXIT_INVALID, ClacksError
from .command import Group, json_option
from .output import print_error, print_json, styled
from .sendevent import _pair

if TYPE_CHECKING:
    from lxml import etree

    from ..xquery import Clause, Explanation, Filter, FilterError

# What answers on an agent, in plain words: its name, and what else there is to say.
TIERS: Final = {
    "index": ("the index", "alone; the filter itself need not be evaluated"),
    "native": ("the agent's own evaluator", ""),
    "elementpath": ("elementpath, a general XPath engine", "since the agent's own evaluator does not know {what}"),
    "saxon": ("Saxon, the full XQuery engine", "since the agent's own evaluator does not know {what}; install clacks[xquery] there, too"),
}

# An excerpt of a filter's line, or a clause, fits a terminal of 100 columns with what stands around it.
WIDTH: Final = 72
# Lines of the filter above the one with the mistake: enough to see which expression is meant.
CONTEXT: Final = 2

# How a name ends that is meant as a file's. Read as a query it would be an element `busy.xq`, which no event has.
FILE_ENDINGS: Final = (".xq", ".xql", ".xqm", ".xqy", ".xquery", ".xpath", ".txt")


@click.group(
    "filter",
    cls=Group,
    examples="""
        clacks filter generate event.xml > filter.xq
        clacks filter check filter.xq
        clacks filter test filter.xq event.xml
    """,
)
def filters() -> None:
    """Try a filter before it goes to an agent.

    No agent is needed. A filter is given as it is or in a file: what names an existing file is that file, - is the standard input.
    """


@filters.command(
    "check",
    examples="""
        clacks filter check "/*:Event/*:PhoneStatus[*:Status = 'busy']"
        clacks filter check filter.xq
        clacks filter check - < filter.xq
        clacks filter check --json "//*:CallerId = //*:ReceiverId" | jq .cost
    """,
)
@click.argument("query", metavar="QUERY|FILE")
@json_option
def check(query: str, as_json: bool) -> None:
    """Say whether a filter compiles, and how an agent will answer it.

    Exit codes: 0 it compiles, 2 it does not, and the place of the mistake is shown.
    """
    compiled = _compiled(filter_text(query))
    if as_json:
        found = {"valid": True, "tier": compiled.tier, "cost": compiled.cost, "reason": compiled.cost_reason}
        found |= dict(zip(("line", "column"), compiled.cost_place, strict=True))
        more = {"conditions": list(compiled.conditions), "properties": compiled.external, "no_namespace": list(compiled.bare)}
        print_json({**found, **more})
        return
    click.echo(styled("The filter compiles.", fg="green", bold=True))
    shown = {"answered by": _answered_by(compiled), "looked for": _looked_for(compiled), "properties": _properties(compiled)}
    for title, lines in {**shown, "names": _bare(compiled), "cost": _cost(compiled)}.items():
        for number, line in enumerate(lines):
            click.echo(f"  {styled(f'{title if not number else str():12}', bold=True)} {line}")


@filters.command(
    "test",
    examples="""
        clacks filter test "/*:Event/*:PhoneStatus[*:Status = 'busy']" event.xml
        clacks filter test filter.xq event.xml other.xml
        clacks filter test --property site=oslo filter.xq event.xml
        sendEvent --dry-run PhoneStatus CallerId=1 ReceiverId=2 Status=busy | clacks filter test filter.xq -
        clacks filter test --json filter.xq event.xml | jq .[].failed
    """,
)
@click.argument("query", metavar="QUERY|FILE")
@click.argument("events", metavar="EVENT.xml...", nargs=-1, required=True)
@click.option(
    "--property", "properties", metavar="NAME=VALUE", multiple=True,
    help="An application property, as sendEvent sends it (a string), for the external variable $NAME; may be given several times.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Show the clauses of a filter that matches, too.")
@json_option
@click.pass_context
def test(ctx: click.Context, query: str, events: tuple[str, ...], properties: tuple[str, ...], verbose: bool, as_json: bool) -> None:
    """Say which events a filter matches, and where it does not which clause failed.

    Each clause is shown with yes or no, its place in the filter and the values it saw in the event; - is an event from the standard input.

    Exit codes: 0 all events match, 1 one does not, 2 usage or the filter does not compile, 3 an event is no XML.
    """
    if [query, *events].count("-") > 1:
        raise click.UsageError("The standard input can be read once: give - for the filter or for one event.")
    variables: dict[str, object] = dict(_pair(text) for text in properties)
    compiled = _compiled(filter_text(query))
    bodies = [(_name(event), _read(event)) for event in events]
    worst, found = EXIT_DONE, []
    for name, body in bodies:
        try:
            document = _document(name, body)
        except ClacksError as error:
            worst = EXIT_INVALID
            found.append({"event": name, "matches": None, "error": error.to_json()})
            print_error(error)
            continue
        explanation = _explained(compiled, name, document, variables)
        worst = max(worst, EXIT_DONE if explanation.matches else EXIT_FAILED)
        found.append({"event": name, **_as_json(explanation)})
        if not as_json:
            _print(name, explanation, verbose)
    if as_json:
        print_json(found)
    ctx.exit(worst)


@filters.command(
    "generate",
    examples="""
        clacks filter generate event.xml > filter.xq
        clacks consume --count 1 --format xml | clacks filter generate -
    """,
)
@click.argument("event", metavar="EVENT.xml")
@json_option
def generate(event: str, as_json: bool) -> None:
    """Print a filter that matches an event, a clause for each value in it.

    Take away the clauses that do not matter, and change the others. - is an event from the standard input.

    Exit codes: 0 done, 2 usage, 3 the event is no XML.
    """
    from ..xquery import generate as generated

    text = generated(_document(_name(event), _read(event)))
    if as_json:
        print_json({"filter": text})
    else:
        click.echo(text)


# --- what is read ----------------------------------------------------------------------------------------------------------------


def _read(place: str) -> bytes:
    """The bytes of a file, or of the standard input for -."""
    try:
        return sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise click.UsageError(f"{_name(place)} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _name(place: str) -> str:
    return "standard input" if place == "-" else visible(click.format_filename(place))


def filter_text(query: str) -> str:
    """A filter's text, from where it is. A folder's name (`.`, `/`) is a query."""
    if query == "-" or (os.path.exists(query) and not os.path.isdir(query)):
        try:
            return _with_line_feeds(_read(query).decode("utf-8-sig")).removesuffix("\n")
        except UnicodeDecodeError as error:
            raise click.UsageError(f"{_name(query)} is not UTF-8 (byte {error.start}). Save the filter as UTF-8.") from error
    if query.endswith(FILE_ENDINGS) and not query.strip("./").count(" "):
        raise click.UsageError(f"There is no file {_name(query)}. If an element has this name, write ({query}).")
    return query


def _with_line_feeds(text: str) -> str:
    """Lines as XQuery counts them (XQuery 3.1 section A.2.3)."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _compiled(text: str) -> Filter:
    from ..xquery import FilterError, compile_filter

    try:
        return compile_filter(text)
    except FilterError as error:
        raise _Refused(text, error) from error


def _document(name: str, body: bytes) -> etree._ElementTree:
    """Any XML, as an agent reads it. Whether it is an event an agent would take is said in a note."""
    from ..common.event import event_name, parse

    try:
        document = parse(body)
    except ClacksError as error:
        raise _About(name, error) from error
    try:
        event_name(document)
    except ClacksError as error:
        click.echo(f"note: {name}: {visible(str(error))} An agent refuses it.", err=True)
    return document


class _About(ClacksError):
    """An error with the name of the file it is about."""

    def __init__(self, name: str, error: ClacksError) -> None:
        super().__init__(error.code, problems=error.problems, **error.values)
        self.name = name

    def __str__(self) -> str:
        return f"{self.name}: {visible(super().__str__())}"


class _Refused(ClacksError):
    """A filter that does not compile, shown with a caret under the mistake."""

    def __init__(self, text: str, error: FilterError) -> None:
        super().__init__("filter-invalid", line=error.line, column=error.column, w3c=error.code, reason=error.sentence)
        self.text = text

    def __str__(self) -> str:
        line, column = self.values["line"], self.values["column"]
        return "\n".join([visible(super().__str__()), *(f"  {one}" for one in pointed(self.text, line, column))])

    def to_json(self) -> dict[str, Any]:
        place = {key: self.values[key] for key in ("line", "column", "w3c")}
        return {"code": self.code, "message": super().__str__(), **place}


# --- what is said ----------------------------------------------------------------------------------------------------------------


def visible(text: str) -> str:
    """The text with what a terminal would act upon spelled out: an event may have U+009B, which begins its commands."""
    return "".join(one if one.isprintable() or one == "\t" else one.encode("unicode_escape").decode() for one in text)


def pointed(text: str, line: int, column: int) -> Iterator[str]:
    """The lines of `text` up to `line`, as far as they help, and a caret under `column`; both count from 1."""
    lines = _with_line_feeds(text).split("\n")
    if not 0 < line <= len(lines):
        return
    gutter = len(str(line)) if len(lines) > 1 else 0
    for number in range(max(1, line - CONTEXT), line):
        yield f"{number:{gutter}} | {_cut(visible(lines[number - 1]))}".rstrip()
    head = f"{line} | " if gutter else ""
    source, at = lines[line - 1], column - 1
    start = max(0, min(at - WIDTH // 2, len(source) - WIDTH))
    dots = "…" if start else ""
    before = visible(source[start:at])
    yield f"{head}{dots}{before}{visible(source[at : start + WIDTH])}{'…' if start + WIDTH < len(source) else ''}".rstrip()
    yield " " * len(head + dots) + "".join(map(_blank, before)) + "^"


def _blank(one: str) -> str:
    """As much nothing as the character takes on a terminal (Unicode standard annex 11)."""
    if one == "\t":
        return one
    return "" if unicodedata.combining(one) else " " * (2 if unicodedata.east_asian_width(one) in "WF" else 1)


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def _answered_by(compiled: Filter) -> list[str]:
    """Which tier, and for which events it is asked."""
    name, more = TIERS[compiled.tier]
    if compiled.tier == "index":
        return [f"{name} {more}"]
    asked = f"{name}, for {'the events that the index picks out' if compiled.conditions else 'every event'}"
    return [asked, visible(more.format(what=compiled.cost_reason))] if more else [asked]


def _looked_for(compiled: Filter) -> list[str]:
    if not compiled.conditions:
        return ["nothing: no condition of this filter can be looked up"]
    return [f"{'or ' if number else ''}{visible(one)}" for number, one in enumerate(compiled.conditions)]


def _properties(compiled: Filter) -> list[str]:
    """The application properties that the filter asks for, with the types it wants."""
    return [f"${visible(name)}{f' as {kind}' if kind else ''}" for name, kind in compiled.external.items()]


def _bare(compiled: Filter) -> list[str]:
    """The names that most likely find nothing in an event."""
    return [
        f"{name} is in no namespace (line {line}, column {column}); elements of events mostly are in one: *:{name} finds them"
        for name, (line, column) in ((visible(name), place) for name, place in compiled.bare.items())
    ]


def _cost(compiled: Filter) -> list[str]:
    if compiled.cost == "cheap":
        return ["cheap: the work is bounded by the size of the event"]
    from ..agent.sandbox import Budget

    budget = Budget()
    line, column = compiled.cost_place
    return [
        f"dear: {visible(compiled.cost_reason)} (line {line}, column {column})",
        *(f"  {one}" for one in pointed(compiled.text, line, column)),
        "It is evaluated in the agent's sandbox, a process of its own; only its own subscription waits for it.",
        f"The usual budget of one evaluation is {budget.seconds:g} s of processor time and {budget.memory // 2**20} MiB of memory.",
        "A filter that keeps exceeding it is suspended.",
    ]


def _explained(compiled: Filter, name: str, document: etree._ElementTree, variables: dict[str, object]) -> Explanation:
    """The explanation, with a note where it took so long that an agent would not wait."""
    from time import process_time

    began = process_time()
    explanation = compiled.explain(document, variables)
    if compiled.cost == "dear":
        from ..agent.sandbox import Budget

        spent, seconds = process_time() - began, Budget().seconds
        if spent > seconds:
            usual = f"the usual budget of an evaluation in an agent is {seconds:g} s"
            click.echo(f"note: {name}: this took {spent:.1f} s, explanation included; {usual}.", err=True)
    return explanation


def _print(name: str, explanation: Explanation, verbose: bool) -> None:
    said = styled("match", fg="green", bold=True) if explanation.matches else styled("no match", fg="red", bold=True)
    fails = ", since the filter fails on it" if explanation.error else ""
    where = " in its sandbox" if explanation.cost == "dear" else ""
    click.echo(f"{styled(name, bold=True)}: {said}{fails} (on an agent answered{where} by {TIERS[explanation.tier][0]})")
    if explanation.matches and not verbose:
        return
    if explanation.error and not any(one.error for root in explanation.clauses for one in root.walk()):
        click.echo(f"  {visible(str(explanation.error))}")
    elif not explanation.clauses:
        click.echo("  This engine does not tell which clause it was.")
    failed = explanation.failed()
    for root in explanation.clauses:
        # The filter as a whole says no more than the verdict, unless it is where the failure is.
        for one in (root,) if not root.clauses or any(root is one for one in failed) else root.clauses:
            _print_clause(one, failed, 1)


# How a clause's verdict looks; None is a clause that was not reached, or failed.
_LOOKS: Final = ((True, ("yes", "green")), (False, ("no", "red")), (None, ("-", "yellow")))


def _print_clause(clause: Clause, failed: Sequence[Clause], depth: int) -> None:
    word, colour = next(look for held, look in _LOOKS if held is clause.held)
    notes = [f"line {clause.line}, column {clause.column}"]
    if clause.values:
        notes.append(f"seen: {', '.join(map(_value, clause.values))}")
    if clause.note:
        notes.append(clause.note)
    bold = any(clause is one for one in failed)
    verdict = styled("fails" if clause.error else f"{word:5}", fg=colour, bold=bold)
    place = styled(f"({'; '.join(notes)})", dim=True)
    click.echo(f"{'  ' * depth}{verdict} {styled(_cut(visible(clause.text)), bold=bold)}  {place}")
    if clause.error:
        click.echo(f"{'  ' * depth}      {visible(clause.error)}")
    for one in clause.clauses:
        _print_clause(one, failed, depth + 1)


def _value(value: str) -> str:
    """A value as it is; in quotes where its ends could not be seen."""
    return f"'{visible(value)}'" if not value or value != value.strip() or "," in value else visible(value)


def _as_json(explanation: Explanation) -> dict[str, Any]:
    error = explanation.error
    return {
        "matches": explanation.matches,
        "tier": explanation.tier,
        "cost": explanation.cost,
        "error": None if error is None else {"code": error.code, "message": error.sentence, "line": error.line, "column": error.column},
        "failed": [_clause_json(one) for one in explanation.failed()],
        "clauses": [_clause_json(one, deep=True) for one in explanation.clauses],
    }


def _clause_json(clause: Clause, *, deep: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"text": clause.text, "line": clause.line, "column": clause.column, "held": clause.held}
    found |= {"values": list(clause.values), "error": clause.error or None, "note": clause.note or None}
    return {**found, "clauses": [_clause_json(one, deep=True) for one in clause.clauses]} if deep else found
