"""Who is not let in: wrong, forged, replayed, too many, too slow. Each attack over a real socket, with what the audit log says of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from scramp import ScramClient

from clacks.agent.certificates import make_ca, make_client, make_server
from clacks.agent.users import User, UserBook, kept_secret, make_user, read_users
from clacks.amqp import (
    AmqpError,
    Connection,
    Credentials,
    Described,
    Gate,
    GateLimits,
    Listener,
    Options,
    SaslFailure,
    Symbol,
    Terminus,
    UInt,
    connect,
    serve,
)
from clacks.amqp import connection as connection_module
from clacks.amqp import server as server_module
from clacks.amqp.codec import decode, encode
from clacks.amqp.gate import DELAY_MOST, Entrant, Refused, origin
from clacks.amqp.peer import certificate_names
from clacks.amqp.sasl import MAX_SASL_FRAME, SASL_HEADER
from clacks.common.components.client import BusClient, dial
from clacks.common.components.url import parse_url
from clacks.common.errors import ClacksError
from conftest import USERS, RunningAgent, wait_for
from support import run, until
from test_amqp import Server, closed

INIT, CHALLENGE, RESPONSE, OUTCOME = 0x41, 0x42, 0x43, 0x44
OK, AUTH, SYS_TEMP = 0, 1, 4


class House:
    """A listener with the users of the other tests, and everything its gate has refused."""

    def __init__(self, book: UserBook | None = None, **limits: Any) -> None:
        self.refusals: list[tuple[str, str, str, str]] = []
        self.now = 0.0
        self.book = book or UserBook(USERS)
        self.gate = Gate(GateLimits(**limits), lambda *refusal: self.refusals.append(refusal), lambda: self.now)
        self.server = Server()
        self.listener: Listener

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, *_ in self.refusals]

    @contextlib.asynccontextmanager
    async def open(self, tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[House]:
        self.listener = await serve("127.0.0.1", 0, self.server, self.book, Options(**options), tls, self.gate)
        try:
            yield self
            await until(lambda: not self.gate.half_open, "nobody is half in")
        finally:
            await self.listener.close()
            self.gate.close()
        assert (self.gate.half_open, self.gate.connections) == (0, 0)

    async def enter(self, user: str = "guest", password: str = "guest", **options: Any) -> Connection:
        return await connect("127.0.0.1", self.listener.address[1], Credentials(user, password), Options(**options))

    async def fails(self, user: str, password: str) -> str:
        with pytest.raises(SaslFailure) as caught:
            await self.enter(user, password)
        return caught.value.kind


class Peer:
    """Somebody who writes frames by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    @contextlib.asynccontextmanager
    async def at(cls, house: House) -> AsyncIterator[Peer]:
        reader, writer = await asyncio.open_connection(*house.listener.address)
        try:
            writer.write(SASL_HEADER)
            yield cls(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def mechanisms(self) -> list[str]:
        assert await self.reader.readexactly(8) == SASL_HEADER
        _, fields = await self.frame()
        return [str(name) for name in fields[0]]

    async def frame(self) -> tuple[int, list[Any]]:
        size = int.from_bytes(await self.reader.readexactly(4), "big")
        value, _ = decode((await self.reader.readexactly(size - 4))[4:])
        return value.descriptor, value.value

    def send(self, code: int, *fields: Any) -> None:
        body = encode(Described(code, list(fields)))
        self.writer.write((len(body) + 8).to_bytes(4, "big") + b"\x02\x01\0\0" + body)

    async def says(self, mechanism: str, initial: bytes) -> tuple[int, list[Any]]:
        await self.mechanisms()
        self.send(INIT, Symbol(mechanism), initial, "localhost")
        return await self.frame()

    async def is_dropped(self) -> None:
        with contextlib.suppress(ConnectionError):
            assert await self.reader.read() == b""


# --- passwords -------------------------------------------------------------------------------------------------------------------


@run
async def test_a_recorded_scram_exchange_opens_nothing_a_second_time() -> None:
    async with House().open() as house:
        client = ScramClient(["SCRAM-SHA-256"], "guest", "guest")
        first = client.get_client_first().encode()
        async with Peer.at(house) as peer:
            _, (challenge, *_) = await peer.says("SCRAM-SHA-256", first)
            client.set_server_first(challenge.decode())
            final = client.get_client_final().encode()
            peer.send(RESPONSE, final)
            assert (await peer.frame())[1][0] == OK
        async with Peer.at(house) as thief:
            code, (other, *_) = await thief.says("SCRAM-SHA-256", first)
            assert (code, other != challenge) == (CHALLENGE, True), "the server's part of the nonce is new"
            thief.send(RESPONSE, final)
            assert await thief.frame() == (OUTCOME, [AUTH])
            await thief.is_dropped()
        # Neither does the recorded proof under the nonce of the new session.
        async with Peer.at(house) as thief:
            _, (other, *_) = await thief.says("SCRAM-SHA-256", first)
            nonce = other.decode().split(",")[0].encode()
            thief.send(RESPONSE, b"c=biws," + nonce + b"," + final.split(b",")[2])
            assert await thief.frame() == (OUTCOME, [AUTH])
        assert house.kinds == ["credentials", "credentials"]
        assert {user for *_, user in house.refusals} == {"guest"}


@run
async def test_an_unknown_user_and_a_wrong_password_look_the_same() -> None:
    worked: list[int] = []
    async with House().open() as house:
        work = house.gate.work

        async def counted(address: str, function: Callable[..., Any], *args: Any) -> Any:
            worked.append(function.__self__.iterations)  # type: ignore[attr-defined]
            return await work(address, function, *args)

        house.gate.work = counted  # type: ignore[method-assign]
        answers, challenges = [], []
        for user in ("guest", "nobody"):
            async with Peer.at(house) as peer:
                answers.append(await peer.says("PLAIN", b"\0" + user.encode() + b"\0wrong"))
            for _ in range(2):
                async with Peer.at(house) as peer:
                    _, (challenge, *_) = await peer.says("SCRAM-SHA-256", f"n,,n={user},r=abc".encode())
                    nonce, salt, rounds = challenge.decode().split(",")
                    challenges.append((user, salt, len(nonce), len(salt), rounds))
                    peer.send(RESPONSE, f"c=biws,{nonce},p={'A' * 43}=".encode())
                    answers.append(await peer.frame())
        assert answers == [(OUTCOME, [AUTH])] * 6
        assert len(worked) == 2
        assert worked[0] == worked[1], "the same work for both"
        assert len({challenge[2:] for challenge in challenges}) == 1, "the same form"
        assert len({challenge[:2] for challenge in challenges}) == 2, "the same salt at every attempt, for both"


@pytest.mark.parametrize(
    ("mechanism", "initial"),
    {
        "another identity": ("PLAIN", b"admin\0guest\0guest"),
        "too many parts": ("PLAIN", b"\0guest\0guest\0"),
        "too few parts": ("PLAIN", b"guest\0guest"),
        "no password": ("PLAIN", b"\0guest\0"),
        "not UTF-8": ("PLAIN", b"\0guest\0\xff"),
        "prohibited": ("PLAIN", b"\0guest\0\x07"),
        "another identity by SCRAM": ("SCRAM-SHA-256", b"n,a=admin,n=guest,r=abc"),
        "channel binding that is none": ("SCRAM-SHA-256", b"p=tls-unique,,n=guest,r=abc"),
        "no SCRAM": ("SCRAM-SHA-256", b"\xff\xfe"),
        "not offered": ("EXTERNAL", b"admin"),
        "nor this": ("ANONYMOUS", b""),
        "unknown": ("GSSAPI", b"admin"),
        "of another case": ("plain", b"\0guest\0guest"),
    }.values(),
    ids=str,
)
def test_refused_in_the_first_frame(mechanism: str, initial: bytes) -> None:
    @run
    async def test() -> None:
        async with House().open() as house, Peer.at(house) as peer:
            assert await peer.says(mechanism, initial) == (OUTCOME, [AUTH])
            await peer.is_dropped()
            assert house.kinds == ["credentials" if mechanism in ("PLAIN", "SCRAM-SHA-256") else "mechanism"]
            assert house.server.opened_by == []

    test()


@run
async def test_frames_that_are_too_large_or_too_late() -> None:
    async with House().open(handshake_timeout=0.2) as house:
        async with Peer.at(house) as peer:
            await peer.mechanisms()
            peer.writer.write((MAX_SASL_FRAME + 1).to_bytes(4, "big"))
            await peer.is_dropped()
        assert house.kinds == ["protocol"]
        async with Peer.at(house) as peer:  # it begins, and leaves the rest for later
            await peer.says("SCRAM-SHA-256", b"n,,n=guest,r=abc")
            await peer.is_dropped()
        assert house.kinds == ["protocol", "timeout"]
        async with Peer.at(house) as peer:  # let in, and then nothing
            assert await peer.says("PLAIN", b"\0guest\0guest") == (OUTCOME, [OK, None])
            await peer.is_dropped()
        await until(lambda: house.kinds == ["protocol", "timeout", "timeout"], "it is told of")


def test_plain_from_another_machine_needs_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is loopback is one function's answer (tested in test_amqp); here every address is another machine's.
    monkeypatch.setattr(connection_module, "is_loopback", lambda host: False)

    @run
    async def test() -> None:
        async with House().open() as house:
            async with Peer.at(house) as peer:
                assert await peer.mechanisms() == ["SCRAM-SHA-256"]
                peer.send(INIT, Symbol("PLAIN"), b"\0guest\0guest")
                assert await peer.frame() == (OUTCOME, [AUTH])
            await closed(await house.enter())
            assert house.kinds == ["mechanism"]

    test()


def test_a_client_never_shows_its_password_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "is_loopback", lambda host: False)

    class Careless(UserBook):
        def mechanisms(self, *, secure: bool, loopback: bool) -> Sequence[str]:
            return ["PLAIN"]

    @run
    async def test() -> None:
        async with House(Careless(USERS)).open() as house:
            assert await house.fails("guest", "guest") == "exposed"

    test()


