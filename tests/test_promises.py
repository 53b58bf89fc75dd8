"""What the agent promises to publishers and subscribers (DESIGN: Promises, Filters), over real AMQP connections."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from clacks.agent import intake
from clacks.agent.broker import inlet
from clacks.agent.broker.embedded import Relay
from clacks.amqp import (
    ACCEPTED,
    RELEASED,
    TOO_LARGE,
    AmqpError,
    Connection,
    Credentials,
    Described,
    Draft,
    Properties,
    Receiver,
    Rejected,
    Sender,
    Symbol,
    Terminus,
    Timestamp,
    connect,
)  # fmt: skip
from clacks.amqp.codec import encode
from clacks.common.xml import Limits
from clacks.testing import sample
from conftest import RunningAgent
from support import DEADLINE, End, until

DOMAIN = "org.clacks"
XQUERY = Symbol("apache.org:xquery-filter:string")
XQUERY_CODE = 0x0000468C00000005


def phone(status: str = "busy", caller: str = "012345") -> bytes:
    return (
        f'<Event xmlns="http://www.gonicus.de/Events"><PhoneStatus><CallerId>{caller}</CallerId>'
        f"<ReceiverId>1</ReceiverId><Status>{status}</Status></PhoneStatus></Event>"
    ).encode()


class Peer:
    """One AMQP client of an agent."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._publisher: tuple[Sender, End] | None = None

    async def publish(self, message: bytes | Draft, *, to: str | None = DOMAIN, settled: bool = False) -> Any:
        """Send an encoded message; answer its outcome."""
        if self._publisher is None:
            link = await self.connection.attach_sender(Terminus(to))
            end = End()
            link.handler = end
            self._publisher = link, end
        link, end = self._publisher
        await until(lambda: link.sendable, "credit")
        number = link.send(message.encode() if isinstance(message, Draft) else message, settled=settled)
        if settled:
            return None
        await until(lambda: any(found == number for found, _ in end.outcomes), "an outcome")
        return next(outcome for found, outcome in end.outcomes if found == number)

    async def subscribe(
        self, *filters: str, address: str | None = DOMAIN, window: int = 100, settled: bool = False, descriptor: Any = XQUERY
    ) -> tuple[Receiver, End]:
        described = {f"filter-{number}": Described(descriptor, text) for number, text in enumerate(filters)}
        link = await self.connection.attach_receiver(Terminus(address, filter=described), settled=settled)
        end = End()
        link.handler = end
        link.window = window
        return link, end

    async def barrier(self, end: End) -> None:
        """Wait until everything published before has reached the subscriber behind `end`, which gets events of every kind."""
        mark = phone("mark")
        assert await self.publish(Draft(mark)) == ACCEPTED
        await until(lambda: mark in end.bodies, "the mark arrives")


@asynccontextmanager
async def peer(agent: RunningAgent, user: str = "admin", password: str = "secret") -> AsyncIterator[Peer]:
    connection = await connect("localhost", agent.port, Credentials(user, password))
    try:
        yield Peer(connection)
    finally:
        connection.close()
        await connection.wait_closed()


