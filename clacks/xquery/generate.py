"""From an event to a filter that matches it, one clause to a line: something to start editing from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from .names import PREDECLARED

if TYPE_CHECKING:
    from lxml import etree

# A filter to be edited by hand: nobody reads more clauses, and longer values are tested for being there only.
MAX_CLAUSES: Final = 60
MAX_VALUE: Final = 120


def quoted(text: str) -> str:
    """A string literal (XQuery 3.1 section 3.1.1)."""
    return "'" + text.replace("&", "&amp;").replace("'", "''").replace("\r", "&#xD;") + "'"


class _Names:
    """Prefixes for the namespaces of one event."""

    def __init__(self, uri: str) -> None:
        self.prefixes: dict[str, str] = {uri: "f"} if uri else {}

    def name(self, tag: str) -> str:
        uri, _, local = tag.rpartition("}")
        if not uri:
            return local
        uri = uri[1:]
        known = next((prefix for prefix, found in PREDECLARED.items() if found == uri), None)
        return f"{known or self.prefixes.setdefault(uri, f'n{len(self.prefixes)}')}:{local}"

    def prolog(self) -> str:
        return "".join(f"declare namespace {prefix} = {quoted(uri)};\n" for uri, prefix in self.prefixes.items())


def _clauses(element: Any, path: str, names: _Names) -> Iterator[str]:
    for name, value in element.attrib.items():
        yield _clause(f"{path}@{names.name(name)}", value)
    children = [child for child in element if isinstance(child.tag, str)]
    for child in children:
        below = f"{path}{names.name(child.tag)}"
        if any(isinstance(one.tag, str) for one in child):
            yield from _clauses(child, below + "/", names)
        else:
            yield _clause(below, "".join([child.text or "", *(one.tail or "" for one in child)]))
            for name, value in child.attrib.items():
                yield _clause(f"{below}/@{names.name(name)}", value)


def _clause(path: str, value: str) -> str:
    return f"{path} = {quoted(value)}" if len(value) <= MAX_VALUE else path


def generate(document: etree._ElementTree) -> str:
    """A filter that matches the event `document`, with a clause for each value in it."""
    root = document.getroot()
    names = _Names(root.tag.rpartition("}")[0][1:])
    kind = next((child for child in root if isinstance(child.tag, str)), None)
    top = f"/{names.name(root.tag)}"
    if kind is None:
        return names.prolog() + top
    found = list(dict.fromkeys(_clauses(kind, "", names)))[:MAX_CLAUSES]
    path = f"{top}/{names.name(kind.tag)}"
    if not found:
        return names.prolog() + path
    return f"{names.prolog()}{path}[\n  " + "\n  and ".join(found) + "\n]"
