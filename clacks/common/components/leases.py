"""The subscriptions that a client has in a domain, across its connections, and the task that renews them.

Live ones run out otherwise; of a durable one the answer tells whether the domain goes on with it. This file knows
neither links nor queues but as what belongs to a subscription.
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
# What counts as the lease of one that has none, in seconds: that of a live one, as agents have it unless they are told otherwise.
NO_LEASE: Final = 60.0


@dataclass(slots=True)
class Lease:
    """A subscription as the domain knows it. `seconds` is 0 for one that does not run out. `lost` is called if the domain does not know it
    any more, or has suspended it: to subscribe again tells. `exclusive`: who receives has to ask to be the queue's only consumer."""

    id: str
    queue: str
    seconds: float
    lost: Callable[[], None]
    exclusive: bool = False


class Leases:
    """All of one client."""

    def __init__(self, renew: Callable[[list[str], float], Awaitable[list[str]]]) -> None:
        """`renew(ids, timeout)` answers those that do not go on."""
        self._renew = renew
        self._held: dict[Wanted, Lease] = {}
        self._over: set[Wanted] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def get(self, wanted: Wanted) -> Lease | None:
        return self._held.get(wanted)

    def over(self, wanted: Wanted) -> bool:
        """Whether there was one, and the domain does not go on with it."""
        return wanted in self._over

    def add(self, wanted: Wanted, lease: Lease) -> None:
        self._over.discard(wanted)
        self._held[wanted] = lease
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._keep())

    def remove(self, wanted: Wanted) -> Lease | None:
        self._over.discard(wanted)
        return self._held.pop(wanted, None)

    def clear(self) -> list[Lease]:
        """Forget all of them; the answer is what there was."""
        held = list(self._held.values())
        self._held.clear()
        self._over.clear()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        return held

    def soon(self) -> None:
        """Renew at once: the connection was away, nobody knows for how long."""
        self._wake.set()

    async def _keep(self) -> None:
        while self._held:
            pause = min(lease.seconds or NO_LEASE for lease in self._held.values()) / RENEWALS
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self._ask(pause)

    async def _ask(self, timeout: float) -> None:
        held = {lease.id: (wanted, lease) for wanted, lease in self._held.items()}
        try:
            over = await self._renew(list(held), timeout) if held else []
        except ClacksError as error:
            log.info("subscriptions not renewed", extra={"reason": str(error)})
            return
        for wanted, lease in (held[one] for one in over if one in held):
            if self._held.get(wanted) is lease:
                del self._held[wanted]
                self._over.add(wanted)
                lease.lost()
