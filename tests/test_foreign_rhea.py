"""Somebody else's client, one: Node's rhea plays the scenes of tests/rhea/scenes.js against a real agent; here is what must come out.

rhea is fetched by npm the first time (version and checksums in tests/rhea/package-lock.json). Without npm, or without a registry, the
tests are skipped with the reason; with CI=true in the environment they fail.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import DEADLINE, RunningAgent
from samples import EVENTS, event, leave, phone, puppet_report

FOLDER = Path(__file__).parent / "rhea"
DOMAIN = "org.clacks"

Play = Callable[..., list[dict[str, Any]]]


class Like:
    """Equal to every string that the pattern matches as a whole: for sentences that are partly a library's."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and re.fullmatch(self.pattern, other, re.DOTALL) is not None

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Like({self.pattern!r})"


@pytest.fixture(scope="session")
def rhea() -> Path:
    """The folder with the scenes and with rhea installed."""

    def unavailable(reason: str) -> None:
        sentence = f"rhea cannot be tested: {reason}"
        if os.environ.get("CI") == "true":
            pytest.fail(sentence)
        pytest.skip(sentence)

    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None:
        unavailable("there is no node; install Node.js 18 or later")
    if not (FOLDER / "node_modules" / "rhea").is_dir():
        if npm is None:
            unavailable("there is no npm to install it; install Node.js with npm")
        installed = subprocess.run(["npm", "ci", "--ignore-scripts"], cwd=FOLDER, capture_output=True, text=True)
        if installed.returncode != 0:
            unavailable(f"npm ci failed in tests/rhea:\n{installed.stderr[-2000:]}")
    return FOLDER


@pytest.fixture
def play(rhea: Path, agent: RunningAgent) -> Play:
    """Play a scene against the agent; answers its transcript."""

    def play(scene: str, **stage: Any) -> list[dict[str, Any]]:
        where = {"host": "127.0.0.1", "port": agent.port, "user": "admin", "password": "secret", "domain": DOMAIN}
        played = subprocess.run(
            ["node", "play.js", scene], cwd=rhea, input=json.dumps(where | stage), capture_output=True, text=True, timeout=3 * DEADLINE
        )
        assert played.returncode == 0, played.stderr + played.stdout
        assert played.stderr == ""
        return [json.loads(line) for line in played.stdout.splitlines()]

    return play


# --- connecting ------------------------------------------------------------------------------------------------------------------


def test_the_agent_says_what_it_is(play: Play) -> None:
    assert play("open") == [{"open": True, "offered": ["clacks-bus", "ANONYMOUS-RELAY"], "product": "clacks"}]


def test_a_wrong_password_is_refused(play: Play) -> None:
    (line,) = play("open", password="wrong")
    assert line["open"] is False
    assert line["condition"] == "amqp:unauthorized-access"


def test_an_unknown_user_is_refused_like_a_wrong_password(play: Play) -> None:
    assert play("open", user="nobody") == play("open", password="wrong")


# --- publishing ------------------------------------------------------------------------------------------------------------------


def test_publish(play: Play) -> None:
    transcript = play(
        "publish",
        messages=[
            ("valid", phone()),
            ("no such element", event("PhoneStatus", ("CallerId", "1"), ("Colour", "red"))),
            ("not XML", "<Event"),
            ("no such event", event("NoSuchEvent")),
            ("valid again", phone()),
        ],
    )
    assert transcript == [
        {"what": "valid", "outcome": "accepted"},
        {
            "what": "no such element",
            "outcome": "rejected",
            "condition": "clacks:event-invalid",
            "description": "The event PhoneStatus does not fit its schema: /Event/PhoneStatus/Colour: there is no element Colour in"
            " PhoneStatus (expected ReceiverId). `clacks schemas PhoneStatus` shows what is expected.",
        },
        {
            "what": "not XML",
            "outcome": "rejected",
            "condition": "amqp:decode-error",
            "description": Like(r"The event is not well-formed XML: .+ \(line 1, column 7\)\. Check it with xmllint\."),
        },
        {
            "what": "no such event",
            "outcome": "rejected",
            "condition": "amqp:not-found",
            "description": Like(r"No schema describes the event NoSuchEvent\. .+"),
        },
        {"what": "valid again", "outcome": "accepted"},
    ]


def test_publish_settled(play: Play, agent: RunningAgent) -> None:
    assert play("publishSettled", messages=[("invalid", "<Event/>"), ("valid", phone())], arrive=1) == [
        {"what": "invalid", "settled": True},
        {"what": "valid", "settled": True},
        {"arrived": {"section": "data", "text": phone()}},
    ]
    assert agent.run(lambda: agent.agent.broker.intake.refused) == 1


