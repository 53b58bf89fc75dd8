"""Who may do what: rules, over the real doors; what follows when they change; and the attacks that they have to withstand."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from clacks.agent.access import EVERYTHING, NODE, Access, Call, Rights, Rule, any_of
from clacks.agent.bus import Bus, Incoming, Refused, Routed
from clacks.agent.config import load
from clacks.agent.main import demo
from clacks.agent.rules import read_rules
from clacks.agent.users import User, make_user, read_users, write_users
from clacks.amqp import ACCEPTED, AmqpError, Credentials, Draft, Properties, Terminus, connect
from clacks.common.components import AMQPEventConsumer, AMQPServiceProxy
from clacks.common.errors import ClacksError
from clacks.common.schema import SchemaRegistry
from clacks.testing import LocalBus, sample
from clacks.xquery import compile_filter
from conftest import AgentProcess, RunningAgent, wait_for
from support import DEADLINE, End, until
from test_promises import DOMAIN, Peer, code_of, peer, phone

# Made once: a verifier costs milliseconds.
PEOPLE = {
    "admin": make_user("admin", "secret", ["admin"]),
    "anna": make_user("anna", "x", ["phones"]),
    "berta": make_user("berta", "x"),
    "carl": make_user("carl", "x"),
    "robot-1": make_user("robot-1", "x"),
}
RULES = (
    Rule(groups=("phones",), publish=("PhoneStatus",), subscribe=("Phone*",)),
    Rule(users=("anna", "berta"), call=(Call("core", "get*"),)),
    Rule(users=("berta",), subscribe=("*",), call=(Call("c*", "sendEvent"),)),
    Rule(users=("robot-*",), publish=("Node*", "Client*"), administer=True),
)
# Dear by their form, quick in fact: two nested loops over the event. The second fails on what may not be seen only.
DEAR = "for $a in //*, $b in //* return $a"
DEAR_AND_FAILING = "for $a in //*, $b in //* return if (//*:NodeLeave) then 1 div 0 else $a"


def leave(node: str = "x") -> bytes:
    return f'<Event xmlns="http://www.gonicus.de/Events"><NodeLeave><Id>{node}</Id></NodeLeave></Event>'.encode()


def running(path: Path, *rules: Rule, **settings: Any) -> RunningAgent:
    return RunningAgent(path, settings, dict(PEOPLE), rules or RULES)


def scene(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await work()

    asyncio.run(bounded())


def permit(agent: RunningAgent, *rules: Rule, users: dict[str, User] | None = None) -> None:
    """Other rules, or other users, as the agent takes them from its files."""

    def change() -> None:
        agent.agent._rules = rules
        if users is not None:
            agent.agent.users.users = users
        agent.agent._permit()

    agent.run(change)


async def call(one: Peer, method: str, *params: Any, target: str = "core") -> Any:
    """The answer to a command: its result, or the code of its error."""
    replies = await one.connection.attach_receiver(Terminus(dynamic=True))
    end = End()
    replies.handler, replies.window = end, 10
    requests = await one.connection.attach_sender(Terminus(f"{DOMAIN}.command.{target}"))
    requests.handler = End()
    await until(lambda: requests.sendable, "credit")
    source = replies.remote_source
    assert source is not None
    body = json.dumps({"method": method, "params": list(params), "id": 1})
    requests.send(Draft(body, Properties(reply_to=source.address)).encode())
    await until(lambda: end.bodies, "an answer")
    replies.close()
    requests.close()
    answer = json.loads(end.bodies[0])
    return answer["error"]["code"] if answer["error"] else answer["result"]


async def own_status(one: Peer) -> dict[str, Any]:
    """What a user sees of its one subscription."""
    found = (await call(one, "getStatus"))["subscriptions"]
    assert len(found) == 1
    return dict(found[0])


# --- rules -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("PhoneStatus", "PhoneStatus", True),
        ("PhoneStatus", "phonestatus", False),
        ("PhoneStatus", "PhoneStatusX", False),
        ("Phone*", "Phone", True),
        ("Phone*", "PhoneStatus", True),
        ("Phone*", "APhone", False),
        ("*", "", True),
        ("*Status", "NodeStatus", True),
        ("N*e*s", "NodeStatus", True),
        ("N*x*s", "NodeStatus", False),
        ("a*a", "a", False),
        ("a.c", "abc", False),
        ("*b", "a\nb", True),
    ],
)
def test_patterns(pattern: str, name: str, expected: bool) -> None:
    assert any_of((pattern,))(name) is expected
    assert any_of(("nothing", pattern))(name) is expected


def test_a_long_name_takes_no_long_time() -> None:
    assert not any_of(("a*a*a*a*a*a*b",))("a" * 1_000_000)


def granted(rights: Rights) -> list[bool]:
    return [rights.publish("A"), rights.subscribe("A"), rights.subscribes, rights.call("b", "A"), rights.administers]


def test_nobody_may_do_anything_without_a_rule() -> None:
    access = Access([], {"anna": frozenset({"phones"}), "admin": frozenset({"admin"})})
    for user in ("anna", "stranger", ""):
        rights = access.rights(user)
        assert granted(rights) == [False] * 5
    for user in ("admin", f"{NODE}x"):
        rights = access.rights(user)
        assert granted(rights) == [True] * 5
    assert not Access([EVERYTHING], {}).rights("anna").publish("A"), "whoever has been removed may do nothing, whatever the rules say"


DECISIONS = [
    # user, what, of what, allowed
    ("anna", "publish", "PhoneStatus", True),
    ("anna", "publish", "NodeLeave", False),
    ("anna", "subscribe", "PhoneStatus", True),
    ("anna", "subscribe", "NodeLeave", False),
    ("anna", "subscribe", "", True),
    ("anna", "call", "getNodes", True),
    ("anna", "call", "sendEvent", False),
    ("anna", "call", "shutdown", False),
    ("berta", "publish", "PhoneStatus", False),
    ("berta", "subscribe", "NodeLeave", True),
    ("berta", "call", "getStatus", True),
    ("berta", "send", "PhoneStatus", False),
    ("carl", "publish", "PhoneStatus", False),
    ("carl", "subscribe", "PhoneStatus", False),
    ("carl", "subscribe", "", False),
    ("carl", "call", "getSessionUser", False),
    ("carl", "call", "getNothing", False),
    ("robot-1", "publish", "NodeLeave", True),
    ("robot-1", "publish", "PhoneStatus", False),
    ("robot-1", "subscribe", "", False),
    ("robot-1", "call", "getNodes", True),
    ("robot-1", "send", "NodeLeave", True),
    ("robot-1", "send", "PhoneStatus", False),
    ("admin", "publish", "PhoneStatus", True),
    ("admin", "subscribe", "", True),
    ("admin", "send", "NodeLeave", True),
]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running(tmp_path_factory.mktemp("state")) as agent:
        yield agent


@pytest.mark.parametrize(("user", "action", "what", "allowed"), DECISIONS)
def test_who_may_do_what(guarded: RunningAgent, caplog: pytest.LogCaptureFixture, user: str, action: str, what: str, allowed: bool) -> None:
    """Over AMQP and by command; what is refused is said and on record, what is allowed leaves no line."""
    bodies = {"PhoneStatus": phone(), "NodeLeave": leave()}

    async def work() -> None:
        async with peer(guarded, user, PASSWORDS.get(user, "x")) as one:
            code = ""
            if action == "publish":
                outcome = await one.publish(Draft(bodies[what]))
                code = "" if outcome == ACCEPTED else code_of(outcome)
            elif action == "subscribe":
                try:
                    await one.subscribe(address=f"{DOMAIN}.event.{what}" if what else DOMAIN)
                except AmqpError as error:
                    code = str(error.condition.info["code"])
            else:
                answer = await (call(one, "sendEvent", bodies[what].decode()) if action == "send" else call(one, what))
                code = answer if isinstance(answer, str) else ""
            assert code == ("" if allowed else "not-permitted")

    with caplog.at_level(logging.WARNING, "clacks.audit"):
        scene(work)
    lines = [record for record in caplog.records if record.name == "clacks.audit"]
    assert len(lines) == (not allowed)
    for line in lines:
        fields = vars(line)
        assert (fields["user"], line.levelname) == (user, "WARNING")
        assert fields["action"] in ("publish", "subscribe to", "call")
        assert fields["what"] in (what, "events", "sendEvent")
        assert fields["origin"].startswith(("amqp 127.0.0.1:", "command "))


PASSWORDS = {"admin": "secret"}


def test_the_sentence_says_which_rule_to_write(guarded: RunningAgent) -> None:
    def said(work: Callable[[], Any]) -> str:
        with pytest.raises(ClacksError) as caught:
            work()
        assert caught.value.code == "not-permitted"
        return str(caught.value)

    with AMQPServiceProxy(guarded.url("carl", "x")) as carl, AMQPServiceProxy(guarded.url("berta", "x")) as berta:
        assert said(carl.getNodes) == (
            "carl may not call getNodes. An administrator can allow it: `clacks user allow carl --call core getNodes`."
        )
        assert said(lambda: berta.sendEvent(sample("PhoneStatus"))) == (
            "berta may not publish PhoneStatus. An administrator can allow it: `clacks user allow berta --publish PhoneStatus`."
        )
    with pytest.raises(ClacksError, match=r"carl may not subscribe to events.*`clacks user allow carl --subscribe '\*'`"):
        AMQPEventConsumer(guarded.url("carl", "x"))


def test_what_is_listed_is_what_the_caller_may_use(guarded: RunningAgent) -> None:
    async def work() -> None:
        async with peer(guarded, "anna", "x") as anna, peer(guarded, "robot-1", "x") as robot, peer(guarded) as admin:
            assert [event["name"] for event in await call(anna, "getEvents")] == ["PhoneStatus"]
            assert {event["name"][:4] for event in await call(robot, "getEvents")} == {"Node", "Clie"}
            assert len(await call(admin, "getEvents")) == 12
            assert all(name.startswith("get") for name in await call(anna, "getMethods"))
            assert {"shutdown", "sendEvent"} <= (await call(robot, "getMethods")).keys()
            assert "PhoneStatus" in await call(anna, "getSchema", "PhoneStatus") != "not-permitted"
            # whether there is such an event is not told
            assert await call(anna, "getSchema", "NodeLeave") == await call(anna, "getSchema", "Nothing") == "not-permitted"
            assert await call(anna, "getSchema", "PhoneStatsu") == "schema-unknown"

    scene(work)


# --- attacks ---------------------------------------------------------------------------------------------------------------------


def test_what_may_not_be_published_is_not_explained() -> None:
    """A schema's words, and the names of other events, are not for those who may not publish them."""
    bus = Bus(SchemaRegistry(()), access=Access([Rule(users=("anna",), publish=("PhoneStatus",))], {"anna": frozenset()}))

    def refused(body: bytes) -> ClacksError:
        verdict = bus.publish(Incoming(body, "anna"))
        assert isinstance(verdict, Refused)
        assert not verdict.explainable or verdict.error.values["name"] == "PhoneStatus"
        return verdict.error

    def event(inside: str) -> bytes:
        return f'<Event xmlns="http://www.gonicus.de/Events">{inside}</Event>'.encode()

    assert refused(event("<NodeLeave/>")).code == "not-permitted"
    assert refused(event("<PhoneStatus/>")).code == "event-invalid"
    assert "NodeLeave" not in str(refused(event("<NodeLeav/>")))
    assert "NodeLeave" not in str(refused(event("<NodeLeave xmlns='urn:other'/>"))).replace("The event NodeLeave", "").replace(
        "describes the event NodeLeave", ""
    )
    assert "Did you mean PhoneStatus?" in str(refused(event("<PhoneStat/>")))
    assert isinstance(bus.publish(Incoming(phone(), "anna")), Routed)


