"""The full engine reaches nothing outside: every way that XQuery 3.1 and Saxon know, tried on the engine itself, past the allow-list."""

from __future__ import annotations

import io
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from lxml import etree

from clacks.xquery import compile_filter, saxon

pytestmark = pytest.mark.skipif(not saxon.available(), reason="the xquery extra is not installed")

EVENT = b"<Event xmlns='http://www.gonicus.de/Events'><PhoneStatus><Status>busy</Status></PhoneStatus></Event>"


def told(query: str) -> str:
    """Everything that a query gives, or the error's text."""
    made = saxon.processor().new_xquery_processor()
    try:
        made.set_query_content(query)
        made.set_context(xdm_item=saxon.processor().parse_xml(xml_text=EVENT.decode()))
        found = made.run_query_to_value()
        return "" if found is None else "|".join(str(found.item_at(place)) for place in range(found.size))
    except Exception as error:  # the engine's own class differs between its releases
        return str(error)


FILES = [
    "doc('{path}')", "doc('{uri}')", "doc-available('{uri}')", "unparsed-text('{path}')", "unparsed-text('{uri}')",
    "unparsed-text-lines('{uri}')", "unparsed-text-available('{uri}')", "collection('{folder}')", "collection('{folder}?select=*.xml')",
    "uri-collection('{folder}')", "json-doc('{uri}')", "doc(resolve-uri('secret.xml', '{folder}/'))",
    "function-lookup(xs:QName('fn:doc'), 1)('{uri}')", "apply(doc#1, ['{uri}'])", "for-each('{uri}', unparsed-text#1)",
    "transform(map {{ 'stylesheet-location': '{uri}' }})", "transform(map {{ 'source-location': '{uri}', 'stylesheet-text': '<x/>' }})",
    "load-xquery-module('urn:m', map {{ 'location-hints': '{uri}' }})", "import module namespace m = 'urn:m' at '{uri}'; 1",
    "import schema namespace m = 'urn:m' at '{uri}'; 1", "put(<a/>, '{uri}')",
    "parse-xml('<!DOCTYPE a [<!ENTITY x SYSTEM \"{uri}\">]><a>&amp;x;</a>')",
    "declare namespace saxon = 'http://saxon.sf.net/'; saxon:read-binary-resource('{uri}')",
    "declare namespace file = 'http://expath.org/ns/file'; file:read-text('{path}')",
    "declare namespace java = 'java:java.lang.System'; java:getenv('CLACKS_SECRET')",
    "declare namespace saxon = 'http://saxon.sf.net/'; saxon:system-id()", "system-property('user.home')",
]  # fmt: skip


@pytest.mark.parametrize("query", FILES)
def test_no_file_is_read_or_written(query: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.xml"
    secret.write_text("<secret>hidden-7193</secret>")
    before = sorted(tmp_path.iterdir())
    found = told(query.format(path=secret, uri=secret.as_uri(), folder=tmp_path.as_uri()))
    assert "hidden-7193" not in found
    assert found != "true"
    assert sorted(tmp_path.iterdir()) == before
    assert secret.read_text() == "<secret>hidden-7193</secret>"


@pytest.mark.parametrize(
    "query", ["environment-variable('CLACKS_SECRET')", "environment-variable('PATH')", "available-environment-variables()"]
)
def test_the_environment_is_empty(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLACKS_SECRET", "hidden-7193")
    assert told(query) == ""


def test_nothing_is_fetched() -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<a/>")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/x.xml"
        for query in ("doc('{0}')", "unparsed-text('{0}')", "json-doc('{0}')", "collection('{0}')", "doc-available('{0}')",
                      "import module namespace m = 'urn:m' at '{0}'; 1"):  # fmt: skip
            assert told(query.format(url)) != "true"
        server.shutdown()
        thread.join()
    assert asked == []


def test_it_answers_what_is_not_native() -> None:
    prolog = "declare namespace f='http://www.gonicus.de/Events'; "
    compiled = compile_filter(prolog + "let $f := function($x) { $x/f:Status } return $f(//f:PhoneStatus)")
    assert (compiled.tier, compiled.cost) == ("saxon", "dear")
    assert compiled.matches(etree.parse(io.BytesIO(EVENT)))


def test_it_gets_the_external_variables() -> None:
    prolog = "declare variable $a.b as xs:integer external; declare variable $c external := 5; "
    compiled = compile_filter(prolog + "[$a.b, $c](1) = 7 and $c = 5")
    document = etree.parse(io.BytesIO(EVENT))
    assert compiled.matches(document, {"a.b": 7})
    assert not compiled.matches(document, {"a.b": 8})
    assert not compiled.matches(document, {"a.b": 7, "c": 6})


def test_what_stands_around_the_root_is_there_and_takes_no_time_of_its_own() -> None:
    front, behind = "<!--a--><?b c?><!---->", "<!--d-->"
    around = etree.parse(io.BytesIO(f"{front}\n<r>x<!--y--></r>{behind}".encode()))
    assert saxon._text(around) == f"{front}<r>x<!--y--></r>{behind}"
    compiled = compile_filter("let $f := function($x) { count($x/node()) = 100001 } return $f(/)")
    assert compiled.tier == "saxon"
    # lxml itself would take a minute to write this.
    assert compiled.matches(etree.parse(io.BytesIO(b"<!---->" * 100_000 + b"<r/>")))


def test_filters_of_one_form_keep_their_own_literals() -> None:
    """Filters that differ in what is compared share their compiled form, but not with an engine that has their text."""
    tree = etree.fromstring("<a/>").getroottree()
    texts = [f"format-number(1234.5, '#,##0.00') = '{text}'" for text in ("x", "1,234.50", "y", "1,234.50")]
    assert [compile_filter(text).matches(tree) for text in texts] == [False, True, False, True]
