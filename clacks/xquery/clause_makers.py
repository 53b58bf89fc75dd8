"""Makers for FLWOR, quantifiers, switches and try (XQuery 3.1 sections 3.12 to 3.17).

A FLWOR is a list of frames that each clause changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cmp_to_key
from typing import Any, Final

from . import syntax as s
from .compare import compare
from .errors import FilterError
from .evaluate import Compiler
from .frames import Frame
from .lenient import Closure
from .names import ERR
from .sequences import identity, same
from .values import Untyped

Frames = Callable[[list[Frame]], list[Frame]]


def results(compiler: Compiler, expr: s.Flwor) -> Callable[[Frame], Iterator[list[Any]]]:
    """What a FLWOR gives, tuple by tuple: up to the first clause that needs all tuples, later ones wait until somebody asks.

    The failure of one item of a `for` is raised behind the others, for whoever has not had enough by then.
    """
    if not all(isinstance(clause, (s.For, s.Let, s.Where)) for clause in expr.clauses):
        whole = flwor(compiler, expr)
        return lambda frame: iter([whole(frame)])
    clauses = [_lazily(compiler, clause) for clause in expr.clauses]
    result = compiler.sequence(expr.result)

    def run(frames: Iterator[Frame], depth: int) -> Iterator[list[Any]]:
        for frame in frames:
            if depth == len(clauses):
                yield result(frame)
            else:
                yield from run(clauses[depth](frame), depth + 1)

    return lambda frame: run(iter([frame]), 0)


def _lazily(compiler: Compiler, clause: s.Expr) -> Callable[[Frame], Iterator[Frame]]:
    if not isinstance(clause, s.For) or clause.allowing_empty:
        whole: Frames = _CLAUSES[type(clause)](compiler, clause, ())
        return lambda frame: iter(whole([frame]))
    source, check, name, counter = compiler.lenient(clause.source), compiler.matcher(clause.type), clause.name, clause.counter

    def bind(frame: Frame) -> Iterator[Frame]:
        items, failure = source(frame)
        if failure is not None and counter is not None:
            raise failure  # nobody knows the places of those behind it
        for place, item in enumerate(items, 1):
            check([item])
            one = frame.bound(name, [item])
            yield one if counter is None else one.bound(counter, [place])
        if failure is not None:
            raise failure

    return bind


def flwor(compiler: Compiler, expr: s.Flwor) -> Closure:
    names: list[str] = []
    clauses: list[Frames] = []
    for clause in expr.clauses:
        clauses.append(_CLAUSES[type(clause)](compiler, clause, tuple(names)))
        names.extend(name for name in (getattr(clause, "name", None), getattr(clause, "counter", None)) if name)
        if isinstance(clause, s.GroupBy):
            names.extend(name for name, _, _ in clause.keys if name not in names)
    result = compiler.sequence(expr.result)

    def run(frame: Frame) -> list[Any]:
        frames = [frame]
        for clause in clauses:
            frames = clause(frames)
        return [item for one in frames for item in result(one)]

    return run


def _for(compiler: Compiler, clause: s.For, _: tuple[str, ...]) -> Frames:
    source, check = compiler.sequence(clause.source), compiler.matcher(clause.type)
    name, counter, allowing = clause.name, clause.counter, clause.allowing_empty

    def bind(frames: list[Frame]) -> list[Frame]:
        found = []
        for frame in frames:
            items = source(frame)
            rows = [(place, [item]) for place, item in enumerate(items, 1)]
            for place, value in rows or ([(0, list[Any]())] if allowing else []):
                check(value)
                one = frame.bound(name, value)
                found.append(one if counter is None else one.bound(counter, [place]))
        return found

    return bind


def _let(compiler: Compiler, clause: s.Let, _: tuple[str, ...]) -> Frames:
    value, check, name = compiler.sequence(clause.value), compiler.matcher(clause.type), clause.name

    def bind(frames: list[Frame]) -> list[Frame]:
        found = []
        for frame in frames:
            items = value(frame)
            check(items)
            found.append(frame.bound(name, items))
        return found

    return bind


def _where(compiler: Compiler, clause: s.Where, _: tuple[str, ...]) -> Frames:
    test = compiler.boolean(clause.condition)
    return lambda frames: [frame for frame in frames if test(frame)]


def _count(_: Compiler, clause: s.Count, __: tuple[str, ...]) -> Frames:
    return lambda frames: [frame.bound(clause.name, [place]) for place, frame in enumerate(frames, 1)]


def _key(value: Any) -> Any:
    return str(value) if type(value) is Untyped else value


def _order_by(compiler: Compiler, clause: s.OrderBy, _: tuple[str, ...]) -> Frames:
    keys = [(compiler.single(value), descending, greatest) for value, descending, greatest in clause.keys]

    def less(one: Any, other: Any, greatest: bool) -> bool:
        """Section 3.12.8: the empty sequence, then NaN, then all other values; or the other way round."""
        ranks = [0 if value is None else 1 if value != value else 2 for value in (one, other)]
        if ranks[0] == ranks[1] == 2:
            return compare("<", one, other)
        return ranks[0] > ranks[1] if greatest else ranks[0] < ranks[1]

    def order(left: tuple[list[Any], Frame], right: tuple[list[Any], Frame]) -> int:
        for one, other, (_, descending, greatest) in zip(left[0], right[0], keys, strict=True):
            sign = less(other, one, greatest) - less(one, other, greatest)
            if sign:
                return -sign if descending else sign
        return 0

    def sort(frames: list[Frame]) -> list[Frame]:
        rows = [([_key(key(frame)) for key, _, _ in keys], frame) for frame in frames]
        return [frame for _, frame in sorted(rows, key=cmp_to_key(order))]

    return sort


def _group_by(compiler: Compiler, clause: s.GroupBy, names: tuple[str, ...]) -> Frames:
    keys = [
        (name, compiler.single(value if value is not None else s.VarRef(clause.at, name)), compiler.matcher(kind))
        for name, value, kind in clause.keys
    ]
    grouped = {name for name, _, _ in keys}

    def group(frames: list[Frame]) -> list[Frame]:
        groups: dict[Any, tuple[dict[str, list[Any]], list[Frame]]] = {}
        for frame in frames:
            values = {}
            for name, key, check in keys:
                value = key(frame)
                check([] if value is None else [value])
                values[name] = _key(value)
            mark = tuple(() if value is None else identity(value) for value in values.values())
            bound = {name: [] if value is None else [value] for name, value in values.items()}
            groups.setdefault(mark, (bound, []))[1].append(frame)
        found = []
        for bound, members in groups.values():
            one = members[0].inner(members[0].item, members[0].position, members[0].size)
            gathered = {name: [item for member in members for item in member.vars[name]] for name in names if name not in grouped}
            one.vars = {**one.vars, **gathered, **bound}
            found.append(one)
        return found

    return group


_CLAUSES: Final[dict[type, Any]] = {
    s.For: _for, s.Let: _let, s.Where: _where, s.Count: _count, s.OrderBy: _order_by, s.GroupBy: _group_by,
}  # fmt: skip


def quantified(compiler: Compiler, expr: s.Quantified) -> Closure:
    test = compiler.boolean(expr)
    return lambda frame: [test(frame)]


def switch(compiler: Compiler, expr: s.Switch) -> Closure:
    operand = compiler.single(expr.operand)
    cases = [([compiler.single(test) for test in tests], compiler.sequence(result)) for tests, result in expr.cases]
    default = compiler.sequence(expr.default)

    def equal(one: Any, other: Any) -> bool:
        if one is None or other is None:
            return one is other
        if one != one or other != other:
            return bool(one != one and other != other)
        return same(_key(one), _key(other))

    def choose(frame: Frame) -> list[Any]:
        value = operand(frame)
        for tests, result in cases:
            if any(equal(value, test(frame)) for test in tests):
                return result(frame)
        return default(frame)

    return choose


def typeswitch(compiler: Compiler, expr: s.Typeswitch) -> Closure:
    from .instance import matches

    operand = compiler.sequence(expr.operand)
    cases = [(types, name, compiler.sequence(result)) for types, name, result in expr.cases]
    default = compiler.sequence(expr.default)

    def choose(frame: Frame) -> list[Any]:
        items = operand(frame)
        for types, name, result in cases:
            if any(matches(items, one) for one in types):
                return result(frame if name is None else frame.bound(name, items))
        return default(frame if expr.variable is None else frame.bound(expr.variable, items))

    return choose


def _catches(tests: tuple[s.NameTest, ...], code: str) -> bool:
    return any(test.uri in (None, ERR) and test.local in (None, code) for test in tests)


def try_catch(compiler: Compiler, expr: s.Try) -> Closure:
    body = compiler.sequence(expr.body)
    catches = [(tests, compiler.sequence(result)) for tests, result in expr.catches]

    def attempt(frame: Frame) -> list[Any]:
        try:
            return body(frame)
        except FilterError as error:
            if error.code.startswith("CLXQ"):  # a budget is not an error of the filter's language
                raise
            for tests, result in catches:
                if _catches(tests, error.code):
                    return result(frame)
            raise

    return attempt
