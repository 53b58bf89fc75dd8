"""ActiveMQ as the tests run it: what it says of itself, what it keeps, who gets in, and what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

import activemq
from activemq import ADMIN, AGENT, ActiveMQ
from clacks.amqp import ACCEPTED, AmqpError, Connection, Credentials, Draft, Options, SaslFailure, UInt, connect
from clacks.amqp.codec import encode
from clacks.common.brokers import DIALECTS, Broker, recognise
from clacks.common.components.url import parse_url
from conftest import runs, wait_for
from debian import Unavailable
from support import End, run, until

BROKER = Broker(next(dialect for dialect in DIALECTS if dialect.name == "ActiveMQ"), (5, 17))
DURABLE = b"\0\x53\x70" + encode([True, None, UInt(60_000)])


async def dial(url: str) -> Connection:
    place = parse_url(url)
    return await connect(place.host, place.port, Credentials(place.user, place.password), Options(hostname=place.host))


def test_it_is_recognised_over_the_wire(activemq_broker: ActiveMQ) -> None:
    @run
    async def scene() -> None:
        connection = await dial(activemq_broker.url())
        assert str(recognise(connection.remote_properties, activemq_broker.url())) == f"ActiveMQ {activemq_broker.version}"
        connection.close()
        await connection.wait_closed()

    scene()


def test_what_is_durable_survives_a_crash(activemq_broker: ActiveMQ) -> None:
    """`activemq_broker` is not asked; where it is left out, this is too."""

    @run
    async def scene() -> None:
        with ActiveMQ() as broker:
            connection = await dial(broker.url())
            sender = await connection.attach_sender(BROKER.queue("org.test"))
            sender.handler = sent = End()
            await until(lambda: sender.sendable, "credit")
            for number in range(50):
                sender.send(DURABLE + Draft(b"%d" % number).encode())
            await until(lambda: len(sent.outcomes) == 50, "fifty outcomes")
            assert {outcome for _, outcome in sent.outcomes} == {ACCEPTED}
            broker.kill()
            await until(lambda: sent.ended, "the link's end")

            await asyncio.to_thread(broker.start)
            connection = await dial(broker.url(AGENT.name))
            receiver = await connection.attach_receiver(BROKER.queue("org.test"))
            receiver.handler = got = End()
            receiver.window = 100
            await until(lambda: len(got.received) == 50, "fifty messages")
            assert got.bodies == [b"%d" % number for number in range(50)]
            connection.abort()

    scene()


def test_users_come_and_go_while_it_runs(activemq_broker: ActiveMQ) -> None:
    name, password = "jürgen of: the=north", "pass/wörd@ \\"

    @run
    async def scene() -> None:
        activemq_broker.add_user(name, password)
        url = activemq_broker.url(name)
        (await dial(url)).abort()
        activemq_broker.remove_user(name)
        with pytest.raises(SaslFailure):
            await dial(url)

    scene()


def test_nobody_gets_in_without_a_password(activemq_broker: ActiveMQ) -> None:
    @run
    async def scene() -> None:
        place = parse_url(activemq_broker.url())
        for credentials in (Credentials("", ""), Credentials(ADMIN.name, "wrong"), Credentials("guest", "guest")):
            with pytest.raises(SaslFailure):
                await connect(place.host, place.port, credentials)

    scene()


def test_its_configuration_is_that_of_the_test(activemq_broker: ActiveMQ) -> None:
    """`activemq_broker` is not asked; where it is left out, this is too."""
    rights = '<authorizationEntry queue="org.*.mine.&gt;" read="agents" write="users" admin="users"/>'

    @run
    async def scene() -> None:
        with ActiveMQ(rights=rights, attributes={"advisorySupport": "false"}) as broker:
            connection = await dial(broker.url())
            assert (await connection.attach_sender(BROKER.queue("org.test.mine.1"))).alive
            with pytest.raises(AmqpError, match="unauthorized"):
                await connection.attach_receiver(BROKER.queue("org.test.mine.1"), alone=True)
            connection.abort()

    scene()


# --- the broker as the tests run it -----------------------------------------------------------------------------------------------


def test_it_listens_on_loopback_only_and_leaves_nothing_behind(activemq_broker: ActiveMQ) -> None:
    with ActiveMQ() as broker:
        pid, folder = broker.pid, broker._folder
        inodes = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
        sockets = {inode.removeprefix("socket:[").removesuffix("]") for inode in inodes if inode.startswith("socket:")}
        lines = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
        hosts = {line[1].partition(":")[0] for line in lines if line[3] == "0A" and line[9] in sockets}
        assert hosts
        assert hosts <= {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    assert not folder.exists()
    assert not Path(f"/proc/{pid}").exists()


def test_it_dies_with_the_process_that_started_it(activemq_broker: ActiveMQ, tmp_path: Path) -> None:
    script = "import os, signal, activemq; b = activemq.ActiveMQ(); b.start(); print(b.pid, flush=True); signal.pause()"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    wait_for(lambda: not runs(pid), "the broker is gone")


def test_a_start_that_fails_shows_the_log(activemq_broker: ActiveMQ) -> None:
    with pytest.raises(RuntimeError, match="noSuchAttribute"), ActiveMQ(attributes={"noSuchAttribute": 1}):
        pytest.fail("it started")


def test_where_it_cannot_be_had_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLACKS_TESTS_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    for wanted in (activemq.activemq_root, activemq.java):
        with pytest.raises(Unavailable, match=r"^there is no apt-get"):
            wanted()
    assert {path.suffix for path in tmp_path.iterdir()} == {".lock"}
