"""Why a filter matches an event or does not: its clauses, each with the verdict, the values seen and the place in the text.

The filter is parsed and evaluated again, clause by clause, from the tree as it was written; that takes as long as it takes, so explanations
do not belong on a path where events pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from . import syntax as s
from .axes import REVERSE
from .compiled import Compiled
from .errors import FilterError, position
from .evaluate import Compiler
from .frames import Event, Frame
from .module import Module
from .names import FN, split
from .properties import is_boolean
from .static import binding_order
from .values import atomize, is_numeric, string_of

# Enough to see what is wrong; an event may have thousands of such values.
MAX_VALUES: Final = 5
MAX_LENGTH: Final = 80


@dataclass(frozen=True, slots=True)
class Clause:
    """One part of a filter. `held` is None where it failed with `error` or was not reached; `values` are those it looked at.

    What is asked of several nodes holds if it does for one of them; inside `every` it is shown for those only that it does not hold for.
    `note` says what the clauses inside do not show."""

    text: str
    line: int
    column: int
    held: bool | None
    values: tuple[str, ...] = ()
    error: str = ""
    clauses: tuple[Clause, ...] = ()
    note: str = ""

    def walk(self) -> Iterator[Clause]:
        """The clause and those inside it."""
        yield self
        for one in self.clauses:
            yield from one.walk()

    def failures(self) -> list[Clause]:
        """The innermost clauses that this one did not hold for. What is inside one that held had no say, nor what was not reached."""
        if self.held is not False and not self.error:
            return []
        return [one for inner in self.clauses for one in inner.failures()] or [self]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The verdict on one event, what answered, and the filter's clauses; `error` is the failure that made it no match."""

    matches: bool
    tier: str
    cost: str
    clauses: tuple[Clause, ...]
    error: FilterError | None = None

    def failed(self) -> list[Clause]:
        """The innermost clauses that did not hold: what to look at first."""
        return [] if self.matches else [one for root in self.clauses for one in root.failures()]


