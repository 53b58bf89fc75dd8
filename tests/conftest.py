"""Real parts for the tests: an agent over real sockets on a port of its own, in a thread or as a process."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from activemq import ActiveMQ, DomainActiveMQ
from brokers import RabbitMQ
from clacks.agent.access import Call, Rule
from clacks.agent.agent import Agent
from clacks.agent.config import load
from clacks.agent.users import User, UserBook, make_user
from debian import Unavailable
from support import DEADLINE

if TYPE_CHECKING:
    from buses import Bus

CHECKOUT = Path(__file__).resolve().parents[1]

Kind = TypeVar("Kind", bound=RabbitMQ | ActiveMQ)

# Made once: a verifier costs milliseconds.
USERS: dict[str, User] = {
    "admin": make_user("admin", "secret", ["admin"]),
    "guest": make_user("guest", "guest"),
}
# Whoever got in is an ordinary user, who may do everything but administer.
OPEN = Rule(users=("*",), publish=("*",), subscribe=("*",), call=(Call("*", "*"),))


def wait_for(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """The first true answer of `condition`; fails with `what` after `deadline` seconds."""
    end = time.monotonic() + deadline
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            pytest.fail(f"after {deadline:g} s still not: {what}")
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """A process that nobody has waited for yet is a zombie, and runs no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class RunningAgent:
    """An agent in a thread of its own, with real listeners. `run(function)` calls something on its loop."""

    state_dir: Path
    settings: dict[str, Any] = field(default_factory=dict)
    users: dict[str, User] | None = field(default_factory=lambda: dict(USERS))  # None: those of the users file, with the rules file
    rules: tuple[Rule, ...] = (OPEN,)
    prepare: Callable[[Agent], Any] | None = None  # sees the agent before it starts

    def __enter__(self) -> RunningAgent:
        started = threading.Event()
        self.failure: BaseException | None = None

        async def main() -> None:
            try:
                flags = {"listen": ["localhost:0"], "state_dir": str(self.state_dir), "drain_timeout": 1.0, **self.settings}
                users = None if self.users is None else UserBook(self.users)
                self.agent = Agent(load(None, flags, {}), users, self.rules)
                self.loop = asyncio.get_running_loop()
                if self.prepare is not None:
                    self.prepare(self.agent)
                self.urls = await self.agent.start()
            except BaseException as error:
                self.failure = error
                started.set()
                raise
            started.set()
            await self.agent.run()

        def thread() -> None:
            try:
                asyncio.run(main())
            except BaseException as error:
                self.failure = self.failure or error

        self._thread = threading.Thread(target=thread, daemon=True)
        self._thread.start()
        assert started.wait(DEADLINE)
        if self.failure is not None:
            raise self.failure
        return self

    def __exit__(self, *exc: object) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.agent.stop)
            self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "the agent does not stop"
        if self.failure is not None and exc[0] is None:
            raise self.failure

    @property
    def port(self) -> int:
        return int(re.search(r":(\d+)/", self.urls[0])[1])  # type: ignore[index]

    def url(self, user: str = "admin", password: str = "secret", scheme: str = "amqp") -> str:
        found = next(url for url in self.urls if url.startswith(f"{scheme}://"))
        return found.replace("://", f"://{user}:{password}@")

    def run(self, function: Callable[[], Any]) -> Any:
        async def call() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(DEADLINE)

    @property
    def subscriptions(self) -> list[Any]:
        return self.run(lambda: list(self.agent.broker.subscriptions.all))


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RunningAgent]:
    with RunningAgent(tmp_path / "state") as running:
        yield running


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that finds nothing of this machine's user."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CLACKS_", "XDG_"))}
    return {**kept, "HOME": str(home), "XDG_DATA_HOME": str(home / "data"), "XDG_STATE_HOME": str(home / "state"), "PYTHONUNBUFFERED": "1"}


@dataclass
class AgentProcess:
    """`clacks-agent` as a process; `urls` are those of its ready lines."""

    arguments: list[str]
    environment: dict[str, str]
    log: Path
    expected: int = 0  # ready lines; 0: one for each --listen and --listen-tls

    def __enter__(self) -> AgentProcess:
        command = [sys.executable, "-m", "clacks.cli.agent", *self.arguments]
        with self.log.open("wb") as errors:
            self.process = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        expected = self.expected or sum(argument.startswith("--listen") for argument in self.arguments)

        def ready() -> bool:
            if self.process.poll() is not None:
                pytest.fail(f"the agent ended with {self.process.returncode}:\n{self.log.read_text()}")
            return len(self.lines) >= expected

        try:
            wait_for(ready, "the agent is ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def urls(self) -> list[str]:
        return [line.removeprefix("ready ") for line in self.lines if line.startswith("ready ")]

    def url(self, scheme: str = "amqp") -> str:
        return next(url for url in self.urls if url.startswith(f"{scheme}://")).replace("://", "://admin:secret@")

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(DEADLINE)
        finally:
            self.process.kill()
            self._reader.join(DEADLINE)
            assert self.process.stdout is not None
            self.process.stdout.close()


@pytest.fixture(scope="session")
def shared_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """One agent for the tests that leave it as they found it."""
    with RunningAgent(tmp_path_factory.mktemp("state")) as running:
        yield running


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """One RabbitMQ for all who ask for it; a test's names are its own. Where it cannot be had they are skipped; with CI=true they fail."""
    with available("RabbitMQ", RabbitMQ) as broker:
        yield broker


@pytest.fixture(scope="session")
def activemq_broker() -> Iterator[ActiveMQ]:
    """As `rabbitmq`: one ActiveMQ, where everybody may do everything."""
    with available("ActiveMQ", ActiveMQ) as broker:
        yield broker


@pytest.fixture(scope="session")
def activemq() -> Iterator[DomainActiveMQ]:
    """As `rabbitmq`: one ActiveMQ as the broker of domains. Whoever needs one takes its name out of `domains`. Their empty
    queues, some forty each, are half of its memory."""
    from domains import new_domain

    with available("ActiveMQ", lambda: DomainActiveMQ([new_domain() for _ in range(80)], heap="512m")) as broker:
        yield broker


def available(name: str, make: Callable[[], Kind]) -> Kind:
    """A broker, made but not started. Where it cannot be had the test is skipped; with CI=true it fails."""
    try:
        return make()
    except Unavailable as error:
        sentence = f"{name} cannot be tested: {error}"
        if os.environ.get("CI") == "true":
            pytest.fail(sentence)
        pytest.skip(sentence)


@pytest.fixture(scope="module", params=["embedded", "rabbitmq", "activemq"])
def bus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """A bus of the module's own, of either kind. Its tests leave it as they found it; a module may have `prepare_agent` and SETTINGS."""
    from buses import running  # which runs agents as they are made here

    module = request.module
    prepare, settings = getattr(module, "prepare_agent", None), getattr(module, "SETTINGS", {})
    folder = tmp_path_factory.mktemp(request.param)
    with running(request.param, request.getfixturevalue, folder, prepare, **settings) as bus:
        yield bus
