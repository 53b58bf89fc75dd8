"""What every command of ours has: examples in its help, errors as one sentence and an exit code, quiet ends.

The exit codes are those of the one table in `clacks.common.errors`; usage errors are click's own in our form, with the same code 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Final, TypeVar

import click

from .. import __version__
from ..common import amounts
from ..common.errors import EXIT_FAILED, ClacksError
from . import EXIT_INTERRUPTED
from .output import print_error, print_json, print_sentence

F = TypeVar("F", bound=Callable[..., Any])

# Set to anything, it shows the traceback of an unexpected error.
DEBUG = "CLACKS_DEBUG"


class Amount(click.ParamType):  # type: ignore[type-arg]  # before click 8.2 it takes none
    """A value with a unit behind it, as `parse` reads it."""

    def __init__(self, name: str, parse: Callable[[str], float]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


TIME: Final = Amount("time", amounts.seconds)
SIZE: Final = Amount("size", amounts.size)


class _UsageError(click.UsageError):
    """One of click's, which would begin with `Error:`."""

    def show(self, file: IO[Any] | None = None) -> None:
        if self.ctx is not None:
            click.echo(f"{self.ctx.get_usage()}\nTry '{self.ctx.command_path} --help' for help.\n", err=True)
        print_sentence(self.format_message())


@contextmanager
def _in_our_form() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        if type(error).show is not click.UsageError.show:  # in our form already, or a help that nobody asked for
            raise
        raise _UsageError(error.format_message(), error.ctx) from error


class _WithExamples(click.Command):
    """A command whose help ends with command lines as they are typed, one a line."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = [line.strip() for line in examples.strip().splitlines()]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _in_our_form():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _in_our_form():
            return super().invoke(ctx)


class Command(_WithExamples):
    """A command that reports `ClacksError` on stderr, with `--json` also as an object on stdout, and exits with its code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            answer = super().invoke(ctx)
            sys.stdout.flush()  # a closed pipe shows here, not at the interpreter's end
            return answer
        except ClacksError as error:
            if ctx.params.get("as_json"):
                print_json({"error": error.to_json()})
            print_error(error)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            # Whoever reads has enough (`| head`). What is left in the buffer must not fail again when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if os.environ.get(DEBUG):
                raise
            reason = " ".join(str(error).split())
            print_sentence(f"unexpected {type(error).__name__}: {reason} (with {DEBUG}=1 in the environment it shows where)")
            ctx.exit(EXIT_FAILED)


class Group(_WithExamples, click.Group):
    """A group of such commands."""

    command_class = Command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each with its first sentence, which click cuts off where the line ends."""
        rows = [(name, command.get_short_help_str(sys.maxsize)) for name, command in sorted(self.commands.items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def version_option(name: str) -> Callable[[F], F]:
    return click.version_option(__version__, prog_name=name, message="%(prog)s %(version)s")


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, an error too.")(function)
