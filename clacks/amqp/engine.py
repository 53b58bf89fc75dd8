"""Every call into proton's C engine that is more than a line, and the names of the others: the one file that knows cproton.

proton's engine is a protocol machine without I/O: bytes are pushed in, events are popped, bytes to send are popped. The calls are those
that proton's own Python wrappers make; `tests/test_engine.py` fails by name if a release changes one of them.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from cproton_ffi import ffi as ffi
from cproton_ffi import lib as lib

from .codec import Described, Symbol, SymbolArray, decode, encode
from .outcome import ACCEPTED, RELEASED, Accepted, Condition, Modified, Outcome, Rejected, Released
from .terminus import Terminus

NULL: Final = ffi.NULL

ABORTED: Final = -11  # PN_ABORTED of proton/error.h, which the binding leaves out

# What one read from a socket brings at most (asyncio asks for 256 KiB), and a frame of ours at the most.
SCRATCH_SIZE: Final = 256 * 1024


class Scratch:
    """Buffers that the calls of one thread share: engine calls drop the interpreter lock, so threads must not."""

    __slots__ = ("_struct", "buffer", "number", "tag")

    def __init__(self) -> None:
        self.buffer = ffi.new("char[]", SCRATCH_SIZE)
        self.number = ffi.new("uint64_t *")
        """The number in `tag`."""
        self._struct = ffi.new("pn_delivery_tag_t *", (8, ffi.cast("char *", self.number)))
        self.tag = self._struct[0]


_threads: Final = threading.local()


def thread_scratch() -> Scratch:
    """The buffers of this thread. A connection, which stays in one thread, asks once."""
    found: Scratch | None = getattr(_threads, "scratch", None)
    if found is None:
        found = _threads.scratch = Scratch()
    return found


# --- strings and values ----------------------------------------------------------------------------------------------------------


def text(pointer: Any) -> str | None:
    """The Python string behind a C string, None behind NULL."""
    return ffi.string(pointer).decode("utf-8", "replace") if pointer else None


def c_text(value: str | None) -> Any:
    return NULL if value is None else value.encode("utf-8")


def read_data(data: Any) -> Any:
    """The value in a pn_data_t, None if it is empty. Raises CodecError."""
    size = lib.pn_data_encoded_size(data) if data else 0  # a link without properties has NULL for them
    if size <= 0:
        return None
    buffer = ffi.new("char[]", size)
    written = lib.pn_data_encode(data, buffer, size)
    return decode(ffi.unpack(buffer, written))[0] if written > 0 else None


def write_data(data: Any, value: Any) -> None:
    raw = encode(value)
    lib.pn_data_clear(data)
    lib.pn_data_decode(data, raw, len(raw))


def read_symbols(data: Any) -> tuple[str, ...]:
    """The symbols in a pn_data_t, which holds one symbol, an array or (from some peers) a list of them, or of strings. What could be no
    symbol is left out: it means nothing, and could not be written into an answer."""
    value = read_data(data)
    values = value if isinstance(value, list) else [value]
    return tuple(str(item) for item in values if isinstance(item, str) and item.isascii())


def write_symbols(data: Any, symbols: tuple[str, ...]) -> None:
    if symbols:
        write_data(data, SymbolArray(Symbol(item) for item in symbols))


def read_map(data: Any) -> dict[str, Any]:
    value = read_data(data)
    return value if isinstance(value, dict) else {}


def write_map(data: Any, value: dict[str, Any] | Any) -> None:
    if value:
        write_data(data, {Symbol(key): item for key, item in value.items()})


# --- conditions and outcomes ------------------------------------------------------------------------------------------------------


def read_condition(condition: Any) -> Condition | None:
    if not condition or not lib.pn_condition_is_set(condition):
        return None
    info = lib.pn_condition_info(condition)
    return Condition(
        text(lib.pn_condition_get_name(condition)) or "amqp:internal-error",
        text(lib.pn_condition_get_description(condition)) or "",
        read_map(info),
    )


def write_condition(target: Any, condition: Condition | None) -> None:
    if condition is None:
        return
    lib.pn_condition_set_name(target, c_text(condition.name))
    lib.pn_condition_set_description(target, c_text(condition.description))
    write_map(lib.pn_condition_info(target), condition.info)


def read_outcome(delivery: Any) -> Outcome | None:
    """The peer's terminal state of a delivery, None while there is none (3.4)."""
    state = lib.pn_delivery_remote_state(delivery)
    if state == lib.PN_ACCEPTED:
        return ACCEPTED
    remote = lib.pn_delivery_remote(delivery)
    if state == lib.PN_REJECTED:
        return Rejected(read_condition(lib.pn_disposition_condition(remote)) or Condition("amqp:internal-error"))
    if state == lib.PN_RELEASED:
        return RELEASED
    if state == lib.PN_MODIFIED:
        return Modified(bool(lib.pn_disposition_is_failed(remote)), bool(lib.pn_disposition_is_undeliverable(remote)))
    return None


