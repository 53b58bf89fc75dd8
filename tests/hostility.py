"""Hostile publishers: an event of every kind that is meant to keep the agent busy, and a delivery that never ends.

tests/test_hostile.py asserts how each is refused, bench/hostile.py measures what the others feel of it. Everything here is made to be as
large or as nasty as the agent's default limits let in, or just beyond them.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any
from uuid import UUID

from clacks.amqp.codec import Described, Symbol, UByte, UInt, decode, encode
from clacks.amqp.message import APPLICATION_PROPERTIES, DATA, MESSAGE_ANNOTATIONS, PROPERTIES, VALUE
from clacks.common.xml import Limits
from clacks.xquery.module import MAX_LENGTH
from samples import EVENTS, phone
from support import PATIENCE

LIMITS = Limits()
ROOM = LIMITS.size - 400  # for what stands around the nasty part
HEADER = 0x70


@dataclass(frozen=True)
class Hostile:
    """One kind: `make` gives the encoded message, `code` is the error it is refused with, `sentence` a part of what is said."""

    name: str
    make: Callable[[], bytes]
    code: str
    sentence: str = ""


def around(inside: str | bytes, name: str = "PuppetReport") -> bytes:
    """An event with `inside` in it."""
    raw = inside.encode() if isinstance(inside, str) else inside
    return f'<Event xmlns="{EVENTS}"><{name}><Id>c-1</Id>'.encode() + raw + f"</{name}></Event>".encode()


def data(body: bytes) -> bytes:
    return encode(Described(DATA, body))


def filled(unit: str, size: int = ROOM) -> str:
    """`unit` again and again, up to `size` characters."""
    return unit * (size // len(unit))


def numbered(unit: str, count: int) -> str:
    return "".join(unit.format(number) for number in range(count))


def bad_values(count: int) -> bytes:
    return around("<PuppetLog>" + "<Line>x</Line>" * count + "</PuppetLog>")


def entities() -> bytes:
    bomb = '<!ENTITY e0 "boom">' + "".join(f'<!ENTITY e{n} "' + f"&e{n - 1};" * 10 + '">' for n in range(1, 10))
    return f"<!DOCTYPE Event [{bomb}]>".encode() + around("&e9;")


def section(code: int, value: object) -> bytes:
    """A message whose section `code` holds `value`, in front of a valid event."""
    return encode(Described(code, value)) + data(phone().encode())


def colliding(count: int) -> dict[UUID, None]:
    """Keys that all have the same hash in CPython: multiples of the modulus of its numbers' hash."""
    return {UUID(int=number * (2**61 - 1)): None for number in range(1, count + 1)}


def uuid_map(count: int) -> bytes:
    """A map with `colliding` keys; built by hand because building it as a dict takes as long here as there."""
    items = b"".join(b"\x98" + (number * (2**61 - 1)).to_bytes(16, "big") + b"\x40" for number in range(1, count + 1))
    return struct.pack(">BII", 0xD1, len(items) + 4, 2 * count) + items


