"""A broker as a process of the tests: on loopback, in process groups of its own, with a state folder, and nothing left behind."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Generic, Self, TypeVar
from urllib.parse import quote

# What starts brokers: the kernel takes the end of the thread that has started a process for that of its parent, and tests start some in
# threads that go with their loop.
_SPAWNER: Final = ThreadPoolExecutor(1)

START_SECONDS: Final = 120.0  # some seconds on an idle machine

# A port of ours must be free again after a restart: the kernel hands out those from 32768 on to whoever connects somewhere.
_PORTS: Final = range(20_000, 32_000)


@dataclass(frozen=True)
class Login:
    """A user of a broker."""

    name: str
    password: str


A = TypeVar("A", bound=Login)


class BrokerServer(ABC, Generic[A]):
    """One broker with these users. `kill` and `restart` are those of a crash: nothing is said to anybody, what was on disk comes back."""

    name: ClassVar[str]

    def __init__(self, version: str, accounts: Sequence[A]) -> None:
        self.version = version
        self.port = next(free_ports())
        self._accounts = {account.name: account for account in accounts}
        self._folder = Path(tempfile.mkdtemp(prefix=f"{self.name.lower()}-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._begun = 0  # how long the log was at the start

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Raises RuntimeError with what the log says if it is gone, and nobody killed it."""
        gone = bool(self._processes) and self._processes[-1].poll() is not None
        said = self.log[-8000:]
        self.stop()
        if gone:
            raise RuntimeError(f"{self.name} {self.version} has ended by itself:\n{said}")

    def url(self, user: str = "admin") -> str:
        password = self._accounts[user].password
        return f"amqp://{quote(user, safe='')}:{quote(password, safe='')}@127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process that does the work. Raises RuntimeError if there is none."""
        if not self._processes:
            raise RuntimeError("the broker does not run")
        return self._processes[-1].pid

    @property
    def log(self) -> str:
        parts = [*sorted(self._folder.glob("log/*.log")), self._folder / "output"]
        return "".join(part.read_text(errors="replace") for part in parts if part.exists())

    def start(self) -> None:
        """Returns when it accepts. Raises RuntimeError with what the log says."""
        atexit.register(self.stop)
        self._begun = len(self.log)
        try:
            process = self._launch()
            end = time.monotonic() + START_SECONDS
            while not (self._accepts() and self._has_started()):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{self.name} {self.version} does not start:\n{self._failure()}")
                time.sleep(0.05)
        except BaseException:
            self.stop()
            raise

    def kill(self) -> None:
        """As if the machine lost its power; the state folder stays."""
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._processes.clear()

    def restart(self) -> None:
        """Kill, and start again on the same port with what was on disk."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """Kill, and remove the state folder: nobody will ask for it again."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
        atexit.unregister(self.stop)

    def _accepts(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def _spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Killed by the kernel if this process goes without a word."""
        with (self._folder / "output").open("ab") as output:
            process = _SPAWNER.submit(
                subprocess.Popen, ["setpriv", "--pdeathsig", "KILL", *command],
                cwd=self._folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            ).result()  # fmt: skip
        self._processes.append(process)
        return process

    @abstractmethod
    def _launch(self) -> subprocess.Popen[bytes]:
        """Start its processes; the one that does the work is the last of them."""

    @abstractmethod
    def _has_started(self) -> bool:
        """Whether it is ready; it may accept before."""

    @abstractmethod
    def _failure(self) -> str:
        """Of the log what says why it does not start."""


def environment_without(*prefixes: str) -> dict[str, str]:
    """The variables of this process but for those that a broker would take for its own."""
    return {key: value for key, value in os.environ.items() if not key.startswith(prefixes)}


def free_ports() -> Iterator[int]:
    """Ports of loopback that nobody listens on, in no order."""
    candidates = random.sample(_PORTS, len(_PORTS))
    for port in candidates:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
