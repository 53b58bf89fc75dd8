"""`clacks-agent`: the daemon's command line. Every setting that has a flag takes its words from the table of settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from ..agent.config import SETTINGS
from .command import Command, version_option

# The settings that can be given as flags, with what their values are called. All others are for the file and the environment.
_FLAGS: Final = {
    "listen": "HOST:PORT", "listen_tls": "HOST:PORT", "state_dir": "D", "schemas": "D", "domain": "N", "node_id": "N",
}  # fmt: skip


def _flags(function: Callable[..., Any]) -> Callable[..., Any]:
    settings = {setting.name: setting for setting in SETTINGS}
    for name, metavar in reversed(_FLAGS.items()):
        several = isinstance(settings[name].default, tuple)
        text = settings[name].help + (" May be given several times." if several else "")
        function = click.option(f"--{name.replace('_', '-')}", name, metavar=metavar, multiple=several, help=text)(function)
    return function


@click.command(
    cls=Command,
    examples="""
        clacks-agent --demo
        clacks-agent --config /etc/clacks/agent.toml
        clacks-agent --listen localhost:5672 --listen-tls 0.0.0.0:5671 --schemas /etc/clacks/events
        CLACKS_LOG_LEVEL=debug clacks-agent --listen localhost:0 --state-dir ./state
    """,
)
@click.option("--config", metavar="F", type=click.Path(path_type=Path), help="The configuration file (TOML); see docs/configuration.md.")
@click.option("--demo", is_flag=True, help="To try things: loopback only, ports 5672 and 5671, user admin with the password secret.")
@_flags
@version_option("clacks-agent")
def clacks_agent(config: Path | None, demo: bool, **flags: Any) -> None:
    """Run an agent of the event bus until SIGTERM or Ctrl-C; SIGHUP reads users and schemas again.

    One line `ready amqp://HOST:PORT/DOMAIN` is printed for each listener when it serves; port 0 picks a free one. A flag goes before a
    CLACKS_* variable of the environment, that before the configuration file. Users are made with `clacks user add NAME`.
    """
    from ..agent.main import run

    click.get_current_context().exit(run(config, flags, is_demo=demo))


if __name__ == "__main__":
    clacks_agent(prog_name="clacks-agent")
