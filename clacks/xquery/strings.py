"""The functions on strings, names and URIs (Functions and Operators 3.1 sections 5 and 6), as rows for the table in `functions.py`."""

from __future__ import annotations

import math
import unicodedata
import urllib.parse
from typing import Any, Final

from .arithmetic import rounded
from .errors import FilterError
from .lexer import is_xml_char
from .names import FN
from .regex import compiled
from .values import atomize, string_of

CODEPOINT: Final = FN + "/collation/codepoint"
_SPACES: Final = " \t\r\n"
_DIGITS: Final = frozenset("0123456789")
_UNSAFE: Final = frozenset('<>"{}|\\^`')


def check_collation(uri: str | None) -> None:
    if uri is not None and uri != CODEPOINT:
        raise FilterError("FOCH0002", uri[:80])


def normalize_space(text: str | None) -> str:
    if text is None:
        return ""
    return " ".join(part for part in text.replace("\t", " ").replace("\r", " ").replace("\n", " ").split(" ") if part)


def substring(text: str | None, start: float, length: float | None = None) -> str:
    """Section 5.4.3: positions are rounded, and NaN selects nothing."""
    if text is None:
        return ""
    first = rounded(start, "round")
    last = math.inf if length is None else first + rounded(length, "round")
    if math.isnan(first) or math.isnan(last):
        return ""
    begin = 1 if first < 1 else first
    if begin > len(text):
        return ""
    stop = len(text) + 1 if last > len(text) else last
    return text[int(begin) - 1 : max(int(stop) - 1, 0)] if stop > begin else ""


def contains(text: str | None, part: str | None, collation: str | None = None) -> bool:
    check_collation(collation)
    return (part or "") in (text or "")


def starts_with(text: str | None, part: str | None, collation: str | None = None) -> bool:
    check_collation(collation)
    return (text or "").startswith(part or "")


def ends_with(text: str | None, part: str | None, collation: str | None = None) -> bool:
    check_collation(collation)
    return (text or "").endswith(part or "")


def substring_before(text: str | None, part: str | None, collation: str | None = None) -> str:
    check_collation(collation)
    before, found, _ = (text or "").partition(part) if part else ("", "", "")
    return before if found else ""


def substring_after(text: str | None, part: str | None, collation: str | None = None) -> str:
    check_collation(collation)
    return (text or "").partition(part)[2] if part else (text or "")


def compare(left: str | None, right: str | None, collation: str | None = None) -> int | None:
    check_collation(collation)
    return None if left is None or right is None else (left > right) - (left < right)


def codepoint_equal(left: str | None, right: str | None) -> bool | None:
    return None if left is None or right is None else left == right


def contains_token(texts: list[str], token: str, collation: str | None = None) -> bool:
    check_collation(collation)
    wanted = token.strip(_SPACES)
    return any(wanted == part for text in texts for part in normalize_space(text).split(" ")) if wanted else False


def translate(text: str | None, before: str, after: str) -> str:
    table: dict[int, str | None] = {}
    for index, char in enumerate(before):
        table.setdefault(ord(char), after[index] if index < len(after) else None)
    return (text or "").translate(table)


def string_join(items: list[Any], separator: str = "") -> str:
    return separator.join(string_of(item) for item in atomize(items))


def concat(*parts: Any) -> str:
    return "".join("" if part is None else string_of(part) for part in parts)


def codepoints_to_string(codes: list[int]) -> str:
    for code in codes:
        if not is_xml_char(code):
            raise FilterError("FOCH0001", str(code)[:30])
    return "".join(map(chr, codes))


def normalize_unicode(text: str | None, form: str = "NFC") -> str:
    wanted = form.strip(_SPACES).upper()
    if wanted == "":
        return text or ""
    if wanted not in ("NFC", "NFD", "NFKC", "NFKD"):
        raise FilterError("FOCH0003", form[:20])
    return unicodedata.normalize(wanted, text or "")  # type: ignore[arg-type]


def matches(text: str | None, pattern: str, flags: str = "") -> bool:
    return compiled(pattern, flags).search(text or "") is not None


