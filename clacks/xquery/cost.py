"""The cost class of a filter, decided when it is compiled: cheap means linear in the size of the event, with a bounded factor.

A small abstract interpretation. For each expression it bounds how many items it gives, how much text they hold, and how far its work
reaches from the focus or the loop it stands in. What cannot be proven linear is dear; nothing is ever measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from . import syntax as s
from .bounds import (
    BY_CHARACTER,
    CONSTANT,
    GROWTH,
    LOCAL,
    MAX_CONSTANT,
    MAX_FACTOR,
    MAX_LOOKED_AT,
    MAX_TEXT,
    NODE_ITEM,
    REGEX,
    SAME,
    SMALL,
    SUBTREE,
    WHOLE,
    Cost,
    Dear,
    consumed,
)
from .errors import FilterError
from .functions import FUNCTIONS
from .module import Module
from .names import FN, XS, split
from .properties import absolute, is_boolean, uses_position
from .regex import linear, sweeps


@dataclass(frozen=True, slots=True)
class _Scope:
    """What names stand for; `loop` numbers the loop whose body is looked at."""

    names: dict[str, tuple[Cost, int]]
    focus: Cost
    focus_loop: int
    loop: int


class Analysis:
    """One pass over a filter in its normal form."""

    def __init__(self, module: Module) -> None:
        self.functions = {(function.name, len(function.params)): function for function in module.functions}
        self.calls: list[tuple[str, int]] = []
        self.looked_at = 0
        self.loops = 0
        self.characters = False  # whether single characters of the event, or pieces of its texts, are handled one by one

    def cost(self, expr: s.Expr, scope: _Scope) -> Cost:
        """The bounds of an expression; raises Dear."""
        self.looked_at += 1
        if self.looked_at > MAX_LOOKED_AT:
            raise Dear(expr.at, "the filter calls its functions in too many ways")
        if scope.loop and isinstance(expr, _ONCE) and absolute(expr):
            # Computed once per event, not once per turn; but whoever looks at all of it does so in every turn.
            outside = self.cost(expr, _Scope({}, NODE_ITEM, 0, 0))
            return replace(outside, reach=WHOLE if outside.many or outside.texts else CONSTANT, work=1, works=0)
        found: Cost = _RULES.get(type(expr), Analysis._other)(self, expr, scope)
        if max(found.many, found.texts, found.works) > MAX_FACTOR or max(found.items, found.work) > MAX_CONSTANT or found.text > MAX_TEXT:
            raise Dear(expr.at, "the result or the work is a large multiple of the event")
        return found

    # --- combining -----------------------------------------------------------------------------------------------------------------

    def used(self, expr: s.Expr, scope: _Scope) -> Cost:
        """The cost of an expression whose items are all looked at."""
        return consumed(self.cost(expr, scope))

    def loop(self, at: int, over: Cost, body: Callable[[Cost, int], Cost]) -> Cost:
        """The body evaluated for each item; `body` is given the item and the number of the loop."""
        over = consumed(over)
        self.loops += 1
        item = Cost(1, 0, over.text, over.texts, 1, 0, CONSTANT, "flat" if over.shape != "other" else "other", over.strings)
        one = body(item, self.loops)
        if not over.many:
            turns = max(over.items, 1)
            return Cost(turns * one.items, turns * one.many, turns * one.text, turns * one.texts, over.work + turns * one.work,
                        over.works + turns * one.works, max(over.reach, one.reach), "other", one.strings)  # fmt: skip
        if one.reach == WHOLE:
            raise Dear(at, "a loop inside a loop over the event")
        if one.reach == SUBTREE and over.shape != "flat":
            raise Dear(at, "descendants of nodes that may contain each other")
        if one.reach == LOCAL and over.shape == "other":
            raise Dear(at, "a loop that may come back to the same nodes")
        turns = over.many
        # A text or a work that is linear for one item is linear for all of them together, because the items are disjoint or nested at
        # most as deep as the event.
        return Cost(over.items * one.items, turns * one.items + one.many, over.items * one.text, turns * one.text + one.texts,
                    over.work + over.items * one.work, over.works + turns * one.work + one.works, max(over.reach, one.reach), "other",
                    one.strings)  # fmt: skip

    def predicates(self, at: int, base: Cost, predicates: tuple[s.Expr, ...], scope: _Scope) -> Cost:
        for one in predicates:
            if isinstance(one, s.Literal) and one.type == "integer":
                base = replace(consumed(base), items=base.items if base.many else 1)
                continue
            turned = self.loop(at, base, lambda item, loop, one=one: self.used(one, _Scope(scope.names, item, loop, loop)))  # type: ignore[misc]
            base = replace(base, work=turned.work, works=turned.works, reach=turned.reach)
        return base

    def all(self, *costs: Cost) -> Cost:
        """The costs of several expressions added up, as a sequence of all their items."""
        return Cost(sum(c.items for c in costs), sum(c.many for c in costs), sum(c.text for c in costs), sum(c.texts for c in costs),
                    1 + sum(c.work for c in costs), sum(c.works for c in costs), max((c.reach for c in costs), default=CONSTANT), "other",
                    all(c.strings for c in costs))  # fmt: skip

    def small(self, *costs: Cost) -> Cost:
        """One small value computed from all the items."""
        total = self.all(*costs)
        return Cost(1, 0, 40, 0, total.work, total.works, total.reach)

    # --- rules ---------------------------------------------------------------------------------------------------------------------

    def _other(self, expr: s.Expr, scope: _Scope) -> Cost:
        return self.small(*(self.used(one, scope) for one in s.children(expr)))

    def _literal(self, expr: s.Literal, scope: _Scope) -> Cost:
        return Cost(1, 0, len(str(expr.value)), strings=expr.type == "string")

    def _param(self, expr: s.Param, scope: _Scope) -> Cost:
        return Cost(1, 0, 50, strings=expr.type == "string")

    def _doc(self, expr: s.Expr, scope: _Scope) -> Cost:
        return replace(NODE_ITEM, reach=CONSTANT if scope.loop == 0 else WHOLE)

    def _context_item(self, expr: s.Expr, scope: _Scope) -> Cost:
        return scope.focus if scope.focus_loop == scope.loop else replace(scope.focus, reach=WHOLE if scope.focus.texts else CONSTANT)

    def _variable(self, expr: s.VarRef, scope: _Scope) -> Cost:
        cost, loop = scope.names.get(expr.name, (Cost(text=1000), 0))
        kept = replace(cost, work=1, works=0)
        if loop == scope.loop:
            return kept
        return replace(kept, reach=WHOLE if cost.many or cost.texts else CONSTANT)

    def _sequence(self, expr: s.Sequence, scope: _Scope) -> Cost:
        if not expr.items:
            return Cost(0, 0, 0, strings=True)
        return self.all(*(self.cost(one, scope) for one in expr.items))

    def _step(self, expr: s.Step, scope: _Scope) -> Cost:
        return self._stepped(expr, self._context_item(expr, scope), scope)

    def _stepped(self, expr: s.Step, base: Cost, scope: _Scope) -> Cost:
        base = consumed(base)
        axis = expr.axis
        plain = isinstance(expr.test, s.NameTest) and expr.test.local is not None and expr.test.uri is not None
        if axis == "self" or (axis == "attribute" and plain):
            found = replace(base, reach=max(base.reach, LOCAL), work=base.work + base.items)
        elif axis in ("child", "attribute"):
            shape = base.shape if base.shape != "other" else "nested"
            found = replace(base, items=0, many=1, reach=max(base.reach, LOCAL), works=base.works + 1, shape=shape)
        elif axis in ("descendant", "descendant-or-self"):
            counts = any(uses_position(one) or not is_boolean(one) for one in expr.predicates)
            if counts and base.many and base.shape != "flat":
                raise Dear(expr.at, "positions among descendants of nodes that may contain each other")
            found = replace(base, items=0, many=1, reach=max(base.reach, SUBTREE), works=base.works + 1, shape="nested")
        elif axis == "parent":
            found = replace(base, reach=max(base.reach, LOCAL), work=base.work + base.items, shape="nested", texts=max(base.texts, 1))
            # the children of a parent are not the focus's own: whatever follows reaches the whole event
            found = replace(found, reach=WHOLE if scope.loop else found.reach)
        else:
            if base.many:
                raise Dear(expr.at, f"the axis {axis} from many nodes")
            found = replace(base, items=0, many=1, reach=WHOLE, works=base.works + 1, shape="nested")
        found = replace(found, strings=True, texts=max(found.texts, 1))
        return self.predicates(expr.at, found, expr.predicates, scope)

    def _slash(self, expr: s.Slash, scope: _Scope) -> Cost:
        base = self.cost(expr.left, scope)
        if isinstance(expr.right, s.Step):
            found = self._stepped(expr.right, base, scope)
            if isinstance(expr.left, s.Doc) and expr.right.axis == "child" and isinstance(expr.right.test, s.NameTest):
                return replace(found, items=1, many=0, shape="flat")  # a document has one element
            return found
        right = expr.right
        turned = self.loop(expr.at, base, lambda item, loop: self.cost(right, _Scope(scope.names, item, loop, loop)))
        return replace(turned, shape="nested")

    def _postfix(self, expr: s.Postfix, scope: _Scope) -> Cost:
        return self.predicates(expr.at, consumed(self.cost(expr.base, scope)), expr.predicates, scope)

    def _simple_map(self, expr: s.SimpleMap, scope: _Scope) -> Cost:
        base = self.cost(expr.left, scope)
        return self.loop(expr.at, base, lambda item, loop: self.cost(expr.right, _Scope(scope.names, item, loop, loop)))

    def _union(self, expr: s.Union, scope: _Scope) -> Cost:
        return replace(self.all(*(self.used(one, scope) for one in expr.items)), shape="nested", strings=True)

    def _set_operation(self, expr: s.SetOp, scope: _Scope) -> Cost:
        left = self.used(expr.left, scope)
        return replace(self.all(left, self.used(expr.right, scope)), items=left.items, many=left.many, shape="nested", strings=True)

    def _compare(self, expr: s.Compare, scope: _Scope) -> Cost:
        left, right = self.used(expr.left, scope), self.used(expr.right, scope)
        if expr.kind == "general" and left.many and right.many and not (left.strings and right.strings):
            raise Dear(expr.at, "every value compared with every other")
        found = self.small(left, right)
        # `compare.py` compares untyped values with strings or with literal numbers by sets and extremes.
        sets = (left.strings or _literals(expr.left)) and (right.strings or _literals(expr.right))
        if expr.kind == "general" and not sets:
            factor = left.many * right.items + right.many * left.items
            found = replace(found, work=found.work + left.items * right.items, works=found.works + factor)
        return found

    def _concat(self, expr: s.Concat, scope: _Scope) -> Cost:
        return replace(self.all(self.used(expr.left, scope), self.used(expr.right, scope)), items=1, many=0, strings=True)

    def _range(self, expr: s.Range, scope: _Scope) -> Cost:
        ends = (expr.left, expr.right)
        # A hundred integers are no more than a list somebody could have written.
        if all(isinstance(end, s.Literal) and end.type == "integer" for end in ends):
            size = ends[1].value - ends[0].value + 1  # type: ignore[attr-defined]
            if size <= 100:
                return Cost(max(size, 0), 0, max(size, 0) * 20)
        raise Dear(expr.at, "a range")

    def _if(self, expr: s.If, scope: _Scope) -> Cost:
        return self._either([self.used(expr.condition, scope)], [expr.then, expr.otherwise], scope)

    def _either(self, always: list[Cost], one_of: list[s.Expr], scope: _Scope) -> Cost:
        tests = self.small(*always)
        results = [self.cost(one, scope) for one in one_of]
        total = self.all(tests, *results)
        return replace(total, items=max(r.items for r in results), many=max(r.many for r in results),
                       strings=all(r.strings for r in results), text=max(r.text for r in results),
                       texts=max(r.texts for r in results))  # fmt: skip

    def _switch(self, expr: s.Switch, scope: _Scope) -> Cost:
        tests = [expr.operand, *(test for cases, _ in expr.cases for test in cases)]
        return self._either([self.used(one, scope) for one in tests], [*(result for _, result in expr.cases), expr.default], scope)

    def _typeswitch(self, expr: s.Typeswitch, scope: _Scope) -> Cost:
        operand = self.used(expr.operand, scope)
        names = {name for _, name, _ in expr.cases if name} | ({expr.variable} if expr.variable else set())
        inner = replace_names(scope, dict.fromkeys(names, (operand, scope.loop)))
        return self._either([operand], [*(result for _, _, result in expr.cases), expr.default], inner)

    def _try(self, expr: s.Try, scope: _Scope) -> Cost:
        return self.all(self.cost(expr.body, scope), *(self.cost(result, scope) for _, result in expr.catches))

    def _type_expr(self, expr: s.TypeExpr, scope: _Scope) -> Cost:
        operand = self.used(expr.operand, scope)
        if expr.op == "treat":
            return operand
        return replace(self.small(operand), text=operand.text, texts=operand.texts)

    # --- bindings ------------------------------------------------------------------------------------------------------------------

    def _flwor(self, expr: s.Flwor, scope: _Scope) -> Cost:
        return self._clauses(expr.clauses, expr.result, scope)

    def _clauses(self, clauses: tuple[s.Expr, ...], result: s.Expr, scope: _Scope) -> Cost:
        if not clauses:
            return self.cost(result, scope)
        clause, rest = clauses[0], clauses[1:]
        match clause:
            case s.For():
                return self._for(clause, scope, lambda inner: self._clauses(rest, result, inner))
            case s.Let():
                value = self.used(clause.value, scope)
                inner = self._clauses(rest, result, replace_names(scope, {clause.name: (value, scope.loop)}))
                return replace(inner, work=inner.work + value.work, works=inner.works + value.works, reach=max(inner.reach, value.reach))
            case s.Where():
                test = self.used(clause.condition, scope)
                inner = self._clauses(rest, result, scope)
                return replace(inner, work=inner.work + test.work, works=inner.works + test.works, reach=max(inner.reach, test.reach))
        raise Dear(clause.at, {s.OrderBy: "sorting", s.GroupBy: "grouping", s.Count: "counting"}.get(type(clause), "this clause"))

    def _for(self, clause: s.For, scope: _Scope, body: Callable[[_Scope], Cost]) -> Cost:
        source = self.cost(clause.source, scope)

        def turn(item: Cost, loop: int) -> Cost:
            names = {clause.name: (item, loop)}
            if clause.counter is not None:
                names[clause.counter] = (Cost(), loop)
            return body(replace(replace_names(scope, names), loop=loop))

        return self.loop(clause.at, source, turn)

    def _quantified(self, expr: s.Quantified, scope: _Scope) -> Cost:
        def nest(bindings: tuple[s.For, ...], inner: _Scope) -> Cost:
            if not bindings:
                return self.used(expr.condition, inner)
            return self._for(bindings[0], inner, lambda deeper: nest(bindings[1:], deeper))

        return self.small(nest(expr.bindings, scope))

    # --- functions -----------------------------------------------------------------------------------------------------------------

    def _call(self, expr: s.Call, scope: _Scope) -> Cost:
        uri, local = split(expr.name)
        args = [one for one in expr.args if one is not None]
        if (expr.name, len(args)) in self.functions:
            return self._declared(expr, args, scope)
        costs = [self.used(one, scope) for one in args]
        entry = FUNCTIONS.get(expr.name)
        if entry is not None and len(args) < len(entry.params) and not args:
            costs = [consumed(self._context_item(expr, scope))]
        if uri == XS:
            texts = self.all(*costs)
            return replace(self.small(*costs), text=texts.text, texts=texts.texts, strings=local == "string")
        if local in REGEX and uri == FN:
            return self._regex(expr, local, args, costs)
        if local in SMALL or uri != FN:
            found = self.small(*costs)
            return replace(found, reach=WHOLE) if local == "lang" else found  # it looks at all that is above a node
        if local in SAME:
            return replace(costs[0], work=costs[0].work + costs[0].items, works=costs[0].works + costs[0].many,
                           shape=costs[0].shape if local != "data" else "other")  # fmt: skip
        return self._texts(local, costs)

    def _texts(self, local: str, costs: list[Cost]) -> Cost:
        total = self.all(*costs)
        growth = GROWTH.get(local, 1)
        if total.texts:
            self.characters = self.characters or local in BY_CHARACTER
            if local == "normalize-unicode":  # combining marks are sorted by insertion: 40,000 of them take five seconds
                raise Dear(0, "normalizing text of the event")
        if local in ("string-to-codepoints", "distinct-values", "index-of", "insert-before"):
            return replace(total, items=total.items + total.text, many=total.many + total.texts, strings=False)
        if local in ("root", "innermost", "outermost"):
            return replace(total, reach=WHOLE, shape="nested", strings=True, texts=max(total.texts, 1))
        if local == "string-join" and len(costs) == 2:
            # the separator stands between all the items
            total = replace(total, text=total.text + costs[0].items * costs[1].text, texts=total.texts + costs[0].many * costs[1].text)
            if costs[0].many and costs[1].texts:
                raise Dear(0, "a separator as long as the event")
        return replace(total, items=1, many=0, text=total.text * growth, texts=total.texts * growth, strings=True)

    def _regex(self, expr: s.Call, local: str, args: list[s.Expr], costs: list[Cost]) -> Cost:
        # The pieces of a node's own text belong to that node, as the text does.
        pieces = replace(costs[0], items=costs[0].text + 1, many=costs[0].texts, strings=True, shape="other",
                         reach=max(costs[0].reach, LOCAL if costs[0].texts else CONSTANT))  # fmt: skip
        self.characters = self.characters or (local != "matches" and costs[0].texts > 0)
        if local == "tokenize" and len(args) == 1:
            return pieces
        place = 3 if local == "replace" else 2
        flags = args[place] if len(args) > place else s.Literal(0, "", "string")
        pattern = args[1]
        if not isinstance(pattern, s.Literal) or not isinstance(flags, s.Literal) or pattern.type != "string" or flags.type != "string":
            raise Dear(expr.at, "a regular expression that is not a literal")
        try:
            found = linear(pattern.value, flags.value)
        except FilterError:
            return Cost()  # it fails at once, whatever the event is
        if found is None:
            raise Dear(expr.at, "a regular expression without a linear-time form")
        if local == "matches":
            return self.small(*costs)
        if costs[0].texts and not sweeps(pattern.value, flags.value):
            raise Dear(expr.at, "a regular expression that may look at the rest of the text for each of its matches")
        if local == "tokenize":
            return pieces
        groups = 1 + pattern.value.count("(")
        factor = costs[2].text * groups + 1
        if costs[2].texts:
            raise Dear(expr.at, "a replacement as long as the event")
        return replace(costs[0], items=1, many=0, text=costs[0].text * factor, texts=costs[0].texts * factor, strings=True, shape="other")

    def _declared(self, expr: s.Call, args: list[s.Expr], scope: _Scope) -> Cost:
        name = (expr.name, len(args))
        if name in self.calls:
            raise Dear(expr.at, "a function that calls itself")
        function = self.functions[name]
        values = [self.used(one, scope) for one in args]
        names = {param: (value, scope.loop) for (param, _), value in zip(function.params, values, strict=True)}
        self.calls.append(name)
        result = self.cost(function.body, _Scope(names, Cost(), scope.loop, scope.loop))
        self.calls.pop()
        total = self.all(result, *values)
        return replace(result, work=total.work, works=total.works, reach=total.reach)


def _literals(expr: s.Expr) -> bool:
    return isinstance(expr, (s.Literal, s.Param)) or (isinstance(expr, s.Sequence) and all(_literals(one) for one in expr.items))


def replace_names(scope: _Scope, names: dict[str, tuple[Cost, int]]) -> _Scope:
    return _Scope({**scope.names, **names}, scope.focus, scope.focus_loop, scope.loop)


# What the evaluator keeps for the event when it does not depend on anything else.
_ONCE: Final = (s.Slash, s.Postfix, s.Union, s.SetOp, s.SimpleMap, s.Call, s.Arith, s.Concat, s.Compare, s.And, s.Or)

_RULES: Final[dict[type, Any]] = {
    s.Literal: Analysis._literal, s.Param: Analysis._param, s.Doc: Analysis._doc, s.Root: Analysis._doc,
    s.ContextItem: Analysis._context_item, s.VarRef: Analysis._variable, s.Sequence: Analysis._sequence, s.Step: Analysis._step,
    s.Slash: Analysis._slash, s.Postfix: Analysis._postfix, s.SimpleMap: Analysis._simple_map, s.Union: Analysis._union,
    s.SetOp: Analysis._set_operation, s.Compare: Analysis._compare, s.Concat: Analysis._concat, s.Range: Analysis._range,
    s.If: Analysis._if, s.Switch: Analysis._switch, s.Typeswitch: Analysis._typeswitch, s.Try: Analysis._try,
    s.TypeExpr: Analysis._type_expr, s.Flwor: Analysis._flwor, s.Quantified: Analysis._quantified, s.Call: Analysis._call,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """`dear` is the place and the reason, or None for a cheap filter; `characters`: its time goes by the characters of the event."""

    dear: tuple[int, str] | None
    characters: bool


def analyse(module: Module, body: s.Expr, variables: list[tuple[str, s.Expr | None]]) -> Verdict:
    """The cost class of a filter; `variables` are the prolog's that stayed variables, with values."""
    analysis = Analysis(module)
    scope = _Scope({}, NODE_ITEM, 0, 0)
    try:
        for name, value in variables:
            # an application property is at most as long as its message allows; the agent's limit makes it a constant
            cost = Cost(text=1000) if value is None else analysis.used(value, scope)
            scope = replace_names(scope, {name: (cost, 0)})
        analysis.used(body, scope)
    except Dear as dear:
        return Verdict((dear.at, dear.reason), True)
    except RecursionError:
        return Verdict((0, "the filter is nested too deeply to be analysed"), True)
    return Verdict(None, analysis.characters)