@run
async def test_anonymous_is_off_unless_it_is_switched_on() -> None:
    async with House().open() as house:
        assert await house.fails("", "") == "mechanism"
    async with House(UserBook(USERS, anonymous=True)).open() as house:
        await closed(await house.enter("", ""))
        assert house.server.opened_by == ["anonymous"]
    with pytest.raises(ClacksError, match="name of whoever has none"):
        make_user("anonymous", "x")


# --- how often -------------------------------------------------------------------------------------------------------------------


@run
async def test_an_address_with_too_many_failures_is_refused_for_a_while() -> None:
    async with House(failures_per_address=3, failure_pause=3.0).open() as house:
        await closed(await house.enter("admin", "secret"))
        for password in "abc":
            assert await house.fails("guest", password) == "credentials"
        assert await house.fails("guest", "guest") == "later", "be it right"
        assert await house.fails("nobody", "x") == "later"
        await closed(await house.enter("admin", "secret"))  # who has got in from here before is not punished for others
        house.now += 3.1
        await closed(await house.enter("guest", "guest"))
        assert house.kinds == ["credentials"] * 3 + ["later"] * 2


def test_a_name_that_is_attacked_waits_and_is_never_refused() -> None:
    now = [0.0]
    gate = Gate(GateLimits(failures_per_user=3, failure_pause=3.0), clock=lambda: now[0])
    delays = []
    for number in range(1000):
        delays.append(gate.attempt(f"192.0.2.{number}", "guest"))
        gate.failed(f"192.0.2.{number}", "guest")
    assert delays[:3] == [0, 0, 0]
    assert 0 < delays[3] < delays[4] < delays[5]
    assert max(delays) == DELAY_MOST
    assert gate.attempt("198.51.100.1", "guest") == DELAY_MOST, "the user waits, and gets in"
    gate.succeeded("198.51.100.1", "guest")
    assert gate.attempt("198.51.100.1", "guest") == 0, "and does not wait again from there"
    assert gate.attempt("198.51.100.1", "admin") == 0, "nor does anybody else"
    for _ in range(1000):
        gate.failed("198.51.100.1", "guest")
    with pytest.raises(Refused):  # being known is no licence for guessing
        gate.attempt("198.51.100.1", "guest")
    now[0] += 60
    assert gate.attempt("203.0.113.1", "guest") == 0, "and a minute later all is forgotten"
    now[0] += 900
    assert gate.attempt("198.51.100.1", "nobody") == 0, "of the address too"


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clacks.amqp.gate.MEMORY", 10)
    gate = Gate()
    for number in range(1000):
        gate.failed(str(number), str(number) * 1000)
        gate.succeeded(str(number), str(number))
    assert len(gate._of_address._levels) == len(gate._of_user._levels) == len(gate._known) == 10


