"""`python -m clacks.cli.docs [FOLDER]` writes the pages of docs/ that come from the commands and from the tables of settings and errors.

A test fails when the files in docs/ are not what this writes.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from ..agent.config import SETTINGS, Setting
from ..common.errors import ERRORS, EXIT_CODES
from .agent import clacks_agent
from .main import clacks
from .sendevent import send_event

# What is read from the environment besides the settings of an agent.
ENVIRONMENT: Final = {
    "CLACKS_URL": "The URL of the agent for every command. It keeps a password out of the list of processes, where `--url` shows it.",
    "CLACKS_CA_FILE": "The CAs (PEM) that a client trusts instead of the system's and those of a local agent.",
    "CLACKS_CERT_FILE": "A client's certificate (PEM), which says who comes where the URL has no password.",
    "CLACKS_KEY_FILE": "The private key of CLACKS_CERT_FILE (PEM). Default: it is in the same file.",
    "CLACKS_DEBUG": "Set to anything, it shows the traceback of an unexpected error.",
    "NO_COLOR": "Set to anything, no colours are used. Elsewhere than on a terminal none are used anyway.",
}

_NOTE: Final = "<!-- Written by `python -m clacks.cli.docs`; change the commands or the table of settings instead. -->\n"
_NOTE_ON_ERRORS: Final = "<!-- Written by `python -m clacks.cli.docs`; change the table in clacks/common/errors.py instead. -->\n"


def commands() -> dict[str, click.Command]:
    """Every command by what is typed, groups before what is in them."""
    return dict(_walk({"clacks": clacks, "clacks-agent": clacks_agent, "sendEvent": send_event}))


def _walk(found: dict[str, click.Command], prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in found.items():
        yield prefix + name, command
        if isinstance(command, click.Group):
            yield from _walk(dict(sorted(command.commands.items())), f"{prefix}{name} ")


def commands_page() -> str:
    parts = ["# Commands\n", _NOTE, *(_command(name, command) for name, command in commands().items()), _environment(), _exit_codes()]
    return "\n".join(parts)


def _command(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name)
    lines = [f"## {name}\n", inspect.cleandoc(command.help or "") + "\n"]
    lines += [f"    {' '.join([name, *command.collect_usage_pieces(context)])}\n"]
    if isinstance(command, click.Group):
        lines += [f"- `{name} {sub}`: {one.get_short_help_str(200)}" for sub, one in sorted(command.commands.items())] + [""]
    rows = [_option(option) for option in command.params if isinstance(option, click.Option)]
    if rows:
        lines += ["| option | meaning |", "|---|---|", *rows, ""]
    lines += ["Examples:\n", "```sh", *getattr(command, "examples", ()), "```\n"]
    return "\n".join(lines)


def _option(option: click.Option) -> str:
    metavar = option.metavar or ("|".join(option.type.choices) if isinstance(option.type, click.Choice) else "")
    meaning = option.help or ""
    if option.show_default and option.default is not None:
        meaning += f" Default: {option.default}."
    if option.show_envvar:
        meaning += f" Environment: {option.envvar}."
    return f"| `{', '.join(option.opts)}{' ' + metavar.replace('|', chr(92) + '|') if metavar else ''}` | {_cell(meaning)} |"


def _environment() -> str:
    return "\n".join(
        ["## Environment\n", "| variable | meaning |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in ENVIRONMENT.items()), ""]
    )


def _exit_codes() -> str:
    """The codes with the errors that end in them, both from the table of errors."""
    rows = [
        f"| {code} | {meaning} | {', '.join(f'`{error.code}`' for error in ERRORS.values() if error.exit_code == code)} |"
        for code, meaning in EXIT_CODES.items()
    ]
    return "\n".join(["## Exit codes\n", "| code | meaning | errors (`--json` names them) |", "|---|---|---|", *rows, ""])


def configuration_page() -> str:
    rows = [f"| `{one.name}` | {one.form} | {_default(one)} | `{one.variable}` | {_cell(one.help)} |" for one in SETTINGS]
    return "\n".join([
        "# Configuration of an agent\n",
        _NOTE,
        "A setting is given as a flag of `clacks-agent` (some are), as an environment variable, or in the TOML file that `--config` names;",
        "what comes first here wins. In the environment, a list has spaces between its items. Seconds may have a unit behind them:",
        "30s, 15m, 12h, as a string in the file. A name with a dot is in a table there:\n",
        "```toml",
        'domain = "org.clacks"',
        'listen_tls = ["0.0.0.0:5671"]\n',
        "[limits]",
        "event_size = 262144",
        "```\n",
        "| setting | form | default | environment | meaning |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip


def _default(setting: Setting) -> str:
    value = setting.default
    if value is None or value == ():
        return ""
    return f"`{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"


def errors_page() -> str:
    rows = [
        f"| `{error.code}` | {_sentence(error.sentence)} | `{error.condition}` | {error.exit_code} |"
        for error in sorted(ERRORS.values(), key=lambda error: error.code)
    ]
    return "\n".join([
        "# Errors\n",
        _NOTE_ON_ERRORS,
        "An error has a code for programs and a sentence for people, which ends with the next thing to try. The code is `error.code`",
        "of a `ClacksError` in Python, and `code` in the answer to a command, in what programs print with `--json`, and in the `info` map",
        "of an AMQP error, whose condition is shown here. The exit code is that of `clacks`, `clacks-agent` and `sendEvent`.\n",
        "| code | sentence | AMQP condition | exit code |",
        "|---|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip


_FIELD: Final = re.compile(r"{{|}}|{(\w+)[^}]*}")


def _sentence(template: str) -> str:
    """A sentence of the table as Markdown: what is filled in stands in italics, in code in capitals."""
    parts = [
        _FIELD.sub(_in_code, part) if number % 2 else _FIELD.sub(_in_text, part.replace("<", "&lt;"))
        for number, part in enumerate(template.split("`"))
    ]
    return _cell("`".join(parts))


def _in_text(field: re.Match[str]) -> str:
    return f"*{field[1]}*" if field[1] else field[0][0]  # a doubled brace is one


def _in_code(field: re.Match[str]) -> str:
    return field[1].upper() if field[1] else field[0][0]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PAGES: Final[dict[str, Callable[[], str]]] = {
    "commands.md": commands_page,
    "configuration.md": configuration_page,
    "errors.md": errors_page,
}


def main(arguments: list[str]) -> Any:
    folder = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[2] / "docs"
    folder.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
