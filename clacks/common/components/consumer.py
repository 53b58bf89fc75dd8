"""Receiving events in a callback."""

from __future__ import annotations

import logging
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Self

from lxml import objectify

from ...amqp import ACCEPTED, Modified
from ..errors import ClacksError
from ..trust import Certificate
from .background import Background
from .client import BusClient, Dial, dial
from .subscribing import BACK, Delivery, Subscription
from .terms import Keep, Wanted
from .url import DEFAULT_DOMAIN

log = logging.getLogger("clacks.consumer")

Callback = Callable[[objectify.ObjectifiedElement], Any]


class AMQPEventConsumer:
    """Calls `callback` with every event that `xquery` matches, until it is closed.

    The callback gets the `<Event>` element as an lxml.objectify tree. It runs on one thread of this consumer, so it may block, and call a
    proxy. What it raises is logged, the event is settled as modified, undeliverable here (so it goes to another consumer that shares the
    subscription, or to the dead letters), and the next one follows. A lost connection is opened again and the filter put back; events
    published in between are seen only by a durable subscription, or in a domain on a broker until the lease runs out. There, those that
    were fetched ahead come a second time.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        domain: str = DEFAULT_DOMAIN,
        xquery: str | None = None,
        callback: Callback | None = None,
        *,
        event: str | None = None,
        durable: str = "",
        shared: str = "",
        max_age: float | None = None,
        max_bytes: int | None = None,
        overflow: str = "",
        replace: bool = False,
        certificate: Certificate | None = None,
        dial: Dial = dial,
    ) -> None:
        """When this returns the filter is in force. `event` narrows it to the events of one name. `durable`, `shared` and what follows
        them say how the agent keeps events while nobody takes them, and for whom (see `Keep`). `certificate` (chain and key, PEM files)
        says who comes where the URL has no password. Raises ClacksError: unreachable, not-authenticated, filter-invalid (with line and
        column), ..."""
        keep = Keep(durable, shared, max_age, max_bytes, overflow, replace)
        self._background = Background.get()
        self._worker = _Worker(callback)
        self._client, self._subscription = self._background.run(
            self._attach(BusClient(url, domain, certificate=certificate, dial=dial), xquery, event, keep)
        )
        self._background.clients.add(self._client)
        self._worker.start(self._background, self._client, self._subscription)
        # The threads know the worker and not this object, so `del consumer` closes it.
        self._finalizer = weakref.finalize(self, self._worker.stop)

    async def _attach(self, client: BusClient, xquery: str | None, event: str | None, keep: Keep) -> tuple[BusClient, Subscription]:
        subscription = Subscription(client.route, Wanted(xquery, event or "", keep), self._worker.queue.put)
        try:
            await subscription.attach()
        except BaseException:
            await client.close()
            raise
        return client, subscription

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the consumer has ended, or `timeout` seconds: True if it has. Raises ClacksError with what ended it, and after
        `close` too, so that a loop around it ends."""
        if not self._worker.ended.wait(timeout):
            return False
        if self._worker.error is not None:
            raise self._worker.error
        raise ClacksError("closed", what="consumer")

    def close(self) -> None:
        """Stop: the callback that runs is waited for (unless it is the one that closes), what was fetched ahead is given back. A durable
        subscription stays where it is, and goes on collecting."""
        self._finalizer.detach()
        self._worker.stop()
        self._worker.wait()
        self._background.run(self._client.close())

    def delete(self) -> None:
        """Stop, and remove the durable subscription with everything that waits in it."""
        self._worker.delete = True
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Worker:
    """The thread of the callback, and the task that keeps the subscription."""

    def __init__(self, callback: Callback | None) -> None:
        self.queue: SimpleQueue[Delivery | None] = SimpleQueue()
        self.ended = threading.Event()
        self.error: ClacksError | None = None
        self.delete = False
        self._callback = callback
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="clacks-callback", daemon=True)

    def start(self, background: Background, client: BusClient, subscription: Subscription) -> None:
        self._background, self._client, self._subscription = background, client, subscription
        background.loop.call_soon_threadsafe(self._keep)
        self._thread.start()

    def _keep(self) -> None:
        self._keeper = self._background.loop.create_task(self._kept())

    async def _kept(self) -> None:
        try:
            await self._subscription.keep()
        except ClacksError as error:
            self.error = error
            self.stop()

    def _run(self) -> None:
        while (delivery := self.queue.get()) is not None:
            outcome: Any = BACK
            if not self._stopping:
                outcome = ACCEPTED
                try:
                    if self._callback is not None:
                        self._callback(delivery.event.tree)
                except Exception as error:
                    frames = "".join(traceback.format_tb(error.__traceback__)[1:])  # the author's, not ours
                    log.error("the callback failed with %s: %s\n%s", type(error).__name__, error, frames)
                    outcome = Modified(failed=True, undeliverable=True)
            self._background.loop.call_soon_threadsafe(delivery.settle, outcome)
        self._background.loop.call_soon_threadsafe(self._let_go)  # after the last outcome: a link that is gone takes none
        self.ended.set()

    def stop(self) -> None:
        """End from any thread, without waiting."""
        self._stopping = True
        self._background.loop.call_soon_threadsafe(self._subscription.hold)
        self.queue.put(None)

    def _let_go(self) -> None:
        self._keeper.cancel()
        self._subscription.close(delete=self.delete)

    def wait(self) -> None:
        if threading.current_thread() is not self._thread:
            self._thread.join()


__all__ = ["AMQPEventConsumer", "Callback"]
