"""Filters that are not provably cheap, evaluated in other processes with limits of time, processor and memory.

A job asks whether one event matches one subscription's filters. Jobs wait per owner and owners take turns, one job of each at a time: a
hostile filter holds up its owner's other filters and nobody else's. A process that exceeds a limit is killed and another one started;
the job it had is answered as exceeded. This file knows nothing of links and queues; `sandbox_worker` is what runs in the processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

log = logging.getLogger("clacks.sandbox")

# How often a process at work is looked at, in seconds: it can take that much more than its limits, and looking costs 20 us.
WATCH_SECONDS: Final = 0.02
# A job's limit of time by the clock is so many times that of processor time: the machine may be busy with something else.
PATIENCE: Final = 10
# Whose filter has broken a limit waits so many times the limit of processor time: the next process takes as much to start.
PENALTY: Final = 4
# What a process gives way by, in steps of niceness, from its start on.
NICENESS: Final = 10
# When no process can be had, the pause until the next attempt, in seconds: memory, processes and descriptors come back.
RETRY_SECONDS: Final = 1.0
# A process may be this long in starting (importing the engines) before it counts as broken, in seconds.
START_SECONDS: Final = 30.0

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Budget:
    """What one evaluation may take: `seconds` of processor time, `memory` bytes above what the process has when it is idle."""

    seconds: float = 0.5
    memory: int = 256 * 2**20


class Answer(NamedTuple):
    """What became of a job: a decision; or `error`, the reason why the filter failed on this event; or `exceeded`, the limit it broke."""

    matched: bool = False
    error: str = ""
    exceeded: str = ""


@dataclass(slots=True)
class Job:
    """`texts` are the filters, all of which must match the event in `body`; `answer` is called once, unless the job is cancelled."""

    owner: str
    texts: Sequence[str]
    body: bytes
    variables: Mapping[str, Any]
    answer: Callable[[Answer], None]
    cancelled: bool = False


class Sandbox:
    """A few processes, started when they are needed, and the jobs that wait for them."""

    def __init__(self, workers: int = 2, budget: Budget | None = None) -> None:
        self.budget = budget or Budget()
        self.evaluated = 0
        self.exceeded = 0
        self._limit = workers
        self._waiting: dict[str, deque[Job]] = {}
        self._turns: deque[str] = deque()  # owners with waiting jobs and none at work
        self._busy: set[str] = set()
        self._idle: list[Worker] = []
        self._workers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def submit(self, job: Job) -> None:
        """Evaluate when it is the owner's turn."""
        queue = self._waiting.setdefault(job.owner, deque())
        queue.append(job)
        if len(queue) == 1 and job.owner not in self._busy:
            self._turns.append(job.owner)
        self._dispatch()

    def warm(self) -> None:
        """Have a process ready: somebody has subscribed with a filter that will need one."""
        if not self._workers and not self._closed:
            self._workers += 1
            self._spawn(self._start())

    async def close(self) -> None:
        """Kill every process; jobs that wait are not answered."""
        self._closed = True
        self._waiting.clear()
        self._turns.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, *(worker.end() for worker in self._idle), return_exceptions=True)

    def _dispatch(self) -> None:
        while self._turns and not self._closed:
            if not self._idle and self._workers >= self._limit:
                return
            owner = self._turns.popleft()
            queue = self._waiting[owner]
            job = queue.popleft()
            if not queue:
                del self._waiting[owner]
            if job.cancelled:
                if queue:
                    self._turns.append(owner)
                continue
            self._busy.add(owner)
            worker = self._idle.pop() if self._idle else None
            if worker is None:
                self._workers += 1
            self._spawn(self._run(worker, job))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self) -> None:
        worker = await _started()
        if worker is None:
            self._workers -= 1
        else:
            self._idle.append(worker)
        self._dispatch()

    async def _run(self, worker: Worker | None, job: Job) -> None:
        try:
            worker = worker or await _started()
            if worker is None:
                self._later(job)
                return
            answer = await worker.evaluate(job, self.budget)
            if worker.alive and worker.kept > self.budget.memory:
                await worker.end()  # the full engine keeps 6 KiB of each evaluation: nobody else's is to pay for it
        except asyncio.CancelledError:
            if worker is not None:
                await worker.end()
            raise
        self.evaluated += 1
        if worker.alive:
            self._idle.append(worker)
        else:
            self._workers -= 1
        if answer.exceeded:
            self.exceeded += 1
            log.warning("filter exceeded its budget", extra={"user": job.owner, "reason": answer.exceeded})
        if answer.exceeded:
            asyncio.get_running_loop().call_later(PENALTY * self.budget.seconds, self._free, job.owner)
        else:
            self._free(job.owner)
        if not job.cancelled:
            job.answer(answer)
        self._dispatch()

    def _later(self, job: Job) -> None:
        """There is no process for it now: it keeps its place, and nothing is decided about its event."""
        self._workers -= 1
        self._waiting.setdefault(job.owner, deque()).appendleft(job)
        asyncio.get_running_loop().call_later(RETRY_SECONDS, self._free, job.owner)
        self._dispatch()

    def _free(self, owner: str) -> None:
        """An owner may have another job evaluated."""
        self._busy.discard(owner)
        if owner in self._waiting and owner not in self._turns:
            self._turns.append(owner)
            self._dispatch()