KINDS = tuple(
    Hostile(*row)
    for row in (
        # name, the message, the code it is refused with, part of the sentence
        ("100,000 bad values", lambda: data(bad_values(70_000)), "xml-limit", "elements"),
        ("as many bad values as may be", lambda: data(bad_values(LIMITS.elements - 4)), "event-invalid", "Line"),
        ("a small event of bad values", lambda: data(bad_values(700)), "event-invalid", "Line"),
        ("100,000 bad attributes", lambda: data(around("<PuppetLog " + numbered('a{}="" ', 90_000) + "/>")), "xml-limit", "attributes"),
        ("depth beyond the limit", lambda: data(around("<a>" * 100 + "</a>" * 100)), "xml-limit", "levels"),
        ("depth beyond any stack", lambda: data(around(filled("<a>"))), "xml-limit", "levels"),
        ("depth at the limit, wide", lambda: data(around(filled("<a>" * 60 + "</a>" * 60))), "xml-limit", "elements"),
        ("one huge attribute", lambda: data(around('<PuppetLog a="' + filled("x") + '"/>')), "event-invalid", "PuppetLog"),
        ("one huge bad value", lambda: data(around(f"<PuppetLog><Timestamp>{filled('1')}</Timestamp></PuppetLog>")), "event-invalid", ""),
        ("one huge name", lambda: data(around(f"<{filled('x')}/>")), "xml-malformed", ""),
        ("many elements", lambda: data(around(filled("<a/>"))), "xml-limit", "elements"),
        ("many names", lambda: data(around(numbered("<n{}/>", LIMITS.elements - 10))), "xml-limit", "names"),
        ("many namespaces", lambda: data(around("<PuppetLog " + numbered('xmlns:n{}="u" ', 50_000) + "/>")), "event-invalid", ""),
        ("many comments", lambda: data(around(filled("<!---->"))), "event-invalid", ""),
        ("many instructions", lambda: data(around(filled("<?a?>"))), "event-invalid", ""),
        ("one huge text", lambda: data(around(filled("x"))), "event-invalid", ""),
        ("an entity bomb", lambda: data(entities()), "xml-doctype", ""),
        ("unfinished", lambda: data(around(filled("<a><b>")).removesuffix(b"</PuppetReport></Event>")), "xml-limit", "levels"),
        ("not XML at all", lambda: data(filled("\0", LIMITS.size).encode()), "xml-malformed", ""),
        ("a byte too large", lambda: data(b" " * LIMITS.size + b"<"), "event-too-large", str(LIMITS.size + 1)),
        ("another root, huge", lambda: data(f"<a>{filled('<b/>', 100_000)}</a>".encode()), "event-root", ""),
        (
            "100,000 application properties",
            lambda: section(APPLICATION_PROPERTIES, {f"k{n}": n for n in range(100_000)}),
            "event-body-type",
            "",
        ),
        ("100,000 annotations", lambda: section(MESSAGE_ANNOTATIONS, {Symbol(f"k{n}"): n for n in range(100_000)}), "event-body-type", ""),
        ("a header of 100,000 fields", lambda: section(HEADER, [None] * 100_000), "event-body-type", ""),
        ("a million properties", lambda: section(PROPERTIES, [None] * 1_000_000), "event-body-type", ""),
        ("a body of a million values", lambda: encode(Described(VALUE, [True] * 1_000_000)), "event-body-type", ""),
        ("200,000 body sections", lambda: data(b"") * 200_000, "event-body-type", "sections"),
        ("values 1,000 deep", lambda: nested(1_000), "event-body-type", ""),
        ("keys of one hash", lambda: b"\0\x53\x74" + uuid_map(100_000) + data(phone().encode()), "event-body-type", ""),
        ("few keys of one hash", lambda: b"\0\x53\x74" + uuid_map(700) + data(phone().encode()), "event-body-type", ""),
    )
)


def nested(depth: int) -> bytes:
    inner = b"\x45"
    for _ in range(depth):
        inner = struct.pack(">BII", 0xD0, len(inner) + 4, 1) + inner
    return b"\0\x53\x77" + inner


@cache
def encoded(name: str) -> bytes:
    """The message of a kind, made once."""
    return next(kind for kind in KINDS if kind.name == name).make()


# --- a delivery that never ends ------------------------------------------------------------------------------------------------------


_SASL_INIT, _OPEN, _BEGIN, _ATTACH, _FLOW, _TRANSFER, _DETACH, _END, _CLOSE = 0x41, 0x10, 0x11, 0x12, 0x13, 0x14, 0x16, 0x17, 0x18
_ERROR_FIELDS = {_DETACH: 2, _END: 0, _CLOSE: 0}  # where the error stands in those that can carry one