def test_every_form_of_a_body(play: Play) -> None:
    assert play("bodies", valid=phone()) == [
        {"form": "data", "outcome": "accepted", "section": "data", "text": phone()},
        {"form": "several data", "outcome": "accepted", "section": "data", "text": phone()},
        {"form": "string", "outcome": "accepted", "section": "value", "text": phone()},
        {"form": "binary", "outcome": "accepted", "section": "value", "text": phone()},
        {
            "form": "number",
            "outcome": "rejected",
            "condition": "amqp:decode-error",
            "description": "The message's body is a number. Send the event's XML in a data section or as a string or binary value.",
        },
        {
            "form": "nothing",
            "outcome": "rejected",
            "condition": "amqp:decode-error",
            "description": "The message has no body. Send the event's XML in a data section or as a string value.",
        },
    ]


def test_a_large_event(play: Play) -> None:
    report = puppet_report(300_000)
    assert play("large", event=report) == [
        {"outcome": "accepted"},
        {"bytes": len(report), "sha256": hashlib.sha256(report.encode()).hexdigest()},
    ]


def test_the_bare_message_arrives_as_it_was(play: Play) -> None:
    assert play("bare", valid=phone()) == [
        {"outcome": "accepted"},
        {"body": phone()},
        {
            "message_id": "id-1",
            "user_id": "admin",
            "to": DOMAIN,
            "subject": "a subject",
            "reply_to": "back",
            "correlation_id": 7,
            "content_type": "application/xml",
            "creation_time": 1717161600000,
            "group_id": "group",
            "group_sequence": 3,
            "application_properties": {"customer": "ACME", "count": 5, "exact": True, "ratio": 0.5},
        },
        {"x-opt-clacks-id": "string", "x-opt-clacks-user": "admin", "x-opt-clacks-time": True, "x-opt-mine": "kept"},
    ]


# --- subscribing -----------------------------------------------------------------------------------------------------------------

BUSY = f"declare namespace f='{EVENTS}'; ./f:Event/f:PhoneStatus[f:Status = 'busy']"
SYMBOL = "apache.org:xquery-filter:string"
CODE = 0x0000468C00000005


@pytest.mark.parametrize("descriptor", [SYMBOL, CODE])
def test_subscribe_with_a_filter(play: Play, descriptor: str | int) -> None:
    messages = [("other event", leave("c-1")), ("other status", phone("free")), ("wanted", phone("busy"))]
    assert play("subscribe", filter=BUSY, descriptor=descriptor, key="any-key", messages=messages, arrive=1) == [
        {"attached": DOMAIN, "inForce": {"any-key": {"descriptor": str(descriptor), "text": BUSY}}},
        {"what": "other event", "outcome": "accepted"},
        {"what": "other status", "outcome": "accepted"},
        {"what": "wanted", "outcome": "accepted"},
        {"arrived": phone("busy"), "settled": False},
    ]


def test_a_filter_that_is_no_xquery_is_not_in_force(play: Play) -> None:
    assert play(
        "subscribe", filter="colour = 'red'", descriptor="apache.org:selector-filter:string", messages=[("any", leave("c-1"))], arrive=1
    ) == [
        {"attached": DOMAIN, "inForce": {}},
        {"what": "any", "outcome": "accepted"},
        {"arrived": leave("c-1"), "settled": False},
    ]


def test_subscribe_to_one_event_by_address(play: Play) -> None:
    address = f"{DOMAIN}.event.PhoneStatus"
    assert play("subscribe", address=address, messages=[("other", leave("c-1")), ("wanted", phone())], arrive=1) == [
        {"attached": address, "inForce": {}},
        {"what": "other", "outcome": "accepted"},
        {"what": "wanted", "outcome": "accepted"},
        {"arrived": phone(), "settled": False},
    ]


def test_a_filter_narrows_an_address(play: Play) -> None:
    address = f"{DOMAIN}.event.PhoneStatus"
    lines = play("subscribe", address=address, filter=BUSY, messages=[("free", phone("free")), ("busy", phone("busy"))], arrive=1)
    assert lines[-1] == {"arrived": phone("busy"), "settled": False}


def test_subscribe_for_settled_deliveries(play: Play) -> None:
    assert play("subscribe", settled=True, messages=[("any", leave("c-1"))], arrive=1)[-1] == {"arrived": leave("c-1"), "settled": True}


