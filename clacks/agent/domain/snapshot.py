"""The whole state as records of the log, and back. When a snapshot is written, and what comes after it, is decided elsewhere.

A snapshot describes the state at one offset (its base) and is written while the state goes on. Writers and members are written as they were
at the base. Subscriptions are written as they are when their part is made, which may be after later renewals: that is as good, because the
renewals are in the log behind the base and are applied again, and what was decided in between on an older renewal stays without effect.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from .members import Member, Writer
from .records import Snapshot, malformed
from .state import State
from .subscriptions import Subscription

_FILTERS: Final = 9  # the place of a subscription's filters in its row


def rows_of(state: State) -> tuple[int, list[str], list[Subscription]]:
    """The state at this moment: its base, the lines of writers and members, and its subscriptions (20 ms for a million)."""
    writers = [_line("writer", node, one.incarnation, one.last, hex(one.window), one.heard) for node, one in state.writers.by_node.items()]
    members = [_line("member", *member.row()) for member in state.members.values()]
    return state.applied, [*writers, *members], list(state.subscriptions)


def parts_of(head: list[str], subscriptions: list[Subscription], size: int) -> Iterator[tuple[bool, str]]:
    """The lines in parts of about `size` bytes, each with whether it is the last one. A part is made when it is asked for."""
    lines: list[str] = []
    length = 0
    for line in _lines(head, subscriptions):
        if lines and length + len(line) > size:
            yield False, "\n".join(lines)
            lines.clear()
            length = 0
        lines.append(line)
        length += len(line) + 1
    yield True, "\n".join(lines)


def _lines(head: list[str], subscriptions: list[Subscription]) -> Iterator[str]:
    yield from head
    for one in subscriptions:
        yield _line("subscription", *one.row())


def _line(*content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))


class Gathering:
    """The parts of one snapshot, as they come. With `content`, a state is made of them; without, they are only counted."""

    def __init__(self, base: int, content: bool) -> None:
        self.base = base
        self.size = 0
        self._rows: dict[int, list[Any]] = {}
        self._parts: set[int] = set()
        self._count = 0
        self._content = content

    def add(self, part: Snapshot, size: int) -> bool:
        """True when that was the one that was missing. Raises ClacksError if its lines are none."""
        if part.part in self._parts:
            return False
        if self._content:
            self._rows[part.part] = [_read(line) for line in part.lines.split("\n") if line]
        self._parts.add(part.part)
        self.size += size
        if part.last:
            self._count = part.part + 1
        return len(self._parts) == self._count

    def state(self) -> State:
        """The state at the base."""
        state = State()
        state.applied = self.base
        for number in range(self._count):
            for row in self._rows.pop(number):
                if isinstance(row, Subscription):
                    state.subscriptions.add(row)
                elif isinstance(row, Member):
                    state.members[row.key] = row
                else:
                    node, writer = row
                    state.writers.by_node[node] = writer
        return state


def _read(line: str) -> Subscription | Member | tuple[str, Writer]:
    try:
        kind, *row = json.loads(line)
        if kind == "subscription":
            row[_FILTERS] = tuple(row[_FILTERS])
            return Subscription(*row)
        if kind == "member":
            return Member.from_row(*row)
        node, incarnation, last, window, heard = row
        return node, Writer(incarnation, last, int(window, 16), heard)
    except (ValueError, TypeError, IndexError, RecursionError) as error:
        raise malformed(f"in a snapshot: {error}") from error
