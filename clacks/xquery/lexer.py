"""Characters to tokens (XQuery 3.1 appendix A.2), on demand: no word is reserved, so only the parser knows what comes next.

Nothing here knows the grammar. Comments are white space, wherever they stand.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final, NamedTuple, NoReturn

from .errors import error_at

# Close to NCNameStartChar and NCNameChar of XML Namespaces: Unicode letters, digits and combining marks as Python's `re` knows them.
NAME_START: Final = r"[^\W\d]"
NAME: Final = NAME_START + r"[\w.\-·\u0300-\u036F\u203F\u2040]*"

# A filter of this many tokens takes about 20 ms to compile; filters written by hand have fewer than 500.
MAX_TOKENS: Final = 20_000

_TOKEN: Final = re.compile(
    rf"(?P<name>{NAME})"
    r"|(?P<double>(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][+-]?[0-9]+)|(?P<decimal>\.[0-9]+|[0-9]+\.[0-9]*)|(?P<integer>[0-9]+)"
    r"|(?P<string>\"(?:[^\"]|\"\")*\"|'(?:[^']|'')*')"
    r"|(?P<symbol>``\[|\(#|#\)|<<|<=|>>|>=|!=|:=|::|//|\.\.|\|\||=>|[-+*/|!=<>()\[\]{},;:.@$?#%])",
)
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_COMMENT: Final = re.compile(r"\(:|:\)")
_REFERENCE: Final = re.compile(r"&(?:(lt|gt|amp|quot|apos)|#([0-9]+)|#x([0-9a-fA-F]+));|&")
_ENTITIES: Final = {"lt": "<", "gt": ">", "amp": "&", "quot": '"', "apos": "'"}


class Token(NamedTuple):
    """`kind`: name, integer, decimal, double, string, symbol or end; `end` is the offset behind the token."""

    kind: str
    text: str
    start: int
    end: int


class Lexer:
    """A position in a text, and the token there."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.count = 0
        self._cached: Token | None = None
        self._cached_at = -1

    def fail(self, code: str, detail: str = "", at: int | None = None) -> NoReturn:
        raise error_at(self.text, self.token.start if at is None else at, code, detail)

    def skip(self, at: int) -> int:
        """The offset after white space and nested comments (section 2.1)."""
        text = self.text
        while True:
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
            if not text.startswith("(:", at):
                return at
            start, depth, at = at, 1, at + 2
            while depth:
                found = _COMMENT.search(text, at)
                if found is None:
                    raise error_at(text, start, "XPST0003", "The comment is not closed")
                depth += 1 if found.group() == "(:" else -1
                at = found.end()

    @property
    def token(self) -> Token:
        """The token at the position, which does not move."""
        if self._cached_at != self.at or self._cached is None:
            self._cached = self._read(self.at)
            self._cached_at = self.at
        return self._cached

    def after(self, token: Token) -> Token:
        """The token behind `token`."""
        return self._read(token.end)

    def _read(self, at: int) -> Token:
        at = self.skip(at)
        if at >= len(self.text):
            return Token("end", "", at, at)
        found = _TOKEN.match(self.text, at)
        if found is None:
            what = "The string is not closed" if self.text[at] in "'\"" else f"The character {self.text[at]!r} has no meaning here"
            raise error_at(self.text, at, "XPST0003", what)
        kind = found.lastgroup or "symbol"
        if kind in ("integer", "decimal", "double") and re.match(NAME_START, self.text[found.end() : found.end() + 1]):
            raise error_at(self.text, found.end(), "XPST0003", "A number must not be followed by a letter")
        return Token(kind, found.group(), at, found.end())

    def take(self) -> Token:
        """The token at the position, which moves behind it."""
        token = self.token
        self.at = token.end
        self.count += 1
        if self.count > MAX_TOKENS:
            self.fail("CLXQ0002", f"The filter has more than {MAX_TOKENS} tokens", token.start)
        return token

    def is_symbol(self, *texts: str) -> bool:
        token = self.token
        return token.kind == "symbol" and token.text in texts

    def is_word(self, *texts: str) -> bool:
        """Whether a bare word stands here (not the prefix of a name)."""
        token = self.token
        return token.kind == "name" and token.text in texts and not self._prefixed(token)

    def _prefixed(self, token: Token) -> bool:
        rest = self.text[token.end : token.end + 2]
        return rest[:1] == ":" and rest[1:] not in ("", ":", "=") and (rest[1:] == "*" or re.match(NAME_START, rest[1:]) is not None)

    def words(self, first: str, *second: str) -> bool:
        """Whether the word `first` is followed by one of `second`, words or symbols."""
        return self.is_word(first) and self.after(self.token).text in second

    def accept(self, text: str) -> bool:
        """Takes the symbol or word if it stands here."""
        if self.is_symbol(text) or self.is_word(text):
            self.take()
            return True
        return False

    def expect(self, text: str) -> Token:
        if not (self.is_symbol(text) or self.is_word(text)):
            self.unexpected(f"`{text}`")
        return self.take()

    def unexpected(self, wanted: str) -> NoReturn:
        found = self.token
        got = "the end of the filter" if found.kind == "end" else f"`{found.text}`"
        self.fail("XPST0003", f"Expected {wanted}, found {got}")

    def unquote(self, token: Token) -> str:
        """The value of a string literal (section 3.1.1): doubled quotes and references replaced."""
        quote = token.text[0]
        return self.references(token.text[1:-1].replace(quote * 2, quote), token.start)

    def references(self, value: str, at: int) -> str:
        """Predefined entity and character references replaced (section 3.1.1); other ampersands are errors."""
        return _REFERENCE.sub(lambda found: self._reference(found, at), value) if "&" in value else value

    def _reference(self, found: re.Match[str], at: int) -> str:
        if found[1]:
            return _ENTITIES[found[1]]
        if not (found[2] or found[3]):
            self.fail("XPST0003", "`&` begins a reference; write &amp; for the character itself", at)
        digits = (found[2] or found[3]).lstrip("0")
        number = int(digits or "0", 10 if found[2] else 16) if len(digits) <= 7 else -1  # U+10FFFF has seven digits
        if not is_xml_char(number):
            self.fail("XQST0090", found.group(), at)
        return chr(number)

    def string(self) -> str:
        """Takes a string literal."""
        if self.token.kind != "string":
            self.unexpected("a string literal")
        return self.unquote(self.take())


def number(token: Token) -> int | Decimal | float:
    """The value of a numeric literal (section 3.1.1)."""
    if token.kind == "integer":
        return int(token.text)
    return Decimal(token.text) if token.kind == "decimal" else float(token.text)


def is_xml_char(number: int) -> bool:
    """XML 1.0 production 2."""
    return number in (9, 10, 13) or 0x20 <= number <= 0xD7FF or 0xE000 <= number <= 0xFFFD or 0x10000 <= number <= 0x10FFFF
