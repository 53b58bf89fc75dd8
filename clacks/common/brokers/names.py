"""How the name of a queue says whose it is, so that a pattern in the broker's permissions can mean one user's and nobody else's; and the
queue for a user's answers."""

from __future__ import annotations

import os
from typing import Final

from ...amqp import Connection
from .dialects import Broker
from .management import Management

# The annotation of a message that tells a subscription's consumers that it has ended, where the broker does not.
ENDED: Final = "x-opt-clacks-ended"


def owners_part(user: str) -> str:
    """What stands for a user between two dots of a queue's name: no dot, and another text for each user.

    With the dots as they are, the pattern of `anna` would fit the queues of `anna.work`. A percent sign means nothing in a pattern."""
    return user.replace("%", "%25").replace(".", "%2E")


def replies_of(domain: str, user: str) -> str:
    """What the names of a user's reply queues begin with."""
    return f"{domain}.reply.{owners_part(user)}."


async def reply_queue(connection: Connection, broker: Broker, domain: str, user: str) -> str:
    """A new queue for the answers to what is asked on this connection: its name, which nobody can guess. It goes with the connection; where
    the broker has no such queues, some time after it. Raises ClacksError."""
    name = broker.spelled(replies_of(domain, user)) + os.urandom(12).hex()
    if broker.declares:
        management = await Management.attach(connection)
        try:
            await management.declare_queue(name, durable=False, exclusive=True, auto_delete=True)
        finally:
            management.close()
    return name
