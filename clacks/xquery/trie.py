"""The places of an event that some filter asks about, as a trie of steps, walked along with the event once for all filters.

Every step is a dictionary look-up, so that the walk costs as much for a million filters as for one; how often it goes over the elements
depends on the `*` and `//` in use, which `needs.py` bounds.
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

    __slots__ = ("attributes", "children", "deep", "leaf", "own", "tests", "texts", "values")

    def __init__(self) -> None:
        self.children: dict[str, Place] = {}
        self.attributes: dict[str, Place] = {}
        self.tests: dict[Test, Place] = {}  # children and attributes by wildcard
        self.deep: Place | None = None
        self.texts: Values | None = None
        self.values: Values | None = None
        self.own = False  # attributes or texts of the element itself are asked about
        self.leaf = True  # nothing but the string value is

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
        self.own = bool(self.attributes or self.texts is not None or any(axis == "attribute" for axis, _, _ in self.tests))
        self.leaf = not (self.own or self.children or self.tests or self.deep)

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
    """Collects in `out` the entries whose condition some node fulfils, and in `numbers` the texts at places with numeric conditions.

    `place` is the root of the trie and stands for the document, whose one element is `root`. An entry can be collected more than once.
    """
    found = place.children.get(root.tag)
    if found is not None:
        _visit(root, found, out, numbers)
    if place.tests:
        for one in _fitting(place.tests, "child", root.tag):
            _visit(root, one, out, numbers)
    if place.values is not None:
        _ask(place.values, string_value(root), out, numbers)
    if place.deep is not None:
        _below(root, place.deep, True, out, numbers)
        if place.deep.values is not None:
            _ask(place.deep.values, string_value(root), out, numbers)


def _visit(element: Any, place: Place, out: list[Entry], numbers: Numbers) -> None:
    """An element that has reached a place: what is asked about it, and its children that go on from there."""
    if place.values is not None or place.own:
        _conditions(element, place, out, numbers)
    children = place.children
    if children:
        for child in element:
            below = children.get(child.tag)
            if below is None:
                continue
            values = below.values
            if values is None or not below.leaf:
                _visit(child, below, out, numbers)
            elif values.numeric or not values.simple:
                _ask(values, string_value(child), out, numbers)
            else:  # the usual leaf, in line: a quarter of the walk's time is calls
                found = values.equal.get((child.text or "") if len(child) == 0 else string_value(child))
                if found is not None:
                    if type(found) is dict:
                        out.extend(found)
                    else:
                        out.append(found)
    if place.tests:
        for child in element:
            if isinstance(child.tag, str):
                for one in _fitting(place.tests, "child", child.tag):
                    _visit(child, one, out, numbers)
    if place.deep is not None:
        _below(element, place.deep, False, out, numbers)


def _below(element: Any, deep: Place, with_self: bool, out: list[Entry], numbers: Numbers) -> None:
    """A place that stands for an element and everything below: the nodes that take its next step are found in document order.

    `with_self`: the element itself can take that step, because the place stands for its parent as well.
    """
    if deep.own or deep.values is not None:
        for one in element.iter("*"):
            _conditions(one, deep, out, numbers)
    children = deep.children
    if deep.tests:
        for one in element.iter("*"):
            if with_self or one is not element:
                for found in _fitting(deep.tests, "child", one.tag):
                    _visit(one, found, out, numbers)
    if children:
        # libxml2 looks for a few names faster than Python reads all; for many, one look at each element is less.
        for one in element.iter(*children) if len(children) <= _FEW else element.iter("*"):
            below = children.get(one.tag)
            if below is not None and (with_self or one is not element):
                _visit(one, below, out, numbers)
    if deep.deep is not None:
        _below(element, deep.deep, with_self, out, numbers)


def _conditions(element: Any, place: Place, out: list[Entry], numbers: Numbers) -> None:
    if place.values is not None:
        _ask(place.values, string_value(element), out, numbers)
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