@run
async def test_a_flood_of_passwords_waits_for_itself() -> None:
    hold, running, most = threading.Event(), [0], [0]

    class Slow:
        iterations = 1

        def fits(self, password: str) -> bool:
            running[0] += 1
            most.append(running[0])
            hold.wait(10)
            running[0] -= 1
            return False

    book = UserBook(USERS)
    book.verifier = lambda user: Slow()  # type: ignore[method-assign, assignment, return-value]
    async with House(book, failures_per_address=1000, failures_per_user=1000).open() as house, contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(Peer.at(house)) for _ in range(40)]
        for peer in peers:
            await peer.mechanisms()
            peer.send(INIT, Symbol("PLAIN"), b"\0guest\0wrong")
        await until(lambda: running[0], "one is being checked")
        assert await asyncio.to_thread(lambda: 7) == 7, "the loop's own threads are free"
        hold.set()
        for peer in peers:
            assert await peer.frame() == (OUTCOME, [AUTH])
        assert max(most) == 1
        assert not house.gate._turns, "nothing is kept of them"


# --- how many --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes over a socket comes from another machine, and is counted by address."""
    monkeypatch.setattr(server_module, "is_loopback", lambda host: False)


@pytest.mark.usefixtures("elsewhere")
def test_half_open_connections_of_one_address() -> None:
    @run
    async def test() -> None:
        async with House(half_open_per_address=3).open() as house, contextlib.AsyncExitStack() as stack:
            peers = [await stack.enter_async_context(Peer.at(house)) for _ in range(3)]
            for peer in peers:
                await peer.mechanisms()
            assert await house.fails("guest", "guest") == "later"
            assert house.kinds == ["half-open"]
            peers[0].writer.close()
            await until(lambda: house.gate.half_open == 2, "one has gone")
            await closed(await house.enter())
            for peer in peers:
                peer.writer.close()

    test()


