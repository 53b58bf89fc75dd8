"""EventMaker: events written as calls, `e.Event(e.PhoneStatus(e.CallerId("012345")))`, as the guide's send.py does.

With a schema registry every call is checked where it is written. This file knows elements and values; it never knows how an event travels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from lxml import etree

from clacks.common.values import is_element, text_of

EVENTS: Final = "http://www.gonicus.de/Events"


class EventMaker:
    """Makes elements of the events' namespace: `maker.Name(child..., attribute=value...)`.

    A child is an element, a Python value (see `clacks.common.values`) or an iterable of elements, which are put in its place. `None` is
    left out: `e.Duration(None)` is None, and as a child None is nothing.
    """

    def __init__(self, registry: Any = None, namespace: str = EVENTS) -> None:
        self._namespace = namespace
        self._registry = registry

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *children, **attributes: self(name, *children, **attributes)

    def __call__(self, name: str, *children: Any, **attributes: Any) -> Any:
        if len(children) == 1 and children[0] is None and not attributes:
            return None
        element = etree.Element(f"{{{self._namespace}}}{name}", nsmap={None: self._namespace})  # type: ignore[dict-item]  # the stubs know no default namespace
        for key, value in attributes.items():
            if value is not None:
                element.set(key, text_of(value))
        for child in _flattened(children):
            if is_element(child):
                element.append(child)
            elif len(element):
                element[-1].tail = (element[-1].tail or "") + text_of(child)
            else:
                element.text = (element.text or "") + text_of(child)
        return element


def _flattened(children: Iterable[Any]) -> Iterable[Any]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, list | tuple) and any(is_element(item) for item in child):
            yield from _flattened(child)
        else:
            yield child
