"""What the cost analysis counts: bounds on items, text and work, and how far the work reaches.

The reach of an expression says what a loop around it costs: CONSTANT work adds up to the number of turns; LOCAL work (children,
attributes) belongs to one node only, so that over distinct nodes it adds up to the size of the event; SUBTREE work does so over nodes of
which none contains another; WHOLE work does not: a loop around it is dear. The string value of an element counts as local: added up over
all elements it is at most the size of the event times its depth, which libxml2 keeps under 256.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

CONSTANT, LOCAL, SUBTREE, WHOLE = 0, 1, 2, 3

# Bounds on the factors. One unit takes about 0.3 microseconds, and a step of a path counts as one or two: 200 times the usual event of ten
# elements take 0.6 ms, 2,000 operations that do not depend on the event as long; characters are handled in C.
MAX_FACTOR: Final = 200
MAX_CONSTANT: Final = 2_000
MAX_TEXT: Final = 200_000
# How many expressions the analysis looks at; calls of declared functions are followed, and could be many.
MAX_LOOKED_AT: Final = 20_000


class Dear(Exception):
    """Why a filter is dear, and where."""

    def __init__(self, at: int, reason: str) -> None:
        self.at = at
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Cost:
    """Bounds: `items` + `many` times the event in items, `text` + `texts` times the event in characters, `work` likewise.

    `shape`: flat (distinct nodes, none inside another), nested (distinct nodes), other. `strings`: all items compare as strings.
    """

    items: float = 1
    many: float = 0
    text: float = 20
    texts: float = 0
    work: float = 1
    works: float = 0
    reach: int = CONSTANT
    shape: str = "other"
    strings: bool = False


NODE_ITEM: Final = Cost(1, 0, 0, 1, 1, 0, CONSTANT, "flat", True)

# Functions whose result is one small value whatever they are given, by what they do with their arguments.
SMALL: Final = frozenset(
    "true false position last count exists empty not boolean contains starts-with ends-with matches number string-length sum avg max min"  # noqa: SIM905
    " round abs floor ceiling round-half-to-even compare codepoint-equal contains-token deep-equal has-children lang dateTime"
    " current-dateTime current-date current-time implicit-timezone default-collation".split()
)
SAME: Final = frozenset(
    ("data", "unordered", "zero-or-one", "one-or-more", "exactly-one", "head", "tail", "subsequence", "reverse", "remove")
)
# How much longer a text can become: encode-for-uri writes up to twelve characters for one, normalize-unicode up to eighteen.
GROWTH: Final = {"encode-for-uri": 12, "iri-to-uri": 12, "escape-html-uri": 12, "normalize-unicode": 18, "upper-case": 3, "lower-case": 3}
# Functions that Python takes through a text character by character.
BY_CHARACTER: Final = frozenset(("string-to-codepoints", "translate", "encode-for-uri", "iri-to-uri", "escape-html-uri"))
REGEX: Final = frozenset(("matches", "replace", "tokenize"))


def consumed(cost: Cost) -> Cost:
    """All items looked at: as much work as there are items, and the whole event's when they were computed outside the loop."""
    reach = max(cost.reach, WHOLE if cost.many and cost.reach == CONSTANT else cost.reach)
    return replace(cost, work=cost.work + cost.items, works=cost.works + cost.many, reach=reach)
