"""Arithmetic and rounding (XPath 3.1 section 3.5, Functions and Operators 3.1 sections 4 and 9)."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal, DecimalException
from typing import Any, Final

from .dates import DateTime, Duration
from .errors import FilterError
from .values import DECIMALS, Untyped, checked, double, is_numeric, to_double, type_of

# Room for what lies between the largest decimal of ours and the smallest: for remainders and for rounding, which must not round before.
_WIDE: Final = Context(prec=6_000, Emax=999_999, Emin=-999_999)


def _integer_decimal(value: Any) -> Decimal:
    return value if type(value) is Decimal else Decimal(value)


def _truncated(left: Any, right: Any) -> int:
    """`idiv` (section 4.2.6): towards zero."""
    if type(left) is float or type(right) is float:
        left, right = double(left), double(right)
        if right == 0:
            raise FilterError("FOAR0001")
        if not math.isfinite(left) or math.isnan(right):
            raise FilterError("FOAR0002")
        quotient = left / right
        if math.isinf(quotient):
            raise FilterError("FOAR0002")
        return int(quotient)  # the product of the definition is a double as well: 2e0 idiv 1e-1 is 20
    if right == 0:
        raise FilterError("FOAR0001")
    (left_over, left_under), (right_over, right_under) = left.as_integer_ratio(), right.as_integer_ratio()
    whole = int(abs(left_over * right_under) // abs(right_over * left_under))
    return whole if (left < 0) == (right < 0) else -whole


def _exactly(compute: Callable[[], Any]) -> Any:
    try:
        return compute()
    except (DecimalException, OverflowError, ValueError) as error:
        raise FilterError("FOAR0002") from error


def _float_divide(left: float, right: float) -> float:
    if right == 0:
        if left == 0 or math.isnan(left):
            return math.nan
        return math.copysign(math.inf, left) * math.copysign(1, right)
    return left / right


def _modulo(left: Any, right: Any) -> Any:
    """`mod` (section 4.2.7): the sign of the dividend."""
    if type(left) is float:
        if math.isnan(left) or math.isnan(right) or math.isinf(left) or right == 0:
            return math.nan
        return math.fmod(left, right)
    if right == 0:
        raise FilterError("FOAR0001")
    if type(left) is int and type(right) is int:
        return -(-left % abs(right)) if left < 0 else left % abs(right)
    return DECIMALS.plus(_WIDE.remainder(_integer_decimal(left), _integer_decimal(right)))


def _divide(left: Any, right: Any) -> Any:
    if type(left) is float:
        return _float_divide(left, right)
    if right == 0:
        raise FilterError("FOAR0001")
    return DECIMALS.divide(_integer_decimal(left), _integer_decimal(right))


def _exact(plain: Callable[[Any, Any], Any], decimals: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Two integers or two doubles by Python's operator, decimals in the context of `values.py`."""

    def compute(left: Any, right: Any) -> Any:
        if type(left) is type(right) and type(left) is not Decimal:
            return plain(left, right)
        return decimals(_integer_decimal(left), _integer_decimal(right))

    return compute


_NUMERIC: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": _exact(operator.add, DECIMALS.add),
    "-": _exact(operator.sub, DECIMALS.subtract),
    "*": _exact(operator.mul, DECIMALS.multiply),
    "div": _divide,
    "mod": _modulo,
}


def arithmetic(op: str, left: Any, right: Any) -> Any:
    """One binary operation on two atomic values; XPTY0004 where the types have none."""
    left = to_double(left) if type(left) is Untyped else left
    right = to_double(right) if type(right) is Untyped else right
    if is_numeric(left) and is_numeric(right):
        if op == "idiv":
            return checked(_truncated(left, right))
        if type(left) is float or type(right) is float:
            left, right = double(left), double(right)
        result = _exactly(lambda: _NUMERIC[op](left, right))
        return checked(result) if type(result) is int else result
    return _temporal(op, left, right)


