"""ActiveMQ as a broker of events: what it says of itself, what it keeps, and who gets in."""

from __future__ import annotations

import asyncio

import pytest

from activemq import ADMIN, AGENT, ActiveMQ
from clacks.amqp import ACCEPTED, AmqpError, Connection, Credentials, Draft, Options, SaslFailure, UInt, connect
from clacks.amqp.codec import encode
from clacks.common.brokers import DIALECTS, Broker, recognise
from clacks.common.components.url import parse_url
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
