"""For tests: a domain of real agents on a real RabbitMQ or ActiveMQ, and plain AMQP clients of it. Knows the wire of a domain, and no test.

Each domain has a name of its own, so that many share one broker. `Guest` is written on clacks.amqp alone, as somebody would who has no
client library: what it can do, any AMQP 1.0 client can.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import secrets
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from activemq import DomainActiveMQ
from brokers import AGENT, RabbitMQ
from clacks.agent.access import ADMINISTRATORS, Call, Rule
from clacks.agent.agent import Agent
from clacks.agent.config import load
from clacks.agent.users import UserBook, make_user
from clacks.amqp import ACCEPTED, Connection, Draft, Message, Outcome, Properties, Receiver, Sender
from clacks.common.brokers import DIALECTS, Broker, Management, owners_part, replies_of
from clacks.common.components.client import dial
from clacks.common.components.url import parse_url
from clacks.common.errors import ClacksError
from support import End, until

RABBITMQ, ACTIVEMQ = Broker(DIALECTS[0], (4, 0)), Broker(DIALECTS[1], (5, 17))  # their addresses
_NUMBERS = itertools.count(1)
_KNOWN = make_user("admin", "secret", [ADMINISTRATORS])

# What everybody but the administrator may do, unless a test says otherwise.
ORDINARY = Rule(users=("*",), publish=("*",), subscribe=("*",), durable=("*",), call=(Call("*", "*"),))


def phone(number: int, status: str = "busy") -> bytes:
    return (
        '<Event xmlns="http://www.gonicus.de/Events"><PhoneStatus>'
        f"<CallerId>{number}</CallerId><ReceiverId>1</ReceiverId><Status>{status}</Status></PhoneStatus></Event>"
    ).encode()


def number_of(message: Any) -> int:
    return int(bytes(message.body).split(b"CallerId>")[1].removesuffix(b"</"))


def new_domain() -> str:
    return f"org.test{next(_NUMBERS)}x{secrets.token_hex(3)}"


def permit(broker: RabbitMQ | DomainActiveMQ, *users: str) -> None:
    """Accounts of the broker as an ordinary user of any domain needs them."""
    if isinstance(broker, DomainActiveMQ):
        for user in users:
            broker.add_user(user, "secret")
        return
    for user in users:
        with contextlib.suppress(RuntimeError):  # it is there already
            part = re.escape(owners_part(user))
            own = rf"^org\.[^.]+\.reply\.{part}\..*$"
            broker.add_user(user, "secret", (own, rf"^org\.[^.]+$|{own}", rf"^org\.[^.]+\.(reply|sub)\.{part}\..*$"))


class Failed(Exception):
    """A command was answered with an error."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(str(error))
        self.code, self.message, self.error = error["code"], error["message"], error


class Domain:
    """Agents of one domain, in this process."""

    def __init__(self, broker: RabbitMQ | DomainActiveMQ, folder: Path, **settings: Any) -> None:
        self.broker, self.folder = broker, folder
        self.dialect = ACTIVEMQ if isinstance(broker, DomainActiveMQ) else RABBITMQ
        given = settings.pop("domain", None)
        self.name = given or (broker.domains.pop() if isinstance(broker, DomainActiveMQ) else new_domain())
        self.settings: dict[str, Any] = {"broker.ingress": 2, "drain_timeout": 2.0, **settings}
        self.rules: tuple[Rule, ...] = (ORDINARY,)
        self.agents: dict[str, Agent] = {}
        self.guests: list[Guest] = []

    @property
    def rabbit(self) -> RabbitMQ:
        assert isinstance(self.broker, RabbitMQ)
        return self.broker

    @property
    def agents_url(self) -> str:
        return self.broker.url(AGENT.name)

    async def agent(self, node: str, prepare: Callable[[Agent], Any] | None = None) -> Agent:
        settings = {"broker.url": [self.agents_url], "domain": self.name, "node_id": node, "state_dir": str(self.folder / node)}
        agent = Agent(load(None, {**settings, **self.settings}, {}), UserBook({"admin": _KNOWN}), self.rules)
        if prepare is not None:
            prepare(agent)
        await agent.start(watch=False)
        self.agents[node] = agent
        return agent

    async def stop(self, node: str) -> None:
        await self.agents.pop(node).close()

    def crash(self, node: str) -> None:
        """As if its process was killed: nothing is said to anybody, nothing goes on."""
        agent = self.agents.pop(node)
        broker: Any = agent.broker
        broker.accepting = False
        broker.control._ticker.cancel()
        broker._uplink._again = _never
        for task in broker._tasks:
            task.cancel()
        for task in agent.node._tasks:
            task.cancel()
        for connection in broker._lines.connections:
            connection.abort()

    async def guest(self, user: str = "admin") -> Guest:
        guest = await Guest(self.broker.url(user), self.name, user, self.dialect).open()
        self.guests.append(guest)
        return guest

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for guest in self.guests:
            guest.close()
        for node in list(self.agents):
            await self.stop(node)


