"""The evaluator: a tree becomes closures, once; the closures answer for an event.

`Compiler.sequence(expr)` gives a function from a `Frame` to the list of items, `Compiler.boolean(expr)` one to the effective boolean value
without building lists. Filters that reach this file have been checked by `static.py`; what they cost is not known here. Where an
operand fails, another operand may still decide (XPath 3.1 section 2.3.4): `and`, `or`, quantifiers and comparisons answer when they can.
"""

from __future__ import annotations

import datetime
import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final
from weakref import WeakValueDictionary

from . import syntax as s
from .compare import compare, general, general_pair
from .dates import DateTime, parse_datetime
from .errors import FilterError
from .functions import FUNCTIONS
from .names import FN, XS, split
from .signatures import converter
from .tree import Node, Tree, in_order
from .values import atomize, effective_boolean, is_numeric

Closure = Callable[["Frame"], list[Any]]
Test = Callable[["Frame"], bool]
Lenient = Callable[["Frame"], tuple[list[Any], FilterError | None]]

# A range or a recursion beyond these is refused when it is evaluated (CLXQ0004). Filters with ranges run in the sandbox; a million
# integers take about 40 MB there. 90 calls of a function of average size stay below Python's own limit of 1,000 frames.
MAX_RANGE: Final = 1_000_000
MAX_CALLS: Final = 90


class Event:
    """One event while it is matched: the tree, and what has been computed about it once for all filters."""

    __slots__ = ("_frame", "_now", "_tree", "cache", "calls", "document", "variables")

    def __init__(self, document: Any, variables: Mapping[str, object] | None = None) -> None:
        self.document = document
        self.variables: Mapping[str, object] = variables or {}
        self.cache: dict[Any, Any] = {}
        self.calls = 0
        self._tree: Tree | None = None
        self._now: DateTime | None = None
        self._frame: Frame | None = None

    @property
    def tree(self) -> Tree:
        if self._tree is None:
            self._tree = Tree(self.document)
        return self._tree

    @property
    def frame(self) -> Frame:
        """The outermost frame, with the document as focus and no variables."""
        if self._frame is None:
            self._frame = Frame(self, ())
        return self._frame

    @property
    def now(self) -> DateTime:
        """current-dateTime(): the same for all filters of one event (section 15.3)."""
        if self._now is None:
            self._now = parse_datetime("dateTime", datetime.datetime.now(datetime.UTC).isoformat())
        return self._now


class Frame:
    """The dynamic context (XPath 3.1 section 2.1.2): focus, variables, and the literals of the one filter that is asked."""

    __slots__ = ("event", "globals", "item", "params", "position", "size", "vars")

    def __init__(self, event: Event, params: tuple[Any, ...]) -> None:
        self.event = event
        self.item: Any = event.tree.document
        self.position = 1
        self.size = 1
        self.vars: dict[str, list[Any]] = {}
        self.globals: dict[str, list[Any]] = self.vars  # what functions of the prolog see
        self.params = params

    def inner(self, item: Any, position: int = 1, size: int = 1) -> Frame:
        """A frame with another focus; the variables are shared, as nobody changes them in place."""
        frame = Frame.__new__(Frame)
        frame.event = self.event
        frame.item = item
        frame.position = position
        frame.size = size
        frame.vars = self.vars
        frame.globals = self.globals
        frame.params = self.params
        return frame

    def bound(self, name: str, value: list[Any]) -> Frame:
        """A frame with one more variable."""
        frame = self.inner(self.item, self.position, self.size)
        frame.vars = {**self.vars, name: value}
        return frame


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
            known = split(expr.name)[0] == XS or (bool(expr.args) and expr.name in FUNCTIONS)
            return known and all(one is not None and absolute(one) for one in expr.args)
        case _:
            return False


def fixed(expr: s.Expr) -> bool:
    """Whether an expression depends on the focus and the event only."""
    return not any(isinstance(one, (s.VarRef, s.Param, s.Flwor, s.Quantified, s.Typeswitch, s.Try)) for one in s.walk(expr))


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
            return split(name) in _BOOLEAN_CALLS
        case _:
            return False


