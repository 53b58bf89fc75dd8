"""What the schema-aware EventMaker refuses: elements no event has, values that do not fit, children that do not fit together.

At a call like `e.Status("busy")` nobody knows yet which event it is for, so a call is right if it is right for one of the elements of that
name. The whole is judged when `e.Event(...)` closes it, by the same door as an event that comes over the network.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from lxml import etree

from clacks.common.errors import ClacksError
from clacks.common.explain import problems_of
from clacks.common.fields import expected_of, value_type
from clacks.common.maker import EVENTS, build, flattened
from clacks.common.schemaset import SchemaSet
from clacks.common.values import text_of
from clacks.common.xml import shortened
from clacks.common.xsd import Broken

if TYPE_CHECKING:
    from clacks.common.schema import SchemaRegistry

_NIL = "{http://www.w3.org/2001/XMLSchema-instance}nil"


class Checker:
    """Makes and checks elements of `namespace` after the set in force of a registry."""

    def __init__(self, registry: SchemaRegistry | SchemaSet, namespace: str) -> None:
        self._registry = registry
        self._namespace = namespace
        self._set: SchemaSet | None = None
        self._declared: dict[str, list[Any]] = {}

    def make(self, name: str, children: tuple[Any, ...], attributes: dict[str, Any]) -> etree._Element | None:
        """Raises ClacksError event-field; at `<Event>` also those of `SchemaSet.judge`."""
        schemas = self._schemas()
        if name == "Event":
            event = build(f"{{{EVENTS}}}Event", EVENTS, children, attributes, text_of, text_of)
            schemas.judge(event, etree.tostring(event))
            return event
        declarations = self._candidates(name)
        if len(children) == 1 and children[0] is None and not attributes:
            if not all(one.nillable for one in declarations):
                return None
            return build(declarations[0].name, self._namespace, (), {_NIL: True}, text_of, text_of)
        for key in attributes:
            if not any(key in one.attributes or None in one.attributes for one in declarations):
                known = list(dict.fromkeys(str(attribute) for one in declarations for attribute in one.attributes))
                raise _error(f"{name}/@{key}", f"there is no attribute {key}", _one_of(known))
        if any(isinstance(child, list | tuple) for child in flattened(children)) and not any(_is_list(one) for one in declarations):
            raise _error(name, "a list cannot be one element", f"Make one of each: [e.{name}(item) for item in items]")
        return self._fitting(name, declarations, children, attributes)

    def _fitting(self, name: str, declarations: list[Any], children: tuple[Any, ...], attributes: dict[str, Any]) -> etree._Element:
        """The element, as the first declaration that it fits wants it."""
        fewest: tuple[int, Any, Any] | None = None
        for declaration in declarations:
            element = build(
                declaration.name, self._namespace, children, {}, _form(value_type(declaration.type)), text_of,
            )  # fmt: skip
            for key, value in attributes.items():
                attribute = declaration.attributes.get(key)
                if value is not None:
                    element.set(key, _form(attribute.type if attribute is not None else None)(value))
            problems = problems_of(declaration, element, 3)
            if not problems:
                return element
            if fewest is None or len(problems) < fewest[0]:
                fewest = len(problems), problems, declaration
        assert fewest is not None
        problem = fewest[1][0]
        kinds = dict.fromkeys(expected_of(kind) for kind in (value_type(one.type) for one in declarations) if kind is not None)
        expected = " or ".join(filter(None, kinds)) if problem.path == f"/{name}" and kinds and not len(element) else problem.expected
        raise _error(problem.path.removeprefix("/"), problem.reason, f"Expected {expected}" if expected else "")

    def _candidates(self, name: str) -> list[Any]:
        found = self._declared.get(name, [])
        own = [one for one in found if one.name == f"{{{self._namespace}}}{name}"] or [one for one in found if one.name == name]
        if own:
            return own
        close = difflib.get_close_matches(name, self._declared, 1)
        raise _error(name, "no event has an element of this name", f"Did you mean {close[0]}?" if close else "`clacks schemas` lists them")

    def _schemas(self) -> SchemaSet:
        schemas = self._registry if isinstance(self._registry, SchemaSet) else self._registry.current
        if schemas is not self._set:
            self._declared = {}
            for schema in schemas.values():
                try:
                    element = schema.element
                except Broken:
                    continue  # libxml2 takes it, xmlschema does not: what is in it cannot be known
                for declared in _all(element, set()):
                    self._declared.setdefault(declared.local_name, []).append(declared)
            self._set = schemas
        return schemas


def _all(element: Any, seen: set[Any]) -> Iterator[Any]:
    """The declaration of an element and of all elements inside it."""
    yield element
    if element.type in seen:
        return
    seen.add(element.type)
    content = getattr(element.type, "content", None)
    for inner in content.iter_elements() if content is not None and hasattr(content, "iter_elements") else ():
        if inner.local_name:
            yield from _all(inner.ref if inner.ref is not None else inner, seen)


def _form(type_: Any) -> Callable[[Any], str]:
    """How a value is written for a type, where that is not the same for all types."""
    kind = type_
    while kind is not None and kind.local_name not in ("decimal", "hexBinary"):
        kind = getattr(kind, "base_type", None)
    if kind is None:
        return text_of
    if kind.local_name == "hexBinary":
        return lambda value: value.hex() if isinstance(value, bytes | bytearray) else text_of(value)
    return lambda value: format(Decimal(repr(value)), "f") if isinstance(value, float) else text_of(value)


def _is_list(declaration: Any) -> bool:
    type_ = value_type(declaration.type)
    return type_ is not None and bool(type_.is_list() or (type_.is_union() and any(one.is_list() for one in type_.member_types)))


def _one_of(names: list[str]) -> str:
    return f"There are: {', '.join(names)}" if names else "It has no attributes"


def _error(path: str, reason: str, expected: str) -> ClacksError:
    expected = shortened(expected or "`clacks schemas` shows what it may be", 300)
    return ClacksError("event-field", path=path, reason=reason, expected=expected + ("" if expected.endswith("?") else "."))
