"""A short run of tests/fuzzing.py, which has a longer one by command: whatever comes in, the agent stays, and nothing stays of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections.abc import Sequence

import pytest

import fuzzing
from clacks.amqp import Options, ScramVerifier, serve
from clacks.testing import LocalBus
from support import resident, run, until


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_changed_frames(seed: int) -> None:
    with LocalBus() as bus:
        bus._background.run(fuzzing.rounds(bus, seed, count=1000))  # brings in what is loaded when it is needed
        gc.collect()
        before = resident()
        assert bus._background.run(fuzzing.rounds(bus, seed + 100, count=1000)) == 1000
        gc.collect()
        assert resident() - before < 8 * 2**20
        assert not bus.agent.broker.subscriptions
        assert not bus.agent.broker.replies
        assert bus.agent.bus.subscriptions == 0
        assert bus.proxy().getSessionUser() == "admin", "it still serves"


class Nobody:
    """An authenticator without users."""

    def mechanisms(self, *, secure: bool, loopback: bool) -> tuple[str, ...]:
        return ("SCRAM-SHA-256", "PLAIN")

    def verifier(self, user: str) -> ScramVerifier:
        return ScramVerifier(b"0" * 16, b"1" * 32, b"2" * 32, 4096)

    def admits(self, user: str) -> bool:
        return False

    def certified(self, names: Sequence[str]) -> Sequence[str]:
        return ()


def test_changed_handshakes() -> None:
    rng = random.Random(1)
    attempts = [fuzzing.handshakes(rng) for _ in range(150)]

    @run
    async def test() -> None:
        listener = await serve("127.0.0.1", 0, fuzzing.Silent(), Nobody(), Options())

        async def attempt(data: bytes) -> None:
            reader, writer = await asyncio.open_connection(*listener.address)
            writer.write(data)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()

        await asyncio.gather(*map(attempt, attempts))
        await until(lambda: not listener.connections, "all are gone")
        await listener.close()

    test()
