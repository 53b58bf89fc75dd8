"""Sequence types as they are written (XQuery 3.1 section 2.5.4), and the names of the atomic types.

Whether a value has a type is decided in `instance.py`.
"""

from __future__ import annotations

from typing import Final

from .lexer import Lexer
from .names import XS, collapsed, expanded, shown, split
from .syntax import ItemType, KindTest, NameTest, SequenceType

# Atomic type -> the type it is derived from (XPath and XQuery Data Model 3.1 section 2.7.1).
ATOMIC: Final[dict[str, str]] = {
    "anyAtomicType": "", "untypedAtomic": "anyAtomicType", "string": "anyAtomicType", "boolean": "anyAtomicType",
    "decimal": "anyAtomicType", "float": "anyAtomicType", "double": "anyAtomicType", "duration": "anyAtomicType",
    "dateTime": "anyAtomicType", "time": "anyAtomicType", "date": "anyAtomicType", "gYearMonth": "anyAtomicType",
    "gYear": "anyAtomicType", "gMonthDay": "anyAtomicType", "gDay": "anyAtomicType", "gMonth": "anyAtomicType",
    "hexBinary": "anyAtomicType", "base64Binary": "anyAtomicType", "anyURI": "anyAtomicType", "QName": "anyAtomicType",
    "NOTATION": "anyAtomicType", "dateTimeStamp": "dateTime", "yearMonthDuration": "duration", "dayTimeDuration": "duration",
    "integer": "decimal", "nonPositiveInteger": "integer", "negativeInteger": "nonPositiveInteger", "long": "integer", "int": "long",
    "short": "int", "byte": "short", "nonNegativeInteger": "integer", "unsignedLong": "nonNegativeInteger",
    "unsignedInt": "unsignedLong", "unsignedShort": "unsignedInt", "unsignedByte": "unsignedShort",
    "positiveInteger": "nonNegativeInteger", "normalizedString": "string", "token": "normalizedString", "language": "token",
    "NMTOKEN": "token", "Name": "token", "NCName": "Name", "ID": "NCName", "IDREF": "NCName", "ENTITY": "NCName", "numeric": "",
}  # fmt: skip

KINDS: Final = frozenset(
    ("node", "text", "comment", "processing-instruction", "element", "attribute", "document-node", "schema-element", "schema-attribute",
     "namespace-node")
)  # fmt: skip


