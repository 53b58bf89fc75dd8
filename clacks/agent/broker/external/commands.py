"""Commands of a domain: who runs them, and that none is run twice without a word.

A request stays unsettled until its answer is with the broker. If the agent that ran it goes before, the broker gives it to another one,
marked as delivered before: there it is run again if its command is idempotent, and answered as interrupted otherwise.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

from ....amqp import ACCEPTED, RELEASED, CodecError, Condition, Connection, Link, Message, Outcome, Receiver, Sender
from ....common.brokers import Broker
from ....common.components.command import CommandType
from ....common.errors import ClacksError
from ...command import CommandRegistry
from ..commands import read_request, reply_to, run_command
from .names import command_queue, reply_queue, sender_of

log = logging.getLogger("clacks.command")

# Requests under way in an agent; the others wait at the broker for an agent that is free.
WINDOW: Final = 50


class Desk(Protocol):
    """What a command queue needs of the domain."""

    domain: str
    commands: CommandRegistry

    def elsewhere(self, target: str, method: str) -> list[str]:
        """The other nodes that serve a command, the least loaded first."""

    def send(self, queue: str, encoded: bytes, done: Callable[[bool], None]) -> None: ...

    async def ask(self, target: str, node: str, user: str, request: dict[str, Any]) -> str:
        """Another node's answer to a request."""


class CommandQueue:
    """The handler of the link to one command queue: `node` is "" for the one that all agents share."""

    def __init__(self, desk: Desk, target: str, node: str = "") -> None:
        self.queue = command_queue(desk.domain, target, node)
        self._target, self._node, self._desk, self._commands = target, node, desk, desk.commands
        self._link: Receiver | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def attach(self, connection: Connection, broker: Broker) -> None:
        self._link = await connection.attach_receiver(broker.queue(self.queue), handler=self)
        self._link.window = WINDOW

    def detach(self) -> None:
        if self._link is not None:
            self._link.window = 0

    @property
    def under_way(self) -> int:
        return len(self._tasks)

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        task = asyncio.get_running_loop().create_task(self._run(link, number, encoded))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, link: Receiver, number: int, encoded: bytes) -> None:
        try:
            message = Message(encoded)
            user = sender_of(message)
            reply = self._reply_to(message, user)
            request = self._request(message)
        except (ClacksError, CodecError) as error:
            log.info("command rejected", extra={"queue": self.queue, "reason": str(error)})
            link.settle(number, ACCEPTED)
            return
        if isinstance(request, dict) and (node := self._better(request["method"])):
            if not await self._sent(command_queue(self._desk.domain, self._target, node), message.bare):
                link.settle(number, RELEASED)
                return
            link.settle(number, ACCEPTED)
            return
        answer = await self._answer(message, user, request)
        if reply:
            await self._sent(reply, reply_to(message, reply, answer))
        link.settle(number, ACCEPTED)

    async def _sent(self, queue: str, encoded: bytes) -> bool:
        """Whether the broker has it; False if there is no such queue."""
        taken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._desk.send(queue, encoded, taken.set_result)
        return await taken

    def _reply_to(self, message: Message, user: str) -> str:
        given = message.properties.reply_to
        return "" if given is None else reply_queue(self._desk.domain, user, str(given))

    def _request(self, message: Message) -> dict[str, Any] | ClacksError:
        try:
            request = read_request(message.body)
        except ClacksError as error:
            return error
        method = self._commands.methods.get(request["method"])
        if message.header.delivery_count and not (method is not None and method.mark.idempotent):
            return ClacksError("command-interrupted", method=request["method"])
        return request

    def _better(self, name: str) -> str:
        """The node to which a request that any agent may answer goes, if this one does not serve it."""
        method = self._commands.methods.get(name)
        if self._node or (method is not None and method.target == self._target):
            return ""
        others = self._desk.elsewhere(self._target, name)
        return others[0] if others else ""

    async def _answer(self, message: Message, user: str, request: dict[str, Any] | ClacksError) -> str:
        method = self._commands.methods.get(request["method"]) if isinstance(request, dict) else None
        if self._node or method is None or method.mark.type is CommandType.NORMAL or isinstance(request, ClacksError):
            return await run_command(self._commands, user, self._target, request, f"command {self.queue}")
        if method.mark.type is CommandType.CUMULATIVE:
            return await self._of_all(user, request)
        return await self._of_first(user, request)

    # --- more than one agent ---

    async def _of_all(self, user: str, request: dict[str, Any]) -> str:
        """The answers of all agents that serve it, by node: `{"result": ..., "error": ...}` each."""
        nodes = self._desk.elsewhere(self._target, request["method"])
        own = run_command(self._commands, user, self._target, request, f"command {self.queue}")
        answers = await asyncio.gather(own, *(self._desk.ask(self._target, node, user, request) for node in nodes))
        results = {node: _part(answer) for node, answer in zip((self._commands.node_id, *nodes), answers, strict=True)}
        return json.dumps({"result": results, "error": None, "id": request.get("id")})

    async def _of_first(self, user: str, request: dict[str, Any]) -> str:
        """The answer of the first agent that succeeds; the last one's error if none does."""
        answer = await run_command(self._commands, user, self._target, request, f"command {self.queue}")
        for node in self._desk.elsewhere(self._target, request["method"]):
            if json.loads(answer)["error"] is None:
                break
            answer = await self._desk.ask(self._target, node, user, request)
        return answer

    # --- the rest of amqp.LinkHandler ---

    def credit(self, link: Sender) -> None: ...

    def outcome(self, link: Sender, token: object, outcome: Outcome) -> None: ...

    def detached(self, link: Link, condition: Condition | None, *, closed: bool) -> None:
        if link is self._link and condition is not None and link.connection.alive:
            link.connection.abort()  # then everything is made again


def _part(answer: str) -> dict[str, Any]:
    told = json.loads(answer)
    return {"result": told["result"], "error": told["error"]}
