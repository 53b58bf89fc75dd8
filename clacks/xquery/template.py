"""Filters that differ only in literals are compiled once: a template, and the literals of each filter.

A literal is free when it is compared with something: it then changes neither what a filter means nor what it costs. All others belong to
the template: positions, ranges, regular expressions, namespaces, and the type of a number.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

from . import syntax as s
from .compiled import Compiled, compile_module
from .lexer import Token, number
from .module import Module, parse, readable
from .names import FN, split

# What certainly are literals; that they all are, and that there are no others, is checked against the parser for each skeleton.
_LITERAL: Final = re.compile(
    r"""("[^"&]*"|'[^'&]*'|(?<![\w.\-·:$@])"""
    r"(?:[0-9]{1,300}(?:\.[0-9]{0,300})?|\.[0-9]{1,300})(?:[eE][+-]?[0-9]{1,9})?(?![\w.]))"
)

# What is compiled is kept for filters to come: a thousand templates are more than programs generate, and about 20 MB.
MAX_SKELETONS: Final = 5_000
MAX_TEMPLATES: Final = 1_000
# A longer text is compiled by itself: nobody writes thousands of these, and keeping them would let one subscriber fill the memory.
LONGEST: Final = 10_000

_FREE_SECOND: Final = frozenset((FN, name) for name in ("contains", "starts-with", "ends-with"))


class _Skeleton:
    """The texts that differ in literals only. `fixed` are the literals that belong to the template; None: nothing can be shared."""

    __slots__ = ("fixed", "free")

    def __init__(self, literals: int, free: frozenset[int] | None) -> None:
        self.free = None if free is None else tuple(sorted(free))
        self.fixed = tuple(slot for slot in range(literals) if free is None or slot not in free)


_skeletons: OrderedDict[str, _Skeleton] = OrderedDict()
_templates: OrderedDict[tuple[_Skeleton, tuple[str, ...]], Compiled] = OrderedDict()


def _kind(literal: str) -> str:
    if literal[0] in "'\"":
        return "s" if len(literal) > 2 else "n"  # the empty string is part of every other, so that it changes what a filter means
    if "e" in literal or "E" in literal:
        return "e"
    return "d" if "." in literal else "i"


def value_of(literal: str) -> str | int | float | Decimal:
    """The value of a literal that `_LITERAL` found: no quotes and no references inside."""
    kind = _kind(literal)
    if kind in "sn":
        return literal[1:-1]
    return number(Token({"i": "integer", "d": "decimal", "e": "double"}[kind], literal, 0, 0))


def compiled(text: str) -> tuple[Compiled, tuple[Any, ...]]:
    """The template of a filter's text, and the values of its free literals; raises FilterError."""
    if not isinstance(text, str) or len(text) > LONGEST:
        return compile_module(parse(text), {}), ()
    text = readable(text)  # a literal of a known template is never parsed again
    parts = _LITERAL.split(text)
    literals = parts[1::2]
    parts[1::2] = [_kind(literal) for literal in literals]
    mark = "\0".join(parts)
    skeleton = _skeletons.get(mark)
    if skeleton is None:
        return _first(text, mark, literals)
    _skeletons.move_to_end(mark)
    key = (skeleton, tuple([literals[slot] for slot in skeleton.fixed]))
    found = _templates.get(key)
    if found is None:
        found = _add(key, text, parse(text))
    else:
        _templates.move_to_end(key)
    if skeleton.free is None:
        return found, ()
    return found, tuple([value_of(literals[slot]) for slot in skeleton.free])


def _first(text: str, mark: str, literals: list[str]) -> tuple[Compiled, tuple[Any, ...]]:
    module = parse(text)
    skeleton = _Skeleton(len(literals), _free(module, literals))
    found = _add((skeleton, tuple(literals[slot] for slot in skeleton.fixed)), text, module)
    if found.engine is not None and skeleton.free:  # an engine of others has the text, with the literals in it
        _templates.popitem()
        skeleton = _Skeleton(len(literals), None)
        found = _add((skeleton, tuple(literals)), text, module)
    _skeletons[mark] = skeleton
    if len(_skeletons) > MAX_SKELETONS:
        _skeletons.popitem(last=False)
    return found, tuple(value_of(literals[slot]) for slot in skeleton.free or ())


def _add(key: tuple[_Skeleton, tuple[str, ...]], text: str, module: Module) -> Compiled:
    skeleton = key[0]
    slots = {} if skeleton.free is None else dict(zip(_starts(text, skeleton.free), range(len(skeleton.free)), strict=True))
    found = compile_module(module, slots)
    _templates[key] = found
    if len(_templates) > MAX_TEMPLATES:
        _templates.popitem(last=False)
    return found


def _starts(text: str, free: tuple[int, ...]) -> list[int]:
    starts = [found.start() for found in _LITERAL.finditer(text)]
    return [starts[slot] for slot in free]


def _roots(module: Module) -> Iterator[s.Expr]:
    yield module.body
    for variable in module.variables:
        if variable.value is not None:
            yield variable.value
    for function in module.functions:
        yield function.body


def _free(module: Module, literals: list[str]) -> frozenset[int] | None:
    """The slots of the free literals; None when the parser sees other literals in the expression than the pattern does."""
    starts = {found.start(): (slot, found.end()) for slot, found in enumerate(_LITERAL.finditer(module.text))}
    free: set[int] = set()
    for root in _roots(module):
        for expr in s.walk(root):
            if isinstance(expr, s.Literal) and expr.end > 0 and starts.get(expr.at, (0, -1))[1] != expr.end:
                return None
    seen = {expr.at for root in _roots(module) for expr in s.walk(root) if isinstance(expr, s.Literal)}
    if any(start >= module.start and start not in seen for start in starts):
        return None
    for expr in s.walk(module.body):
        for literal in _comparands(expr):
            if literal.end > 0 and literal.value != "" and len(str(literal.value)) <= 200:
                free.add(starts[literal.at][0])
    return frozenset(free)


def _comparands(expr: s.Expr) -> Iterator[s.Literal]:
    """The literals that something else is compared with."""
    if isinstance(expr, s.Compare) and expr.kind != "node":
        sides = (expr.left, expr.right)
        if all(_constant(side) for side in sides):
            return
        for side in sides:
            if isinstance(side, s.Literal):
                yield side
            elif isinstance(side, s.Sequence) and expr.kind == "general" and _constant(side):
                yield from (one for one in side.items if isinstance(one, s.Literal))
    elif isinstance(expr, s.Call) and split(expr.name) in _FREE_SECOND and len(expr.args) == 2:
        whole, part = expr.args
        if isinstance(part, s.Literal) and part.type == "string" and not isinstance(whole, s.Literal):
            yield part


def _constant(expr: s.Expr) -> bool:
    return isinstance(expr, s.Literal) or (isinstance(expr, s.Sequence) and all(isinstance(one, s.Literal) for one in expr.items))
