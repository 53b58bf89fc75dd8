"""How arguments reach a function: the function conversion rules (XPath 3.1 section 3.1.5.2) as small converters, by parameter.

A parameter is written as in the specification, in short: a type letter and an occurrence. `a` any atomic, `s` string, `n` numeric,
`i` integer, `d` double, `b` boolean, `D` date, `T` dateTime, `M` time, `U` duration, `V` dayTimeDuration, `N` node, `x` any item.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from .dates import DateTime, Duration
from .errors import FilterError
from .tree import Node
from .values import Untyped, atomize, cast, double, is_numeric, to_double, type_of

_TARGET: Final = {"s": "string", "i": "integer", "d": "double", "b": "boolean", "D": "date", "T": "dateTime", "M": "time", "U": "duration",
                  "V": "dayTimeDuration"}  # fmt: skip


def mismatch(value: Any, wanted: str) -> FilterError:
    found = f"a {value.kind} node" if isinstance(value, Node) else f"an xs:{type_of(value)}"
    return FilterError("XPTY0004", f"Expected {wanted}, found {found}")


def _string(value: Any) -> Any:
    if isinstance(value, str):
        return value if type(value) is str else str(value)
    raise mismatch(value, "an xs:string")


def _numeric(value: Any) -> Any:
    if type(value) is Untyped:
        return to_double(value)
    if is_numeric(value):
        return value
    raise mismatch(value, "a number")


def _double(value: Any) -> float:
    return double(_numeric(value))


def _is_point(kind: str, value: Any) -> bool:
    return isinstance(value, DateTime) and value.type == kind


def _exact(letter: str) -> Callable[[Any], Any]:
    target = _TARGET[letter]
    kinds: dict[str, Callable[[Any], bool]] = {
        "i": lambda value: type(value) is int, "b": lambda value: type(value) is bool,
        "U": lambda value: isinstance(value, Duration), "V": lambda value: isinstance(value, Duration) and value.type == target,
        **{one: partial(_is_point, kind) for one, kind in (("D", "date"), ("T", "dateTime"), ("M", "time"))},
    }  # fmt: skip
    fits = kinds[letter]

    def convert(value: Any) -> Any:
        if type(value) is Untyped:
            return cast(value, target)
        if not fits(value):
            raise mismatch(value, f"an xs:{target}")
        return value

    return convert


def _node(value: Any) -> Any:
    if type(value) is not Node:
        raise mismatch(value, "a node")
    return value


def _atomic(value: Any) -> Any:
    return value


ITEMS: Final[dict[str, Callable[[Any], Any]]] = {
    "a": _atomic, "s": _string, "n": _numeric, "d": _double, "N": _node, "x": _atomic, **{letter: _exact(letter) for letter in "ibDTMUV"},
}  # fmt: skip


def converter(parameter: str) -> Callable[[list[Any]], Any]:
    """`parameter` as above. With no occurrence or `?` the converter gives one value (None for nothing), with `*` or `+` a list."""
    letter, occurrence = parameter[0], parameter[1:]
    convert = ITEMS[letter]
    raw = letter in "Nx"
    if occurrence == "*":
        return (lambda items: items) if letter == "x" else lambda items: [convert(one) for one in (items if raw else atomize(items))]

    def single(items: list[Any]) -> Any:
        if not raw:
            items = atomize(items)
        if len(items) == 1:
            return convert(items[0])
        if not items and occurrence == "?":
            return None
        raise FilterError("XPTY0004", f"Expected one value, found {len(items) or 'none'}")

    return single