class Endless:
    """A client of a few frames (AMQP 1.0 part 2) that sends transfers with `more` set, for ever, and goes on when it is told to stop.

    With `patient` it keeps to the session's window until then. It speaks for itself because no client library would do this.
    """

    def __init__(
        self,
        host: str,
        port: int,
        user: str = "",
        password: str = "",
        target: str = "org.clacks",
        *,
        patient: bool,
        payload: int = 16 * 1024,
    ) -> None:
        """Each of its frames carries `payload` bytes."""
        self.sent = 0
        self._payload = bytes(payload)
        self._patient = patient
        self._transfers = self._window = 0
        self.answers: list[tuple[int, list[Any]]] = []
        self._socket = socket.create_connection((host, port))
        self._unread = self._rest = b""
        plain = b"\0".join((b"", user.encode(), password.encode()))
        self._socket.sendall(b"AMQP\x03\x01\x00\x00" + self._framed(_SASL_INIT, [Symbol("PLAIN"), plain], kind=1))
        no_window = [None, UInt(0), UInt(2**31 - 1), UInt(2**31 - 1)]
        self._socket.sendall(b"AMQP\x00\x01\x00\x00" + self._framed(_OPEN, ["endless"]) + self._framed(_BEGIN, no_window))
        source, where = Described(0x28, []), Described(0x29, [target])
        self._socket.sendall(self._framed(_ATTACH, ["endless", UInt(0), False, None, None, source, where, None, None, UInt(0)]))
        end = time.monotonic() + PATIENCE
        while _FLOW not in [code for code, _ in self.answers]:
            if time.monotonic() > end:
                raise TimeoutError(f"no credit; the agent said {self.answers}")
            select.select([self._socket], [], [], 0.1)
            self.read()

    @staticmethod
    def _framed(code: int, fields: list[object], payload: bytes = b"", kind: int = 0) -> bytes:
        body = encode(Described(code, fields)) + payload
        return struct.pack(">IBBH", len(body) + 8, 2, kind, 0) + body

    def pump(self, size: int, seconds: float = 10.0) -> bool:
        """Send `size` bytes more of the delivery, as fast as they are taken; False if the agent has closed the socket."""
        transfer = self._framed(_TRANSFER, [UInt(0), UInt(0), b"1", UInt(0), False, True], self._payload)
        end, target = time.monotonic() + seconds, self.sent + size
        while self.sent < target and time.monotonic() < end and not self.stalled:
            if not self._rest and self._patient and self._transfers >= self._window:
                select.select([self._socket], [], [], 0.05)
                self.read()
                continue
            try:
                if not self._rest:
                    self._rest = transfer
                    self._transfers += 1
                taken = self._socket.send(self._rest)
                self.sent += taken
                self._rest = self._rest[taken:]
            except TimeoutError:
                pass
            except OSError:
                return False
            self.read()
        return True

    @property
    def stalled(self) -> bool:
        """It keeps to a window that is used up, and has been told why."""
        return self._patient and self._transfers >= self._window and bool(self.ended)

    def read(self) -> None:
        """Take what the agent has said so far."""
        self._socket.setblocking(False)
        try:
            while some := self._socket.recv(65536):
                self._unread += some
        except OSError:
            pass  # nothing more for the moment, or for ever
        finally:
            self._socket.settimeout(0.05)
        for code, fields in self._frames():
            self.answers.append((code, fields))
            if code == _FLOW:
                self._window = int(fields[0] or 0) + int(fields[1])  # the number of transfers that may have been sent

    def _frames(self) -> Iterator[tuple[int, list[Any]]]:
        while len(self._unread) >= 8:
            if self._unread.startswith(b"AMQP"):
                self._unread = self._unread[8:]
                continue
            size = int.from_bytes(self._unread[:4], "big")
            if len(self._unread) < size:
                return
            body, self._unread = self._unread[8:size], self._unread[size:]
            if body:
                value, _ = decode(body)
                yield value.descriptor, value.value

    @property
    def ended(self) -> str:
        """The condition that the agent has ended the link, the session or the connection with; "" while it has not."""
        for code, fields in self.answers:
            error = _ERROR_FIELDS.get(code)
            if error is not None and len(fields) > error and isinstance(fields[error], Described):
                return str(fields[error].value[0])
        return ""

    def close(self) -> None:
        self._socket.close()


# The ways in which a delivery may not end; arguments of Endless.
ENDLESS: dict[str, dict[str, Any]] = {
    "an endless delivery": {"patient": True},
    "an endless delivery, no windows": {"patient": False},
    "an endless delivery, 1 byte a frame": {"patient": True, "payload": 1},
}


# --- a user who asks for more and more -----------------------------------------------------------------------------------------------


# Seconds without a word after which an agent will not give more room: it answers in milliseconds.
SILENCE = 2.0


