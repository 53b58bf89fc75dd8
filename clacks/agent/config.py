"""Every setting of an agent, once: name, type, default, and what it is for. From it come the TOML file's form, the CLACKS_* variables,
and docs/configuration.md.

Precedence: flag, environment, file, default. The result is one frozen object that is passed on; nothing reads the environment later.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from ..amqp import GateLimits, Options
from ..common.amounts import seconds
from ..common.errors import ClacksError
from ..common.xml import Limits

_NODE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
_DOMAIN: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def state_home() -> Path:
    """Where an agent keeps its state if it is told nothing: systemd's StateDirectory, else the user's (XDG base directories)."""
    given = os.environ.get("STATE_DIRECTORY")
    return Path(given) if given else Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "clacks"


def default_node_id() -> str:
    import socket

    return re.sub(r"[^A-Za-z0-9_-]+", "-", socket.gethostname())[:63].strip("-") or "node"


# What clients are told by the environment; none of these is a setting.
CLIENTS_VARIABLES: Final = frozenset({"CLACKS_URL", "CLACKS_CA_FILE", "CLACKS_CERT_FILE", "CLACKS_KEY_FILE", "CLACKS_DEBUG"})


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. `name` is the key in the file, with its table in front: limits.event_size is CLACKS_LIMITS_EVENT_SIZE."""

    name: str
    kind: Callable[[Any], Any]
    default: Any
    help: str
    form: str = ""

    @property
    def variable(self) -> str:
        return "CLACKS_" + self.name.upper().replace(".", "_")

    @property
    def attribute(self) -> str:
        return self.name.replace(".", "_")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a string is expected")
    return value


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(f"{what} is expected")
        return value

    return convert


