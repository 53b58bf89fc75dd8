"""From an event to a filter that matches it, one clause to a line: something to start editing from.

What is generated compiles, is cheap and matches its event, whatever is in the event; it is tried before it is handed out. What is left out
is said in a comment of the filter.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from .errors import FilterError
from .filter import compile_filter
from .lexer import NAME
from .names import PREDECLARED, collapsed

if TYPE_CHECKING:
    from lxml import etree

# A filter to be edited by hand: nobody reads more clauses, and longer values are tested for being there only. Fewer clauses are tried where
# so many make no cheap filter, as in an event whose paths are long.
MAX_CLAUSES: Final = (60, 45, 30, 22, 15, 11, 7, 5, 3, 2, 1, 0)
MAX_VALUE: Final = 120
# What stands in one line: the clauses of one repeated element, and how deep such elements are in each other.
MAX_TOGETHER: Final = 12
MAX_DEPTH: Final = 3

LONG: Final = "(: its text is too long to stand here :)"
CUT: Final = "(: cut off here, the event has more values :)"
# No digits and no quotes in these: filters that differ in literals only are compiled once, and a comment that seems to have one is no help.

_NAME: Final = re.compile(NAME)


def quoted(text: str) -> str:
    """A string literal in one line (XQuery 3.1 section 3.1.1): what cannot be seen is a character reference."""
    text = text.replace("&", "&amp;").replace("'", "''")
    return f"'{text if text.isprintable() else ''.join(one if one.isprintable() else f'&#x{ord(one):X};' for one in text)}'"


class _Names:
    """Prefixes for the namespaces of one event."""

    def __init__(self, uri: str) -> None:
        self.prefixes: dict[str, str] = {}
        if _plain(uri):
            self.prefixes[uri] = "f"

    def name(self, tag: str) -> str:
        """A name test for an element, or behind @ for an attribute."""
        uri, _, local = tag.rpartition("}")
        uri = uri[1:]
        if len(local) > MAX_VALUE:
            return "*"
        if not _NAME.fullmatch(local) or (uri and not _plain(uri)):
            return f"*[local-name() = {quoted(local)}]"
        if not uri:
            return local
        known = next((prefix for prefix, found in PREDECLARED.items() if found == uri), None)
        return f"{known or self.prefixes.setdefault(uri, f'n{len(self.prefixes)}')}:{local}"

    def prolog(self) -> str:
        return "".join(f"declare namespace {prefix} = {quoted(uri)};\n" for uri, prefix in self.prefixes.items())


def _plain(uri: str) -> bool:
    """Whether a namespace can be declared: white space in a literal for one is changed (XQuery 3.1 section 2.4.5)."""
    return bool(uri) and uri == collapsed(uri) and len(uri) <= MAX_VALUE


def _elements(element: Any) -> list[Any]:
    return [child for child in element if isinstance(child.tag, str)]


def _texts(element: Any) -> list[str]:
    return [element.text or "", *(child.tail or "" for child in element)]


def _clauses(element: Any, path: str, names: _Names, depth: int = 0) -> Iterator[str]:
    """What is in an element; `path` leads to it and ends with a slash, or is empty inside its predicate."""
    for name, value in element.attrib.items():
        yield _clause(f"{path}@{names.name(name)}", value)
    children = _elements(element)
    if not children:
        if text := "".join(_texts(element)):
            yield _clause(".", text)
        return
    for text in _texts(element):
        if text.strip():
            yield _clause(f"{path}text()", text)
    several = Counter(child.tag for child in children)
    for child in children:
        below = f"{path}{names.name(child.tag)}"
        if several[child.tag] > 1 and (len(child.attrib) or _elements(child)):
            yield _together(child, below, names, depth)
        elif _elements(child):
            yield from _clauses(child, f"{below}/", names, depth)
        else:
            yield _clause(below, "".join(_texts(child)))
            for name, value in child.attrib.items():
                yield _clause(f"{below}/@{names.name(name)}", value)


def _together(element: Any, path: str, names: _Names, depth: int) -> str:
    """What is in one of several elements of a name, as one clause: it holds for one of them or does not."""
    if depth == MAX_DEPTH:
        return f"{path} {CUT}"
    found = list(islice(_clauses(element, "", names, depth + 1), MAX_TOGETHER + 1))
    return f"{path}[{' and '.join(found[:MAX_TOGETHER])}{f' {CUT}' if len(found) > MAX_TOGETHER else ''}]"


def _clause(path: str, value: str) -> str:
    return f"{path} = {quoted(value)}" if len(value) <= MAX_VALUE else f"{path} {LONG}"


def _written(root: Any, limit: int) -> str:
    names = _Names(root.tag.rpartition("}")[0][1:])
    path = f"/{names.name(root.tag)}"
    kind = next(iter(_elements(root)), None)
    if kind is not None:
        path += f"/{names.name(kind.tag)}"
    clauses = _distinct(_clauses(root if kind is None else kind, "", names))
    found = list(islice(clauses, limit))
    prolog = names.prolog()
    cut = CUT if next(clauses, None) else ""
    if found:
        path += "[\n  " + "\n  and ".join(found) + (f"\n  {cut}" if cut else "") + "\n]"
    elif cut:
        path += f" {cut}"
    return prolog + path


def _distinct(clauses: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for clause in clauses:
        if clause not in seen:
            seen.add(clause)
            yield clause


def _works(text: str, document: etree._ElementTree) -> bool:
    try:
        compiled = compile_filter(text)
        return compiled.cost == "cheap" and compiled.matches(document)
    except FilterError:
        return False


def generate(document: etree._ElementTree) -> str:
    """A filter that matches the event `document`, with a clause for each value in it."""
    written = (_written(document.getroot(), limit) for limit in MAX_CLAUSES)
    return next((text for text in written if _works(text, document)), _written(document.getroot(), 0))
