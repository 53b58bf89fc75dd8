"""What any match must meet: conditions on paths and variables, derived from a filter's normal form.

A need may ask too little, never too much: whatever cannot be expressed is left out. `Atom.exact` says when nothing was left out.
Nothing here sees an event; the index turns conditions into look-ups.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from . import syntax as s
from .atoms import NO, SINGLE, YES, All, Any_, Atom, Edge, Need, Operand, Pattern
from .compare import MIRRORED
from .errors import FilterError
from .names import FN, split
from .properties import is_boolean
from .regex import linear


@dataclass(frozen=True, slots=True)
class Focus:
    """What `.` and the variables stand for, as patterns; None for what no pattern says."""

    here: Pattern | None
    names: dict[str, Pattern | None]
    externals: frozenset[str] = frozenset()

    def at(self, here: Pattern | None) -> Focus:
        return Focus(here, self.names, self.externals)

    def bound(self, name: str, pattern: Pattern | None) -> Focus:
        return Focus(self.here, {**self.names, name: pattern}, self.externals)


# --- paths ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Path:
    """A path as a pattern, what its predicates need, and whether pattern and needs say all."""

    pattern: Pattern
    needs: tuple[Need, ...]
    exact: int
    open: bool  # further steps can be followed


def _edge(step: s.Step) -> Pattern | None:
    test = step.test
    if isinstance(test, s.KindTest):
        if test.type is not None:
            return None
        name = test.name or s.NameTest(None, None)
        if test.kind == "text" and step.axis == "child":
            return (Edge("text"),)
        if test.kind == "node" and step.axis in ("self", "descendant-or-self"):
            return () if step.axis == "self" else (Edge("deep"),)
        if test.kind not in ("element", "attribute") or (test.kind == "attribute") != (step.axis == "attribute"):
            return None
        test = name
    if step.axis in ("child", "attribute"):
        return (Edge(step.axis, test.uri, test.local),)
    if step.axis == "descendant":
        return (Edge("deep"), Edge("child", test.uri, test.local))
    return None


def _path(expr: s.Expr, focus: Focus) -> _Path | None:
    """The pattern of a path; None where it has none."""
    match expr:
        case s.Doc():
            return _Path((), (), YES, True)
        case s.ContextItem():
            return None if focus.here is None else _Path(focus.here, (), YES, True)
        case s.VarRef(name=name):
            found = focus.names.get(name)
            return None if found is None else _Path(found, (), YES, True)
        case s.Step():
            return None if focus.here is None else _stepped(_Path(focus.here, (), YES, True), expr, focus)
        case s.Slash(left=left, right=s.Step() as step):
            base = _path(left, focus)
            return None if base is None else _stepped(base, step, focus)
        case s.Postfix(base=base_expr, predicates=predicates):
            base = _path(base_expr, focus)
            return None if base is None else _filtered(base, predicates, focus)
    return None


# The walk carries a set of places through the event, and what one filter adds to it all events pay. Patterns with more `//` and `*` than
# these are followed up to there; of the filters found in public, none has more.
MAX_DEEP: Final = 2
MAX_WILD: Final = 4


def _affordable(pattern: Pattern) -> bool:
    deep = sum(edge.axis == "deep" for edge in pattern)
    wild = sum(edge.axis in ("child", "attribute") and (edge.uri is None or edge.local is None) for edge in pattern)
    return deep <= MAX_DEEP and wild <= MAX_WILD


def _stepped(base: _Path, step: s.Step, focus: Focus) -> _Path:
    if not base.open:
        return base
    edge = _edge(step)
    if edge is None:
        return replace(base, exact=NO, open=False)
    if edge and base.pattern and base.pattern[-1].axis in ("attribute", "text"):
        return replace(base, exact=NO, open=False)  # nothing lies below an attribute or a text
    if not _affordable(base.pattern + edge):
        return replace(base, exact=NO, open=False)
    # What a predicate of an earlier step asks for and what follows it must hold of one node: together they are no longer exact.
    moved = replace(base, pattern=base.pattern + edge, exact=NO if base.needs else base.exact)
    return _filtered(moved, step.predicates, focus)


def _filtered(base: _Path, predicates: tuple[s.Expr, ...], focus: Focus) -> _Path:
    for one in predicates:
        inner = focus.at(base.pattern if base.open else None)
        found = need(one, inner) if _counts_not(one) else True
        exact = base.exact if not base.needs and _witness(found, base.pattern) else NO
        base = replace(base, needs=(*base.needs, found), exact=min(exact, _exactness(found)) if exact else NO)
    return base


def _counts_not(predicate: s.Expr) -> bool:
    """Whether a predicate is certainly no number, so that its effective boolean value decides."""
    return is_boolean(predicate)


def _witness(found: Need, pattern: Pattern) -> bool:
    """Whether one node below `pattern` shows that the predicate holds, so that `exists` and the predicate can change places."""
    if isinstance(found, Atom):
        return found.variable is None and found.pattern[: len(pattern)] == pattern
    return isinstance(found, Any_) and all(_witness(one, pattern) for one in found.items)


def _exactness(found: Need) -> int:
    if isinstance(found, Atom):
        return found.exact
    if isinstance(found, bool):
        return NO if found else YES
    if isinstance(found, All):
        return NO
    return min((_exactness(one) for one in found.items), default=YES)


# --- needs ---------------------------------------------------------------------------------------------------------------------------


def need(expr: s.Expr, focus: Focus) -> Need:
    """What holds of every event for which the effective boolean value of `expr` is true."""
    match expr:
        case s.And(items=items):
            return _all([need(one, focus) for one in items])
        case s.Or(items=items):
            return _any([need(one, focus) for one in items])
        case s.Compare(kind=("general" | "value")):
            return _comparison(expr, focus)
        case s.Call(name=name, args=args):
            return _call(split(name), [one for one in args if one is not None], focus)
        case s.If(condition=condition, then=then, otherwise=otherwise):
            return _weak(_any([_all([need(condition, focus), need(then, focus)]), need(otherwise, focus)]))
        case s.Sequence(items=()):
            return False
        case s.Sequence(items=items):
            return _any([_some(one, focus) for one in items])
        case s.Union(items=items):
            return _any([_some(one, focus) for one in items])
        case s.Flwor():
            return _flwor(expr, focus)
        case s.Quantified(every=False):
            return _bound(expr.bindings, focus, lambda inner: need(expr.condition, inner))
        case s.SimpleMap(left=left):
            return _weak(_some(left, focus))
    return _some(expr, focus)


def _some(expr: s.Expr, focus: Focus) -> Need:
    """What holds of every event for which `expr` gives any item."""
    match expr:
        case s.Sequence() | s.Union() | s.Flwor():
            return need(expr, focus)
        case s.Slash() | s.Step() | s.Postfix() | s.ContextItem() | s.VarRef() | s.Doc():
            path = _path(expr, focus)
            if path is not None:
                return _reached(path)
            return _weak(_some(expr.left, focus)) if isinstance(expr, s.Slash) else True
    return True


def _reached(path: _Path) -> Need:
    if not path.pattern and not path.needs:
        return path.exact == YES or True
    exists = Atom(path.pattern, None, "exists", exact=path.exact)
    if not path.needs:
        return exists
    # A need that starts below the pattern implies that the pattern is there.
    below = [one for one in path.needs if one is not True]
    if path.exact != NO and len(below) == 1:
        return below[0]
    return _weak(_all([*([] if any(_witness(one, path.pattern) for one in below) else [exists]), *below]))


def _weak(found: Need) -> Need:
    """The same condition, of which the index must not believe that it is the whole filter."""
    if isinstance(found, Atom):
        return replace(found, exact=NO)
    if isinstance(found, bool):
        return found
    return type(found)(tuple(_weak(one) for one in found.items))


def _all(items: list[Need]) -> Need:
    if any(one is False for one in items):
        return False
    kept: list[Need] = [one for one in items if one is not True]
    if not kept:
        return True
    if len(kept) == 1:
        return kept[0] if len(items) == 1 else _weak(kept[0])
    merged = _merged(kept)
    if len(merged) == 1:
        return merged[0] if len(kept) == len(items) else _weak(merged[0])
    return All(tuple(merged))


def _merged(items: list[Need]) -> list[Need]:
    """Bounds on the same pattern from both sides become one interval."""
    kept: list[Need] = []
    lower: dict[Pattern, Atom] = {}
    upper: dict[Pattern, Atom] = {}
    others = 0
    for one in items:
        bound = one.op if isinstance(one, Atom) and one.upper is None else ""  # what has both bounds already takes no other
        if isinstance(one, Atom) and bound in (">", ">=") and one.pattern not in lower:
            lower[one.pattern] = one
        elif isinstance(one, Atom) and bound in ("<", "<=") and one.pattern not in upper:
            upper[one.pattern] = one
        else:
            others += 1
            kept.append(one)
    for pattern in {**lower, **upper}:
        low, high = lower.get(pattern), upper.get(pattern)
        if low is not None and high is not None and high.operand is not None:
            alone = not others and len(lower) == len(upper) == 1
            exact = min(low.exact, high.exact, SINGLE) if alone else NO
            kept.append(Atom(pattern, None, low.op if low.op == ">=" else ">", low.operand, exact, (high.op, high.operand)))
        else:
            kept.extend(_weak(one) for one in (low, high) if one is not None)
    return kept


def _any(items: list[Need]) -> Need:
    if any(one is True for one in items):
        return True
    kept = [part for one in items if one is not False for part in (one.items if isinstance(one, Any_) else (one,))]
    if not kept:
        return False
    return kept[0] if len(kept) == 1 else Any_(tuple(kept))


def _flwor(expr: s.Flwor, focus: Focus) -> Need:
    found: list[Need] = [True]  # never exact: several results have no effective boolean value
    for clause in expr.clauses:
        match clause:
            case s.For(allowing_empty=False):
                given, focus = _turns(clause, focus)
                found.append(given)
                if clause.counter is not None:
                    focus = focus.bound(clause.counter, None)
            case s.Let() | s.For():
                value = clause.value if isinstance(clause, s.Let) else clause.source
                focus = _named(focus, clause.name, value)
                if isinstance(clause, s.For) and clause.counter is not None:
                    focus = focus.bound(clause.counter, None)
            case s.Where(condition=condition):
                found.append(need(condition, focus))
            case s.GroupBy() | s.Count() | s.Window():
                return _weak(_all(found))
    found.append(_some(expr.result, focus))
    return _weak(_all(found))


def _named(focus: Focus, name: str, source: s.Expr) -> Focus:
    path = _path(source, focus)
    return focus.bound(name, path.pattern if path is not None and path.open else None)


def _turns(clause: s.For, focus: Focus) -> tuple[Need, Focus]:
    """What a `for` needs to be entered, and the focus inside it; its source is looked at once, because sources nest."""
    path = _path(clause.source, focus)
    if path is None:
        return _some(clause.source, focus), focus.bound(clause.name, None)
    return _reached(path), focus.bound(clause.name, path.pattern if path.open else None)


def _bound(bindings: tuple[s.For, ...], focus: Focus, condition: Any) -> Need:
    found: list[Need] = []
    for one in bindings:
        given, focus = _turns(one, focus)
        found.append(given)
    return _weak(_all([*found, condition(focus)]))


# --- comparisons ---------------------------------------------------------------------------------------------------------------------


def _operands(expr: s.Expr) -> list[Operand] | None:
    """The literals an expression stands for."""
    if isinstance(expr, (s.Param, s.Literal)):
        return [expr]
    if isinstance(expr, s.Sequence) and expr.items and all(isinstance(one, (s.Param, s.Literal)) for one in expr.items):
        return [one for one in expr.items if isinstance(one, (s.Param, s.Literal))]
    return None


def _comparison(expr: s.Compare, focus: Focus) -> Need:
    for subject, other, op in ((expr.left, expr.right, expr.op), (expr.right, expr.left, MIRRORED[expr.op])):
        operands = _operands(other)
        if operands is not None and _operands(subject) is None:
            return _compared(subject, op, operands, expr.kind, focus)
    # Both sides must give something, or the comparison is false or empty.
    return _weak(_all([_given(expr.left, focus), _given(expr.right, focus)]))


def _given(expr: s.Expr, focus: Focus) -> Need:
    """What holds where an operand gives any value."""
    match expr:
        case s.Call(name=name, args=(s.Expr() as only,)) if split(name) in _FORWARDING:
            return _weak(_some(only, focus))
        case s.TypeExpr(op="cast" | "treat", operand=operand):
            return _weak(_some(operand, focus))
        case s.Arith(left=left, right=right):
            return _weak(_all([_given(left, focus), _given(right, focus)]))
        case s.Unary(operand=operand):
            return _weak(_given(operand, focus))
    return _weak(_some(expr, focus))


# Functions that give nothing for nothing.
_FORWARDING: Final = frozenset(
    [*((FN, name) for name in ("data", "abs", "round", "floor", "ceiling", "max", "min", "avg", "head", "distinct-values", "reverse")),
     *(("http://www.w3.org/2001/XMLSchema", name) for name in ("integer", "decimal", "double", "date", "dateTime", "time", "string"))]
)  # fmt: skip


def _compared(subject: s.Expr, op: str, operands: list[Operand], kind: str, focus: Focus) -> Need:
    if isinstance(subject, s.VarRef) and subject.name not in focus.names:
        if op == "=" and subject.name in focus.externals:
            return _any([Atom((), subject.name, "=", one, NO) for one in operands])
        return True
    as_string = False
    match subject:
        case s.Call(name=name, args=(s.Expr() as only,)) if split(name) == (FN, "string"):
            if op != "=" or any(isinstance(one, s.Literal) and one.value == "" for one in operands):
                return True  # string(()) is the empty string
            subject, as_string = only, True
        case s.Call(name=name, args=(s.Expr() as only,)) if split(name) == ("http://www.w3.org/2001/XMLSchema", "string"):
            subject, as_string = only, True
    path = _path(subject, focus)
    if path is None:
        return _given(subject, focus)
    if not path.open:
        return _weak(_reached(path))
    exact = path.exact if kind == "general" and not as_string else min(path.exact, SINGLE)
    found = _any([_condition(path.pattern, op, one, kind == "value" or as_string, exact) for one in operands])
    return found if not path.needs else _weak(_all([found, *path.needs]))


def _condition(pattern: Pattern, op: str, operand: Operand, strict: bool, exact: int) -> Need:
    if operand.type == "string":
        if op == "=":
            return Atom(pattern, None, "=", operand, exact)
        return Atom(pattern, None, "exists", exact=NO)
    if strict:
        return False  # an untyped value is a string to `eq`, which does not compare with a number (section 3.7.1)
    if op == "!=":
        return Atom(pattern, None, "exists", exact=NO)
    return Atom(pattern, None, op, operand, exact)


# Functions of two strings that are false for the empty first string unless the second is empty too.
_PARTS: Final = frozenset(("contains", "ends-with"))


def _call(name: tuple[str, str], args: list[s.Expr], focus: Focus) -> Need:
    uri, local = name
    if uri != FN:
        return True
    if local in ("exists", "boolean") and len(args) == 1:
        return _some(args[0], focus) if local == "exists" else need(args[0], focus)
    if local in ("true", "false"):
        return local == "true"
    if local == "not" and len(args) == 1:
        return _negated(args[0])
    if local in ("starts-with", "contains", "ends-with") and len(args) >= 2:
        part = args[1]
        if not isinstance(part, (s.Param, s.Literal)) or part.type != "string" or (isinstance(part, s.Literal) and part.value == ""):
            return True
        path = _path(args[0], focus)
        if path is None:
            return _given(args[0], focus)
        if not path.open:
            return _weak(_reached(path))
        if local in _PARTS:
            return _reached(replace(path, exact=NO)) if not path.needs else _weak(_reached(path))
        found = Atom(path.pattern, None, "prefix", part, min(path.exact, SINGLE))
        return found if not path.needs else _weak(_all([found, *path.needs]))
    if local == "matches" and len(args) == 2 and isinstance(args[1], s.Literal) and args[1].type == "string":
        # matches((), ...) looks at the empty string (section 5.6.3)
        return _given(args[0], focus) if _needs_text(args[1].value) else True
    return True


def _needs_text(pattern: str) -> bool:
    try:
        found = linear(pattern, "")
    except FilterError:
        return False
    return found is not None and found.search("") is None


def _negated(expr: s.Expr) -> Need:
    match expr:
        case s.Call(name=name, args=(s.Expr() as only,)) if split(name) == (FN, "not"):
            return _weak(need(only, Focus(None, {})))
        case s.Call(name=name) if split(name)[0] == FN and split(name)[1] in ("true", "false"):
            return split(name)[1] == "false"
    return True
