"""`clacks consume`, `call`, `schemas`, `status` and `demo` against a real agent."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import string
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from lxml import etree

from clacks.cli.main import clacks
from clacks.cli.projection import Projection
from clacks.cli.schemas import example
from clacks.cli.sendevent import send_event
from clacks.common.components.received import ReceivedEvent
from conftest import CHECKOUT, DEADLINE, RunningAgent, wait_for

EVENTS = CHECKOUT / "schemas/events"


def run(agent: RunningAgent, *arguments: str) -> Result:
    return CliRunner().invoke(clacks, arguments, env={"CLACKS_URL": agent.url()})


def send(agent: RunningAgent, *arguments: str) -> None:
    result = CliRunner().invoke(send_event, arguments, env={"CLACKS_URL": agent.url()})
    assert result.exit_code == 0, result.output


@contextmanager
def consuming(agent: RunningAgent, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`clacks consume` as a process, attached."""
    command = [sys.executable, "-m", "clacks.cli", "consume", *arguments]
    environment = environment | {"CLACKS_URL": agent.url()}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: agent.subscriptions or process.poll() is not None, "the consumer is there")
            yield process
        finally:
            process.kill()


# --- consume ---

# Clears the screen, sets the title, and turns what follows around; the second is fine in XML.
COMMANDS = "\x1b[2J\x1b]0;title\x07\u202e"
COMMANDS_IN_XML = "\x9b2J\u202e"


@pytest.mark.parametrize("form", ["pretty", "xml", "json"])
def test_an_event_gives_the_terminal_no_commands(agent: RunningAgent, environment: dict[str, str], form: str) -> None:
    with consuming(agent, environment, "--count", "1", "--format", form) as process:
        send(agent, "PhoneStatus", f"CallerId={COMMANDS_IN_XML}", "ReceiverId=2", "Status=busy", "--property", f"{COMMANDS}={COMMANDS}")
        out, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, errors) == (0, "")
    assert not set(out) & set(COMMANDS + COMMANDS_IN_XML) - set(string.printable)
    assert not {"\x1b", "\x07"} & set(out)
    if form == "json":
        assert json.loads(out)["content"]["CallerId"] == COMMANDS_IN_XML
    if form == "xml":
        assert etree.fromstring(out).findtext(".//{*}CallerId") == COMMANDS_IN_XML


def test_names_give_the_terminal_no_commands(agent: RunningAgent, environment: dict[str, str]) -> None:
    filters = f"/*:Event or '{COMMANDS_IN_XML}' = 'x'"
    with consuming(agent, environment, filters, "--shared", COMMANDS):
        wait_for(lambda: agent.subscriptions, "it is attached")
        shown = [run(agent, "status"), run(agent, "subscriptions"), run(agent, "subscriptions", "show", COMMANDS)]
    refused = run(agent, "call", COMMANDS)
    assert refused.exit_code != 0
    for result in (*shown, refused):
        assert "2J" in result.output
        assert not set(result.output) & set(COMMANDS + COMMANDS_IN_XML) - set(string.printable)
        assert not {"\x1b", "\x07"} & set(result.output)


def test_consume_prints_what_matches_and_ends_after_count(agent: RunningAgent, environment: dict[str, str]) -> None:
    with consuming(agent, environment, "//*:Status = 'busy'", "--count", "2") as process:
        for status in ("ringing", "busy", "idle", "busy"):
            send(agent, "PhoneStatus", "CallerId=1", "ReceiverId=2", f"Status={status}", "--property", "site=oslo")
        out, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, errors) == (0, "")
    heads = [line.partition(" ")[2] for line in out.splitlines() if "from" in line]
    assert heads == ["PhoneStatus from admin site=oslo"] * 2
    assert out.count("    <Status>busy</Status>\n") == out.count("<Status>") == 2


