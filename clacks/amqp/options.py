"""What a connection announces in its open frame (AMQP 1.0 2.7.1), and how much it permits its peer. A frozen value."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any, Final

# How long a peer may take until it is authenticated and has opened, in seconds: generous to a slow link, short for an attacker.
HANDSHAKE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a connection announces and permits. Sizes in bytes, times in seconds.

    Frames of 32 KiB at the most: bigger ones help only big messages. The session's capacity bounds what a peer can make the engine keep
    (2.5.6), at 8 MiB it lets 256 frames be under way. An idle time-out of 60 s finds a dead peer within a minute and costs an idle one two
    empty frames in that time (2.4.5).
    """

    container_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    hostname: str | None = None
    max_frame: int = 32 * 1024
    session_capacity: int = 8 * 1024 * 1024
    max_message_size: int = 1024 * 1024
    channel_max: int = 255
    idle_timeout: float = 60.0
    handshake_timeout: float = HANDSHAKE_SECONDS
    capabilities: tuple[str, ...] = ()
    properties: dict[str, Any] = field(default_factory=dict)
