"""The path: decides what happens to an event. Synchronous; no sockets, no asyncio, no clock.

Everything that is published, over AMQP, by command or by the agent itself, crosses `Bus.publish`; there is no second way in. A driver
(`agent.broker`) carries the verdict out. Only `Bus.examine` and `Bus.explain` may be called from other threads: they read an immutable
set of schemas and touch nothing.

Who may do what is decided here too, for every door: what a user may not see never reaches their filters.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

from ..common.errors import ClacksError
from ..common.event import Event
from ..common.schema import SchemaRegistry
from ..common.schemaset import EventSchema, hint
from ..common.xml import Limits, shortened
from ..xquery import Filter, FilterError, FilterIndex, Kinds
from .access import Access, Rights, audit, option, refusal

_NOTHING: Final[Mapping[str, Any]] = {}
_NONE: Final[frozenset[str]] = frozenset()

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
        access: Access | None = None,
        on_filter_error: Callable[[Any, FilterError], None] | None = None,
    ) -> None:
        """Without `access` nobody but an agent may do anything; `on_filter_error(key, error)` hears of filters that fail on an event."""
        self.schemas = schemas
        self.limits = limits or Limits()
        self._access = access or Access()
        self._index: FilterIndex[Any] = FilterIndex(on_filter_error, defer=True)
        self._publishers: dict[str, set[str]] = {}  # what was found permitted since the rules changed: this is asked for every event
        # The names of events that have passed, and which of them each subscriber may see. An event of another name is looked up before
        # it is matched, so rules with wildcards are up to every schema that comes.
        self._names: set[str] = set()
        self._sights: WeakValueDictionary[str, Kinds] = WeakValueDictionary()

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
            audit(incoming.user, "publish as", found, incoming.origin)
            return Refused(ClacksError("user-id-forged", found=found, user=incoming.user))
        if examined is None:
            try:
                event = self.examine(incoming)
            except ClacksError as error:
                return self._refused(incoming, error.without_frames())
        elif isinstance(examined, ClacksError):
            return self._refused(incoming, examined)
        else:
            event = examined
        name = event.name
        if name not in self._publishers.get(incoming.user, _NONE) and not self._may_publish(incoming.user, name):
            return self._not_permitted(incoming, name)
        if name not in self._names:
            self.learn(name)
        matched, undecided = self._index.match(event.document, incoming.properties, name, len(event.body))
        return Routed(event, matched, undecided)

    def _refused(self, incoming: Incoming, error: ClacksError) -> Refused:
        """What is wrong with an event, to a publisher who may know it: the words of an event's schema are in it, or another's name."""
        name = error.values.get("name", "")
        if error.code == "event-invalid" and not self._may_publish(incoming.user, name):
            return self._not_permitted(incoming, name)
        if error.code == "event-unknown" and not (name in self.schemas.current and self._may_publish(incoming.user, name)):
            may_publish = self._access.rights(incoming.user).publish
            error = ClacksError("event-unknown", name=name, hint=hint(name, filter(may_publish, self.schemas.current)))
        return Refused(error, explainable=error.code == "event-invalid")

    def _not_permitted(self, incoming: Incoming, name: str) -> Refused:
        return Refused(refusal(incoming.user, "publish", name, option("--publish", name), incoming.origin))

    def _may_publish(self, user: str, name: str) -> bool:
        if not self._access.rights(user).publish(name):
            return False
        self._publishers.setdefault(user, set()).add(name)
        return True

    # --- subscriptions ---

    def subscribe(self, key: Key, user: str, filters: Sequence[Filter] = (), name: str = "", origin: str = "") -> Container[str]:
        """`key` gets the events that all `filters` match, of one `name` if given, and of those only what `user` may see: the answer,
        which changes with the rules. Raises ClacksError: not-permitted, schema-unknown."""
        if (error := self.forbidden(user, name, origin)) is not None:
            raise error
        if name:
            self.schema(user, name, origin)
        sight = self.sight(user)
        self._index.add(key, filters or None, (name,) if name else sight)
        return sight

    def sight(self, user: str) -> Kinds:
        """The names of events that a user may see, which changes with the rules."""
        sight = self._sights.get(user)
        if sight is None:
            sight = self._sights[user] = Kinds(filter(self._access.rights(user).subscribe, self._names))
        return sight

    def learn(self, name: str) -> None:
        """There are events of this name, maybe kept from another time: who may see them does from here on."""
        if name in self._names:
            return
        self._names.add(name)
        for user, sight in self._sights.items():
            if self._access.rights(user).subscribe(name):
                sight.add(name)

    def unsubscribe(self, key: Key) -> None:
        """Undo `subscribe`. Raises KeyError for an unknown key."""
        self._index.remove(key)

    @property
    def subscriptions(self) -> int:
        return len(self._index)

    # --- who may do what ---

    @property
    def access(self) -> Access:
        return self._access

    @access.setter
    def access(self, access: Access) -> None:
        """Other rules, or other users: in force for the next event, and for what every subscription may see. Whose subscription is
        `forbidden` altogether is for the driver to ask, before the next event."""
        self._access = access
        self._publishers.clear()
        seen: dict[Rights, list[str]] = {}
        for user, sight in self._sights.items():
            rights = access.rights(user)
            names = seen.get(rights)
            if names is None:
                names = seen[rights] = list(filter(rights.subscribe, self._names))
            sight.clear()
            sight.update(names)

    def forbidden(self, user: str, name: str, origin: str) -> ClacksError | None:
        """Why a user may not subscribe to the events of a name, or to any if there is none; None if they may."""
        rights = self._access.rights(user)
        if rights.subscribe(name) if name else rights.subscribes:
            return None
        return refusal(user, "subscribe to", name or "events", option("--subscribe", name or "*"), origin)

    def visible(self, user: str) -> Iterator[EventSchema]:
        """The events that a user may publish or subscribe to."""
        knows, schemas = self._access.rights(user).knows, self.schemas.current
        return (schemas[name] for name in sorted(schemas) if knows(name))

    def schema(self, user: str, name: str, origin: str = "") -> EventSchema:
        """The description of an event. Raises ClacksError not-permitted where the user may do nothing with that name, be there such an
        event or not; schema-unknown."""
        knows = self._access.rights(user).knows
        if not knows(name):
            raise refusal(user, "see the schema of", name, option("--subscribe", name), origin)
        found = self.schemas.current.get(name)
        if found is None:
            raise ClacksError("schema-unknown", name=shortened(name), hint=hint(name, filter(knows, self.schemas.current)))
        return found

    def may_call(self, user: str, target: str, method: str) -> bool:
        return self._access.rights(user).call(target, method)

    def administers(self, user: str) -> bool:
        return self._access.rights(user).administers
