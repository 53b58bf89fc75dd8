"""How the index finds a filter: which of its needs tells it best from the others.

Made once for all filters of a template; the index chooses between equally good ways when it knows the other filters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from . import syntax as s
from .atoms import NO, YES, All, Any_, Atom, Need, Operand
from .needs import Focus, need

# More alternatives than this are not put into the index one by one: the filter is then found by something coarser.
MAX_ALTERNATIVES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Plan:
    """How the index finds a filter: through all atoms of one of the `choices`; without choices it is asked for every event."""

    choices: tuple[tuple[Atom, ...], ...]
    exact: int
    never: bool = False


# How well a condition tells filters apart; lower is better. Conditions that are as good are chosen between when a filter is added.
_RANK: Final = {"=": 0, "between": 1, "prefix": 1, "<": 3, "<=": 3, ">": 3, ">=": 3, "exists": 4}


def _rank(atoms: tuple[Atom, ...]) -> int:
    return max(_RANK["between" if one.upper is not None else one.op] + (one.variable is not None) for one in atoms)


def _choices(found: Need) -> tuple[list[tuple[Atom, ...]], int]:
    """The ways to reach a filter through the index, best first, and how exact they are; an empty list where there is none."""
    if isinstance(found, Atom):
        return [(found,)], found.exact
    if isinstance(found, All):
        options = sorted((choice for one in found.items for choice in _choices(one)[0][:2]), key=_rank)
        return [option for option in options if _rank(option) == _rank(options[0])][:4] if options else [], NO
    if isinstance(found, Any_):
        atoms: list[Atom] = []
        exact = YES
        for one in found.items:
            options, level = _choices(one)
            if not options:
                return [], NO
            exact = min(exact, level)
            atoms.extend(options[0])
        return ([tuple(atoms)], exact) if len(atoms) <= MAX_ALTERNATIVES else ([], NO)
    return [], NO


def describe(atom: Atom, params: tuple[Any, ...]) -> str:
    """A condition for people."""

    def value(operand: Operand) -> str:
        found = params[operand.slot] if isinstance(operand, s.Param) else operand.value
        return f"'{found}'" if isinstance(found, str) else str(found)

    steps = {"child": "/", "attribute": "/@", "text": "/text()", "deep": "//"}
    path = "".join(steps[edge.axis] + ("" if edge.axis in ("text", "deep") else edge.local or "*") for edge in atom.pattern)
    subject = f"${atom.variable}" if atom.variable is not None else path.replace("///", "//") or "/"
    if atom.operand is None:
        return f"{subject} exists"
    if atom.upper is not None:
        return f"{subject} {atom.op} {value(atom.operand)} and {atom.upper[0]} {value(atom.upper[1])}"
    return f"{subject} {'starts with' if atom.op == 'prefix' else atom.op} {value(atom.operand)}"


def plan(body: s.Expr, externals: frozenset[str]) -> Plan:
    """How the index finds a filter whose normal form is `body`; `externals` are the variables that only the event can set."""
    found = need(body, Focus((), {}, externals))
    if found is False:
        return Plan((), NO, never=True)
    options, exact = _choices(found)
    return Plan(tuple(options), exact)
