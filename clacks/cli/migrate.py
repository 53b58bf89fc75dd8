"""`clacks migrate`: takes what a stopped agent keeps on its disk into a domain on a broker: durable subscriptions, and what waits for them.

It reads the agent's file and changes nothing in it. Subscriptions are made by command, as their owners would; what waits goes into their
queues in its order. What the broker has is noted beside the file, so that it can be broken off and goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ..common.errors import EXIT_FAILED, ClacksError
from .command import Command, json_option
from .output import counted, print_json

if TYPE_CHECKING:
    from ..agent.broker.store import Store, StoredSubscription
    from ..agent.broker.terms import Terms
    from ..agent.config import Config

# Beside events.db: what has been moved.
NOTES: Final = "migrated.json"
# Events that are read, sent, and noted together: what comes twice if this is killed between the sending and the note.
BATCH: Final = 200
# A queue without replicas is lost in a crash, with all it has accepted, if it is younger than a second (seen in RabbitMQ 4.0 and 4.3).
YOUNG_SECONDS: Final = 2.0
# How long a batch may take: a broker stores thousands of events in a second, and one that takes none has a full queue.
FULL_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 30.0


@dataclass(slots=True)
class Move:
    """One subscription: what is to be sent, and what became of it."""

    stored: StoredSubscription
    terms: Terms
    name: str
    left: str = ""  # why it is not moved
    waiting: list[int] = field(default_factory=list)
    undecided: set[int] = field(default_factory=set)
    before: int = 0  # events that an earlier run has moved
    notes: list[str] = field(default_factory=list)
    queue: str = ""
    sent: int = 0
    expired: int = 0
    unmatched: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "user": self.stored.user, "name": self.terms.name, "as": self.name, "queue": self.queue, "waiting": len(self.waiting),
            "before": self.before, "sent": self.sent, "expired": self.expired, "unmatched": self.unmatched, "notes": self.notes,
            "left": self.left,
        }  # fmt: skip


@click.command(
    cls=Command,
    examples="""
        clacks migrate --dry-run --state-dir /var/lib/clacks
        clacks migrate --state-dir /var/lib/clacks --config domain.toml
        CLACKS_BROKER_URL=amqps://clacks-agent:secret@rabbit/org.clacks clacks migrate --state-dir /var/lib/clacks --json
    """,
)
@click.option("--state-dir", metavar="D", type=click.Path(path_type=Path), help="The state folder of the agent that was stopped.")
@click.option("--config", metavar="F", type=click.Path(path_type=Path), help="The configuration of an agent of the domain: its broker.url.")
@click.option("--dry-run", is_flag=True, help="Only say what there is and what would be done; no broker is needed.")
@json_option
def migrate(state_dir: Path | None, config: Path | None, dry_run: bool, as_json: bool) -> None:
    """Move the durable subscriptions of a stopped agent, with the events that wait for them, into a domain on a broker.

    An agent of the domain has to run, and broker.url has to be that of the agents, who may send in the name of others. The file of the
    stopped agent stays as it is; a second run goes on where the first one ended. Publishers come to the domain after that: what they send
    earlier stands before what is moved.
    """
    import asyncio

    from ..agent.config import load

    settings = load(config, {"state_dir": state_dir})
    store = _open(settings)
    try:
        notes = Notes(store.path)
        moves = plan(store, notes.of(settings))
        if not dry_run:
            asyncio.run(Mover(settings, store, notes).run(moves))
    finally:
        store.close()
    if as_json:
        print_json([one.to_json() | ({"dry_run": True} if dry_run else {}) for one in moves])
    else:
        for one in moves:
            click.echo(_line(one, dry_run=dry_run))
        if not moves:
            click.echo(f"No durable subscriptions in {store.path}.")
    if not dry_run and any(one.left for one in moves):
        click.get_current_context().exit(EXIT_FAILED)


def _line(one: Move, *, dry_run: bool) -> str:
    whose = f"{one.terms.name} of {one.stored.user}" + (f", called {one.name}" if one.name != one.terms.name else "")
    if one.left:
        return f"left: {whose}, {counted(len(one.waiting), 'event')}: {one.left}"
    if dry_run:
        asks = f", {len(one.undecided)} of them for its filter to decide" if one.undecided else ""
        done = f"would move: {whose}, {counted(len(one.waiting), 'event')}{asks}"
    else:
        done = f"moved: {whose}, {counted(one.sent, 'event')} to {one.queue}"
        done += f"; {one.expired} had expired" if one.expired else ""
        done += f"; {one.unmatched} did not match" if one.unmatched else ""
    done += f"; {one.before} in an earlier run" if one.before else ""
    return "\n  ".join([done, *one.notes])


# --- what there is ---------------------------------------------------------------------------------------------------------------


def _open(settings: Config) -> Store:
    from ..agent.broker.store import Store

    path = settings.state_dir / "events.db"
    if not path.exists():
        raise ClacksError(
            "config-invalid", source=str(settings.state_dir), reason="there is no events.db, so no agent has kept anything there",
            hint="Name the state folder of the agent that was stopped with --state-dir.",
        )  # fmt: skip
    return Store(path)


class Notes:
    """Up to which event each subscription has been moved, for one file and one broker: with another one it begins again."""

    def __init__(self, store: Path) -> None:
        self._path = store.parent / NOTES
        self._store = store.stat().st_ino
        self._moved: dict[str, int] = {}
        self._where = ""

    def of(self, settings: Config) -> Mapping[str, int]:
        """By the id of the stored subscription. Raises ClacksError if the note cannot be read."""
        import json

        self._where = " ".join(url.rpartition("@")[2] for url in settings.broker_url) + f" {settings.domain}"
        try:
            noted = json.loads(self._path.read_text()) if self._path.exists() else {}
            if (noted.get("store"), noted.get("where")) == (self._store, self._where):
                self._moved = {str(key): int(number) for key, number in noted["moved"].items()}
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ClacksError(
                "config-invalid", source=str(self._path), reason=f"it cannot be read: {error}",
                hint="Remove it; then everything is moved once more.",
            ) from error  # fmt: skip
        return self._moved

    def moved(self, one: Move, number: int) -> None:
        """Up to this event the broker has everything. On the disk when this returns."""
        import json
        import os

        self._moved[str(one.stored.id)] = number
        beside = self._path.with_suffix(".tmp")
        with beside.open("w") as file:
            json.dump({"store": self._store, "where": self._where, "moved": self._moved}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)


def plan(store: Store, moved: Mapping[str, int]) -> list[Move]:
    """What is to be done, subscription by subscription."""
    from ..agent.broker.addresses import DEAD_LETTERS
    from ..agent.broker.terms import Terms

    moves = []
    for stored in store.subscriptions()[0]:
        one = Move(stored, terms := Terms.from_json(stored.terms), terms.name)
        moves.append(one)
        if terms.address.endswith(f".{DEAD_LETTERS}"):
            one.left = "a domain keeps no dead letters: let the old agent run, `clacks subscriptions replay`, and migrate again"
        elif stored.suspended:
            one.left = f"its filter is suspended: {stored.suspended}"
        elif terms.timeout is not None:
            one.notes.append(f"In a domain it is kept until it is deleted, not for {terms.timeout} s after its last consumer.")
    _name(moves)
    _fill(moves, store, moved)
    return moves


def _name(moves: Sequence[Move]) -> None:
    """A domain knows a subscription by user and name; an agent's own listener by the client's container, too."""
    taken: set[tuple[str, str]] = set()
    for one in sorted(moves, key=lambda one: bool(one.terms.container)):  # those without a container keep their names
        if (one.stored.user, one.name) in taken:
            one.name = f"{one.name}@{one.terms.container}"
            one.notes.append(f"It was the one of the container {one.terms.container}; a domain knows user and name only.")
        taken.add((one.stored.user, one.name))


def _fill(moves: Sequence[Move], store: Store, moved: Mapping[str, int]) -> None:
    by_id = {one.stored.id: (one, frozenset(one.stored.open), moved.get(str(one.stored.id), 0)) for one in moves}
    for event, _ in store.events():
        for member in event.members:
            if member not in by_id:
                continue
            one, still, done = by_id[member]
            if event.number <= one.stored.settled and event.number not in still:
                continue
            if event.number <= done:
                one.before += 1
                continue
            one.waiting.append(event.number)
            if member in event.undecided:
                one.undecided.add(event.number)


# --- doing it --------------------------------------------------------------------------------------------------------------------


class Mover:
    """The connections to the broker, for the time of one run."""

    def __init__(self, settings: Config, store: Store, notes: Notes) -> None:
        self._settings, self._store, self._notes = settings, store, notes

    async def run(self, moves: Sequence[Move]) -> None:
        """Everything; what cannot be made is left, and says why. Raises ClacksError for what concerns all."""
        import asyncio

        from ..agent.broker.external.outlets import Outlets
        from ..agent.sandbox import Budget, Sandbox
        from ..common.brokers import domain_broker
        from ..common.components.client import dial
        from ..common.components.url import parse_urls

        if not self._settings.broker_url:
            raise ClacksError(
                "config-invalid", source="broker.url", reason="it is not set, so there is no domain to move to",
                hint="Name the configuration of one of its agents with --config, or set CLACKS_BROKER_URL.",
            )  # fmt: skip
        url = parse_urls(list(self._settings.broker_url), self._settings.domain)[0]
        connections = [await dial(url) for _ in range(2)]
        self._sandbox = Sandbox(self._settings.sandbox_workers, Budget(self._settings.sandbox_seconds, self._settings.sandbox_memory))
        try:
            self._asking, sending = connections
            self._broker = domain_broker(sending.remote_properties, url)
            self._outlets = Outlets(sending, self._broker)
            sending.lost.add_done_callback(lambda lost: self._outlets.lost())
            for one in moves:
                if not one.left:
                    await self._make(one)
            await asyncio.sleep(YOUNG_SECONDS)
            for one in moves:
                if not one.left:
                    await self._send(one)
        finally:
            await self._sandbox.close()
            for connection in connections:
                connection.close()
            await asyncio.gather(*(connection.wait_closed() for connection in connections))

    async def _make(self, one: Move) -> None:
        terms = one.terms
        asked: dict[str, Any] = {
            "filters": list(terms.filters), "event": terms.event, "durable": one.name, "shared": one.name if terms.shared else "",
            "max_age": terms.max_age, "max_bytes": terms.max_bytes, "overflow": terms.overflow,
        }  # fmt: skip
        try:
            one.queue = (await self._call(one.stored.user, "subscribe", asked))["queue"]
        except ClacksError as error:
            if error.code == "command-timeout":  # that is not this subscription's matter
                raise
            one.left = str(error)

    async def _call(self, user: str, method: str, params: Mapping[str, Any]) -> Any:
        """The result of a command, asked for in the name of a user. Raises ClacksError."""
        import asyncio
        import json
        import uuid

        from ..agent.broker.external.names import BEHALF, asked_queue, command_key
        from ..amqp import AmqpError, Draft, Properties
        from ..common.brokers import reply_queue
        from ..common.components.command import CORE

        domain, token = self._settings.domain, uuid.uuid4().hex
        answer = _Answer()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                queue = await reply_queue(self._asking, self._broker, domain, user)
                receiver = await self._asking.attach_receiver(self._broker.queue(queue), handler=answer, alone=True)
                receiver.window = 1
                broker = self._broker
                target = broker.entry(domain, command_key(CORE)) if broker.declares else broker.queue(asked_queue(domain, CORE))
                sender = await self._asking.attach_sender(target, handler=answer, alone=True)
                await answer.credited.wait()
                request = json.dumps({"method": method, "params": params, "id": token})
                asked = broker.signed(Properties(message_id=token, reply_to=queue), user)
                sender.send(Draft(request, asked, annotations={BEHALF: user}).encode())
                told = json.loads(await answer.received)
        except AmqpError as error:
            raise ClacksError(
                "config-invalid", source="broker.url", reason=f"commands cannot be sent there: {error.condition}",
                hint="Start an agent of the domain, and give the user of broker.url the rights of one (docs/domain.md).",
            ) from error  # fmt: skip
        except TimeoutError:
            raise ClacksError("command-timeout", method=method, seconds=ANSWER_SECONDS) from None
        sender.close()
        receiver.close()
        if told["error"]:
            raise ClacksError.from_json(told["error"])
        return told["result"]

    async def _send(self, one: Move) -> None:
        for numbers in _batches(one.waiting):
            await self._send_batch(one, numbers)
            self._notes.moved(one, numbers[-1])

    async def _send_batch(self, one: Move, numbers: Sequence[int]) -> None:
        import asyncio
        import time

        from ..agent.broker.envelope import header
        from ..agent.broker.external.outlets import Fate
        from ..amqp import Message, Timestamp, annotate
        from ..common.brokers import Feature

        found, taken = self._store.read(numbers), []
        for number in numbers:
            encoded, expires, _ = found[number]
            ttl = expires - time.time() if expires else None
            if ttl is not None and ttl <= 0:
                one.expired += 1
                continue
            if number in one.undecided and not await self._matches(one, encoded):
                one.unmatched += 1
                continue
            message = Message(encoded)
            annotations = message.annotations
            if not self._broker.has(Feature.TIMESTAMPS):
                annotations = {key: int(value) if isinstance(value, Timestamp) else value for key, value in annotations.items()}
            future: asyncio.Future[Fate] = asyncio.get_running_loop().create_future()
            taken.append(future)
            whole = header(ttl, durable=True) + annotate(message.bare, annotations)
            self._outlets.send(one.queue, whole, future.set_result)
        try:
            async with asyncio.timeout(FULL_SECONDS):
                fates = set(await asyncio.gather(*taken))
        except TimeoutError:
            reason = f"the broker does not take what is for {one.queue}: is it full? Let its consumer take some, and migrate again"
            raise ClacksError("remote", sentence=f"After {FULL_SECONDS:g} s {reason}.") from None
        if fates - {Fate.STORED}:
            what = "The connection to the broker was lost" if Fate.LOST in fates else f"The queue {one.queue} was deleted meanwhile"
            raise ClacksError("remote", sentence=f"{what}. Migrate again: it goes on from the last {BATCH} events.")
        one.sent += len(taken)

    async def _matches(self, one: Move, encoded: bytes) -> bool:
        """What the filter says of an event that it had not decided about when the agent stopped. If it takes longer than it may, the event
        goes along: twice is better than lost."""
        import asyncio
        import time

        from ..agent.broker.envelope import incoming_event
        from ..agent.sandbox import Answer, Job
        from ..amqp import Message

        event = incoming_event(Message(encoded), one.stored.user, "store", time.time())
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._sandbox.submit(Job(one.stored.user, one.terms.filters, event.body, event.properties, answered.set_result))
        answer = await answered
        return answer.matched or bool(answer.exceeded)


def _batches(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    for first in range(0, len(numbers), BATCH):
        yield numbers[first : first + BATCH]


class _Answer:
    """The handler of the two links of one command."""

    def __init__(self) -> None:
        import asyncio

        self.received: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.credited = asyncio.Event()

    def message(self, link: Any, number: int, encoded: bytes, settled: bool) -> None:
        from ..amqp import ACCEPTED, Message

        link.settle(number, ACCEPTED)
        if not self.received.done():
            self.received.set_result(str(Message(encoded).body))

    def credit(self, link: Any) -> None:
        self.credited.set()

    def outcome(self, link: Any, token: Any, outcome: Any) -> None: ...

    def detached(self, link: Any, condition: Any, *, closed: bool) -> None:
        from ..amqp import AmqpError

        if condition is not None and not self.received.done():
            self.received.set_exception(AmqpError(condition))
            self.credited.set()
