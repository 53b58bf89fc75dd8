"""The subscriptions of the domain as this agent has indexed them."""

from __future__ import annotations

import logging

from ....common.errors import ClacksError
from ...bus import Bus
from ...sandbox import Sandbox
from ..subscription import Counts
from ..terms import compiled
from .outlets import Outlets
from .subscription import DomainSubscription, Owed

log = logging.getLogger("clacks.broker")


class DomainSubscriptions:
    """All of them, by id; what a user may not see at present is not in the bus."""

    def __init__(self, bus: Bus, sandbox: Sandbox) -> None:
        self.sandbox, self.owed = sandbox, Owed()
        self.bus = bus
        self._by_id: dict[str, DomainSubscription] = {}
        self._indexed: set[DomainSubscription] = set()
        self._gone = Counts()

    @property
    def all(self) -> list[DomainSubscription]:
        return list(self._by_id.values())

    def snapshot(self) -> list[DomainSubscription]:
        """The subscriptions there are now; also for other threads."""
        return list(self._by_id.values())

    def totals(self) -> Counts:
        return sum((one.counts for one in self.snapshot()), self._gone)

    def add(self, one: DomainSubscription) -> None:
        self._by_id[one.id] = one
        self._index(one)

    def _index(self, one: DomainSubscription) -> None:
        if one.suspension:
            return
        try:
            filters = [compiled(text) for text in one.terms.filters]
            one.sight = self.bus.subscribe(one, one.user, filters, one.terms.event, "domain")
        except ClacksError as error:
            log.warning("subscription not in force", extra={"user": one.user, "subscription": one.id, "reason": str(error)})
            one.barred = str(error)
        else:
            self._indexed.add(one)
            one.barred = ""

    def _unindex(self, one: DomainSubscription) -> None:
        if one in self._indexed:
            self._indexed.discard(one)
            self.bus.unsubscribe(one)

    def remove(self, id: str) -> None:  # noqa: A002
        one = self._by_id.pop(id, None)
        if one is None:
            return
        self._unindex(one)
        if one.outlets is not None:
            one.outlets.forget(one.queue)
        one.end()
        self._gone += one.counts

    def replace(self, one: DomainSubscription) -> None:
        """The subscription with this id has other terms; its queue, and what is on its way there, stay."""
        former = self._by_id[one.id]
        self._unindex(former)
        self.add(one)
        one.succeed(former)

    def suspend(self, id: str, reason: str) -> None:  # noqa: A002
        """The subscription takes no more events; its queue, and what is on its way there, stay."""
        one = self._by_id[id]
        self._unindex(one)
        one.suspend(reason)

    def clear(self) -> None:
        """The domain is to be read anew."""
        for one in self.all:
            self._unindex(one)
            one.disconnect()
            one.end()
            self._gone += one.counts
        self._by_id.clear()

    def connect(self, outlets: Outlets) -> None:
        for one in self._by_id.values():
            one.outlets = outlets
            one.pump()

    def disconnect(self) -> None:
        for one in self.all:
            one.disconnect()

    def permissions_changed(self) -> None:
        """The bus has other rules: what a user may not see is taken out of it, what they may see (again) put into it."""
        for one in self.all:
            error = self.bus.forbidden(one.user, one.terms.event, "rules")
            if error is not None:
                self._unindex(one)
                one.barred = str(error)
            elif one not in self._indexed:
                self._index(one)

    async def close(self) -> None:
        await self.sandbox.close()
