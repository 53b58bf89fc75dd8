"""`sendEvent`: what is typed, what is published, what is said."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from lxml import etree

from clacks.cli.fields import build_event
from clacks.cli.sendevent import send_event
from clacks.common.components import AMQPEventConsumer
from conftest import CHECKOUT, RunningAgent, wait_for

PHONE = ["PhoneStatus", "CallerId=012345", "ReceiverId=12343424", "Status=busy"]


def run(agent: RunningAgent | None, *arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(send_event, arguments, input=stdin, env={"CLACKS_URL": agent.url() if agent else None})


@pytest.mark.parametrize(
    ("fields", "made"),
    [
        ("", "<A/>"),
        ("x=1", "<A><x>1</x></A>"),
        ("y=1 x=2", "<A><y>1</y><x>2</x></A>"),
        ("x=", "<A><x/></A>"),
        ("x=a=b", "<A><x>a=b</x></A>"),
        ("x=<&>", "<A><x>&lt;&amp;&gt;</x></A>"),
        ("x=1 x=1", "<A><x>1</x><x>1</x></A>"),
        ("x= x=", "<A><x/><x/></A>"),
        ("n/x=1 n/y=2", "<A><n><x>1</x><y>2</y></n></A>"),
        ("n/x=1 z=0 n/y=2", "<A><n><x>1</x><y>2</y></n><z>0</z></A>"),
        ("n/x=1 n/x=2", "<A><n><x>1</x><x>2</x></n></A>"),
        ("n/x=1 n[2]/x=2 n/y=3", "<A><n><x>1</x></n><n><x>2</x><y>3</y></n></A>"),
        ("n[1]/x=1 n[2]/x=2 n[1]/y=3", "<A><n><x>1</x><y>3</y></n><n><x>2</x></n></A>"),
        ("n/m/x=1 n/m[2]/x=2", "<A><n><m><x>1</x></m><m><x>2</x></m></n></A>"),
        ("x[1]=1 x[2]=2", "<A><x>1</x><x>2</x></A>"),
        ("@a=1", '<A a="1"/>'),
        ("x=1 x/@a=2", '<A><x a="2">1</x></A>'),
        ("x/@a=2 x=1", '<A><x a="2">1</x></A>'),
        ("x=1 x/@a=2 x=3 x/@a=4", '<A><x a="2">1</x><x a="4">3</x></A>'),
        ("x=1 x=2 x[1]/@a=3", '<A><x a="3">1</x><x>2</x></A>'),
        ("Grüße=ä", "<A><Grüße>ä</Grüße></A>"),
    ],
)  # fmt: skip
def test_fields_become_elements_in_their_order(fields: str, made: str) -> None:
    event = build_event("A", fields.split())
    assert etree.tostring(event, encoding="unicode") == f'<Event xmlns="http://www.gonicus.de/Events">{made}</Event>'


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("x", "it has no ="),
        ("=1", "'' is not an element's name"),
        ("a//b=1", "'' is not an element's name"),
        ("1a=1", "'1a' is not an element's name"),
        ("a:b=1", "'a:b' is not an element's name"),
        ("x[0]=1", "'x[0]' is not an element's name"),
        ("x[2]=1", "one is missing before it. The next is x[1]."),
        ("x=1 x[1]=2", "it has a value already. The next is x[2]."),
        ("@=1", "'' is not an attribute's name"),
        ("x/@a=1 x/@a=2", "it has a value already. For another element say which one"),
        ("x=\x01", "a character that XML does not allow"),
        ("@x=\x01", "a character that XML does not allow"),
    ],
)
def test_a_field_that_cannot_be_one(fields: str, said: str) -> None:
    with pytest.raises(click.UsageError, match=r"^The field ") as raised:
        build_event("A", fields.split(" "))
    assert said in raised.value.message


@pytest.mark.parametrize("name", ["", "a b", "<a>", "a[1]", "1", "a:b"])
def test_a_name_that_cannot_be_one(name: str) -> None:
    with pytest.raises(click.UsageError, match="cannot be an event's name"):
        build_event(name, [])


def test_a_file_in_place_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("event.xml").write_text("<a/>")
    result = run(None, "event.xml")
    assert result.exit_code == 2
    assert "event.xml is a file. Send what is in it with --file." in result.output
    assert run(None, "--dry-run", "other.xml").exit_code == 0, "the name of an event may have a dot"


def test_accepted(agent: RunningAgent) -> None:
    result = run(agent, *PHONE)
    assert (result.exit_code, result.output) == (0, "accepted: PhoneStatus (183 bytes)\n")
    result = run(agent, "--json", *PHONE)
    assert json.loads(result.stdout) == {"accepted": True, "event": "PhoneStatus", "bytes": 183}


def test_what_is_published_arrives_with_its_properties(agent: RunningAgent) -> None:
    got = []
    xquery = "declare variable $site external; $site = 'oslo' and /*:Event/*:PhoneStatus"
    with AMQPEventConsumer(agent.url(), xquery=xquery, callback=got.append):
        assert run(agent, *PHONE).exit_code == 0
        assert run(agent, "--property", "site=oslo", "--ttl", "1m", *PHONE).exit_code == 0
        wait_for(lambda: got, "the event arrives")
    assert [str(event.PhoneStatus.CallerId.text) for event in got] == ["012345"]


@pytest.mark.parametrize("way", [["-"], ["--file", "-"], ["--file", str(CHECKOUT / "schemas/events/PuppetReport.xml")]])
def test_an_event_from_a_file(agent: RunningAgent, way: list[str]) -> None:
    body = (CHECKOUT / "schemas/events/PuppetReport.xml").read_bytes()
    result = run(agent, *way, stdin=body)
    assert (result.exit_code, result.output) == (0, f"accepted: PuppetReport ({len(body)} bytes)\n")


def test_an_event_in_another_encoding_travels_as_it_is(agent: RunningAgent) -> None:
    text = "<?xml version='1.0' encoding='utf-16'?><Event xmlns='http://www.gonicus.de/Events'><ClientPoll/></Event>"
    result = run(agent, "-", stdin=text.encode("utf-16"))
    assert (result.exit_code, result.output.partition(" (")[0]) == (0, "accepted: ClientPoll")


def test_a_refusal_as_json(agent: RunningAgent) -> None:
    result = run(agent, "--json", "PhoneStatu")
    assert result.exit_code == 3
    error = json.loads(result.stdout)["error"]
    assert (error["code"], "Did you mean PhoneStatus?" in error["message"]) == ("event-unknown", True)


def test_a_dry_run_needs_no_agent() -> None:
    result = run(None, "--dry-run", "PhoneStatus", "Status=é")
    assert (result.exit_code, result.output) == (
        0,
        '<Event xmlns="http://www.gonicus.de/Events">\n  <PhoneStatus>\n    <Status>é</Status>\n  </PhoneStatus>\n</Event>\n',
    )


def test_a_dry_run_as_json_says_that_nothing_was_sent() -> None:
    result = run(None, "--dry-run", "--json", *PHONE)
    told = json.loads(result.stdout)
    assert run(None, "--dry-run", *PHONE).stdout == told.pop("xml")
    assert (result.exit_code, told) == (0, {"accepted": False, "dry_run": True, "event": "PhoneStatus", "bytes": 183})


def test_an_agent_that_does_not_say_what_became_of_it_is_not_waited_for(agent: RunningAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent.agent.broker.intake, "submit", lambda *event: None)
    result = run(agent, "--timeout", "0.1s", "--json", *PHONE)
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["code"]) == (6, "event-unanswered")
    assert "within 0.1 s" in error["message"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Which event?"),
        (["--file", "x", "PhoneStatus"], "Give either"),
        (["-", "A=b"], "leave the fields out"),
        (["--file", "/nowhere"], "/nowhere cannot be read: No such file or directory"),
        (["PhoneStatus", "--property", "a"], "The property 'a' is not NAME=VALUE."),
        (["PhoneStatus", "--ttl", "0"], "Invalid value for '--ttl'"),
        (["PhoneStatus", "--ttl", "50d"], "Give a --ttl of 49d at most"),
    ],
)
def test_usage(arguments: list[str], said: str, tmp_path: Path) -> None:
    result = run(None, *arguments)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
