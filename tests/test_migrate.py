"""`clacks migrate`: from the disk of a real agent into a domain on a real broker, and what the plan makes of odd subscriptions."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from activemq import DomainActiveMQ
from brokers import RabbitMQ
from clacks.agent.broker.store import Batch, Store, StoredEvent, StoredSubscription
from clacks.agent.broker.terms import Terms
from clacks.amqp import Message
from clacks.cli import migrate as migration
from clacks.cli.main import clacks
from clacks.cli.sendevent import send_event
from clacks.common.components.client import dial
from clacks.common.components.url import parse_url
from conftest import RunningAgent
from domains import ACTIVEMQ, RABBITMQ
from support import End, until

DEAR = "//*:CallerId = ('2', '4') and count(1 to 20000) = 20000"  # for the sandbox to decide
PHONES = ("--event", "PhoneStatus")


def send(agent: RunningAgent, *numbers: int) -> None:
    for number in numbers:
        fields = ["PhoneStatus", f"CallerId={number}", "ReceiverId=2", "Status=busy"]
        result = CliRunner().invoke(send_event, fields, env={"CLACKS_URL": agent.url()})
        assert result.exit_code == 0, result.output


def consume(agent: RunningAgent, *arguments: str) -> None:
    """With the arguments --durable NAME it makes a subscription, with --count N it takes so many events."""
    result = CliRunner().invoke(clacks, ["consume", *PHONES, "--timeout", "0.1", *arguments], env={"CLACKS_URL": agent.url()})
    assert result.exit_code in (0, 6), result.output


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The state of an agent that has stopped: of seven events, `billing` has yet to settle 3 to 7, `held` to decide about some."""
    folder = tmp_path / "old"
    with RunningAgent(folder) as agent:
        consume(agent, "--durable", "billing")
        consume(agent, "--durable", "jobs", "--shared", "jobs", "//*:CallerId > 6")
        consume(agent, "--durable", "held", DEAR)
        send(agent, *range(1, 8))
        consume(agent, "--durable", "billing", "--count", "2")
    return folder


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Any:
    """RabbitMQ, if a test does not name another one."""
    return request.getfixturevalue(getattr(request, "param", "rabbitmq"))


@pytest.fixture
def domain(broker: RabbitMQ | DomainActiveMQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningAgent]:
    """An agent of a domain of its own, and the environment with which `clacks migrate` finds it."""
    name = broker.domains.pop() if isinstance(broker, DomainActiveMQ) else f"test.m{time.monotonic_ns()}"
    url = broker.url("clacks-agent")
    monkeypatch.setenv("CLACKS_DOMAIN", name)
    monkeypatch.setenv("CLACKS_BROKER_URL", url)
    with RunningAgent(tmp_path / "new", {"broker.url": [url], "domain": name, "node_id": "new"}) as agent:
        yield agent


