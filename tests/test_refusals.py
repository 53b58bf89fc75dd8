"""Ten bad events of ten kinds: each is refused with path and reason, and in the same words by every bus at every door."""

from __future__ import annotations

import pytest

from buses import Bus
from clacks.common.components.client import BusClient
from clacks.common.errors import ClacksError
from clacks.testing import LocalBus
from support import run

EVENTS = "http://www.gonicus.de/Events"


def event(inside: str) -> str:
    return f'<Event xmlns="{EVENTS}">{inside}</Event>'


def phone(fields: str) -> str:
    return event(f"<PhoneStatus>{fields}</PhoneStatus>")


GOOD = "<CallerId>1</CallerId><ReceiverId>2</ReceiverId><Status>busy</Status>"
STATUS = "<Id>a</Id><Load>0.5</Load><Latency>0.1</Latency><Workers>{}</Workers>"

# what is sent; code; where the first problem is; words that the refusal says
BAD: dict[str, tuple[str | bytes, str, str, list[str]]] = {
    "cut off": ('<Event xmlns="x"><Phone', "xml-malformed", "", ["line 1", "column"]),
    "an entity bomb": ("<!DOCTYPE a [<!ENTITY b 'bb'>]>" + phone(GOOD), "xml-doctype", "", ["DOCTYPE"]),
    "another root": (f'<Events xmlns="{EVENTS}"/>', "event-root", "", ["Events", "<Event"]),
    "two events": (event("<NodeLeave><Id>a</Id></NodeLeave>" * 2), "event-root", "", ["one element"]),
    "an unknown event": (event("<PhoneStatsu/>"), "event-unknown", "", ["PhoneStatsu", "Did you mean PhoneStatus?"]),
    "a missing field": (phone("<CallerId>1</CallerId>"), "event-invalid", "/Event/PhoneStatus", ["ReceiverId"]),
    "an unknown field": (phone(GOOD + "<Colour>red</Colour>"), "event-invalid", "/Event/PhoneStatus", ["Colour"]),
    "a wrong type": (
        event(f"<NodeStatus>{STATUS.format('many')}</NodeStatus>"), "event-invalid", "/Event/NodeStatus/Workers", ["many"],
    ),
    "a value of no list": (
        event(
            "<PuppetReport><Id>a</Id><PuppetLog><Timestamp>2026-01-01T00:00:00Z</Timestamp><Level>loud</Level>"
            "<Message>m</Message></PuppetLog></PuppetReport>"
        ),
        "event-invalid", "/Event/PuppetReport/PuppetLog", ["loud", "warning"],
    ),
    "nested too deep": (event("<a>" * 100 + "</a>" * 100), "xml-limit", "", ["64", "limits.depth"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def said() -> dict[str, ClacksError]:
    """What a bus in this process says."""
    errors = {}
    with LocalBus() as bus:
        for kind, (text, *_) in BAD.items():
            with pytest.raises(ClacksError) as caught:
                bus.send(text)
            errors[kind] = caught.value
    return errors


@pytest.mark.parametrize("kind", BAD)
def test_path_and_reason(said: dict[str, ClacksError], kind: str) -> None:
    _, code, path, words = BAD[kind]
    error = said[kind]
    assert error.code == code
    text = str(error) + " ".join(map(str, error.problems))
    assert not [word for word in words if word not in text], text
    if path:
        assert error.problems[0].path.startswith(path)
        assert error.problems[0].reason


def test_every_door_of_every_bus_says_the_same(bus: Bus, said: dict[str, ClacksError]) -> None:
    """Published as a message, and by the command `sendEvent`, for which an event is a text."""

    @run
    async def test() -> None:
        async with BusClient(bus.url()) as client:
            for kind, (text, *_) in BAD.items():
                for attempt in (client.send(text), client.call("sendEvent", text)):
                    with pytest.raises(ClacksError) as caught:
                        await attempt
                    error, expected = caught.value, said[kind]
                    assert (error.code, str(error), error.problems) == (expected.code, str(expected), expected.problems)

    test()
