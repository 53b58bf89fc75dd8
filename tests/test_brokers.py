"""Brokers of others: what the table says of them, RabbitMQ's management through our own AMQP layer, and RabbitMQ as the tests run it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote

import pytest

from brokers import ADMIN, RabbitMQ
from clacks.amqp import (
    ACCEPTED,
    Condition,
    Connection,
    Credentials,
    Described,
    Draft,
    Int,
    Message,
    Modified,
    Options,
    Outcome,
    Properties,
    Receiver,
    SaslFailure,
    Symbol,
    Terminus,
    Timestamp,
    UInt,
    annotate,
    connect,
)
from clacks.common.brokers import DIALECTS, WAYS, Broker, Dialect, Feature, Management, domain_broker, recognise
from clacks.common.components.url import parse_url
from clacks.common.errors import ClacksError
from support import End, eventually, run, until

RABBITMQ, ACTIVEMQ, ARTEMIS, QPIDD = DIALECTS


# --- the table -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"product": "RabbitMQ", "version": "4.0.5"}, "RabbitMQ 4.0.5"),
        ({"product": "RabbitMQ", "version": "4.1.0-beta.3"}, "RabbitMQ 4.1.0"),
        ({"product": "ActiveMQ", "version": "5.17.6"}, "ActiveMQ 5.17.6"),
        ({"product": "apache-activemq-artemis", "version": "2.37.0"}, "Artemis 2.37.0"),
        ({"product": "qpid-cpp", "version": "1.39.0"}, "qpidd 1.39.0"),
    ],
)
def test_a_broker_is_told_from_its_open(properties: dict[str, str], expected: str) -> None:
    assert str(recognise(properties, "amqp://broker")) == expected


@pytest.mark.parametrize(
    ("properties", "sentence"),
    [
        ({"product": "RabbitMQ", "version": "3.13.7"}, "it is RabbitMQ 3.13.7. Use RabbitMQ 4 or ActiveMQ 5.14 or later."),
        ({"product": "RabbitMQ"}, "it is RabbitMQ of an unknown version. Use RabbitMQ 4 or ActiveMQ 5.14 or later."),
        ({"product": "Mosquitto", "version": "2"}, "it calls itself 'Mosquitto', which is no broker that a domain can run on. Use R"),
        ({}, "it does not say what it is. Use RabbitMQ 4 or ActiveMQ 5.14 or later."),
    ],
)
def test_a_broker_that_will_not_do_is_refused_with_what_would(properties: dict[str, str], sentence: str) -> None:
    with pytest.raises(ClacksError) as caught:
        recognise(properties, "amqp://broker")
    assert caught.value.code == "broker-unusable"
    assert str(caught.value).startswith(f"The broker at amqp://broker will not do: {sentence}")


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_domain_runs_on_a_broker_that_has_all_it_needs_or_is_told_what_is_missing(dialect: Dialect) -> None:
    told = {"product": dialect.product, "version": ".".join(map(str, dialect.oldest))}
    missing = min(([feature for feature in way if feature not in dialect.since] for way in WAYS), key=len)
    if not missing:
        assert domain_broker(told, "amqp://broker").dialect is dialect
        assert dialect in (RABBITMQ, ACTIVEMQ)
        return
    with pytest.raises(ClacksError) as caught:
        domain_broker(told, "amqp://broker")
    assert caught.value.code == "broker-unusable"
    assert all(feature.value in str(caught.value) for feature in missing)
    assert str(caught.value).endswith("Use RabbitMQ 4 or ActiveMQ 5.14 or later.")


@pytest.mark.parametrize(
    ("dialect", "queue", "exclusive", "entry"),
    [
        (RABBITMQ, "/queues/org.clacks", "/queues/org.clacks", "/exchanges/org.clacks/events.1"),
        (ACTIVEMQ, "queue://org.clacks", "queue://org.clacks?consumer.exclusive=true", "queue://org.clacks.events.1"),
        (ARTEMIS, "org.clacks", "org.clacks", "org.clacks.events.1"),
        (QPIDD, "org.clacks", "org.clacks", "org.clacks"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_addresses(dialect: Any, queue: str, exclusive: str, entry: str) -> None:
    broker = Broker(dialect, dialect.oldest)
    assert broker.queue("org.clacks").address == queue
    assert broker.queue("org.clacks", exclusive=True).address == exclusive
    assert broker.entry("org.clacks", "events.1").address == entry


def test_a_key_is_a_part_of_an_address_and_no_more() -> None:
    assert Broker(RABBITMQ, (4, 0)).entry("org.clacks", "a/b").address == "/exchanges/org.clacks/a%2Fb"
    with pytest.raises(ClacksError, match="means something else"):
        Broker(ACTIVEMQ, (5, 17)).entry("org.clacks", "a?b")


def test_a_name_that_has_no_place_in_an_address_is_spelled_otherwise() -> None:
    broker = Broker(ACTIVEMQ, (5, 17))
    for name in ("anna@work", "a,b", "a>", "*", "a b", "ä", "a?consumer.exclusive=true", "anna%2Ework"):
        assert broker.queue(broker.spelled(name)).address == f"queue://{quote(name, safe='%')}"
    assert Broker(RABBITMQ, (4, 0)).spelled("a b") == "a b"


@pytest.mark.parametrize("name", ["a/b", "ä", "queue?consumer.exclusive=true", "a,b", "a>", "a::b", "", "a b"])
def test_a_name_is_escaped_or_refused_but_never_means_something_else(name: str) -> None:
    address = Broker(RABBITMQ, (4, 0)).queue(name).address
    assert address is not None
    assert address.count("/") == 2
    assert address.isascii()
    assert unquote(address.removeprefix("/queues/")) == name
    for dialect in (ACTIVEMQ, ARTEMIS, QPIDD):
        with pytest.raises(ClacksError, match="means something else"):
            Broker(dialect, dialect.oldest).queue(name)


def test_features_come_with_versions() -> None:
    old, young = Broker(RABBITMQ, (4, 0, 5)), Broker(RABBITMQ, (4, 3, 6))
    declared, used = WAYS
    assert {feature for feature in Feature if old.has(feature)} == {*declared, Feature.BOTH_WAYS, Feature.TIMESTAMPS}
    assert {feature for feature in Feature if not young.has(feature)} == set(used)
    assert not Broker(ACTIVEMQ, (5, 17)).has(Feature.STREAMS)


# --- RabbitMQ's management -------------------------------------------------------------------------------------------------------


async def dial(url: str) -> Connection:
    place = parse_url(url)
    return await connect(place.host, place.port, Credentials(place.user, place.password), Options(hostname=place.host))


@contextlib.asynccontextmanager
async def managed(broker: RabbitMQ, user: str = ADMIN.name) -> AsyncIterator[tuple[Connection, Management]]:
    connection = await dial(broker.url(user))
    try:
        yield connection, await Management.attach(connection)
    finally:
        connection.close()
        await connection.wait_closed()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses, with all that an address may stumble on."""
    return f"{request.node.name} / ä%2F?#"


