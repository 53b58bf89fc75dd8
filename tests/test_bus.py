"""The bus end to end, through the doors that a user has, wherever it lives: each test runs on the embedded broker and on RabbitMQ.

What is only one kind's is tested elsewhere: the wire and the store of an agent's own broker in test_promises.py and test_durable.py, what
agents of a domain do together in test_domain.py. Where the two differ by design, DIFFERS says so; that an event is refused in the same
words by both says test_refusals.py, and that the guide's scripts run on both test_guide.py.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from lxml import etree

import clacks
from activemq import DomainActiveMQ
from brokers import RabbitMQ
from buses import ORDINARY, Bus, running, together
from clacks.agent.access import Call, Rule
from clacks.agent.agent import Agent
from clacks.amqp import ACCEPTED, RELEASED, Condition, Modified, Outcome, Rejected
from clacks.cli.main import clacks as shell
from clacks.cli.sendevent import send_event
from clacks.common.components import AMQPEventConsumer, AMQPServiceProxy, Command
from clacks.common.components.client import BusClient, Delivery, Keep, Subscription
from clacks.common.components.links import WINDOW
from clacks.common.components.terms import Wanted
from clacks.common.errors import ClacksError
from clacks.common.event import EventMaker
from clacks.testing import sample
from conftest import DEADLINE, wait_for
from domains import new_domain, phone
from support import until

BUSY = "//*:PhoneStatus[*:Status = 'busy']"
POLL = sample("ClientPoll")


class Sleeper:
    """Commands that take their time."""

    def __init__(self) -> None:
        self.asleep = threading.Event()

    @Command()
    async def dream(self, seconds: float) -> str:
        """Sleep for so long."""
        if seconds:
            self.asleep.set()
        await asyncio.sleep(seconds)
        return "awake"

    @Command(needs_user=True)
    def whisper(self, user: str, word: str, loud: bool = False) -> str:
        """Say a word."""
        return f"{user}: {word.upper() if loud else word}"

    @Command()
    def fail(self) -> None:
        """Never succeed."""
        raise LookupError("nothing there")


SLEEPER = Sleeper()


def prepare_agent(agent: Agent) -> None:
    agent.commands.register(SLEEPER, target="tests")


# Small, so that limits are soon reached.
SETTINGS = {"durable.per_user": 6, "queue.deliveries": 3, "sandbox.seconds": 0.1}


# What differs by design (docs/domain.md), and why.
DIFFERS: dict[str, dict[str, Any]] = {
    # An agent knows its addresses; an exchange only that nothing is bound to a key, which may change any moment.
    "nobody serves the target": {"embedded": "address-unknown", "rabbitmq": "command-unserved", "activemq": "address-unknown"},
    # Whether there is something where nobody may be, ActiveMQ does not say.
    "there is no such domain": {"embedded": "address-unknown", "rabbitmq": "address-unknown", "activemq": "broker-refused"},
    # ActiveMQ offers to let everybody in without a name, and then does not.
    "who has no name": {"embedded": "mechanism-unusable", "rabbitmq": "mechanism-unusable", "activemq": "not-authenticated"},
    # ActiveMQ has no limit of a queue's bytes, and counts deliveries without an end to them.
    "bytes are limited": {"embedded": True, "rabbitmq": True, "activemq": False},
    "deliveries are limited": {"embedded": True, "rabbitmq": True, "activemq": False},
    # RabbitMQ has them only where a policy of its administrator's says so, and then they are read there.
    "dead letters": {"embedded": True, "rabbitmq": False, "activemq": False},
    # An agent of a domain keeps nothing in front of a queue that its filter may never decide about.
    "what was not decided comes, marked": {"embedded": False, "rabbitmq": True, "activemq": True},
    # An agent detaches the link; nothing leads from an agent of a domain to a consumer but the queue.
    "who may see nothing is told": {"embedded": True, "rabbitmq": False, "activemq": False},
    # An agent says so while it ends the connection; RabbitMQ ends it without a word, and does not let the user in again.
    # ActiveMQ lets who is removed stay until they disconnect.
    "a user is not known any more": {"embedded": "user-removed", "rabbitmq": "not-authenticated", "activemq": None},
    # `clacks subscriptions` asks an agent; events wait at RabbitMQ.
    "what waits is known": {"embedded": True, "rabbitmq": False, "activemq": False},
    # RabbitMQ counts nothing that it drops from the head of a queue.
    "what was dropped is told": {"embedded": True, "rabbitmq": False, "activemq": False},
    # Consumers are the broker's, and no agent hears of them: a live subscription that is shared ends with its lease.
    "whether it is in use is known": {"embedded": True, "rabbitmq": False, "activemq": False},
    "a shared one ends with its last consumer": {"embedded": True, "rabbitmq": False, "activemq": False},
}


# --- helpers ----------------------------------------------------------------------------------------------------------------------

SCENE_SECONDS = 60.0  # a machine may be busy, and sandboxes give way to whoever keeps it so

Scene = Callable[[Bus], Coroutine[Any, Any, None]]


def scene(test: Scene) -> Callable[[Bus], None]:
    """A test of the asyncio API, with a deadline."""

    def wrapper(bus: Bus) -> None:
        async def bounded() -> None:
            try:
                async with asyncio.timeout(SCENE_SECONDS):
                    await test(bus)
                    await until(lambda: not any(one.subscriptions for one in bus.agents), "every subscription is ended")
            except BaseException:
                await bus.clear()
                raise

        asyncio.run(bounded())

    wrapper.__name__, wrapper.__doc__ = test.__name__, test.__doc__
    return wrapper


def failing(function: Any, *arguments: Any, **options: Any) -> ClacksError:
    with pytest.raises(ClacksError) as caught:
        function(*arguments, **options)
    return caught.value


async def refused(work: Any) -> ClacksError:
    with pytest.raises(ClacksError) as caught:
        await work
    return caught.value


def caller(event: Any) -> int:
    """The number that `phone` has put into an event."""
    return int(event.tree.PhoneStatus.CallerId)


async def callers(events: Any, count: int) -> list[int]:
    return [caller(await anext(events)) for _ in range(count)]


def forget_dead_letters(bus: Bus) -> None:
    if DIFFERS["dead letters"][bus.kind]:
        with AMQPServiceProxy(bus.url()) as proxy:
            wait_for(lambda: any(one["name"] == "dead-letters" for one in proxy.getSubscriptions()), "there are dead letters")
            assert proxy.deleteSubscription("dead-letters") is True


async def leave(client: BusClient, name: str, stream: Any, bus: Bus) -> None:
    """End a live shared subscription with its last consumer."""
    stream.close()
    if not DIFFERS["a shared one ends with its last consumer"][bus.kind]:
        assert await client.call("deleteSubscription", name) is True


# --- publish and subscribe -------------------------------------------------------------------------------------------------------


def test_the_callback_gets_the_event_as_the_guide_prints_it(bus: Bus) -> None:
    seen: list[Any] = []
    with AMQPEventConsumer(bus.url(), xquery=BUSY, callback=seen.append), AMQPServiceProxy(bus.url()) as proxy:
        assert proxy.sendEvent(sample("PhoneStatus")) is True
        wait_for(lambda: seen, "the event arrives")
    assert seen[0].PhoneStatus.CallerId.text == "012345"
    assert etree.tostring(seen[0], pretty_print=True).startswith(b'<Event xmlns="http://www.gonicus.de/Events">\n  <PhoneStatus>\n')
    bus.settled()


def test_an_event_in_every_form(bus: Bus) -> None:
    e = EventMaker()
    element = e.Event(e.PhoneStatus(e.CallerId("ä"), e.ReceiverId("2"), e.Status("busy")))
    forms = [
        element,
        etree.tostring(element),
        etree.tostring(element, encoding="unicode"),
        '<?xml version="1.0" encoding="iso-8859-1"?>' + etree.tostring(element, encoding="unicode"),
        etree.tostring(element, encoding="iso-8859-1"),
        etree.tostring(element, encoding="utf-16"),
        etree.tostring(element, pretty_print=True, xml_declaration=True, encoding="utf-8"),
    ]
    seen: list[str] = []
    with (
        AMQPEventConsumer(bus.url(), xquery=BUSY, callback=lambda event: seen.append(event.PhoneStatus.CallerId.text)),
        AMQPServiceProxy(bus.url()) as proxy,
    ):
        for form in forms:
            proxy.sendEvent(form)
        wait_for(lambda: len(seen) == len(forms), "all arrive")
    assert set(seen) == {"ä"}


@scene
async def test_the_asyncio_api(bus: Bus) -> None:
    async with clacks.connect(bus.url()) as client, client.events(BUSY) as events:
        await client.send(phone(1), properties={"a": 1})
        await client.send(phone(2, "idle"))
        await client.send(phone(3), ttl=60)
        first, second = await anext(events), await anext(events)
    assert (first.name, caller(first), first.properties, first.body) == ("PhoneStatus", 1, {"a": 1}, phone(1))
    assert (caller(second), second.properties) == (3, {})


@scene
async def test_without_a_filter_everything_comes_and_by_name_one_kind(bus: Bus) -> None:
    async with (
        clacks.connect(bus.url()) as client,
        client.events() as everything,
        client.events(event="PhoneStatus") as phones,
        client.events("//*:Status = 'idle'", event="PhoneStatus") as narrowed,
    ):
        for body in (POLL, phone(1), phone(2, "idle")):
            await client.send(body)
        assert await callers(phones, 2) == [1, 2]
        assert await callers(narrowed, 1) == [2]
        names: list[str] = []
        while names.count("PhoneStatus") < 2:  # those of the agents' own are among them
            names.append((await anext(everything)).name)
        assert "ClientPoll" in names


@scene
async def test_id_sender_and_time_are_the_agents_word(bus: Bus) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    async with (
        clacks.connect(bus.url()) as client,
        clacks.connect(bus.url("anna")) as anna,
        client.events(BUSY) as events,
        anna.events(BUSY) as hers,
    ):
        await anna.send(phone(1))
        await client.send(phone(2))
        await anna.call("sendEvent", phone(3).decode())
        got = [await anext(events) for _ in range(3)]
        also = [await anext(hers) for _ in range(3)]
    by_caller = {caller(one): one for one in got}
    assert {number: one.user for number, one in by_caller.items()} == {1: "anna", 2: "admin", 3: "anna"}
    assert len({one.id for one in got}) == 3
    assert {one.id for one in got} == {one.id for one in also}, "an event has one id, whoever gets it"
    assert all(one.time is not None and before < one.time < datetime.now(UTC) + timedelta(seconds=1) for one in got)
    assert {one.attempts for one in got} == {one.dropped for one in got} == {0}


NS = "declare namespace f='http://www.gonicus.de/Events'; "
FILTERS: list[tuple[str, dict[str, Any], bool]] = [
    # the context item is the document node
    (NS + "./f:Event", {}, True),
    (NS + "/f:Event", {}, True),
    (NS + "f:Event", {}, True),
    (".", {}, True),
    (NS + "./f:PhoneStatus", {}, False),
    (NS + "let $e := ./f:Event return $e/f:PhoneStatus", {}, True),
    (NS + "let $e := ./f:Event return $e/f:NodeLeave", {}, False),
    # the effective boolean value decides
    ("1", {}, True),
    ("0", {}, False),
    ("()", {}, False),
    ("''", {}, False),
    ("'false'", {}, True),
    ("xs:double('NaN')", {}, False),
    ("('a', 'b')", {}, False),
    ("xs:date('2026-01-01')", {}, False),
    ("//*:Status = 'busy'", {}, True),
    ("//*:Status = 'idle'", {}, False),
    ("/*/*/*:CallerId > 12344", {}, True),
    # application properties are external variables
    ("declare variable $customer external; $customer = 'acme'", {"customer": "acme"}, True),
    ("declare variable $customer external; $customer = 'acme'", {"customer": "other"}, False),
    ("declare variable $customer as xs:string external; $customer = 'acme'", {"customer": "acme"}, True),
    ("declare variable $a.b external; $a.b = 1", {"a.b": 1}, True),
    ("declare variable $n as xs:integer external; $n = 9007199254740993", {"n": 9007199254740993}, True),
    ("declare variable $n as xs:integer external; $n = 9007199254740993", {"n": 9007199254740992}, False),
    ("declare variable $flag as xs:boolean external; $flag", {"flag": True}, True),
    ("declare variable $flag as xs:boolean external; $flag", {"flag": False}, False),
    ("declare variable $n as xs:integer external; $n = 1", {"n": "one"}, False),
    ("declare variable $unset external; $unset = 1", {}, False),
    ("declare variable $n external; $n = 1", {"n": 1, "other:name": "harmless"}, True),
    # a runtime error means: not this event
    ("1 div 0 = 1", {}, False),
    ("xs:integer(//*:Status) = 1", {}, False),
]


@scene
async def test_filter_semantics(bus: Bus) -> None:
    """Each filter is asked about an event of its own, and about a last one, after which nothing more comes."""
    async with clacks.connect(bus.url()) as client:
        streams = await asyncio.gather(*(client.events(text, event="PhoneStatus").open() for text, _, _ in FILTERS))
        marks = await asyncio.gather(*(client.events(event="PhoneStatus").open() for _ in FILTERS))
        for number, (_, properties, _) in enumerate(FILTERS):
            await client.send(phone(12345 + number), properties=properties)
        found = []
        for number, (stream, mark) in enumerate(zip(streams, marks, strict=True)):
            assert await callers(mark, len(FILTERS)) == [12345 + each for each in range(len(FILTERS))]
            waiting = [caller(stream._queue.get_nowait().event) for _ in range(stream._queue.qsize())]
            found.append(12345 + number in waiting)
        for stream in (*streams, *marks):
            stream.close()
    assert [(text, properties, matched) for (text, properties, _), matched in zip(FILTERS, found, strict=True)] == FILTERS


@scene
async def test_two_filters_must_both_match(bus: Bus) -> None:
    """The client library has one filter; others may have several on a link, or in a command."""
    async with bus.plain("anna", BUSY, "//*:CallerId = ('1', '9')") as end, clacks.connect(bus.url()) as client:
        for body in (phone(1, "idle"), phone(2), phone(1), phone(9)):
            await client.send(body)
        await until(lambda: len(end.received) == 2, "both arrive")
        assert end.bodies == [phone(1), phone(9)]


@scene
async def test_nobody_listening_is_no_error(bus: Bus) -> None:
    async with clacks.connect(bus.url("anna")) as client:
        await client.send(phone(1))
        assert await client.call("sendEvent", phone(2).decode()) is True


@scene
async def test_one_publishers_events_keep_their_order_large_ones_among_them(bus: Bus) -> None:
    """Large events are examined in a worker; what comes behind them waits for its turn."""
    async with (
        clacks.connect(bus.url()) as client,
        clacks.connect(bus.url("anna")) as anna,
        client.events(event="PhoneStatus") as events,
    ):

        async def publish(sender: BusClient, first: int) -> None:
            bodies = [phone(number, "x" * 100_000 if number % 50 == 3 else "busy") for number in range(first, first + 150)]
            await asyncio.gather(*(sender.send(body) for body in bodies))

        await asyncio.gather(publish(client, 1000), publish(anna, 2000))
        got = await callers(events, 300)
    assert [number for number in got if number < 2000] == list(range(1000, 1150))
    assert [number for number in got if number >= 2000] == list(range(2000, 2150))


@scene
async def test_a_large_event(bus: Bus) -> None:
    body = phone(1, "x" * 800_000)
    async with clacks.connect(bus.url()) as client, client.events("//*:Status[string-length(.) = 800000]") as events:
        await client.send(body)
        assert (await anext(events)).body == body
        assert await client.call("sendEvent", phone(2, "y" * 800_000).decode()) is True
        assert caller(await anext(events)) == 2


@scene
async def test_an_expired_event_is_not_delivered(bus: Bus) -> None:
    async with clacks.connect(bus.url("anna")) as client:
        kept = Keep(durable="late")
        (await client.events(BUSY, keep=kept).open()).close()
        for number, ttl in enumerate((0.001, 0.1, 60, None)):
            await client.send(phone(number), ttl=ttl)
        over = time.monotonic() + 0.1
        await until(lambda: time.monotonic() > over, "the time of the second one is over")
        events = await client.events(BUSY, keep=kept).open()
        assert await callers(events, 2) == [2, 3]
        events.close(delete=True)


# --- consumers in Python -----------------------------------------------------------------------------------------------------------


def test_a_callback_may_send_events_itself(bus: Bus) -> None:
    seen: list[str] = []
    with AMQPServiceProxy(bus.url()) as proxy:

        def answer(event: Any) -> None:
            seen.append(event.PhoneStatus.Status.text)
            if seen == ["busy"]:
                proxy.sendEvent(phone(1, "idle"))

        with AMQPEventConsumer(bus.url(), event="PhoneStatus", callback=answer):
            proxy.sendEvent(phone(1))
            wait_for(lambda: seen == ["busy", "idle"], "the answer arrives")


def test_events_come_in_order_on_one_thread(bus: Bus) -> None:
    seen: list[tuple[int, int]] = []

    def callback(event: Any) -> None:
        seen.append((int(event.PhoneStatus.CallerId), threading.get_ident()))

    with AMQPEventConsumer(bus.url(), event="PhoneStatus", callback=callback), AMQPServiceProxy(bus.url()) as proxy:
        for number in range(50):
            proxy.sendEvent(phone(number))
        wait_for(lambda: len(seen) == 50, "all arrive")
    assert [number for number, _ in seen] == list(range(50))
    assert len({thread for _, thread in seen}) == 1
    assert seen[0][1] != threading.get_ident()


def test_join_waits_and_tells_of_the_end(bus: Bus) -> None:
    consumer = AMQPEventConsumer(bus.url())
    assert consumer.join(0.01) is False
    threading.Timer(0.05, consumer.close).start()
    with pytest.raises(ClacksError, match="closed"):
        consumer.join()


def test_a_consumer_may_close_itself_in_its_callback(bus: Bus) -> None:
    closed = threading.Event()

    def callback(event: Any) -> None:
        consumer.close()
        closed.set()

    consumer = AMQPEventConsumer(bus.url(), xquery=BUSY, callback=callback)
    with AMQPServiceProxy(bus.url()) as proxy:
        proxy.sendEvent(phone(1))
    assert closed.wait(DEADLINE)
    with pytest.raises(ClacksError, match="closed"):
        consumer.join(DEADLINE)
    bus.settled()


def test_deleting_a_consumer_ends_its_subscription(bus: Bus) -> None:
    bus.settled()
    consumer = AMQPEventConsumer(bus.url())
    assert bus.subscriptions == [bus.subscriptions[0]]
    del consumer
    bus.settled()


@pytest.mark.parametrize("end", ["del consumer\nexit(0)\n", ""], ids=["deletes", "just ends"])
def test_a_program_that_ends_says_goodbye(bus: Bus, end: str) -> None:
    program = f"from clacks.common.components import AMQPEventConsumer\nconsumer = AMQPEventConsumer({bus.url()!r}, callback=print)\n{end}"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    bus.settled()


def test_a_callbacks_exception_is_logged_and_the_consumer_goes_on(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def callback(event: Any) -> None:
        seen.append(event.PhoneStatus.CallerId.text)
        if len(seen) == 1:
            raise LookupError("my own fault")

    with AMQPEventConsumer(bus.url(), event="PhoneStatus", callback=callback), AMQPServiceProxy(bus.url()) as proxy:
        for number in range(3):
            proxy.sendEvent(phone(number))
        wait_for(lambda: len(seen) >= 3, "the others arrive")
    assert seen == ["0", "1", "2"], "it is not delivered again"
    assert "LookupError: my own fault" in caplog.text
    assert "raise LookupError" in caplog.text
    forget_dead_letters(bus)


@scene
async def test_many_at_once(bus: Bus) -> None:
    async with clacks.connect(bus.url()) as client, client.events(event="PhoneStatus") as events:
        await asyncio.gather(*(client.send(phone(number)) for number in range(300)))
        assert await callers(events, 300) == list(range(300))
        assert await asyncio.gather(*(client.call("getSessionUser") for _ in range(50))) == ["admin"] * 50


# --- what is refused ---------------------------------------------------------------------------------------------------------------


@scene
async def test_a_filter_that_does_not_compile_is_refused_with_its_place(bus: Bus) -> None:
    async with clacks.connect(bus.url("anna")) as client:
        for text, place in (("1 +\n  )", "line 2, column 3"), ("doc('/etc/passwd')", "line 1, column 1"), ("//*[", "line 1, column")):
            error = await refused(client.events(text).open())
            assert (error.code, error.exit_code) == ("filter-invalid", 2)
            assert place in str(error)
        await client.send(phone(1))  # none of this has hurt the connection
    assert failing(AMQPEventConsumer, bus.url(), xquery="1 +").code == "filter-invalid"


def test_errors_when_it_is_made(bus: Bus) -> None:
    url = bus.url()
    wrong = [lambda url=url: failing(AMQPServiceProxy, url) for url in (bus.url("admin", "wrong"), bus.url("nobody"))]
    assert [error.code for error in together(wrong)] == ["not-authenticated"] * 2  # RabbitMQ takes its time to say so
    assert failing(AMQPServiceProxy, url.replace("admin:secret@", "")).code == DIFFERS["who has no name"][bus.kind]
    assert failing(AMQPServiceProxy, "http://localhost").code == "url-invalid"
    assert failing(AMQPEventConsumer, url, event="Nothing").code == "schema-unknown"
    other, code = bus.url(domain="org.other"), DIFFERS["there is no such domain"][bus.kind]
    assert failing(AMQPEventConsumer, other).code == code
    with AMQPServiceProxy(other) as proxy:
        assert failing(proxy.getNodes).code == code


# --- commands ----------------------------------------------------------------------------------------------------------------------


def test_commands_by_position_and_by_name(bus: Bus) -> None:
    with AMQPServiceProxy(bus.url("anna")) as proxy, AMQPServiceProxy(bus.url("anna"), target="tests") as tests:
        assert proxy.getSessionUser() == "anna"
        assert proxy.getSchema("PhoneStatus") == proxy.getSchema(name="PhoneStatus")
        assert "PhoneStatus" in {event["name"] for event in proxy.getEvents()}
        assert tests.whisper("a") == "anna: a"
        assert tests.whisper("a", True) == tests.whisper(loud=True, word="a") == "anna: A"
        with pytest.raises(TypeError):
            proxy.getSchema("a", name="b")
        for call, code, said in (
            (proxy.getSchemas, "command-unknown", "getSchema"),
            (tests.getNodes, "command-unknown", "getMethods"),
            (tests.whisper, "command-arguments", "word: 'str'"),
            (lambda: tests.whisper(soft=1), "command-arguments", "whisper"),
            (lambda: proxy.getSchema("PhoneStatsu"), "schema-unknown", "PhoneStatus"),
            (lambda: proxy.sendEvent(b"<a/>"), "event-root", "root element"),
            (tests.fail, "command-failed", "LookupError: nothing there"),
        ):
            error = failing(call)
            assert (error.code, said in str(error)) == (code, True), str(error)


def test_nodes_and_methods(bus: Bus) -> None:
    with AMQPServiceProxy(bus.url("anna")) as proxy:
        wait_for(lambda: list(proxy.getNodes()) == sorted(bus.nodes), "every agent is known")
        assert all({"load", "latency", "workers"} <= node.keys() for node in proxy.getNodes().values())
        methods = proxy.getMethods()
        assert {"getMethods", "getNodes", "getSessionUser", "sendEvent", "getEvents", "getSchema", "shutdown"} <= methods.keys()
        assert methods["sendEvent"]["signature"] == ["data"]
        assert methods["getNodes"]["doc"]
        wait_for(lambda: list(proxy.getMethods("tests")) == ["dream", "fail", "whisper"], "those of the plugin are known")
        for node in bus.nodes:
            with AMQPServiceProxy(bus.url(), target=f"core.{node}") as one:
                assert one.getStatus()["node"] == node


def test_a_target_that_nobody_serves(bus: Bus) -> None:
    for target in ("core.nowhere", "nowhere"):
        with AMQPServiceProxy(bus.url(), target=target) as proxy:
            error = failing(proxy.getNodes)
            assert error.code == DIFFERS["nobody serves the target"][bus.kind]


def test_a_command_that_takes_too_long(bus: Bus) -> None:
    with AMQPServiceProxy(bus.url(), timeout=0.2, target="tests") as proxy:
        assert failing(proxy.dream, 60).code == "command-timeout"
    with AMQPServiceProxy(bus.url(), target="tests") as proxy:
        assert proxy.dream(0) == "awake"


# --- kept and shared ---------------------------------------------------------------------------------------------------------------


def test_a_consumer_may_leave_its_durable_subscription_or_delete_it(bus: Bus) -> None:
    seen: list[int] = []
    AMQPEventConsumer(bus.url("anna"), xquery=BUSY, durable="left").close()
    with AMQPServiceProxy(bus.url()) as proxy:
        for number in range(3):
            proxy.sendEvent(phone(number))
        proxy.sendEvent(phone(9, "idle"))
    consumer = AMQPEventConsumer(
        bus.url("anna"), xquery=BUSY, durable="left", callback=lambda event: seen.append(int(event.PhoneStatus.CallerId))
    )
    wait_for(lambda: seen == [0, 1, 2], "what came meanwhile arrives, in its order")
    assert bus.subscriptions == ["left"]
    consumer.delete()
    bus.settled()


@scene
async def test_what_was_fetched_ahead_comes_again(bus: Bus) -> None:
    keep = Keep(durable="ahead")
    async with clacks.connect(bus.url()) as client:
        async with client.events(BUSY, keep=keep) as events:
            for number in range(5):
                await client.send(phone(number))
            assert await callers(events, 1) == [0]
            await until(lambda: events._queue.qsize() == 4, "the others are fetched ahead")
        await client.send(phone(5))
    assert bus.subscriptions == ["ahead"]
    async with clacks.connect(bus.url()) as client:
        again = await client.events(BUSY, keep=keep).open()
        assert await callers(again, 5) == [1, 2, 3, 4, 5]
        again.close(delete=True)


@scene
async def test_an_event_in_hand_when_something_fails_is_given_back(bus: Bus) -> None:
    """Whoever takes events in a block that raises has not finished with the one in hand: a durable subscription has it again."""
    keep = Keep(durable="hand")
    async with clacks.connect(bus.url()) as client:
        with suppress(LookupError):
            async with client.events(BUSY, keep=keep) as events:
                await client.send(phone(1))
                assert await callers(events, 1) == [1]
                raise LookupError
    async with clacks.connect(bus.url()) as client:
        again = await client.events(BUSY, keep=keep).open()
        assert await callers(again, 1) == [1]
        again.close(delete=True)


@scene
async def test_another_filter_is_refused_unless_asked_for(bus: Bus) -> None:
    async with clacks.connect(bus.url("anna")) as client:
        (await client.events("//*:CallerId = 1", keep=Keep(durable="billing")).open()).close()
        await client.send(phone(1))
        error = await refused(client.events("//*:CallerId = 2", keep=Keep(durable="billing")).open())
        assert (error.code, "'billing' exists with another filter" in str(error)) == ("subscription-differs", True)
        events = await client.events("//*:CallerId = 2", keep=Keep(durable="billing", replace=True)).open()
        await client.send(phone(1))
        await client.send(phone(2))
        assert await callers(events, 2) == [1, 2], "what had waited, and what the other filter matches"
        events.close(delete=True)


@scene
async def test_a_subscription_does_not_become_one_of_another_kind(bus: Bus) -> None:
    async with clacks.connect(bus.url("anna")) as client:
        durable = await client.events(BUSY, keep=Keep(durable="kept")).open()
        live = await client.events(BUSY, keep=Keep(shared="work")).open()
        for keep in (
            Keep(shared="kept", replace=True),
            Keep(durable="kept", shared="kept", replace=True),
            Keep(durable="work", shared="work", replace=True),
            Keep(durable="work", replace=True),
        ):
            error = await refused(client.events(BUSY, keep=keep).open())
            assert error.code == "subscription-other", keep
        await leave(client, "work", live, bus)
        durable.close(delete=True)


@scene
async def test_terms_that_do_not_go_together(bus: Bus) -> None:
    async with clacks.connect(bus.url("anna")) as client:
        for keep, said in (
            (Keep(max_age=5), "durable subscriptions"),
            (Keep(shared="a", max_bytes=5), "durable subscriptions"),
            (Keep(durable="a", max_bytes=-1), "above 0"),
            (Keep(durable="a", max_age=5, overflow="refuse"), "loses nothing"),
            (Keep(durable="a", overflow="detach"), "refuse, drop-oldest"),
            (Keep(overflow="refuse"), "drop-oldest"),
            (Keep(durable="dead-letters"), "your dead letters"),
        ):
            error = await refused(client.events(BUSY, keep=keep).open())
            assert (error.code, said in str(error)) == ("link-refused", True), (keep, str(error))


@scene
async def test_there_is_a_limit_for_each_user(bus: Bus) -> None:
    limit = SETTINGS["durable.per_user"]
    async with clacks.connect(bus.url("anna")) as client, clacks.connect(bus.url("bert")) as bert:
        kept = await asyncio.gather(*(client.events(BUSY, keep=Keep(durable=f"kept-{number}")).open() for number in range(limit)))
        error = await refused(client.events(BUSY, keep=Keep(durable="more")).open())
        assert (error.code, f"anna has {limit} durable subscriptions" in str(error)) == ("subscriptions-full", True)
        his = await bert.events(BUSY, keep=Keep(durable="more")).open()
        for stream in (*kept, his):
            stream.close(delete=True)
        await until(lambda: not bus.subscriptions, "all are deleted")


@scene
async def test_retention_drops_what_is_old_and_the_oldest_of_too_much(bus: Bus) -> None:
    async with clacks.connect(bus.url("anna")) as client:
        aged, sized = Keep(durable="aged", max_age=2), Keep(durable="sized", max_bytes=4000)
        limited = DIFFERS["bytes are limited"][bus.kind]
        for keep in (aged, sized) if limited else (aged,):
            (await client.events(BUSY, keep=keep).open()).close()
        for number in range(50):
            await client.send(phone(number))
        while await bus.waiting("aged"):  # until the test's deadline
            await asyncio.sleep(0.05)
        events = await client.events(BUSY, keep=aged).open()
        await client.send(phone(99))
        assert await callers(events, 1) == [99]
        events.close(delete=True)
        if not limited:
            assert (await refused(client.events(BUSY, keep=sized).open())).code == "link-refused"
            return
        events = await client.events(BUSY, keep=sized).open()
        first, got = await anext(events), []
        while 99 not in got:
            got += await callers(events, 1)
        assert [caller(first), *got] == [*range(caller(first), 50), 99], "the newest, in their order"
        assert 20 < caller(first) < 50
        assert first.dropped == (caller(first) if DIFFERS["what was dropped is told"][bus.kind] else 0)
        events.close(delete=True)


@scene
async def test_each_event_goes_to_one_of_those_who_share(bus: Bus) -> None:
    """Each of several consumers has a part, and what one had and did not settle is the others'."""
    for keep in (Keep(shared="live"), Keep(durable="kept", shared="kept")):
        async with AsyncExitStack() as stack:
            publisher, *clients = [await stack.enter_async_context(BusClient(bus.url("anna"))) for _ in range(4)]
            streams = [await client.events(BUSY, keep=keep).open() for client in clients]
            assert bus.subscriptions == [keep.shared]
            for number in range(60):
                await publisher.send(phone(number))

            def waiting(*those: Any) -> int:
                return sum(one._queue.qsize() for one in those)

            await until(lambda streams=streams: waiting(*streams) == 60, "all are with somebody")  # type: ignore[misc]
            assert all(waiting(one) for one in streams), "each has a part"
            await clients[0].close()
            await until(lambda streams=streams: waiting(*streams[1:]) >= 60, "the others have what the first one had")  # type: ignore[misc]
            got = [await callers(one, waiting(one)) for one in streams[1:]]
            assert sorted(got[0] + got[1]) == list(range(60))
            if keep.durable:
                assert await publisher.call("deleteSubscription", keep.durable, None, True) is True
            else:
                streams[1].close()
                await leave(publisher, keep.shared, streams[2], bus)
        await until(lambda: not bus.subscriptions, "it is ended")


