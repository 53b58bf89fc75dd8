"""What all commands have in common: help that tells the truth, docs that are up to date, exit codes, quiet ends, a quick start."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from clacks.agent.config import CLIENTS_VARIABLES
from clacks.cli.command import TIME, Command, json_option
from clacks.cli.docs import ENVIRONMENT, PAGES, commands
from clacks.cli.fields import build_event
from clacks.common import amounts
from clacks.common.errors import EXIT_CODES, ClacksError, Problem
from clacks.common.event import to_bytes
from clacks.common.schema import SchemaRegistry
from conftest import CHECKOUT, DEADLINE, RunningAgent, wait_for

PROGRAMS = {"clacks": "clacks.cli", "clacks-agent": "clacks.cli.agent", "sendEvent": "clacks.cli.sendevent"}


def command_line(text: str) -> list[str]:
    """`sendEvent X A=b` as it is run here."""
    program, *arguments = shlex.split(text)
    return [sys.executable, "-m", PROGRAMS[program], *arguments]


def examples(program: str = "") -> list[tuple[str, list[str]]]:
    """Every example of every help that runs one of our programs: its line, and the words of that program in it."""
    found = []
    for command in commands().values():
        for line in command.examples:  # type: ignore[attr-defined]
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words = " ".join(shlex.quote(word) for word in lexer)  # operators are now words of their own, in quotes
            for part in re.split(r" '[|<>]' ", words):
                name, *arguments = [word for word in shlex.split(part) if not word.startswith("CLACKS_")]
                if name in PROGRAMS and program in ("", name):
                    found.append((line, [name, *arguments]))
    return found


# --- help and docs ---


@pytest.mark.parametrize("name", commands())
def test_every_help_has_examples(name: str) -> None:
    command = commands()[name]
    result = CliRunner().invoke(command, ["--help"], prog_name=name)
    assert result.exit_code == 0
    shown = result.output.partition("\nExamples:\n")[2].splitlines()
    assert shown == [f"  {line}" for line in command.examples]  # type: ignore[attr-defined]
    assert any(name in line for line in shown)


@pytest.mark.parametrize(("line", "words"), examples())
def test_every_example_is_a_command_line_that_parses(line: str, words: list[str]) -> None:
    name = max((name for name in commands() if words[: len(name.split())] == name.split()), key=len)
    commands()[name].make_context(name, words[len(name.split()) :])


@pytest.mark.parametrize(("line", "words"), examples("sendEvent"))
def test_every_example_of_sendevent_is_a_valid_event(line: str, words: list[str]) -> None:
    values = commands()["sendEvent"].make_context("sendEvent", words[1:]).params
    if values["name"] not in (None, "-"):
        SchemaRegistry(()).current.examine(to_bytes(build_event(values["name"], values["fields"])))


@pytest.mark.parametrize("name", PAGES)
def test_docs_are_up_to_date(name: str) -> None:
    assert (CHECKOUT / "docs" / name).read_text("utf-8") == PAGES[name](), "run python -m clacks.cli.docs"


def test_every_variable_of_the_environment_is_documented() -> None:
    known = "".join((CHECKOUT / "docs" / name).read_text("utf-8") for name in PAGES)
    code = "".join(path.read_text("utf-8") for path in (CHECKOUT / "clacks").rglob("*.py"))
    used = {name for name in re.findall(r"CLACKS_[A-Z_]+[A-Z]", code) if f'"{name}"' in code}
    assert used >= {"CLACKS_URL", "CLACKS_CA_FILE"}
    assert {name for name in used if f"`{name}`" not in known} == set()
    assert set(ENVIRONMENT) == {*CLIENTS_VARIABLES, "NO_COLOR"}


@pytest.mark.parametrize("typed", [[], ["cert"], ["filter"], ["subscriptions"], ["user"]])
def test_the_help_of_a_group_cuts_no_sentence_off(typed: list[str]) -> None:
    shown = CliRunner().invoke(commands()["clacks"], [*typed, "--help"], terminal_width=80).output
    assert re.search(r"^Commands:$", shown, re.MULTILINE)
    assert not re.search(r"(?<!\])\.\.\.", shown.partition("Commands:")[2])


def test_the_help_names_every_exit_code() -> None:
    help_ = commands()["clacks"].help or ""
    assert [int(code) for code in re.findall(r"(\d) [a-z]", help_.partition("Exit codes:")[2])] == list(EXIT_CODES)


@pytest.mark.parametrize("name", PROGRAMS)
def test_version(name: str) -> None:
    result = CliRunner().invoke(commands()[name], ["--version"])
    assert (result.exit_code, result.output) == (0, f"{name} {import_module('clacks').__version__}\n")


def test_console_scripts_exist() -> None:
    scripts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == set(PROGRAMS)
    for place in scripts.values():
        module, _, name = place.partition(":")
        assert callable(getattr(import_module(module), name))


def test_what_is_slow_to_load_is_loaded_where_it_is_used(environment: dict[str, str]) -> None:
    slow = {
        "rich",
        "lxml",
        "asyncio",
        "xmlschema",
        "elementpath",
        "proton",
        "cproton",
        "ssl",
        "logging",
        "json.tool",
        "tomlkit",
        "pygments",
    }
    code = f"import sys, clacks.cli.main, clacks.cli.sendevent\nprint(sorted({slow!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout == "[]\n"


# --- exit codes ---


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        ("sendEvent PhoneStatus CallerId=1 ReceiverId=2 Status=busy", 0, ""),
        ("sendEvent", 2, "Which event?"),
        ("sendEvent PhoneStatus Status", 2, "it has no ="),
        ("clacks statu", 2, "Try 'clacks --help' for help.\n\nerror: No such command 'statu'."),
        ("clacks cert server --days x", 2, "Try 'clacks cert server --help' for help.\n\nerror: Invalid value for '--days'"),
        ("clacks consume '//a['", 2, "The filter does not compile: line 1"),
        ("clacks call getNode", 2, "Did you mean getNodes?"),
        ("clacks schemas PhoneStatu", 2, "Did you mean PhoneStatus?"),
        ("clacks status --url http://localhost", 2, "is not a URL of an agent"),
        ("clacks-agent --config /nowhere/agent.toml", 2, "/nowhere/agent.toml: No such file"),
        ("clacks-agent --demo --listen 0.0.0.0:0", 2, "loopback only"),
        ("sendEvent PhoneStatus CallerId=1", 3, "/Event/PhoneStatus"),
        ("clacks status --url {wrong}", 4, "password is wrong"),
        ("clacks call shutdown --url {guest}", 4, "guest may not call shutdown"),
        ("clacks status --url {nobody}", 4, "export CLACKS_URL=amqp://USER:PASSWORD@localhost"),
        ("clacks status --url amqp://admin:secret@localhost:1", 5, "No agent can be reached"),
        ("clacks consume --timeout 0.1 //nothing", 6, "No event arrived within 0.1 s"),
    ],
)  # fmt: skip
def test_exit_codes(agent: RunningAgent, environment: dict[str, str], typed: str, code: int, said: str) -> None:
    urls = {"wrong": agent.url("admin", "wrong"), "guest": agent.url("guest", "guest"), "nobody": agent.urls[0]}
    command = command_line(typed.format(**urls))
    result = subprocess.run(command, env=environment | {"CLACKS_URL": agent.url()}, capture_output=True, text=True, timeout=DEADLINE)
    assert (result.returncode, said in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.stderr
    assert "\x1b" not in result.stdout + result.stderr
    if code:
        assert result.stdout == ""
        assert re.search("^error: ", result.stderr, re.M)


@click.command(cls=Command)
@json_option
@click.argument("what")
def failing(what: str, as_json: bool) -> None:
    if what == "event":
        problems = [Problem("/Event/A", "it is not there", "a whole number", 3), Problem("/Event/B", "it is empty")]
        raise ClacksError("event-invalid", name="A", summary=f"{problems[0]} (and 1 more)", problems=problems)
    if what == "interrupt":
        raise KeyboardInterrupt
    raise LookupError("of all\nthings")


def test_an_unexpected_error_is_one_line_and_tells_how_to_see_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLACKS_DEBUG", raising=False)
    result = CliRunner().invoke(failing, ["x"])
    said = "error: unexpected LookupError: of all things (with CLACKS_DEBUG=1 in the environment it shows where)\n"
    assert (result.exit_code, result.stderr) == (1, said)
    assert isinstance(CliRunner().invoke(failing, ["x"], env={"CLACKS_DEBUG": "1"}).exception, LookupError)


def test_problems_are_listed_below_the_sentence() -> None:
    result = CliRunner().invoke(failing, ["event"])
    assert result.exit_code == 3
    assert result.stderr.splitlines() == [
        "error: The event A does not fit its schema. `clacks schemas A` shows what is expected.",
        "  /Event/A (line 3): it is not there",
        "      expected: a whole number",
        "  /Event/B: it is empty",
    ]


def test_an_error_is_json_with_json() -> None:
    result = CliRunner().invoke(failing, ["event", "--json"])
    assert result.exit_code == 3
    assert '"code": "event-invalid"' in result.stdout
    assert '"expected": "a whole number"' in result.stdout
    assert "error: " in result.stderr


def test_interrupted() -> None:
    result = CliRunner().invoke(failing, ["interrupt"])
    assert (result.exit_code, result.output) == (130, "")


# --- amounts ---


@pytest.mark.parametrize(
    ("parse", "text", "amount"),
    [
        (amounts.seconds, "30", 30), (amounts.seconds, "30s", 30), (amounts.seconds, "5m", 300), (amounts.seconds, "1.5h", 5400),
        (amounts.seconds, "2d", 172800), (amounts.seconds, ".5", 0.5), (amounts.size, "17", 17), (amounts.size, "64M", 64 * 2**20),
    ],
)  # fmt: skip
def test_an_amount(parse: Callable[[str], float], text: str, amount: float) -> None:
    assert parse(text) == amount


@pytest.mark.parametrize("text", ["", "s", "0", "0s", "-1", "1w", "5 minutes", "1h30m", "nan", "inf", "infd", "1e999", "M"])
def test_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match=f"^'{text}' is no time. Write it like 30s"):
        amounts.seconds(text)


@pytest.mark.parametrize("name", commands())
def test_every_time_is_typed_in_the_same_way(name: str) -> None:
    for option in commands()[name].params:
        if option.name in ("timeout", "ttl", "max_age"):
            assert option.type is TIME
            assert "30s, 15m, 12h, 7d, or seconds" in (getattr(option, "help", None) or ""), option.name


# --- quiet ends ---


def test_ctrl_c_ends_consume_quietly(agent: RunningAgent, environment: dict[str, str]) -> None:
    command = command_line("clacks consume")
    with subprocess.Popen(
        command, env=environment | {"CLACKS_URL": agent.url()}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: agent.subscriptions, "the consumer is there")
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, errors) == (0, "", "")
    wait_for(lambda: not agent.subscriptions, "the consumer has left")


@pytest.mark.parametrize("typed", ["clacks schemas", "clacks schemas NodeCapabilities --xsd", "clacks call getMethods", "clacks --help"])
def test_a_reader_that_has_enough_is_no_error(agent: RunningAgent, environment: dict[str, str], typed: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(
            command_line(typed), env=environment | {"CLACKS_URL": agent.url()}, stdout=writing, stderr=subprocess.PIPE, text=True,
            timeout=DEADLINE,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert result.stderr == ""
    assert result.returncode in (0, 1)  # --help is click's own, which says 1


def on_terminal(typed: str, environment: dict[str, str], answers: tuple[tuple[str, str], ...] = ()) -> tuple[int, str]:
    """Run on a pseudo-terminal; each of `answers` is typed when its prompt has come. The exit code and what was on the screen."""
    import pty

    master, slave = pty.openpty()
    screen = ""
    remaining = list(answers)
    with subprocess.Popen(command_line(typed), env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as process:
        os.close(slave)
        while True:
            try:
                read = os.read(master, 4096)
            except OSError:  # Linux's way to say that the other side is closed
                break
            if not read:
                break
            screen += read.decode()
            if remaining and remaining[0][0] in screen:
                os.write(master, remaining.pop(0)[1].encode() + b"\n")
        os.close(master)
    assert not remaining, screen
    return process.returncode, screen.replace("\r\n", "\n")


COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]")


def test_closed_standard_streams_are_no_error(agent: RunningAgent, environment: dict[str, str]) -> None:
    def run_in_shell(function: str, words: str) -> tuple[int, str]:
        code = f"import sys, clacks.cli; sys.argv[0] = ''; clacks.cli.{function}()"
        line = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {words}"
        made = environment | {"CLACKS_URL": agent.url()}
        result = subprocess.run(["sh", "-c", line], env=made, stderr=subprocess.PIPE, text=True, timeout=DEADLINE)
        return result.returncode, result.stderr

    assert run_in_shell("send_event", "ClientPoll >&-") == (0, "")
    assert run_in_shell("clacks", "status >&-") == (0, "")
    code, said = run_in_shell("send_event", "- <&-")
    assert code == 3
    assert "no body" in said
    assert run_in_shell("send_event", "- <&- 2>&-") == (3, "")


@pytest.mark.parametrize("typed", ["clacks status --url amqp://admin:secret@localhost:1", "sendEvent PhoneStatus A=b"])
def test_colours_on_a_terminal_unless_unwanted(agent: RunningAgent, environment: dict[str, str], typed: str) -> None:
    environment = environment | {"CLACKS_URL": agent.url(), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    code, screen = on_terminal(typed, environment)
    assert code in (3, 5)
    assert COLOUR.search(screen)
    assert not COLOUR.search(on_terminal(typed, environment | {"NO_COLOR": "1"})[1])


@pytest.mark.parametrize("typed", ["clacks schemas PuppetReport", "clacks status", "clacks call getNodes"])
def test_tables_fit_a_terminal(agent: RunningAgent, environment: dict[str, str], typed: str) -> None:
    environment = environment | {"CLACKS_URL": agent.url(), "TERM": "xterm-256color", "COLUMNS": "100"}
    code, screen = on_terminal(typed, environment)
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", screen)
    assert {line for line in plain.splitlines() if len(line) > 100 and not line.startswith("Example:")} == set()


def test_the_password_is_asked_for_twice_and_not_shown(environment: dict[str, str], tmp_path: Path) -> None:
    asked = (("Password for anna:", "open sesame"), ("Once more:", "open sesame"))
    code, screen = on_terminal(f"clacks user add anna --state-dir {tmp_path}", environment, asked)
    assert (code, "sesame" in screen, "added: anna" in screen) == (0, False, True), screen
    assert "SCRAM" in (tmp_path / "users.toml").read_text()
