"""What a client subscribes to, and how its events are kept: values. Neither how it travels nor who keeps them is known here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keep:
    """How an agent, or the broker of a domain, keeps a subscription's events.

    `durable` is its name on the disk, where it is kept across the ends of consumers and agents; without `max_age` (seconds) and
    `max_bytes` nothing is ever dropped, and publishers have to wait when it is full. `shared` is the name under which several consumers
    share the events (that of `durable`, if both are given). `overflow` is what a live subscription does when more waits than may:
    drop-oldest (the default), detach, or block-publisher. `replace` gives a subscription that exists other terms.
    """

    durable: str = ""
    shared: str = ""
    max_age: float | None = None
    max_bytes: int | None = None
    overflow: str = ""
    replace: bool = False

    def __post_init__(self) -> None:
        if self.durable and self.shared and self.durable != self.shared:
            raise ValueError("a subscription has one name: that of durable and shared must be the same")


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """One subscription's events: those that `xquery` matches, of one name if `event` is given, or else the user's dead letters.

    Two that are alike are two: they are told apart by identity."""

    xquery: str | None = None
    event: str = ""
    keep: Keep = Keep()
    dead_letters: bool = False
