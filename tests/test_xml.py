"""Bytes from strangers: a document, or our own error; never a file read, an expansion, or a parser that is worn out afterwards."""

from __future__ import annotations

import codecs
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clacks.common.errors import ClacksError
from clacks.common.xml import DEEPEST, DEFAULT_LIMITS, Limits, parse

NESTED = b"<a>" * 40 + b"</a>" * 40


def code_of(body: bytes, limits: Limits = DEFAULT_LIMITS) -> str:
    try:
        parse(body, limits)
    except ClacksError as error:
        return error.code
    return "parsed"


def with_encoding(encoding: str, declared: str, text: str = "<a>ä€</a>") -> bytes:
    return f'<?xml version="1.0" encoding="{declared}"?>{text}'.encode(encoding)


@pytest.mark.parametrize(
    "body",
    [
        "<a>ä€</a>".encode(),
        codecs.BOM_UTF8 + "<a>ä€</a>".encode(),
        codecs.BOM_UTF8 + with_encoding("utf-8", "UTF-8"),
        with_encoding("utf-8", "utf-8"),
        with_encoding("utf-8", "UTF-8", "\n<!-- before --><?x y?>\n<a>ä€</a><!-- after -->"),
        "<?xml version='1.0' standalone='yes' ?>\n<a>ä€</a>".encode(),
        with_encoding("iso-8859-15", "ISO-8859-15"),
        with_encoding("windows-1252", "windows-1252"),
        with_encoding("utf-16", "UTF-16"),
        with_encoding("utf-16-le", "UTF-16"),
        with_encoding("utf-16-be", "UTF-16"),
        codecs.BOM_UTF16_BE + with_encoding("utf-16-be", "UTF-16BE"),
        "<a>ä€</a>".encode("utf-16"),
        "<a>ä€</a>".encode("utf-32"),
        with_encoding("utf-32-be", "UTF-32"),
        with_encoding("gb18030", "GB18030"),
    ],
)
def test_any_encoding_of_xml_is_read(body: bytes) -> None:
    assert parse(body).getroot().text == "ä€"


def test_shift_jis_and_latin_1_are_read() -> None:
    assert parse(with_encoding("shift_jis", "Shift_JIS", "<a>ソ</a>")).getroot().text == "ソ"
    assert parse(with_encoding("iso-8859-1", "iso-8859-1", "<a>ä</a>")).getroot().text == "ä"


DOCTYPE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><a>&x;</a>'
LAUGHS = '<!DOCTYPE a [<!ENTITY l "ha"><!ENTITY m "&l;&l;&l;&l;"><!ENTITY n "&m;&m;&m;&m;">]><a b="&n;">&n;</a>'


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "event-empty"),
        (b" \n\t", "event-empty"),
        (codecs.BOM_UTF8, "event-empty"),
        (DOCTYPE.encode(), "xml-doctype"),
        (LAUGHS.encode(), "xml-doctype"),
        (b"<!DOCTYPE a><a/>", "xml-doctype"),
        (b'<?xml version="1.0"?>\n<!-- <a> --><?x <a> ?>\n<!DOCTYPE a><a/>', "xml-doctype"),
        (DOCTYPE.encode("utf-16"), "xml-doctype"),
        (DOCTYPE.encode("utf-32"), "xml-doctype"),
        (with_encoding("shift_jis", "Shift_JIS", DOCTYPE), "xml-doctype"),
        (with_encoding("iso-8859-1", "ISO-8859-1", DOCTYPE), "xml-doctype"),
        # A DOCTYPE that only the declared encoding shows; UTF-7 and EBCDIC are not read at all.
        (b'<?xml version="1.0" encoding="UTF-7"?>+ADwAIQ-DOCTYPE a+AD4-<a/>', "xml-malformed"),
        ('<?xml version="1.0" encoding="cp037"?><!DOCTYPE a><a/>'.encode("cp037"), "xml-malformed"),
        (b'<?xml version="1.0" encoding="punycode"?><a/>', "xml-malformed"),
        (b'<?xml version="1.0" encoding="UTF-16"?><a/>', "xml-malformed"),
        (b"<a>&x;</a>", "xml-malformed"),
        (b"<a>&#0;</a>", "xml-malformed"),
        (b"<a><!DOCTYPE a></a>", "xml-malformed"),
        (b"<a/><!DOCTYPE a>", "xml-malformed"),
        (b"<a/><a/>", "xml-malformed"),
        (b"<a></b>", "xml-malformed"),
        (b"<a b='1' b='2'/>", "xml-malformed"),
        (b"<p:a/>", "xml-malformed"),
        (b"\xff\xfe<", "xml-malformed"),
        (b"<a>\xe4</a>", "xml-malformed"),
        (b"{}", "xml-malformed"),
        (b"<!-- no element -->", "xml-malformed"),
        (b"<a>" * DEEPEST + b"</a>" * DEEPEST, "xml-limit"),
        (b"<a>" * 10_000, "xml-limit"),
        (b"<a><![CDATA[<!DOCTYPE a>]]></a>", "parsed"),
        (b"<!-- <!DOCTYPE a> --><a/>", "parsed"),
        (b"<a>&lt;&#228;</a>", "parsed"),
    ],
)
def test_what_is_refused_and_why(body: bytes, code: str) -> None:
    assert code_of(body) == code


