"""What the store does with a disk that fails, loses its power, or holds something else: nothing accepted is lost, nothing half done seen.

The disk is the real one behind `faultshim.c`, which logs what the agent writes, syncs and sends, and fails when it is told to. `Disk.left`
is what a loss of power would have left: of each file only what it held when its last fsync ended. What a failed fsync was to write is
taken for lost as well, though the kernel goes on showing it, because that is what Linux does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import pytest

from clacks.agent.broker.journal import Journal
from clacks.agent.broker.store import LAYOUT, Batch, Store, StoredEvent, StoredSubscription
from clacks.amqp import ACCEPTED, RELEASED, AmqpError, Condition, Connection, Credentials, Draft, Options, Rejected, Terminus, connect
from clacks.common.components.client import BusClient
from clacks.common.errors import EXIT_FAILED, EXIT_USAGE, ClacksError
from kills import Machine, Process, play
from support import End, run, until
from test_durable import DOMAIN, Scene, numbers, phone, receive, scene

SYNC, WRITE, TRUNCATE, UNLINK, SEND = 1, 2, 4, 8, 16
PAGE: Final = 4096  # what the kernel writes at once
_RECORD: Final = struct.Struct("=qqqqIIII")
_CONTROL: Final = struct.Struct("=qqqqq")
# What this machine cannot do is skipped with its reason; CI has a compiler.
NO_COMPILER: Final = "no cc to compile tests/faultshim.c with"


class Record(NamedTuple):
    """One call of the agent; times in nanoseconds."""

    begin: int
    end: int
    offset: int
    result: int
    kind: int
    name: str
    data: bytes

    @property
    def moment(self) -> int:
        """What is sent may have arrived when the call began; what is written and synced is so when it has ended."""
        return self.begin if self.kind == SEND else self.end


@dataclass
class File:
    """A file as the kernel shows it, and as the disk has it."""

    cache: bytearray = field(default_factory=bytearray)
    disk: bytearray = field(default_factory=bytearray)
    dirty: set[int] = field(default_factory=set)

    def apply(self, one: Record) -> None:
        if one.kind == WRITE and one.result > 0:
            end = one.offset + one.result
            self.cache.extend(bytes(max(0, end - len(self.cache))))
            self.cache[one.offset : end] = one.data
            self.dirty.update(range(one.offset // PAGE, (end - 1) // PAGE + 1))
        elif one.kind == TRUNCATE and one.result == 0:
            del self.cache[one.offset :]
            self.cache.extend(bytes(one.offset - len(self.cache)))
        elif one.kind == SYNC:
            if one.result == 0:
                self._write()
            self.dirty.clear()

    def _write(self) -> None:
        del self.disk[len(self.cache) :]
        self.disk.extend(bytes(len(self.cache) - len(self.disk)))
        for page in self.dirty:
            place = slice(page * PAGE, min(len(self.cache), (page + 1) * PAGE))
            self.disk[place] = self.cache[place]


class Disk:
    """The agent's folder, and the shim in front of it."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.state = folder / "state"
        self.state.mkdir()
        self._log, self._control = folder / "calls", folder / "control"
        self._control.write_bytes(bytes(_CONTROL.size))
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAULTSHIM_FILES": str(self.state.resolve() / "events.db"),
            "FAULTSHIM_LOG": str(self._log),
            "FAULTSHIM_CONTROL": str(self._control),
        }

    def fail(self, kinds: int, error: int, *, skip: int = 0, times: int = -1) -> None:
        with self._control.open("r+b") as file:
            file.write(_CONTROL.pack(kinds, error, skip, times, 0))

    def heal(self) -> None:
        self.fail(0, 0)

    @property
    def failed(self) -> int:
        """Calls that have failed since `fail`."""
        last: int = _CONTROL.unpack(self._control.read_bytes())[4]
        return last

    def forget(self) -> None:
        """The log begins again."""
        self._log.unlink()

    def records(self) -> list[Record]:
        """In the order in which they took effect."""
        data, place, found = self._log.read_bytes(), 0, []
        while place + _RECORD.size <= len(data):
            begin, end, offset, result, kind, name, size, _ = _RECORD.unpack_from(data, place)
            place += _RECORD.size
            found.append(Record(begin, end, offset, result, kind, data[place : place + name].decode(), data[place + name :][:size]))
            place += name + size
        return sorted(found, key=lambda one: one.moment)

    def left(self, folder: Path, records: list[Record], before: Mapping[str, bytes] = MappingProxyType({})) -> Path:
        """A folder with what is there after a loss of power at the end of these records, of what was there `before`, by path."""
        files = {name: File(bytearray(data), bytearray(data)) for name, data in before.items()}
        for one in records:
            if one.kind == UNLINK:
                files.pop(one.name, None)
            elif one.kind != SEND:
                files.setdefault(one.name, File()).apply(one)
        folder.mkdir(exist_ok=True)
        for name, file in files.items():
            (folder / Path(name).name).write_bytes(file.disk)
        return folder


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.fail(NO_COMPILER) if os.environ.get("CI") == "true" else pytest.skip(NO_COMPILER)
    made = tmp_path_factory.mktemp("shim") / "faultshim.so"
    source = Path(__file__).with_name("faultshim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl", "-lpthread"], check=True)
    return made


