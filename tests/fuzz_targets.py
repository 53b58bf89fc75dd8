"""What is fuzzed beside the connection: each target takes any bytes, and whatever is no error of ours that comes out of it is a fault.

A target knows what good input looks like (`seeds`, `words`) and what must hold of an answer. Who makes the bytes is another's business:
tests/test_fuzz.py (hypothesis), tests/fuzzing.py (random, or guided by coverage).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import json
import random
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from clacks.agent.access import EVERYTHING, Access
from clacks.agent.broker.commands import read_request
from clacks.agent.bus import Bus, Incoming, Refused
from clacks.agent.config import SETTINGS, load
from clacks.agent.rules import read_rules
from clacks.agent.users import make_user, read_users, write_users
from clacks.common.errors import ERRORS, ClacksError
from clacks.common.event import Event, to_text
from clacks.common.schema import SchemaRegistry, installed_folder
from clacks.testing import LocalBus
from clacks.xquery import Filter, FilterError, FilterIndex, compile_filter

FILTERS = Path(__file__).parent / "filters"

# Processor seconds for one filter of at most 64 KiB or one small event: fifty times what the slowest takes, and far below a hang.
HANG = 5.0


class Fault(AssertionError):
    """What must not come out of a target."""


@dataclass(frozen=True)
class Target:
    """`play` raises for a fault. `seeds` are good inputs, `words` pieces that an input of this kind is made of."""

    play: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    words: Sequence[bytes]


def sound(error: ClacksError, *codes: str) -> None:
    """An error that can be told: of the table, and fit for the JSON it travels in."""
    if error.code not in ERRORS or error.code in ("internal", "remote", "command-failed") or (codes and error.code not in codes):
        raise Fault(f"{error.code}: {error}") from error
    json.dumps(error.to_json())


# --- xml: a body, through the bus ----------------------------------------------------------------------------------------------------


@cache
def _bus() -> Bus:
    bus = Bus(SchemaRegistry(), access=Access([EVERYTHING], {"admin": frozenset()}))
    for number, text in enumerate(("/*", "//*[. = 'x']", "//@* = 1", "count(//node()) > 3", "//*:Status = ('busy', 'x')")):
        bus.subscribe(number, "admin", [compile_filter(text)])
    return bus


def play_xml(body: bytes) -> None:
    bus, incoming = _bus(), Incoming(body, "admin")
    bus.needs_worker(incoming)
    examined: Event | ClacksError
    try:
        examined = bus.examine(incoming)
    except ClacksError as error:
        examined = error.without_frames()
    verdict = bus.publish(incoming)
    if isinstance(verdict, Refused) != isinstance(examined, ClacksError):
        raise Fault(f"examined: {examined!r}, published: {verdict!r}")
    if isinstance(verdict, Refused):
        told = [verdict.error, *([bus.explain(incoming)] if verdict.explainable else [])]
        for error in told:
            sound(error)
            str(error).encode()  # AMQP's strings are UTF-8
            if len(str(error)) > 2_000:
                raise Fault(f"a sentence of {len(str(error))} characters")
    with contextlib.suppress(ClacksError):
        to_text(body)


def seeds_xml() -> list[bytes]:
    events = [path.read_bytes() for path in sorted(installed_folder().glob("*.xml"))]
    phone = next(event for event in events if b"PhoneStatus" in event).decode()
    phone = phone[phone.index("<Event") :]
    encodings = ("utf-16", "utf-16-be", "utf-32", "utf-8-sig", "shift_jis")
    return [
        *events,
        *(phone.encode(name) for name in encodings),
        *(f'<?xml version="1.0" encoding="{name}"?>{phone}'.encode(name) for name in ("iso-8859-1", "gb18030", "utf-16")),
        f'<!DOCTYPE Event [<!ENTITY x "y">]>{phone}'.encode(),
        f"<!-- x --><?x y?>{phone}<!-- z -->".encode(),
    ]


WORDS_XML = tuple(
    b"""<!DOCTYPE a [|]>|<!ENTITY x "y">|&x;|&#65;|&#0;|<![CDATA[|]]>|<!--|-->|<?|?>
|<?xml version="1.0" encoding="UTF-16"?>|<Event>|</Event>
|xmlns="http://www.gonicus.de/Events"|xmlns:a=""|a:|a="|xsi:type="|xml:id="a"|<a/>|<Status>|</Status>|\0
|\xff\xfe|\xfe\xff|\xef\xbb\xbf
|\xc0\xbc|\xed\xa0\x80|UTF-7|utf-32|standalone="yes"|/>|>|<|"|'|--""".replace(b"\n", b"").split(b"|")
)