@scene
async def test_who_takes_none_of_its_events_has_a_window_of_them_and_no_more(bus: Bus) -> None:
    for keep in (Keep(shared="live"), Keep(durable="kept", shared="kept")):
        async with AsyncExitStack() as stack:
            publisher, *clients = [await stack.enter_async_context(BusClient(bus.url("anna"))) for _ in range(3)]
            stuck, busy = [await client.events(BUSY, keep=keep).open() for client in clients]
            got = asyncio.get_running_loop().create_task(callers(busy, 500 - WINDOW))
            for number in range(500):
                await publisher.send(phone(number))
            await got
            assert 0 < stuck._queue.qsize() <= WINDOW
            if keep.durable:
                assert await publisher.call("deleteSubscription", keep.durable, None, True) is True
            else:
                stuck.close()
                await leave(publisher, keep.shared, busy, bus)
        await until(lambda: not bus.subscriptions, "it is ended")


async def settling(client: BusClient, keep: Keep, outcomes: Callable[[int, int], Outcome], seen: list[tuple[int, int]]) -> Subscription:
    """A subscription that settles each event with `outcomes(caller, attempts)`; `seen` are these pairs."""

    def deliver(delivery: Delivery) -> None:
        seen.append((caller(delivery.event), delivery.event.attempts))
        delivery.settle(outcomes(*seen[-1]))

    subscription = Subscription(client.route, Wanted(BUSY, keep=keep), deliver)
    await subscription.attach()
    return subscription


