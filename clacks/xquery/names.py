"""Namespaces and how a written name becomes an expanded one (XQuery 3.1 section 2.4.1).

A name without a namespace is its local part, every other is `{uri}local`, as in lxml.
"""

from __future__ import annotations

import re
from typing import Final

XML: Final = "http://www.w3.org/XML/1998/namespace"
XMLNS: Final = "http://www.w3.org/2000/xmlns/"
XS: Final = "http://www.w3.org/2001/XMLSchema"
XSI: Final = "http://www.w3.org/2001/XMLSchema-instance"
FN: Final = "http://www.w3.org/2005/xpath-functions"
MATH: Final = FN + "/math"
MAP: Final = FN + "/map"
ARRAY: Final = FN + "/array"
LOCAL: Final = "http://www.w3.org/2005/xquery-local-functions"
ERR: Final = "http://www.w3.org/2005/xqt-errors"

# Section 2.1.1 predeclares the first five; map, array, math and err are what every engine adds and W3C's own test suite relies on.
PREDECLARED: Final = {"xml": XML, "xs": XS, "xsi": XSI, "fn": FN, "local": LOCAL, "math": MATH, "map": MAP, "array": ARRAY, "err": ERR}

# XQuery 3.1 section 4.18: no function may be declared in these.
RESERVED: Final = frozenset({XML, XS, XSI, FN, MATH, MAP, ARRAY})


def expanded(uri: str, local: str) -> str:
    return f"{{{uri}}}{local}" if uri else local


def split(name: str) -> tuple[str, str]:
    """Namespace and local part of an expanded name."""
    uri, _, local = name.rpartition("}")
    return uri[1:], local


def collapsed(text: str) -> str:
    """White space collapsed (XML Schema 1.1 part 2, 4.3.6): that of XML only, which is less than Python's."""
    return _SPACES.sub(" ", text).strip(" ")


_SPACES: Final = re.compile("[ \t\r\n]+")


def shown(name: str) -> str:
    """A name for people: the usual prefix, or the local part."""
    uri, local = split(name)
    prefix = {FN: "", XS: "xs:", MATH: "math:", MAP: "map:", ARRAY: "array:", LOCAL: "local:"}.get(uri, "")
    return prefix + local
