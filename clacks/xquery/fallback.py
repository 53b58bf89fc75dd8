"""elementpath as an engine for filters: its XPath 3.1 parser extended by FLWOR, with every way out of the process closed.

Its parser is made to be extended and stands on its own; its evaluator is slow and answers about one random filter in 5,000 wrongly, so
nothing here judges a filter that the native evaluator can judge. The prolog is not seen here: it arrives as values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any, Final

from elementpath import XPath1Parser, XPathContext, get_node_tree
from elementpath.datatypes import DateTime10
from elementpath.exceptions import ElementPathError
from elementpath.tdop import ParseError
from elementpath.xpath31 import XPath31Parser
from elementpath.xpath_nodes import XPathNode

from . import syntax as s
from .dates import DateTime
from .errors import FilterError, error_at
from .frames import Event
from .lexer import Lexer
from .module import Module
from .names import split

# The codepoint collation is what XPath 3.1 section 2.1.1 asks for; elementpath's own default is the locale's, and where that locale is
# missing the first comparison leaves a process-wide lock held and the second blocks for ever.
CODEPOINT: Final = "http://www.w3.org/2005/xpath-functions/collation/codepoint"


class FilterParser(XPath31Parser):
    """XPath 3.1 plus FLWOR (XQuery 3.1 section 3.12) with for, at, let, where and return."""

    def parse(self, source: str) -> Any:
        # XPath1Parser.parse evaluates the expression once while parsing, which runs `count(1 to 1000000000)` at compile time.
        if self.tokenizer is None:
            self.tokenizer = self.create_tokenizer(self.symbol_table)
        return super(XPath1Parser, self).parse(source)

    @staticmethod
    def unescape(string_literal: str) -> str:
        # XPath has no references in literals, XQuery does (section 3.1.1).
        return Lexer("").references(XPath31Parser.unescape(string_literal), 0)


for _symbol in ("for", "let"):
    FilterParser.unregister(_symbol)


def _flwor_nud(self: Any) -> Any:
    del self[:]
    parser = self.parser
    if parser.next_token.symbol != "$":
        return self.as_name()
    self.clauses = []
    keyword = self.symbol
    while True:
        if keyword == "where":
            self.clauses.append(("where", None, None, parser.expression(5)))
        else:
            _bindings(self, parser, keyword)
        word = parser.next_token.value if parser.next_token.symbol == "(name)" else parser.next_token.symbol
        if word not in ("for", "let", "where"):
            break
        parser.advance()
        keyword = word
    parser.advance("return")
    self[:] = [clause[3] for clause in self.clauses]
    self.append(parser.expression(5))
    return self


def _bindings(token: Any, parser: Any, keyword: str) -> None:
    while True:
        parser.next_token.expected("$")
        name = parser.expression(5)[0].value
        counter = None
        if keyword == "for" and parser.next_token.value == "at":
            parser.advance()
            counter = parser.expression(5)[0].value
        parser.advance("in" if keyword == "for" else ":=")
        token.clauses.append((keyword, name, counter, parser.expression(5)))
        if parser.next_token.symbol != ",":
            return
        parser.advance()


def _flwor_select(self: Any, context: Any = None) -> Iterator[Any]:
    if context is None:
        raise self.missing_context()
    yield from _clauses(self, context, 0)


def _bound(context: Any, name: str, value: Any) -> Any:
    inner = copy(context)
    inner.variables = {**context.variables, name: value}
    return inner


def _clauses(token: Any, context: Any, index: int) -> Iterator[Any]:
    if index == len(token.clauses):
        yield from token[-1].select(copy(context))
        return
    keyword, name, counter, expression = token.clauses[index]
    if keyword == "where":
        if effective_boolean(expression.select(copy(context))):
            yield from _clauses(token, context, index + 1)
    elif keyword == "let":
        yield from _clauses(token, _bound(context, name, list(expression.select(copy(context)))), index + 1)
    else:
        for number, item in enumerate(list(expression.select(copy(context))), start=1):
            inner = _bound(context, name, item)
            if counter is not None:
                inner = _bound(inner, counter, number)
            yield from _clauses(token, inner, index + 1)


def _flwor_evaluate(self: Any, context: Any = None) -> Any:
    return list(self.select(context))


for _symbol in ("for", "let"):
    _token_class = FilterParser.register(_symbol, lbp=0, rbp=0, label="expression", nud=_flwor_nud, select=_flwor_select,
                                         evaluate=_flwor_evaluate)  # fmt: skip


def effective_boolean(items: Iterator[Any]) -> bool:
    """The effective boolean value (XPath 3.1 section 2.4.3); raises FilterError FORG0006 where there is none."""
    first = next(items, None)
    if first is None:
        return False
    if isinstance(first, XPathNode):
        return True
    if next(items, None) is not None:
        raise FilterError("FORG0006", "The filter gives several values")
    if isinstance(first, bool):
        return first
    kind = type(first).__name__
    if isinstance(first, str) or kind in ("UntypedAtomic", "AnyURI"):
        return bool(str(first))
    if isinstance(first, (int, float)) or kind in ("Decimal", "Integer") or hasattr(first, "__float__"):
        return bool(first) and first == first
    raise FilterError("FORG0006", f"A value of type {kind} has no effective boolean value")


_MESSAGE = re.compile(r"^.*?\[(?:err:)?([A-Z]{4}\d{4})\] ?", re.S)


def translated(error: Exception, text: str, start: int = 0) -> FilterError:
    """elementpath's exception as ours; `start` is where the expression begins in the filter's text."""
    code = str(getattr(error, "code", "") or "").rpartition(":")[2]
    detail = _MESSAGE.sub("", str(error))
    token = getattr(error, "token", None)
    if not code:
        kinds = {ParseError: "XPST0003", SyntaxError: "XPST0003", ZeroDivisionError: "FOAR0001", OverflowError: "FOAR0002",
                 ValueError: "FORG0001", KeyError: "XPST0081", NameError: "XPST0008"}  # fmt: skip
        code = next((found for kind, found in kinds.items() if isinstance(error, kind)), "XPTY0004")
    if token is None or not hasattr(token, "span"):
        return error_at(text, start, code, detail)
    return error_at(text, min(len(text), start + token.span[0]), code, detail)


def _compile(module: Module) -> Any:
    """The token tree of a module's expression; raises FilterError."""
    namespaces = {**module.namespaces, "": module.element_namespace}
    parser = FilterParser(namespaces=namespaces, default_collation=CODEPOINT)
    try:
        return parser.parse(module.text[module.start :])
    except FilterError:
        raise
    except (ElementPathError, ParseError, SyntaxError, TypeError, ValueError, NameError, KeyError, OverflowError) as error:
        raise translated(error, module.text, module.start) from error
    except RecursionError as error:
        raise error_at(module.text, module.start, "CLXQ0002", "The expression is nested too deeply") from error


