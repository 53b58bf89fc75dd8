"""The SASL layer of AMQP 1.0 (part 5.3), both sides: a few frames before the AMQP header.

proton is usually built without Cyrus SASL and then knows no passwords, so the frames are spoken here and the engine is given the bare AMQP
stream. SCRAM itself is scramp's. What a peer sends before it is authenticated is bounded in size (here) and time (by the connection).
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from .codec import CodecError, Described, Symbol, SymbolArray, UByte, decode, encode
from .gate import Gate, Refused, origin
from .outcome import AmqpError, Condition

SASL_HEADER: Final = b"AMQP\x03\x01\x00\x00"
AMQP_HEADER: Final = b"AMQP\x00\x01\x00\x00"

_MECHANISMS, _INIT, _CHALLENGE, _RESPONSE, _OUTCOME = 0x40, 0x41, 0x42, 0x43, 0x44
_OK, _AUTH, _SYS, _SYS_TEMP = 0, 1, 2, 4

# 5.3.1 limits SASL frames to 512 bytes; some clients send a long hostname or token, none has been seen over 4 KiB.
MAX_SASL_FRAME: Final = 4096
# A server could ask a client for 2^31 rounds of PBKDF2 and so keep it busy for an hour; a million are about half a second.
MAX_SCRAM_ITERATIONS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class ScramVerifier:
    """What a server keeps instead of a password (RFC 5802 section 3)."""

    salt: bytes
    stored_key: bytes
    server_key: bytes
    iterations: int

    def fits(self, password: str) -> bool:
        """Whether this is the password. Takes as long as `iterations` rounds of PBKDF2: not for a loop's thread."""
        return hmac.compare_digest(make_verifier(password, self.iterations, self.salt).stored_key, self.stored_key)


def make_verifier(password: str, iterations: int, salt: bytes | None = None) -> ScramVerifier:
    """The SCRAM-SHA-256 verifier of a password. Raises ValueError for a password that SASLprep (RFC 4013) refuses."""
    from scramp import ScramException, ScramMechanism

    try:
        salt, stored_key, server_key, count = ScramMechanism("SCRAM-SHA-256").make_auth_info(password, iterations, salt)
    except ScramException as error:
        raise ValueError(str(error)) from error
    return ScramVerifier(salt, stored_key, server_key, count)


class Authenticator(Protocol):
    """Who may get in: asked by the server's side of the handshake."""

    def mechanisms(self, *, secure: bool, loopback: bool) -> Sequence[str]:
        """The mechanisms to offer on this connection, best first."""

    def verifier(self, user: str) -> ScramVerifier:
        """The user's verifier. For an unknown user one that fits no password, the same at every call, so that nobody can tell."""

    def certified(self, names: Sequence[str]) -> Sequence[str]:
        """The users that a verified client certificate with these names (`certificate_names`) stands for."""

    def admits(self, user: str) -> bool:
        """Whether this name, proven now, may come in."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a client is. `certified`: it has shown a certificate of its own in TLS, which stands for it where there is no password; the user
    may be left out then. With neither it is anonymous."""

    user: str = ""
    password: str = ""
    certified: bool = False


class SaslFailure(AmqpError):
    """The handshake failed. `kind`: "credentials" (wrong), "mechanism" (none in common), "exposed" (the password would travel in clear),
    "later" (the server refuses for a while), "protocol" (the peer does not speak AMQP). `offered` lists the server's mechanisms."""

    def __init__(self, kind: str, sentence: str, offered: Sequence[str] = ()) -> None:
        super().__init__(Condition("amqp:unauthorized-access", sentence))
        self.kind = kind
        self.offered = tuple(offered)


