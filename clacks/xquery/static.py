"""What can be said about a filter before any event: every name is declared, every function allowed, and whether all of it is native.

Raises FilterError where the filter is wrong; what is right but not native is returned, with its place.
"""

from __future__ import annotations

from typing import Any

from . import syntax as s
from .errors import FilterError, error_at
from .functions import FUNCTIONS, OUTSIDE, lookup
from .module import Module, Variable
from .names import ERR, FN, XS, expanded, shown, split
from .types import ATOMIC
from .values import NATIVE_TYPES

Scope = frozenset[str]
Foreign = tuple[int, str]

_CATCH: Scope = frozenset(
    expanded(ERR, name) for name in ("code", "description", "value", "module", "line-number", "column-number", "additional")
)

_FOREIGN_NODES: dict[type, str] = {
    s.NamedRef: "a function reference", s.Inline: "an inline function", s.Dynamic: "a dynamic function call", s.MapExpr: "a map",
    s.ArrayExpr: "an array", s.Lookup: "a lookup", s.Window: "a window clause",
}  # fmt: skip

# Types whose values our integers and strings do not keep apart from their base types: tests for them are for the full engine.
_TESTABLE = frozenset(
    ("anyAtomicType", "untypedAtomic", "string", "boolean", "integer", "decimal", "double", "anyURI", "dateTime", "date", "time",
     "duration", "dayTimeDuration", "yearMonthDuration", "numeric")
)  # fmt: skip