def test_consume_takes_a_filter_from_a_file(agent: RunningAgent, environment: dict[str, str], tmp_path: Path) -> None:
    place = tmp_path / "who is busy.xq"
    place.write_text("(: who is busy :)\n//*:Status = 'busy'\n")
    with consuming(agent, environment, str(place), "--count", "1", "--format", "xml") as process:
        for status in ("ringing", "busy"):
            send(agent, "PhoneStatus", "CallerId=1", "ReceiverId=2", f"Status={status}")
        out, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, errors, out.count("<Status>busy<")) == (0, "", 1)
    with consuming(agent, environment, "nothing.xq") as process:
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2
    assert "There is no file nothing.xq." in errors


def test_consume_xml_is_one_event_a_line(agent: RunningAgent, environment: dict[str, str]) -> None:
    with consuming(agent, environment, "--event", "PhoneStatus", "--count", "1", "--format", "xml") as process:
        send(agent, "ClientPoll")
        send(agent, "PhoneStatus", "CallerId=1\n2", "ReceiverId=2", "Status=busy")
        out, _ = process.communicate(timeout=DEADLINE)
    [line] = out.splitlines()
    root = etree.fromstring(line)
    assert [child.text for child in root[0]] == ["1\n2", "2", "busy"]


@pytest.mark.parametrize("flag", [["--json"], ["--format", "json"]])
def test_consume_json_has_the_types_of_the_schema(agent: RunningAgent, environment: dict[str, str], flag: list[str]) -> None:
    with consuming(agent, environment, "--event", "CollectD", "--count", "1", *flag) as process:
        send(agent, "--file", str(EVENTS / "CollectD.xml"), "--property", "site=oslo")
        out, _ = process.communicate(timeout=DEADLINE)
    [line] = out.splitlines()
    event = json.loads(line)
    assert (event["event"], event["user"], event["properties"]) == ("CollectD", "admin", {"site": "oslo"})
    assert event["id"]
    assert event["time"].endswith("+00:00")
    assert event["content"] == {
        "Host": "server-3",
        "Plugin": "load",
        "Type": "load",
        "Time": "2024-05-31T13:20:00Z",
        "Interval": 10.0,
        "Value": [
            {"@name": "shortterm", "#text": 0.25},
            {"@name": "midterm", "#text": 0.31},
            {"@name": "longterm", "#text": 0.28},
        ],
    }


def test_consume_with_a_timeout(agent: RunningAgent, environment: dict[str, str]) -> None:
    result = run(agent, "consume", "--timeout", "0.05", "--count", "2")
    assert (result.exit_code, result.stdout) == (6, "")
    with consuming(agent, environment, "--event", "ClientPoll", "--timeout", "1", "--count", "2") as process:
        send(agent, "ClientPoll")
        _, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, "1 of 2 events arrived within 1 s" in errors) == (6, True), errors
    with consuming(agent, environment, "--event", "ClientPoll", "--timeout", "1") as process:
        send(agent, "ClientPoll")
        _, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, errors) == (0, "")


def test_consume_ends_quietly_when_nobody_reads_on(agent: RunningAgent, environment: dict[str, str]) -> None:
    with consuming(agent, environment, "--event", "ClientPoll", "--format", "xml") as process:
        assert process.stdout is not None
        send(agent, "ClientPoll")
        assert "ClientPoll" in process.stdout.readline()
        process.stdout.close()
        send(agent, "ClientPoll")
        assert process.wait(DEADLINE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_consume_tells_when_the_agent_goes(tmp_path: Path, environment: dict[str, str]) -> None:
    with RunningAgent(tmp_path / "state") as agent, consuming(agent, environment) as process:
        agent.loop.call_soon_threadsafe(agent.agent.stop)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("note: still without a connection: No agent can be reached")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, "Traceback" in errors) == (0, False), errors


def received(name: str, inside: str) -> ReceivedEvent:
    from lxml import objectify

    tree = objectify.fromstring(f'<Event xmlns="http://www.gonicus.de/Events"><{name}>{inside}</{name}></Event>')
    return ReceivedEvent(name, tree, b"", "", "", None, {})


def field(path: str, type_: str = "string", most: int | None = 1) -> dict[str, object]:
    return {"path": path, "type": type_, "min": 1, "max": most}


