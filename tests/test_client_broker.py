"""The client library with the URL of a broker, on a real RabbitMQ: what it does there that it does not do with an agent's.

`StandIn` takes an agent's place for what cannot be had from one. What is alike in both is in test_bus.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import clacks
from brokers import ADMIN, AGENT, RabbitMQ
from clacks.amqp import ACCEPTED, Connection, Draft, Message, Properties, Receiver, Sender
from clacks.common.brokers import Broker, Management, recognise
from clacks.common.components.client import BusClient, Keep, dial
from clacks.common.components.url import parse_url
from clacks.common.errors import ClacksError
from clacks.testing import sample
from conftest import RunningAgent
from support import End, run, until

BUSY = "//*:PhoneStatus[*:Status = 'busy']"
PHONE = sample("PhoneStatus")


def numbered(number: int) -> bytes:
    return PHONE.replace(b"012345", str(number).encode())


def number_of(event: Any) -> int:
    return int(event.tree.PhoneStatus.CallerId)


async def failing(work: Any) -> ClacksError:
    with pytest.raises(ClacksError) as caught:
        await work
    return caught.value


# --- a real agent ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def agent(rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """An agent of a domain of this file's own."""
    settings = {"broker.url": [rabbitmq.url(AGENT.name)], "domain": "client", "listen": []}
    with RunningAgent(tmp_path_factory.mktemp("state"), settings) as running:
        yield running


@pytest.fixture
def url(rabbitmq: RabbitMQ, agent: RunningAgent) -> str:
    return f"{rabbitmq.url()}/client"


def cut(bus: BusClient) -> None:
    """The connection is gone, as when a cable is pulled."""
    assert bus._route is not None
    bus._route.connection.abort()


def test_the_consumer_of_a_suspended_subscription_is_told_why(url: str, agent: RunningAgent) -> None:
    @run
    async def scene() -> None:
        keep = Keep(durable="dear", replace=True)
        async with clacks.connect(url) as bus:
            events = await bus.events(BUSY, keep=keep).open()
            await bus.send(numbered(1))
            assert number_of(await anext(events)) == 1
            (known,) = agent.subscriptions
            control: Any = agent.agent.broker.control  # type: ignore[attr-defined]
            agent.run(lambda: control.suspend(known.id, known.terms.filters, "it took 5 s."))
            await until(lambda: known.suspension, "the domain has it")
            bus._leases.soon()
            told = await failing(anext(events))
            assert (told.code, "it took 5 s." in str(told)) == ("filter-suspended", True)
            assert (await failing(bus.events(BUSY, keep=Keep(durable="dear")).open())).code == "filter-suspended"
            (shown,) = await bus.call("getSubscriptions")
            assert shown["suspended"] == "it took 5 s."
            again = await bus.events(BUSY, keep=keep).open()
            await bus.send(numbered(2))
            assert number_of(await anext(again)) == 2
            again.close(delete=True)
        await until(lambda: not agent.subscriptions, "it is deleted")

    scene()


def test_a_durable_subscription_whose_queue_the_broker_has_lost_gets_another(url: str, agent: RunningAgent) -> None:
    @run
    async def scene() -> None:
        keep = Keep(durable="lost")
        async with clacks.connect(url) as bus, managed(bus) as management:
            (await bus.events(BUSY, keep=keep).open()).close()
            (known,) = agent.subscriptions
            await management.delete_queue(known.queue)
            events = await bus.events(BUSY, keep=keep).open()
            await bus.send(PHONE)
            assert number_of(await anext(events)) == 12345
            events.close(delete=True)
        await until(lambda: not agent.subscriptions, "it is deleted")

    scene()


def test_nothing_is_lost_while_the_connection_is(url: str, agent: RunningAgent) -> None:
    @run
    async def scene() -> None:
        async with clacks.connect(url) as bus, clacks.connect(url) as other, bus.events(BUSY) as events:
            before = [one.id for one in agent.subscriptions]
            await bus.send(numbered(0))
            assert number_of(await anext(events)) == 0
            cut(bus)
            for number in range(1, 20):
                await other.send(numbered(number))
            seen: list[int] = []
            while 19 not in seen:
                seen.append(number_of(await anext(events)))
            assert sorted(set(seen) | {0}) == list(range(20))  # the one in hand may come again
            assert [one.id for one in agent.subscriptions] == before
            await bus.send(numbered(20))  # over a publisher and a reply queue that are made again
            assert number_of(await anext(events)) == 20
        await until(lambda: not agent.subscriptions, "it is ended under the id that it had")

    scene()


