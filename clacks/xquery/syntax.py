"""The tree of a filter: one small frozen class per construct of XQuery 3.1.

A tree knows what was written and where (`at`, an offset into the text), never what it means. `at` takes no part in equality, so equal
expressions of different filters are equal keys. Names are expanded: `{uri}local`, or `local` where there is no namespace.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Expr:
    """Any expression."""

    at: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class NameTest:
    """A name test (section 3.3.2.1); None stands for `*`. `uri` "" is no namespace."""

    uri: str | None
    local: str | None


@dataclass(frozen=True, slots=True)
class KindTest:
    """A kind test (section 2.5.5): node, text, comment, processing-instruction, element, attribute, document-node, namespace-node."""

    kind: str
    name: NameTest | None = None
    type: str | None = None


@dataclass(frozen=True, slots=True)
class ItemType:
    """One item type: `kind` is item, atomic, node, function, map, array or empty; `name` an atomic type's local name."""

    kind: str
    name: str = ""
    test: KindTest | None = None
    args: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class SequenceType:
    """A sequence type (section 2.5.4); `occurrence` is "", "?", "*" or "+"."""

    item: ItemType
    occurrence: str = ""


@dataclass(frozen=True, slots=True)
class Literal(Expr):
    """A literal; `type` is string, integer, decimal or double; `end` is the offset behind it."""

    value: Any
    type: str
    end: int = field(compare=False, default=0)


@dataclass(frozen=True, slots=True)
class Param(Expr):
    """A literal that belongs to the single filter, not to its template: the `slot`-th literal of the text."""

    slot: int
    type: str


@dataclass(frozen=True, slots=True)
class Sequence(Expr):
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class VarRef(Expr):
    name: str


@dataclass(frozen=True, slots=True)
class ContextItem(Expr):
    pass


@dataclass(frozen=True, slots=True)
class Root(Expr):
    """The leading `/`."""


@dataclass(frozen=True, slots=True)
class Step(Expr):
    """An axis step (section 3.3.2)."""

    axis: str
    test: NameTest | KindTest
    predicates: tuple[Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class Slash(Expr):
    """E1/E2; `//` is written out as /descendant-or-self::node()/."""

    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Postfix(Expr):
    """A primary expression with predicates."""

    base: Expr
    predicates: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Call(Expr):
    """A static function call; an argument None is the placeholder `?`."""

    name: str
    args: tuple[Expr | None, ...]


@dataclass(frozen=True, slots=True)
class NamedRef(Expr):
    name: str
    arity: int


@dataclass(frozen=True, slots=True)
class Inline(Expr):
    params: tuple[tuple[str, SequenceType | None], ...]
    result: SequenceType | None
    body: Expr


@dataclass(frozen=True, slots=True)
class Dynamic(Expr):
    function: Expr
    args: tuple[Expr | None, ...]


@dataclass(frozen=True, slots=True)
class Unary(Expr):
    op: str
    operand: Expr


@dataclass(frozen=True, slots=True)
class Arith(Expr):
    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Concat(Expr):
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Range(Expr):
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Compare(Expr):
    """`kind` is general, value or node; `op` is =, !=, <, <=, >, >= for the first two, is, <<, >> for the third."""

    kind: str
    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class And(Expr):
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Or(Expr):
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Union(Expr):
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class SetOp(Expr):
    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class SimpleMap(Expr):
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class If(Expr):
    condition: Expr
    then: Expr
    otherwise: Expr


@dataclass(frozen=True, slots=True)
class For(Expr):
    name: str
    type: SequenceType | None
    allowing_empty: bool
    counter: str | None
    source: Expr


@dataclass(frozen=True, slots=True)
class Let(Expr):
    name: str
    type: SequenceType | None
    value: Expr


@dataclass(frozen=True, slots=True)
class Where(Expr):
    condition: Expr


@dataclass(frozen=True, slots=True)
class OrderBy(Expr):
    """`keys`: (expression, descending, empty greatest)."""

    keys: tuple[tuple[Expr, bool, bool], ...]


@dataclass(frozen=True, slots=True)
class GroupBy(Expr):
    """`keys`: (variable, expression or None, type of its value or None)."""

    keys: tuple[tuple[str, Expr | None, SequenceType | None], ...]


@dataclass(frozen=True, slots=True)
class Count(Expr):
    name: str


@dataclass(frozen=True, slots=True)
class Window(Expr):
    """A window clause; its parts are kept so that their names are checked."""

    parts: tuple[Expr, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Flwor(Expr):
    clauses: tuple[Expr, ...]
    result: Expr


@dataclass(frozen=True, slots=True)
class Quantified(Expr):
    every: bool
    bindings: tuple[For, ...]
    condition: Expr


@dataclass(frozen=True, slots=True)
class Switch(Expr):
    operand: Expr
    cases: tuple[tuple[tuple[Expr, ...], Expr], ...]
    default: Expr


@dataclass(frozen=True, slots=True)
class Typeswitch(Expr):
    """`cases`: (types, variable or None, result)."""

    operand: Expr
    cases: tuple[tuple[tuple[SequenceType, ...], str | None, Expr], ...]
    variable: str | None
    default: Expr


@dataclass(frozen=True, slots=True)
class Try(Expr):
    """`catches`: (error names, result)."""

    body: Expr
    catches: tuple[tuple[tuple[NameTest, ...], Expr], ...]


@dataclass(frozen=True, slots=True)
class TypeExpr(Expr):
    """`op` is instance, treat, castable or cast."""

    op: str
    operand: Expr
    type: SequenceType


@dataclass(frozen=True, slots=True)
class MapExpr(Expr):
    entries: tuple[tuple[Expr, Expr], ...]


@dataclass(frozen=True, slots=True)
class ArrayExpr(Expr):
    square: bool
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Lookup(Expr):
    """`base` None is the unary lookup; `key` None is `*`."""

    base: Expr | None
    key: Expr | None


@dataclass(frozen=True, slots=True)
class Constructor(Expr):
    """A direct or computed constructor; only its enclosed expressions are kept."""

    what: str
    parts: tuple[Expr, ...]


def children(node: object) -> Iterator[Expr]:
    """The expressions directly inside a node, in the order they were written."""
    for one in fields(node):  # type: ignore[arg-type]
        yield from _expressions(getattr(node, one.name))


def _expressions(value: object) -> Iterator[Expr]:
    if isinstance(value, Expr):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _expressions(item)


def walk(node: Expr) -> Iterator[Expr]:
    """The node and every expression in it, outermost first."""
    yield node
    for child in children(node):
        yield from walk(child)


@dataclass(frozen=True, slots=True)
class Doc(Expr):
    """The document node of the event, whatever the focus; written by nobody, put in by `normal.py`."""
