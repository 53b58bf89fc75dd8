"""The bus on a broker of its own: many agents take events from shared ingress queues and deliver into one queue per subscription.

Durability, replication and clustering are that broker's job. `broker` is the driver of the bus, `uplink` its connections, `ingress` and
`outlets` the ways in and out, `control` the reader of the log that all agents share, `commands` what is asked for. Two things are another
broker's another: what there is on it (`topology`: `rabbitmq`, `activemq`), and what the log is kept in (`log`: `stream`, `sequence`).
docs/domain.md has what is on the wire.
"""

from .broker import ExternalBroker

__all__ = ["ExternalBroker"]
