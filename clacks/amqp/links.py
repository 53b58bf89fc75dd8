"""The links of one connection, by the engine's pointers: which there are, in which session, and which names are free for another one.

Nothing here sends or settles; what a link does is told in `link.py`.
"""

from __future__ import annotations

from typing import Any

from .engine import lib
from .link import Receiver, Sender


class Links(dict[Any, Sender | Receiver]):
    """By pointer. A link is here from its attach until its peer has detached it, or its session or connection has ended."""

    __slots__ = ("_by_session", "_leaving")

    def __init__(self) -> None:
        super().__init__()
        self._by_session: dict[Any, dict[Any, None]] = {}
        self._leaving: set[tuple[Any, str, bool]] = set()  # with a detach of ours to be written: an attach goes before it

    def add(self, link: Sender | Receiver) -> None:
        self[link._pointer] = link
        self._by_session.setdefault(lib.pn_link_session(link._pointer), {})[link._pointer] = None

    def remove(self, pointer: Any) -> Sender | Receiver:
        """Forget one. Raises KeyError if it is not there."""
        link, session = self.pop(pointer), lib.pn_link_session(pointer)
        del self._by_session[session][pointer]
        if not self._by_session[session]:
            del self._by_session[session]
        return link

    def in_session(self, session: Any) -> list[Any]:
        """The pointers of those in a session."""
        return list(self._by_session.get(session, ()))

    def clear(self) -> None:
        super().clear()
        self._by_session.clear()
        self._leaving.clear()

    # --- names of our own ---

    def leaving(self, link: Sender | Receiver, session: Any) -> None:
        """A link that we have attached is detached by both sides, and the peer has yet to hear of it."""
        self._leaving.add((session, link.name, isinstance(link, Receiver)))

    def written(self) -> None:
        """The peer has heard everything."""
        self._leaving.clear()

    def taken(self, name: str, *, receives: bool) -> set[Any]:
        """The sessions that cannot have another link of this name and direction: the peer's engine ends the connection if one has two."""
        taken = {session for session, *former in self._leaving if former == [name, receives]}
        same = (link for link in self.values() if link.name == name and isinstance(link, Receiver) == receives)
        return taken | {lib.pn_link_session(link._pointer) for link in same}
