"""Many filters over one event: which keys match.

`add` asks the filter's plan (`needs.py`) for the condition that tells it best from the others and hangs an entry there; `match` walks the
event once, collects the entries whose condition holds, and evaluates those whose condition is not the whole filter. What is added can be
removed, and afterwards it is as if it had never been there. Nothing here knows what a key is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from itertools import count, islice
from typing import Any, Final, Generic, TypeVar

from lxml import etree

from . import syntax as s
from .atoms import NO, YES, Atom, Operand
from .buckets import put, take
from .compiled import atomic
from .conditions import Values, as_double
from .errors import FilterError
from .filter import Document, Filter
from .frames import Event
from .trie import Numbers, Place, walk
from .values import is_numeric

K = TypeVar("K", bound=Hashable)


class Kinds(set[str]):
    """Names of events that many keys share and that may change while they do: the index asks it anew for every event."""

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__
    __ne__ = object.__ne__


# Evaluating a cheap filter takes two to ten microseconds for each element, so that this many take up to 5 ms, the most that an event loop
# should be kept waiting.
LARGE: Final = 500

# The same in octets of an event. Evaluating handles texts in C, a megabyte in 20 to 40 ms where elements lie in each other; what takes them
# apart into characters or pieces needs two to seven microseconds for each.
LARGE_TEXT: Final = 128 * 1024
LARGE_PIECES: Final = 2 * 1024

_NO_FILTERS: Final[tuple[Filter, ...]] = ()


class _Entry:
    """One key with its filters; `number` is the order of adding, `exact` how far a condition of the index decides."""

    __slots__ = ("choice", "exact", "filters", "key", "kinds", "number")

    def __init__(self, number: int, key: Any, filters: Filter | tuple[Filter, ...], kinds: frozenset[str] | Kinds | None) -> None:
        self.number = number
        self.key = key
        self.filters = filters
        self.kinds = kinds
        self.exact = NO
        self.choice = -1  # which of the plans' choices found it a place


class FilterIndex(Generic[K]):
    """Keys and their filters.

    `on_error(key, error)` is told of each filter that failed on an event; that key does not match it, and `errors` counts it. A filter that
    the index has ruled out is not evaluated, and so does not fail. With `defer=True` the filters that are not provably cheap are not
    evaluated either: `match` returns their keys as undecided; and of an event with more than LARGE elements, or LARGE_TEXT octets, only the
    index's own answers are given, because linear is not short there. What takes texts apart is left undecided from LARGE_PIECES on.
    """

    def __init__(self, on_error: Callable[[K, FilterError], None] | None = None, *, defer: bool = False) -> None:
        self._entries: dict[K, _Entry] = {}
        self._numbers = count()
        self._on_error = on_error
        self._defer = defer
        self._root = Place()
        self._variables: dict[str, Values] = {}
        # Keys that no condition finds, by the kind of event they may see; None holds those that see all.
        self._always: dict[str | None, Any] = {}
        self._shared: dict[Kinds, Any] = {}  # the same, of those whose kinds may change
        self._kinds = 0
        self.errors = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def is_empty(self) -> bool:
        """Whether nothing is left of what was added: for tests."""
        return not (self._entries or self._variables or self._always or self._shared or self._kinds) and self._root.empty()

    # --- changing ------------------------------------------------------------------------------------------------------------------

    def add(self, key: K, filter: Filter | Iterable[Filter] | None, kinds: Collection[str] | None = None) -> None:  # noqa: A002
        """`filter` None matches every event; of several filters all must match. `kinds` are the local names of the event elements
        (the child of the root) that this key may ever see, whatever its filter says; None is all, and of `Kinds` it is what they are
        when an event comes. Raises KeyError for a key that is there already."""
        if key in self._entries:
            raise KeyError(key)
        filters = _NO_FILTERS if filter is None else filter if isinstance(filter, Filter) else tuple(filter)
        if isinstance(filters, tuple) and len(filters) == 1:
            filters = filters[0]
        entry = _Entry(next(self._numbers), key, filters, kinds if kinds is None or isinstance(kinds, Kinds) else frozenset(kinds))
        self._entries[key] = entry
        self._kinds += kinds is not None
        options = _options(filters)
        if not options:
            entry.exact = YES if filters == () else NO
            self._always_of(entry, put)
            return
        entry.choice = 0 if len(options) == 1 else min(range(len(options)), key=lambda choice: self._weight(*options[choice]))
        chosen, atoms = options[entry.choice]
        entry.exact = chosen.compiled.plan.exact if isinstance(filters, Filter) else NO
        params = chosen.params
        for atom in atoms:
            self._values(atom).add(atom.op, _value(atom.operand, params), entry, _upper(atom, params))

    def remove(self, key: K) -> None:
        """Forgets the key; raises KeyError for one that is not there."""
        entry = self._entries.pop(key)
        self._kinds -= entry.kinds is not None
        if entry.choice < 0:
            self._always_of(entry, take)
            return
        chosen, atoms = _options(entry.filters)[entry.choice]
        params = chosen.params
        for atom in atoms:
            values = self._values(atom)  # an atom that says the same twice finds it gone
            values.remove(atom.op, _value(atom.operand, params), entry, _upper(atom, params))
            if values:
                continue
            if atom.variable is None:
                self._root.prune(atom.pattern)
            else:
                self._variables.pop(atom.variable, None)

    def _always_of(self, entry: _Entry, change: Callable[[dict[Any, Any], Any, Any], object]) -> None:
        if isinstance(entry.kinds, Kinds):
            change(self._shared, entry.kinds, entry)
            return
        for kind in (None,) if entry.kinds is None else entry.kinds:
            change(self._always, kind, entry)

    def _values(self, atom: Atom) -> Values:
        if atom.variable is None:
            return self._root.conditions(atom.pattern)
        return self._variables.setdefault(atom.variable, Values())

    def _weight(self, chosen: Filter, atoms: tuple[Atom, ...]) -> int:
        """How many other filters hang where this one would."""
        weight = 0
        for atom in atoms:
            values = self._root.find(atom.pattern) if atom.variable is None else self._variables.get(atom.variable)
            weight += 0 if values is None else values.weight(atom.op, _value(atom.operand, chosen.params))
        return weight

    # --- asking --------------------------------------------------------------------------------------------------------------------

    def match(self, document: Document, variables: Mapping[str, object] | None = None, kind: str | None = None,
              size: int | None = None) -> tuple[list[K], list[K]]:  # fmt: skip
        """The keys whose filters match the event, and those that are left undecided, both in the order they were added.

        `kind` and `size` in octets are the event's, if the caller knows them: else they are looked for."""
        root = document.getroot()
        if kind is None and self._kinds:
            kind = kind_of(root)
        found: list[_Entry] = []
        numbers: Numbers = {}
        walk(root, self._root, found, numbers)
        single: list[_Entry] = []
        if numbers:
            for values, texts in numbers.items():
                values.ask_numbers(texts, single if len(texts) == 1 else found)
        if variables and self._variables:
            self._ask_variables(variables, found)
        if self._always or self._shared:
            self._ask_always(kind, found)
        if not (found or single):
            return [], []
        if len(found) + len(single) == 1:
            (only,) = found or single
            if only.kinds is not None and kind not in only.kinds:
                return [], []
            if only.exact == YES or (single and only.exact != NO):
                return [only.key], []
        return self._decided(found, single, document, variables, kind, size)

    def _ask_variables(self, variables: Mapping[str, object], found: list[_Entry]) -> None:
        for name, values in self._variables.items():
            value = atomic(variables.get(name))
            if isinstance(value, str):
                values.ask(value, found)
            elif is_numeric(value):
                values.ask_number(as_double(value), found)

    def _ask_always(self, kind: str | None, found: list[_Entry]) -> None:
        always = self._always
        buckets = [always[place] for place in ((None,) if kind is None else (None, kind)) if place in always]
        if self._shared:
            buckets += [bucket for kinds, bucket in self._shared.items() if kind in kinds]
        for bucket in buckets:
            if type(bucket) is dict:
                found.extend(bucket)
            else:
                found.append(bucket)

    def _decided(self, found: list[_Entry], single: list[_Entry], document: Document,
                 variables: Mapping[str, object] | None, kind: str | None, size: int | None) -> tuple[list[K], list[K]]:  # fmt: skip
        matched: list[K] = []
        undecided: list[K] = []
        sure = {entry for entry in found if entry.exact == YES} if len(found) != 1 else found if found[0].exact == YES else ()
        trusted = {*sure, *(entry for entry in single if entry.exact != NO)} if single else sure
        candidates = found + single
        if len(candidates) > 1:
            candidates = sorted(dict.fromkeys(candidates), key=_number)
        event: Event | None = None
        large = long = False
        if self._defer and len(trusted) < len(candidates):  # some filter is evaluated
            size = len(etree.tostring(document.getroot(), with_tail=False)) if size is None else size
            large, long = size > LARGE_TEXT or _has_many_elements(document), size > LARGE_PIECES
        answers: dict[tuple[Any, tuple[Any, ...]], bool | FilterError] = {}
        held: bool | FilterError | None
        seen: frozenset[str] | Kinds | None = None  # kinds that have it: the next entry's are often the same
        for entry in candidates:
            kinds = entry.kinds
            if kinds is not seen:
                if kinds is not None and kind not in kinds:
                    continue
                seen = kinds
            if trusted and entry in trusted:
                matched.append(entry.key)
                continue
            if self._defer and (large or _dear(entry) or (long and _takes_apart(entry))):
                undecided.append(entry.key)
                continue
            if event is None:
                event = Event(document, variables)
            filters = entry.filters
            for one in (filters,) if isinstance(filters, Filter) else filters:
                same = (one.compiled, one.params)  # many keys may have the same filter: it is asked once
                held = answers.get(same)
                if held is None:
                    held = answers[same] = _answer(one, event)
                if held is not True:
                    break
            else:
                matched.append(entry.key)
                continue
            if isinstance(held, FilterError):
                self.errors += 1
                if self._on_error is not None:
                    self._on_error(entry.key, held)
        return matched, undecided


