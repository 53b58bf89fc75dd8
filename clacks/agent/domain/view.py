"""What one agent remembers of its reading: when it heard whom, and how much of the log there is since the last snapshot. No part of the
state: other agents read at other times."""

from __future__ import annotations

from collections import deque
from typing import Final

# How exactly the place of a snapshot's base is known, in bytes of log: small beside the smallest distance between two snapshots.
_STEP: Final = 100_000


class Heard:
    """The heartbeats of one process, by offset and by when they were read, as far back as they can matter."""

    __slots__ = ("_beats", "asked_at", "at")

    def __init__(self, at: float = float("-inf")) -> None:
        """`at`: it is known from a snapshot that was read then; its last heartbeat came before."""
        self.at = at
        self.asked_at = float("-inf")
        self._beats: deque[tuple[int, float]] = deque([(-1, at)])

    def hear(self, offset: int, now: float, lease: float) -> None:
        self.at = now
        beats = self._beats
        beats.append((offset, now))
        while beats[0][1] <= now - lease:
            beats.popleft()

    def holds(self, offset: int, now: float, lease: float) -> bool:
        """Whether the process may still have a lease by a heartbeat from before `offset`."""
        for beat, at in reversed(self._beats):
            if beat < offset:
                return now < at + lease
        return False


class Log:
    """The offsets and bytes that were read. `base` is what the newest complete snapshot describes (-1: nothing), `size` its bytes."""

    def __init__(self) -> None:
        self.first = -1
        self.base, self.size = -1, 0
        self._last = -1
        self._total = 0
        self._at_base = 0
        self._marks: deque[tuple[int, int]] = deque()

    def take(self, offset: int, size: int) -> bool:
        """Count a record; False if it was read before."""
        if offset <= self._last:
            return False
        if self.first < 0:
            self.first = offset
        if not self._marks or self._total >= self._marks[-1][1] + _STEP:
            self._marks.append((offset, self._total))
        self._last = offset
        self._total += size
        return True

    def described(self, base: int, size: int) -> None:
        """A snapshot is complete."""
        if base <= self.base:
            return
        self.base, self.size = base, size
        while len(self._marks) > 1 and self._marks[1][0] <= base:
            self._marks.popleft()
        self._at_base = self._marks[0][1]

    @property
    def since(self) -> int:
        """The bytes that were read since the base, or since the first record."""
        return self._total - self._at_base

    @property
    def start(self) -> int:
        """Where a joining agent can begin to read (-1: not known)."""
        if self.base >= 0:
            return self.base + 1
        return 0 if self.first == 0 else -1
