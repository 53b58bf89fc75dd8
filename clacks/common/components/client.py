"""The client on asyncio: receives events, publishes them, calls commands, and reconnects. The blocking classes are built on it.

async with clacks.connect("amqps://admin:secret@localhost") as bus:
    async for event in bus.events("/*:Event/*:PhoneStatus[*:Status = 'busy']"):
        print(event.name, event.tree.PhoneStatus.CallerId.text)
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import random
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from ...amqp import (
    ACCEPTED,
    RELEASED,
    AmqpError,
    Condition,
    Connection,
    Credentials,
    Described,
    Draft,
    Link,
    Message,
    Modified,
    Options,
    Outcome,
    Properties,
    Receiver,
    Rejected,
    SaslFailure,
    Sender,
    Symbol,
    Terminus,
    connect,
)  # fmt: skip
from ..errors import ClacksError
from ..trust import Certificate, client_context, environment_certificate
from .command import CORE
from .received import ReceivedEvent
from .url import DEFAULT_DOMAIN, Url, parse_urls

if TYPE_CHECKING:
    from lxml import etree

log = logging.getLogger("clacks.client")

XQUERY_FILTER: Final = Symbol("apache.org:xquery-filter:string")
CAPABILITY: Final = "clacks-bus"
DEAD_LETTERS: Final = "dead-letters"

# Events fetched ahead: enough to hide a round trip at ten thousand a second, little to give back when the program ends.
WINDOW: Final = 100
# Pauses between attempts to connect again, in seconds: at once for a restart of the agent, then doubling, each shortened at random by up to
# a half so that a thousand clients do not come back in step.
BACKOFF_FIRST: Final = 0.1
BACKOFF_MOST: Final = 10.0
CONNECT_SECONDS: Final = 10.0
CALL_SECONDS: Final = 30.0

Dial = Callable[[Url], Awaitable[Connection]]
DeadLetters = Literal["look", "take"]


async def dial(url: Url, certificate: Certificate | None = None) -> Connection:
    """A connection to the agent at `url`. Without a password in it, `certificate` says who comes (default: that of the environment).

    Raises ClacksError: unreachable, not-authenticated, and what else can go wrong on the way."""
    from ...amqp import is_loopback

    certificate = (certificate or environment_certificate()) if url.secure else None
    credentials = Credentials(url.user, url.password, certified=certificate is not None)
    try:
        tls = client_context(loopback=is_loopback(url.host), certificate=certificate) if url.secure else None
        async with asyncio.timeout(CONNECT_SECONDS):
            return await connect(url.host, url.port, credentials, Options(hostname=url.host), tls=tls)
    except TimeoutError as error:
        raise ClacksError("unreachable", url=url, reason=f"no answer within {CONNECT_SECONDS:g} s") from error
    except ssl.SSLCertVerificationError as error:
        raise ClacksError("tls-untrusted", url=url, reason=error.verify_message) from error
    except OSError as error:
        known = error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError)
        raise ClacksError("unreachable", url=url, reason=os.strerror(error.errno or 0) if known else str(error)) from error
    except SaslFailure as error:
        raise _not_let_in(url, error) from error
    except AmqpError as error:
        raise ClacksError("unreachable", url=url, reason=str(error.condition)) from error


_dial: Final = dial  # by a name that no parameter has


def _not_let_in(url: Url, error: SaslFailure) -> ClacksError:
    if error.kind == "credentials":
        return ClacksError("not-authenticated")
    if error.kind == "exposed":
        return ClacksError("password-exposed", host=url.host)
    if error.kind == "mechanism":
        hint = "Give a user and a password in the URL." if not url.password else "Check the agent's configuration."
        return ClacksError("mechanism-unusable", offered=", ".join(error.offered) or "nothing", hint=hint)
    return ClacksError("unreachable", url=url, reason=error.condition.description)


def as_error(condition: Condition | None) -> ClacksError:
    """What the agent said, as the error it was there. Another broker's condition keeps its own words."""
    if condition is None:
        return ClacksError("remote", sentence="the agent ended it without a reason")
    if "code" in condition.info and "message" in condition.info:
        return ClacksError.from_json(condition.info)
    return ClacksError("remote", sentence=str(condition))


