"""The documents tell the truth: their blocks run and print what they show, their links lead somewhere, the functions they name exist.

A page is played from top to bottom in a folder of its own, as a reader would type it. A comment above a block says what is special:
`not run: REASON`, `file: NAME` (it is saved there), `in a terminal of its own` (it goes on while the others run), `output` (what the block
above prints, `...` stands for anything).
"""

from __future__ import annotations

import ast
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from clacks.testing import LocalBus, sample
from clacks.xquery import FilterError, compile_filter
from conftest import CHECKOUT, DEADLINE, AgentProcess, wait_for
from test_foreign_rhea import rhea  # noqa: F401  (a fixture)

PAGES = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md")])
MARK = re.compile(r"<!-- (not run|file|in a terminal of its own|output)(?:: (.+))? -->")
RUN = ("python", "js", "console")


@dataclass(frozen=True)
class Block:
    """A fenced block: what is in it, and the comments directly above."""

    page: Path
    line: int
    language: str
    text: str
    marks: dict[str, str]

    def __str__(self) -> str:
        return f"{self.page.name}, line {self.line}"

    @property
    def runs(self) -> bool:
        return self.language in RUN and "not run" not in self.marks


def blocks(page: Path) -> list[Block]:
    found = []
    lines = page.read_text("utf-8").splitlines()
    marks: dict[str, str] = {}
    numbers = iter(range(len(lines)))
    for number in numbers:
        line = lines[number]
        if mark := MARK.fullmatch(line):
            marks[mark[1]] = mark[2] or ""
        elif line.startswith("```"):
            end = next(later for later in range(number + 1, len(lines)) if lines[later] == "```")
            found.append(Block(page, number + 1, line[3:], "\n".join(lines[number + 1 : end]) + "\n", marks))
            marks = {}
            for _ in range(number, end):
                next(numbers)
        elif line.strip():
            assert not marks, f"{page.name}, line {number}: a mark without a block"
    return found


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


# --- playing a page --------------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def typed(block: Block) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with the output that is shown for it."""
    command, shown = "", ""
    for line in block.text.splitlines(keepends=True):
        if line.startswith("$ "):
            if command:
                yield command, shown
            command, shown = line[2:], ""
        elif line.startswith("> ") and not shown:
            command += line[2:]
        else:
            shown += line
    assert command, f"{block}: no command"
    yield command, shown


def alike(shown: str, found: str) -> bool:
    """Whether an output is what a page shows; `...` stands for anything."""

    def words(text: str) -> str:
        return "\n".join(line.rstrip() for line in text.strip().splitlines())

    return re.fullmatch(re.escape(words(shown)).replace(re.escape("..."), ".*"), words(found), re.DOTALL) is not None


@dataclass
class Stage:
    """Where a page is played: a folder, a shell's environment, and two ports that stand for the usual ones."""

    folder: Path
    environment: dict[str, str]
    plain: int = field(default_factory=free_port)
    secure: int = field(default_factory=free_port)
    logs: list[Path] = field(default_factory=list)
    running: list[tuple[subprocess.Popen[bytes], Block, str, Path]] = field(default_factory=list)

    def here(self, text: str) -> str:
        """What a reader would type, with the ports that are ours."""
        usual = "clacks-agent --demo --listen localhost:5672 --listen-tls localhost:5671"
        text = re.sub(r"(?m)^clacks-agent --demo(?!.*--listen)", usual, text)
        text = re.sub(r"\b(amqps?)(://(?:[^\s@/]+@)?localhost)(?![:\w])", self._with_port, text)
        return re.sub(r"\b5672\b", str(self.plain), re.sub(r"\b5671\b", str(self.secure), text))

    def _with_port(self, match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}:{5671 if match[1] == 'amqps' else 5672}"

    def there(self, text: str) -> str:
        """What came out, with the ports that a reader would see."""
        return text.replace(str(self.plain), "5672").replace(str(self.secure), "5671")

    @property
    def subscribed(self) -> int:
        return sum(log.read_text().count(": subscribed ") for log in self.logs)

    def play(self, block: Block, expected: str) -> None:
        if block.language == "console":
            for command, shown in typed(block):
                kept = '{ c=$?; export -p; echo "(exit $c)"; } > .shell.$$; mv .shell.$$ .shell'  # other terminals read it at any time
                script = f". ./.shell\n{self.here(command)}\n{kept}\n(exit $c)"
                self._run(["bash", "-c", script], block, shown)
            return
        name = block.marks.get("file") or f"line{block.line}.{'py' if block.language == 'python' else 'js'}"
        (self.folder / name).write_text(self.here(block.text))
        if block.language == "js":
            self._run(["node", name], block, expected)
        elif "def test_" in block.text:
            self._run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name], block, "... passed in ...")
        else:
            self._run([sys.executable, "-W", "error", name], block, expected)

    def _run(self, command: list[str], block: Block, shown: str) -> None:
        if "in a terminal of its own" in block.marks:
            self._start(command, block, shown)
            return
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=4 * DEADLINE,
        )
        found = self.there(done.stdout)
        # A line that shows an error is meant to fail.
        assert done.returncode == 0 or re.search("(?m)^(error|Error|Usage):?", shown), f"{block} ends with {done.returncode}:\n{found}"
        assert not shown.strip() or alike(shown, found), f"{block} prints:\n{found}\nand not:\n{shown}"

    def _has_shown(self, shown: str, out: Path) -> bool:
        """Whether a terminal that goes on begins with what the page shows."""
        found = self.there(out.read_text())
        return alike(shown, found) or alike(f"{shown.rstrip()}\n...", found)

    def _start(self, command: list[str], block: Block, shown: str) -> None:
        out, log = self.folder / f".out{block.line}", self.folder / f".log{block.line}"
        before = self.subscribed
        with out.open("wb") as stdout, log.open("wb") as stderr:
            process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=stdout, stderr=stderr, start_new_session=True)
        self.running.append((process, block, shown, out))
        if "clacks-agent" in block.text:
            self.logs.append(log)

        def ready() -> bool:
            if process.poll() is not None:
                pytest.fail(f"{block} ended with {process.returncode}:\n{log.read_text()}")
            return self.subscribed > before or (bool(shown.strip()) and self._has_shown(shown, out))

        wait_for(ready, f"{block} has subscribed or printed what it shows")

    def finish(self) -> None:
        for _, block, shown, out in self.running:
            if shown.strip():
                wait_for(lambda out=out, shown=shown: self._has_shown(shown, out), f"{block} prints:\n{shown}")

    def stop(self) -> None:
        for process, *_ in reversed(self.running):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(DEADLINE)


