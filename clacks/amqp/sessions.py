"""The sessions of one connection (AMQP 1.0 part 2.5): the peer's, which are taken as they come, and those of our own links, filled in turn.

A session is only a place for links here: what is in it is the connection's. Pointers of the engine stay within this package.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from .engine import lib

# Links of our own in one session: RabbitMQ takes 256, and is mute from the next one on.
LINKS_PER_SESSION: Final = 250

# Sessions of a connection that have the whole capacity, and the part of it that each further one has: no client of a few sessions waits
# for it, and all 256 of a connection together come to 310 MiB and not to 2 GiB.
WHOLE_SESSIONS: Final = 8
FURTHER_SHARE: Final = 8

_outgoing_bytes = lib.pn_session_outgoing_bytes


class Sessions:
    """Whatever is opened here is closed here, or goes with its connection."""

    __slots__ = ("_all", "_capacity", "_filled", "_single")

    def __init__(self, capacity: int) -> None:
        """`capacity` in bytes bounds what a peer can make the engine keep for one session (2.5.6)."""
        self._capacity = capacity
        self._all: set[Any] = set()
        self._filled: dict[Any, int] = {}  # of ours for many links, with how many there are
        self._single: dict[Any, bool] = {}  # of ours for a single link, and whether it is there

    def __len__(self) -> int:
        return len(self._all)

    def ours(self, session: Any) -> bool:
        return session in self._filled or session in self._single

    def place(self, connection: Any, *, alone: bool, taken: Collection[Any] = ()) -> Any:
        """A session of ours for another link, none of the `taken` ones, and `alone` one that no other link gets; `connection` is the
        engine's."""
        if alone:
            fit = (session for session, busy in self._single.items() if not busy and session not in taken)
        else:
            fit = (session for session, links in self._filled.items() if links < LINKS_PER_SESSION and session not in taken)
        session = next(fit, None)
        if session is None:
            session = lib.pn_session(connection)
            self._open(session)
        if alone:
            self._single[session] = True
        else:
            self._filled[session] = self._filled.get(session, 0) + 1
        return session

    def leave(self, session: Any) -> None:
        """A link is gone. Its session waits for the next one."""
        if session in self._single:
            self._single[session] = False
        elif session in self._filled:
            self._filled[session] -= 1

    def opened(self, session: Any) -> None:
        """The peer has opened one, or answers ours."""
        if not self.ours(session):
            self._open(session)

    def shared(self, session: Any) -> bool:
        """Whether other links may be in it."""
        return session not in self._single

    def ended(self, session: Any) -> bool:
        """The peer has ended it, and its links are gone: it is to be `close`d. Whether it was one of ours."""
        self._all.discard(session)
        return self._filled.pop(session, None) is not None or self._single.pop(session, None) is not None

    @staticmethod
    def close(session: Any) -> None:
        """Our end of it, which frees its channel for another one."""
        lib.pn_session_close(session)
        lib.pn_session_free(session)

    def clear(self) -> None:
        """They are gone with their connection."""
        self._all.clear()
        self._filled.clear()
        self._single.clear()

    def waiting(self) -> int:
        """Bytes that wait for the peer's session windows (2.5.6), or for the socket."""
        return sum(map(_outgoing_bytes, self._all))

    def _open(self, session: Any) -> None:
        share = 1 if len(self._all) < WHOLE_SESSIONS else FURTHER_SHARE
        lib.pn_session_set_incoming_capacity(session, self._capacity // share)
        lib.pn_session_open(session)
        self._all.add(session)