class Bare:
    """A client of bare frames, in one session, who does what no client library would do."""

    def __init__(self, port: int, user: str = "guest", password: str = "guest") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.settimeout(5)
        self._socket.sendall(b"AMQP\x03\x01\x00\x00" + framed(_SASL_INIT, Symbol("PLAIN"), f"\0{user}\0{password}".encode(), kind=1))
        self._socket.sendall(
            b"AMQP\x00\x01\x00\x00" + framed(_OPEN, "bare") + framed(_BEGIN, None, UInt(0), UInt(2**31 - 1), UInt(2**31 - 1))
        )
        self._unread = b""
        self.until(_BEGIN)
        self.sent = self.deliveries = self.window = self.credit = 0

    def send(self, *frames: bytes, seconds: float = 10.0) -> bool:
        """False if they are not taken any more."""
        self._socket.settimeout(seconds)
        try:
            self._socket.sendall(b"".join(frames))
        except OSError:
            return False
        return True

    def until(self, *codes: int) -> tuple[int, list[Any]]:
        """The next frame of these. Raises EOFError at the end."""
        while True:
            if len(self._unread) >= 8 and (frame := self._next()) is not None:
                code, fields = frame
                if code == _FLOW:
                    self.window = int(fields[0] or 0) + int(fields[1])
                    self.credit = int(fields[5] or 0) + int(fields[6] or 0) if len(fields) > 6 else self.credit
                if code in codes:
                    return frame
                continue
            some = self._socket.recv(65536)
            if not some:
                raise EOFError
            self._unread += some

    def _next(self) -> tuple[int, list[Any]] | None:
        if self._unread.startswith(b"AMQP"):
            self._unread = self._unread[8:]
            return 0, []
        size = int.from_bytes(self._unread[:4], "big")
        if len(self._unread) < size:
            return None
        body, self._unread = self._unread[8:size], self._unread[size:]
        value = decode(body)[0] if body else Described(0, [])
        return int(value.descriptor), value.value

    def read_all(self) -> None:
        """Read and forget, from here on, in a thread."""

        def read() -> None:
            with contextlib.suppress(OSError, EOFError):
                self.until()

        threading.Thread(target=read, daemon=True).start()

    def message(self, handle: int, encoded: bytes, *, settled: bool = True) -> bool:
        """Send one, when session and link let it in; False if the connection is gone, or nothing comes that would."""
        self._socket.settimeout(SILENCE)
        parts = [encoded[start : start + 30_000] for start in range(0, len(encoded), 30_000)]
        while self.window < self.sent + len(parts) or self.credit <= self.deliveries:
            try:
                self.until(_FLOW)
            except (OSError, EOFError):
                return False
        start = [UInt(handle), UInt(self.deliveries), self.deliveries.to_bytes(4, "big"), UInt(0), settled]
        self.sent += len(parts)
        self.deliveries += 1
        return self.send(*(framed(_TRANSFER, *start, place < len(parts), payload=part) for place, part in enumerate(parts, 1)))

    def close(self) -> None:
        self._socket.close()


def framed(code: int, *fields: object, payload: bytes = b"", channel: int = 0, kind: int = 0) -> bytes:
    """One frame (2.3)."""
    body = encode(Described(code, list(fields))) + payload
    return struct.pack(">IBBH", len(body) + 8, 2, kind, channel) + body


def attach(name: str, handle: int, *, to: str | None = None, source: Described | None = None, mode: int = 0, channel: int = 0) -> bytes:
    """An attach to send to an address, or to receive from a source (2.7.3); `mode` is its rcv-settle-mode."""
    here = source or Described(0x28, ["here"])
    there = Described(0x29, [to])
    fields = [name, UInt(handle), source is not None, None, UByte(mode), here, there, None, None, UInt(0)]
    return framed(_ATTACH, *fields, channel=channel)


def sessions_without_end(bare: Bare) -> Iterator[None]:
    """Begun and ended, a thousand at a time, all on one channel."""
    bare.read_all()
    both = framed(_BEGIN, None, UInt(0), UInt(100), UInt(100), channel=1) + framed(_END, channel=1)
    while bare.send(both * 1000):
        yield


def links_without_end(bare: Bare) -> Iterator[None]:
    """Attached and detached, and no answer is read."""
    both = attach("l", 0, to="nowhere") + framed(_DETACH, UInt(0), True)
    while bare.send(both * 500, seconds=2.0):
        yield