def play(agent: RunningAgent, scene: Callable[[Peer], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE), peer(agent) as one:
            await scene(one)

    asyncio.run(bounded())


def code_of(outcome: Any) -> str:
    assert isinstance(outcome, Rejected), outcome
    return str(outcome.condition.info["code"])


# --- filters ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("descriptor", [XQUERY, XQUERY_CODE])
def test_the_answer_echoes_the_filter_in_force(shared_agent: RunningAgent, descriptor: Any) -> None:
    async def scene(one: Peer) -> None:
        given = {
            "mine": Described(descriptor, "//*:Status = 'busy'"),
            "selector": Described(Symbol("apache.org:selector-filter:string"), "a = 1"),
        }
        link = await one.connection.attach_receiver(Terminus(DOMAIN, filter=given))
        source = link.remote_source
        assert source is not None
        assert source.filter == {"mine": given["mine"]}

    play(shared_agent, scene)


def test_the_address_of_one_event(shared_agent: RunningAgent) -> None:
    async def scene(one: Peer) -> None:
        _, everything = await one.subscribe()
        _, phones = await one.subscribe(address=f"{DOMAIN}.event.PhoneStatus")
        _, narrowed = await one.subscribe("//*:Status = 'idle'", address=f"{DOMAIN}.event.PhoneStatus")
        for body in (sample("NodeLeave"), phone("idle")):
            assert await one.publish(Draft(body)) == ACCEPTED
        await one.barrier(everything)
        assert phones.bodies == [phone("idle"), phone("mark")]
        assert narrowed.bodies == [phone("idle")]

    play(shared_agent, scene)


REFUSED_SOURCES = [
    (Terminus(DOMAIN, filter={"f": Described(XQUERY, "1 +\n  )")}), "filter-invalid", "line 2, column 3"),
    (Terminus(DOMAIN, filter={"f": Described(XQUERY, "doc('/etc/passwd')")}), "filter-invalid", "doc"),
    (Terminus(DOMAIN, filter={"f": Described(XQUERY, 7)}), "filter-invalid", "string"),
    (Terminus("nowhere"), "address-unknown", DOMAIN),
    (Terminus(f"{DOMAIN}.event.PhoneStatsu"), "schema-unknown", "PhoneStatus"),
    (Terminus(f"{DOMAIN}.command.core"), "address-unknown", "dynamic source"),
    (Terminus(f"{DOMAIN}.reply.0123"), "address-unknown", "dynamic source"),
    (Terminus(None), "subscription-unknown", DOMAIN),
]


@pytest.mark.parametrize(("source", "code", "said"), REFUSED_SOURCES, ids=[row[1] + " " + row[2] for row in REFUSED_SOURCES])
def test_refused_subscriptions(shared_agent: RunningAgent, source: Terminus, code: str, said: str) -> None:
    async def scene(one: Peer) -> None:
        with pytest.raises(AmqpError) as caught:
            await one.connection.attach_receiver(source)
        assert caught.value.condition.info["code"] == code
        assert said in caught.value.condition.description
        assert one.connection.alive

    play(shared_agent, scene)


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (Terminus("nowhere"), "address-unknown"),
        (Terminus(f"{DOMAIN}.event.PhoneStatus"), "address-unknown"),
        (Terminus(f"{DOMAIN}.command.nothing"), "address-unknown"),
        (Terminus(f"{DOMAIN}.command.core.elsewhere"), "address-unknown"),
        (Terminus(f"{DOMAIN}.reply.x"), "address-unknown"),
        (Terminus(dynamic=True), "link-refused"),
    ],
    ids=lambda value: value.address if isinstance(value, Terminus) else value,
)
def test_refused_publishers(shared_agent: RunningAgent, target: Terminus, code: str) -> None:
    async def scene(one: Peer) -> None:
        with pytest.raises(AmqpError) as caught:
            await one.connection.attach_sender(target)
        assert caught.value.condition.info["code"] == code

    play(shared_agent, scene)


# --- messages --------------------------------------------------------------------------------------------------------------------

BARE = (
    b"\0\x53\x73" + encode([1, b"admin", "to", "subject", None, "correlation", Symbol("text/xml")])
    + b"\0\x80\0\0\0\0\0\0\0\x74" + encode({"a": 1, "b": 2.5})
    + b"\0\x53\x75" + encode(phone()[:50]) + b"\0\x53\x75\xb0\0\0\0\0" + b"\0\x53\x75" + encode(phone()[50:])
    + b"\0\x53\x78" + encode({Symbol("footer"): 1})
)  # fmt: skip


def test_the_bare_message_arrives_byte_for_byte(shared_agent: RunningAgent) -> None:
    async def scene(one: Peer) -> None:
        _, end = await one.subscribe()
        front = (
            b"\0\x53\x70" + encode([True, None, None]) + b"\0\x53\x71" + encode({Symbol("x-opt-hop"): 1})
            + b"\0\x53\x72" + encode({Symbol("x-opt-mine"): 7, Symbol("x-opt-clacks-user"): "root", Symbol("x-opt-clacks-else"): 1})
        )  # fmt: skip
        assert await one.publish(front + BARE) == ACCEPTED
        await until(lambda: end.received, "it arrives")
        message = end.messages[0]
        assert message.bare == BARE
        assert message.body == phone()
        annotations = dict(message.annotations)
        assert annotations.pop("x-opt-mine") == 7
        assert annotations.pop("x-opt-clacks-user") == "admin"
        assert isinstance(annotations.pop("x-opt-clacks-time"), Timestamp)
        assert annotations.pop("x-opt-clacks-id")
        assert annotations == {}

    play(shared_agent, scene)


