"""The dynamic context of an evaluation (XPath 3.1 section 2.1.2): what belongs to one event, and what to one place in a filter.

Values only; what an expression does with them is not known here.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from .dates import DateTime, parse_datetime
from .tree import Tree


class Event:
    """One event while it is matched: the tree, and what has been computed about it once for all filters."""

    __slots__ = ("_frame", "_now", "_tree", "cache", "calls", "document", "variables")

    def __init__(self, document: Any, variables: Mapping[str, object] | None = None) -> None:
        self.document = document
        self.variables: Mapping[str, object] = variables or {}
        self.cache: dict[Any, Any] = {}
        self.calls = 0
        self._tree: Tree | None = None
        self._now: DateTime | None = None
        self._frame: Frame | None = None

    @property
    def tree(self) -> Tree:
        if self._tree is None:
            self._tree = Tree(self.document)
        return self._tree

    @property
    def frame(self) -> Frame:
        """The outermost frame, with the document as focus and no variables."""
        if self._frame is None:
            self._frame = Frame(self, ())
        return self._frame

    @property
    def now(self) -> DateTime:
        """current-dateTime(): the same for all filters of one event (section 15.3)."""
        if self._now is None:
            self._now = parse_datetime("dateTime", datetime.datetime.now(datetime.UTC).isoformat())
        return self._now


class Frame:
    """The dynamic context (XPath 3.1 section 2.1.2): focus, variables, and the literals of the one filter that is asked."""

    __slots__ = ("event", "globals", "item", "params", "position", "size", "vars")

    def __init__(self, event: Event, params: tuple[Any, ...]) -> None:
        self.event = event
        self.item: Any = event.tree.document
        self.position = 1
        self.size = 1
        self.vars: dict[str, list[Any]] = {}
        self.globals: dict[str, list[Any]] = self.vars  # what functions of the prolog see
        self.params = params

    def inner(self, item: Any, position: int = 1, size: int = 1) -> Frame:
        """A frame with another focus; the variables are shared, as nobody changes them in place."""
        frame = Frame.__new__(Frame)
        frame.event = self.event
        frame.item = item
        frame.position = position
        frame.size = size
        frame.vars = self.vars
        frame.globals = self.globals
        frame.params = self.params
        return frame

    def without_focus(self, variables: dict[str, list[Any]]) -> Frame:
        """A frame as the body of a function sees it (XQuery 3.1 section 3.1.5.1): its variables, and nothing for `.`"""
        frame = self.inner(None, 0, 0)
        frame.vars = variables
        return frame

    def bound(self, name: str, value: list[Any]) -> Frame:
        """A frame with one more variable."""
        frame = self.inner(self.item, self.position, self.size)
        frame.vars = {**self.vars, name: value}
        return frame
