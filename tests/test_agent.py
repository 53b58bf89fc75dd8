"""The agent as a whole: its configuration, its users, its certificate, its signals, its log; schemas that change while it runs."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme

from clacks.agent.certificates import server_context
from clacks.agent.config import SETTINGS, load
from clacks.agent.node import notify
from clacks.agent.users import make_user, read_users, write_users
from clacks.common.components import AMQPEventConsumer, AMQPServiceProxy
from clacks.common.errors import ClacksError
from clacks.testing import sample
from conftest import CHECKOUT, DEADLINE, AgentProcess, RunningAgent, wait_for

# --- configuration ---------------------------------------------------------------------------------------------------------------


def test_flags_before_environment_before_file_before_default(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('domain = "org.file"\nnode_id = "file"\nlisten = ["localhost:1"]\n[limits]\nevent_size = 2048\n')
    environment = {"CLACKS_NODE_ID": "environment", "CLACKS_LISTEN": "localhost:2 localhost:3", "CLACKS_QUEUE_EVENTS": "5"}
    config = load(file, {"listen": ["localhost:4"]}, environment)
    assert (config.domain, config.node_id, config.listen) == ("org.file", "environment", ("localhost:4",))
    assert (config.limits.size, config.queue_events, config.queue_bytes) == (2048, 5, 64 * 2**20)
    assert load(file, {}, environment).listen == ("localhost:2", "localhost:3")


def test_seconds_may_have_a_unit(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('idle_timeout = "5m"\nstatus_interval = 2.5\n')
    config = load(file, {}, {"CLACKS_DRAIN_TIMEOUT": "0.5s", "CLACKS_BROKER_LEASE": "90"})
    assert (config.idle_timeout, config.status_interval, config.drain_timeout, config.broker_lease) == (300, 2.5, 0.5, 90)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("domain = 5", "reverse DNS name"),
        ("domian = 'x'", "Did you mean domain?"),
        ("listen = 'localhost'", "HOST:PORT"),
        ("listen = []", "nothing to listen on"),
        ("node_id = 'a.b'", "letters, digits"),
        ("[limits]\nevent_size = 'big'", "whole number"),
        ("[limits]\nevent_size = 1", "from 1024"),
        ("[tls]\ncertificate = '/x'", "tls.key"),
        ("idle_timeout = -1", "number of seconds"),
        ("idle_timeout = '2d'", "up to a day"),
        ("idle_timeout = '5 minutes'", "a time like 30s, 15m or 12h"),
        ("[log]\nlevel = 'loud'", "one of debug"),
        ("domain = ", "not TOML"),
    ],
)
def test_what_is_wrong_with_a_configuration(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    with pytest.raises(ClacksError) as caught:
        load(file, {}, {})
    assert caught.value.code == "config-invalid"
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_configuration_that_is_not_there() -> None:
    with pytest.raises(ClacksError, match="No such file"):
        load(Path("/nowhere/agent.toml"), {}, {})


def test_paths_in_a_file_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('state_dir = "state"\nschemas = ["events", "/srv/events"]\n')
    config = load(file, {}, {})
    assert config.state_dir == tmp_path / "state"
    assert config.users_file == tmp_path / "state" / "users.toml"
    assert config.schemas == (tmp_path / "events", Path("/srv/events"))
    assert load(None, {"state_dir": "state"}, {}).state_dir == Path("state")


def test_every_setting_has_a_variable_of_its_own() -> None:
    assert len({setting.variable for setting in SETTINGS}) == len(SETTINGS)
    assert all(setting.help.endswith(".") for setting in SETTINGS)


# --- users -----------------------------------------------------------------------------------------------------------------------


def test_the_users_file_holds_no_password_and_keeps_its_comments(tmp_path: Path) -> None:
    file = tmp_path / "state" / "users.toml"
    write_users(file, {"anna": make_user("anna", "correct horse", ["admin"])})
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "correct horse" not in file.read_text()
    file.write_text("# the telephone people\n" + file.read_text())
    users = read_users(file)
    users["bert"] = make_user("bert", "x")
    write_users(file, users)
    assert file.read_text().startswith("# the telephone people\n")
    again = read_users(file)
    assert again["anna"].groups == {"admin"}
    assert again["anna"].verifier.fits("correct horse")
    assert not again["anna"].verifier.fits("correct hors")
    del again["anna"]
    write_users(file, again)
    assert read_users(file).keys() == {"bert"}


@pytest.mark.parametrize(("name", "password"), [("", "x"), ("a b", "x"), ("node/1", "x"), ("a" * 65, "x"), ("a", ""), ("a", "\x00")])
def test_names_and_passwords_that_cannot_be(name: str, password: str) -> None:
    with pytest.raises(ClacksError):
        make_user(name, password)


@pytest.mark.parametrize("text", ["users = 5", "[users.a]\nscram = 'x'", "[users.a]", "not toml", "[users.'a b']\nscram = ''"])
def test_a_broken_users_file_names_what_is_broken(tmp_path: Path, text: str) -> None:
    file = tmp_path / "users.toml"
    file.write_text(text)
    with pytest.raises(ClacksError) as caught:
        read_users(file)
    assert str(file) in str(caught.value)


# --- as a process ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def state(environment: dict[str, str]) -> Path:
    folder = Path(environment["XDG_STATE_HOME"]) / "clacks"
    write_users(folder / "users.toml", {"admin": make_user("admin", "secret", ["admin"])})
    return folder


def test_tls_needs_no_setting_up_for_clients_of_the_same_user(
    environment: dict[str, str], state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(environment["XDG_DATA_HOME"])
    for round_ in range(2):
        with AgentProcess(["--listen-tls", "localhost:0", "--listen", "127.0.0.1:0"], environment, tmp_path / "log") as agent:
            url = agent.url("amqps")
            with monkeypatch.context() as patched:
                patched.setenv("XDG_DATA_HOME", str(data))
                patched.delenv("CLACKS_CA_FILE", raising=False)
                with AMQPServiceProxy(url) as proxy:
                    assert proxy.getSessionUser() == "admin"
                with AMQPServiceProxy(url.replace("localhost", "127.0.0.1")) as proxy:
                    assert proxy.getSessionUser() == "admin"
                patched.setenv("XDG_DATA_HOME", str(tmp_path / "somebody else"))
                with pytest.raises(ClacksError) as caught:
                    AMQPServiceProxy(url)
                assert caught.value.code == "tls-untrusted"
                patched.setenv("CLACKS_CA_FILE", str(data / "clacks" / "ca.pem"))
                with AMQPServiceProxy(url) as proxy:
                    assert proxy.getSessionUser() == "admin"
        made = (state / "agent.pem").stat().st_mtime_ns
        if round_ == 0:
            first = made
    assert made == first, "a restart uses the same certificate"
    for secret in (state / "agent.pem", data / "clacks" / "ca.key"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_a_certificate_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClacksError, match=r"tls\.certificate"):
        server_context(tmp_path / "none.pem", tmp_path / "none.key", tmp_path)


@pytest.mark.parametrize(("days", "said"), [(-1, "has expired"), (13, "expires soon"), (15, "")])
def test_the_log_says_when_a_certificate_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int, said: str) -> None:
    now = datetime.datetime.now(datetime.UTC)
    begin = now - datetime.timedelta(days=2)
    issued = trustme.CA().issue_cert("localhost", not_before=begin, not_after=now + datetime.timedelta(days=days, hours=1))
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "agent.pem")
    server_context(tmp_path / "agent.pem", tmp_path / "agent.pem", tmp_path)
    assert [record.message for record in caplog.records] == ([f"the certificate {said}"] if said else [])


def test_a_state_folder_is_one_agents(tmp_path: Path) -> None:
    with RunningAgent(tmp_path / "state"), pytest.raises(ClacksError) as caught, RunningAgent(tmp_path / "state"):
        pass
    assert caught.value.code == "config-invalid"
    assert "another agent uses it. Stop that one, or give this one another --state-dir" in str(caught.value)
    with RunningAgent(tmp_path / "state") as again:
        assert again.urls


def test_stopping_delivers_what_waits_and_says_goodbye(environment: dict[str, str], state: Path, tmp_path: Path) -> None:
    gate, seen, leaving = threading.Event(), [], []

    def callback(event: Any) -> None:
        gate.wait(DEADLINE)
        seen.append(event)

    with (
        AgentProcess(["--listen", "localhost:0"], environment, tmp_path / "log") as agent,
        AMQPEventConsumer(agent.url(), event="PhoneStatus", callback=callback),
        AMQPEventConsumer(agent.url(), event="NodeLeave", callback=leaving.append),
        AMQPServiceProxy(agent.url()) as proxy,
    ):
        for _ in range(150):  # more than is fetched ahead
            proxy.sendEvent(sample("PhoneStatus"))
        agent.process.send_signal(signal.SIGTERM)
        wait_for(lambda: leaving, "the agent says that it leaves")
        gate.set()
        wait_for(lambda: len(seen) == 150, "all that waited was delivered")
        assert agent.process.wait(DEADLINE) == 0
    assert leaving[0].NodeLeave.Id.text


@pytest.mark.parametrize("hangup", [True, False], ids=["at SIGHUP", "by itself"])
def test_changed_users_are_read_again(environment: dict[str, str], state: Path, tmp_path: Path, hangup: bool) -> None:
    file = state / "users.toml"
    with AgentProcess(["--listen", "localhost:0"], environment, tmp_path / "log") as agent:
        url = agent.url().replace("admin:secret", "anna:new")
        with pytest.raises(ClacksError):
            AMQPServiceProxy(url)
        write_users(file, {**read_users(file), "anna": make_user("anna", "new", ["admin"])})
        if hangup:
            agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "users read" in agent.log.read_text(), "the users are read")
        with AMQPServiceProxy(url) as proxy:
            assert proxy.getSessionUser() == "anna"
        file.write_text("broken")
        if hangup:
            agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "users not read" in agent.log.read_text(), "the log says what is wrong")
        with AMQPServiceProxy(url) as proxy:
            assert proxy.getSessionUser() == "anna", "the last good users stay"


def test_an_agent_without_users_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    with AgentProcess(["--listen", "localhost:0"], environment, tmp_path / "log") as agent:
        assert "clacks user add" in agent.log.read_text()


def test_log_lines_in_json_cannot_be_forged(environment: dict[str, str], tmp_path: Path) -> None:
    environment = {**environment, "CLACKS_LOG_FORMAT": "json"}
    with AgentProcess(["--demo", "--listen", "localhost:0", "--listen-tls", "localhost:0"], environment, tmp_path / "log") as agent:
        with AMQPServiceProxy(agent.url()) as proxy, pytest.raises(ClacksError):
            proxy.sendEvent(f'<Event xmlns="http://www.gonicus.de/Events"><{"X" * 3}/></Event>')
        wait_for(lambda: "refused" in agent.log.read_text(), "the refusal is logged")
        lines = [json.loads(line) for line in agent.log.read_text().splitlines()]
    refused = next(line for line in lines if line["message"] == "refused")
    assert (refused["user"], refused["code"], refused["origin"]) == ("admin", "event-unknown", "command sendEvent")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", refused["time"])


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
def test_a_demo_is_for_this_machine_only(environment: dict[str, str], tmp_path: Path, listen: str) -> None:
    with pytest.raises(pytest.fail.Exception) as caught, AgentProcess(["--demo", "--listen", listen], environment, tmp_path / "log"):
        pass
    assert "loopback only" in str(caught.value)


def test_systemd_is_told(tmp_path: Path) -> None:
    where = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(where))
        notify("READY=1", {"NOTIFY_SOCKET": str(where)}.get)
        assert sock.recv(100) == b"READY=1"
    notify("READY=1", {}.get)


def test_the_unit_file_names_what_exists() -> None:
    unit = (CHECKOUT / "docker" / "clacks-agent.service").read_text()
    assert "Type=notify" in unit
    assert "ExecReload=/bin/kill -HUP $MAINPID" in unit


# --- schemas that change ---------------------------------------------------------------------------------------------------------

SCHEMA = """<schema targetNamespace="http://www.gonicus.de/Events" elementFormDefault="qualified"
  xmlns="http://www.w3.org/2001/XMLSchema"><element name="Door" type="{type}"/></schema>"""


def door(text: str) -> str:
    return f'<Event xmlns="http://www.gonicus.de/Events"><Door>{text}</Door></Event>'


def test_a_schema_comes_changes_breaks_and_goes_without_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "schemas"
    folder.mkdir()
    file = folder / "Door.xsd"
    with RunningAgent(tmp_path / "state", {"schemas": [str(folder)]}) as agent, AMQPServiceProxy(agent.url()) as proxy:

        def accepts(text: str) -> bool:
            try:
                return bool(proxy.sendEvent(door(text)))
            except ClacksError as error:
                if error.code not in ("event-unknown", "event-invalid"):
                    raise
                return False

        assert not accepts("open")
        file.write_text(SCHEMA.format(type="string"))
        wait_for(lambda: accepts("open"), "the new event is known")
        assert "Door" in {event["name"] for event in proxy.getEvents()}
        file.write_text(SCHEMA.format(type="boolean"))
        wait_for(lambda: not accepts("open"), "the change is in force")
        assert accepts("true")
        file.write_text(SCHEMA.format(type="nonsense"))
        problem = wait_for(lambda: proxy.getStatus()["schema_problems"], "the broken file is reported")[0]
        assert re.search(r"Door\.xsd, line \d+: .*nonsense", problem)
        assert accepts("true"), "its last good version is kept"
        os.unlink(file)
        wait_for(lambda: not accepts("true"), "the event is gone")
        assert proxy.getStatus()["schema_problems"] == []
