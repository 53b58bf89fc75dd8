"""saxonche as an engine for filters: everything XQuery 3.1 says, with files, the network and the environment closed off.

Two properties of its configuration are needed for that, and `tests/test_xquery_saxon.py` proves that they are enough. Python runs the
engine inside its own process, where nothing limits its time or memory: filters reach it in the sandbox only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from importlib.util import find_spec
from typing import Any, Final

from lxml import etree

from .dates import DateTime
from .errors import FilterError
from .frames import Event
from .module import Module
from .names import FN
from .values import string_of

# No URI scheme may be fetched, by doc(), collection(), unparsed-text() or an import; and no extension function may be called, which also
# empties the environment.
CLOSED: Final = {
    "http://saxon.sf.net/feature/allowedProtocols": "",
    "http://saxon.sf.net/feature/allow-external-functions": "false",
}

# An answer that is none must not count as no match; the engine is asked again once.
ATTEMPTS: Final = 2

_CODE: Final = re.compile(r"\b([A-Z]{4}\d{4})\b")


@cache
def available() -> bool:
    """Whether the `xquery` extra is installed."""
    return find_spec("saxonche") is not None


@cache
def processor() -> Any:
    """The one processor of this process, closed off."""
    from saxonche import PySaxonProcessor

    made = PySaxonProcessor(license=False)
    for name, value in CLOSED.items():
        made.set_configuration_property(name, value)
    return made


def _failure(error: Exception) -> FilterError:
    text = " ".join(str(error).split())
    found = next((one for one in _CODE.finditer(text) if not one[1].startswith("SX")), None)  # SX.. are warnings of its own
    return FilterError(found[1] if found else "FOER0000", text[found.end() if found else 0 :].strip()[:200])


def _text(document: etree._ElementTree) -> str:
    """A document as characters. lxml takes quadratic time to write what stands around a root: 5 s for 40,000 comments."""
    root = document.getroot()
    before, behind = (root.itersiblings(preceding=preceding) for preceding in (True, False))
    parts = [*reversed(list(map(_written, before))), etree.tostring(root, encoding="unicode", with_tail=False), *map(_written, behind)]
    return "".join(parts)


def _written(node: Any) -> str:
    """A comment or a processing instruction, which stand around a root and hold nothing that is to be escaped (XML 1.0 2.5, 2.6)."""
    if node.tag is etree.Comment:
        return f"<!--{node.text or ''}-->"
    return f"<?{node.target} {node.text or ''}?>"


def _xdm(value: Any) -> Any:
    made = processor()
    if type(value) is bool:
        return made.make_boolean_value(value)
    if type(value) is float:
        return made.make_double_value(value)
    if type(value) is str:
        return made.make_string_value(value)
    kind = {int: "integer", Decimal: "decimal"}.get(type(value)) or (value.type if isinstance(value, DateTime) else "string")
    return made.make_atomic_value(kind, string_of(value))


class SaxonFilter:
    """One filter, as `boolean(...)` of its expression behind its own prolog."""

    name = "saxon"

    def __init__(self, module: Module) -> None:
        text, start = module.text, module.start
        self._query = f"{text[:start]}Q{{{FN}}}boolean((\n{text[start:]}\n))"

    def matches(self, event: Event, variables: Mapping[str, Any]) -> bool:
        """The effective boolean value of the filter (XPath 3.1 section 2.4.3); raises FilterError."""
        for _ in range(ATTEMPTS):
            answer = self._answer(event, variables)
            if answer in ("true", "false"):
                return answer == "true"
        raise FilterError("FOER0000", f"The full engine answered {answer!r} to what is true or false")

    def _answer(self, event: Event, variables: Mapping[str, Any]) -> str:
        made = processor()
        try:
            query = made.new_xquery_processor()
            query.set_query_content(self._query)
            query.set_context(xdm_item=self._node(event))
            for name, value in variables.items():
                query.set_parameter(name, _xdm(value))
            result = query.run_query_to_value()
            return "" if result is None else str(result.item_at(0))
        except Exception as error:  # PySaxonApiError is raised by some releases as another class
            raise _failure(error) from error

    def _node(self, event: Event) -> Any:
        node = event.cache.get(SaxonFilter)
        if node is None:
            node = event.cache[SaxonFilter] = processor().parse_xml(xml_text=_text(event.document))
        return node
