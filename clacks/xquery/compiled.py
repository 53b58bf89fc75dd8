"""A compiled template: what is decided once for all filters that differ in free literals only.

It knows the normal form, the closures, the cost class and the tier; the single filter brings its literals, the event everything else.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

from . import syntax as s
from .atoms import NO
from .cost import Verdict, analyse
from .dates import parse_datetime
from .engines import Engine, full_engine
from .errors import FilterError
from .evaluate import Compiler
from .frames import Event, Frame
from .instance import describe, matches
from .lenient import Closure
from .module import Module, Variable, parse
from .names import shown
from .normal import MAX_LETS, _binds, _changed, _movable, _uses, affordable, normal, substituted
from .plans import plan
from .static import binding_order, check
from .tree import Node
from .values import RANGES, AnyURI, string_of, type_of

# Characters of a value that does not fit: enough to know it by.
MAX_SHOWN = 40

__all__ = ["Compiled", "compile_module"]


class External(NamedTuple):
    """An external variable: `default` says whether it has a value of its own."""

    name: str
    type: s.SequenceType | None
    default: bool
    external: bool = True


# The variables to be bound, each with what gives its value, and the test.
Evaluation = tuple[tuple[tuple[Variable, Any], ...], Any]


class Compiled:
    """What `compile_module` makes.

    `foreign` is the construct that is not native with its place, or None; `dear` the reason with its place why it is not provably cheap,
    or None; `characters` says that the time goes by the characters of the event. Nothing of the syntax tree is kept.
    """

    __slots__ = ("__weakref__", "_slots", "_test", "_text", "_variables", "characters", "dear", "engine", "externals", "foreign", "plan")

    def __init__(self, module: Module, body: s.Expr, evaluation: Evaluation | None, engine: Engine | None,
                 foreign: tuple[int, str] | None, cost: Verdict, slots: Mapping[int, int]) -> None:  # fmt: skip
        self.externals = [External(one.name, one.type, one.value is not None) for one in module.variables if one.external]
        self._variables: tuple[tuple[Variable, Any], ...]
        self._test: Any
        self._variables, self._test = evaluation or ((), None)
        self._text, self._slots = module.text, slots
        self.engine = engine
        self.foreign = foreign
        self.dear = cost.dear
        self.characters = cost.characters
        self.plan = plan(body, frozenset(one.name for one in module.variables if one.value is None))
        if foreign is not None or self._variables:  # a variable without a value, or with one that does not fit, fails the whole filter
            self.plan = replace(self.plan, exact=NO)

    def shed(self) -> None:
        """Forget what only an evaluation needs, for whoever does not evaluate here: for a filter of 12,000 characters 80,000 objects. An
        evaluation compiles again."""
        if self.engine is None:
            self._variables, self._test = (), None

    def matches(self, event: Event, params: tuple[Any, ...]) -> bool:
        """The effective boolean value for an event; raises FilterError."""
        if self.engine is not None:
            return self.engine.matches(event, self.supplied(event))
        if self._test is None:
            self._variables, self._test = _evaluation(*_native(parse(self._text), self._slots))
        try:
            if self._variables:
                return self._test(self.frame(event, params))  # type: ignore[no-any-return]
            # Nobody changes a frame in place, so that filters without variables share the event's but for their literals.
            frame = event.frame
            frame.params = params
            return self._test(frame)  # type: ignore[no-any-return]
        except RecursionError as error:
            raise FilterError("CLXQ0004", "The recursion is too deep") from error

    def frame(self, event: Event, params: tuple[Any, ...]) -> Frame:
        """The frame in which the filter is evaluated, its variables bound (section 4.16)."""
        frame = Frame(event, params)
        for variable, value in self._variables:
            frame.vars[variable.name] = self.value(frame, variable, value)
        return frame

    def value(self, frame: Frame, variable: Variable | External, default: Closure | None) -> list[Any]:
        """What a variable of the prolog is bound to in a frame, which has those before it; raises FilterError."""
        items = self._supplied(frame.event, variable) if variable.external else None
        if items is None:
            if default is None:
                raise FilterError("XPDY0002", f"The variable ${shown(variable.name)} has no value")
            items = default(frame)
        if variable.type is not None and not matches(items, variable.type):
            raise _misfit(variable, variable.type, items)
        return items

    def supplied(self, event: Event) -> Mapping[str, Any]:
        """The values of the external variables that the event brings; raises FilterError where one is missing or does not fit."""
        found = {}
        for variable in self.externals:
            items = self._supplied(event, variable)
            if items is not None:
                found[variable.name] = items[0]
            elif not variable.default:
                raise FilterError("XPDY0002", f"The variable ${shown(variable.name)} has no value")
        return found

    def _supplied(self, event: Event, variable: Variable | External) -> list[Any] | None:
        value = atomic(event.variables.get(variable.name))
        if value is None:
            return None
        if variable.type is not None and not _fits(value, variable.type):
            raise _misfit(variable, variable.type, [value])
        return [value]


def _misfit(variable: Variable | External, wanted: s.SequenceType, items: list[Any]) -> FilterError:
    """What a variable is and what it should be."""
    found = "nothing" if not items else f"{len(items)} values" if len(items) > 1 else "a node"
    if len(items) == 1 and type(items[0]) is not Node:
        found = f"the xs:{type_of(items[0])} '{string_of(items[0])[:MAX_SHOWN]}'"
    return FilterError("XPTY0004", f"The variable ${shown(variable.name)} is not of type {describe(wanted)}: it is {found}")


def _fits(value: Any, wanted: s.SequenceType) -> bool:
    name = wanted.item.name
    if wanted.item.kind == "atomic" and name in RANGES and type(value) is int:
        # The property arrives as a number without a width; it has every integer type that holds it.
        low, high = RANGES[name]
        return (low is None or value >= low) and (high is None or value <= high)
    return matches([value], wanted)


def atomic(value: object) -> Any:
    """A value from outside as an atomic value; None for what is none (XDM 3.1 section 2.7)."""
    kind = type(value)
    if kind is bool or kind is str or kind is float or kind is int:
        return value
    if isinstance(value, datetime.datetime):
        return parse_datetime("dateTime", value.isoformat())
    if isinstance(value, Decimal):
        return value if value.is_finite() else float(value)
    if isinstance(value, AnyURI):
        return value
    for base in (bool, int, float, str):  # numbers and strings of the AMQP layer's own classes
        if isinstance(value, base):
            return base(value)
    return None


def _with_params(expr: s.Expr, slots: Mapping[int, int]) -> s.Expr:
    """The free literals, known by where they begin, replaced by parameters."""

    def change(one: s.Expr) -> s.Expr:
        if isinstance(one, s.Literal):
            return s.Param(one.at, slots[one.at], one.type) if one.end > 0 and one.at in slots else one
        return _changed(one, change)  # type: ignore[no-any-return]

    return change(expr) if slots else expr


def _with_constants(module: Module, body: s.Expr) -> tuple[s.Expr, list[Variable]]:
    """Variables of the prolog whose value can stand anywhere are put in place, as `let`s are."""
    from .normal import from_document, inlined

    kept: list[Variable] = []
    moved: list[tuple[str, s.Expr]] = []
    used_by_functions = {one.name for function in module.functions for one in s.walk(function.body) if isinstance(one, s.VarRef)}
    for variable in module.variables:
        value = variable.value
        if value is not None:
            value = inlined(from_document(value))
            for name, other in moved:
                value = substituted(value, name, other)
        movable = not variable.external and variable.type is None and value is not None and _movable(value)
        free = variable.name not in used_by_functions and not _binds(body, variable.name) and len(module.variables) <= MAX_LETS
        if movable and free and value is not None and affordable(value, _uses(body, variable.name)):
            moved.append((variable.name, value))
            continue
        kept.append(replace(variable, value=value))
    for name, other in moved:
        body = substituted(body, name, other)
    return body, kept


def compile_module(module: Module, slots: Mapping[int, int]) -> Compiled:
    """Compiles a parsed filter; `slots` says which literals, by offset, are parameters. Raises FilterError."""
    foreign = check(module)
    if foreign is not None:
        engine = full_engine(module, foreign)
        return Compiled(module, normal(module.body), None, engine, foreign, Verdict(foreign, True), slots)
    native = module, body, kept = _native(module, slots)
    cost = analyse(module, body, [(one.name, None if one.external else one.value) for one in kept])
    return Compiled(module, body, _evaluation(*native), None, None, cost, slots)


def _native(module: Module, slots: Mapping[int, int]) -> tuple[Module, s.Expr, list[Variable]]:
    """The filter in its normal form, and the variables of its prolog that are bound when it is evaluated."""
    module = replace(module, variables=binding_order(module))
    body, kept = _with_constants(module, _with_params(module.body, slots))
    return module, normal(body), kept


def _evaluation(module: Module, body: s.Expr, kept: list[Variable]) -> Evaluation:
    compiler = Compiler({(function.name, len(function.params)): function for function in module.functions})
    variables = [(one, None if one.value is None else compiler.sequence(one.value)) for one in kept]
    return tuple((replace(one, value=None), value) for one, value in variables), compiler.boolean(body)