@scene
async def test_what_is_given_back_comes_again_and_what_is_refused_does_not(bus: Bus) -> None:
    """1 fails once, 2 is released once, 3 fails for ever, 4 nobody can take, 5 is rejected."""
    first = {1: Modified(failed=True), 2: RELEASED}
    ever: dict[int, Outcome] = {
        3: Modified(failed=True),
        4: Modified(failed=True, undeliverable=True),
        5: Rejected(Condition("app:no", "no thanks")),
    }
    seen: list[tuple[int, int]] = []

    def outcome(number: int, attempts: int) -> Outcome:
        given = [one for one, _ in seen].count(number)
        again = given > 1
        if number == 3 and given == SETTINGS["queue.deliveries"] and not DIFFERS["deliveries are limited"][bus.kind]:
            return ACCEPTED
        return ever.get(number) or (ACCEPTED if again else first.get(number, ACCEPTED))

    async with clacks.connect(bus.url("anna")) as client:
        subscription = await settling(client, Keep(durable="picky"), outcome, seen)
        for number in range(1, 7):
            await client.send(phone(number))
        times = {1: 2, 2: 2, 3: SETTINGS["queue.deliveries"], 4: 1, 5: 1, 6: 1}
        await until(lambda: len(seen) == sum(times.values()), f"everything has its outcome {seen}")
        await client.send(phone(7))
        await until(lambda: (7, 0) in seen, "the next one comes, and nothing before it")
        assert {number: [one for one, _ in seen].count(number) for number in times} == times
        assert [attempts for number, attempts in seen if number == 1] == [0, 1]
        assert [attempts for number, attempts in seen if number == 2] == [0, 0]
        assert [attempts for number, attempts in seen if number == 3] == list(range(times[3]))
        if DIFFERS["dead letters"][bus.kind]:
            async with client.events(dead_letters="look") as letters:
                dead = {caller(one): one for one in [await anext(letters) for _ in range(3)]}
            assert {number: one.dead_subscription for number, one in dead.items()} == dict.fromkeys((3, 4, 5), "picky")
            reasons = ("3 times", "undeliverable", "app:no: no thanks")
            assert [reason in dead[number].dead_reason for number, reason in enumerate(reasons, 3)] == [True] * 3
            subscription.close()
            assert await client.call("replaySubscription", "picky") == 3
            again = await client.events(BUSY, keep=Keep(durable="picky")).open()
            assert sorted(await callers(again, 3)) == [3, 4, 5]
            again.close(delete=True)
            assert await client.call("deleteSubscription", "dead-letters") is True
        else:
            assert (await refused(client.events(dead_letters="look").open())).code == "address-unknown"
            assert (await refused(client.call("replaySubscription", "picky"))).code == "link-refused"
            subscription.close(delete=True)