def migrate(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(clacks, ["migrate", "--state-dir", str(folder), *options])


def received(broker: RabbitMQ | DomainActiveMQ, queue: str, expected: int) -> list[Message]:
    """What is in a queue, which is so many messages and no more."""

    async def main() -> list[Message]:
        connection = await dial(parse_url(broker.url()))
        end = End()
        dialect = ACTIVEMQ if isinstance(broker, DomainActiveMQ) else RABBITMQ
        link = await connection.attach_receiver(dialect.queue(queue), handler=end)
        link.window = 1000
        await until(lambda: len(end.received) >= expected, f"{expected} messages")
        connection.close()
        await connection.wait_closed()
        assert len(end.received) == expected
        return end.messages

    return asyncio.run(main())


def callers(messages: list[Message]) -> list[int]:
    return [int(message.body.split(b"CallerId>")[1].removesuffix(b"</")) for message in messages]


# --- on a real broker ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broker", ["rabbitmq", "activemq"], indirect=True)
def test_what_waited_comes_out_of_the_domain_in_its_order(kept: Path, domain: RunningAgent, broker: RabbitMQ | DomainActiveMQ) -> None:
    result = migrate(kept, "--json")
    assert result.exit_code == 0, result.output
    told = {one["name"]: one for one in json.loads(result.stdout)}
    assert {name: one["sent"] for name, one in told.items()} == {"billing": 5, "jobs": 1, "held": 2}
    found = received(broker, told["billing"]["queue"], 5)
    assert callers(found) == [3, 4, 5, 6, 7]
    assert {message.annotations["x-opt-clacks-user"] for message in found} == {"admin"}
    assert len({message.annotations["x-opt-clacks-id"] for message in found}) == 5
    assert all(message.header.durable for message in found)
    assert callers(received(broker, told["held"]["queue"], 2)) == [2, 4]
    assert callers(received(broker, told["jobs"]["queue"], 1)) == [7]
    indexed = {one.terms.name: one.terms for one in domain.subscriptions}
    assert {name: terms.shared for name, terms in indexed.items()} == {"billing": False, "jobs": True, "held": False}
    assert indexed["held"].filters == (DEAR,)


def test_a_second_run_moves_nothing_twice(kept: Path, domain: RunningAgent, broker: RabbitMQ | DomainActiveMQ) -> None:
    first = migrate(kept)
    assert first.exit_code == 0, first.output
    assert "moved: billing of admin, 5 events to" in first.output
    again = migrate(kept, "--json")
    assert [(one["sent"], one["before"]) for one in json.loads(again.stdout)][:2] == [(0, 5), (0, 1)]
    received(broker, json.loads(again.stdout)[0]["queue"], 5)
    # What the old agent has taken in after all comes as well.
    with RunningAgent(kept) as agent:
        send(agent, 8)
    third = json.loads(migrate(kept, "--json").stdout)
    assert [(one["name"], one["sent"]) for one in third] == [("billing", 1), ("jobs", 1), ("held", 0)]
    assert callers(received(broker, third[0]["queue"], 1)) == [8]


def test_after_an_interruption_it_goes_on(
    kept: Path, domain: RunningAgent, broker: RabbitMQ | DomainActiveMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends between a batch and its note: that batch comes twice, nothing is missing, and the order is kept."""
    monkeypatch.setattr(migration, "BATCH", 2)
    noted = migration.Notes.moved

    def killed(notes: Any, one: migration.Move, number: int) -> None:
        if one.name == "billing" and len(batches_seen) == 1:
            raise KeyboardInterrupt
        batches_seen.append(number)
        noted(notes, one, number)

    batches_seen: list[int] = []
    monkeypatch.setattr(migration.Notes, "moved", killed)
    assert migrate(kept).exit_code == 130
    monkeypatch.setattr(migration.Notes, "moved", noted)
    told = json.loads(migrate(kept, "--json").stdout)
    assert [(one["name"], one["before"], one["sent"]) for one in told] == [("billing", 2, 3), ("jobs", 0, 1), ("held", 0, 2)]
    assert callers(received(broker, told[0]["queue"], 7)) == [3, 4, 5, 6, 5, 6, 7]


def test_a_dry_run_says_what_would_be_done_and_needs_no_broker(kept: Path) -> None:
    result = migrate(kept, "--dry-run")
    assert result.exit_code == 0
    billing, jobs, held = result.output.splitlines()
    assert billing == "would move: billing of admin, 5 events"
    assert jobs == "would move: jobs of admin, 1 event"
    assert re.fullmatch(r"would move: held of admin, (\d) events, \1 of them for its filter to decide", held)
    assert not (kept / migration.NOTES).exists()
    assert migrate(kept, "--dry-run").output == result.output
    told = json.loads(migrate(kept, "--dry-run", "--json").stdout)
    assert [(one["name"], one["waiting"], one["dry_run"]) for one in told] == [("billing", 5, True), ("jobs", 1, True), ("held", 2, True)]


def test_what_the_domain_refuses_is_left_and_said(kept: Path, domain: RunningAgent) -> None:
    with RunningAgent(kept) as agent:  # the same name with another filter
        consume(agent, "--durable", "billing", "//*:CallerId > 3", "--replace")
    assert migrate(kept).exit_code == 0
    with RunningAgent(kept) as agent:
        consume(agent, "--durable", "billing", "//*:CallerId > 4", "--replace")
    result = migrate(kept)
    assert result.exit_code == 1
    assert "left: billing of admin, 0 events: The subscription 'billing' exists with another filter." in result.output
    assert "moved: jobs of admin, 0 events" in result.output


def test_it_wants_a_folder_a_broker_and_an_agent_that_is_stopped(kept: Path, tmp_path: Path) -> None:
    assert "there is no events.db" in migrate(tmp_path).stderr
    assert "no domain to move to" in migrate(kept).stderr
    with RunningAgent(kept):
        assert "another agent uses it" in migrate(kept, "--dry-run").stderr


# --- the plan --------------------------------------------------------------------------------------------------------------------


def stored(
    number: int, name: str, *, suspended: str = "", settled: int = 0, still: tuple[int, ...] = (), **terms: Any
) -> StoredSubscription:
    known = Terms(terms.pop("address", "org.clacks"), name, durable=True, overflow="refuse", **terms)
    return StoredSubscription(number, "anna", known.to_json(), settled, still, suspended)


def planned(folder: Path, subscriptions: list[StoredSubscription], events: list[StoredEvent], **moved: int) -> list[migration.Move]:
    store = Store(folder / "events.db")
    try:
        store.write(Batch(events=events, subscriptions={one.id: one for one in subscriptions}))
        return migration.plan(store, {name.removeprefix("_"): number for name, number in moved.items()})
    finally:
        store.close()


def event(number: int, *members: int) -> StoredEvent:
    return StoredEvent(number, "PhoneStatus", 0.0, 0.0, members, (), b"")


def test_what_is_settled_does_not_wait_and_what_came_back_does(tmp_path: Path) -> None:
    (one, two) = planned(tmp_path, [stored(1, "a", settled=4, still=(2,)), stored(2, "b")], [event(n, 1, 2) for n in range(1, 7)], _2=5)
    assert (one.waiting, one.before) == ([2, 5, 6], 0)
    assert (two.waiting, two.before) == ([6], 5)


def test_two_containers_with_one_name_are_two_names_in_a_domain(tmp_path: Path) -> None:
    moves = planned(tmp_path, [stored(1, "a", container="left"), stored(2, "a"), stored(3, "b", container="left")], [])
    assert [one.name for one in moves] == ["a@left", "a", "b"]
    assert moves[0].notes == ["It was the one of the container left; a domain knows user and name only."]


def test_dead_letters_and_suspended_ones_stay_and_say_why(tmp_path: Path) -> None:
    dead, suspended, limited = planned(
        tmp_path,
        [
            stored(1, "dead-letters", address="org.clacks.dead-letters", shared=True),
            stored(2, "slow", suspended="it took 0.5 s"),
            stored(3, "week", timeout=7 * 86400),
        ],
        [event(1, 1)],
    )
    assert "replay" in dead.left
    assert dead.waiting == [1]
    assert suspended.left == "its filter is suspended: it took 0.5 s"
    assert limited.left == ""
    assert "kept until it is deleted" in limited.notes[0]
