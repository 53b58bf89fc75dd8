"""Marking a method as a command, so that a registry of an agent serves it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

MARK: Final = "__clacks_command__"
CORE: Final = "core"  # the target of an agent's own commands


class CommandType(StrEnum):
    """Who answers a command that several agents serve: any one, the first that succeeds, or all of them."""

    NORMAL = "NORMAL"
    FIRSTRESULT = "FIRSTRESULT"
    CUMULATIVE = "CUMULATIVE"


@dataclass(frozen=True, slots=True)
class Marked:
    """What the decorator was told."""

    documentation: str
    type: CommandType
    needs_user: bool
    needs_queue: bool
    idempotent: bool = False
    checks_rights: bool = False


def Command(
    documentation: str = "",
    *,
    type: CommandType = CommandType.NORMAL,  # noqa: A002
    needs_user: bool = False,
    needs_queue: bool = False,
    idempotent: bool = False,
    checks_rights: bool = False,
) -> Callable[[F], F]:
    """Mark a method (plain or `async`) as a command.

    `documentation` is shown by getMethods; the docstring's first line is taken if it is empty. With `needs_user` the method gets the
    authenticated caller's name first, with `needs_queue` then the target it was called through; callers do not pass these. One that is
    `idempotent` may be run again when the agent that ran it is gone before it has answered. One that `checks_rights` may be called by
    everybody, without a rule: it sees itself what its caller may do.
    """

    def mark(method: F) -> F:
        words = documentation or (inspect.getdoc(method) or "").partition("\n")[0]
        setattr(method, MARK, Marked(words, type, needs_user, needs_queue, idempotent, checks_rights))
        return method

    return mark