def _temporal(op: str, left: Any, right: Any) -> Any:
    point, other = isinstance(left, DateTime), isinstance(right, DateTime)
    if point and other and op == "-" and left.type == right.type:
        return Duration("dayTimeDuration", 0, left.instant() - right.instant())
    if point and isinstance(right, Duration) and right.type != "duration" and op in ("+", "-"):
        return left.plus(right, 1 if op == "+" else -1)
    if other and isinstance(left, Duration) and left.type != "duration" and op == "+":
        return right.plus(left, 1)
    if isinstance(left, Duration) and left.type != "duration":
        if isinstance(right, Duration) and right.type == left.type:
            if op in ("+", "-"):
                sign = 1 if op == "+" else -1
                return _bounded(Duration(left.type, left.months + sign * right.months, left.seconds + sign * right.seconds))
            if op == "div":
                return _divide(*(Decimal(one.months) + one.seconds for one in (left, right)))
        if is_numeric(right) and op in ("*", "div"):
            return _scaled(left, right, op)
    if op == "*" and is_numeric(left) and isinstance(right, Duration) and right.type != "duration":
        return _scaled(right, left, op)
    raise FilterError("XPTY0004", f"`{op}` does not apply to xs:{type_of(left)} and xs:{type_of(right)}")


def _scaled(duration: Duration, factor: Any, op: str) -> Duration:
    if type(factor) is float and math.isnan(factor):
        raise FilterError("FOCA0005")
    if op == "div":
        if factor == 0:
            raise FilterError("FODT0002")
        if type(factor) is float and math.isinf(factor):
            return Duration(duration.type, 0, Decimal(0))
    elif type(factor) is float and math.isinf(factor):
        raise FilterError("FODT0002")
    number = Decimal(factor)
    value = Decimal(duration.months) + duration.seconds
    result = _exactly(lambda: DECIMALS.multiply(value, number) if op == "*" else DECIMALS.divide(value, number))
    if duration.type == "yearMonthDuration":
        return _bounded(Duration(duration.type, int((result + Decimal("0.5")).to_integral_value(ROUND_FLOOR)), Decimal(0)))
    return _bounded(Duration(duration.type, 0, result))


def _bounded(duration: Duration) -> Duration:
    """FODT0002 for one that is longer than any that can be written (15 digits of days): sums and products would grow without bound."""
    if abs(duration.months) + abs(duration.seconds) > 10**20:
        raise FilterError("FODT0002")
    return duration


def negate(value: Any) -> Any:
    """Unary minus (section 4.2.8)."""
    value = to_double(value) if type(value) is Untyped else value
    if not is_numeric(value):
        raise FilterError("XPTY0004", f"`-` does not apply to xs:{type_of(value)}")
    if type(value) is Decimal:
        return value.copy_negate() if value else value  # `-` rounds to the digits of Python's own context
    return -value


# More than any number of ours has before or behind its point.
_MOST_DIGITS: Final = 2_600


def rounded(value: Any, mode: str, digits: int = 0) -> Any:
    """abs, floor, ceiling, round (half up) and round-half-to-even (section 4.4)."""
    if mode == "abs":
        return value.copy_abs() if type(value) is Decimal else abs(value)
    if type(value) is int and digits >= 0:
        return value
    if type(value) is float and (not math.isfinite(value) or value == 0):
        return value
    if digits > _MOST_DIGITS:
        return value
    if digits < -_MOST_DIGITS:
        return type(value)(0)
    number = Decimal(value)  # of an xs:double the very value (section 4.4.4), not the shortest text for it
    modes = {"floor": ROUND_FLOOR, "ceiling": ROUND_CEILING, "even": ROUND_HALF_EVEN,
             "round": ROUND_HALF_DOWN if number < 0 else ROUND_HALF_UP}  # fmt: skip
    result = number.quantize(Decimal(1).scaleb(-digits), rounding=modes[mode], context=_WIDE)
    if type(value) is float:
        return math.copysign(float(result), value) if result == 0 else float(result)
    return int(result) if type(value) is int else result
