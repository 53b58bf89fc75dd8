"""The programs for people: `clacks`, `clacks-agent` and `sendEvent`.

Each entry point loads only its own program: `clacks --help` and `sendEvent` are felt by whoever types them. Nothing else in Clacks
imports this package.
"""

from __future__ import annotations

import sys

# What a shell reports of a program that SIGINT ended: 128 + 2.
EXIT_INTERRUPTED = 130


def clacks() -> None:
    """The console script `clacks`."""
    try:
        from .main import clacks as program

        program(prog_name="clacks")
    except KeyboardInterrupt:  # while loading
        sys.exit(EXIT_INTERRUPTED)


def clacks_agent() -> None:
    """The console script `clacks-agent`."""
    try:
        from .agent import clacks_agent as program

        program(prog_name="clacks-agent")
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def send_event() -> None:
    """The console script `sendEvent`."""
    try:
        from .sendevent import send_event as program

        program(prog_name="sendEvent")
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
