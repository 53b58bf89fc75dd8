"""The places of an event that some filter asks about, as a trie of steps, walked along with the event once for all filters.

A trie without `*`, `//` and tests by namespace or local name is walked by dictionary look-ups alone; the others carry a set of places.
"""

from __future__ import annotations

from typing import Any

from lxml import etree

from .atoms import Edge, Pattern
from .buckets import Entry
from .conditions import Values

_STRING = etree.XPath("string()", smart_strings=False)


# From this many names on, a walk over all elements is faster (measured on events of 10 to 1,000 elements).
_FEW = 8


def string_value(element: Any) -> str:
    """The string value of an element (XDM 3.1 section 6.2.2)."""
    if len(element) == 0:
        return element.text or ""
    return str(_STRING(element))


Test = tuple[str, str | None, str | None]  # axis, namespace, local name


class Place:
    """One node of the trie: what is asked about the nodes it stands for, and where it goes from there."""

    __slots__ = ("attributes", "children", "deep", "plain", "scanned", "tests", "texts", "values")

    def __init__(self) -> None:
        self.children: dict[str, Place] = {}
        self.attributes: dict[str, Place] = {}
        self.tests: dict[Test, Place] = {}  # children and attributes by wildcard
        self.deep: Place | None = None
        self.texts: Values | None = None
        self.values: Values | None = None
        self.plain = True  # no wildcard, nothing deep, here or below
        self.scanned: tuple[str, ...] | None = ()  # the names to look for at every depth; None: that is not all

    def empty(self) -> bool:
        return not (self.children or self.attributes or self.tests or self.deep or self.texts or self.values)

    # --- changing ------------------------------------------------------------------------------------------------------------------

    def conditions(self, pattern: Pattern, at: int = 0) -> Values:
        """The conditions at the end of a pattern, made if they are not there."""
        if at == len(pattern):
            if self.values is None:
                self.values = Values()
            return self.values
        edge = pattern[at]
        if edge.axis == "text":
            if self.texts is None:
                self.texts = Values()
                self._judge()
            return self.texts
        found = self._next(edge)
        if found is None:
            found = self._make(edge)
        conditions = found.conditions(pattern, at + 1)
        self._judge()
        return conditions

    def find(self, pattern: Pattern) -> Values | None:
        """The conditions at the end of a pattern, if they are there."""
        place: Place | None = self
        for edge in pattern:
            if place is None or edge.axis == "text":
                return None if place is None else place.texts
            place = place._next(edge)
        return None if place is None else place.values

    def prune(self, pattern: Pattern, at: int = 0) -> None:
        """Forgets what is empty along a pattern."""
        if at < len(pattern) and pattern[at].axis != "text":
            edge = pattern[at]
            found = self._next(edge)
            if found is not None:
                found.prune(pattern, at + 1)
                if found.empty():
                    self._drop(edge)
        if self.values is not None and not self.values:
            self.values = None
        if self.texts is not None and not self.texts:
            self.texts = None
        self._judge()

    def _judge(self) -> None:
        named = not self.tests and self.texts is None and all(one.plain for one in self.children.values())
        self.plain = named and self.deep is None
        deep = self.deep
        if deep is None:
            self.scanned = () if named else None
        elif named and deep.plain and not deep.attributes and deep.values is None:
            # libxml2 looks for a few names faster than Python reads all; for many, one look at each element is less than one comparison
            # with each name.
            self.scanned = tuple(deep.children) if len(deep.children) <= _FEW else ("*",)
        else:
            self.scanned = None

    @staticmethod
    def _name(edge: Edge) -> str | None:
        if edge.uri is None or edge.local is None:
            return None
        return f"{{{edge.uri}}}{edge.local}" if edge.uri else edge.local

    def _next(self, edge: Edge) -> Place | None:
        if edge.axis == "deep":
            return self.deep
        name = self._name(edge)
        if name is None:
            return self.tests.get((edge.axis, edge.uri, edge.local))
        return (self.children if edge.axis == "child" else self.attributes).get(name)

    def _make(self, edge: Edge) -> Place:
        made = Place()
        name = self._name(edge)
        if edge.axis == "deep":
            self.deep = made
        elif name is None:
            self.tests[edge.axis, edge.uri, edge.local] = made
        else:
            (self.children if edge.axis == "child" else self.attributes)[name] = made
        return made

    def _drop(self, edge: Edge) -> None:
        name = self._name(edge)
        if edge.axis == "deep":
            self.deep = None
        elif name is None:
            del self.tests[edge.axis, edge.uri, edge.local]
        else:
            del (self.children if edge.axis == "child" else self.attributes)[name]


Numbers = dict[Values, list[str]]


