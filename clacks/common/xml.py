"""XML from strangers: any bytes become a document within limits, or our own error.

Nothing here reads a file, reaches the network or expands an entity, whatever the bytes say. This file knows XML; it never knows what an
event is, nor a schema. It is the first step of every event's path, so a small document costs little more than libxml2's parse.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from lxml import etree

from clacks.common.encodings import ordinary
from clacks.common.errors import ClacksError

# libxml2 itself refuses deeper documents unless XML_PARSE_HUGE is set (parserInternals.h, xmlParserMaxDepth), which we never do.
DEEPEST: Final = 256

# Every name that a thread has parsed stays in its libxml2 dictionary. At 100 MB of names (XML_MAX_DICTIONARY_LIMIT) that thread can parse
# nothing any more; 360 MB of events with random names brought it there. So the dictionary is replaced (4 us) after this many bytes:
# 12 MiB of the densest names took 33 MB of memory, which makes this about 22 MB per thread.
DICTIONARY_BYTES: Final = 8 * 1024 * 1024

# What is quoted of an event in an error: a line of a terminal, not the event.
QUOTED: Final = 100


@dataclass(frozen=True)
class Limits:
    """What a document may be; levels and elements include the root. Raises ValueError where a limit makes no sense."""

    # Bytes of the body. 1 MiB is 3,500 times the usual event and takes 0.1 s to parse and validate at its densest.
    size: int = 1024 * 1024
    # Levels. Our deepest event has 5; recursive code (elementpath, pretty printers) is at ease with 64, while Python itself ends at 1,000.
    depth: int = 64
    # Elements. 1 MiB of Puppet report has about 28,000; of `<a/>` it would be 262,144, and every filter would walk them.
    elements: int = 30_000
    # Attributes of one element. Real documents stay below 30; libxml2 complains of each one, 1.2 us apiece, in one go.
    attributes: int = 256
    # Distinct names of elements and attributes. The largest event vocabularies have some hundred.
    names: int = 1_000

    def __post_init__(self) -> None:
        for name in ("size", "depth", "elements", "attributes", "names"):
            if getattr(self, name) < 1:
                raise ValueError(f"the limit of {name} must be at least 1")
        if self.depth > DEEPEST:
            raise ValueError(f"the limit of depth must be at most {DEEPEST}, where the XML parser itself stops")

    @cached_property
    def harmless(self) -> int:
        """Bytes of UTF-8 in which no other limit can be exceeded: levels of `<a></a>`, elements `<a/>`, attributes ` a=""`."""
        return min(7 * self.depth, 4 * self.elements, 5 * self.attributes, 4 * self.names)


DEFAULT_LIMITS: Final = Limits()


def parse(body: bytes, limits: Limits = DEFAULT_LIMITS) -> etree._ElementTree:
    """The document in `body`, which may be any bytes in any XML encoding. Thread-safe.

    Raises ClacksError: event-empty, event-too-large, xml-doctype, xml-limit, xml-malformed.
    """
    return parse_root(body, limits).getroottree()


def parse_root(body: bytes, limits: Limits = DEFAULT_LIMITS) -> etree._Element:
    """As `parse`, but the root element: it is what the event's path looks at next."""
    if len(body) > limits.size:
        raise ClacksError("event-too-large", found=len(body), limit=limits.size)
    plain = _plain(body)
    if plain is None:
        body = ordinary(body)
    size = len(body)
    try:
        kit = _of_thread.kit
    except AttributeError:
        kit = _of_thread.kit = _Kit()
    kit.bytes_left -= size
    if kit.bytes_left < 0:
        kit.forget_names()
    try:
        root: etree._Element = etree.fromstring(body, kit.parser)
    except etree.XMLSyntaxError as error:
        raise malformed(error, limits) from error
    # lxml asks for the last message only: a warning, of a namespace that is relative, would hide an error of namespaces before it.
    if log := kit.parser.error_log:
        _check_namespaces(log)
    if plain is None and root.getroottree().docinfo.internalDTD is not None:
        raise ClacksError("xml-doctype")
    if size > limits.harmless:
        kit.checks(limits).apply(root, body)
    return root


# A document that begins like this is in an encoding whose markup is ASCII and has no DOCTYPE, which could stand only before the first
# element. Every other beginning takes the slow way through `ordinary`.
_plain = re.compile(
    rb"(?:\xef\xbb\xbf)?"
    rb"(?:<\?xml\s+version\s*=\s*(?:\"1\.\d\"|'1\.\d')"
    rb"(?:\s+encoding\s*=\s*(?:\"(?i:utf-8|us-ascii|iso-8859-\d\d?|windows-125\d)\"|'(?i:utf-8|us-ascii|iso-8859-\d\d?|windows-125\d)'))?"
    rb"(?:\s+standalone\s*=\s*(?:\"(?:yes|no)\"|'(?:yes|no)'))?\s*\?>)?"
    rb"\s*<[^?!\0]"  # a NUL: UTF-16 or UTF-32 without a mark, in which a DOCTYPE looks different
).match


