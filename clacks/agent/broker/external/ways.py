"""Which way a domain takes on which broker."""

from __future__ import annotations

from ....common.brokers import Broker
from ...config import Config
from ...domain import Timing
from .rabbitmq import RabbitTopology
from .topology import Topology


def topology_on(broker: Broker, config: Config, timing: Timing) -> Topology:
    """That of this agent on a broker that a domain can run on (`common.brokers.domain_broker`)."""
    return RabbitTopology(config.domain, config.node_id, config.broker_ingress, timing)
