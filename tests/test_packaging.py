"""What is installed works: the events are found from a wheel, an sdist and an editable installation; and what docker/ names exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import pytest

from conftest import CHECKOUT, AgentProcess

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
EVENTS = sorted(path.name for path in (CHECKOUT / "schemas" / "events").iterdir())
SECONDS = 100  # that building or installing takes at most, on a busy machine


def call(*command: str | Path, folder: Path | None = None) -> str:
    """Run a command without what the environment says of Python and of Clacks; answer its output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CLACKS_"))}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


# --- wheel, sdist, editable ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An sdist of the checkout, and two wheels: one of the checkout, one of the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir"]
    call(*build, folder / "sdist", CHECKOUT)  # without --wheel or --sdist the wheel is made from the sdist
    call(*build, folder / "wheel", "--wheel", CHECKOUT)
    return {
        "the sdist": next((folder / "sdist").glob("*.tar.gz")),
        "a wheel of the sdist": next((folder / "sdist").glob("*.whl")),
        "a wheel": next((folder / "wheel").glob("*.whl")),
    }


@pytest.mark.parametrize("of", ["a wheel", "a wheel of the sdist"])
def test_a_wheel_has_what_belongs_into_it(built: dict[str, Path], of: str) -> None:
    names = set(ZipFile(built[of]).namelist())
    assert {f"clacks/common/data/events/{name}" for name in EVENTS} <= names
    assert "clacks/py.typed" in names
    modules = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "clacks").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules, "the modules, and no tests"