class _Explainer:
    def __init__(self, module: Module, spans: dict[int, tuple[int, int]]) -> None:
        self.module = module
        self.spans = spans
        self.compiler = Compiler({(one.name, len(one.params)): one for one in module.functions})

    def clause(self, expr: s.Expr, frames: list[Frame]) -> Clause:
        """The clause for an expression, over all the frames it is asked in: it holds if it does in one of them."""
        held, error = self.verdict(expr, frames)
        values = tuple(dict.fromkeys(value for operand in _operands(expr) for value in self.values(operand, frames)))
        inside = tuple(self.inside(expr, frames))
        made = self.made(expr, held, values[:MAX_VALUES], error, inside)
        together = isinstance(expr, s.And) or (isinstance(expr, s.SetOp) and expr.op == "intersect")
        if held is False and together and all(one.held for one in inside):
            return replace(made, note=APART if isinstance(expr, s.And) else NOTHING_IN_COMMON)
        return made

    def made(self, expr: s.Expr, held: bool | None, values: tuple[str, ...] = (), error: str = "",
             clauses: tuple[Clause, ...] = ()) -> Clause:  # fmt: skip
        start, end = self.spans.get(id(expr), (expr.at, expr.at))
        if end == start:
            start = min((one.at for one in s.walk(expr)), default=expr.at)
            end = max((span[1] for one in s.walk(expr) if (span := self.spans.get(id(one)))), default=len(self.module.text))
        return Clause(one_line(self.module.text[start:end]), *position(self.module.text, start), held, values, error, clauses)

    def verdict(self, expr: s.Expr, frames: list[Frame]) -> tuple[bool | None, str]:
        test = self.compiler.boolean(expr)
        error = ""
        for frame in frames:
            try:
                if test(frame):
                    return True, ""
            except FilterError as failure:
                error = error or str(failure)
        return (None, error) if error or not frames else (False, "")

    def items(self, expr: s.Expr, frames: list[Frame]) -> list[Any]:
        found: list[Any] = []
        sequence = self.compiler.sequence(expr)
        for frame in frames:
            try:
                found.extend(sequence(frame))
            except FilterError:
                continue
        return found

    def values(self, expr: s.Expr, frames: list[Frame]) -> Iterator[str]:
        for item in self.items(expr, frames)[: MAX_VALUES * 4]:
            text = string_of(atomize([item])[0])
            yield text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 3] + "..."

    def prolog(self, compiled: Compiled, frame: Frame) -> Iterator[Clause]:
        """Binds the variables of the prolog, also those that the compiled filter has put in place; the first that fails ends it."""
        text = self.module.text
        for variable in binding_order(self.module):
            default = None if variable.value is None else self.compiler.sequence(variable.value)
            try:
                frame.vars[variable.name] = compiled.value(frame, variable, default)
            except FilterError as failure:
                end = self.spans[id(variable.value)][1] if id(variable.value) in self.spans else text.find(";", variable.at)
                yield Clause(one_line(text[variable.at : end]), *position(text, variable.at), None, (), str(failure))
                return

    # --- what is inside ------------------------------------------------------------------------------------------------------------

    def inside(self, expr: s.Expr, frames: list[Frame]) -> Iterator[Clause]:
        match expr:
            case s.And() | s.Or():
                yield from (self.clause(one, frames) for one in expr.items)
            case s.Call(name=name, args=(s.Expr() as only,)) if split(name) in _TRANSPARENT:
                yield self.clause(only, frames)
            case s.If():
                yield self.clause(expr.condition, frames)
                for branch, held in ((expr.then, True), (expr.otherwise, False)):
                    asked = [frame for frame in frames if self.verdict(expr.condition, [frame])[0] is held]
                    if asked:
                        yield self.clause(branch, asked)
            case s.Quantified():
                for binding in expr.bindings:
                    yield from self.path(binding.source, frames)
                    frames = self.bound(binding, frames)
                if expr.every:
                    verdicts = [self.verdict(expr.condition, [frame])[0] for frame in frames]
                    against = [frame for frame, held in zip(frames, verdicts, strict=True) if held is False]
                    frames = against or [frame for frame, held in zip(frames, verdicts, strict=True) if held is None] or frames
                yield self.clause(expr.condition, frames)
            case s.Flwor():
                yield from self.flwor(expr, frames)
            case s.Slash() | s.Step() | s.Postfix():
                yield from self.path(expr, frames)
            case s.Union():
                yield from (self.clause(one, frames) for one in expr.items)
            case s.SetOp(op="intersect"):
                yield from (self.clause(one, frames) for one in (expr.left, expr.right))
            case s.SetOp():
                yield self.clause(expr.left, frames)
            case s.Compare() | s.Call():
                for one in s.children(expr):
                    if isinstance(one, (s.Slash, s.Step, s.Postfix)):
                        yield from self.path(one, frames)

    def bound(self, clause: s.For, frames: list[Frame]) -> list[Frame]:
        return [frame.bound(clause.name, [item]) for frame in frames for item in self.items(clause.source, [frame])]

    def flwor(self, expr: s.Flwor, frames: list[Frame]) -> Iterator[Clause]:
        for clause in expr.clauses:
            match clause:
                case s.Where(condition=condition):
                    yield self.clause(condition, frames)
                    test = self.compiler.boolean(condition)
                    frames = [frame for frame in frames if _holds(test, frame)]
                case s.Let(name=name, value=value):
                    yield from self.path(value, frames)
                    frames = [frame.bound(name, self.items(value, [frame])) for frame in frames]
                case s.For():
                    yield from self.path(clause.source, frames)
                    frames = self.bound(clause, frames)
                    if clause.counter is not None:
                        frames = [frame.bound(clause.counter, [place]) for place, frame in enumerate(frames, 1)]
                case _:
                    return  # what follows sees other tuples
        yield self.clause(expr.result, frames)

    def path(self, expr: s.Expr, frames: list[Frame]) -> Iterator[Clause]:
        """The predicates of a path, and the step at which it ran dry."""
        if frames and isinstance(expr, (s.Slash, s.Step, s.Postfix)):
            yield from self._walked(expr, frames)

    def _walked(self, expr: s.Slash | s.Step | s.Postfix, frames: list[Frame]) -> Iterator[Clause]:
        if isinstance(expr, s.Slash):
            before = list(self.path(expr.left, frames))
            yield from before
            if any(one.held is False and one.text.endswith(NOTHING) for one in before):
                return
            frames = [frame.inner(item) for frame in frames for item in self.items(expr.left, [frame])]
            right = expr.right
            if not frames or not isinstance(right, s.Step):
                return
        else:
            right = expr
        predicates = right.predicates if isinstance(right, (s.Step, s.Postfix)) else ()
        bare: s.Expr = replace(right, predicates=()) if isinstance(right, s.Step) else right.base if isinstance(right, s.Postfix) else right
        groups = [self.items(bare, [frame]) for frame in frames]
        if not any(groups):
            shown = self.module.text[right.at : self._end(right)].strip()
            yield Clause(f"{shown} {NOTHING}", *position(self.module.text, right.at), False)
            return
        if isinstance(right, s.Step) and right.axis in REVERSE:
            groups = [nodes[::-1] for nodes in groups]
        for predicate in predicates:
            asked = [
                [frame.inner(node, place, len(nodes)) for place, node in enumerate(nodes, 1)]
                for frame, nodes in zip(frames, groups, strict=True)
            ]
            clause, groups = self.predicate(predicate, asked)
            yield clause

    def predicate(self, expr: s.Expr, asked: list[list[Frame]]) -> tuple[Clause, list[list[Any]]]:
        """The clause for a predicate, and the nodes that are left of each group."""
        every = [frame for group in asked for frame in group]
        test = self.compiler.boolean(expr)
        place = None if is_boolean(expr) else self.compiler.sequence(expr)
        positional = False

        def keeps(frame: Frame) -> bool:
            nonlocal positional
            if place is None:
                return test(frame)
            found = place(frame)
            if len(found) == 1 and is_numeric(found[0]):
                positional = True
                return bool(found[0] == frame.position)
            return test(frame)

        left = [[frame.item for frame in group if _holds(keeps, frame)] for group in asked]
        clause = self.made(expr, any(left)) if positional else self.clause(expr, every)
        return clause, left

    def _end(self, step: Any) -> int:
        """The end of a step's name, which no span tells."""
        text, at = self.module.text, int(step.at)
        while at < len(text) and text[at] not in "[]()=<>!, \t\r\n" and not (text[at] == "/" and at > step.at):
            at += 1
        return at


