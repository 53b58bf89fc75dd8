"""Bytes that nobody should send: frames of real traffic, changed at random, into an agent that is otherwise real.

    python tests/fuzzing.py frames --seconds 600 --seed 7        a longer run than the tests' own
    python tests/fuzzing.py filters --seconds 600                one of tests/fuzz_targets.py
    python tests/fuzzing.py xml --engine atheris --seconds 600   guided by coverage (pip install atheris)

Of `frames` each round is one connection to the agent's broker (authenticated, so that everything behind the door is reached). What comes
of it may be an error of ours or a closed connection; an exception, or a process that dies, is a fault. The bytes of the round under way
are kept in --keep, so that a crash can be repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if "atheris" in sys.argv:  # it sees what is imported from here on
    import atheris

    with atheris.instrument_imports(include=["clacks"]):
        import fuzz_targets  # noqa: F401

from clacks.amqp import Connection, Credentials, Described, Draft, Message, Options, Properties, Symbol, Terminus
from clacks.amqp.client import Silent
from clacks.amqp.sasl import ClientHandshake, Handshake
from clacks.testing import LocalBus, sample
from fuzz_targets import TARGETS, Target, mutated
from support import End, resident


class LetIn(Handshake):
    """A handshake that is over before it begins."""

    def start(self, transport: asyncio.Transport, succeeded: Callable[[str, bytes], None], failed: Any) -> None:
        asyncio.get_running_loop().call_soon(succeeded, "admin", b"")


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed


async def record(bus: LocalBus) -> bytes:
    """What a client sends that does everything once: events of several forms, filters, a command, refusals, closing."""
    here, there = Wire(), Wire()
    client = Connection(Options(hostname="h"), Silent(), lambda connection: LetIn(), server=False)
    server = connection_of(bus)
    server.connection_made(there)
    client.connection_made(here)
    sent = bytearray()

    async def exchange(work: Any = None) -> Any:
        """Until the work is done, or else for as long as an answer that nothing is waited for takes."""
        task = asyncio.ensure_future(work) if work is not None else None
        end = time.monotonic() + 20.0  # seconds a busy machine may take to compile a filter in its thread
        turns = 0
        while turns < 40 or (task is not None and not task.done()):
            turns += 1
            await asyncio.sleep(0 if turns < 40 else 0.001)
            assert time.monotonic() < end, "an answer is missing"
            for wire, other in ((here, server), (there, client)):
                data = bytes(wire.written)
                wire.written.clear()
                if wire is here:
                    sent.extend(data)
                if data:
                    other.data_received(data)
        if task is not None:
            return (await asyncio.gather(task, return_exceptions=True))[0]
        return None

    await exchange()
    filters = {"f": Described(Symbol("apache.org:xquery-filter:string"), "//*:Status = 'busy'"), "g": Described(Symbol("other"), [1, "x"])}
    receiver = await exchange(client.attach_receiver(Terminus("org.clacks", filter=filters, capabilities=("a", "b"), properties={"x": 1})))
    receiver.handler = End()
    receiver.window = 10
    replies = await exchange(client.attach_receiver(Terminus(dynamic=True)))
    replies.handler = answers = End()
    replies.window = 10
    events = await exchange(client.attach_sender(Terminus("org.clacks")))
    commands = await exchange(client.attach_sender(Terminus("org.clacks.command.core")))
    await exchange()
    for draft in (
        Draft(
            sample("PhoneStatus"),
            Properties("m", b"admin", absolute_expiry_time=2**45),
            {"a": 1, "b.c": True, "d": 2.5},
            {"x-opt-a": 1},
            5000,
        ),
        Draft(sample("PuppetReport").decode()),
        Draft(b"<nonsense/>"),
        Draft({"a": [1, 2.5, None, True, "x"]}),
    ):
        events.send(draft.encode())
        await exchange()
    reply_to = replies.remote_source.address
    for request in ('{"method": "getNodes", "params": [], "id": 1}', '{"method": "sendEvent", "params": ["<a/>"]}', "[]"):
        commands.send(Draft(request, Properties("m", reply_to=reply_to)).encode())
        await exchange()
    await exchange(client.attach_receiver(Terminus("nowhere")))
    receiver.close(closed=False)
    events.close()
    await exchange()
    client.close()
    await exchange()
    assert len(answers.received) == 3
    assert Message(answers.received[0][1]).body
    for connection in (client, server):
        connection.connection_lost(None)
    return bytes(sent)


def connection_of(bus: LocalBus) -> Connection:
    """The agent's side of a connection that has been authenticated."""
    return Connection(bus.agent._options(), bus.agent.broker, lambda connection: LetIn(), server=True)