def _options(filters: Filter | tuple[Filter, ...]) -> list[tuple[Filter, tuple[Atom, ...]]]:
    """The ways to find an entry, of which one is enough because all its filters must match."""
    return [(one, choice) for one in ((filters,) if isinstance(filters, Filter) else filters) for choice in one.compiled.plan.choices]


def _value(operand: Operand | None, params: tuple[Any, ...]) -> Any:
    if operand is None:
        return None
    return params[operand.slot] if isinstance(operand, s.Param) else operand.value


def _upper(atom: Atom, params: tuple[Any, ...]) -> tuple[str, Any] | None:
    return None if atom.upper is None else (atom.upper[0], _value(atom.upper[1], params))


def _answer(one: Filter, event: Event) -> bool | FilterError:
    try:
        return one.compiled.matches(event, one.params)
    except FilterError as error:
        return error


def _dear(entry: _Entry) -> bool:
    filters = entry.filters
    if isinstance(filters, Filter):
        return filters.compiled.dear is not None
    return any(one.compiled.dear is not None for one in filters)


def _takes_apart(entry: _Entry) -> bool:
    filters = entry.filters
    return any(one.compiled.characters for one in ((filters,) if isinstance(filters, Filter) else filters))


def _has_many_elements(document: Document) -> bool:
    return len(list(islice(document.getroot().iter(), LARGE + 1))) > LARGE  # counting stops at the limit


def _number(entry: _Entry) -> int:
    return entry.number


def kind_of(root: Any) -> str | None:
    """The local name of the event: of the first element inside the root."""
    for child in root:
        if isinstance(child.tag, str):
            return str(child.tag.rpartition("}")[2])
    return None
