"""Many filters over one event: which keys match.

What is added can be removed, and afterwards it is as if it had never been there. Nothing here knows what a key is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from .errors import FilterError
from .evaluate import Event
from .filter import Document, Filter

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Entry:
    filters: tuple[Filter, ...]
    kinds: frozenset[str] | None


class FilterIndex(Generic[K]):
    """Keys and their filters. `on_error(key, error)` is told of each filter that failed on an event; that key does not match it.

    With `defer=True` the filters that are not provably cheap are not evaluated: `match` returns their keys as undecided.
    """

    def __init__(self, on_error: Callable[[K, FilterError], None] | None = None, *, defer: bool = False) -> None:
        self._entries: dict[K, _Entry] = {}
        self._on_error = on_error
        self._defer = defer
        self.errors = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def add(self, key: K, filter: Filter | Iterable[Filter] | None, kinds: Collection[str] | None = None) -> None:  # noqa: A002
        """`filter` None matches every event; of several filters all must match. `kinds` are the local names of the event elements
        (the child of the root) that this key may ever see, whatever its filter says; None is all. Raises KeyError for a key that is
        there already."""
        if key in self._entries:
            raise KeyError(key)
        filters = () if filter is None else (filter,) if isinstance(filter, Filter) else tuple(filter)
        self._entries[key] = _Entry(filters, None if kinds is None else frozenset(kinds))

    def remove(self, key: K) -> None:
        """Forgets the key; raises KeyError for one that is not there."""
        del self._entries[key]

    def match(self, document: Document, variables: Mapping[str, object] | None = None) -> tuple[list[K], list[K]]:
        """The keys whose filters match the event, and those that are left undecided, both in the order they were added."""
        name = kind_of(document)
        event = Event(document, variables)
        matched: list[K] = []
        undecided: list[K] = []
        for key, entry in self._entries.items():
            if entry.kinds is not None and name not in entry.kinds:
                continue
            if self._defer and any(one.cost != "cheap" for one in entry.filters):
                undecided.append(key)
                continue
            try:
                if all(one.compiled.matches(event, one.params) for one in entry.filters):
                    matched.append(key)
            except FilterError as error:
                self.errors += 1
                if self._on_error is not None:
                    self._on_error(key, error)
        return matched, undecided


def kind_of(document: Document) -> str | None:
    """The local name of the event: of the first element inside the root."""
    for child in document.getroot():
        if isinstance(child.tag, str):
            return child.tag.rpartition("}")[2]
    return None
