"""EventMaker: events written as calls, `e.Event(e.PhoneStatus(e.CallerId("012345")))`, as the guide's send.py does.

Without a registry any element can be made. With one, `clacks.common.checked` refuses what no schema has, at the call where it is written.
This file knows elements and values; it never knows how an event travels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from lxml import etree

from clacks.common.values import text_of

if TYPE_CHECKING:
    from clacks.common.schema import SchemaRegistry, SchemaSet

EVENTS: Final = "http://www.gonicus.de/Events"


class EventMaker:
    """Makes elements: `maker.Name(child..., attribute=value...)`, or `maker("Name", ...)` where the name is no Python identifier.

    A child is an element, a list of elements, or a Python value, which becomes its XSD text (`clacks.common.values`); a list of values
    becomes an xs:list. `None` is left out: `e.Duration(None)` is None, None as a child is nothing, an attribute that is None is not set.
    With a registry, `e.Name(None)` is an element with `xsi:nil` where the schema allows that (`nillable="true"`).

    With `registry`, a call raises ClacksError event-field for an element or attribute that no schema has, for a value that does not fit,
    and for children that do not fit together. The first call takes 0.3 s, for xmlschema to be loaded.
    """

    def __init__(self, registry: SchemaRegistry | SchemaSet | None = None, namespace: str = EVENTS) -> None:
        self._namespace = namespace
        self._checker: Any = None
        if registry is not None:
            from clacks.common.checked import Checker

            self._checker = Checker(registry, namespace)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):  # copy, pickle and the like ask for those
            raise AttributeError(name)
        return lambda *children, **attributes: self(name, *children, **attributes)

    def __call__(self, name: str, /, *children: Any, **attributes: Any) -> Any:
        """An lxml element; None where its only child is None."""
        if self._checker is not None:
            return self._checker.make(name, children, attributes)
        if len(children) == 1 and children[0] is None and not attributes:
            return None
        return build(f"{{{self._namespace}}}{name}", self._namespace, children, attributes, text_of, text_of)


def build(
    tag: str,
    namespace: str,
    children: Iterable[Any],
    attributes: dict[str, Any],
    text_of_value: Callable[[Any], str],
    text_of_attribute: Callable[[Any], str],
) -> etree._Element:
    """An element of the children and attributes of a call. `namespace` becomes the default one."""
    element = etree.Element(tag, nsmap={None: namespace})  # type: ignore[dict-item]  # the stubs know no default namespace
    for key, value in attributes.items():
        if value is not None:
            element.set(key, text_of_attribute(value))
    for child in flattened(children):
        if isinstance(child, etree._Element):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + text_of_value(child)
        else:
            element.text = (element.text or "") + text_of_value(child)
    return element


def flattened(children: Iterable[Any]) -> Iterator[Any]:
    """Children without None, and with the elements of lists in their lists' place."""
    for child in children:
        if isinstance(child, list | tuple) and any(isinstance(item, etree._Element) for item in child):
            yield from flattened(child)
        elif child is not None:
            yield child
