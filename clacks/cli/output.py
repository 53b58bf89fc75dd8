"""How results and errors look: colours on a terminal only, tables, JSON. `rich` is loaded where a terminal gets a table or coloured text.

`NO_COLOR` (https://no-color.org) switches colours off; rich knows it, `styled` asks for it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..common.errors import ClacksError

if TYPE_CHECKING:
    from rich.console import Console


def styled(text: str, **style: Any) -> str:
    """Coloured text; `click.echo` takes the colours out again where no terminal is."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def print_error(error: ClacksError, *, err: bool = True, indent: str = "") -> None:
    """`error: SENTENCE` on stderr (`err`) or stdout, and below it everything that is wrong with the event."""
    sentence = str(error)
    if error.problems:  # they follow, so the sentence need not tell of them
        more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
        sentence = sentence.replace(f": {error.problems[0]}{more}", "")
    click.echo(f"{indent}{styled('error:', fg='red', bold=True)} {sentence}", err=err)
    for problem in error.problems:
        where = f" (line {problem.line})" if problem.line else ""
        click.echo(f"{indent}  {styled(problem.path, bold=True)}{where}: {problem.reason}", err=err)
        if problem.expected:
            click.echo(f"{indent}      expected: {problem.expected}", err=err)


def print_json(value: Any, *, indent: int | None = 2) -> None:
    click.echo(json.dumps(value, indent=indent, ensure_ascii=False, default=str))


def print_pretty(value: Any) -> None:
    """A command's result for people: text as it is, everything else as indented JSON, coloured on a terminal."""
    if isinstance(value, str):
        click.echo(value)
    elif sys.stdout.isatty():
        console().print_json(data=value, ensure_ascii=False, default=str)
    else:
        print_json(value)


def counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def shown_size(size: int) -> str:
    """A number of bytes for people, in powers of 1024."""
    number, units = float(size), iter(("KiB", "MiB", "GiB", "TiB"))
    unit = "B"
    while number >= 1000:  # 4 figures before the point are no longer read at a glance
        number, unit = number / 1024, next(units, "PiB")
    return f"{size} B" if unit == "B" else f"{number:.1f} {unit}"


def shown_queue(one: Mapping[str, Any]) -> str:
    """How much waits for a subscription; for a durable one that is everything it has not settled."""
    waiting = one.get("kept", one["waiting"])
    return f"{waiting} ({shown_size(one['waiting_bytes'])})" if waiting else "0"


def console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, seldom: Sequence[str] = ()) -> None:
    """Rows under headings; the columns `seldom` only if there is something in one. Elsewhere than on a terminal every row is one line,
    however long, so that grep finds it whole."""
    shown = [place for place, column in enumerate(columns) if column not in seldom or any(row[place] for row in rows)]
    columns, rows = [columns[place] for place in shown], [[row[place] for place in shown] for row in rows]
    if sys.stdout.isatty():
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for row in rows:
            table.add_row(*(Text(cell, overflow="fold") for cell in row))  # a name that is cut is no name
        console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        click.echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