@pytest.fixture
def disk(library: Path, tmp_path: Path) -> Disk:
    return Disk(library, tmp_path)


class Running:
    """An agent as a process, and connections to it."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.connections: list[Connection] = []

    async def connect(self) -> Connection:
        connection = await connect(
            "127.0.0.1", self.process.port, Credentials("admin", "secret"), Options(container_id="test", hostname="localhost")
        )
        self.connections.append(connection)
        return connection

    async def keep(self) -> None:
        """Make the durable subscription, for whoever comes later."""
        connection = await self.connect()
        link = await connection.attach_receiver(Terminus(f"{DOMAIN}.event.PhoneStatus", durable=2, expiry="never"), name="kept")
        link.close(closed=False)
        connection.close()
        await connection.wait_closed()

    async def drain(self, count: int) -> list[int]:
        """What it has, when it is so many, and there is no more."""
        end = End()
        connection = await self.connect()
        await receive(connection, "kept", end, source=Terminus(f"{DOMAIN}.event.PhoneStatus", durable=2, expiry="never"), credit=1000)
        await until(lambda: len(end.received) >= count, f"{count} are there, of which came {len(end.received)}")
        async with BusClient(f"amqp://admin:secret@127.0.0.1:{self.process.port}/{DOMAIN}") as bus:
            await bus.call("getStatus")  # whatever was on its way has come before the answer
        return numbers(end)

    @property
    def log(self) -> str:
        return (self.process.folder / "agent.log").read_text()


@contextlib.asynccontextmanager
async def agent_on(folder: Path, environment: dict[str, str] | None = None) -> AsyncIterator[Running]:
    running = Running(Process(folder, environment=environment or {}))
    assert await running.process.start(), running.log
    try:
        yield running
    finally:
        for connection in running.connections:
            connection.abort()
        if running.process.process.returncode is None:
            await running.process.kill()


class Steady(End):
    """A publisher who keeps some events under way."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.left = iter(range(1, count + 1))
        self.accepted: list[int] = []
        self.sent: dict[int, int] = {}

    def go(self, link: Any, count: int) -> None:
        for _ in range(count):
            number = next(self.left, None)
            if number is not None:
                self.sent[link.send(Draft(phone(number).encode()).encode())] = number

    def outcome(self, link: Any, number: int, outcome: Any) -> None:
        super().outcome(link, number, outcome)
        if outcome is ACCEPTED:
            self.accepted.append(self.sent[number])
        self.go(link, 1)


async def publish(running: Running, *events: int) -> list[Any]:
    """One after the other, so that each has a batch of its own."""
    link, end = await (await running.connect()).attach_sender(Terminus(DOMAIN)), End()
    link.handler = end
    for place, number in enumerate(events, 1):
        link.send(Draft(phone(number).encode()).encode())
        await until(lambda place=place: len(end.outcomes) == place, f"{number} has its outcome")
    return [outcome for _, outcome in end.outcomes]


