"""`clacks cert`: a small CA for agents and their clients, where there is none that does it better. It needs no agent."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .command import Group

if TYPE_CHECKING:
    from ..agent.certificates import Made

F = TypeVar("F", bound=Callable[..., Any])


@click.group(
    cls=Group,
    examples="""
        clacks cert ca
        clacks cert server bus.example.net 192.0.2.7 --out /etc/clacks
        clacks cert client anna
    """,
)
def cert() -> None:
    """Make certificates: a CA, and with it those of agents and of clients.

    The CA is by default the one that an agent of the same user makes for itself, in the user's data folder. Whoever has its key can make
    certificates for everybody. Every file is readable by its owner only, and none is ever replaced.
    """


def _ca_option(function: F) -> F:
    text = "The CA's folder. Default: clacks in the user's data folder ($XDG_DATA_HOME, else ~/.local/share)."
    return click.option("--ca", "ca_folder", metavar="D", type=click.Path(path_type=Path), help=text)(function)


def _out_options(function: F) -> F:
    out = click.option(
        "--out", metavar="D", default=".", type=click.Path(path_type=Path), help="Where to put the two files. Default: here."
    )
    days = click.option("--days", metavar="N", default=397, show_default=True, type=click.IntRange(1, 3650), help="Days of validity.")
    return out(days(function))


@cert.command(
    examples="""
        clacks cert ca
        clacks cert ca --ca /etc/clacks/ca --name "CA of the bus in Oslo"
    """,
)
@_ca_option
@click.option("--name", metavar="N", help="Its name, shown where somebody looks at a certificate.")
def ca(ca_folder: Path | None, name: str | None) -> None:
    """Make a CA."""
    from ..agent.certificates import LOCAL_CA, make_ca

    made = make_ca(_folder(ca_folder), name or LOCAL_CA)
    _say(made)
    click.echo("Keep the key to yourself. Clients trust the agents' certificates with:")
    click.echo(f"    export CLACKS_CA_FILE={_quoted(made.certificate)}")


@cert.command(
    examples="""
        clacks cert server bus.example.net
        clacks cert server bus.example.net oslo.example.net 192.0.2.7 --out /etc/clacks
    """,
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_out_options
@_ca_option
def server(names: tuple[str, ...], out: Path, days: int, ca_folder: Path | None) -> None:
    """Make an agent's certificate, for all the host names and addresses (NAME) that clients reach it by."""
    from ..agent.certificates import make_server

    made = make_server(_folder(ca_folder), names, out, days)
    _say(made)
    click.echo("In the agent's configuration:")
    click.echo(f"    [tls]\n    certificate = {_toml(made.certificate)}\n    key = {_toml(made.key)}")


@cert.command(
    examples="""
        clacks cert client anna
        clacks cert client robot --days 90 --out /etc/robot
    """,
)
@click.argument("user")
@_out_options
@_ca_option
def client(user: str, out: Path, days: int, ca_folder: Path | None) -> None:
    """Make a client's certificate, with the common name USER."""
    from ..agent.certificates import make_client
    from ..agent.users import make_user
    from ..common.trust import CA_FILE

    make_user(user, None)  # raises for what cannot be a user's name
    folder = _folder(ca_folder)
    made = make_client(folder, user, out, days)
    _say(made)
    click.echo("Where the agent is, once for this user, and its configuration:")
    click.echo(f"    clacks user certify {user} CN={user}")
    click.echo(f"    [tls]\n    client_ca = {_toml(folder / CA_FILE)}")
    click.echo("Where the client is:")
    click.echo(f"    export CLACKS_CERT_FILE={_quoted(made.certificate)} CLACKS_KEY_FILE={_quoted(made.key)}")


def _folder(given: Path | None) -> Path:
    from ..common.trust import data_home

    return given or data_home()


def _say(made: Made) -> None:
    click.echo(f"made: {made.certificate} and its key {made.key}")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path.absolute()))


def _toml(path: Path) -> str:
    import json

    return json.dumps(str(path.absolute()), ensure_ascii=False)