def _count(least: int, most: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        try:
            number = int(value) if not isinstance(value, bool) else None
        except (TypeError, ValueError, OverflowError):  # infinity overflows
            number = None
        if number is None or not least <= number <= most:
            raise ValueError(f"a whole number from {least} to {most} is expected")
        return number

    return convert


def _seconds(value: Any) -> float:
    try:
        number = seconds(value) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if not 0 < number <= 86400:
        raise ValueError("a time like 30s, 15m or 12h, or a number of seconds, is expected, above 0 and up to a day")
    return number


def _flag(value: Any) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    found = value if isinstance(value, bool) else known.get(str(value).lower())
    if found is None:
        raise ValueError("true or false is expected")
    return found


def _list_of(convert: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def convert_all(value: Any) -> tuple[Any, ...]:
        items = value.split() if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ValueError("a list is expected")
        return tuple(convert(item) for item in items)

    return convert_all


def _path(value: Any) -> Path:
    text = _text(str(value) if isinstance(value, Path) else value)
    if "\0" in text:
        raise ValueError("a path is expected")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError("there is no such home folder") from error


def _one_of(*choices: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)} is expected")
        return str(value)

    return convert


def _host_port(value: Any) -> str:
    host, _, port = _text(value).rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("HOST:PORT is expected")
    return str(value)


_LIMITS: Final = Limits()
_GATE: Final = GateLimits()  # the reasons for its numbers are there
_HANDSHAKE: Final = Options().handshake_timeout

SETTINGS: Final = (
    Setting("domain", _matching(_DOMAIN, "a reverse DNS name"), "org.clacks", "The domain: every address begins with it.", "name"),
    Setting(
        "node_id",
        _matching(_NODE_ID, "up to 63 letters, digits, - and _"),
        None,
        "This agent's name in the domain. Default: the host's name.",
        "name",
    ),
    Setting(
        "listen",
        _list_of(_host_port),
        ("localhost:5672",),
        "Where to listen for plain AMQP. Passwords sent as PLAIN are taken from this machine only.",
        "list of HOST:PORT",
    ),
    Setting("listen_tls", _list_of(_host_port), (), "Where to listen for AMQP over TLS.", "list of HOST:PORT"),
    Setting(
        "state_dir",
        _path,
        None,
        "Users, certificates, durable subscriptions. Default: $STATE_DIRECTORY, else $XDG_STATE_HOME/clacks.",
        "path",
    ),
    Setting(
        "broker.url",
        _list_of(_text),
        (),
        "URLs of an AMQP 1.0 broker (RabbitMQ 4, ActiveMQ) with user and password: this agent is one of a domain there, listening nowhere.",
        "list of URLs",
    ),
    Setting("broker.ingress", _count(1, 64), 4, "Ingress queues of the domain: 1 is strict order, more are more agents at work.", "number"),
    # Three renewals may be lost; an agent that hangs is without a lease of its own after 6 s, and whoever is cut off must not lose more.
    Setting("broker.lease", _seconds, 60.0, "How long a live subscription outlives a client that does not renew it.", "seconds"),
    Setting("schemas", _list_of(_path), (), "Folders with event schemas, besides those installed with Clacks.", "list of paths"),
    Setting("users_file", _path, None, "The users and their SCRAM verifiers. Default: users.toml in state_dir.", "path"),
    Setting(
        "access_file",
        _path,
        None,
        "The rules of who may do what (docs/access.md). Default: access.toml beside the users file.",
        "path",
    ),
    Setting(
        "tls.certificate",
        _path,
        None,
        "The agent's certificate chain (PEM). Default: one made for this host, signed by a CA made here.",
        "path",
    ),
    Setting("tls.key", _path, None, "The private key of tls.certificate (PEM).", "path"),
    Setting(
        "tls.client_ca",
        _path,
        None,
        "The CAs (PEM) of client certificates, which then stand for users (EXTERNAL). Without a certificate a client needs a password.",
        "path",
    ),
    Setting("access.anonymous", _flag, False, "Let everybody in, without a password, as the user anonymous.", "true or false"),
    Setting("access.connections", _count(1, 10**6), _GATE.connections, "Connections there may be in all.", "number"),
    Setting(
        "access.connections_per_address",
        _count(1, 10**6),
        _GATE.connections_per_address,
        "Connections there may be from one address (IPv4, or a network of 64 bits in IPv6). This machine has no such limit.",
        "number",
    ),
    Setting(
        "access.half_open",
        _count(1, 10**6),
        _GATE.half_open,
        "Connections that may be unauthenticated at a time; beyond that the oldest of the address with the most of them is dropped.",
        "number",
    ),
    Setting(
        "access.half_open_per_address",
        _count(1, 10**6),
        _GATE.half_open_per_address,
        "The same for one address; beyond that new ones are refused. This machine has no such limit.",
        "number",
    ),
    Setting("access.handshake_timeout", _seconds, _HANDSHAKE, "Seconds for TLS, and again for the way from there to the open.", "seconds"),
    Setting(
        "access.failures_per_address",
        _count(1, 10**6),
        _GATE.failures_per_address,
        "Failed attempts after which an address is refused for a while, except for users who have got in from there.",
        "number",
    ),
    Setting(
        "access.failures_per_user",
        _count(1, 10**6),
        _GATE.failures_per_user,
        "Failed attempts after which attempts with a user's name have to wait, up to 4 seconds, except where the user has got in from.",
        "number",
    ),
    Setting("access.failure_pause", _seconds, _GATE.failure_pause, "Seconds after which one failed attempt is forgotten.", "seconds"),
    Setting("access.password_threads", _count(1, 64), _GATE.password_threads, "Threads that check passwords sent as PLAIN.", "number"),
    Setting("limits.event_size", _count(1024, 2**30), _LIMITS.size, "Bytes an event may have.", "bytes"),
    Setting("limits.depth", _count(4, 250), _LIMITS.depth, "How deep an event's elements may nest.", "number"),
    Setting("limits.elements", _count(10, 10**7), _LIMITS.elements, "Elements an event may have.", "number"),
    Setting("limits.attributes", _count(4, 10**6), _LIMITS.attributes, "Attributes one element may have.", "number"),
    Setting("limits.names", _count(10, 10**6), _LIMITS.names, "Different names of elements and attributes an event may have.", "number"),
    Setting(
        "queue.events",
        _count(1, 10**7),
        10_000,
        "Events kept for a subscriber that reads slowly; beyond that the oldest are dropped and counted.",
        "number",
    ),
    Setting("queue.bytes", _count(1024, 2**36), 64 * 2**20, "Bytes kept for a subscriber that reads slowly.", "bytes"),
    Setting(
        "queue.deliveries",
        _count(1, 10**6),
        20,
        "Deliveries of an event that a subscriber says have failed, after which it goes to the dead letters.",
        "number",
    ),
    Setting(
        "durable.events",
        _count(1, 10**9),
        1_000_000,
        "Events that one durable subscription may have waiting; each costs 150 bytes of memory besides its place on the disk.",
        "number",
    ),
    Setting("durable.bytes", _count(1024, 2**50), 2**30, "Bytes of events that one durable subscription may have waiting.", "bytes"),
    Setting("durable.per_user", _count(1, 10**6), 100, "Durable subscriptions that one user may have.", "number"),
    Setting(
        "sandbox.workers", _count(1, 64), 2, "Processes for filters that are not provably cheap; started when one is needed.", "number"
    ),
    Setting(
        "sandbox.seconds",
        _seconds,
        0.5,
        "Seconds of processor time that one evaluation in the sandbox may take; ten times as long where it gets no processor.",
        "seconds",
    ),
    Setting("sandbox.memory", _count(2**24, 2**40), 256 * 2**20, "Bytes of memory that one evaluation in the sandbox may take.", "bytes"),
    Setting("idle_timeout", _seconds, 60.0, "Seconds of silence after which a connection is dropped.", "seconds"),
    Setting("status_interval", _seconds, 30.0, "Seconds between two NodeStatus events.", "seconds"),
    Setting("drain_timeout", _seconds, 10.0, "Seconds that a stopping agent gives its subscribers to take what waits for them.", "seconds"),
    Setting(
        "metrics.listen",
        _host_port,
        None,
        "Where Prometheus gets /metrics, on loopback. Default: nowhere. Needs the extra `metrics`.",
        "HOST:PORT",
    ),
    Setting("log.level", _one_of("debug", "info", "warning", "error"), "info", "The least level that is logged.", "level"),
    Setting("log.format", _one_of("text", "json"), "text", "How a log line looks: key=value pairs, or one JSON object.", "text or json"),
)
_BY_NAME: Final = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one agent; see `SETTINGS` for what each is."""

    domain: str
    node_id: str
    listen: tuple[str, ...]
    listen_tls: tuple[str, ...]
    state_dir: Path
    broker_url: tuple[str, ...]
    broker_ingress: int
    broker_lease: float
    schemas: tuple[Path, ...]
    users_file: Path
    access_file: Path
    tls_certificate: Path | None
    tls_key: Path | None
    tls_client_ca: Path | None
    access_anonymous: bool
    access_connections: int
    access_connections_per_address: int
    access_half_open: int
    access_half_open_per_address: int
    access_handshake_timeout: float
    access_failures_per_address: int
    access_failures_per_user: int
    access_failure_pause: float
    access_password_threads: int
    limits_event_size: int
    limits_depth: int
    limits_elements: int
    limits_attributes: int
    limits_names: int
    queue_events: int
    queue_bytes: int
    queue_deliveries: int
    durable_events: int
    durable_bytes: int
    durable_per_user: int
    sandbox_workers: int
    sandbox_seconds: float
    sandbox_memory: int
    idle_timeout: float
    status_interval: float
    drain_timeout: float
    metrics_listen: str | None
    log_level: str
    log_format: str

    @property
    def gate(self) -> GateLimits:
        return GateLimits(
            connections=self.access_connections,
            connections_per_address=self.access_connections_per_address,
            half_open=self.access_half_open,
            half_open_per_address=self.access_half_open_per_address,
            failures_per_address=self.access_failures_per_address,
            failure_pause=self.access_failure_pause,
            failures_per_user=self.access_failures_per_user,
            password_threads=self.access_password_threads,
        )

    @property
    def limits(self) -> Limits:
        return Limits(self.limits_event_size, self.limits_depth, self.limits_elements, self.limits_attributes, self.limits_names)


def misspelt(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables of the environment that look like one of a setting and are none, with the one that is probably meant."""
    from difflib import get_close_matches

    variables = [setting.variable for setting in SETTINGS]
    unknown = [name for name in environ if name.startswith("CLACKS_") and name not in {*variables, *CLIENTS_VARIABLES}]
    return {name: close[0] for name in sorted(unknown) if (close := get_close_matches(name, variables, 1, 0.85))}


def load(path: Path | None = None, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration from flags (by setting name), the environment, the file and the defaults.

    Raises ClacksError config-invalid with the place that is wrong.
    """
    environ = os.environ if environ is None else environ
    chosen: dict[str, Any] = {setting.name: setting.default for setting in SETTINGS}
    if path is not None:
        for name, value in _read(path).items():
            chosen[name] = _beside(path, _convert(name, value, str(path)))
    for setting in SETTINGS:
        if setting.variable in environ:
            chosen[setting.name] = _convert(setting.name, environ[setting.variable], setting.variable)
    for name, value in (flags or {}).items():
        if value not in (None, ()):
            chosen[name] = _convert(name, value, f"--{name.replace('_', '-')}")
    chosen["node_id"] = chosen["node_id"] or default_node_id()
    chosen["state_dir"] = chosen["state_dir"] or state_home()
    chosen["users_file"] = chosen["users_file"] or chosen["state_dir"] / "users.toml"
    chosen["access_file"] = chosen["access_file"] or chosen["users_file"].parent / "access.toml"
    if (chosen["tls.certificate"] is None) != (chosen["tls.key"] is None):
        raise ClacksError(
            "config-invalid", source=str(path or "CLACKS_TLS_*"), reason="one of tls.certificate and tls.key is missing", hint="Set both."
        )
    if not chosen["listen"] and not chosen["listen_tls"] and not chosen["broker.url"]:
        raise ClacksError("config-invalid", source=str(path or "listen"), reason="nothing to listen on", hint="Set listen or listen_tls.")
    return Config(**{_BY_NAME[name].attribute: value for name, value in chosen.items()})


def _read(path: Path) -> dict[str, Any]:
    """The file's settings by their full names."""
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise ClacksError("config-invalid", source=str(path), reason=error.strerror or str(error), hint="Check the path.") from error
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not TOML, or a number of thousands of digits
        raise ClacksError("config-invalid", source=str(path), reason=f"not TOML: {error}", hint="Mend that line.") from error
    flat: dict[str, Any] = {}
    for key, value in content.items():
        inner = {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {key: value}
        flat.update(inner)
    return flat


def _beside(file: Path, value: Any) -> Any:
    """A path in a file is relative to the file: where the agent was started must not matter."""
    if isinstance(value, tuple):
        return tuple(_beside(file, item) for item in value)
    return file.parent.resolve() / value if isinstance(value, Path) else value


def _convert(name: str, value: Any, source: str) -> Any:
    setting = _BY_NAME.get(name)
    if setting is None:
        from difflib import get_close_matches

        close = get_close_matches(name, _BY_NAME, n=1)
        hint = f"Did you mean {close[0]}?" if close else "docs/configuration.md lists them all."
        raise ClacksError("config-invalid", source=source, reason=f"there is no setting {name}", hint=hint)
    try:
        return setting.kind(value)
    except ValueError as error:
        raise ClacksError("config-invalid", source=source, reason=f"{name} is {value!r}, but {error}", hint=setting.help) from error


assert {setting.attribute for setting in SETTINGS} == {item.name for item in fields(Config)}
