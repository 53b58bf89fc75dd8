"""What is wrong with an event, in plain words: libxml2's and xmlschema's errors become `Problem`s.

Both say the same things in their own way; here is one way: where, what is wrong there, and what would be right. Nothing is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from lxml import etree

from clacks.common.errors import Problem
from clacks.common.fields import builtin_words, expected_of, value_type
from clacks.common.xml import line_of, new_parser, shortened

_XS: Final = "http://www.w3.org/2001/XMLSchema"

# A sentence about a value holds the value; of a long one its ends, where the sentence begins and goes on.
_SENTENCE: Final = 1_000

# What is listed of the elements that could be in a place.
_LISTED: Final = 20


# Where a value makes libxml2 or xmlschema give up.
_BEYOND: Final = "a value in it is beyond what can be validated"


def path_of(element: etree._Element) -> str:
    """Where an element is, in its document's own names: /Event/PuppetReport/PuppetLog[2]/Level."""
    steps = []
    at: etree._Element | None = element
    while at is not None:
        before = sum(1 for _ in at.itersiblings(at.tag, preceding=True))
        alone = not before and next(iter(at.itersiblings(at.tag)), None) is None
        steps.append(shortened(etree.QName(at).localname) + ("" if alone else f"[{before + 1}]"))
        at = at.getparent()
    return "/" + "/".join(reversed(steps))


# --- libxml2 ---

# Its sentences (xmlschemas.c), what we say, and what it says was expected. The first that fits.
_SENTENCES: Final = (
    (r"This element is not expected\.?(?: Expected is(?: one of)? \( (?P<e>.*) \))?", "{name} is not expected here", "{e}"),
    (r"Missing child element\(s\)\.?(?: Expected is(?: one of)? \( (?P<e>.*) \))?", "something is missing in {name}", "{e}"),
    (r"'(?P<v>.*)' is not a valid value of the (?:atomic |list |union )?type 'xs:(?P<t>\w+)'", "{v!r} is not allowed", "{words}"),
    (r"'(?P<v>.*)' is not a valid value of ", "{v!r} is not allowed", ""),
    (r"\[facet '\w+'\] The value '(?P<v>.*)' is not an element of the set \{(?P<e>.*)\}", "{v!r} is not allowed", "one of: {list}"),
    (r"\[facet '\w+'\] The value '(?P<v>.*)' is not accepted by the pattern '(?P<e>.*)'", "{v!r} is not allowed", "text matching {e}"),
    (r"\[facet '\w+'\] (?P<s>.*)", "{s}", ""),
    (r"The attribute '(?P<a>[^']*)' is required but missing", "the attribute {a} is missing", ""),
    (r"The attribute '(?P<a>[^']*)' is not allowed", "the attribute {a} is not known here", ""),
    (r"Character content is not allowed, because the content type is empty", "there is text in it", "nothing"),
    (r"Character content .*not allowed", "there is text between the elements", "elements only"),
    (r"Internal error.*", _BEYOND, ""),
    (r"No matching global declaration", "{name} is not expected here", ""),
    (r"(?P<s>.*)", "{s}", ""),
)


def problem_of(entry: Any, root: etree._Element | None) -> Problem:
    """For an entry of libxml2's error log; without the tree that was validated it has no place."""
    message = entry.message if len(entry.message) <= 2 * _SENTENCE else f"{entry.message[:_SENTENCE]}…{entry.message[-_SENTENCE:]}"
    head = re.match(r"Element '(?P<name>[^']*)'(?:, attribute '(?P<attribute>[^']*)')?: ", message)
    name, attribute = (head["name"], head["attribute"]) if head else ("Event", None)
    reason, expected = _said(message[head.end() :] if head else message, _local(name))
    path, line = _place(entry, root) or (f"/Event/…/{_local(name)}" if head else "/Event", 0)
    return Problem(f"{path}/@{_local(attribute)}" if attribute else path, reason, expected, line)


def _said(sentence: str, name: str) -> tuple[str, str]:
    sentence = re.sub(r"\{[^{}' ]*\}", "", sentence).rstrip(". \n")
    for pattern, reason, expected in _SENTENCES:
        if match := re.match(pattern, sentence, re.DOTALL):
            values = {key: text or "" for key, text in match.groupdict().items()}
            values["name"] = shortened(name)
            values["words"] = builtin_words(values.get("t", ""))
            values["list"] = values.get("e", "").replace("'", "")
            if "v" in values:
                values["v"] = shortened(values["v"])
            return shortened(reason.format(**values), 300), shortened(expected.format(**values), 300)
    return shortened(sentence, 300), ""


def _local(name: str) -> str:
    return shortened(name.rpartition("}")[2])


