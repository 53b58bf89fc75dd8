"""The agent: puts the bus, the embedded broker, the commands and the listeners together, starts them, and stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .. import __version__
from ..amqp import Condition, Gate, Listener, Options, serve
from ..common.errors import ClacksError
from ..common.schema import SchemaRegistry
from ..common.schemaset import EventSchema
from ..common.xsd import Broken
from ..xquery import FilterError
from .access import Access, Rule
from .broker.catalogue import Catalogue, described
from .broker.embedded import EmbeddedBroker
from .broker.external import ExternalBroker
from .broker.external.catalogue import DomainCatalogue
from .broker.external.clock import now
from .broker.external.subscription import DomainSubscription
from .broker.subscription import Subscription
from .bus import Bus
from .certificates import server_context
from .command import CommandRegistry
from .config import Config
from .node import WORKERS, Node
from .rules import read_rules
from .users import User, UserBook, kept_secret, read_users

if TYPE_CHECKING:
    from .metrics import Endpoint

log = logging.getLogger("clacks.agent")
audit = logging.getLogger("clacks.audit")

# What to do when there can be no listener.
_LISTEN_HINTS: Final = {
    errno.EADDRINUSE: "Is another agent running? Give another --listen or --listen-tls.",
    errno.EACCES: "A port below 1024 wants a right of its own (CAP_NET_BIND_SERVICE). Give another --listen or --listen-tls.",
}

# Subscriptions that a status shows: 300 KB of the megabyte that a client takes, and 2 ms.
STATUS_SUBSCRIPTIONS = 500

# What an AMQP message may have beyond the event in it, in bytes: its sections, and a command's JSON, in which every quote takes two bytes.
_ENVELOPE = 64 * 1024


class Agent:
    """One running agent. `start` returns when it serves; `run` when it was told to stop and has."""

    def __init__(self, config: Config, users: UserBook | None = None, rules: Sequence[Rule] = ()) -> None:
        """`users` and `rules` instead of those in files. Raises ClacksError for what is wrong with the files. Needs a running loop."""
        self.config = config
        self.node_id = config.node_id
        self.users = users or UserBook(
            read_users(config.users_file), anonymous=config.access_anonymous, secret=kept_secret(config.state_dir / "unknown-users.key")
        )
        self.schemas = SchemaRegistry(config.schemas)
        self._given_users = users is not None
        self._rules = tuple(rules) if self._given_users else read_rules(config.access_file)
        self.bus = Bus(self.schemas, config.limits, access=self._access(self._rules, self.users.users), on_filter_error=self._filter_failed)
        self.commands = CommandRegistry(config.node_id)
        self.broker: EmbeddedBroker | ExternalBroker
        self.catalogue: Catalogue | DomainCatalogue
        if config.broker_url:
            self.broker = ExternalBroker(config, self.bus, self.commands, self._vitals)
            self.broker.on_superseded = self.stop
            self.catalogue = DomainCatalogue(self.broker)
        else:
            self.broker = EmbeddedBroker(config, self.bus, self.commands)
            self.catalogue = Catalogue(self.broker.subscriptions, self.bus)
        self.node = Node(config.node_id, self.broker.intake, self.commands, config.status_interval)
        self.gate = Gate(config.gate, _refused)
        self.listeners: list[tuple[str, Listener]] = []
        self._stopping = asyncio.Event()
        self._changing = asyncio.Lock()
        self._reload: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.metrics: Endpoint | None = None
        self._started = time.monotonic()
        self.commands.serve(self, self.broker.intake)

    # --- life ---

    async def start(self, *, watch: bool = True) -> list[str]:
        """Listen; answer the URL of each listener. `watch` the folders of schemas. Raises ClacksError if an address cannot be had."""
        config = self.config
        for problem in self.schemas.problems:
            log.warning("schema refused", extra={"code": problem.code, "reason": str(problem)})
        if config.metrics_listen:
            from .metrics import Endpoint

            self.metrics = Endpoint(config.metrics_listen, self)
            log.info("metrics", extra={"url": f"{self.metrics.url}/metrics"})
        if isinstance(self.broker, ExternalBroker):
            urls = await self.broker.start()
        else:
            await self._listen(self.broker)
            urls = [url for url, _ in self.listeners]
        self.node.start()
        if watch:
            with contextlib.suppress(OSError):  # then there is nothing to watch, and `clacks user` says what is wrong
                config.users_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._watcher = asyncio.get_running_loop().create_task(self._watch())
        log.info("started", extra={"node": self.node_id, "version": __version__, "listeners": " ".join(urls)})
        return urls

    async def _listen(self, broker: EmbeddedBroker) -> None:
        config, tls = self.config, None
        if config.listen_tls:
            names = tuple(name for place in config.listen_tls for name in _names_of(place.rpartition(":")[0].strip("[]")))
            tls = server_context(config.tls_certificate, config.tls_key, config.state_dir, names, config.tls_client_ca)
        places = [(place, "amqp", None) for place in config.listen] + [(place, "amqps", tls) for place in config.listen_tls]
        for place, scheme, context in places:
            host, _, port = place.rpartition(":")
            host = host.strip("[]")
            try:
                listener = await serve(host, int(port), broker, self.users, self._options(), context, self.gate)
            except OSError as error:
                self._stop_listening()
                raise ClacksError(
                    "config-invalid", source=place, reason=f"it cannot be listened on: {error.strerror or error}",
                    hint=_LISTEN_HINTS.get(error.errno or 0, "Is that an address of this machine?"),
                ) from error  # fmt: skip
            shown = f"[{host}]" if ":" in host else host
            self.listeners.append((f"{scheme}://{shown}:{listener.address[1]}/{config.domain}", listener))

    def listener(self) -> Listener:
        """A listener without a socket: whoever has a transport of another kind lets connections in through its `accept`."""
        assert isinstance(self.broker, EmbeddedBroker)
        listener = Listener(self._options(), self.broker, self.users, self.gate)
        self.listeners.append(("memory", listener))
        return listener

    def _options(self) -> Options:
        return Options(
            container_id=f"clacks-{self.node_id}",
            max_message_size=2 * self.config.limits_event_size + _ENVELOPE,
            idle_timeout=self.config.idle_timeout,
            handshake_timeout=self.config.access_handshake_timeout,
            capabilities=("clacks-bus", "ANONYMOUS-RELAY"),
            properties={"product": "clacks", "version": __version__, "node": self.node_id, "domain": self.config.domain},
        )

    async def run(self) -> None:
        """Wait until `stop` is called, then drain and close."""
        await self._stopping.wait()
        await self.close()

    def stop(self) -> None:
        self._stopping.set()

    async def close(self) -> None:
        """Take no more events, let subscribers have what waits for them, close every connection."""
        log.info("stopping", extra={"node": self.node_id, "connections": len(self.broker.connections)})
        self._stop_listening()
        if self._watcher is not None:
            self._watcher.cancel()
        self.node.stop()
        await self.broker.drain(self.config.drain_timeout)
        goodbye = Condition("amqp:connection:forced", str(ClacksError("bus-stopping")))
        await asyncio.gather(*(listener.close(goodbye) for _, listener in self.listeners))
        await self.broker.close()
        self.gate.close()
        log.info("stopped", extra={"node": self.node_id})

    def _stop_listening(self) -> None:
        for _, listener in self.listeners:
            listener.stop()
        if self.metrics is not None:
            self.metrics.close()

    def reload(self) -> None:
        """Read users, rules and schemas again (they are watched anyway). What is broken keeps its last good version."""
        loop = asyncio.get_running_loop()
        self._reload = loop.create_task(self._users_changed())
        loop.run_in_executor(None, self._schemas_changed)

    async def _users_changed(self) -> None:
        if self._given_users:
            return
        async with self._changing:  # one after the other: what was read last is in force
            here = {one.user for one in self.broker.connections}
            self.users.users, self._rules, access = await asyncio.to_thread(self._read_access, here)
            self._permit(access)

    def _read_access(self, here: Collection[str]) -> tuple[dict[str, User], tuple[Rule, ...], Access]:
        """Read the files and work out what those who are `here` may do: 0.7 s for 10,000 users with rules of their own, so in a worker."""
        users, rules = self.users.users, self._rules
        try:
            users = read_users(self.config.users_file)
            log.info("users read", extra={"count": len(users)})
        except ClacksError as error:
            log.error("users not read", extra={"reason": str(error)})
        try:
            rules = read_rules(self.config.access_file)
            log.info("rules read", extra={"count": len(rules)})
        except ClacksError as error:
            log.error("rules not read", extra={"reason": str(error)})
        access = self._access(rules, users)
        for user in here:
            access.rights(user)
        return users, rules, access

    def _permit(self, access: Access | None = None) -> None:
        """Put the users and the rules in force, for those who are here already too. A password that has changed disconnects nobody:
        it is asked for at the next connection."""
        self.bus.access = access or self._access(self._rules, self.users.users)
        self.broker.permissions_changed()

    def _access(self, rules: Sequence[Rule], users: Mapping[str, User]) -> Access:
        return Access(rules, self.users.members(users), elsewhere=bool(self.config.broker_url))

    def _vitals(self) -> tuple[float, float, int]:
        return self.node.load, self.node.latency, WORKERS

    async def _watch(self) -> None:
        """See changes of schemas, users and rules without being told."""
        from watchfiles import awatch

        files = (self.config.users_file, self.config.access_file)
        folders = {folder.resolve() for folder in self.schemas.folders if folder.is_dir()}
        if not self._given_users:
            folders |= {file.parent.resolve() for file in files if file.parent.is_dir()}
        async for changes in awatch(*folders, stop_event=self._stopping, recursive=True, step=200, debounce=1000):
            names = {Path(path).name for _, path in changes}
            ours = {file.name for file in files}
            if names & ours:
                await self._users_changed()
            if names - ours:
                await asyncio.to_thread(self._schemas_changed)

    def _schemas_changed(self) -> None:
        report = self.schemas.reload()
        for verb in ("added", "changed", "removed"):
            for name in getattr(report, verb):
                log.info(f"schema {verb}", extra={"event": name})
        for problem in report.problems:
            log.warning("schema refused", extra={"code": problem.code, "reason": str(problem)})

    def _filter_failed(self, key: Any, error: FilterError) -> None:
        if isinstance(key, Subscription | DomainSubscription):
            key.filter_errors += 1
            log.debug("filter failed", extra={"user": key.user, "subscription": key.terms.name, "reason": str(error)})

    # --- command.Services ---

    def nodes(self) -> dict[str, dict[str, Any]]:
        if isinstance(self.broker, ExternalBroker):
            return self.broker.control.domain.nodes(now())
        return {self.node_id: self.node.as_json()}

    def methods(self, target: str) -> dict[str, dict[str, Any]]:
        if isinstance(self.broker, ExternalBroker):
            return self.broker.control.domain.methods(target, now())
        return {name: method.described() for name, method in self.commands.methods.items() if method.target == target}

    def events(self, schemas: Sequence[EventSchema]) -> list[dict[str, Any]]:
        """Slow the first time after a change: xmlschema reads every file. For a worker."""
        return [_event(schema) for schema in schemas]

    def status(self, user: str) -> dict[str, Any]:
        """For an administrator everything. Others see what is theirs: a filter is its owner's secret, and what all publish or refuse
        together tells of events that not everybody may see."""
        broker, everything = self.broker, self.bus.administers(user)
        connections = [one for one in broker.connections if everything or one.user == user]
        subscriptions = [one for one in broker.subscriptions.all if everything or one.user == user]
        totals: dict[str, Any] = {
            "published": broker.intake.published,
            "refused": broker.intake.refused,
            "refusals": dict(broker.intake.refusals),
            "sandboxed": broker.subscriptions.sandbox.evaluated,
            "exceeded": broker.subscriptions.sandbox.exceeded,
            "schemas": len(self.schemas.current),
            "schema_problems": [str(problem) for problem in self.schemas.problems],
        }
        return {
            "node": self.node_id,
            "domain": self.config.domain,
            "version": __version__,
            "uptime": round(time.monotonic() - self._started, 1),
            **self.node.as_json(),
            "listeners": [url for url, _ in self.listeners],
            "connections": len(connections),
            "users": dict(Counter(connection.user for connection in connections)),
            **(totals if everything else {}),
            "subscribed": len(subscriptions),
            "subscriptions": [described(one) for one in _notable(subscriptions)],
        }


def _notable(subscriptions: Sequence[Any]) -> list[Any]:
    """The subscriptions that a status shows: all, or where there are too many for one message those that have trouble, by user and name."""
    shown = nlargest(STATUS_SUBSCRIPTIONS, subscriptions, key=lambda one: (one.dropped + one.buried, one.waiting))
    return sorted(shown, key=lambda one: (one.user, one.terms.name))


def _refused(kind: str, sentence: str, address: str, user: str) -> None:
    audit.warning("not let in", extra={"kind": kind, "user": user, "peer": address or "in memory", "reason": sentence})


def _event(schema: EventSchema) -> dict[str, Any]:
    """An event with its fields; without them where xmlschema does not take a file that libxml2 takes."""
    try:
        return schema.to_json() | {"fields": [field.to_json() for field in schema.fields()]}
    except Broken:
        return schema.to_json()


def _names_of(host: str) -> tuple[str, ...]:
    """The names by which clients may know a listening address: for all of a machine's addresses those of the machine."""
    if host not in ("0.0.0.0", "::", ""):
        return (host,)
    return tuple(dict.fromkeys((socket.gethostname(), socket.getfqdn())))