# What is worth keeping for other filters: literals and the document are there anyway.
_SHARED: Final = (s.Slash, s.Postfix, s.Union, s.SetOp, s.SimpleMap, s.Call, s.Arith, s.Concat)

_BOOLEAN_CALLS: Final = frozenset(
    (FN, name) for name in ("not", "exists", "empty", "boolean", "contains", "starts-with", "ends-with", "matches", "true", "false",
                            "has-children", "lang", "deep-equal", "contains-token", "codepoint-equal")
)  # fmt: skip


def _plain(predicates: tuple[s.Expr, ...]) -> bool:
    """Whether predicates look at one item at a time, so that one may fail without moving the others."""
    return bool(predicates) and all(is_boolean(one) and not uses_position(one) for one in predicates)


def uses_position(expr: s.Expr) -> bool:
    """Whether position() or last() of this focus may be asked for; those of inner predicates count too, which only costs speed."""
    return any(isinstance(one, s.Call) and split(one.name) in ((FN, "position"), (FN, "last")) for one in s.walk(expr))


class Compiler:
    """Trees to closures. `functions` are those the prolog declares."""

    def __init__(self, functions: Mapping[tuple[str, int], Any] | None = None) -> None:
        self.functions = functions or {}
        self.declared: dict[tuple[str, int], Any] = {}
        self.keys: list[Key] = []

    # --- sequences -----------------------------------------------------------------------------------------------------------------

    def sequence(self, expr: s.Expr) -> Closure:
        """The closure that gives the items of `expr`."""
        made = self._make(expr)
        if isinstance(expr, _SHARED) and absolute(expr):
            return self._once(list, expr, made)
        return made

    def _make(self, expr: s.Expr) -> Closure:
        from .constructs import MAKERS

        made: Closure = MAKERS[type(expr)](self, expr)
        return made

    def _once(self, kind: type, expr: s.Expr, made: Callable[[Frame], Any]) -> Callable[[Frame], Any]:
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
                raise found
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
            return self._once(set, expr, lambda frame: atomize(items(frame)))
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
            return self._once(bool, expr, self._boolean(expr))
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
            case s.Call(name=name) if split(name) in _BOOLEAN_CALLS and FUNCTIONS[name].call is not None:
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

    def _some(self, expr: s.Expr) -> Test:
        """The effective boolean value of a path, which is answered by its first node even where it fails for another."""
        lenient = self.lenient(expr)

        def test(frame: Frame) -> bool:
            items, failure = lenient(frame)
            if failure is not None and not (items and type(items[0]) is Node):
                raise failure
            return effective_boolean(items)

        return test

    def _exists(self, expr: s.Expr) -> Test:
        lenient = self.lenient(expr)

        def test(frame: Frame) -> bool:
            items, failure = lenient(frame)
            if failure is not None and not items:
                raise failure
            return bool(items)

        return test

    def _empty(self, expr: s.Expr) -> Test:
        exists = self._exists(expr)
        return lambda frame: not exists(frame)

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

    # --- answers in spite of failures ----------------------------------------------------------------------------------------------

    def lenient(self, expr: s.Expr) -> Lenient:
        """The items of a path as far as its predicates do not fail, and the first failure: whoever needs only one item may ignore it."""
        match expr:
            case s.Slash(right=s.Step(predicates=predicates) as step) if _plain(predicates):
                return self._kept(expr, s.Slash(expr.at, expr.left, replace(step, predicates=())), predicates)
            case s.Step(predicates=predicates) if _plain(predicates):
                return self._kept(expr, replace(expr, predicates=()), predicates)
            case s.Postfix(predicates=predicates) if _plain(predicates):
                return self._kept(expr, expr.base, predicates)
            case s.Slash(left=left, right=s.Step(predicates=()) as step):
                return self._onwards(left, step)
            case s.Union():
                return self._united(expr)
        items = self.sequence(expr)
        return lambda frame: (items(frame), None)

    def _kept(self, expr: s.Expr, bare: s.Expr, predicates: tuple[s.Expr, ...]) -> Lenient:
        if absolute(expr):
            return self._once(tuple, expr, self._tested(bare, predicates))
        return self._tested(bare, predicates)

    def _tested(self, bare: s.Expr, predicates: tuple[s.Expr, ...]) -> Lenient:
        base, tests = self.lenient(bare), [self.boolean(one) for one in predicates]

        def choose(frame: Frame) -> tuple[list[Any], FilterError | None]:
            items, failure = base(frame)
            kept = []
            for item in items:
                inner = frame.inner(item)
                fails = None
                for test in tests:
                    try:
                        if not test(inner):
                            break
                    except FilterError as error:
                        fails = fails or error
                else:
                    if fails is None:
                        kept.append(item)
                    failure = failure or fails
            return kept, failure

        return choose

    def _onwards(self, left: s.Expr, step: s.Step) -> Lenient:
        from .constructs import stepped

        base, onwards = self.lenient(left), stepped(self, left, step)

        def walk(frame: Frame) -> tuple[list[Any], FilterError | None]:
            items, failure = base(frame)
            return onwards(frame, items), failure

        return walk

    def _united(self, expr: s.Union) -> Lenient:
        parts = [self.lenient(one) for one in expr.items]

        def unite(frame: Frame) -> tuple[list[Any], FilterError | None]:
            found: list[Any] = []
            failure = None
            for part in parts:
                items, fails = part(frame)
                found.extend(items)
                failure = failure or fails
            if any(type(item) is not Node for item in found):
                raise FilterError("XPTY0004", "Only nodes can be united, intersected and excepted")
            return in_order(found), failure

        return unite

    def _not(self, expr: s.Expr) -> Test:
        test = self.boolean(expr)
        return lambda frame: not test(frame)

    def _part(self, text: s.Expr, slot: int, compare_parts: Callable[[str, str], bool]) -> Test:
        """contains() and its like with a shared text: one look-up and one search for each filter."""
        items, convert = self.sequence(text), converter("s?")
        whole = self._once(str, text, lambda frame: convert(items(frame)) or "")
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

    def _lenient_atoms(self, expr: s.Expr) -> Lenient:
        if not isinstance(expr, (s.Slash, s.Step, s.Postfix, s.Union)):
            atoms = self.atoms(expr)
            return lambda frame: (atoms(frame), None)
        items = self.lenient(expr)

        def both(frame: Frame) -> tuple[list[Any], FilterError | None]:
            found, failure = items(frame)
            return atomize(found), failure

        return self._once(frozenset, expr, both) if absolute(expr) else both

    def _value(self, expr: s.Compare) -> Test:
        left, right, op = self.single(expr.left), self.single(expr.right), expr.op

        def test(frame: Frame) -> bool:
            one, other = left(frame), right(frame)
            return one is not None and other is not None and compare(op, one, other)

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
        if len(args) < len(entry.params) and len(args) == entry.least < len(entry.params) and _contextual(expr.name, len(args)):
            args.append(s.ContextItem(expr.at))
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


def _contextual(name: str, given: int) -> bool:
    from .functions import CONTEXTUAL

    uri, local = split(name)
    return uri == FN and local in CONTEXTUAL and given == (1 if local == "lang" else 0)


_PARTS: Final[dict[str, Callable[[str, str], bool]]] = {
    f"{{{FN}}}contains": operator.contains, f"{{{FN}}}starts-with": str.startswith, f"{{{FN}}}ends-with": str.endswith,
}  # fmt: skip

_TESTS: Final = {f"{{{FN}}}exists": "_exists", f"{{{FN}}}empty": "_empty", f"{{{FN}}}not": "_not", f"{{{FN}}}boolean": "boolean"}
