"""Which engine answers for a filter that is not native: saxonche if it is installed, else elementpath if it knows the construct.

Both run in the sandbox only. Nothing is imported before a filter needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from .errors import error_at
from .frames import Event
from .module import Module


class Engine(Protocol):
    """A compiled filter of another engine."""

    name: str

    def matches(self, event: Event, variables: Mapping[str, Any]) -> bool: ...


def full_engine(module: Module, foreign: tuple[int, str]) -> Engine:
    """The engine for a module with a construct that is not native; raises FilterError CLXQ0003 where there is none."""
    from . import saxon

    if saxon.available():
        return saxon.SaxonFilter(module)
    from .fallback import ElementpathFilter, knows

    if knows(module):
        return ElementpathFilter(module)
    at, what = foreign
    raise error_at(module.text, at, "CLXQ0003", f"{what[0].upper()}{what[1:]} is not native")
