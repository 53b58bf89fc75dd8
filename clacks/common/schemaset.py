"""The set of events in force: which there are, and whether the bytes of one are valid. libxml2 decides, xmlschema explains.

A `SchemaSet` never changes; `clacks.common.schema` replaces it as a whole. The compiled schema is chosen by the element inside `<Event>`,
one per file: a broken file takes no other event with it. Nothing here reads a file or knows where an event came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from lxml import etree

from clacks.common.errors import ClacksError, Problem
from clacks.common.event import ROOT, Event, child_of
from clacks.common.explain import beyond, end_of, first_entry, first_of, first_problem, problem_of, problems_of
from clacks.common.fields import Field, fields_of
from clacks.common.xml import DEFAULT_LIMITS, Limits, is_plain, new_parser, parse_root, readable, shortened
from clacks.common.xsd import Broken, Declared, XsdFile

# Up to this size `examine` takes about 1 ms whatever the bytes say (at 24 KiB it was 3, at 64 KiB 8), so several may run in one turn of an
# event loop: in bench/hostile.py, "a small event of bad values", a bystander's p99 is 4.4 ms with it and was 13 with 24 KiB. Some schemas
# are never that fast: ask `needs_worker`.
LOOP_BYTES: Final = 8 * 1024

# libxml2 looks for all errors of a tree, and lxml finds the path of each by counting siblings: 2,000 bad values took 11 ms, 16,000 took
# 600 ms, 100,000 took 25 s. With this many tags and attributes it is at most 1 ms. Documents with more are validated while they are
# parsed again, a piece at a time, so that the first error ends it: a piece full of errors takes 1.2 ms.
_FEW: Final = 800
_PIECE: Final = 4 * 1024

# xmlschema works in Python, 10 us a tag, and holds up the event loop's thread now and then. Of an event with more bytes, or more tags and
# attributes, a refusal carries libxml2's first error only.
EXPLAINED_BYTES: Final = 64 * 1024
EXPLAINED_TAGS: Final = 2_000

# More are not read by anybody.
PROBLEMS: Final = 10


class EventSchema:
    """One event's description. `version` is that of XSD, `path` the file, `line` where in it the element stands."""

    __slots__ = ("documentation", "file", "line", "name", "namespace", "path", "tag", "version")

    def __init__(self, declared: Declared, file: XsdFile) -> None:
        self.name = declared.name
        self.namespace = file.namespace
        self.tag = f"{{{file.namespace}}}{declared.name}" if file.namespace else declared.name
        self.path: Path = file.path
        self.line = declared.line
        self.version = file.version
        self.documentation = declared.documentation
        self.file = file

    def __repr__(self) -> str:
        return f"<EventSchema {self.name} of {self.path}>"

    @property
    def source(self) -> str:
        """The text of the file that is in force."""
        return self.file.text

    @property
    def element(self) -> Any:
        """xmlschema's view of the event's element. Slow the first time (0.2 s). Raises Broken if xmlschema does not take the file."""
        return self.file.model.maps.elements[self.tag]

    def fields(self) -> list[Field]:
        """What the event may contain, in document order. Slow the first time (0.2 s). Raises Broken as `element` does."""
        return fields_of(self.element)

    def to_json(self) -> dict[str, Any]:
        """The event as `getEvents` lists it, without its fields."""
        return {"name": self.name, "namespace": self.namespace, "documentation": self.documentation, "xsd": self.version}

    def fault(self, root: etree._Element, body: bytes) -> Problem | None:
        """What is wrong with `root`, the `<Event>` parsed from `body` around this event's element: None if it is valid.

        It is quick to decide and says the first thing it finds, for a large event without its place. Thread-safe.
        """
        if self.version != "1.0":
            return next(iter(problems_of(self.element, child_of(root), 1)), None)
        if len(body) <= _FEW or body.count(b"<") + body.count(b"=") <= _FEW:
            judge = self.file.judge
            try:
                return None if judge(root) else problem_of(first_of(judge.error_log), root)
            except etree.XMLSchemaValidateError as error:  # libxml2 gives up on a pattern after 10,000,000 steps
                return beyond(child_of(root), error)
        return self._fault_in_pieces(readable(body))

    def _fault_in_pieces(self, body: bytes) -> Problem | None:
        parser = new_parser(schema=self.file.judge)
        entry = None
        for start in range(0, len(body), _PIECE):
            parser.feed(body[start : start + _PIECE])
            if (entry := first_entry(parser)) is not None:
                break
        last = end_of(parser)
        found = last if entry is None else entry
        return None if found is None else problem_of(found, None)

    def explain(self, root: etree._Element, body: bytes, limit: int = PROBLEMS) -> list[Problem]:
        """What is wrong with an event, with place and what would be right; `[]` if it is valid. Slow: for a worker.

        At most `limit` problems; of a large event (`EXPLAINED_BYTES`, `EXPLAINED_TAGS`) the first one.
        """
        fault = self.fault(root, body)
        if fault is None:
            return []
        if len(body) > EXPLAINED_BYTES or body.count(b"<") + body.count(b"=") > EXPLAINED_TAGS:
            return [fault if self.version != "1.0" else first_problem(self.file.judge, readable(body), _PIECE) or fault]
        try:
            element = self.element
        except Broken:
            return [fault]
        # libxml2's verdict stands also where xmlschema finds nothing wrong: the two disagree on a few lexical forms.
        return problems_of(element, child_of(root), limit) or [fault]


