"""The schema registry: finds the event descriptions, compiles them, and replaces the set in force as a whole when files change.

A file that is broken or describes an event twice keeps its last good version, and is reported by name and line. Nothing here watches files
or starts threads: whoever notices a change calls `reload`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clacks.common.errors import ClacksError
from clacks.common.schemaset import LOOP_BYTES, EventSchema, SchemaSet
from clacks.common.xsd import Broken, XsdFile, read

__all__ = ["LOOP_BYTES", "EventSchema", "Report", "SchemaRegistry", "SchemaSet", "installed_folder"]


def installed_folder() -> Path:
    """Where the events are that come with Clacks: in the package, or in the checkout of an editable installation.

    Raises ClacksError config-invalid where there is neither.
    """
    here = Path(__file__).resolve()
    inside, checkout = here.parent / "data" / "events", here.parents[2] / "schemas" / "events"
    for folder in (inside, checkout):
        if folder.is_dir():
            return folder
    raise ClacksError("config-invalid", source=str(inside), reason="the events that come with Clacks are missing", hint="Install it again.")


@dataclass(frozen=True)
class Report:
    """What a reload did: names of events, sorted, and what is wrong with which files (schema-broken, schema-conflict)."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    problems: tuple[ClacksError, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


@dataclass(slots=True)
class _State:
    """What is known of one file: the text last seen, what came of it, and the version that was in force last."""

    digest: bytes | None = None
    candidate: XsdFile | None = None
    broken: Broken | None = None
    good: XsdFile | None = None


class SchemaRegistry:
    """The events of several folders: the installed ones, then `folders` in their order, each file *.xsd directly in them.

    Files in sub-folders are there to be included. Every file describes its own events: a name that an earlier file has is a conflict, also
    in another namespace, because addresses and permissions go by the name alone.
    """

    def __init__(self, folders: Sequence[Path] = (), *, installed: bool = True) -> None:
        self._folders = ([installed_folder()] if installed else []) + [Path(folder) for folder in folders]
        self._states: dict[Path, _State] = {}
        self._lock = threading.Lock()
        self._current = SchemaSet()
        self._problems: tuple[ClacksError, ...] = ()
        self.reload()

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders to watch."""
        return tuple(self._folders)

    @property
    def current(self) -> SchemaSet:
        """The set in force. It never changes: take it once for what belongs together."""
        return self._current

    @property
    def problems(self) -> tuple[ClacksError, ...]:
        """What is wrong with the files at present."""
        return self._problems

    def reload(self) -> Report:
        """Read all files again, compile those whose text changed, and put the result in force. Never raises over a file.

        It takes milliseconds, for XSD 1.1 or a file that libxml2 refuses up to half a second: for a worker, at run time.
        """
        with self._lock:
            before = self._current
            problems: list[ClacksError] = []
            states: dict[Path, _State] = {}
            for folder in self._folders:
                for path in _files(folder, problems):
                    state = _looked_at(path, self._states.get(path, _State()))
                    if state is not None:
                        states[path] = state
            schemas: dict[str, EventSchema] = {}
            for path, state in states.items():
                problems.extend(_put_in_force(path, state, schemas))
            self._states, self._problems = states, tuple(problems)
            self._current = after = SchemaSet(schemas.values())
        return Report(
            tuple(sorted(after.keys() - before.keys())),
            tuple(sorted(name for name in after.keys() & before.keys() if after[name].file is not before[name].file)),
            tuple(sorted(before.keys() - after.keys())),
            self._problems,
        )


def _files(folder: Path, problems: list[ClacksError]) -> Iterator[Path]:
    try:
        yield from sorted(path for path in folder.iterdir() if path.suffix == ".xsd" and not path.name.startswith("."))
    except OSError as error:
        reason = f"the folder cannot be read ({error.strerror})"
        problems.append(ClacksError("schema-broken", path=folder, line=0, reason=reason, kept="its events are not known"))


def _looked_at(path: Path, state: _State) -> _State | None:
    """The state of a file after reading it; None if it is gone."""
    try:
        source = read(path)
    except FileNotFoundError:
        return None
    except Broken as broken:
        return _State(None, broken=broken, good=state.good)
    except OSError as error:
        return _State(None, broken=Broken(path, 0, f"it cannot be read ({error.strerror})"), good=state.good)
    if source.digest == state.digest:
        return state
    state = _State(source.digest, good=state.good)
    try:
        state.candidate = XsdFile(source)
    except Broken as broken:
        state.broken = broken
    return state


def _put_in_force(path: Path, state: _State, schemas: dict[str, EventSchema]) -> Iterator[ClacksError]:
    """Add the file's events to `schemas`: of its text as it is, else of its last good version."""
    problem: tuple[str, dict[str, Any]] | None = None
    if state.broken is not None:
        problem = "schema-broken", {"path": state.broken.path, "line": state.broken.line, "reason": state.broken.reason}
    for file in (state.candidate, state.good):
        if file is None:
            continue
        conflict = next((event for event in file.events if event.name in schemas), None)
        if conflict is None:
            state.good = file
            schemas.update((event.name, EventSchema(event, file)) for event in file.events)
            break
        if problem is None:
            other = f"{schemas[conflict.name].path}, line {schemas[conflict.name].line},"
            problem = "schema-conflict", {"path": path, "line": conflict.line, "name": conflict.name, "other": other}
    else:
        state.good = None
    if problem is not None:
        kept = "its last good version stays in force" if state.good else "it describes nothing until then"
        yield ClacksError(problem[0], kept=kept, **problem[1])
