"""`clacks consume --durable, --shared, --dead-letters` and `clacks subscriptions` against a real agent."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from clacks.amqp import Condition, Outcome, Rejected
from clacks.cli.main import clacks
from clacks.cli.output import shown_size
from clacks.cli.sendevent import send_event
from clacks.common.components.client import BusClient, Delivery, Keep, Subscription
from clacks.common.components.terms import Wanted
from conftest import DEADLINE, RunningAgent, wait_for
from support import until

PHONES = ("--event", "PhoneStatus")


def run(agent: RunningAgent, *arguments: str, user: str = "admin", password: str = "secret") -> Result:
    return CliRunner().invoke(clacks, arguments, env={"CLACKS_URL": agent.url(user, password)})


def send(agent: RunningAgent, *numbers: int) -> None:
    for number in numbers:
        fields = ["PhoneStatus", f"CallerId={number}", "ReceiverId=2", "Status=busy"]
        result = CliRunner().invoke(send_event, fields, env={"CLACKS_URL": agent.url()})
        assert result.exit_code == 0, result.output


def make(agent: RunningAgent, name: str, *options: str) -> None:
    """A durable subscription, with nobody who consumes it."""
    result = run(agent, "consume", *PHONES, "--durable", name, "--timeout", "0.05", *options)
    assert result.exit_code == 6, result.output


def consumed(agent: RunningAgent, *options: str) -> list[str]:
    """The callers of the events that come at once, and then no more."""
    result = run(agent, "consume", "--timeout", "1", "--json", *options)
    assert result.exit_code in (0, 6), result.output
    return [json.loads(line)["content"]["CallerId"] for line in result.stdout.splitlines() if '"content"' in line]


@contextmanager
def consuming(agent: RunningAgent, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "clacks.cli", "consume", "--json", *PHONES, *arguments]
    before = sum(len(one.consumers) for one in agent.subscriptions)
    with subprocess.Popen(
        command, env=environment | {"CLACKS_URL": agent.url()}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_for(lambda: sum(len(one.consumers) for one in agent.subscriptions) > before, "the consumer is there")
            yield process
        finally:
            process.kill()


def settle_all(agent: RunningAgent, name: str, outcome: Outcome, count: int) -> None:
    """Take so many events of a durable subscription with this outcome."""

    async def main() -> None:
        async with BusClient(agent.url()) as bus:
            seen: list[Delivery] = []

            def deliver(delivery: Delivery) -> None:
                delivery.settle(outcome)
                seen.append(delivery)

            subscription = Subscription(bus.route, Wanted(event="PhoneStatus", keep=Keep(durable=name)), deliver)
            await subscription.attach()
            await until(lambda: len(seen) == count, "they have come")
            subscription.close()

    asyncio.run(main())


# --- consume ---


def test_two_share(agent: RunningAgent, environment: dict[str, str]) -> None:
    for options in (["--shared", "live"], ["--durable", "kept", "--shared", "kept"]):
        with consuming(agent, environment, *options, "--count", "2") as one, consuming(agent, environment, *options, "--count", "2") as two:
            send(agent, 1, 2, 3, 4)
            lines = [line for process in (one, two) for line in process.communicate(timeout=DEADLINE)[0].splitlines()]
        assert sorted(json.loads(line)["content"]["CallerId"] for line in lines) == ["1", "2", "3", "4"]


def test_what_was_dropped_and_tried_before_is_told(tmp_path: Path) -> None:
    with RunningAgent(tmp_path / "state", {"durable.events": 2}) as agent:
        make(agent, "lossy", "--max-bytes", "64M")
        send(agent, 1, 2, 3)
        result = run(agent, "consume", *PHONES, "--durable", "lossy", "--count", "2", "--json")
    assert "note: 1 event was dropped before this one: more waited than may\n" in result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(event["content"]["CallerId"], event.get("dropped")) for event in events] == [("2", 1), ("3", None)]
    assert "attempts" not in events[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--durable", "a", "--shared", "b"], "--durable a --shared a"),
        (["--max-age", "3d"], "--max-age is for durable subscriptions"),
        (["--durable", ""], "has a name, and this one is empty"),
        (["--max-age", "3x", "--durable", "a"], "'3x' is no time. Write it like 30s"),
        (["--max-bytes", "0", "--durable", "a"], "'0' is no size. Write it like 64M"),
        (["--replace"], "What is to be replaced?"),
        (["--overflow", "block-publisher"], "give --shared NAME"),
        (["--overflow", "refuse"], "a live subscription has drop-oldest"),
        (["--overflow", "refuse", "--max-age", "1h", "--durable", "a"], "refuse loses nothing"),
        (["--dead-letters", "//a"], "one queue of yours"),
    ],
)
def test_what_does_not_go_together(shared_agent: RunningAgent, options: list[str], said: str) -> None:
    result = run(shared_agent, "consume", "--timeout", "0.05", *options)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr


def test_units(agent: RunningAgent) -> None:
    make(agent, "a", "--max-age", "1.5h", "--max-bytes", "64M")
    make(agent, "b", "--max-age", "90")
    terms = [json.loads(run(agent, "subscriptions", "show", name, "--json").stdout) for name in "ab"]
    assert [(one["max_age"], one["max_bytes"], one["overflow"]) for one in terms] == [
        (5400, 64 * 2**20, "drop-oldest"),
        (90, None, "drop-oldest"),
    ]


def test_another_filter_is_for_those_who_say_replace(agent: RunningAgent) -> None:
    make(agent, "billing")
    again = ["consume", *PHONES, "//*:CallerId = 2", "--durable", "billing", "--timeout", "0.05"]
    refused = run(agent, *again)
    assert (refused.exit_code, "exists with another filter" in refused.stderr) == (2, True), refused.stderr
    assert run(agent, *again, "--replace").exit_code == 6
    assert "filters        //*:CallerId = 2\n" in run(agent, "subscriptions", "show", "billing").stdout


# --- subscriptions ---


def test_list_is_the_default(agent: RunningAgent) -> None:
    assert "No subscriptions are kept or shared." in run(agent, "subscriptions").stdout
    make(agent, "billing")
    send(agent, 1)
    heads, row = run(agent, "subscriptions").stdout.splitlines()
    assert heads.split() == ["name", "user", "kind", "consumers", "waiting", "dropped", "dead"]
    assert row.split() == ["billing", "admin", "durable", "0", "1", *row.split()[5:7], "0", "0"]
    assert json.loads(run(agent, "subscriptions", "--json").stdout) == json.loads(run(agent, "subscriptions", "list", "--json").stdout)
    assert "list" in run(agent, "subscriptions", "--help").stdout


def test_dead_letters_are_looked_at_and_replayed(agent: RunningAgent) -> None:
    make(agent, "billing")
    send(agent, 1, 2)
    settle_all(agent, "billing", Rejected(Condition("app:no", "no invoice")), 2)
    wait_for(lambda: json.loads(run(agent, "subscriptions", "show", "dead-letters", "--json").stdout)["kept"] == 2, "both are dead")
    for _ in range(2):  # looking changes nothing
        shown = run(agent, "consume", "--dead-letters", "--count", "2")
        assert shown.exit_code == 0, shown.output
        assert shown.stdout.count("dead letter of billing: app:no: no invoice\n") == 2
    [first, _] = run(agent, "consume", "--dead-letters", "--count", "2", "--json").stdout.splitlines()
    assert json.loads(first).items() >= {"dead_subscription": "billing", "dead_reason": "app:no: no invoice"}.items()
    assert "2 dead" in run(agent, "status").stdout
    assert run(agent, "subscriptions", "replay", "billing").stdout == "replayed: 2 dead letters of billing\n"
    assert consumed(agent, *PHONES, "--durable", "billing") == ["1", "2"]


def test_delete(agent: RunningAgent, environment: dict[str, str]) -> None:
    make(agent, "billing")
    send(agent, 1, 2)
    with consuming(agent, environment, "--durable", "used") as process:
        refused = run(agent, "subscriptions", "delete", "used")
        assert (refused.exit_code, "has consumers" in refused.stderr) == (1, True), refused.output
        assert run(agent, "subscriptions", "delete", "used", "--force").exit_code == 0
        _, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, "was deleted by admin" in errors) == (1, True), errors
    assert run(agent, "subscriptions", "delete", "billing").stdout == "deleted: billing of admin, and with it 2 events that waited\n"
    again = run(agent, "subscriptions", "delete", "billing", "--json")
    assert (again.exit_code, json.loads(again.stdout)["error"]["code"]) == (2, "subscription-unknown")


def test_others_see_their_own(agent: RunningAgent) -> None:
    make(agent, "billing")
    assert run(agent, "subscriptions", "--json", user="guest", password="guest").stdout == "[]\n"
    refused = run(agent, "subscriptions", "show", "billing", "--owner", "admin", user="guest", password="guest")
    assert (refused.exit_code, "--administer" in refused.stderr) == (4, True), refused.stderr
    assert run(agent, "subscriptions", "show", "billing", "--owner", "guest").exit_code == 2
    assert run(agent, "subscriptions", "delete", "billing", "--owner", "admin").exit_code == 0


def test_status_has_them_and_the_store(agent: RunningAgent) -> None:
    make(agent, "billing")
    send(agent, 1)
    found = json.loads(run(agent, "subscriptions", "--json").stdout)[0]
    shown = run(agent, "status").stdout
    assert f"store        1 event ({shown_size(found['waiting_bytes'])}) for 1 durable subscription\n" in shown
    assert shown.splitlines()[-1].startswith(f"admin  billing  durable  0          0     1 ({shown_size(found['waiting_bytes'])})")


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (64 * 2**20, "64.0 MiB"), (2**50, "1.0 PiB")],
)
def test_sizes(size: int, shown: str) -> None:
    assert shown_size(size) == shown
