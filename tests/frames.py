"""A peer that writes its frames (AMQP 1.0 part 2.7) by hand: what no client library sends, or not in one piece."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from clacks.amqp import Described, Symbol, UInt
from clacks.amqp.codec import UByte, decode, encode
from clacks.amqp.sasl import AMQP_HEADER, SASL_HEADER
from support import until

OPEN, BEGIN, ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH, END, CLOSE = range(0x10, 0x19)

# What a peer takes at once, in frames and in credit: more than any test sends.
WINDOW = 100_000


def frame(code: int, *fields: Any, payload: bytes = b"", kind: int = 0) -> bytes:
    body = encode(Described(code, list(fields))) + payload
    return (len(body) + 8).to_bytes(4, "big") + bytes((2, kind, 0, 0)) + body


def source(address: str | None, *, capabilities: Any = None, filters: dict[Any, Any] | None = None, **kept: Any) -> Described:
    expiry = Symbol(kept.get("expiry", "session-end"))
    fields = [address, UInt(0), expiry, UInt(kept.get("timeout", 0)), False, None, None, filters, None, None, capabilities]
    return Described(0x28, fields)


def attach(handle: int, name: str, *, receives: Any = None, sends_to: str | None = None, second: bool = False) -> bytes:
    """Of a link that receives from the source `receives`, or else sends to an address, with the rcv-settle-mode `second` if asked for."""
    role, ours = receives is not None, receives if receives is not None else source("here")
    target = Described(0x29, [sends_to])
    return frame(ATTACH, name, UInt(handle), role, None, UByte(second), ours, target, None, None, UInt(0))


def detach(handle: int, *, closed: bool) -> bytes:
    return frame(DETACH, UInt(handle), closed)


def credit(handle: int, count: int, *, drain: bool = False) -> bytes:
    return frame(FLOW, UInt(0), UInt(WINDOW), UInt(0), UInt(WINDOW), UInt(handle), UInt(0), UInt(count), UInt(0), drain)


def transfer(handle: int, number: int, payload: bytes, *, more: bool = False) -> bytes:
    return frame(TRANSFER, UInt(handle), UInt(number), number.to_bytes(4, "big"), UInt(0), False, more, payload=payload)


class ByHand:
    """A connection with one session. `got` has what came: the code of each frame and its fields; code 0 is an empty one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.got: list[tuple[int, list[Any]]] = []
        self.sizes: list[int] = []  # of the frames that came
        self.ended = False

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, port: int, user: str = "admin", password: str = "admin", **announced: int) -> AsyncIterator[ByHand]:
        """`announced`: max_frame (bytes), idle (milliseconds)."""
        peer = cls(*await asyncio.open_connection("localhost", port))
        try:
            await peer._open(user, password, announced)
            reading = asyncio.create_task(peer._read())
            yield peer
        finally:
            peer.close()
        await reading

    async def _open(self, user: str, password: str, announced: dict[str, int]) -> None:
        self.send(SASL_HEADER, frame(0x41, Symbol("PLAIN"), b"\0%b\0%b" % (user.encode(), password.encode()), kind=1))
        idle = announced.get("idle")
        opening = ["by hand", "localhost", UInt(announced.get("max_frame", 2**16)), None, None if idle is None else UInt(idle)]
        self.send(AMQP_HEADER, frame(OPEN, *opening), frame(BEGIN, None, UInt(0), UInt(WINDOW), UInt(WINDOW)))
        assert await self._reader.readexactly(8) == SASL_HEADER
        await self._frame()
        assert int((await self._frame())[1][0]) == 0, "it is let in"
        assert await self._reader.readexactly(8) == AMQP_HEADER

    def send(self, *frames: bytes) -> None:
        """In one piece."""
        self._writer.write(b"".join(frames))

    def of(self, code: int) -> list[list[Any]]:
        """The fields of all frames of one kind."""
        return [fields for kind, fields in self.got if kind == code]

    async def frames(self, code: int, count: int = 1) -> list[list[Any]]:
        """Wait for so many frames of one kind."""
        await until(lambda: len(self.of(code)) >= count, f"{count} frames of kind 0x{code:x}")
        return self.of(code)

    def close(self) -> None:
        self._writer.close()

    async def _read(self) -> None:
        try:
            while True:
                self.got.append(await self._frame())
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended = True

    async def _frame(self) -> tuple[int, list[Any]]:
        size = int.from_bytes(await self._reader.readexactly(4), "big")
        self.sizes.append(size)
        body = (await self._reader.readexactly(size - 4))[4:]
        if not body:
            return 0, []
        value, _ = decode(body)
        return int(value.descriptor), value.value