def status(caught: pytest.ExceptionInfo[ClacksError]) -> int:
    return int(caught.value.values["status"])


def test_it_is_recognised_over_the_wire(rabbitmq: RabbitMQ) -> None:
    @run
    async def scene() -> None:
        connection = await dial(rabbitmq.url())
        broker = recognise(connection.remote_properties, rabbitmq.url())
        assert str(broker) == f"RabbitMQ {rabbitmq.version}"
        connection.close()
        await connection.wait_closed()

    scene()


def test_a_queue_is_declared_described_purged_and_deleted(rabbitmq: RabbitMQ, name: str) -> None:
    @run
    async def scene() -> None:
        async with managed(rabbitmq) as (connection, management):
            arguments = {"x-queue-type": "quorum", "x-max-length": 1000}
            declared = await management.declare_queue(name, arguments=arguments)
            assert (declared.name, declared.type, declared.durable, declared.messages) == (name, "quorum", True, 0)
            assert declared.arguments == arguments
            assert await management.declare_queue(name, arguments=arguments) == declared

            sender = await connection.attach_sender(recognise(connection.remote_properties, "").queue(name))
            sender.handler = sent = End()
            await until(lambda: sender.sendable, "credit")
            for _ in range(3):
                sender.send(Draft(b"event").encode())
            await until(lambda: len(sent.outcomes) == 3, "three outcomes")

            found = await management.queue_info(name)
            assert found is not None
            assert (found.messages, found.consumers) == (3, 0)
            assert await management.purge_queue(name) == 3
            assert await management.delete_queue(name) == 0
            assert await management.queue_info(name) is None
            assert await management.delete_queue(name) == 0

    scene()


