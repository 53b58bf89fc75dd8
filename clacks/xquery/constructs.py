"""One maker of closures for each construct that gives a sequence; `MAKERS` is the table of what is native.

Each maker takes the compiler and the expression. The constructs that are not in the table are for the full engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from . import syntax as s
from .arithmetic import arithmetic, negate
from .axes import Stepper
from .call_makers import call, focused, truth, type_expr
from .clause_makers import flwor, quantified, switch, try_catch, typeswitch
from .compare import compare
from .errors import FilterError
from .evaluate import MAX_RANGE, Compiler
from .frames import Frame
from .lenient import Closure
from .names import shown
from .properties import is_boolean, uses_position
from .tree import Node, in_order
from .values import Untyped, cast, string_of

Onwards = Callable[[Frame, list[Any]], list[Any]]


def _literal(_: Compiler, expr: s.Literal) -> Closure:
    value = [expr.value]
    return lambda frame: value


def _param(_: Compiler, expr: s.Param) -> Closure:
    slot = expr.slot
    return lambda frame: [frame.params[slot]]


def _sequence(compiler: Compiler, expr: s.Sequence) -> Closure:
    items = [compiler.sequence(one) for one in expr.items]
    return lambda frame: [found for one in items for found in one(frame)]


def _variable(_: Compiler, expr: s.VarRef) -> Closure:
    name = expr.name

    def look(frame: Frame) -> list[Any]:
        try:
            return frame.vars[name]
        except KeyError:  # a variable of the prolog whose value needs itself: all others are bound before anybody looks
            raise FilterError("XQDY0054", f"${shown(name)}") from None

    return look


def _context_item(_: Compiler, expr: s.ContextItem) -> Closure:
    return lambda frame: [focused(frame).item]


def _doc(_: Compiler, expr: s.Doc) -> Closure:
    return lambda frame: [frame.event.tree.document]


def _node_of(frame: Frame) -> Node:
    item = frame.item
    if type(item) is not Node:
        focused(frame)
        raise FilterError("XPTY0020")
    return item


def _root(_: Compiler, expr: s.Root) -> Closure:
    return lambda frame: [_node_of(frame).tree.document]


# --- paths ---------------------------------------------------------------------------------------------------------------------------


def _step(compiler: Compiler, expr: s.Step) -> Closure:
    step = Stepper(expr.axis, expr.test)
    if not expr.predicates:
        return lambda frame: _forward(step, step(_node_of(frame)))
    choose = compiler.filtered(expr.predicates)
    return lambda frame: _forward(step, choose(frame, step(_node_of(frame))))


def _forward(step: Stepper, nodes: list[Node]) -> list[Node]:
    return nodes[::-1] if step.reverse else nodes


def flat(expr: s.Expr) -> bool:
    """Whether no node of the result can contain another: then a child step keeps document order."""
    match expr:
        case s.Doc() | s.Root() | s.ContextItem():
            return True
        case s.Step(axis=axis):
            return axis in ("child", "attribute", "self")
        case s.Slash(left=left, right=s.Step(axis=axis)):
            return axis in ("child", "attribute", "self") and flat(left)
        case s.Postfix(base=base):
            return flat(base)
        case _:
            return False


def ordered(expr: s.Expr) -> bool:
    """Whether the nodes of the result stand in document order, each once; those of a variable, a list or a call may not."""
    if isinstance(expr, s.Postfix):
        return ordered(expr.base)
    return isinstance(expr, (s.Doc, s.Root, s.ContextItem, s.Step, s.Slash, s.Union, s.SetOp))


def _slash(compiler: Compiler, expr: s.Slash) -> Closure:
    left = compiler.sequence(expr.left)
    if not isinstance(expr.right, s.Step):
        return _mapped(left, compiler.sequence(expr.right))
    onwards = stepped(compiler, expr.left, expr.right)
    return lambda frame: onwards(frame, left(frame))


def stepped(compiler: Compiler, left: s.Expr, expr: s.Step) -> Onwards:
    """One step from the nodes that `left` has given."""
    step = Stepper(expr.axis, expr.test)
    predicates = expr.predicates
    if expr.axis in ("descendant", "descendant-or-self") and all(is_boolean(one) and not uses_position(one) for one in predicates):
        return _descend(compiler, step, predicates, expr.axis == "descendant-or-self", ordered(left))
    choose = compiler.filtered(predicates) if predicates else None
    sorted_already = flat(left) and expr.axis in ("child", "attribute", "self")

    def walk(frame: Frame, nodes: list[Any]) -> list[Any]:
        found: list[Node] = []
        for node in nodes:
            if type(node) is not Node:
                raise FilterError("XPTY0019")
            reached = step(node)
            found.extend(reached if choose is None else choose(frame, reached))
        if sorted_already or (len(nodes) < 2 and not step.reverse):
            return found
        return in_order(found)

    return walk


def _descend(compiler: Compiler, step: Stepper, predicates: tuple[s.Expr, ...], with_self: bool, sorted_already: bool) -> Onwards:
    """The descendants of all nodes at once, in linear time: what lies below a node already walked is not walked again."""
    choose = compiler.filtered(predicates) if predicates else None
    test = step.test

    def walk(frame: Frame, nodes: list[Any]) -> list[Any]:
        seen: set[Node] = set()
        found: list[Node] = []
        if any(type(node) is not Node for node in nodes):
            raise FilterError("XPTY0019")
        for node in nodes if sorted_already else in_order(nodes):
            if node in seen:
                continue
            if with_self and test(node):
                found.append(node)
            for below in node.descendants():
                seen.add(below)
                if test(below):
                    found.append(below)
        if with_self and len(nodes) > 1:  # an attribute stands before what is below its element
            found = in_order(found)
        return found if choose is None else choose(frame, found)

    return walk


def _mapped(left: Closure, right: Closure) -> Closure:
    """E1/E2 where E2 is no step (section 3.3.1): all nodes, in document order, or all values."""

    def walk(frame: Frame) -> list[Any]:
        nodes = left(frame)
        found: list[Any] = []
        size = len(nodes)
        for place, node in enumerate(nodes, 1):
            if type(node) is not Node:
                raise FilterError("XPTY0019")
            found.extend(right(frame.inner(node, place, size)))
        kinds = {type(item) is Node for item in found}
        if len(kinds) > 1:
            raise FilterError("XPTY0018")
        return in_order(found) if True in kinds else found

    return walk


def _postfix(compiler: Compiler, expr: s.Postfix) -> Closure:
    base = compiler.sequence(expr.base)
    choose = compiler.filtered(expr.predicates)
    return lambda frame: choose(frame, base(frame))


def _simple_map(compiler: Compiler, expr: s.SimpleMap) -> Closure:
    left, right = compiler.sequence(expr.left), compiler.sequence(expr.right)

    def walk(frame: Frame) -> list[Any]:
        items = left(frame)
        size = len(items)
        return [found for place, item in enumerate(items, 1) for found in right(frame.inner(item, place, size))]

    return walk


def _nodes(items: list[Any]) -> list[Node]:
    if any(type(item) is not Node for item in items):
        raise FilterError("XPTY0004", "Only nodes can be united, intersected and excepted")
    return items


def _union(compiler: Compiler, expr: s.Union) -> Closure:
    items = [compiler.sequence(one) for one in expr.items]
    return lambda frame: in_order(_nodes([found for one in items for found in one(frame)]))


def _set_operation(compiler: Compiler, expr: s.SetOp) -> Closure:
    left, right = compiler.sequence(expr.left), compiler.sequence(expr.right)
    wanted = expr.op == "intersect"

    def combine(frame: Frame) -> list[Any]:
        others = set(_nodes(right(frame)))
        return in_order([node for node in _nodes(left(frame)) if (node in others) is wanted])

    return combine


# --- operators -----------------------------------------------------------------------------------------------------------------------


def _boolean(compiler: Compiler, expr: s.Expr) -> Closure:
    return truth(compiler.boolean(expr))


def _compare(compiler: Compiler, expr: s.Compare) -> Closure:
    if expr.kind == "general":
        return truth(compiler.boolean(expr))
    if expr.kind == "node":
        return _node_comparison(compiler, expr)
    left, right, op = compiler.single(expr.left), compiler.single(expr.right), expr.op

    def test(frame: Frame) -> list[Any]:
        one, other = left(frame), right(frame)
        return [] if one is None or other is None else [compare(op, one, other)]

    return test


def _node_comparison(compiler: Compiler, expr: s.Compare) -> Closure:
    left, right, op = compiler.sequence(expr.left), compiler.sequence(expr.right), expr.op

    def test(frame: Frame) -> list[Any]:
        one, other = left(frame), right(frame)
        if len(one) > 1 or len(other) > 1 or any(type(item) is not Node for item in (*one, *other)):
            raise FilterError("XPTY0004", f"`{op}` compares two single nodes")
        if not one or not other:
            return []
        if op == "is":
            return [one[0] is other[0]]
        one[0].tree.number()
        return [one[0].order < other[0].order if op == "<<" else one[0].order > other[0].order]

    return test


def _arith(compiler: Compiler, expr: s.Arith) -> Closure:
    left, right, op = compiler.single(expr.left), compiler.single(expr.right), expr.op

    def compute(frame: Frame) -> list[Any]:
        one, other = left(frame), right(frame)
        return [] if one is None or other is None else [arithmetic(op, one, other)]

    return compute


def _unary(compiler: Compiler, expr: s.Unary) -> Closure:
    operand = compiler.single(expr.operand)
    minus = expr.op == "-"

    def compute(frame: Frame) -> list[Any]:
        value = operand(frame)
        if value is None:
            return []
        return [negate(value)] if minus else [negate(negate(value))]

    return compute


def _concat(compiler: Compiler, expr: s.Concat) -> Closure:
    left, right = compiler.single(expr.left), compiler.single(expr.right)

    def join(frame: Frame) -> list[Any]:
        parts = (left(frame), right(frame))
        return ["".join("" if part is None else string_of(part) for part in parts)]

    return join


def _range(compiler: Compiler, expr: s.Range) -> Closure:
    left, right = compiler.single(expr.left), compiler.single(expr.right)

    def count(frame: Frame) -> list[Any]:
        ends = [cast(end, "integer") if type(end) is Untyped else end for end in (left(frame), right(frame))]
        if None in ends:
            return []
        if any(type(end) is not int for end in ends):
            raise FilterError("XPTY0004", "`to` stands between integers")
        if ends[1] - ends[0] >= MAX_RANGE:
            raise FilterError("CLXQ0004", f"A range has more than {MAX_RANGE} integers")
        return list(range(ends[0], ends[1] + 1))

    return count


def _if(compiler: Compiler, expr: s.If) -> Closure:
    condition = compiler.boolean(expr.condition)
    then, otherwise = compiler.sequence(expr.then), compiler.sequence(expr.otherwise)
    return lambda frame: then(frame) if condition(frame) else otherwise(frame)


MAKERS: Final[dict[type, Any]] = {
    s.Literal: _literal, s.Param: _param, s.Sequence: _sequence, s.VarRef: _variable, s.ContextItem: _context_item, s.Doc: _doc,
    s.Root: _root, s.Step: _step, s.Slash: _slash, s.Postfix: _postfix, s.SimpleMap: _simple_map, s.Union: _union,
    s.SetOp: _set_operation, s.And: _boolean, s.Or: _boolean, s.Compare: _compare, s.Arith: _arith, s.Unary: _unary,
    s.Concat: _concat, s.Range: _range, s.If: _if, s.TypeExpr: type_expr, s.Call: call, s.Flwor: flwor, s.Quantified: quantified,
    s.Switch: switch, s.Typeswitch: typeswitch, s.Try: try_catch,
}  # fmt: skip
