"""The subscriptions of a domain, by id, by user and by durable name. This table knows neither records nor clocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from sys import intern
from typing import Any


class Subscription:
    """One subscription; `suspended` says why it gets nothing at present, if it does not. Nothing of it changes but `renewed`, the offset of
    its last renewal; `seen` and `seen_at` belong to the one who watches the leases (leases.py), and are no part of the state. There may be
    a million: equal texts are kept once."""

    __slots__ = (
        "address", "event", "filters", "id", "lease", "max_age", "name", "queue", "renewed", "seen", "seen_at", "shared", "suspended",
        "user",
    )  # fmt: skip

    def __init__(
        self,
        id: str,  # noqa: A002
        user: str,
        event: str,
        address: str,
        queue: str,
        name: str,
        shared: bool,
        lease: float,
        renewed: int,
        filters: tuple[str, ...],
        suspended: str = "",
        max_age: float = 0.0,
    ) -> None:
        self.id = id
        self.user, self.event, self.address = intern(user), intern(event), intern(address)
        self.queue = id if queue == id else queue
        self.name = intern(name)
        self.shared, self.lease, self.renewed = shared, lease, renewed
        self.filters = tuple([intern(text) for text in filters])
        self.suspended, self.max_age = suspended, max_age
        self.seen, self.seen_at = renewed, 0.0

    @property
    def asks_for(self) -> tuple[Any, ...]:
        """What makes it the same subscription, when one is asked for again under its name."""
        return self.event, self.address, self.filters

    def row(self) -> tuple[Any, ...]:
        """The arguments it can be made of again."""
        return (
            self.id, self.user, self.event, self.address, self.queue, self.name, self.shared, self.lease, self.renewed, self.filters,
            *([self.suspended, self.max_age] if self.max_age else [self.suspended] if self.suspended else []),
        )  # fmt: skip

    def suspend(self, reason: str) -> Subscription:
        """The same, suspended for this reason."""
        made = Subscription(*self.row())
        made.suspended = reason
        return made

    def __repr__(self) -> str:
        return f"<Subscription {self.id} of {self.user}>"


class Subscriptions:
    """All of them."""

    def __init__(self) -> None:
        self._by_id: dict[str, Subscription] = {}
        self._by_user: dict[str, set[Subscription]] = {}
        self._by_name: dict[tuple[str, str], Subscription] = {}

    @property
    def by_id(self) -> Mapping[str, Subscription]:
        return self._by_id

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._by_id.values())

    def named(self, user: str, name: str) -> Subscription | None:
        """The durable subscription of a user."""
        return self._by_name.get((user, name)) if name else None

    def of(self, user: str) -> set[Subscription]:
        return self._by_user.get(user, set())

    def users(self) -> dict[str, int]:
        """How many each user has."""
        return {user: len(owned) for user, owned in self._by_user.items()}

    def add(self, one: Subscription) -> None:
        """Add it, in the place of the one with its id if there is one."""
        before = self._by_id.get(one.id)
        owned = self._by_user.setdefault(one.user, set())
        if before is not None:
            owned.discard(before)
        owned.add(one)
        self._by_id[one.id] = one
        if one.name:
            self._by_name[one.user, one.name] = one

    def remove(self, id: str) -> Subscription | None:  # noqa: A002
        one = self._by_id.pop(id, None)
        if one is None:
            return None
        owned = self._by_user[one.user]
        owned.discard(one)
        if not owned:
            del self._by_user[one.user]
        if one.name:
            del self._by_name[one.user, one.name]
        return one
