"""`clacks user`, and that an agent lets in whom it made."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from clacks.agent.access import Call, Rule
from clacks.agent.rules import read_rules
from clacks.agent.users import read_users
from clacks.cli.main import clacks
from conftest import AgentProcess, wait_for


def user(*arguments: str, password: str = "", **environment: str) -> Result:
    return CliRunner().invoke(clacks, ["user", *arguments], input=password + "\n", env=environment)


def names(*place: str) -> dict[str, list[str]]:
    return {one["name"]: one["groups"] for one in json.loads(user("list", "--json", *place).stdout)}


def test_add_list_passwd_remove(tmp_path: Path) -> None:
    place = ("--state-dir", str(tmp_path / "state"))
    file = tmp_path / "state/users.toml"
    assert user("list", *place).output == f"No users in {file}. `clacks user add NAME` makes one.\n"
    result = user("add", "anna", "--admin", "--password-stdin", *place, password="open sesame")
    assert (result.exit_code, result.output) == (0, f"added: anna, an administrator, in {file}. A running agent sees it by itself.\n")
    assert user("add", "berta", "--password-stdin", *place, password="x").exit_code == 0
    assert names(*place) == {"anna": ["admin"], "berta": []}
    assert user("list", *place).output.split() == ["user", "groups", "anna", "admin", "berta"]
    before = file.read_text()
    assert "sesame" not in before
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert user("passwd", "anna", "--password-stdin", *place, password="other").exit_code == 0
    assert file.read_text() != before
    assert user("remove", "berta", *place).exit_code == 0
    assert names(*place) == {"anna": ["admin"]}


def test_the_file_is_found_as_the_agent_finds_it(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f'users_file = "{tmp_path}/of-config.toml"\n')
    for place, environment in (
        (["--config", str(config)], {}),
        (["--users-file", f"{tmp_path}/of-flag.toml"], {}),
        ([], {"CLACKS_USERS_FILE": f"{tmp_path}/of-environment.toml"}),
        ([], {"CLACKS_STATE_DIR": f"{tmp_path}/state"}),
    ):
        result = user("add", "anna", "--password-stdin", *place, password="x", **environment)
        assert result.exit_code == 0, result.output
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.toml")}
    assert found == {"agent.toml", "of-config.toml", "of-flag.toml", "of-environment.toml", "state/users.toml"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "anna", "--password-stdin"], "there is a user anna already. `clacks user passwd anna`"),
        (["add", "berta"], "give it with --password-stdin"),
        (["add", "b/c", "--password-stdin"], "b/c: a user's name has up to 64 letters"),
        (["passwd", "berta", "--password-stdin"], "there is no user berta. `clacks user list`"),
        (["remove", "berta"], "there is no user berta."),
        (["list", "--config", "/nowhere"], "/nowhere: No such file"),
    ],
)
def test_refused(tmp_path: Path, arguments: list[str], said: str) -> None:
    place = ["--state-dir", str(tmp_path)]
    assert user("add", "anna", "--password-stdin", *place, password="x").exit_code == 0
    result = user(*arguments, *place, password="x")
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
    assert names(*place) == {"anna": []}


def test_an_empty_password_is_refused(tmp_path: Path) -> None:
    result = user("add", "anna", "--password-stdin", "--state-dir", str(tmp_path))
    assert (result.exit_code, "the password is empty" in result.stderr) == (2, True)


def test_groups_replace_what_was(tmp_path: Path) -> None:
    place = ("--state-dir", str(tmp_path))
    user("add", "anna", "--group", "phones", "--password-stdin", *place, password="x")
    before = read_users(tmp_path / "users.toml")["anna"]
    assert user("groups", "anna", "telephony", "admin", *place).output.startswith("changed: the groups of anna in ")
    assert read_users(tmp_path / "users.toml")["anna"] == replace(before, groups=frozenset({"telephony", "admin"}))
    assert user("groups", "anna", *place).exit_code == 0
    assert names(*place) == {"anna": []}
    assert "there is no user berta" in user("groups", "berta", "admin", *place).output


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    user("add", "anna", "--password-stdin", "--state-dir", str(tmp_path), password="horse\n")
    monkeypatch.setattr(os, "fsync", full)
    assert user("add", "berta", "--password-stdin", "--state-dir", str(tmp_path), password="horse\n").exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["users.toml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_leaves_the_files_to_whom_they_belong(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 23456)
    for name in ("anna", "berta"):
        user("add", name, "--password-stdin", "--state-dir", str(tmp_path), password="horse\n")
    user("allow", "anna", "--publish", "*", "--state-dir", str(tmp_path))
    found = {path.name: path.stat() for path in tmp_path.iterdir()}
    assert {name: (one.st_uid, one.st_gid, one.st_mode & 0o777) for name, one in found.items()} == {
        "users.toml": (12345, 23456, 0o600),
        "access.toml": (12345, 23456, 0o600),
    }


def test_an_agent_lets_in_whom_the_command_made(tmp_path: Path, environment: dict[str, str]) -> None:
    state = str(tmp_path / "state")
    status = [sys.executable, "-m", "clacks.cli", "call", "getSessionUser"]
    with AgentProcess(["--listen", "localhost:0", "--state-dir", state], environment, tmp_path / "log") as agent:
        url = agent.urls[0].replace("://", "://anna:open%20sesame@")

        def code() -> int:
            return subprocess.run(status, env=environment | {"CLACKS_URL": url}, capture_output=True).returncode

        assert code() == 4
        assert user("add", "anna", "--password-stdin", "--state-dir", state, password="open sesame").exit_code == 0
        assert user("allow", "anna", "--call", "core", "getSessionUser", "--state-dir", state).exit_code == 0
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: code() == 0, "anna is let in")


def test_what_is_allowed_becomes_a_rule(tmp_path: Path) -> None:
    place = ("--state-dir", str(tmp_path))
    rules = tmp_path / "access.toml"
    added = user("add", "anna", "--password-stdin", *place, password="x")
    assert "What anna may do, rules say: `clacks user allow anna --subscribe '*'`." in added.output
    rules.write_text('# by hand\n[[rules]]\nusers = ["*"]\nsubscribe = ["NodeStatus"]\n')
    result = user("allow", "anna", "--publish", "PhoneStatus", "--call", "core", "get*", *place)
    assert (result.exit_code, result.output) == (0, f"allowed: a rule for anna is in {rules}. A running agent sees it by itself.\n")
    for _ in range(2):  # the second time there is nothing to add
        assert user("allow", "anna", "--publish", "Client*", "--call", "telephony", "dial", "--administer", *place).exit_code == 0
    assert read_rules(rules) == (
        Rule(users=("*",), subscribe=("NodeStatus",)),
        Rule(
            users=("anna",),
            publish=("PhoneStatus", "Client*"),
            call=(Call("core", "get*"), Call("telephony", "dial")),
            administer=True,
        ),
    )
    assert rules.read_text().startswith("# by hand\n")
    removed = user("remove", "anna", *place)
    assert (removed.exit_code, f"Rules for anna stay in {rules}" in removed.output) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["anna"], "What is allowed? Give --publish"),
        (["berta", "--publish", "A"], "there is no user berta"),
        (["anna", "--publish", "A B"], "this rule, publish: 'A B' is no name. A name has letters"),
    ],
)
def test_what_cannot_be_allowed(tmp_path: Path, arguments: list[str], said: str) -> None:
    place = ["--state-dir", str(tmp_path)]
    assert user("add", "anna", "--group", "phones", "--password-stdin", *place, password="x").exit_code == 0
    result = user("allow", *arguments, *place)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
    assert not (tmp_path / "access.toml").exists()
    assert names(*place) == {"anna": ["phones"]}
