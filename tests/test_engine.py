"""The C calls that clacks.amqp makes: a release of proton that changes one fails here, by name."""

from __future__ import annotations

import ast
from pathlib import Path

import cproton_ffi
import pytest

import clacks.amqp
from clacks.amqp import engine
from clacks.amqp.codec import Described, Symbol
from clacks.amqp.terminus import Terminus

# The C declarations, as proton 0.40 has them.
SIGNATURES = {
    "pn_transport": "pn_transport_t *()",
    "pn_transport_set_server": "void(pn_transport_t *)",
    "pn_transport_bind": "int(pn_transport_t *, pn_connection_t *)",
    "pn_transport_unbind": "int(pn_transport_t *)",
    "pn_transport_capacity": "ssize_t(pn_transport_t *)",
    "pn_transport_push": "ssize_t(pn_transport_t *, char *, size_t)",
    "pn_transport_pending": "ssize_t(pn_transport_t *)",
    "pn_transport_peek": "ssize_t(pn_transport_t *, char *, size_t)",
    "pn_transport_pop": "void(pn_transport_t *, size_t)",
    "pn_transport_tick": "int64_t(pn_transport_t *, int64_t)",
    "pn_connection": "pn_connection_t *()",
    "pn_connection_collect": "void(pn_connection_t *, pn_collector_t *)",
    "pn_connection_release": "void(pn_connection_t *)",
    "pn_collector": "pn_collector_t *()",
    "pn_collector_peek": "pn_event_t *(pn_collector_t *)",
    "pn_collector_pop": "_Bool(pn_collector_t *)",
    "pn_collector_free": "void(pn_collector_t *)",
    "pn_event_type": "pn_event_type_t(pn_event_t *)",
    "pn_event_delivery": "pn_delivery_t *(pn_event_t *)",
    "pn_event_link": "pn_link_t *(pn_event_t *)",
    "pn_delivery": "pn_delivery_t *(pn_link_t *, pn_bytes_t)",
    "pn_delivery_link": "pn_link_t *(pn_delivery_t *)",
    "pn_delivery_partial": "_Bool(pn_delivery_t *)",
    "pn_delivery_readable": "_Bool(pn_delivery_t *)",
    "pn_delivery_updated": "_Bool(pn_delivery_t *)",
    "pn_delivery_settled": "_Bool(pn_delivery_t *)",
    "pn_delivery_settle": "void(pn_delivery_t *)",
    "pn_delivery_update": "void(pn_delivery_t *, uint64_t)",
    "pn_delivery_tag": "pn_bytes_t(pn_delivery_t *)",
    "pn_link_recv": "ssize_t(pn_link_t *, char *, size_t)",
    "pn_link_send": "ssize_t(pn_link_t *, char *, size_t)",
    "pn_link_advance": "_Bool(pn_link_t *)",
    "pn_link_credit": "int(pn_link_t *)",
    "pn_link_flow": "void(pn_link_t *, int)",
    "pn_link_free": "void(pn_link_t *)",
    "pn_session_outgoing_bytes": "size_t(pn_session_t *)",
    "pn_session_set_incoming_capacity": "void(pn_session_t *, size_t)",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name: str) -> None:
    found = cproton_ffi.ffi.typeof(getattr(cproton_ffi.lib, name)).cname.replace("(*)", "").replace("struct ", "").replace("enum ", "")
    assert found == SIGNATURES[name]


def test_every_call_that_is_made_exists() -> None:
    folder = Path(clacks.amqp.__file__).parent
    used = {
        node.attr
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lib"
    }
    assert len(used) > 90
    assert not {name for name in used if not hasattr(cproton_ffi.lib, name)}


@pytest.mark.parametrize(
    "terminus",
    [
        Terminus(),
        Terminus("org.clacks"),
        Terminus(None, dynamic=True),
        Terminus("ä", durable=2, expiry="never", timeout=7, capabilities=("shared", "topic"), properties={"lifetime": 3}),
        Terminus("x", filter={"f": Described(Symbol("apache.org:xquery-filter:string"), "1"), "g": Described(77567109365765, "2")}),
    ],
)
def test_a_terminus_is_read_as_it_was_written(terminus: Terminus) -> None:
    pointer = engine.lib.pn_link_source(engine.lib.pn_receiver(engine.lib.pn_session(engine.lib.pn_connection()), b"x"))
    engine.write_terminus(pointer, engine.lib.PN_SOURCE, terminus)
    assert engine.read_terminus(pointer) == terminus


def test_the_null_terminus() -> None:
    pointer = engine.lib.pn_link_source(engine.lib.pn_receiver(engine.lib.pn_session(engine.lib.pn_connection()), b"x"))
    engine.write_terminus(pointer, engine.lib.PN_SOURCE, None)
    assert engine.read_terminus(pointer) is None