# --- filters: a text, compiled, evaluated and explained ------------------------------------------------------------------------------


@cache
def _documents() -> list[Any]:
    schemas = SchemaRegistry().current
    return [schemas.examine(path.read_bytes()).document for path in sorted(installed_folder().glob("*.xml"))][::3]


def play_filters(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    start = time.thread_time()
    try:
        compiled: Filter = compile_filter(text)
    except FilterError as error:
        if not error.code or not error.sentence:
            raise Fault(f"an error without words: {error!r}") from error
        str(error).encode("utf-8", "surrogateescape")
        return
    finally:
        if (taken := time.thread_time() - start) > HANG:
            raise Fault(f"{taken:.1f} s to compile {len(text)} characters")
    if compiled.cost == "dear":  # for the sandbox
        if not compiled.cost_reason:
            raise Fault("dear without a reason")
        return
    index = FilterIndex[int](defer=True)
    index.add(1, compiled)
    for document in _documents():
        try:
            matched = compiled.matches(document)
        except FilterError:
            matched = False
        if index.match(document) != ([1] if matched else [], []):
            raise Fault(f"the index does not answer {matched}")
        compiled.explain(document)


@cache
def _corpus() -> list[dict[str, Any]]:
    return [case for path in sorted(FILTERS.glob("*.toml")) for case in tomllib.loads(path.read_text())["case"]]


def seeds_filters() -> list[bytes]:
    return [case["filter"].encode() for case in _corpus()]


WORDS_FILTERS = tuple(
    b"""/|//|*|@|.|..|(|)|[|]|{|}|,|;|:=|=|!=|<|>|<=|eq|lt|is|<<|and|or|not(|to|div|idiv|mod|+|-|||!|=>|$x|$
|:|::|Q{}|Q{http://x}a|"|'|&amp;|&#x
|(:|:)|for $x in|let $x :=|where|order by|group by|return|some|every|satisfies|if (|then|else|instance of
|cast as xs:integer|castable as|treat as
|xs:date('2024-01-01')|xs:duration('P1D')|1|1.5|1e300|99999999999999999999|position()|last()|count(|string(
|number(|matches(., '|contains(|sum(
|tokenize(|replace(|concat(|distinct-values(|self::|parent::|ancestor::|following-sibling::|text()|node()
|element(|declare namespace f='x';
|declare variable $x external;|declare function local:f($x) {|};|declare default element namespace 'x';
|xquery version '3.1';|<a>|</a>|<a b='|
map {|array {|function($x) {|switch (|typeswitch (|try {|catch * {|validate {|(#x#)|``[|]``|\xed\xb0\x80
|\0""".replace(b"\n", b"").split(b"|")
)


# --- toml: the files of an agent -----------------------------------------------------------------------------------------------------


@cache
def _folder() -> Path:
    # Kept until the process ends, and small: one file at a time.
    return Path(tempfile.mkdtemp(prefix="clacks-fuzz-"))


def play_toml(data: bytes) -> None:
    path = _folder() / "file.toml"
    path.write_bytes(data)

    def config() -> None:
        made = load(path, {}, {})
        made.limits, made.gate  # noqa: B018  # they check what they are made of

    for read in (config, lambda: read_users(path), lambda: read_rules(path)):
        try:
            read()
        except ClacksError as error:
            sound(error, "config-invalid")
    text = data.decode("utf-8", "replace").replace("\0", "")
    setting = SETTINGS[len(data) % len(SETTINGS)]
    with contextlib.suppress(ClacksError):
        load(None, {}, {setting.variable: text})


def seeds_toml() -> list[bytes]:
    path = _folder() / "users.toml"
    write_users(path, {"anna": make_user("anna", "x", ["a"], ["CN=anna"]), "bert": make_user("bert", None, (), ["DNS:b"])})
    tables: dict[str, list[str]] = {"": []}
    for setting in SETTINGS:
        table, _, key = setting.name.rpartition(".")
        tables.setdefault(table, []).append(f"{key} = {_toml(setting.default)}")
    config = "\n".join(itertools.chain(tables.pop(""), *([f"[{name}]", *rows] for name, rows in tables.items())))
    rules = """[[rules]]
users = ["anna", "robot-*"]
groups = ["phones"]
publish = ["PhoneStatus"]
subscribe = ["Phone*"]
call = [{ target = "core", method = "get*" }]
administer = false
"""
    return [config.encode(), path.read_bytes(), rules.encode(), b"", b'domain = "a.b"\n', b"[limits]\ndepth = 5\n"]


def _toml(value: Any) -> str:
    return json.dumps("x" if value is None else list(value) if isinstance(value, tuple) else value)


WORDS_TOML = (
    *b"""[|]|[[|]]|{|}|=|,|.|"|'|\"\"\"|'''|#|\n|inf|nan|-1|0|1e400|1_000|0x7f|true|2024-01-01
|2024-01-01T00:00:00Z|"\\u0000"|"\\uD800"|"~nobody/x"
|"~"|"*"|[1]|["a"]|{a = 1}|[limits]\n|[tls]\n|[access]\n|[users.x]\n|scram = |groups = |certificates =
|[[rules]]\n|call = |listen = |"a:\xc2\xb2"
|node_id = |schemas = |limits.depth = |state_dir = |SCRAM-SHA-256$1:AA==$AA==:AA==|""".replace(b"\n", b"").split(b"|"),
    b"\n",
    b"[" * 300,
    b"9" * 5_000,
    b"a." * 500,
)


# --- json: a command -----------------------------------------------------------------------------------------------------------------


@cache
def _served() -> LocalBus:
    """One bus for the process."""
    bus = LocalBus().__enter__()
    atexit.register(bus.__exit__, None, None, None)
    return bus


def play_json(data: bytes) -> None:
    bus = _served()
    try:
        request = read_request(data)
        json.dumps(request.get("id"))
        commands, params = bus.agent.commands, request.get("params") or []
        result = bus._background.run(_dispatched(commands, request["method"], params))
        json.dumps(result)
    except ClacksError as error:
        sound(error)


async def _dispatched(commands: Any, method: str, params: Any) -> Any:
    async with asyncio.timeout(HANG):
        return await commands.dispatch("admin", "core", method, params)


def seeds_json() -> list[bytes]:
    names = [name for name in _served().agent.commands.methods if name != "shutdown"]
    event = next(one for one in seeds_xml() if b"PhoneStatus" in one).decode()
    requests: list[Any] = [{"method": name, "params": params, "id": 1} for name in names for params in ([], ["PhoneStatus"], {"user": "x"})]
    requests += [{"method": "sendEvent", "params": [event]}, {"method": "sendEvent", "params": {"data": "<a/>"}}]
    return [json.dumps(request).encode() for request in requests]


WORDS_JSON = (
    *b"""{|}|[|]|:|,|"|null|true|1|1e999|NaN|-0|"method":|"params":|"id":|"data":|"name":|"queue":|"self":
|"user":|"\\ud800"|"\\u0000"|\\|"*"
|"getSchema"|"sendEvent"|"getMethods"|"getStatus"|{"a":[]}|"org.clacks"|\xff
|\xef\xbb\xbf""".replace(b"\n", b"").split(b"|"),
    b"[" * 500,
    b"9" * 5_000,
)


TARGETS = {
    "xml": Target(play_xml, seeds_xml, WORDS_XML),
    "filters": Target(play_filters, seeds_filters, WORDS_FILTERS),
    "toml": Target(play_toml, seeds_toml, WORDS_TOML),
    "json": Target(play_json, seeds_json, WORDS_JSON),
}


def mutated(target: Target, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """A seed with pieces exchanged, repeated, nested or lost: mostly pieces of the language, sometimes single bytes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((0, 1, 1, 4, 20, 100)))
        match rng.randrange(8):
            case 0 | 1 | 2:
                data[at:end] = rng.choice(target.words) * rng.choice((1, 1, 1, 1, 2, 40, 400))
            case 3:
                del data[at:end]
            case 4:
                data[at:at] = data[at:end] * rng.choice((1, 2, 50, 500))
            case 5:
                other = rng.choice(seeds)
                start = rng.randrange(len(other) + 1)
                data[at:end] = other[start : start + rng.choice((1, 10, 100, len(other)))]
            case 6 if at < len(data):
                data[at] = rng.randrange(256)
            case 7:
                left, right = rng.choice(((b"(", b")"), (b"[", b"]"), (b"{", b"}"), (b"<a>", b"</a>"), (b'"', b'"'), (b"not(", b")")))
                times = rng.choice((1, 1, 2, 70, 300, 1200))
                data[at:end] = left * times + data[at:end] + right * times
        del data[100_000:]
    return bytes(data)
