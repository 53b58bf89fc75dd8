"""What one peer may have of one turn of the loop, so that every connection has its turn: bytes worked off, attaches answered.

Nothing here knows what the bytes mean or what is attached.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .link import Receiver, Sender

# Bytes of one peer's that are worked off in one turn of the loop: some 150 small events, 3 ms. uvloop brings up to 250 KB in one piece,
# and several pieces in one turn; beside a publisher in full flow others waited for 40 ms.
TURN_SIZE: Final = 32 * 1024
# Attaches of one peer that are answered in one turn of the loop: half a millisecond.
ATTACHES_PER_TURN: Final = 2


class Reading:
    """Bytes on their way to `take`; the socket is not read while some are left."""

    __slots__ = ("_loop", "_take", "_transport", "_unread")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, take: Callable[[bytes], None]) -> None:
        self._loop, self._transport, self._take = loop, transport, take
        self._unread = bytearray()

    def add(self, data: bytes) -> None:
        if len(data) <= TURN_SIZE and not self._unread:
            self._take(data)
            return
        if not self._unread and not self._transport.is_closing():
            self._transport.pause_reading()
            self._loop.call_soon(self._go_on)
        self._unread += data

    def stop(self) -> None:
        """Nobody takes what is left."""
        self._unread.clear()

    def _go_on(self) -> None:
        if not self._unread:
            return
        part = bytes(self._unread[:TURN_SIZE])
        del self._unread[:TURN_SIZE]
        try:
            self._take(part)
        except BaseException:
            self._transport.abort()  # as the loop does when it calls `add`: a socket that nobody reads any more is not to stay
            raise
        if self._unread:
            self._loop.call_soon(self._go_on)
        elif not self._transport.is_closing():
            self._transport.resume_reading()


class Attaches:
    """Links of the peer's on their way to `answer`: what comes in one read may be hundreds, and each takes the handler some 0.2 ms."""

    __slots__ = ("_answer", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, answer: Callable[[Sender | Receiver], None]) -> None:
        self._loop, self._answer = loop, answer
        self._waiting: deque[Sender | Receiver] = deque()

    def add(self, link: Sender | Receiver) -> None:
        self._waiting.append(link)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        for _ in range(min(ATTACHES_PER_TURN, len(self._waiting))):
            link = self._waiting.popleft()
            if link.alive:
                self._answer(link)
        if self._waiting:
            self._loop.call_soon(self._go_on)