def accepted_in(sends: list[Record]) -> Iterator[tuple[int, int]]:
    """The deliveries that the last connection's peer is told are accepted: the moment, and the delivery's id (AMQP 1.0 2.7.6)."""
    start = max(place for place, one in enumerate(sends) if one.data.startswith(b"AMQP\3"))
    unread = b""
    for one in sends[start:]:
        unread += one.data
        while len(unread) >= 8:
            size = 8 if unread.startswith(b"AMQP") else int.from_bytes(unread[:4], "big")
            if len(unread) < size:
                break
            frame, unread = unread[:size], unread[size:]
            body = frame[frame[4] * 4 :]
            if not frame.startswith(b"AMQP") and body.startswith(b"\0\x53\x15") and b"\0\x53\x24" in body:
                first, last = _range(body)
                yield from ((one.moment, number) for number in range(first, last + 1))


def _range(disposition: bytes) -> tuple[int, int]:
    place = disposition.index(b"\x41", 3) + 1  # after the role: a receiver
    found = []
    for _ in range(2):
        code = disposition[place]
        width = {0x40: 0, 0x43: 0, 0x52: 1, 0x70: 4}[code]
        found.append(None if code == 0x40 else int.from_bytes(disposition[place + 1 : place + 1 + width], "big"))
        place += 1 + width
    assert found[0] is not None
    return found[0], found[0] if found[1] is None else found[1]


def kept_in(folder: Path) -> set[int]:
    """The events in a store."""
    store = Store(folder / "events.db")
    found = {event.number for event, _ in store.events()}
    bodies = store.read(sorted(found))
    store.close()
    return {int(encoded.split(b"CallerId>")[1].removesuffix(b"</")) for encoded, _, _ in bodies.values()}