def _place(entry: Any, root: etree._Element | None) -> tuple[str, int] | None:
    if root is None or not entry.path:
        return None
    prefixes = {prefix: uri for element in root.iter() for prefix, uri in element.nsmap.items() if prefix} if ":" in entry.path else None
    try:
        found: Any = root.getroottree().xpath(entry.path, namespaces=prefixes)
    except etree.XPathError:
        return None
    return (path_of(found[0]), entry.line) if found and isinstance(found[0], etree._Element) else None


def first_problem(judge: etree.XMLSchema, body: bytes, piece: int) -> Problem | None:
    """libxml2's first error in a document of any size, with its place; None if there is none. `piece` is how many bytes to take at a time.

    `body` is validated while it is parsed. The piece with the error is then taken tag by tag.
    """
    start = _bad_piece(judge, body, piece)
    if start is None:
        return None
    parser = etree.XMLPullParser(("start", "end"), resolve_entities=False, no_network=True, load_dtd=False, schema=judge)
    parser.feed(body[:start])
    cuts = [match.end() for match in re.finditer(b">", body[start : start + piece])] + [piece]
    begin = 0
    for end in cuts:
        parser.feed(body[start + begin : start + end])
        begin = end
        if entry := first_entry(parser):
            break
    else:
        return None
    problem = problem_of(entry, None)
    open_, closed = _last_elements(parser.read_events())
    name = problem.path.removesuffix(f"/@{problem.path.rpartition('/@')[2]}").rpartition("/")[2]
    element = next((one for one in (open_, closed) if one is not None and _local(str(one.tag)) == name), None)
    line = body.count(b"\n", 0, start + begin) + 1
    if element is None:  # an element that is not expected was not begun
        return Problem(f"{path_of(open_)}/{name}" if open_ is not None else problem.path, problem.reason, problem.expected, line)
    return Problem(problem.path.replace(f"/Event/…/{name}", path_of(element), 1), problem.reason, problem.expected, line)


def _bad_piece(judge: etree.XMLSchema, body: bytes, piece: int) -> int | None:
    """Where the piece begins in which the first error is found."""
    parser = new_parser(schema=judge)
    try:
        for start in range(0, len(body), piece):
            parser.feed(body[start : start + piece])
            if first_entry(parser) is not None:
                return start
        return None
    finally:
        end_of(parser)


def first_entry(parser: etree.XMLParser) -> Any:
    """The first error of what was fed to `parser` so far; None if there is none."""
    return first_of(parser.feed_error_log)


def end_of(parser: etree.XMLParser) -> Any:
    """Close a parser that was fed: the first error that this finds, or None. lxml never frees the tree of one that is not closed."""
    try:
        parser.close()
    except etree.XMLSyntaxError as error:
        return first_of(error.error_log)
    return None


def first_of(log: Any) -> Any:
    """The first entry of one of lxml's error logs; None if it is empty."""
    return log[0] if log else None


def _last_elements(events: Any) -> tuple[etree._Element | None, etree._Element | None]:
    """The innermost element that is open, and the one that was closed last."""
    closed: etree._Element | None = None
    open_: list[etree._Element] = []
    for event, element in events:
        if event == "start":
            open_.append(element)
        else:
            closed = open_.pop()
    return (open_[-1] if open_ else None), closed


# --- xmlschema ---


def problems_of(element: Any, child: etree._Element, limit: int) -> list[Problem]:
    """xmlschema's errors of `child` against its schema `element`, the first `limit`; one for each place."""
    problems: dict[str, Problem] = {}
    for error in _errors_of(element, child, 4 * limit if limit > 1 else 1):  # several may be of one place
        problem = _problem(element, child, error) if hasattr(error, "reason") else beyond(child, error)
        problems.setdefault(problem.path, problem)
        if len(problems) == limit:
            break
    return sorted(problems.values(), key=lambda problem: (problem.reason == _RULE, problem.line))


class _Enough(Exception):
    """Ends xmlschema's validation."""


class _Errors(list[Any]):
    def __init__(self, limit: int) -> None:
        self.limit = limit

    def append(self, error: Any) -> None:
        super().append(error)
        if len(self) >= self.limit:
            raise _Enough


def _errors_of(element: Any, child: etree._Element, limit: int) -> list[Any]:
    """What xmlschema's `iter_errors` yields, but no more than `limit` are looked for.

    `iter_errors` of an element finds all of them before it yields the first, in quadratic time: 1,000 unknown attributes took 2.9 s.
    """
    from xmlschema.validators import ValidationContext

    source = element.maps.settings.get_resource_from_data(child, element.tag)
    errors = _Errors(limit)
    try:
        element.raw_decode(child, "lax", ValidationContext(source, errors=errors, check_identities=True))
    except _Enough:
        pass
    except Exception as error:
        # Errors of Python that a value causes come through: OverflowError for the year 10^19, and who knows what else.
        return [*errors, error]
    return errors


