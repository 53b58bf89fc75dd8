"""clacks.amqp against itself over real sockets: handshake, links, credit, settlement, limits, and the end of things."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import trustme

import frames
from clacks.amqp import (
    ACCEPTED,
    RELEASED,
    AmqpError,
    Condition,
    Connection,
    Credentials,
    Described,
    Draft,
    LinkGone,
    Listener,
    Message,
    Modified,
    Options,
    Outcome,
    Receiver,
    Rejected,
    SaslFailure,
    ScramVerifier,
    Sender,
    Symbol,
    Terminus,
    connect,
    link,
    make_verifier,
    serve,
)  # fmt: skip
from clacks.amqp import connection as connections
from clacks.amqp.codec import UInt
from clacks.amqp.engine import lib
from clacks.amqp.link import FEWEST, FIRST, OUTPUT_LIMIT
from clacks.amqp.sasl import SASL_HEADER
from frames import ByHand
from support import End, resident, run, until

VERIFIER = make_verifier("secret", 4096)


class Door:
    """An authenticator with one user."""

    def __init__(self, *mechanisms: str) -> None:
        self.offered = mechanisms or ("SCRAM-SHA-256", "PLAIN")

    def mechanisms(self, *, secure: bool, loopback: bool) -> tuple[str, ...]:
        return self.offered

    def verifier(self, user: str) -> ScramVerifier:
        return VERIFIER if user == "admin" else ScramVerifier(b"0" * 16, b"1" * 32, b"2" * 32, 4096)

    def admits(self, user: str) -> bool:
        return user in ("admin", "anonymous")

    def certified(self, names: Sequence[str]) -> Sequence[str]:
        return ()


@dataclass
class Server:
    """Accepts every link but those to `bad`; keeps the links it has."""

    window: int = 100
    opened_by: list[str] = field(default_factory=list)
    closed_with: list[Condition | None] = field(default_factory=list)
    links: list[Sender | Receiver] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    make_end: Callable[[], End] = End
    sources: list[Terminus | None] = field(default_factory=list)

    def opened(self, connection: Connection) -> None:
        self.opened_by.append(connection.user)

    def attach(self, link: Sender | Receiver) -> None:
        source, target = link.remote_source, link.remote_target
        if "bad" in (source and source.address, target and target.address):
            raise AmqpError(Condition("amqp:not-found", "nothing is here", {"code": "x"}))
        link.handler = end = self.make_end()
        self.ends.append(end)
        self.links.append(link)
        self.sources.append(source)
        link.accept(source, target)
        if isinstance(link, Receiver):
            link.window = self.window

    def closed(self, connection: Connection, condition: Condition | None) -> None:
        self.closed_with.append(condition)


@contextlib.asynccontextmanager
async def serving(
    server: Server | None = None, door: Door | None = None, tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[Listener]:
    listener = await serve("127.0.0.1", 0, server or Server(), door or Door(), Options(**options), tls)
    try:
        yield listener
    finally:
        await listener.close()


async def dialled(listener: Listener, user: str = "admin", password: str = "secret", **options: Any) -> Connection:
    return await connect("127.0.0.1", listener.address[1], Credentials(user, password), Options(**options))


async def closed(*connections: Connection) -> None:
    for connection in connections:
        connection.close()
        await connection.wait_closed()


# --- getting in ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "PLAIN"])
def test_the_right_password_gets_in(mechanism: str) -> None:
    @run
    async def test() -> None:
        server = Server()
        async with serving(server, Door(mechanism), capabilities=("clacks-bus",), properties={"product": "clacks"}) as listener:
            connection = await dialled(listener)
            assert connection.remote_capabilities == ("clacks-bus",)
            assert connection.remote_properties == {"product": "clacks"}
            await closed(connection)
        assert server.opened_by == ["admin"]
        assert server.closed_with == [None]

    test()


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "PLAIN"])
@pytest.mark.parametrize(("user", "password"), [("admin", "wrong"), ("nobody", "secret"), ("admin", ""), ("a,=b", "x")])
def test_a_wrong_password_does_not(mechanism: str, user: str, password: str) -> None:
    @run
    async def test() -> None:
        server = Server()
        async with serving(server, Door(mechanism)) as listener:
            with pytest.raises(SaslFailure) as caught:
                await dialled(listener, user, password)
            assert caught.value.kind == "credentials"
            await until(lambda: not listener.connections, "the connection is gone")
        assert server.opened_by == []

    test()


@run
async def test_anonymous_only_where_it_is_offered() -> None:
    async with serving(door=Door("ANONYMOUS")) as listener:
        await closed(await dialled(listener, "", ""))
    async with serving() as listener:
        with pytest.raises(SaslFailure) as caught:
            await dialled(listener, "", "")
        assert (caught.value.kind, caught.value.offered) == ("mechanism", ("SCRAM-SHA-256", "PLAIN"))


GREETINGS = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + b"\0" * 50,
    "amqp without sasl": b"AMQP\x00\x01\x00\x00",
    "amqp 0-9-1": b"AMQP\x00\x00\x09\x01",
    "a frame that is none": SASL_HEADER + b"\0\0\0\x04",
    "a frame too large": SASL_HEADER + b"\x7f\xff\xff\xff\x02\x01\0\0",
    "another frame": SASL_HEADER + b"\0\0\0\x0c\x02\x01\0\0\0\x53\x44\x45",
    "garbage": bytes(range(256)) * 20,
    "a flood": b"AMQ" + b"\0" * 200_000,
}


@pytest.mark.parametrize("greeting", GREETINGS)
def test_whoever_speaks_something_else_is_told_the_header_and_dropped(greeting: str) -> None:
    @run
    async def test() -> None:
        async with serving() as listener:
            reader, writer = await asyncio.open_connection(*listener.address)
            writer.write(GREETINGS[greeting])
            try:
                answer = await reader.read()
            except ConnectionError:
                answer = SASL_HEADER  # the flood is cut off with a reset
            assert answer.startswith(SASL_HEADER)
            writer.close()
            await until(lambda: not listener.connections, "the connection is gone")

    test()


@run
async def test_whoever_says_nothing_is_dropped() -> None:
    async with serving(handshake_timeout=0.05) as listener:
        reader, writer = await asyncio.open_connection(*listener.address)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        await until(lambda: not listener.connections, "the connection is gone")


@run
async def test_small_frames_do_not_wait_for_more() -> None:
    async with serving() as listener:
        connection = await dialled(listener)
        (accepted,) = listener.connections
        assert accepted._transport is not None
        sock = accepted._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await closed(connection)


@run
async def test_tls() -> None:
    authority = trustme.CA()
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    async with serving(tls=server_side) as listener:
        connection = await connect("127.0.0.1", listener.address[1], Credentials("admin", "secret"), tls=client_side)
        assert connection.secure
        link = await connection.attach_sender(Terminus("x"))
        assert link.alive
        await closed(connection)
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect("127.0.0.1", listener.address[1], Credentials("admin", "secret"), tls=ssl.create_default_context())


# --- links -----------------------------------------------------------------------------------------------------------------------


@run
async def test_the_peer_sees_what_was_asked_for_and_answers_it() -> None:
    server = Server()
    wanted = Terminus("x", filter={"f": Described(Symbol("apache.org:xquery-filter:string"), "1")}, capabilities=("shared",))
    async with serving(server) as listener:
        connection = await dialled(listener)
        link = await connection.attach_receiver(wanted)
        assert server.sources == [wanted]
        assert link.remote_source == wanted
        await closed(connection)


@run
async def test_an_attach_that_fails_holds_up_nobody() -> None:
    class Faulty(Server):
        def attach(self, link: Sender | Receiver) -> None:
            if link.name == "1":
                raise LookupError("a fault")
            super().attach(link)

    async with serving(Faulty()) as listener:
        connection = await dialled(listener)
        attaches = [connection.attach_sender(Terminus("x"), name=str(number)) for number in range(5)]
        answers = await asyncio.gather(*attaches, return_exceptions=True)
        assert [str(answer) if isinstance(answer, AmqpError) else "" for answer in answers] == [
            "", "amqp:internal-error: LookupError", "", "", "",
        ]  # fmt: skip
        await closed(connection)


@run
async def test_a_refused_attach_says_why() -> None:
    async with serving() as listener:
        connection = await dialled(listener)
        for attach in (connection.attach_sender, connection.attach_receiver):
            with pytest.raises(AmqpError) as caught:
                await attach(Terminus("bad"))
            assert caught.value.condition == Condition("amqp:not-found", "nothing is here", {"code": "x"})
        assert (await connection.attach_sender(Terminus("good"))).alive
        await closed(connection)


@pytest.mark.parametrize(
    "outcome",
    [ACCEPTED, RELEASED, Modified(True, False), Modified(False, True), Rejected(Condition("a:b", "why", {"code": "x", "list": [1, "2"]}))],
    ids=str,
)
def test_outcomes_travel(outcome: Outcome) -> None:
    @run
    async def test() -> None:
        server = Server(make_end=lambda: End(outcome))
        async with serving(server) as listener:
            connection = await dialled(listener)
            link = await connection.attach_sender(Terminus("x"))
            link.handler = end = End()
            await until(lambda: link.credit, "there is credit")
            number = link.send(b"\0\x53\x75\xa0\x01a")
            assert link.unsettled == 1
            await until(lambda: end.outcomes, "the outcome is here")
            assert end.outcomes == [(number, outcome)]
            assert link.unsettled == 0
            await closed(connection)

    test()


@run
async def test_the_settled_modes() -> None:
    server = Server()
    async with serving(server) as listener:
        connection = await dialled(listener)
        receiver = await connection.attach_receiver(Terminus("x"), settled=True)
        receiver.handler = end = End()
        receiver.window = 10
        sender = server.links[0]
        assert isinstance(sender, Sender)
        assert sender.wants_settled
        await until(lambda: sender.sendable, "credit")
        sender.send(b"1", settled=True)
        sender.send(b"2")
        await until(lambda: len(end.received) == 2, "both arrive")
        assert [(encoded, settled) for _, encoded, settled in end.received] == [(b"1", True), (b"2", False)]
        await until(lambda: not sender.unsettled, "the second is settled")
        await closed(connection)


@run
async def test_draining_takes_what_there_is_and_says_when_that_was_all() -> None:
    class Stock(End):
        left = 5

        def credit(self, link: Sender) -> None:
            while self.left and link.sendable:
                self.left -= 1
                link.send(b"%d" % self.left)
            link.drained()

    async with serving(Server(make_end=Stock)) as listener:
        connection = await dialled(listener)
        receiver = await connection.attach_receiver(Terminus("x"))
        receiver.handler = end = End()
        await receiver.drain(3)
        assert [encoded for _, encoded, _ in end.received] == [b"4", b"3", b"2"]
        await receiver.drain(10)
        assert len(end.received) == 5
        await receiver.drain(10)
        assert len(end.received) == 5
        draining = asyncio.ensure_future(receiver.drain(10))
        connection.abort()
        with pytest.raises(AmqpError):
            await draining


@run
async def test_no_more_than_the_credit_and_topped_up_at_half() -> None:
    server = Server(window=4, make_end=lambda: End(None))
    async with serving(server) as listener:
        connection = await dialled(listener)
        link = await connection.attach_sender(Terminus("x"))
        link.handler = end = End()
        await until(lambda: link.credit == 4, "four credits")
        link.send(b"1")
        link.send(b"2")
        await until(lambda: link.credit == 4, "topped up after two")
        received = server.links[0]
        assert isinstance(received, Receiver)
        received.window = 0
        while link.sendable:
            link.send(b"x")
        await until(lambda: len(server.ends[0].received) == 6, "six arrived")
        assert link.credit == 0
        assert received.unsettled == 6
        received.window = 2
        await until(lambda: link.sendable, "credit again")
        assert end.credits >= 2
        await closed(connection)


@run
async def test_a_link_of_ours_asks_for_as_much_as_its_session_has_room_for() -> None:
    """A peer may put all that it has credit for into its own memory, whatever the session's window says."""
    server = Server()
    async with serving(server) as listener:
        connection = await dialled(listener, session_capacity=100_000)
        receiver = await connection.attach_receiver(Terminus("x"))
        receiver.handler = end = End()
        receiver.window = 1000
        sender = server.links[0]
        assert isinstance(sender, Sender)

        async def send(size: int, count: int) -> None:
            before = len(end.received)
            for number in range(count):
                await until(lambda: sender.sendable, "credit")
                sender.send(b"x" * size)
                await until(lambda number=number: len(end.received) == before + number + 1, "it has come")  # type: ignore[misc]

        await until(lambda: sender.credit == FIRST, "nothing is known of what comes")
        await send(10, FIRST // 2)
        await until(lambda: sender.credit == 1000, "they are small")
        await send(10_000, 500)
        await until(lambda: sender.credit == 500, "credit that was given stays")
        await send(10_000, 496)
        await until(lambda: sender.credit == 9, "they are large")
        await send(60_000, 9)
        await until(lambda: FEWEST // 2 <= sender.credit <= FEWEST, "some are always on their way")
        receiver.window = 2
        await send(10, 2)
        await until(lambda: sender.credit == 2, "no more than the window")
        await closed(connection)


@run
async def test_what_is_not_settled_can_count_as_credit_that_is_not_used() -> None:
    server = Server()
    async with serving(server) as listener:
        connection = await dialled(listener)
        receiver = await connection.attach_receiver(Terminus("x"))
        receiver.handler = end = End(None)
        receiver.counts_unsettled = True
        receiver.window = 10
        sender = server.links[0]
        assert isinstance(sender, Sender)

        def sent() -> bool:
            while sender.sendable:
                sender.send(b"1")
            return len(end.received) == 10 and receiver.unsettled == 10

        await until(sent, "a window of them")
        for number, _, _ in end.received[:4]:
            receiver.settle(number, ACCEPTED)
        await until(lambda: sender.unsettled == 6, "the peer knows")
        assert not sender.sendable
        receiver.settle(end.received[4][0], ACCEPTED)
        await until(lambda: sender.credit == 5, "half of the window is free again")
        await closed(connection)


@run
async def test_whoever_sends_more_than_its_credit_is_detached() -> None:
    server = Server(window=1, make_end=lambda: End(None))
    async with serving(server) as listener:
        connection = await dialled(listener)
        link = await connection.attach_sender(Terminus("x"))
        link.handler = end = End()
        received = server.links[0]
        assert isinstance(received, Receiver)
        received._window = 0  # grants one and believes in none
        received._credit = 0
        await until(lambda: link.credit, "credit")
        link.send(b"1")
        await until(lambda: end.ended, "detached")
        assert end.ended[0][0] is not None
        assert end.ended[0][0].name == "amqp:link:transfer-limit-exceeded"
        assert connection.alive
        await closed(connection)


@run
async def test_large_messages_in_many_frames_keep_their_order() -> None:
    server = Server()
    async with serving(server, max_message_size=3_000_000) as listener:
        connection = await dialled(listener)
        link = await connection.attach_sender(Terminus("x"))
        sizes = [1, 32_000, 32_768, 33_000, 262_144, 262_145, 2_900_000, 5]
        await until(lambda: link.credit, "credit")
        for size in sizes:
            link.send(bytes([size % 251]) * size)
        await until(lambda: len(server.ends[0].received) == len(sizes), "all arrive")
        assert [(len(encoded), encoded[0], encoded[-1]) for _, encoded, _ in server.ends[0].received] == [
            (size, size % 251, size % 251) for size in sizes
        ]
        await closed(connection)


@run
async def test_a_message_over_the_limit_detaches_its_link_only() -> None:
    server = Server()
    async with serving(server, max_message_size=100_000) as listener:
        connection = await dialled(listener)
        small, large = await connection.attach_sender(Terminus("x")), await connection.attach_sender(Terminus("y"))
        large.handler = end = End()
        await until(lambda: large.credit and small.credit, "credit")
        large.send(b"x" * 500_000)
        await until(lambda: end.ended, "detached")
        assert [type(outcome) for _, outcome in end.outcomes] == [Rejected]  # never settled without a word, which would mean accepted
        assert end.ended[0][0] is not None
        assert end.ended[0][0].name == "amqp:link:message-size-exceeded"
        small.send(b"still here")
        await until(lambda: server.ends[0].received, "the other link works")
        assert server.ends[1].received == []
        await closed(connection)


@run
async def test_messages_over_the_limit_leave_their_session_in_order() -> None:
    async with serving(Server(), max_message_size=1_000_000) as listener:
        connection = await dialled(listener)
        for _ in range(6):
            link = await connection.attach_sender(Terminus("x"))
            link.handler = end = End()
            await until(lambda link=link: link.sendable, "credit and room")
            link.send(b"x" * 6_000_000)
            await until(lambda end=end: end.ended, "detached")
            assert end.ended[0][0] is not None
            assert end.ended[0][0].name == "amqp:link:message-size-exceeded"
        await closed(connection)


@run
async def test_a_message_without_end_costs_its_connection() -> None:
    async with serving(Server(), max_message_size=100_000) as listener:
        connection = await dialled(listener)
        link = await connection.attach_sender(Terminus("x"))
        await until(lambda: link.sendable, "credit")
        link.send(b"x" * 20_000_000)
        await until(lambda: not listener.connections, "the connection is closed")
        await connection.wait_closed()


@run
async def test_a_handle_dies_with_its_link() -> None:
    server = Server(make_end=lambda: End(None))
    async with serving(server) as listener:
        connection = await dialled(listener)
        link = await connection.attach_sender(Terminus("x"))
        await until(lambda: link.credit, "credit")
        link.send(b"1")
        end = server.ends[0]
        await until(lambda: end.received, "it arrives")
        received = server.links[0]
        assert isinstance(received, Receiver)
        number = end.received[0][0]
        assert not received.settle(number + 1, ACCEPTED), "never existed"
        link.close()
        await until(lambda: end.ended, "detached")
        assert end.ended == [(None, True)]
        assert not received.settle(number, ACCEPTED), "too late"
        with pytest.raises(LinkGone):
            link.send(b"2")
        with pytest.raises(LinkGone):
            _ = received.remote_source
        await closed(connection)


@run
async def test_the_end_of_a_connection_ends_its_links_on_both_sides() -> None:
    server = Server()
    async with serving(server) as listener:
        connection = await dialled(listener)
        link = await connection.attach_receiver(Terminus("x"))
        link.handler = end = End()
        next(iter(listener.connections)).abort()
        await until(lambda: end.ended and server.closed_with, "both know")
        assert not link.alive
        assert not server.links[0].alive
        with pytest.raises(AmqpError):
            await connection.attach_sender(Terminus("x"))


@run
async def test_closing_waits_for_what_is_under_way() -> None:
    server = Server(window=100_000)
    async with serving(server) as listener:
        connection = await dialled(listener)
        link = await connection.attach_sender(Terminus("x"))
        await until(lambda: link.credit, "credit")
        for _ in range(20_000):
            link.send(b"x" * 100, settled=True)
        await closed(connection)
        assert len(server.ends[0].received) == 20_000


@run
async def test_a_listener_that_closes_tells_why() -> None:
    async with serving() as listener:
        connection = await dialled(listener)
        link = await connection.attach_receiver(Terminus("x"))
        link.handler = end = End()
        await listener.close(Condition("amqp:connection:forced", "going home"))
        await connection.wait_closed()
        assert end.ended == [(Condition("amqp:connection:forced", "going home"), False)]


@run
async def test_a_silent_peer_is_dropped_after_the_idle_time_out() -> None:
    server = Server()
    async with serving(server, idle_timeout=0.2) as listener:
        connection = await dialled(listener)
        link = await connection.attach_receiver(Terminus("x"))
        engine = next(iter(listener.connections))._engine
        assert engine is not None
        heard = lib.pn_transport_get_frames_input(engine.transport)
        # Twelve, since it asks for one in a quarter of its time-out: three time-outs long they keep it open.
        await until(lambda: lib.pn_transport_get_frames_input(engine.transport) >= heard + 12, "empty frames")
        assert link.alive
        connection._timer.cancel()  # type: ignore[union-attr]
        await until(lambda: server.closed_with, "it is dropped")
        assert server.closed_with[0] is not None
        assert server.closed_with[0].name == "amqp:resource-limit-exceeded"


@run
async def test_a_peer_that_reads_nothing_blocks_its_sender_and_costs_a_bounded_amount() -> None:
    server = Server()
    async with serving(server) as listener:
        connection = await dialled(listener)
        receiver = await connection.attach_receiver(Terminus("x"))
        receiver.handler = end = End()
        receiver.window = 1_000_000
        sender = server.links[0]
        assert isinstance(sender, Sender)
        await until(lambda: sender.sendable, "credit")
        assert connection._transport is not None
        connection._transport.pause_reading()
        sent = 0

        def stuffed() -> bool:
            """Nothing more can be sent, though what was to be written since the last look is."""
            nonlocal sent
            before = sent
            while sender.sendable:
                sender.send(b"x" * 1000)
                sent += 1
            return sent == before and not sender.connection.touched

        await until(stuffed, "the sender is blocked")
        assert sent * 1000 < 8 * 1024 * 1024 + 2 * OUTPUT_LIMIT  # the session's window (2.5.6), what the socket holds, and ours
        before = server.ends[0].credits
        connection._transport.resume_reading()
        await until(lambda: len(end.received) == sent, "all arrive")
        await until(lambda: server.ends[0].credits > before and sender.sendable, "the sender hears of it")
        await closed(connection)


@run
async def test_attaching_and_detaching_leaves_nothing() -> None:
    server = Server()
    async with serving(server) as listener:
        connection = await dialled(listener)

        async def rounds(count: int) -> None:
            for _ in range(count):
                link = await connection.attach_receiver(Terminus("x"))
                link.close()
            await until(lambda: connection.links == 0, "all links are freed")
            served = next(iter(listener.connections))
            await until(lambda: served.links == 0, "on the other side too")
            server.links.clear()
            server.ends.clear()
            server.sources.clear()

        await rounds(500)
        gc.collect()
        before = resident()
        await rounds(3000)
        gc.collect()
        assert resident() - before < 2 * 1024 * 1024  # a link that is kept costs 10 KiB on both sides: 3,000 of them 30 MiB
        await closed(connection)


# --- how bytes are chunked changes nothing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_chunks(size: int) -> None:
    @run
    async def test() -> None:
        server = Server()
        async with serving(server) as listener, chunking(listener.address[1], size) as port:
            connection = await connect("127.0.0.1", port, Credentials("admin", "secret"))
            link = await connection.attach_sender(Terminus("x"))
            link.handler = end = End()
            await until(lambda: link.credit, "credit")
            sent = [Draft(b"x" * length, application_properties={"n": length}).encode() for length in (0, 1, 300, 2000)]
            for encoded in sent:
                link.send(encoded)
            await until(lambda: len(end.outcomes) == len(sent), "all are settled")
            assert [encoded for _, encoded, _ in server.ends[0].received] == sent
            assert [len(Message(encoded).body) for encoded in sent] == [0, 1, 300, 2000]
            await closed(connection)

    test()


@contextlib.asynccontextmanager
async def chunking(port: int, size: int) -> AsyncIterator[int]:
    """A way to `port` that passes on `size` bytes at a time."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                for start in range(0, len(data), size):
                    writer.write(data[start : start + size])
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", port)
        for one in (writer, there[1]):
            one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


# --- peers without manners --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def by_hand(server: Server | None = None, idle: int | None = None, max_frame: int = 2**16, **options: Any) -> AsyncIterator[ByHand]:
    announced = {"max_frame": max_frame} | ({} if idle is None else {"idle": idle})
    async with serving(server, **options) as listener, ByHand.connected(listener.address[1], "admin", "secret", **announced) as peer:
        yield peer


async def closed_because(peer: ByHand) -> tuple[str, str]:
    """The condition and the sentence with which a peer's connection is closed."""
    error = (await peer.frames(frames.CLOSE))[0][0].value
    return str(error[0]), str(error[1])


def granted(peer: ByHand, handle: int) -> int:
    """The number up to which a link may send: the delivery count and the credit that it was last told."""
    return next((fields[5] + fields[6] for fields in reversed(peer.of(frames.FLOW)) if len(fields) > 6 and fields[4] == handle), 0)


def test_who_settles_second_and_never_does_gets_no_more_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "UNSETTLED_LIMIT", 20)

    @run
    async def test() -> None:
        server = Server(window=10)
        async with by_hand(server) as peer:
            peer.send(frames.attach(0, "a", sends_to="x", second=True))
            await until(lambda: server.links, "the link is there")
            receiver, sent = server.links[0], list[int]()

            async def send() -> None:
                while len(sent) < granted(peer, 0):
                    peer.send(frames.transfer(0, len(sent), Draft(b"x").encode()))
                    sent.append(1)
                    await until(lambda: receiver.unsettled == len(sent), "it has come")

            await until(lambda: granted(peer, 0) > 0, "credit")
            await send()
            assert 20 <= len(sent) < 40
            peer.send(frames.frame(frames.DISPOSITION, False, UInt(0), UInt(len(sent) - 1), True))
            await until(lambda: granted(peer, 0) > len(sent), "there is credit again")
            assert receiver.unsettled == 0

    test()


@run
async def test_unfinished_messages_on_many_links_cost_their_connection() -> None:
    async with by_hand(max_message_size=1000) as peer:
        for number in range(link.UNFINISHED_FACTOR + 2):
            peer.send(frames.attach(number, str(number), sends_to="x"))
        await until(lambda: all(granted(peer, number) for number in range(link.UNFINISHED_FACTOR + 2)), "each has credit")
        for number in range(link.UNFINISHED_FACTOR + 2):
            peer.send(frames.transfer(number, number, b"x" * 990, more=True))
        name, said = await closed_because(peer)
        assert name == "amqp:resource-limit-exceeded"
        assert "unfinished" in said


@run
async def test_finished_messages_on_many_links_do_not() -> None:
    server = Server()
    async with by_hand(server, max_message_size=1000) as peer:
        number = 0
        for turn in range(3):
            for handle in range(link.UNFINISHED_FACTOR - 1):
                if turn == 0:
                    peer.send(frames.attach(handle, str(handle), sends_to="x"))
                    await until(lambda handle=handle: granted(peer, handle), "it has credit")
                peer.send(frames.transfer(handle, number, b"\0\x53\x75\xb0\0\0\3\x20" + b"x" * 790, more=True))
                peer.send(frames.transfer(handle, number, b"y" * 10))
                number += 1
        await until(lambda: sum(len(end.received) for end in server.ends) == number, "all are there")
        assert not peer.of(frames.CLOSE)


def test_refused_links_that_are_never_detached_cost_their_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LINK_LIMIT", 10)

    @run
    async def test() -> None:
        async with by_hand() as peer:
            peer.send(*(frames.attach(number, str(number), sends_to="x") for number in range(20)))
            await peer.frames(frames.DETACH, 10)
            assert not peer.of(frames.CLOSE)
            peer.send(frames.attach(20, "20", sends_to="x"))
            assert (await closed_because(peer))[0] == "amqp:resource-limit-exceeded"

    test()


@run
async def test_an_idle_time_out_that_would_keep_us_busy_is_refused() -> None:
    async with by_hand(idle=1) as peer:
        name, said = await closed_because(peer)
        assert name == "amqp:not-allowed"
        assert "100 or more" in said
    server = Server()
    async with by_hand(server, idle=100) as peer:
        await peer.frames(0, 3)
        assert server.opened_by == ["admin"]


@pytest.mark.parametrize("closed", [False, True])
def test_whoever_detaches_before_it_is_answered_is_answered(closed: bool) -> None:
    @run
    async def test() -> None:
        server = Server()
        async with by_hand(server) as peer:
            mine = frames.source("x")
            peer.send(frames.attach(0, "a", receives=mine), frames.detach(0, closed=closed))
            await peer.frames(frames.DETACH)
            peer.send(frames.attach(0, "a", receives=mine))
            await until(lambda: len(server.links) == 1, "the next one is attached")

    test()


@pytest.mark.parametrize("closed", [False, True])
def test_a_link_of_the_same_name_in_the_same_piece(closed: bool) -> None:
    """Detached and attached again, beside others that are: each attach is answered after the detach before it."""

    @run
    async def test() -> None:
        server = Server()
        async with by_hand(server) as peer:
            mine, turns = frames.source("x"), 50
            peer.send(frames.attach(0, "a", receives=mine))
            await peer.frames(frames.ATTACH)
            for turn in range(turns):
                again = frames.detach(0, closed=closed), frames.attach(0, "a", receives=mine)
                peer.send(frames.attach(turn + 1, f"b{turn}", receives=mine), *again)
                await peer.frames(frames.ATTACH, 2 * turn + 3)
            attached = 0
            for kind, fields in peer.got:
                attached += (kind == frames.ATTACH and fields[0] == "a") - (kind == frames.DETACH)
                assert attached <= 1
            assert len(peer.of(frames.DETACH)) == turns
            assert sum(link.alive for link in server.links) == turns + 1

    test()


@run
async def test_an_error_fits_into_the_peers_frames() -> None:
    """Further values are left out, and the end of the sentence, instead of sending a frame that the peer cannot take."""
    long = Condition("amqp:not-allowed", "ä" * 2000, {"code": "x", "problems": ["y" * 2000]})
    end = End(outcome_for=Rejected(long))
    server = Server(make_end=lambda: end)
    async with by_hand(server, max_frame=512) as peer:
        peer.send(frames.attach(0, "a", sends_to="x"))
        await until(lambda: granted(peer, 0), "credit")
        peer.send(frames.transfer(0, 0, Draft(b"x").encode()))
        told = [(await peer.frames(frames.DISPOSITION))[0][4].value[0]]
        server.links[0].close(long)
        told.append((await peer.frames(frames.DETACH))[0][2])
        server.links[0].connection.close(long)
        told.append((await peer.frames(frames.CLOSE))[0][0])
        for error in told:
            assert error.value[0] == "amqp:not-allowed"
            assert "ä" * 50 in error.value[1]
            assert error.value[2] == {"code": "x"}
        assert max(peer.sizes) <= 512
