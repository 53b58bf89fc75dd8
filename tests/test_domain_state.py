"""The replicated state of a domain: many agents over one simulated log, with clocks that run wrong, readers that lag, processes that hang,
crash, come back or run twice, records that arrive late or twice, and a log that is cut off as soon as it may be.

A longer run: `python tests/test_domain_state.py 1000 [first seed]` (schedules; each is some minutes in the life of a domain).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from clacks.agent.domain import (
    Announced,
    By,
    Change,
    Domain,
    Expired,
    Ignored,
    Left,
    Making,
    Method,
    NodeCame,
    NodeLeft,
    QueueComing,
    QueueUnused,
    Ready,
    Record,
    Refused,
    Renewed,
    Snapshot,
    SnapshotWanted,
    Subscribed,
    Subscription,
    SubscriptionAdded,
    SubscriptionChanged,
    SubscriptionRemoved,
    SubscriptionSuspended,
    SubscriptionTaken,
    Superseded,
    Suspended,
    Timing,
    Unsubscribed,
    decode,
    encode,
)
from clacks.agent.domain.leases import BATCH, Leases
from clacks.agent.domain.members import WINDOW, Writer
from clacks.agent.domain.state import State
from clacks.common.errors import ClacksError

# Snapshots of some kilobytes, in several parts, so that the log is cut many times in a short test.
SMALL = Timing(part_bytes=700, snapshot_floor=6_000, retention=400_000, segment=4_000)
METHODS = (Method("core", "getNodes", {"path": "getNodes"}),)
STEP = 0.25  # seconds between two turns of an agent that is well


# --- the simulated world ---------------------------------------------------------------------------------------------------------------


@dataclass
class Process:
    """One process of an agent, with the driver that a real one has around its `Domain`."""

    name: str
    domain: Domain
    rate: float
    started: float
    position: int
    hung: bool = False
    deaf: bool = False
    mute: bool = False
    ended: bool = False
    index: dict[str, Subscription] = field(default_factory=dict)
    making: dict[str, Subscribed] = field(default_factory=dict)  # what it writes when it has made the queue
    made: list[Subscribed] = field(default_factory=list)
    pending: dict[str, tuple[int, float]] = field(default_factory=dict)
    outbox: list[bytes] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    writing: Iterator[Snapshot] | None = None

    def clock(self, time: float) -> float:
        return 1000.0 + self.started * 7 + (time - self.started) * self.rate


@dataclass
class Client:
    """Who has a subscription, and renews it while it lives."""

    id: str
    lease: float
    alive: bool = True
    renewed_at: float = 0.0


class World:
    """The log, the processes and the clients, and what must hold at any moment."""

    def __init__(self, timing: Timing = SMALL, compared: int = 1) -> None:
        """The states are compared at every offset that `compared` divides."""
        self.timing, self.compared = timing, compared
        self.time = 0.0
        self.log: dict[int, bytes] = {}
        self.first = self.next = 0
        self.written_at: list[float] = []
        self.processes: list[Process] = []
        self.clients: dict[str, Client] = {}
        self.answered: dict[str, int] = {}
        self.adrift: list[bytes] = []  # written by processes that are no more, and not stored yet
        self.reference = State()
        self.digests: dict[int, str] = {}
        self.renewals: dict[str, float] = {}
        self.bases: list[int] = [-1]
        self.parts: dict[tuple[str, int, int], set[int]] = {}
        self.queues: set[str] = set()  # those that have been made
        self.unused: set[str] = set()  # those that whoever leads deletes
        self.trace: list[str] = []
        self.count = 0

    def say(self, text: str) -> None:
        self.trace.append(f"{self.time:9.3f}  {text}")

    # --- the log ---

    def store(self, body: bytes) -> None:
        offset, self.next = self.next, self.next + 1
        self.log[offset] = body
        self.written_at.append(self.time)
        try:
            record = decode(body)
        except ClacksError:
            record = None
        if record is None:
            self.reference.applied = offset
        else:
            self._refer(offset, record)
        if offset % self.compared == 0:
            self.digests[offset] = self.reference.digest()

    def _refer(self, offset: int, record: Record) -> None:
        if isinstance(record, Snapshot):
            self._count_part(record)
        changes = self.reference.apply(offset, record)
        if isinstance(record, Renewed) and not any(isinstance(change, Ignored) for change in changes):
            self.renewals.update(dict.fromkeys(record.ids, self.time))
        for change in changes:
            if isinstance(change, SubscriptionAdded):
                self.renewals[change.subscription.id] = self.time
                assert change.subscription.queue not in self.unused, f"{change.subscription} has a queue that is deleted"
            elif isinstance(change, QueueUnused):
                assert change.queue not in {one.queue for one in self.reference.subscriptions}, f"{change.queue} is in use"
                self.unused.add(change.queue)
            if isinstance(change, SubscriptionRemoved):
                self.unused.add(change.subscription.queue)
            if isinstance(change, SubscriptionRemoved) and change.reason == "lease":
                gone = change.subscription
                passed = self.time - self.renewals[gone.id]
                assert passed >= gone.lease, f"{gone} was renewed {passed:.2f} s ago and lost its lease of {gone.lease} s"

    def _count_part(self, record: Snapshot) -> None:
        got = self.parts.setdefault((record.by.node, record.by.incarnation, record.number), set())
        got.add(record.part)
        if record.last:
            got.add(-1)
        if -1 in got and len(got) == max(got) + 2 and record.base > self.bases[-1]:
            self.bases.append(record.base)

    def cut(self, keep: int = 0) -> None:
        """Retention at its worst: what the newest complete snapshot makes superfluous is gone at once."""
        first = max(self.first, self.bases[-1] + 1 - keep)
        for offset in range(self.first, first):
            del self.log[offset]
        if first > self.first:
            self.say(f"the log is cut up to {first} (of {self.next})")
            self.first = first

    # --- processes ---

    def start(self, name: str, rate: float, hint: bool = True) -> Process:
        """With the hint of a heartbeat the process reads from the newest snapshot, and from the beginning of the log otherwise."""
        self.count += 1
        position = self.first
        if hint:
            known = [member.snapshot for member in self.reference.members.values()]
            position = max([position, *known])
        process = Process(name, Domain(name, self.count, self.timing), rate, self.time, position)
        self.processes.append(process)
        self.say(f"{name}/{self.count} starts, reads from {position}, its clock runs at {rate:.4f}")
        return process

    def end(self, process: Process, arriving: bool = False) -> None:
        process.ended = True
        self.say(f"{process.name}/{process.domain.incarnation} is no more")
        if arriving:
            self.adrift += process.outbox
        process.outbox = []

    @property
    def alive(self) -> list[Process]:
        return [one for one in self.processes if not one.ended]

    def turn(self, process: Process, reads: int = 1_000_000) -> None:
        """What a driver does when it is its turn, in the order in which it does it."""
        if process.ended or process.hung:
            return
        domain, now = process.domain, process.clock(self.time)
        process.outbox += [encode(replace(record, by=domain.by())) for record in process.made]
        process.made = []
        if not process.deaf and not self._read(process, now, reads):
            return
        self._answer(process, now)
        if domain.heartbeat_due(now):
            process.outbox.append(encode(domain.heartbeat(now, len(process.name), 0.0, 2, METHODS)))
        process.outbox += map(encode, domain.tick(now))
        if process.writing is None and domain.snapshot_due(now):
            process.writing = domain.snapshot()
        part = next(process.writing, None) if process.writing is not None else None
        if part is None:
            process.writing = None
        else:
            process.outbox.append(encode(part))
        if not process.mute:
            self.flush(process)

    def flush(self, process: Process) -> None:
        for body in process.outbox:
            self.store(body)
        process.sent = (process.sent + process.outbox)[-20:]
        process.outbox = []

    def _read(self, process: Process, now: float, reads: int) -> bool:
        """False if the process has found that it must not go on."""
        if process.position < self.first:
            self.end(process)
            self.start(process.name, process.rate)
            return False
        end = min(self.next, process.position + reads)
        while process.position < end:
            offset, body = process.position, self.log[process.position]
            process.position += 1
            try:
                record = decode(body)
            except ClacksError:
                record = None
            changes = process.domain.apply(offset, record, now, len(body))
            assert not process.domain.apply(offset, record, now, len(body)), "a record was applied twice"
            if any(isinstance(change, Superseded) for change in changes):
                self.end(process, arriving=True)
                return False
            self._carry_out(process, offset, changes, now)
        self._check_state(process)
        return True

    def _carry_out(self, process: Process, offset: int, changes: list[Change], now: float) -> None:
        index = process.index
        for change in changes:
            if isinstance(change, SubscriptionAdded):
                one = change.subscription
                assert one.id not in index, f"{one} was added twice"
                index[one.id] = one
                self._pend(process, one.id, offset, now)
            elif isinstance(change, SubscriptionRemoved):
                assert index.pop(change.subscription.id) is change.subscription
            elif isinstance(change, QueueComing) and change.queue in process.making:
                self.queues.add(change.queue)
                process.made.append(process.making.pop(change.queue))
            elif isinstance(change, SubscriptionTaken):
                self._pend(process, change.asked, offset, now)
            elif isinstance(change, SubscriptionChanged):
                assert index[change.after.id] is change.before
                index[change.after.id] = change.after
                self._pend(process, change.asked, offset, now)
            elif isinstance(change, SubscriptionSuspended):
                one = change.subscription
                assert not index[one.id].suspended
                assert index[one.id].row() == one.row()[:-1], "nothing else has changed"
                index[one.id] = one

    def _pend(self, process: Process, asked: str, offset: int, now: float) -> None:
        if asked.startswith(f"{process.name}.{process.domain.incarnation}."):
            process.pending[asked] = (offset, now)

    def _answer(self, process: Process, now: float) -> None:
        for asked, (offset, read) in list(process.pending.items()):
            if process.domain.reached(offset, now):
                del process.pending[asked]
                self.answered[asked] = offset
                self.say(f"{asked} is answered (offset {offset})")
            elif process.domain.ready:
                assert now < read + self.timing.lease, f"{asked} waits for longer than a lease"

    # --- clients ---

    def subscribe(self, process: Process, user: str, lease: float = 20.0, **more: Any) -> str:
        id = f"{process.name}.{process.domain.incarnation}.{self.count}"  # noqa: A001
        self.count += 1
        filters = more.pop("filters", (f"/f:{user}",))
        record = Subscribed(process.domain.by(), id, user, f"queue-{id}", filters, lease=lease, **more)
        if record.made:
            process.making[record.queue] = record
            process.outbox.append(encode(Making(process.domain.by(), record.queue)))
        else:
            process.outbox.append(encode(record))
        self.clients[id] = Client(id, lease, renewed_at=self.time)
        self.say(f"{user} subscribes {id} {more or ''}")
        return id

    def suspend(self, process: Process, id: str, filters: tuple[str, ...]) -> None:  # noqa: A002
        """An agent has found these filters of a subscription too dear, maybe a while ago."""
        self.say(f"{id} is suspended through {process.name}")
        process.outbox.append(encode(Suspended(process.domain.by(), id, filters, "too dear")))
        there = self.clients.get(id)
        if there is not None and there.lease:
            there.alive = False

    def renew(self, process: Process) -> None:
        """Every client renews at a third of its lease, through whichever agent it reaches."""
        due = [one for one in self.clients.values() if one.alive and one.lease and self.time >= one.renewed_at + one.lease / 3]
        if due and process.domain.ready and not process.domain.stopped:
            for one in due:
                one.renewed_at = self.time
            process.outbox.append(encode(Renewed(process.domain.by(), tuple(one.id for one in due))))

    # --- what must hold ---

    def _check_state(self, process: Process) -> None:
        domain = process.domain
        if domain.applied in self.digests:
            assert domain.digest() == self.digests[domain.applied], f"{process.name} has another state at {domain.applied}"
            assert [one.id for one in domain.subscriptions()] == sorted(process.index), f"{process.name} has another index"

    def check(self) -> None:
        """Nobody takes events who does not have what was answered as done. Hung processes too: they may go on at any moment."""
        newest = max(self.answered.values(), default=-1)
        for process in self.alive:
            if process.domain.may_take(process.clock(self.time)):
                assert process.domain.applied >= newest, (
                    f"{process.name}/{process.domain.incarnation} takes events at {process.domain.applied}, and {newest} was answered"
                )

    def run(self, seconds: float, step: float = STEP) -> None:
        """Those that are well have their turns."""
        end = self.time + seconds
        while self.time < end:
            self.time += step
            self.check()
            for process in self.alive:
                if not (process.hung or process.deaf or process.mute):
                    self.renew(process)
                self.turn(process)
                self.check()

    def settle(self) -> None:
        """Everything is well again. Then, within the bounds: whoever is orphaned is gone, whoever renewed is there, all are alike, and
        nobody waits."""
        self.say("everything is well")
        for body in self.adrift:
            self.store(body)
        self.adrift = []
        for process in self.alive:
            process.hung = process.deaf = process.mute = False
        self.run(2.0)  # some find that they are superseded
        if not self.alive:
            self.start("z", 1.0)
        self.run(2.0)
        there = self.reference.subscriptions.by_id
        # Whoever took a durable one over with another lease decides on its end.
        kept = {one.id for one in self.clients.values() if one.alive and one.id in there and there[one.id].lease == one.lease}
        longest = max((one.lease for one in self.clients.values()), default=0.0)
        timing = self.timing
        # Two leases until those that are gone are known to be, one until their decisions are made again by another.
        bound = longest * (1.25 + 2 * timing.drift) * (1 + timing.drift) + timing.grace + 3 * timing.lease
        self.run(bound, 0.5)
        orphans = [one.id for one in self.clients.values() if not one.alive and one.id in there and there[one.id].lease]
        assert not orphans, f"still there after {bound:.1f} s: {orphans}"
        assert kept <= there.keys(), f"lost: {kept - there.keys()}"
        leaked = self.queues - self.unused - {one.queue for one in there.values()}
        assert not leaked, f"nobody deletes {leaked}"
        now = {process.name: process.clock(self.time) for process in self.alive}
        for process in self.alive:
            assert process.domain.ready, f"{process.name} has not joined"
            assert not process.pending, f"{process.name} waits: {process.pending}"
            assert process.domain.may_take(now[process.name]), f"{process.name} does not take events"
            assert process.domain.nodes(now[process.name]).keys() == {one.name for one in self.alive}
            assert process.domain.applied >= self.next - len(self.alive) - 10
            assert len(process.domain._leases) <= len(self.clients)


# --- schedules -------------------------------------------------------------------------------------------------------------------------

RATES = (1 - SMALL.drift, 1.0, 1 + SMALL.drift)
NODES = ("a", "b", "c", "d", "e")
GARBAGE = (b"", b"{", b"[]", b'{"kind":"Later"}', b'{"kind":"Left"}', b"\xff\n\xff", b'{"kind":"Renewed","by":["a",1,1],"ids":[1]}')


class Schedule:
    """What can happen, drawn from one source of chance."""

    def __init__(self, seed: int, timing: Timing = SMALL) -> None:
        self.chance = random.Random(seed)
        self.world = World(timing)

    def play(self, steps: int) -> None:
        world, chance = self.world, self.chance
        for name in chance.sample(NODES, chance.randint(2, 4)):
            world.start(name, chance.choice(RATES))
        world.run(2.0)
        for _ in range(steps):
            getattr(self, chance.choice(self.WHAT))()
            world.check()
        world.settle()

    WHAT = (
        *("subscribe",) * 6, *("run",) * 6, *("turn",) * 6, *("wait",) * 3, *("orphan",) * 2, "unsubscribe", "durable", "durable",
        "suspend", "suspend", "start", "hang", "wake", "wake", "deafen", "mute", "crash", "leave", "arrive", "repeat", "cut", "garbage",
        "stale",
    )  # fmt: skip

    def one(self) -> Process | None:
        return self.chance.choice(self.world.alive) if self.world.alive else None

    def subscribe(self) -> None:
        one = self.one()
        if one is not None and one.domain.ready and not one.domain.stopped:
            for _ in range(self.chance.choice((1, 1, 1, 5))):
                self.world.subscribe(one, self.chance.choice("uvw"), self.chance.choice((3.0, 20.0, 20.0, 60.0)), limit=30)
            self.world.turn(one, 0)

    def durable(self) -> None:
        one = self.one()
        if one is not None and one.domain.ready and not one.domain.stopped:
            self.world.subscribe(
                one, "u", self.chance.choice((0.0, 20.0)), name=self.chance.choice("mn"), replace=self.chance.random() < 0.5,
                shared=self.chance.random() < 0.5, filters=self.chance.choice((("/f:u",), ("/f:u", "/f:v"))),
                made=self.chance.random() < 0.7,
            )  # fmt: skip

    def unsubscribe(self) -> None:
        one = self.one()
        if one is not None and self.world.clients and not one.domain.stopped:
            id = self.chance.choice(list(self.world.clients))  # noqa: A001
            self.world.clients[id].alive = False
            self.world.say(f"{id} is ended through {one.name}")
            one.outbox.append(encode(Unsubscribed(one.domain.by(), id, "asked")))

    def suspend(self) -> None:
        one = self.one()
        if one is not None and one.index and not one.domain.stopped:
            known = self.chance.choice([there for there in one.index.values() if there.name] or list(one.index.values()))
            self.world.suspend(one, known.id, self.chance.choice((known.filters, known.filters, ("/f:other",))))

    def orphan(self) -> None:
        alive = [client for client in self.world.clients.values() if client.alive]
        for client in self.chance.sample(alive, min(3, len(alive))):
            client.alive = False
            self.world.say(f"the client of {client.id} is gone")

    def run(self) -> None:
        self.world.run(self.chance.choice((0.5, 2.0, 7.0, 20.0)))

    def wait(self) -> None:
        """Time goes by and nobody has a turn."""
        self.world.time += self.chance.choice((0.01, 0.3, 1.0, 5.87, 5.88, 5.9, 6.0, 6.1))
        self.world.check()

    def turn(self) -> None:
        one = self.one()
        if one is not None:
            self.world.turn(one, self.chance.choice((0, 1, 3, 10, 1000)))

    def start(self) -> None:
        if len(self.world.alive) < 5:
            self.world.start(self.chance.choice(NODES), self.chance.choice(RATES), self.chance.random() < 0.7)

    def hang(self) -> None:
        self._set("hung", True)

    def deafen(self) -> None:
        self._set("deaf", True)

    def mute(self) -> None:
        self._set("mute", True)

    def _set(self, what: str, value: bool) -> None:
        one = self.one()
        if one is not None:
            setattr(one, what, value)
            self.world.say(f"{one.name}/{one.domain.incarnation} is {'' if value else 'not '}{what}")

    def wake(self) -> None:
        bad = [one for one in self.world.alive if one.hung or one.deaf or one.mute]
        if bad:
            one = self.chance.choice(bad)
            one.hung = one.deaf = one.mute = False
            self.world.say(f"{one.name}/{one.domain.incarnation} is well again")

    def crash(self) -> None:
        # One stays: a snapshot that nobody can finish would leave the log to those that were there before it was cut.
        one = self.one()
        if one is not None and len(self.world.alive) > 1:
            self.world.end(one, arriving=self.chance.random() < 0.5)

    def leave(self) -> None:
        one = self.one()
        if one is not None and not one.hung and len(self.world.alive) > 1:
            one.outbox.append(encode(one.domain.leave()))
            self.world.flush(one)
            self.world.end(one)

    def arrive(self) -> None:
        """Records of the dead, one at a time and in any order."""
        if self.world.adrift:
            self.world.say("a record of a process that is no more is stored")
            self.world.store(self.world.adrift.pop(self.chance.randrange(len(self.world.adrift))))

    def repeat(self) -> None:
        """A driver whose connection was lost sends again what was not confirmed."""
        one = self.one()
        if one is not None and not one.hung:
            self.world.say(f"{one.name} sends its last records again")
            for body in one.sent[-self.chance.randint(1, 20) :]:
                self.world.store(body)

    def cut(self) -> None:
        self.world.cut(self.chance.choice((0, 0, 3)))

    def garbage(self) -> None:
        self.world.store(self.chance.choice(GARBAGE))

    def stale(self) -> None:
        """Decisions on what was long ago, by somebody who thinks that it leads."""
        one = self.one()
        if one is not None and self.world.next and not one.domain.stopped:
            heard = self.chance.randrange(self.world.next)
            for node, incarnation in list(self.world.reference.members):
                if self.world.reference.members[node, incarnation].heard != heard:
                    self.world.store(encode(Left(one.domain.by(), node, incarnation, heard)))
            leases = tuple((sub.id, sub.renewed - 1) for sub in self.world.reference.subscriptions)
            self.world.store(encode(Expired(one.domain.by(), leases)))


def play(seed: int, steps: int) -> World:
    schedule = Schedule(seed)
    try:
        schedule.play(steps)
    except Exception as error:
        world = schedule.world
        raise AssertionError("\n".join([f"seed {seed}, at {world.time:.3f} s: {error!r}", *world.trace[-80:]])) from error
    return schedule.world


@pytest.mark.parametrize("seed", range(40))
def test_any_schedule(seed: int) -> None:
    world = play(seed, 100)
    assert world.next > 100


class Machine(RuleBasedStateMachine):
    """The same world, with every step chosen by hypothesis, which makes the failing schedule short."""

    process = st.integers(0, 9)

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def one(self, number: int) -> Process | None:
        alive = self.world.alive
        return alive[number % len(alive)] if alive else None

    @initialize(rates=st.lists(st.sampled_from(RATES), min_size=2, max_size=4))
    def agents(self, rates: list[float]) -> None:
        for name, rate in zip(NODES, rates, strict=False):
            self.world.start(name, rate)
        self.world.run(1.0)

    @rule(name=st.sampled_from(NODES), rate=st.sampled_from(RATES), hint=st.booleans())
    def start(self, name: str, rate: float, hint: bool) -> None:
        if len(self.world.alive) < 5:
            self.world.start(name, rate, hint)

    @rule(seconds=st.sampled_from((0.25, 1.0, 6.0, 15.0)))
    def run(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(seconds=st.floats(0.01, 7.0))
    def wait(self, seconds: float) -> None:
        self.world.time += seconds

    @rule(number=process, reads=st.integers(0, 8))
    def turn(self, number: int, reads: int) -> None:
        one = self.one(number)
        if one is not None:
            self.world.turn(one, reads)

    @rule(number=process, user=st.sampled_from("uv"), lease=st.sampled_from((2.0, 20.0)), name=st.sampled_from(("", "", "n")))
    def subscribe(self, number: int, user: str, lease: float, name: str) -> None:
        one = self.one(number)
        if one is not None and one.domain.ready:
            self.world.subscribe(one, user, lease, name=name, limit=20)
            self.world.turn(one, 0)

    @rule(number=process, name=st.sampled_from("nm"))
    def durable(self, number: int, name: str) -> None:
        one = self.one(number)
        if one is not None and one.domain.ready:
            self.world.subscribe(one, "u", 0.0, name=name, made=True)
            self.world.turn(one, 0)

    @rule(number=process, which=st.integers(0, 9))
    def suspend(self, number: int, which: int) -> None:
        one = self.one(number)
        if one is not None and one.index and not one.domain.stopped:
            known = sorted(one.index.values(), key=lambda known: known.id)[which % len(one.index)]
            self.world.suspend(one, known.id, known.filters)

    @rule()
    def orphan(self) -> None:
        for client in self.world.clients.values():
            client.alive = False

    @rule(number=process, how=st.sampled_from(("hung", "deaf", "mute")), value=st.booleans())
    def disturb(self, number: int, how: str, value: bool) -> None:
        one = self.one(number)
        if one is not None:
            setattr(one, how, value)

    @rule(number=process, arriving=st.booleans())
    def crash(self, number: int, arriving: bool) -> None:
        one = self.one(number)
        if one is not None and len(self.world.alive) > 1:
            self.world.end(one, arriving)

    @rule()
    def arrive(self) -> None:
        if self.world.adrift:
            self.world.store(self.world.adrift.pop())

    @rule()
    def cut(self) -> None:
        self.world.cut()

    @invariant()
    def safe(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.settle()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))


def test_a_thousand_subscriptions_while_agents_come_and_go() -> None:
    world = World(Timing(part_bytes=20_000, snapshot_floor=50_000), compared=10)
    for name in "abc":
        world.start(name, 1.0)
    world.run(1.0)
    for turn in range(20):
        agent = world.alive[turn % len(world.alive)]
        for number in range(50):
            world.subscribe(agent, f"user{number % 7}", 40.0)
        world.run(7.0, 0.5)
        if turn % 4 == 1:
            world.start("defab"[turn // 4], RATES[turn % 3])
        if turn % 4 == 3:
            world.end(world.alive[0])
            world.cut()
        for client in list(world.clients.values())[turn * 50 : turn * 50 + 20]:
            client.alive = False
        for client in list(world.clients.values())[turn * 50 + 20 : turn * 50 + 30]:
            one = world.alive[-1]
            if one.domain.ready:
                one.outbox.append(encode(Unsubscribed(one.domain.by(), client.id, "asked")))
            client.alive = False
    assert len(world.answered) >= 900  # those whose agent has crashed since are not
    world.settle()
    assert len({process.domain.digest() for process in world.alive if process.position == world.next}) == 1
    left = {one.id for one in world.alive[0].domain.subscriptions()}
    assert left == {client.id for client in world.clients.values() if client.alive} & left
    assert len(left) >= 350


# --- records ---------------------------------------------------------------------------------------------------------------------------

texts = st.text(max_size=8)
whole = st.integers(0, 1 << 40)
bys = st.builds(By, texts, whole, whole)
numbers = st.floats(-1e9, 1e9)
records = st.one_of(
    st.builds(
        Announced, bys, whole, numbers, numbers, whole, whole,
        st.none() | st.lists(st.builds(Method, texts, texts, st.dictionaries(texts, texts)), max_size=2).map(tuple),
    ),
    st.builds(Left, bys, texts, whole, st.integers(-1, 9)),
    st.builds(
        Subscribed, bys, texts, texts, texts, st.lists(texts, max_size=3).map(tuple), texts, texts, texts, st.booleans(), numbers, whole,
        st.booleans(), st.floats(0, 1e9), st.booleans(),
    ),
    st.builds(Making, bys, texts, st.booleans()),
    st.builds(Unsubscribed, bys, texts, texts),
    st.builds(Suspended, bys, texts, st.lists(texts, max_size=3).map(tuple), texts),
    st.builds(Renewed, bys, st.lists(texts).map(tuple)),
    st.builds(Expired, bys, st.lists(st.tuples(texts, whole)).map(tuple)),
    st.builds(SnapshotWanted, bys),
    st.builds(Snapshot, bys, whole, whole, whole, st.booleans(), st.text("abc\n")),
)  # fmt: skip


@given(records)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert decode(encode(record)) == record


@given(records, st.dictionaries(st.text("xyz", min_size=4), st.integers()))
def test_fields_of_later_versions_are_ignored(record: Record, more: dict[str, int]) -> None:
    import json

    head, line, rest = encode(record).partition(b"\n")
    assert decode(json.dumps(more | json.loads(head)).encode() + line + rest) == record


@given(st.binary() | records.flatmap(lambda record: st.integers(0, len(encode(record))).map(lambda cut: encode(record)[:cut])))
def test_whatever_is_in_the_log_is_a_record_or_refused(body: bytes) -> None:
    try:
        said = decode(body)
    except ClacksError as error:
        said = str(error)
    assert not isinstance(said, str) or "malformed" in said


MALFORMED = {
    b"": "Expecting value",
    b"[]": "no JSON object",
    b'{"kind":"Left","by":["a",1,1],"node":"a"}': "'incarnation' is missing",
    b'{"kind":"Unsubscribed","by":["a",1],"id":"x"}': "not enough values",
    b'{"kind":"Renewed","by":["a",1,1],"ids":["x",1]}': "a list of texts is something else",
    b'{"kind":"Announced","by":["a",1,1],"applied":true}': "'True' is no offset or count",
    b'{"kind":"Announced","by":["a",1,1],"applied":1,"load":NaN}': "NaN is no number",
    b'{"kind":"Announced","by":["a",1,1],"applied":1,"load":1e400}': "'inf' is no number",
}


@pytest.mark.parametrize(("body", "reason"), MALFORMED.items())
def test_what_is_malformed_is_refused_with_a_reason(body: bytes, reason: str) -> None:
    with pytest.raises(ClacksError, match="malformed") as caught:
        decode(body)
    assert reason in str(caught.value)


# --- rules of the state ----------------------------------------------------------------------------------------------------------------


class Log:
    """A state, and records written by `a/1` unless they say otherwise."""

    def __init__(self) -> None:
        self.state = State()
        self.sequence = 0

    def by(self, node: str = "a", incarnation: int = 1) -> By:
        self.sequence += 1
        return By(node, incarnation, self.sequence)

    def add(self, record: Record) -> list[Change]:
        return self.state.apply(self.state.applied + 1, record)

    def subscribe(self, id: str, user: str = "u", **more: Any) -> list[Change]:  # noqa: A002
        return self.add(Subscribed(self.by(), id, user, f"q-{id}", **more))


def test_a_user_has_as_many_subscriptions_as_the_limit_says() -> None:
    log = Log()
    assert [type(log.subscribe(id, limit=2)[0]) for id in "12"] == [SubscriptionAdded] * 2  # noqa: A001
    [refused] = log.subscribe("3", limit=2)
    assert isinstance(refused, Refused)
    assert (refused.id, refused.reason) == ("3", "limit")
    assert isinstance(log.subscribe("4", user="v", limit=2)[0], SubscriptionAdded)
    log.add(Unsubscribed(log.by(), "1"))
    assert isinstance(log.subscribe("3", limit=2)[0], SubscriptionAdded)


def test_a_durable_name_is_one_subscription() -> None:
    log = Log()
    log.subscribe("1", name="n", filters=("f",))
    [taken] = log.subscribe("2", name="n", filters=("f",), limit=1)
    assert isinstance(taken, SubscriptionTaken)
    assert (taken.subscription.id, taken.subscription.queue, taken.asked) == ("1", "q-1", "2")
    [refused] = log.subscribe("3", name="n", filters=("g",))
    assert isinstance(refused, Refused)
    assert refused.reason == "name-taken"
    [changed] = log.subscribe("4", name="n", filters=("g",), replace=True)
    assert isinstance(changed, SubscriptionChanged)
    assert (changed.after.id, changed.after.queue, changed.after.filters, changed.asked) == ("1", "q-1", ("g",), "4")
    for other in ({"lease": 10.0}, {"shared": True}):
        [refused] = log.subscribe("5", name="n", filters=("g",), replace=True, **other)
        assert isinstance(refused, Refused)
        assert refused.reason == "kind"
    assert isinstance(log.subscribe("5", user="v", name="n")[0], SubscriptionAdded)
    assert len(log.state.subscriptions) == 2


def test_what_kind_a_subscription_is_nothing_changes() -> None:
    log = Log()
    log.subscribe("1", name="n", shared=True)
    log.subscribe("2", name="m", shared=True, lease=10.0)
    for name, more, why in (
        ("n", {"shared": True, "lease": 10.0}, "durability"), ("n", {}, "sharing"), ("m", {"shared": True}, "durability"),
    ):  # fmt: skip
        [refused] = log.subscribe("3", name=name, replace=True, **more)
        assert isinstance(refused, Refused)
        assert (refused.reason, refused.why) == ("kind", why)


def test_a_durable_subscription_that_is_suspended_stays_and_is_taken_up_with_other_filters_or_on_request() -> None:
    log = Log()
    log.subscribe("1", name="n", filters=("f",))
    [suspended] = log.add(Suspended(log.by("b"), "1", ("f",), "too dear"))
    assert isinstance(suspended, SubscriptionSuspended)
    assert (suspended.subscription.queue, suspended.subscription.suspended) == ("q-1", "too dear")
    again = Suspended(log.by("c"), "1", ("f",), "so it is")
    assert log.add(again) == [Ignored(again.by, "stale")]
    [refused] = log.subscribe("2", name="n", filters=("f",))
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.why) == ("suspended", "too dear")
    [other] = log.subscribe("3", name="n", filters=("g",))
    assert isinstance(other, SubscriptionChanged)
    assert (other.after.id, other.after.queue, other.after.filters, other.after.suspended) == ("1", "q-1", ("g",), "")
    late = Suspended(log.by("b"), "1", ("f",), "too dear")
    assert log.add(late) == [Ignored(late.by, "stale")], "the filters that it is about are gone"
    log.add(Suspended(log.by("b"), "1", ("g",), "too dear"))
    [same] = log.subscribe("4", name="n", filters=("g",), replace=True)
    assert isinstance(same, SubscriptionChanged)
    assert not same.after.suspended
    log.add(Suspended(log.by("b"), "1", ("g",), "too dear"))
    [removed] = log.add(Unsubscribed(log.by(), "1"))
    assert isinstance(removed, SubscriptionRemoved)


def test_a_live_subscription_that_is_suspended_ends() -> None:
    log = Log()
    log.subscribe("1", lease=10.0)
    [removed] = log.add(Suspended(log.by("b"), "1", (), "too dear"))
    assert isinstance(removed, SubscriptionRemoved)
    assert removed.reason == "suspended: too dear"


def test_a_snapshot_says_what_is_suspended() -> None:
    alone = Alone("a")
    domain = alone.domains["a"]
    alone.write(Subscribed(domain.by(), "1", "u", "q", ("f", "g"), name="n"))
    alone.write(Subscribed(domain.by(), "2", "u", "q", name="m"))
    alone.write(Suspended(domain.by(), "1", ("f", "g"), "too dear"))
    start = len(alone.log)
    for part in domain.snapshot():
        alone.write(part)
    late = Domain("b", 9, SMALL)
    for offset in range(start, len(alone.log)):
        late.apply(offset, alone.log[offset], 0.0)
    assert late.digest() == domain.digest()
    assert [(one.id, one.suspended) for one in late.subscriptions()] == [("1", "too dear"), ("2", "")]


def test_a_renewal_in_between_outdates_the_decision_that_a_lease_has_run_out() -> None:
    log = Log()
    log.subscribe("1", lease=10.0)
    log.add(Renewed(log.by(), ("1",)))
    assert log.add(Expired(log.by("b"), (("1", 0),))) == [Ignored(By("b", 1, 3), "stale")]
    [removed] = log.add(Expired(log.by("b"), (("1", 1),)))
    assert isinstance(removed, SubscriptionRemoved)
    assert removed.reason == "lease"
    assert log.add(Renewed(log.by(), ("1",))) == [Refused("1", "unknown", By("a", 1, 5))]


def test_a_heartbeat_in_between_outdates_the_decision_that_a_node_is_gone() -> None:
    log = Log()
    assert log.add(Announced(log.by(), -1)) == [NodeCame("a", 1)]
    log.add(Announced(log.by(), 0))
    assert log.add(Left(log.by("b"), "a", 1, heard=0)) == [Ignored(By("b", 1, 3), "stale")]
    assert log.add(Left(log.by("b"), "a", 1, heard=1)) == [NodeLeft("a", 1, "silent")]
    assert log.add(Announced(log.by(), 3)) == [NodeCame("a", 1)]
    assert log.add(Left(log.by(), "a", 1)) == [NodeLeft("a", 1, "left")]


def test_the_later_incarnation_wins() -> None:
    log = Log()
    log.add(Announced(log.by(), -1))
    assert log.add(Announced(log.by("a", 2), -1)) == [NodeLeft("a", 1, "superseded"), NodeCame("a", 2)]
    assert log.add(Announced(old := log.by(), 0)) == [Ignored(old, "superseded")]
    assert [key for key, member in log.state.members.items() if not member.superseded] == [("a", 2)]
    domain = Domain("a", 1)
    assert domain.apply(0, Announced(By("a", 2, 1), -1), 0.0)[0] == Superseded(2)
    assert domain.stopped
    assert domain.tick(1.0) == []
    assert not domain.heartbeat_due(9.0)


def test_a_record_that_is_stored_again_brings_nothing_back() -> None:
    log = Log()
    record = Subscribed(log.by(), "1", "u", "q")
    log.add(record)
    log.add(Unsubscribed(log.by(), "1"))
    assert log.add(record) == [Ignored(record.by, "repeated")]
    assert len(log.state.subscriptions) == 0


def test_a_queue_that_its_maker_did_not_subscribe_with_is_unused_and_stays_so() -> None:
    log = Log()
    log.add(Announced(log.by(), -1))
    assert log.add(Making(log.by(), "q")) == [QueueComing("q")]
    assert log.add(Left(log.by("b"), "a", 1, 0)) == [NodeLeft("a", 1, "silent"), QueueUnused("q")]
    log.add(Announced(log.by(), -1))  # it was not gone, or the broker has kept that back
    record = Subscribed(log.by(), "1", "u", "q", name="n", made=True)
    assert log.add(record) == [Refused("1", "late", record.by), QueueUnused("q")]
    log.add(Making(log.by(), "r"))
    assert log.add(Announced(log.by("a", 2), -1))[:2] == [NodeLeft("a", 1, "superseded"), QueueUnused("r")]
    assert log.add(Making(stale := log.by("c"), "s")) == [Ignored(stale, "stale")]
    log.add(Making(log.by("a", 2), "t"))
    assert log.add(Making(log.by("a", 2), "t", given_up=True)) == [QueueUnused("t")]
    assert log.add(Making(stale := log.by("a", 2), "t", given_up=True)) == [Ignored(stale, "stale")]
    assert not any(member.making for member in log.state.members.values())


def test_of_two_queues_for_one_name_the_second_is_unused() -> None:
    log = Log()
    for node in "ab":
        log.add(Announced(log.by(node), -1))
        log.add(Making(log.by(node), f"q-{node}"))
    (added,) = log.add(Subscribed(log.by("a"), "1", "u", "q-a", name="n", made=True))
    assert isinstance(added, SubscriptionAdded)
    again = log.add(Subscribed(log.by("b"), "2", "u", "q-b", name="n", made=True))
    assert again == [SubscriptionTaken(added.subscription, "2"), QueueUnused("q-b")]
    assert not any(member.making for member in log.state.members.values())


@given(st.lists(st.integers(1, 40)), st.integers(0, 5))
def test_a_number_is_taken_once(numbers: list[int], far: int) -> None:
    writer = Writer(1)
    assert [number for number in numbers if writer.take(number)] == list(dict.fromkeys(numbers))
    writer.take(1000)
    assert not writer.take(1000 - WINDOW - far)
    assert writer.take(999)
    assert not writer.take(999)


# --- one agent -------------------------------------------------------------------------------------------------------------------------


class Alone:
    """Some domains over one log, in which each has read everything at once."""

    def __init__(self, *names: str, timing: Timing = SMALL) -> None:
        self.log: list[Record] = []
        self.domains = {name: Domain(name, number, timing) for number, name in enumerate(names, 1)}
        self.now = 0.0
        for _ in range(2):
            for name in names:
                self.beat(name)

    def write(self, record: Record) -> dict[str, list[Change]]:
        self.log.append(record)
        return {
            name: domain.apply(len(self.log) - 1, record, self.now, len(encode(record))) for name, domain in self.domains.items()
        }  # fmt: skip

    def beat(self, name: str, load: float = 0.0, methods: tuple[Method, ...] = METHODS) -> dict[str, list[Change]]:
        return self.write(self.domains[name].heartbeat(self.now, load, 0.0, 2, methods))


def test_getNodes_and_getMethods_and_who_serves_a_command() -> None:
    alone = Alone("a", "b", "c")
    alone.now = 2.0
    alone.beat("a", 0.7)
    alone.beat("b", 0.2, (*METHODS, Method("phones", "dial", {"path": "dial"})))
    one = alone.domains["a"]
    assert one.nodes(3.0)["b"] == {"load": 0.2, "latency": 0.0, "workers": 2, "age": 1.0}
    assert one.providers("core", "getNodes", 3.0) == ["c", "b", "a"]
    assert one.providers("phones", "dial", 3.0) == ["b"]
    assert one.methods("core", 3.0) == {"getNodes": {"path": "getNodes"}}
    assert one.methods("phones", 3.0) == {"dial": {"path": "dial"}}
    assert list(one.nodes(7.0)) == ["a", "b"]  # c was last read of at 0
    assert one.counts() == {"subscriptions": 0, "users": 0, "members": 3}


def test_methods_are_written_until_the_log_has_them() -> None:
    domain = Domain("a", 1)
    first, second = (domain.heartbeat(now, 0.0, 0.0, 2, METHODS) for now in (0.0, 1.0))
    assert first.methods == second.methods == METHODS
    assert domain.apply(0, decode(encode(second)), 1.0)[-1] == Ready()
    assert domain.heartbeat(2.0, 0.0, 0.0, 2, METHODS).methods is None
    assert domain.heartbeat(3.0, 0.0, 0.0, 2, ()).methods == ()


def test_an_outage_of_the_broker_ends_no_lease_and_no_node() -> None:
    """What could not be renewed and announced has the full time for it when the log goes on."""
    alone = Alone("a", "b")
    alone.write(Subscribed(alone.domains["a"].by(), "1", "u", "q", lease=10.0))
    alone.now = 1000.0
    one = alone.domains["a"]
    assert not one.may_take(alone.now)
    assert one.tick(alone.now) == []
    alone.beat("a")
    assert one.may_take(alone.now)
    assert one.tick(alone.now) == []
    assert list(one.nodes(alone.now)) == ["a", "b"]
    decided: dict[type, float] = {}
    while Expired not in decided and alone.now < 1100.0:
        alone.now += 0.5
        alone.beat("a")
        for record in one.tick(alone.now):
            decided.setdefault(type(record), alone.now)
    assert 0 <= decided[Left] - (1000.0 + SMALL.lease) <= 1
    assert 0 <= decided[Expired] - (1000.0 + 10.0 * 1.02 + SMALL.grace) <= SMALL.grace


def test_a_subscription_waits_for_an_agent_that_hangs_no_longer_than_a_lease() -> None:
    alone = Alone("a", "b")
    alone.now = 1.0
    alone.write(Subscribed(alone.domains["a"].by(), "1", "u", "q"))
    offset, one = len(alone.log) - 1, alone.domains["a"]
    for now in (1.0, 3.0, 5.9):
        alone.now = now
        # b goes on announcing itself and does not read
        alone.write(Announced(alone.domains["b"].by(), offset - 1))
        assert not one.reached(offset, now)
    assert one.reached(offset, 6.0)


def test_a_subscription_waits_for_the_process_that_a_later_one_has_superseded() -> None:
    """The old one may not have read of it, and takes events until its lease ends."""
    alone = Alone("a", "b")
    old = alone.domains.pop("b")
    again = alone.domains["again"] = Domain("b", 99, SMALL)
    for offset, record in enumerate(alone.log):
        again.apply(offset, record, 0.0)
    alone.now = 1.0
    alone.beat("again")
    alone.write(Subscribed(alone.domains["a"].by(), "1", "u", "q"))
    offset = len(alone.log) - 1
    alone.beat("again")
    assert old.may_take(5.8)
    assert not alone.domains["a"].reached(offset, 5.8)
    assert not old.may_take(6.0)
    assert alone.domains["a"].reached(offset, 6.0)


def test_an_agent_that_has_joined_waits_for_those_that_it_knows_from_the_snapshot() -> None:
    alone = Alone("a", "b")
    old = alone.domains.pop("b")
    late = Domain("c", 9, SMALL)
    start = len(alone.log)
    for part in alone.domains["a"].snapshot():
        alone.write(part)
    alone.now = 3.0
    alone.write(late.heartbeat(3.0, 0.0, 0.0, 2, METHODS))
    for offset in range(start, len(alone.log)):
        late.apply(offset, alone.log[offset], 3.0)
    alone.domains["c"] = late
    alone.write(Subscribed(late.by(), "1", "u", "q"))
    alone.beat("a")
    assert late.may_take(3.0)
    assert old.may_take(5.8)
    assert not late.reached(len(alone.log) - 2, 5.8)
    assert late.reached(len(alone.log) - 2, 9.0)


def test_an_agent_that_leaves_or_is_superseded_takes_nothing_more() -> None:
    alone = Alone("a", "b")
    leaving, doubled = alone.domains["a"], alone.domains["b"]
    assert leaving.may_take(1.0)
    goodbye = leaving.leave()
    assert not leaving.may_take(1.0)
    assert alone.write(goodbye)["b"] == [NodeLeft("a", 1, "left")]
    assert doubled.may_take(1.0)
    alone.write(Announced(By("b", 99, 1), -1))
    assert not doubled.may_take(1.0)


def test_a_joining_agent_asks_for_what_the_log_does_not_hold() -> None:
    alone = Alone("a")
    domain = Domain("b", 9, SMALL)
    domain.apply(50, heartbeat := domain.heartbeat(0.0, 0.0, 0.0, 2, METHODS), 0.0)
    [wanted] = domain.tick(0.1)
    assert isinstance(wanted, SnapshotWanted)
    assert domain.tick(0.2) == []
    assert not domain.stranded(0.2)
    assert domain.stranded(20.0)
    # The same records where somebody has the state
    late = Domain("b", 9, SMALL)
    start = len(alone.log)
    alone.write(heartbeat)
    alone.write(wanted)
    one = alone.domains["a"]
    assert one.snapshot_due(0.0)
    for part in one.snapshot():
        alone.write(part)
    assert not one.snapshot_due(1.0)
    changes = [late.apply(offset, record, 0.0) for offset, record in enumerate(alone.log) if offset >= start]
    assert changes[-1] == [Ready()]
    assert late.digest() == one.digest()


def test_a_snapshot_is_not_used_if_records_between_it_and_the_log_are_gone() -> None:
    alone = Alone("a")
    parts = list(alone.domains["a"].snapshot())
    gone = len(alone.log)
    alone.beat("a")
    for part in parts:
        alone.write(part)
    for first, ready in ((gone, True), (gone + 1, False)):
        late = Domain("b", 9, SMALL)
        for offset, record in enumerate(alone.log):
            if offset >= first:
                late.apply(offset, record, 0.0)
        assert (late.applied >= 0) == ready


def test_a_malformed_part_spoils_its_snapshot_only() -> None:
    late = Domain("b", 9, SMALL)
    broken = Snapshot(By("a", 1, 1), 1, 6, 0, True, "[]")
    assert late.apply(7, broken, 0.0) == [Ignored(broken.by, "malformed")]
    late.apply(8, replace(broken, by=By("a", 1, 2), number=2, base=7, lines='["writer","a",1,1,"0x1",7]'), 0.0)
    assert late.applied == 8


def test_what_is_dropped_leaves_nothing() -> None:
    log, leases = Log(), Leases()
    for number in range(10_000):
        [added] = log.subscribe(str(number), user=f"u{number % 10}", lease=100.0, name=str(number))
        assert isinstance(added, SubscriptionAdded)
        leases.add(added.subscription, 0.0)
    assert len(leases) == 10_000
    for number in range(10_000):
        log.add(Unsubscribed(log.by(), str(number)))
    for now in range(30):
        assert leases.overdue(float(now), 0.0, 1.0, 0.0, log.state.subscriptions.by_id) == []
    assert len(leases) == 0
    table = log.state.subscriptions
    assert (len(table), table.users(), table._by_name) == (0, {}, {})


def test_leases_are_looked_at_in_pieces() -> None:
    log, leases = Log(), Leases()
    for number in range(BATCH + 5):
        log.subscribe(str(number), lease=4.0)
    for one in log.state.subscriptions:
        leases.add(one, 0.0)
    by_id = log.state.subscriptions.by_id
    assert leases.overdue(3.0, 0.0, 1.0, 0.0, by_id) == []
    first = leases.overdue(60.0, 0.0, 1.0, 1.0, by_id)
    assert 0 < len(first) <= BATCH
    assert len({one.id for one in first + leases.overdue(60.0, 0.0, 1.0, 1.0, by_id)}) == BATCH + 5


@given(st.integers(0, 1 << 40), st.integers(1 << 20, 1 << 40), st.integers(0, 1 << 20))
def test_retention_leaves_what_a_joining_agent_needs(size: int, retention: int, segment: int) -> None:
    """The inequality of timing.py, as long as a snapshot and what comes between its parts keep to their shares."""
    timing = Timing(retention=retention, segment=segment)
    size = min(size, timing.share)
    assert 2 * size + timing.snapshot_after(size) + timing.share <= retention - segment


def test_an_agent_stops_before_the_others_count_on_it() -> None:
    for timing in (Timing(), SMALL, Timing(lease=30.0, drift=0.05)):
        assert timing.own_lease / (1 - timing.drift) < timing.lease / (1 + timing.drift)


def test_the_package_has_no_clock_and_no_io() -> None:
    import ast

    from conftest import CHECKOUT

    for path in (CHECKOUT / "clacks/agent/domain").glob("*.py"):
        found = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in ast.walk(ast.parse(path.read_text()))
                 if isinstance(node, ast.Import | ast.ImportFrom)}  # fmt: skip
        assert not found & {"asyncio", "time", "socket", "threading", "random", "os", "datetime"}, path


def main(arguments: list[str]) -> None:
    first = int(arguments[1]) if len(arguments) > 1 else 0
    for seed in range(first, first + int(arguments[0])):
        world = play(seed, 150)
        if seed % 50 == 0:
            print(f"seed {seed}: {world.next} records, {len(world.clients)} subscriptions, cut up to {world.first}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