BODIES: list[tuple[str, bytes]] = [
    ("data", b"\0\x53\x75" + encode(phone())),
    ("binary value", b"\0\x53\x77" + encode(phone())),
    ("string value", b"\0\x53\x77" + encode(phone().decode())),
    ("string with a declaration", b"\0\x53\x77" + encode("<?xml version='1.0' encoding='iso-8859-1'?>" + phone("ä").decode())),
    ("utf-16", b"\0\x53\x75" + encode(('<?xml version="1.0" encoding="utf-16"?>' + phone("ä").decode()).encode("utf-16"))),
    ("latin-1", b"\0\x53\x75" + encode(('<?xml version="1.0" encoding="iso-8859-1"?>' + phone("ä").decode()).encode("latin-1"))),
    ("bom", b"\0\x53\x75" + encode(b"\xef\xbb\xbf" + phone())),
    ("comments and instructions", b"\0\x53\x75" + encode(b"<?a b?><!-- c -->" + phone() + b"<!-- d -->")),
    ("symbolic descriptor", b"\0\xa3\x10amqp:data:binary" + encode(phone())),
]


@pytest.mark.parametrize(("name", "message"), BODIES, ids=[row[0] for row in BODIES])
def test_bodies(shared_agent: RunningAgent, name: str, message: bytes) -> None:
    async def scene(one: Peer) -> None:
        _, end = await one.subscribe("//*:Status = ('busy', 'ä')")
        assert await one.publish(message) == ACCEPTED
        await until(lambda: end.received, "it arrives")
        assert end.messages[0].bare == message

    play(shared_agent, scene)


NO_EVENTS: list[tuple[str, bytes, str]] = [
    ("no body", b"\0\x53\x73\x45", "event-empty"),
    ("nothing", b"", "event-empty"),
    ("null", b"\0\x53\x77\x40", "event-empty"),
    ("a number", b"\0\x53\x77\x54\x05", "event-body-type"),
    ("a sequence", b"\0\x53\x76\x45", "event-body-type"),
    ("garbage", b"\xff" * 40, "event-body-type"),
    ("cut off", b"\0\x53\x75\xb0\0\0\xff\xff<", "event-body-type"),
    ("content-encoding", b"\0\x53\x73" + encode([None] * 7 + [Symbol("gzip")]) + b"\0\x53\x75" + encode(phone()), "event-encoding"),
    ("properties that are none", b"\0\x53\x73\x41\0\x53\x75" + encode(phone()), "event-body-type"),
    ("a forged user-id", b"\0\x53\x73" + encode([None, b"root"]) + b"\0\x53\x75" + encode(phone()), "user-id-forged"),
    ("an annotation that cannot be written", b"\0\x53\x72" + encode({"ä": 1}) + b"\0\x53\x75" + encode(phone()), "event-body-type"),
    ("a user-id of another type", b"\0\x53\x73" + encode([None, "admin"]) + b"\0\x53\x75" + encode(phone()), "event-body-type"),
]


@pytest.mark.parametrize(("name", "message", "code"), NO_EVENTS, ids=[row[0] for row in NO_EVENTS])
def test_what_is_no_event(shared_agent: RunningAgent, name: str, message: bytes, code: str) -> None:
    async def scene(one: Peer) -> None:
        assert code_of(await one.publish(message)) == code
        assert await one.publish(Draft(phone())) == ACCEPTED

    play(shared_agent, scene)


def test_a_settled_event_that_cannot_be_taken_is_counted(agent: RunningAgent) -> None:
    async def scene(one: Peer) -> None:
        before = agent.agent.broker.intake.refused
        await one.publish(Draft(b"<nonsense/>"), settled=True)
        await until(lambda: agent.agent.broker.intake.refused == before + 1, "it is counted")

    play(agent, scene)


