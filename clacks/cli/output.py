"""How results and errors look: colours on a terminal only, tables, JSON. `rich` is loaded where a terminal gets a table or coloured text.

`NO_COLOR` (https://no-color.org) switches colours off; rich knows it, `styled` asks for it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from ..common.errors import ClacksError

if TYPE_CHECKING:
    from rich.console import Console


# What a terminal may take for a command to it, or to turn what follows around: control characters (C0 but for tab and line feed, and C1),
# line separators, marks and overrides of direction, halves of characters. XML's names have none of them.
_COMMANDING: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` as it may be shown on a terminal, whoever wrote it: events, their properties, names and reasons are strangers'."""
    return _COMMANDING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_xml(text: str) -> str:
    """The same of XML, which stays the same XML."""
    return _COMMANDING.sub(lambda found: f"&#{ord(found[0])};", text)


def styled(text: str, **style: Any) -> str:
    """Coloured text; `click.echo` takes the colours out again where no terminal is."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def print_error(error: ClacksError, *, err: bool = True, indent: str = "") -> None:
    """`error: SENTENCE` on stderr (`err`) or stdout, and below it everything that is wrong with the event."""
    sentence = str(error)
    if error.problems:  # they follow, so the sentence need not tell of them
        more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
        sentence = sentence.replace(f": {error.problems[0]}{more}", "")
    print_sentence(sentence, err=err, indent=indent)
    for problem in error.problems:
        where = f" (line {problem.line})" if problem.line else ""
        click.echo(f"{indent}  {styled(printable(problem.path), bold=True)}{where}: {printable(problem.reason)}", err=err)
        if problem.expected:
            click.echo(f"{indent}      expected: {printable(problem.expected)}", err=err)


def print_sentence(sentence: str, *, err: bool = True, indent: str = "") -> None:
    """The first line of every error."""
    click.echo(f"{indent}{styled('error:', fg='red', bold=True)} {printable(sentence)}", err=err)


def print_json(value: Any, *, indent: int | None = 2) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    click.echo(_COMMANDING.sub(lambda found: f"\\u{ord(found[0]):04x}", text))  # the same JSON


def print_pretty(value: Any) -> None:
    """A command's result for people: text as it is, everything else as indented JSON, coloured on a terminal."""
    if isinstance(value, str):
        click.echo(printable(value) if sys.stdout.isatty() else value)
    elif sys.stdout.isatty():
        console().print_json(data=value, ensure_ascii=False, default=lambda one: printable(str(one)))
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
    columns, rows = [columns[place] for place in shown], [[printable(row[place]) for place in shown] for row in rows]
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
