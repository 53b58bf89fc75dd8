"""The answers that wait at the reply addresses of the embedded broker, and how much may wait for one user.

Whoever is let in may ask for any number of addresses and may send commands to be refused, so what waits is counted by user, not by
address: a hundred bytes bring an answer of hundreds of kilobytes. Everything else of a reply address is any subscription's.
"""

from __future__ import annotations

from ...amqp import Outcome
from .subscription import Consumer, Host, Message, Subscription
from .terms import Terms


class Account:
    """Bytes of answers that one user has not taken: waiting, or sent and not settled."""

    __slots__ = ("__weakref__", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class Replies(Subscription):
    """What is at one reply address. An answer that there is no room for is dropped: the call is not answered."""

    def __init__(self, host: Host, user: str, terms: Terms, account: Account, *, events: int, size: int) -> None:
        super().__init__(host, user, terms, events=events, size=size)
        self._account = account
        self._booked = 0

    def offer(self, message: Message) -> None:
        if self._account.used + len(message[1]) > self._account.limit:
            self._lost()
            return
        super().offer(message)
        self._book()

    def taken(self, message: Message) -> None:
        super().taken(message)
        self._book()

    def not_taken(self, consumer: Consumer, message: Message, outcome: Outcome) -> None:
        super().not_taken(consumer, message, outcome)
        self._book()

    def clear(self) -> None:
        super().clear()
        self._account.used -= self._booked
        self._booked = 0

    def _book(self) -> None:
        now = self._bytes + self._out + sum(len(message[1]) for message in self._returned)
        self._account.used += now - self._booked
        self._booked = now