NOTHING: Final = "selects nothing"
APART: Final = "each part holds, but not all for the same element"
NOTHING_IN_COMMON: Final = "each side selects something, but nothing in common"

# White space that means nothing; what stands in literals, constructors' text aside, does.
_SPACE: Final = re.compile(r"""\(:.*?:\)|"[^"]*"|'[^']*'|(\s+)""", re.DOTALL)


def one_line(text: str) -> str:
    """A part of a filter in one line where that changes no literal."""
    return _SPACE.sub(lambda found: " " if found.group(1) else found.group(), text.strip())


_TRANSPARENT: Final = frozenset((FN, name) for name in ("not", "boolean", "exists", "empty"))


def _holds(test: Any, frame: Frame) -> bool:
    try:
        return bool(test(frame))
    except FilterError:
        return False


def _operands(expr: s.Expr) -> list[s.Expr]:
    """The parts of a clause whose values are worth showing."""
    if isinstance(expr, (s.Compare, s.Call)) and not (isinstance(expr, s.Call) and split(expr.name) in _TRANSPARENT):
        return [one for one in s.children(expr) if not isinstance(one, (s.Literal, s.Sequence))]
    return [expr] if isinstance(expr, (s.Slash, s.Step, s.Postfix, s.VarRef)) else []


def explain(text: str, compiled: Compiled, tier: str, event: Event, params: tuple[Any, ...]) -> Explanation:
    """The explanation of one filter for one event."""
    from .module import parse

    error = None
    try:
        held = compiled.matches(event, params)
    except FilterError as failure:
        held, error = False, failure
    cost = "cheap" if compiled.dear is None else "dear"
    if compiled.engine is not None:
        return Explanation(held, tier, cost, (), error)
    spans: dict[int, tuple[int, int]] = {}
    module = parse(text, spans)
    explainer = _Explainer(module, spans)
    frame = Frame(event, ())
    failures = list(explainer.prolog(compiled, frame))
    clauses = tuple(failures) or (explainer.clause(module.body, [frame]),)
    return Explanation(held, tier, cost, clauses, error and _placed(error, clauses))


def _placed(error: FilterError, clauses: Sequence[Clause]) -> FilterError:
    """The error with the place of the innermost clause that failed with it."""
    places = [(one.line, one.column) for root in clauses for one in root.walk() if one.error == str(error)]
    return FilterError(error.code, error.detail, *places[-1]) if places and not error.line else error
