"""The AMQP form of an error: its condition, and the outcome of the delivery that it is about."""

from __future__ import annotations

from typing import Final

from ...amqp import RELEASED, Condition, Outcome, Rejected
from ...common.errors import ClacksError

# Refusals that a publisher should try again (AMQP `released`) instead of taking for final (`rejected`).
_TEMPORARY: Final = frozenset({"bus-overloaded", "bus-stopping", "subscription-full", "store-failed"})


def as_condition(error: ClacksError) -> Condition:
    """The error's condition, its sentence, and for machines its code and problems."""
    return Condition(error.condition, str(error), error.to_json())


def as_outcome(error: ClacksError) -> Outcome:
    return RELEASED if error.code in _TEMPORARY else Rejected(as_condition(error))
