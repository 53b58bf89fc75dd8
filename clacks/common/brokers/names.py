"""How the name of a queue says whose it is, so that a pattern in the broker's permissions can mean one user's and nobody else's."""

from __future__ import annotations


def owners_part(user: str) -> str:
    """What stands for a user between two dots of a queue's name: no dot, and another text for each user.

    With the dots as they are, the pattern of `anna` would fit the queues of `anna.work`. A percent sign means nothing in a pattern."""
    return user.replace("%", "%25").replace(".", "%2E")


def replies_of(domain: str, user: str) -> str:
    """What the names of a user's reply queues begin with."""
    return f"{domain}.reply.{owners_part(user)}."
