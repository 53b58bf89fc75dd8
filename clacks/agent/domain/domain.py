"""One agent's part in a domain of agents that read the same log: its replica of the state, its own lease, and what it writes.

There is no I/O and no clock here. The driver reads the log and calls `apply`, carries out the changes that come back before it calls again,
and writes the records that `heartbeat`, `tick` and `snapshot` hand to it, in the order in which they were made. `now` is always the
machine's CLOCK_BOOTTIME in seconds: CLOCK_MONOTONIC stands still while the machine is suspended, and the others' clocks go on. It feeds
leases and time-outs; what follows from them becomes a record, so the state comes from the log alone.

A driver whose place in the log has been cut off by retention (the first record it gets when it attaches again is not the next one) starts
again with a `Domain` of a greater incarnation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import replace
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, Final

from ...common.errors import ClacksError
from .changes import Change, Ignored, Ready, SubscriptionAdded, SubscriptionChanged, Superseded
from .leases import Leases
from .members import Member
from .records import Announced, By, Expired, Left, Method, Record, Snapshot, SnapshotWanted, Subscribed
from .snapshot import Gathering, parts_of, rows_of
from .state import State
from .subscriptions import Subscription
from .timing import Timing
from .view import Heard, Log

# Leases that one record ends: with their ids some 50 kB.
_EXPIRED: Final = 1000


class Domain:
    """The domain as the agent `node` knows it. `incarnation` must be greater than that of every process of this node before: the time of
    its start in nanoseconds."""

    def __init__(self, node: str, incarnation: int, timing: Timing | None = None) -> None:
        self.node, self.incarnation = node, incarnation
        self.timing = timing or Timing()
        self.ready = False
        self.stopped = False
        self._key = node, incarnation
        self._sequence = 0
        self._state: State | None = None
        self._log = Log()
        self._tail: list[tuple[int, Record]] = []
        self._gatherings: dict[tuple[str, int, int], Gathering] = {}
        self._heard: dict[tuple[str, int], Heard] = {}
        self._leases = Leases()
        self._sent: deque[tuple[int, float]] = deque()
        self._sent_at: float | None = None
        self._hurry = False
        self._own_end = self._since = float("-inf")
        self._own_read = False
        self._asked_at = self._joined_heard_at = float("-inf")
        self._waits_since: float | None = None
        self._wanted = -1
        self._writing: Generator[Snapshot, None, None] | None = None
        self._written, self._written_at = -1, float("-inf")

    # --- reading the log ---

    @property
    def applied(self) -> int:
        """The offset of the last record in the state, -1 while joining."""
        return self._state.applied if self._state is not None else -1

    def apply(self, offset: int, record: Record | None, now: float, size: int = 0) -> list[Change]:
        """Take the next record of the log (None: one that cannot be read) of `size` bytes. A record that was given before does nothing.

        The state, and all changes but Ready and Superseded, depend on the records only.
        """
        if not self._log.take(offset, size):
            return []
        if self._state is None and offset == 0:
            self._state = State()
        if record is None:
            if self._state is not None:
                self._state.applied = offset
            return []
        changes: list[Change] = self._own(record, now)
        loaded = None
        if isinstance(record, Snapshot):
            loaded = self._part(record, size, changes)
        elif isinstance(record, SnapshotWanted):
            self._wanted = offset
        if self._state is not None:
            changes += self._apply(offset, record, now)
        else:
            self._keep(offset, record, now)
            if loaded is not None:
                changes += self._load(loaded, now)
        if not self.ready and self._state is not None and self._key in self._state.members:
            self.ready = True
            changes.append(Ready())
        return changes

    def _own(self, record: Record, now: float) -> list[Change]:
        if record.by.node != self.node:
            return []
        if record.by.incarnation > self.incarnation:
            return self._supersede(record.by.incarnation)
        if record.by.incarnation == self.incarnation and isinstance(record, Announced):
            self._own_read = True
        return []

    def _supersede(self, incarnation: int) -> list[Change]:
        known, self.stopped = self.stopped, True
        return [] if known else [Superseded(incarnation)]

    def _apply(self, offset: int, record: Record, now: float) -> list[Change]:
        assert self._state is not None
        changes = self._state.apply(offset, record)
        if isinstance(record, Announced):
            self._announced(offset, record, now)
        elif isinstance(record, Left):
            if (record.node, record.incarnation) not in self._state.members:
                self._heard.pop((record.node, record.incarnation), None)
        elif isinstance(record, Subscribed):
            self._hurry = True
            self._lease(changes, now)
        return changes

    def _lease(self, changes: list[Change], now: float) -> None:
        for change in changes:
            if isinstance(change, SubscriptionAdded):
                self._leases.add(change.subscription, now)
            elif isinstance(change, SubscriptionChanged):
                self._leases.add(change.after, now)

    def _announced(self, offset: int, record: Announced, now: float) -> None:
        assert self._state is not None
        member = self._state.members.get(record.by[:2])
        if member is None or member.heard != offset:
            return
        self._heard.setdefault(member.key, Heard()).hear(offset, now, self.timing.lease)
        if member.key == self._key:
            self._count_on(record.by.sequence, now)

    def _count_on(self, sequence: int, now: float) -> None:
        """The own lease goes on from when the heartbeat was sent that has been read back."""
        while self._sent and self._sent[0][0] <= sequence:
            number, sent = self._sent.popleft()
            end = sent + self.timing.own_lease
            if number == sequence and end > self._own_end:
                if now >= self._own_end:
                    self._since = now
                self._own_end = end

    # --- joining ---

    def _keep(self, offset: int, record: Record, now: float) -> None:
        """Until there is a state that it can be applied to."""
        if isinstance(record, Announced) and record.applied >= 0:
            self._joined_heard_at = now
        if isinstance(record, Snapshot):
            self._asked_at = now  # one is being written
        self._tail.append((offset, replace(record, lines="") if isinstance(record, Snapshot) else record))

    def _part(self, record: Snapshot, size: int, changes: list[Change]) -> Gathering | None:
        """Gather a part; the snapshot if it is complete and nothing is missing between what it describes and what has been read."""
        if record.base + 1 < self._log.first:
            return None
        key = (*record.by[:2], record.number)
        gathering = self._gatherings.setdefault(key, Gathering(record.base, self._state is None))
        try:
            complete = gathering.add(record, size)
        except ClacksError:  # a joining agent asks for another snapshot after a while
            changes.append(Ignored(record.by, "malformed"))
            return None
        if not complete:
            return None
        self._log.described(gathering.base, gathering.size)
        for other in [other for other, one in self._gatherings.items() if one.base <= gathering.base]:
            del self._gatherings[other]
        return gathering

    def _load(self, gathering: Gathering, now: float) -> list[Change]:
        """Begin with a snapshot, and go on with what came after what it describes."""
        self._state = gathering.state()
        for member in self._state.members.values():
            self._heard[member.key] = Heard(now)
        writer = self._state.writers.by_node.get(self.node)
        changes: list[Change] = []
        if writer is not None and writer.incarnation > self.incarnation:
            changes += self._supersede(writer.incarnation)
        for one in self._state.subscriptions:
            changes.append(SubscriptionAdded(one))
        self._lease(changes, now)
        tail, self._tail = self._tail, []
        for offset, record in tail:
            if offset > gathering.base:
                changes += self._apply(offset, record, now)
        return changes

    def stranded(self, now: float) -> bool:
        """Nobody has the state: the log holds no snapshot that can be used, and no agent that has joined announces itself. It is lost; an
        administrator can delete the stream, and clients subscribe again."""
        if self._state is not None or self._waits_since is None:
            return False
        return now >= max(self._waits_since, self._joined_heard_at) + 2 * self.timing.lease

    # --- the own lease, and the others' ---

    def may_take(self, now: float) -> bool:
        """Whether this agent may take and hand over events. Ask for each event, with a `now` that is read when the event is in hand: then
        an agent that hangs between question and hand-over does no harm, as its event came before any subscription that it does not know."""
        return self.ready and not self.stopped and now < self._own_end

    def reached(self, offset: int, now: float) -> bool:
        """Whether every agent that may take events has applied the record at `offset`. True at the latest a lease after this agent read
        that record: a heartbeat gives its sender a lease only when it has applied all that is before it in the log, so whoever has not
        applied `offset` by then lives on a heartbeat from before it, at the latest read as late."""
        if not self.ready or self._state is None or offset > self._state.applied:
            return False
        return not any(
            member.applied < offset and key != self._key and self._heard[key].holds(offset, now, self.timing.lease)
            for key, member in self._state.members.items()
        )

    def live(self, now: float) -> list[Member]:
        """The members that take events, as far as this agent has heard."""
        state = self._state
        if state is None:
            return []
        return [
            one for one in state.members.values() if one.joined and not one.superseded and not self._silent(one, now)
        ]  # fmt: skip

    def _silent(self, member: Member, now: float) -> bool:
        """Not heard of for a lease, in which this agent was there to hear."""
        return member.key != self._key and now >= max(self._heard[member.key].at, self._since) + self.timing.lease

    def leads(self, now: float) -> bool:
        """Whether this agent is the one to decide: of those that live, the one with the smallest name. For a while two may think so; what
        they write does no harm."""
        return self.may_take(now) and not any(member.node < self.node for member in self.live(now))

    # --- writing ---

    def by(self) -> By:
        """The next number for a record that this agent writes."""
        self._sequence += 1
        return By(self.node, self.incarnation, self._sequence)

    def heartbeat_due(self, now: float) -> bool:
        if self.stopped:
            return False
        wait = self.timing.hurry if self._hurry else self.timing.interval
        return self._sent_at is None or now >= self._sent_at + wait

    def heartbeat(self, now: float, load: float, latency: float, workers: int, methods: tuple[Method, ...]) -> Announced:
        """The next heartbeat; `now` must not be later than its sending. What this agent serves is in it until the log says so."""
        self._sent_at, self._hurry = now, False
        by = self.by()
        self._sent.append((by.sequence, now))
        while self._sent[0][1] <= now - self.timing.lease:
            self._sent.popleft()
        own = self._state.members.get(self._key) if self._state is not None else None
        known = own is not None and own.methods == methods
        applied = self.applied if self.ready else -1
        return Announced(by, applied, load, latency, workers, self._log.start, None if known else methods)

    def leave(self) -> Left:
        """The last record of this agent: it has stopped taking events and does not begin again."""
        self.stopped = True
        return Left(self.by(), self.node, self.incarnation)

    def tick(self, now: float) -> list[Record]:
        """What is to be decided; call it four times a second. It takes 5 ms at most."""
        if self.stopped:
            return []
        state, timing = self._state, self.timing
        if state is None:
            if not self._own_read or now < self._asked_at + timing.retry:
                return []
            self._asked_at = now
            self._waits_since = self._waits_since if self._waits_since is not None else now
            return [SnapshotWanted(self.by())]
        overdue = self._leases.overdue(now, self._since, 1 + 2 * timing.drift, timing.grace, state.subscriptions.by_id)
        if not self.leads(now):
            return []
        records: list[Record] = []
        for member in state.members.values():
            heard = self._heard[member.key]
            if self._silent(member, now) and now >= heard.asked_at + timing.retry:
                heard.asked_at = now
                records.append(Left(self.by(), member.node, member.incarnation, member.heard))
        for start in range(0, len(overdue), _EXPIRED):
            some = overdue[start : start + _EXPIRED]
            records.append(Expired(self.by(), tuple((one.id, one.seen) for one in some)))
        return records

    def snapshot_due(self, now: float) -> bool:
        """Whether to write a snapshot: this agent leads, and somebody joins or much has been written since the last one."""
        if self._writing is not None:
            if getgeneratorstate(self._writing) != GEN_CLOSED:
                return False
            self._writing, self._written_at = None, now
        coming = self._log.base < self._written and now < self._written_at + self.timing.retry
        if coming or not self.leads(now):
            return False
        return self._wanted > self._log.base or self._log.since >= self.timing.snapshot_after(self._log.size)

    def snapshot(self) -> Generator[Snapshot, None, None]:
        """The parts of a snapshot of the state as it is, each made when it is asked for (2 ms). Close the iterator if it is given up."""
        if self._state is None:
            raise ValueError("an agent that is joining has no state to write")
        base, head, subscriptions = rows_of(self._state)
        self._written = base
        self._writing = self._parts(base, head, subscriptions)
        return self._writing

    def _parts(self, base: int, head: list[str], subscriptions: list[Subscription]) -> Generator[Snapshot, None, None]:
        number = self._sequence + 1
        for part, (last, lines) in enumerate(parts_of(head, subscriptions, self.timing.part_bytes)):
            yield Snapshot(self.by(), number, base, part, last, lines)

    @property
    def base(self) -> int:
        """The offset up to which the newest complete snapshot in the log describes everything, -1 without one."""
        return self._log.base

    @property
    def crowded(self) -> bool:
        """A snapshot takes more than its share of the log: the stream needs a greater retention (timing.py)."""
        return self._log.size > self.timing.share

    # --- questions ---

    def nodes(self, now: float) -> dict[str, dict[str, Any]]:
        """The agents that live, as getNodes shows them; age in seconds since the last heartbeat was read."""
        return {
            one.node: {
                "load": round(one.load, 3),
                "latency": round(one.latency, 6),
                "workers": one.workers,
                "age": round(max(0.0, now - self._heard[one.key].at), 3),
            }
            for one in sorted(self.live(now), key=lambda member: member.node)
        }

    def providers(self, target: str, method: str, now: float) -> list[str]:
        """The nodes that serve a command, the least loaded first."""
        serving = [one for one in self.live(now) if one.offers and (target, method) in one.offers]
        return [one.node for one in sorted(serving, key=lambda member: (member.load, member.node))]

    def methods(self, target: str, now: float) -> dict[str, dict[str, Any]]:
        """The commands that are served from a target by any agent, as getMethods shows them."""
        found: dict[str, dict[str, Any]] = {}
        for one in sorted(self.live(now), key=lambda member: member.node, reverse=True):
            found.update({method.name: dict(method.extra) for method in one.methods if method.target == target})
        return dict(sorted(found.items()))

    def makes(self, queue: str) -> bool:
        """Whether this process is known to make it, and has not been taken for gone since."""
        member = self._state.members.get(self._key) if self._state is not None else None
        return member is not None and queue in member.making

    def subscription(self, id: str) -> Subscription | None:  # noqa: A002
        return self._state.subscriptions.by_id.get(id) if self._state is not None else None

    def named(self, user: str, name: str) -> Subscription | None:
        """The subscription of a user that has this name; None also for the name ""."""
        return self._state.subscriptions.named(user, name) if self._state is not None else None

    def subscriptions(self, user: str | None = None) -> list[Subscription]:
        """All, or those of a user, in the order of their ids."""
        if self._state is None:
            return []
        return sorted(self._state.subscriptions if user is None else self._state.subscriptions.of(user), key=lambda one: one.id)

    def counts(self) -> dict[str, int]:
        state = self._state or State()
        return {"subscriptions": len(state.subscriptions), "users": len(state.subscriptions.users()), "members": len(state.members)}

    def digest(self) -> str:
        """Equal for agents that have applied the same records (see `State.digest`)."""
        return (self._state or State()).digest()
