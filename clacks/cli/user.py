"""`clacks user`: who may get in, and do what. It writes the users file and the rules of an agent on this machine; no agent need run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..common.errors import ClacksError
from .command import Group, json_option
from .output import print_json, print_table

if TYPE_CHECKING:
    from ..agent.users import User

F = TypeVar("F", bound=Callable[..., Any])


@click.group(
    cls=Group,
    examples="""
        clacks user add anna
        clacks user allow anna --publish PhoneStatus --subscribe '*'
        clacks user add admin --admin --state-dir /var/lib/clacks
        pwgen 20 1 | tee secret | clacks user add robot --password-stdin
        clacks user passwd anna
        clacks user groups anna telephony
        clacks user remove anna --config /etc/clacks/agent.toml
        clacks user list
    """,
)
def user() -> None:
    """Manage the users of an agent, and what they may do.

    The users file is that of the agent on this machine with the same --config, --state-dir, or CLACKS_* environment. No password
    is stored in it. A running agent sees the change by itself: who is removed is disconnected.
    """


def _place(function: F) -> F:
    for name, text in (
        ("--users-file", "The users file itself."),
        ("--state-dir", "The agent's state folder, with the users file users.toml in it."),
        ("--config", "The agent's configuration file, which says where the users are."),
    ):
        function = click.option(name, metavar="D" if name == "--state-dir" else "F", type=click.Path(path_type=Path), help=text)(function)
    return function


def _password_option(function: F) -> F:
    text = "Take the first line of the standard input as the password instead of asking for it."
    return click.option("--password-stdin", is_flag=True, help=text)(function)


@user.command(
    examples="""
        clacks user add anna
        clacks user add admin --admin
        clacks user add robot --group phones --password-stdin < secret
    """,
)
@click.argument("name")
@click.option("--admin", is_flag=True, help="An administrator, who may do everything.")
@click.option("--group", "groups", metavar="G", multiple=True, help="A group that rules are about. May be given several times.")
@_password_option
@_place
def add(name: str, admin: bool, groups: Sequence[str], password_stdin: bool, **place: Path | None) -> None:
    """Add the user NAME. The password is asked for.

    What the user may do is a matter of rules: see `clacks user allow`.
    """
    from ..agent.access import ADMINISTRATORS

    path, users = _read(place)
    if name in users:
        raise _wrong(path, f"there is a user {name} already", f"`clacks user passwd {name}` changes the password.")
    users[name] = _user(name, password_stdin, [*groups, *([ADMINISTRATORS] if admin else [])])
    _write(path, users, f"added: {name}{', an administrator,' if admin else ''}")
    if not admin and not groups:
        click.echo(f"What {name} may do, rules say: `clacks user allow {name} --subscribe '*'`.")


@user.command(
    examples="""
        clacks user allow anna --subscribe 'Phone*' --publish PhoneStatus
        clacks user allow anna --call core 'get*' --call core sendEvent
        clacks user allow billing --subscribe 'Asterisk*' --durable billing
        clacks user allow operator --administer
    """,
)
@click.argument("name")
@click.option("--publish", metavar="E", multiple=True, help="Publish the events with this name.")
@click.option("--subscribe", metavar="E", multiple=True, help="Receive the events with this name.")
@click.option("--durable", metavar="S", multiple=True, help="Keep a subscription of this name on the agent's disk.")
@click.option("--block", metavar="S", multiple=True, help="Let a subscription of this name slow publishers down when it is full.")
@click.option("--call", metavar="TARGET METHOD", nargs=2, multiple=True, help="Call this method of this target (the agent's own is core).")
@click.option("--administer", is_flag=True, help="Give the agent's own commands, and see everybody's subscriptions.")
@_place
def allow(
    name: str, publish: Sequence[str], subscribe: Sequence[str], durable: Sequence[str], block: Sequence[str],
    call: Sequence[tuple[str, str]], administer: bool, **place: Path | None,
) -> None:  # fmt: skip
    """Allow the user NAME something more: a rule in the agent's access file.

    In every name, * stands for any characters. An option may be given several times. Rules for groups are written into that file by hand.
    """
    from ..agent.config import load
    from ..agent.rules import allow as add_to
    from ..agent.users import read_users

    rule = {
        "publish": list(publish),
        "subscribe": list(subscribe),
        "durable": list(durable),
        "block": list(block),
        "call": [{"target": target, "method": method} for target, method in call],
        "administer": administer,
    }
    if not any(rule.values()):
        raise click.UsageError("What is allowed? Give --publish, --subscribe, --durable, --block, --call or --administer.")
    config = load(place.pop("config"), place)
    if "*" not in name and name != "anonymous":
        _known(config.users_file, read_users(config.users_file), name)
    add_to(config.access_file, name, {key: value for key, value in rule.items() if value})
    click.echo(f"allowed: a rule for {name} is in {config.access_file}. A running agent sees it by itself.")


@user.command(
    examples="""
        clacks user passwd anna
        clacks user passwd robot --password-stdin < secret
    """,
)
@click.argument("name")
@_password_option
@_place
def passwd(name: str, password_stdin: bool, **place: Path | None) -> None:
    """Set another password for the user NAME."""
    path, users = _read(place)
    known = _known(path, users, name)
    users[name] = replace(known, verifier=_user(name, password_stdin, []).verifier)
    _write(path, users, f"changed: the password of {name}")


@user.command(
    examples="""
        clacks user certify anna CN=anna
        clacks user certify robot DNS:robot.example.net URI:spiffe://example.net/robot
        clacks user certify anna
    """,
)
@click.argument("name")
@click.argument("certificate", nargs=-1)
@_place
def certify(name: str, certificate: tuple[str, ...], **place: Path | None) -> None:
    """Let whoever has a certificate with one of these names in as the user NAME.

    A CERTIFICATE is CN= and the subject's common name, or DNS:, email: or URI: and a subject alternative name, exactly. What is given
    replaces what was; nothing given, certificates let nobody in. A user that does not exist is made, without a password.
    """
    from ..agent.users import make_user

    path, users = _read(place)
    found = make_user(name, None, (), certificate)
    if name not in users and not certificate:
        _known(path, users, name)
    for other in users.values():
        for taken in sorted(found.certificates & other.certificates) if other.name != name else ():
            raise _wrong(path, f"{taken} stands for {other.name}", "A name in a certificate stands for one user.")
    users[name] = replace(users.get(name, found), certificates=found.certificates)
    if users[name].verifier is None and not certificate:
        raise _wrong(path, f"{name} has no password and could not get in at all", f"`clacks user remove {name}` says so.")
    _write(path, users, f"changed: the certificates of {name}")


@user.command(
    examples="""
        clacks user groups anna telephony operators
        clacks user groups anna admin
        clacks user groups anna
    """,
)
@click.argument("name")
@click.argument("groups", metavar="[GROUP]...", nargs=-1)
@_place
def groups(name: str, groups: tuple[str, ...], **place: Path | None) -> None:
    """Put the user NAME into these groups.

    What is given replaces what was; nothing given, NAME is in none. Rules are about groups; those in the group admin may do everything.
    """
    path, users = _read(place)
    users[name] = replace(_known(path, users, name), groups=frozenset(groups))
    _write(path, users, f"changed: the groups of {name}")


@user.command(examples="clacks user remove anna")
@click.argument("name")
@_place
def remove(name: str, **place: Path | None) -> None:
    """Remove the user NAME, who is disconnected from a running agent."""
    from ..agent.config import load
    from ..agent.rules import read_rules

    rules = load(place["config"], {key: value for key, value in place.items() if key != "config"}).access_file
    path, users = _read(place)
    _known(path, users, name)
    del users[name]
    _write(path, users, f"removed: {name}")
    if any(name in rule.users for rule in read_rules(rules)):
        click.echo(f"Rules for {name} stay in {rules}: they would be those of another user of that name.")
    click.echo(f"So would the durable subscriptions of {name}, if there are any: `clacks subscriptions` lists them for an administrator.")


@user.command(
    "list",
    examples="""
        clacks user list
        clacks user list --json --state-dir /var/lib/clacks
    """,
)
@_place
@json_option
def list_(as_json: bool, **place: Path | None) -> None:
    """List the users."""
    path, users = _read(place)
    if as_json:
        print_json([
            {"name": name, "groups": sorted(found.groups), "certificates": sorted(found.certificates)}
            for name, found in sorted(users.items())
        ])  # fmt: skip
    elif users:
        rows = [[name, ", ".join(sorted(found.groups)), ", ".join(sorted(found.certificates))] for name, found in sorted(users.items())]
        print_table(["user", "groups", "certificates"], rows, seldom=["certificates"])
    else:
        click.echo(f"No users in {path}. `clacks user add NAME` makes one.")


def _read(place: dict[str, Path | None]) -> tuple[Path, dict[str, User]]:
    """Where the users are, and who they are. Raises ClacksError."""
    from ..agent.config import load
    from ..agent.users import read_users

    path = load(place.pop("config"), place).users_file
    return path, read_users(path)


def _write(path: Path, users: dict[str, User], done: str) -> None:
    from ..agent.users import write_users

    write_users(path, users)
    click.echo(f"{done} in {path}. A running agent sees it by itself.")


def _user(name: str, password_stdin: bool, groups: list[str]) -> User:
    from ..agent.users import NAME, make_user

    if not NAME.fullmatch(name):
        make_user(name, "unused")  # raises, before a password is asked for
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = click.prompt(f"Password for {name}", hide_input=True, confirmation_prompt="Once more", err=True)
    else:
        raise click.UsageError("There is no terminal to ask for the password; give it with --password-stdin.")
    return make_user(name, password, groups)


def _known(path: Path, users: dict[str, User], name: str) -> User:
    if name not in users:
        raise _wrong(path, f"there is no user {name}", "`clacks user list` lists them.")
    return users[name]


def _wrong(path: Path, reason: str, hint: str) -> ClacksError:
    return ClacksError("config-invalid", source=str(path), reason=reason, hint=hint)
