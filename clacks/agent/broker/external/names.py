"""What a domain calls its queues, its exchange and the keys on it. One place; nothing here connects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ....common.brokers import owners_part, replies_of
from ....common.errors import ClacksError
from ...access import NODE

EVENTS: Final = "events"
ANSWER: Final = "x-opt-clacks-answer"
TOKEN: Final = "x-opt-clacks-token"
REASON: Final = "x-opt-clacks-reason"
BEHALF: Final = "x-opt-clacks-behalf"
CODE: Final = "x-opt-clacks-code"

# How long an answer stays in a reply queue, in milliseconds: whoever asked waits for half of that.
ANSWER_TTL: Final = 60_000
# Bytes of refused events that are kept for whoever looks for them, beyond which the oldest go, where the broker has limits in bytes.
REJECTED_BYTES: Final = 64 * 2**20


def slot_key(slot: int | str) -> str:
    return f"{EVENTS}.{slot}"


def ingress_queue(domain: str, number: int | str) -> str:
    return f"{domain}.ingress.{number}"


def verified_queue(domain: str, what: str) -> str:
    """Where a broker puts the requests of which it can say who has sent them, if it is configured to."""
    return f"{domain}.verified.{what}"


def unverified_queue(domain: str, what: str = "") -> str:
    """Where a broker puts the events, or requests, of which it cannot say who has sent them."""
    return f"{domain}.unverified" + (f".{what}" if what else "")


def marker_queue(domain: str) -> str:
    """Holds nothing; its greatest length is the number of ingress queues."""
    return f"{domain}.ingress"


def control_log(domain: str) -> str:
    return f"{domain}.control"


def rejected_queue(domain: str) -> str:
    return f"{domain}.rejected"


def command_key(target: str, node: str = "") -> str:
    return f"command.{target}" + (f".{node}" if node else "")


def command_queue(domain: str, target: str, node: str = "") -> str:
    return f"{domain}.{command_key(target, node)}"


def subscription_queue(domain: str, user: str, name: str) -> str:
    return f"{domain}.sub.{owners_part(user)}.{name}"


def agent_queue(domain: str, node: str) -> str:
    """Where an agent gets the answers of others."""
    return f"{domain}.agent.{node}"


def asked_queue(domain: str, target: str, node: str = "") -> str:
    """Where an agent, or any of them, is asked by others for somebody, if only agents may send there."""
    return f"{domain}.agent." + (f"{node}." if node else "") + command_key(target)


def own_reply_queue(domain: str, user: str, name: str, spelled: Callable[[str], str] = str) -> str:
    """The reply queue that a user names; `spelled` is how the broker has names. Raises ClacksError if it is not the user's.

    An agent that asks for somebody has its own: what a stranger sends there answers nothing, since no question has a number to guess."""
    own = spelled(replies_of(domain, user))
    if not name.startswith((own, f"{domain}.agent.")):
        raise ClacksError("address-unknown", address=name, hint=f"Replies go to a queue called {own}ANYTHING only.")
    return name


def sender_of(said: object) -> str:
    """Who sent a message, from what it says and the broker has checked. Raises ClacksError user-id-missing, user-removed.

    A broker's users may be called anything. What an agent says of itself is no user's name, and may do everything."""
    if not isinstance(said, bytes | str):
        raise ClacksError("user-id-missing")
    try:
        user = said if isinstance(said, str) else said.decode()
    except UnicodeDecodeError:
        raise ClacksError("user-removed", user=repr(said)) from None
    if user.startswith(NODE):
        raise ClacksError("user-removed", user=user)
    return user
