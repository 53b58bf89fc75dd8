"""Schemas, users and subscriptions change while events pass: none is lost, none is judged by half a change."""

from __future__ import annotations

import asyncio
from pathlib import Path

from clacks.agent.users import make_user
from clacks.amqp import ACCEPTED, Draft, Rejected, Terminus
from conftest import RunningAgent
from support import End, until
from test_promises import DOMAIN, Peer, peer, phone, play

EVENTS = 4000
SCHEMA = """<schema targetNamespace="http://www.gonicus.de/Events" elementFormDefault="qualified"
  xmlns="http://www.w3.org/2001/XMLSchema"><element name="Door" type="{}"/></schema>"""


def door(text: str) -> bytes:
    return f'<Event xmlns="http://www.gonicus.de/Events"><Door>{text}</Door></Event>'.encode()


def test_changes_while_events_pass(tmp_path: Path) -> None:
    folder = tmp_path / "schemas"
    folder.mkdir()
    (folder / "Door.xsd").write_text(SCHEMA.format("boolean"))
    with RunningAgent(tmp_path / "state", {"schemas": [str(folder)], "queue.events": 2 * EVENTS}) as agent:
        running = True

        async def publish(one: Peer, bodies: list[bytes], outcomes: End) -> None:
            link = await one.connection.attach_sender(Terminus(DOMAIN))
            link.handler = outcomes
            for body in bodies:
                while not link.sendable:
                    await asyncio.sleep(0.001)
                link.send(Draft(body).encode())
                await asyncio.sleep(0)
            await until(lambda: len(outcomes.outcomes) == len(bodies), "every event has its outcome")

        async def change_schemas() -> None:
            for turn in range(1000):
                if not running:
                    return
                (folder / "Door.xsd").write_text(SCHEMA.format(("string", "boolean", "nonsense")[turn % 3]))
                await asyncio.to_thread(agent.agent._schemas_changed)

        async def change_subscriptions(one: Peer) -> None:
            while running:
                links = [(await one.subscribe(f"//*:CallerId = '{number}'"))[0] for number in range(20)]
                for link in links:
                    link.close()

        async def change_users() -> None:
            for turn in range(1000):
                if not running:
                    return
                users = dict(agent.users)
                if turn % 2:
                    users["passer-by"] = make_user("passer-by", "x")
                agent.run(lambda users=users: setattr(agent.agent.users, "users", users))
                await asyncio.sleep(0.005)

        async def scene(one: Peer) -> None:
            nonlocal running
            async with peer(agent) as other, peer(agent) as third:
                _, seen = await third.subscribe("//*:PhoneStatus")
                phones, doors = End(), End()
                sent = [phone(caller=str(number)) for number in range(EVENTS)]
                changes = [asyncio.create_task(work) for work in (change_schemas(), change_subscriptions(other), change_users())]
                await asyncio.gather(publish(one, sent, phones), publish(other, [door("open"), door("true")] * 500, doors))
                running = False
                await asyncio.gather(*changes)
                assert {outcome for _, outcome in phones.outcomes} == {ACCEPTED}
                await until(lambda: len(seen.received) == EVENTS, "all arrive")
                assert seen.bodies == sent
                by_number = dict(doors.outcomes)
                assert all(by_number[number] == ACCEPTED for number in by_number if number % 2 == 0), "`true` fits every version"
                refused = [outcome for number, outcome in by_number.items() if outcome != ACCEPTED]
                assert all(isinstance(outcome, Rejected) and outcome.condition.info["code"] == "event-invalid" for outcome in refused)
                assert 0 < len(refused) < 500, "`open` fits one of the versions"

        play(agent, scene)
        assert agent.agent.bus.subscriptions == 0
