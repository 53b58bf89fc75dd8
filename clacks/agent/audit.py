"""How much the audit log may grow: whoever can cause refusals must not be able to fill a disk with them.

It sees the records of `clacks.audit` and nothing else, knows their fields, and decides nothing about who may do what (`access.py`) or
come in (`amqp.gate`). What is left out is counted, here by source and minute, and by the gate and the intake for good.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from ..amqp.gate import origin

log = logging.getLogger("clacks.audit")

# Lines of a kind in a minute. One address gets as many as the gate lets it fail in a row: each of those is on record. All together write
# 100 KB a minute at the most: 150 MB a day, which any rotation of logs copes with.
LINES_EACH: Final = 20
LINES_TOGETHER: Final = 500
WINDOW: Final = 60.0


class Source(NamedTuple):
    """Where lines come from that are counted together; without address and user: all of a kind."""

    kind: str
    address: str = ""
    user: str = ""


class Rationed(logging.Filter):
    """A filter for the logger `clacks.audit`. What is beyond a minute's lines is one line with the count when the minute is over, which
    comes by a timer if no other record brings it."""

    def __init__(
        self, each: int = LINES_EACH, together: int = LINES_TOGETHER, window: float = WINDOW, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """So many lines of a kind in `window` seconds: `each` address (and user, where they are let in), and all `together`."""
        super().__init__()
        self._each, self._together, self._window, self._clock = each, together, window, clock
        self._lock = threading.Lock()
        self._written: Counter[Source] = Counter()
        self._left_out: Counter[Source] = Counter()
        self._since = clock()
        self._timer: threading.Timer | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if hasattr(record, "left_out"):
            return True
        with self._lock:
            ended = self._end() if self._clock() - self._since >= self._window else []
            admitted = self._admit(_source(record))
        _tell(ended)
        return admitted

    def flush(self) -> None:
        """Tell what has been left out so far, and begin another minute."""
        with self._lock:
            ended = self._end()
        _tell(ended)

    def _admit(self, source: Source) -> bool:
        everybody = Source(source.kind)
        if self._written[source] < self._each and self._written[everybody] < self._together:
            self._written[source] += 1
            self._written[everybody] += 1
            return True
        # An address without a line has no entry of its own either: so many addresses as there are lines are remembered, and no more.
        self._left_out[source if self._written[source] else everybody] += 1
        if self._timer is None:
            self._timer = threading.Timer(self._window, self.flush)
            self._timer.daemon = True
            self._timer.start()
        return False

    def _end(self) -> list[tuple[Source, int]]:
        ended = list(self._left_out.items())
        self._written.clear()
        self._left_out.clear()
        self._since = self._clock()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return ended


def _source(record: logging.LogRecord) -> Source:
    fields = vars(record)
    if "kind" in fields:  # not let in: the user's name is only claimed
        return Source(str(fields["kind"]), origin(str(fields.get("peer", ""))))
    door = str(fields.get("origin", "")).rpartition(":")[0]  # the port is another each time
    return Source(str(fields.get("action", "")), door, str(fields.get("user", "")))


def _tell(ended: Iterable[tuple[Source, int]]) -> None:
    for source, count in ended:
        log.warning("more of these", extra={"what": source.kind, "user": source.user, "peer": source.address or "all", "left_out": count})
