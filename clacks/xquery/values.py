"""Atomic values (XPath and XQuery Data Model 3.1): which Python type carries which, how each is written and read.

xs:string is str, xs:boolean bool, xs:integer int, xs:decimal Decimal, xs:double float; the others are the classes below and in `dates.py`.
Types that no filter needs (xs:float, binary, g*) are not here: filters that use them are for the full engine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import partial
from typing import Any, Final

from .dates import DateTime, Duration, parse_datetime, parse_duration
from .errors import FilterError
from .names import collapsed
from .tree import Node

# 40 digits: xs:decimal needs at least 18 (XML Schema 1.1 part 2, 5.4), and a product of two such must still be exact. 2,500 places before
# and behind the point hold every integer of ours; repeated multiplication would otherwise write numbers of a million zeros.
DECIMALS: Final = Context(prec=40, rounding=ROUND_HALF_EVEN, Emax=2_500, Emin=-2_500)
# Integers beyond this are refused (FOAR0002): repeated multiplication would otherwise grow without bound.
MAX_INTEGER_BITS: Final = 8192


class Untyped(str):
    """xs:untypedAtomic: what atomizing a node of an unvalidated tree gives."""

    __slots__ = ()


class AnyURI(str):
    """xs:anyURI."""

    __slots__ = ()


def type_of(value: Any) -> str:
    """The local name of an atomic value's type."""
    return _NAMES.get(type(value)) or str(value.type)


_NAMES: Final[dict[type, str]] = {
    str: "string", bool: "boolean", int: "integer", Decimal: "decimal", float: "double", Untyped: "untypedAtomic", AnyURI: "anyURI",
}  # fmt: skip

_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_DECIMAL: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_DOUBLE: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_SPECIAL: Final = {"INF": math.inf, "+INF": math.inf, "-INF": -math.inf, "NaN": math.nan}
_BOOLEAN: Final = {"true": True, "1": True, "false": False, "0": False}
SPACE: Final = " \t\r\n"


def invalid(text: str, kind: str) -> FilterError:
    shown = text if len(text) <= 60 else text[:57] + "..."
    return FilterError("FORG0001", f"{shown!r} is not an xs:{kind}")


def to_double(text: str) -> float:
    """Reads an xs:double (XML Schema 1.1 part 2, 3.3.5)."""
    text = text.strip(SPACE)
    if _DOUBLE.fullmatch(text):
        return float(text)
    if text in _SPECIAL:
        return _SPECIAL[text]
    raise invalid(text, "double")


def to_decimal(text: str) -> Decimal:
    stripped = text.strip(SPACE)
    if not _DECIMAL.fullmatch(stripped):
        raise invalid(text, "decimal")
    if len(stripped) > 1000:
        raise FilterError("FOCA0006", "A decimal has more than 1,000 digits")
    return Decimal(stripped)


def to_integer(text: str) -> int:
    stripped = text.strip(SPACE)
    if not _INTEGER.fullmatch(stripped):
        raise invalid(text, "integer")
    if len(stripped) > 1000:
        raise FilterError("FOCA0003", "An integer has more than 1,000 digits")
    return int(stripped)


def to_boolean(text: str) -> bool:
    found = _BOOLEAN.get(text.strip(SPACE))
    if found is None:
        raise invalid(text, "boolean")
    return found


def checked(value: int) -> int:
    """An integer within the bounds of the implementation (FOAR0002 beyond)."""
    if value.bit_length() > MAX_INTEGER_BITS:
        raise FilterError("FOAR0002", "An integer has more than 2,400 digits")
    return value


def string_of(value: Any) -> str:
    """The value cast to xs:string (Functions and Operators 3.1 section 19.1.1)."""
    kind = type(value)
    if kind is str:
        return value  # type: ignore[no-any-return]
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        return str(value)
    if kind is float:
        return double_string(value)
    if kind is Decimal:
        return decimal_string(value)
    return str(value)


def decimal_string(value: Decimal) -> str:
    if value == value.to_integral_value():
        return str(int(value))
    return format(value, "f").rstrip("0")


