"""The brokers that bench/domain.py runs a domain on, and what each does alone: a copy into every queue, without agents."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from clacks.amqp import Connection, Terminus
from clacks.common.brokers import Broker, Management

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from activemq import DomainActiveMQ
from brokers import ADMIN as ADMIN
from brokers import AGENT as AGENT
from brokers import RabbitMQ as RabbitMQ

# What is declared for a subscription of either kind (clacks/agent/broker/external/rabbitmq.py), for RabbitMQ alone.
KINDS: Final = {"live": {}, "durable": {"x-queue-type": "quorum", "x-single-active-consumer": True}}
BARE: Final = "bench.bare"


class Bed(Protocol):
    """A broker with what a domain wants of it. `durable`: whether messages for a kind of queue have to say that they are to be kept."""

    @property
    def server(self) -> Any: ...

    def durable(self, kind: str) -> bool: ...

    def alone(self, connection: Connection, broker: Broker, kind: str, matching: int) -> Any:
        """A context: the target from which messages are copied into `matching` queues, and these as sources."""


class OnRabbitMQ:
    def __init__(self, domain: str, matching: Sequence[int]) -> None:
        self.server = RabbitMQ()

    def durable(self, kind: str) -> bool:
        return False  # its queues are what is durable

    @contextlib.asynccontextmanager
    async def alone(
        self, connection: Connection, broker: Broker, kind: str, matching: int
    ) -> AsyncIterator[tuple[Terminus, list[Terminus]]]:
        management = await Management.attach(connection)
        queues = [f"{BARE}.{number}" for number in range(matching)]
        await management.declare_exchange(BARE)
        for queue in queues:
            await management.declare_queue(queue, arguments=KINDS[kind])
            await management.bind(queue, BARE, "k")
        try:
            yield broker.entry(BARE, "k"), list(map(broker.queue, queues))
        finally:
            for queue in queues:
                await management.delete_queue(queue)
            await management.delete_exchange(BARE)


class OnActiveMQ:
    def __init__(self, domain: str, matching: Sequence[int]) -> None:
        """With more memory and the compiler that a broker has which stays."""

        def edit(text: str) -> str:
            for before, added in (
                ("</virtualDestinations>", "".join(map(_composite, matching))),
                ("</policyEntries>", f'<policyEntry queue="{BARE}.&gt;" producerFlowControl="false" maxPageSize="2000"/>'),
                ("</authorizationEntries>", f'<authorizationEntry queue="{BARE}.&gt;" read="users" write="users" admin="users"/>'),
            ):
                text = text.replace(before, added + before)
            return text

        self.server = DomainActiveMQ([domain], edit, heap="2g", java_options=())

    def durable(self, kind: str) -> bool:
        return kind == "durable"

    @contextlib.asynccontextmanager
    async def alone(
        self, connection: Connection, broker: Broker, kind: str, matching: int
    ) -> AsyncIterator[tuple[Terminus, list[Terminus]]]:
        yield broker.queue(f"{BARE}.{matching}"), [broker.queue(queue, exclusive=kind == "durable") for queue in _copies(matching)]


def _copies(matching: int) -> list[str]:
    return [f"{BARE}.{matching}.{number}" for number in range(matching)]


def _composite(matching: int) -> str:
    queues = "".join(f'<queue physicalName="{queue}"/>' for queue in _copies(matching))
    return f'<compositeQueue name="{BARE}.{matching}"><forwardTo>{queues}</forwardTo></compositeQueue>'


BEDS: Final = {"rabbitmq": OnRabbitMQ, "activemq": OnActiveMQ}
