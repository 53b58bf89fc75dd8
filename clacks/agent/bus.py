"""The path: decides what happens to an event. Synchronous; no sockets, no asyncio, no clock.

Everything that is published, over AMQP, by command or by the agent itself, crosses `Bus.publish`; there is no second way in. A driver
(`agent.broker`) carries the verdict out. Only `Bus.examine` and `Bus.explain` may be called from other threads: they read an immutable
set of schemas and touch nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ..common.errors import ClacksError
from ..common.event import Event
from ..common.schema import SchemaRegistry
from ..common.xml import Limits
from ..xquery import Filter, FilterError, FilterIndex

_NOTHING: Final[Mapping[str, Any]] = {}

Key = Hashable  # a subscription, whatever the driver takes for one


class Incoming(NamedTuple):
    """What came in, before anything is known of it.

    `body` is the event's XML; `encoded` the bare AMQP message it came in, None if it did not come as one; `user` who is authenticated;
    `claimed_user` the user-id that the message carries, if any; `properties` its application properties, the filters' external
    variables; `annotations` those that go on with it; `ttl` the seconds it has left, None for ever; `origin` the door, for the log.
    """

    body: bytes
    user: str
    encoded: bytes | None = None
    claimed_user: bytes | None = None
    properties: Mapping[str, Any] = _NOTHING
    annotations: Mapping[str, Any] = _NOTHING
    ttl: float | None = None
    origin: str = ""


class Refused(NamedTuple):
    """Not taken. With `explainable`, `Bus.explain` has more to say than `error`, but takes its time."""

    error: ClacksError
    explainable: bool = False


class Routed(NamedTuple):
    """Taken: `matched` get the event; for `undecided` the sandbox says so later, in their queues' order. Both lists may be empty, and
    no key is in both."""

    event: Event
    matched: Sequence[Any]
    undecided: Sequence[Any]


Verdict = Refused | Routed


class Bus:
    """Schemas on one side, subscriptions on the other, and one way between them."""

    def __init__(
        self,
        schemas: SchemaRegistry,
        limits: Limits | None = None,
        *,
        may_publish: Callable[[str, str], bool] = lambda user, name: True,
        on_filter_error: Callable[[Any, FilterError], None] | None = None,
    ) -> None:
        """`may_publish(user, event name)` is the access rule; `on_filter_error(key, error)` hears of filters that fail on an event."""
        self.schemas = schemas
        self.limits = limits or Limits()
        self._may_publish = may_publish
        self._index: FilterIndex[Any] = FilterIndex(on_filter_error, defer=True)

    # --- events ---

    def needs_worker(self, incoming: Incoming) -> bool:
        """Whether `examine` may take longer than a loop can wait. Then a worker calls it, and `publish` gets its answer."""
        return self.schemas.current.needs_worker(incoming.body)

    def examine(self, incoming: Incoming) -> Event:
        """Parse and validate. Raises ClacksError."""
        return self.schemas.current.examine(incoming.body, self.limits)

    def explain(self, incoming: Incoming) -> ClacksError:
        """Why `examine` refuses this, in full. Slow: milliseconds for a small event, so for a worker."""
        return self.schemas.current.explain(incoming.body, self.limits)

    def publish(self, incoming: Incoming, examined: Event | ClacksError | None = None) -> Verdict:
        """Decide about one event. `examined` is what `examine` answered or raised, if a worker has called it already."""
        claimed = incoming.claimed_user
        if claimed is not None and claimed != incoming.user.encode():
            found = claimed.decode("utf-8", "replace")
            return Refused(ClacksError("user-id-forged", found=found, user=incoming.user))
        if examined is None:
            try:
                event = self.examine(incoming)
            except ClacksError as error:
                return Refused(error.without_frames(), explainable=error.code == "event-invalid")
        elif isinstance(examined, ClacksError):
            return Refused(examined, explainable=examined.code == "event-invalid")
        else:
            event = examined
        if not self._may_publish(incoming.user, event.name):
            return Refused(ClacksError("not-permitted", user=incoming.user, action="publish", what=event.name))
        matched, undecided = self._index.match(event.document, incoming.properties)
        return Routed(event, matched, undecided)

    # --- subscriptions ---

    def subscribe(self, key: Key, filters: Sequence[Filter] = (), kinds: Collection[str] | None = None) -> None:
        """`key` gets the events that all `filters` match, of the `kinds` (names of events) given, or of every kind."""
        self._index.add(key, filters or None, kinds)

    def unsubscribe(self, key: Key) -> None:
        """Undo `subscribe`. Raises KeyError for an unknown key."""
        self._index.remove(key)

    @property
    def subscriptions(self) -> int:
        return len(self._index)