def changed(traffic: bytes, rng: random.Random) -> bytes:
    """The traffic with some of its frames changed, repeated, left out, exchanged, shortened or lengthened."""
    frames, position = [traffic[:8]], 8
    while position < len(traffic):
        size = int.from_bytes(traffic[position : position + 4], "big")
        frames.append(traffic[position : position + size])
        position += size
    for _ in range(rng.randrange(1, 6)):
        if len(frames) < 3:
            break
        place, other = rng.randrange(1, len(frames)), rng.randrange(1, len(frames))
        frame = bytearray(frames[place])
        start = rng.randrange(8, len(frame)) if len(frame) > 8 else 0
        match rng.randrange(7):
            case 0:
                frame[start] = rng.randrange(256)
            case 1:
                frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
            case 2:
                frames.insert(other, bytes(frame))
            case 3:
                del frames[place]
                continue
            case 4:
                frames[place], frames[other] = frames[other], frames[place]
                continue
            case 5:
                del frame[start : start + rng.randrange(1, 8)]
                frame[:4] = len(frame).to_bytes(4, "big")
            case 6:
                frame[start:start] = rng.randbytes(rng.randrange(1, 6))
                frame[:4] = len(frame).to_bytes(4, "big")
        frames[place] = bytes(frame)
    return b"".join(frames)


async def play(bus: LocalBus, data: bytes, rng: random.Random) -> None:
    """One connection that sends `data`, in pieces, and goes without a word."""
    wire = Wire()
    connection = connection_of(bus)
    connection.connection_made(wire)
    await asyncio.sleep(0)
    position = 0
    while position < len(data) and not wire.closed:
        size = rng.choice((len(data), 50, 500))
        connection.data_received(data[position : position + size])
        position += size
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    connection.connection_lost(None)


async def rounds(bus: LocalBus, seed: int, *, count: int | None = None, seconds: float | None = None, keep: Path | None = None) -> int:
    """So many rounds, or as many as fit into `seconds`; how many there were. Raises whatever is no error of ours."""
    traffic, rng = await record(bus), random.Random(seed)
    end = time.monotonic() + (seconds or 1e9)
    done = 0
    while (count is None or done < count) and time.monotonic() < end:
        data = changed(traffic, rng)
        if keep is not None:
            keep.write_bytes(data)
        with _named(data):
            await play(bus, data, rng)
        done += 1
    return done


@contextlib.contextmanager
def _named(data: bytes) -> Iterator[None]:
    """A fault says what it is one of."""
    try:
        yield
    except Exception as error:
        error.add_note(f"of {data!r}")
        raise


def handshakes(rng: random.Random) -> bytes:
    """The beginning of a connection, before anybody is authenticated, changed at random."""
    wire = Wire()

    async def first() -> bytes:
        handshake = ClientHandshake(Credentials("admin", "secret"), hostname="h", private=True)
        handshake.start(wire, lambda user, rest: None, lambda failure: None)
        await asyncio.sleep(0)
        handshake._send(0x41, Symbol("PLAIN"), b"\0admin\0secret", "h")
        handshake.stop()
        return bytes(wire.written)

    return changed(asyncio.run(first()), rng)


def repeat(target: Target, seed: int, *, count: int | None = None, seconds: float | None = None, keep: Path | None = None) -> int:
    """So many rounds of a target of tests/fuzz_targets.py, or as many as fit; how many there were. Raises whatever is a fault."""
    seeds, rng = target.seeds(), random.Random(seed)
    for data in seeds:
        with _named(data):
            target.play(data)
    end = time.monotonic() + (seconds or 1e9)
    done = 0
    while (count is None or done < count) and time.monotonic() < end:
        data = mutated(target, seeds, rng)
        if keep is not None:
            keep.write_bytes(data)
        with _named(data):
            target.play(data)
        done += 1
    return done


def guided(target: Target, seconds: float) -> None:
    """The same with atheris, which looks for inputs that reach other code. It ends the process, and prints runs and memory itself."""
    import atheris

    folder = Path(tempfile.mkdtemp(prefix="clacks-corpus-"))
    for number, data in enumerate(target.seeds()):
        (folder / f"{number}").write_bytes(data)
    words = folder.with_suffix(".dict")
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.words if 0 < len(word) < 100))
    # A mebibyte is an event's limit; what is smaller reaches the same code more often.
    flags = [f"-max_total_time={int(seconds)}", f"-dict={words}", "-max_len=20000", "-rss_limit_mb=0", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *flags, str(folder)], target.play)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", choices=["frames", *TARGETS], nargs="?", default="frames")
    parser.add_argument("--engine", choices=["random", "atheris"], default="random", help="atheris is not for frames")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="the file for the bytes of the round under way")
    arguments = parser.parse_args()
    if arguments.target != "frames":
        target = TARGETS[arguments.target]
        if arguments.engine == "atheris":
            guided(target, arguments.seconds)
        warm = repeat(target, arguments.seed, seconds=arguments.seconds / 4, keep=arguments.keep)
        gc.collect()
        before = resident()
        done = warm + repeat(target, arguments.seed + 1, seconds=arguments.seconds * 3 / 4, keep=arguments.keep)
        gc.collect()
        print(f"{arguments.target}: {done} rounds without a fault; {before >> 20} MiB when warm, {resident() >> 20} at the end")
        return
    with LocalBus() as bus:
        done = bus._background.run(rounds(bus, arguments.seed, seconds=arguments.seconds, keep=arguments.keep))
        assert bus.proxy().getSessionUser() == "admin", "it still serves"
        print(f"{done} rounds; what is left at the broker: {len(bus.agent.broker.subscriptions.all)} subscriptions")


if __name__ == "__main__":
    main()
