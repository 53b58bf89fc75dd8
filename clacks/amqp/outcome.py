"""What can become of a delivery (AMQP 1.0 part 3.4), and the error condition that goes with it (2.8.14)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from .codec import encode


@dataclass(frozen=True, slots=True)
class Condition:
    """An AMQP error: a symbolic name, a sentence for people, and further values (2.8.14)."""

    name: str
    description: str = ""
    info: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}: {self.description}" if self.description else self.name

    def within(self, size: int) -> Condition:
        """As much of it as `size` bytes hold: the sentence before the larger ones of the further values, and these before its end."""
        described, info = self.description.encode(), {}
        left = size - len(self.name)
        room = max(left - len(described), left // 4)
        for cost, key in sorted((len(encode({key: value})), key) for key, value in self.info.items()):
            if cost > room:
                break
            info[key] = self.info[key]
            room, left = room - cost, left - cost
        if len(info) == len(self.info) and len(described) <= left:
            return self
        return Condition(self.name, described[: max(0, left)].decode("utf-8", "ignore"), info)


class AmqpError(Exception):
    """The peer, or the way to it, ended something. `condition` says why."""

    def __init__(self, condition: Condition) -> None:
        super().__init__(str(condition))
        self.condition = condition


class LinkGone(AmqpError):
    """The link, or its connection, is closed: nothing can be sent on it any more."""

    def __init__(self, name: str) -> None:
        super().__init__(Condition("amqp:illegal-state", f"the link {name} is closed"))


@dataclass(frozen=True, slots=True)
class Accepted:
    """Taken (3.4.2)."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Invalid and not to be sent again (3.4.3)."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class Released:
    """Not taken; it may be sent again, to anybody (3.4.4)."""


@dataclass(frozen=True, slots=True)
class Modified:
    """Not taken; the sender should change what it knows of the message (3.4.5)."""

    failed: bool = True
    undeliverable: bool = False


Outcome = Accepted | Rejected | Released | Modified

ACCEPTED: Final = Accepted()
RELEASED: Final = Released()
