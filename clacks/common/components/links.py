"""What the links of a client have in common: how they are attached, and what their ends mean in words for people."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from ...amqp import AmqpError, Condition, Link, Outcome, Receiver, Sender
from ..errors import ClacksError

# Events fetched ahead: enough to hide a round trip at ten thousand a second, little to give back when the program ends.
WINDOW: Final = 100

# What will be no better after connecting again.
FATAL: Final = frozenset({
    "filter-invalid", "filter-suspended", "not-authenticated", "not-permitted", "user-removed", "mechanism-unusable", "password-exposed",
    "tls-untrusted", "address-unknown", "link-refused", "schema-unknown", "queue-full", "subscription-differs", "subscription-other",
    "subscription-taken", "subscription-deleted", "subscriptions-full", "broker-unusable", "broker-refused", "url-invalid",
})  # fmt: skip


def as_error(condition: Condition | None) -> ClacksError:
    """What the agent said, as the error it was there. Another broker's condition keeps its own words."""
    if condition is None:
        return ClacksError("remote", sentence="the agent ended it without a reason")
    if "code" in condition.info and "message" in condition.info:
        return ClacksError.from_json(condition.info)
    return ClacksError("remote", sentence=str(condition))


async def attached(attach: Awaitable[Any], explain: Callable[[Condition], ClacksError] = as_error) -> Any:
    """A link, or the reason why there is none as a ClacksError."""
    try:
        return await attach
    except AmqpError as error:
        raise explain(error.condition) from error


class LinkUser:
    """A link's handler that has nothing to do with half of what a link tells."""

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None: ...

    def credit(self, link: Sender) -> None: ...

    def outcome(self, link: Sender, token: Any, outcome: Outcome) -> None: ...

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None: ...
