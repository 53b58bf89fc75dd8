"""Unusual beginnings of a document: encodings other than ASCII's relatives, comments before the root, a DOCTYPE.

`ordinary` brings them to the one form the parser gets: markup in ASCII, no DOCTYPE. XML 1.0 section 4.3.3 and appendix F give the rules.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

from clacks.common.errors import ClacksError

# Byte order marks and, without one, how `<` looks. The longer ones first: UTF-32's little-endian mark begins with UTF-16's.
_WIDE: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\0\0\0", "utf-32-le"),
    (b"\0\0\0<", "utf-32-be"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)

# Encodings in which every byte below 0x80 is that ASCII character, so the parser's view and ours of `<!DOCTYPE` are the same.
_ASCII_LIKE: Final = re.compile(r"(?i:utf-?8|us-ascii|ascii|iso-8859-\d\d?|windows-125\d|koi8-[ru])").fullmatch

# Encodings in which a byte below 0x80 may be half a character: decoded by Python. No others: UTF-7 and its like can hide markup, and some
# of Python's codecs take quadratic time.
_DECODED: Final = frozenset(("shift_jis", "euc-jp", "euc-kr", "gb2312", "gbk", "gb18030", "big5", "iso-2022-jp"))

_DECLARATION: Final = re.compile(r"\s*<\?xml\s[^>]*?\?>")
_ENCODING: Final = re.compile(rb"<\?xml\s[^>]*?\sencoding\s*=\s*[\"']([A-Za-z][A-Za-z0-9._-]*)[\"']")
_MISC: Final = re.compile(rb"(?>\s+|<\?.*?\?>|<!--.*?-->)*+", re.DOTALL)


def ordinary(body: bytes) -> bytes:
    """`body` with its markup in ASCII and without a DOCTYPE.

    Raises ClacksError: event-empty, xml-doctype, xml-malformed (an encoding that is not known, or bytes that do not fit it).
    """
    for mark, encoding in _WIDE:
        if body.startswith(mark):
            body = _decoded(body, encoding)
            break
    else:
        body = body.removeprefix(codecs.BOM_UTF8)
        if (declared := _ENCODING.match(body)) and not _ASCII_LIKE(name := declared[1].decode()):
            if name.lower().startswith(("utf-16", "utf-32", "ucs-", "iso-10646")):
                raise _unreadable(f"it says that it is {name[:40]}, and its bytes are not")
            if name.lower() not in _DECODED:
                raise _unreadable(f"the encoding {name[:40]} is not known here; UTF-8 always is")
            body = _decoded(body, name)
    start = _MISC.match(body)
    rest = start.end() if start else 0
    if rest == len(body) and not body.strip():
        raise ClacksError("event-empty")
    if body.startswith(b"<!DOCTYPE", rest):
        raise ClacksError("xml-doctype")
    if not body.startswith(b"<", rest):
        # Nothing but `<` may come here, and libxml2 would try more encodings (EBCDIC) on what does.
        line = body.count(b"\n", 0, rest) + 1
        raise _unreadable("there is no element", line, rest - body.rfind(b"\n", 0, rest))
    return body


def characters(body: bytes) -> str:
    """The characters of a document, without its XML declaration. Raises ClacksError as `ordinary` does."""
    body = ordinary(body)
    declared = _ENCODING.match(body)
    name = declared[1].decode() if declared else "utf-8"
    try:
        return undeclared(body.decode(name))
    except (LookupError, UnicodeDecodeError) as error:
        raise _unreadable(f"its bytes are not {name[:40]}") from error


def undeclared(text: str) -> str:
    """`text` without its XML declaration: what that says about an encoding is no longer true of a string."""
    return _DECLARATION.sub("", text.removeprefix("\ufeff"), count=1) if text[:200].lstrip("\ufeff \t\r\n").startswith("<?xml") else text


def _decoded(body: bytes, encoding: str) -> bytes:
    try:
        return undeclared(body.decode(encoding)).encode()
    except UnicodeError as error:
        raise _unreadable(f"its bytes are not {encoding}") from error


def _unreadable(reason: str, line: int = 1, column: int = 1) -> ClacksError:
    return ClacksError("xml-malformed", reason=reason, line=line, column=column)
