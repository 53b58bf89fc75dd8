"""The file of rules: its form, read strictly, and one rule added to it by `clacks user allow`.

    [[rules]]
    users = ["anna", "robot-*"]
    groups = ["phones"]
    publish = ["PhoneStatus"]
    subscribe = ["Phone*"]
    durable = ["billing"]
    block = []
    call = [{ target = "core", method = "get*" }]
    administer = false

What a rule says goes for its users and for the members of its groups. A file that is not in order is refused as a whole: half of the rules
would be other rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from ..common.components.command import CORE
from ..common.errors import ClacksError
from .access import Call, Rule
from .users import write_whole

_PATTERN: Final = re.compile(r"[\w.@*-]{1,200}")
_HEADING: Final = re.compile(r"\s*\[\[\s*rules\s*\]\]")
_HINT: Final = "docs/access.md shows the form."

_LISTS: Final = ("users", "groups", "publish", "subscribe", "durable", "block")
_KEYS: Final = (*_LISTS, "call", "administer")


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of a file; none if there is no file. Raises ClacksError config-invalid."""
    import tomllib

    try:
        text = path.read_text("utf-8")
        content = tomllib.loads(text)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise _invalid(path, "", error.strerror or str(error), "Check its permissions.") from error
    except (ValueError, RecursionError) as error:
        raise _invalid(path, "", f"not TOML: {error}", "Mend that line.") from error
    for key in content:
        if key != "rules":
            raise _invalid(path, key, "there is no such table", "Each rule begins with [[rules]].")
    tables = content.get("rules", [])
    if not isinstance(tables, list):
        raise _invalid(path, "rules", "it is a single table", "Each rule begins with [[rules]], in double brackets.")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if _HEADING.match(line)]
    places = [
        f"rule {number}" + (f" (line {lines[number - 1]})" if len(lines) == len(tables) else "") for number in range(1, len(tables) + 1)
    ]
    return tuple(_rule(path, place, table) for place, table in zip(places, tables, strict=True))


def _rule(path: Path, place: str, table: Any) -> Rule:
    if not isinstance(table, dict):
        raise _invalid(path, place, "it is no table", _HINT)
    for key in table:
        if key not in _KEYS:
            close = get_close_matches(key, _KEYS, n=1)
            raise _invalid(path, f"{place}, {key}", "a rule has no such key", f"Did you mean {close[0]}?" if close else _HINT)
    lists = {key: _patterns(path, f"{place}, {key}", table.get(key, [])) for key in _LISTS}
    administer = table.get("administer", False)
    if not isinstance(administer, bool):
        raise _invalid(path, f"{place}, administer", f"it is {administer!r}", "Write true or false.")
    rule = Rule(**lists, call=_calls(path, f"{place}, call", table.get("call", [])), administer=administer)
    if not (rule.users or rule.groups):
        raise _invalid(path, place, "it is for nobody", 'Name users or groups; users = ["*"] are all.')
    return rule


def _patterns(path: Path, place: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _invalid(path, place, "it is no list of names", f'Write it like {place.rpartition(" ")[2]} = ["*"].')
    for item in value:
        _check(path, place, item)
    return tuple(value)


def _calls(path: Path, place: str, value: Any) -> tuple[Call, ...]:
    hint = 'Write it like call = [{ target = "core", method = "get*" }].'
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _invalid(path, place, "it is no list of tables", hint)
    for item in value:
        given = {"target": CORE, **item}
        if given.keys() != {"target", "method"} or not all(isinstance(part, str) for part in given.values()):
            raise _invalid(path, place, f"{item} is no target and method", hint)
        for part in given.values():
            _check(path, place, part)
    return tuple(Call(**{"target": CORE, **item}) for item in value)


def _check(path: Path, place: str, pattern: str) -> None:
    if not _PATTERN.fullmatch(pattern):
        raise _invalid(path, place, f"{pattern!r} is no name", "A name has letters, digits and . _ @ -, and * for any of them.")


def allow(path: Path, user: str, rule: Mapping[str, Any]) -> None:
    """Add to what `user` alone may do; comments and everything else in the file stay. `rule` has the file's keys and values.

    Raises ClacksError config-invalid, also for what would not be in order.
    """
    import tomlkit

    read_rules(path)  # what is broken is not written to
    _rule(path, "this rule", {"users": [user], **rule})
    document = tomlkit.parse(path.read_text("utf-8")) if path.exists() else tomlkit.document()
    tables: Any = document.setdefault("rules", tomlkit.aot())
    table = next((one for one in tables if one.get("users") == [user] and not one.get("groups")), None)
    if table is None:
        table = tomlkit.table()
        table["users"] = [user]
        tables.append(table)
    for key, value in rule.items():
        if isinstance(value, bool):
            table[key] = value
            continue
        known = table.setdefault(key, tomlkit.array())
        for item in value:
            if item not in known:
                known.append(_inline(item) if isinstance(item, dict) else item)
    write_whole(path, tomlkit.dumps(document))


def _inline(item: Mapping[str, str]) -> Any:
    import tomlkit

    table = tomlkit.inline_table()
    table.update(item)
    return table


def _invalid(path: Path, place: str, reason: str, hint: str) -> ClacksError:
    return ClacksError("config-invalid", source=f"{path}, {place}" if place else str(path), reason=reason, hint=hint)