@run
async def test_half_open_connections_of_all_push_out_the_oldest_of_the_greediest() -> None:
    async with House(half_open=3).open() as house, contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(Peer.at(house)) for _ in range(3)]
        for peer in peers:
            await peer.mechanisms()
        await closed(await house.enter())
        await peers[0].is_dropped()
        assert house.kinds == ["half-open"]
        for peer in peers[1:]:
            peer.send(INIT, Symbol("PLAIN"), b"\0guest\0guest")
            assert await peer.frame() == (OUTCOME, [OK, None])
            peer.writer.close()


def test_the_greediest_is_the_one_with_the_most() -> None:
    gate, dropped = Gate(GateLimits(half_open=4)), []
    entrants = [Entrant(address, lambda number=number: dropped.append(number)) for number, address in enumerate("abbbc")]
    for entrant in entrants:
        gate.enter(entrant)
    assert dropped == [1]
    for entrant in entrants:
        gate.leave(entrant)
        gate.leave(entrant)
    assert gate.half_open == 0
    assert not gate._half_open


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("limit", ["connections", "connections_per_address"])
def test_connections(limit: str) -> None:
    @run
    async def test() -> None:
        async with House(**{limit: 2}).open() as house:
            inside = [await house.enter() for _ in range(2)]
            with pytest.raises(AmqpError) as caught:
                await house.enter()
            assert caught.value.condition.name == "amqp:resource-limit-exceeded"
            assert "limit of 2 connections" in caught.value.condition.description
            assert [(kind, user) for kind, _, _, user in house.refusals] == [("connections", "guest")]
            assert house.server.opened_by == ["guest"] * 2
            await closed(inside.pop())
            await until(lambda: house.gate.connections == 1, "it is counted")
            await closed(await house.enter(), *inside)

    test()