FORBIDDEN = [
    (),  # everything
    ("//*",),
    ("//*:NodeLeave",),
    ("/*:Event/*:NodeLeave[*:Id = 'x']",),
    ("count(//*) > 0",),
    ("1 div 0 = 1",),  # fails on every event
    ("if (//*:NodeLeave) then xs:integer('no') = 1 else true()",),  # fails on the forbidden one only
    ("//*:NodeLeave", "//*"),
    (DEAR,),
    (DEAR_AND_FAILING,),
    ("//*:NodeLeave", DEAR),
]


@pytest.mark.parametrize("filters", FORBIDDEN, ids=lambda filters: " & ".join(filters) or "none")
def test_nothing_tells_of_an_event_that_may_not_be_seen(tmp_path: Path, filters: tuple[str, ...]) -> None:
    """No delivery, no counter, no failure, nothing in the sandbox; the same filter of another user gets to see it."""
    with running(tmp_path) as agent:

        async def work() -> None:
            async with peer(agent) as admin, peer(agent, "anna", "x") as anna:
                _, seen = await anna.subscribe(*filters)
                before = await own_status(anna)
                status = await call(anna, "getStatus")
                evaluated = agent.agent.broker.subscriptions.sandbox.evaluated
                for number in range(5):
                    assert await admin.publish(Draft(leave("x"), application_properties={"number": number})) == ACCEPTED
                assert await own_status(anna) == before
                after = await call(anna, "getStatus")
                assert {key for key in status if after[key] != status[key]} <= {"uptime", "load", "latency", "workers"}
                assert agent.agent.broker.subscriptions.sandbox.evaluated == evaluated
                assert agent.agent.broker.subscriptions.sandbox._workers <= 1, "none but the one that is kept ready"
                assert seen.received == []
                assert agent.run(lambda: agent.agent.bus._index.errors) == 0

        scene(work)


