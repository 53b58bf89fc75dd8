"""The evaluator: a tree becomes closures, once; the closures answer for an event.

`Compiler.sequence(expr)` gives a function from a `Frame` to the list of items, `Compiler.boolean(expr)` one to the effective boolean value
without building lists. Filters that reach this file have been checked by `static.py`; what they cost is not known here. Where an
operand fails, another operand may still decide (XPath 3.1 section 2.3.4): `and`, `or`, quantifiers and comparisons answer when they can.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

from . import syntax as s
from .compare import compare, general, general_pair
from .errors import FilterError
from .frames import Frame
from .functions import FUNCTIONS
from .lenient import Closure, Lenient, LenientCompiler, Test
from .names import FN, split
from .properties import BOOLEAN_CALLS, SHARED, absolute, is_boolean, takes_focus
from .signatures import converter
from .tree import Node
from .values import atomize, effective_boolean, is_numeric

# A range or a recursion beyond these is refused when it is evaluated (CLXQ0004). Filters with ranges run in the sandbox; a million
# integers take about 40 MB there. 90 calls of a function of average size stay below Python's own limit of 1,000 frames.
MAX_RANGE: Final = 1_000_000
MAX_CALLS: Final = 90


class Key:
    """The identity of a shared sub-expression."""

    __slots__ = ("__weakref__",)


_shared: WeakValueDictionary[tuple[type, s.Expr], Key] = WeakValueDictionary()


def shared_key(kind: type, expr: s.Expr) -> Key:
    """The same key for equal expressions, as long as somebody keeps it."""
    found = _shared.get((kind, expr))
    if found is None:
        found = _shared[(kind, expr)] = Key()
    return found


class Compiler(LenientCompiler):
    """Trees to closures. `functions` are those the prolog declares."""

    def __init__(self, functions: Mapping[tuple[str, int], Any] | None = None) -> None:
        self.functions = functions or {}
        self.declared: dict[tuple[str, int], Any] = {}
        self.keys: list[Key] = []

    # --- sequences -----------------------------------------------------------------------------------------------------------------

    def sequence(self, expr: s.Expr) -> Closure:
        """The closure that gives the items of `expr`."""
        made = self._make(expr)
        if isinstance(expr, SHARED) and absolute(expr):
            return self.once(list, expr, made)
        return made

    def _make(self, expr: s.Expr) -> Closure:
        from .constructs import MAKERS

        made: Closure = MAKERS[type(expr)](self, expr)
        return made

    def once(self, kind: type, expr: s.Expr, made: Callable[[Frame], Any]) -> Callable[[Frame], Any]:
        """`made`, evaluated at most once per event whichever filter asks; a failure is kept as well."""
        key = shared_key(kind, expr)

        def ask(frame: Frame) -> Any:
            cache = frame.event.cache
            if key in cache:
                found = cache[key]
            else:
                try:
                    found = made(frame)
                except FilterError as error:
                    found = error
                cache[key] = found
            if type(found) is FilterError:
                raise found.with_traceback(None)  # it may have been raised for other filters before
            return found

        return ask

    def atoms(self, expr: s.Expr) -> Closure:
        """The atomized items (section 2.4.2)."""
        if isinstance(expr, s.Literal):
            value = [expr.value]
            return lambda _: value
        if isinstance(expr, s.Param):
            slot = expr.slot
            return lambda frame: [frame.params[slot]]
        items = self.sequence(expr)
        if absolute(expr):
            return self.once(set, expr, lambda frame: atomize(items(frame)))
        return lambda frame: atomize(items(frame))

    def single(self, expr: s.Expr) -> Callable[[Frame], Any]:
        """One atomic value, None for nothing; XPTY0004 for several."""
        atoms = self.atoms(expr)

        def one(frame: Frame) -> Any:
            found = atoms(frame)
            if len(found) > 1:
                raise FilterError("XPTY0004", f"Expected one value, found {len(found)}")
            return found[0] if found else None

        return one

    # --- booleans ------------------------------------------------------------------------------------------------------------------

    def boolean(self, expr: s.Expr) -> Test:
        """The closure that gives the effective boolean value of `expr`."""
        if isinstance(expr, (s.Call, s.Compare, s.And, s.Or)) and absolute(expr):
            return self.once(bool, expr, self._boolean(expr))
        return self._boolean(expr)

    def _boolean(self, expr: s.Expr) -> Test:
        match expr:
            case s.And():
                return self._decided(expr.items, False)
            case s.Or():
                return self._decided(expr.items, True)
            case s.Compare(kind="general"):
                return self._general(expr)
            case s.Compare(kind="value"):
                return self._value(expr)
            case s.Call(name=name) if len(expr.args) == 1 and name in _TESTS:
                assert expr.args[0] is not None
                return getattr(self, _TESTS[name])(expr.args[0])  # type: ignore[no-any-return]
            case s.Call(name=name, args=(s.Expr() as text, s.Param() as part)) if name in _PARTS and absolute(text):
                return self._part(text, part.slot, _PARTS[name])
            case s.Call(name=name) if split(name) in BOOLEAN_CALLS and FUNCTIONS[name].call is not None:
                call = self.call(expr)
                return lambda frame: bool(call(frame))
            case s.Quantified():
                return self._quantified(expr)
            case s.Slash() | s.Step() | s.Postfix() | s.Union():
                return self._some(expr)
            case s.Flwor():
                return self._first(expr)
            case s.If():
                condition, then, otherwise = (self.boolean(one) for one in (expr.condition, expr.then, expr.otherwise))
                return lambda frame: then(frame) if condition(frame) else otherwise(frame)
            case _:
                items = self.sequence(expr)
                return lambda frame: effective_boolean(items(frame))

    def _decided(self, items: tuple[s.Expr, ...], decisive: bool) -> Test:
        """`or` (decisive True) and `and` (False): the first decisive operand answers, even after another has failed."""
        tests = [self.boolean(one) for one in items]

        def decide(frame: Frame) -> bool:
            failure = None
            for test in tests:
                try:
                    if test(frame) is decisive:
                        return decisive
                except FilterError as error:
                    failure = failure or error
            if failure is not None:
                raise failure
            return not decisive

        return decide

    def _first(self, expr: s.Flwor) -> Test:
        """The effective boolean value of a FLWOR, which is decided by its first item if that is a node."""
        from .clause_makers import results

        found = results(self, expr)

        def test(frame: Frame) -> bool:
            items: list[Any] = []
            for some in found(frame):
                items.extend(some)
                if items and (type(items[0]) is Node or len(items) > 1):
                    break
            return effective_boolean(items)

        return test

    def onwards(self, left: s.Expr, step: s.Step) -> Lenient:
        """A step without predicates from the nodes that a path gives in spite of failures."""
        from .constructs import stepped

        base, walk_on = self.lenient(left), stepped(self, left, step)

        def walk(frame: Frame) -> tuple[list[Any], FilterError | None]:
            items, failure = base(frame)
            return walk_on(frame, items), failure

        return walk

    def _not(self, expr: s.Expr) -> Test:
        test = self.boolean(expr)
        return lambda frame: not test(frame)

    def _part(self, text: s.Expr, slot: int, compare_parts: Callable[[str, str], bool]) -> Test:
        """contains() and its like with a shared text: one look-up and one search for each filter."""
        items, convert = self.sequence(text), converter("s?")
        whole = self.once(str, text, lambda frame: convert(items(frame)) or "")
        return lambda frame: compare_parts(whole(frame), frame.params[slot])

    def _general(self, expr: s.Compare) -> Test:
        left, right, op = self._lenient_atoms(expr.left), self._lenient_atoms(expr.right), expr.op
        if isinstance(expr.right, s.Param):
            return self._with_param(left, op, expr.right)

        def test(frame: Frame) -> bool:
            (one, failure), (other, fails) = left(frame), right(frame)
            if general(op, one, other):
                return True
            if failure is not None or fails is not None:
                raise failure or fails  # type: ignore[misc]
            return False

        return test

    def _with_param(self, left: Lenient, op: str, param: s.Param) -> Test:
        """A comparison with a literal of the one filter: what most filters are."""
        slot = param.slot
        string = op == "=" and param.type == "string"

        def test(frame: Frame) -> bool:
            found, failure = left(frame)
            wanted = frame.params[slot]
            if string and all(isinstance(one, str) for one in found):
                holds = wanted in found
            else:
                holds = general_pair(op, found[0], wanted) if len(found) == 1 else general(op, found, [wanted])
            if failure is not None and not holds:
                raise failure
            return holds

        return test

    def _value(self, expr: s.Compare) -> Test:
        left, right, op = self.single(expr.left), self.single(expr.right), expr.op

        def test(frame: Frame) -> bool:
            one = left(frame)
            if one is None:
                return False
            other = right(frame)
            return other is not None and compare(op, one, other)

        return test

    def _quantified(self, expr: s.Quantified) -> Test:
        sources = [(one.name, self.lenient(one.source), self.matcher(one.type)) for one in expr.bindings]
        condition = self.boolean(expr.condition)
        decisive = not expr.every

        def search(frame: Frame, depth: int) -> bool:
            if depth == len(sources):
                return condition(frame) is decisive
            name, source, check = sources[depth]
            items, failure = source(frame)
            for item in items:
                try:
                    check([item])
                    if search(frame.bound(name, [item]), depth + 1):
                        return True
                except FilterError as error:
                    failure = failure or error
            if failure is not None:
                raise failure
            return False

        return lambda frame: search(frame, 0) is decisive

    # --- what the constructs share -------------------------------------------------------------------------------------------------

    def matcher(self, wanted: s.SequenceType | None) -> Callable[[list[Any]], None]:
        """A check that raises XPTY0004 where items do not match a declared type."""
        from .instance import describe, matches

        if wanted is None:
            return lambda items: None

        def check(items: list[Any]) -> None:
            if not matches(items, wanted):
                raise FilterError("XPTY0004", f"The value is not of type {describe(wanted)}")

        return check

    def call(self, expr: s.Call) -> Callable[[Frame], Any]:
        """A call of a function of the table; the closure gives its bare result."""
        entry = FUNCTIONS[expr.name]
        args = [one for one in expr.args if one is not None]
        if takes_focus(expr):
            whole = split(expr.name)[1] in _OF_THE_STRING
            args.append(s.Call(expr.at, f"{{{FN}}}string", ()) if whole else s.ContextItem(expr.at))
        params = entry.params if entry.params or not args else ()
        params = params[:1] * len(args) if split(expr.name) == (FN, "concat") else params[: len(args)]
        converters = [(self.sequence(arg), converter(param)) for arg, param in zip(args, params, strict=True)]
        function = entry.call
        if len(converters) == 1:
            ((source, convert),) = converters
            return lambda frame: function(convert(source(frame)))
        if len(converters) == 2:
            (first, one), (second, other) = converters
            return lambda frame: function(one(first(frame)), other(second(frame)))
        return lambda frame: function(*[convert(source(frame)) for source, convert in converters])

    def filtered(self, predicates: tuple[s.Expr, ...]) -> Callable[[Frame, list[Any]], list[Any]]:
        """Predicates applied to a sequence, one after the other (section 3.3.3)."""
        made = [self._predicate(one) for one in predicates]
        if len(made) == 1:
            return made[0]

        def apply(frame: Frame, items: list[Any]) -> list[Any]:
            for one in made:
                items = one(frame, items)
            return items

        return apply

    def _predicate(self, expr: s.Expr) -> Callable[[Frame, list[Any]], list[Any]]:
        if isinstance(expr, s.Literal) and expr.type == "integer":
            place = int(expr.value)
            return lambda _, items: items[place - 1 : place] if place > 0 else []
        if is_boolean(expr):
            test = self.boolean(expr)

            def choose(frame: Frame, items: list[Any]) -> list[Any]:
                size = len(items)
                return [item for place, item in enumerate(items, 1) if test(frame.inner(item, place, size))]

            return choose
        value = self.sequence(expr)

        def select(frame: Frame, items: list[Any]) -> list[Any]:
            size = len(items)
            found = []
            for place, item in enumerate(items, 1):
                result = value(frame.inner(item, place, size))
                if len(result) == 1 and is_numeric(result[0]):
                    if result[0] == place:
                        found.append(item)
                elif effective_boolean(result):
                    found.append(item)
            return found

        return select


# Without an argument these look at string(.), which every item has (Functions and Operators 3.1 sections 5.4.4 and 5.4.5).
_OF_THE_STRING: Final = frozenset(("string-length", "normalize-space"))

_PARTS: Final[dict[str, Callable[[str, str], bool]]] = {
    f"{{{FN}}}contains": operator.contains, f"{{{FN}}}starts-with": str.startswith, f"{{{FN}}}ends-with": str.endswith,
}  # fmt: skip

_TESTS: Final = {f"{{{FN}}}exists": "_exists", f"{{{FN}}}empty": "_empty", f"{{{FN}}}not": "_not", f"{{{FN}}}boolean": "boolean"}
