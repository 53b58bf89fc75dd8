"""Makers of closures for casts, type tests and calls (XPath 3.1 sections 3.1.5 and 3.18)."""

from __future__ import annotations

from typing import Any, Final

from . import syntax as s
from .errors import FilterError
from .evaluate import MAX_CALLS, Compiler
from .frames import Frame
from .instance import describe, matches
from .lenient import Closure, Test
from .names import FN, XS, split
from .types import ATOMIC
from .values import AnyURI, Untyped, atomize, cast, double, is_numeric, to_double


def truth(test: Test) -> Closure:
    """A test as a sequence of one boolean."""
    return lambda frame: [test(frame)]


def type_expr(compiler: Compiler, expr: s.TypeExpr) -> Closure:
    wanted = expr.type
    if expr.op in ("cast", "castable"):
        return _cast(compiler, expr.operand, wanted.item.name, wanted.occurrence == "?", expr.op == "castable")
    items = compiler.sequence(expr.operand)
    if expr.op == "instance":
        return lambda frame: [matches(items(frame), wanted)]

    def treat(frame: Frame) -> list[Any]:
        found = items(frame)
        if not matches(found, wanted):
            raise FilterError("XPDY0050", f"The value is not of type {describe(wanted)}")
        return found

    return treat


def _cast(compiler: Compiler, operand: s.Expr, target: str, optional: bool, only_ask: bool) -> Closure:
    atoms = compiler.atoms(operand)

    def convert(frame: Frame) -> list[Any]:
        found = atoms(frame)
        if not found and optional:
            return []
        if len(found) != 1:
            raise FilterError("XPTY0004", f"A cast takes one value, not {len(found)}")
        return [cast(found[0], target)]

    if not only_ask:
        return convert

    def ask(frame: Frame) -> list[Any]:
        found = atoms(frame)
        if len(found) != 1:
            return [not found and optional]
        try:
            cast(found[0], target)
        except FilterError:
            return [False]
        return [True]

    return ask


# --- functions -----------------------------------------------------------------------------------------------------------------------


def call(compiler: Compiler, expr: s.Call) -> Closure:
    uri, local = split(expr.name)
    args = [one for one in expr.args if one is not None]
    if (expr.name, len(args)) in compiler.functions:
        return _declared(compiler, expr, args)
    if uri == XS and local in ATOMIC:
        return _cast(compiler, args[0], local, True, False)
    if uri == FN and local in _FOCUS:
        return _FOCUS[local]
    if uri == FN and local in ("not", "boolean", "exists", "empty"):
        return truth(compiler.boolean(expr))
    call = compiler.call(expr)

    def ask(frame: Frame) -> list[Any]:
        found = call(frame)
        if found is None:
            return []
        return found if type(found) is list else [found]

    return ask


def _place(frame: Frame) -> list[Any]:
    return [focused(frame).position]


def _size(frame: Frame) -> list[Any]:
    return [focused(frame).size]


def focused(frame: Frame) -> Frame:
    """The frame, if it has a focus; XPDY0002 in the body of a function."""
    if frame.item is None:
        raise FilterError("XPDY0002", "The body of a function has no context item")
    return frame


_FOCUS: Final[dict[str, Closure]] = {
    "position": _place, "last": _size, "true": lambda frame: [True],
    "false": lambda frame: [False], "current-dateTime": lambda frame: [frame.event.now],
    "current-date": lambda frame: [frame.event.now.cast("date")], "current-time": lambda frame: [frame.event.now.cast("time")],
}  # fmt: skip


def _declared(compiler: Compiler, expr: s.Call, args: list[s.Expr]) -> Closure:
    """A function of the prolog (section 4.18); its body is compiled at its first call, for it may call itself."""
    function = compiler.functions[expr.name, len(args)]
    given = [compiler.sequence(one) for one in args]
    converters = [conversion(compiler, kind) for _, kind in function.params]
    names = [name for name, _ in function.params]
    result = conversion(compiler, function.result)
    bodies = compiler.declared

    def ask(frame: Frame) -> list[Any]:
        body = bodies.get((expr.name, len(args)))
        if body is None:
            body = bodies[expr.name, len(args)] = compiler.sequence(function.body)
        event = frame.event
        values = [convert(one(frame)) for convert, one in zip(converters, given, strict=True)]
        inner = frame.without_focus({**frame.globals, **dict(zip(names, values, strict=True))})
        event.calls += 1
        try:
            if event.calls > MAX_CALLS:
                raise FilterError("CLXQ0004", f"Functions call each other more than {MAX_CALLS} deep")
            return result(body(inner))  # type: ignore[no-any-return]
        finally:
            event.calls -= 1

    return ask


def conversion(compiler: Compiler, wanted: s.SequenceType | None) -> Any:
    """The function conversion rules (XPath 3.1 section 3.1.5.2) towards a declared type."""
    check = compiler.matcher(wanted)
    if wanted is None or wanted.item.kind != "atomic":

        def keep(items: list[Any]) -> list[Any]:
            check(items)
            return items

        return keep
    target = wanted.item.name

    def convert(items: list[Any]) -> list[Any]:
        found = [_promote(one, target) for one in atomize(items)]
        check(found)
        return found

    return convert


def _promote(value: Any, target: str) -> Any:
    if type(value) is Untyped and target not in ("untypedAtomic", "anyAtomicType"):
        return to_double(value) if target == "numeric" else cast(value, target)
    if target == "double" and is_numeric(value):
        return double(value)
    return str(value) if target == "string" and type(value) is AnyURI else value
