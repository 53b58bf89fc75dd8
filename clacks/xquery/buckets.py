"""Where the index keeps conditions on one value: equal texts, equal numbers, intervals, prefixes.

Whatever is put in can be taken out, and then nothing is left of it. A bucket is one entry, or a dict of entries in the order they came:
most values belong to one filter only, and a million dicts would be a quarter of a gigabyte.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Any, Final

# Anything hashable that is no dict.
Entry = Any
Bucket = Any


def put(table: dict[Any, Bucket], key: Any, entry: Entry) -> None:
    """Adds an entry to the bucket of a key; a list may name a value twice, so an entry may come twice."""
    found = table.get(key)
    if found is None or found is entry:
        table[key] = entry
    elif type(found) is dict:
        found[entry] = None
    else:
        table[key] = {found: None, entry: None}


def take(table: dict[Any, Bucket], key: Any, entry: Entry) -> None:
    """Takes an entry out of the bucket of a key; an empty bucket is dropped."""
    found = table.get(key)
    if type(found) is dict:
        found.pop(entry, None)
        if len(found) == 1:
            table[key] = next(iter(found))
        elif not found:
            del table[key]
    elif found is entry:
        del table[key]


def size(table: dict[Any, Bucket], key: Any) -> int:
    """How many entries the bucket of a key holds."""
    found = table.get(key)
    return 0 if found is None else len(found) if type(found) is dict else 1


# --- intervals -----------------------------------------------------------------------------------------------------------------------

Interval = tuple[float, bool, float, bool, Entry]  # lower, included, upper, included

# Every level in use is one look-up for each value. Widths from 2**-32 to 2**64 have their own level, others share one with up to 63
# wider ones. Cells are at least 2**-40 of their distance from zero, below which doubles are not exact enough to address them.
_FINEST: Final = -1_000
_OWN_LEVEL: Final = range(-32, 65)
_SHARED_LEVEL: Final = 64


def inside(value: float, one: Interval) -> bool:
    low, low_in, high, high_in, _ = one
    return (low < value or (low_in and low == value)) and (value < high or (high_in and value == high))


class Intervals:
    """Two-sided intervals.

    Each lies in at most two neighbouring cells of the level whose cells are just wide enough for it, so that adding, removing and asking
    for one value take constant time for each level in use.
    """

    __slots__ = ("cells", "levels", "wide")

    def __init__(self) -> None:
        self.cells: dict[tuple[int, int], list[Interval]] = {}
        self.levels: dict[int, int] = {}
        self.wide: list[Interval] = []

    def __bool__(self) -> bool:
        return bool(self.cells or self.wide)

    def _places(self, one: Interval) -> list[tuple[int, int]] | None:
        width = one[2] - one[0]
        if not (0 <= width < math.inf):
            return None
        level = max(math.frexp(width)[1], math.frexp(max(abs(one[0]), abs(one[2])))[1] - 40, _FINEST)
        if level not in _OWN_LEVEL:
            level = -(-level // _SHARED_LEVEL) * _SHARED_LEVEL
        first, last = (math.floor(math.ldexp(end, -level)) for end in (one[0], one[2]))
        return [(level, cell) for cell in range(first, last + 1)]

    def add(self, one: Interval) -> None:
        places = self._places(one)
        if places is None:
            self.wide.append(one)
            return
        for place in places:
            self.cells.setdefault(place, []).append(one)
            self.levels[place[0]] = self.levels.get(place[0], 0) + 1

    def remove(self, one: Interval) -> None:
        places = self._places(one)
        if places is None:
            self.wide.remove(one)
            return
        for place in places:
            cell = self.cells[place]
            cell.remove(one)  # added as often as removed, so it is there
            if not cell:
                del self.cells[place]
            self.levels[place[0]] -= 1
            if not self.levels[place[0]]:
                del self.levels[place[0]]

    def at(self, value: float) -> list[Entry]:
        """The entries whose interval contains a value."""
        found = []
        for level in self.levels:
            for one in self.cells.get((level, _cell(value, level)), ()):
                if one[0] <= value <= one[2] and inside(value, one):
                    found.append(one[4])
        for one in self.wide:
            if inside(value, one):
                found.append(one[4])
        return found

    def across(self, low: float, high: float) -> Iterator[Entry]:
        """The entries whose interval begins at or before `high` and ends at or after `low`."""
        for cell in [*self.cells.values(), self.wide]:
            for one in cell:
                if one[0] <= high and one[2] >= low:
                    yield one[4]


def _cell(value: float, level: int) -> int:
    try:
        return math.floor(math.ldexp(value, -level))
    except (OverflowError, ValueError):  # farther away than any cell of the level
        return 1 << 2000


class Bounds:
    """One-sided conditions: sorted bounds, in blocks so that adding to a million of them moves a thousand."""

    __slots__ = ("blocks", "buckets")

    BLOCK: Final = 1_000

    def __init__(self) -> None:
        self.blocks: list[list[float]] = []
        self.buckets: dict[float, Bucket] = {}

    def __bool__(self) -> bool:
        return bool(self.buckets)

    def _block(self, bound: float) -> int:
        return min(bisect_left([block[-1] for block in self.blocks], bound), len(self.blocks) - 1)

    def add(self, bound: float, entry: Entry) -> None:
        if bound not in self.buckets:
            if not self.blocks:
                self.blocks.append([])
                place = 0
            else:
                place = self._block(bound)
            block = self.blocks[place]
            insort(block, bound)
            if len(block) > self.BLOCK:
                half = len(block) // 2
                self.blocks[place : place + 1] = [block[:half], block[half:]]
        put(self.buckets, bound, entry)

    def remove(self, bound: float, entry: Entry) -> None:
        if bound not in self.buckets:
            return
        take(self.buckets, bound, entry)
        if bound not in self.buckets:
            place = self._block(bound)
            block = self.blocks[place]
            del block[bisect_left(block, bound)]
            if not block:
                del self.blocks[place]

    def below(self, value: float, including: bool) -> Iterator[Bucket]:
        """The buckets of all bounds below a value."""
        for block in self.blocks:
            end = bisect_right(block, value) if including else bisect_left(block, value)
            for bound in block[:end]:
                yield self.buckets[bound]
            if end < len(block):
                return

    def above(self, value: float, including: bool) -> Iterator[Bucket]:
        """The buckets of all bounds above a value."""
        for block in reversed(self.blocks):
            start = bisect_left(block, value) if including else bisect_right(block, value)
            for bound in block[start:]:
                yield self.buckets[bound]
            if start > 0:
                return