# What will be no better after connecting again.
FATAL: Final = frozenset({
    "filter-invalid", "filter-suspended", "not-authenticated", "not-permitted", "user-removed", "mechanism-unusable", "password-exposed",
    "tls-untrusted", "address-unknown", "link-refused", "schema-unknown", "queue-full", "subscription-differs", "subscription-taken",
    "subscription-deleted", "subscriptions-full",
})  # fmt: skip


class BusClient:
    """A client of the bus: one connection to one of several agents, opened when it is needed and again when it is lost."""

    def __init__(
        self, url: str | Sequence[str], domain: str = DEFAULT_DOMAIN, *, certificate: Certificate | None = None, dial: Dial = dial
    ) -> None:
        """`certificate` (chain and key, PEM files) says who comes where the URL has no password; default: CLACKS_CERT_FILE and
        CLACKS_KEY_FILE. `dial` makes the connection (tests have one without a socket). Raises ClacksError url-invalid."""
        self.urls = parse_urls(url, domain)
        self._dial: Dial = dial if certificate is None else partial(_dial, certificate=certificate)
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._publisher: Publisher | None = None
        self._callers: dict[str, Caller] = {}
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.connection()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def domain(self) -> str:
        return self.urls[0].domain

    async def connection(self) -> Connection:
        """The open connection; one attempt per URL if there is none. Raises ClacksError (that of the first URL that is worth telling)."""
        async with self._connecting:
            if self._closed:
                raise ClacksError("closed", what="connection")
            if self._connection is not None and self._connection.alive:
                return self._connection
            failures: list[ClacksError] = []
            for url in self.urls:
                try:
                    self._connection = await self._dial(url)
                except ClacksError as error:
                    failures.append(error)
                else:
                    return self._connection
            raise next((error for error in failures if error.code in FATAL), failures[0])

    async def close(self) -> None:
        """Close gracefully and wait for the agent's answer."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            await connection.wait_closed()

    # --- the three things a client does ---

    def events(
        self, xquery: str | None = None, *, event: str | None = None, keep: Keep | None = None, dead_letters: DeadLetters | None = None
    ) -> EventStream:
        """The events that `xquery` matches (all without one), only those called `event` if given. Iterate over it, or use it as a context.

        An event is accepted when the next one is asked for; those fetched ahead are given back when the iteration ends. The stream is
        attached again after a lost connection. `keep` says how the agent keeps events meanwhile, and for whom. `dead_letters` gives those
        of this user instead: "take" accepts them like events, "look" gives all of them back in the end. Raises ClacksError
        (filter-invalid, ...) at the first step, and ValueError for dead letters with something to choose them by.
        """
        if dead_letters is not None and (xquery is not None or event or keep is not None):
            raise ValueError("dead letters are one queue: there is nothing to choose or to keep")
        return EventStream(self, xquery, event, keep, dead_letters)

    async def send(
        self, event: bytes | str | etree._Element, *, properties: dict[str, Any] | None = None, ttl: float | None = None
    ) -> None:
        """Publish an event and wait until it is accepted. `ttl` in seconds. Raises ClacksError with the agent's refusal."""
        from ..event import to_bytes

        draft = Draft(to_bytes(event), application_properties=properties or {}, ttl=None if ttl is None else int(ttl * 1000))
        if self._publisher is None or not self._publisher.link.alive:
            connection = await self.connection()
            self._publisher = Publisher(await attached(connection.attach_sender(Terminus(self.domain))), str(self.urls[0]))
        await self._publisher.send(draft.encode())

    async def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a command of any agent, with positional or with keyword arguments. Raises ClacksError."""
        return await self.request(method, parameters(args, kwargs))

    async def request(self, method: str, params: list[Any] | dict[str, Any], *, target: str = CORE, timeout: float = CALL_SECONDS) -> Any:
        """Call a command served from `target` ("core", "core.NODE" or a plugin's); `timeout` in seconds. Raises ClacksError."""
        caller = self._callers.get(target)
        if caller is None or not caller.alive:
            caller = self._callers[target] = await Caller.attach(await self.connection(), f"{self.domain}.command.{target}")
        return await caller.call(method, params, timeout)


def parameters(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any] | dict[str, Any]:
    """A command's parameters as they travel. Raises TypeError for a mixture, which JSON has no form for."""
    if args and kwargs:
        raise TypeError("a command takes positional or keyword arguments, not both")
    return kwargs or list(args)


async def attached(attach: Awaitable[Any]) -> Any:
    """A link, or the reason why there is none as a ClacksError."""
    try:
        return await attach
    except AmqpError as error:
        raise as_error(error.condition) from error


class _LinkUser:
    """A link's handler that has nothing to do with half of what a link tells."""

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None: ...

    def credit(self, link: Sender) -> None: ...

    def outcome(self, link: Sender, token: Any, outcome: Outcome) -> None: ...

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None: ...


class Publisher(_LinkUser):
    """A link that events are sent on, each awaited until its outcome."""

    def __init__(self, link: Sender, url: str) -> None:
        self.link = link
        self._url = url
        self._sent: set[asyncio.Future[Outcome]] = set()
        self._queue: deque[tuple[bytes, asyncio.Future[Outcome]]] = deque()
        link.handler = self

    async def send(self, encoded: bytes) -> None:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.append((encoded, future))
        self.credit(self.link)
        outcome = await future
        if isinstance(outcome, Rejected):
            raise as_error(outcome.condition)
        if outcome is not ACCEPTED:
            raise ClacksError("bus-overloaded")

    def credit(self, link: Sender) -> None:
        while self._queue and link.sendable:
            encoded, future = self._queue.popleft()
            if not future.done():
                link.send(encoded, future)
                self._sent.add(future)
        if not link.alive:
            self.detached(link, None, closed=False)

    def outcome(self, link: Sender, token: asyncio.Future[Outcome], outcome: Outcome) -> None:
        self._sent.discard(token)
        if not token.done():
            token.set_result(outcome)

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        error = as_error(condition) if closed else ClacksError("connection-lost", url=self._url, reason=str(condition or "it was closed"))
        for future in (*self._sent, *(future for _, future in self._queue)):
            if not future.done():
                future.set_exception(error)
        self._sent.clear()
        self._queue.clear()


class Caller(_LinkUser):
    """Commands to one target: a link for requests, one with a dynamic source for replies."""

    def __init__(self, requests: Sender, replies: Receiver) -> None:
        self._publisher = Publisher(requests, requests.name)
        self._replies = replies
        source = replies.remote_source
        self._reply_to = source.address if source is not None else None
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids: Iterator[int] = itertools.count(1)
        replies.handler = self
        replies.window = WINDOW

    @classmethod
    async def attach(cls, connection: Connection, address: str) -> Self:
        """Raises ClacksError if the target is not served."""
        requests = await attached(connection.attach_sender(Terminus(address)))
        replies = await attached(connection.attach_receiver(Terminus(dynamic=True), settled=True))
        return cls(requests, replies)

    @property
    def alive(self) -> bool:
        return self._publisher.link.alive and self._replies.alive

    async def call(self, method: str, params: list[Any] | dict[str, Any], timeout: float) -> Any:
        number = next(self._ids)
        request = json.dumps({"method": method, "params": params, "id": number})
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        properties = Properties(message_id=str(number), reply_to=self._reply_to, content_type="application/json")
        try:
            async with asyncio.timeout(timeout):
                await self._publisher.send(Draft(request, properties).encode())
                answer = await future
        except TimeoutError:
            raise ClacksError("command-timeout", method=method, seconds=timeout) from None
        finally:
            del self._pending[number]
        if answer.get("error") is not None:
            raise ClacksError.from_json(answer["error"])
        return answer.get("result")

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        try:
            answer = json.loads(Message(encoded).body)
            future = self._pending.get(answer["id"])
        except (ValueError, TypeError, KeyError) as error:
            log.warning("an answer cannot be read", extra={"reason": str(error)})
            future = None
        if future is not None and not future.done():
            future.set_result(answer)
        if not settled:
            link.settle(number, ACCEPTED)

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ClacksError("connection-lost", url=link.name, reason=str(condition or "it was closed")))