@pytest.fixture
def stage(tmp_path: Path, environment: dict[str, str]) -> Iterator[Stage]:
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / ".shell").write_text("")
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    modules = str(CHECKOUT / "tests" / "rhea" / "node_modules")
    stage = Stage(folder, {**environment, "PATH": path, "NODE_PATH": modules, "COLUMNS": "200"})
    try:
        yield stage
    finally:
        stage.stop()


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.runs for block in blocks(page))], ids=lambda page: page.stem)
def test_the_page_can_be_typed(page: Path, stage: Stage, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    content = blocks(page)
    without_node = ""
    if any(block.language == "js" and block.runs for block in content):
        try:
            request.getfixturevalue("rhea")
        except pytest.skip.Exception as skipped:
            without_node = str(skipped)
    own_agent = any("terminal" in " ".join(block.marks) and "clacks-agent" in block.text for block in content)
    usual = ["--demo", "--listen", f"localhost:{stage.plain}", "--listen-tls", f"localhost:{stage.secure}"]
    agent = None if own_agent else AgentProcess(usual, stage.environment, tmp_path / "agent.log")
    if agent is not None:
        agent.__enter__()
        stage.logs.append(agent.log)
    try:
        consoles = "".join(block.text for block in content if block.language == "console")
        for block, after in zip(content, [*content[1:], None], strict=True):
            if name := block.marks.get("file"):
                (stage.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (stage.folder / name).write_text(stage.here(block.text))
                if name in consoles.split():
                    continue  # a command of the page runs it
            if block.runs and not (block.language == "js" and without_node):
                stage.play(block, after.text if after is not None and "output" in after.marks else "")
        stage.finish()
    finally:
        stage.stop()
        if agent is not None:
            agent.__exit__()
    if without_node:
        pytest.skip(without_node)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_not_run_is_in_order(page: Path) -> None:
    for block in blocks(page):
        if block.language == "xquery":
            assert compile_filter(block.text), str(block)
        elif block.language == "xml":
            etree.fromstring(block.text.encode())
        elif block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "python":
            compile(block.text, str(block), "exec")
        assert block.language or "```" not in block.text, str(block)
        assert "not run" not in block.marks or block.marks["not run"], f"{block}: not run, and why?"


# --- links -----------------------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as the usual renderers make them."""
    headings = re.findall(r"(?m)^#+ (.+)$", prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(there), f"{page.name} links to {target}"


def test_every_page_is_found_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(([^)#\s]+)", prose(CHECKOUT / "README.md")))
    assert {str(page.relative_to(CHECKOUT)) for page in PAGES} - {"README.md"} <= linked


# --- the life of an event --------------------------------------------------------------------------------------------------------


def life() -> dict[str, list[tuple[str, str]]]:
    """The sections of the life of an event: their functions, each with its file, in order."""
    text = (CHECKOUT / "CONTRIBUTING.md").read_text("utf-8")
    chapter = text.partition("## The life of an event")[2].partition("\n## ")[0]
    sections = re.split(r"(?m)^### (.+)$", chapter)
    assert "`" not in re.sub(r"\]\([^)]*\)", "", sections[0]).replace("`BusClient.send`", "").replace("`sendEvent`", "")
    return {name: re.findall(r"\[`([\w.]+)`\]\(([\w/.]+)\)", body) for name, body in zip(sections[1::2], sections[2::2], strict=True)}


def functions(path: Path) -> set[str]:
    """The functions of a file, methods with their class in front."""
    tree = ast.parse(path.read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = {node.name for node in tree.body if isinstance(node, kinds)}
    for class_ in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        found |= {f"{class_.name}.{node.name}" for node in class_.body if isinstance(node, kinds)}
    return found


def test_contributing_opens_with_the_life_of_an_event() -> None:
    headings = re.findall(r"(?m)^#+ (.+)$", (CHECKOUT / "CONTRIBUTING.md").read_text("utf-8"))
    assert headings[1] == "The life of an event"


def test_every_function_in_the_life_of_an_event_exists() -> None:
    named = {step for steps in life().values() for step in steps}
    assert len(named) > 20
    for name, file in named:
        assert name in functions(CHECKOUT / file), f"{file} has no {name}"
    # What is mentioned in passing has its place somewhere in the chapter, or in the code all the same.
    text = (CHECKOUT / "CONTRIBUTING.md").read_text("utf-8").partition("## The life of an event")[2].partition("\n## ")[0]
    everywhere = {name for path in (CHECKOUT / "clacks").rglob("*.py") for name in functions(path)}
    assert {name for name in re.findall(r"`([A-Z]\w+\.\w+)`", text) if name not in everywhere} - {"AMQPServiceProxy.sendEvent"} == set()


class Witness:
    """Writes down which of the named functions are called, in every thread it is told to watch."""

    def __init__(self, wanted: set[tuple[str, str]]) -> None:
        self._wanted = wanted
        self.seen: list[tuple[str, str]] = []

    def __call__(self, frame: Any, event: str, arg: Any) -> None:
        if event == "call":
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(CHECKOUT):
                call = frame.f_code.co_qualname, str(path.relative_to(CHECKOUT))
                if call in self._wanted:
                    self.seen.append(call)


def test_the_life_of_an_event_goes_that_way() -> None:
    """One event, published and received in this process over a transport in memory; the functions are called in the order of the text."""
    sections = life()
    witness = Witness({step for steps in sections.values() for step in steps})
    seen: list[Any] = []
    with LocalBus() as bus, bus.consumer("/*:Event/*:PhoneStatus", seen.append):
        watched_thread: Callable[[Any], None] = bus._background.loop.call_soon_threadsafe  # type: ignore[assignment]
        bus.send(sample("PhoneStatus"))
        bus.wait_for(lambda: seen)
        bus.wait_for(lambda: all(not one.unsettled for one in bus.agent.broker.subscriptions.all))
        witness.seen.clear()
        watched_thread(lambda: sys.setprofile(witness))
        threading.setprofile(witness)  # the callback's thread of the second consumer
        try:
            with bus.consumer("/*:Event/*:PhoneStatus", seen.append):
                seen.clear()
                witness.seen.append(("published", ""))
                bus.send(sample("PhoneStatus"))
                bus.wait_for(lambda: len(seen) == 2)
                bus.wait_for(lambda: all(not one.unsettled for one in bus.agent.broker.subscriptions.all))
        finally:
            threading.setprofile(None)
            watched_thread(lambda: sys.setprofile(None))
    calls = witness.seen[witness.seen.index(("published", "")) :]
    elsewhere = {"_Worker._run", "Intake.refuse", "as_outcome"}  # called once and stays; called for what is refused
    for section, steps in sections.items():
        if section == "Detours":
            continue
        left = iter(calls)
        for step in steps:
            if step[0] not in elsewhere:
                assert step in left, f"{section}: {step[0]} is not called, or not after those before it"


# --- filters ---------------------------------------------------------------------------------------------------------------------

PROPERTIES: dict[str, object] = {"site": "oslo", "count": 3, "urgent": False}
ROW = re.compile(r"(?m)^\| `(.+?)` \| (yes|no|fails|refused) \|")


@pytest.mark.parametrize(("text", "expected"), ROW.findall((CHECKOUT / "docs" / "filters.md").read_text("utf-8")))
def test_the_table_of_filters(text: str, expected: str) -> None:
    if "f:" in text:
        text = f"declare namespace f='http://www.gonicus.de/Events'; {text}"
    document = etree.ElementTree(etree.fromstring(next(block for block in blocks(CHECKOUT / "docs" / "filters.md") if block.marks).text))
    try:
        compiled = compile_filter(text)
    except FilterError:
        assert expected == "refused"
        return
    try:
        found = "yes" if compiled.matches(document, PROPERTIES) else "no"
    except FilterError:
        found = "fails"
    assert found == expected
