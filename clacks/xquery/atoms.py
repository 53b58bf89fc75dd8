"""The conditions that filters need and the index looks up, as values.

`needs.py` makes them, `plans.py` chooses between them, `index.py` and `trie.py` find them in events; none of that is known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from . import syntax as s

# How far an answer of the index can be trusted: not at all (the filter is evaluated), when the path gave one value only, always.
NO, SINGLE, YES = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Edge:
    """One step of a pattern: `axis` is child, attribute, text or deep (any number of elements further down, or none)."""

    axis: str
    uri: str | None = None
    local: str | None = None


Pattern: TypeAlias = tuple[Edge, ...]
Operand: TypeAlias = s.Param | s.Literal


@dataclass(frozen=True, slots=True)
class Atom:
    """One condition: some node of `pattern` (or the variable `variable`) fulfils `op` with `operand`.

    `op`: exists, =, <, <=, >, >=, between (a pair of bounds), prefix.
    """

    pattern: Pattern
    variable: str | None
    op: str
    operand: Operand | None = None
    exact: int = YES
    upper: tuple[str, Operand] | None = None  # between: `op` and `operand` are the lower bound


@dataclass(frozen=True, slots=True)
class All:
    items: tuple[Need, ...]


@dataclass(frozen=True, slots=True)
class Any_:
    items: tuple[Need, ...]


Need: TypeAlias = "Atom | All | Any_ | bool"
