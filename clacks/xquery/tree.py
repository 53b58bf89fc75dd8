"""An event as nodes of the XPath data model (XDM 3.1 section 6), made from an lxml tree once and only as far as somebody looks.

Nodes are equal only to themselves. Document order is numbered when it is first asked for. Nothing here evaluates anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from lxml import etree

from .names import XML

DOCUMENT: Final = "document-node"
ELEMENT: Final = "element"
ATTRIBUTE: Final = "attribute"
TEXT: Final = "text"
COMMENT: Final = "comment"
INSTRUCTION: Final = "processing-instruction"


class Node:
    """One node; `name` is expanded (the target of a processing instruction), "" where the kind has none."""

    __slots__ = ("_attributes", "_children", "_source", "_string", "index", "kind", "name", "order", "parent", "tree")

    def __init__(self, tree: Tree, kind: str, name: str, parent: Node | None, source: Any, index: int) -> None:
        self.tree = tree
        self.kind = kind
        self.name = name
        self.parent = parent
        self.index = index  # among the parent's children, or attributes
        self.order = -1
        self._source = source
        self._children: list[Node] | None = None if kind in (DOCUMENT, ELEMENT) else _NONE
        self._attributes: list[Node] | None = None if kind == ELEMENT else _NONE
        self._string: str | None = None

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"

    @property
    def children(self) -> list[Node]:
        if self._children is None:
            self._children = list(self._make_children())
        return self._children

    def _make_children(self) -> Iterator[Node]:
        source, tree = self._source, self.tree
        if self.kind == DOCUMENT:
            around = [*reversed(list(source.itersiblings(preceding=True))), source, *source.itersiblings()]
            for index, one in enumerate(around):
                yield _node(tree, one, self, index)
            return
        index = 0
        if source.text:
            yield Node(tree, TEXT, "", self, source.text, index)
            index = 1
        for one in source:
            yield _node(tree, one, self, index)
            index += 1
            if one.tail:
                yield Node(tree, TEXT, "", self, one.tail, index)
                index += 1

    @property
    def attributes(self) -> list[Node]:
        if self._attributes is None:
            items = self._source.attrib.items()
            self._attributes = [Node(self.tree, ATTRIBUTE, name, self, value, index) for index, (name, value) in enumerate(items)]
        return self._attributes

    @property
    def string(self) -> str:
        """The string value (XDM 3.1 section 5.13)."""
        if self._string is None:
            self._string = self._make_string()
        return self._string

    def _make_string(self) -> str:
        source = self._source
        if self.kind == ELEMENT:
            if len(source) == 0:
                return source.text or ""
            return str(_STRING(source))
        if self.kind == DOCUMENT:
            return next(child for child in self.children if child.kind == ELEMENT).string
        if self.kind in (COMMENT, INSTRUCTION):
            return source.text or ""
        return str(source)

    @property
    def namespaces(self) -> dict[str | None, str]:
        """The namespaces in scope by prefix (XDM 3.1 section 6.2)."""
        return dict(self._source.nsmap) if self.kind == ELEMENT else {}

    @property
    def prefixed(self) -> str:
        """The name as the event writes it (Functions and Operators 3.1 section 13.1)."""
        uri, _, local = self.name.rpartition("}")
        if not uri:
            return local
        if self.kind == ELEMENT:
            prefix = self._source.prefix
        else:
            owner = self.parent.namespaces if self.parent is not None else {}
            prefix = next((p for p, found in owner.items() if found == uri[1:] and p), "xml" if uri[1:] == XML else None)
        return f"{prefix}:{local}" if prefix else local

    def descendants(self) -> Iterator[Node]:
        """The nodes below, without attributes, in document order."""
        stack = [iter(self.children)]
        while stack:
            for node in stack[-1]:
                yield node
                if node.kind == ELEMENT:
                    stack.append(iter(node.children))
                    break
            else:
                stack.pop()


# XPath 1.0 string() of an element is its string value of the data model; libxml2 walks it without Python frames.
_STRING: Final = etree.XPath("string()", smart_strings=False)

_NONE: Final[list[Node]] = []


def _node(tree: Tree, source: Any, parent: Node, index: int) -> Node:
    tag = source.tag
    if isinstance(tag, str):
        return Node(tree, ELEMENT, tag, parent, source, index)
    if tag is etree.Comment:
        return Node(tree, COMMENT, "", parent, source, index)
    return Node(tree, INSTRUCTION, source.target, parent, source, index)


class Tree:
    """The document node of an event, and the order of its nodes."""

    __slots__ = ("_numbered", "document")

    def __init__(self, document: etree._ElementTree) -> None:
        self.document = Node(self, DOCUMENT, "", None, document.getroot(), 0)
        self._numbered = False

    def number(self) -> None:
        """Gives every node its place in document order (XDM 3.1 section 2.4)."""
        if self._numbered:
            return
        self._numbered = True
        order = 1
        self.document.order = 0
        for node in self.document.descendants():
            node.order = order
            order += 1
            if node.kind == ELEMENT:
                for attribute in node.attributes:
                    attribute.order = order
                    order += 1


def in_order(nodes: list[Node]) -> list[Node]:
    """The nodes in document order, each once."""
    if len(nodes) < 2:
        return nodes
    nodes[0].tree.number()
    return sorted(dict.fromkeys(nodes), key=_order)


def _order(node: Node) -> int:
    return node.order
