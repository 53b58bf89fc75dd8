"""`clacks filter check`, `test` and `generate`: transcripts of what is typed and what is shown. No agent takes part."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from clacks.cli import filter as program
from clacks.cli.filter import pointed, visible
from clacks.cli.main import clacks
from clacks.common.event import parse
from clacks.common.schema import SchemaRegistry
from clacks.testing import sample
from clacks.xquery import compile_filter
from clacks.xquery import generate as generated
from conftest import DEADLINE
from test_cli import COLOUR, examples, on_terminal

EVENT = """<Event xmlns="http://www.gonicus.de/Events">
  <PhoneStatus>
    <CallerId>012345</CallerId>
    <ReceiverId> 1, 2</ReceiverId>
    <Status>busy</Status>
  </PhoneStatus>
</Event>
"""
BUSY = "/*:Event/*:PhoneStatus[*:Status = 'busy']"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run: an event that is busy, one that is idle, one that is none, and a filter."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "event.xml").write_text(EVENT)
    (folder / "other.xml").write_text(EVENT.replace("busy", "idle"))
    (folder / "broken.xml").write_text("<Event>")
    (folder / "filter.xq").write_text(f"(: who is busy :)\n{BUSY}\n")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return folder


def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(clacks, ["filter", *arguments], input=stdin)


def transcript(result: Result) -> str:
    """Everything that was shown, with the exit code as the last line."""
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return f"{result.output}exit {result.exit_code}"


# --- check -----------------------------------------------------------------------------------------------------------------------

DEAR = """\
               It is evaluated in the agent's sandbox, a process of its own; only its own subscription waits for it.
               The usual budget of one evaluation is 0.5 s of processor time and 256 MiB of memory.
               A filter that keeps exceeding it is suspended."""


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (BUSY, """\
  answered by  the index alone; the filter itself need not be evaluated
  looked for   /Event/PhoneStatus/Status = 'busy'
  cost         cheap: the work is bounded by the size of the event"""),
        ("//*:Status = ('busy', 'idle')", """\
  answered by  the index alone; the filter itself need not be evaluated
  looked for   //Status = 'busy'
               or //Status = 'idle'
  cost         cheap: the work is bounded by the size of the event"""),
        ("//*:Status[contains(., 'us')]", """\
  answered by  the agent's own evaluator, for the events that the index picks out
  looked for   //Status exists
  cost         cheap: the work is bounded by the size of the event"""),
        ("count(//*:Status) > 3", """\
  answered by  the agent's own evaluator, for every event
  looked for   nothing: no condition of this filter can be looked up
  cost         cheap: the work is bounded by the size of the event"""),
        ("some $x in //*, $y in //* satisfies $x/@id = $y/@ref", f"""\
  answered by  the agent's own evaluator, for the events that the index picks out
  looked for   //* exists
  cost         dear: a loop inside a loop over the event (line 1, column 17)
                 some $x in //*, $y in //* satisfies $x/@id = $y/@ref
                                 ^
{DEAR}"""),
        ("declare variable $n as xs:integer? external; declare variable $site external; $n > 5 and $site", """\
  answered by  the agent's own evaluator, for every event
  looked for   nothing: no condition of this filter can be looked up
  properties   $n as xs:integer?
               $site
  cost         cheap: the work is bounded by the size of the event"""),
        ("//*:PhoneStatus[@id = 1]/Status = 'busy' and\n  //Status", """\
  answered by  the agent's own evaluator, for the events that the index picks out
  looked for   //PhoneStatus/Status = 'busy'
  names        Status is in no namespace (line 1, column 26); elements of events mostly are in one: *:Status finds them
  cost         cheap: the work is bounded by the size of the event"""),
        ("declare default element namespace 'http://www.gonicus.de/Events'; //Status = 'busy'", """\
  answered by  the index alone; the filter itself need not be evaluated
  looked for   //Status = 'busy'
  cost         cheap: the work is bounded by the size of the event"""),
    ],
)  # fmt: skip
def test_check(query: str, said: str) -> None:
    assert transcript(run("check", query)) == f"The filter compiles.\n{said}\nexit 0"


def test_check_of_what_is_not_native() -> None:
    pytest.importorskip("saxonche")
    lines = run("check", "<a/>").output.splitlines()
    assert lines[1].startswith("  answered by  Saxon, the full XQuery engine, for ")
    assert lines[2].endswith("since the agent's own evaluator does not know a direct constructor; install clacks[xquery] there, too")
    assert "dear: a direct constructor" in "".join(lines)


SYNTAX = "This is not the syntax of XQuery 3.1. Compare the text around the position with the examples of the guide."


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("/*:Event[", f"""\
line 1, column 10: [XPST0003] Expected an expression, found the end of the filter. {SYNTAX}
  /*:Event[
           ^"""),
        ("//a\nand\n  //b\nand $x = 1", """\
line 4, column 5: [XPST0008] $x. The name is not declared. Declare a variable with `declare variable $name external;`.
  2 | and
  3 |   //b
  4 | and $x = 1
          ^"""),
        ("doc('/etc/hostname')", """\
line 1, column 1: [CLXQ0001] doc() is refused. Filters cannot read the outside world. Use the event and its application properties only.
  doc('/etc/hostname')
  ^"""),
        ("'日本', //a[\t)", f"""\
line 1, column 12: [XPST0003] Expected an expression, found `)`. {SYNTAX}
  '日本', //a[\t)
              \t^"""),
    ],
)  # fmt: skip
def test_a_mistake_is_pointed_at(query: str, said: str) -> None:
    for command in (["check", query], ["test", query, "event.xml"]):
        result = run(*command)
        assert transcript(result) == f"error: The filter does not compile: {said}\nexit 2"
        assert result.stdout == ""


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_are_those_of_the_file(folder: Path, end: bytes) -> None:
    (folder / "filter.xq").write_bytes(end.join([b"//a", b"and", b"]", b""]))
    shown = run("check", "filter.xq").output.splitlines()
    assert shown[0].startswith("error: The filter does not compile: line 3, column 1")
    assert shown[1:] == ["  1 | //a", "  2 | and", "  3 | ]", "      ^"]


def test_a_long_line_is_cut_around_the_mistake() -> None:
    for before in (0, 10, 500):
        for after in (0, 10, 500):
            text = "a" * before + "!" + "b" * after
            line, caret = pointed(text, 1, before + 1)
            assert line[caret.index("^")] == "!"
            assert len(line) <= program.WIDTH + 2


def test_places_outside_the_text_are_not_pointed_at() -> None:
    assert list(pointed("a", 0, 0)) == list(pointed("a", 7, 1)) == []


def test_check_as_json() -> None:
    result = run("check", "--json", BUSY)
    assert json.loads(result.stdout) == {
        "valid": True,
        "tier": "index",
        "cost": "cheap",
        "reason": "",
        "line": 0,
        "column": 0,
        "conditions": ["/Event/PhoneStatus/Status = 'busy'"],
        "properties": {},
        "no_namespace": [],
    }
    refused = run("check", "--json", "//a[")
    error = json.loads(refused.stdout)["error"]
    assert (refused.exit_code, error["code"], error["line"], error["column"], error["w3c"]) == (2, "filter-invalid", 1, 5, "XPST0003")
    assert "\n" not in error["message"]
    assert refused.stderr.startswith("error: The filter does not compile")


# --- where filters and events come from ------------------------------------------------------------------------------------------


def test_a_filter_is_text_a_file_or_the_standard_input(folder: Path) -> None:
    (folder / "with mark.xq").write_bytes(b"\xef\xbb\xbf" + BUSY.encode() + b"\r\n")
    for place in (BUSY, "filter.xq", str(folder / "filter.xq"), "with mark.xq"):
        assert transcript(run("test", place, "event.xml")).endswith("exit 0"), place
    assert run("test", "-", "event.xml", stdin=BUSY).exit_code == 0
    assert run("test", "filter.xq", "-", stdin=EVENT).output.startswith("standard input: match ")
    assert run("check", ".").exit_code == run("check", "/").exit_code == 0  # folders, but filters first


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check"], "Missing argument 'QUERY|FILE'"),
        (["test", BUSY], "Missing argument 'EVENT.xml...'"),
        (["test", "-", "-"], "The standard input can be read once"),
        (["test", BUSY, "-", "-"], "The standard input can be read once"),
        (["test", BUSY, "nothing.xml"], "nothing.xml cannot be read: No such file or directory"),
        (["test", BUSY, "."], ". cannot be read: Is a directory"),
        (["test", "--property", "site", BUSY, "event.xml"], "The property 'site' is not NAME=VALUE."),
        (["check", "bussy.xq"], "There is no file bussy.xq. If an element has this name, write (bussy.xq)."),
        (["check", "latin.xq"], "latin.xq is not UTF-8 (byte 1). Save the filter as UTF-8."),
        (["generate", "nothing.xml"], "nothing.xml cannot be read: No such file or directory"),
    ],
)
def test_usage(folder: Path, arguments: list[str], said: str) -> None:
    (folder / "latin.xq").write_bytes(b"'\xe4'")
    result = run(*arguments)
    assert (result.exit_code, said in result.stderr) == (2, True), result.output
    assert result.stdout == ""


def test_an_element_may_be_called_as_a_file_is() -> None:
    assert run("check", "(bussy.xq)").exit_code == run("check", "/a/bussy.xq = 'x y'").exit_code == 0


# --- test ------------------------------------------------------------------------------------------------------------------------

OWN = "on an agent answered by the agent's own evaluator"
INDEX = "on an agent answered by the index"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([BUSY, "event.xml"], f"""\
event.xml: match ({INDEX})
exit 0"""),
        ([BUSY, "event.xml", "other.xml"], f"""\
event.xml: match ({INDEX})
other.xml: no match ({INDEX})
  no    *:Status = 'busy'  (line 1, column 24; seen: idle)
exit 1"""),
        (["filter.xq", "other.xml"], f"""\
other.xml: no match ({INDEX})
  no    *:Status = 'busy'  (line 2, column 24; seen: idle)
exit 1"""),
        (["--verbose", BUSY, "event.xml"], f"""\
event.xml: match ({INDEX})
  yes   *:Status = 'busy'  (line 1, column 24; seen: busy)
exit 0"""),
        (["//*:PhoneStatus[*:Status = 'idle' and *:CallerId = 12345]", "event.xml"], f"""\
event.xml: no match ({OWN})
  no    *:Status = 'idle' and *:CallerId = 12345  (line 1, column 17)
    no    *:Status = 'idle'  (line 1, column 17; seen: busy)
    yes   *:CallerId = 12345  (line 1, column 39; seen: 012345)
exit 1"""),
        (["not(//*:Status = 'busy')", "event.xml"], f"""\
event.xml: no match ({OWN})
  no    not(//*:Status = 'busy')  (line 1, column 1)
    yes   //*:Status = 'busy'  (line 1, column 5; seen: busy)
exit 1"""),
        (["/*:Event/*:UserSession", "event.xml"], f"""\
event.xml: no match ({INDEX})
  no    *:UserSession selects nothing  (line 1, column 10)
exit 1"""),
        (["//*:ReceiverId = '1, 2'", "event.xml"], f"""\
event.xml: no match ({INDEX})
  no    //*:ReceiverId = '1, 2'  (line 1, column 1; seen: ' 1, 2')
exit 1"""),
        (["for $x in //*:Status where $x = 'idle' return $x", "event.xml"], f"""\
event.xml: no match ({OWN})
  no    $x = 'idle'  (line 1, column 28; seen: busy)
  -     $x  (line 1, column 47)
exit 1"""),
        (["xs:integer(//*:Status) > 1", "event.xml"], f"""\
event.xml: no match, since the filter fails on it ({OWN})
  fails xs:integer(//*:Status) > 1  (line 1, column 1)
        [FORG0001] 'busy' is not an xs:integer. The text cannot be read as this type. Test it with `castable as` first.
exit 1"""),
        (["some $x in //*, $y in //* satisfies $x = $y/@id", "event.xml"], """\
event.xml: no match (on an agent answered in its sandbox by the agent's own evaluator)
  no    $x = $y/@id  ...
    no    @id selects nothing  (line 1, column 45)
exit 1"""),
    ],
)  # fmt: skip
def test_which_clause_failed(arguments: list[str], said: str) -> None:
    assert re.fullmatch(re.escape(said).replace(re.escape("..."), ".*"), transcript(run("test", *arguments)))


def test_properties_are_strings_as_sendevent_sends_them() -> None:
    site = "declare variable $site external; $site = 'oslo'"
    assert run("test", "--property", "site=oslo", site, "event.xml").exit_code == 0
    assert run("test", "--property", "site=bergen", "--property", "x=1", site, "event.xml").exit_code == 1
    missing = run("test", site, "event.xml")
    assert (missing.exit_code, "[XPDY0002] The variable $site has no value." in missing.output) == (1, True)
    number = run("test", "--property", "count=3", "declare variable $count as xs:integer external; $count > 2", "event.xml")
    assert (number.exit_code, "is not of type xs:integer" in number.output) == (1, True)


def test_what_is_no_xml_does_not_hide_the_others() -> None:
    result = run("test", BUSY, "broken.xml", "other.xml", "event.xml")
    assert result.exit_code == 3
    assert re.findall(r"(?m)^\S+: (?:no )?match", result.stdout) == ["other.xml: no match", "event.xml: match"]
    assert re.fullmatch(r"error: broken.xml: The event is not well-formed XML: .*\n", result.stderr)


def test_what_no_agent_would_take_is_noted() -> None:
    result = run("test", "/a", "-", stdin="<a/>")
    assert (result.exit_code, result.stdout) == (0, f"standard input: match ({INDEX})\n")
    assert result.stderr.startswith("note: standard input: The root element is <a>; an event is ")


def test_an_evaluation_longer_than_the_budget_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.1, 0.0, 7.0])
    monkeypatch.setattr("time.process_time", lambda: next(times))
    dear = "some $x in //*, $y in //* satisfies $x = $y"
    assert run("test", dear, "event.xml").stderr == ""
    said = "note: event.xml: this took 7.0 s, explanation included; the usual budget of an evaluation in an agent is 0.5 s.\n"
    assert run("test", dear, "event.xml").stderr == said


def test_an_engine_that_explains_nothing() -> None:
    pytest.importorskip("saxonche")
    result = run("test", "<a/> and false()", "event.xml")
    assert (result.exit_code, "This engine does not tell which clause it was." in result.output) == (1, True)


def test_test_as_json() -> None:
    result = run("test", "--json", "//*:Status = 'busy' and //*:CallerId", "event.xml", "other.xml", "broken.xml")
    assert result.exit_code == 3
    matching, other, broken = json.loads(result.stdout)
    assert (matching["event"], matching["matches"], matching["failed"], matching["error"]) == ("event.xml", True, [], None)
    failed = {"text": "//*:Status = 'busy'", "line": 1, "column": 1, "held": False, "values": ["idle"], "error": None, "note": None}
    assert (other["matches"], other["failed"], other["cost"]) == (False, [failed], "cheap")
    assert [one["held"] for one in other["clauses"][0]["clauses"]] == [False, True]
    assert (broken["event"], broken["matches"], broken["error"]["code"]) == ("broken.xml", None, "xml-malformed")
    [failing] = json.loads(run("test", "--json", "xs:integer(//*:Status) > 1", "event.xml").stdout)
    assert (failing["matches"], failing["error"]["code"], failing["failed"][0]["held"]) == (False, "FORG0001", None)


def test_a_terminal_is_not_given_commands_of_an_event_or_a_filter(folder: Path) -> None:
    (folder / "event.xml").write_text(EVENT.replace("busy", "b\x9b31musy\u202e"))
    result = run("test", "//*:Status = '\x84'", "event.xml")
    assert r"= '\x84'" in result.output
    assert r"seen: b\x9b31musy\u202e" in result.output
    assert set("\x84\x9b\u202e") & set(result.output) == set()
    refused = run("check", "'\x9b' + ]")
    assert "\x9b" not in refused.output
    assert visible("ä\t日") == "ä\t日"


# --- generate --------------------------------------------------------------------------------------------------------------------


def test_generate() -> None:
    expected = """\
declare namespace f = 'http://www.gonicus.de/Events';
/f:Event/f:PhoneStatus[
  f:CallerId = '012345'
  and f:ReceiverId = ' 1, 2'
  and f:Status = 'busy'
]
"""
    assert transcript(run("generate", "event.xml")) == f"{expected}exit 0"
    assert run("generate", "-", stdin=EVENT).stdout == expected
    assert json.loads(run("generate", "--json", "event.xml").stdout) == {"filter": expected.removesuffix("\n")}
    broken = run("generate", "broken.xml")
    assert (broken.exit_code, broken.stdout) == (3, "")
    assert broken.stderr.startswith("error: broken.xml: The event is not well-formed XML")


@pytest.mark.parametrize("name", sorted(SchemaRegistry(()).current))
def test_what_is_generated_matches(name: str, folder: Path) -> None:
    (folder / "event.xml").write_bytes(sample(name))
    text = run("generate", "event.xml").stdout
    assert text == generated(parse((folder / "event.xml").read_bytes())) + "\n"
    assert compile_filter(text).cost == "cheap"
    (folder / "made.xq").write_text(text)
    assert transcript(run("test", "made.xq", "event.xml")).endswith("exit 0")


# --- as processes ----------------------------------------------------------------------------------------------------------------


EXAMPLES = [(line, words) for line, words in examples("clacks") if words[1] == "filter"]


@pytest.mark.parametrize(("line", "words"), EXAMPLES)
def test_every_example_runs(line: str, words: list[str]) -> None:
    stdin = BUSY if words[2:4] == ["check", "-"] else EVENT
    result = run(*words[2:], stdin=stdin)
    assert result.exit_code == (1 if "other.xml" in words else 0), result.output


def process(folder: Path, environment: dict[str, str], *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    command = [sys.executable, "-W", "error", "-m", "clacks.cli", "filter", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, input=stdin, capture_output=True, text=True, timeout=DEADLINE)
    return done.returncode, done.stdout, done.stderr


def test_as_processes(folder: Path, environment: dict[str, str]) -> None:
    code, text, errors = process(folder, environment, "generate", "event.xml")
    assert (code, errors) == (0, "")
    assert process(folder, environment, "check", "-", stdin=text)[0] == 0
    assert process(folder, environment, "test", "-", "event.xml", stdin=text)[::2] == (0, "")
    assert process(folder, environment, "test", "filter.xq", "other.xml")[::2] == (1, "")
    assert process(folder, environment, "test", "filter.xq", "-", stdin="nothing")[0] == 3
    code, out, errors = process(folder, environment, "check", "//a[")
    assert (code, out, errors.splitlines()[1:]) == (2, "", ["  //a[", "      ^"])


def test_names_that_are_not_text(folder: Path, environment: dict[str, str]) -> None:
    (folder / os.fsdecode(b"\xff.xml")).write_text(EVENT)
    code, out, errors = process(folder, environment, "test", BUSY, os.fsdecode(b"\xff.xml"))
    assert (code, "match" in out, errors) == (0, True, "")


def test_colours_on_a_terminal_unless_unwanted(environment: dict[str, str]) -> None:
    environment = environment | {"TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    typed = "clacks filter test \"//*:Status = 'busy' or //*:CallerId = 1\" event.xml other.xml"
    code, screen = on_terminal(typed, environment)
    assert code == 1
    assert re.search(r"\x1b\[32m\x1b\[1mmatch", screen)
    assert re.search(r"\x1b\[31m\x1b\[1mno match", screen)
    plain = on_terminal(typed, environment | {"NO_COLOR": "1"})[1]
    assert not COLOUR.search(plain)
    assert plain == re.sub(r"\x1b\[[0-9;]*m", "", screen)
