"""`clacks-agent` as a process: ready lines, flags, signals, exit codes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clacks.agent.config import SETTINGS
from clacks.cli.agent import clacks_agent
from conftest import DEADLINE, AgentProcess


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ready_lines_and_a_quiet_end(tmp_path: Path, environment: dict[str, str], number: signal.Signals) -> None:
    log = tmp_path / "log"
    arguments = ["--demo", "--listen", "localhost:0", "--listen", "localhost:0", "--listen-tls", "localhost:0", "--domain", "net.example"]
    with AgentProcess([*arguments, "--node-id", "n1", "--state-dir", str(tmp_path / "state")], environment, log) as agent:
        agent.process.send_signal(number)
        assert agent.process.wait(DEADLINE) == 0
    assert [re.sub(r":\d+/", ":PORT/", line) for line in agent.lines] == [
        "ready amqp://localhost:PORT/net.example",
        "ready amqp://localhost:PORT/net.example",
        "ready amqps://localhost:PORT/net.example",
    ]
    assert "Traceback" not in log.read_text()


def test_a_port_that_is_taken(tmp_path: Path, environment: dict[str, str]) -> None:
    with AgentProcess(["--demo", "--listen", "localhost:0", "--listen-tls", "localhost:0"], environment, tmp_path / "log") as agent:
        port = re.search(r":(\d+)/", agent.urls[0])[1]  # type: ignore[index]
        command = [sys.executable, "-m", "clacks.cli.agent", "--listen", f"localhost:{port}", "--state-dir", str(tmp_path / "other")]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE)
    errors = [line for line in result.stderr.splitlines() if not re.match(r"\d{4}-", line)]  # without the log
    assert (result.returncode, result.stdout, len(errors)) == (2, "", 1), result.stderr
    assert errors[0].startswith(f"error: localhost:{port}: it cannot be listened on")
    assert errors[0].endswith("Is another agent running? Give another --listen or --listen-tls.")


def test_a_variable_that_is_misspelt_is_told(tmp_path: Path, environment: dict[str, str]) -> None:
    made = environment | {"CLACKS_LIMIT_EVENT_SIZE": "5", "CLACKS_URL": "amqp://x", "CLACKS_SITE": "oslo"}
    with AgentProcess(["--demo", "--listen", "localhost:0", "--listen-tls", "localhost:0"], made, tmp_path / "log"):
        said = [line.partition(" warning ")[2] for line in (tmp_path / "log").read_text().splitlines() if "variable" in line]
    assert said == ['clacks.agent: unknown variable variable=CLACKS_LIMIT_EVENT_SIZE hint="did you mean CLACKS_LIMITS_EVENT_SIZE?"']


def test_an_address_of_another_machine(tmp_path: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "clacks.cli.agent", "--listen", "192.0.2.1:0"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith("Is that an address of this machine?")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("listen = 17", "listen is 17, but a list is expected"),
        ("lisen = []", "there is no setting lisen. Did you mean listen?"),
        ("[limits]\ndepth = 'deep'", "limits.depth is 'deep', but a whole number from 4 to 250 is expected"),
        ("domain", "not TOML"),
    ],
)
def test_a_wrong_configuration_is_one_line(tmp_path: Path, environment: dict[str, str], content: str, said: str) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(content)
    command = [sys.executable, "-m", "clacks.cli.agent", "--config", str(config)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
    assert said in result.stderr
    assert result.stderr.startswith(f"error: {config}: ")


def test_flags_have_the_words_of_the_settings() -> None:
    words = {setting.name: setting.help for setting in SETTINGS}
    for option in clacks_agent.params:
        if option.name in words:
            assert str(getattr(option, "help", "")).startswith(words[option.name])
