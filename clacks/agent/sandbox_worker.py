"""What runs in a sandbox process: takes an event and filters from its standard input, answers whether they match. Nothing else.

It gives up what it does not need before the first job: no file can be written, and few can be opened. The limits of time
and memory are its parent's to keep; the kernel keeps that of processor time too, because a parent may be killed while a filter runs.
"""

from __future__ import annotations

import math
import os
import pickle
import resource
import signal
import sys
import time
from functools import lru_cache

from ..common.errors import ClacksError
from ..common.xml import Limits, parse
from ..xquery import Filter, FilterError, compile_filter

OVER_BUDGET = "CLXQ0004"  # the engine's own limits (clacks.xquery.errors)

NO_MATCH, MATCH, FAILED, BROKEN = 0, 1, 2, 3

# The agent has examined every event that comes here; its own limits may be wider than the defaults.
_LIMITS = Limits(size=2**30, depth=250, elements=10**7, attributes=10**6, names=10**6)

# A filter is compiled once; a process outlives many subscriptions.
_compiled = lru_cache(maxsize=1000)(compile_filter)


def confine() -> None:
    """Give up what is not needed, for good."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at the terminal is for the agent, which ends us
    for limit, value in ((resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 64)):
        resource.setrlimit(limit, (value, value))
    os.chdir("/")
    os.nice(5)  # an event that is matched in the agent goes before one that is matched here


def limit_processor(seconds: float) -> None:
    """The kernel ends this process when its next job has taken so much, and one or two seconds more: the parent is to be first."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    limit = math.ceil(time.process_time() + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def judge(filters: list[Filter], body: bytes, variables: dict[str, object]) -> tuple[int, str]:
    try:
        document = parse(body, _LIMITS)
        matched = all(one.matches(document, variables) for one in filters)
    except (FilterError, ClacksError) as error:
        return BROKEN if error.code == OVER_BUDGET else FAILED, str(error)
    except RecursionError:
        return BROKEN, "one evaluation nested too deeply."
    except MemoryError:
        return BROKEN, "one evaluation took too much memory."
    return (MATCH if matched else NO_MATCH), ""


def main() -> None:
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever an engine prints goes nowhere
    confine()

    def answer(flag: int, text: str) -> None:
        raw = text.encode("utf-8", "replace")[:60_000]
        answers.write(bytes((flag,)) + len(raw).to_bytes(2, "big") + raw)

    answer(NO_MATCH, "ready")
    while len(head := source.read(4)) == 4:
        texts, body, variables, seconds = pickle.loads(source.read(int.from_bytes(head, "big")))
        limit_processor(seconds)
        try:
            filters = [_compiled(text) for text in texts]
        except FilterError as error:
            answer(FAILED, str(error))
            continue
        answer(*judge(filters, body, variables))


if __name__ == "__main__":
    main()
