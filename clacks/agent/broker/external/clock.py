"""The clock of leases."""

from __future__ import annotations

import time


def now() -> float:
    """In seconds: that of the machine, which goes on while it is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