class Checker:
    """One pass over a module."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.declared = {(function.name, len(function.params)) for function in module.functions}
        self.foreign: Foreign | None = module.foreign

    def run(self) -> Foreign | None:
        """The first construct that is not native, or None; raises FilterError."""
        everything = frozenset(variable.name for variable in self.module.variables)
        for variable in self.module.variables:
            self.types(variable.at, variable.type)
            if variable.value is not None:
                self.check(variable.value, everything - {variable.name})
        for function in self.module.functions:
            for _, kind in function.params:
                self.types(function.at, kind)
            self.types(function.at, function.result)
            self.check(function.body, everything | {name for name, _ in function.params})
        self.check(self.module.body, everything)
        return self.foreign

    def error(self, at: int, code: str, detail: str) -> FilterError:
        return error_at(self.module.text, at, code, detail)

    def mark(self, at: int, what: str) -> None:
        if self.foreign is None:
            self.foreign = (at, what)

    def types(self, at: int, wanted: s.SequenceType | None) -> None:
        if wanted is None:
            return
        item = wanted.item
        if item.kind in ("function", "map", "array"):
            self.mark(at, f"the type {item.kind}()")
        elif item.kind == "atomic" and item.name not in _TESTABLE:
            self.mark(at, f"a test for xs:{item.name}")
        elif item.test is not None and item.test.kind == "namespace-node":
            self.mark(at, "namespace-node()")

    # --- expressions ---------------------------------------------------------------------------------------------------------------

    def check(self, expr: s.Expr, scope: Scope) -> None:
        match expr:
            case s.VarRef():
                self.variable(expr, scope)
            case s.Call():
                self.call(expr.at, expr.name, expr.args)
            case s.NamedRef():
                self.call(expr.at, expr.name, (None,) * expr.arity)
            case s.TypeExpr():
                self.type_expression(expr)
            case s.Step(test=s.KindTest(kind="namespace-node")):
                self.mark(expr.at, "namespace-node()")
        if type(expr) in _FOREIGN_NODES:
            self.mark(expr.at, _FOREIGN_NODES[type(expr)])
        if isinstance(expr, s.Constructor):
            self.mark(expr.at, expr.what)
        handlers: dict[type, Any] = {s.Flwor: self.flwor, s.Quantified: self.quantified, s.Typeswitch: self.typeswitch, s.Try: self.attempt,
                   s.Inline: self.inline}  # fmt: skip
        if type(expr) in handlers:
            handlers[type(expr)](expr, scope)
            return
        for child in s.children(expr):
            self.check(child, scope)

    def variable(self, expr: s.VarRef, scope: Scope) -> None:
        if expr.name not in scope:
            raise self.error(expr.at, "XPST0008", f"${shown(expr.name)}")
        if expr.name in _CATCH:
            self.mark(expr.at, f"$err:{split(expr.name)[1]}")

    def call(self, at: int, name: str, args: tuple[s.Expr | None, ...]) -> None:
        uri, local = split(name)
        arity = len(args)
        if any(one is None for one in args):
            self.mark(at, "a partial function application")
        if (name, arity) in self.declared:
            return
        if uri == FN and local in OUTSIDE:
            raise self.error(at, "CLXQ0001", f"{local}() is refused")
        if uri == XS and arity == 1 and local in ATOMIC and local not in ("anyAtomicType", "NOTATION", "numeric"):
            if local not in NATIVE_TYPES:
                self.mark(at, f"xs:{local}()")
            return
        entry = lookup(name, arity)
        if entry is None:
            known = FUNCTIONS.get(name)
            takes = f" takes {known.least}" + (f" to {known.most}" if known.most != known.least else "") + " arguments" if known else ""
            raise self.error(at, "XPST0017", f"{shown(name)}#{arity}" + (f": {shown(name)}(){takes}" if known else ""))
        if entry.call is None and local not in ("position", "last", "true", "false", "current-dateTime", "current-date", "current-time"):
            self.mark(at, f"{shown(name)}()")

    def type_expression(self, expr: s.TypeExpr) -> None:
        if expr.op in ("instance", "treat"):
            self.types(expr.at, expr.type)
        elif expr.type.item.name not in NATIVE_TYPES:
            self.mark(expr.at, f"a cast to xs:{expr.type.item.name}")

    # --- binding expressions -------------------------------------------------------------------------------------------------------

    def flwor(self, expr: s.Flwor, scope: Scope) -> None:
        bound: set[str] = set()
        for clause in expr.clauses:
            scope = self.clause(clause, scope, bound)
        self.check(expr.result, scope)

    def clause(self, clause: s.Expr, scope: Scope, bound: set[str]) -> Scope:
        names: set[str] = set()
        match clause:
            case s.For() | s.Let():
                self.types(clause.at, clause.type)
                names = {clause.name} | ({clause.counter} if isinstance(clause, s.For) and clause.counter else set())
            case s.Count():
                names = {clause.name}
            case s.Window():
                self.mark(clause.at, "a window clause")
                names = set(clause.names)
                self.check(clause.parts[0], scope)
                for part in clause.parts[1:]:
                    self.check(part, scope | names)
            case s.GroupBy():
                for name, value, kind in clause.keys:
                    self.types(clause.at, kind)
                    if value is None and name not in bound:
                        raise self.error(clause.at, "XQST0094", f"${shown(name)}")
                    names.add(name)
        if not isinstance(clause, s.Window):
            for child in s.children(clause):
                self.check(child, scope)
        bound |= names
        return scope | names

    def quantified(self, expr: s.Quantified, scope: Scope) -> None:
        for binding in expr.bindings:
            scope = self.clause(binding, scope, set())
        self.check(expr.condition, scope)

    def typeswitch(self, expr: s.Typeswitch, scope: Scope) -> None:
        self.check(expr.operand, scope)
        for kinds, name, result in expr.cases:
            for kind in kinds:
                self.types(expr.at, kind)
            self.check(result, scope | ({name} if name else set()))
        self.check(expr.default, scope | ({expr.variable} if expr.variable else set()))

    def attempt(self, expr: s.Try, scope: Scope) -> None:
        self.check(expr.body, scope)
        for _, result in expr.catches:
            self.check(result, scope | _CATCH)

    def inline(self, expr: s.Inline, scope: Scope) -> None:
        for _, kind in expr.params:
            self.types(expr.at, kind)
        self.check(expr.body, scope | {name for name, _ in expr.params})


def check(module: Module) -> Foreign | None:
    """The first construct that only the full engine knows, or None; raises FilterError for what is wrong (section 2.3.1)."""
    return Checker(module).run()


def binding_order(module: Module) -> tuple[Variable, ...]:
    """The variables of the prolog, each behind those that its value looks at, also by way of functions: they may be declared in any order
    (section 4.16). Those in a circle keep theirs, and fail when they are looked at (XQDY0054)."""
    functions = {(function.name, len(function.params)): function.body for function in module.functions}
    variables = {variable.name: variable for variable in module.variables}
    seen: set[object] = set()
    found: list[Variable] = []

    def visit(name: object, value: s.Expr | None) -> None:
        if name in seen:
            return
        seen.add(name)
        for one in () if value is None else s.walk(value):
            if isinstance(one, s.VarRef) and one.name in variables:
                visit(one.name, variables[one.name].value)
            elif isinstance(one, s.Call) and (one.name, len(one.args)) in functions:
                visit((one.name, len(one.args)), functions[one.name, len(one.args)])
        if isinstance(name, str):
            found.append(variables[name])

    for variable in module.variables:
        visit(variable.name, variable.value)
    return tuple(found)
