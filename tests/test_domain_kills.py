"""A domain under load whose agents, broker and consumers are killed: what was accepted arrives, in order, and little of it twice.

`python tests/domain_kills.py --kills 20` is the same at size.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from brokers import RabbitMQ
from domain_kills import Consumer, Publisher, play


@pytest.mark.timeout(180)
def test_kills(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    machine = play(tmp_path, ("agent", "broker", "client"), 1, seed=1)
    assert not machine.faults, "\n".join([*machine.report(), *machine.faults])
    assert all(publisher.accepted for publisher in machine.publishers)
    assert {kind: len(pauses) for kind, pauses in machine.pauses.items()} == {"agent": 1, "broker": 1, "client": 1}


def test_the_machine_sees_what_is_wrong() -> None:
    """A ledger that notices nothing would prove nothing."""
    consumer = Consumer("amqp://nobody", "org.test")
    for event in (1, 2, 2, 5, 4, 10_000_001):
        consumer.note(event)
    assert consumer.twice == 1
    assert consumer.disorder == [(5, 4)]
    publisher = Publisher(0, "amqp://nobody", "org.test")
    publisher.accepted = {1, 2, 3}
    assert publisher.missing(consumer) == {3}
