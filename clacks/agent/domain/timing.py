"""The times and sizes that the agents of a domain keep to, each with its reason. Nothing here decides anything.

The leases of agents. An agent takes events until `own_lease` after it sent a heartbeat that it has read back; the others hold it for fenced
`lease` after they read that heartbeat. If no clock runs faster or slower than real time by more than `drift`, then

    own_lease / (1 - drift)  <  lease / (1 + drift)        with own_lease = lease * (1 - 2 * drift)

so it has always stopped before anybody counts on that: reading comes after sending, and the left side is real time from the sending on.

What retention leaves of the log. A broker that keeps R bytes in segments of S bytes has the last R - S bytes for certain. A snapshot of Z
bytes is due when D bytes have been written since the state that the one before describes, and W bytes of other records come in between
while it is written. At the moment when it is complete, what is needed of the log reaches back over 2 Z + D + W bytes at most, so

    2 Z + D + W  <=  R - S        kept by  D = min(max(Z, snapshot_floor), (R - S) / 4),  Z <= (R - S) / 4,  W <= (R - S) / 4

D is not less than Z where that is possible, so that snapshots are no more than half of what is written. `Domain.crowded` says when Z has
grown past its share; the stream then needs a greater retention. Retention must be by size: by age it cuts whatever the sizes are.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds and bytes. All agents of a domain must have the same `lease` and `drift`; the rest may differ."""

    # A heartbeat is about 200 bytes and takes each reader some 10 us: 100 agents cost each other 0.1 % of a processor.
    interval: float = 1.0
    # Five heartbeats may be lost before an agent is fenced; a `subscribe` waits at most this long for an agent that is gone.
    lease: float = 6.0
    # A clock that ntpd or chrony slews runs wrong by 0.05 % at most, an undisciplined one by some 0.01 %; this is 20 times as much.
    drift: float = 0.01
    # An agent that has applied a subscription says so this soon, so that `subscribe` takes a moment and not an interval.
    hurry: float = 0.05
    # A part is made at once and read at once: 100 kB take 2 ms either way, and the loop has 5.
    part_bytes: int = 100_000
    # Where subscriptions are few, the log between two snapshots is heartbeats: 1 MB are an hour and a half of one agent, and read in 0.1 s.
    # A log in a queue (external/sequence.py) is taken in hand as often, message by message.
    snapshot_floor: int = 1_000_000
    # What the stream is declared with (x-max-length-bytes, x-stream-max-segment-size-bytes). A million subscriptions are 200 to 300 MB.
    retention: int = 2_000_000_000
    segment: int = 50_000_000

    @property
    def own_lease(self) -> float:
        """How long an agent counts on a heartbeat of its own, from its sending on."""
        return self.lease * (1 - 2 * self.drift)

    @property
    def retry(self) -> float:
        """When a decision that has not come back from the log is written again: a heartbeat would have been lost by then."""
        return self.lease

    @property
    def grace(self) -> float:
        """What a subscription's lease is stretched by: an agent that decides has read all that was written a lease ago, and a renewal needs
        as long again to get from its client into the log."""
        return 2 * self.lease

    @property
    def share(self) -> int:
        """The quarter of the retention that a snapshot may take."""
        return (self.retention - self.segment) // 4

    def snapshot_after(self, size: int) -> int:
        """D: the bytes of log after which the next snapshot is due, if the last one had `size` bytes."""
        return min(max(size, self.snapshot_floor), self.share)
