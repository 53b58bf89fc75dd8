"""The durable subscriptions of the embedded broker and the dead letters: on the disk, found again at the start, gone only when removed.

The journal is opened when it is first needed. Who may attach to what is decided elsewhere (`attaching.py`); this file keeps, suspends,
takes up again, and removes.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...common.errors import ClacksError
from ..bus import Bus
from ..config import Config
from .addresses import DEAD_LETTERS
from .conditions import as_condition
from .durable import DurableSubscription
from .envelope import DEAD_NAME, DEAD_REASON, marked
from .journal import Journal
from .store import StoredEvent, StoredSubscription, in_use
from .subscription import Message, Subscription
from .terms import Terms, compiled

if TYPE_CHECKING:
    from .subscriptions import Subscriptions

log = logging.getLogger("clacks.broker")

# What is kept of what a user's subscriptions could not deliver: enough to see what is wrong, and no more than somebody can look through.
DEAD_AGE: Final = 7 * 86400.0
DEAD_BYTES: Final = 64 * 2**20
# How often what is too old, or has expired, is dropped, in seconds.
TRIM_SECONDS: Final = 1.0
# What a message that cannot be buried waits before it is tried again, in seconds: the disk is full, or broken.
BURY_SECONDS: Final = 1.0


class Kept:
    """`all` has the durable subscriptions by their id in the store, those of the dead letters among them."""

    def __init__(self, subscriptions: Subscriptions, config: Config, bus: Bus) -> None:
        self.all: dict[int, DurableSubscription] = {}
        self._subscriptions, self._config, self._bus = subscriptions, config, bus
        self._loop = asyncio.get_running_loop()
        self._dead: dict[str, DurableSubscription] = {}
        self._dead_address = f"{config.domain}.{DEAD_LETTERS}"
        self._journal: Journal | None = None
        self._number = 0
        self._last_id = 0
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._trimmer: asyncio.TimerHandle | None = None
        self._path: Path = config.state_dir / "events.db"
        self._lock: int | None = None

    def open(self) -> None:
        """Find what an earlier run has kept. Raises ClacksError: store-failed, or config-invalid if another agent has this folder."""
        with contextlib.suppress(OSError):  # where no file can be made nothing can be kept either
            self._lock = _locked(self._path.with_suffix(".lock"))
        if self._path.exists():
            try:
                self.journal()
            except ClacksError:
                self._unlock()
                raise

    def journal(self) -> Journal:
        """Opened when it is first needed. Raises ClacksError store-failed."""
        if self._journal is None:
            self._journal = Journal(self._path)
            try:
                self._load(self._journal)
            except ClacksError:
                self._journal = None
                raise
        return self._journal

    def next_number(self) -> int:
        """By these all events are in order, also those that nobody keeps."""
        self._number += 1
        return self._number

    async def close(self) -> None:
        for timer in (*self._timers.values(), self._trimmer):
            if timer is not None:
                timer.cancel()
        if self._journal is not None:
            await self._journal.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- from an earlier run ---

    def _load(self, journal: Journal) -> None:
        stored, self._last_id = journal.load()
        for one in stored:
            self._restore(one)

        def restore(number: int, event: StoredEvent, size: int) -> None:
            self._bus.learn(event.name)
            self.all[number].restore(event, size)

        last = journal.replay(restore, stored)
        self._number = max(self._number, last)
        for subscription in self.all.values():
            self._expire_later(subscription)
        if stored:
            log.info("durable subscriptions", extra={"count": len(stored), "events": journal.events, "file": str(self._path)})
            self._trim()

    def _restore(self, one: StoredSubscription) -> None:
        terms = Terms.from_json(one.terms)
        subscription = self._new(one.user, terms, one)
        if self.is_dead_letters(subscription):
            self._dead[one.user] = subscription
            subscription.sight = self._bus.sight(one.user)
            self._subscriptions.all.add(subscription)
            return
        self._subscriptions.named[subscription.identity] = subscription
        self._reinstate(subscription)

    def _reinstate(self, subscription: DurableSubscription) -> None:
        """Give its filters to the bus again, if that is possible."""
        self._subscriptions.all.add(subscription)
        if subscription.suspension:
            return
        try:
            if (error := self._subscriptions.unpermitted(subscription.user, subscription.terms, "store")) is not None:
                raise error
            self._subscriptions.subscribe(subscription, [compiled(text) for text in subscription.terms.filters], "store")
        except ClacksError as error:
            subscription.sight = ()
            subscription.suspend(error)

    # --- coming and going ---

    def make(self, user: str, terms: Terms) -> DurableSubscription:
        """A subscription that the disk does not know yet. Raises ClacksError subscriptions-full, store-failed."""
        limit = self._config.durable_per_user
        if sum(one.user == user for one in self.all.values()) >= limit:
            raise ClacksError("subscriptions-full", user=user, limit=limit)
        return self._new(user, terms)

    def _new(self, user: str, terms: Terms, stored: StoredSubscription | None = None) -> DurableSubscription:
        journal, config = self.journal(), self._config
        if stored is None:
            self._last_id += 1
        number = stored.id if stored is not None else self._last_id
        subscription = self.all[number] = DurableSubscription(
            self._subscriptions, user, terms, journal, number,
            events=config.queue_events, size=config.queue_bytes, kept_events=config.durable_events, kept_bytes=config.durable_bytes,
            settled=stored.settled if stored is not None else self._number, suspension=stored.suspended if stored is not None else "",
        )  # fmt: skip
        if self._trimmer is None:
            self._trimmer = self._loop.call_later(TRIM_SECONDS, self._trim)
        return subscription

    def unmake(self, subscription: DurableSubscription) -> None:
        """It was made in vain: nothing on the disk knows it."""
        del self.all[subscription.id]

    def taken_up(self, subscription: DurableSubscription) -> None:
        """It has a consumer."""
        if (timer := self._timers.pop(subscription.id, None)) is not None:
            timer.cancel()

    def abandoned(self, subscription: DurableSubscription, *, closed: bool) -> None:
        """It has no consumer any more; `closed`: it is not wanted any more either."""
        if subscription.removed or self.is_dead_letters(subscription):
            return
        if closed:
            self.remove(subscription)
        else:
            self._expire_later(subscription)

    def _expire_later(self, subscription: DurableSubscription) -> None:
        self.taken_up(subscription)
        timeout = subscription.terms.timeout
        if timeout is not None:
            self._timers[subscription.id] = self._loop.call_later(timeout, self.remove, subscription)

    def suspended(self, subscription: DurableSubscription, error: ClacksError) -> None:
        """Its filter must not go on. What waits stays."""
        subscription.suspend(error)
        self._bus.unsubscribe(subscription)
        self.journal().changed(subscription.id, subscription.state)

    def remove(self, subscription: DurableSubscription, error: ClacksError | None = None) -> None:
        """A durable subscription, and everything that waits for it, is no more. `error` is what its consumers are told."""
        if subscription.removed:
            return
        self.taken_up(subscription)
        subscription.removed = True
        if subscription.consumers:
            subscription.dismiss(as_condition(error or ClacksError("bus-stopping")))
        subscription.clear()
        del self.all[subscription.id]
        if self.is_dead_letters(subscription):
            del self._dead[subscription.user]
        self._subscriptions.end(subscription)
        self.journal().remove(subscription.id)

    def permit(self, subscription: DurableSubscription, error: ClacksError | None) -> None:
        """Its user may not have it any more, for this reason, or may (again): None."""
        forbidden, dead = subscription.sight == (), self.is_dead_letters(subscription)
        if error is not None and not forbidden:
            if not dead and not subscription.suspension:
                self._bus.unsubscribe(subscription)
                subscription.suspension = str(error)
            subscription.sight = ()
            subscription.dismiss(as_condition(error))
        elif error is None and forbidden:
            if dead:
                subscription.sight = self._bus.sight(subscription.user)
            else:
                subscription.suspension = ""
                self._reinstate(subscription)

    def _trim(self) -> None:
        if self._trimmer is not None:
            self._trimmer.cancel()
        expired = self.journal().expired(time.time())
        for subscription in self.all.values():
            if expired:
                subscription.expire(expired)
            subscription.trim()
        self._trimmer = self._loop.call_later(TRIM_SECONDS, self._trim) if self.all else None

    # --- dead letters ---

    def is_dead_letters(self, subscription: Subscription) -> bool:
        return subscription.terms.address == self._dead_address

    def dead_letters(self, user: str) -> DurableSubscription | None:
        """Those of a user, if there have been any."""
        return self._dead.get(user)

    def dead_letters_for(self, user: str) -> DurableSubscription:
        """Those of a user, made if there are none yet. Raises ClacksError store-failed."""
        dead = self._dead.get(user)
        if dead is None:
            terms = Terms(
                self._dead_address, DEAD_LETTERS, shared=True, durable=True, overflow="drop-oldest", max_age=DEAD_AGE, max_bytes=DEAD_BYTES
            )
            dead = self._dead[user] = self._new(user, terms)
            dead.sight = self._bus.sight(user)
            self._subscriptions.all.add(dead)
            self.journal().define(dead.state(), lambda error: None)
        return dead

    def bury(self, subscription: Subscription, message: Message, reason: str) -> None:
        """subscription.Host"""
        _, encoded, _, _, name = message
        own = subscription.terms
        if not name or self.is_dead_letters(subscription):
            subscription.laid_to_rest(message)
            return
        log.info("dead letter", extra={"user": subscription.user, "subscription": own.name, "event": name, "reason": reason})
        try:
            dead = self.dead_letters_for(subscription.user)
        except ClacksError as error:
            log.error("dead letters cannot be kept", extra={"reason": str(error)})
            subscription.laid_to_rest(message)
            return
        letter = marked(encoded, {DEAD_REASON: reason[:1024], DEAD_NAME: own.name})
        dead.reserve(len(letter))

        def kept(error: ClacksError | None) -> None:
            if error is None:
                dead.stored(event.number, undecided=False)
                subscription.laid_to_rest(message)
            else:
                dead.give_up(len(letter))
                self._loop.call_later(BURY_SECONDS, self.bury, subscription, message, reason)

        event = StoredEvent(self.next_number(), name, time.time(), 0.0, (dead.id,), (), letter)
        self.journal().keep(event, kept)


def _locked(path: Path) -> int:
    """The descriptor of a file that one agent has, before there is anything to keep: two of them would find out when
    somebody wants an event to be kept."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise in_use(path.parent) from None
    return descriptor
