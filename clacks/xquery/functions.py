"""The table of functions: what a filter may call, with how many arguments, and what answers it.

It is an allow-list. What reads files, the network, the environment or modules is refused by name so that the sentence can say why; what
is allowed but has no implementation of ours (formatting, higher-order functions, maps, arrays) is for the full engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from . import sequences, strings
from .names import ARRAY, FN, MAP, MATH, expanded

# "name:least-most" of allowed functions that only other engines answer; a single number is both. Sections as in the specification.
_FOREIGN: Final = {
    FN: (
        "node-name:0-1 nilled:0-1  format-integer:2-3 format-number:2-3 collation-key:1-2 resolve-uri:2"
        " format-dateTime:2-5 format-date:2-5 format-time:2-5 parse-ietf-date:1 resolve-QName:2 QName:2 prefix-from-QName:1"
        " local-name-from-QName:1 namespace-uri-from-QName:1 namespace-uri-for-prefix:2 in-scope-prefixes:1 path:0-1 id:1-2"
        " element-with-id:1-2 idref:1-2 generate-id:0-1 default-language:0 function-name:1 function-arity:1 for-each:2"
        " filter:2 fold-left:3 fold-right:3 for-each-pair:3 sort:1-3 apply:2 parse-json:1-2"
        " parse-xml:1 parse-xml-fragment:1 serialize:1-2 json-to-xml:1-2 xml-to-json:1-2 analyze-string:2-3 random-number-generator:0-1"
    ),
    MAP: "merge:1-2 size:1 keys:1 contains:2 get:2 find:2 put:3 entry:2 remove:2 for-each:2",
    ARRAY: (
        "size:1 get:2 put:3 append:2 subarray:2-3 remove:2 insert-before:3 head:1 tail:1 reverse:1 join:1 for-each:2 filter:2 fold-left:3"
        " fold-right:3 for-each-pair:3 sort:1-3 flatten:1"
    ),
}

# trace() writes to a log, function-lookup() would get around this table, and the base URI of a filter tells where the agent stands.
OUTSIDE: Final = frozenset(
    "doc doc-available collection uri-collection unparsed-text unparsed-text-lines unparsed-text-available json-doc environment-variable"  # noqa: SIM905
    " available-environment-variables transform load-xquery-module function-lookup trace put static-base-uri"
    " base-uri document-uri stream-available".split()
)

# Functions of the focus, and those with no argument: the evaluator builds them in.
SPECIAL: Final = frozenset(("position", "last", "true", "false", "current-dateTime", "current-date", "current-time", "concat"))

# Called without their last argument these take the context item.
CONTEXTUAL: Final = frozenset(
    ("string", "number", "name", "local-name", "namespace-uri", "root", "has-children", "data", "normalize-space", "string-length", "lang")
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One function; `call` is None where only another engine answers. `params` as in `signatures.py`."""

    least: int
    most: int
    params: tuple[str, ...] = ()
    call: Any = None


def _native(rows: dict[str, tuple[str, int, Any]], uri: str) -> dict[str, Entry]:
    table = {}
    for name, (params, least, call) in rows.items():
        split = tuple(params.split())
        table[expanded(uri, name)] = Entry(least - (name in CONTEXTUAL and uri == FN), len(split), split, call)
    return table


def _foreign() -> dict[str, Entry]:
    table = {}
    for uri, text in _FOREIGN.items():
        for one in text.split():
            name, _, arity = one.partition(":")
            least, _, most = arity.partition("-")
            table[expanded(uri, name)] = Entry(int(least), int(most or least))
    return table


FUNCTIONS: Final[dict[str, Entry]] = {
    **_foreign(),
    **_native(strings.ROWS, FN),
    **_native(sequences.ROWS, FN),
    **_native(sequences.MATH, MATH),
    **{expanded(FN, name): Entry(0, 0) for name in SPECIAL - {"concat"}},
    expanded(FN, "concat"): Entry(2, 1000, ("a?",), strings.concat),
}


def lookup(name: str, arity: int) -> Entry | None:
    """The function of this expanded name, if it takes `arity` arguments."""
    found = FUNCTIONS.get(name)
    return found if found is not None and found.least <= arity <= found.most else None
