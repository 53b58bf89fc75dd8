"""The client library by itself: URLs, what is no agent on its port, the bus of `clacks.testing`. With an agent: test_bus.py."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest

import clacks
from clacks.agent.users import make_user
from clacks.common.components import AMQPEventConsumer, AMQPServiceProxy
from clacks.common.components.url import parse_url, parse_urls
from clacks.common.errors import ClacksError
from clacks.common.xml import Limits
from clacks.testing import LocalBus, sample
from conftest import DEADLINE, RunningAgent
from samples import phone

BUSY = "//*:PhoneStatus[*:Status = 'busy']"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


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


def test_a_user_who_is_removed_is_told_when_he_comes_back(tmp_path: Path) -> None:
    port = free_port()
    with RunningAgent(tmp_path, {"listen": [f"localhost:{port}"]}):
        consumer = AMQPEventConsumer(f"amqp://admin:secret@localhost:{port}")
    with RunningAgent(tmp_path, {"listen": [f"localhost:{port}"]}, {"other": make_user("other", "x")}):
        with pytest.raises(ClacksError) as caught:
            consumer.join(DEADLINE)
        assert caught.value.code == "not-authenticated"
        consumer.close()


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
