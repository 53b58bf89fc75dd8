"""The one thread in which the blocking classes run their asyncio, and how they wait for it."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar
from weakref import WeakSet

from .client import BusClient

T = TypeVar("T")

# What a program's end may cost, in seconds: time to say goodbye to an agent that answers, not more for one that does not.
GOODBYE_SECONDS: Final = 1.5


class Background:
    """An event loop in a daemon thread. There is one a process, made when it is first needed."""

    _instance: Background | None = None
    _lock = threading.Lock()

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clients: WeakSet[BusClient] = WeakSet()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self.loop.run_forever, name="clacks", daemon=True)
        self._thread.start()
        atexit.register(self._goodbye)

    @classmethod
    def get(cls) -> Background:
        """The process's instance; after a fork the child gets one of its own."""
        with cls._lock:
            if cls._instance is None or cls._instance._pid != os.getpid():
                cls._instance = cls()
            return cls._instance

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end, from any thread but the loop's own. Ctrl-C interrupts the waiting, and cancels the work."""
        if threading.get_ident() == self._thread.ident:
            work.close()
            raise RuntimeError("a blocking call from the library's own thread would wait for itself; use clacks.connect there")
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _goodbye(self) -> None:
        clients = list(self.clients)
        if not clients or self._pid != os.getpid():
            return

        async def close() -> None:
            async with asyncio.timeout(GOODBYE_SECONDS):
                await asyncio.gather(*(client.close() for client in clients))

        future = asyncio.run_coroutine_threadsafe(close(), self.loop)
        try:
            future.result(2 * GOODBYE_SECONDS)
        except Exception:  # the program is over; there is nobody left to tell
            future.cancel()