def test_another_url_of_the_list_may_be_an_agents(url: str, agent: RunningAgent, tmp_path: Path) -> None:
    @run
    async def scene() -> None:
        with RunningAgent(tmp_path, {"domain": "client"}) as alone:
            async with clacks.connect([alone.url(), url]) as bus:
                async with bus.events(BUSY) as events:
                    await bus.send(numbered(1))
                    assert number_of(await anext(events)) == 1
                    assert len(alone.subscriptions) == 1
                    bus.urls.reverse()
                    cut(bus)
                    await until(lambda: agent.subscriptions, "it goes on at the domain")
                    await bus.send(numbered(2))
                    assert number_of(await anext(events)) == 2
                    bus.urls.reverse()
                    cut(bus)
                    await until(lambda: alone.subscriptions, "and again at the agent")
                    await bus.send(numbered(3))
                    assert number_of(await anext(events)) == 3
                # The domain was not told; the lease runs out.
                (left,) = agent.subscriptions
                async with clacks.connect(url) as other:
                    assert await other.call("unsubscribe", left.id) is True

    scene()


# --- what can be wrong -----------------------------------------------------------------------------------------------------------


def test_errors_when_it_connects(rabbitmq: RabbitMQ, url: str) -> None:
    @run
    async def scene() -> None:
        assert (await failing(BusClient(url.replace(":secret@", ":wrong@")).call("getNodes"))).code == "not-authenticated"
        async with clacks.connect(f"{rabbitmq.url()}/nowhere") as bus:
            unknown = [await failing(bus.send(PHONE)), await failing(bus.call("getNodes")), await failing(bus.events().open())]
            assert {error.code for error in unknown} == {"address-unknown"}
            assert "An agent of the domain nowhere has to have run" in str(unknown[0])

    scene()


def test_something_else_that_speaks_amqp() -> None:
    @run
    async def scene() -> None:
        async def dial(url: Any) -> Connection:
            return connection

        class Else:
            alive, remote_capabilities, closed = True, (), 0

            def __init__(self, properties: dict[str, Any]) -> None:
                self.remote_properties = properties

            def close(self) -> None:
                self.closed += 1

        connection: Any = Else({"product": "Mosquitto"})
        error = await failing(BusClient("amqp://a:b@localhost", dial=dial).call("getNodes"))
        assert (error.code, connection.closed) == ("broker-unusable", 1)
        assert "amqp://a@localhost:5672/org.clacks" in str(error)
        connection = Else({"product": "RabbitMQ", "version": "4.0.5"})
        error = await failing(BusClient("amqps://localhost", dial=dial).call("getNodes"))
        assert (error.code, connection.closed) == ("url-invalid", 1)

    scene()


@pytest.mark.parametrize(
    ("permissions", "sentence"),
    [
        (("^$", "^client$", r"^client\.reply\.{}\."), "configure access to queue 'client.reply"),
        (
            (r"^client\.reply\.{}\.", "^$", r"^client\.reply\.{}\."),
            "the broker says: write access to exchange 'client'",
        ),
        ((r"^client\.reply\.{}\.", "^client$", "^$"), "the broker says: read access to queue 'client.reply"),
    ],
    ids=["configure", "write", "read"],
)
def test_without_permission_on_the_broker(rabbitmq: RabbitMQ, agent: RunningAgent, permissions: tuple[str, ...], sentence: str,
                                          request: pytest.FixtureRequest) -> None:  # fmt: skip
    name = f"limited-{request.node.callspec.id}"
    configure, write, read = (one.format(name) for one in permissions)
    rabbitmq.add_user(name, "secret", (configure, write, read))

    @run
    async def scene() -> None:
        async with clacks.connect(f"{rabbitmq.url(name)}/client") as bus:
            for work in (bus.send(PHONE), bus.call("getNodes"), bus.events().open()):
                error = await failing(work)
                assert error.code == "broker-refused"
                assert sentence in str(error)
                assert "Let the broker's administrator permit it" in str(error)

    scene()


