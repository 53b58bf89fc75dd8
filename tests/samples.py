"""Events for the tests of other people's clients, as text."""

from __future__ import annotations

EVENTS = "http://www.gonicus.de/Events"


def event(name: str, *fields: tuple[str, str]) -> str:
    return f'<Event xmlns="{EVENTS}"><{name}>' + "".join(f"<{tag}>{text}</{tag}>" for tag, text in fields) + f"</{name}></Event>"


def phone(status: str = "busy") -> str:
    return event("PhoneStatus", ("CallerId", "012345"), ("ReceiverId", "12343424"), ("Status", status))


def leave(client: str) -> str:
    return event("ClientLeave", ("Id", client))


def puppet_report(size: int) -> str:
    """A valid event of at least `size` bytes."""
    log = "<PuppetLog><Timestamp>2024-05-31T13:20:00Z</Timestamp><Level>notice</Level><Message>ensure changed</Message></PuppetLog>"
    return f'<Event xmlns="{EVENTS}"><PuppetReport><Id>c-1</Id>{log * (size // len(log) + 1)}</PuppetReport></Event>'