def test_the_sdist_has_what_a_wheel_is_made_of(built: dict[str, Path]) -> None:
    with tarfile.open(built["the sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "clacks/py.typed"} <= names
    assert {f"schemas/events/{name}" for name in EVENTS} <= names


QUESTIONS = """
import json, sys
from importlib.metadata import version, entry_points
import clacks
from clacks.common.schema import SchemaRegistry, installed_folder
from clacks.testing import sample
schemas = SchemaRegistry().current
for name in schemas:
    assert schemas.examine(sample(name)).name == name
print(json.dumps({"package": clacks.__file__, "version": version("clacks"), "folder": str(installed_folder()), "events": sorted(schemas)}))
"""


def check_installation(python: Path, home: Path, events: Path) -> None:
    found = json.loads(call(python, "-c", QUESTIONS, folder=Path("/")))
    assert Path(found["package"]) == home / "clacks" / "__init__.py"
    assert Path(found["folder"]) == events
    assert found["events"] == sorted(name.removesuffix(".xsd") for name in EVENTS if name.endswith(".xsd"))
    assert found["version"] == PROJECT["version"]
    for script in PROJECT["scripts"]:
        assert call(python.parent / script, "--version", folder=Path("/")) == f"{script} {PROJECT['version']}\n"


@pytest.mark.parametrize("of", ["a wheel", "a wheel of the sdist"])
def test_a_wheel_is_complete_where_it_is_installed(built: dict[str, Path], tmp_path: Path, of: str) -> None:
    """In an environment that has nothing of its own but Clacks; what Clacks needs is that of the tests."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    # Folders that a .pth file names are searched last, and their own .pth files, as that of the tests' editable Clacks, are not read.
    (site / "needed.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("-packages")))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", "--ignore-installed"]
    call(*pip, built[of])
    check_installation(python, site, site / "clacks" / "common" / "data" / "events")


def test_an_editable_installation_takes_the_events_of_the_checkout() -> None:
    """The one that these tests run in, as examples/setup makes it."""
    installed = json.loads(distribution("clacks").read_text("direct_url.json") or "{}")
    if not installed.get("dir_info", {}).get("editable"):
        pytest.skip("Clacks is not installed as editable here")
    check_installation(Path(sys.executable), CHECKOUT, CHECKOUT / "schemas" / "events")


def test_the_version_is_said_once_more_and_the_same() -> None:
    import clacks

    assert clacks.__version__ == PROJECT["version"]
    assert f"## [{PROJECT['version']}]" in (CHECKOUT / "CHANGELOG.md").read_text()


# --- examples/setup --------------------------------------------------------------------------------------------------------------


def test_setup_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    """On a machine without a compiler where it may not install one."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "id", "cut", "sha256sum", "grep"):
        (tools / name).symlink_to(shutil.which(name) or pytest.skip(f"there is no {name}"))
    (tools / "python3").symlink_to(sys.executable)
    (tmp_path / "examples").mkdir()
    shutil.copy(CHECKOUT / "examples" / "setup", tmp_path / "examples")
    done = subprocess.run(["bash", "examples/setup"], cwd=tmp_path, env={"PATH": str(tools)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"Please install: sudo apt-get install gcc libc6-dev( python3\.\d+-dev)?( python3-venv)?\n", done.stderr)
    assert not (tmp_path / ".venv").exists()


# --- docker/ ---------------------------------------------------------------------------------------------------------------------

DOCKER = CHECKOUT / "docker"


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile: each with its words, continued lines joined."""
    lines = [line for line in (DOCKER / "Dockerfile").read_text().splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    known = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "VOLUME", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "CMD"}
    found = [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in joined]
    assert {name for name, _ in found} <= known
    return found


def given(name: str) -> str:
    """The last one counts, as for Docker."""
    return [words for instruction, words in instructions() if instruction == name][-1]


def test_the_image_copies_what_exists_and_what_it_may_see() -> None:
    ignored = [line for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    seen = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    copied = set()
    for words in (words.split() for name, words in instructions() if name == "COPY" and not words.startswith("--from")):
        copied |= set(words[:-1])
    assert copied == seen
    for name in copied:
        assert (CHECKOUT / name).exists(), name
    # What pyproject.toml needs in order to build a wheel.
    needed = {"pyproject.toml", "clacks", "schemas", PROJECT["readme"], *PROJECT["license-files"]}
    assert {name for name in needed if not any(fnmatch(name, one) for one in copied)} == set()


def test_the_stages_of_the_image() -> None:
    stages = [words.split() for name, words in instructions() if name == "FROM"]
    assert [words[0] for words in stages] == ["python:3.11-slim"] * 2, "one Python for both, or the environment does not fit"
    copies = [words.split() for name, words in instructions() if name == "COPY" and words.startswith("--from")]
    assert copies == [[f"--from={stages[0][2]}", "/opt/clacks", "/opt/clacks"]]
    assert given("USER") == "clacks"
    assert "useradd" in "".join(words for name, words in instructions() if name == "RUN")


def environment_of_the_image() -> dict[str, str]:
    return dict(item.split("=", 1) for item in shlex.split(given("ENV")))


def test_the_image_runs_a_program_that_exists_with_settings_that_exist() -> None:
    from clacks.agent.config import SETTINGS, load

    assert json.loads(given("CMD"))[0] in PROJECT["scripts"]
    environment = environment_of_the_image()
    settings = {setting.variable for setting in SETTINGS}
    assert {name for name in environment if name.startswith("CLACKS_")} <= settings
    config = load(None, {}, environment)
    ports = {int(place.rpartition(":")[2]) for place in (*config.listen, *config.listen_tls)}
    assert ports == {int(port) for port in given("EXPOSE").split()}
    assert str(config.users_file.parent) == given("VOLUME") == environment["XDG_DATA_HOME"]


def test_the_health_check_tells_an_agent_from_none(environment: dict[str, str], tmp_path: Path) -> None:
    command = json.loads(given("HEALTHCHECK").partition(" CMD ")[2])
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"

    def healthy(url: str) -> bool:
        return subprocess.run(command, env={**environment, "PATH": path, "CLACKS_URL": url}, timeout=SECONDS).returncode == 0

    with AgentProcess(["--demo", "--listen", "localhost:0", "--listen-tls", "localhost:0"], environment, tmp_path / "log") as agent:
        url = agent.url()
        assert healthy(url)
        assert healthy(url.replace("admin:secret@", "")), "it asks who it is, so it is there"
    assert not healthy(url)


def outline(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The values of a YAML file that uses mappings, lists of one-line items and comments: path and value."""
    path: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        assert "\t" not in line, f"line {number}: a tab"
        indent = len(line) - len(line.lstrip())
        assert indent % 2 == 0, f"line {number}: an odd indent"
        path = [(depth, name) for depth, name in path if depth < indent]
        keys = tuple(name for _, name in path)
        if content.startswith("- "):
            yield keys, content[2:].strip("\"'")
            continue
        match = re.fullmatch(r"([\w.-]+):(?: (.+))?", content)
        assert match is not None, f"line {number}: neither a key nor an item"
        path.append((indent, match[1]))
        yield (*keys, match[1]), (match[2] or "").strip("\"'")


def test_the_compose_file() -> None:
    values = list(outline((DOCKER / "compose.yaml").read_text()))
    agent = ("services", "agent")
    first = dict(reversed(values))
    assert (DOCKER / first[*agent, "build", "context"] / first[*agent, "build", "dockerfile"]).resolve() == DOCKER / "Dockerfile"
    ports = [value for path, value in values if path == (*agent, "ports") and value]
    assert {port.rpartition(":")[2] for port in ports} == set(given("EXPOSE").split())
    assert all(port.startswith("127.0.0.1:") for port in ports), "a fresh agent is for this machine only"
    volumes = [value for path, value in values if path == (*agent, "volumes") and value]
    assert volumes == [f"state:{given('VOLUME')}"]
    assert ("volumes", "state") in first
    known = {"build", "image", "hostname", "ports", "volumes", "read_only", "cap_drop", "security_opt", "restart", "stop_grace_period"}
    assert {path[2] for path, _ in values if path[:2] == agent and len(path) > 2} <= known
    assert {path[0] for path, _ in values} == {"name", "services", "volumes"}


def test_the_unit_file_calls_a_program_that_exists() -> None:
    unit = (DOCKER / "clacks-agent.service").read_text()
    started = re.findall(r"(?m)^ExecStart=/opt/clacks/bin/(\S+)", unit)
    assert started
    assert set(started) <= set(PROJECT["scripts"])
