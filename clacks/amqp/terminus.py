"""Source and target of a link as a value (AMQP 1.0 part 3.5.3 and 3.5.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Terminus:
    """One end of a link.

    `durable` is 0 (nothing is kept), 1 (the configuration) or 2 (unsettled deliveries too); `expiry` one of "link-detach",
    "session-end", "connection-close", "never"; `timeout` seconds after that event. `filter` belongs to sources only.
    """

    address: str | None = None
    dynamic: bool = False
    durable: int = 0
    expiry: str = "session-end"
    timeout: int = 0
    filter: Mapping[str, Any] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    properties: Mapping[str, Any] = field(default_factory=dict)
