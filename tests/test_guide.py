"""The guide's two scripts, unchanged, as processes against `clacks-agent --demo`."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conftest import CHECKOUT, DEADLINE, AgentProcess, wait_for

GUIDE = CHECKOUT.parent / "shared" / "guide"
FOLDERS = [CHECKOUT / "examples", *([GUIDE] if GUIDE.is_dir() else [])]

PRINTED = (
    r"b'<Event xmlns=\"http://www.gonicus.de/Events\">\n  <PhoneStatus>\n    <CallerId>012345</CallerId>\n"
    r"    <ReceiverId>12343424</ReceiverId>\n    <Status>busy</Status>\n  </PhoneStatus>\n</Event>\n'"
).replace('\\"', '"')


def test_the_examples_are_the_guides() -> None:
    if not GUIDE.is_dir():
        pytest.skip("this clone has no guide beside it; the project's own copies are tested all the same")
    for name in ("receive.py", "send.py"):
        assert (CHECKOUT / "examples" / name).read_bytes() == (GUIDE / name).read_bytes()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_event_is_printed(folder: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """On the ports that the scripts name, as a reader of the guide would do it."""
    with AgentProcess(["--demo"], environment, tmp_path / "agent.log", expected=2) as agent:
        assert sorted(agent.urls) == ["amqp://localhost:5672/org.clacks", "amqps://localhost:5671/org.clacks"]
        receiver = subprocess.Popen(
            [sys.executable, str(folder / "receive.py")], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        lines: list[str] = []
        assert receiver.stdout is not None
        assert receiver.stderr is not None
        reader = threading.Thread(target=lambda: lines.extend(receiver.stdout), daemon=True)  # type: ignore[arg-type]
        reader.start()
        wait_for(lambda: "subscribed" in agent.log.read_text(), "the receiver has subscribed")
        subprocess.run([sys.executable, str(folder / "send.py")], env=environment, check=True, timeout=DEADLINE)
        wait_for(lambda: lines, "the event is printed")
        receiver.send_signal(signal.SIGINT)
        assert receiver.wait(DEADLINE) == 0, "Ctrl-C ends the receiver quietly"
        assert receiver.stderr.read() == ""
        reader.join(DEADLINE)
        receiver.stdout.close()
        receiver.stderr.close()
    assert lines == [PRINTED + "\n"]
    assert agent.process.returncode == 0
