"""Comparison of atomic values: the rules of untyped data and of numeric promotion (XPath 3.1 sections 3.7.1 and 3.7.2, appendix B).

The one place that knows what `=` and `<` mean; the evaluator and the index both ask here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from .dates import DateTime, Duration
from .errors import FilterError
from .values import AnyURI, Untyped, cast, double, is_numeric, to_double, type_of

OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip

MIRRORED: Final = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def _family(value: Any) -> str:
    kind = type(value)
    if kind is str or kind is AnyURI or kind is Untyped:
        return "string"
    if kind is int or kind is float or kind is Decimal:
        return "number"
    if kind is bool:
        return "boolean"
    if kind is DateTime:
        return str(value.type)
    return "duration"


def compare(op: str, left: Any, right: Any) -> bool:
    """A value comparison of two atomic values, untyped ones as strings (section 3.7.1); XPTY0004 where the types do not compare."""
    family = _family(left)
    if family != _family(right):
        raise FilterError("XPTY0004", f"An xs:{type_of(left)} cannot be compared with an xs:{type_of(right)}")
    if family == "number":
        return OPERATORS[op](*promoted(left, right))
    if family == "duration" and op not in ("=", "!="):
        return OPERATORS[op](*_ordered_durations(left, right))
    return OPERATORS[op](left, right)


def promoted(left: Any, right: Any) -> tuple[Any, Any]:
    """Two numbers in the type they are compared in (appendix B.1)."""
    if type(left) is float:
        return left, right if type(right) is float else double(right)
    return (double(left), right) if type(right) is float else (left, right)


def _ordered_durations(left: Duration, right: Duration) -> tuple[Any, Any]:
    if left.type == right.type == "dayTimeDuration":
        return left.seconds, right.seconds
    if left.type == right.type == "yearMonthDuration":
        return left.months, right.months
    raise FilterError("XPTY0004", f"An xs:{left.type} and an xs:{right.type} have no order")


def general_pair(op: str, left: Any, right: Any) -> bool:
    """One pair of a general comparison (section 3.7.2): an untyped value takes the type of the other side."""
    if type(left) is Untyped:
        if type(right) is not Untyped:
            left = _converted(left, right)
    elif type(right) is Untyped:
        right = _converted(right, left)
    return compare(op, left, right)


def _converted(value: Untyped, other: Any) -> Any:
    if is_numeric(other):
        return to_double(value)
    if isinstance(other, str):
        return value
    return cast(value, type_of(other))


# From this many pairs on, two long sequences are compared by their extremes and sets instead of pair by pair.
_MANY_PAIRS: Final = 64


def general(op: str, left: list[Any], right: list[Any]) -> bool:
    """A general comparison of two atomized sequences (section 3.7.2).

    Where one pair fails and another holds, an engine may answer or fail (section 2.3.4): this one answers.
    """
    if len(left) * len(right) > _MANY_PAIRS and all(isinstance(item, str) for item in (*left, *right)):
        return _strings(op, left, right)
    if len(left) * len(right) > _MANY_PAIRS:
        if all(type(item) is Untyped for item in left) and all(map(is_numeric, right)):
            return _numbers(op, left, right)
        if all(type(item) is Untyped for item in right) and all(map(is_numeric, left)):
            return _numbers(MIRRORED[op], right, left)
    failure: FilterError | None = None
    for one in left:
        for other in right:
            try:
                if general_pair(op, one, other):
                    return True
            except FilterError as error:
                failure = failure or error
    if failure is not None:
        raise failure
    return False


def _strings(op: str, left: list[str], right: list[str]) -> bool:
    if op == "=":
        return not set(left).isdisjoint(right)
    if op == "!=":
        return len({*left, *right}) > 1
    if op in ("<", "<="):
        return OPERATORS[op](min(left), max(right))
    return OPERATORS[op](max(left), min(right))


def _numbers(op: str, left: list[Untyped], right: list[Any]) -> bool:
    """Many untyped values against many numbers: all are compared as xs:double."""
    numbers, failure = [], None
    for text in left:
        try:
            numbers.append(to_double(text))
        except FilterError as error:
            failure = failure or error
    mine = {one for one in numbers if one == one}
    others = {one for one in map(double, right) if one == one}
    if op == "!=":
        # NaN differs from everything, itself included
        nan = len(numbers) != sum(one == one for one in numbers) or len(right) != sum(one == one for one in right)
        holds = bool(numbers) and bool(right) and (nan or len(mine | others) > 1)
    elif not mine or not others:
        holds = False
    elif op == "=":
        holds = not mine.isdisjoint(others)
    else:
        holds = OPERATORS[op](min(mine), max(others)) if op in ("<", "<=") else OPERATORS[op](max(mine), min(others))
    if failure is not None and not holds:
        raise failure
    return holds
