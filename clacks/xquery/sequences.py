"""The functions on numbers, dates, nodes and sequences (Functions and Operators 3.1 sections 4, 8 to 10, 13, 14), as rows of a table."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from .arithmetic import arithmetic, rounded
from .compare import compare, promoted
from .dates import IMPLICIT_ZONE, DateTime, Duration
from .errors import FilterError
from .names import XML
from .strings import check_collation
from .tree import ELEMENT, Node, in_order
from .values import AnyURI, Untyped, atom, double, effective_boolean, is_numeric, string_of, to_double, type_of

# --- numbers -------------------------------------------------------------------------------------------------------------------------


def number(value: Any) -> float:
    """Section 4.5.1: NaN for what is no number."""
    try:
        if isinstance(value, str) and type(value) is not AnyURI:
            return to_double(value)
        if is_numeric(value) or type(value) is bool:
            return double(value)
    except FilterError:
        pass
    return math.nan


def _round(value: Any, digits: int = 0) -> Any:
    return None if value is None else rounded(value, "round", digits)


def _even(value: Any, digits: int = 0) -> Any:
    return None if value is None else rounded(value, "even", digits)


def _mode(mode: str) -> Callable[[Any], Any]:
    return lambda value: None if value is None else rounded(value, mode)


def _math(compute: Callable[[float], float]) -> Callable[[Any], Any]:
    def apply(value: float | None) -> float | None:
        if value is None:
            return None
        try:
            return compute(value)
        except ValueError:
            return math.nan
        except OverflowError:
            return math.inf

    return apply


def _log(compute: Callable[[float], float]) -> Callable[[float], float]:
    return lambda value: -math.inf if value == 0 else compute(value)


def _pow(base: float | None, exponent: Any) -> float | None:
    if base is None:
        return None
    exponent = double(exponent)
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return math.inf if base > 0 or int(exponent) % 2 == 0 else -math.inf
    except ValueError:
        if base == 0:
            return -math.inf if math.copysign(1, base) < 0 and exponent == int(exponent) and int(exponent) % 2 else math.inf
        return math.nan


# --- aggregates ----------------------------------------------------------------------------------------------------------------------


def _loosened(items: list[Any]) -> list[Any]:
    return [to_double(item) if type(item) is Untyped else item for item in items]


def total(items: list[Any], zero: Any = 0) -> Any:
    values = _loosened(items)
    if not values:
        return zero
    _summable(values, "sum")
    result = values[0]
    for value in values[1:]:
        result = arithmetic("+", result, value)
    return result


def _summable(values: list[Any], name: str) -> None:
    first = values[0]
    for value in values:
        same = (
            is_numeric(value)
            if is_numeric(first)
            else (isinstance(value, Duration) and isinstance(first, Duration) and value.type == first.type and value.type != "duration")
        )
        if not same:
            raise FilterError("FORG0006", f"{name}() of an xs:{type_of(value)}")


def average(items: list[Any]) -> Any:
    values = _loosened(items)
    if not values:
        return None
    _summable(values, "avg")
    return arithmetic("div", total(values), len(values))


def extreme(op: str) -> Callable[..., Any]:
    """max and min (section 14.4); NaN wins."""

    def find(items: list[Any], collation: str | None = None) -> Any:
        check_collation(collation)
        values = _loosened(items)
        if not values:
            return None
        best = values[0]
        if any(type(value) is float and math.isnan(value) for value in values) and all(is_numeric(value) for value in values):
            return math.nan
        try:
            for value in values[1:]:
                best = value if compare(op, value, best) else best
            compare(op, best, best)
        except FilterError as error:
            raise FilterError("FORG0006", error.detail) from error
        if is_numeric(best) and any(type(value) is float for value in values):
            return double(best)
        return str(best) if type(best) is AnyURI and any(type(value) is str for value in values) else best

    return find


# --- sequences -----------------------------------------------------------------------------------------------------------------------


def identity(value: Any) -> Any:
    """What distinct-values() and group by compare by: equal keys are equal values (section 14.2.1)."""
    if is_numeric(value):
        if value != value:
            return ("NaN",)
        return ("number", float(value) if type(value) is float else value)
    if isinstance(value, str):
        return ("string", str(value))
    return (type(value) is bool, value)


def distinct(items: list[Any], collation: str | None = None) -> list[Any]:
    check_collation(collation)
    seen: dict[Any, set[Any]] = {}
    found = []
    for item in items:
        # Numbers that are one xs:double are equal to it, but not all to each other: 0.1, and 2**53 and the next integer.
        exact = type(item) is int or type(item) is Decimal
        alike = seen.setdefault(identity(double(item) if exact else item), set())
        if (item not in alike and None not in alike) if exact else not alike:
            found.append(item)
        alike.add(item if exact else None)
    return found


def index_of(items: list[Any], wanted: Any, collation: str | None = None) -> list[int]:
    check_collation(collation)
    return [place for place, item in enumerate(items, start=1) if same(item, wanted)]


def same(left: Any, right: Any) -> bool:
    """`eq`, and false where the types do not compare."""
    try:
        return compare("=", left, right)
    except FilterError:
        return False


def subsequence(items: list[Any], start: float, length: float | None = None) -> list[Any]:
    first = rounded(start, "round")
    last = math.inf if length is None else first + rounded(length, "round")
    return [item for place, item in enumerate(items, start=1) if first <= place < last]


def insert_before(items: list[Any], place: int, inserted: list[Any]) -> list[Any]:
    at = min(max(place, 1), len(items) + 1) - 1
    return [*items[:at], *inserted, *items[at:]]


def exactly(code: str, low: int, high: int) -> Callable[[list[Any]], list[Any]]:
    def check(items: list[Any]) -> list[Any]:
        if not (low <= len(items) <= high):
            raise FilterError(code)
        return items

    return check


def deep_equal(left: list[Any], right: list[Any], collation: str | None = None) -> bool:
    check_collation(collation)
    return len(left) == len(right) and all(map(_deep, left, right))


def _deep(left: Any, right: Any) -> bool:
    if isinstance(left, Node) and isinstance(right, Node):
        return _deep_nodes(left, right)
    if isinstance(left, Node) or isinstance(right, Node):
        return False
    if is_numeric(left) and is_numeric(right):
        one, other = promoted(left, right)
        return bool(one == other or (one != one and other != other))
    return same(left, right)


def _deep_nodes(left: Node, right: Node) -> bool:
    stack = [(left, right)]
    while stack:
        one, other = stack.pop()
        if (one.kind, one.name) != (other.kind, other.name):
            return False
        if one.kind in ("text", "attribute", "comment", "processing-instruction"):
            if one.string != other.string:
                return False
            continue
        if {a.name: a.string for a in one.attributes} != {a.name: a.string for a in other.attributes}:
            return False
        mine, theirs = ([c for c in node.children if c.kind in ("element", "text")] for node in (one, other))
        if len(mine) != len(theirs):
            return False
        stack.extend(zip(mine, theirs, strict=True))
    return True


# --- nodes ---------------------------------------------------------------------------------------------------------------------------


def _local(node: Node | None) -> str:
    return "" if node is None else node.name.rpartition("}")[2]


def _uri(node: Node | None) -> AnyURI:
    return AnyURI("" if node is None or node.kind == "processing-instruction" else node.name.rpartition("}")[0][1:])


def _root(node: Node | None) -> Node | None:
    return None if node is None else node.tree.document


def _has_children(node: Node | None) -> bool:
    return node is not None and bool(node.children)


def lang(wanted: str | None, node: Node) -> bool:
    test = (wanted or "").lower()
    at: Node | None = node
    while at is not None:
        for attribute in at.attributes if at.kind == ELEMENT else ():
            if attribute.name == f"{{{XML}}}lang":
                found = attribute.string.lower()
                return found == test or found.startswith(test + "-")
        at = at.parent
    return False


def ends(items: list[Node], inner: bool) -> list[Node]:
    """innermost() and outermost() (section 14.5)."""
    chosen = set(items)
    above = set()
    for node in chosen:
        at = node.parent
        hit = False
        while at is not None:
            hit = hit or at in chosen
            if inner:
                above.add(at)
            at = at.parent
        if hit and not inner:
            above.add(node)
    return in_order([node for node in chosen if node not in above])


# --- dates ---------------------------------------------------------------------------------------------------------------------------


def _field(name: str) -> Callable[[Any], Any]:
    return lambda value: None if value is None else getattr(value, name)


def _zone(value: DateTime | None) -> Duration | None:
    return None if value is None or value.zone is None else Duration("dayTimeDuration", 0, Decimal(value.zone * 60))


def _part(name: str) -> Callable[[Any], Any]:
    def read(value: Duration | None) -> Any:
        if value is None:
            return None
        sign = -1 if value.months < 0 or value.seconds < 0 else 1
        minutes, seconds = divmod(abs(value.seconds), 60)
        parts: dict[str, Any] = {"years": abs(value.months) // 12, "months": abs(value.months) % 12, "days": int(minutes) // 1440,
                 "hours": int(minutes) // 60 % 24, "minutes": int(minutes) % 60, "seconds": seconds}  # fmt: skip
        return sign * parts[name]

    return read


def _adjust(value: DateTime | None, *zone: Any) -> DateTime | None:
    if value is None:
        return None
    if not zone:
        return value.in_zone(IMPLICIT_ZONE)
    if zone[0] is None:
        return value.in_zone(None)
    seconds = zone[0].seconds
    if seconds % 60 or abs(seconds) > 14 * 3600 or zone[0].months:
        raise FilterError("FODT0003")
    return value.in_zone(int(seconds // 60))


def date_time(date: DateTime | None, time: DateTime | None) -> DateTime | None:
    if date is None or time is None:
        return None
    if date.zone is not None and time.zone is not None and date.zone != time.zone:
        raise FilterError("FORG0008")
    zone = time.zone if date.zone is None else date.zone
    return DateTime("dateTime", date.year, date.month, date.day, time.hour, time.minute, time.second, zone)


def fail(_code: list[Any] | None = None, detail: str = "", _value: list[Any] | None = None) -> Any:
    """error(); a code other than the default is an xs:QName, which is for the full engine."""
    raise FilterError("FOER0000", detail)


_DATE_FIELDS: Final = {"year": "year", "month": "month", "day": "day", "hours": "hour", "minutes": "minute", "seconds": "second"}

# name -> (parameters, how many are required, function)
ROWS: Final[dict[str, tuple[str, int, Any]]] = {
    "number": ("a?", 1, number), "abs": ("n?", 1, _mode("abs")), "floor": ("n?", 1, _mode("floor")),
    "ceiling": ("n?", 1, _mode("ceiling")), "round": ("n? i", 1, _round), "round-half-to-even": ("n? i", 1, _even),
    "sum": ("a* a?", 1, total), "avg": ("a*", 1, average), "max": ("a* s", 1, extreme(">")), "min": ("a* s", 1, extreme("<")),
    "distinct-values": ("a* s", 1, distinct), "index-of": ("a* a s", 2, index_of), "reverse": ("x*", 1, lambda items: items[::-1]),
    "head": ("x*", 1, lambda items: items[:1]), "tail": ("x*", 1, lambda items: items[1:]),
    "subsequence": ("x* d d", 2, subsequence), "insert-before": ("x* i x*", 3, insert_before),
    "remove": ("x* i", 2, lambda items, place: [one for at, one in enumerate(items, 1) if at != place]),
    "unordered": ("x*", 1, lambda items: items), "zero-or-one": ("x*", 1, exactly("FORG0003", 0, 1)),
    "one-or-more": ("x*", 1, exactly("FORG0004", 1, 1 << 60)), "exactly-one": ("x*", 1, exactly("FORG0005", 1, 1)),
    "deep-equal": ("x* x* s", 2, deep_equal), "data": ("a*", 1, lambda items: items), "count": ("x*", 1, len),
    "empty": ("x*", 1, lambda items: not items), "exists": ("x*", 1, bool), "boolean": ("x*", 1, effective_boolean),
    "not": ("x*", 1, lambda items: not effective_boolean(items)),
    "string": ("x?", 1, lambda item: "" if item is None else string_of(atom(item)) if not isinstance(item, Node) else item.string),
    "name": ("N?", 1, lambda node: "" if node is None else node.prefixed), "local-name": ("N?", 1, _local),
    "namespace-uri": ("N?", 1, _uri), "root": ("N?", 1, _root), "has-children": ("N?", 1, _has_children),
    "lang": ("s? N", 2, lang), "innermost": ("N*", 1, lambda items: ends(items, True)),
    "outermost": ("N*", 1, lambda items: ends(items, False)), "dateTime": ("D? M?", 2, date_time), "error": ("x* s x*", 0, fail),
    "implicit-timezone": ("", 0, lambda: Duration("dayTimeDuration", 0, Decimal(IMPLICIT_ZONE * 60))),
    **{f"{name}-from-dateTime": ("T?", 1, _field(field)) for name, field in _DATE_FIELDS.items()},
    **{f"{name}-from-date": ("D?", 1, _field(field)) for name, field in list(_DATE_FIELDS.items())[:3]},
    **{f"{name}-from-time": ("M?", 1, _field(field)) for name, field in list(_DATE_FIELDS.items())[3:]},
    **{f"timezone-from-{name}": (f"{letter}?", 1, _zone) for name, letter in (("dateTime", "T"), ("date", "D"), ("time", "M"))},
    **{f"{name}-from-duration": ("U?", 1, _part(name)) for name in ("years", "months", "days", "hours", "minutes", "seconds")},
    **{f"adjust-{name}-to-timezone": (f"{letter}? V?", 1, _adjust) for name, letter in (("dateTime", "T"), ("date", "D"), ("time", "M"))},
}  # fmt: skip

MATH: Final[dict[str, tuple[str, int, Any]]] = {
    "pi": ("", 0, lambda: math.pi), "exp": ("d?", 1, _math(math.exp)), "exp10": ("d?", 1, _math(lambda value: math.pow(10, value))),
    "log": ("d?", 1, _math(_log(math.log))), "log10": ("d?", 1, _math(_log(math.log10))), "sqrt": ("d?", 1, _math(math.sqrt)),
    "sin": ("d?", 1, _math(math.sin)), "cos": ("d?", 1, _math(math.cos)), "tan": ("d?", 1, _math(math.tan)),
    "asin": ("d?", 1, _math(math.asin)), "acos": ("d?", 1, _math(math.acos)), "atan": ("d?", 1, _math(math.atan)),
    "atan2": ("d d", 2, math.atan2), "pow": ("d? n", 2, _pow),
}  # fmt: skip
