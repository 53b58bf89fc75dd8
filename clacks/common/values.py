"""Python values as XSD text: the lexical forms of XML Schema part 2, section 3."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final


def _float(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "INF" if value > 0 else "-INF"
    return repr(value)


def _duration(value: timedelta) -> str:
    sign = "-" if value < timedelta(0) else ""
    value = abs(value)
    seconds = f"{value.seconds}.{value.microseconds:06}".rstrip("0").rstrip(".") if value.microseconds else str(value.seconds)
    return f"{sign}P{value.days}DT{seconds}S"


def _moment(value: datetime | time) -> str:
    return value.isoformat().replace("+00:00", "Z")


# The first row whose type fits: bool is an int and datetime a date, so they stand before them.
_FORMS: Final[tuple[tuple[type | tuple[type, ...], Callable[[Any], str]], ...]] = (
    (Enum, lambda value: text_of(value.value)),
    (str, str),
    (bool, lambda value: "true" if value else "false"),
    (int, str),
    (float, _float),
    (Decimal, lambda value: format(value, "f")),
    ((datetime, time), _moment),
    (date, lambda value: value.isoformat()),
    (timedelta, _duration),
    ((bytes, bytearray), lambda value: base64.b64encode(value).decode()),
    ((list, tuple), lambda value: " ".join(map(text_of, value))),
)


def text_of(value: Any) -> str:
    """The XSD text of a Python value: bool `true`, datetime ISO 8601, Decimal without an exponent, bytes base64, a list an xs:list.

    Anything else is its `str` (a UUID, an IP address, a Path).
    """
    for types, form in _FORMS:
        if isinstance(value, types):
            return form(value)
    return str(value)
