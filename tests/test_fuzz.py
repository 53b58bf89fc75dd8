"""A short run of tests/fuzzing.py, which has a longer one by command: whatever comes in, the agent stays, and nothing stays of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fuzzing
from clacks.amqp import Options, ScramVerifier, serve
from clacks.testing import LocalBus
from clacks.xquery import FilterError, compile_filter
from fuzz_targets import TARGETS
from support import resident, run, until

# Of each target; nobody waits for CI at a prompt.
SECONDS = 60.0 if os.environ.get("CI") == "true" else 4.0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_changed_frames(seed: int) -> None:
    with LocalBus() as bus:
        bus._background.run(fuzzing.rounds(bus, seed, count=1000))  # brings in what is loaded when it is needed
        gc.collect()
        before = resident()
        assert bus._background.run(fuzzing.rounds(bus, seed + 100, count=1000)) == 1000
        gc.collect()
        assert resident() - before < 8 * 2**20
        assert not bus.agent.broker.subscriptions.all
        assert not bus.agent.broker.subscriptions.replies
        assert bus.agent.bus.subscriptions == 0
        assert bus.proxy().getSessionUser() == "admin", "it still serves"


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[tuple[int, str]]]]:
    """tests/fuzzing.py on each target whose test is asked for, in their order: the exit code, and what was printed. Each is a process, and
    three run at a time, on the two processors of CI: a minute for each target is most of what this file takes."""
    asked = [item.callspec.params["target"] for item in request.session.items if getattr(item, "function", None) is test_for_a_while]
    processes: list[subprocess.Popen[str]] = []

    def run_on(target: str) -> tuple[int, str]:
        command = [sys.executable, "-W", "error", str(Path(__file__).with_name("fuzzing.py")), target, "--seconds", str(SECONDS)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            processes.append(process)
            output, _ = process.communicate()
        return process.returncode, output

    with ThreadPoolExecutor(3) as pool:
        yield {target: pool.submit(run_on, target) for target in asked}
        pool.shutdown(wait=False, cancel_futures=True)  # those that nobody waits for, where a failed test has ended it all
        for process in processes:
            process.kill()


@pytest.mark.parametrize("target", ["frames", *TARGETS])
def test_for_a_while(runs: dict[str, Future[tuple[int, str]]], target: str) -> None:
    """Of each kind of input good ones, changed as tests/fuzz_targets.py knows them: nothing but our own errors comes out."""
    code, output = runs[target].result()
    assert code == 0, output
    assert re.search(r"\b[1-9]\d* rounds", output), output


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_input(name: str, data: st.DataObject) -> None:
    """Of each kind anything at all, of pieces of its language; hypothesis makes a fault small."""
    piece = st.one_of(st.sampled_from(TARGETS[name].words), st.sampled_from(TARGETS[name].words), st.binary(max_size=4))
    TARGETS[name].play(b"".join(data.draw(st.lists(piece, max_size=12))))


# What fuzzing has found, as small as it could be made.
FOUND = [
    ("toml", b"listen = " + b"9" * 5_000),
    ("toml", b"idle_timeout = " + b"9" * 400),
    ("toml", b"queue.events = inf"),
    ("toml", b"a = " + b"[" * 3_000),
    ("toml", b'state_dir = "~nobody-of-that-name/x"'),
    ("toml", b'[users.a]\nscram = "SCRAM-SHA-256$' + b"9" * 5_000 + b':AA==$AA==:AA=="'),
    ("filters", b"/a = 'b'"),
    ("filters", b"/a = '\xa8'"),  # the same with a character that there is not: it was taken, once its like was known
    ("filters", b"/a = '\0'"),
]


@pytest.mark.parametrize(("name", "data"), FOUND, ids=lambda value: repr(value)[:40])
def test_what_was_found(name: str, data: bytes) -> None:
    TARGETS[name].play(data)


def test_a_filter_of_a_known_form_is_still_read() -> None:
    compile_filter("/known/form = 'b'")
    for text in ("/known/form = '\0'", "/known/form = '\ud800'"):
        with pytest.raises(FilterError) as refused:
            compile_filter(text)
        assert refused.value.code == "XPST0003"


class Nobody:
    """An authenticator without users."""

    def mechanisms(self, *, secure: bool, loopback: bool) -> tuple[str, ...]:
        return ("SCRAM-SHA-256", "PLAIN")

    def verifier(self, user: str) -> ScramVerifier:
        return ScramVerifier(b"0" * 16, b"1" * 32, b"2" * 32, 4096)

    def admits(self, user: str) -> bool:
        return False

    def certified(self, names: Sequence[str]) -> Sequence[str]:
        return ()


def test_changed_handshakes() -> None:
    rng = random.Random(1)
    attempts = [fuzzing.handshakes(rng) for _ in range(150)]

    @run
    async def test() -> None:
        listener = await serve("127.0.0.1", 0, fuzzing.Silent(), Nobody(), Options())

        async def attempt(data: bytes) -> None:
            reader, writer = await asyncio.open_connection(*listener.address)
            writer.write(data)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()

        await asyncio.gather(*map(attempt, attempts))
        await until(lambda: not listener.connections, "all are gone")
        await listener.close()

    test()


# --- the time that a filter takes to compile ---

# A filter of n pieces, of each kind that a loop over all others could hide behind.
GROWING: dict[str, Callable[[int], str]] = {
    "alternatives": lambda n: " or ".join(f"/a = '{number}'" for number in range(n)),
    "a list": lambda n: "/a = (" + ", ".join(f"'{number}'" for number in range(n)) + ")",
    "predicates": lambda n: "/a" + "".join(f"[b{number} = 1]" for number in range(n)),
    "variables": lambda n: " ".join(f"let $x{number} := /a{number}" for number in range(n)) + " return $x0",
    "variables of each other": lambda n: (
        "let $x0 := /a " + " ".join(f"let $x{number + 1} := $x{number}/b" for number in range(n)) + f" return $x{n}"
    ),
    "declared variables": lambda n: "".join(f"declare variable $x{number} := {number};" for number in range(n)) + "$x0 = 1",
    "functions": lambda n: "".join(f"declare function local:f{number}($x) {{ $x }};" for number in range(n)) + "local:f0(1)",
    "namespaces": lambda n: "".join(f"declare namespace n{number} = 'u{number}';" for number in range(n)) + "/n0:a",
    "steps": lambda n: "/a" * n,
    "parentheses": lambda n: "(" * n + "1" + ")" * n,
    "comments in each other": lambda n: "(:" * n + ":)" * n + "1",
    "references": lambda n: "'" + "&amp;" * n + "' = /a",
    "doubled quotes": lambda n: "'" + "''" * n + "' = /a",
    "texts joined": lambda n: " || ".join(["'x'"] * n) + " = /a",
    "constructors": lambda n: "<a>" + "<b/>" * n + "</a>",
}


def steps(text: str) -> int:
    """The calls that compiling takes, which unlike its time are the same in every run. Zero where it is refused as too large."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before, code = sys.getprofile(), ""
    gc.collect()
    gc.disable()  # what it would end meanwhile has calls of its own
    sys.setprofile(count)
    try:
        compile_filter(text)
    except FilterError as error:
        code = error.code
    finally:
        sys.setprofile(before)
        gc.enable()
    return 0 if code == "CLXQ0002" else calls


# What is put in the place of each other, or joined, takes a square, of no more pieces than the limits let in. A million calls are 60 ms.
SQUARES = ("variables", "variables of each other", "texts joined")
MOST_CALLS = 1_000_000


@pytest.mark.parametrize("kind", SQUARES)
def test_what_takes_a_square_ends_soon(kind: str) -> None:
    taken = [steps(GROWING[kind](size)) for size in range(10, 330, 20)]
    assert max(taken) < MOST_CALLS
    assert taken[-1] == 0, "it is refused as too large"


@pytest.mark.parametrize("kind", sorted(GROWING.keys() - set(SQUARES)))
def test_a_filter_twice_as_long_takes_twice_as_long_to_compile(kind: str) -> None:
    small, large = (steps(GROWING[kind](size)) for size in (20, 40))
    assert large < 2.6 * small
