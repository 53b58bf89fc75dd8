"""Commands: what an agent can be asked to do, and who asks whom.

`CommandRegistry` holds the methods marked with `@Command` and runs them by name. It knows nothing of AMQP: the broker hands it the
authenticated user, the target, the method and its parameters, and sends the answer.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol
from weakref import WeakValueDictionary

from ..common.components.command import CORE, MARK, Command, Marked
from ..common.errors import ClacksError
from ..common.event import to_bytes
from ..common.schemaset import EventSchema
from ..common.xml import shortened
from .access import option, refusal
from .bus import Bus, Incoming
from .intake import Intake, Lane

log = logging.getLogger("clacks.command")


@dataclass(frozen=True, slots=True)
class Method:
    """One command: the bound method, its mark, and the parameters that a caller passes."""

    call: Callable[..., Any]
    mark: Marked
    target: str
    signature: inspect.Signature

    @property
    def parameters(self) -> list[str]:
        return list(self.signature.parameters)

    def described(self) -> dict[str, Any]:
        """What getMethods shows of it."""
        return {
            "path": self.call.__name__,
            "target": self.target,
            "signature": self.parameters,
            "type": str(self.mark.type),
            "queueRequired": self.mark.needs_queue,
            "doc": self.mark.documentation,
        }


class Catalogue(Protocol):
    """The durable and shared subscriptions by name. `owner` is the user whose they are; only an administrator may name another one."""

    def all(self, user: str) -> list[dict[str, Any]]: ...

    def show(self, user: str, name: str, owner: str | None) -> dict[str, Any]: ...

    def delete(self, user: str, name: str, owner: str | None, *, force: bool) -> bool: ...

    async def replay(self, user: str, name: str, owner: str | None) -> int: ...


class Services(Protocol):
    """What the agent's own commands are made of."""

    node_id: str
    bus: Bus

    def nodes(self) -> dict[str, dict[str, Any]]: ...

    def methods(self, target: str) -> dict[str, dict[str, Any]]: ...

    def events(self, schemas: Sequence[EventSchema]) -> list[dict[str, Any]]:
        """Slow: called in a worker."""
        ...

    def status(self, user: str) -> dict[str, Any]: ...

    @property
    def catalogue(self) -> Catalogue: ...

    def stop(self) -> None: ...


