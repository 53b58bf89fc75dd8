"""A domain under load whose agents, broker and consumers are killed: what was accepted arrives, in order, and little of it twice.

`python tests/domain_kills.py --kills 20` is the same at size.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from domain_kills import Consumer, Publisher, play
from domains import Guest


@pytest.mark.parametrize("broker", ["rabbitmq", "activemq"])
def test_kills(broker: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    request.getfixturevalue(broker)  # where that is left out, this is too
    machine = play(tmp_path, ("agent", "broker", "client"), 1, seed=1, broker=broker)
    assert not machine.faults, "\n".join([*machine.report(), *machine.faults])
    assert all(publisher.accepted for publisher in machine.publishers)
    assert {kind: len(pauses) for kind, pauses in machine.pauses.items()} == {"agent": 1, "broker": 1, "client": 1}


def nobody() -> Guest:
    raise AssertionError("nobody is asked")


def test_the_machine_sees_what_is_wrong() -> None:
    """A ledger that notices nothing would prove nothing."""
    consumer = Consumer(nobody)
    for event in (1, 2, 2, 5, 4, 10_000_001):
        consumer.note(event)
    assert consumer.twice == 1
    assert consumer.disorder == [(5, 4)]
    publisher = Publisher(0, nobody)
    publisher.accepted = {1, 2, 3}
    assert publisher.missing(consumer) == {3}