def test_a_settled_message_that_is_too_large_is_counted(agent: RunningAgent) -> None:
    async def scene(one: Peer) -> None:
        intake, end = agent.agent.broker.intake, End()
        link = await one.connection.attach_sender(Terminus(DOMAIN), handler=end)
        link.send(Draft(b" " * 3 * Limits().size).encode(), settled=True)
        await until(lambda: end.ended, "the link is ended")
        assert end.ended[0][0].name == TOO_LARGE
        assert intake.refusals == {"event-too-large": 1}

    play(agent, scene)


def test_the_anonymous_terminus(shared_agent: RunningAgent) -> None:
    async def scene(one: Peer) -> None:
        _, end = await one.subscribe("//*:PhoneStatus")
        link = await one.connection.attach_sender(Terminus(None))
        outcomes = End()
        link.handler = outcomes
        await until(lambda: link.sendable, "credit")
        link.send(Draft(phone(), Properties(to=DOMAIN)).encode())
        link.send(Draft(phone(), Properties(to="nowhere")).encode())
        link.send(Draft(phone()).encode())
        await until(lambda: len(outcomes.outcomes) == 3, "three outcomes")
        by_number = [outcome for _, outcome in sorted(outcomes.outcomes, key=lambda pair: pair[0])]
        assert by_number[0] == ACCEPTED
        assert [code_of(outcome) for outcome in by_number[1:]] == ["address-unknown", "address-unknown"]
        await until(lambda: end.received, "it arrives")

    play(shared_agent, scene)


def test_what_the_anonymous_terminus_cannot_pass_on_is_counted(agent: RunningAgent) -> None:
    async def scene(one: Peer) -> None:
        link = await one.connection.attach_sender(Terminus(None))
        await until(lambda: link.sendable, "credit")
        link.send(Draft(phone(), Properties(to="nowhere")).encode(), settled=True)
        await until(lambda: agent.agent.broker.intake.refusals == {"address-unknown": 1}, "it is counted")

    play(agent, scene)


def test_one_address_is_one_way_however_it_is_written(shared_agent: RunningAgent) -> None:
    """Slashes around an address mean nothing: the events of a link keep their order, and nothing is kept of each spelling."""

    async def scene(one: Peer) -> None:
        _, end = await one.subscribe("//*:PhoneStatus")
        link = await one.connection.attach_sender(Terminus(None))
        await until(lambda: link.credit >= 30, "credit")
        sent = [phone(f"{number:04}" * (40_000 if number == 0 else 1)) for number in range(30)]
        for number, body in enumerate(sent):
            link.send(Draft(body, Properties(to="/" * number + DOMAIN)).encode())
        await until(lambda: len(end.received) == len(sent), "all arrive")
        assert end.bodies == sent
        relays = [one.handler for connection in shared_agent.agent.broker.connections for one in connection._links.values()]
        assert [len(relay._entrances) for relay in relays if isinstance(relay, Relay)] == [1]

    play(shared_agent, scene)


# --- order, time, room -----------------------------------------------------------------------------------------------------------


