"""The guide's two scripts, unchanged, as processes: against `clacks-agent --demo`, and against a domain on RabbitMQ or ActiveMQ."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from activemq import DomainActiveMQ
from brokers import AGENT, RabbitMQ
from conftest import CHECKOUT, DEADLINE, AgentProcess, RunningAgent, wait_for

GUIDE = CHECKOUT.parent / "shared" / "guide"
FOLDERS = [CHECKOUT / "examples", *([GUIDE] if GUIDE.is_dir() else [])]

PRINTED = (
    r"b'<Event xmlns=\"http://www.gonicus.de/Events\">\n  <PhoneStatus>\n    <CallerId>012345</CallerId>\n"
    r"    <ReceiverId>12343424</ReceiverId>\n    <Status>busy</Status>\n  </PhoneStatus>\n</Event>\n'"
).replace('\\"', '"')

# Whether somebody has subscribed.
Subscribed = Callable[[], Any]


@contextmanager
def embedded(environment: dict[str, str], folder: Path) -> Iterator[Subscribed]:
    with AgentProcess(["--demo"], environment, folder / "agent.log", expected=2) as agent:
        assert sorted(agent.urls) == ["amqp://localhost:5672/org.clacks", "amqps://localhost:5671/org.clacks"]
        yield lambda: "subscribed" in agent.log.read_text()
    assert agent.process.returncode == 0


@contextmanager
def on_rabbitmq(environment: dict[str, str], folder: Path) -> Iterator[Subscribed]:
    certified(environment, folder)
    listeners = {
        "listeners.tcp.guide": "127.0.0.1:5672",
        "listeners.ssl.default": "127.0.0.1:5671",
        "ssl_options.certfile": folder / "certificate.pem",
        "ssl_options.keyfile": folder / "key.pem",
    }
    with RabbitMQ(settings=listeners) as broker, agents_on(broker, folder) as subscribed:
        yield subscribed


@contextmanager
def on_activemq(environment: dict[str, str], folder: Path) -> Iterator[Subscribed]:
    key = certified(environment, folder)
    options = "transport.transformer=native&amp;transport.tcpNoDelay=true"
    further = f"""
      <transportConnector uri="amqp://127.0.0.1:5672?{options}"/><transportConnector uri="amqp+ssl://127.0.0.1:5671?{options}"/>
    </transportConnectors>"""
    secret = f'<sslContext><sslContext keyStore="file:{key}" keyStoreType="PKCS12" keyStorePassword="secret"/></sslContext>'

    def edit(text: str) -> str:
        return text.replace("</transportConnectors>", further).replace("<systemUsage>", f"{secret}<systemUsage>", 1)

    with DomainActiveMQ(["org.clacks"], edit) as broker, agents_on(broker, folder) as subscribed:
        yield subscribed


def certified(environment: dict[str, str], folder: Path) -> Path:
    """A certificate for localhost, which the scripts trust; the answer is a file with it and its key, whose password is "secret"."""
    ca = trustme.CA()
    certificate = ca.issue_cert("localhost")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    environment["CLACKS_CA_FILE"] = str(folder / "ca.pem")
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    chain = x509.load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes())
    store = pkcs12.serialize_key_and_certificates(b"clacks", key, chain, None, serialization.BestAvailableEncryption(b"secret"))  # type: ignore[arg-type]
    (folder / "key.p12").write_bytes(store)
    return folder / "key.p12"


@contextmanager
def agents_on(broker: RabbitMQ | DomainActiveMQ, folder: Path) -> Iterator[Subscribed]:
    settings = {"broker.url": [broker.url(AGENT.name)], "listen": [], "drain_timeout": 0.5}
    with (
        RunningAgent(folder / "one", {**settings, "node_id": "one"}) as one,
        RunningAgent(folder / "two", {**settings, "node_id": "two"}) as two,
    ):
        yield lambda: one.subscriptions and two.subscriptions


def test_the_examples_are_the_guides() -> None:
    if not GUIDE.is_dir():
        pytest.skip("this clone has no guide beside it; the project's own copies are tested all the same")
    for name in ("receive.py", "send.py"):
        assert (CHECKOUT / "examples" / name).read_bytes() == (GUIDE / name).read_bytes()


PLACES = {"embedded": embedded, "rabbitmq": on_rabbitmq, "activemq": on_activemq}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("kind", PLACES)
def test_the_event_is_printed(kind: str, folder: Path, environment: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """On the ports that the scripts name, as a reader of the guide would do it."""
    if kind != "embedded":
        request.getfixturevalue(kind)  # where that is left out, this is too
    with PLACES[kind](environment, tmp_path) as subscribed:
        receiver = subprocess.Popen(
            [sys.executable, str(folder / "receive.py")], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        lines: list[str] = []
        assert receiver.stdout is not None
        assert receiver.stderr is not None
        reader = threading.Thread(target=lambda: lines.extend(receiver.stdout), daemon=True)  # type: ignore[arg-type]
        reader.start()
        wait_for(subscribed, "the receiver has subscribed")
        subprocess.run([sys.executable, str(folder / "send.py")], env=environment, check=True, timeout=DEADLINE)
        wait_for(lambda: lines, "the event is printed")
        receiver.send_signal(signal.SIGINT)
        assert receiver.wait(DEADLINE) == 0, "Ctrl-C ends the receiver quietly"
        assert receiver.stderr.read() == ""
        reader.join(DEADLINE)
        receiver.stdout.close()
        receiver.stderr.close()
    assert lines == [PRINTED + "\n"]