def double_string(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "INF" if value > 0 else "-INF"
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    if 1e-6 <= abs(value) < 1e6:
        return decimal_string(Decimal(repr(value)))
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    text = "".join(map(str, digits)).rstrip("0") or "0"
    scale = int(exponent) + len(digits) - 1
    return f"{'-' if sign else ''}{text[0]}.{text[1:] or '0'}E{scale}"


def is_numeric(value: Any) -> bool:
    kind = type(value)
    return kind is int or kind is float or kind is Decimal


def atomize(items: list[Any]) -> list[Any]:
    """Atomization (XPath 3.1 section 2.4.2) of nodes of an unvalidated tree."""
    return [atom(item) for item in items]


def atom(item: Any) -> Any:
    if type(item) is Node:
        if item.kind in ("comment", "processing-instruction"):
            return item.string
        return Untyped(item.string)
    return item


def effective_boolean(items: list[Any]) -> bool:
    """The effective boolean value (XPath 3.1 section 2.4.3); FORG0006 where there is none."""
    if not items:
        return False
    first = items[0]
    if type(first) is Node:
        return True
    if len(items) > 1:
        raise FilterError("FORG0006", "A sequence of several values has no effective boolean value")
    kind = type(first)
    if kind is bool:
        return first  # type: ignore[no-any-return]
    if isinstance(first, str):
        return bool(first)
    if is_numeric(first):
        return bool(first) and first == first
    raise FilterError("FORG0006", f"A value of type xs:{type_of(first)} has no effective boolean value")


# --- casting (Functions and Operators 3.1 section 19) --------------------------------------------------------------------------------

# Integer types by range (XML Schema 1.1 part 2, 3.4.13 to 3.4.25); None is unbounded.
RANGES: Final[dict[str, tuple[int | None, int | None]]] = {
    "integer": (None, None), "nonPositiveInteger": (None, 0), "negativeInteger": (None, -1), "nonNegativeInteger": (0, None),
    "positiveInteger": (1, None), "long": (-(2**63), 2**63 - 1), "int": (-(2**31), 2**31 - 1), "short": (-(2**15), 2**15 - 1),
    "byte": (-128, 127), "unsignedLong": (0, 2**64 - 1), "unsignedInt": (0, 2**32 - 1), "unsignedShort": (0, 2**16 - 1),
    "unsignedByte": (0, 255),
}  # fmt: skip

_FROM_STRING: Final[dict[str, Callable[[str], Any]]] = {
    "string": str, "untypedAtomic": Untyped, "boolean": to_boolean, "decimal": to_decimal, "double": to_double,
    "anyURI": lambda text: AnyURI(collapsed(text)),
    **{kind: partial(parse_datetime, kind) for kind in ("dateTime", "date", "time")},
    **{kind: partial(parse_duration, kind) for kind in ("duration", "dayTimeDuration", "yearMonthDuration")},
}  # fmt: skip

# The types that values of our own can be cast to and tested for; all others are for the full engine.
NATIVE_TYPES: Final = frozenset(_FROM_STRING) | frozenset(RANGES)


def cast(value: Any, target: str) -> Any:
    """The atomic value as the type `target`, a local name of NATIVE_TYPES; FORG0001 or XPTY0004 where it cannot be."""
    if target in RANGES:
        return _ranged(value, target)
    if isinstance(value, str) and (type(value) is not AnyURI or target in ("string", "untypedAtomic", "anyURI")):
        return _FROM_STRING[target](str(value))
    if target == "string":
        return string_of(value)
    if target == "untypedAtomic":
        return Untyped(string_of(value))
    source = type(value)
    if source in (int, float, Decimal, bool) and target in _NUMERIC:
        return _NUMERIC[target](value)
    if isinstance(value, DateTime) and target in ("dateTime", "date", "time"):
        return value.cast(target)
    if isinstance(value, Duration) and target in ("duration", "dayTimeDuration", "yearMonthDuration"):
        return value.cast(target)
    raise FilterError("XPTY0004", f"An xs:{type_of(value)} cannot be cast to xs:{target}")


def _ranged(value: Any, target: str) -> int:
    if isinstance(value, str) and type(value) is not AnyURI:
        number = to_integer(value)
    elif type(value) in (int, float, Decimal, bool):
        if type(value) is float and not math.isfinite(value):
            raise FilterError("FOCA0002", f"{double_string(value)} is not an xs:{target}")
        number = checked(int(value))
    else:
        raise FilterError("XPTY0004", f"An xs:{type_of(value)} cannot be cast to xs:{target}")
    low, high = RANGES[target]
    if (low is not None and number < low) or (high is not None and number > high):
        raise invalid(str(number), target)
    return number


def _decimal(value: Any) -> Decimal:
    if type(value) is float and not math.isfinite(value):
        raise FilterError("FOCA0002", f"{double_string(value)} is not an xs:decimal")
    return Decimal(int(value)) if type(value) is bool else Decimal(value)


def _boolean(value: Any) -> bool:
    return bool(value) and value == value


_NUMERIC: Final[dict[str, Callable[[Any], Any]]] = {"double": lambda value: double(value), "decimal": _decimal, "boolean": _boolean}


def double(value: Any) -> float:
    """A number promoted to xs:double (XPath 3.1 appendix B.1)."""
    if type(value) is Decimal and not value:
        return 0.0  # Python's decimal has a negative zero, xs:decimal has not
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