async def _never() -> Any:
    await asyncio.Event().wait()


class Guest:
    """One user's connection to the broker, with a reply queue."""

    def __init__(self, url: str, domain: str, user: str, broker: Broker = RABBITMQ) -> None:
        self.url, self.domain, self.user, self.broker = url, domain, user, broker
        self.reply = broker.spelled(replies_of(domain, user)) + secrets.token_hex(12)
        self.replies = End()
        self.answers: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._senders: dict[str, tuple[Sender, End]] = {}
        self._ids = itertools.count(1)

    async def open(self) -> Self:
        self.connection: Connection = await dial(parse_url(self.url))
        self.declaring = await dial(parse_url(self.url))  # what is exclusive belongs to its connection
        if self.broker.declares:
            management = await Management.attach(self.declaring)
            await management.declare_queue(self.reply, durable=False, exclusive=True, auto_delete=True)
        receiver = await self.declaring.attach_receiver(self.broker.queue(self.reply), handler=_Replies(self))
        receiver.window = 1000
        return self

    def close(self) -> None:
        for connection in (self.connection, self.declaring):
            connection.abort()

    async def sender(self, key: str) -> tuple[Sender, End]:
        if key not in self._senders or not self._senders[key][0].alive:
            end = End()
            self._senders[key] = await self.connection.attach_sender(self.broker.entry(self.domain, key), handler=end), end
        return self._senders[key]

    # --- commands ---

    async def ask(self, method: str, params: Any = (), target: str = "core", node: str = "", reply: str | None = None) -> str:
        """Send a request; answer its id."""
        sender, _ = await self.sender(_commands(target, node))
        number = f"{self.user}-{next(self._ids)}"
        asked = self.broker.signed(Properties(message_id=number, reply_to=reply or self.reply), self.user)
        sender.send(Draft(json.dumps({"method": method, "params": params, "id": number}), asked).encode())
        return number

    async def call(self, method: str, params: Any = (), target: str = "core", node: str = "") -> Any:
        """The result. Raises Failed."""
        number = await self.ask(method, params, target, node)
        _, end = await self.sender(_commands(target, node))

        def refused() -> list[Outcome]:
            return [outcome for _, outcome in end.outcomes if outcome is not ACCEPTED]

        await until(lambda: self.answers[number] or refused(), f"{method} is answered")
        assert not refused()
        answer = self.answers[number][0]
        if answer["error"] is not None:
            raise Failed(answer["error"])
        return answer["result"]

    # --- events ---

    async def subscribe(self, *filters: str, **terms: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self.call("subscribe", {"filters": list(filters), **terms})
        return answer

    async def consume(self, subscription: Mapping[str, Any], end: End | None = None, window: int = 500) -> tuple[Receiver, End]:
        end = end or End()
        source = self.broker.queue(subscription["queue"], exclusive=subscription["exclusive"])
        receiver = await self.connection.attach_receiver(source, handler=end, alone=True)
        receiver.window = window
        return receiver, end

    async def publish(self, *bodies: bytes, key: str = "events.7", **properties: Any) -> End:
        """Publish, and wait until the broker has taken all."""
        sender, end = await self.sender(key)
        before = len(end.outcomes)
        for body in bodies:
            said = replace(self.broker.signed(Properties(), self.user), **properties)
            sender.send(Draft(body, said, durable=True).encode())
        await until(lambda: len(end.outcomes) - before >= len(bodies), "the broker has taken the events")
        return end

    async def tell(self, body: bytes, key: str = "events.7") -> dict[str, Any] | None:
        """Publish and wait for what becomes of it: None, or the error."""
        sender, _ = await self.sender(key)
        token = f"token-{next(self._ids)}"
        annotations = {"x-opt-clacks-answer": self.reply, "x-opt-clacks-token": token}
        sender.send(Draft(body, self.broker.signed(Properties(), self.user), annotations=annotations).encode())
        await until(lambda: self.answers[token], "the event is answered")
        error: dict[str, Any] | None = self.answers[token][0]["error"]
        return error


def _commands(target: str, node: str) -> str:
    return f"command.{target}" + (f".{node}" if node else "")


class _Replies(End):
    """The handler of the link on which a guest's answers come in."""

    def __init__(self, guest: Guest) -> None:
        super().__init__()
        self._guest = guest

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        super().message(link, number, encoded, settled)
        message = Message(encoded)
        self._guest.answers[str(message.properties.correlation_id)].append(json.loads(str(message.body)))


DEADLINE = 150.0  # seconds of one test; a node that dies is noticed after six

Test = Callable[[Domain], Coroutine[Any, Any, None]]

BROKERS = ("rabbitmq", "activemq")


def on(*nodes: str, only: str = "", **settings: Any) -> Callable[[Test], Callable[..., None]]:
    """A test in a domain of its own, with these agents, on each broker; or on one `only`, where it asks that broker for something, or where
    nothing of it is the broker's matter."""

    def decorate(test: Test) -> Callable[..., None]:
        @pytest.mark.parametrize("kind", [only] if only else BROKERS)
        def wrapper(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
            broker = request.getfixturevalue(kind)

            async def bounded() -> None:
                permit(broker, "anna", "bert")
                async with asyncio.timeout(DEADLINE), Domain(broker, tmp_path, **settings) as domain:
                    for node in nodes:
                        await domain.agent(node)
                    await test(domain)

            asyncio.run(bounded())

        wrapper.__name__, wrapper.__doc__ = test.__name__, test.__doc__
        return wrapper

    return decorate


def numbers(end: End) -> list[int]:
    return [number_of(message) for message in end.messages]


@contextlib.asynccontextmanager
async def domain_of(rabbit: RabbitMQ, folder: Path, *nodes: str, **settings: Any) -> AsyncIterator[tuple[Domain, list[Agent]]]:
    """A domain with these agents; `settings` are those of all."""
    async with Domain(rabbit, folder, **settings) as domain:
        yield domain, [await domain.agent(node) for node in nodes]


async def queue_there(rabbit: RabbitMQ, queue: str) -> bool:
    """Whether the broker has such a queue."""
    return await messages_in(rabbit, queue) is not None


async def messages_in(broker: RabbitMQ | DomainActiveMQ, queue: str) -> int | None:
    """How many messages are in a queue; None if there is no such queue."""
    connection = await dial(parse_url(broker.url(AGENT.name)))
    try:
        if isinstance(broker, DomainActiveMQ):
            return await _statistics(connection, queue)
        info = await (await Management.attach(connection)).queue_info(queue)
        return None if info is None else info.messages
    finally:
        connection.abort()


async def queues_with(broker: RabbitMQ | DomainActiveMQ, domain: str, kind: str) -> Sequence[str]:
    """The names of the broker's queues that begin so; ActiveMQ is asked for statistics of all of them, and says nothing of their number."""
    if isinstance(broker, RabbitMQ):
        return queues_of(broker, domain, kind)
    connection, end = await dial(parse_url(broker.url(AGENT.name))), End()
    try:
        await _ask(connection, f"{domain}.{kind}>", end)
        count = -1
        while count < len(end.received):
            count = len(end.received)
            await asyncio.sleep(0.5)
        return sorted(str(message.body["destinationName"]).removeprefix("queue://") for message in end.messages)
    finally:
        connection.abort()


async def _statistics(connection: Connection, queue: str) -> int | None:
    """ActiveMQ says nothing of a queue that is not there."""
    answers = End()
    await _ask(connection, queue, answers)
    try:
        async with asyncio.timeout(2):
            while not answers.received:
                await asyncio.sleep(0.01)
    except TimeoutError:
        return None
    return int(answers.messages[0].body["size"])


async def _ask(connection: Connection, queue: str, answers: End) -> None:
    """For ActiveMQ's statistics of a queue, or of those that a pattern fits."""
    name = f"ActiveMQ.Statistics.answers.{secrets.token_hex(8)}"
    link = await connection.attach_receiver(ACTIVEMQ.queue(name), handler=answers)
    link.window = 2000
    target = replace(ACTIVEMQ.queue("x"), address=f"queue://ActiveMQ.Statistics.Destination.{queue}")
    sender = await connection.attach_sender(target, handler=End())
    await until(lambda: sender.sendable, "credit")
    sender.send(Draft("?", Properties(reply_to=f"queue://{name}")).encode())


def queues_of(rabbit: RabbitMQ, domain: str, kind: str) -> Sequence[str]:
    """The names of the broker's queues that begin so, as it lists them itself."""
    with tempfile.NamedTemporaryFile() as file:  # erl_call shortens what is long
        names = "[[element(4, Name), 10] || Name <- rabbit_amqqueue:list_names()]"
        rabbit.evaluate(f'ok = file:write_file("{file.name}", {names}).')
        listed = Path(file.name).read_text().splitlines()
    return sorted(name for name in listed if name.startswith(f"{domain}.{kind}"))


__all__ = [
    "ACTIVEMQ",
    "BROKERS",
    "DEADLINE",
    "RABBITMQ",
    "ClacksError",
    "Domain",
    "Failed",
    "Guest",
    "domain_of",
    "messages_in",
    "new_domain",
    "number_of",
    "numbers",
    "on",
    "permit",
    "phone",
    "queue_there",
    "queues_of",
    "queues_with",
]  # fmt: skip