@scene
async def test_a_subscription_that_is_deleted_ends_its_consumer(bus: Bus) -> None:
    async with clacks.connect(bus.url("anna")) as client, clacks.connect(bus.url()) as admin:
        events = await client.events(BUSY, keep=Keep(durable="doomed")).open()
        assert (await refused(client.call("deleteSubscription", "doomed", "bert"))).code == "not-permitted"
        assert (await refused(client.call("deleteSubscription", "other"))).code == "subscription-unknown"
        if DIFFERS["whether it is in use is known"][bus.kind]:
            assert (await refused(client.call("deleteSubscription", "doomed"))).code == "subscription-in-use"
        assert await admin.call("deleteSubscription", "doomed", "anna", True) is True
        error = await refused(anext(events))
        assert (error.code, "'doomed' was deleted by admin" in str(error)) == ("subscription-deleted", True)


# --- who may do what ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def permit(bus: Bus) -> Iterator[Callable[..., None]]:
    """Puts rules in force, for the time of the test."""
    yield bus.permit
    bus.permit(ORDINARY)


def test_what_no_rule_allows_is_refused(bus: Bus, permit: Callable[..., None]) -> None:
    anna = Rule(users=("anna",), publish=("Phone*",), subscribe=("Phone*",), durable=("anna-*",), call=(Call("core", "getN*"),))
    permit(anna)

    @scene
    async def work(bus: Bus) -> None:
        async with clacks.connect(bus.url("anna")) as client, clacks.connect(bus.url("bert")) as bert:
            events = await client.events(keep=Keep(durable="anna-1")).open()
            await client.send(phone(1))
            assert await callers(events, 1) == [1]
            assert sorted(await client.call("getNodes")) == sorted(bus.nodes)
            for attempt, said in (
                (client.send(POLL), "anna may not publish ClientPoll. An administrator can allow it: `clacks user allow anna --publish"),
                (client.events(event="ClientPoll").open(), "anna may not subscribe to ClientPoll."),
                (client.events(BUSY, keep=Keep(durable="kept")).open(), "anna may not keep a subscription called kept."),
                (client.call("sendEvent", phone(1).decode()), "anna may not call sendEvent."),
                (client.call("shutdown"), "anna may not call shutdown."),
                (client.call("getSubscription", "kept", "admin"), "anna may not call getSubscription."),
                (bert.send(phone(1)), "bert may not publish PhoneStatus."),
                (bert.events().open(), "bert may not subscribe to events."),
                (bert.call("getNodes"), "bert may not call getNodes."),
            ):
                error = await refused(attempt)
                assert (error.code, error.exit_code, str(error).startswith(said)) == ("not-permitted", 4, True), str(error)
            events.close(delete=True)

    work(bus)


