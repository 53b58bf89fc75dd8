"""Servers and clients of a benchmark as processes of their own: started, asked over pipes, and their CPU time read from outside.

This file knows how to run things and knows no figure that anybody wants; `relay.py`, `hostile.py` and `startup.py` do.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

BENCH = Path(__file__).resolve().parent
READY_SECONDS = 30.0  # a machine with other work on it starts an interpreter in seconds


class Server:
    """A broker under test. Its first lines on stdout are `ready amqp://HOST:PORT...`, the first of which is ours."""

    def __init__(self, *command: str, user: str = "", password: str = "", **environment: str) -> None:
        self._command = [sys.executable, *command]
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("CLACKS_")} | environment
        self.user, self.password = user, password

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command, cwd=BENCH, env=self._environment, stdout=subprocess.PIPE, stderr=self._log, text=True, bufsize=1
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("ready amqp://"):
            self._process.kill()
            raise SystemExit(f"{' '.join(self._command)} does not start:\n{line}{self.log}")
        place = line.split("://", 1)[1].split("/", 1)[0].strip()
        self.host, _, port = place.rpartition(":")
        self.port = int(port)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(READY_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")

    @property
    def cpu(self) -> float:
        """CPU time of the process so far, all threads, in seconds with the scheduler's own resolution (clock_getcpuclockid(3))."""
        return time.clock_gettime((~self.pid << 3) | 2)

    @property
    def memory(self) -> int:
        """Resident memory in bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def agent(state_dir: str) -> Server:
    """The agent as users start it, on ports of its own. Its own NodeStatus events would arrive among those that are measured, and where
    three busy processes share two cores, a subscriber may fall behind by more than the usual queue."""
    where = ("--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0", "--state-dir", state_dir, "--node-id", "bench")
    environment = {
        "HOME": state_dir,
        "XDG_DATA_HOME": state_dir,
        "CLACKS_STATUS_INTERVAL": "86400",
        "CLACKS_QUEUE_EVENTS": "10000000",
        "CLACKS_QUEUE_BYTES": "4000000000",
    }
    return Server("-m", "clacks.cli.agent", "--demo", *where, user="admin", password="secret", **environment)


class Client:
    """A process that runs client.py: one line of JSON asks, one line answers."""

    def __init__(self, server: Server, role: str, *, nice: int = 0, **options: Any) -> None:
        """`nice`: what the scheduler is told (nice(2)); a negative one needs root and is otherwise left out."""
        where = {"host": server.host, "port": server.port, "user": server.user, "password": server.password}
        command = [sys.executable, str(BENCH / "client.py"), role, "-"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, nice)
        self.ask(**where, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(READY_SECONDS)
        self._process.stdout.close()

    def start(self, **question: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a client ended with status {self._process.wait()}; its reason stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **question: Any) -> dict[str, Any]:
        self.start(**question)
        return self.answer()


def percentile(values: list[float], part: float) -> float:
    """The value below which `part` (0..1) of the sorted `values` lie."""
    return values[min(len(values) - 1, int(part * len(values)))] if values else float("nan")