@pytest.mark.parametrize(
    "wrong", ['<E xmlns="}">', "<E><n:x/>", '<E xmlns:n="">', '<E xmlns:xml="u">', '<E xmlns:x="u:u" xmlns:y="u:u"><a x:a="" y:a=""/>']
)
def test_a_warning_does_not_hide_an_error_of_namespaces(wrong: str) -> None:
    relative = '<a xmlns="s"/>'
    assert code_of(relative.encode()) == "parsed"
    assert code_of(f"{wrong}{relative}</E>".encode()) == "xml-malformed"


def test_an_error_of_the_parser_has_its_place_and_no_line_twice() -> None:
    with pytest.raises(ClacksError) as refused:
        parse(b"<a>\n  <b></c>\n</a>")
    assert (refused.value.values["line"], refused.value.values["column"]) == (2, 10)
    assert str(refused.value).count("line 2, column") == 1


@pytest.mark.parametrize(
    ("limit", "value", "within", "beyond"),
    [
        ("size", 100, b"<a>" + b"x" * 93 + b"</a>", b"<a>" + b"x" * 94 + b"</a>"),
        ("depth", 40, NESTED, b"<a>" + NESTED + b"</a>"),
        ("depth", 2, b"<a>" + b"<b></b>" * 9 + b"</a>", b"<a><b><c></c></b></a>"),
        ("elements", 10, b"<a>" + b"<b/>" * 9 + b"</a>", b"<a>" + b"<b/>" * 10 + b"</a>"),
        ("attributes", 2, b"<a b='' c=''>= = =</a>", b"<a b='' c='' d=''/>"),
        ("attributes", 2, b"<a b='' c=''><a b='' c=''/></a>", b"<a><a b='' c='' d=''/></a>"),
        ("names", 3, b"<a b=''><c/><c/><a/></a>", b"<a b=''><c/><d/></a>"),
        ("names", 3, b"<a b=''><c x=''/></a>".replace(b"x", b"b"), b"<a b=''><c x=''/></a>"),
    ],
)
def test_each_limit(limit: str, value: int, within: bytes, beyond: bytes) -> None:
    limits = Limits(**{limit: value})
    assert code_of(within, limits) == "parsed"
    with pytest.raises(ClacksError, match=str(value)) as refused:
        parse(beyond, limits)
    assert refused.value.code == ("event-too-large" if limit == "size" else "xml-limit")
    if limit != "size":
        assert refused.value.values["setting"] == f"limits.{limit}"


@pytest.mark.parametrize(
    ("limits", "smallest"),
    [
        (Limits(depth=3), b"<a><a><a><a/></a></a></a>"),
        (Limits(elements=3), b"<a><b/><b/><b/></a>"),
        (Limits(attributes=3), b"<a b=''c=''d=''e=''/>".replace(b"''", b"'' ")),
        (Limits(names=3), b"<a b='' c='' d=''/>"),
    ],
)
def test_the_smallest_document_beyond_a_limit_is_not_overlooked(limits: Limits, smallest: bytes) -> None:
    assert len(smallest) > limits.harmless
    assert code_of(smallest, limits) == "xml-limit"


@pytest.mark.parametrize("wrong", [{"size": 0}, {"depth": -1}, {"depth": DEEPEST + 1}])
def test_limits_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="the limit of"):
        Limits(**wrong)


@given(st.one_of(st.binary(max_size=200), st.text("<>/!?-[]='\"&;x \n\0ä", max_size=60).map(str.encode)))
def test_any_bytes_parse_or_raise_our_error(body: bytes) -> None:
    assert code_of(body) in {"parsed", "event-empty", "xml-malformed", "xml-doctype", "xml-limit"}


WEAR = """
import os, resource, sys
from clacks.common import xml
from clacks.common.errors import ClacksError

def memory():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 2**20

def bomb(megabytes):
    for _ in range(megabytes * 16):
        names = "".join(f"<x{os.urandom(6).hex()}/>" for _ in range(4096))
        try:
            xml.parse(b"<a>" + names.encode() + b"</a>")
        except ClacksError as error:
            assert error.code == "xml-limit"

keep = xml.parse(b"<a><kept/></a>")
bomb(16)
before = memory()
bomb(32)
print(memory() - before, keep.getroot()[0].tag)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures memory through /proc")
def test_fresh_names_do_not_stay_in_memory() -> None:
    """32 MB of names that were never seen before: without a new dictionary now and then they take 90 MB for ever."""
    grown, kept = subprocess.run([sys.executable, "-c", WEAR], check=True, capture_output=True, text=True).stdout.split()
    assert kept == "kept"
    assert int(grown) < 40


def test_threads_parse_side_by_side() -> None:
    body = b"<a>" + b"<b c='d'/>" * 500 + b"</a>"
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(200):
                assert len(parse(body).getroot()) == 500
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("start", ['<?xml version="1.0"?>', "", "<!-- c -->", "<?a b?>", "\n"], ids=repr)
def test_a_doctype_is_refused_in_every_encoding_with_and_without_a_mark(encoding: str, start: str) -> None:
    body = f'{start}<!DOCTYPE a [<!ENTITY b "bb">]><a>&b;</a>'.encode(encoding)
    with pytest.raises(ClacksError) as caught:
        parse(body)
    assert caught.value.code in ("xml-doctype", "xml-malformed")
