"""Which schemas libxml2 judges in a time that grows with the event's size, so that they may be judged on an event loop.

Two things of XML Schema are not so cheap in libxml2: a pattern that can match a value in several ways (`(a|aa)+b` tries them all: 350 ms,
then it gives up), and counted repetitions inside repeated groups (4,000 elements: 170 ms). Whatever is not provably free of them goes to a
worker, which costs an event a tenth of a millisecond; so the proof is a simple one and says no to many a harmless pattern.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from lxml import etree

XS: Final = "http://www.w3.org/2001/XMLSchema"

# Ways in which a pattern may match, without and with an unbounded repetition, whose length multiplies them. libxml2 takes 35 ns a step: 4
# ways of 24 KiB take 3.5 ms.
_WAYS: Final = 100
_WAYS_UNBOUNDED: Final = 4

# A regular expression of XML Schema (part 2, appendix F) in tokens: an atom, a bracket, or how often what came before it may occur.
_TOKEN: Final = re.compile(
    r"(?P<atom>\\[pP]\{[^}]*\}|\\.|\[(?:\\.|[^\]\\])*\](?:\])*|[^\\\[\](){}|?*+])"
    r"|(?P<open>\()|(?P<close>\))|(?P<or>\|)"
    r"|(?P<many>[*+]|\{\d+,\})|(?P<maybe>\?)|\{(?P<low>\d+)(?:,(?P<high>\d+))?\}",
    re.DOTALL,
)


def is_cheap(roots: Iterable[etree._Element]) -> bool:
    """Whether events are judged in linear time by the schema that these `xs:schema` elements make up."""
    roots = list(roots)
    patterns = (pattern.get("value", "") for root in roots for pattern in root.iter(f"{{{XS}}}pattern"))
    return all(map(is_cheap_pattern, patterns)) and not _counts_repeatedly(roots)


def is_cheap_pattern(pattern: str) -> bool:
    """Whether there are few ways to match a value: at most one unbounded repetition, and that of a single character; no repeated group
    that has choices inside."""
    unbounded, ways, at = 0, 1, 0
    open_groups: list[tuple[int, int]] = []  # of each: the choices made before it, and its alternatives so far
    made = 0
    closed: int | None = None  # the choices inside the group that ended just now
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is None:
            return False
        at = token.end()
        match token.lastgroup:
            case "open":
                open_groups.append((made, 1))
            case "close" if open_groups:
                before, alternatives = open_groups.pop()
                ways *= alternatives
                closed = made - before
                continue
            case "or":
                made += 1
                if open_groups:
                    before, alternatives = open_groups.pop()
                    open_groups.append((before, alternatives + 1))
            case "many" if closed is not None:
                return False
            case "many":
                unbounded, made = unbounded + 1, made + 1
            case "maybe":
                ways, made = ways * 2, made + 1
            case "low" | "high":
                low, high = int(token["low"]), int(token["high"] or token["low"])
                if closed is not None and (closed or low != high):
                    return False
                ways, made = ways * max(high - low + 1, 1), made + (low != high)
        closed = None
    return ways <= (_WAYS_UNBOUNDED if unbounded else _WAYS) and unbounded <= 1


def _counts_repeatedly(roots: list[etree._Element]) -> bool:
    """Whether something with a number for its `maxOccurs` is inside a group that is repeated itself."""
    counted = "*[@maxOccurs and number(@maxOccurs) > 1]"
    repeated = "*[@maxOccurs and @maxOccurs != '1'][self::xs:sequence or self::xs:choice or self::xs:all]"
    names = {"xs": XS}
    if any(root.xpath(f"boolean(//{repeated}//{counted})", namespaces=names) for root in roots):
        return True
    references = any(root.xpath("boolean(//xs:group[@ref][@maxOccurs and @maxOccurs != '1'])", namespaces=names) for root in roots)
    return references and any(root.xpath(f"boolean(//{counted})", namespaces=names) for root in roots)
