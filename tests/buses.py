"""A running bus, wherever it lives: one agent with a listener of its own ("embedded"), or two agents on a RabbitMQ ("rabbitmq") or on an
ActiveMQ ("activemq").

Tests that ask for the fixture `bus` run on both, and see of it what a user sees: a URL. What an administrator does to it is done here, to
each kind in its way. Knows no test.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from activemq import DomainActiveMQ
from brokers import AGENT, RabbitMQ
from clacks.agent.access import ADMINISTRATORS, Call, Rule
from clacks.agent.agent import Agent
from clacks.agent.users import make_user
from clacks.amqp import Described, Symbol, Terminus
from clacks.common.components.client import BusClient, dial
from clacks.common.components.url import parse_url
from conftest import RunningAgent, wait_for
from domains import ACTIVEMQ, Guest, messages_in, new_domain, permit, queues_of
from support import End

KINDS: Final = ("embedded", "rabbitmq", "activemq")

# Made once: a verifier costs milliseconds. Everybody's password is "secret".
_USERS: Final = {name: make_user(name, "secret", groups) for name, groups in (("admin", [ADMINISTRATORS]), ("anna", ()), ("bert", ()))}
# What whoever is no administrator may do, unless a test says otherwise.
ORDINARY: Final = Rule(users=("*",), publish=("*",), subscribe=("*",), durable=("*",), call=(Call("*", "*"),))

Prepare = Callable[[Agent], Any]


class Bus:
    """What both kinds have in common. `settings` are those of every agent; `prepare` sees each agent before it starts."""

    kind: str
    domain: str

    def __init__(self, folder: Path, prepare: Prepare | None = None, **settings: Any) -> None:
        self.schemas = folder / "schemas"
        self.schemas.mkdir(parents=True)
        self.settings = {"schemas": [str(self.schemas)], "drain_timeout": 0.5, **settings}
        self.agents: list[RunningAgent] = []
        self._folder, self._prepare = folder, prepare

    def url(self, user: str = "admin", password: str = "secret", domain: str = "") -> str:
        return f"amqp://{user}:{password}@localhost:{self.port}/{domain or self.domain}"

    @property
    def port(self) -> int:
        raise NotImplementedError

    def start(self) -> None:
        """Start the agents (again)."""
        raise NotImplementedError

    def stop(self) -> None:
        while self.agents:
            self.agents.pop().__exit__(None, None, None)

    def restart(self, what: str = "agents") -> None:
        """These go away, and come back with what was on their disks."""
        self.stop()
        self.start()

    def remove_user(self, name: str) -> None:
        raise NotImplementedError

    def add_user(self, name: str) -> None:
        raise NotImplementedError

    def plain(self, user: str, *filters: str) -> AbstractAsyncContextManager[End]:
        """A subscription as somebody has it who has no client library: what comes in."""
        raise NotImplementedError

    async def waiting(self, name: str) -> int | None:
        """The events that wait for a durable subscription, as who keeps them says."""
        raise NotImplementedError

    def _run(self, node: str, **settings: Any) -> None:
        own = {"node_id": node, "state_dir": str(self._folder / node), "domain": self.domain}
        agent = RunningAgent(self._folder / node, {**self.settings, **own, **settings}, dict(_USERS), (ORDINARY,), self._prepare)
        self.agents.append(agent.__enter__())

    @property
    def nodes(self) -> list[str]:
        return [one.agent.node_id for one in self.agents]

    @property
    def subscriptions(self) -> list[str]:
        """The names of the subscriptions that every agent has (empty for those without one)."""
        known = [[one.terms.name for one in agent.subscriptions] for agent in self.agents]
        return min(known, key=len)

    def permit(self, *rules: Rule) -> None:
        """Put these rules in force, instead of those that are."""
        for one in self.agents:
            one.run(lambda one=one: (setattr(one.agent, "_rules", rules), one.agent._permit()))

    def reload_schemas(self) -> None:
        for one in self.agents:
            one.agent._schemas_changed()

    def settled(self) -> None:
        """Fails if somebody has left a subscription behind."""
        wait_for(lambda: not any(one.subscriptions for one in self.agents), "every subscription is ended")

    def left(self) -> Sequence[Any]:
        """What there is of subscriptions, once all are ended."""
        return [one for agent in self.agents for one in agent.subscriptions]

    async def clear(self) -> None:
        """End what a test that failed has left, so that it fails alone."""
        raise NotImplementedError


class Embedded(Bus):
    kind, domain = "embedded", "org.clacks"
    _port = 0

    @property
    def port(self) -> int:
        return self._port

    def start(self) -> None:
        self._run("one", listen=[f"localhost:{self._port}"])
        self._port = self.agents[0].port

    def add_user(self, name: str) -> None:
        self._users({**self.agents[0].agent.users.users, name: make_user(name, "secret")})

    def remove_user(self, name: str) -> None:
        self._users({one: user for one, user in self.agents[0].agent.users.users.items() if one != name})

    def _users(self, users: dict[str, Any]) -> None:
        agent = self.agents[0]
        agent.run(lambda: (setattr(agent.agent.users, "users", users), agent.agent._permit()))

    async def waiting(self, name: str) -> int | None:
        return next(one.waiting for one in self.agents[0].subscriptions if one.terms.name == name)

    async def clear(self) -> None:
        async with BusClient(self.url()) as client:
            for one in await client.call("getSubscriptions"):
                await client.call("deleteSubscription", one["name"], one["user"], True)

    @asynccontextmanager
    async def plain(self, user: str, *filters: str) -> AsyncIterator[End]:
        connection, end = await dial(parse_url(self.url(user))), End()
        given = {str(number): Described(Symbol("apache.org:xquery-filter:string"), text) for number, text in enumerate(filters)}
        link = await connection.attach_receiver(Terminus(self.domain, filter=given), handler=end)
        link.window = 100
        yield end
        connection.abort()


class OnBroker(Bus):
    """A domain of two agents."""

    def __init__(self, folder: Path, agents_url: str, port: int, prepare: Prepare | None, settings: dict[str, Any]) -> None:
        super().__init__(folder, prepare, **settings)
        self._agents_url, self._port = agents_url, port

    @property
    def port(self) -> int:
        return self._port

    def start(self) -> None:
        for node in ("one", "two"):
            self._run(node, **{"broker.url": [self._agents_url], "broker.ingress": 2, "listen": []})

    async def clear(self) -> None:
        async with BusClient(self.url()) as client:
            for one in self.agents[0].subscriptions:
                await client.call("unsubscribe", one.id, True)

    def _guest(self, user: str) -> Guest:
        raise NotImplementedError

    @asynccontextmanager
    async def plain(self, user: str, *filters: str) -> AsyncIterator[End]:
        guest = await self._guest(user).open()
        subscription = await guest.subscribe(*filters)
        yield (await guest.consume(subscription))[1]
        await guest.call("unsubscribe", {"id": subscription["id"]})
        guest.close()


class OnRabbitMQ(OnBroker):
    kind = "rabbitmq"

    def __init__(self, rabbit: RabbitMQ, folder: Path, prepare: Prepare | None = None, **settings: Any) -> None:
        super().__init__(folder, rabbit.url(AGENT.name), rabbit.port, prepare, settings)
        self.rabbit, self.domain = rabbit, new_domain()
        permit(rabbit, *(name for name in _USERS if name != "admin"))

    def restart(self, what: str = "agents") -> None:
        if what == "agents":
            super().restart()
        else:
            self.rabbit.flush()
            self.rabbit.restart()

    def add_user(self, name: str) -> None:
        permit(self.rabbit, name)

    def remove_user(self, name: str) -> None:
        self.rabbit.remove_user(name)

    def left(self) -> Sequence[Any]:
        return queues_of(self.rabbit, self.domain, "sub.") or super().left()

    async def waiting(self, name: str) -> int | None:
        return await messages_in(self.rabbit, next(one.queue for one in self.agents[0].subscriptions if one.terms.name == name))

    def _guest(self, user: str) -> Guest:
        return Guest(self.rabbit.url(user), self.domain, user)


class OnActiveMQ(OnBroker):
    kind = "activemq"

    def __init__(self, activemq: DomainActiveMQ, folder: Path, prepare: Prepare | None = None, **settings: Any) -> None:
        super().__init__(folder, activemq.url(AGENT.name), activemq.port, prepare, settings)
        self.activemq, self.domain = activemq, activemq.domains.pop()
        for name in _USERS:
            activemq.add_user(name, "secret")

    def restart(self, what: str = "agents") -> None:
        if what == "agents":
            super().restart()
        else:
            self.activemq.restart()

    def add_user(self, name: str) -> None:
        self.activemq.add_user(name, "secret")

    def remove_user(self, name: str) -> None:
        self.activemq.remove_user(name)

    async def waiting(self, name: str) -> int | None:
        return await messages_in(self.activemq, next(one.queue for one in self.agents[0].subscriptions if one.terms.name == name))

    def _guest(self, user: str) -> Guest:
        return Guest(self.activemq.url(user), self.domain, user, ACTIVEMQ)


@contextmanager
def running(kind: str, broker: Callable[[str], Any], folder: Path, prepare: Prepare | None = None, **settings: Any) -> Iterator[Bus]:
    """A bus of this kind; `broker` is asked for one of the kind only where one is needed."""
    if kind == "embedded":
        bus: Bus = Embedded(folder, prepare, **settings)
    else:
        bus = {"rabbitmq": OnRabbitMQ, "activemq": OnActiveMQ}[kind](broker(kind), folder, prepare, **settings)
    try:
        bus.start()
        yield bus
        wait_for(lambda: not bus.left(), "nothing is left of what has ended")
    finally:
        bus.stop()


def together(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Call all of them at once, each in a thread."""

    async def main() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(work) for work in works))

    return asyncio.run(main())
