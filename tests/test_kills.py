"""Agents are killed with SIGKILL at every step of an event's acceptance: what was accepted arrives, in order, and little of it twice.

`python tests/kills.py --kills 1000` is the same at size.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Final

from kill_at import STEPS
from kills import Account, Ledger, Machine, play

KILLS: Final = 30


def test_kills(tmp_path: Path) -> None:
    machine = Machine(tmp_path, seed=1)
    faults = asyncio.run(play(machine, KILLS))
    report = machine.report()
    assert not faults, f"{report}\n" + "\n".join(faults[:20])
    assert sum(machine.counts[step] for step in (*STEPS, "at a random moment")) == KILLS, report
    assert all(any(account.told[1:]) for account in machine.accounts), "every publisher had events accepted"


def test_the_machine_sees_what_is_wrong() -> None:
    """A ledger that notices nothing would prove nothing."""
    accounts = [Account() for _ in range(4)]
    for _ in range(3):
        accounts[1].send()
    accounts[1].told[:] = bytes([0, Account.ACCEPTED, Account.ACCEPTED, Account.RELEASED])
    ledger = Ledger("one", accounts, publisher=1)
    assert list(ledger.missing()) == [(1, 1), (1, 2)]
    for publisher, number, words in ((1, 4, "never sent"), (2, 1, "not for it"), (1, 3, "released"), (1, 2, "comes first after")):
        ledger.delivered(publisher, number, 0)
        assert words in ledger.faults[-1]
    assert list(ledger.missing()) == [(1, 1)]


def test_a_store_that_loses_is_found_out(tmp_path: Path) -> None:
    """The same with the store taken away after each kill: the machine says that events are missing."""

    async def body() -> list[str]:
        machine = Machine(tmp_path, 1)
        await machine.define()
        before = tmp_path / "before"
        before.mkdir()
        for file in tmp_path.glob("events.db*"):
            shutil.copy(file, before)
        while not any(Account.ACCEPTED in account.told[1:] for account in machine.accounts):
            await machine.kill()
        for file in tmp_path.glob("events.db*"):
            file.unlink()
        for file in before.iterdir():
            shutil.copy(file, tmp_path)
        await machine.kill()
        return [f"{one.name}: {missing}" for one in machine.durable for missing in one.missing()]

    assert asyncio.run(body())