def _ask(values: Values, text: str, out: list[Entry], numbers: Numbers) -> None:
    values.ask(text, out)
    if values.numeric:
        if values in numbers:
            numbers[values].append(text)
        else:
            numbers[values] = [text]


def walk(root: Any, place: Place, out: list[Entry], numbers: Numbers) -> None:
    """Collects in `out` the entries whose condition some node fulfils, and in `numbers` the texts at places with numeric conditions."""
    if place.scanned is not None and place.values is None:
        found = place.children.get(root.tag)
        if found is not None:
            _plain(root, found, out, numbers)
        if place.scanned and place.deep is not None:
            anywhere = place.deep.children
            for element in root.iter(*place.scanned):
                found = anywhere.get(element.tag)
                if found is not None:
                    _plain(element, found, out, numbers)
        return
    deep = _closure([place])
    if place.values is not None or any(one.values is not None for one in deep):
        text = string_value(root)
        for one in deep:
            if one.values is not None:
                _ask(one.values, text, out, numbers)
    _element([root], deep, [one.deep for one in deep if one.deep is not None], out, numbers)


def _plain(element: Any, place: Place, out: list[Entry], numbers: Numbers) -> None:
    """The walk where every step is a name."""
    values = place.values
    if values is not None:
        _ask(values, string_value(element), out, numbers)
    if place.attributes:
        _attributes(element, place.attributes, out, numbers)
    children = place.children
    if children:
        for child in element:
            below = children.get(child.tag)
            if below is not None:
                values = below.values
                if values is None or below.children or below.attributes:
                    _plain(child, below, out, numbers)
                elif values.numeric or not values.simple:
                    _ask(values, string_value(child), out, numbers)
                else:  # the usual leaf, in line: a quarter of the walk's time is calls
                    found_entry = values.equal.get((child.text or "") if len(child) == 0 else string_value(child))
                    if found_entry is not None:
                        if type(found_entry) is dict:
                            out.extend(found_entry)
                        else:
                            out.append(found_entry)


def _closure(places: list[Place]) -> list[Place]:
    """The places, and those that `//` reaches without a step."""
    found = list(dict.fromkeys(places))
    for one in found:
        if one.deep is not None and one.deep not in found:
            found.append(one.deep)
    return found


def _attributes(element: Any, wanted: dict[str, Place], out: list[Entry], numbers: Numbers) -> None:
    if len(wanted) <= _FEW:
        for name, found in wanted.items():
            text = element.get(name)
            if text is not None and found.values is not None:
                _ask(found.values, text, out, numbers)
        return
    for name, text in element.attrib.items():
        one = wanted.get(name)
        if one is not None and one.values is not None:
            _ask(one.values, text, out, numbers)


def _fitting(tests: dict[Test, Place], axis: str, name: str) -> list[Place]:
    """The places whose wildcard a name fits: three look-ups, however many there are."""
    uri, _, local = name.rpartition("}")
    keys = ((axis, None, None), (axis, uri[1:], None), (axis, None, local))
    return [found for key in keys if (found := tests.get(key)) is not None]


def _element(element: Any, places: list[Place], deep: list[Place], out: list[Entry], numbers: Numbers) -> None:
    """The children of an element or a list; `places` are the places of their parent, `deep` those that hold at every depth from here on.

    Iterative, so that a deep event needs no deep stack.
    """
    stack = [(element, places, deep)]
    while stack:
        parent, places, deep = stack.pop()
        for child in parent:
            tag = child.tag
            if not isinstance(tag, str):
                continue
            reached: list[Place] = []
            for place in places:
                found = place.children.get(tag)
                if found is not None:
                    reached.append(found)
                if place.tests:
                    reached.extend(_fitting(place.tests, "child", tag))
            reached = _closure([*reached, *deep])
            if not reached:
                continue
            _conditions(child, reached, deep, out, numbers)
            if len(child):
                stack.append((child, reached, list(dict.fromkeys([*deep, *(one.deep for one in reached if one.deep is not None)]))))


def _conditions(element: Any, places: list[Place], deep: list[Place], out: list[Entry], numbers: Numbers) -> None:
    text = None
    for place in places:
        if place.values is not None:
            if text is None:
                text = string_value(element)
            _ask(place.values, text, out, numbers)
        if place.texts is not None:
            for part in (element.text, *(child.tail for child in element)):
                if part:
                    _ask(place.texts, part, out, numbers)
        if place.attributes:
            _attributes(element, place.attributes, out, numbers)
        if place.tests:
            for name, value in element.attrib.items():
                for found in _fitting(place.tests, "attribute", name):
                    if found.values is not None:
                        _ask(found.values, value, out, numbers)