def test_a_failure_on_an_event_that_may_be_seen_is_counted(tmp_path: Path) -> None:
    """What the test before this one says of failures and of the sandbox would else be true of anything."""
    with running(tmp_path) as agent:

        async def work() -> None:
            async with peer(agent) as admin, peer(agent, "anna", "x") as anna:
                await anna.subscribe("1 div 0 = 1")
                await admin.publish(Draft(leave()))
                await admin.publish(Draft(phone()))
                assert (await own_status(anna))["filter_errors"] == 1
                await anna.subscribe(DEAR)
                await admin.publish(Draft(phone()))
                await until(lambda: agent.agent.broker.subscriptions.sandbox.evaluated == 1, "the sandbox is asked")
                permit(agent, BOTH)
                _, seen = await anna.subscribe(DEAR_AND_FAILING)
                await admin.publish(Draft(leave()))
                await admin.publish(Draft(phone()))
                await until(lambda: seen.bodies == [phone()], "it fails on the one and matches the other")
                failures = sorted(one.filter_errors for one in agent.subscriptions)
                assert failures == [0, 1, 4], "1 div 0 fails on each, the last one on one of two"

        scene(work)


def test_others_are_not_shown_in_the_status(tmp_path: Path) -> None:
    with running(tmp_path) as agent:

        async def work() -> None:
            async with peer(agent) as admin, peer(agent, "anna", "x") as anna, peer(agent, "berta", "x") as berta:
                await anna.subscribe("//*:CallerId = 'a secret'")
                await berta.subscribe("//*:PhoneStatus")
                mine = await call(berta, "getStatus")
                assert [one["user"] for one in mine["subscriptions"]] == ["berta"]
                assert "a secret" not in json.dumps(mine)
                assert mine["users"] == {"berta": 1}
                assert not mine.keys() & {"published", "refused", "refusals", "schemas", "schema_problems", "sandboxed"}
                everything = await call(admin, "getStatus")
                assert {one["user"] for one in everything["subscriptions"]} == {"anna", "berta"}
                assert everything["users"] == {"admin": 1, "anna": 1, "berta": 1}
                assert "published" in everything

        scene(work)