def test_application_properties_are_external_variables(play: Play) -> None:
    lines = play(
        "subscribe",
        filter="declare variable $customer external; declare variable $urgent as xs:boolean external; $urgent and $customer = 'ACME'",
        messages=[
            ("without", leave("without")),
            ("another customer", leave("another"), {"customer": "Other", "urgent": True}),
            ("another type", leave("type"), {"customer": "ACME", "urgent": "yes"}),
            ("wanted", leave("wanted"), {"customer": "ACME", "urgent": True}),
        ],
        arrive=1,
    )
    assert [line["outcome"] for line in lines[1:-1]] == ["accepted"] * 4
    assert lines[-1] == {"arrived": leave("wanted"), "settled": False}


def test_credit_is_kept_to(play: Play) -> None:
    calls = [leave(f"c-{number}") for number in range(4)]
    assert play("credit", messages=[("", text) for text in calls]) == [
        {"credit": 1, "arrived": calls[:1]},
        {"credit": "one more", "arrived": calls[1]},
        {"drained": True, "credit": 0, "arrived": calls[2:]},
    ]


def test_links_that_are_refused(play: Play) -> None:
    links = [
        {"role": "receiver", "address": DOMAIN, "filter": "./Event[\n  Status = ]"},
        {"role": "receiver", "address": DOMAIN, "filter": "doc('/etc/passwd')"},
        {"role": "receiver", "address": f"{DOMAIN}.event.NoSuchEvent"},
        {"role": "receiver", "address": "org.example"},
        {"role": "sender", "address": "org.example"},
        {"role": "sender", "address": f"{DOMAIN}.event.PhoneStatus"},
    ]
    sentences = [
        Like(r"The filter does not compile: line 2, column 1\d: \[XPST0003\] .+"),
        Like(r"The filter does not compile: line 1, column \d+: \[CLXQ0001\] doc\(\) is refused.+"),
        Like(r"No schema is called NoSuchEvent\. .+"),
        Like(r"Nothing is at the address 'org\.example'\. Events are at org\.clacks .+"),
        Like(r"Nothing is at the address 'org\.example'\. Events are at org\.clacks .+"),
        "Nothing is at the address 'org.clacks.event.PhoneStatus'. Publish events to the domain's own address.",
    ]
    conditions = ["amqp:invalid-field"] * 2 + ["amqp:not-found"] * 4
    expected: list[dict[str, Any]] = [
        {"role": link["role"], "address": link["address"], "condition": condition, "description": sentence}
        for link, condition, sentence in zip(links, conditions, sentences, strict=True)
    ]
    assert play("refused", links=links, valid=phone()) == [*expected, {"after": "valid", "outcome": "accepted"}]


# --- commands --------------------------------------------------------------------------------------------------------------------


def test_commands_with_a_dynamic_reply_address(play: Play, agent: RunningAgent) -> None:
    node = agent.agent.node_id
    transcript = play(
        "command",
        calls=[
            {"method": "getNodes", "params": [], "id": 1},
            {"method": "sendEvent", "params": {"data": phone()}, "id": 2},
            {"method": "sendEvent", "params": [event("NoSuchEvent")], "id": 3},
            {"method": "noSuchCommand", "params": [], "id": 4},
        ],
    )
    nodes = transcript[0]["answer"].pop("result")
    assert set(nodes) == {node}
    assert set(nodes[node]) == {"load", "latency", "workers"}
    unknown_event = {"code": "event-unknown", "message": Like(r"No schema describes the event NoSuchEvent\. .+")}
    unknown_command = {"code": "command-unknown", "message": Like(r"No command is called 'noSuchCommand'\. .+")}
    assert transcript == [
        {"sent": "accepted", "correlation": "call-0", "answer": {"error": None, "id": 1}},
        {"sent": "accepted", "correlation": "call-1", "answer": {"result": True, "error": None, "id": 2}},
        {"sent": "accepted", "correlation": "call-2", "answer": {"result": None, "error": unknown_event, "id": 3}},
        {"sent": "accepted", "correlation": "call-3", "answer": {"result": None, "error": unknown_command, "id": 4}},
        {
            "outcome": "rejected",
            "condition": "amqp:not-found",
            "description": "Nothing is at the address 'somebody-else'. Attach a receiver with a dynamic source and use the"
            " address it gets.",
        },
    ]


def test_commands_for_one_node(play: Play, agent: RunningAgent) -> None:
    address = f"{DOMAIN}.command.core.{agent.agent.node_id}"
    transcript = play("command", address=address, calls=[{"method": "getSessionUser", "params": [], "id": "a"}])
    assert transcript[0]["answer"] == {"result": "admin", "error": None, "id": "a"}
