"""The client library: the consumer and the proxy, their asyncio twin, and what becomes of them when the agent goes."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

import clacks
from clacks.agent.users import make_user
from clacks.common.components import AMQPEventConsumer, AMQPServiceProxy
from clacks.common.components.client import BusClient
from clacks.common.components.url import parse_url, parse_urls
from clacks.common.errors import ClacksError
from clacks.common.event import EventMaker
from clacks.common.xml import Limits
from clacks.testing import LocalBus, sample
from conftest import DEADLINE, RunningAgent, wait_for
from samples import phone
from support import run, until

BUSY = "//*:PhoneStatus[*:Status = 'busy']"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# --- consumer and proxy ----------------------------------------------------------------------------------------------------------


def test_the_callback_gets_the_event_as_the_guide_prints_it(shared_agent: RunningAgent) -> None:
    seen: list[Any] = []
    with AMQPEventConsumer(shared_agent.url(), xquery=BUSY, callback=seen.append), AMQPServiceProxy(shared_agent.url()) as proxy:
        assert proxy.sendEvent(sample("PhoneStatus")) is True
        wait_for(lambda: seen, "the event arrives")
    assert seen[0].PhoneStatus.CallerId.text == "012345"
    assert etree.tostring(seen[0], pretty_print=True).startswith(b'<Event xmlns="http://www.gonicus.de/Events">\n  <PhoneStatus>\n')


def test_an_event_in_every_form(shared_agent: RunningAgent) -> None:
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
        AMQPEventConsumer(shared_agent.url(), xquery=BUSY, callback=lambda event: seen.append(event.PhoneStatus.CallerId.text)),
        AMQPServiceProxy(shared_agent.url()) as proxy,
    ):
        for form in forms:
            proxy.sendEvent(form)
        wait_for(lambda: len(seen) == len(forms), "all arrive")
    assert set(seen) == {"ä"}


def test_a_callback_may_send_events_itself(shared_agent: RunningAgent) -> None:
    seen: list[str] = []
    with AMQPServiceProxy(shared_agent.url()) as proxy:

        def answer(event: Any) -> None:
            seen.append(event.PhoneStatus.Status.text)
            if seen == ["busy"]:
                proxy.sendEvent(sample("PhoneStatus").replace(b"busy", b"idle"))

        with AMQPEventConsumer(shared_agent.url(), xquery="//*:PhoneStatus", callback=answer):
            proxy.sendEvent(sample("PhoneStatus"))
            wait_for(lambda: seen == ["busy", "idle"], "the answer arrives")


def test_a_callbacks_exception_is_logged_and_the_consumer_goes_on(agent: RunningAgent, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def callback(event: Any) -> None:
        seen.append(event.PhoneStatus.Status.text)
        if len(seen) == 1:
            raise LookupError("my own fault")

    with AMQPEventConsumer(agent.url(), xquery="//*:PhoneStatus", callback=callback), AMQPServiceProxy(agent.url()) as proxy:
        proxy.sendEvent(sample("PhoneStatus"))
        proxy.sendEvent(sample("PhoneStatus").replace(b"busy", b"idle"))
        wait_for(lambda: seen == ["busy", "idle"], "the second one arrives")
        wait_for(lambda: sum(one.unaccepted for one in agent.subscriptions) == 1, "the first one is settled as modified")
        wait_for(lambda: agent.agent.broker.subscriptions.totals().buried == 1, "and is a dead letter")
    assert "LookupError: my own fault" in caplog.text
    assert "raise LookupError" in caplog.text


def test_events_come_in_order_on_one_thread(shared_agent: RunningAgent) -> None:
    seen: list[tuple[int, int]] = []

    def callback(event: Any) -> None:
        seen.append((int(event.PhoneStatus.CallerId), threading.get_ident()))

    with AMQPEventConsumer(shared_agent.url(), xquery="//*:PhoneStatus", callback=callback), AMQPServiceProxy(shared_agent.url()) as proxy:
        for number in range(50):
            proxy.sendEvent(sample("PhoneStatus").replace(b"012345", str(number).encode()))
        wait_for(lambda: len(seen) == 50, "all arrive")
    assert [number for number, _ in seen] == list(range(50))
    assert len({thread for _, thread in seen}) == 1
    assert seen[0][1] != threading.get_ident()


def test_join_waits_and_tells_of_the_end(shared_agent: RunningAgent) -> None:
    consumer = AMQPEventConsumer(shared_agent.url())
    assert consumer.join(0.01) is False
    threading.Timer(0.05, consumer.close).start()
    with pytest.raises(ClacksError, match="closed"):
        consumer.join()


def test_a_consumer_may_close_itself_in_its_callback(shared_agent: RunningAgent) -> None:
    closed = threading.Event()

    def callback(event: Any) -> None:
        consumer.close()
        closed.set()

    consumer = AMQPEventConsumer(shared_agent.url(), xquery=BUSY, callback=callback)
    with AMQPServiceProxy(shared_agent.url()) as proxy:
        proxy.sendEvent(sample("PhoneStatus"))
    assert closed.wait(DEADLINE)
    with pytest.raises(ClacksError, match="closed"):
        consumer.join(DEADLINE)


def test_deleting_a_consumer_ends_its_subscription(agent: RunningAgent) -> None:
    consumer = AMQPEventConsumer(agent.url())
    assert len(agent.subscriptions) == 1
    del consumer
    wait_for(lambda: not agent.subscriptions, "the subscription is gone")


def test_a_program_that_deletes_its_consumer_and_exits_ends_at_once(agent: RunningAgent) -> None:
    program = (
        "from clacks.common.components import AMQPEventConsumer\n"
        f"consumer = AMQPEventConsumer({agent.url()!r}, callback=print)\n"
        "del consumer\n"
        "exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wait_for(lambda: not agent.agent.broker.connections, "it said goodbye")


def test_commands_by_position_and_by_name(shared_agent: RunningAgent) -> None:
    with AMQPServiceProxy(shared_agent.url("guest", "guest")) as proxy:
        assert proxy.getSessionUser() == "guest"
        assert proxy.getSchema("PhoneStatus") == proxy.getSchema(name="PhoneStatus")
        assert "PhoneStatus" in {event["name"] for event in proxy.getEvents()}
        with pytest.raises(TypeError):
            proxy.getSchema("a", name="b")
        with pytest.raises(ClacksError) as caught:
            proxy.getSchemas()
        assert caught.value.code == "command-unknown"
        assert "getSchema" in str(caught.value)


def test_a_command_that_takes_too_long(shared_agent: RunningAgent) -> None:
    class Slow:
        from clacks.common.components import Command

        @Command()
        async def dream(self, seconds: float) -> str:
            await asyncio.sleep(seconds)
            return "awake"

    shared_agent.run(lambda: shared_agent.agent.commands.register(Slow()))
    with AMQPServiceProxy(shared_agent.url(), timeout=0.1) as proxy:
        with pytest.raises(ClacksError) as caught:
            proxy.dream(60)
        assert caught.value.code == "command-timeout"
        assert proxy.dream(0) == "awake"


# --- what can be wrong ------------------------------------------------------------------------------------------------------------


def publish(url: str, event: str) -> None:
    async def send() -> None:
        async with clacks.connect(url) as bus:
            await bus.send(event)

    asyncio.run(send())


def failing(function: Any, *arguments: Any, **options: Any) -> ClacksError:
    with pytest.raises(ClacksError) as caught:
        function(*arguments, **options)
    return caught.value


def test_errors_when_it_is_made(shared_agent: RunningAgent) -> None:
    url = shared_agent.url()
    assert failing(AMQPServiceProxy, f"amqp://admin:secret@localhost:{free_port()}").code == "unreachable"
    assert failing(AMQPServiceProxy, shared_agent.url("admin", "wrong")).code == "not-authenticated"
    assert failing(AMQPServiceProxy, url.replace("admin:secret@", "")).code == "mechanism-unusable"
    assert failing(AMQPServiceProxy, "http://localhost").code == "url-invalid"
    error = failing(AMQPEventConsumer, url, xquery="1 +")
    assert error.code == "filter-invalid"
    assert "line 1" in str(error)
    assert failing(AMQPEventConsumer, url, event="Nothing").code == "schema-unknown"
    assert failing(AMQPEventConsumer, url.replace("org.clacks", "org.other")).code == "address-unknown"


def test_what_the_agent_would_not_take_is_not_sent(shared_agent: RunningAgent) -> None:
    text = phone("x" * 3 * Limits().size)
    assert failing(publish, shared_agent.url(), text).code == "message-too-large"
    with AMQPServiceProxy(shared_agent.url()) as proxy:
        assert failing(proxy.sendEvent, text).code == "message-too-large"
        assert proxy.sendEvent(phone()) is True


def test_something_else_on_the_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        error = failing(AMQPServiceProxy, f"amqp://a:b@127.0.0.1:{server.getsockname()[1]}")
    assert error.code == "unreachable"
    assert "AMQP" in str(error)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amqp://localhost", "amqp://localhost:5672/org.clacks"),
        ("amqps://a:b@host", "amqps://a@host:5671/org.clacks"),
        ("amqps://a%40b:c%2Fd@[::1]:7/org.x", "amqps://a@b@[::1]:7/org.x"),
        ("amqp://a:b@c@host", "amqp://a@host:5672/org.clacks"),
    ],
)
def test_urls(text: str, shown: str) -> None:
    assert str(parse_url(text)) == shown


@pytest.mark.parametrize("text", ["", "localhost", "http://x", "amqp://", "amqp://host:port", "amqp://h:99999", "amqp://[::1"])
def test_urls_that_are_none(text: str) -> None:
    assert failing(parse_urls, text).code == "url-invalid"


def test_no_error_shows_a_password() -> None:
    assert "secret" not in str(failing(parse_url, "http://admin:secret@host"))
    for mark in "#/?,[℀":  # each of them ends what urlsplit takes for user and password, or makes it complain of it
        for password in (f"secret{mark}tail", f"1234{mark}secret"):
            for url in (f"amqp://admin:{password}@host", f"amqps://admin:{password}@host:5671/org.clacks"):
                error = failing(parse_urls, url)
                assert error.code == "url-invalid"
                assert "secret" not in "".join(traceback.format_exception(error))
                assert "1234" not in str(error)
    for password in ("secret/x", "secret?", "x#secret", "secret,x", "12,secret", "secret x", "[secret"):
        error = failing(parse_urls, f"amqp://admin:{password}@host")
        assert (error.code, "secret" in str(error)) == ("url-invalid", False), password
        assert "%2C" in str(error) or password == "12,secret"


# --- the agent goes and comes back ------------------------------------------------------------------------------------------------


def test_the_filter_is_put_back_after_a_restart_and_another_url_is_tried(tmp_path: Path) -> None:
    port = free_port()
    urls = f"amqp://admin:secret@localhost:{free_port()}, amqp://admin:secret@localhost:{port}"
    seen: list[str] = []

    def callback(event: Any) -> None:
        seen.append(event.PhoneStatus.Status.text)

    with RunningAgent(tmp_path, {"listen": [f"localhost:{port}"]}):
        consumer = AMQPEventConsumer(urls, xquery=BUSY, callback=callback)
        proxy = AMQPServiceProxy(urls)
        proxy.sendEvent(sample("PhoneStatus"))
        wait_for(lambda: seen == ["busy"], "the first arrives")
    with RunningAgent(tmp_path, {"listen": [f"localhost:{port}"]}) as agent:
        wait_for(lambda: agent.subscriptions, "it is attached again")
        assert agent.subscriptions[0].terms.filters == (BUSY,)
        proxy.sendEvent(sample("PhoneStatus").replace(b"busy", b"idle"))
        proxy.sendEvent(sample("PhoneStatus"))
        wait_for(lambda: seen == ["busy", "busy"], "the second arrives")
        proxy.close()
        consumer.close()


def test_a_user_who_is_removed_is_told_when_he_comes_back(tmp_path: Path) -> None:
    port = free_port()
    with RunningAgent(tmp_path, {"listen": [f"localhost:{port}"]}):
        consumer = AMQPEventConsumer(f"amqp://admin:secret@localhost:{port}")
    with RunningAgent(tmp_path, {"listen": [f"localhost:{port}"]}, {"other": make_user("other", "x")}):
        with pytest.raises(ClacksError) as caught:
            consumer.join(DEADLINE)
        assert caught.value.code == "not-authenticated"
        consumer.close()


def test_a_call_under_way_when_the_connection_is_lost(agent: RunningAgent) -> None:
    asleep = threading.Event()

    class Slow:
        from clacks.common.components import Command

        @Command()
        async def dream(self) -> None:
            asleep.set()
            await asyncio.sleep(60)

    agent.run(lambda: agent.agent.commands.register(Slow()))
    proxy = AMQPServiceProxy(agent.url())
    proxy.getNodes()

    def cut() -> None:
        assert asleep.wait(DEADLINE)
        agent.run(lambda: [connection.abort() for connection in agent.agent.broker.connections])

    threading.Thread(target=cut).start()
    assert failing(proxy.dream).code == "connection-lost"
    assert proxy.getSessionUser() == "admin"
    proxy.close()


# --- asyncio ---------------------------------------------------------------------------------------------------------------------


def test_the_asyncio_twin(shared_agent: RunningAgent) -> None:
    @run
    async def test() -> None:
        async with clacks.connect(shared_agent.url()) as bus:
            assert shared_agent.agent.node_id in await bus.call("getNodes")
            async with bus.events(BUSY) as events:
                await bus.send(sample("PhoneStatus"), properties={"a": 1})
                await bus.send(sample("PhoneStatus").replace(b"busy", b"idle"))
                await bus.send(sample("PhoneStatus"))
                first, second = await anext(events), await anext(events)
            assert (first.name, first.user, first.properties) == ("PhoneStatus", "admin", {"a": 1})
            assert first.time is not None
            assert first.id != second.id
            assert first.tree.PhoneStatus.Status.text == "busy"
            with pytest.raises(ClacksError) as caught:
                async for _ in bus.events("1 +"):
                    pass
            assert caught.value.code == "filter-invalid"

    test()


def test_many_at_once(shared_agent: RunningAgent) -> None:
    @run
    async def test() -> None:
        async with clacks.connect(shared_agent.url()) as bus:
            received: list[str] = []

            async def receive() -> None:
                async for event in bus.events(event="PhoneStatus"):
                    received.append(event.id)
                    if len(received) == 500:
                        return

            receiver = asyncio.create_task(receive())
            await until(
                lambda: any(one.terms.address.endswith("PhoneStatus") for one in shared_agent.agent.broker.subscriptions.all), "attached"
            )
            await asyncio.gather(*(bus.send(sample("PhoneStatus")) for _ in range(500)))
            await receiver
            assert len(set(received)) == 500
            assert await asyncio.gather(*(bus.call("getSessionUser") for _ in range(50))) == ["admin"] * 50

    test()


def test_what_was_fetched_ahead_is_given_back(agent: RunningAgent) -> None:
    @run
    async def test() -> None:
        async with clacks.connect(agent.url()) as bus:
            async with bus.events(event="PhoneStatus") as events:
                for _ in range(5):
                    await bus.send(sample("PhoneStatus"))
                await anext(events)
            await until(lambda: not agent.agent.broker.subscriptions.all, "detached")
            with pytest.raises(ClacksError):
                async with BusClient(agent.url("admin", "wrong")):
                    pass

    test()


# --- clacks.testing --------------------------------------------------------------------------------------------------------------


def test_a_bus_in_one_process(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with LocalBus() as bus:
        seen: list[Any] = []
        with bus.consumer(BUSY, seen.append):
            bus.send(sample("PhoneStatus"))
            bus.proxy().sendEvent(sample("PhoneStatus"))
            bus.wait_for(lambda: len(seen) == 2)
        with pytest.raises(ClacksError) as caught:
            bus.send("<a/>")
        assert caught.value.code == "event-root"
        with pytest.raises(TimeoutError):
            bus.wait_for(lambda: len(seen) == 3, 0.01)
    assert caplog.records == []


def test_an_event_at_the_limit_reaches_a_consumer() -> None:
    text = phone()
    text = text.replace("busy", "x" * (Limits().size - len(text) + 4))
    assert len(text) == Limits().size
    with LocalBus() as bus:
        seen: list[Any] = []
        bus.consumer(event="PhoneStatus", callback=seen.append)
        bus.send(text)
        bus.send(phone())
        bus.wait_for(lambda: len(seen) == 2)
    assert len(seen[0].PhoneStatus.Status.text) == len(text) - len(phone()) + 4
