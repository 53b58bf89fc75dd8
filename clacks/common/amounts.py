"""Amounts as people write them: a number, with a unit behind it or without. What they are amounts of is not known here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_TIMES: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZES: Final = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def seconds(text: str) -> float:
    """A time; a number alone is one of seconds. Raises ValueError."""
    return _amount(text, _TIMES, "time", "30s, 15m, 12h or 7d")


def size(text: str) -> float:
    """A number of bytes. Raises ValueError."""
    return _amount(text, _SIZES, "size", "64M or 1G")


def _amount(text: str, units: Mapping[str, int], what: str, example: str) -> float:
    factor = units.get(text[-1:])
    try:
        amount = float(text if factor is None else text[:-1]) * (factor or 1)
    except ValueError:
        amount = 0.0
    if not 0 < amount < float("inf"):
        raise ValueError(f"{text!r} is no {what}. Write it like {example}.")
    return amount