def refused_links(bare: Bare) -> Iterator[None]:
    """Refused, and not detached."""
    bare.read_all()
    for start in count(0, 1000):
        if not bare.send(*(attach(f"{'l' * 200}{handle}", handle, to="nowhere") for handle in range(start, start + 1000))):
            return
        yield


def filters_without_end(bare: Bare) -> Iterator[None]:
    """As long as may be, attached and detached before they are compiled."""
    text = "/*:Event[" + " or ".join(f"a{number}='{number}'" for number in range(MAX_LENGTH // 16)) + "]["
    for start in count(0, 100):
        filters = (
            {Symbol("x"): Described(Symbol("apache.org:xquery-filter:string"), f"{text}{number}")} for number in range(start, start + 100)
        )
        sources = (Described(0x28, ["org.clacks", UInt(0), None, UInt(0), False, None, None, one]) for one in filters)
        attaches = [attach(f"l{handle}", handle, source=source) for handle, source in enumerate(sources)]
        bare.send(*attaches, attach("last", 100, to="nowhere"))
        while bare.until(_ATTACH)[1][0] != "last":  # attaches are answered in their order: this one, which is refused, is the last
            pass
        bare.send(*(framed(_DETACH, UInt(handle), True) for handle in range(101)))
        yield


def never_settled(bare: Bare) -> Iterator[None]:
    """Sent on a link that wants to settle last (rcv-settle-mode second), and does not."""
    bare.send(attach("l", 0, to="org.clacks", mode=1))
    while True:
        for _ in range(2_000):
            if not bare.message(0, data(b"x"), settled=False):
                return
        yield


def addresses_without_end(bare: Bare) -> Iterator[None]:
    """One address, written in many ways, on a link to the anonymous terminus."""
    bare.send(attach("l", 0))
    for before in count(8_000):
        for after in range(250):
            to = "/" * before + "org.clacks" + "/" * after
            if not bare.message(0, encode(Described(PROPERTIES, [None, None, to])) + data(b"x")):
                return
        yield


def answers_without_end(bare: Bare) -> Iterator[None]:
    """Commands that are refused, with large ids, to many reply addresses that nobody reads."""
    bare.send(attach("commands", 0, to="org.clacks.command.core"))
    bare.until(_ATTACH)
    for handle in count(1):
        bare.send(attach(f"l{handle}", handle, source=Described(0x28, [None, UInt(0), None, UInt(0), True])))
        _, fields = bare.until(_ATTACH)
        request = encode(Described(PROPERTIES, [None, None, None, None, fields[5].value[0]]))
        for _ in range(60):
            bare.message(0, request + data(b'{"method": "x", "id": "%s"}' % (b"x" * 1_000_000)))
        yield


def unfinished(bare: Bare) -> Iterator[None]:
    """A delivery that is begun on each of many links."""
    for handle in range(4_000):
        if not bare.send(attach(f"l{handle}", handle, to="org.clacks")):
            return
        for _ in range(60):
            while bare.window <= bare.sent:
                try:
                    bare.until(_FLOW)
                except (OSError, EOFError):
                    return
            bare.sent += 1
            if not bare.send(framed(_TRANSFER, UInt(handle), UInt(handle), b"t", UInt(0), False, True, payload=bytes(30_000))):
                return
        if handle % 10 == 9:
            yield


# What each of them may make an agent keep, in bytes: an account of answers and the sockets' buffers, dozens of the largest messages, or a
# few thousand of something that costs a few kilobytes. Without a limit each comes to more in so many bursts, and to gigabytes in the end.
GREEDY: dict[str, tuple[Callable[[Bare], Iterator[None]], int, int]] = {
    "sessions": (sessions_without_end, 24 * 2**20, 20),
    "links": (links_without_end, 24 * 2**20, 600),
    "refused links": (refused_links, 40 * 2**20, 60),
    "filters": (filters_without_end, 40 * 2**20, 40),
    "unsettled": (never_settled, 40 * 2**20, 20),
    "addresses": (addresses_without_end, 24 * 2**20, 20),
    "answers": (answers_without_end, 224 * 2**20, 6),
    "unfinished": (unfinished, 128 * 2**20, 20),
}