def test_a_queue_that_exists_otherwise_is_a_conflict_in_the_brokers_words(rabbitmq: RabbitMQ, name: str) -> None:
    @run
    async def scene() -> None:
        async with managed(rabbitmq) as (_, management):
            await management.declare_queue(name, arguments={"x-queue-type": "quorum"})
            with pytest.raises(ClacksError, match="inequivalent arg 'x-queue-type'") as caught:
                await management.declare_queue(name, arguments={"x-queue-type": "classic"})
            assert status(caught) == 409
            assert str(caught.value).startswith(f"Declaring the queue {name!r}: the broker says: ")
            assert str(caught.value).endswith("Delete it on the broker, or ask for it as it is.")
            assert management.alive
            await management.delete_queue(name)

    scene()


def test_an_exclusive_queue_goes_with_its_connection(rabbitmq: RabbitMQ, name: str) -> None:
    @run
    async def scene() -> None:
        async with managed(rabbitmq) as (_, management):
            async with managed(rabbitmq) as (_, other):
                made = await other.declare_queue(name, durable=False, exclusive=True, auto_delete=True)
                assert (made.exclusive, made.auto_delete, made.durable) == (True, True, False)
                with pytest.raises(ClacksError, match="exclusive access"):
                    await management.declare_queue(name, durable=False, exclusive=True, auto_delete=True)

            async def gone() -> bool:
                return await management.queue_info(name) is None

            await eventually(gone, "the queue is gone")

    scene()


def test_bindings_route_and_go(rabbitmq: RabbitMQ, name: str) -> None:
    @run
    async def scene() -> None:
        async with managed(rabbitmq) as (connection, management):
            await management.declare_exchange(name)
            await management.declare_exchange(name)
            with pytest.raises(ClacksError, match="inequivalent arg 'type'") as caught:
                await management.declare_exchange(name, "topic")
            assert status(caught) == 409
            with pytest.raises(ClacksError, match="no queue"):
                await management.bind(name, name, "key")
            await management.declare_queue(name)
            assert await management.bindings(name, name, "key/1") == []
            await management.bind(name, name, "key/1")
            await management.bind(name, name, "key/1")
            (binding,) = await management.bindings(name, name, "key/1")
            assert (binding.exchange, binding.queue, binding.key, binding.arguments) == (name, name, "key/1", {})

            broker = recognise(connection.remote_properties, "")
            sender = await connection.attach_sender(broker.entry(name, "key/1"))
            sender.handler = sent = End()
            await until(lambda: sender.sendable, "credit")
            sender.send(Draft(b"event", Properties(subject="ignored")).encode())
            await until(lambda: sent.outcomes, "an outcome")
            receiver = await connection.attach_receiver(broker.queue(name))
            receiver.handler = got = End()
            receiver.window = 10
            await until(lambda: got.bodies == [b"event"], "the event")
            receiver.close()

            await management.unbind(name, name, "key/1")
            await management.unbind(name, name, "key/1")
            assert await management.bindings(name, name, "key/1") == []
            await management.delete_queue(name)
            await management.delete_exchange(name)
            await management.delete_exchange(name)

    scene()