def beyond(child: etree._Element, error: Exception) -> Problem:
    return Problem(path_of(child), f"{_BEYOND} ({type(error).__name__})")


def _problem(element: Any, child: etree._Element, error: Any) -> Problem:
    import xmlschema

    where = error.elem if error.elem is not None else child
    path, line = path_of(where), line_of(where)
    reason = shortened(re.sub(r"\{[^{}' ]*\}", "", error.reason or "it is not valid"), 300)
    if isinstance(error, xmlschema.XMLSchemaChildrenValidationError):
        return _about_children(error, where, path, line)
    if match := re.match(r"missing required attribute '([^']*)'", reason):
        return Problem(path, f"the attribute {match[1]} is missing", "", line)
    if match := re.match(r"'([^']*)' attribute not allowed", reason):
        return Problem(f"{path}/@{match[1]}", f"the attribute {match[1]} is not known here", "", line)
    declared = _declared(element, child, where)
    if match := re.match(r"attribute ([^\s=]+)=", reason):
        type_ = getattr(getattr(declared, "attributes", {}).get(match[1]), "type", None)
        value, path = where.get(match[1], ""), f"{path}/@{match[1]}"
    else:
        type_ = value_type(declared.type) if declared is not None else None
        value = where.text or ""
    if isinstance(error.obj, str | int | float) or isinstance(error, xmlschema.XMLSchemaDecodeError) or _is_facet(error):
        return Problem(path, f"{shortened(value)!r} is not allowed", shortened(expected_of(type_), 300) if type_ is not None else "", line)
    if match := re.match(r"duplicated value \((.*?),?\) for Xsd\w+\(name='([^']*)'\)", reason):
        return Problem(path, f"{match[1]} occurs twice", f"different values (rule {match[2].rpartition(':')[2]})", line)
    if hasattr(error.validator, "token"):  # an assertion of XSD 1.1
        return Problem(path, _RULE, shortened(error.validator.path, 300), line)
    reason, expected = _WORDS.get(reason, (reason, ""))
    return Problem(path, reason, expected, line)


# Of an assertion. It comes last: one about a value that is itself wrong fails too.
_RULE: Final = "it does not meet a rule of its schema"

# xmlschema's sentences that leave out what would be right.
_WORDS: Final = {
    "character data between child elements not allowed": ("there is text between the elements", "elements only"),
    "character data is not allowed because content is empty": ("there is text in it", "nothing"),
    "a simple content element can't have child elements": ("there are elements in it", "text only"),
    "element is not nillable": ("it cannot be nil", "a value"),
}


def _is_facet(error: Any) -> bool:
    return "Facet" in type(error.validator).__name__ and "Assertion" not in type(error.validator).__name__


def _about_children(error: Any, parent: etree._Element, path: str, line: int) -> Problem:
    expected = [name for name in (getattr(one, "local_name", None) for one in error.expected or ()) if name]
    listed = _listed(expected)
    if error.invalid_child is None:
        if len(expected) == 1:
            return Problem(path, f"{expected[0]} is missing", "", line)
        return Problem(path, "something is missing", listed, line)
    unexpected = error.invalid_child
    name = _local(str(unexpected.tag))
    known = [one.local_name for one in error.validator.iter_elements() if one.local_name]
    if name not in known:
        reason = f"there is no element {name} in {_local(str(parent.tag))}"
        listed = listed or _listed(list(dict.fromkeys(known)))
    elif not any(one.is_matching(unexpected.tag) for one in _elements(error)):
        reason = f"{name} is in the namespace {shortened(etree.QName(unexpected).namespace or '')!r}, which is not expected here"
    else:
        reason = f"{name} is not expected here"
        listed = listed or f"the elements in this order: {', '.join(dict.fromkeys(known[:_LISTED]))}"
    return Problem(path_of(unexpected), reason, shortened(listed, 300), line_of(unexpected))


def _elements(error: Any) -> Iterator[Any]:
    return (one for one in error.validator.iter_elements() if one.local_name)


def _listed(names: list[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return "one of: " + ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


def _declared(element: Any, child: etree._Element, where: etree._Element) -> Any:
    """The declaration of `where`, found by going down from the event's element by name; None if it cannot be found."""
    way: list[etree._Element] = []
    at: etree._Element | None = where
    while at is not None and at is not child:
        way.append(at)
        at = at.getparent()
    declared = element
    for step in reversed(way):
        content = getattr(declared.type, "content", None)
        if content is None or not hasattr(content, "iter_elements"):
            return None
        declared = next((one for one in content.iter_elements() if one.name == step.tag), None)
        if declared is None:
            return None
        declared = declared.ref if declared.ref is not None else declared
    return declared
