"""What a subscriber asks for when it attaches, as a value: which events, under which name, kept how long, and what if it is too much.

It travels as AMQP has it: the filter and the expiry policy of the source (AMQP 1.0 3.5.3), its capabilities `shared` and `global` (as JMS
over AMQP uses them), and properties of the link for what AMQP has no field for. Nothing here opens a link.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import ceil
from typing import Any, Final, Literal, Self

from ...amqp import Described, Symbol, Terminus
from ...common.errors import ClacksError
from ...xquery import Filter, FilterError, compile_filter
from .addresses import DEAD_LETTERS

# The descriptors of an XQuery filter on a link, as registered for Apache Qpid.
XQUERY_SYMBOL: Final = Symbol("apache.org:xquery-filter:string")
XQUERY_CODE: Final = 0x0000468C00000005

SHARED: Final = "shared"
GLOBAL: Final = "global"

# Properties of a link.
OVERFLOW: Final = "clacks:overflow"
MAX_AGE: Final = "clacks:max-age"
MAX_BYTES: Final = "clacks:max-bytes"
REPLACE: Final = "clacks:replace"

# Seconds, or bytes, that may be asked for: a number that every form which it is kept or told in can hold.
MOST: Final = 2**53

Overflow = Literal["drop-oldest", "detach", "block-publisher", "refuse"]

# What a full queue may do: a live one's, and a durable one's ("refuse": publishers are told to try again, and nothing is lost).
LIVE_OVERFLOWS: Final[tuple[Overflow, ...]] = ("drop-oldest", "detach", "block-publisher")
DURABLE_OVERFLOWS: Final[tuple[Overflow, ...]] = ("refuse", "drop-oldest")


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one subscription.

    `name` is the link's; with `container` (empty: any of the user's) and the user it is the subscription's identity. `timeout` are the
    seconds that a durable one is kept after its last consumer has gone, None: for ever. `max_age` (seconds) and `max_bytes` are declared
    loss: what is older, or too much, is dropped.
    """

    address: str
    name: str = ""
    container: str = ""
    event: str = ""
    filters: tuple[str, ...] = ()
    shared: bool = False
    durable: bool = False
    timeout: int | None = None
    overflow: Overflow = "drop-oldest"
    max_age: float | None = None
    max_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What `to_json` gave, of this version or an older one."""
        known = {field.name for field in fields(cls)}
        given: dict[str, Any] = {key: item for key, item in value.items() if key in known}
        return cls(**{"address": "", **given, "filters": tuple(given.get("filters", ()))})

    @property
    def properties(self) -> dict[str, Any]:
        """What the answer to an attach says of them, as properties of the link."""
        told = {OVERFLOW: self.overflow, MAX_AGE: self.max_age, MAX_BYTES: self.max_bytes}
        return {key: value for key, value in told.items() if value is not None}


def read_terms(
    name: str, container: str, source: Terminus, properties: Mapping[str, Any], filters: tuple[str, ...], event: str, address: str
) -> Terms:
    """The terms that an attach asks for. Raises ClacksError link-refused for what does not go together."""
    shared = SHARED in source.capabilities
    never = source.expiry == "never"
    durable = never or source.timeout > 0
    named = name.partition("|")[0] if shared else name  # JMS clients number the links of one shared subscription behind a bar
    overflow, max_age, max_bytes = read_limits(
        named if shared or durable else "", durable, properties.get(OVERFLOW), properties.get(MAX_AGE), properties.get(MAX_BYTES)
    )
    return Terms(
        address=address,
        name=named,
        container="" if shared or GLOBAL in source.capabilities else container,
        event=event,
        filters=filters,
        shared=shared,
        durable=durable,
        timeout=None if never or not durable else source.timeout,
        overflow=overflow,
        max_age=max_age,
        max_bytes=max_bytes,
    )


def read_limits(
    name: str, durable: bool, overflow: Any, max_age: Any, max_bytes: Any, live: Sequence[Overflow] = LIVE_OVERFLOWS
) -> tuple[Overflow, float | None, int | None]:
    """What a full queue does, and what may be lost, of what somebody asks for (None: nothing); `live` are the policies that a live
    subscription may have. Raises ClacksError link-refused for what does not go together."""
    if name.partition("|")[0] == DEAD_LETTERS:
        raise _refused(f"{DEAD_LETTERS} is the name of your dead letters; take another one")
    age, size = _amount("max-age", max_age), _amount("max-bytes", max_bytes)
    if not durable and (age or size):
        raise _refused("max-age and max-bytes are for durable subscriptions. Ask for a durable one, or leave them out")
    allowed: Sequence[Overflow] = DURABLE_OVERFLOWS if durable else live
    chosen = "refuse" if durable and not age and not size else "drop-oldest"
    if overflow is not None:
        chosen = str(overflow)
    if chosen not in allowed:
        raise _refused(f"overflow is {chosen!r}; a {'durable' if durable else 'live'} subscription has {', '.join(allowed)}")
    if chosen == "refuse" and (age or size):
        raise _refused("overflow refuse loses nothing, so it goes with neither max-age nor max-bytes")
    return chosen, age, None if size is None else ceil(size)  # type: ignore[return-value]


def _amount(what: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST:
        raise _refused(f"{what} is {value!r}; a number above 0 and up to {MOST} is expected")
    return value


def _refused(reason: str) -> ClacksError:
    return ClacksError("link-refused", reason=f"{reason}.")


def filters_in(given: Mapping[str, Any]) -> dict[str, Described]:
    """The XQuery filters in a source's filter map: the part of it that is in force (3.5.3: the answer tells), and every value a string.

    Raises ClacksError filter-invalid.
    """
    in_force = {
        key: value for key, value in given.items() if isinstance(value, Described) and value.descriptor in (XQUERY_SYMBOL, XQUERY_CODE)
    }
    if not all(isinstance(value.value, str) for value in in_force.values()):
        raise _no_filter("An XQuery filter is a string.")
    if not all(str(key).isascii() for key in in_force):
        raise _no_filter("The key of a filter is a symbol, so of ASCII.")
    return in_force


def _no_filter(reason: str) -> ClacksError:
    return ClacksError("filter-invalid", line=1, column=1, w3c="XPST0003", reason=reason)


def compiled(text: str) -> Filter:
    """The filter. Raises ClacksError filter-invalid."""
    try:
        return compile_filter(text)
    except FilterError as error:
        raise ClacksError("filter-invalid", line=error.line, column=error.column, w3c=error.code, reason=error.sentence) from error
