"""The house: imports point one way, nothing enters the bus but by its door, errors stand in one table."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from clacks.common.errors import ERRORS, EXIT_CODES
from conftest import CHECKOUT

PACKAGE = CHECKOUT / "clacks"

# What a part may import of the others. The parts of a part are its own business, except that `bus` knows nothing of how it is carried out.
ALLOWED = {
    "amqp": set(),
    "xquery": set(),
    "common": {"amqp", "xquery"},
    "agent": {"amqp", "xquery", "common"},
    "gateway": {"amqp", "xquery", "common", "agent"},
    "cli": {"amqp", "xquery", "common", "agent", "gateway", "testing"},
    "testing": {"amqp", "xquery", "common", "agent"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__"), path


def imports(name: str, path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, by its full name."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("clacks"))
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            if target.startswith("clacks"):
                yield from (f"{target}.{alias.name}" for alias in node.names)


def part(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_point_one_way(name: str, path: Path) -> None:
    here = part(name)
    for target in imports(name, path):
        there = part(target)
        if there not in ALLOWED or here in ("", there):
            continue
        assert there in ALLOWED[here], f"{name} imports {target}"


def test_the_path_knows_no_sockets_and_no_clock() -> None:
    found = {alias.name for node in ast.walk(ast.parse((PACKAGE / "agent/bus.py").read_text())) if isinstance(node, ast.Import)
             for alias in node.names}  # fmt: skip
    found |= set(imports("clacks.agent.bus", PACKAGE / "agent/bus.py"))
    assert not {name for name in found if name.split(".")[0] in ("asyncio", "socket", "time", "threading")}
    assert not {name for name in found if name.startswith(("clacks.amqp", "clacks.agent")) and not name.startswith("clacks.agent.access.")}


def calls(attribute: str) -> Iterator[tuple[str, str]]:
    for name, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == attribute:
                yield name, ast.unparse(node.func.value)


def test_one_door_into_the_bus() -> None:
    """Only the intake publishes, only the bus asks the index; in the agent only the two of them examine an event."""
    assert {name for name, owner in calls("publish") if "bus" in owner} == {"clacks.agent.intake"}
    assert {name for name, owner in calls("match") if "index" in owner} == {"clacks.agent.bus"}
    assert {name for name, _ in calls("examine") if name.startswith("clacks.agent")} == {"clacks.agent.bus", "clacks.agent.intake"}


def test_no_container_of_proton() -> None:
    for name, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not [found for found in names if found.split(".")[0] in ("proton", "cproton")], name
            assert not [found for found in names if found.startswith("cproton_ffi")] or name == "clacks.amqp.engine", name


def test_every_error_has_a_next_thing_to_try_and_a_known_exit_code() -> None:
    for entry in ERRORS.values():
        assert entry.exit_code in EXIT_CODES, entry.code
        assert ":" in entry.condition, entry.code
        assert 400 <= entry.http < 600, entry.code
        assert entry.sentence.rstrip().endswith((".", "}", ">")), entry.code


def test_every_file_opens_with_its_rule() -> None:
    for name, path in modules():
        assert ast.get_docstring(ast.parse(path.read_text())), name
