"""What an event may contain, for people: its fields with path, type, number, documentation and what a value looks like.

This file reads xmlschema's model of a description. It never validates anything; `clacks.common.explain` uses its words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

# More fields than any event has that somebody writes by hand; it also ends a description that contains itself.
FIELDS: Final = 2_000

# What is quoted of a list of allowed values.
QUOTED_VALUES: Final = 20

# Lexical forms of XML Schema part 2 in plain words.
_WORDS: Final[dict[str, str]] = {
    "string": "text",
    "normalizedString": "text on one line",
    "token": "text on one line, without double spaces",
    "boolean": "true or false",
    "decimal": "a number, as 3.14",
    "float": "a number, as 3.14 or 1e6",
    "double": "a number, as 3.14 or 1e6",
    "integer": "a whole number",
    "long": "a whole number",
    "int": "a whole number from -2147483648 to 2147483647",
    "short": "a whole number from -32768 to 32767",
    "byte": "a whole number from -128 to 127",
    "nonNegativeInteger": "a whole number, 0 or more",
    "positiveInteger": "a whole number, 1 or more",
    "nonPositiveInteger": "a whole number, 0 or less",
    "negativeInteger": "a whole number, -1 or less",
    "unsignedLong": "a whole number, 0 or more",
    "unsignedInt": "a whole number from 0 to 4294967295",
    "unsignedShort": "a whole number from 0 to 65535",
    "unsignedByte": "a whole number from 0 to 255",
    "dateTime": "date and time, as 2024-05-31T13:20:00Z",
    "dateTimeStamp": "date and time with a time zone, as 2024-05-31T13:20:00Z",
    "date": "a date, as 2024-05-31",
    "time": "a time, as 13:20:00",
    "duration": "a duration, as PT90S or P1DT2H",
    "gYear": "a year, as 2024",
    "gYearMonth": "a year and month, as 2024-05",
    "gMonth": "a month, as --05",
    "gMonthDay": "a month and day, as --05-31",
    "gDay": "a day, as ---31",
    "anyURI": "a URI, as https://example.net/",
    "base64Binary": "bytes in base64",
    "hexBinary": "bytes in hexadecimal, as 0fb7",
    "language": "a language, as de or en-GB",
    "Name": "an XML name",
    "NCName": "an XML name without a colon",
    "QName": "an XML name",
    "ID": "an identifier, an XML name without a colon",
    "IDREF": "an identifier that is used in this event",
    "NMTOKEN": "a word of letters, digits and . - _ :",
}


def builtin_words(name: str) -> str:
    """Plain words for a type of XML Schema by its local name; "" if it is not one that is known."""
    return _WORDS.get(name, "")


@dataclass(frozen=True, slots=True)
class Field:
    """One element or attribute inside an event's element.

    `path` is relative to that (`PuppetLog/Tag/value`, `Value/@name`); `type` the local name of its type or of the one that it restricts,
    "" for an element with fields of its own only; `minimum` and `maximum` how often it may occur inside its parent (None: without end);
    `expected` a value in plain words; `values` all that are allowed if they are listed.
    """

    path: str
    type: str
    minimum: int
    maximum: int | None
    documentation: str
    expected: str = ""
    values: tuple[str, ...] = ()
    nillable: bool = False

    def to_json(self) -> dict[str, Any]:
        """As `getEvents` sends it."""
        answer: dict[str, Any] = {
            "path": self.path, "type": self.type, "min": self.minimum, "max": self.maximum, "documentation": self.documentation
        }  # fmt: skip
        answer |= {"expected": self.expected} if self.expected else {}
        answer |= {"values": list(self.values)} if self.values else {}
        answer |= {"nillable": True} if self.nillable else {}
        return answer


def fields_of(element: Any) -> list[Field]:
    """The fields of an event's element (an XsdElement of xmlschema), in document order."""
    fields: list[Field] = []
    for field in _inside(element.type, "", (element.type,)):
        fields.append(field)
        if len(fields) == FIELDS:
            break
    return fields


