"""The records of a domain's log, and their JSON form. What they do to the state is not known here.

A record is one JSON object; a part of a snapshot has its content as further lines behind it, which only a joining agent decodes. Agents of
several versions read the same log: a field that is not known is ignored, a kind that is not known is no record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Final, NamedTuple

from ...common.errors import ClacksError


class By(NamedTuple):
    """Who wrote a record: a process (of the processes of one node, the greatest incarnation counts) and its number among all that this
    process wrote, from 1. A record that is stored twice has the same number twice, and is applied once."""

    node: str
    incarnation: int
    sequence: int


class Method(NamedTuple):
    """A command that a node serves; `extra` is what getMethods shows of it."""

    target: str
    name: str
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Announced:
    """A heartbeat. `applied` is the offset up to which the sender has applied and indexed the log, -1 while it is joining; `snapshot` is
    where a joining agent can begin to read (-1: not known). `methods` is None if they are what the log says already."""

    by: By
    applied: int
    load: float = 0.0
    latency: float = 0.0
    workers: int = 0
    snapshot: int = -1
    methods: tuple[Method, ...] | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """A process takes no more events. It says so itself, or another one has not read of it for a lease; then `heard` is the offset of the
    heartbeat that was the last one, and the record means nothing if there has been another one since."""

    by: By
    node: str
    incarnation: int
    heard: int = -1


@dataclass(frozen=True, slots=True)
class Making:
    """The writer is about to make a queue, for a subscription that it will write, or has `given_up`. The queue is nobody's until then."""

    by: By
    queue: str
    given_up: bool = False


@dataclass(frozen=True, slots=True)
class Subscribed:
    """`limit` is how many subscriptions without a lease the user may have (0: any number), as the writer is configured: whatever the others
    are, all decide alike. `name` is "" unless the subscription is durable; `lease` in seconds, 0 for none. With `replace`, a durable
    subscription of the same name may have had other filters. `max_age` is how many seconds an event stays, 0 for any time. `made`: the
    writer has written before that it makes the queue, and has not been taken for gone since, or the record means nothing."""

    by: By
    id: str
    user: str
    queue: str
    filters: tuple[str, ...] = ()
    event: str = ""
    address: str = ""
    name: str = ""
    shared: bool = False
    lease: float = 0.0
    limit: int = 0
    replace: bool = False
    max_age: float = 0.0
    made: bool = False


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    """Somebody who may has ended a subscription; `reason` is for people and for the log."""

    by: By
    id: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Suspended:
    """What these filters cost was more than they may, several times in a row. The record means nothing if the subscription has got others
    since."""

    by: By
    id: str
    filters: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Renewed:
    """The renewals of a second, as an agent has gathered them."""

    by: By
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Expired:
    """Leases that have run out: subscription and the offset of its last renewal. One that has been renewed since stays."""

    by: By
    leases: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class SnapshotWanted:
    """A joining agent cannot use what the log holds."""

    by: By


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A part (numbered from 0) of the state after the record at offset `base`, as lines of JSON. `number` is the same in all parts of one
    snapshot: the writer's sequence when it began."""

    by: By
    number: int
    base: int
    part: int
    last: bool
    lines: str = ""


Record = Announced | Left | Making | Subscribed | Unsubscribed | Suspended | Renewed | Expired | SnapshotWanted | Snapshot

_KINDS: Final[dict[str, type[Record]]] = {
    kind.__name__: kind
    for kind in (Announced, Left, Making, Subscribed, Unsubscribed, Suspended, Renewed, Expired, SnapshotWanted, Snapshot)
}


def encode(record: Record) -> bytes:
    """A record as it is stored."""
    content = {field.name: getattr(record, field.name) for field in fields(record) if field.name != "lines"}
    head = json.dumps({"kind": type(record).__name__, **content}, separators=(",", ":"), allow_nan=False).encode()
    return head + b"\n" + record.lines.encode() if isinstance(record, Snapshot) else head


def decode(body: bytes) -> Record | None:
    """The record that was stored; None for a kind that is not known. Raises ClacksError for what is no record: all agents skip it alike."""
    head, _, rest = body.partition(b"\n")
    try:
        content = json.loads(head, parse_constant=_refuse)
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        kind = _KINDS.get(str(content.get("kind")))
        if kind is None:
            return None
        values = {name: read(content[name]) for name, read, needed in _FORMS[kind] if needed or name in content}
        return kind(**values, lines=rest.decode()) if kind is Snapshot else kind(**values)
    except KeyError as error:
        raise malformed(f"{error} is missing") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise malformed(str(error)) from error


def malformed(reason: str) -> ClacksError:
    return ClacksError("domain-record", reason=reason)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _of(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"{str(value)[:40]!r} is no {kind.__name__}")
        return value

    return read


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e15:  # greater ones do not fit what is calculated with them
        raise ValueError(f"{str(value)[:40]!r} is no number")
    return float(value)


def _whole(value: Any) -> int:
    if type(value) is not int or not -1 <= value < 1 << 63:
        raise ValueError(f"{str(value)[:40]!r} is no offset or count")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if type(value) is not list or not set(map(type, value)) <= {str}:
        raise ValueError("a list of texts is something else")
    return tuple(value)


def _by(value: Any) -> By:
    node, incarnation, sequence = _of(list)(value)
    return By(_of(str)(node), _whole(incarnation), _whole(sequence))


def _leases(value: Any) -> tuple[tuple[str, int], ...]:
    return tuple((_of(str)(id), _whole(renewed)) for id, renewed in _of(list)(value))  # noqa: A001


def _methods(value: Any) -> tuple[Method, ...] | None:
    if value is None:
        return None
    return tuple(Method(_of(str)(target), _of(str)(name), _of(dict)(extra)) for target, name, extra in _of(list)(value))


_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "By": _by,
    "str": _of(str),
    "bool": _of(bool),
    "int": _whole,
    "float": _number,
    "tuple[str, ...]": _texts,
    "tuple[tuple[str, int], ...]": _leases,
    "tuple[Method, ...] | None": _methods,
}

# Of each kind: field, reader, whether it must be there. The lines of a snapshot are not in the object.
_FORMS: Final = {
    kind: tuple((field.name, _READERS[str(field.type)], field.default is MISSING) for field in fields(kind) if field.name != "lines")
    for kind in _KINDS.values()
}
