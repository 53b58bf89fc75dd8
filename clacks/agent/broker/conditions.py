"""The AMQP form of an error: its condition, and the outcome of the delivery that it is about."""

from __future__ import annotations

import logging
from typing import Final

from ...amqp import RELEASED, Condition, Outcome, Receiver, Rejected, Sender
from ...common.errors import ClacksError
from .inlet import peer_of

log = logging.getLogger("clacks.broker")

# Refusals that a publisher should try again (AMQP `released`) instead of taking for final (`rejected`).
_TEMPORARY: Final = frozenset({"bus-overloaded", "bus-stopping", "subscription-full", "store-failed"})


def as_condition(error: ClacksError) -> Condition:
    """The error's condition, its sentence, and for machines its code and problems."""
    return Condition(error.condition, str(error), error.to_json())


def as_outcome(error: ClacksError) -> Outcome:
    return RELEASED if error.code in _TEMPORARY else Rejected(as_condition(error))


def refuse(link: Sender | Receiver, error: ClacksError) -> None:
    """Answer an attach with why not, and log it. Nothing happens to a link that has gone meanwhile."""
    if not link.alive:
        return
    connection = link.connection
    said = {"user": connection.user, "peer": peer_of(connection), "code": error.code, "reason": str(error)}
    log.info("link refused", extra=said)
    link.refuse(as_condition(error))
