"""The programs for people: `clacks`, `clacks-agent` and `sendEvent`.

Each entry point loads only its own program: `clacks --help` and `sendEvent` are felt by whoever types them. Nothing else in Clacks
imports this package.
"""

from __future__ import annotations

import os
import sys

# What a shell reports of a program that SIGINT ended: 128 + 2.
EXIT_INTERRUPTED = 130


def _open_standard_streams() -> None:
    """What the caller has closed (`>&-`, as some daemons do) becomes /dev/null; else a socket would get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def clacks() -> None:
    """The console script `clacks`."""
    try:
        _open_standard_streams()
        from .main import clacks as program

        program(prog_name="clacks")
    except KeyboardInterrupt:  # while loading
        sys.exit(EXIT_INTERRUPTED)


def clacks_agent() -> None:
    """The console script `clacks-agent`."""
    try:
        _open_standard_streams()
        from .agent import clacks_agent as program

        program(prog_name="clacks-agent")
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def send_event() -> None:
    """The console script `sendEvent`."""
    try:
        _open_standard_streams()
        from .sendevent import send_event as program

        program(prog_name="sendEvent")
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
