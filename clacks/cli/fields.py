"""FIELD=VALUE arguments as an event: `NetworkInformation/NetworkDevice/Name=eth0`, `Value/@type=gauge`, `PuppetLog[2]/Level=err`.

Elements come in the order of the arguments, since most schemas prescribe one. A path continues in the last element of each name on the
way; its last step always makes a new element, so `User=a User=b` are two. `NAME[2]` says which one is meant, counted from 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from lxml import etree

_NAME: Final = re.compile(r"[^\W\d][\w.-]*")
_STEP: Final = re.compile(rf"(?P<name>{_NAME.pattern})(?:\[(?P<number>[1-9]\d{{0,5}})\])?")


def build_event(name: str, fields: Sequence[str]) -> etree._Element:
    """`<Event>` around the event `name` with these fields. Raises click.UsageError for an argument that cannot be one."""
    from ..common.event import EventMaker

    if not _NAME.fullmatch(name):
        raise click.UsageError(f"{name!r} cannot be an event's name. `clacks schemas` lists the events.")
    builder = _Builder(EventMaker(), name)
    for field in fields:
        builder.add(field)
    event: etree._Element = builder.make.Event(builder.element)
    return event


class _Builder:
    def __init__(self, make: Any, name: str) -> None:
        self.make = make
        self.element = make(name)
        self._filled: set[etree._Element] = set()  # elements that an argument has given a text, perhaps an empty one

    def add(self, field: str) -> None:
        path, equals, value = field.partition("=")
        if not equals:
            raise _wrong(field, "it has no =. A field is FIELD=VALUE, as Status=busy.")
        *way, last = path.split("/")
        element = self.element
        for step in way:
            element = self._child(field, element, step, leaf=False)
        try:
            if last.startswith("@"):
                self._set(field, element, last[1:], value)
            else:
                element = self._child(field, element, last, leaf=True)
                element.text = value or None
                self._filled.add(element)
        except ValueError as error:  # lxml's
            raise _wrong(field, "its value has a character that XML does not allow. Leave control characters out.") from error

    def _set(self, field: str, element: etree._Element, name: str, value: str) -> None:
        if not _NAME.fullmatch(name):
            raise _wrong(field, f"{name!r} is not an attribute's name.")
        if name in element.attrib:
            raise _wrong(field, "it has a value already. For another element say which one, as Value[2]/@name.")
        element.set(name, value)

    def _child(self, field: str, parent: etree._Element, step: str, *, leaf: bool) -> etree._Element:
        match = _STEP.fullmatch(step)
        if match is None:
            raise _wrong(field, f"{step!r} is not an element's name. Nested fields have / between them, attributes an @ in front.")
        name, number = match["name"], int(match["number"] or 0)
        child: etree._Element = self.make(name)
        same = [element for element in parent if element.tag == child.tag]
        found = same[number - 1] if 0 < number <= len(same) else same[-1] if same and not number else None
        taken = found is not None and leaf and (found in self._filled or len(found) > 0)
        if number > len(same) + 1 or (number and taken):
            reason = "it has a value already" if taken else "one is missing before it"
            raise _wrong(field, f"{reason}. The next is {name}[{len(same) + 1}].")
        if found is not None and not taken:
            return found
        parent.append(child)
        return child


def _wrong(field: str, reason: str) -> click.UsageError:
    return click.UsageError(f"The field {field!r}: {reason}")
