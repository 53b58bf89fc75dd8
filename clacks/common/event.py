"""An event: the value that everything after validation works with, and how programs make one.

This file knows what every event has in common: `<Event>` in the namespace `EVENTS` around exactly one element, whose name is the event's.
What that element may contain is the schemas' (`clacks.common.schema`), how bytes become a document is `clacks.common.xml`'s.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from lxml import etree

from clacks.common.encodings import characters, undeclared
from clacks.common.errors import ClacksError
from clacks.common.maker import EVENTS, EventMaker
from clacks.common.xml import DEFAULT_LIMITS, Limits, parse, shortened

__all__ = ["DEFAULT_LIMITS", "EVENTS", "ROOT", "Event", "EventMaker", "Limits", "child_of", "event_name", "parse", "to_bytes", "to_text"]

ROOT: Final = f"{{{EVENTS}}}Event"

# White space of XML 1.0 (production 3); Python's own idea of it has more.
_SPACE: Final = " \t\r\n"


class Event(NamedTuple):
    """An event that is known and valid. Nothing changes it: filters, queues and observers share it."""

    name: str
    """Local name of the element inside `<Event>`; addresses and permissions go by it."""
    namespace: str
    """That element's namespace, usually `EVENTS`; "" for none."""
    body: bytes
    """The event as it came, in its own encoding."""
    document: etree._ElementTree
    """The parsed body; its root is `<Event>`."""


def event_name(document: etree._ElementTree) -> etree.QName:
    """The name of the event in `document`, with its namespace.

    Raises ClacksError event-root where the root is not `<Event>` around exactly one element; comments and processing instructions may be
    anywhere.
    """
    return etree.QName(child_of(document.getroot()))


def child_of(root: etree._Element) -> etree._Element:
    """The element inside `<Event>`. Raises ClacksError event-root as `event_name` does."""
    if root.tag != ROOT:
        name = etree.QName(root)
        namespace = f' xmlns="{shortened(name.namespace)}"' if name.namespace else ""
        raise ClacksError("event-root", found=f"<{shortened(name.localname)}{namespace}>")
    children = [node for node in root if isinstance(node.tag, str)]
    if len(children) != 1:
        raise ClacksError("event-root", found=f"<Event> around {len(children) or 'no'} elements")
    text = root.text
    if text and text.strip(_SPACE):
        raise ClacksError("event-root", found=f"<Event> with the text {shortened(text)!r}")
    for node in root:
        if node.tail and node.tail.strip(_SPACE):
            raise ClacksError("event-root", found=f"<Event> with the text {shortened(node.tail)!r}")
    return children[0]


def to_bytes(data: bytes | bytearray | memoryview | str | etree._Element | etree._ElementTree) -> bytes:
    """An event in any form a program may have it, as the bytes that travel. Bytes stay as they are.

    A string becomes UTF-8 and loses its XML declaration, whose encoding was that of some bytes it once was. Raises TypeError for anything
    else, ClacksError xml-malformed for a string with half a surrogate pair.
    """
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        try:
            return undeclared(data).encode()
        except UnicodeEncodeError as error:
            reason = "it has half a character (a lone surrogate)"
            raise ClacksError("xml-malformed", reason=reason, line=1, column=error.start + 1) from error
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    if isinstance(data, etree._Element | etree._ElementTree):
        return etree.tostring(_without_types(data), encoding="utf-8", xml_declaration=False, with_tail=False)
    raise TypeError(f"an event is bytes, str or an lxml element, not {type(data).__name__}")


def to_text(data: bytes | bytearray | memoryview | str | etree._Element | etree._ElementTree) -> str:
    """An event in any form as characters, for a carrier that has no bytes (JSON). Raises as `to_bytes` does, and ClacksError
    xml-malformed for bytes that are not in the encoding they declare."""
    return characters(to_bytes(data))


def _without_types(data: etree._Element | etree._ElementTree) -> etree._Element | etree._ElementTree:
    """Without the type notes that `lxml.objectify` leaves on elements it makes (`py:pytype`): no schema knows them."""
    if b"http://codespeak.net/lxml/objectify/pytype" not in etree.tostring(data):
        return data
    import copy

    from lxml import objectify

    data = copy.deepcopy(data)
    objectify.deannotate(data, pytype=True, xsi=False, cleanup_namespaces=True)
    return data
