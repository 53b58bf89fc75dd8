"""Why subscriptions have ended, for their owners: the broker only tells them that their queue is gone.

Values, and how a reason is written in the log and read there. Nobody is told here."""

from __future__ import annotations

from typing import Final, NamedTuple

from ....common.errors import ClacksError
from ...domain import SUSPENDED, Subscription, SubscriptionRemoved

# What the reason begins with where somebody else has deleted it.
DELETED: Final = "deleted by "


class _End(NamedTuple):
    known: Subscription
    reason: str
    until: float


class Ends:
    """Those of the last while, by id. Every agent has them, as it reads the log."""

    def __init__(self) -> None:
        self._ends: dict[str, _End] = {}

    def note(self, change: SubscriptionRemoved, until: float) -> None:
        """Remember it until then, if it is worth it."""
        if change.reason.startswith((SUSPENDED, DELETED)):
            self._ends[change.subscription.id] = _End(change.subscription, change.reason, until)

    def forget(self, now: float) -> None:
        """Those whose time is over; they end in the order they came in."""
        for id, end in list(self._ends.items()):  # noqa: A001
            if end.until > now:
                return
            del self._ends[id]

    def why(self, user: str, id: str) -> ClacksError | None:  # noqa: A002
        """What its owner is to be told."""
        end = self._ends.get(id)
        if end is None or end.known.user != user:
            return None
        if end.reason.startswith(SUSPENDED):
            return ClacksError("filter-suspended", reason=end.reason.removeprefix(SUSPENDED))
        return ClacksError("subscription-deleted", name=end.known.name, user=end.reason.removeprefix(DELETED))
