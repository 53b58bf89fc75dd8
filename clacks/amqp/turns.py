"""What one peer may have of one turn of the loop, so that every connection has its turn: bytes worked off, attaches answered.

Nothing here knows what the bytes mean or what is attached.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .link import Receiver, Sender

# Bytes of one peer's that are worked off in one turn of the loop: some 150 small events, 3 ms. uvloop brings up to 250 KB in one piece,
# and several pieces in one turn; beside a publisher in full flow others waited for 40 ms.
TURN_SIZE: Final = 32 * 1024
# Attaches of one peer that are answered in one turn of the loop: half a millisecond.
ATTACHES_PER_TURN: Final = 2


class Turns:
    """Work that is done a part a turn: `_part` does one, and says whether there is more."""

    __slots__ = ("_going", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._going = False  # the next turn is asked for

    def _go_on_soon(self) -> None:
        if not self._going:
            self._going = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._going = False
        if self._part():
            self._go_on_soon()

    def _part(self) -> bool:
        raise NotImplementedError


class Reading(Turns):
    """Bytes on their way to `take`; the socket is not read while more than `ahead` of them are left."""

    __slots__ = ("_ahead", "_held", "_paused", "_take", "_transport", "_unread")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, take: Callable[[bytes], None], ahead: int = 0
    ) -> None:
        super().__init__(loop)
        self._transport, self._take, self._ahead = transport, take, ahead
        self._paused = False
        self._unread = bytearray()
        self._held = False

    def add(self, data: bytes) -> None:
        if len(data) <= TURN_SIZE and not self._unread and not self._held:
            self._take(data)
            return
        self._unread += data
        self._adjust()
        if not self._held:
            self._go_on_soon()

    def _adjust(self) -> None:
        """Read the socket, or not."""
        paused = self._held or len(self._unread) > self._ahead
        if paused != self._paused and not self._transport.is_closing():
            self._paused = paused
            (self._transport.pause_reading if paused else self._transport.resume_reading)()

    def hold(self, held: bool) -> None:
        """Take nothing until it is not held any more: the peer has to wait."""
        if held == self._held or self._transport.is_closing():
            return
        self._held = held
        self._adjust()
        if self._unread and not held:
            self._go_on_soon()

    def stop(self) -> None:
        """Nobody takes what is left."""
        self._unread.clear()

    def _part(self) -> bool:
        if not self._unread or self._held:
            return False
        part = bytes(self._unread[:TURN_SIZE])
        del self._unread[:TURN_SIZE]
        try:
            self._take(part)
        except BaseException:
            self._transport.abort()  # as the loop does when it calls `add`: a socket that nobody reads any more is not to stay
            raise
        self._adjust()
        return bool(self._unread)


class Attaches(Turns):
    """Links of the peer's on their way to `answer`: what comes in one read may be hundreds, and each takes the handler some 0.2 ms."""

    __slots__ = ("_answer", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, answer: Callable[[Sender | Receiver], None]) -> None:
        super().__init__(loop)
        self._answer = answer
        self._waiting: OrderedDict[Sender | Receiver, None] = OrderedDict()

    def add(self, link: Sender | Receiver) -> None:
        self._waiting[link] = None
        self._go_on_soon()

    def drop(self, link: Sender | Receiver) -> None:
        """It is gone: one that comes and goes faster than it is answered leaves nothing."""
        self._waiting.pop(link, None)

    def stop(self) -> None:
        """Nobody answers those that are left."""
        self._waiting.clear()

    def _part(self) -> bool:
        for _ in range(min(ATTACHES_PER_TURN, len(self._waiting))):
            link, _ = self._waiting.popitem(last=False)
            if link.alive:
                self._answer(link)
        return bool(self._waiting)