def is_plain(body: bytes) -> bool:
    """Whether `body` is parsed as it is: it begins with an element, maybe after a declaration, and its markup is ASCII."""
    return _plain(body) is not None


def readable(body: bytes) -> bytes:
    """What the parser is given for `body`. Raises ClacksError as `ordinary` does."""
    return body if is_plain(body) else ordinary(body)


def new_parser(**options: Any) -> etree.XMLParser:
    """A parser that reads nothing but the bytes it is given."""
    return etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, attribute_defaults=False, huge_tree=False, **options
    )


def malformed(error: etree.XMLSyntaxError, limits: Limits) -> ClacksError:
    """Our error for the parser's."""
    reason = re.sub(r", line \d+, column \d+$", "", error.msg or "it cannot be read")
    if "Excessive depth" in reason:
        return _too_much(f"more than {limits.depth}", "levels of elements", "depth", limits)
    line, column = error.position
    return ClacksError("xml-malformed", reason=shortened(reason), line=line, column=max(column, 1))


def _check_namespaces(log: Any) -> None:
    for entry in log:
        if entry.level >= etree.ErrorLevels.ERROR:
            raise ClacksError("xml-malformed", reason=shortened(entry.message), line=entry.line, column=max(entry.column, 1))


def line_of(element: etree._Element) -> int:
    """The line an element begins on, 0 if it is not known."""
    line: Any = element.sourceline
    return line or 0


def shortened(text: str, length: int = QUOTED) -> str:
    """`text` as it may appear in a sentence: on one line and not longer than `length` characters."""
    text = " ".join(text[: 4 * length].split())
    return text if len(text) <= length else text[: length - 1] + "…"


def _too_much(found: object, what: str, limit: str, limits: Limits) -> ClacksError:
    return ClacksError("xml-limit", found=found, what=what, limit=getattr(limits, limit), setting=f"limits.{limit}")


class _Checks:
    """The limits that need a look at the tree: counted in the text where that proves enough, else by libxml2, last by Python."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.elements: Callable[..., Any] = etree.XPath("count(//*)")
        self.too_deep = etree.XPath("boolean(" + "/*" * (limits.depth + 1) + ")")
        self.too_wide = etree.XPath(f"boolean(//*[@*[{limits.attributes + 1}]])")
        self.attributed: Callable[..., Any] = etree.XPath("//*[@*]")

    def apply(self, root: etree._Element, body: bytes) -> None:
        """Raises ClacksError xml-limit. `body` is text in which markup is ASCII, so every element has a `<` and every attribute a `=`."""
        limits = self.limits
        tags, attributes = body.count(b"<"), body.count(b"=")
        if tags > limits.elements and (found := int(self.elements(root))) > limits.elements:
            raise _too_much(found, "elements", "elements", limits)
        if body.count(b"</") >= limits.depth and self.too_deep(root):
            raise _too_much(f"more than {limits.depth}", "levels of elements", "depth", limits)
        if attributes > limits.attributes and self.too_wide(root):
            raise _too_much(f"more than {limits.attributes}", "attributes on one element", "attributes", limits)
        if tags + attributes > limits.names and (found := len(self.names(root, attributes))) > limits.names:
            raise _too_much(found, "different names", "names", limits)

    def names(self, root: etree._Element, attributes: int) -> set[Any]:
        names: set[Any] = {element.tag for element in root.iter("*")}
        if attributes:
            for element in self.attributed(root):
                names.update(element.keys())
        return names


class _Kit:
    """What parsing needs, once per thread: lxml locks a parser while it works, and the loop must not wait for a worker's."""

    __slots__ = ("_checks", "bytes_left", "parser")

    def __init__(self) -> None:
        self.parser = new_parser()
        self.bytes_left = DICTIONARY_BYTES
        self._checks: dict[Limits, _Checks] = {}

    def checks(self, limits: Limits) -> _Checks:
        if limits not in self._checks:
            self._checks[limits] = _Checks(limits)
        return self._checks[limits]

    def forget_names(self) -> None:
        """Give this thread a new name dictionary; documents keep the old one alive as long as they live.

        lxml keeps the dictionary in the thread state's dict (parser.pxi, _ParserDictionaryContext) and offers no way to replace it. Without
        its entry there, the next parser's own dictionary becomes the thread's. tests/test_xml.py fails if an lxml does otherwise.
        """
        import ctypes

        thread_dict = ctypes.pythonapi.PyThreadState_GetDict
        thread_dict.restype = ctypes.c_void_p
        address = thread_dict()
        if address:
            ctypes.cast(address, ctypes.py_object).value.pop("_ParserDictionaryContext", None)
        self.parser = new_parser()
        etree.fromstring(b"<a/>", self.parser)  # before any older parser can bring the old dictionary back
        self.bytes_left = DICTIONARY_BYTES


_of_thread = threading.local()
