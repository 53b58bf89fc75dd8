"""Who writes into a domain's log, and which of them are members. These tables know offsets and no clocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .records import Announced, By, Method

# How far back a record is still known by its number, when it is stored a second time or after ones with greater numbers. A broker gives a
# sender some 200 credits (RabbitMQ: 170), so no more than these are ever under way and sent again after a reconnect.
WINDOW: Final = 512
_MASK: Final = (1 << WINDOW) - 1

# For how many records of the log a writer that is no member is remembered: days of a small domain and minutes of a busy one, longer than a
# connection may keep a record back.
REMEMBERED: Final = 1_000_000


@dataclass(slots=True)
class Writer:
    """The numbers of the records that were applied: the greatest, and one bit for each of those before it. `heard` is the offset of
    the last one."""

    incarnation: int
    last: int = 0
    window: int = 0
    heard: int = 0

    def take(self, sequence: int) -> bool:
        """False if the record was applied before, or is too old to tell."""
        ahead = sequence - self.last
        if ahead > 0:
            self.window = ((self.window << ahead) | 1) & _MASK if ahead < WINDOW else 1
            self.last = sequence
            return True
        bit = 1 << -ahead if -ahead < WINDOW else 0
        if not bit or self.window & bit:
            return False
        self.window |= bit
        return True


class Writers:
    """By node."""

    def __init__(self) -> None:
        self.by_node: dict[str, Writer] = {}

    def take(self, by: By, offset: int) -> str:
        """Why a record is to be ignored; "" if it is not."""
        writer = self.by_node.get(by.node)
        if writer is None or by.incarnation > writer.incarnation:
            writer = self.by_node[by.node] = Writer(by.incarnation)
        elif by.incarnation < writer.incarnation:
            return "superseded"
        writer.heard = offset
        return "" if writer.take(by.sequence) else "repeated"

    def forget(self, members: set[str], offset: int) -> None:
        """Drop those that are no members and were last heard of long ago."""
        for node in [node for node, one in self.by_node.items() if node not in members and offset - one.heard > REMEMBERED]:
            del self.by_node[node]


@dataclass(slots=True)
class Member:
    """A process that has announced itself. One that is superseded by a later process of its node stays until it is known to have stopped:
    it may have a lease. `heard` is the offset of its last heartbeat, `making` are queues that it is making for subscriptions."""

    node: str
    incarnation: int
    heard: int = -1
    applied: int = -1
    load: float = 0.0
    latency: float = 0.0
    workers: int = 0
    snapshot: int = -1
    superseded: bool = False
    making: set[str] = field(default_factory=set)
    methods: tuple[Method, ...] = ()
    offers: Mapping[tuple[str, str], Mapping[str, Any]] | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.node, self.incarnation

    @property
    def joined(self) -> bool:
        return self.applied >= 0

    def hear(self, offset: int, record: Announced) -> bool:
        """Take a heartbeat in; True if the methods are others than before."""
        self.heard = offset
        self.applied = max(self.applied, record.applied)
        self.load, self.latency, self.workers, self.snapshot = record.load, record.latency, record.workers, record.snapshot
        if record.methods is None or record.methods == self.methods:
            return False
        self.serve(record.methods)
        return True

    def serve(self, methods: tuple[Method, ...]) -> None:
        self.methods = methods
        self.offers = {(method.target, method.name): method.extra for method in methods}

    def row(self) -> tuple[Any, ...]:
        """The arguments of `from_row`."""
        return (
            self.node, self.incarnation, self.heard, self.applied, self.load, self.latency, self.workers, self.snapshot, self.superseded,
            [tuple(method) for method in self.methods], sorted(self.making),
        )  # fmt: skip

    @classmethod
    def from_row(cls, *row: Any) -> Member:
        member = cls(*row[:9])
        member.serve(tuple(Method(target, name, extra) for target, name, extra in row[9]))
        member.making.update(row[10])
        return member