@pytest.mark.parametrize(
    ("fields", "inside", "content"),
    [
        ([], "", {}),
        ([], "<x>1</x>", {"x": "1"}),
        ([], "<x>1</x><x>2</x>", {"x": ["1", "2"]}),
        ([], "<n><x>1</x></n>", {"n": {"x": "1"}}),
        ([], "<x a='1'>2</x><y a='1'/>", {"x": {"@a": "1", "#text": "2"}, "y": {"@a": "1"}}),
        ([field("x", "int", None)], "<x>1</x>", {"x": [1]}),
        ([field("x", "boolean")], "<x> 1 </x>", {"x": True}),
        ([field("x", "double")], "<x>1e3</x>", {"x": 1000.0}),
        ([field("x", "double")], "<x>INF</x>", {"x": "INF"}),
        ([field("x", "decimal"), field("x/@a", "int")], "<x a='4'>1.50</x>", {"x": {"@a": 4, "#text": 1.5}}),
        ([field("n", "", None), field("n/x", "long")], "<n><x>9007199254740993</x></n>", {"n": [{"x": 9007199254740993}]}),
    ],
)
def test_an_event_as_json(fields: list[dict[str, object]], inside: str, content: object) -> None:
    answer = Projection([{"name": "A", "fields": fields}]).of(received("A", inside))
    assert answer["content"] == content


# --- agents that do not answer ---

ASKING = ["status", "schemas", "call getNodes", "subscriptions", "subscriptions show a", "subscriptions delete a", "subscriptions replay a"]


@pytest.mark.parametrize("typed", ASKING)
def test_who_is_reached_and_says_nothing_is_not_waited_for(typed: str) -> None:
    with socket.create_server(("localhost", 0)) as listening:
        url = f"amqp://admin:secret@localhost:{listening.getsockname()[1]}"
        result = CliRunner().invoke(clacks, [*typed.split(), "--timeout", "0.1s", "--url", url])
    assert (result.exit_code, "no answer within 0.1 s" in result.stderr) == (5, True), result.stderr
    assert "secret" not in result.stderr


@pytest.mark.parametrize("typed", ASKING)
def test_what_is_not_answered_is_not_waited_for(agent: RunningAgent, monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    async def never(*command: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(agent.agent.commands, "dispatch", never)
    result = run(agent, *typed.split(), "--timeout", "0.1s")
    assert (result.exit_code, "was not answered within 0.1 s" in result.stderr) == (6, True), result.stderr


# --- call ---


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["getSessionUser"], "admin\n"),
        (["getSessionUser", "--json"], '"admin"\n'),
        (["getMethods", "telephony"], "{}\n"),
        (["getMethods", "queue=telephony"], "{}\n"),
        (["getMethods", '{"queue": 17}'], "{}\n"),
    ],
)
def test_call(agent: RunningAgent, arguments: list[str], output: str) -> None:
    result = run(agent, "call", *arguments)
    assert (result.exit_code, result.output) == (0, output)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["getSchema", "a", "name=b"], 2, "either all by name"),
        (["getSchema"], 2, "getSchema: missing a required argument: 'name'"),
        (["sendEvent", "17"], 2, "data is not a string"),
        (["sendEvent", '"17"'], 3, "not well-formed"),
        (["getNodes", "--target", "core.nowhere"], 2, "Nothing is at the address"),
        (["getNodes", "--target", "telephony"], 2, "Nothing is at the address"),
    ],
)
def test_call_refused(agent: RunningAgent, arguments: list[str], code: int, said: str) -> None:
    result = run(agent, "call", *arguments)
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr


def test_call_one_agent(agent: RunningAgent) -> None:
    node = agent.agent.node_id
    assert list(json.loads(run(agent, "call", "getNodes", "--target", f"core.{node}").stdout)) == [node]


# --- schemas ---


def test_schemas_lists_every_event_with_its_meaning(agent: RunningAgent) -> None:
    lines = run(agent, "schemas").output.splitlines()
    assert lines[0].split() == ["event", "meaning"]
    assert [line.split()[0] for line in lines[1:]] == sorted(path.stem for path in EVENTS.glob("*.xsd"))
    assert "PhoneStatus           The status of a phone has changed." in lines
    listed = json.loads(run(agent, "schemas", "--json").stdout)
    assert [entry["name"] for entry in listed] == [line.split()[0] for line in lines[1:]]


