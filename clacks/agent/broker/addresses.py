"""What an address of the domain means (DESIGN: addresses in a domain). One table; nothing here opens a link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ...common.errors import ClacksError

What = Literal["events", "event", "command", "reply", "dead-letters"]

DEAD_LETTERS: Final = "dead-letters"


@dataclass(frozen=True, slots=True)
class Address:
    """`what` it is, and which: the event's name, or the command's target and (if it is for one agent) node."""

    what: What
    name: str = ""
    node: str = ""


def parse_address(text: str, domain: str) -> Address:
    """The meaning of an address. Raises ClacksError address-unknown."""
    text = text.strip("/")  # some clients begin an address with a slash, as in a URL's path
    if text == domain:
        return Address("events")
    head, _, rest = text.removeprefix(f"{domain}.").partition(".") if text.startswith(f"{domain}.") else ("", "", "")
    if head == "event" and rest and "." not in rest:
        return Address("event", rest)
    if head == "command" and rest:
        target, _, node = rest.partition(".")
        if target and "." not in node:
            return Address("command", target, node)
    if head == "reply" and rest:
        return Address("reply", rest)
    if head == DEAD_LETTERS and not rest:
        return Address("dead-letters")
    raise ClacksError(
        "address-unknown",
        address=text,
        hint=f"Events are at {domain} and {domain}.event.NAME, commands at {domain}.command.core; ask for a dynamic source to get replies.",
    )


def event_address(domain: str, name: str) -> str:
    return f"{domain}.event.{name}"


def command_address(domain: str, target: str, node: str = "") -> str:
    return f"{domain}.command.{target}" + (f".{node}" if node else "")


def reply_address(domain: str, name: str) -> str:
    return f"{domain}.reply.{name}"