def _inside(type_: Any, prefix: str, above: tuple[Any, ...]) -> Iterator[Field]:
    for name, attribute in getattr(type_, "attributes", {}).items():
        if name is None:
            continue  # xs:anyAttribute
        yield Field(
            f"{prefix}@{attribute.local_name}", type_name(attribute.type), int(attribute.use == "required"), 1, documentation_of(attribute),
            expected_of(attribute.type), values_of(attribute.type),
        )  # fmt: skip
    for element, minimum, maximum in _children(type_.content if type_.is_complex() else None):
        path = prefix + element.local_name
        value = value_type(element.type)
        yield Field(
            path, type_name(value) if value is not None else "", minimum, maximum, documentation_of(element),
            expected_of(value) if value is not None else "", values_of(value) if value is not None else (), bool(element.nillable),
        )  # fmt: skip
        if element.type not in above:
            yield from _inside(element.type, f"{path}/", (*above, element.type))


def _children(group: Any, optional: bool = False, repeated: bool = False) -> Iterator[tuple[Any, int, int | None]]:
    """The elements of a model group with how often each may occur: every part of a choice may be left out."""
    if group is None or not hasattr(group, "model"):
        return
    optional = optional or group.min_occurs == 0 or (group.model == "choice" and len(group) > 1)
    repeated = repeated or group.max_occurs is None or group.max_occurs > 1
    for part in group:
        if hasattr(part, "model"):
            yield from _children(part, optional, repeated)
        elif part.local_name is not None:  # xs:any has no name
            declared = part.ref if part.ref is not None else part
            yield declared, 0 if optional else part.min_occurs, None if repeated else part.max_occurs


def value_type(type_: Any) -> Any:
    """The simple type of an element's text; None if it has elements only, or nothing."""
    if type_.is_simple():
        return type_
    return type_.content if type_.has_simple_content() else None


def type_name(type_: Any) -> str:
    """The local name of a simple type, of the nearest one that has a name if it has none."""
    while type_ is not None:
        if type_.local_name:
            return str(type_.local_name)
        type_ = getattr(type_, "base_type", None)
    return ""


def values_of(type_: Any) -> tuple[str, ...]:
    return tuple(map(str, getattr(type_, "enumeration", None) or ()))


def expected_of(type_: Any) -> str:
    """A value of a simple type in plain words: "one of: a, b", "a whole number from 3 to 8", "text matching [0-9]+"."""
    if getattr(type_, "enumeration", None):
        values = [_plain(value) for value in type_.enumeration]
        return "one of: " + ", ".join(values[:QUOTED_VALUES]) + (", ..." if len(values) > QUOTED_VALUES else "")
    if type_.is_union():
        return " or ".join(dict.fromkeys(filter(None, map(expected_of, type_.member_types))))
    if type_.is_list():
        return f"{expected_of(type_.item_type)}; several with spaces between"
    base = type_
    while base is not None and base.local_name not in _WORDS:
        base = getattr(base, "base_type", None)
    words = _WORDS[base.local_name] if base is not None else ""
    facets = [text for text in _facets(type_, base) if text]
    return re.split(" from |, ", words)[0] + " " + ", ".join(facets) if facets and words else words


def _facets(type_: Any, base: Any) -> Iterator[str]:
    low, high = (value if value != getattr(base, name) else None for name, value in _bounds(type_))
    if low is not None and high is not None:
        yield f"from {low} to {high}"
    elif low is not None:
        yield f"from {low}"
    elif high is not None:
        yield f"up to {high}"
    least, most = getattr(type_, "min_length", None), getattr(type_, "max_length", None)
    if least is not None and least == most:
        yield f"of {least} characters"
    else:
        yield f"of at least {least} characters" if least else ""
        yield f"of at most {most} characters" if most is not None else ""
    patterns = getattr(type_, "patterns", None)
    yield "matching " + " or ".join(patterns.regexps) if patterns and patterns is not getattr(base, "patterns", None) else ""


def _bounds(type_: Any) -> Iterator[tuple[str, Any]]:
    """The bounds, with a word where the value itself is not allowed."""
    for name in ("min", "max"):
        value = getattr(type_, f"{name}_value", None)
        exclusive = any(str(facet).endswith(f"}}{name}Exclusive") for facet in getattr(type_, "facets", {}))
        yield f"{name}_value", f"{_plain(value)} (exclusive)" if exclusive and value is not None else value


def _plain(value: Any) -> str:
    return str(value)


def documentation_of(component: Any) -> str:
    """The annotation of an element or attribute, else of its type: one paragraph."""
    for described in (component, component.type):
        annotation = getattr(described, "annotation", None)
        texts = annotation.documentation if annotation is not None else ()
        if text := " ".join(" ".join("".join(text.itertext()).split()) for text in texts):
            return text
    return ""