def test_schemas_shows_the_fields_of_an_event(agent: RunningAgent) -> None:
    lines = run(agent, "schemas", "CollectD").output.splitlines()
    assert lines[0] == "CollectD: Experimental collectd event: one measurement."
    assert "PluginInstance  0..1    string    Which of several, as 0 for the first processor." in lines
    assert "Value           1..n    double    One measured value; a type such as load has several." in lines
    assert lines[-1].startswith("Example: sendEvent CollectD Host=")
    fields = json.loads(run(agent, "schemas", "CollectD", "--json").stdout)["fields"]
    assert {"path": "Value", "type": "double", "min": 1, "max": None}.items() <= fields[-2].items()


def test_every_shown_example_is_accepted(agent: RunningAgent) -> None:
    for entry in json.loads(run(agent, "schemas", "--json").stdout):
        program, *arguments = shlex.split(example(entry))
        assert program == "sendEvent"
        send(agent, *arguments)


def test_schemas_xsd(agent: RunningAgent) -> None:
    shown = run(agent, "schemas", "ClientPoll", "--xsd").output
    assert etree.canonicalize(shown) == etree.canonicalize((EVENTS / "ClientPoll.xsd").read_text())
    assert "Of which event?" in run(agent, "schemas", "--xsd").stderr
    assert run(agent, "schemas", "Nope", "--xsd").exit_code == 2


# --- status ---


def test_status(agent: RunningAgent, environment: dict[str, str]) -> None:
    assert "No subscriptions." in run(agent, "status").output
    with consuming(agent, environment, "//*:Status\n = 'busy'"):
        send(agent, "PhoneStatus", "CallerId=1", "ReceiverId=2", "Status=busy")
        found = json.loads(run(agent, "status", "--json").stdout)
        output = run(agent, "status").output
    assert (found["node"], found["subscriptions"][0]["delivered"]) == (agent.agent.node_id, 1)
    assert f"listeners    {agent.urls[0]}\n" in output
    assert output.splitlines()[-1].startswith("admin  org.clacks  live  1          1     0")
    assert output.endswith("  //*:Status = 'busy'\n")


def test_status_goes_on_until_ctrl_c(agent: RunningAgent, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "clacks.cli", "status", "--live", "--json", "--url", agent.url()]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        uptimes = [json.loads(process.stdout.readline())["uptime"] for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, errors) == (0, "")
    assert uptimes[0] < uptimes[1]


# --- demo ---


def test_the_demo_shows_the_main_job_and_leaves_nothing_behind(environment: dict[str, str], tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    hostile = {"CLACKS_LISTEN": "nonsense", "CLACKS_URL": "amqp://localhost:1", "TMPDIR": str(temporary)}
    result = subprocess.run(
        [sys.executable, "-m", "clacks.cli", "demo"], env=environment | hostile, capture_output=True, text=True, timeout=DEADLINE
    )
    assert (result.returncode, result.stderr) == (0, "")
    told = ["ready amqp://localhost:", "listening", "accepted: PhoneStatus", "The consumer does not get it", "accepted: PhoneStatus",
            "The consumer gets, from demo:", "<Status>busy</Status>", "error: The event PhoneStatus does not fit its schema.",
            "/Event/PhoneStatus/State", "the agent has stopped"]  # fmt: skip
    rest = result.stdout
    for text in told:
        assert text in rest
        rest = rest.partition(text)[2]
    assert os.listdir(temporary) == []
    assert os.listdir(environment["HOME"]) == []


def test_the_demo_ends_at_ctrl_c_quietly(environment: dict[str, str], tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "clacks.cli", "demo"], env=environment | {"TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        while "ready" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode in (0, 130), errors) == (True, "")
    assert [name for name in os.listdir(tmp_path) if name.startswith("clacks-demo")] == []