def test_requests_at_once_each_get_their_own_answer(rabbitmq: RabbitMQ, name: str) -> None:
    @run
    async def scene() -> None:
        async with managed(rabbitmq) as (_, management):
            names = [f"{name}-{number}" for number in range(100)]
            made = await asyncio.gather(*(management.declare_queue(each, durable=False, auto_delete=True) for each in names))
            assert [queue.name for queue in made] == names
            await asyncio.gather(*map(management.delete_queue, names))
            assert await asyncio.gather(*map(management.queue_info, names)) == [None] * 100

    scene()


def test_without_permission_the_request_fails_and_the_links_are_gone(rabbitmq: RabbitMQ, name: str) -> None:
    rabbitmq.add_user("limited", "pass/word@", ("^mine", "^mine", "^mine"))

    @run
    async def scene() -> None:
        async with managed(rabbitmq, "limited") as (connection, management):
            await management.declare_queue("mine", durable=False, auto_delete=True)
            requests = (management.declare_queue(name), management.declare_queue(f"{name} too"))
            for result in await asyncio.gather(*requests, return_exceptions=True):
                assert isinstance(result, ClacksError)
                assert result.values.get("status") == 403, str(result)
                assert f"configure access to queue '{name}" in str(result)
            assert not management.alive
            with pytest.raises(ClacksError, match="configure access"):
                await management.queue_info("mine")
            again = await Management.attach(connection)
            await again.delete_queue("mine")

    scene()


def test_a_broker_that_dies_fails_what_is_asked_and_comes_back_with_what_it_had(name: str, rabbitmq: RabbitMQ) -> None:
    """`rabbitmq` is not asked; where it is left out, this is too."""

    @run
    async def scene() -> None:
        with RabbitMQ() as broker:
            connection = await dial(broker.url())
            management = await Management.attach(connection)
            await management.declare_queue(name, arguments={"x-queue-type": "quorum"})
            sender = await connection.attach_sender(recognise(connection.remote_properties, "").queue(name))
            sender.handler = sent = End()
            await until(lambda: sender.sendable, "credit")
            for number in range(50):
                sender.send(Draft(b"%d" % number).encode())
            await until(lambda: len(sent.outcomes) == 50, "fifty outcomes")
            assert {outcome for _, outcome in sent.outcomes} == {ACCEPTED}

            await asyncio.to_thread(broker.flush)
            asking = asyncio.gather(*(management.queue_info(name) for _ in range(20)), return_exceptions=True)
            broker.kill()
            results = await asking
            assert all(isinstance(result, ClacksError) and result.code == "connection-lost" for result in results if result)
            with pytest.raises(ClacksError, match="connection"):
                await management.queue_info(name)

            await asyncio.to_thread(broker.start)
            async with managed(broker) as (again, restored):
                assert await restored.queue_info(name) is not None
                receiver = await again.attach_receiver(recognise(again.remote_properties, "").queue(name))
                receiver.handler = got = End()
                receiver.window = 100
                await until(lambda: len(got.received) == 50, "fifty messages")
                assert got.bodies == [b"%d" % number for number in range(50)]

    scene()


def test_an_answer_that_does_not_come_is_a_time_out() -> None:
    @run
    async def scene() -> None:
        link: Any = _Mute()
        management = Management(link, link, timeout=0.05)
        with pytest.raises(ClacksError, match=r"^Looking at the queue 'q' was not answered within 0\.05 s") as caught:
            await management.queue_info("q")
        assert caught.value.code == "command-timeout"
        assert link.sent
        management.message(link, 1, b"nonsense", True)  # nobody waits any more, and nothing breaks
        management.message(link, 2, Draft(None, Properties(correlation_id="1", subject="200")).encode(), True)
        link.alive = False
        management.detached(link, Condition("amqp:resource-deleted", "gone"), closed=True)
        with pytest.raises(ClacksError, match="gone"):
            await management.queue_info("q")

    scene()


