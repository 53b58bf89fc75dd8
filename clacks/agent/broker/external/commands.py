"""Commands of a domain: who runs them, and that none is run twice without a word.

A request stays unsettled until its answer is with the broker. If the agent that ran it goes before, the broker gives it to another one,
marked as delivered before: there it is run again if its command is idempotent, and answered as interrupted otherwise. An agent that does
not serve it asks one that does, and answers for it, also when that one goes.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

from ....amqp import ACCEPTED, CodecError, Condition, Connection, Link, Message, Outcome, Receiver, Sender
from ....common.brokers import Broker
from ....common.components.command import CommandType
from ....common.errors import ClacksError
from ...command import CommandRegistry
from ..commands import read_request, reply_to, run_command
from .names import ANSWER_TTL, BEHALF
from .outlets import Fate, Sent
from .topology import Place, Topology

log = logging.getLogger("clacks.command")

# Requests that are asked for at a time; the others wait at the broker for an agent that is free.
WINDOW: Final = 50
# Requests under way in an agent, beyond which it reads no more until half is done: some kilobytes each. So many because most of them wait:
# a thousand clients that subscribe while an agent is being missed have one lease to wait, and not twenty.
MOST: Final = 1_000
# Links with a session of their own, of the 64 that RabbitMQ has for a connection: what is not read fills the session's window, and the
# domain's log has to be read on.
SESSIONS: Final = 48
# How long an agent waits for another one's answer, in seconds. Where several are asked, one must not keep the answers of the others from a
# client, which waits for 30 s; where one is, the command takes what it takes, and this is for an answer that was lost.
ASK_SECONDS: Final = 20.0
ASK_ONE_SECONDS: Final = 600.0

# How often a broker has given a message out before, and lost the agent that had it: RabbitMQ 4.0 counts a consumer that has detached in the
# first annotation only, later ones in the second.
_COUNTS: Final = ("x-delivery-count", "x-acquired-count")


class Gone(Exception):
    """The node that was asked has left the domain."""


class Desk(Protocol):
    """What a command queue needs of the domain."""

    domain: str
    commands: CommandRegistry

    @property
    def topology(self) -> Topology: ...

    def elsewhere(self, target: str, method: str) -> list[str]:
        """The other nodes that serve a command, the least loaded first."""

    def described(self, target: str, method: str) -> Mapping[str, Any]:
        """What getMethods shows of a command that other nodes serve; empty if there is none."""

    def send(self, queue: str, encoded: bytes, done: Sent, *, insist: bool) -> None: ...

    async def ask(self, target: str, node: str, user: str, request: dict[str, Any], seconds: float) -> str:
        """Another node's answer to a request. Raises Gone, ClacksError command-timeout."""


