"""Somebody else's client, two: proton's own Python API, `BlockingConnection` and `Container` with a `MessagingHandler`.

Built without Cyrus SASL, as it usually is, proton's client can PLAIN, ANONYMOUS and EXTERNAL; PLAIN is what it takes here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from proton import ConnectionException, Delivery, Described, Event, Link, Message, symbol, ulong
from proton.handlers import MessagingHandler
from proton.reactor import AtMostOnce, Container, Filter
from proton.utils import BlockingConnection, LinkDetached, SendException, SyncRequestResponse

from conftest import DEADLINE, RunningAgent
from samples import EVENTS, leave, phone, puppet_report

DOMAIN = "org.clacks"
BUSY = f"declare namespace f='{EVENTS}'; ./f:Event/f:PhoneStatus[f:Status = 'busy']"
DESCRIPTORS = [symbol("apache.org:xquery-filter:string"), ulong(0x0000468C00000005)]


def xquery(text: str, descriptor: Any = DESCRIPTORS[0]) -> Filter:
    return Filter({symbol("xquery"): Described(descriptor, text)})


def address(agent: RunningAgent, **who: str) -> str:
    """The URL of the agent without the domain, which proton would take for a part of every address."""
    return agent.url(**who).rpartition("/")[0]


# --- BlockingConnection ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def connection(agent: RunningAgent) -> Iterator[BlockingConnection]:
    connection = BlockingConnection(address(agent), timeout=DEADLINE)
    yield connection
    connection.close()


def test_the_agent_says_what_it_is(connection: BlockingConnection) -> None:
    assert list(connection.conn.remote_offered_capabilities) == ["clacks-bus", "ANONYMOUS-RELAY"]
    assert connection.conn.remote_properties[symbol("product")] == "clacks"


@pytest.mark.parametrize("who", [{"password": "wrong"}, {"user": "nobody"}])
def test_a_stranger_is_refused(agent: RunningAgent, who: dict[str, str]) -> None:
    with pytest.raises(ConnectionException, match="amqp:unauthorized-access"):
        BlockingConnection(address(agent, **who), timeout=DEADLINE)


def test_publish(connection: BlockingConnection) -> None:
    sender = connection.create_sender(DOMAIN)
    assert sender.send(Message(body=phone().encode(), inferred=True)).remote_state == Delivery.ACCEPTED
    assert sender.send(Message(body=phone())).remote_state == Delivery.ACCEPTED
    with pytest.raises(SendException) as refused:
        sender.send(Message(body="<Event/>"))
    assert refused.value.state == Delivery.REJECTED


def test_a_rejection_carries_condition_sentence_and_problems(connection: BlockingConnection) -> None:
    sender = connection.create_sender(DOMAIN)
    delivery = sender.send(Message(body=phone().replace("CallerId", "Colour")), error_states=[])
    condition = delivery.remote.condition
    assert condition.name == "clacks:event-invalid"
    assert condition.description.startswith("The event PhoneStatus does not fit its schema: /Event/PhoneStatus/Colour: ")
    assert condition.info["code"] == "event-invalid"
    assert [problem["path"] for problem in condition.info["problems"]] == ["/Event/PhoneStatus/Colour"]


@pytest.mark.parametrize("descriptor", DESCRIPTORS)
def test_subscribe_with_a_filter(connection: BlockingConnection, descriptor: Any) -> None:
    receiver = connection.create_receiver(DOMAIN, credit=10, options=xquery(BUSY, descriptor))
    assert filters_in_force(receiver.link) == {"xquery": Described(descriptor, BUSY)}
    sender = connection.create_sender(DOMAIN)
    for text in (leave("c-1"), phone("free"), phone("busy")):
        sender.send(Message(body=text))
    assert receiver.receive().body == phone("busy")
    receiver.accept()


def filters_in_force(link: Link) -> Any:
    data = link.remote_source.filter
    data.rewind()
    data.next()
    return data.get_object()


def test_subscribe_to_one_event_by_address(connection: BlockingConnection) -> None:
    receiver = connection.create_receiver(f"{DOMAIN}.event.PhoneStatus", credit=10)
    sender = connection.create_sender(DOMAIN)
    for text in (leave("c-1"), phone()):
        sender.send(Message(body=text))
    assert receiver.receive().body == phone()
    receiver.accept()


def test_application_properties_are_external_variables(connection: BlockingConnection) -> None:
    receiver = connection.create_receiver(DOMAIN, credit=10, options=xquery("declare variable $customer external; $customer = 'ACME'"))
    sender = connection.create_sender(DOMAIN)
    for customer in ("Other", "ACME"):
        sender.send(Message(body=leave(customer), properties={"customer": customer}))
    sender.send(Message(body=leave("without")))
    message = receiver.receive()
    receiver.accept()
    assert (message.body, message.properties) == (leave("ACME"), {"customer": "ACME"})


def test_a_large_event(connection: BlockingConnection) -> None:
    receiver = connection.create_receiver(DOMAIN, credit=1)
    report = puppet_report(300_000).encode()
    connection.create_sender(DOMAIN).send(Message(body=report, inferred=True))
    assert receiver.receive().body == report
    receiver.accept()


def test_the_bare_message_arrives_as_it_was(connection: BlockingConnection) -> None:
    receiver = connection.create_receiver(DOMAIN, credit=1)
    sent = {
        "id": "id-1",
        "user_id": b"admin",
        "subject": "a subject",
        "reply_to": "back",
        "correlation_id": "c",
        "content_type": "text/xml",
    }
    sender = connection.create_sender(DOMAIN)
    sender.send(Message(body=phone(), properties={"n": 5}, annotations={symbol("x-opt-clacks-user"): "somebody"}, **sent))
    message = receiver.receive()
    receiver.accept()
    assert {name: getattr(message, name) for name in sent} == sent
    assert message.properties == {"n": 5}
    assert set(message.annotations) == {"x-opt-clacks-id", "x-opt-clacks-user", "x-opt-clacks-time"}
    assert message.annotations["x-opt-clacks-user"] == "admin"


REFUSED = {
    "a filter": (DOMAIN, "./Event[", r"amqp:invalid-field.*The filter does not compile: line 1, column \d+: \[XPST0003\]"),
    "an address": ("org.example", None, "amqp:not-found.*Nothing is at the address 'org.example'"),
    "an event": (f"{DOMAIN}.event.NoSuchEvent", None, "amqp:not-found.*No schema is called NoSuchEvent"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_receivers_that_are_refused(connection: BlockingConnection, case: str) -> None:
    source, text, sentence = REFUSED[case]
    with pytest.raises(LinkDetached) as refused:
        connection.create_receiver(source, options=xquery(text) if text else None)
    assert re.search(sentence, str(refused.value), re.DOTALL)


def test_a_sender_that_is_refused(connection: BlockingConnection) -> None:
    with pytest.raises(LinkDetached, match=r"Nothing is at the address 'org\.example'"):
        connection.create_sender("org.example")


def test_commands_with_a_dynamic_reply_address(connection: BlockingConnection, agent: RunningAgent) -> None:
    client = SyncRequestResponse(connection, f"{DOMAIN}.command.core")
    answer = json.loads(client.call(Message(body=json.dumps({"method": "getNodes", "params": [], "id": 1}))).body)
    assert (list(answer["result"]), answer["error"], answer["id"]) == ([agent.agent.node_id], None, 1)
    answer = json.loads(client.call(Message(body=json.dumps({"method": "sendEvent", "params": ["<Event/>"], "id": 2}))).body)
    assert (answer["result"], answer["error"]["code"], answer["id"]) == (None, "event-root", 2)


# --- Container -------------------------------------------------------------------------------------------------------------------


class Scene(MessagingHandler):
    """A handler that keeps a transcript, and that ends when `finished` says so or with a failure when the deadline has come."""

    def __init__(self, url: str, play: Callable[[Scene, Event], None], finished: Callable[[Scene], bool], **options: Any) -> None:
        super().__init__(**options)
        self.url, self.play, self.finished = url, play, finished
        self.transcript: list[tuple[Any, ...]] = []
        self.late = False

    def run(self) -> list[tuple[Any, ...]]:
        Container(self).run()
        assert not self.late, f"not finished after {DEADLINE:g} s: {self.transcript}"
        return self.transcript

    def say(self, *line: Any) -> None:
        self.transcript.append(line)
        if self.finished(self):
            self.deadline.cancel()
            self.connection.close()

    def on_start(self, event: Event) -> None:
        self.deadline = event.container.schedule(DEADLINE, self)
        self.connection = event.container.connect(self.url, reconnect=False, allow_insecure_mechs=True)
        self.play(self, event)

    def on_timer_task(self, event: Event) -> None:
        self.late = True
        event.container.stop()

    def on_accepted(self, event: Event) -> None:
        self.say("outcome", event.delivery.tag, "accepted")

    def on_rejected(self, event: Event) -> None:
        self.say("outcome", event.delivery.tag, event.delivery.remote.condition.name)

    def on_message(self, event: Event) -> None:
        self.say("message", event.message.body)

    def on_link_error(self, event: Event) -> None:
        self.say("link error", event.link.remote_condition.name)
        event.link.close()


def publishing(*bodies: str) -> Callable[[Scene, Event], None]:
    """Subscribe with a filter, then send."""

    def play(scene: Scene, event: Event) -> None:
        waiting = list(bodies)

        class Opened(MessagingHandler):
            def on_link_opened(self, event: Event) -> None:
                if event.receiver:
                    event.container.create_sender(scene.connection, DOMAIN, handler=self)

            def on_sendable(self, event: Event) -> None:
                while waiting and event.sender.credit:
                    event.sender.send(Message(body=waiting.pop(0)))

            on_accepted, on_rejected, on_message = scene.on_accepted, scene.on_rejected, scene.on_message

        event.container.create_receiver(scene.connection, DOMAIN, options=xquery(BUSY), handler=Opened())

    return play


def test_container_publishes_and_subscribes(agent: RunningAgent) -> None:
    play = publishing(phone("free"), "<Event/>", phone("busy"), leave("c-1"))
    transcript = Scene(address(agent), play, lambda scene: len(scene.transcript) == 5).run()
    # Acceptances that follow each other share one frame, so a refusal between them may be told first.
    assert sorted(line for line in transcript if line[0] == "outcome") == [
        ("outcome", "1", "accepted"),
        ("outcome", "2", "amqp:invalid-field"),
        ("outcome", "3", "accepted"),
        ("outcome", "4", "accepted"),
    ]
    assert [line for line in transcript if line[0] == "message"] == [("message", phone("busy"))]


def test_container_hears_of_a_refused_filter(agent: RunningAgent) -> None:
    def play(scene: Scene, event: Event) -> None:
        event.container.create_receiver(scene.connection, DOMAIN, options=xquery("./Event["))

    assert Scene(address(agent), play, lambda scene: bool(scene.transcript)).run() == [("link error", "amqp:invalid-field")]


def test_container_reads_one_event_at_a_time(agent: RunningAgent) -> None:
    """Credit is given by hand, one at a time; what was sent meanwhile waits and arrives in order."""
    texts = [leave(f"c-{number}") for number in range(5)]

    class OneByOne(Scene):
        def on_link_opened(self, event: Event) -> None:
            if event.receiver:
                event.receiver.flow(1)
                self.sender = event.container.create_sender(self.connection, DOMAIN, options=AtMostOnce())

        def on_sendable(self, event: Event) -> None:
            while self.sent < len(texts):
                event.sender.send(Message(body=texts[self.sent]))
                self.sent += 1

        def on_message(self, event: Event) -> None:
            assert event.receiver.credit == 0
            super().on_message(event)
            event.receiver.flow(1)

    def play(scene: Scene, event: Event) -> None:
        scene.sent = 0
        event.container.create_receiver(scene.connection, DOMAIN)

    scene = OneByOne(address(agent), play, lambda scene: len(scene.transcript) == len(texts), prefetch=0)
    assert scene.run() == [("message", text) for text in texts]
