"""Whose lease has run out, by one agent's clock. What follows is for a record to say: this is no part of the state.

A renewal moves nothing here, as there are thousands a second. Each subscription lies in the bucket of the second when it is looked at next,
some times in a lease, and is found to have been renewed or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .subscriptions import Subscription

# How often a subscription is looked at in a lease. A renewal counts from when it is seen, so an orphan stays a quarter of its lease longer.
LOOKS: Final = 4
# And this often at least, in seconds: what is dropped early lies in its bucket no longer than that.
HORIZON: Final = 600.0
# How many are looked at in one go: 4,000 take 4 ms if all are overdue. Four times a second that is 16,000; a million subscriptions with
# leases of 300 s need 13,400.
BATCH: Final = 4_000


class Leases:
    """The buckets, by whole second of the agent's clock."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[Subscription]] = {}
        self._open: list[Subscription] = []
        self._next: int | None = None

    def add(self, one: Subscription, now: float) -> None:
        if one.lease > 0:
            one.seen, one.seen_at = one.renewed, now
            self._put(one, now + min(one.lease / LOOKS, HORIZON))

    def _put(self, one: Subscription, when: float) -> None:
        second = int(when) + 1
        if self._next is None or second < self._next:
            self._next = second
        self._buckets.setdefault(second, []).append(one)

    def overdue(self, now: float, since: float, stretch: float, grace: float, by_id: Mapping[str, Subscription]) -> list[Subscription]:
        """Those not renewed for `stretch` times their lease plus `grace`, counted from `since` at the earliest. They are named again after
        `grace`, if they are still there then. Looks at BATCH subscriptions at most."""
        found: list[Subscription] = []
        for _ in range(BATCH):
            if not self._open and not self._fill(now):
                break
            one = self._open.pop()
            if by_id.get(one.id) is not one:
                continue
            if one.seen != one.renewed:
                one.seen, one.seen_at = one.renewed, now
            left = max(one.seen_at, since) + one.lease * stretch + grace - now
            if left <= 0:
                found.append(one)
            self._put(one, now + (min(left, one.lease / LOOKS, HORIZON) if left > 0 else grace))
        return found

    def _fill(self, now: float) -> bool:
        """Open the next bucket that is due and holds something."""
        while self._next is not None and self._next <= now:
            self._open = self._buckets.pop(self._next, [])
            self._next = self._next + 1 if self._buckets else None
            if self._open:
                return True
        return False

    def __len__(self) -> int:
        """How many subscriptions lie here, those that are dropped and not yet found to be among them."""
        return len(self._open) + sum(map(len, self._buckets.values()))
