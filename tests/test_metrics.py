"""What operators see: /metrics and /healthz, read as Prometheus reads them."""

from __future__ import annotations

import contextlib
import socket
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

import pytest
from prometheus_client.parser import text_string_to_metric_families

from clacks.agent.metrics import REQUESTS
from clacks.amqp.sasl import SASL_HEADER
from clacks.common.components import AMQPEventConsumer, AMQPServiceProxy
from clacks.common.errors import ClacksError
from clacks.testing import sample
from conftest import DEADLINE, RunningAgent, wait_for


def scrape(agent: RunningAgent) -> dict[str, float]:
    assert agent.agent.metrics is not None
    with urllib.request.urlopen(f"{agent.agent.metrics.url}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {one.name + "".join(sorted(one.labels.values())): one.value for family in families for one in family.samples}


def test_a_scrape_says_what_has_happened(tmp_path: Path) -> None:
    with RunningAgent(tmp_path, {"metrics.listen": "127.0.0.1:0"}) as agent:
        before = scrape(agent)
        seen: list[object] = []
        with AMQPEventConsumer(agent.url(), xquery="//*:PhoneStatus", callback=seen.append), AMQPServiceProxy(agent.url()) as proxy:
            for _ in range(3):
                proxy.sendEvent(sample("PhoneStatus"))
            with pytest.raises(ClacksError):
                proxy.sendEvent("<a/>")
            wait_for(lambda: len(seen) == 3, "they arrive")
            during = scrape(agent)
            assert during["clacks_subscriptions"] == 1
            assert during["clacks_connections"] == 2
        wait_for(lambda: not agent.subscriptions, "the subscription is gone")
        after = scrape(agent)
        assert after["messaging_client_consumed_messages_total"] - before["messaging_client_consumed_messages_total"] >= 3
        assert after["messaging_client_sent_messages_total"] == during["messaging_client_sent_messages_total"] == 3, "a total stays"
        assert after["clacks_refused_messages_totalevent-root"] == 1
        assert after["clacks_schemas"] == 12
        assert after["clacks_publish_duration_seconds_count"] >= 1
        assert after["clacks_subscriptions"] == 0


def test_health_and_what_is_not_there(tmp_path: Path) -> None:
    with RunningAgent(tmp_path, {"metrics.listen": "localhost:0"}) as agent:
        assert agent.agent.metrics is not None
        with urllib.request.urlopen(f"{agent.agent.metrics.url}/healthz", timeout=10) as answer:
            assert answer.read() == b"ok\n"
        with pytest.raises(HTTPError) as caught:
            urllib.request.urlopen(f"{agent.agent.metrics.url}/", timeout=10)
        assert caught.value.code == 404
        caught.value.close()


def test_who_asks_and_says_nothing_holds_up_nobody(tmp_path: Path) -> None:
    with RunningAgent(tmp_path, {"metrics.listen": "127.0.0.1:0"}) as agent, contextlib.ExitStack() as silent:
        assert agent.agent.metrics is not None
        port = int(agent.agent.metrics.url.rpartition(":")[2])
        for _ in range(REQUESTS - 1):
            silent.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert scrape(agent)["clacks_connections"] == 0
        agent.loop.call_soon_threadsafe(agent.agent.stop)
        wait_for(lambda: not agent._thread.is_alive(), "the agent stops while they are silent")


def test_more_requests_than_there_is_room_for_are_closed(tmp_path: Path) -> None:
    with RunningAgent(tmp_path, {"metrics.listen": "127.0.0.1:0"}) as agent, contextlib.ExitStack() as silent:
        assert agent.agent.metrics is not None
        port = int(agent.agent.metrics.url.rpartition(":")[2])
        several = [silent.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(REQUESTS + 1)]
        several[-1].settimeout(DEADLINE)
        assert several[-1].recv(1) == b""
        for one in several:
            one.close()
        wait_for(lambda: _answers(agent), "those who ask are answered again")


def _answers(agent: RunningAgent) -> bool:
    with contextlib.suppress(OSError, HTTPException):
        return bool(scrape(agent))
    return False


def test_metrics_are_for_this_machine(tmp_path: Path) -> None:
    with pytest.raises(ClacksError, match="loopback"), RunningAgent(tmp_path, {"metrics.listen": "0.0.0.0:0"}):
        pass


def test_who_is_not_let_in_is_counted(tmp_path: Path) -> None:
    with RunningAgent(tmp_path, {"metrics.listen": "127.0.0.1:0"}) as agent:
        assert scrape(agent)["clacks_half_open_connections"] == 0
        with pytest.raises(ClacksError, match="password"), AMQPServiceProxy(agent.url(password="wrong")):
            pass
        for _ in range(2):
            with socket.create_connection(("localhost", agent.port)) as peer:
                peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert peer.recv(8) == SASL_HEADER
        wait_for(lambda: scrape(agent).get("clacks_not_let_in_totalprotocol") == 2, "both are counted")
        with socket.create_connection(("localhost", agent.port)):
            wait_for(lambda: scrape(agent)["clacks_half_open_connections"] == 1, "it is half open")
            assert scrape(agent)["clacks_not_let_in_totalcredentials"] == 1
            assert scrape(agent)["clacks_connections"] == 0
        wait_for(lambda: scrape(agent)["clacks_half_open_connections"] == 0, "it has gone")
