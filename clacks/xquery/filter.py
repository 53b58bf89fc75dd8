"""One filter: from text to an object that answers for an event."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, TypeAlias

from elementpath import get_node_tree
from elementpath.datatypes import DateTime10
from lxml import etree

from . import fallback
from .allowed import ARRAY_FUNCTIONS, FN_FUNCTIONS, MAP_FUNCTIONS, MATH_FUNCTIONS, OUTSIDE
from .errors import FilterError, error_at
from .prolog import FN, Prolog, Variable, parse_prolog

Document: TypeAlias = "etree._ElementTree"

# A filter travels in one attach frame; 64 KiB is more than any filter written by hand and keeps compiling under a second.
MAX_LENGTH: Final = 65536

_ALLOWED: Final = {FN: FN_FUNCTIONS, FN + "/math": MATH_FUNCTIONS, FN + "/map": MAP_FUNCTIONS, FN + "/array": ARRAY_FUNCTIONS}


class Filter:
    """A compiled filter; made by `compile_filter`."""

    __slots__ = ("_body", "_prolog", "_values", "cost", "text")

    def __init__(self, text: str, prolog: Prolog, body: Any, values: list[tuple[Variable, Any, str]]) -> None:
        self.text = text
        self.cost = "cheap"
        self._prolog = prolog
        self._body = body
        self._values = values

    def __repr__(self) -> str:
        return f"Filter({self.text!r})"

    def matches(self, document: Document, variables: Mapping[str, object] | None = None) -> bool:
        """The effective boolean value (XPath 3.1 section 2.4.3) of the filter with the document node as context item.

        `variables` are the values of external variables by name (bool, int, float, Decimal, str, datetime; others are as if unset).
        Raises FilterError when the evaluation fails, which by the rules of the bus means that the filter does not match.
        """
        return self.matches_tree(get_node_tree(document), variables)

    def matches_tree(self, root: Any, variables: Mapping[str, object] | None = None) -> bool:
        """As `matches`, over elementpath's tree of the document, which the index builds once for all its filters."""
        bound: dict[str, Any] = {}
        for variable, tree, name in self._values:
            bound[name] = self._value(variable, tree, root, bound, variables or {})
        items = fallback.run(self._body, root, bound)
        return fallback.effective_boolean(iter(items))

    def _value(self, variable: Variable, tree: Any, root: Any, bound: Mapping[str, Any], given: Mapping[str, object]) -> Any:
        value = _item(given.get(variable.name)) if variable.external else None
        if value is None:
            if tree is None:
                raise FilterError("XPDY0002", f"The variable ${variable.name} has no value")
            value = fallback.run(tree, root, bound)
        if variable.type and not fallback.is_of_type(value, variable.type, self._prolog.namespaces):
            raise FilterError("XPTY0004", f"The variable ${variable.name} is not of type {variable.type}")
        return value


def _item(value: object) -> Any:
    if isinstance(value, (bool, int, float, str, Decimal)):
        return value
    if isinstance(value, datetime.datetime):
        return DateTime10.fromdatetime(value)
    return None


def _check_functions(tree: Any, text: str, start: int) -> None:
    for token in tree.iter():
        if token.symbol == "#" and (name := str(token[0].value).rpartition(":")[2].rpartition("}")[2]) in OUTSIDE:
            raise error_at(text, start + token.span[0], "CLXQ0001", f"{name}() is refused")
        if not hasattr(token, "nargs") or "function" not in token.label or token.label in ("function test",):
            continue
        offset = start + token.span[0]
        if token.symbol in OUTSIDE and token.namespace in (FN, None):
            raise error_at(text, offset, "CLXQ0001", f"{token.symbol}() is refused")
        allowed = _ALLOWED.get(token.namespace or "")
        if allowed is not None and token.symbol not in allowed:
            raise error_at(text, offset, "XPST0017", f"{token.symbol}() is not available")


def compile_filter(text: str) -> Filter:
    """Compiles an XQuery filter; raises FilterError with line, column, W3C code and a sentence (XQuery 3.1 section 4)."""
    if len(text) > MAX_LENGTH:
        raise FilterError("CLXQ0002", f"The filter has {len(text)} characters; the limit is {MAX_LENGTH}", 1, 1)
    prolog = parse_prolog(text)
    values = []
    names: set[str] = set()
    for variable in prolog.variables:
        name = variable.name
        if name in names:
            raise error_at(text, variable.offset, "XQST0049", f"${name}")
        names.add(name)
        tree = None
        if variable.default is not None:
            end = variable.offset + len(variable.default)
            tree = fallback.compile_expression(text[:end], variable.offset, prolog.namespaces)
            _check_functions(tree, text, variable.offset)
        values.append((variable, tree, name))
    body = fallback.compile_expression(text, prolog.body, prolog.namespaces)
    _check_functions(body, text, prolog.body)
    fallback.check_names(body, names, text, prolog.body)
    return Filter(text, prolog, body, values)
