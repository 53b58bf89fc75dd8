"""One XSD file: read with what it includes, compiled for libxml2 or, if it is XSD 1.1, for xmlschema.

A file is a snapshot: whatever happens on disk afterwards, its libxml2 schemas (one per thread, made on first use) and its xmlschema model
come from the same text. It reads files below its own folder and nothing else, never the network. Which files there are, and which
version of one is in force, is the registry's business (`clacks.common.schema`).
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote, urlsplit

from lxml import etree

from clacks.common.cost import XS, is_cheap
from clacks.common.encodings import ordinary
from clacks.common.errors import ClacksError
from clacks.common.maker import EVENTS
from clacks.common.xml import Limits, line_of, new_parser, parse_root, shortened

if TYPE_CHECKING:
    import xmlschema

_MIN_VERSION: Final = "{http://www.w3.org/2007/XMLSchema-versioning}minVersion"
_REFERENCES: Final = tuple(f"{{{XS}}}{name}" for name in ("include", "import", "redefine", "override"))

# Schemas come from the administrator, not from strangers: these stop a wrong file, not an attack. SWIFT's largest is 2 MB.
_LIMITS: Final = Limits(size=16 * 1024 * 1024, depth=256, elements=1_000_000, attributes=1_000, names=100_000)


class Broken(Exception):
    """A file that cannot be used: `path`, `line` (0: the file as a whole) and `reason`, a clause without a full stop."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}, line {line}: {reason}")
        self.path, self.line, self.reason = path, line, reason.rstrip(". ")


@dataclass(frozen=True)
class Source:
    """The text of a file and of all files it includes, by URL; the file itself comes first."""

    path: Path
    texts: dict[str, bytes]

    @property
    def url(self) -> str:
        return next(iter(self.texts))

    @property
    def digest(self) -> bytes:
        digest = hashlib.sha256()
        for url, text in self.texts.items():
            digest.update(b"%s\0%d\0%s" % (url.encode(), len(text), text))
        return digest.digest()


@dataclass(frozen=True, slots=True)
class Declared:
    """An event that a file describes: the global element, the line where it stands, and what its annotation says (one paragraph)."""

    name: str
    line: int
    documentation: str


def read(path: Path) -> Source:
    """Raises Broken; OSError where the file itself cannot be read."""
    texts: dict[str, bytes] = {}
    folder = path.parent.resolve()
    waiting = [Path(os.path.realpath(path)) if path.is_symlink() else folder / path.name]
    while waiting:
        file = waiting.pop()
        if (url := file.as_uri()) not in texts:
            texts[url] = _content(file, file if texts else path)
            # A broken file is read too: that it changed is known by its text, and compiling it will say what is wrong.
            waiting.extend(_references(path, file, texts[url], folder))
    return Source(path, texts)


def _content(file: Path, shown: Path) -> bytes:
    """What is in a file, if it is one: a pipe might never say anything, and a device might never end. Raises Broken, OSError."""
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise Broken(shown, 0, "it is no file")
    if found.st_size > _LIMITS.size:
        raise Broken(shown, 0, "it is too large")
    return file.read_bytes()


def _references(path: Path, file: Path, text: bytes, folder: Path) -> Iterator[Path]:
    try:
        root = parse_root(text, _LIMITS)
    except ClacksError:
        return
    for reference in root.iter(*_REFERENCES):
        location = reference.get("schemaLocation")
        if location is None:
            continue
        parts = urlsplit(location)
        target = Path(os.path.realpath(file.parent / unquote(parts.path)))
        if parts.scheme or parts.netloc or not target.is_relative_to(folder):
            raise Broken(file, line_of(reference), f"it refers to {location}, and only files below its own folder are read")
        if not target.is_file():
            raise Broken(file, line_of(reference), f"it refers to {location}, and there is no such file")
        yield target


