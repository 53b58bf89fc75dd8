"""What several test files do with the AMQP layer: run on a loop with a deadline, wait for a condition, remember what a link is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from clacks.amqp import ACCEPTED, Condition, Link, Message, Outcome, Receiver, Sender

# Seconds for a whole test and for one condition on a machine that has much else to do: one that fails says which one it was.
DEADLINE = 60.0
PATIENCE = 30.0


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """An asynchronous test as a plain one, with a deadline."""

    def wrapper() -> None:
        async def bounded() -> None:
            async with asyncio.timeout(DEADLINE):
                await test()

        asyncio.run(bounded())

    wrapper.__name__, wrapper.__doc__ = test.__name__, test.__doc__
    return wrapper


async def until(condition: Callable[[], Any], what: str | Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for a condition; fail with `what`, or with what that answers then."""

    async def ask() -> Any:
        return condition()

    await eventually(ask, what, seconds, pause=0.005)


async def eventually(
    ask: Callable[[], Awaitable[Any]], what: str | Callable[[], object], seconds: float = PATIENCE, pause: float = 0.05
) -> None:
    """As `until`, where somebody has to be asked."""
    end = asyncio.get_running_loop().time() + seconds
    while not await ask():
        assert asyncio.get_running_loop().time() < end, f"still not: {what if isinstance(what, str) else what()}"
        await asyncio.sleep(pause)


@dataclass
class End:
    """The handler of one link: remembers what it is told, settles with `outcome_for`."""

    outcome_for: Outcome | None = ACCEPTED
    received: list[tuple[int, bytes, bool]] = field(default_factory=list)
    outcomes: list[tuple[int, Outcome]] = field(default_factory=list)
    ended: list[tuple[Condition | None, bool]] = field(default_factory=list)
    credits: int = 0

    @property
    def messages(self) -> list[Message]:
        return [Message(encoded) for _, encoded, _ in self.received]

    @property
    def bodies(self) -> list[Any]:
        return [message.body for message in self.messages]

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        self.received.append((number, encoded, settled))
        if self.outcome_for is not None and not settled:
            assert link.settle(number, self.outcome_for)

    def credit(self, link: Sender) -> None:
        self.credits += 1

    def outcome(self, link: Sender, number: int, outcome: Outcome) -> None:
        self.outcomes.append((number, outcome))

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        self.ended.append((condition, closed))


def resident() -> int:
    """This process's memory in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
