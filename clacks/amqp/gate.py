"""The gate: how many may come at once, how often somebody may try a name, and how much work a password may cause.

It counts and answers; sockets and frames are others' business, and the clock is given. Nothing here locks a user out: who knows a name
can slow down its use from addresses it has not been used from, and nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from .outcome import AmqpError, Condition

# How long a password is held back at the most, in seconds, when a name is under attack: noticed by an attacker who has to try thousands,
# bearable for the one who knows it, and well below the time for the handshake.
DELAY_MOST: Final = 4.0
DELAY_FIRST: Final = 0.25
# The longest time that an address is refused after its last failure, in seconds: what it owes is forgotten beyond that.
REFUSED_MOST: Final = 900.0
# Names and addresses that are remembered: some 2 MB. Pushing one out takes ten thousand attempts, which are limited themselves.
MEMORY: Final = 10_000


@dataclass(frozen=True, slots=True)
class GateLimits:
    """What a gate permits. An address is an IPv4 address, or an IPv6 network of 64 bits, which one customer has all of."""

    # Open connections: at 30 to 40 KiB each, 20,000 are 800 MB. One address: a large host, or an office behind one.
    connections: int = 20_000
    connections_per_address: int = 1_000
    # Connections that are not let in yet. A handshake takes milliseconds, so 1,024 are thousands a second; beyond that the oldest of the
    # address with the most of them is dropped, so that a flood meets itself. From one address: a fleet behind one router after a restart.
    half_open: int = 1_024
    half_open_per_address: int = 256
    # Failed attempts in a row, and the seconds after which one is forgotten: 20 are a few people with stale passwords behind one
    # address, and then 20 guesses a minute, 10 million a year, are not enough for a password of five random letters.
    failures_per_address: int = 20
    failure_pause: float = 3.0
    # After this many a name's attempts are held back, longer with each: nobody mistypes a password more often.
    failures_per_user: int = 5
    # Threads that check passwords (PLAIN): one keeps a core busy, and what they do is not worth a second one.
    password_threads: int = 1


# What a gate tells of each refusal: a kind for machines, a sentence, the address, and the user's name ("" where none was said).
OnRefusal = Callable[[str, str, str, str], None]


class Refused(AmqpError):
    """Not now; later it may be otherwise. `kind`: "attempts", "half-open", "connections"."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(Condition("amqp:resource-limit-exceeded", sentence))
        self.kind = kind


@dataclass(eq=False, slots=True)
class Entrant:
    """Somebody who has come to the gate. `drop` ends it at once."""

    address: str
    drop: Callable[[], None]
    seated: bool = False


@dataclass(slots=True)
class _Failures:
    """Failures by key, one forgotten in each `pause` seconds (a leaky bucket)."""

    pause: float
    most: float
    clock: Callable[[], float]
    _levels: OrderedDict[Hashable, tuple[float, float]] = field(default_factory=OrderedDict)

    def level(self, key: Hashable) -> float:
        level, since = self._levels.get(key, (0.0, 0.0))
        return max(0.0, level - (self.clock() - since) / self.pause)

    def add(self, key: Hashable) -> None:
        self._levels[key] = min(self.level(key) + 1, self.most), self.clock()
        _keep(self._levels, key)


