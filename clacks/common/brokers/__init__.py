"""Brokers of others, as a domain of many agents uses them: how each wants to be spoken to, RabbitMQ's management over AMQP 1.0, and names
that agents and clients share."""

from .dialects import DIALECTS, WAYS, Broker, Dialect, Feature, domain_broker, recognise
from .management import Binding, Management, QueueInfo
from .names import ENDED, owners_part, replies_of, reply_queue

__all__ = [
    "DIALECTS", "ENDED", "WAYS", "Binding", "Broker", "Dialect", "Feature", "Management", "QueueInfo", "domain_broker", "owners_part",
    "recognise", "replies_of", "reply_queue",
]  # fmt: skip