# Functions that build documents, and what they build with depends on the machine: for saxonche only.
_NOT_HERE: Final = frozenset(
    ("parse-xml", "parse-xml-fragment", "serialize", "json-to-xml", "xml-to-json", "analyze-string", "random-number-generator")
)


def knows(module: Module) -> bool:
    """Whether this engine can evaluate the module: an expression of its grammar, and no prolog but namespaces and external variables."""
    if module.functions or any(variable.value is not None for variable in module.variables):
        return False
    if any(isinstance(one, (s.Call, s.NamedRef)) and split(one.name)[1] in _NOT_HERE for one in s.walk(module.body)):
        return False
    try:
        _compile(module)
    except FilterError:
        return False
    return True


class ElementpathFilter:
    """One filter; the names in it have been checked by `static.py`."""

    name = "elementpath"

    def __init__(self, module: Module) -> None:
        self._tree = _compile(module)

    def matches(self, event: Event, variables: Mapping[str, Any]) -> bool:
        """The effective boolean value of the filter (XPath 3.1 section 2.4.3); raises FilterError."""
        try:
            root = event.cache.get(ElementpathFilter)
            if root is None:
                root = event.cache[ElementpathFilter] = get_node_tree(event.document)
            values = {name: DateTime10.fromstring(str(one)) if isinstance(one, DateTime) else one for name, one in variables.items()}
            items = list(self._tree.select(XPathContext(root=root, variables=values)))
        except FilterError:
            raise
        except RecursionError as error:
            raise FilterError("CLXQ0004", "The recursion is too deep") from error
        except Exception as error:  # elementpath lets errors of many kinds through; each is this filter's own
            raise translated(error, "", 0) from error
        return effective_boolean(iter(items))