def test_permission_for_the_queue_of_events_is_missed_in_its_turn(rabbitmq: RabbitMQ, agent: RunningAgent) -> None:
    rabbitmq.add_user("deaf", "secret", (r"^client\.reply\.deaf\.", "^client$", r"^client\.reply\.deaf\."))

    @run
    async def scene() -> None:
        async with clacks.connect(f"{rabbitmq.url('deaf')}/client") as bus:
            error = await failing(bus.events().open())
            assert error.code == "broker-refused"
            assert "read access to queue 'client.sub.deaf" in str(error)
            await until(lambda: not agent.subscriptions, "what cannot be received is not subscribed to")
            await bus.send(PHONE)

    scene()


def test_a_user_whose_name_has_a_dot(rabbitmq: RabbitMQ, agent: RunningAgent) -> None:
    own = r"^client\.{}\.dotted%2Ename\."
    rabbitmq.add_user("dotted.name", "secret", (own.format("reply"), "^client$", own.format("(reply|sub)")))

    @run
    async def scene() -> None:
        async with clacks.connect(f"{rabbitmq.url('dotted.name')}/client") as bus, bus.events(BUSY) as events:
            await bus.send(PHONE)
            assert (await anext(events)).user == "dotted.name"
        await until(lambda: not agent.subscriptions, "it is ended")

    scene()


# --- a stand-in for what an agent does not do ------------------------------------------------------------------------------------


class StandIn:
    """An agent's place in a domain: takes events and commands, and answers as it is told to."""

    def __init__(self, connection: Connection, name: str, lease: float) -> None:
        self.connection, self.name, self.lease = connection, name, lease
        self.broker: Broker = recognise(connection.remote_properties, "")
        self.commands: list[tuple[str, Any]] = []
        self.queues: dict[str, str] = {}
        self.answers = 1  # to each event
        self.replies: list[str] = []  # the queues that events are to be answered to
        self.silent: set[str] = set()
        self.unknown: set[str] = set()
        self._senders: dict[str, Sender] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, rabbitmq: RabbitMQ, name: str, lease: float = 60.0) -> AsyncIterator[StandIn]:
        connection = await dial(parse_url(rabbitmq.url(AGENT.name)))
        self = cls(connection, name, lease)
        try:
            self.management = await Management.attach(connection)
            await self.management.declare_exchange(name)
            slots = [f"events.{slot}" for slot in range(64)]
            await self._serve(f"{name}.ingress.0", slots, self._event)
            await self._serve(f"{name}.command.core", ["command.core"], self._command)
            yield self
        finally:
            connection.close()
            await connection.wait_closed()

    async def _serve(self, queue: str, keys: list[str], take: Callable[[Message], Any]) -> None:
        await self.management.declare_queue(queue, arguments={"x-queue-type": "quorum"})
        for key in keys:
            await self.management.bind(queue, self.name, key)
        tasks: set[asyncio.Task[None]] = set()

        class Taking(End):
            def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
                tasks.add(asyncio.get_running_loop().create_task(take(Message(encoded))))
                link.settle(number, ACCEPTED)

        receiver = await self.connection.attach_receiver(self.broker.queue(queue), handler=Taking())
        receiver.window = 100

    async def send(self, queue: str, body: Any, correlation: Any = None) -> None:
        sender = self._senders.get(queue)
        if sender is None:
            alone = ".reply." in queue  # its client may be gone
            sender = self._senders[queue] = await self.connection.attach_sender(self.broker.queue(queue), handler=End(), alone=alone)
        sender.send(Draft(body, Properties(correlation_id=correlation)).encode())

    async def _event(self, message: Message) -> None:
        assert message.properties.user_id == ADMIN.name.encode()
        self.replies.append(message.annotations["x-opt-clacks-answer"])
        for queue in self.queues.values():
            await self.send(queue, message.body)
        for _ in range(self.answers):
            await self.send(self.replies[-1], '{"error": null}', message.annotations["x-opt-clacks-token"])

    async def _command(self, message: Message) -> None:
        assert message.properties.user_id == ADMIN.name.encode()
        asked = json.loads(message.body)
        self.commands.append((asked["method"], asked["params"]))
        result = await getattr(self, f"_{asked['method']}")(asked["params"])
        reply = message.properties.reply_to
        if reply is not None and asked["method"] not in self.silent:
            answer = result if isinstance(result, str) else json.dumps({"result": result, "error": None, "id": asked["id"]})
            await self.send(reply, answer, message.properties.message_id)

    async def _subscribe(self, params: dict[str, Any]) -> Any:
        id = f"s{len(self.asked('subscribe'))}"  # noqa: A001
        queue = f"{self.name}.sub.{id}"
        await self.management.declare_queue(queue)
        self.queues[id] = queue
        return {"id": id, "queue": queue, "lease": self.lease}

    async def _renew(self, params: dict[str, Any]) -> Any:
        return sorted(self.unknown.intersection(params["ids"]))

    async def _unsubscribe(self, params: dict[str, Any]) -> Any:
        del self.queues[params["id"]]
        return True

    async def _nothing(self, params: Any) -> Any:
        return None

    async def _nonsense(self, params: Any) -> Any:
        return "no JSON"

    def asked(self, method: str) -> list[Any]:
        return [params for name, params in self.commands if name == method]

    async def lose(self, id: str) -> None:  # noqa: A002
        self.unknown.add(id)
        await self.management.delete_queue(self.queues.pop(id))


