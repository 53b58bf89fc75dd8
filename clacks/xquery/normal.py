"""A tree brought into one form, so that equal questions become equal trees: paths start at the document, `let`s are put in place.

Every rewriting keeps the meaning: the rules say why. Nothing here evaluates.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Final, TypeVar

from . import syntax as s
from .properties import is_boolean, uses_position

E = TypeVar("E", bound=s.Expr)

# A variable is put in place at most this often, and while its copies stay this small: chains of lets that use each other twice would
# double the tree at every link. Longer chains of lets than this are left alone, because each one is a walk over the rest.
MAX_COPIES: Final = 8
MAX_SIZE: Final = 200
MAX_LETS: Final = 50

_NODE: Final = s.KindTest("node")


def _changed(expr: s.Expr, change: Any) -> Any:
    """The expression with every direct sub-expression changed."""
    updates = {}
    for one in fields(expr):
        value = getattr(expr, one.name)
        new = _changed_value(value, change)
        if new is not value:
            updates[one.name] = new
    return replace(expr, **updates) if updates else expr


def _changed_value(value: Any, change: Any) -> Any:
    if isinstance(value, s.Expr):
        return change(value)
    if isinstance(value, tuple):
        new = tuple(_changed_value(one, change) for one in value)
        return value if all(a is b for a, b in zip(new, value, strict=True)) else new
    return value


def descendant_steps(expr: s.Expr) -> s.Expr:
    """`//x` as descendant::x (section 3.3.5 writes it out otherwise): the same nodes, as long as no predicate counts positions."""
    expr = _changed(expr, descendant_steps)
    match expr:
        case s.Slash(left=s.Slash(left=left, right=s.Step(axis="descendant-or-self", predicates=()) as deep), right=s.Step() as step):
            counts = any(not is_boolean(one) or uses_position(one) for one in step.predicates)
            if deep.test == _NODE and step.axis in ("child", "descendant") and not counts:
                return s.Slash(expr.at, left, s.Step(step.at, "descendant", step.test, step.predicates))
    return expr


def from_document(expr: s.Expr) -> s.Expr:
    """Where the focus is the document node, `.`, `/` and a step start at the document (section 2.1.2): the tree says so."""
    match expr:
        case s.ContextItem() | s.Root():
            return s.Doc(expr.at)
        case s.Step():
            return s.Slash(expr.at, s.Doc(expr.at), expr)
        case s.Slash():
            return s.Slash(expr.at, from_document(expr.left), expr.right)
        case s.SimpleMap():
            return s.SimpleMap(expr.at, from_document(expr.left), expr.right)
        case s.Postfix():
            return s.Postfix(expr.at, from_document(expr.base), expr.predicates)
        case s.Inline():
            return expr  # the body of a function has no focus
        case _:
            return _changed(expr, from_document)  # type: ignore[no-any-return]


def _movable(expr: s.Expr) -> bool:
    """Whether an expression gives the same wherever it stands: a path from the document, a literal, a variable of the prolog."""
    match expr:
        case s.Doc() | s.Literal() | s.Param():
            return True
        case s.Slash():
            return _movable(expr.left) and _closed(expr.right)
        case s.Postfix():
            return _movable(expr.base) and all(_closed(one) for one in expr.predicates)
        case s.Union():
            return all(_movable(one) for one in expr.items)
        case _:
            return False


def _closed(expr: s.Expr) -> bool:
    return not any(isinstance(one, (s.VarRef, s.Flwor, s.Quantified, s.Typeswitch, s.Try, s.Inline)) for one in s.walk(expr))


def _uses(expr: s.Expr, name: str) -> int:
    return sum(isinstance(one, s.VarRef) and one.name == name for one in s.walk(expr))


def affordable(value: s.Expr, uses: int) -> bool:
    """Whether a value may be put in place of so many uses."""
    return uses <= MAX_COPIES and uses * sum(1 for _ in s.walk(value)) <= MAX_SIZE


def _binds(expr: s.Expr, name: str) -> bool:
    """Whether anything inside binds the name again; then it stays a variable."""
    return any(
        (getattr(one, "name", None) == name and isinstance(one, (s.For, s.Let, s.Count)))
        or (isinstance(one, (s.For,)) and one.counter == name)
        or (isinstance(one, s.GroupBy) and any(key == name for key, _, _ in one.keys))
        or (isinstance(one, s.Inline) and any(param == name for param, _ in one.params))
        or (isinstance(one, s.Window) and name in one.names)
        or (isinstance(one, s.Typeswitch) and (one.variable == name or any(bound == name for _, bound, _ in one.cases)))
        for one in s.walk(expr)
    )


def substituted(expr: E, name: str, value: s.Expr) -> E:
    """`$name` replaced by its value."""

    def change(one: s.Expr) -> s.Expr:
        if isinstance(one, s.VarRef):
            return replace(value, at=one.at) if one.name == name else one
        return _changed(one, change)  # type: ignore[no-any-return]

    return change(expr)  # type: ignore[return-value]


def inlined(expr: s.Expr) -> s.Expr:
    """`let $e := /a return $e/b` as `/a/b` (section 3.12.4): a let whose value can stand anywhere is put in its place."""
    match expr:
        case s.Flwor(clauses=(s.Let() as first, *rest)) if first.type is None and len(rest) < MAX_LETS:
            value = inlined(first.value)
            tail: s.Expr = s.Flwor(expr.at, tuple(rest), expr.result) if rest else expr.result
            if _movable(value) and not _binds(tail, first.name) and affordable(value, _uses(tail, first.name)):
                return inlined(substituted(tail, first.name, value))
            # The value is done; to look at it again would double the work for each let inside a let.
            clauses = (replace(first, value=value), *(inlined(one) for one in rest))
            return replace(expr, clauses=clauses, result=inlined(expr.result))
    return _changed(expr, inlined)  # type: ignore[no-any-return]


def associated(expr: s.Expr) -> s.Expr:
    """Paths lean to the left after a let was put in place: `(/a)/(b/c)` as `/a/b/c`, which is the same for steps (section 3.3)."""
    expr = _changed(expr, associated)
    match expr:
        case s.Slash(right=s.Slash(left=s.Step() as first, right=s.Step() as second)):
            return s.Slash(expr.at, s.Slash(expr.at, expr.left, first), second)
    return expr


def normal(expr: s.Expr) -> s.Expr:
    """The one form of a filter's expression, whose focus is the document."""
    return descendant_steps(associated(inlined(from_document(expr))))
