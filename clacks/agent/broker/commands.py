"""Commands over AMQP: a JSON request comes in on a link, is run by the registry, and its answer goes to the reply-to address.

A reply goes only to an address that its own user asked for; a request with another one is rejected before it is run.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Mapping
from typing import Any

from ...amqp import ACCEPTED, CodecError, Condition, Draft, Message, Properties, Receiver, Rejected
from ...common.errors import ClacksError
from ..access import audit
from ..command import CommandRegistry
from .addresses import Address
from .inlet import Inlet, peer_of
from .subscription import Subscription

log = logging.getLogger("clacks.command")

_NUMBERS = itertools.count(1)  # of replies, by which those that come back are in order


class CommandLink(Inlet):
    """The handler of a link that commands come in on."""

    def __init__(self, commands: CommandRegistry, replies: Mapping[str, Subscription], address: Address, link: Receiver) -> None:
        """Raises ClacksError address-unknown if this agent does not serve the address."""
        super().__init__(link)
        self._user = link.connection.user
        commands.check(self._user, address.name, address.node)
        self._commands = commands
        self._replies = replies
        self._address = address
        self._origin = f"command {peer_of(link.connection)}"
        self._tasks: set[asyncio.Task[None]] = set()

    def message(self, link: Receiver, number: int, encoded: bytes, settled: bool) -> None:
        try:
            message = Message(encoded)
            reply = self._reply_to(message)
            request: dict[str, Any] | ClacksError = read_request(message.body)
        except CodecError as error:
            self._reject(link, number, settled, ClacksError("command-malformed", reason=str(error)))
            return
        except ClacksError as error:
            if error.code != "command-malformed":
                self._reject(link, number, settled, error)
                return
            request = error
        if isinstance(request, ClacksError) and reply is None:
            self._reject(link, number, settled, request)
            return
        if not settled:
            link.settle(number, ACCEPTED)
        self.begin(len(encoded))
        task = asyncio.get_running_loop().create_task(self._run(message, request, reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, message: Message, request: dict[str, Any] | ClacksError, reply: Subscription | None) -> None:
        try:
            await self._answer(message, request, reply)
        finally:
            self.finish(len(message.encoded))

    async def _answer(self, message: Message, request: dict[str, Any] | ClacksError, reply: Subscription | None) -> None:
        answer = await run_command(self._commands, self._user, self._address.name, request, self._origin)
        if reply is not None and reply.consumers:
            reply.offer((next(_NUMBERS), reply_to(message, reply.terms.address, answer), 0.0, None, ""))

    def _reply_to(self, message: Message) -> Subscription | None:
        address = message.properties.reply_to
        if address is None:
            return None
        reply = self._replies.get(str(address))
        if reply is None or reply.user != self._user:
            if reply is not None:
                audit(self._user, "reply to", reply.user, self._origin)
            raise ClacksError(
                "address-unknown", address=address, hint="Attach a receiver with a dynamic source and use the address it gets."
            )
        return reply

    def _reject(self, link: Receiver, number: int, settled: bool, error: ClacksError) -> None:
        log.info("command rejected", extra={"user": self._user, "code": error.code, "reason": str(error)})
        if not settled:
            link.settle(number, Rejected(Condition(error.condition, str(error), error.to_json())))


async def run_command(commands: CommandRegistry, user: str, target: str, request: dict[str, Any] | ClacksError, origin: str) -> str:
    """Run a request, and answer what its sender gets."""
    result, error, request_id = None, None, None
    if isinstance(request, ClacksError):
        error = request
    else:
        request_id = request.get("id")
        try:
            result = await commands.dispatch(user, target, request["method"], request.get("params") or [], origin)
        except ClacksError as failure:
            error = failure
    try:
        return json.dumps({"result": result, "error": error.to_json() if error else None, "id": request_id})
    except (TypeError, ValueError) as failure:
        broken = ClacksError("command-failed", method=request["method"], reason=f"its result is not JSON: {failure}")  # type: ignore[index]
        return json.dumps({"result": None, "error": broken.to_json(), "id": request_id})


def reply_to(message: Message, address: str, answer: str, ttl: int | None = None) -> bytes:
    """The encoded answer to a request; `ttl` in milliseconds."""
    asked = message.properties
    correlation = asked.correlation_id if asked.correlation_id is not None else asked.message_id
    return Draft(answer, Properties(to=address, correlation_id=correlation, content_type="application/json"), ttl=ttl).encode()


def read_request(body: Any) -> dict[str, Any]:
    """The command in a message's body. Raises ClacksError command-malformed."""
    if not isinstance(body, bytes | str):
        raise ClacksError("command-malformed", reason="the body is neither text nor binary")
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ClacksError("command-malformed", reason=str(error)) from error
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        raise ClacksError("command-malformed", reason="it is no object with a method")
    if not isinstance(request.get("params", []), list | dict | None):
        raise ClacksError("command-malformed", reason="params is neither a list nor an object")
    return request