class Delivery:
    """One received event and its settlement. Settling a delivery whose link has gone does nothing: the agent has it back."""

    __slots__ = ("_link", "_number", "event")

    def __init__(self, event: ReceivedEvent, link: Receiver, number: int | None) -> None:
        self.event = event
        self._link, self._number = link, number

    def settle(self, outcome: Outcome = ACCEPTED) -> None:
        if self._number is not None:
            self._link.settle(self._number, outcome)
            self._number = None


@dataclass(frozen=True, slots=True)
class Keep:
    """How an agent keeps a subscription's events.

    `durable` is its name on the agent's disk, where it is kept across the ends of consumers and agents; without `max_age` (seconds) and
    `max_bytes` nothing is ever dropped, and publishers have to wait when it is full. `shared` is the name under which several consumers
    share the events (that of `durable`, if both are given). `overflow` is what a live subscription does when more waits than may:
    drop-oldest (the default), detach, or block-publisher. `replace` gives a subscription that exists other terms.
    """

    durable: str = ""
    shared: str = ""
    max_age: float | None = None
    max_bytes: int | None = None
    overflow: str = ""
    replace: bool = False

    def __post_init__(self) -> None:
        if self.durable and self.shared and self.durable != self.shared:
            raise ValueError("a subscription has one name: that of durable and shared must be the same")

    def source(self, address: str, filters: Mapping[str, Any]) -> Terminus:
        """The link's source (AMQP 1.0 3.5.3)."""
        capabilities = (*(["shared"] if self.shared else []), *(["global"] if self.durable or self.shared else []))
        if not self.durable:
            return Terminus(address, filter=filters, capabilities=capabilities)
        return Terminus(address, durable=2, expiry="never", filter=filters, capabilities=capabilities)

    @property
    def name(self) -> str | None:
        return self.durable or self.shared or None

    @property
    def properties(self) -> dict[str, Any]:
        """The link's properties."""
        asked: dict[str, Any] = {
            "clacks:max-age": self.max_age, "clacks:max-bytes": self.max_bytes, "clacks:overflow": self.overflow or None,
            "clacks:replace": self.replace or None,
        }  # fmt: skip
        return {key: value for key, value in asked.items() if value is not None}