@run
async def test_who_is_not_admitted_gets_no_link_by_not_waiting() -> None:
    async with House(connections=1).open() as house:
        inside = await house.enter()
        async with Peer.at(house) as peer:
            assert await peer.says("PLAIN", b"\0guest\0guest") == (OUTCOME, [OK, None])

            def amqp(code: int, *fields: Any) -> bytes:
                body = encode(Described(code, list(fields)))
                return (len(body) + 8).to_bytes(4, "big") + b"\x02\0\0\0" + body

            attach = amqp(0x12, "link", UInt(0), False, None, None, Described(0x28, []), Described(0x29, ["x"]), None, None, UInt(0))
            peer.writer.write(b"AMQP\0\1\0\0" + amqp(0x10, "impatient") + amqp(0x11, None, UInt(0), UInt(9), UInt(9)) + attach)
            with contextlib.suppress(ConnectionError):
                said = await peer.reader.readuntil(b"amqp:resource-limit-exceeded")
                assert b"amqp:connection-establishment-failed" in said
        assert house.server.links == []
        link = await inside.attach_sender(Terminus("x"))
        assert link.alive
        await closed(inside)


def test_an_ipv6_customer_is_one_address() -> None:
    assert origin("2001:db8:1:2::1") == origin("2001:db8:1:2:ffff::2") != origin("2001:db8:1:3::1")
    assert origin("::ffff:192.0.2.1") == origin("192.0.2.1") == "192.0.2.1"
    assert origin("fe80::1%eth0") == origin("fe80::2%eth1")


# --- certificates ----------------------------------------------------------------------------------------------------------------


