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

_Answer = tuple[bool, FilterError | None]


def general(op: str, left: list[Any], right: list[Any]) -> bool:
    """A general comparison of two atomized sequences (section 3.7.2).

    Where one pair fails and another holds, an engine may answer or fail (section 2.3.4): this one answers.
    """
    if len(left) * len(right) <= _MANY_PAIRS:
        holds, failure = _pairs(op, left, right)
    else:
        holds, failure = _kinds(op, _by_kind(left), _by_kind(right))
    if failure is not None and not holds:
        raise failure
    return holds


def _pairs(op: str, left: list[Any], right: list[Any]) -> _Answer:
    failure: FilterError | None = None
    for one in left:
        for other in right:
            try:
                if general_pair(op, one, other):
                    return True, None
            except FilterError as error:
                failure = failure or error
    return False, failure


_KIND: Final[dict[type, str]] = {Untyped: "untyped", str: "string", AnyURI: "string", int: "exact", Decimal: "exact", float: "double"}


def _by_kind(items: list[Any]) -> dict[str, list[Any]]:
    """The items by the kind that decides how they are compared; "" are those that have to be compared one by one."""
    found: dict[str, list[Any]] = {}
    for item in items:
        found.setdefault(_KIND.get(type(item), ""), []).append(item)
    return found


def _kinds(op: str, left: dict[str, list[Any]], right: dict[str, list[Any]]) -> _Answer:
    failure: FilterError | None = None
    for mine, some in left.items():
        for theirs, others in right.items():
            holds, fails = _one_kind(op, mine, some, theirs, others)
            if holds:
                return True, None
            failure = failure or fails
    return False, failure


def _one_kind(op: str, mine: str, left: list[Any], theirs: str, right: list[Any]) -> _Answer:
    """All values of one kind with all of another, in linear time where their kinds have a common order."""
    kinds = {mine, theirs}
    if "" in kinds:
        return _pairs(op, left, right)
    if kinds <= {"untyped", "string"}:
        return _sets(op, left, right), None
    if "string" in kinds:  # with a number: no pair compares
        return _pairs(op, left[:1], right[:1])
    if kinds == {"exact"}:
        return _sets(op, left, right), None
    (some, failure), (others, fails) = _doubles(left), _doubles(right)
    return _numbers(op, some, others), failure or fails


def _sets(op: str, left: list[Any], right: list[Any]) -> bool:
    if op == "=":
        return not set(left).isdisjoint(right)
    if op == "!=":
        return len({*left, *right}) > 1
    if op in ("<", "<="):
        return OPERATORS[op](min(left), max(right))
    return OPERATORS[op](max(left), min(right))


def _doubles(items: list[Any]) -> tuple[list[float], FilterError | None]:
    """Untyped values and numbers as they are compared with an xs:double."""
    numbers, failure = [], None
    for item in items:
        try:
            numbers.append(to_double(item) if type(item) is Untyped else double(item))
        except FilterError as error:
            failure = failure or error
    return numbers, failure


def _numbers(op: str, left: list[float], right: list[float]) -> bool:
    mine, theirs = ([one for one in numbers if one == one] for numbers in (left, right))
    if op == "!=" and left and right and (len(mine) < len(left) or len(theirs) < len(right)):
        return True  # NaN differs from everything, itself included
    return bool(mine) and bool(theirs) and _sets(op, mine, theirs)
