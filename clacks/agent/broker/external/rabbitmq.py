"""A domain's topology on RabbitMQ: all of it is declared, by management over AMQP 1.0, with the arguments that RabbitMQ knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote

from ....amqp import Connection, Message
from ....common.brokers import Broker, Management
from ....common.errors import ClacksError
from ...domain import Timing
from . import stream
from .log import LogReader
from .names import (
    EVENTS,
    REJECTED_BYTES,
    agent_queue,
    command_key,
    command_queue,
    control_log,
    ingress_queue,
    marker_queue,
    own_reply_queue,
    rejected_queue,
    sender_of,
    slot_key,
)
from .topology import Place, QueueTerms

_QUEUES: Final = "/queues/"  # what is behind it in an address is percent-encoded
_NODE_QUEUE_SECONDS: Final = 3_600  # how long the commands for one agent wait for it


class RabbitTopology:
    """A `Topology`. The number of ingress queues is the same in all agents, or one of them does not start."""

    def __init__(self, domain: str, node: str, ingress: int, timing: Timing) -> None:
        self._ingress = [ingress_queue(domain, number) for number in range(ingress)]
        self._domain, self._node, self._timing = domain, node, timing
        self._slots = 0
        self._declaring: Management | None = None

    @property
    def ingress(self) -> Sequence[tuple[str, bool]]:
        return [(queue, True) for queue in self._ingress]

    deletes = True
    rejected_ttl = None  # its bytes are limited

    async def attach(self, connection: Connection, broker: Broker) -> None:
        self._slots = broker.dialect.slots
        self._declaring = await Management.attach(connection)

    async def _management(self) -> Management:
        management = self._declaring
        if management is None or not management.connection.alive:
            raise ClacksError("domain-unsettled", reason="the broker cannot be reached")
        await management.revive()
        return management

    async def declare(self, targets: Sequence[str]) -> None:
        management, domain, node = await self._management(), self._domain, self._node
        await management.declare_exchange(domain)
        # Nothing is taken out of an ingress queue but by an agent: however often agents die with an event in hand, it stays.
        arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True, "x-delivery-limit": -1}
        await self._agree(management)
        for queue in self._ingress:
            await management.declare_queue(queue, arguments=arguments)
        for slot in range(self._slots):
            await management.bind(self._ingress[slot % len(self._ingress)], domain, slot_key(slot))
        await management.bind(self._ingress[0], domain, EVENTS)
        await self.declare_rejected()
        for target in targets:
            shared, own = command_queue(domain, target), command_queue(domain, target, node)
            await management.declare_queue(shared, arguments={"x-queue-type": "quorum", "x-delivery-limit": -1})
            await management.bind(shared, domain, command_key(target))
            expires = {"x-expires": _NODE_QUEUE_SECONDS * 1000}
            await management.declare_queue(own, arguments={"x-queue-type": "quorum", "x-delivery-limit": -1, **expires})
            await management.bind(own, domain, command_key(target, node))
        await management.declare_queue(agent_queue(domain, node), durable=False, auto_delete=True)
        await stream.declare(management, control_log(domain), self._timing)

    async def declare_rejected(self) -> None:
        arguments = {"x-max-length-bytes": REJECTED_BYTES, "x-overflow": "drop-head"}
        await (await self._management()).declare_queue(rejected_queue(self._domain), arguments=arguments)

    async def _agree(self, management: Management) -> None:
        """All agents of a domain must have the same number of ingress queues, or events would come twice and others never. A queue in which
        there is nothing keeps the number: the broker refuses another one. Raises ClacksError config-invalid."""
        number = len(self._ingress)
        try:
            await management.declare_queue(marker_queue(self._domain), arguments={"x-max-length": number})
        except ClacksError as error:
            if error.values.get("status") != 409:
                raise
            raise ClacksError(
                "config-invalid", source="broker.ingress", reason=f"the domain has another number than {number}",
                hint=f"Set it as with the other agents. To change it, stop them all, and delete the exchange {self._domain} and the queue "
                f"{marker_queue(self._domain)} on the broker when the ingress queues are empty.",
            ) from error  # fmt: skip

    def check(self, max_bytes: int | None) -> None:
        """It can."""

    def spelled(self, queue: str) -> str:
        return queue

    def stay(self, max_age: float, lease: float) -> float | None:
        """The queue has it."""
        return None

    async def make(self, queue: str, terms: QueueTerms) -> None:
        try:
            await (await self._management()).declare_queue(queue, arguments=_arguments(terms))
        except ClacksError as error:
            if error.values.get("status") != 409:  # it is there, with other limits
                raise

    async def delete(self, queue: str, *, tell: bool = False) -> None:
        await (await self._management()).delete_queue(queue)

    async def exists(self, queue: str) -> bool:
        return await (await self._management()).queue_info(queue) is not None

    def log(self, reader: LogReader) -> stream.StreamLog:
        return stream.StreamLog(control_log(self._domain), reader)

    def reply_queue(self, user: str, given: str) -> str:
        """In the form of an address or as its bare name."""
        return own_reply_queue(self._domain, user, unquote(given.removeprefix(_QUEUES)) if given.startswith(_QUEUES) else given)

    def sender_of(self, message: Message) -> str:
        return sender_of(message.properties.user_id)

    def asked_queue(self, target: str, node: str) -> str:
        """The one where everybody may ask it: an agent may have another one's user-id."""
        return command_queue(self._domain, target, node)

    def places(self, target: str) -> Sequence[Place]:
        return [Place(command_queue(self._domain, target), shared=True), Place(command_queue(self._domain, target, self._node))]


def _arguments(terms: QueueTerms) -> dict[str, Any]:
    """A subscription's queue, in the words of RabbitMQ. A live subscription's events need no replicas, so its queue is a classic one."""
    arguments: dict[str, Any] = {"x-max-length-bytes": terms.max_bytes, "x-overflow": "drop-head" if terms.loses else "reject-publish"}
    if terms.max_events is not None:
        arguments["x-max-length"] = terms.max_events
    if terms.expires is not None:
        arguments["x-expires"] = int(terms.expires * 1000)
    if terms.max_age is not None:
        arguments["x-message-ttl"] = int(terms.max_age * 1000)
    if terms.durable:
        arguments["x-queue-type"] = "quorum"
        if not terms.shared:
            arguments["x-single-active-consumer"] = True
        if terms.deliveries is not None:
            arguments["x-delivery-limit"] = terms.deliveries - 1  # those after the first
    return arguments
