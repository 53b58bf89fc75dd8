"""The prolog of a filter (XQuery 3.1 section 4), read before the expression and handed on as values.

Only declarations live here: namespaces, variables, and the settings that a filter may state because they say what we do anyway. What an
expression means is not known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from .errors import FilterError, error_at

FN: Final = "http://www.w3.org/2005/xpath-functions"
PREDECLARED: Final = {
    "xml": "http://www.w3.org/XML/1998/namespace",
    "xs": "http://www.w3.org/2001/XMLSchema",
    "xsi": "http://www.w3.org/2001/XMLSchema-instance",
    "fn": FN,
    "local": "http://www.w3.org/2005/xquery-local-functions",
    "math": FN + "/math",
    "map": FN + "/map",
    "array": FN + "/array",
    "err": "http://www.w3.org/2005/xqt-errors",
}

_NAME = r"[^\W\d][\w.\-]*"
_QNAME = rf"(?:Q\{{[^{{}}]*\}})?{_NAME}(?::{_NAME})?"
_STRING = r"\"(?:[^\"]|\"\")*\"|'(?:[^']|'')*'"
_S = "\0"  # stands for white space and comments in the patterns below


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text.replace(" ", r"\s+").replace(_S, r"\s*"))


_VERSION = _pattern(rf"xquery (?:version (?P<version>{_STRING})(?: encoding (?:{_STRING}))?|encoding (?:{_STRING})){_S};")
_NAMESPACE = _pattern(rf"declare namespace (?P<prefix>{_NAME}){_S}={_S}(?P<uri>{_STRING}){_S};")
_DEFAULT = _pattern(rf"declare default (?P<what>element|function) namespace (?P<uri>{_STRING}){_S};")
_VARIABLE = _pattern(
    rf"declare variable \${_S}(?P<name>{_QNAME})(?:{_S}as (?P<type>[^:;={{]*?(?::[^:;={{=]*?)?))?{_S}"
    rf"(?P<how>external\b{_S}(?::=)?|:=)"
)
_SETTING = _pattern(
    "declare (?:boundary-space (?:strip|preserve)|ordering (?:ordered|unordered)|construction (?:strip|preserve)"
    rf"|option {_QNAME} (?:{_STRING})|default order empty (?:greatest|least)|copy-namespaces \S+{_S},{_S}\S+){_S};"
)


@dataclass(slots=True)
class Variable:
    """`declare variable` (section 4.16); `default` is the expression of its value, None when it must be supplied."""

    name: str
    type: str
    external: bool
    default: str | None
    offset: int


@dataclass(slots=True)
class Prolog:
    """What the declarations said; `body` is the offset at which the expression begins."""

    namespaces: dict[str, str] = field(default_factory=lambda: dict(PREDECLARED))
    variables: list[Variable] = field(default_factory=list)
    body: int = 0


def _skip(text: str, at: int) -> int:
    """The offset after white space and nested comments (section 2.1)."""
    while at < len(text):
        if text[at].isspace():
            at += 1
        elif text.startswith("(:", at):
            start, depth = at, 0
            while True:
                match = re.compile(r"\(:|:\)").search(text, at)
                if match is None:
                    raise error_at(text, start, "XPST0003", "The comment is not closed")
                depth += 1 if match.group() == "(:" else -1
                at = match.end()
                if depth == 0:
                    break
        else:
            break
    return at


def _end_of_value(text: str, at: int) -> int:
    """Where the `;` that ends a declaration's value stands."""
    token = re.compile(rf"{_STRING}|\(:|;")
    while True:
        match = token.search(text, at)
        if match is None:
            raise error_at(text, at, "XPST0003", "The declaration is not closed with `;`")
        if match.group() == ";":
            return match.start()
        at = _skip(text, match.start()) if match.group() == "(:" else match.end()


def _literal(quoted: str) -> str:
    return quoted[1:-1].replace(quoted[0] * 2, quoted[0])


def parse_prolog(text: str) -> Prolog:
    """Reads the version declaration and the prolog; raises FilterError with the position of what is wrong."""
    prolog = Prolog()
    at = _skip(text, 0)
    version = _VERSION.match(text, at)
    if version is not None:
        if version["version"] is not None and _literal(version["version"]) not in ("1.0", "3.0", "3.1"):
            raise error_at(text, at, "XQST0031")
        at = _skip(text, version.end())
    while re.compile(r"declare\s+\w").match(text, at):
        at = _skip(text, _declaration(prolog, text, at))
    if re.compile(r"(import|module)\s+(schema|module|namespace)\b").match(text, at):
        raise error_at(text, at, "XQST0016")
    prolog.body = at
    return prolog


def _declaration(prolog: Prolog, text: str, at: int) -> int:
    if match := _NAMESPACE.match(text, at):
        _declare_prefix(prolog, match["prefix"], _literal(match["uri"]), error_at(text, at, "XQST0033", match["prefix"]))
        return match.end()
    if match := _DEFAULT.match(text, at):
        if match["what"] == "element":
            prolog.namespaces[""] = _literal(match["uri"])
        elif _literal(match["uri"]) != FN:
            raise error_at(text, at, "CLXQ0003", "Another default function namespace")
        return match.end()
    if match := _VARIABLE.match(text, at):
        how = match["how"].replace(" ", "")
        end = match.end()
        default = None
        if how.endswith(":="):
            end = _end_of_value(text, end)
            default = text[match.end():end]
        end = _skip(text, end)
        if text[end:end + 1] != ";":
            raise error_at(text, end, "XPST0003", "The declaration is not closed with `;`")
        prolog.variables.append(Variable(match["name"], (match["type"] or "").strip(), how.startswith("external"), default, match.end()))
        return end + 1
    if match := _SETTING.match(text, at):
        return match.end()
    raise error_at(text, at, "CLXQ0003", "This declaration is not supported")


def _declare_prefix(prolog: Prolog, prefix: str, uri: str, twice: FilterError) -> None:
    if prefix in prolog.namespaces and prefix not in PREDECLARED:
        raise twice
    prolog.namespaces[prefix] = uri