def test_a_forged_sender_and_another_ones_reply_address_are_on_record(guarded: RunningAgent, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with peer(guarded, "anna", "x") as anna, peer(guarded, "berta", "x") as berta:
            theirs = await berta.connection.attach_receiver(Terminus(dynamic=True))
            source = theirs.remote_source
            assert source is not None
            requests = Peer(anna.connection)
            answer = await requests.publish(
                Draft('{"method": "getNodes"}', Properties(reply_to=source.address)), to=f"{DOMAIN}.command.core"
            )
            assert code_of(answer) == "address-unknown"
            forged = await anna.publish(Draft(phone(), Properties(user_id=b"berta")))
            assert code_of(forged) == "user-id-forged"

    with caplog.at_level(logging.WARNING, "clacks.audit"):
        scene(work)
    assert [(vars(one)["action"], vars(one)["what"]) for one in caplog.records if one.name == "clacks.audit"] == [
        ("reply to", "berta"),
        ("publish as", "berta"),
    ]


# --- changes ---------------------------------------------------------------------------------------------------------------------

PHONES = Rule(users=("anna",), subscribe=("PhoneStatus",), call=(Call("core", "getStatus"),))
NODES = Rule(users=("anna",), subscribe=("NodeLeave",))
BOTH = Rule(users=("anna",), subscribe=("PhoneStatus", "NodeLeave"))


@pytest.mark.parametrize("filters", [(), ("count(//*) > 0",), ("//*:Status = 'busy' or //*:Id = 'x'",)], ids=["none", "plain", "indexed"])
def test_other_rules_under_a_subscription(tmp_path: Path, filters: tuple[str, ...]) -> None:
    with running(tmp_path, PHONES) as agent:

        async def work() -> None:
            async with peer(agent) as admin, peer(agent, "anna", "x") as anna:
                _, seen = await anna.subscribe(*filters)
                sent = []
                for rule, visible in ((PHONES, [phone()]), (BOTH, [phone(), leave()]), (NODES, [leave()]), (PHONES, [phone()])):
                    permit(agent, rule)
                    for body in (phone(), leave()):
                        assert await admin.publish(Draft(body)) == ACCEPTED
                    sent += visible
                await until(lambda: len(seen.received) >= len(sent), "what may be seen arrives")
                assert seen.bodies == sent
                assert seen.ended == []

        scene(work)


def test_what_waits_is_looked_at_again(tmp_path: Path) -> None:
    with running(tmp_path, BOTH) as agent:

        async def work() -> None:
            async with peer(agent) as admin, peer(agent, "anna", "x") as anna:
                link, seen = await anna.subscribe(window=0)
                for number in range(3):
                    await admin.publish(Draft(phone(caller=str(number))))
                    await admin.publish(Draft(leave(str(number))))
                assert agent.subscriptions[0].waiting == 6
                permit(agent, PHONES)
                link.window = 100
                await until(lambda: len(seen.received) == 3, "what may still be seen arrives")
                assert seen.bodies == [phone(caller=str(number)) for number in range(3)]
                assert agent.subscriptions[0].waiting == 0
                await admin.publish(Draft(phone("mark")))
                await until(lambda: phone("mark") in seen.bodies, "what comes then arrives")
                assert seen.ended == []

        scene(work)


def test_what_the_sandbox_is_at_is_not_delivered(tmp_path: Path) -> None:
    """An answer that comes after the change says nothing: no delivery, no failure counted."""
    with running(tmp_path, BOTH) as agent:

        async def work() -> None:
            async with peer(agent) as admin, peer(agent, "anna", "x") as anna:
                _, seen = await anna.subscribe(DEAR_AND_FAILING)
                await admin.publish(Draft(leave()))
                await until(lambda: agent.subscriptions[0]._job is not None, "the sandbox is asked")
                permit(agent, PHONES)
                await admin.publish(Draft(phone()))
                await until(lambda: seen.received, "the next one arrives")
                assert seen.bodies == [phone()]
                assert agent.subscriptions[0].filter_errors == 0

        scene(work)


@pytest.mark.parametrize("address", [DOMAIN, f"{DOMAIN}.event.PhoneStatus"])
def test_a_subscription_to_what_is_not_permitted_any_more_is_detached(tmp_path: Path, address: str) -> None:
    with running(tmp_path, BOTH) as agent:

        async def work() -> None:
            async with peer(agent) as admin, peer(agent, "anna", "x") as anna:
                _, seen = await anna.subscribe(address=address)
                _, other = await anna.subscribe(address=f"{DOMAIN}.event.NodeLeave")
                permit(agent, *([NODES] if address != DOMAIN else [Rule(users=("anna",), publish=("*",))]))
                await until(lambda: seen.ended, "it is detached")
                condition, closed = seen.ended[0]
                assert condition is not None
                assert (condition.info["code"], closed) == ("not-permitted", True)
                await admin.publish(Draft(phone()))
                if address != DOMAIN:
                    await admin.publish(Draft(leave()))
                    await until(lambda: other.bodies == [leave()], "the other subscription goes on")
                assert seen.received == []

        scene(work)
        wait_for(lambda: not agent.subscriptions, "nothing is left")
        assert agent.run(lambda: (agent.agent.bus.subscriptions, len(agent.agent.bus._sights))) == (0, 0)


def test_a_schema_that_comes_later_is_seen_through_a_wildcard(tmp_path: Path) -> None:
    folder = tmp_path / "schemas"
    folder.mkdir()
    text = """<schema targetNamespace="http://www.gonicus.de/Events" xmlns="http://www.w3.org/2001/XMLSchema">
      <element name="{}" type="string"/></schema>"""
    rules = (Rule(users=("anna",), subscribe=("Door*",)),)
    with running(tmp_path / "state", *rules, schemas=[str(folder)]) as agent:

        async def work() -> None:
            async with peer(agent) as admin, peer(agent, "anna", "x") as anna:
                _, seen = await anna.subscribe()
                sent = []
                for name in ("DoorOpened", "Window", "DoorClosed"):
                    (folder / f"{name}.xsd").write_text(text.format(name))
                    await asyncio.to_thread(agent.agent._schemas_changed)
                    body = f'<Event xmlns="http://www.gonicus.de/Events"><{name}>x</{name}></Event>'.encode()
                    assert await admin.publish(Draft(body)) == ACCEPTED
                    sent += [body] if name != "Window" else []
                await until(lambda: len(seen.received) == 2, "both arrive")
                assert seen.bodies == sent

        scene(work)


def test_a_removed_user_is_disconnected_and_nobody_else(tmp_path: Path) -> None:
    with running(tmp_path, EVERYTHING) as agent:

        async def work() -> None:
            async with peer(agent) as admin, peer(agent, "anna", "x") as anna, peer(agent, "berta", "x") as berta:
                _, gone = await anna.subscribe()
                _, stays = await berta.subscribe()
                left = {name: user for name, user in PEOPLE.items() if name != "anna"}
                permit(agent, EVERYTHING, users={**left, "berta": make_user("berta", "another password")})
                await admin.publish(Draft(phone()))
                await until(lambda: gone.ended, "anna is told")
                await anna.connection.wait_closed()
                condition = gone.ended[0][0]
                assert condition is not None
                assert condition.info["code"] == "user-removed"
                assert "anna is not known to the agent any more" in str(condition)
                await until(lambda: stays.received, "berta, whose password has changed, is still there")
                assert gone.received == []

        scene(work)


def test_a_removed_user_who_does_not_take_leave_can_do_nothing(tmp_path: Path) -> None:
    """Between being told to go and being gone."""
    bus = Bus(SchemaRegistry(()), access=Access([EVERYTHING], {"anna": frozenset()}))
    bus.subscribe("hers", "anna", [compile_filter("//*")])
    incoming = Incoming(phone(), "anna")
    verdict = bus.publish(incoming)
    assert isinstance(verdict, Routed)
    assert verdict.matched == ["hers"]
    bus.access = Access([EVERYTHING], {})
    assert isinstance(bus.publish(incoming), Refused)
    verdict = bus.publish(Incoming(phone(), f"{NODE}x"))
    assert isinstance(verdict, Routed)
    assert verdict.matched == []
    with pytest.raises(ClacksError, match="may not subscribe"):
        bus.subscribe("again", "anna")
    assert not bus.may_call("anna", "core", "getNodes")


def test_who_is_removed_between_password_and_open_is_told_so(tmp_path: Path) -> None:
    with running(tmp_path, EVERYTHING) as agent:

        async def work() -> None:
            agent.run(lambda: setattr(agent.agent.bus, "access", Access([EVERYTHING], {})))
            connection = await connect("localhost", agent.port, Credentials("anna", "x"))
            await connection.wait_closed()
            assert connection._condition is not None
            assert connection._condition.info["code"] == "user-removed"

        scene(work)


# --- files -----------------------------------------------------------------------------------------------------------------------

WHOLE = """
# who may do what
[[rules]]
users = ["anna", "robot-*"]
groups = ["phones"]
publish = ["PhoneStatus"]
subscribe = ["Phone*", "Node*"]
call = [{ target = "core", method = "get*" }, { method = "sendEvent" }]
administer = true

[[rules]]
groups = ["nodes"]
"""


def test_the_form_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "access.toml"
    assert read_rules(file) == ()
    file.write_text(WHOLE)
    assert read_rules(file) == (
        Rule(
            ("anna", "robot-*"),
            ("phones",),
            ("PhoneStatus",),
            ("Phone*", "Node*"),
            (Call("core", "get*"), Call("core", "sendEvent")),
            True,
        ),
        Rule(groups=("nodes",)),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[rules]", "access.toml: not TOML: "),
        ("[rules]\nusers = ['a']", "rules: it is a single table. Each rule begins with [[rules]], in double brackets."),
        ("[[rule]]", "access.toml, rule: there is no such table. Each rule begins with [[rules]]."),
        ("[[rules]]\npublish = ['*']", "rule 1 (line 1): it is for nobody. Name users or groups"),
        ("rules = [1]", "rule 1: it is no table."),
        ("[[rules]]\nusers=['a']\n\n[[rules]]\nuser = ['b']", "rule 2 (line 4), user: a rule has no such key. Did you mean users?"),
        ("[[rules]]\nusers = 'a'", 'rule 1 (line 1), users: it is no list of names. Write it like users = ["*"].'),
        ("[[rules]]\nusers = [1]", "rule 1 (line 1), users: it is no list of names."),
        ("[[rules]]\nusers = ['a']\npublish = ['Phone?']", "publish: 'Phone?' is no name."),
        ("[[rules]]\nusers = ['a']\npublish = ['']", "publish: '' is no name."),
        ("[[rules]]\nusers = ['a']\nadminister = 'yes'", "administer: it is 'yes'. Write true or false."),
        ("[[rules]]\nusers = ['a']\ncall = ['core.get']", "call: it is no list of tables. Write it like call = [{ target"),
        ("[[rules]]\nusers = ['a']\ncall = [{ target = 'core' }]", "is no target and method."),
        ("[[rules]]\nusers = ['a']\ncall = [{ method = 'a', node = 'b' }]", "is no target and method."),
        ("[[rules]]\nusers = ['a']\ncall = [{ method = 'a b' }]", "call: 'a b' is no name."),
    ],
)
def test_a_file_that_is_not_in_order(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "access.toml"
    file.write_text(text)
    with pytest.raises(ClacksError) as caught:
        read_rules(file)
    assert caught.value.code == "config-invalid"
    assert str(caught.value).startswith(str(file))
    assert said in str(caught.value)
    with pytest.raises(ClacksError, match=r"access\.toml"), RunningAgent(tmp_path, users=None):
        pass


def test_the_file_is_beside_the_users() -> None:
    assert load(None, {"users_file": "/a/users.toml"}, {}).access_file == Path("/a/access.toml")
    assert load(None, {"state_dir": "/b", "access_file": "/a/rules.toml"}, {}).access_file == Path("/a/rules.toml")


@pytest.mark.parametrize("hangup", [False, True], ids=["by itself", "at SIGHUP"])
def test_changed_files_are_read_again(environment: dict[str, str], tmp_path: Path, hangup: bool) -> None:
    """Rules and users, also in different folders; what is broken keeps its last good version, and the log says so."""
    state, rules = tmp_path / "state", tmp_path / "rules" / "access.toml"
    rules.parent.mkdir()
    write_users(state / "users.toml", {"anna": PEOPLE["anna"], "admin": PEOPLE["admin"]})
    environment |= {"CLACKS_STATE_DIR": str(state), "CLACKS_ACCESS_FILE": str(rules)}
    with AgentProcess(["--listen", "localhost:0"], environment, tmp_path / "log") as agent:

        def told(words: str, change: Callable[[], object]) -> None:
            before = agent.log.read_text().count(words)
            change()
            if hangup:
                agent.process.send_signal(signal.SIGHUP)
            wait_for(lambda: agent.log.read_text().count(words) > before, words)

        with AMQPServiceProxy(agent.url().replace("admin:secret", "anna:x")) as anna:
            with pytest.raises(ClacksError, match="may not call getSessionUser"):
                anna.getSessionUser()
            assert "warning clacks.audit: refused user=anna action=call what=getSessionUser origin=" in agent.log.read_text()
            text = '[[rules]]\nusers = ["anna"]\ncall = [{ method = "get*" }]\n'
            told("rules read", lambda: rules.write_text(text))
            assert anna.getSessionUser() == "anna"
            told("rules not read", lambda: rules.write_text(text + "[[rules]]\npublish = 1\n"))
            assert "rule 2 (line 4), publish" in agent.log.read_text()
            assert anna.getSessionUser() == "anna", "the last good rules stay"
            told("users not read", lambda: (state / "users.toml").write_text("broken"))
            assert anna.getSessionUser() == "anna", "the last good users stay"
            told("rules read", lambda: os.replace(_written(tmp_path / "new", "# none\n"), rules))
            with pytest.raises(ClacksError, match="may not call getSessionUser"):
                anna.getSessionUser()
            told("disconnected user=anna", lambda: write_users_anew(state / "users.toml", {"admin": PEOPLE["admin"]}))
        assert list(read_users(state / "users.toml")) == ["admin"]


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def write_users_anew(path: Path, users: dict[str, User]) -> None:
    path.unlink()
    write_users(path, users)


# --- first experience ------------------------------------------------------------------------------------------------------------


def test_the_demos_user_and_that_of_a_local_bus_may_do_everything(tmp_path: Path) -> None:
    _, users = demo(load(None, {"state_dir": str(tmp_path)}, {}), {})
    rights = Access((), users.members()).rights("admin")
    assert granted(rights) == [True] * 5
    (tmp_path / "access.toml").write_text("broken")
    with LocalBus(state_dir=str(tmp_path)) as bus:
        seen: list[object] = []
        with bus.consumer(None, seen.append):
            bus.send(sample("NodeLeave"))
            bus.wait_for(lambda: seen)
        assert bus.proxy().getSessionUser() == "admin"


def test_the_agents_own_events_need_no_rule(tmp_path: Path) -> None:
    """And who sees them is a matter of rules."""
    rules = (Rule(users=("berta",), subscribe=("NodeStatus",)), Rule(users=("anna",), subscribe=("PhoneStatus",)))
    with running(tmp_path, *rules, status_interval=0.05) as agent:

        async def work() -> None:
            async with peer(agent, "berta", "x") as berta, peer(agent, "anna", "x") as anna, peer(agent) as admin:
                _, unseen = await anna.subscribe()
                _, seen = await berta.subscribe()
                await until(lambda: len(seen.received) > 2, "its status arrives")
                assert all(b"NodeStatus" in body for body in seen.bodies)
                await admin.publish(Draft(phone()))
                await until(lambda: unseen.received, "a phone's status arrives")
                assert unseen.bodies == [phone()]

        scene(work)
