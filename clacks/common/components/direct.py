"""The way to an agent's own listener: a link to the domain for events, one with a filter for a subscription, one a target for commands."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any, Final

from ...amqp import (
    ACCEPTED,
    Condition,
    Connection,
    Described,
    Draft,
    LinkHandler,
    Outcome,
    Properties,
    Receiver,
    Rejected,
    Sender,
    Symbol,
    Terminus,
)  # fmt: skip
from ..errors import ClacksError
from .answers import Answers
from .links import FATAL, as_error, attached
from .publisher import Publishers
from .terms import Keep, Wanted
from .url import Url

CAPABILITY: Final = "clacks-bus"
XQUERY_FILTER: Final = Symbol("apache.org:xquery-filter:string")
DEAD_LETTERS: Final = "dead-letters"


class AgentRoute:
    """A `Route` to an agent."""

    def __init__(self, connection: Connection, url: Url, domain: str) -> None:
        self.connection = connection
        self._url, self._domain = url, domain
        self._publishers = Publishers(self._sender, url)
        self._answers = Answers(url)
        self._attaching = asyncio.Lock()

    async def _sender(self, target: str) -> Sender:
        link: Sender = await attached(self.connection.attach_sender(Terminus(target)))
        return link

    # --- publishing and asking ---

    async def send(self, draft: Draft) -> None:
        _judge(await (await self._publishers.to(self._domain)).send(draft.encode()))

    async def request(self, method: str, params: list[Any] | dict[str, Any], target: str, timeout: float) -> Any:
        publisher = await self._publishers.to(f"{self._domain}.command.{target}")
        answers = await self._replies()

        async def send(token: str) -> None:
            question = json.dumps({"method": method, "params": params, "id": token})
            properties = Properties(message_id=token, reply_to=answers.address, content_type="application/json")
            _judge(await publisher.send(Draft(question, properties).encode()))

        return await answers.ask(send, timeout, ClacksError("command-timeout", method=method, seconds=timeout))

    async def _replies(self) -> Answers:
        async with self._attaching:
            if not self._answers.alive:
                answers = Answers(self._url)
                attach = self.connection.attach_receiver(Terminus(dynamic=True), settled=True, handler=answers)
                link: Receiver = await attached(attach)
                source = link.remote_source
                answers.start(link, (source.address if source is not None else None) or "")
                self._answers = answers
            return self._answers

    # --- subscribing ---

    async def attach(self, wanted: Wanted, handler: LinkHandler) -> Receiver:
        attach = self.connection.attach_receiver(
            self._source(wanted), name=_name(wanted.keep), properties=_properties(wanted.keep), handler=handler
        )
        link: Receiver = await attached(attach)
        return link

    def _source(self, wanted: Wanted) -> Terminus:
        """The link's source (AMQP 1.0 3.5.3)."""
        keep = wanted.keep
        part = f".{DEAD_LETTERS}" if wanted.dead_letters else f".event.{wanted.event}" if wanted.event else ""
        filters = {"xquery": Described(XQUERY_FILTER, wanted.xquery)} if wanted.xquery is not None else {}
        capabilities = (*(["shared"] if keep.shared else []), *(["global"] if keep.durable or keep.shared else []))
        if not keep.durable:
            return Terminus(self._domain + part, filter=filters, capabilities=capabilities)
        return Terminus(self._domain + part, durable=2, expiry="never", filter=filters, capabilities=capabilities)

    def detach(self, wanted: Wanted, link: Receiver | None, *, delete: bool) -> None:
        if link is not None:
            link.close(closed=delete or not wanted.keep.durable)

    async def verdict(self, wanted: Wanted, condition: Condition | None) -> ClacksError | None:
        if condition is None or not condition.info:
            return None
        error = as_error(condition)
        return error if error.code in FATAL else None

    def doubt(self) -> None:
        """An agent ends the link, and says why."""

    async def leave(self) -> None:
        """The agent sees everything from the end of the links."""


def _judge(outcome: Outcome) -> None:
    if isinstance(outcome, Rejected):
        raise as_error(outcome.condition)
    if outcome is not ACCEPTED:
        raise ClacksError("bus-overloaded")


def _name(keep: Keep) -> str | None:
    """The link's name. Those of a shared subscription are told apart by what stands behind a bar."""
    return f"{keep.shared}|{os.urandom(6).hex()}" if keep.shared else keep.durable or None


def _properties(keep: Keep) -> dict[str, Any]:
    """The link's properties."""
    asked: dict[str, Any] = {
        "clacks:max-age": keep.max_age, "clacks:max-bytes": keep.max_bytes, "clacks:overflow": keep.overflow or None,
        "clacks:replace": keep.replace or None,
    }  # fmt: skip
    return {key: value for key, value in asked.items() if value is not None}
