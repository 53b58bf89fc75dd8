"""Which way a domain takes on which broker."""

from __future__ import annotations

from ....common.brokers import Broker
from ....common.components.url import parse_urls
from ...config import Config
from ...domain import Timing
from .activemq import ActiveTopology
from .rabbitmq import RabbitTopology
from .topology import Topology


def topology_on(broker: Broker, config: Config, timing: Timing) -> Topology:
    """That of this agent on a broker that a domain can run on (`common.brokers.domain_broker`)."""
    if broker.declares:
        return RabbitTopology(config.domain, config.node_id, config.broker_ingress, timing)
    account = parse_urls(list(config.broker_url), config.domain)[0].user or ""
    return ActiveTopology(config.domain, config.node_id, broker.dialect.slots, account)
