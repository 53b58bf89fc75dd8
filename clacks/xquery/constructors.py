"""Constructors (XQuery 3.1 sections 3.9 and 3.10): strings are built, nodes only looked through.

A filter that constructs nodes is for the full engine; it is parsed here all the same, so that the names and functions inside it are
checked like any others.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Final

from . import syntax as s
from .lexer import NAME
from .names import FN, XML
from .types import TypeParser

_TAG: Final = re.compile(rf"<((?:{NAME}:)?{NAME})")
_ATTRIBUTE: Final = re.compile(rf"[ \t\r\n]+((?:{NAME}:)?{NAME})[ \t\r\n]*=[ \t\r\n]*([\"'])")
_CLOSE: Final = re.compile(rf"</((?:{NAME}:)?{NAME})[ \t\r\n]*>")
_SKIPPED: Final = {"<!--": "-->", "<?": "?>", "<![CDATA[": "]]>"}
_COMPUTED: Final = frozenset(("element", "attribute", "document", "text", "comment", "processing-instruction", "namespace"))


class ConstructorParser(TypeParser):
    """Direct, computed and string constructors."""

    @abstractmethod
    def expr(self) -> s.Expr: ...

    @abstractmethod
    def enclosed(self) -> s.Expr: ...

    # --- strings -------------------------------------------------------------------------------------------------------------------

    def string_constructor(self) -> s.Expr:
        """StringConstructor (section 3.10) as string-join() over its parts."""
        at = self.take().start
        parts: list[s.Expr] = []
        while True:
            close = self.text.find("]``", self.at)
            hole = self.text.find("`{", self.at)
            if close < 0:
                self.fail("XPST0003", "The string constructor is not closed", at)
            end = close if hole < 0 or close < hole else hole
            parts.append(s.Literal(self.at, self.text[self.at : end], "string", -1))
            self.at = end + (3 if end == close else 2)
            if end == close:
                break
            if not self.is_symbol("}"):
                data = s.Call(self.at, f"{{{FN}}}data", (self.expr(),))
                space = s.Literal(self.at, " ", "string", -1)
                parts.append(s.Call(self.at, f"{{{FN}}}string-join", (data, space)))
            if not self.is_symbol("}") or self.text[self.token.end : self.token.end + 1] != "`":
                self.unexpected("`}` and a backtick")
            self.at = self.token.end + 1
        return s.Call(at, f"{{{FN}}}string-join", (s.Sequence(at, tuple(parts)),))

    # --- computed ------------------------------------------------------------------------------------------------------------------

    def starts_computed(self) -> bool:
        token = self.token
        if token.kind != "name" or token.text not in _COMPUTED or self._prefixed(token):
            return False
        following = self.after(token)
        if following.text == "{":
            return True
        if token.text in ("document", "text", "comment") or following.kind != "name":
            return False
        name = self.after(following)
        if following.text == "Q" and name.text == "{":
            return True
        return name.text == "{" or (name.text == ":" and self.after(self.after(name)).text == "{")

    def computed_constructor(self) -> s.Expr:
        token = self.take()
        parts: list[s.Expr] = []
        if token.text in ("element", "attribute", "processing-instruction", "namespace"):
            if self.is_symbol("{"):
                parts.append(self.enclosed())
            elif token.text in ("element", "attribute"):
                self.eqname("")
            else:
                self.take()
        parts.append(self.enclosed())
        return s.Constructor(token.start, f"a computed {token.text} constructor", tuple(parts))

    # --- direct --------------------------------------------------------------------------------------------------------------------

    def starts_constructor(self) -> bool:
        start = self.token.start
        return _TAG.match(self.text, start) is not None or self.text.startswith(("<!--", "<?"), start)

    def direct_constructor(self) -> s.Expr:
        start = self.token.start
        outer = self.namespaces, self.element_namespace
        parts: list[s.Expr] = []
        try:
            self.at = self._element(start, parts, 0)
        finally:
            self.namespaces, self.element_namespace = outer
        return s.Constructor(start, "a direct constructor", tuple(parts))

    def _skipped(self, at: int) -> int | None:
        for opening, closing in _SKIPPED.items():
            if self.text.startswith(opening, at):
                end = self.text.find(closing, at + len(opening))
                if end < 0:
                    self.fail("XPST0003", f"`{opening}` is not closed", at)
                return end + len(closing)
        return None

    def _element(self, at: int, parts: list[s.Expr], depth: int) -> int:
        skipped = self._skipped(at)
        if skipped is not None:
            return skipped
        tag = _TAG.match(self.text, at)
        if tag is None:
            self.fail("XPST0003", "`<` does not begin an element", at)
        if depth > 50:  # constructed elements nest like expressions do; see MAX_DEPTH in parser.py
            self.fail("CLXQ0002", "The constructed elements are nested too deeply", at)
        outer = self.namespaces, self.element_namespace
        self._declare(tag.end())
        end = self._attributes(tag.end(), parts)
        if ":" in tag[1]:
            self.prefix(tag[1].partition(":")[0], at)
        if self.text.startswith("/>", end):
            end += 2
        elif self.text.startswith(">", end):
            end = self._content(end + 1, parts, depth, tag[1])
        else:
            self.fail("XPST0003", "The tag is not closed", at)
        self.namespaces, self.element_namespace = outer
        return end

    def _declare(self, at: int) -> None:
        """Takes over the namespace attributes first: they hold in the whole tag, whatever their order (section 3.9.1.2)."""
        while (found := _ATTRIBUTE.match(self.text, at)) is not None:
            value = re.compile(f"((?:[^{found[2]}]|{found[2]}{found[2]})*){found[2]}").match(self.text, found.end())
            if value is None:
                return
            prefix, _, local = found[1].rpartition(":")
            if "xmlns" in (found[1], prefix):
                uri = self.references(value[1], found.start())
                if "{" in uri:
                    self.fail("XQST0022", at=found.start())
                if found[1] == "xmlns":
                    self.element_namespace = uri
                elif local in ("xml", "xmlns") or uri == XML:
                    self.fail("XQST0070", at=found.start())
                else:
                    self.namespaces = {**self.namespaces, local: uri}
            at = value.end()

    def _attributes(self, at: int, parts: list[s.Expr]) -> int:
        while (found := _ATTRIBUTE.match(self.text, at)) is not None:
            at = self._text(found.end(), parts, found[2])
            prefix = found[1].rpartition(":")[0]
            if prefix not in ("", "xmlns"):
                self.prefix(prefix, found.start())
        return re.compile(r"[ \t\r\n]*").match(self.text, at).end()  # type: ignore[union-attr]

    def _text(self, at: int, parts: list[s.Expr], quote: str) -> int:
        """The value of an attribute, up to and with its closing quote."""
        while at < len(self.text):
            char = self.text[at]
            if char == quote:
                if self.text[at + 1 : at + 2] != quote:
                    return at + 1
                at += 2
            elif char in "{}":
                at = self._hole(at, parts)
            elif char == "<":
                self.fail("XPST0003", "`<` in an attribute", at)
            else:
                at += 1
        return self.fail("XPST0003", "The attribute is not closed", at)

    def _hole(self, at: int, parts: list[s.Expr]) -> int:
        char = self.text[at]
        if self.text[at + 1 : at + 2] == char:
            return at + 2
        if char == "}":
            self.fail("XPST0003", "`}` stands for itself only when doubled", at)
        self.at = at
        parts.append(self.enclosed())
        return self.at

    def _content(self, at: int, parts: list[s.Expr], depth: int, name: str) -> int:
        start = at
        while at < len(self.text):
            if self.text.startswith("</", at):
                close = _CLOSE.match(self.text, at)
                if close is None or close[1] != name:
                    self.fail("XQST0118", f"</{close[1] if close else ''}> closes <{name}>", at)
                return close.end()
            if self.text[at] == "<":
                at = self._element(at, parts, depth + 1)
            elif self.text[at] in "{}":
                at = self._hole(at, parts)
            else:
                at += 1
        return self.fail("XPST0003", f"<{name}> is not closed", start)
