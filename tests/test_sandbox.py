"""Filters that are not provably cheap: decided in other processes, in order, and at nobody else's expense."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from clacks.agent import sandbox
from clacks.agent.sandbox import Answer, Budget, Job, Sandbox, Worker
from clacks.amqp import ACCEPTED, Draft
from clacks.testing import LocalBus, sample
from conftest import DEADLINE, RunningAgent, wait_for
from support import run, until
from test_promises import Peer, peer, phone, play

# Dear by its form, quick in fact: two nested loops over the event.
DEAR = "for $a in //*, $b in //* where $a/*:Status = 'busy' and $b/*:CallerId > 0 return $a"
ENDLESS = "some $a in 1 to 100000, $b in 1 to 100000 satisfies $a * $b = -1"
RECURSIVE = "declare function local:f($n) { local:f($n + 1) + local:f($n) }; local:f(1) = 0"
HUNGRY = "count(string-to-codepoints(string-join(for $i in 1 to 100000000 return 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', ''))) = 0"


def in_sandbox(scene: Callable[[Sandbox], Awaitable[None]], **options: Any) -> None:
    @run
    async def test() -> None:
        sandbox = Sandbox(options.pop("workers", 2), Budget(**options))
        try:
            await scene(sandbox)
        finally:
            await sandbox.close()

    test()


def ask(
    sandbox: Sandbox, text: str, body: bytes = phone(), owner: str = "a", variables: dict[str, Any] | None = None
) -> asyncio.Future[Answer]:
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    sandbox.submit(Job(owner, [text], body, variables or {}, answer.set_result))
    return answer


def test_answers() -> None:
    async def scene(sandbox: Sandbox) -> None:
        assert await ask(sandbox, DEAR) == Answer(matched=True)
        assert await ask(sandbox, DEAR, phone("idle")) == Answer()
        assert await ask(sandbox, "declare variable $n external; $n = 7", variables={"n": 7}) == Answer(matched=True)
        assert (await ask(sandbox, "1 div 0 = 1")).error
        assert (await ask(sandbox, ") broken")).error
        assert await ask(sandbox, DEAR, phone("busy").decode().encode("utf-16")) == Answer(matched=True)
        assert sandbox.evaluated == 6

    in_sandbox(scene)


# A sandbox gives way to everybody: on a machine that is busy otherwise the time is over before that of the processor is.
@pytest.mark.parametrize(("text", "limit"), [(ENDLESS, "processor|took more than 3 s"), (HUNGRY, ""), (RECURSIVE, "deep")])
def test_a_filter_that_takes_too_much_is_killed_and_the_next_one_answered(text: str, limit: str) -> None:
    async def scene(sandbox: Sandbox) -> None:
        hostile = ask(sandbox, text)
        after = ask(sandbox, DEAR)
        answer = await hostile
        assert answer.exceeded or answer.error
        assert re.search(limit, answer.exceeded + answer.error)
        assert await after == Answer(matched=True)

    in_sandbox(scene, seconds=0.3, memory=64 * 2**20)


ORPHANING = """
import asyncio, os, sys
from clacks.agent.sandbox import Budget, Job, Sandbox
async def main():
    sandbox = Sandbox(1, Budget(seconds=0.5))
    sandbox.submit(Job("a", ["true()"], b"<a/>", {}, lambda answer: ready.set()))
    ready = asyncio.Event()
    await ready.wait()
    worker = sandbox._idle[0]
    print(worker._process.pid, flush=True)
    before, _ = worker._usage()
    sandbox.submit(Job("a", [sys.argv[1]], b"<a/>", {}, lambda answer: None))
    async with asyncio.timeout(20):
        while worker._usage()[0] < before + 0.1:  # it is at work
            await asyncio.sleep(0.01)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""


def test_a_filter_does_not_outlive_an_agent_that_is_killed(environment: dict[str, str]) -> None:
    agent = subprocess.run([sys.executable, "-c", ORPHANING, ENDLESS], env=environment, stdout=subprocess.PIPE, text=True)
    assert agent.returncode == -signal.SIGKILL
    worker = Path("/proc") / agent.stdout.strip()
    # It has two or three seconds of processor time, and is so nice that they may take a minute beside other work.
    wait_for(lambda: not worker.exists() or "\nState:\tZ" in (worker / "status").read_text(), "the worker has gone", 4 * DEADLINE)


def test_a_hostile_owner_holds_up_nobody_else() -> None:
    async def scene(sandbox: Sandbox) -> None:
        await ask(sandbox, DEAR)  # both processes are up
        hostile = [ask(sandbox, ENDLESS, owner="hostile") for _ in range(5)]
        for _ in range(20):
            assert await ask(sandbox, DEAR, owner="other") == Answer(matched=True)
        assert sum(future.done() for future in hostile) < 5, "the other one's were answered meanwhile"

    in_sandbox(scene, seconds=1.0)