class Handshake:
    """The frames of one connection's handshake, read by a task from what the socket brings."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._more: asyncio.Event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None

    def start(self, transport: asyncio.Transport, succeeded: Callable[[str, bytes], None], failed: Callable[[SaslFailure], None]) -> None:
        """Begin. `succeeded` gets the user and the bytes that came after the handshake."""
        self._transport = transport
        self._task = asyncio.get_running_loop().create_task(self._run(succeeded, failed))

    def receive(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > 16 * MAX_SASL_FRAME and self._transport is not None:
            self._transport.abort()  # nobody sends that much before it knows whether it may
        self._more.set()

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self, succeeded: Callable[[str, bytes], None], failed: Callable[[SaslFailure], None]) -> None:
        try:
            user = await self._negotiate()
        except SaslFailure as failure:
            self._note(failure)
            failed(failure)
        except (CodecError, ValueError) as error:
            broken = SaslFailure("protocol", f"the handshake is broken: {error}")
            self._note(broken)
            failed(broken)
        else:
            succeeded(user, bytes(self._buffer))

    def _note(self, failure: SaslFailure) -> None:
        """What a side wants to remember of a failure."""

    async def _negotiate(self) -> str:
        raise NotImplementedError

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more.clear()
            await self._more.wait()
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _frame(self, *expected: int) -> tuple[int, list[Any]]:
        """The next SASL frame (5.3.1): its code and its fields."""
        size = int.from_bytes(await self._exactly(4), "big")
        if not 8 <= size <= MAX_SASL_FRAME:
            raise CodecError("not a SASL frame")
        frame = await self._exactly(size - 4)
        offset, kind = frame[0] * 4, frame[1]
        if kind != 1 or not 8 <= offset <= size:
            raise CodecError("not a SASL frame")
        body = frame[offset - 4 :]
        value, _ = decode(body)
        if not isinstance(value, Described) or value.descriptor not in expected or not isinstance(value.value, list):
            raise CodecError("an unexpected SASL frame")
        return int(value.descriptor), value.value

    def _send(self, code: int, *fields: Any) -> None:
        self._write(_sasl_frame(code, *fields))

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


def _sasl_frame(code: int, *fields: Any) -> bytes:
    body = encode(Described(code, list(fields)))
    return (len(body) + 8).to_bytes(4, "big") + b"\x02\x01\x00\x00" + body


def _field(fields: list[Any], position: int, kind: type, default: Any = None) -> Any:
    value = fields[position] if position < len(fields) else None
    if value is None:
        return default
    if not isinstance(value, kind):
        raise CodecError("a field of a SASL frame has another type than it should")
    return value


# --- the server's side -----------------------------------------------------------------------------------------------------------


class ServerHandshake(Handshake):
    """Offers what the authenticator offers and lets in whom it lets in, as often as the gate permits."""

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        secure: bool,
        loopback: bool,
        certificate: Sequence[str] = (),
        gate: Gate | None = None,
        address: str = "",
    ) -> None:
        """`certificate`: the names in the client's certificate, which TLS has verified; EXTERNAL is offered to whoever has shown one.
        `address` is the client's."""
        super().__init__()
        self._authenticator = authenticator
        self._certificate = tuple(certificate)
        self._gate = gate or Gate()
        self._address = address
        self._origin = origin(address)
        self._claimed = ""
        self._offered = (*(["EXTERNAL"] if certificate else []), *authenticator.mechanisms(secure=secure, loopback=loopback))

    def _note(self, failure: SaslFailure) -> None:
        self._gate.refused(failure.kind, failure.condition.description, self._address, self._claimed)

    async def _negotiate(self) -> str:
        header = await self._exactly(8)
        self._write(SASL_HEADER)  # 2.2: to an unknown header, and to AMQP without SASL, the one that is served is the answer
        if header != SASL_HEADER:
            raise SaslFailure("protocol", "the peer does not begin with SASL")
        self._write(_offer(self._offered))
        _, fields = await self._frame(_INIT)
        name = str(_field(fields, 0, Symbol, ""))
        initial = _field(fields, 1, bytes, b"")
        serve = _SERVED.get(name) if name in self._offered else None
        try:
            if serve is None:
                raise SaslFailure("mechanism", f"the mechanism {name} is not offered", self._offered)
            user, extra = await serve(self, initial)
            if not self._authenticator.admits(user):
                raise SaslFailure("credentials", f"{user!r} is not admitted")
        except Refused as refused:
            self._send(_OUTCOME, UByte(_SYS_TEMP))
            raise SaslFailure("later", refused.condition.description) from refused
        except SaslFailure as failure:
            if failure.kind == "credentials":
                self._gate.failed(self._origin, self._claimed)
            self._send(_OUTCOME, UByte(_AUTH))
            raise
        if self._claimed:
            self._gate.succeeded(self._origin, user)
        self._send(_OUTCOME, UByte(_OK), extra)
        return user

    async def _claim(self, user: str) -> None:
        """A password for this name is about to be checked. Raises Refused; waits the same time whether it will be right or wrong."""
        self._claimed = user
        delay = self._gate.attempt(self._origin, user)
        if delay:
            await asyncio.sleep(delay)

    async def _exchange(self, challenge: bytes) -> bytes:
        self._send(_CHALLENGE, challenge)
        _, fields = await self._frame(_RESPONSE)
        response: bytes = _field(fields, 0, bytes, b"")
        return response

    async def _plain(self, initial: bytes) -> tuple[str, bytes | None]:
        """RFC 4616."""
        parts = (initial or await self._exchange(b"")).split(b"\0")
        if len(parts) != 3:
            raise SaslFailure("credentials", "the PLAIN message is malformed")
        identity, user, password = (part.decode("utf-8", "replace") for part in parts)
        await self._claim(user)
        verifier = self._authenticator.verifier(user)
        try:
            right = await self._gate.work(self._origin, verifier.fits, password)
        except ValueError:
            right = False
        if not right or identity not in ("", user):
            raise SaslFailure("credentials", f"wrong user or password for {user!r}")
        return user, None

    async def _scram(self, initial: bytes) -> tuple[str, bytes | None]:
        """RFC 5802 and 7677; scramp holds the messages against each other."""
        from scramp import ScramException, ScramMechanism

        name = ""

        def lookup(user: str) -> tuple[bytes, bytes, bytes, int]:
            nonlocal name
            name = user
            found = self._authenticator.verifier(user)
            return found.salt, found.stored_key, found.server_key, found.iterations

        server = ScramMechanism("SCRAM-SHA-256").make_server(lookup)
        try:
            server.set_client_first((initial or await self._exchange(b"")).decode("utf-8"))
            await self._claim(name)
            final = await self._exchange(server.get_server_first().encode())
            server.set_client_final(final.decode("utf-8"))
        except (ScramException, UnicodeDecodeError) as error:
            raise SaslFailure("credentials", f"wrong user or password for {name!r}") from error
        # The server's signature travels with the outcome (5.3.3.6), where clients without a further response look for it too.
        return name, server.get_server_final().encode()

    async def _external(self, initial: bytes) -> tuple[str, bytes | None]:
        """RFC 4422, appendix A. The message names the user where the certificate stands for several."""
        wanted = initial.decode("utf-8", "replace")
        users = [user for user in self._authenticator.certified(self._certificate) if wanted in ("", user)]
        if len(users) != 1:
            what = "stands for several users, and none is named" if users else f"does not stand for {repr(wanted) if wanted else 'a user'}"
            raise SaslFailure("credentials", f"the certificate ({', '.join(self._certificate)}) {what}")
        return users[0], None

    async def _anonymous(self, initial: bytes) -> tuple[str, bytes | None]:
        """RFC 4505; the trace is ignored."""
        return "anonymous", None