class XsdFile:
    """A compiled file. `events` are its events, `version` is "1.0" or "1.1", `namespace` its target namespace ("" for none); `quick` says
    that an event takes a time that grows with its size, and no longer than the event loop can wait."""

    def __init__(self, source: Source) -> None:
        """Raises Broken."""
        self.source = source
        self.path = source.path
        roots = {url: _root_of(source, url) for url in source.texts}  # of included ones too: libxml2 would expand a DOCTYPE's entities
        self.root = roots[source.url]
        self.namespace: str = self.root.get("targetNamespace", "")
        self.events = tuple(_events_of(self.root, self.path.stem))
        self._local = threading.local()
        self._lock = threading.Lock()
        self._model: Any = None
        self.version = self._compile() if self.events else "1.0"
        self.quick = self.version == "1.0" and is_cheap(roots.values())

    def _compile(self) -> str:
        if _is_1_1(self.root):
            self._model = _model(self.source, "1.1")
            return "1.1"
        try:
            self._local.schema = _libxml2(self)
        except Broken as broken:
            # Says nothing of a version, and is none that libxml2 knows.
            try:
                self._model = _model(self.source, "1.1")
            except Broken:
                raise broken from None
            return "1.1"
        return "1.0"

    @cached_property
    def text(self) -> str:
        """The file as it was read, without its XML declaration."""
        return etree.tostring(self.root.getroottree(), encoding="unicode")

    @property
    def judge(self) -> etree.XMLSchema:
        """libxml2's schema of `<Event>` around one of this file's events. This thread's own: its error log is not shared."""
        try:
            schema: etree.XMLSchema = self._local.schema
        except AttributeError:
            schema = self._local.schema = _libxml2(self)
        return schema

    @property
    def model(self) -> xmlschema.XMLSchema10 | xmlschema.XMLSchema11:
        """xmlschema's view of the file, made on first use (0.1 s and more). Raises Broken where xmlschema refuses what libxml2 took."""
        with self._lock:
            if self._model is None:
                self._model = _model(self.source, self.version)
            model: xmlschema.XMLSchema10 | xmlschema.XMLSchema11 = self._model
        return model


def _root_of(source: Source, url: str) -> etree._Element:
    path = source.path if url == source.url else Path(unquote(urlsplit(url).path))
    try:
        root = parse_root(source.texts[url], _LIMITS)
    except ClacksError as error:
        if error.code == "event-empty":
            raise Broken(path, 1, "it is empty") from error
        if error.code == "xml-malformed":
            raise Broken(path, error.values["line"], f"it is not well-formed XML: {error.values['reason']}") from error
        if error.code == "xml-doctype":
            raise Broken(path, 1, "it has a DOCTYPE, which is refused") from error
        raise Broken(path, 1, "it is too large") from error
    if root.tag != f"{{{XS}}}schema":
        name = shortened(etree.QName(root).localname)
        raise Broken(path, line_of(root), f"it is no XML schema, its root element is {name}")
    return root


def _events_of(root: etree._Element, stem: str) -> Iterator[Declared]:
    """The event named like the file; without one, each global element that no other part of the file refers to."""
    elements = [
        Declared(element.get("name", ""), line_of(element), _documentation(root, element))
        for element in root.findall(f"{{{XS}}}element")
        if element.get("abstract") not in ("true", "1")
    ]
    named = [element for element in elements if element.name == stem]
    referred = {str(element.get("ref")).rpartition(":")[2] for element in root.iter(f"{{{XS}}}element") if element.get("ref")}
    yield from named or (element for element in elements if element.name not in referred)


def _documentation(root: etree._Element, element: etree._Element) -> str:
    """The annotation of the element, else of its type in the same file."""
    types = [element, *element.findall(f"{{{XS}}}complexType")]
    if name := (element.get("type") or "").rpartition(":")[2]:
        types += [child for child in root if child.get("name") == name and child is not element]
    for described in types:
        texts = described.findall(f"{{{XS}}}annotation/{{{XS}}}documentation")
        if text := " ".join(" ".join("".join(map(str, text.itertext())).split()) for text in texts):
            return text
    return ""


def _is_1_1(root: etree._Element) -> bool:
    try:
        return float(root.get(_MIN_VERSION, "1.0")) >= 1.1
    except ValueError:
        return False


class _Snapshot(etree.Resolver):
    """Answers libxml2's requests for files from a snapshot; anything else is an empty document, which does not compile."""

    def __init__(self, texts: dict[str, bytes]) -> None:
        self.texts = {unquote(url): text for url, text in texts.items()}

    def resolve(self, system_url: str, public_id: str, context: Any) -> Any:  # type: ignore[override]  # the stubs leave context out
        text = self.texts.get(unquote(system_url))
        if text is None:
            return self.resolve_string(b"", context, base_url=system_url)
        return self.resolve_string(text, context, base_url=system_url)


