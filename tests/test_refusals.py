"""Ten bad events of ten kinds: each is refused with path and reason, at the AMQP door and at the RPC door alike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clacks.common.components.client import BusClient
from clacks.common.components.proxy import AMQPServiceProxy
from clacks.common.errors import ClacksError
from conftest import RunningAgent
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
def proxy(shared_agent: RunningAgent) -> Iterator[AMQPServiceProxy]:
    with AMQPServiceProxy(shared_agent.url()) as proxy:
        yield proxy


def check(error: ClacksError, kind: str) -> None:
    _, code, path, words = BAD[kind]
    assert error.code == code
    text = str(error) + " ".join(map(str, error.problems))
    assert not [word for word in words if word not in text], text
    if path:
        assert error.problems[0].path.startswith(path)
        assert error.problems[0].reason


@pytest.mark.parametrize("kind", BAD)
def test_at_the_rpc_door(proxy: AMQPServiceProxy, kind: str) -> None:
    with pytest.raises(ClacksError) as caught:
        proxy.sendEvent(data=BAD[kind][0])
    check(caught.value, kind)


@pytest.mark.parametrize("kind", BAD)
def test_at_the_amqp_door(shared_agent: RunningAgent, kind: str) -> None:
    @run
    async def test() -> None:
        async with BusClient(shared_agent.url()) as bus:
            with pytest.raises(ClacksError) as caught:
                await bus.send(BAD[kind][0])
            check(caught.value, kind)

    test()


def test_the_two_doors_say_the_same(shared_agent: RunningAgent, proxy: AMQPServiceProxy) -> None:
    @run
    async def test() -> None:
        async with BusClient(shared_agent.url()) as bus:
            for text, *_ in BAD.values():
                with pytest.raises(ClacksError) as here:
                    await bus.send(text)
                with pytest.raises(ClacksError) as there:
                    await bus.call("sendEvent", text)
                assert (here.value.code, str(here.value), here.value.problems) == (
                    there.value.code, str(there.value), there.value.problems,
                )  # fmt: skip

    test()