class CommandQueue:
    """The handler of the link to one command queue."""

    def __init__(self, desk: Desk, target: str, place: Place) -> None:
        self.queue = place.queue
        self._place = place
        self._target, self._desk, self._commands = target, desk, desk.commands
        self._link: Receiver | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._left = False

    async def attach(self, connection: Connection, broker: Broker) -> None:
        source = broker.queue(self.queue, selector=self._place.selector)
        self._link = await connection.attach_receiver(source, handler=self, alone=connection.links < SESSIONS)
        self._link.window = WINDOW

    def stop(self) -> None:
        """Take no more; what is under way goes on."""
        if self._link is not None:
            self._link.window = 0

    def leave(self) -> None:
        """Leave what was not answered to other agents, who get it when the connection ends: what comes from a link that is closed before,
        ActiveMQ gives out as if nobody had had it."""
        self._left = True

    @property
    def under_way(self) -> int:
        return len(self._tasks)

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        if self._left:  # what was on its way goes to another agent too, and is not begun here
            return
        task = asyncio.get_running_loop().create_task(self._run(link, number, encoded))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if len(self._tasks) >= MOST:
            link.pause()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        link = self._link
        if link is not None and link.paused and len(self._tasks) < MOST // 2:
            link.paused = False
            asyncio.get_running_loop().call_soon(link.resume)

    async def _run(self, link: Receiver, number: int, encoded: bytes) -> None:
        try:
            message = Message(encoded)
            user = self._user(message)
            reply = self._reply_to(message, user)
            request = self._request(message)
        except (ClacksError, CodecError) as error:
            log.info("command rejected", extra={"queue": self.queue, "reason": str(error)})
            link.settle(number, ACCEPTED)
            return
        answer = await self._answer(user, request, before=_given_before(message))
        if self._left or not link.alive:  # it goes to another agent, which answers
            return
        if not reply or await self._sent(reply, reply_to(message, reply, answer, ANSWER_TTL)) is not Fate.LOST:
            link.settle(number, ACCEPTED)

    async def _sent(self, queue: str, encoded: bytes) -> Fate:
        fate: asyncio.Future[Fate] = asyncio.get_running_loop().create_future()
        self._desk.send(queue, encoded, fate.set_result, insist=False)
        return await fate

    def _user(self, message: Message) -> str:
        if self._place.behalf:
            return str(message.annotations.get(BEHALF, ""))
        return self._desk.topology.sender_of(message)

    def _reply_to(self, message: Message, user: str) -> str:
        given = message.properties.reply_to
        return "" if given is None else self._desk.topology.reply_queue(user, str(given))

    def _request(self, message: Message) -> dict[str, Any] | ClacksError:
        if not self._place.verified:
            return ClacksError("user-id-unverified")
        try:
            return read_request(message.body)
        except ClacksError as error:
            return error

    def _serves(self, name: str) -> bool:
        method = self._commands.methods.get(name)
        return method is not None and method.target == self._target

    def _may_repeat(self, name: str) -> bool:
        if self._serves(name):
            return self._commands.methods[name].mark.idempotent
        return bool(self._desk.described(self._target, name).get("idempotent"))

    def _type(self, name: str) -> str:
        if self._serves(name):
            return self._commands.methods[name].mark.type
        return str(self._desk.described(self._target, name).get("type"))

    async def _answer(self, user: str, request: dict[str, Any] | ClacksError, *, before: bool = False) -> str:
        """`before`: an agent that has gone had it, and may have run it."""
        if isinstance(request, ClacksError):
            return await self._own(user, request)
        if before and not self._may_repeat(request["method"]):
            return _failed(ClacksError("command-interrupted", method=request["method"]), request)
        if not self._place.shared:
            return await self._own(user, request)
        kind = self._type(request["method"])
        if kind == CommandType.CUMULATIVE:
            return await self._of_all(user, request)
        if kind == CommandType.FIRSTRESULT:
            return await self._of_first(user, request)
        return await self._of_one(user, request)

    async def _own(self, user: str, request: dict[str, Any] | ClacksError) -> str:
        return await run_command(self._commands, user, self._target, request, f"command {self.queue}")

    # --- more than one agent ---

    async def _of_one(self, user: str, request: dict[str, Any]) -> str:
        """The answer of this agent, or of the least loaded one that serves it; of the next one if that goes and the command may be run
        again."""
        method = request["method"]
        if self._serves(method) or not (nodes := self._desk.elsewhere(self._target, method)):
            return await self._own(user, request)  # which may say that there is no such command
        may_repeat = self._may_repeat(method)
        for node in nodes if may_repeat else nodes[:1]:
            try:
                return await self._desk.ask(self._target, node, user, request, ASK_ONE_SECONDS)
            except ClacksError as error:
                return _failed(error, request)
            except Gone:
                log.info("the agent that was asked has gone", extra={"node": node, "method": method})
        return _failed(ClacksError("command-interrupted", method=method), request)

    async def _of_all(self, user: str, request: dict[str, Any]) -> str:
        """The answers of all agents that serve it, by node: `{"result": ..., "error": ...}` each."""
        nodes = self._nodes(request["method"])
        answers = await asyncio.gather(*(self._asked(node, user, request) for node in nodes))
        results = {node: _part(answer) for node, answer in zip(nodes, answers, strict=True)}
        return json.dumps({"result": results, "error": None, "id": request.get("id")})

    async def _of_first(self, user: str, request: dict[str, Any]) -> str:
        """The answer of the first agent that succeeds; the last one's error if none does."""
        answer = ""
        for node in self._nodes(request["method"]):
            answer = await self._asked(node, user, request)
            if json.loads(answer)["error"] is None:
                break
        return answer

    def _nodes(self, method: str) -> list[str]:
        """Those that serve it, this one first."""
        return [self._commands.node_id] * self._serves(method) + self._desk.elsewhere(self._target, method)

    async def _asked(self, node: str, user: str, request: dict[str, Any]) -> str:
        """One node's answer, or why there is none."""
        if node == self._commands.node_id:
            return await self._own(user, request)
        try:
            return await self._desk.ask(self._target, node, user, request, ASK_SECONDS)
        except Gone:
            return _failed(ClacksError("command-interrupted", method=request["method"]), request)
        except ClacksError as error:
            return _failed(error, request)

    # --- the rest of amqp.LinkHandler ---

    def credit(self, link: Sender) -> None: ...

    def outcome(self, link: Sender, token: object, outcome: Outcome) -> None: ...

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        if link is self._link and condition is not None and link.connection.alive:
            link.connection.abort()  # then everything is made again


def _part(answer: str) -> dict[str, Any]:
    told = json.loads(answer)
    return {"result": told["result"], "error": told["error"]}


def _failed(error: ClacksError, request: dict[str, Any]) -> str:
    return json.dumps({"result": None, "error": error.to_json(), "id": request.get("id")})


def _given_before(message: Message) -> bool:
    annotations = message.annotations
    return bool(message.header.delivery_count) or any(annotations.get(key) for key in _COUNTS)