def certified(name: str, *certificates: str) -> User:
    return make_user(name, None, (), certificates)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a CA, and certificates of a server and of clients."""
    folder = tmp_path / "ca"
    make_ca(folder)
    make_server(folder, ("localhost", "127.0.0.1"), tmp_path)
    for name in ("anna", "berta"):
        make_client(folder, name, tmp_path)
    make_ca(tmp_path / "other")
    make_client(tmp_path / "other", "anna", tmp_path / "other")
    monkeypatch.setenv("CLACKS_CA_FILE", str(folder / "ca.pem"))
    return tmp_path


@pytest.fixture
def secured(authority: Path, tmp_path: Path) -> Any:
    settings = {
        "listen": ["localhost:0"],
        "listen_tls": ["localhost:0"],
        "tls.certificate": str(authority / "localhost.pem"),
        "tls.key": str(authority / "localhost.key"),
        "tls.client_ca": str(authority / "ca/ca.pem"),
    }
    users = USERS | {user.name: user for user in (certified("anna", "CN=anna"), certified("twin", "CN=twin", "CN=anna2"))}
    with RunningAgent(tmp_path / "state", settings, users) as agent:
        yield agent


def pair(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.pem", folder / f"{name}.key"


def who(url: str, certificate: tuple[Path, Path] | None) -> str:
    """The user that the agent takes a client for."""

    async def ask() -> str:
        async with BusClient(url, certificate=certificate) as bus:
            return str(await bus.call("getSessionUser"))

    async def bounded() -> str:
        async with asyncio.timeout(20):
            return await ask()

    return asyncio.run(bounded())


def refused(url: str, certificate: tuple[Path, Path] | None) -> ClacksError:
    with pytest.raises(ClacksError) as caught:
        who(url, certificate)
    return caught.value


def test_a_certificate_stands_for_its_user(secured: RunningAgent, authority: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = secured.url(scheme="amqps").replace("admin:secret@", "")
    assert who(url, pair(authority, "anna")) == "anna"
    assert who(url.replace("://", "://anna@"), pair(authority, "anna")) == "anna"
    # A password is asked for where there is no certificate, and goes before it.
    assert who(secured.url("guest", "guest", scheme="amqps"), None) == "guest"
    assert who(secured.url("guest", "guest", scheme="amqps"), pair(authority, "anna")) == "guest"
    with caplog.at_level(logging.WARNING, "clacks.audit"):
        assert refused(url.replace("://", "://admin@"), pair(authority, "anna")).code == "not-authenticated"
        assert refused(url, pair(authority, "berta")).code == "not-authenticated"
    said = [record.__dict__ for record in caplog.records if record.name == "clacks.audit"]
    assert [(one["kind"], one["reason"]) for one in said] == [
        ("credentials", "the certificate (CN=anna) does not stand for 'admin'"),
        ("credentials", "the certificate (CN=berta) does not stand for a user"),
    ]


def test_certificates_that_are_none_for_clients(secured: RunningAgent, authority: Path) -> None:
    url = secured.url(scheme="amqps").replace("admin:secret@", "")
    assert refused(url, pair(authority, "localhost")).code == "unreachable", "a server's"
    assert refused(url, pair(authority / "other", "anna")).code == "unreachable", "from another CA"
    assert refused(url, None).code == "mechanism-unusable"
    plain = secured.url().replace("admin:secret@", "")
    assert refused(plain, pair(authority, "anna")).code == "mechanism-unusable", "nothing is shown without TLS"


def test_what_keeps_tls_from_working_is_said(
    secured: RunningAgent, authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, tls = secured.url(), secured.url(scheme="amqps")
    assert "does not speak TLS, so it may be amqp://" in str(refused(plain.replace("amqp:", "amqps:"), None))
    assert "expects TLS (amqps://)" in str(refused(tls.replace("amqps:", "amqp:"), None))
    make_server(authority / "ca", ("elsewhere",), tmp_path)
    make_server(authority / "ca", ("localhost",), tmp_path / "old", days=0)
    expired = time.time() + 1
    wait_for(lambda: time.time() > expired, "the second is over")
    for name, sentence in (("elsewhere", "by a name that is in it"), ("old/localhost", "needs another one")):
        certificate, key = pair(tmp_path, name)
        place = {"tls.certificate": str(certificate), "tls.key": str(key), "listen_tls": ["localhost:0"]}
        with RunningAgent(tmp_path / "another", place) as agent:
            error = refused(agent.url(scheme="amqps"), None)
            assert error.code == "tls-untrusted"
            assert sentence in str(error)
    for broken, reason in ((tmp_path / "missing", "No such file"), (authority / "localhost.key", "no certificate")):
        monkeypatch.setenv("CLACKS_CA_FILE", str(broken))
        error = refused(tls, None)
        assert error.code == "config-invalid"
        assert reason in str(error)


def test_no_certificate_is_asked_for_without_a_ca_for_them(authority: Path, tmp_path: Path) -> None:
    place = {"tls.certificate": str(authority / "localhost.pem"), "tls.key": str(authority / "localhost.key")}
    users = USERS | {"anna": certified("anna", "CN=anna")}
    with RunningAgent(tmp_path / "state", {"listen_tls": ["localhost:0"], **place}, users) as agent:
        error = refused(agent.url(scheme="amqps").replace("admin:secret@", ""), pair(authority, "anna"))
        assert error.code == "mechanism-unusable"
        assert "EXTERNAL" not in error.values["offered"]


def test_the_certificate_of_the_environment(secured: RunningAgent, authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = secured.url(scheme="amqps").replace("admin:secret@", "")
    for name, value in zip(("CLACKS_CERT_FILE", "CLACKS_KEY_FILE"), pair(authority, "anna"), strict=True):
        monkeypatch.setenv(name, str(value))
    assert who(url, None) == "anna"
    monkeypatch.setenv("CLACKS_KEY_FILE", str(authority / "berta.key"))
    with pytest.raises(ClacksError) as caught:
        asyncio.run(dial(parse_url(url)))
    assert caught.value.code == "config-invalid"


def test_names_are_exact_and_have_one_owner(tmp_path: Path) -> None:
    names = certificate_names(
        {
            "subject": ((("organizationName", "CN=admin"),), (("commonName", "anna"),)),
            "subjectAltName": (("DNS", "a.example.net"), ("email", "anna@example.net"), ("URI", "spiffe://x/anna"), ("IP Address", "::1")),
        }
    )
    assert names == ("CN=anna", "DNS:a.example.net", "email:anna@example.net", "URI:spiffe://x/anna")
    book = UserBook({user.name: user for user in (certified("a", "DNS:*.example.net", "CN=Anna", "CN=ann"), certified("b", names[1]))})
    assert book.certified(names) == ["b"]
    assert book.certified(("CN=nobody",)) == book.certified(()) == []
    file = tmp_path / "users.toml"
    file.write_text('[users.a]\ncertificates = ["CN=x"]\n[users.b]\ncertificates = ["CN=x"]\n')
    with pytest.raises(ClacksError, match="CN=x stands for both a and b"):
        read_users(file)
    file.write_text('[users.a]\ncertificates = ["x"]\n')
    with pytest.raises(ClacksError, match="'x' of a is no name in a certificate"):
        read_users(file)
    file.write_text("[users.a]\n")
    with pytest.raises(ClacksError, match="not in order"):
        read_users(file)


@run
async def test_a_user_without_a_password_cannot_be_guessed() -> None:
    async with House(UserBook({"anna": certified("anna", "CN=anna")})).open() as house:
        for password in ("", "anna"):
            assert await house.fails("anna", password) == "credentials"
        async with Peer.at(house) as peer:
            assert await peer.says("PLAIN", b"\0anna\0") == (OUTCOME, [AUTH])


@run
async def test_a_certificate_of_two_users_needs_a_name() -> None:
    book = UserBook({user.name: user for user in (certified("anna", "CN=anna"), certified("robot", "DNS:robot"))})
    for wanted, user in (("", None), ("anna", "anna"), ("robot", "robot"), ("admin", None)):
        house = House(book)
        house.listener = listener = Listener(Options(), house.server, book, house.gate)
        connection = listener.accept()
        connection.certificate = ("CN=anna", "DNS:robot")
        handshake = connection._make_handshake(connection)
        if user is None:
            with pytest.raises(SaslFailure):
                await handshake._external(wanted.encode())  # type: ignore[attr-defined]
        else:
            assert await handshake._external(wanted.encode()) == (user, None)  # type: ignore[attr-defined]


# --- what stays over a restart, and what is counted --------------------------------------------------------------------------------


def test_an_unknown_user_has_the_same_salt_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state" / "unknown.key"
    before, after = (UserBook(USERS, secret=kept_secret(path)) for _ in range(2))
    for name in ("nobody", "guest"):
        assert before.verifier(name).salt == after.verifier(name).salt, name
    assert UserBook(USERS).verifier("nobody").salt != before.verifier("nobody").salt
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == [path.name], "nothing else is left there"


def test_two_agents_that_start_at_once_have_one_secret(tmp_path: Path) -> None:
    path = tmp_path / "unknown.key"
    start = threading.Barrier(8)

    def make(_: int) -> bytes:
        start.wait()
        return kept_secret(path)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(make, range(8))) == {path.read_bytes()}


def test_a_secret_that_is_not_in_order_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "unknown.key"
    path.write_bytes(b"")
    with pytest.raises(ClacksError, match="Remove it"):
        kept_secret(path)


@pytest.mark.parametrize(
    ("soft", "hard", "then", "warned"),
    [
        (1024, 524_288, 524_288, False),
        (1024, 4096, 4096, True),
        (4096, 4096, 4096, True),
        (1024, resource.RLIM_INFINITY, 2_124, False),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY, False),
    ],
)
def test_descriptors_for_all_connections(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, soft: int, hard: int, then: int, warned: bool
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    few = hard == resource.RLIM_INFINITY or hard > 100_000
    server_module.fit_descriptors(GateLimits(connections=1_000 if few else 5_000, half_open=1_024))
    assert limits[-1] == (then, hard)
    assert [record.message for record in caplog.records] == ["connections do not fit"] * warned
    assert all("6124" in vars(record)["hint"] for record in caplog.records), "it says how many there have to be"


@run
async def test_memory_is_given_back_after_so_many_connections() -> None:
    given_back: list[None] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_module, "GONE_AT_ONCE", 3)
        patch.setattr(server_module, "_give_memory_back", lambda: given_back.append(None))
        async with House().open() as house:
            for _ in range(7):
                async with Peer.at(house) as peer:
                    await peer.mechanisms()
            await until(lambda: not house.listener.connections, "all have gone")
    assert len(given_back) == 2