def test_accepted_leaves_after_the_fsync(disk: Disk, tmp_path: Path) -> None:
    """At every moment at which the word `accepted` leaves the agent, the power may go: its event is there."""

    @run
    async def body() -> None:
        async with agent_on(disk.state, disk.environment) as running:
            await running.keep()
            connection = await running.connect()
            link = await connection.attach_sender(Terminus(DOMAIN))
            link.handler = end = Steady(200)
            end.go(link, under_way := 10)
            await until(lambda: len(end.accepted) >= 100, "100 are accepted")
            await running.process.kill()
            await connection.wait_closed()
        records = disk.records()
        told = list(accepted_in([one for one in records if one.kind == SEND]))
        # A call is logged when it has ended: of the last one the log may know nothing, if the kill came in between.
        assert len(told) + under_way >= len(end.accepted) >= 100
        files = [one for one in records if one.kind != SEND]
        assert all(one.end <= after.begin for one, after in pairwise(files)), "a fsync begins when what it is for has been written"
        moments = sorted({moment for moment, _ in told})
        assert len(moments) >= 5
        for cut in sorted({*moments[:: len(moments) // 15 + 1], moments[-1]}):
            before = [one for one in records if one.moment <= cut]
            kept = kept_in(disk.left(tmp_path / f"at {cut}", before))
            assert {number + 1 for moment, number in told if moment <= cut} <= kept

    body()


def test_a_loss_of_power(disk: Disk, tmp_path: Path) -> None:
    """The agent goes on with what was on the disk: everything that was accepted is delivered, in order, and once."""

    @run
    async def body() -> None:
        async with agent_on(disk.state, disk.environment) as running:
            await running.keep()
            connection = await running.connect()
            link = await connection.attach_sender(Terminus(DOMAIN))
            link.handler = end = Steady(500)
            end.go(link, 25)
            await until(lambda: len(end.accepted) >= 100, "100 are accepted")
            await running.process.kill()
            await connection.wait_closed()
        async with agent_on(disk.left(tmp_path / "left", disk.records())) as again:
            found = await again.drain(len(end.accepted))
        assert found == sorted(set(found))
        assert set(end.accepted) <= set(found)

    body()


class Cut(Machine):
    """Kills by a loss of power: the next agent finds what was on the disk."""

    def __init__(self, disk: Disk, seed: int) -> None:
        super().__init__(disk.state, seed)
        self.disk = disk
        self.environment = disk.environment
        self._files: dict[str, bytes] = {}

    def ended(self) -> None:
        for file in self.folder.glob("events.db*"):
            file.unlink()
        self.disk.left(self.folder, self.disk.records(), self._files)
        self._files = {str(file): file.read_bytes() for file in self.folder.glob("events.db*")}
        self.disk.forget()


def test_losses_of_power_again_and_again(disk: Disk) -> None:
    """The machine of kills, whose next agent finds only what was on the disk."""
    machine = Cut(disk, seed=1)
    faults = asyncio.run(play(machine, 10))
    assert not faults, f"{machine.report()}\n" + "\n".join(faults[:20])
    assert all(any(account.told[1:]) for account in machine.accounts), "every publisher had events accepted"


FAULTS: Final = {
    "fsync fails": (SYNC, errno.EIO, "disk I/O error"),
    "the disk is full": (WRITE, errno.ENOSPC, "full"),
    "writing fails": (WRITE, errno.EIO, "disk I/O error"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_fails_and_works_again(fault: str, disk: Disk, tmp_path: Path) -> None:
    """Publishers are told to try again, nobody gets the event, and nothing of before and after is lost: not even with the power."""
    kinds, error, words = FAULTS[fault]

    @run
    async def body() -> None:
        live = End()
        async with agent_on(disk.state, disk.environment) as running:
            await running.keep()
            await receive(await running.connect(), "live", live, source=Terminus(f"{DOMAIN}.event.PhoneStatus"))
            assert await publish(running, 1, 2, 3) == [ACCEPTED] * 3
            disk.fail(kinds, error)
            assert await publish(running, 4, 5) == [RELEASED] * 2
            assert disk.failed
            assert words in running.log
            assert "not written" in running.log
            disk.heal()
            assert await publish(running, 6, 7) == [ACCEPTED] * 2
            disk.fail(kinds, error, times=1)
            assert await publish(running, 8, 9) == [RELEASED, ACCEPTED]
            await until(lambda: len(live.received) == 6, "the live one has what was accepted")
            assert numbers(live) == [1, 2, 3, 6, 7, 9]
            await running.process.kill()
        async with agent_on(disk.left(tmp_path / "left", disk.records())) as again:
            assert await again.drain(6) == [1, 2, 3, 6, 7, 9]
        async with agent_on(disk.state) as again:
            assert await again.drain(6) == [1, 2, 3, 6, 7, 9]

    body()


@pytest.mark.parametrize("skip", range(4))
def test_one_call_that_fails_anywhere_in_a_batch(skip: int, disk: Disk, tmp_path: Path) -> None:
    """Whatever the n-th call of a batch was to do: what was said to be accepted is there, and what was released is not."""

    @run
    async def body() -> None:
        async with agent_on(disk.state, disk.environment) as running:
            await running.keep()
            said = []
            for place in range(6):
                disk.fail(SYNC | WRITE | TRUNCATE, errno.EIO, skip=skip, times=1)
                said += await publish(running, place)
            disk.heal()
            said += await publish(running, 6)
            await running.process.kill()
        expected = [place for place, outcome in enumerate(said) if outcome is ACCEPTED]
        assert expected[-1] == 6
        async with agent_on(disk.left(tmp_path / "left", disk.records())) as again:
            assert await again.drain(len(expected)) == expected

    body()


def test_an_attach_while_the_disk_fails(disk: Disk) -> None:
    """A subscription that cannot be kept is refused, and made when the disk works again."""

    @run
    async def body() -> None:
        async with agent_on(disk.state, disk.environment) as running:
            await running.keep()
            disk.fail(SYNC, errno.EIO)
            connection = await running.connect()
            with pytest.raises(AmqpError) as caught:
                await receive(connection, "more", End())
            assert caught.value.condition.info["code"] == "store-failed"
            disk.heal()
            end = End()
            await receive(await running.connect(), "more", end)
            assert await publish(running, 1) == [ACCEPTED]
            await until(lambda: end.received, "it is there")

    body()


# --- what is there at the start --------------------------------------------------------------------------------------------------


def start(folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """An agent that is not expected to come up."""
    command = ["-m", "clacks.cli.agent", "--demo", "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0", "--state-dir", str(folder)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CLACKS_", "XDG_"))}
    environment = {**kept, "HOME": str(folder), "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *command], env=environment, text=True, capture_output=True, timeout=60, **options)


def refused(ended: subprocess.CompletedProcess[str], *words: str, exit_code: int = EXIT_FAILED) -> None:
    assert ended.returncode == exit_code, ended.stderr
    assert "ready" not in ended.stdout
    assert "Traceback" not in ended.stderr
    for word in ("cannot be written or read", *words) if exit_code == EXIT_FAILED else words:
        assert word in ended.stderr


def made(folder: Path) -> Path:
    """A store with a subscription and an event."""
    store = Store(folder / "events.db")
    terms = {"address": DOMAIN, "name": "kept", "durable": True}
    event = StoredEvent(1, "PhoneStatus", 0.0, 0.0, (1,), (), b"\0\x53\x75\xa0\0")
    store.write(Batch(events=[event], subscriptions={1: StoredSubscription(1, "admin", terms, 0)}))
    store.close()
    return folder / "events.db"


def test_no_database_at_all(tmp_path: Path) -> None:
    (tmp_path / "events.db").write_bytes(b"something else\n" * 1000)
    refused(start(tmp_path), "events.db", "not a database")


def test_a_broken_database(tmp_path: Path) -> None:
    path = made(tmp_path)
    data = bytearray(path.read_bytes())
    data[PAGE : 4 * PAGE] = os.urandom(3 * PAGE)
    path.write_bytes(data)
    refused(start(tmp_path), "malformed")


@pytest.mark.parametrize("change", ["terms = 'no JSON'", "terms = '[]'", "open = x'0102030405'"])
def test_a_row_that_is_none_of_ours(change: str, tmp_path: Path) -> None:
    db = sqlite3.connect(made(tmp_path))
    db.execute(f"UPDATE subscription SET {change}")
    db.commit()
    db.close()
    refused(start(tmp_path), "subscription 1")


def test_a_later_layout(tmp_path: Path) -> None:
    db = sqlite3.connect(made(tmp_path))
    db.execute(f"PRAGMA user_version = {LAYOUT + 1}")
    db.close()
    refused(start(tmp_path), "later version")


def test_a_second_agent(tmp_path: Path) -> None:
    store = Store(made(tmp_path))
    refused(start(tmp_path), "another agent uses it", "another --state-dir", exit_code=EXIT_USAGE)
    store.close()


def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    made(tmp_path).chmod(0o444)
    tmp_path.chmod(0o555)
    refused(start(tmp_path, preexec_fn=_respect_modes), "readonly database")
    tmp_path.chmod(0o755)


def _respect_modes() -> None:
    """Even root may not write then: without CAP_DAC_OVERRIDE (1) in its bounding set (PR_CAPBSET_DROP, 24) it is a user like others."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


# --- what was found by reading ---------------------------------------------------------------------------------------------------


@scene()
async def test_replaying_one_subscriptions_letters_keeps_the_others(stage: Scene) -> None:
    """Letters are settled out of turn: what was before them is there after a restart."""
    for name in ("first", "second"):
        picky = End(outcome_for=Rejected(Condition("x:y", "not now")))
        link = await receive(await stage.connect(), name, picky)
        await stage.publish(1)
        await until(lambda picky=picky: picky.received, "it is rejected")
        link.close(closed=False)
        await until(lambda name=name: stage.agent.broker.subscriptions.totals().buried, "it is dead")
    buried = stage.agent.broker.subscriptions.totals().buried
    async with stage.client() as bus:
        again = await bus.call("replaySubscription", "second")
    assert again
    await stage.stop()
    await stage.start()
    dead = End()
    await receive(await stage.connect(), "dead", dead, source=Terminus(f"{DOMAIN}.dead-letters"))
    await until(lambda: len(dead.received) == buried - again, "the first one's letters are there")
    assert {message.annotations["x-opt-clacks-dead-subscription"] for message in dead.messages} == {"first"}


@scene()
async def test_letters_that_somebody_looked_at_are_replayed_once(stage: Scene) -> None:
    """What has come back from a consumer is done with like what has never been sent."""
    picky, reader = End(outcome_for=Rejected(Condition("x:y", "not now"))), End(outcome_for=None)
    link = await receive(await stage.connect(), "kept", picky)
    await stage.publish(1)
    await until(lambda: stage.agent.broker.subscriptions.totals().buried, "it is dead")
    link.close(closed=False)
    looking = await stage.connect()
    await receive(looking, "dead", reader, source=Terminus(f"{DOMAIN}.dead-letters"))
    await until(lambda: reader.received, "it is looked at")
    looking.abort()
    dead = stage.agent.broker.subscriptions.kept.dead_letters("admin")
    assert dead is not None
    await until(lambda: not dead.consumers, "the reader has gone")
    letters = len(dead.numbers())
    async with stage.client() as bus:
        assert await bus.call("replaySubscription", "kept") == letters
        assert await bus.call("replaySubscription", "kept") == 0
    assert dead.numbers() == []


@scene()
async def test_what_a_publisher_sends_after_what_is_held_waits_for_it(stage: Scene) -> None:
    """The last durable subscription goes while an event is on its way to the disk: the publisher's next one does not overtake it."""
    live = End()
    await receive(await stage.connect(), "live", live, source=Terminus(f"{DOMAIN}.event.PhoneStatus"))
    await receive(await stage.connect(), "kept", End(), credit=0)
    subscriptions = stage.agent.broker.subscriptions
    journal = subscriptions.kept.journal()
    plain = journal.keep

    def keep(*arguments: Any) -> None:
        plain(*arguments)
        for subscription in list(subscriptions.kept.all.values()):
            subscriptions.kept.remove(subscription)

    journal.keep = keep  # type: ignore[method-assign]
    assert await stage.publish(1, 2, 3) == [ACCEPTED] * 3
    await until(lambda: len(live.received) == 3, "the live one has them")
    assert numbers(live) == [1, 2, 3]


def test_what_failed_is_written_with_the_next_batch(tmp_path: Path) -> None:
    """A subscription whose definition nobody takes back, as that of dead letters, is on the disk as soon as the disk works."""

    @run
    async def body() -> None:
        journal = Journal(tmp_path / "events.db")
        plain, outcomes = journal._store.write, []

        def broken(batch: Batch) -> None:
            raise ClacksError("store-failed", reason="test")

        journal._store.write = broken  # type: ignore[method-assign]
        journal.define(StoredSubscription(1, "admin", {"name": "dead-letters"}, 0), outcomes.append)
        await until(lambda: outcomes, "it has failed")
        assert isinstance(outcomes[0], ClacksError)
        journal._store.write = plain  # type: ignore[method-assign]
        await until(lambda: journal.batches > journal.failures, "it is written")
        await journal.close()
        store = Store(tmp_path / "events.db")
        assert [one.id for one in store.subscriptions()[0]] == [1]
        store.close()

    body()


def test_one_who_cannot_hear_of_a_batch_keeps_it_from_nobody(tmp_path: Path) -> None:
    @run
    async def body() -> None:
        journal, outcomes = Journal(tmp_path / "events.db"), []

        def deaf(error: ClacksError | None) -> None:
            raise LookupError("a fault")

        for number, done in enumerate((outcomes.append, deaf, outcomes.append), 1):
            journal.define(StoredSubscription(number, "admin", {}, 0), done)
        await until(lambda: outcomes == [None, None], "the others hear of it")
        await journal.close()

    body()


def test_a_batch_that_is_written_has_not_failed(tmp_path: Path) -> None:
    """Giving space back is no part of a batch: what goes wrong there is not told as its outcome."""
    store = Store(tmp_path / "events.db")

    def broken() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    store._shrink = broken  # type: ignore[method-assign]
    event = StoredEvent(1, "PhoneStatus", 0.0, 0.0, (1,), (), b"x")
    store.write(Batch(events=[event], gone=[7]))
    assert [one.number for one, _ in store.events()] == [1]
    store.close()