def _libxml2(file: XsdFile) -> etree.XMLSchema:
    # In the target namespace of an event of ours the description is included, any other namespace is imported.
    same = file.namespace == EVENTS
    tag, namespace = ("include", "") if same else ("import", f" namespace={_attribute(file.namespace)}" if file.namespace else "")
    prefix = "n:" if file.namespace else ""
    declaration = f" xmlns:n={_attribute(file.namespace)}" if file.namespace else ""
    choices = "".join(f'<xs:element ref="{prefix}{event.name}"/>' for event in file.events)
    wrapper = (
        f'<xs:schema xmlns:xs="{XS}" targetNamespace="{EVENTS}"{declaration}>'
        f"<xs:{tag}{namespace} schemaLocation={_attribute(file.source.url)}/>"
        f'<xs:element name="Event"><xs:complexType><xs:choice>{choices}</xs:choice></xs:complexType></xs:element></xs:schema>'
    )
    parser = new_parser()
    parser.resolvers.add(_Snapshot(file.source.texts))
    try:
        return etree.XMLSchema(etree.fromstring(wrapper, parser, base_url=quote(f"{file.source.url}#event")))
    except (etree.XMLSchemaParseError, etree.XMLSyntaxError) as error:
        raise _broken(file, error) from error


def _attribute(text: str) -> str:
    return f'"{escape(text)}"'


def _broken(file: XsdFile, error: etree.LxmlError) -> Broken:
    urls = {unquote(url): url for url in file.source.texts}
    log: Any = error.error_log
    for entry in log:
        if (url := urls.get(unquote(entry.filename or ""))) is not None:
            return Broken(Path(unquote(urlsplit(url).path)) if url != file.source.url else file.path, entry.line, plain(entry.message))
    return Broken(file.path, 0, plain(str(error)))


def plain(message: str) -> str:
    """libxml2's sentence without Clark names, on one line."""
    return shortened(message.replace(f"{{{EVENTS}}}", "").replace(f"{{{XS}}}", "xs:"), 300)


CODEPOINT: Final = "http://www.w3.org/2005/xpath-functions/collation/codepoint"


def _model(source: Source, version: str) -> Any:
    """The xmlschema model of a file. Raises Broken."""
    import xmlschema
    from elementpath import ElementPathError

    make = xmlschema.XMLSchema11 if version == "1.1" else xmlschema.XMLSchema10
    texts = {url: ordinary(text) for url, text in source.texts.items()}
    try:
        model = make(source.url, opener=_opener(texts), allow="local", defuse="always", use_fallback=False, build=False)
        # An assertion compares by code point, whatever the process's locale: with another one elementpath can fail or lock up for ever,
        # when it evaluates and also, where an expression is constant, when it parses.
        parser = partial(model.maps.xpath_parser_class, default_collation=CODEPOINT)
        object.__setattr__(model.maps, "xpath_parser_class", parser)  # its own __setattr__ takes this from no user
        model.build()
    except xmlschema.XMLSchemaParseError as error:
        line = getattr(error.elem, "sourceline", None)
        raise Broken(source.path, line or _line_of(source, error.elem), shortened(error.message, 300)) from error
    except (xmlschema.XMLSchemaException, ElementPathError, ValueError, TypeError, KeyError, RecursionError, OSError) as error:
        raise Broken(source.path, 0, shortened(str(error), 300)) from error
    return model


def _line_of(source: Source, element: Any) -> int:
    """Where xmlschema's element (which knows no lines) stands in the file; 0 if that cannot be said."""
    if element is None:
        return 0
    for candidate in _root_of(source, source.url).iter(element.tag):
        if dict(candidate.items()) == dict(element.items()):
            return line_of(candidate)
    return 0


def _opener(texts: dict[str, bytes]) -> Any:
    """What xmlschema opens files with: the snapshot. It has no way to the disk or the network."""
    import io
    from urllib.error import URLError
    from urllib.request import BaseHandler, OpenerDirector, Request

    known = {unquote(url): text for url, text in texts.items()}

    class SnapshotHandler(BaseHandler):
        def file_open(self, request: Request) -> io.BytesIO:
            text = known.get(unquote(request.full_url))
            if text is None:
                raise URLError("it is not below the schema's own folder")
            return io.BytesIO(text)

        def unknown_open(self, request: Request) -> io.BytesIO:
            raise URLError("only files below the schema's own folder are read")

    opener = OpenerDirector()
    opener.add_handler(SnapshotHandler())
    return opener
