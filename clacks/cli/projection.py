"""A received event as JSON, with the numbers, booleans and lists that its schema says.

An element with elements or attributes is an object, with attributes as "@name" and a text beside them as "#text"; any other is its value.
What may occur several times is always a list. Without a schema all values are strings, and a list is what occurred several times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from lxml import etree

    from ..common.components.received import ReceivedEvent

_INTEGERS: Final = frozenset({
    "integer", "long", "int", "short", "byte", "nonNegativeInteger", "positiveInteger", "nonPositiveInteger", "negativeInteger",
    "unsignedLong", "unsignedInt", "unsignedShort", "unsignedByte",
})  # fmt: skip
_SELDOM: Final = ("dropped", "attempts", "dead_reason", "dead_subscription", "undecided")  # shown where there is something to tell
_NUMBERS: Final = frozenset({"decimal", "float", "double"})


class Projection:
    """Turns events into JSON; made from the answer of the command getEvents."""

    def __init__(self, events: Sequence[Mapping[str, Any]]) -> None:
        self._fields = {event["name"]: {field["path"]: field for field in event.get("fields") or ()} for event in events}

    def of(self, event: ReceivedEvent) -> dict[str, Any]:
        """`content` is the event's own element; around it is what the bus knows."""
        content = next(child for child in event.tree.iterchildren() if isinstance(child.tag, str))
        seldom = {key: getattr(event, key) for key in _SELDOM}
        return {
            "event": event.name,
            "id": event.id,
            "user": event.user,
            "time": event.time.isoformat() if event.time else None,
            "properties": dict(event.properties),
            **{key: value for key, value in seldom.items() if value},
            "content": _value(content, "", self._fields.get(event.name, {})),
        }


def _value(element: etree._Element, path: str, fields: Mapping[str, Mapping[str, Any]]) -> Any:
    prefix = f"{path}/" if path else ""
    answer: dict[str, Any] = {}
    for name, value in element.attrib.items():
        name = f"@{_local(str(name))}"
        answer[name] = _converter(fields.get(prefix + name))(str(value))
    children = [child for child in element.iterchildren() if isinstance(child.tag, str)]
    names = [_local(str(child.tag)) for child in children]
    for name, child in zip(names, children, strict=True):
        field = fields.get(prefix + name)
        value = _value(child, prefix + name, fields)
        if names.count(name) > 1 or (field is not None and field["max"] != 1):
            answer.setdefault(name, []).append(value)
        else:
            answer[name] = value
    text = "" if children else _converter(fields.get(path))(element.text or "")
    if not answer and not any(known.startswith(prefix + "@") for known in fields if path):
        return {} if not path and text == "" else text
    if text != "":
        answer["#text"] = text
    return answer


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _converter(field: Mapping[str, Any] | None) -> Callable[[str], Any]:
    kind = field["type"] if field is not None else ""
    if kind == "boolean":
        return lambda text: text.strip() in ("true", "1")
    if kind in _INTEGERS or kind in _NUMBERS:
        return lambda text: _number(text, int if kind in _INTEGERS else float)
    return str


def _number(text: str, convert: Callable[[str], int | float]) -> Any:
    """JSON has neither NaN nor INF: they stay text."""
    try:
        number = convert(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
