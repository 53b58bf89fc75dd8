"""The same engine as the agent's, and nothing else: what comes in goes out to every subscriber, byte for byte.

No parse, no validation, no filter, no limits, no accounts. What the agent takes above this is the price of being an event bus.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from clacks.amqp import ACCEPTED, Connection, Options, Outcome, Receiver, ScramVerifier, Sender, serve
from client import loop_factory

WINDOW = 1000  # the agent's PUBLISHER_WINDOW


class Relay:
    """The handler of every connection and of every link."""

    def __init__(self) -> None:
        self.subscribers: dict[Sender, tuple[bool, deque[bytes]]] = {}  # whether it wants settled deliveries, and what waits for credit

    def attach(self, link: Sender | Receiver) -> None:
        link.handler = self
        link.accept(link.remote_source, link.remote_target)
        if isinstance(link, Receiver):
            link.window = WINDOW
        else:
            self.subscribers[link] = link.wants_settled, deque()

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        for subscriber, (wants_settled, waiting) in self.subscribers.items():
            if not waiting and subscriber.sendable:
                subscriber.send(encoded, settled=wants_settled)
            else:
                waiting.append(encoded)
        if not settled:
            link.settle(number, ACCEPTED)

    def credit(self, link: Sender) -> None:
        wants_settled, waiting = self.subscribers[link]
        while waiting and link.sendable:
            link.send(waiting.popleft(), settled=wants_settled)

    def detached(self, link: Any, condition: Any, *, closed: bool) -> None:
        if isinstance(link, Sender):
            del self.subscribers[link]

    def outcome(self, link: Sender, number: int, outcome: Outcome) -> None: ...

    def opened(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection, condition: Any) -> None: ...


class Anyone:
    """An authenticator that lets everybody in."""

    def mechanisms(self, *, secure: bool, loopback: bool) -> list[str]:
        return ["ANONYMOUS"]

    def verifier(self, user: str) -> ScramVerifier:
        raise AssertionError("nobody has a password")

    def certified(self, names: Sequence[str]) -> Sequence[str]:
        return ()

    def admits(self, user: str) -> bool:
        return True


async def main() -> None:
    listener = await serve("127.0.0.1", 0, Relay(), Anyone(), Options())
    print(f"ready amqp://127.0.0.1:{listener.address[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())