class _Mute:
    """Both links at once, of a broker that takes requests and never answers."""

    alive = sendable = True
    handler: Any = None
    window = 0

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, encoded: bytes, *, settled: bool) -> None:
        assert settled
        self.sent.append(Message(encoded))
        assert self.sent[-1].properties.to == "/queues/q"


# --- what a domain stands on -----------------------------------------------------------------------------------------------------


async def put(connection: Connection, target: Terminus, *encoded: bytes) -> list[Outcome]:
    """Send on a link of its own; the outcomes in the order of sending."""
    end = End()
    sender = await connection.attach_sender(target, handler=end)
    for message in encoded:
        await until(lambda: sender.sendable or not sender.alive, "credit")
        sender.send(message)
    await until(lambda: len(end.outcomes) == len(encoded) or end.ended, "outcomes")
    sender.close()
    return [outcome for _, outcome in end.outcomes]


async def take(connection: Connection, source: Terminus, **options: Any) -> tuple[Receiver, End]:
    end = End(**options)
    receiver = await connection.attach_receiver(source, handler=end)
    receiver.window = 100
    return receiver, end


@pytest.mark.parametrize("kind", ["classic", "quorum", "stream"])
def test_the_bare_message_and_our_annotations_pass_as_they_are(rabbitmq: RabbitMQ, name: str, kind: str) -> None:
    @run
    async def scene() -> None:
        properties = Properties("id-1", b"admin", subject="s", content_type="text/xml", absolute_expiry_time=4_000_000_000_000)
        draft = Draft(b"one ", properties, {"a.b": True, "n": 2**40, "u": UInt(5)}).encode()
        wide = b"\0\x80" + (0x74).to_bytes(8, "big") + b"\xd1\0\0\0\x12\0\0\0\x02\xa1\x03abc\x81" + (7).to_bytes(8, "big")
        bares = [draft + b"\0\x53\x75\xb0\0\0\0\x03two", wide + b"\0\x53\x77\xb1\0\0\0\x02hi"]
        ours = {"x-opt-clacks-id": "e1", "x-opt-clacks-time": Timestamp(1_700_000_000_000), "x-opt-clacks-list": ["a", 1, {"k": "v"}]}
        async with managed(rabbitmq) as (connection, management):
            await management.declare_queue(name, arguments={"x-queue-type": kind})
            broker = recognise(connection.remote_properties, "")
            assert await put(connection, broker.queue(name), *(annotate(bare, ours, ttl=60_000) for bare in bares)) == [ACCEPTED] * 2
            _, end = await take(connection, replace(broker.queue(name), filter=FIRST if kind == "stream" else {}))
            await until(lambda: len(end.received) == 2, "both messages")
            assert [message.bare for message in end.messages] == bares
            for message in end.messages:
                assert {key: message.annotations[key] for key in ours} == ours
                assert message.header.ttl == 60_000
            await management.delete_queue(name)

    scene()


OFFSET = Symbol("rabbitmq:stream-offset-spec")
FIRST = {OFFSET: Described(OFFSET, "first")}


def test_a_stream_is_one_log_for_all_its_readers(rabbitmq: RabbitMQ, name: str) -> None:
    @run
    async def scene() -> None:
        async with managed(rabbitmq) as (connection, management), managed(rabbitmq) as (second, _):
            await management.declare_queue(name, arguments={"x-queue-type": "stream", "x-max-length-bytes": 1_000_000})
            source = recognise(connection.remote_properties, "").queue(name)
            _, live = await take(second, replace(source, filter={OFFSET: Described(OFFSET, "next")}))
            writers = (put(each, source, *(Draft(b"%d-%d" % (number, n)).encode() for n in range(50))) for number, each in
                       enumerate((connection, second)))  # fmt: skip
            assert await asyncio.gather(*writers) == [[ACCEPTED] * 50] * 2
            _, again = await take(connection, replace(source, filter=FIRST))
            _, middle = await take(connection, replace(source, filter={OFFSET: Described(OFFSET, 70)}))
            await until(lambda: (len(live.received), len(again.received), len(middle.received)) == (100, 100, 30), "all that was written")
            assert again.bodies == live.bodies
            assert middle.bodies == live.bodies[70:]
            assert [message.annotations["x-stream-offset"] for message in again.messages] == list(range(100))
            await management.delete_queue(name)

    scene()


