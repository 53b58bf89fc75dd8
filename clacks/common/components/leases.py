"""The subscriptions that a client has in a domain, across its connections, and the task that renews those that are live.

It knows neither links nor queues but as what belongs to a subscription.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from ..errors import ClacksError
from .terms import Wanted

log = logging.getLogger("clacks.client")

# Renewals in the time of a lease: two may be lost.
RENEWALS: Final = 3


@dataclass(slots=True)
class Lease:
    """A subscription as the domain knows it. `seconds` is 0 for one that does not run out. `lost` is called if the domain does not know it
    any more."""

    id: str
    queue: str
    seconds: float
    lost: Callable[[], None]


class Leases:
    """All of one client."""

    def __init__(self, renew: Callable[[list[str], float], Awaitable[list[str]]]) -> None:
        """`renew(ids, timeout)` answers those that are not known."""
        self._renew = renew
        self._held: dict[Wanted, Lease] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def get(self, wanted: Wanted) -> Lease | None:
        return self._held.get(wanted)

    def add(self, wanted: Wanted, lease: Lease) -> None:
        self._held[wanted] = lease
        if lease.seconds and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._keep())

    def remove(self, wanted: Wanted) -> Lease | None:
        return self._held.pop(wanted, None)

    def clear(self) -> list[Lease]:
        """Forget all of them; the answer is what there was."""
        held = list(self._held.values())
        self._held.clear()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        return held

    def soon(self) -> None:
        """Renew at once: the connection was away, nobody knows for how long."""
        self._wake.set()

    async def _keep(self) -> None:
        while live := {lease.id: wanted for wanted, lease in self._held.items() if lease.seconds}:
            pause = min(self._held[wanted].seconds for wanted in live.values()) / RENEWALS
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self._ask(pause)

    async def _ask(self, timeout: float) -> None:
        live = {lease.id: (wanted, lease) for wanted, lease in self._held.items() if lease.seconds}
        try:
            unknown = await self._renew(list(live), timeout) if live else []
        except ClacksError as error:
            log.info("subscriptions not renewed", extra={"reason": str(error)})
            return
        for wanted, lease in (live[one] for one in unknown if one in live):
            if self._held.get(wanted) is lease:
                del self._held[wanted]
                lease.lost()
