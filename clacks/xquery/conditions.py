"""The conditions at one place of the event: what the index asks about a value found there.

`Values` hangs on a node of the trie (`trie.py`) or on a variable. It knows the comparison rules of untyped data and nothing of paths.
"""

from __future__ import annotations

from typing import Any, Final

from .buckets import Bounds, Bucket, Entry, Interval, Intervals, put, size, take
from .compare import promoted
from .errors import FilterError
from .values import to_double

# Every length in use is one look-up; longer prefixes are found by their beginning.
LONGEST_PREFIX: Final = 40

_INCLUDED: Final = frozenset(("<=", ">=", "="))


class Values:
    """Conditions on the string value at one place. All tables are None until something needs them."""

    __slots__ = ("bounds", "equal", "exists", "intervals", "numbers", "numeric", "prefixes", "simple")

    def __init__(self) -> None:
        self.equal: dict[str, Bucket] = {}
        self.exists: dict[None, Bucket] = {}
        self.numbers: dict[float, Bucket] = {}
        self.intervals: Intervals | None = None
        self.bounds: dict[str, Bounds] = {}
        self.prefixes: dict[int, dict[str, Bucket]] = {}
        self.numeric = False
        self.simple = True

    def __bool__(self) -> bool:
        return bool(self.equal or self.exists or self.numbers or self.intervals or self.bounds or self.prefixes)

    def _changed(self) -> None:
        self.numeric = bool(self.numbers or self.intervals or self.bounds)
        self.simple = not (self.numeric or self.exists or self.prefixes)

    def weight(self, op: str, value: Any) -> int:
        """How many entries share a condition: the fewer, the better it tells filters apart."""
        if op == "=":
            return size(self.equal, value) if isinstance(value, str) else size(self.numbers, as_double(value))
        return 0 if op == "between" else 1

    def add(self, op: str, value: Any, entry: Entry, upper: tuple[str, Any] | None = None) -> None:
        self._change(op, value, entry, upper, put)
        self._changed()

    def remove(self, op: str, value: Any, entry: Entry, upper: tuple[str, Any] | None = None) -> None:
        self._change(op, value, entry, upper, take)
        self._changed()

    def _change(self, op: str, value: Any, entry: Entry, upper: tuple[str, Any] | None, change: Any) -> None:
        adding = change is put
        if upper is not None:
            if self.intervals is None:
                if not adding:
                    return
                self.intervals = Intervals()
            one: Interval = (as_double(value), op in _INCLUDED, as_double(upper[1]), upper[0] in _INCLUDED, entry)
            (self.intervals.add if adding else self.intervals.remove)(one)
            if not self.intervals:
                self.intervals = None
        elif op == "exists":
            change(self.exists, None, entry)
        elif op == "prefix":
            value = value[:LONGEST_PREFIX]
            table = self.prefixes.setdefault(len(value), {})
            change(table, value, entry)
            if not table:
                del self.prefixes[len(value)]
        elif op == "=" and isinstance(value, str):
            change(self.equal, value, entry)
        elif op == "=":
            change(self.numbers, as_double(value), entry)
        else:
            bounds = self.bounds.setdefault(op, Bounds())  # one per operator
            (bounds.add if adding else bounds.remove)(as_double(value), entry)
            if not bounds:
                del self.bounds[op]

    # --- asking --------------------------------------------------------------------------------------------------------------------

    def ask(self, value: str, out: list[Entry]) -> None:
        """Adds the entries that a text satisfies to `out`, but for numeric conditions: `ask_numbers` takes all texts of a place."""
        found = self.equal.get(value)
        if found is not None:
            if type(found) is dict:
                out.extend(found)
            else:
                out.append(found)
        if self.simple:
            return
        if self.exists:
            _extend(out, self.exists[None])
        for length, table in self.prefixes.items():
            found = table.get(value[:length])
            if found is not None:
                _extend(out, found)

    def ask_numbers(self, texts: list[str], out: list[Entry]) -> None:
        """The numeric conditions, over all texts found at this place. Several values can fulfil the two bounds of an interval between
        them, so that an interval then counts as soon as it reaches into their range."""
        if len(texts) == 1 and texts[0].isdecimal() and texts[0].isascii():
            self.ask_number(float(texts[0]), out)
            return
        numbers = []
        for text in texts:
            try:
                numbers.append(to_double(text))
            except FilterError:  # not a number: the comparison fails, which is no match
                continue
        for number in numbers:
            self.ask_number(number, out, len(texts) == 1)
        if self.intervals is not None and len(texts) > 1 and numbers:
            out.extend(self.intervals.across(min(numbers), max(numbers)))

    def ask_number(self, number: float, out: list[Entry], alone: bool = True) -> None:
        """The numeric conditions for one number."""
        found = self.numbers.get(number)
        if found is not None:
            _extend(out, found)
        if alone and self.intervals is not None:
            out.extend(self.intervals.at(number))
        if not self.bounds or number != number:  # NaN is neither below nor above anything, but a sorted list has a place for it
            return
        for op, bounds in self.bounds.items():
            for bucket in bounds.below(number, op == ">=") if op in (">", ">=") else bounds.above(number, op == "<="):
                _extend(out, bucket)


def as_double(value: Any) -> float:
    """A numeric literal in the type it is compared in with untyped data (section 3.7.2)."""
    return float(promoted(value, 0.0)[0])


def _extend(out: list[Entry], bucket: Bucket) -> None:
    if type(bucket) is dict:
        out.extend(bucket)
    else:
        out.append(bucket)