@contextlib.asynccontextmanager
async def managed(where: str | BusClient) -> AsyncIterator[Management]:
    """The broker's management, on a connection of its own or on a client's."""
    connection = await dial(parse_url(where)) if isinstance(where, str) else (await where.route()).connection
    management = await Management.attach(connection)
    try:
        yield management
    finally:
        if isinstance(where, str):
            connection.close()
            await connection.wait_closed()
        else:
            management.close()


def test_the_words_of_the_wire(rabbitmq: RabbitMQ) -> None:
    @run
    async def scene() -> None:
        async with StandIn.on(rabbitmq, "words") as agent, clacks.connect(f"{rabbitmq.url()}/words") as bus:
            events = await bus.events(BUSY, event="PhoneStatus", keep=Keep(shared="us")).open()
            whole = await bus.events().open()
            nothing = {"event": "", "durable": "", "shared": "", "max_age": None, "max_bytes": None, "overflow": "", "replace": False}
            assert agent.asked("subscribe") == [
                {**nothing, "filters": [BUSY], "event": "PhoneStatus", "shared": "us"},
                {**nothing, "filters": []},
            ]
            events.close()
            await until(lambda: agent.asked("unsubscribe") == [{"id": "s1"}], "the one is ended")
            await bus.close()
            await until(lambda: agent.asked("unsubscribe") == [{"id": "s1"}, {"id": "s2"}], "the other is ended with the client")
            whole.close()

    scene()


def test_an_event_that_nobody_answers_or_somebody_twice(rabbitmq: RabbitMQ) -> None:
    @run
    async def scene() -> None:
        url = f"{rabbitmq.url()}/answers"
        async with StandIn.on(rabbitmq, "answers") as agent, clacks.connect(url, timeout=0.2) as hasty, clacks.connect(url) as bus:
            agent.answers = 0
            error = await failing(hasty.send(PHONE))
            assert error.code == "event-unanswered"
            assert "within 0.2 s" in str(error)
            agent.answers = 2
            for _ in range(3):
                await bus.send(PHONE)
            agent.silent.add("nonsense")
            assert (await failing(bus.request("nonsense", [], timeout=0.2))).code == "command-timeout"

    scene()


def test_an_answer_that_cannot_be_read_is_left_out(rabbitmq: RabbitMQ, caplog: pytest.LogCaptureFixture) -> None:
    @run
    async def scene() -> None:
        async with StandIn.on(rabbitmq, "nonsense") as agent, clacks.connect(f"{rabbitmq.url()}/nonsense") as bus:
            assert (await failing(bus.request("nonsense", [], timeout=0.3))).code == "command-timeout"
            await bus.send(PHONE)
            assert agent.asked("nonsense") == [[]]

    scene()
    assert "an answer cannot be read" in caplog.text