def test_other_rules_count_for_subscriptions_that_are_there(bus: Bus, permit: Callable[..., None]) -> None:
    both = Rule(users=("anna",), subscribe=("PhoneStatus", "ClientPoll"))
    phones, polls = Rule(users=("anna",), subscribe=("PhoneStatus",)), Rule(users=("anna",), subscribe=("ClientPoll",))

    @scene
    async def work(bus: Bus) -> None:
        async with clacks.connect(bus.url("anna")) as client, clacks.connect(bus.url()) as admin:
            permit(both)
            events = await client.events().open()
            expected = []
            for rule, names in ((both, ["PhoneStatus", "ClientPoll"]), (phones, ["PhoneStatus"]), (polls, ["ClientPoll"])):
                permit(rule)
                await admin.send(phone(1))
                await admin.send(POLL)
                expected += names
            permit(both)
            await admin.send(phone(9))
            got = [await anext(events) for _ in range(len(expected) + 1)]
            assert [one.name for one in got] == [*expected, "PhoneStatus"]
            assert caller(got[-1]) == 9
            events.close()

    work(bus)


def test_who_may_see_nothing_any_more(bus: Bus, permit: Callable[..., None]) -> None:
    @scene
    async def work(bus: Bus) -> None:
        async with clacks.connect(bus.url("anna")) as client, clacks.connect(bus.url()) as admin:
            events = await client.events(BUSY).open()
            permit(Rule(users=("anna",), publish=("*",)))
            await admin.send(phone(1))
            if DIFFERS["who may see nothing is told"][bus.kind]:
                assert (await refused(anext(events))).code == "not-permitted"
            else:
                permit(ORDINARY)
                await admin.send(phone(2))
                assert await callers(events, 1) == [2]
                events.close()

    work(bus)