def test_a_process_that_dies_is_replaced() -> None:
    async def scene(sandbox: Sandbox) -> None:
        await ask(sandbox, DEAR)
        worker: Worker = sandbox._idle[0]
        os.kill(worker._process.pid, signal.SIGKILL)
        first = await ask(sandbox, DEAR)
        assert first == Answer(matched=True) or first.exceeded
        assert await ask(sandbox, DEAR) == Answer(matched=True)

    in_sandbox(scene, workers=1)


def test_a_process_that_cannot_be_had_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has no room for it: who asks waits, each in its place, and is served when there is room again."""

    async def scene(one: Sandbox) -> None:
        failures = []

        def full(end: Any) -> Any:
            failures.append(end)
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

        with monkeypatch.context() as patched:
            patched.setattr(sandbox, "_spawn", full)
            patched.setattr(sandbox, "RETRY_SECONDS", 0.01)
            one.warm()
            answers = [ask(one, DEAR, phone(status), owner) for owner in "abc" for status in ("busy", "idle")]
            await until(lambda: len(failures) > 5, "it is tried again and again")
            assert not any(answer.done() for answer in answers)
        assert await asyncio.gather(*answers) == [Answer(matched=True), Answer()] * 3
        assert one._workers <= 2

    in_sandbox(scene)


def test_a_process_has_nothing_of_the_agents_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLACKS_URL", "amqp://admin:secret@localhost")

    async def scene(sandbox: Sandbox) -> None:
        await ask(sandbox, DEAR)
        pid = sandbox._idle[0]._process.pid
        assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert "Max file size             0 " in limits

    in_sandbox(scene, workers=1)


# --- on the bus ------------------------------------------------------------------------------------------------------------------


def test_order_and_decision_on_the_subscriptions_own_side(shared_agent: RunningAgent) -> None:
    async def scene(one: Peer) -> None:
        _, everything = await one.subscribe("//*:PhoneStatus")
        _, dear = await one.subscribe(DEAR)
        sent = [phone("busy" if number % 3 else "idle", str(number + 1)) for number in range(30)]
        for body in sent:
            assert await one.publish(Draft(body)) == ACCEPTED
        await until(lambda: len(everything.received) == 30, "the cheap one has all")
        await until(lambda: len(dear.received) == 20, "the dear one has what matches")
        assert dear.bodies == [body for body in sent if b"busy" in body]

    play(shared_agent, scene)


def test_a_filter_that_keeps_exceeding_its_budget_is_suspended_and_nobody_else_waits(tmp_path: Path) -> None:
    with RunningAgent(tmp_path, {"sandbox.seconds": 0.2}) as agent:

        async def scene(one: Peer) -> None:
            async with peer(agent, "guest", "guest") as other:
                _, theirs = await other.subscribe(DEAR)
                _, cheap = await one.subscribe("//*:PhoneStatus")
                link, hostile = await one.subscribe(ENDLESS)
                for _ in range(5):
                    assert await one.publish(Draft(phone())) == ACCEPTED
                await until(lambda: len(cheap.received) == len(theirs.received) == 5, "the others have all five")
                await until(lambda: hostile.ended, "it is suspended")
                condition = hostile.ended[0][0]
                assert condition is not None
                assert condition.info["code"] == "filter-suspended"
                assert re.search("0.2 s of processor time|took more than 2 s", condition.description)
                assert not hostile.received
                assert not link.alive
                await until(lambda: agent.agent.broker.subscriptions.sandbox.exceeded == 3, "after three strikes")

        play(agent, scene)


def test_a_consumer_hears_why_its_filter_is_suspended() -> None:
    with LocalBus(**{"sandbox.seconds": 0.1}) as bus:
        consumer = bus.consumer(ENDLESS)
        for _ in range(3):
            bus.send(sample("PhoneStatus"))
        with pytest.raises(Exception, match="suspended"):
            consumer.join(20)


def test_who_leaves_takes_its_questions_along(tmp_path: Path) -> None:
    async def scene(one: Peer) -> None:
        link, _ = await one.subscribe(ENDLESS)
        await one.publish(Draft(phone()))
        link.close()
        await until(lambda: not agent.agent.broker.subscriptions.all, "it is gone")
        _, dear = await one.subscribe(DEAR)
        await one.publish(Draft(phone()))
        await until(lambda: dear.received, "the next one is served")

    with RunningAgent(tmp_path, {"sandbox.seconds": 0.2}) as agent:
        play(agent, scene)
