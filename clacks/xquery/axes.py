"""Axis steps over `tree.py`'s nodes (XPath 3.1 section 3.3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from . import syntax as s
from .tree import ATTRIBUTE, DOCUMENT, ELEMENT, INSTRUCTION, Node

Axis = Callable[[Node], Iterable[Node]]
NodeTest = Callable[[Node], bool]

REVERSE: Final = frozenset(("parent", "ancestor", "ancestor-or-self", "preceding", "preceding-sibling"))


def _parent(node: Node) -> list[Node]:
    return [] if node.parent is None else [node.parent]


def _ancestors(node: Node) -> list[Node]:
    found = []
    at = node.parent
    while at is not None:
        found.append(at)
        at = at.parent
    return found


def _siblings(node: Node, after: bool) -> list[Node]:
    if node.parent is None or node.kind == ATTRIBUTE:
        return []
    around = node.parent.children
    return around[node.index + 1 :] if after else around[: node.index][::-1]


def _following(node: Node) -> list[Node]:
    found: list[Node] = []
    at = node
    if node.kind == ATTRIBUTE and node.parent is not None:  # an attribute is followed by what its element contains
        at = node.parent
        found.extend(at.descendants())
    for one in (at, *_ancestors(at)):
        for sibling in _siblings(one, True):
            found.append(sibling)
            found.extend(sibling.descendants())
    return found


def _preceding(node: Node) -> list[Node]:
    at = node.parent if node.kind == ATTRIBUTE and node.parent is not None else node
    found: list[Node] = []
    for one in (at, *_ancestors(at)):
        for sibling in _siblings(one, False):
            found.extend([*sibling.descendants()][::-1])
            found.append(sibling)
    return found


AXES: Final[dict[str, Axis]] = {
    "child": lambda node: node.children, "attribute": lambda node: node.attributes, "self": lambda node: (node,),
    "parent": _parent, "descendant": lambda node: node.descendants(), "descendant-or-self": lambda node: (node, *node.descendants()),
    "ancestor": _ancestors, "ancestor-or-self": lambda node: [node, *_ancestors(node)], "following": _following,
    "preceding": _preceding, "following-sibling": lambda node: _siblings(node, True),
    "preceding-sibling": lambda node: _siblings(node, False),
}  # fmt: skip


def name_test(test: s.NameTest, kind: str) -> NodeTest:
    """Whether a node of the axis's principal kind has a name (section 3.3.2.1)."""
    uri, local = test.uri, test.local
    if uri is None and local is None:
        return lambda node: node.kind == kind
    if uri is None:
        return lambda node: node.kind == kind and node.name.rpartition("}")[2] == local
    if local is None:
        prefix = f"{{{uri}}}"
        return lambda node: node.kind == kind and (node.name.startswith(prefix) if uri else "}" not in node.name)
    name = f"{{{uri}}}{local}" if uri else local
    return lambda node: node.name == name and node.kind == kind


def node_test(test: s.NameTest | s.KindTest, axis: str = "child") -> NodeTest:
    """The test of a step as a function."""
    if isinstance(test, s.NameTest):
        return name_test(test, ATTRIBUTE if axis == "attribute" else ELEMENT)
    kind = test.kind
    if kind == "node":
        return lambda node: True
    # The tree is not validated, so that an element is xs:untyped and an attribute xs:untypedAtomic (XDM 3.1 section 3.3.1.1).
    if test.type is not None and test.type not in _UNVALIDATED["element" if kind == DOCUMENT else kind]:
        return lambda node: False
    if test.name is None:
        return lambda node: node.kind == kind
    if kind == INSTRUCTION:
        target = test.name.local
        return lambda node: node.kind == kind and node.name == target
    named = name_test(test.name, ELEMENT if kind == DOCUMENT else kind)
    if kind == DOCUMENT:
        return lambda node: node.kind == kind and any(named(child) for child in node.children)
    return named


_UNVALIDATED: Final = {
    "element": ("untyped", "anyType"), "attribute": ("untypedAtomic", "anyAtomicType", "anySimpleType", "anyType"),
}  # fmt: skip


class Stepper:
    """One axis step without its predicates: from a node to the nodes of the axis that pass the test, in the order of the axis."""

    __slots__ = ("axis", "reverse", "test")

    def __init__(self, axis: str, test: s.NameTest | s.KindTest) -> None:
        self.axis = AXES[axis]
        self.test = node_test(test, axis)
        self.reverse = axis in REVERSE

    def __call__(self, node: Node) -> list[Node]:
        test = self.test
        return [one for one in self.axis(node) if test(one)]