def test_a_user_who_is_removed_is_thrown_out(bus: Bus) -> None:
    bus.add_user("carl")
    consumer = AMQPEventConsumer(bus.url("carl"), event="PhoneStatus")
    bus.remove_user("carl")
    told = DIFFERS["a user is not known any more"][bus.kind]
    attempts = [lambda: failing(AMQPServiceProxy, bus.url("carl")), *([lambda: failing(consumer.join, DEADLINE)] if told else [])]
    assert [error.code for error in together(attempts)] == ["not-authenticated", *([told] if told else [])]
    consumer.close()
    asyncio.run(bus.clear())


# --- schemas and dear filters ------------------------------------------------------------------------------------------------------

SCHEMA = """<schema targetNamespace="http://www.gonicus.de/Events" elementFormDefault="qualified"
  xmlns="http://www.w3.org/2001/XMLSchema"><element name="Door" type="{}"/></schema>"""


def door(text: str) -> bytes:
    return f'<Event xmlns="http://www.gonicus.de/Events"><Door>{text}</Door></Event>'.encode()


@scene
async def test_a_schema_comes_changes_and_goes_while_the_bus_runs(bus: Bus) -> None:
    file = bus.schemas / "Door.xsd"
    async with clacks.connect(bus.url()) as client, client.events("/*:Event/*:Door") as events:
        assert (await refused(client.send(door("true")))).code == "event-unknown"
        for kind, text, code in (
            ("boolean", "true", None), ("boolean", "open", "event-invalid"), ("string", "open", None),
            ("nonsense", "shut", None),  # a broken file keeps its last good version
        ):  # fmt: skip
            file.write_text(SCHEMA.format(kind))
            await asyncio.to_thread(bus.reload_schemas)
            if code is None:
                await client.send(door(text))
                assert (await anext(events)).body == door(text)
            else:
                assert (await refused(client.send(door(text)))).code == code
        assert 'name="Door" type="string"' in await client.call("getSchema", "Door")
        file.unlink()
        await asyncio.to_thread(bus.reload_schemas)
        assert (await refused(client.send(door("open")))).code == "event-unknown"


