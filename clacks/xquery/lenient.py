"""Answers in spite of failures (XPath 3.1 section 2.3.4): a path is followed as far as its predicates do not fail.

Whoever needs only one item, as the effective boolean value and a general comparison do, may ignore a failure next to it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from . import syntax as s
from .errors import FilterError
from .frames import Frame
from .properties import absolute, plain
from .tree import Node, in_order
from .values import atomize, effective_boolean

Closure = Callable[[Frame], list[Any]]
Test = Callable[[Frame], bool]
Lenient = Callable[[Frame], tuple[list[Any], FilterError | None]]


class LenientCompiler:
    """The part of the compiler that knows when a failure may be ignored."""

    @abstractmethod
    def sequence(self, expr: s.Expr) -> Closure: ...

    @abstractmethod
    def boolean(self, expr: s.Expr) -> Test: ...

    @abstractmethod
    def atoms(self, expr: s.Expr) -> Closure: ...

    @abstractmethod
    def onwards(self, left: s.Expr, step: s.Step) -> Lenient: ...

    @abstractmethod
    def once(self, kind: type, expr: s.Expr, made: Callable[[Frame], Any]) -> Callable[[Frame], Any]: ...

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

    # --- paths ----------------------------------------------------------------------------------------------

    def lenient(self, expr: s.Expr) -> Lenient:
        """The items of a path as far as its predicates do not fail, and the first failure: whoever needs only one item may ignore it."""
        match expr:
            case s.Slash(right=s.Step(predicates=predicates) as step) if plain(predicates):
                return self._kept(expr, s.Slash(expr.at, expr.left, replace(step, predicates=())), predicates)
            case s.Step(predicates=predicates) if plain(predicates):
                return self._kept(expr, replace(expr, predicates=()), predicates)
            case s.Postfix(predicates=predicates) if plain(predicates):
                return self._kept(expr, expr.base, predicates)
            case s.Slash(left=left, right=s.Step(predicates=()) as step):
                return self.onwards(left, step)
            case s.Union():
                return self._united(expr)
        items = self.sequence(expr)
        return lambda frame: (items(frame), None)

    def _kept(self, expr: s.Expr, bare: s.Expr, predicates: tuple[s.Expr, ...]) -> Lenient:
        if absolute(expr):
            return self.once(tuple, expr, self._tested(bare, predicates))
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

    def _lenient_atoms(self, expr: s.Expr) -> Lenient:
        if not isinstance(expr, (s.Slash, s.Step, s.Postfix, s.Union)):
            atoms = self.atoms(expr)
            return lambda frame: (atoms(frame), None)
        items = self.lenient(expr)

        def both(frame: Frame) -> tuple[list[Any], FilterError | None]:
            found, failure = items(frame)
            return atomize(found), failure

        return self.once(frozenset, expr, both) if absolute(expr) else both