class SchemaSet(Mapping[str, EventSchema]):
    """All events by name. Lookup of an event that came goes by its namespace too."""

    def __init__(self, schemas: Iterable[EventSchema] = ()) -> None:
        self._by_name = {schema.name: schema for schema in schemas}
        self._by_tag = {schema.tag: schema for schema in self._by_name.values()}
        self._slow = tuple(name.encode() for name, schema in self._by_name.items() if not schema.file.quick)

    def __getitem__(self, name: str) -> EventSchema:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def named(self, name: str) -> EventSchema:
        """Raises ClacksError schema-unknown."""
        try:
            return self._by_name[name]
        except KeyError:
            raise ClacksError("schema-unknown", name=shortened(name), hint=hint(name, self._by_name)) from None

    def needs_worker(self, body: bytes) -> bool:
        """Whether `examine` may take longer than an event loop can wait: a large body, or perhaps an event whose schema is
        not `quick` (XSD 1.1, patterns and counts that libxml2 is slow with)."""
        if len(body) > LOOP_BYTES:
            return True
        if not self._slow:
            return False
        # In an encoding whose markup is ASCII an event's name is there byte for byte: names have no character references.
        return not is_plain(body) or any(name in body for name in self._slow)

    def examine(self, body: bytes, limits: Limits = DEFAULT_LIMITS) -> Event:
        """The event in `body`, known and valid. Thread-safe; it depends on nothing but its arguments and the set.

        Raises ClacksError: those of `clacks.common.xml.parse`, event-root, event-unknown, event-invalid. The last carries one problem;
        `explain` has the others.
        """
        return self.judge(parse_root(body, limits), body)

    def judge(self, root: etree._Element, body: bytes) -> Event:
        """As `examine`, of a document that is parsed already; `root` is the root of `body`."""
        # The usual event in short; whatever is not like it is looked at properly (child_of costs 1 us).
        schema = self._by_tag.get(root[0].tag) if root.tag == ROOT and len(root) == 1 else None
        if schema is None:
            schema = self._schema_of(child_of(root))
        fault = schema.fault(root, body)
        if fault is not None:
            child_of(root)
            raise _invalid(schema, [fault])
        return Event(schema.name, schema.namespace, body, root.getroottree())

    def explain(self, body: bytes, limits: Limits = DEFAULT_LIMITS) -> ClacksError:
        """Why `examine` refuses this event, in full. Slow (0.2 s the first time for a schema, then milliseconds): for a worker.

        An event that is not refused is answered with ValueError.
        """
        try:
            root = parse_root(body, limits)
            schema = self._schema_of(child_of(root))
        except ClacksError as error:
            return error.without_frames()
        if problems := schema.explain(root, body):
            return _invalid(schema, problems)
        raise ValueError("the event is valid")

    def _schema_of(self, child: etree._Element) -> EventSchema:
        schema = self._by_tag.get(child.tag)
        if schema is not None:
            return schema
        name = etree.QName(child)
        known = self._by_name.get(name.localname)
        if known is not None:
            words = f"The event of that name is in the namespace {known.namespace!r}, not in {shortened(name.namespace or '')!r}."
        else:
            words = hint(name.localname, self._by_name)
        raise ClacksError("event-unknown", name=shortened(name.localname), hint=words)


def hint(name: str, names: Iterable[str]) -> str:
    """What to try instead of a name that is not among these."""
    import difflib

    # It takes 20 us a name, and this may run on the event loop: only names that can be close.
    near = [known for known in names if abs(len(known) - len(name)) <= 4][:50]
    close = difflib.get_close_matches(name, near, 1) if near else []
    return f"Did you mean {close[0]}?" if close else "`clacks schemas` lists those there are."


def _invalid(schema: EventSchema, problems: list[Problem]) -> ClacksError:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return ClacksError("event-invalid", name=schema.name, summary=f"{problems[0]}{more}", problems=problems)
