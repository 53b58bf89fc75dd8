"""The driver of the bus where a domain has a broker: carries verdicts out into queues, and gives the bus what the domain agrees on.

It declares what the domain needs, and puts the parts together: uplink, log, ingress, outlets, commands. It decides nothing about events.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, NamedTuple

from lxml import etree

from ....amqp import ACCEPTED, AmqpError, Condition, Connection, Draft, Link, Message, Outcome, Properties, Receiver, Sender, Timestamp
from ....amqp.message import annotate
from ....common.brokers import Feature
from ....common.components.command import CORE
from ....common.components.url import parse_urls
from ....common.errors import ClacksError
from ....common.event import EventMaker
from ...access import NODE
from ...bus import Bus, Incoming, Routed
from ...command import CommandRegistry
from ...config import Config
from ...domain import (
    Change,
    Method,
    NodeLeft,
    QueueUnused,
    Ready,
    SubscriptionAdded,
    SubscriptionChanged,
    SubscriptionRemoved,
    SubscriptionSuspended,
    Superseded,
)
from ...domain import Subscription as Known
from ...intake import Done, Intake, Lane
from ...sandbox import Budget, Sandbox
from ..envelope import Stamp, bare_message, header
from .clock import now
from .commands import CommandQueue, Gone
from .control import JOIN_SECONDS, TICK, Control
from .ends import Ends
from .ingress import Ingress
from .names import (
    ANSWER_TTL,
    BEHALF,
    CODE,
    REASON,
    agent_queue,
    control_log,
    rejected_queue,
)
from .outlets import Fate, Outlets, Sent
from .services import Services, terms_of
from .subscription import DomainSubscription
from .subscriptions import DomainSubscriptions
from .topology import QueueTerms, Topology
from .uplink import Lines, Uplink
from .ways import topology_on

log = logging.getLogger("clacks.broker")

# How long a queue that no subscription has (any more) is deleted again by whoever leads, in seconds: an agent that dies with it undone is
# found in a lease, and a broker is back from a restart. So long its owner may ask why it is gone.
DELETING: Final = 120.0
_DURABLE: Final = header(None, durable=True)
_LIVE: Final = header(None, durable=False)
AGAIN: Final = 1.0  # seconds after which the next queue is deleted, when one could not be
ANSWERS: Final = 100  # under way to an agent


class _Ended(NamedTuple):
    """When it is given up to delete a queue, and when it is due: 0 is at once."""

    until: float
    due: float = 0.0


class ExternalBroker:
    """One agent's part of a domain on a broker."""

    def __init__(self, config: Config, bus: Bus, commands: CommandRegistry, vitals: Callable[[], tuple[float, float, int]]) -> None:
        """`vitals` are the agent's load, latency in seconds, and workers. Raises ClacksError url-invalid."""
        self.config, self.commands, self.domain = config, commands, config.domain
        self.intake = Intake(bus, self)
        self.connections: frozenset[Connection] = frozenset()  # of clients: they are the broker's
        self.accepting = True
        self.subscriptions = DomainSubscriptions(
            bus, Sandbox(config.sandbox_workers, Budget(config.sandbox_seconds, config.sandbox_memory))
        )
        self.superseded = self._started = False
        self.on_superseded: Callable[[], None] = lambda: None
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._vitals = vitals
        self._uplink = Uplink(parse_urls(list(config.broker_url), config.domain), self._up, self._down)
        self._stamp = Stamp("")
        self._lines: Lines | None = None
        self._outlets: Outlets | None = None
        self._topology: Topology | None = None
        self._asking: dict[str, tuple[str, asyncio.Future[str]]] = {}
        self._unsent: list[tuple[str, bytes, Sent, bool]] = []
        self.ends = Ends()
        self._ended: dict[str, _Ended] = {}  # queues to be deleted
        self._restored: set[str] = set()  # those that this agent deletes whoever leads
        self._tasks: set[asyncio.Task[None]] = set()
        self._lane = Lane()
        self.control = Control(config.node_id, self._changed, self._take_held, self._forget, self._told)
        self.ingress: list[Ingress] = []
        commands.register(Services(self))
        self._queues: list[CommandQueue] = []

    # --- life ---

    async def start(self) -> list[str]:
        """Connect, and wait until the domain's state is here; answer where the domain is. Raises ClacksError."""
        await self._uplink.start()
        self._later(self._deleting())
        try:
            async with asyncio.timeout(JOIN_SECONDS):
                await self.control.joined
        except TimeoutError:
            raise ClacksError(
                "config-invalid", source=control_log(self.domain), reason="the state of the domain is not in it, and no agent has it",
                hint="Are the other agents running? If there is none, delete that log on the broker; clients subscribe again.",
            ) from None  # fmt: skip
        self._started = True
        if self._lines is not None:  # otherwise it is done when the broker is reached again
            await self._join(self._lines)
        log.info("domain joined", extra={"domain": self.domain, "subscriptions": len(self.subscriptions.all)})
        return [str(url) for url in parse_urls(list(self.config.broker_url), self.domain)]

    async def _up(self, lines: Lines) -> None:
        """The broker can be reached (again)."""
        if self._topology is None:
            self._topology = topology_on(lines.broker, self.config, self.control.domain.timing)
            self._stamp = Stamp(f"{self.config.node_id}-{os.urandom(4).hex()}-", Timestamp if lines.broker.has(Feature.TIMESTAMPS) else int)
            self.ingress = [
                Ingress(
                    queue,
                    self.config.node_id,
                    self.intake,
                    self._topology,
                    self._may_take,
                    self._answer,
                    self._reject,
                    self._nodes,
                    self.subscriptions.owed,
                    verified=verified,
                )
                for queue, verified in self._topology.ingress
            ]
        self._lines = lines
        self._ended = {queue: _Ended(now() + DELETING) for queue in self._ended}  # while the broker was away nobody could do it
        await self._topology.attach(lines.making, lines.broker)
        await self._topology.declare(self._targets())
        self._outlets = Outlets(lines.giving, lines.broker, self._exists)
        answers = await lines.asking.attach_receiver(
            lines.broker.queue(agent_queue(self.domain, self.config.node_id)), handler=_Answers(self)
        )
        answers.window = ANSWERS
        await self.control.attach(lines.asking, lines.broker, self._topology.log)
        unsent, self._unsent = self._unsent, []
        for queue, encoded, done, insist in unsent:
            self.send(queue, encoded, done, insist=insist)
        self.subscriptions.connect(self._outlets)
        if self.control.domain.may_take(now()):
            await self._take_part(lines)
        elif self._started:
            self._later(self._join(lines))

    def _down(self) -> None:
        self._lines = None
        self.control.down()
        self._disconnect()

    def _disconnect(self) -> None:
        """What is on its way to the broker is lost: whoever sent it hears that."""
        outlets, self._outlets = self._outlets, None
        self.subscriptions.disconnect()
        if outlets is not None:
            outlets.lost()

    async def _join(self, lines: Lines) -> None:
        """Take part as soon as the state of the domain is here. Before that, events would wait for this agent, and commands be answered by
        one that knows nothing."""
        await self.control.current()
        if lines is not self._lines:
            return
        try:
            await self._take_part(lines)
        except AmqpError as error:
            log.warning("the domain's queues were not attached", extra={"reason": str(error)})
            lines.asking.abort()  # then everything is made again

    async def _take_part(self, lines: Lines) -> None:
        """Take events and commands; the state of the domain is here."""
        if not self.accepting:
            return
        for ingress in self.ingress:
            await ingress.attach(lines.taking, lines.broker)
        self._queues = [CommandQueue(self, target, place) for target in self._targets() for place in self.topology.places(target)]
        for queue in self._queues:
            await queue.attach(lines.asking, lines.broker)

    def _targets(self) -> list[str]:
        return sorted({method.target for method in self.commands.methods.values()} | {CORE})

    async def drain(self, timeout: float) -> None:
        """Take no more, and finish within `timeout` seconds what is under way."""
        self.accepting = False
        sources: list[Ingress | CommandQueue] = [*self.ingress, *self._queues]
        for one in sources:
            one.stop()
        end = self._loop.time() + timeout
        while (any(one.under_way for one in sources) or self.subscriptions.owed.count) and self._loop.time() < end:
            await asyncio.sleep(0.02)
        for one in sources:
            one.leave()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.control.leave()
        self.intake.close()
        await self.subscriptions.close()
        await self._uplink.close()

    # --- bus driver ---

    def hand_over(self, incoming: Incoming, routed: Routed, lane: Lane, done: Done) -> None:
        ttl = incoming.ttl
        if not (routed.matched or routed.undecided) or (ttl is not None and ttl <= 0):
            done(None)
            return
        encoded = self._stamp.front(incoming.user, int(time.time() * 1000), incoming.annotations) + bare_message(incoming)
        kept = (_DURABLE if ttl is None else header(ttl, durable=True)) + encoded
        live = (_LIVE if ttl is None else header(ttl, durable=False)) + encoded
        left = len(routed.matched) + len(routed.undecided)
        lost = False

        def confirmed(fate: Fate) -> None:
            nonlocal left, lost
            left -= 1
            lost = lost or fate is Fate.LOST
            if not left:
                done(ClacksError("bus-overloaded") if lost else None)

        def message(subscription: DomainSubscription) -> bytes:
            if subscription.stay is not None:
                return subscription.headed(ttl, encoded)
            return kept if subscription.terms.durable else live

        for subscription in routed.matched:
            subscription.offer(message(subscription), None, confirmed)
        for subscription in routed.undecided:
            subscription.offer(message(subscription), incoming, confirmed)

    def send(self, queue: str, encoded: bytes, done: Sent, *, insist: bool) -> None:
        """Send something that is no event; when the broker is away, as soon as it is back."""
        if self._outlets is None:
            self._unsent.append((queue, encoded, done, insist))
        else:
            self._outlets.send(queue, encoded, done, insist=insist)

    def permissions_changed(self) -> None:
        self.subscriptions.permissions_changed()

    # --- the domain ---

    def _may_take(self) -> bool:
        return self.accepting and self.control.domain.may_take(now())

    def _nodes(self) -> list[str]:
        return [member.node for member in self.control.domain.live(now())]

    def _take_held(self) -> None:
        for ingress in self.ingress:
            ingress.go_on()

    def _told(self) -> tuple[float, float, int, tuple[Method, ...]]:
        load, latency, workers = self._vitals()
        methods = tuple(
            Method(method.target, name, {**method.described(), "idempotent": method.mark.idempotent})
            for name, method in sorted(self.commands.methods.items())
        )
        return load, latency, workers, methods

    def _changed(self, change: Change) -> None:
        if isinstance(change, SubscriptionAdded):
            self.subscriptions.add(self._made(change.subscription))
        elif isinstance(change, SubscriptionChanged):
            self.subscriptions.replace(self._made(change.after))
        elif isinstance(change, SubscriptionSuspended):
            known = change.subscription
            log.warning("subscription suspended", extra={"user": known.user, "subscription": known.name, "reason": known.suspended})
            self.subscriptions.suspend(known.id, known.suspended)
        elif isinstance(change, SubscriptionRemoved):
            self.subscriptions.remove(change.subscription.id)
            self._ended[change.subscription.queue] = _Ended(now() + DELETING)
            self.ends.note(change, now() + DELETING)
        elif isinstance(change, QueueUnused):
            self._ended[change.queue] = _Ended(now() + DELETING, self._later_on())  # somebody may be making it still
        elif isinstance(change, NodeLeft):
            self._left(change)
        elif isinstance(change, Superseded):
            log.error("another agent has this node id", extra={"node": self.config.node_id})
            self.superseded = True
            self.on_superseded()
        elif isinstance(change, Ready):
            log.info("the domain's state is here")

    def _left(self, change: NodeLeft) -> None:
        """What it was asked it does not answer any more. One that went without a word cannot say so: whoever leads does."""
        for node, future in self._asking.values():
            if node == change.node and not future.done():
                future.set_exception(Gone(node))
        if change.reason == "silent" and self.control.domain.leads(now()):
            e = EventMaker()
            body = etree.tostring(e.Event(e.NodeLeave(e.Id(change.node))))
            self.intake.submit(Incoming(body, f"{NODE}{self.config.node_id}", origin="domain"), self._lane, lambda error: None)

    def _forget(self) -> None:
        """The domain is read anew: until then no event is taken, and what is under way comes again."""
        self._disconnect()
        self.subscriptions.clear()

    def _made(self, known: Known) -> DomainSubscription:
        sandbox, owed = self.subscriptions.sandbox, self.subscriptions.owed
        one = DomainSubscription(known.id, known.user, known.queue, terms_of(known), sandbox, owed, self._exceeded)
        one.outlets, one.suspension = self._outlets, known.suspended
        one.stay = self.topology.stay(known.max_age, known.lease)
        return one

    def _later_on(self) -> float:
        """When what agents had under way with a queue is done."""
        return now() + 2 * self.control.domain.timing.lease

    async def _deleting(self) -> None:
        """Delete the queues of subscriptions that have ended, and those that never had one. All agents remember them for a while, and the
        one that leads does it: the next one does it again if that one has gone. Nobody else has a queue of the same name."""
        while True:
            await asyncio.sleep(TICK)
            self.ends.forget(now())
            for queue, end in list(self._ended.items()):
                if self._lines is None:
                    break
                if now() > end.until:
                    del self._ended[queue]
                    self._restored.discard(queue)
                elif now() >= end.due and (queue in self._restored or self.control.domain.leads(now())):
                    try:
                        await self.topology.delete(queue, tell=not end.due)
                    except ClacksError as error:
                        log.warning("queue not deleted", extra={"queue": queue, "reason": str(error)})
                        self._ended[queue] = self._ended.pop(queue)  # the others are not to wait for it
                        await asyncio.sleep(AGAIN)
                        break
                    if self.topology.deletes or end.due:
                        self._ended.pop(queue, None)
                        self._restored.discard(queue)
                    elif queue in self._ended:  # until then others may have sent there, and it is there again
                        self._ended[queue] = end._replace(due=self._later_on())

    async def restore(self, known: Known, terms: QueueTerms) -> None:
        """Make the queue of a subscription again: the broker may have lost it, or somebody deleted it, and its owner alone knows its
        limits. Raises ClacksError.

        The subscription may end meanwhile, and whoever leads delete the queue before it is made here: so this agent deletes it too."""
        if self.control.domain.subscription(known.id) is not None:
            self._restored.add(known.queue)
            await self.topology.make(known.queue, terms)

    def _exceeded(self, one: DomainSubscription, reason: str) -> None:
        """For the whole domain: what costs one agent too much costs any of them too much."""
        self.control.suspend(one.id, one.terms.filters, reason)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _exists(self, queue: str) -> bool:
        """False too if that cannot be found out: nobody is answered then, and asks again."""
        try:
            return await self.topology.exists(queue)
        except ClacksError as error:
            log.info("queue not found", extra={"queue": queue, "reason": str(error)})
            return False

    @property
    def topology(self) -> Topology:
        """There is one as soon as the broker was reached once."""
        assert self._topology is not None
        return self._topology

    # --- publishers ---

    def _answer(self, user: str, given: str, token: str, error: ClacksError | None) -> None:
        try:
            queue = self.topology.reply_queue(user, given)
        except ClacksError:
            return
        told = json.dumps({"error": None if error is None else error.to_json()})
        draft = Draft(told, Properties(correlation_id=token, content_type="application/json"), ttl=ANSWER_TTL)
        self.send(queue, draft.encode(), _nobody, insist=False)

    def _reject(self, encoded: bytes, error: ClacksError, done: Sent) -> None:
        """Put a refused event aside."""
        try:
            kept = annotate(Message(encoded).bare, {CODE: error.code, REASON: str(error)[:1024]}, self.topology.rejected_ttl, durable=True)
        except ValueError as unreadable:
            log.warning("a refused event is no message, and is not kept", extra={"reason": str(unreadable)})
            done(Fate.STORED)
            return

        def told(fate: Fate) -> None:
            if fate is Fate.NO_QUEUE:  # somebody has deleted it
                self._later(self._put_aside(kept, done))
            else:
                done(fate)

        self.send(rejected_queue(self.domain), kept, told, insist=True)

    async def _put_aside(self, kept: bytes, done: Sent) -> None:
        """Make the queue again."""
        try:
            await self.topology.declare_rejected()
        except ClacksError as error:
            log.warning("a refused event is not kept", extra={"reason": str(error)})
            done(Fate.NO_QUEUE)
        else:
            self.send(rejected_queue(self.domain), kept, done, insist=True)

    # --- commands.Desk ---

    def elsewhere(self, target: str, method: str) -> list[str]:
        return [node for node in self.control.domain.providers(target, method, now()) if node != self.config.node_id]

    def described(self, target: str, method: str) -> Mapping[str, Any]:
        return self.control.domain.methods(target, now()).get(method, {})

    async def ask(self, target: str, node: str, user: str, request: dict[str, Any], seconds: float) -> str:
        token = uuid.uuid4().hex
        future: asyncio.Future[str] = self._loop.create_future()
        self._asking[token] = node, future
        asked = Properties(message_id=token, user_id=user.encode(), reply_to=agent_queue(self.domain, self.config.node_id))
        # Nobody waits for what it answers later than that, and a node that comes back must not run what was given up.
        draft = Draft(json.dumps(request), asked, annotations={BEHALF: user}, ttl=int(seconds * 1000))

        def sent(fate: Fate) -> None:
            if fate is Fate.NO_QUEUE and not future.done():
                future.set_exception(Gone(node))

        try:
            self.send(self.topology.asked_queue(target, node), draft.encode(), sent, insist=True)
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            raise ClacksError("command-timeout", method=f"{request['method']} of {node}", seconds=seconds) from None
        finally:
            del self._asking[token]

    def answered(self, message: Message) -> None:
        """Another agent's answer."""
        _, future = self._asking.get(str(message.properties.correlation_id), ("", None))
        if future is not None and not future.done():
            future.set_result(str(message.body))


class _Answers:
    """The handler of the link on which other agents answer."""

    def __init__(self, broker: ExternalBroker) -> None:
        self._broker = broker

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        if not settled:
            link.settle(number, ACCEPTED)
        try:
            self._broker.answered(Message(encoded))
        except ValueError as error:
            log.warning("an answer cannot be read", extra={"reason": str(error)})

    def credit(self, link: Sender) -> None: ...

    def outcome(self, link: Sender, token: object, outcome: Outcome) -> None: ...

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        if condition is not None and link.connection.alive:
            link.connection.abort()  # then everything is made again


def _nobody(fate: Fate) -> None:
    """Nobody waits to hear what became of it."""