DEAR = "every $x in (1 to xs:integer(//*:CallerId)) satisfies string($x) != 'x'"  # for the sandbox: as long as the event says


@scene
async def test_a_dear_filter_keeps_its_order_and_nobody_waits_for_it(bus: Bus) -> None:
    async with (
        clacks.connect(bus.url("anna")) as client,
        clacks.connect(bus.url("bert")) as bert,
        client.events(DEAR, event="PhoneStatus") as dear,
        bert.events(event="PhoneStatus") as plain,
    ):
        numbers = [3000, 1, 2000, 2, 1000, 3]
        for number in numbers:
            await bert.send(phone(number))
        assert await callers(plain, 6) == numbers
        assert await callers(dear, 6) == numbers


@scene
async def test_a_filter_that_exceeds_its_budget_is_suspended_and_its_owner_hears_why(bus: Bus) -> None:
    async with clacks.connect(bus.url("anna")) as client, clacks.connect(bus.url("bert")) as bert:
        events = await client.events(DEAR, event="PhoneStatus").open()
        kept = await client.events(DEAR, event="PhoneStatus", keep=Keep(durable="dear")).open()
        async with bert.events(event="PhoneStatus") as plain:
            for number in range(3):
                await bert.send(phone(900_000 + number))
            assert await callers(plain, 3) == [900_000, 900_001, 900_002]
        undecided = []

        async def read(stream: Any) -> None:
            async for event in stream:
                undecided.append(event.undecided)

        for stream in (events, kept):
            error = await refused(read(stream))
            assert (error.code, "one evaluation took more than" in str(error)) == ("filter-suspended", True), str(error)
        assert bool(undecided) == DIFFERS["what was not decided comes, marked"][bus.kind]
        assert all(undecided)
        shown = await client.call("getSubscription", "dear")
        assert "one evaluation took more than" in shown["suspended"]
        if DIFFERS["what waits is known"][bus.kind]:
            assert shown["kept"] > 0
        assert await client.call("deleteSubscription", "dear") is True


# --- the shell ---------------------------------------------------------------------------------------------------------------------


def typed(bus: Bus, *arguments: str, user: str = "anna", program: Any = shell, stdin: str = "") -> Result:
    """A command in this process."""
    return CliRunner().invoke(program, arguments, env={"CLACKS_URL": bus.url(user)}, input=stdin)