def test_what_goes_wrong_with_one_event_does_not_hold_up_the_next(agent: RunningAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever carries verdicts out fails: the publisher is told, and what waits behind a large event has its turn."""
    driver = agent.agent.broker
    real = driver.hand_over

    def failing(incoming: Any, *rest: Any) -> None:
        if b"broken" in incoming.body:
            raise LookupError("a fault")
        real(incoming, *rest)

    monkeypatch.setattr(driver, "hand_over", failing)

    async def scene(one: Peer) -> None:
        link, end = await one.connection.attach_sender(Terminus(DOMAIN)), End()
        link.handler = end
        for status in ("x" * 100_000, "broken", "busy"):
            link.send(Draft(phone(status)).encode())
        await until(lambda: len(end.outcomes) == 3, "all have their outcome")
        assert [code_of(outcome) if outcome != ACCEPTED else "" for _, outcome in sorted(end.outcomes, key=lambda pair: pair[0])] == [
            "",
            "internal",
            "",
        ]
        assert agent.agent.broker.intake._waiting == 0

    play(agent, scene)


def test_a_publisher_of_large_events_has_to_wait_and_costs_a_bounded_amount(agent: RunningAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not being worked on stays in the engine, and there the session's window bounds it."""
    size, most = 100_000, []
    monkeypatch.setattr(inlet, "WORK_LIMIT", 3 * size)
    begin = inlet.Inlet.begin

    def counting(self: inlet.Inlet, size: int) -> None:
        begin(self, size)
        most.append(self._work)

    monkeypatch.setattr(inlet.Inlet, "begin", counting)

    async def scene(one: Peer) -> None:
        _, end = await one.subscribe("//*:PhoneStatus")
        link = await one.connection.attach_sender(Terminus(DOMAIN))
        link.handler = outcomes = End()
        sent = [phone(caller=str(number).rjust(size, "0")) for number in range(40)]
        for body in sent:
            await until(lambda: link.sendable, "room")
            link.send(Draft(body).encode())
        await until(lambda: len(outcomes.outcomes) == len(end.received) == len(sent), "all are settled")
        assert {outcome for _, outcome in outcomes.outcomes} == {ACCEPTED}
        assert end.bodies == sent

    play(agent, scene)
    assert size < max(most) <= 4 * (size + 1000)


def test_an_agent_with_too_much_to_do_says_released(agent: RunningAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "WAITING_LIMIT", 150_000)

    async def scene(one: Peer) -> None:
        assert await one.publish(Draft(phone(caller="1" * 100_000))) == ACCEPTED
        assert await one.publish(Draft(phone(caller="1" * 200_000))) == RELEASED
        assert await one.publish(Draft(phone())) == ACCEPTED

    play(agent, scene)


def test_an_expired_event_is_not_delivered(agent: RunningAgent) -> None:
    async def scene(one: Peer) -> None:
        link, end = await one.subscribe(window=0)
        await one.publish(Draft(phone("gone"), ttl=30))
        over = time.monotonic() + 0.03
        await one.publish(Draft(phone("late"), Properties(absolute_expiry_time=1000)))
        await one.publish(Draft(phone("long"), ttl=60_000))
        await one.publish(Draft(phone("ever")))
        await until(lambda: time.monotonic() > over, "the time of the first one is over")
        link.window = 10
        await until(lambda: len(end.received) == 2, "two arrive")
        assert end.bodies == [phone("long"), phone("ever")]
        assert 0 < (end.messages[0].header.ttl or 0) <= 60_000
        assert agent.subscriptions[0].expired == 1

    play(agent, scene)


def test_a_subscriber_that_takes_nothing_keeps_the_newest(tmp_path: Any) -> None:
    with RunningAgent(tmp_path, {"queue.events": 10}) as agent:

        async def scene(one: Peer) -> None:
            link, end = await one.subscribe("//*:PhoneStatus", window=0)
            for number in range(25):
                assert await one.publish(Draft(phone(str(number)))) == ACCEPTED
            link.window = 100
            await until(lambda: len(end.received) == 10, "ten arrive")
            assert end.bodies == [phone(str(number)) for number in range(15, 25)]
            assert agent.subscriptions[0].dropped == 15

        play(agent, scene)


def test_settled_and_unsettled_subscribers(shared_agent: RunningAgent) -> None:
    async def scene(one: Peer) -> None:
        _, settled = await one.subscribe("//*:PhoneStatus", settled=True)
        _, unsettled = await one.subscribe("//*:PhoneStatus")
        await one.publish(Draft(phone()))
        await until(lambda: settled.received and unsettled.received, "both get it")
        assert settled.received[0][2] is True
        assert unsettled.received[0][2] is False

    play(shared_agent, scene)


def test_what_subscribes_also_unsubscribes(agent: RunningAgent) -> None:
    async def scene(one: Peer) -> None:
        before = agent.run(lambda: agent.agent.bus.subscriptions)
        for _ in range(300):
            link, _ = await one.subscribe("//*:Status = 'busy'")
            link.close()
        replies = await one.connection.attach_receiver(Terminus(dynamic=True))
        replies.close()
        await until(lambda: agent.run(lambda: agent.agent.bus.subscriptions) == before, "the bus is as before")
        broker = agent.agent.broker
        await until(lambda: not agent.run(lambda: (*broker.subscriptions.all, *broker.subscriptions.replies)), "nothing is left")

    play(agent, scene)


# --- commands --------------------------------------------------------------------------------------------------------------------


async def call(one: Peer, body: Any, *, to: str = f"{DOMAIN}.command.core", reply_to: str | None = "mine") -> Any:
    """The JSON answer to a raw request, or its outcome if it is not accepted."""
    replies = await one.connection.attach_receiver(Terminus(dynamic=True))
    replies.handler = answers = End()
    replies.window = 10
    source = replies.remote_source
    assert source is not None
    requests = await one.connection.attach_sender(Terminus(to))
    requests.handler = end = End()
    await until(lambda: requests.sendable, "credit")
    requests.send(Draft(body, Properties(message_id="m-1", reply_to=source.address if reply_to == "mine" else reply_to)).encode())
    await until(lambda: end.outcomes, "an outcome")
    if end.outcomes[0][1] != ACCEPTED:
        return end.outcomes[0][1]
    await until(lambda: answers.received, "an answer")
    assert answers.messages[0].properties.correlation_id == "m-1"
    return json.loads(answers.bodies[0])


def test_commands(shared_agent: RunningAgent) -> None:
    node = shared_agent.agent.node_id

    async def scene(one: Peer) -> None:
        assert await call(one, '{"method": "getSessionUser", "id": 7}') == {"result": "admin", "error": None, "id": 7}
        assert (await call(one, b'{"method": "getNodes", "params": [], "id": null}'))["result"].keys() == {node}
        assert node in (await call(one, '{"method": "getNodes"}', to=f"{DOMAIN}.command.core.{node}"))["result"]
        methods = (await call(one, '{"method": "getMethods", "params": {}}'))["result"]
        assert {"getMethods", "getNodes", "getSessionUser", "sendEvent", "getEvents", "getSchema", "shutdown"} <= methods.keys()
        assert methods["sendEvent"]["signature"] == ["data"]
        assert methods["getNodes"]["doc"]

    play(shared_agent, scene)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("not json", "command-malformed"),
        ("[" * 100_000, "command-malformed"),
        ("[]", "command-malformed"),
        ('{"method": 5}', "command-malformed"),
        ('{"method": "getNodes", "params": 5}', "command-malformed"),
        ('{"method": "getNode"}', "command-unknown"),
        ('{"method": "__init__"}', "command-unknown"),
        ('{"method": "getNodes", "params": [1]}', "command-arguments"),
        ('{"method": "getSchema", "params": {"nam": 1}}', "command-arguments"),
        ('{"method": "getSchema", "params": ["PhoneStatsu"]}', "schema-unknown"),
        ('{"method": "sendEvent", "params": [5]}', "command-arguments"),
        ('{"method": "sendEvent", "params": ["<a/>"]}', "event-root"),
    ],
)
def test_errors_come_back_as_errors(shared_agent: RunningAgent, body: str, code: str) -> None:
    async def scene(one: Peer) -> None:
        answer = await call(one, body)
        assert answer["result"] is None
        assert answer["error"]["code"] == code
        assert answer["error"]["message"]

    play(shared_agent, scene)


def test_a_reply_goes_only_to_an_address_of_ones_own(shared_agent: RunningAgent) -> None:
    async def scene(one: Peer) -> None:
        async with peer(shared_agent, "guest", "guest") as other:
            theirs = await other.connection.attach_receiver(Terminus(dynamic=True))
            source = theirs.remote_source
            assert source is not None
            request = '{"method": "getNodes"}'
            assert code_of(await call(one, request, reply_to=source.address)) == "address-unknown"
            assert code_of(await call(one, request, reply_to="nowhere")) == "address-unknown"

    play(shared_agent, scene)


def test_only_an_administrator_stops_an_agent(agent: RunningAgent) -> None:
    async def scene(one: Peer) -> None:
        async with peer(agent, "guest", "guest") as guest:
            assert (await call(guest, '{"method": "shutdown"}'))["error"]["code"] == "not-permitted"
        assert (await call(one, '{"method": "shutdown"}'))["result"] is True

    play(agent, scene)
    agent._thread.join(DEADLINE)
    assert not agent._thread.is_alive()
