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

    __slots__ = ("_all", "_capacity", "_own")

    def __init__(self, capacity: int) -> None:
        """`capacity` in bytes bounds what a peer can make the engine keep for one session (2.5.6)."""
        self._capacity = capacity
        self._all: set[Any] = set()
        self._own: dict[Any, int] = {}  # with their links; one that is for a single link counts as full before it

    def __len__(self) -> int:
        return len(self._all)

    def ours(self, session: Any) -> bool:
        return session in self._own

    def place(self, connection: Any, *, alone: bool, taken: Collection[Any] = ()) -> Any:
        """A session of ours for another link, none of the `taken` ones, and `alone` one that no other link gets; `connection` is the
        engine's."""
        fit = (session for session, links in self._own.items() if links < LINKS_PER_SESSION and session not in taken)
        session = None if alone else next(fit, None)
        if session is None:
            session = lib.pn_session(connection)
            self._open(session)
            self._own[session] = LINKS_PER_SESSION if alone else 0
        self._own[session] += 1
        return session

    def leave(self, session: Any) -> bool:
        """A link is gone. Whether its session ended with it: one of ours that was for a single link."""
        links = self._own.get(session)
        if links is None:
            return False
        if links <= LINKS_PER_SESSION:
            self._own[session] = links - 1
            return False
        del self._own[session]
        lib.pn_session_close(session)
        return True

    def opened(self, session: Any) -> None:
        """The peer has opened one, or answers ours."""
        if session not in self._own:
            self._open(session)

    def shared(self, session: Any) -> bool:
        """Whether other links may be in it."""
        return self._own.get(session, 0) <= LINKS_PER_SESSION

    def end(self, session: Any) -> None:
        """The peer has ended it, and its links are gone."""
        self._own.pop(session, None)
        self._all.discard(session)
        lib.pn_session_close(session)
        lib.pn_session_free(session)

    def clear(self) -> None:
        """They are gone with their connection."""
        self._all.clear()
        self._own.clear()

    def waiting(self) -> int:
        """Bytes that wait for the peer's session windows (2.5.6), or for the socket."""
        return sum(map(_outgoing_bytes, self._all))

    def _open(self, session: Any) -> None:
        share = 1 if len(self._all) < WHOLE_SESSIONS else FURTHER_SHARE
        lib.pn_session_set_incoming_capacity(session, self._capacity // share)
        lib.pn_session_open(session)
        self._all.add(session)
