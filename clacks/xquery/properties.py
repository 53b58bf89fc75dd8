"""What can be told of an expression by looking at it: whether it depends on the focus, on positions, whether it can be a number."""

from __future__ import annotations

from typing import Final

from . import syntax as s
from .functions import CONTEXTUAL, FUNCTIONS
from .names import FN, XS, split


def absolute(expr: s.Expr) -> bool:
    """Whether an expression depends on nothing but the event: its value is then computed once for all filters."""
    match expr:
        case s.Doc() | s.Literal():
            return True
        case s.Slash() | s.SimpleMap():
            return absolute(expr.left) and fixed(expr.right)
        case s.Postfix():
            return absolute(expr.base) and all(fixed(one) for one in expr.predicates)
        case s.Sequence() | s.Union() | s.And() | s.Or() | s.Arith() | s.Compare() | s.Concat() | s.Unary() | s.TypeExpr() | s.If():
            return all(absolute(one) for one in s.children(expr))
        case s.Call():
            given = bool(expr.args) and _everybodys(expr) and not takes_focus(expr)
            return given and all(one is not None and absolute(one) for one in expr.args)
        case _:
            return False


def fixed(expr: s.Expr) -> bool:
    """Whether an expression depends on the focus and the event only: not on what this filter calls by a name, as its own functions."""
    return not any(
        isinstance(one, (s.VarRef, s.Param, s.Flwor, s.Quantified, s.Typeswitch, s.Try))
        or (isinstance(one, s.Call) and not _everybodys(one))
        for one in s.walk(expr)
    )


def _everybodys(call: s.Call) -> bool:
    """Whether a call means the same in every filter; a function of the prolog does not."""
    return call.name in FUNCTIONS or split(call.name)[0] == XS


def takes_focus(call: s.Call) -> bool:
    """Whether a call takes the context item for the argument that it leaves out."""
    uri, local = split(call.name)
    return uri == FN and local in CONTEXTUAL and len(call.args) == FUNCTIONS[call.name].least < FUNCTIONS[call.name].most


def is_boolean(expr: s.Expr) -> bool:
    """Whether a predicate can never be a number (section 3.3.3), so that positions do not matter to it."""
    match expr:
        case s.Compare() | s.And() | s.Or() | s.Quantified() | s.Step() | s.Doc() | s.Root():
            return True
        case s.TypeExpr(op=op):
            return op in ("instance", "castable")
        case s.Slash(right=right):
            return isinstance(right, (s.Step, s.Union)) and is_boolean(right)
        case s.Union():
            return True
        case s.Call(name=name):
            return split(name) in BOOLEAN_CALLS
        case _:
            return False


# What is worth keeping for other filters: literals and the document are there anyway.
SHARED: Final = (s.Slash, s.Postfix, s.Union, s.SetOp, s.SimpleMap, s.Call, s.Arith, s.Concat)

BOOLEAN_CALLS: Final = frozenset(
    (FN, name) for name in ("not", "exists", "empty", "boolean", "contains", "starts-with", "ends-with", "matches", "true", "false",
                            "has-children", "lang", "deep-equal", "contains-token", "codepoint-equal")
)  # fmt: skip


def plain(predicates: tuple[s.Expr, ...]) -> bool:
    """Whether predicates look at one item at a time, so that one may fail without moving the others."""
    return bool(predicates) and all(is_boolean(one) and not uses_position(one) for one in predicates)


def uses_position(expr: s.Expr) -> bool:
    """Whether position() or last() of this focus may be asked for; those of inner predicates count too, which only costs speed."""
    return any(isinstance(one, s.Call) and split(one.name) in ((FN, "position"), (FN, "last")) for one in s.walk(expr))