# Each answers the user and what goes along with a good outcome.
_SERVED: Final[dict[str, Callable[[ServerHandshake, bytes], Awaitable[tuple[str, bytes | None]]]]] = {
    "EXTERNAL": ServerHandshake._external,
    "SCRAM-SHA-256": ServerHandshake._scram,
    "PLAIN": ServerHandshake._plain,
    "ANONYMOUS": ServerHandshake._anonymous,
}


def _offer(mechanisms: Sequence[str]) -> bytes:
    return _sasl_frame(_MECHANISMS, SymbolArray(Symbol(name) for name in mechanisms))


def refusal(mechanisms: Sequence[str]) -> bytes:
    """All of a server's side for somebody who is not even heard: "not now" (5.3.3.6, sys-temp), in the order a client reads it."""
    return SASL_HEADER + _offer(mechanisms) + _sasl_frame(_OUTCOME, UByte(_SYS_TEMP))


# --- the client's side -----------------------------------------------------------------------------------------------------------


class ClientHandshake(Handshake):
    """Takes the best mechanism that the server offers and that keeps the password safe."""

    def __init__(self, credentials: Credentials, *, hostname: str, private: bool) -> None:
        """`private`: nobody can listen to the way to the server (TLS, or a loopback address)."""
        super().__init__()
        self._credentials = credentials
        self._hostname = hostname
        self._private = private

    async def _negotiate(self) -> str:
        self._write(SASL_HEADER)
        if await self._exactly(8) != SASL_HEADER:
            raise SaslFailure("protocol", "the peer does not speak AMQP 1.0 with SASL")
        _, fields = await self._frame(_MECHANISMS)
        value = fields[0] if fields else []
        offered = [str(name) for name in (value if isinstance(value, list) else [value])]
        name, answer = self._choose(offered)
        await answer(self, offered)
        return self._credentials.user or name.lower()

    def _choose(self, offered: Sequence[str]) -> tuple[str, Callable[[ClientHandshake, Sequence[str]], Awaitable[None]]]:
        if self._credentials.certified and not self._credentials.password:
            if "EXTERNAL" in offered:
                return "EXTERNAL", ClientHandshake._external
            raise SaslFailure("mechanism", "the certificate is not asked for", offered)
        if not self._credentials.user:
            if "ANONYMOUS" in offered:
                return "ANONYMOUS", ClientHandshake._anonymous
            raise SaslFailure("mechanism", "a user and a password are needed", offered)
        if "SCRAM-SHA-256" in offered:
            return "SCRAM-SHA-256", ClientHandshake._scram
        if "PLAIN" in offered and self._private:
            return "PLAIN", ClientHandshake._plain
        if "PLAIN" in offered:
            raise SaslFailure("exposed", "the password would travel in clear", offered)
        raise SaslFailure("mechanism", "no common mechanism", offered)

    def _init(self, name: str, initial: bytes) -> None:
        self._send(_INIT, Symbol(name), initial, self._hostname)

    async def _outcome(self, offered: Sequence[str]) -> None:
        _, fields = await self._frame(_OUTCOME)
        self._check(fields, offered)

    def _check(self, fields: list[Any], offered: Sequence[str]) -> None:
        """5.3.3.6: raises SaslFailure for every outcome but a good one."""
        code = _field(fields, 0, int, _SYS)
        if code == _AUTH:
            raise SaslFailure("credentials", "wrong user or password", offered)
        if code == _SYS_TEMP:
            raise SaslFailure("later", "it refuses attempts from here for a while (too many failed, or too many connections)", offered)
        if code != _OK:
            raise SaslFailure("protocol", f"the server failed to authenticate (code {code})", offered)

    async def _external(self, offered: Sequence[str]) -> None:
        # An empty message is still one (5.3.3.2): without it a server would have to ask for it.
        self._init("EXTERNAL", self._credentials.user.encode())
        await self._outcome(offered)

    async def _anonymous(self, offered: Sequence[str]) -> None:
        self._init("ANONYMOUS", b"clacks")
        await self._outcome(offered)

    async def _plain(self, offered: Sequence[str]) -> None:
        who = self._credentials
        self._init("PLAIN", b"\0".join((b"", who.user.encode(), who.password.encode())))
        await self._outcome(offered)

    async def _scram(self, offered: Sequence[str]) -> None:
        from scramp import ScramClient, ScramException

        try:
            client = ScramClient(["SCRAM-SHA-256"], self._credentials.user, self._credentials.password)
            self._init("SCRAM-SHA-256", client.get_client_first().encode())
            code, fields = await self._frame(_CHALLENGE, _OUTCOME)
            if code == _OUTCOME:
                self._check(fields, offered)
                raise SaslFailure("protocol", "the server did not ask for a proof", offered)
            client.set_server_first(_field(fields, 0, bytes, b"").decode("utf-8"))
            if int(client.iterations) > MAX_SCRAM_ITERATIONS:
                raise SaslFailure("protocol", "the server asks for too many iterations", offered)
            final = await asyncio.get_running_loop().run_in_executor(None, client.get_client_final)
            self._send(_RESPONSE, final.encode())
            signature = b""
            code, fields = await self._frame(_CHALLENGE, _OUTCOME)
            if code == _CHALLENGE:  # some servers send their signature as one more challenge
                signature = _field(fields, 0, bytes, b"")
                self._send(_RESPONSE, b"")
                code, fields = await self._frame(_OUTCOME)
            self._check(fields, offered)
            client.set_server_final((signature or _field(fields, 1, bytes, b"")).decode("utf-8"))
        except (ScramException, UnicodeDecodeError) as error:
            raise SaslFailure("credentials", f"the server does not prove that it knows the password: {error}", offered) from error