def test_of_the_consumers_of_a_queue_the_one_with_the_highest_priority_is_active(rabbitmq: RabbitMQ, name: str) -> None:
    """The former keeps what it has not settled, and its successor gets nothing until then. When a consumer goes, the next has all of it.

    What is given back is `modified`: if `released` is the last settlement, 4.0.5 leaves both without a message until somebody attaches."""

    @run
    async def scene() -> None:
        async with managed(rabbitmq) as (connection, management), managed(rabbitmq) as (second, _):
            await management.declare_queue(name, arguments={"x-queue-type": "quorum", "x-single-active-consumer": True})
            queue = recognise(connection.remote_properties, "").queue(name)
            low, high = End(None), End(None)
            first = await connection.attach_receiver(queue, handler=low, properties={"rabbitmq:priority": Int(1)})
            first.window = 10
            await put(connection, queue, *(Draft(b"%d" % number).encode() for number in range(2)))
            await until(lambda: low.bodies == [b"0", b"1"], "the first two")
            (await second.attach_receiver(queue, handler=high, properties={"rabbitmq:priority": Int(2)})).window = 10
            await put(connection, queue, Draft(b"2").encode())
            assert (low.bodies, high.bodies) == ([b"0", b"1"], [])
            first.settle(low.received[0][0], ACCEPTED)
            first.settle(low.received[1][0], Modified(failed=False))
            await until(lambda: high.bodies == [b"1", b"2"], "what the former gave back, and what came since")
            second.abort()
            await until(lambda: low.bodies == [b"0", b"1", b"1", b"2"], "what the lost one had")
            assert [message.header.delivery_count for message in low.messages] == [0, 0, 1, 1]
            first.close()
            await management.delete_queue(name)

    scene()


def test_a_forged_user_id_is_refused_by_the_broker(rabbitmq: RabbitMQ, name: str) -> None:
    @run
    async def scene() -> None:
        async with managed(rabbitmq) as (connection, management):
            await management.declare_queue(name, arguments={"x-queue-type": "quorum"})
            queue = recognise(connection.remote_properties, "").queue(name)
            assert await put(connection, queue, Draft(b"true", Properties(user_id=ADMIN.name.encode())).encode()) == [ACCEPTED]
            end = End()
            sender = await connection.attach_sender(queue, handler=end, alone=True)
            await until(lambda: sender.sendable, "credit")
            sender.send(Draft(b"forged", Properties(user_id=b"somebody")).encode())
            await until(lambda: end.ended, "the link's end")
            assert "user_id property set to 'somebody' but authenticated user was 'admin'" in str(end.ended[0][0])
            assert management.alive
            found = await management.queue_info(name)
            assert found is not None
            assert found.messages == 1
            await management.delete_queue(name)

    scene()


# --- the broker as the tests run it -----------------------------------------------------------------------------------------------


def test_nobody_gets_in_without_a_password(rabbitmq: RabbitMQ) -> None:
    @run
    async def scene() -> None:
        place = parse_url(rabbitmq.url())
        wrong = (Credentials("", ""), Credentials(ADMIN.name, "wrong"), Credentials("guest", "guest"))
        attempts = (connect(place.host, place.port, credentials) for credentials in wrong)  # each costs three seconds
        for result in await asyncio.gather(*attempts, return_exceptions=True):
            assert isinstance(result, SaslFailure)

    scene()
