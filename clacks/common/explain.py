"""What is wrong with an event, in plain words: libxml2's and xmlschema's errors become `Problem`s.

Both say the same thing in their own way; a table each brings it to one form: where, what is wrong there, what would be right.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

from lxml import etree

from clacks.common.errors import Problem
from clacks.common.maker import EVENTS
from clacks.common.xml import shortened

_XS = "http://www.w3.org/2001/XMLSchema"


def path_of(element: etree._Element) -> str:
    """Where an element is, in its document's own names: /Event/PuppetReport/PuppetLog[2]/Level."""
    steps = []
    while element is not None:
        before = sum(1 for _ in element.itersiblings(element.tag, preceding=True))
        alone = not before and next(element.itersiblings(element.tag), None) is None
        steps.append(etree.QName(element).localname + ("" if alone else f"[{before + 1}]"))
        element = element.getparent()
    return "/" + "/".join(shortened(step) for step in reversed(steps))


def problem_of(entry: Any, root: etree._Element | None) -> Problem:
    """For an entry of libxml2's error log; without the tree that was validated it has no place."""
    reason = re.sub(r"^Element '[^']*'(?:, attribute '[^']*')?: ", "", entry.message.replace(f"{{{EVENTS}}}", "").replace(f"{{{_XS}}}", ""))
    path, line = "/Event", 0
    if root is not None and entry.path:
        nodes = root.getroottree().xpath(entry.path)
        if nodes and isinstance(nodes[0], etree._Element):
            path, line = path_of(nodes[0]), entry.line
    return Problem(path, shortened(reason, 300), "", line)


def problems_of(element: Any, child: etree._Element, limit: int) -> list[Problem]:
    """xmlschema's errors of `child` against its schema `element`, the first `limit`."""
    return [
        Problem(path_of(error.elem) if error.elem is not None else "/Event", shortened(error.reason or "it is not valid", 300), "", 0)
        for error in islice(element.iter_errors(child), limit)
    ]


def first_problem(judge: etree.XMLSchema, body: bytes) -> Problem | None:
    return None