@contextmanager
def consuming(bus: Bus, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`clacks consume` as a process, attached."""
    command = [sys.executable, "-m", "clacks.cli", "consume", *arguments]
    environment = environment | {"CLACKS_URL": bus.url("anna")}
    before = len(bus.subscriptions)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: len(bus.subscriptions) > before or process.poll() is not None, "the consumer is there")
            yield process
        finally:
            process.kill()


def test_what_is_sent_is_printed(bus: Bus, environment: dict[str, str]) -> None:
    with consuming(bus, environment, "--event", "PhoneStatus", "//*:Status = 'busy'", "--count", "2", "--json") as process:
        for status in ("ringing", "busy", "idle", "busy"):
            fields = ["PhoneStatus", "CallerId=1", "ReceiverId=2", f"Status={status}", "--property", "site=oslo", "--ttl", "60"]
            sent = typed(bus, *fields, program=send_event)
            assert (sent.exit_code, sent.output.startswith("accepted: PhoneStatus (")) == (0, True), sent.output
        out, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, errors) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    assert [(one["event"], one["user"], one["properties"]) for one in events] == [("PhoneStatus", "anna", {"site": "oslo"})] * 2
    assert events[0]["content"] == {"CallerId": "1", "ReceiverId": "2", "Status": "busy"}
    assert events[0]["id"] != events[1]["id"]
    assert events[0]["time"].endswith("+00:00")
    bus.settled()


def test_ctrl_c_detaches_and_the_next_one_gets_what_came_meanwhile(bus: Bus, environment: dict[str, str]) -> None:
    with consuming(bus, environment, "--json", "--event", "PhoneStatus", "--durable", "billing") as process:
        assert typed(bus, "-", program=send_event, stdin=phone(1).decode()).exit_code == 0
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["content"]["CallerId"] == "1"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, errors) == (0, "")
    for number in (2, 3):
        assert typed(bus, "-", program=send_event, stdin=phone(number).decode()).exit_code == 0
    again = typed(bus, "consume", "--event", "PhoneStatus", "--durable", "billing", "--count", "2", "--format", "xml")
    assert (again.exit_code, again.stdout.count("<CallerId>")) == (0, 2), again.output
    assert typed(bus, "subscriptions", "delete", "billing").stdout == "deleted: billing of anna\n"


def test_ctrl_c_ends_a_live_one(bus: Bus, environment: dict[str, str]) -> None:
    with consuming(bus, environment, "--event", "PhoneStatus", "--format", "xml") as process:
        assert typed(bus, "-", program=send_event, stdin=phone(1).decode()).exit_code == 0
        assert process.stdout is not None
        assert "<CallerId>1<" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, errors) == (0, "")
    bus.settled()


def test_exit_codes_and_sentences(bus: Bus) -> None:
    rejected = typed(bus, "NodeStatus", "Id=a", "Load=much", "Latency=0", "Workers=x", program=send_event)
    assert rejected.exit_code == 3
    first, *problems = rejected.stderr.splitlines()
    assert first == "error: The event NodeStatus does not fit its schema. `clacks schemas NodeStatus` shows what is expected."
    assert [line.partition(" (line")[0].strip() for line in problems if line.startswith("  /")] == [
        "/Event/NodeStatus/Load", "/Event/NodeStatus/Workers",
    ]  # fmt: skip
    for arguments, code, said in (
        (["consume", "1 +"], 2, "The filter does not compile: line 1, column"),
        (["consume", "--event", "Nothing"], 2, "No schema is called Nothing"),
        (["consume", "--timeout", "0.05"], 6, "No event arrived within 0.05 s"),
        (["call", "getSchemas"], 2, "Did you mean getSchema?"),
        (["call", "getSchema"], 2, "getSchema: missing a required argument: 'name'"),
        (["call", "sendEvent", '"<a/>"'], 3, "The root element is"),
        (["call", "shutdown"], 4, "anna may not call shutdown"),
        (["subscriptions", "show", "nothing"], 2, "No subscription is called 'nothing'"),
    ):
        result = typed(bus, *arguments)
        assert (result.exit_code, said in result.stderr) == (code, True), (arguments, result.output)
    bus.settled()


def test_calls_subscriptions_and_status(bus: Bus) -> None:
    assert typed(bus, "call", "getSessionUser").output == "anna\n"
    assert typed(bus, "call", "whisper", "word=a", "loud=true", "--target", "tests").output == "anna: A\n"
    assert sorted(json.loads(typed(bus, "call", "getNodes").stdout)) == sorted(bus.nodes)
    assert "No subscriptions are kept or shared." in typed(bus, "subscriptions").stdout
    made = typed(bus, "consume", "--event", "PhoneStatus", "//*:CallerId = 1", "--durable", "billing", "--timeout", "0.05")
    assert made.exit_code == 6
    for number in range(3):
        assert typed(bus, "-", program=send_event, stdin=phone(number).decode()).exit_code == 0
    heads, row = typed(bus, "subscriptions").stdout.splitlines()
    assert heads.split() == ["name", "user", "kind", "consumers", "waiting", "dropped", "dead"]
    waiting = "1" if DIFFERS["what waits is known"][bus.kind] else "0"
    assert row.split()[:5] == ["billing", "anna", "durable", "0", waiting]
    assert "filters        //*:CallerId = 1\n" in typed(bus, "subscriptions", "show", "billing").stdout
    assert typed(bus, "subscriptions", "--json", user="bert").stdout == "[]\n"
    foreign = typed(bus, "subscriptions", "show", "billing", "--owner", "anna", user="bert")
    assert (foreign.exit_code, "--administer" in foreign.stderr) == (4, True)
    status = json.loads(typed(bus, "status", "--json", user="admin").stdout)
    assert (status["node"] in bus.nodes, status["domain"]) == (True, bus.domain)
    assert [(one["name"], one["user"], one["kind"]) for one in status["subscriptions"]] == [("billing", "anna", "durable")]
    assert "billing" in typed(bus, "status").stdout
    deleted = typed(bus, "subscriptions", "delete", "billing", "--owner", "anna", user="admin").stdout
    assert deleted.startswith("deleted: billing of anna")
    bus.settled()


# --- what goes away and comes back -------------------------------------------------------------------------------------------------


def test_a_call_under_way_when_the_connection_is_lost(bus: Bus) -> None:
    proxy = AMQPServiceProxy(bus.url(), target="tests")
    proxy.dream(0)
    SLEEPER.asleep.clear()
    lost: list[ClacksError] = []
    thread = threading.Thread(target=lambda: lost.append(failing(proxy.dream, 60)))
    thread.start()
    assert SLEEPER.asleep.wait(DEADLINE)
    proxy._background.loop.call_soon_threadsafe(lambda: proxy._client._route.connection.abort())
    thread.join(DEADLINE)
    assert [error.code for error in lost] == ["connection-lost"]
    assert proxy.dream(0) == "awake"
    proxy.close()


@scene
async def test_nothing_that_is_kept_is_lost_while_the_connection_is(bus: Bus) -> None:
    async with clacks.connect(bus.url("anna")) as client, clacks.connect(bus.url("bert")) as other:
        events = await client.events(BUSY, keep=Keep(durable="kept")).open()
        await client.send(phone(0))
        assert await callers(events, 1) == [0]
        assert client._route is not None
        client._route.connection.abort()  # as when a cable is pulled
        for number in range(1, 20):
            await other.send(phone(number))
        seen: list[int] = []
        while 19 not in seen:
            seen += await callers(events, 1)
        assert sorted(set(seen) | {0}) == list(range(20))  # the one in hand may come again
        await client.send(phone(20))
        assert await callers(events, 1) == [20]
        assert await client.call("getSessionUser") == "anna"
        events.close(delete=True)


@scene
async def test_several_urls_are_tried_in_their_order(bus: Bus) -> None:
    dead = f"amqp://admin:secret@localhost:9/{bus.domain}"
    for urls in (f"{dead}, {bus.url()}", [bus.url(), dead]):
        async with clacks.connect(urls) as client, client.events(BUSY) as events:
            await client.send(phone(1))
            assert await callers(events, 1) == [1]
    assert (await refused(BusClient(dead).route())).code == "unreachable"


# What may become of a command while the bus is away.
AWAY = ("unreachable", "connection-lost", "command-timeout", "bus-overloaded", "bus-stopping")


@pytest.mark.parametrize(
    ("kind", "what"),
    [("embedded", "agents"), ("rabbitmq", "agents"), ("rabbitmq", "broker"), ("activemq", "agents"), ("activemq", "broker")],
)
def test_everything_goes_on_after_a_restart(kind: str, what: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with ExitStack() as stack:

        def broker(kind: str) -> Any:
            shared = request.getfixturevalue(kind)
            if what == "agents":
                return shared
            return stack.enter_context(RabbitMQ() if kind == "rabbitmq" else DomainActiveMQ([new_domain()]))

        bus = stack.enter_context(running(kind, broker, tmp_path))
        stack.callback(lambda: asyncio.run(bus.clear()))
        AMQPEventConsumer(bus.url("anna"), xquery=BUSY, durable="away").close()
        seen: dict[str, list[int]] = {"live": [], "kept": []}
        for name, durable in (("live", ""), ("kept", "kept")):

            def note(event: Any, name: str = name) -> None:
                seen[name].append(int(event.PhoneStatus.CallerId))

            stack.enter_context(AMQPEventConsumer(bus.url("anna"), xquery=BUSY, durable=durable, callback=note))
        proxy = stack.enter_context(AMQPServiceProxy(bus.url(), timeout=5))
        proxy.sendEvent(phone(1))
        wait_for(lambda: seen == {"live": [1], "kept": [1]}, "both have the first event")
        bus.restart(what)

        def sent(number: int) -> bool:
            try:
                return bool(proxy.sendEvent(phone(number)))
            except ClacksError as error:
                if error.code not in AWAY:
                    raise
                return False

        wait_for(lambda: sent(2), "the proxy is heard", 60)
        wait_for(lambda: 2 in seen["kept"], "who keeps events has the second one", 60)
        wait_for(lambda: sent(3) and 3 in seen["live"], "the other one is back too", 60)
        assert list(dict.fromkeys(seen["kept"]))[:2] == [1, 2]
        later: list[int] = []
        with AMQPEventConsumer(
            bus.url("anna"), xquery=BUSY, durable="away", callback=lambda event: later.append(int(event.PhoneStatus.CallerId))
        ):
            wait_for(lambda: 3 in later, "what was kept while nobody was there", 60)
        assert list(dict.fromkeys(later)) == [1, 2, 3]
