"""The file in which durable subscriptions and their events are: SQLite, written by one thread in whole batches.

A batch is one transaction with one fsync (WAL, synchronous=FULL): when `write` returns, it is on the disk. An event is stored once, with
the subscriptions that it is for; a subscription stores up to which number its events are settled, and which before that are not. Events
that nobody waits for are deleted with the batch that settled them. Nothing here knows of loops, links or filters.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from ...common.errors import ClacksError

# The layout; a file of a later one is refused instead of being misread.
LAYOUT: Final = 1

_SCHEMA: Final = """
CREATE TABLE subscription (
    id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, terms TEXT NOT NULL,
    settled INTEGER NOT NULL, open BLOB NOT NULL, suspended TEXT NOT NULL DEFAULT ''
);
CREATE TABLE event (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL, time REAL NOT NULL, expires REAL NOT NULL,
    members BLOB NOT NULL, undecided BLOB NOT NULL, encoded BLOB NOT NULL
);
"""

# Pages of the log (4 KiB each) after which it is worked into the database: that costs two more fsyncs, and 16 MiB of log read back.
_CHECKPOINT_PAGES: Final = 4096
# Free pages (4 KiB each) after a batch, above which some are given back to the file system.
_FREE_PAGES: Final = 4096


class StoredEvent(NamedTuple):
    """One event. `time` of acceptance and `expires` (0.0: never) in seconds since the epoch; `members` are the ids of the subscriptions
    that it is for, `undecided` those whose filter has yet to be asked."""

    number: int
    name: str
    time: float
    expires: float
    members: Sequence[int]
    undecided: Sequence[int]
    encoded: bytes


class StoredSubscription(NamedTuple):
    """One subscription: everything up to the number `settled` is settled, but for the numbers in `open`."""

    id: int
    user: str
    terms: Mapping[str, Any]
    settled: int
    open: Sequence[int] = ()
    suspended: str = ""


@dataclass(slots=True)
class Batch:
    """What is written at once."""

    events: list[StoredEvent] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    subscriptions: dict[int, StoredSubscription] = field(default_factory=dict)
    removed: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.events or self.gone or self.subscriptions or self.removed)


class Store:
    """One file. Made and used by any threads, `write` and `close` by one at a time."""

    def __init__(self, path: Path) -> None:
        """Opens or makes it. Raises ClacksError: store-failed, or config-invalid if another agent has it open."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))  # events are nobody else's to read
            self._db = self._connect()
            layout = self._db.execute("PRAGMA user_version").fetchone()[0]
            if layout == 0:
                self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {LAYOUT}; COMMIT;")
            elif layout > LAYOUT:
                raise failed(f"{path} is of a later version of Clacks")
        except (OSError, sqlite3.Error) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                raise in_use(path) from error
            raise failed(f"{path}: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        db.execute("PRAGMA locking_mode = EXCLUSIVE")  # a second agent on the same file would deliver everything twice
        db.execute("BEGIN IMMEDIATE")
        db.execute("COMMIT")
        return db

    def close(self) -> None:
        self._db.close()

    def subscriptions(self) -> tuple[list[StoredSubscription], int]:
        """All of them, and the highest id that any has ever had. Raises ClacksError."""
        try:
            rows = self._db.execute("SELECT id, user, terms, settled, open, suspended FROM subscription ORDER BY id").fetchall()
            last = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'subscription'").fetchone()
        except sqlite3.Error as error:
            raise failed(str(error)) from error
        return [_subscription(*row) for row in rows], last[0] if last else 0

    def events(self) -> Iterator[tuple[StoredEvent, int]]:
        """All events in their order, each without `encoded` and with its size. Raises ClacksError."""
        query = "SELECT number, name, time, expires, members, undecided, length(encoded) FROM event ORDER BY number"
        try:
            for number, name, time, expires, members, undecided, size in self._db.execute(query):
                yield StoredEvent(number, name, time, expires, _numbers(members, "I"), _numbers(undecided, "I"), b""), size
        except sqlite3.Error as error:
            raise failed(str(error)) from error

    def read(self, numbers: Sequence[int]) -> dict[int, tuple[bytes, float, str]]:
        """What is sent of events: encoded, when they expire, their names. Raises ClacksError."""
        places = ",".join("?" * len(numbers))
        try:
            rows = self._db.execute(f"SELECT number, encoded, expires, name FROM event WHERE number IN ({places})", numbers).fetchall()
        except sqlite3.Error as error:
            raise failed(str(error)) from error
        return {row[0]: (row[1], row[2], row[3]) for row in rows}

    def write(self, batch: Batch) -> None:
        """All of it, or nothing; on the disk when this returns. Raises ClacksError store-failed, and then nothing of it is there; but an
        end of the process before the next write may find all of it on a disk that took it and failed to say so."""
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((e.number, e.name, e.time, e.expires, _blob(e.members, "I"), _blob(e.undecided, "I"), e.encoded) for e in batch.events),
            )
            db.executemany(
                "INSERT OR REPLACE INTO subscription VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (one.id, one.user, json.dumps(one.terms), one.settled, _blob(one.open, "q"), one.suspended)
                    for one in batch.subscriptions.values()
                ),
            )
            db.executemany("DELETE FROM subscription WHERE id = ?", ((one,) for one in batch.removed))
            db.executemany("DELETE FROM event WHERE number = ?", ((one,) for one in batch.gone))
            db.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise failed(str(error)) from error
        if batch.gone:
            with contextlib.suppress(sqlite3.Error):  # the batch is written; what is wrong the next one will tell
                self._shrink()

    def _roll_back(self) -> None:
        """On this connection, which knows how far the log is good: the next batch is written over what failed. Another one would read
        back what the failed fsync has left in the kernel's memory, go on behind it, and lose all of that with the power."""
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _shrink(self) -> None:
        if self._db.execute("PRAGMA freelist_count").fetchone()[0] > _FREE_PAGES:
            self._db.execute(f"PRAGMA incremental_vacuum({_FREE_PAGES // 4})").fetchall()


def _subscription(number: int, user: str, terms: str, settled: int, still: bytes, suspended: str) -> StoredSubscription:
    try:
        known = json.loads(terms)
        if not isinstance(known, dict):
            raise ValueError("its terms are no object")
        return StoredSubscription(number, user, known, settled, _numbers(still, "q"), suspended)
    except ValueError as error:
        raise failed(f"subscription {number} is damaged: {error}") from error


def failed(reason: str) -> ClacksError:
    return ClacksError("store-failed", reason=reason)


def in_use(path: Path) -> ClacksError:
    """What is there is another agent's."""
    hint = "Stop that one, or give this one another --state-dir."
    return ClacksError("config-invalid", source=str(path), reason="another agent uses it", hint=hint)


def _blob(numbers: Sequence[int], kind: str) -> bytes:
    return array(kind, numbers).tobytes()


def _numbers(blob: bytes, kind: str) -> Sequence[int]:
    numbers = array(kind)
    numbers.frombytes(blob)
    return numbers