def _not_empty(found: Any) -> Any:
    if found.search("") is not None:
        raise FilterError("FORX0003")
    return found


def tokenize(text: str | None, pattern: str | None = None, flags: str = "") -> list[str]:
    if pattern is None:
        return normalize_space(text).split(" ") if normalize_space(text) else []
    found = _not_empty(compiled(pattern, flags))
    if not text:
        return []
    parts, last = [], 0
    for match in found.finditer(text):
        parts.append(text[last : match.start()])
        last = match.end()
    return [*parts, text[last:]]


def replace(text: str | None, pattern: str, replacement: str, flags: str = "") -> str:
    found = _not_empty(compiled(pattern, flags))
    if "q" in flags:
        return str(found.sub(lambda _: replacement, text or ""))
    groups = found.groups
    pieces: list[str | int] = []
    at = 0
    while at < len(replacement):
        char = replacement[at]
        following = replacement[at + 1 : at + 2]
        if char == "\\":
            if following not in ("\\", "$") or not following:
                raise FilterError("FORX0004", replacement[:40])
            pieces.append(following)
            at += 2
        elif char == "$":
            end = at + 1
            while replacement[end : end + 1] in _DIGITS and (end == at + 1 or int(replacement[at + 1 : end + 1]) <= groups):
                end += 1
            if end == at + 1:
                raise FilterError("FORX0004", replacement[:40])
            pieces.append(int(replacement[at + 1 : end]))
            at = end
        else:
            pieces.append(char)
            at += 1
    return str(found.sub(lambda one: "".join(_piece(one, piece, groups) for piece in pieces), text or ""))


def _piece(match: Any, piece: str | int, groups: int) -> str:
    if isinstance(piece, str):
        return piece
    return (match.group(piece) or "") if piece <= groups else ""


def encode_for_uri(text: str | None) -> str:
    return urllib.parse.quote(text or "", safe="-_.~")


def iri_to_uri(text: str | None) -> str:
    return "".join(char if 0x20 < ord(char) < 0x7F and char not in _UNSAFE else urllib.parse.quote(char, safe="") for char in text or "")


def escape_html_uri(text: str | None) -> str:
    return "".join(char if 0x20 <= ord(char) < 0x7F else urllib.parse.quote(char, safe="") for char in text or "")


def string_to_codepoints(text: str | None) -> list[int]:
    return [ord(char) for char in text or ""]


# name -> (parameters, how many are required, function)
ROWS: Final[dict[str, tuple[str, int, Any]]] = {
    "contains": ("s? s? s", 2, contains), "starts-with": ("s? s? s", 2, starts_with), "ends-with": ("s? s? s", 2, ends_with),
    "substring-before": ("s? s? s", 2, substring_before), "substring-after": ("s? s? s", 2, substring_after),
    "compare": ("s? s? s", 2, compare), "codepoint-equal": ("s? s?", 2, codepoint_equal),
    "contains-token": ("s* s s", 2, contains_token), "substring": ("s? d d", 2, substring),
    "string-length": ("s?", 1, lambda text: len(text or "")), "normalize-space": ("s?", 1, normalize_space),
    "normalize-unicode": ("s? s", 1, normalize_unicode), "upper-case": ("s?", 1, lambda text: (text or "").upper()),
    "lower-case": ("s?", 1, lambda text: (text or "").lower()), "translate": ("s? s s", 3, translate),
    "string-join": ("x* s", 1, string_join), "codepoints-to-string": ("i*", 1, codepoints_to_string),
    "string-to-codepoints": ("s?", 1, string_to_codepoints), "matches": ("s? s s", 2, matches), "replace": ("s? s s s", 3, replace),
    "tokenize": ("s? s s", 1, tokenize), "encode-for-uri": ("s?", 1, encode_for_uri), "iri-to-uri": ("s?", 1, iri_to_uri),
    "escape-html-uri": ("s?", 1, escape_html_uri), "default-collation": ("", 0, lambda: CODEPOINT),
}  # fmt: skip
