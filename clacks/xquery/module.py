"""A whole filter: version declaration, prolog (XQuery 3.1 section 4) and the expression.

The prolog is read into values. What a declaration does not change in a filter (boundary space, options, base URI) is checked and dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from . import syntax as s
from .errors import FilterError, error_at
from .names import FN, PREDECLARED, RESERVED, XML, XMLNS, collapsed, shown, split
from .parser import Parser

# A filter travels in one attach frame, which in AMQP has 32 KiB with us, and one written by hand has a few hundred characters.
MAX_LENGTH: Final = 24_000


@dataclass(frozen=True, slots=True)
class Variable:
    """`declare variable` (section 4.16); `value` is None for an external variable without a default."""

    at: int
    name: str
    type: s.SequenceType | None
    external: bool
    value: s.Expr | None


@dataclass(frozen=True, slots=True)
class Function:
    """`declare function` (section 4.18)."""

    at: int
    name: str
    params: tuple[tuple[str, s.SequenceType | None], ...]
    result: s.SequenceType | None
    body: s.Expr


@dataclass(frozen=True, slots=True)
class Module:
    """A parsed filter; `start` is the offset where the expression begins."""

    text: str
    variables: tuple[Variable, ...]
    functions: tuple[Function, ...]
    body: s.Expr
    start: int
    namespaces: dict[str, str]
    element_namespace: str
    foreign: tuple[int, str] | None


class _ModuleParser(Parser):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.namespaces = dict(PREDECLARED)
        self.variables: list[Variable] = []
        self.functions: list[Function] = []
        self.foreign: tuple[int, str] | None = None
        self._seen: set[str] = set()
        self._prefixes: set[str] = set()

    def module(self) -> Module:
        self._version()
        while self.is_word("declare", "import", "module") and self._declaration():
            self.expect(";")
        start = self.token.start
        body = self.expr()
        if self.token.kind != "end":
            self.unexpected("the end of the filter")
        return Module(self.text, tuple(self.variables), tuple(self.functions), body, start, self.namespaces, self.element_namespace,
                      self.foreign)  # fmt: skip

    def _version(self) -> None:
        if not self.words("xquery", "version", "encoding"):
            return
        self.take()
        if self.accept("version"):
            at = self.token.start
            if self.string() not in ("1.0", "3.0", "3.1"):
                self.fail("XQST0031", at=at)
        if self.accept("encoding"):
            self.string()
        self.expect(";")

    def _declaration(self) -> bool:
        token = self.token
        what = self.after(token)
        if what.kind not in ("name", "symbol") or (what.kind == "symbol" and what.text != "%"):
            return False
        if token.text == "import":
            if what.text in ("module", "schema"):
                self.fail("XQST0016" if what.text == "module" else "XQST0009")
            return False
        if token.text == "module":
            if what.text == "namespace":
                self.fail("XQST0016")
            return False
        table: dict[str, Callable[[], None]] = {
            "namespace": self._namespace, "default": self._default, "variable": self._variable_declaration,
            "function": self._function_declaration, "option": self._option, "boundary-space": self._boundary_space,
            "construction": self._construction, "ordering": self._ordering, "base-uri": self._base_uri, "context": self._context,
            "copy-namespaces": self._copy_namespaces, "decimal-format": self._decimal_format, "%": self._annotated,
        }  # fmt: skip
        if what.text not in table:
            return False
        self.take()
        if what.text != "%":
            self.take()
        table[what.text]()
        return True

    def _once(self, what: str, code: str, at: int) -> None:
        if what in self._seen:
            self.fail(code, at=at)
        self._seen.add(what)

    def _namespace(self) -> None:
        token = self.token
        if token.kind != "name":
            self.unexpected("a prefix")
        prefix = self.take().text
        self.expect("=")
        uri = collapsed(self.string())
        if prefix in ("xml", "xmlns") or uri in (XML, XMLNS):
            self.fail("XQST0070", f"`{prefix}`", token.start)
        if prefix in self._prefixes:
            self.fail("XQST0033", f"`{prefix}`", token.start)
        self._prefixes.add(prefix)
        if uri:
            self.namespaces[prefix] = uri
        else:
            self.namespaces.pop(prefix, None)

    def _default(self) -> None:
        at = self.token.start
        if self.is_word("element", "function"):
            what = self.take().text
            self.expect("namespace")
            uri = collapsed(self.string())
            self._once(f"default {what}", "XQST0066", at)
            if uri in (XML, XMLNS):
                self.fail("XQST0070", at=at)
            if what == "element":
                self.element_namespace = uri
            else:
                self.function_namespace = uri
        elif self.accept("collation"):
            self._once("collation", "XQST0038", at)
            if self.string() != FN + "/collation/codepoint":
                self.fail("XQST0038", at=at)
        elif self.accept("order"):
            self._once("order", "XQST0069", at)
            self.expect("empty")
            self.empty_greatest = self.accept("greatest")
            if not self.empty_greatest:
                self.expect("least")
        elif self.is_word("decimal-format"):
            self.take()
            self._properties(at)
        else:
            self.unexpected("`element`, `function`, `collation` or `order`")

    def _boundary_space(self) -> None:
        self._once("boundary-space", "XQST0068", self.token.start)
        self._one_of("preserve", "strip")

    def _construction(self) -> None:
        self._once("construction", "XQST0067", self.token.start)
        self._one_of("preserve", "strip")

    def _ordering(self) -> None:
        self._once("ordering", "XQST0065", self.token.start)
        self._one_of("ordered", "unordered")

    def _option(self) -> None:
        self.eqname("http://www.w3.org/2012/xquery")
        self.string()

    def _base_uri(self) -> None:
        at = self.token.start
        self._once("base-uri", "XQST0032", at)
        self.string()
        self.foreign = self.foreign or (at, "`declare base-uri`")

    def _copy_namespaces(self) -> None:
        self._once("copy-namespaces", "XQST0055", self.token.start)
        self._one_of("preserve", "no-preserve")
        self.expect(",")
        self._one_of("inherit", "no-inherit")

    def _one_of(self, *words: str) -> None:
        if not self.is_word(*words):
            self.unexpected(" or ".join(f"`{word}`" for word in words))
        self.take()

    def _decimal_format(self) -> None:
        at = self.token.start
        self.eqname("")
        self._properties(at)

    def _properties(self, at: int) -> None:
        while self.token.kind == "name":
            self.take()
            self.expect("=")
            self.string()
        self.foreign = self.foreign or (at, "`declare decimal-format`")

    def _context(self) -> None:
        at = self.token.start
        self.expect("item")
        self._once("context", "XQST0099", at)
        kind = self.item_type() if self.accept("as") else None
        if self.accept("external"):
            if self.accept(":="):
                self.expr_single()  # the event is always there, so the default is never used (section 4.17)
        elif self.accept(":="):
            raise error_at(self.text, at, "CLXQ0003", "`declare context item` with a value: the context item is the event")
        else:
            self.unexpected("`external`")
        if kind is not None and not (kind.kind == "item" or (kind.test is not None and kind.test.kind in ("node", "document-node"))):
            self.fail("XPTY0004", "The context item is a document", at)
        if kind is not None and kind.test is not None and kind.test.name is not None:
            self.foreign = self.foreign or (at, "`declare context item` with the name of an element")

    def _annotated(self) -> None:
        self.annotations()
        if self.accept("variable"):
            self._variable_declaration()
        elif self.accept("function"):
            self._function_declaration()
        else:
            self.unexpected("`variable` or `function`")

    def _variable_declaration(self) -> None:
        at = self.token.start
        name = self.variable_name()
        if any(name == other.name for other in self.variables):
            self.fail("XQST0049", f"${shown(name)}", at)
        kind = self.optional_type()
        external = self.accept("external")
        value = None
        if not external or self.is_symbol(":="):
            self.expect(":=")
            value = self.expr_single()
        self.variables.append(Variable(at, name, kind, external, value))

    def _function_declaration(self) -> None:
        at = self.token.start
        name = self.eqname(self.function_namespace)
        uri = split(name)[0]
        if uri in RESERVED:
            self.fail("XQST0045", f"`{shown(name)}`", at)
        if not uri:
            self.fail("XQST0060", "A function needs a namespace, for example local:", at)
        params, result = self.signature()
        if any(name == other.name and len(params) == len(other.params) for other in self.functions):
            self.fail("XQST0034", f"`{shown(name)}`", at)
        if self.accept("external"):
            self.fail("XPST0017", "External functions are not available", at)
        self.functions.append(Function(at, name, params, result, self.enclosed()))


# XML 1.0 production 2, negated.
_NO_CHARACTER: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def line_ends(text: str) -> str:
    """The text with its line ends normalized (section A.2.3)."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _not_text(text: object) -> NoReturn:
    raise TypeError(f"a filter is text, not {type(text).__name__}")


def readable(text: str) -> str:
    """A filter's text as it is read; raises FilterError for what is no character of XML, wherever it stands."""
    text = line_ends(text)
    wrong = _NO_CHARACTER.search(text)
    if wrong is not None:
        raise error_at(text, wrong.start(), "XPST0003", f"U+{ord(wrong.group()):04X} is not a character of XML")
    return text


def parse(text: str, spans: dict[int, tuple[int, int]] | None = None) -> Module:
    """The tree of a filter; raises FilterError with line, column and code. `spans` is filled with where the operands stand."""
    if not isinstance(text, str):
        _not_text(text)
    text = readable(text)
    if len(text) > MAX_LENGTH:
        raise FilterError("CLXQ0002", f"The filter has {len(text)} characters; the limit is {MAX_LENGTH}", 1, 1)
    parser = _ModuleParser(text)
    parser.spans = spans
    return parser.module()
