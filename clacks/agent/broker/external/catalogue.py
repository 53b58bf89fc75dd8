"""The subscriptions of the domain by name, for those who look after them. What waits in their queues, the broker says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....common.errors import ClacksError
from ...access import refusal
from ..catalogue import described
from .ends import DELETED
from .services import current
from .subscription import DomainSubscription

if TYPE_CHECKING:
    from .broker import ExternalBroker


class DomainCatalogue:
    """Answers the commands about subscriptions (command.Catalogue)."""

    def __init__(self, broker: ExternalBroker) -> None:
        self._broker = broker

    def all(self, user: str) -> list[dict[str, Any]]:
        everything = self._broker.subscriptions.bus.administers(user)
        found = [one for one in self._broker.subscriptions.all if one.terms.name and (everything or one.user == user)]
        return [described(one) for one in sorted(found, key=lambda one: (one.user, one.terms.name))]

    def show(self, user: str, name: str, owner: str | None) -> dict[str, Any]:
        return described(self._find(user, name, owner))

    def delete(self, user: str, name: str, owner: str | None, *, force: bool) -> Any:
        """Answers an awaitable. Whether it has consumers, only the broker knows: `force` makes no difference."""
        return self._delete(user, name, owner)

    async def _delete(self, user: str, name: str, owner: str | None) -> bool:
        control = await current(self._broker.control)
        await control.unsubscribe(self._find(user, name, owner).id, f"{DELETED}{user}")
        return True

    async def replay(self, user: str, name: str, owner: str | None) -> int:
        raise ClacksError("link-refused", reason="Dead letters of a domain are the broker's: set a dead-letter exchange by a policy there.")

    def _find(self, user: str, name: str, owner: str | None) -> DomainSubscription:
        administers = self._broker.subscriptions.bus.administers(user)
        if owner not in (None, user) and not administers:
            raise refusal(user, "see the subscriptions of", str(owner), "--administer", "command getSubscription")
        of_name = [one for one in self._broker.subscriptions.all if one.terms.name == name]
        found = [one for one in of_name if one.user == (owner or user)] or (of_name if administers and owner is None else [])
        if len(found) == 1:
            return found[0]
        hint = f"Several users have one: {', '.join(sorted(one.user for one in found))}." if found else "`clacks subscriptions` lists them."
        raise ClacksError("subscription-unknown", name=name, hint=hint)
