"""Whether values have a type (XPath 3.1 section 2.5.5)."""

from __future__ import annotations

from typing import Any

from . import syntax as s
from .axes import node_test
from .tree import Node
from .types import ATOMIC
from .values import is_numeric, type_of


def derives(name: str, ancestor: str) -> bool:
    """Whether an atomic type is another one or derived from it."""
    while name and name != ancestor:
        name = ATOMIC[name]
    return bool(name)


def _item(item: Any, wanted: s.ItemType) -> bool:
    if wanted.kind == "item":
        return True
    if wanted.kind == "node":
        assert wanted.test is not None
        return type(item) is Node and node_test(wanted.test, "attribute" if wanted.test.kind == "attribute" else "child")(item)
    if wanted.kind == "atomic" and type(item) is not Node:
        return is_numeric(item) if wanted.name == "numeric" else derives(type_of(item), wanted.name)
    return False


def matches(items: list[Any], wanted: s.SequenceType) -> bool:
    """Sequence type matching (section 2.5.5.1)."""
    if wanted.item.kind == "empty":
        return not items
    if not items:
        return wanted.occurrence in ("?", "*")
    if len(items) > 1 and wanted.occurrence in ("", "?"):
        return False
    return all(_item(item, wanted.item) for item in items)


def describe(wanted: s.SequenceType) -> str:
    """A type for people."""
    item = wanted.item
    name = {"atomic": f"xs:{item.name}", "empty": "empty-sequence()", "node": f"{item.test.kind if item.test else ''}()"}.get(item.kind)
    return (name or f"{item.kind}()") + wanted.occurrence
