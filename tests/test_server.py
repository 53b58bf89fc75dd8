"""The brokers as the tests run them: on loopback, without a trace afterwards, and with a reason where there is none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from activemq import ActiveMQ, activemq_root, java
from brokers import RabbitMQ, rabbitmq_root
from conftest import runs, wait_for
from debian import Unavailable

LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


@dataclass(frozen=True)
class Kind:
    """One kind of broker: its class, settings with which it does not start, what is said about them, and what is fetched for it."""

    broker: type[RabbitMQ | ActiveMQ]
    wrong: dict[str, Any]
    said: str
    fetched: tuple[Callable[[], object], ...]


KINDS = {
    "rabbitmq": Kind(RabbitMQ, {"settings": {"no_such_setting": 1}}, "no_such_setting", (rabbitmq_root,)),
    "activemq": Kind(ActiveMQ, {"attributes": {"noSuchAttribute": 1}}, "noSuchAttribute", (activemq_root, java)),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    request.getfixturevalue(request.param)  # where that is left out, this is too
    return KINDS[request.param]


def test_it_listens_on_loopback_only_and_leaves_nothing_behind(kind: Kind) -> None:
    with kind.broker() as broker:
        processes = [process.pid for process in broker._processes]
        folder = broker._folder
        inodes = {os.readlink(link) for pid in processes for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
        sockets = {inode.removeprefix("socket:[").removesuffix("]") for inode in inodes if inode.startswith("socket:")}
        lines = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
        hosts = {line[1].partition(":")[0] for line in lines if line[3] == "0A" and line[9] in sockets}
        assert hosts
        assert hosts <= LOOPBACK
    assert not folder.exists()
    for pid in processes:
        assert not Path(f"/proc/{pid}").exists()


def test_it_dies_with_the_process_that_started_it(kind: Kind, tmp_path: Path) -> None:
    where, name = kind.broker.__module__, kind.broker.__name__
    script = f"import signal, {where}; b = {where}.{name}(); b.start(); print(b.pid, flush=True); signal.pause()"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    wait_for(lambda: not runs(pid), "the broker is gone")


def test_a_start_that_fails_shows_the_log(kind: Kind) -> None:
    with pytest.raises(RuntimeError, match=kind.said), kind.broker(**kind.wrong):
        pytest.fail("it started")


def test_one_that_has_ended_by_itself_shows_the_log(kind: Kind) -> None:
    def run() -> None:
        with kind.broker() as broker:
            os.kill(broker.pid, signal.SIGKILL)
            wait_for(lambda: broker._processes[-1].poll() is not None, "it is gone")

    with pytest.raises(RuntimeError, match=r"(?si)has ended by itself:\n.*start"):
        run()


def test_where_it_cannot_be_had_the_reason_is_told(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLACKS_TESTS_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    for wanted in kind.fetched:
        with pytest.raises(Unavailable, match=r"^there is no apt-get"):
            wanted()
    assert {path.suffix for path in tmp_path.iterdir()} == {".lock"}