class TypeParser(Lexer):
    """Names and types of the grammar."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.namespaces: dict[str, str] = {}
        self.element_namespace = ""

    def prefix(self, prefix: str, at: int) -> str:
        uri = self.namespaces.get(prefix)
        if uri is None:
            self.fail("XPST0081", f"`{prefix}:`", at)
        return uri

    def braced_uri(self) -> str | None:
        """`Q{uri}` (production 224), whose characters are not tokens."""
        token = self.token
        if token.text != "Q" or self.text[token.end : token.end + 1] != "{":
            return None
        end = self.text.find("}", token.end)
        if end < 0 or "{" in self.text[token.end + 1 : end]:
            self.fail("XPST0003", "The braced URI is not closed", token.start)
        self.at = end + 1
        return collapsed(self.references(self.text[token.end + 1 : end], token.start))

    def eqname(self, default: str) -> str:
        """Takes a name (production 218); `default` is the namespace of one without a prefix."""
        uri = self.braced_uri()
        if self.token.kind != "name":
            self.unexpected("a name")
        if uri is not None:
            return expanded(uri, self.take().text)
        token = self.take()
        if self._prefixed(token):
            self.at = token.end + 1
            if self.token.kind != "name":
                self.unexpected("a name")
            return expanded(self.prefix(token.text, token.start), self.take().text)
        return expanded(default, token.text)

    def name_test(self, default: str) -> NameTest:
        """Takes a name test (productions 119 and 120)."""
        if self.is_symbol("*"):
            star = self.take()
            if self.text[star.end : star.end + 1] == ":" and self.text[star.end + 1 : star.end + 2] != ":":
                self.at = star.end + 1
                if self.token.kind != "name":
                    self.unexpected("a name")
                return NameTest(None, self.take().text)
            return NameTest(None, None)
        uri = self.braced_uri()
        if uri is None and self.token.kind == "name" and self.text[self.token.end : self.token.end + 2] == ":*":
            token = self.take()
            self.at = token.end + 2
            return NameTest(self.prefix(token.text, token.start), None)
        if uri is not None:
            if self.accept("*"):
                return NameTest(uri, None)
            return NameTest(uri, self.eqname("") if self.token.kind == "name" else self.unexpected("a name"))
        return NameTest(*split(self.eqname(default)))

    def kind_test(self) -> KindTest:
        """Takes a kind test (production 188)."""
        kind = self.take().text
        if kind.startswith("schema-"):
            self.fail("XPST0008", f"{kind}() needs an imported schema")
        self.expect("(")
        name = type_name = None
        if not self.is_symbol(")"):
            if kind in ("element", "attribute"):
                name = self.name_test(self.element_namespace if kind == "element" else "")
                if self.accept(","):
                    type_name = self.type_name()
                    self.accept("?")
            elif kind == "processing-instruction":
                name = NameTest("", collapsed(self.string()) if self.token.kind == "string" else self.eqname(""))
            elif kind == "document-node":
                if not self.is_word("element"):
                    self.unexpected("`element(`")
                element = self.kind_test()
                name, type_name = element.name or NameTest(None, None), element.type
            else:
                self.unexpected("`)`")
        self.expect(")")
        return KindTest(kind, name, type_name)

    def type_name(self) -> str:
        at = self.token.start
        name = self.eqname(self.element_namespace)
        uri, local = split(name)
        if uri != XS or (local not in ATOMIC and local not in ("anyType", "untyped", "anySimpleType", "error")):
            self.fail("XPST0051", f"`{shown(name)}`", at)
        return local

    def atomic_type(self) -> str:
        """Takes the name of an atomic type."""
        at = self.token.start
        local = self.type_name()
        if local not in ATOMIC:
            self.fail("XPST0051", f"`xs:{local}` is not an atomic type", at)
        return local

    def sequence_type(self) -> SequenceType:
        """Takes a sequence type (production 184)."""
        if self.words("empty-sequence", "("):
            self.take()
            self.expect("(")
            self.expect(")")
            return SequenceType(ItemType("empty"))
        item = self.item_type()
        for occurrence in ("?", "*", "+"):
            if self.accept(occurrence):
                return SequenceType(item, occurrence)
        return SequenceType(item)

    def item_type(self) -> ItemType:
        token = self.token
        if self.accept("("):
            inner = self.item_type()
            self.expect(")")
            return inner
        if token.kind == "symbol" and token.text == "%":
            self.annotations()
            token = self.token
        if self.words(token.text, "("):
            if token.text in KINDS:
                return ItemType("node", test=self.kind_test())
            if token.text == "item":
                self.take()
                self.expect("(")
                self.expect(")")
                return ItemType("item")
            if token.text in ("function", "map", "array"):
                return self._function_type(self.take().text)
        return ItemType("atomic", self.atomic_type())

    def _function_type(self, kind: str) -> ItemType:
        self.expect("(")
        if self.accept("*"):
            self.expect(")")
            return ItemType(kind)
        args: list[SequenceType] = []
        while not self.is_symbol(")"):
            args.append(self.sequence_type())
            if not self.accept(","):
                break
        self.expect(")")
        if kind == "function":
            self.expect("as")
            args.append(self.sequence_type())
        return ItemType(kind, "typed", args=tuple(args))

    def annotations(self) -> None:
        """Takes annotations (production 27); %public and %private mean nothing in a filter."""
        while self.accept("%"):
            at = self.token.start
            name = self.eqname("")
            if name not in ("public", "private"):
                self.fail("XQST0045", f"The annotation %{shown(name)}", at)
            if self.accept("("):
                while self.token.kind in ("string", "integer", "decimal", "double"):
                    self.take()
                    self.accept(",")
                self.expect(")")

    def single_type(self) -> SequenceType:
        """Takes the type of a cast (production 182)."""
        at = self.token.start
        local = self.atomic_type()
        if local in ("anyAtomicType", "NOTATION"):
            self.fail("XPST0080", f"xs:{local}", at)
        return SequenceType(ItemType("atomic", local), "?" if self.accept("?") else "")