class Subscription(_LinkUser):
    """A link that events come in on, attached again whenever it is lost. Each event goes to `deliver`, in its order."""

    def __init__(
        self, client: BusClient, xquery: str | None, event: str | None, deliver: Callable[[Delivery], None], keep: Keep | None = None,
        *, dead_letters: bool = False,
    ) -> None:  # fmt: skip
        self._client, self._deliver = client, deliver
        self._keep = keep or Keep()
        address = f"{client.domain}.{DEAD_LETTERS}" if dead_letters else f"{client.domain}.event.{event}" if event else client.domain
        self._source = self._keep.source(address, {"xquery": Described(XQUERY_FILTER, xquery)} if xquery is not None else {})
        self._lost: asyncio.Event = asyncio.Event()
        self._reason: Condition | None = None
        self._link: Receiver | None = None

    async def attach(self) -> None:
        """Raises ClacksError if the agent cannot be reached or refuses."""
        connection = await self._client.connection()
        link: Receiver = await attached(connection.attach_receiver(self._source, name=self._name(), properties=self._keep.properties))
        if CAPABILITY not in connection.remote_capabilities:
            link.close()
            raise ClacksError("link-refused", reason=f"{connection.options.hostname} is no Clacks agent: it does not offer {CAPABILITY}.")
        self._lost.clear()
        self._link = link
        link.handler = self
        link.window = WINDOW

    def _name(self) -> str | None:
        """The link's name. Those of a shared subscription are told apart by what stands behind a bar."""
        if not self._keep.shared:
            return self._keep.name
        return f"{self._keep.shared}|{os.urandom(6).hex()}"

    async def keep(self) -> None:
        """Stay attached until cancelled. Raises ClacksError when attaching again is of no use."""
        while True:
            await self._lost.wait()
            if self._reason is not None and self._reason.info:
                error = as_error(self._reason)
                if error.code in FATAL:
                    raise error
            await self._again()

    async def _again(self) -> None:
        pause = BACKOFF_FIRST
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            try:
                await self.attach()
            except ClacksError as error:
                if error.code in FATAL or error.code == "closed":
                    raise
                log.info("still without a connection", extra={"reason": str(error), "pause": pause})
            else:
                return
            pause = min(pause * 2, BACKOFF_MOST)

    def hold(self) -> None:
        """Ask for no more events."""
        if self._link is not None:
            self._link.window = 0

    def close(self, *, delete: bool = False) -> None:
        """Detach. What is durable stays, unless it is to be deleted."""
        if self._link is not None:
            self._link.close(closed=delete or not self._keep.durable)

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        try:
            event = ReceivedEvent.read(Message(encoded))
        except ValueError as error:
            log.warning("an event cannot be read", extra={"reason": str(error)})
            if not settled:
                link.settle(number, Modified(failed=True, undeliverable=True))
            return
        self._deliver(Delivery(event, link, None if settled else number))

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        if link is self._link:
            self._reason = condition
            self._lost.set()