class CommandRegistry:
    """The commands of one agent. Its own commands are marked methods of this class, like any plugin's of its class."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self._methods: dict[str, Method] = {}
        self._services: Services | None = None
        self._intake: Intake | None = None
        self._lanes: WeakValueDictionary[str, Lane] = WeakValueDictionary()
        self.register(self)

    def serve(self, services: Services, intake: Intake) -> None:
        """Connect the built-in commands with the agent that runs them."""
        self._services, self._intake = services, intake

    def register(self, provider: object, target: str = CORE) -> None:
        """Serve every method of `provider` that is marked with `@Command`. Raises ValueError for a name that is taken."""
        for name, function in inspect.getmembers(type(provider), lambda member: hasattr(member, MARK)):
            mark: Marked = getattr(function, MARK)
            call = getattr(provider, name)
            if name in self._methods:
                raise ValueError(f"the command {name} is registered already, by {self._methods[name].call.__qualname__}")
            given = mark.needs_user + mark.needs_queue
            parameters = list(inspect.signature(call).parameters.values())[given:]
            self._methods[name] = Method(call, mark, target, inspect.Signature(parameters))

    @property
    def methods(self) -> Mapping[str, Method]:
        return self._methods

    def check(self, user: str, target: str, node: str) -> None:
        """Raises ClacksError address-unknown unless this agent serves the target, and is the node (if one is named)."""
        if target not in {method.target for method in self._methods.values()}:
            usable = {method.target for name, method in self._methods.items() if self._may_call(user, method.target, name)} | {CORE}
            raise ClacksError("address-unknown", address=target, hint=f"Commands are served from: {', '.join(sorted(usable))}.")
        if node not in ("", self.node_id):
            raise ClacksError(
                "address-unknown", address=f"{target}.{node}", hint=f"This is the node {self.node_id}; `clacks call getNodes` lists all."
            )

    def _may_call(self, user: str, target: str, name: str) -> bool:
        method = self._methods.get(name)
        if method is not None and method.target == target and method.mark.checks_rights:
            return True
        return self._agent.bus.may_call(user, target, name)

    async def dispatch(self, user: str, target: str, name: str, params: Sequence[Any] | Mapping[str, Any], origin: str = "") -> Any:
        """Run a command; `params` by position or by name; `origin` is the door, for the log. Raises ClacksError, whatever the command
        raised."""
        if not self._may_call(user, target, name):
            raise refusal(user, "call", name, option("--call", target, name), origin)
        method = self._methods.get(name)
        if method is None or method.target != target:
            usable = [known for known, one in self._methods.items() if one.target == target and self._may_call(user, target, known)]
            close = get_close_matches(shortened(name), usable, n=1)
            hint = f"Did you mean {close[0]}?" if close else "`clacks call getMethods` lists them all."
            raise ClacksError("command-unknown", method=name, hint=hint)
        try:
            bound = method.signature.bind(**params) if isinstance(params, Mapping) else method.signature.bind(*params)
        except TypeError as error:
            signature = ", ".join(str(one) for one in method.signature.parameters.values()) or "none"
            raise ClacksError("command-arguments", method=name, reason=str(error), signature=signature) from error
        given = ([user] if method.mark.needs_user else []) + ([target] if method.mark.needs_queue else [])
        try:
            result = method.call(*given, *bound.args, **bound.kwargs)
            return await result if inspect.isawaitable(result) else result
        except ClacksError:
            raise
        except Exception as error:
            log.exception("command failed", extra={"method": name, "user": user})
            raise ClacksError("command-failed", method=name, reason=f"{type(error).__name__}: {error}") from error

    # --- the commands every agent serves ---

    @Command(needs_user=True, needs_queue=True, idempotent=True)
    def getMethods(self, user: str, target: str, queue: str | None = None, locale: str | None = None) -> dict[str, dict[str, Any]]:
        """The commands that you may call, served from a target (by default the one asked) by any agent of the domain, by name."""
        place = queue or target
        return {name: described for name, described in sorted(self._agent.methods(place).items()) if self._may_call(user, place, name)}

    @Command(idempotent=True)
    def getNodes(self) -> dict[str, dict[str, Any]]:
        """The agents of the domain by node id, with load, latency (seconds) and workers."""
        return self._agent.nodes()

    @Command(needs_user=True, idempotent=True)
    def getSessionUser(self, user: str) -> str:
        """The name you are authenticated by."""
        return user

    @Command(needs_user=True)
    async def sendEvent(self, user: str, data: str) -> bool:
        """Publish an event, given as XML; true when every matching subscription has it."""
        if self._intake is None:
            raise ClacksError("bus-stopping")
        if not isinstance(data, str):
            raise ClacksError("command-arguments", method="sendEvent", reason="data is not a string", signature="data")
        lane = self._lanes.get(user)
        if lane is None:
            lane = self._lanes[user] = Lane()
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: ClacksError | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(None)
            else:
                answer.set_exception(error)

        self._intake.submit(Incoming(to_bytes(data), user, origin="command sendEvent"), lane, done)
        await answer
        return True

    @Command(needs_user=True, idempotent=True)
    async def getEvents(self, user: str) -> list[dict[str, Any]]:
        """Every event that you may publish or subscribe to, with its documentation and fields."""
        agent = self._agent
        # xmlschema takes 0.2 s for the first one of a kind
        return await asyncio.to_thread(agent.events, list(agent.bus.visible(user)))

    @Command(needs_user=True, idempotent=True)
    def getSchema(self, user: str, name: str) -> str:
        """The XML schema of an event."""
        return self._agent.bus.schema(user, str(name), "command getSchema").source

    @Command(needs_user=True, idempotent=True)
    def getStatus(self, user: str) -> dict[str, Any]:
        """What this agent is doing, for administrators: counters, subscriptions, connections; what you have of these, for others."""
        return self._agent.status(user)

    @Command(needs_user=True, idempotent=True)
    def getSubscriptions(self, user: str) -> list[dict[str, Any]]:
        """Your durable and shared subscriptions, and your dead letters; everybody's, for administrators."""
        return self._agent.catalogue.all(user)

    @Command(needs_user=True, idempotent=True)
    def getSubscription(self, user: str, name: str, owner: str | None = None) -> dict[str, Any]:
        """One durable or shared subscription, with its terms and counters."""
        return self._agent.catalogue.show(user, str(name), owner)

    @Command(needs_user=True)
    def deleteSubscription(self, user: str, name: str, owner: str | None = None, force: bool = False) -> bool:
        """Delete a durable subscription, and everything that waits for it; with `force` also while it has consumers."""
        return self._agent.catalogue.delete(user, str(name), owner, force=bool(force))

    @Command(needs_user=True)
    async def replaySubscription(self, user: str, name: str, owner: str | None = None) -> int:
        """Put the dead letters of a durable subscription into its queue again; how many there were."""
        return await self._agent.catalogue.replay(user, str(name), owner)

    @Command(needs_user=True)
    def shutdown(self, user: str) -> bool:
        """Stop this agent; for administrators."""
        if not self._agent.bus.administers(user):
            raise refusal(user, "call", "shutdown", "--administer", "command shutdown")
        self._agent.stop()
        return True

    @property
    def _agent(self) -> Services:
        if self._services is None:
            raise ClacksError("bus-stopping")
        return self._services