class Gate:
    """One for all listeners that share their limits. On the loop's thread only."""

    def __init__(
        self, limits: GateLimits | None = None, on_refusal: OnRefusal | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits = limits or GateLimits()
        self._on_refusal = on_refusal
        self._half_open: dict[str, dict[Entrant, None]] = {}
        self._waiting = 0
        self._seats: dict[str, int] = {}
        self._seated = 0
        pause = limits.failure_pause
        self._of_address = _Failures(pause, limits.failures_per_address + REFUSED_MOST / pause, clock)
        self._of_user = _Failures(pause, limits.failures_per_user + 5, clock)
        self._of_pair = _Failures(pause, limits.failures_per_user, clock)
        self._known: OrderedDict[Hashable, None] = OrderedDict()
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self.refusals: dict[str, int] = {}  # by kind

    @property
    def half_open(self) -> int:
        return self._waiting

    @property
    def connections(self) -> int:
        return self._seated

    def refused(self, kind: str, sentence: str, address: str, user: str = "") -> None:
        """Count a refusal and tell of it, also of one that was decided elsewhere."""
        self.refusals[kind] = self.refusals.get(kind, 0) + 1
        if self._on_refusal is not None:
            self._on_refusal(kind, sentence, address, user)

    # --- how many ---

    def enter(self, entrant: Entrant) -> None:
        """Somebody has come. Raises Refused if its address has too many who are not let in yet. This machine ("") has no limit of its own:
        whoever is on it can do worse."""
        address, limits = entrant.address, self.limits
        if address and len(self._half_open.get(address, ())) >= limits.half_open_per_address:
            raise Refused("half-open", f"{limits.half_open_per_address} connections from here are not authenticated yet. Try again later.")
        if self._waiting >= limits.half_open:
            greedy = max(self._half_open.values(), key=len)
            oldest = next(iter(greedy))
            self._leave(oldest)
            self.refused("half-open", f"the oldest of {limits.half_open} that are not authenticated yet", oldest.address)
            oldest.drop()
        self._half_open.setdefault(address, {})[entrant] = None
        self._waiting += 1

    def seat(self, entrant: Entrant) -> None:
        """Somebody is authenticated. Raises Refused if there are too many."""
        self._leave(entrant)
        address, limits = entrant.address, self.limits
        if self._seated >= limits.connections:
            raise Refused("connections", f"The limit of {limits.connections} connections is reached. Try again later.")
        if address and self._seats.get(address, 0) >= limits.connections_per_address:
            raise Refused(
                "connections", f"The limit of {limits.connections_per_address} connections from one address is reached. Close one."
            )
        entrant.seated = True
        self._seated += 1
        self._seats[address] = self._seats.get(address, 0) + 1

    def leave(self, entrant: Entrant) -> None:
        """Somebody has gone, from wherever it was. Twice is as good as once."""
        self._leave(entrant)
        if entrant.seated:
            entrant.seated = False
            self._seated -= 1
            left = self._seats.pop(entrant.address) - 1
            if left:
                self._seats[entrant.address] = left

    def _leave(self, entrant: Entrant) -> None:
        here = self._half_open.get(entrant.address)
        if here is not None and entrant in here:
            del here[entrant]
            self._waiting -= 1
            if not here:
                del self._half_open[entrant.address]

    # --- how often ---

    def attempt(self, address: str, user: str) -> float:
        """Somebody claims a name: how many seconds its answer has to wait, be it right or wrong. Raises Refused.

        An address with too many failures is refused for a while. A name is not: it only waits, so that nobody can shut a user out who
        knows no more than the name. Where a name has been used with success, it has failures of its own and neither applies."""
        limits = self.limits
        if self._trusted(address, user):
            return 0.0
        if self._of_address.level(address) > limits.failures_per_address - 1:
            raise Refused("attempts", "Too many failed attempts from this address. Try again later.")
        over = self._of_user.level(_short(user)) - limits.failures_per_user
        return min(DELAY_FIRST * 2**over, DELAY_MOST) if over > -1 else 0.0

    def failed(self, address: str, user: str) -> None:
        if self._trusted(address, user):
            self._of_pair.add((address, _short(user)))
        else:
            self._of_address.add(address)
            self._of_user.add(_short(user))

    def succeeded(self, address: str, user: str) -> None:
        key = address, _short(user)
        self._known[key] = None
        _keep(self._known, key)

    def _trusted(self, address: str, user: str) -> bool:
        key = address, _short(user)
        return key in self._known and self._of_pair.level(key) <= self.limits.failures_per_user - 1

    # --- how much work ---

    async def work(self, address: str, function: Callable[..., Any], *args: Any) -> Any:
        """Run something that is dear in a thread of the gate's own. Each address has one turn at a time, so that a flood from one waits
        for itself."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.limits.password_threads, "clacks-password")
        async with self._turn(address):
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    @contextlib.asynccontextmanager
    async def _turn(self, address: str) -> AsyncIterator[None]:
        lock, users = self._turns.get(address) or (asyncio.Lock(), 0)
        self._turns[address] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._turns.pop(address)
            if users > 1:
                self._turns[address] = lock, users - 1

    def close(self) -> None:
        """End the threads, without waiting for them."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None


def origin(host: str) -> str:
    """What is counted as one address: an IPv4 address, also one mapped into IPv6, or an IPv6 network of 64 bits."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)


def _keep(entries: OrderedDict[Hashable, Any], key: Hashable) -> None:
    entries.move_to_end(key)
    if len(entries) > MEMORY:
        entries.popitem(last=False)


def _short(user: str) -> str:
    return user[:256]  # a peer may send a name of 4 KiB
