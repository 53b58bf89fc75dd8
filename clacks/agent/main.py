"""The agent as a process: configuration, log, signals, systemd."""

from __future__ import annotations

import asyncio
import atexit
import dataclasses
import gc
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..amqp import is_loopback
from ..amqp.server import fit_descriptors
from ..common.errors import EXIT_DONE, EXIT_FAILED, ClacksError
from .access import ADMINISTRATORS
from .agent import Agent
from .audit import Rationed
from .config import Config, load, misspelt
from .node import notify
from .users import UserBook, make_user

# The interpreter hands its lock over after this time, in seconds. At its own 5 ms, work in a worker delays every event that comes in
# meanwhile: in bench/hostile.py, "a small event of bad values", a bystander's p99 was 105 ms with 5 ms and is 4.4 with this.
SWITCH_INTERVAL: Final = 0.0005

_RECORD_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Lines(logging.Formatter):
    """A log line: time, level, logger, what happened, and the fields as key=value, or all of it as one JSON object."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self._json = form == "json"

    def format(self, record: logging.LogRecord) -> str:
        extra = {key: value for key, value in vars(record).items() if key not in _RECORD_FIELDS}
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self._json:
            return json.dumps(
                {"time": when, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage(), **extra}
                | ({"trace": trace} if trace else {}),
                default=str,
            )
        fields = "".join(f" {key}={_quoted(value)}" for key, value in extra.items())
        return f"{when} {record.levelname.lower()} {record.name}: {record.getMessage()}{fields}" + (f"\n{trace}" if trace else "")


def _quoted(value: Any) -> str:
    # A line of the log is one line, whatever a peer puts into its names: json.dumps escapes what would end it.
    text = str(value)
    return text if text and text.isprintable() and not set(text) & set(' "=') else json.dumps(text)


def set_up_log(config: Config) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(config.log_format))
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)
    rationed = Rationed()
    logging.getLogger("clacks.audit").addFilter(rationed)
    atexit.register(rationed.flush)  # what was left out in the last minute
    logging.getLogger("watchfiles").setLevel("WARNING")  # it tells of every batch of changes; we tell what they meant


def demo(config: Config, flags: Mapping[str, Any]) -> tuple[Config, UserBook]:
    """The configuration and the user of --demo. Raises ClacksError if it would be reachable from elsewhere."""
    config = dataclasses.replace(
        config,
        listen=config.listen if flags.get("listen") else ("localhost:5672",),
        listen_tls=config.listen_tls if flags.get("listen_tls") else ("localhost:5671",),
    )
    for place in (*config.listen, *config.listen_tls):
        if not is_loopback(place.rpartition(":")[0].strip("[]")):
            raise ClacksError(
                "config-invalid", source=f"--demo with {place}", reason="everybody knows its password, so it listens on loopback only",
                hint="Make users with `clacks user add` and start without --demo.",
            )  # fmt: skip
    return config, UserBook({"admin": make_user("admin", "secret", [ADMINISTRATORS])})


def run(config_file: Path | None, flags: Mapping[str, Any], *, is_demo: bool = False) -> int:
    """Run an agent until SIGTERM or SIGINT; answer the exit code. Raises ClacksError if it cannot start."""
    config = load(config_file, flags)
    users = None
    if is_demo:
        config, users = demo(config, flags)
    set_up_log(config)
    for name, meant in misspelt(os.environ).items():
        logging.getLogger("clacks.agent").warning("unknown variable", extra={"variable": name, "hint": f"did you mean {meant}?"})
    sys.setswitchinterval(SWITCH_INTERVAL)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(config, users))


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(config: Config, users: UserBook | None) -> int:
    fit_descriptors(config.gate)
    agent = Agent(config, users)
    if not agent.users.users:
        logging.getLogger("clacks.agent").warning("no users", extra={"hint": "nobody can connect: make one with `clacks user add NAME`"})
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    loop.add_signal_handler(signal.SIGHUP, agent.reload)
    urls = await agent.start()
    # What has been made so far lives as long as the process: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    for url in urls:
        print(f"ready {url}", flush=True)
    notify(f"READY=1\nSTATUS={' '.join(urls)}\nMAINPID={os.getpid()}")
    try:
        await agent.run()
    except Exception:
        logging.getLogger("clacks.agent").exception("stopping failed")
        return EXIT_FAILED
    finally:
        notify("STOPPING=1")
    return EXIT_DONE