def test_one_renewal_for_all_and_a_subscription_that_is_not_known_is_made_again(rabbitmq: RabbitMQ) -> None:
    @run
    async def scene() -> None:
        async with StandIn.on(rabbitmq, "leases", lease=0.6) as agent, clacks.connect(f"{rabbitmq.url()}/leases") as bus:
            one, two = await bus.events(BUSY).open(), await bus.events().open()
            await until(lambda: {"ids": ["s1", "s2"]} in agent.asked("renew"), "both are renewed at once")
            agent.unknown.add("s1")  # its queue is there still
            await until(lambda: len(agent.asked("subscribe")) == 3, "it is made again")
            await until(lambda: {"ids": ["s2", "s3"]} in agent.asked("renew"), "and renewed by its new id")
            await agent.lose("s3")  # and now the queue goes first
            await until(lambda: len(agent.asked("subscribe")) == 4, "it is made again")
            await until(lambda: "s4" in agent.queues, "it has a queue")
            await agent.send(agent.queues["s4"], PHONE)
            assert (await anext(one)).name == "PhoneStatus"
            one.close()
            two.close()
            await until(lambda: agent.asked("unsubscribe") == [{"id": "s4"}, {"id": "s2"}], "both are ended")

    scene()


def test_renewals_that_fail_are_tried_again(rabbitmq: RabbitMQ) -> None:
    @run
    async def scene() -> None:
        async with StandIn.on(rabbitmq, "silence", lease=0.3) as agent, clacks.connect(f"{rabbitmq.url()}/silence") as bus:
            agent.silent.add("renew")
            async with bus.events():
                await until(lambda: len(agent.asked("renew")) > 3, "it is tried again and again")
            assert len(agent.asked("subscribe")) == 1

    scene()


def test_a_subscription_whose_lease_runs_keeps_its_id_and_its_queue(rabbitmq: RabbitMQ) -> None:
    @run
    async def scene() -> None:
        async with StandIn.on(rabbitmq, "keeps") as agent, clacks.connect(f"{rabbitmq.url()}/keeps") as bus:
            async with bus.events() as events:
                cut(bus)
                await agent.send(agent.queues["s1"], numbered(1))
                assert number_of(await anext(events)) == 1
                await until(lambda: agent.asked("renew") == [{"ids": ["s1"]}], "it is renewed at once")
                await agent.lose("s1")
                cut(bus)
                await until(lambda: "s2" in agent.queues, "what is gone is made again")
            assert len(agent.asked("subscribe")) == 2

    scene()


def test_more_subscriptions_than_a_connection_has_sessions(rabbitmq: RabbitMQ) -> None:
    @run
    async def scene() -> None:
        async with StandIn.on(rabbitmq, "many") as agent, clacks.connect(f"{rabbitmq.url()}/many") as bus:
            streams = [await bus.events().open() for _ in range(80)]
            await bus.send(PHONE)
            assert {(await anext(stream)).name for stream in streams} == {"PhoneStatus"}
            assert len(agent.queues) == 80
        assert len(streams) == 80

    scene()


def test_a_reply_queue_that_is_deleted_is_made_again(rabbitmq: RabbitMQ) -> None:
    @run
    async def scene() -> None:
        async with StandIn.on(rabbitmq, "replies") as agent, clacks.connect(f"{rabbitmq.url()}/replies") as bus:
            agent.answers = 0
            waiting = asyncio.create_task(bus.send(PHONE))
            await until(lambda: agent.replies, "the event is there")
            first = agent.replies[-1]
            async with managed(rabbitmq.url(AGENT.name)) as management:
                with pytest.raises(ClacksError, match="cannot obtain exclusive access"):  # it is the client's alone
                    await management.delete_queue(first)
            async with managed(bus) as management:
                await management.delete_queue(first)
            assert (await failing(waiting)).code == "connection-lost"
            agent.answers = 1
            await bus.send(PHONE)
            assert agent.replies[-1] != first
            assert first.startswith("replies.reply.admin.")

    scene()


def test_what_subscribes_and_ends_leaves_nothing_behind(rabbitmq: RabbitMQ) -> None:
    @run
    async def scene() -> None:
        async with StandIn.on(rabbitmq, "cycles") as agent, clacks.connect(f"{rabbitmq.url()}/cycles") as bus:
            await bus.call("nothing")
            route: Any = bus._route
            links, sessions = route.connection.links, len(route.connection._sessions)
            for _ in range(100):
                async with bus.events(BUSY):
                    pass
            await until(lambda: not agent.queues and not route._farewells, "all are ended")
            await until(lambda: route.connection.links == links, "the links are gone")
            assert len(route.connection._sessions) <= sessions + 3, "one link after the other had their sessions"
            assert not bus._leases._held
            assert not route._answers._pending

    scene()