def write_outcome(delivery: Any, outcome: Outcome) -> None:
    if type(outcome) is Accepted:
        lib.pn_delivery_update(delivery, lib.PN_ACCEPTED)
        return
    local = lib.pn_delivery_local(delivery)
    if isinstance(outcome, Rejected):
        write_condition(lib.pn_disposition_condition(local), outcome.condition)
        lib.pn_delivery_update(delivery, lib.PN_REJECTED)
    elif isinstance(outcome, Released):
        lib.pn_delivery_update(delivery, lib.PN_RELEASED)
    elif isinstance(outcome, Modified):
        lib.pn_disposition_set_failed(local, outcome.failed)
        lib.pn_disposition_set_undeliverable(local, outcome.undeliverable)
        lib.pn_delivery_update(delivery, lib.PN_MODIFIED)


# --- termini ---------------------------------------------------------------------------------------------------------------------

_EXPIRIES: Final = {
    "link-detach": lib.PN_EXPIRE_WITH_LINK,
    "session-end": lib.PN_EXPIRE_WITH_SESSION,
    "connection-close": lib.PN_EXPIRE_WITH_CONNECTION,
    "never": lib.PN_EXPIRE_NEVER,
}
_EXPIRY_NAMES: Final = {number: name for name, number in _EXPIRIES.items()}


def read_terminus(pointer: Any) -> Terminus | None:
    """The terminus as a value; None for the null terminus of a refused attach (2.6.3). Raises CodecError."""
    kind = lib.pn_terminus_get_type(pointer)
    if kind not in (lib.PN_SOURCE, lib.PN_TARGET):
        return None
    filters = read_data(lib.pn_terminus_filter(pointer)) if kind == lib.PN_SOURCE else None
    return Terminus(
        address=text(lib.pn_terminus_get_address(pointer)),
        dynamic=bool(lib.pn_terminus_is_dynamic(pointer)),
        durable=lib.pn_terminus_get_durability(pointer),
        expiry=_EXPIRY_NAMES.get(lib.pn_terminus_get_expiry_policy(pointer), "session-end"),
        timeout=lib.pn_terminus_get_timeout(pointer),
        filter=filters if isinstance(filters, dict) else {},
        capabilities=read_symbols(lib.pn_terminus_capabilities(pointer)),
        properties=read_map(lib.pn_terminus_properties(pointer)),
    )


def write_terminus(pointer: Any, kind: int, terminus: Terminus | None) -> None:
    if terminus is None:
        lib.pn_terminus_set_type(pointer, lib.PN_UNSPECIFIED)
        return
    lib.pn_terminus_set_type(pointer, kind)
    lib.pn_terminus_set_address(pointer, c_text(terminus.address))
    lib.pn_terminus_set_dynamic(pointer, terminus.dynamic)
    lib.pn_terminus_set_durability(pointer, terminus.durable)
    lib.pn_terminus_set_expiry_policy(pointer, _EXPIRIES[terminus.expiry])
    lib.pn_terminus_set_timeout(pointer, terminus.timeout)
    if terminus.filter:
        write_data(lib.pn_terminus_filter(pointer), {Symbol(key): _filter_entry(value) for key, value in terminus.filter.items()})
    write_symbols(lib.pn_terminus_capabilities(pointer), terminus.capabilities)
    write_map(lib.pn_terminus_properties(pointer), terminus.properties)


def _filter_entry(value: Any) -> Any:
    # The descriptor of a filter is a symbol or a ulong (3.5.8); a plain str would travel as a string and match nothing.
    return value if isinstance(value, Described) else Described(Symbol("string"), value)


# --- a connection's machine -------------------------------------------------------------------------------------------------------


class Engine:
    """One connection's protocol machine: a proton transport bound to a proton connection and its event collector."""

    __slots__ = ("collector", "connection", "transport")

    def __init__(self, *, server: bool, max_frame: int, channel_max: int, idle_timeout: float) -> None:
        """`max_frame` in bytes, `idle_timeout` in seconds (0: none)."""
        self.transport = lib.pn_transport()
        # proton would write to standard error what a peer does wrong: lines of no form, as many as the peer likes.
        lib.pn_transport_trace(self.transport, lib.PN_TRACE_OFF)
        if server:
            lib.pn_transport_set_server(self.transport)
        lib.pn_transport_set_max_frame(self.transport, max_frame)
        lib.pn_transport_set_channel_max(self.transport, channel_max)
        lib.pn_transport_set_idle_timeout(self.transport, int(idle_timeout * 1000))
        self.connection = lib.pn_connection()
        self.collector = lib.pn_collector()
        lib.pn_connection_collect(self.connection, self.collector)
        lib.pn_transport_bind(self.transport, self.connection)

    def free(self) -> None:
        """Give everything back. The pointers that events handed out are dead from here on."""
        lib.pn_transport_unbind(self.transport)
        lib.pn_collector_release(self.collector)
        lib.pn_connection_release(self.connection)
        lib.pn_decref(self.connection)
        lib.pn_decref(self.transport)
        lib.pn_collector_free(self.collector)
