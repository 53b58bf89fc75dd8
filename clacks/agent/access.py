"""Who may do what: rules, and the decisions that come of them. What no rule allows is not allowed.

Values only: a change of the rules, of the users or of their groups is another `Access`, which the bus takes as a whole. Nothing here knows
where rules are written (`rules.py`) or who asks. Every refusal of access goes through `audit`, once.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from ..common.components.command import CORE
from ..common.errors import ClacksError
from ..common.xml import shortened

log = logging.getLogger("clacks.audit")

ADMINISTRATORS: Final = "admin"  # the group whose members may do everything
NODE: Final = "node/"  # what an agent's own events come from begins so; no user's name has a slash

_NOBODY: Final[Mapping[str, frozenset[str]]] = {}


class Call(NamedTuple):
    """What may be called: patterns for the target and the method."""

    target: str
    method: str


@dataclass(frozen=True, slots=True)
class Rule:
    """What these users, and the members of these groups, may do. Everything but `administer` is a list of patterns, in which `*` stands
    for any characters: `publish` and `subscribe` of events' names, `durable` of subscriptions that may be kept on the agent's disk, and
    `block` of those that may slow publishers down when they are full."""

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    call: tuple[Call, ...] = ()
    administer: bool = False
    durable: tuple[str, ...] = ()
    block: tuple[str, ...] = ()

    def concerns(self, user: str, groups: Iterable[str]) -> bool:
        """Whether it is about a user with these groups."""
        of_group = any_of(self.groups)
        return any_of(self.users)(user) or any(of_group(group) for group in groups)


# Everything but to slow publishers down: that takes a rule that names the subscription.
EVERYTHING: Final = Rule(users=("*",), publish=("*",), subscribe=("*",), durable=("*",), call=(Call("*", "*"),), administer=True)


class Rights:
    """What one user may do."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.publish = any_of(tuple(pattern for rule in rules for pattern in rule.publish))
        self.subscribe = any_of(tuple(pattern for rule in rules for pattern in rule.subscribe))
        self.durable = any_of(tuple(pattern for rule in rules for pattern in rule.durable))
        self.block = any_of(tuple(pattern for rule in rules for pattern in rule.block))
        self.subscribes = any(rule.subscribe for rule in rules)
        self.administers = any(rule.administer for rule in rules)
        own = [Call(CORE, "*")] if self.administers else []  # an administrator may give the agent's own commands
        self._calls = [(any_of((call.target,)), any_of((call.method,))) for call in (*own, *(one for rule in rules for one in rule.call))]

    def call(self, target: str, method: str) -> bool:
        return any(of_target(target) and of_method(method) for of_target, of_method in self._calls)

    def knows(self, name: str) -> bool:
        """Whether the user may know what an event of this name looks like: there is something that may be done with it."""
        return self.publish(name) or self.subscribe(name)


class Access:
    """All rules, and who there is. Never changes."""

    def __init__(self, rules: Sequence[Rule] = (), members: Mapping[str, frozenset[str]] = _NOBODY, *, elsewhere: bool = False) -> None:
        """`members` are all users with their groups: whoever is not among them may do nothing, unless users are authenticated `elsewhere`;
        then the others are in no group."""
        self._rules, self._members, self._anybody = tuple(rules), members, elsewhere
        self._rights: dict[str, Rights] = {}
        self._alike: dict[tuple[int, ...], Rights] = {}  # by the numbers of the rules that make them: most users are like others
        self._places: dict[tuple[str, str], list[int]] = {}
        self._wild: list[int] = []  # rules whose users or groups are to be compared
        for number, rule in enumerate(self._rules):
            if any("*" in name for name in (*rule.users, *rule.groups)):
                self._wild.append(number)
                continue
            for place in {*(("user", name) for name in rule.users), *(("group", name) for name in rule.groups)}:
                self._places.setdefault(place, []).append(number)

    def has(self, user: str) -> bool:
        """Whether there is such a user."""
        return self._anybody or user in self._members

    def rights(self, user: str) -> Rights:
        found = self._rights.get(user)
        if found is None:
            found = self._rights_of(user)
            if user in self._members:  # names of others are anybody's, and without number
                self._rights[user] = found
        return found

    def _rights_of(self, user: str) -> Rights:
        if user.startswith(NODE):
            return Rights([EVERYTHING])
        groups = self._members.get(user, frozenset() if self._anybody else None)
        if groups is None:
            return Rights([])
        numbers = {number for place in (("user", user), *(("group", name) for name in groups)) for number in self._places.get(place, ())}
        numbers.update(number for number in self._wild if self._rules[number].concerns(user, groups))
        key = (ADMINISTRATORS in groups, *sorted(numbers))
        found = self._alike.get(key)
        if found is None:
            rules = [self._rules[number] for number in key[1:]]
            found = self._alike[key] = Rights([EVERYTHING, *rules] if key[0] else rules)
        return found


# Compiling takes 100 us, and the same few rules are asked about thousands of users: so many lists of patterns are kept.
@lru_cache(4096)
def any_of(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a name is like one of the patterns."""
    if "*" in patterns:
        return lambda name: True
    if not any("*" in pattern for pattern in patterns):
        return frozenset(patterns).__contains__
    match = re.compile("|".join(map(_expression, patterns)), re.DOTALL).fullmatch
    return lambda name: match(name) is not None


def _expression(pattern: str) -> str:
    # What was skipped is never tried again (as in fnmatch): a name is a stranger's text, however long.
    first, *rest = (re.escape(part) for part in pattern.split("*"))
    if not rest:
        return first
    return first + "".join(f"(?>.*?{part})" for part in rest[:-1]) + ".*" + rest[-1]


def audit(user: str, action: str, what: str, origin: str) -> None:
    """The line for a refusal: who, what they wanted to do, and the door they stood at."""
    log.warning("refused", extra={"user": user, "action": action, "what": shortened(what), "origin": origin})


def refusal(user: str, action: str, what: str, option: str, origin: str) -> ClacksError:
    """The error for what `user` may not do; it is on record from then on. `option` is that of `clacks user allow` which would allow it."""
    audit(user, action, what, origin)
    return ClacksError("not-permitted", user=user, action=action, what=shortened(what), rule=option)


def option(name: str, *values: str) -> str:
    """An option of `clacks user allow`, as it is typed."""
    return " ".join([name, *(shlex.quote(shortened(value)) for value in values)])