class Worker:
    """One process. It gets a job at a time, in pickled form; what it answers is not trusted to be more than a flag and a text."""

    def __init__(self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self._idle_memory = 0

    @classmethod
    async def start(cls) -> Worker | None:
        """A process that is ready for jobs; None if it does not come up, which the log explains."""
        here, there = socket.socketpair()
        # In a thread, and by subprocess: uvloop's own way holds the loop up for 10 ms where the agent has 300 MB.
        spawning = asyncio.get_running_loop().run_in_executor(None, _spawn, there)
        try:
            process = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            here.close()
            process = await spawning
            process.kill()
            process.wait()
            raise
        except OSError:
            here.close()
            raise
        finally:
            there.close()
        worker = cls(process, *await asyncio.open_connection(sock=here))
        try:
            async with asyncio.timeout(START_SECONDS):
                await worker._read()
        except (TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            log.error("the sandbox does not start", extra={"reason": f"{type(error).__name__}: {error}"})
            await worker.end()
            return None
        except asyncio.CancelledError:
            await worker.end()
            raise
        worker._idle_memory = worker._usage()[1]
        return worker

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def kept(self) -> int:
        """Bytes that its evaluations have left behind."""
        return self._usage()[1] - self._idle_memory

    async def end(self) -> None:
        """Kill it and wait until it is gone."""
        self._process.kill()
        self._writer.close()
        await asyncio.to_thread(self._process.wait)
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def evaluate(self, job: Job, budget: Budget) -> Answer:
        request = pickle.dumps((list(job.texts), job.body, dict(job.variables), budget.seconds), protocol=5)
        reading = asyncio.ensure_future(self._exchange(request))
        try:
            exceeded = await self._watch(reading, budget)
            if exceeded:
                await self.end()
                return Answer(exceeded=exceeded)
            flag, text = reading.result()
        except (asyncio.IncompleteReadError, OSError):
            await self.end()
            return Answer(exceeded="its evaluation ended the process.")
        finally:
            reading.cancel()
        return Answer(matched=flag == 1, error=text if flag == 2 else "", exceeded=text if flag == 3 else "")

    async def _exchange(self, request: bytes) -> tuple[int, str]:
        self._writer.write(len(request).to_bytes(4, "big") + request)
        await self._writer.drain()
        return await self._read()

    async def _read(self) -> tuple[int, str]:
        head = await self._reader.readexactly(3)
        text = await self._reader.readexactly(int.from_bytes(head[1:], "big"))
        return head[0], text.decode("utf-8", "replace")

    async def _watch(self, reading: asyncio.Future[tuple[int, str]], budget: Budget) -> str:
        """Wait for the answer; the limit that was broken, if one was."""
        loop = asyncio.get_running_loop()
        began, (spent, held) = loop.time(), self._usage()
        while not (await asyncio.wait([reading], timeout=WATCH_SECONDS))[0]:
            used, memory = self._usage()
            if used - spent > budget.seconds:
                return f"one evaluation took more than {budget.seconds:g} s of processor time."
            if memory - held > budget.memory:
                return f"one evaluation took more than {budget.memory // 2**20} MiB of memory."
            if loop.time() - began > budget.seconds * PATIENCE:
                return f"one evaluation took more than {budget.seconds * PATIENCE:g} s."
        return ""

    def _usage(self) -> tuple[float, int]:
        """Processor time in seconds and resident bytes; zeros where there is no /proc, which leaves the limit by the clock."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0, 0
        return (int(fields[11]) + int(fields[12])) / _TICKS, int(fields[21]) * _PAGE


async def _started() -> Worker | None:
    """A process; None if there is none to be had."""
    try:
        return await Worker.start()
    except OSError as error:
        log.error("the sandbox does not start", extra={"reason": error.strerror or str(error)})
        return None


def _spawn(end: socket.socket) -> subprocess.Popen[bytes]:
    environment = {key: value for key, value in os.environ.items() if key in ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")}
    place = end.fileno()
    process = subprocess.Popen([sys.executable, "-m", "clacks.agent.sandbox_worker"], stdin=place, stdout=place, env=environment)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
    return process