class EventStream:
    """What `BusClient.events` gives: an asynchronous iterator of `ReceivedEvent`s."""

    def __init__(
        self, client: BusClient, xquery: str | None, event: str | None, keep: Keep | None, dead_letters: DeadLetters | None = None
    ) -> None:
        self._queue: asyncio.Queue[Delivery | ClacksError] = asyncio.Queue()
        self._subscription = Subscription(client, xquery, event, self._queue.put_nowait, keep, dead_letters=dead_letters is not None)
        self._accepts = dead_letters != "look"
        self._keeper: asyncio.Task[None] | None = None
        self._current: Delivery | None = None

    async def open(self) -> Self:
        """Attach; afterwards no matching event is missed. Raises ClacksError."""
        if self._keeper is None:
            await self._subscription.attach()
            self._keeper = asyncio.get_running_loop().create_task(self._keep())
        return self

    async def _keep(self) -> None:
        try:
            await self._subscription.keep()
        except ClacksError as error:
            self._queue.put_nowait(error)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def __aiter__(self) -> AsyncIterator[ReceivedEvent]:
        return self

    async def __anext__(self) -> ReceivedEvent:
        await self.open()
        if self._current is not None:
            self._current.settle()
            self._current = None
        item = await self._queue.get()
        if isinstance(item, ClacksError):
            raise item
        self._current = item if self._accepts else None  # what is left unsettled is given back when the link ends
        return item.event

    async def aclose(self) -> None:
        self.close()

    def close(self, *, delete: bool = False) -> None:
        """Detach. The event in hand is accepted, those fetched ahead are given back. A durable subscription stays, unless `delete`."""
        if self._current is not None:
            self._current.settle()
            self._current = None
        while not self._queue.empty():
            item = self._queue.get_nowait()
            if isinstance(item, Delivery):
                item.settle(RELEASED)
        if self._keeper is not None:
            self._keeper.cancel()
        self._subscription.close(delete=delete)


__all__ = ["CALL_SECONDS", "BusClient", "Delivery", "EventStream", "Keep", "ReceivedEvent", "Subscription", "dial", "parameters"]
