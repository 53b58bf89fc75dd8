"""One filter: from text to an object that answers for an event. These are the doors; what happens behind them is in the other files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from . import syntax, template
from .atoms import YES
from .compiled import Compiled, compile_module
from .errors import FilterError, position
from .explain import Explanation, explain
from .frames import Event
from .instance import describe as type_text
from .module import parse
from .plans import describe

if TYPE_CHECKING:
    from lxml import etree

Document: TypeAlias = "etree._ElementTree"


class Filter:
    """A compiled filter; made by `compile_filter`, shared freely, never changed."""

    __slots__ = ("compiled", "params", "text")

    def __init__(self, text: str, compiled: Compiled, params: tuple[Any, ...]) -> None:
        self.text = text
        self.compiled = compiled
        self.params = params

    def __repr__(self) -> str:
        return f"Filter({self.text!r})"

    @property
    def cost(self) -> str:
        """`cheap`: provably linear in the size of the event, evaluated where the event is. `dear`: for the sandbox."""
        return "cheap" if self.compiled.dear is None else "dear"

    @property
    def cost_reason(self) -> str:
        """Why the filter is dear, in plain words; empty for a cheap one."""
        return "" if self.compiled.dear is None else self.compiled.dear[1]

    @property
    def cost_place(self) -> tuple[int, int]:
        """Line and column of what makes the filter dear, counted from 1; (0, 0) for a cheap one. Compiles again: for people, not for paths
        where filters come by the thousand."""
        if self.compiled.dear is None:
            return 0, 0
        module = parse(self.text)  # what is compiled is shared with filters whose literals are longer or shorter
        found = compile_module(module, {}).dear or self.compiled.dear
        return position(module.text, found[0])

    @property
    def external(self) -> dict[str, str]:
        """The external variables by name with their declared types, as `xs:integer?`; an empty text where none is declared."""
        return {one.name: "" if one.type is None else type_text(one.type) for one in self.compiled.externals}

    @property
    def bare(self) -> dict[str, tuple[int, int]]:
        """The elements in no namespace that the filter names, with line and column: a name without a prefix, where events, which are in
        one, mostly have nothing. Parses again, as `cost_place`."""
        module = parse(self.text)
        found: dict[str, tuple[int, int]] = {}
        for one in syntax.walk(module.body):
            test = one.test if isinstance(one, syntax.Step) and one.axis != "attribute" else None
            if isinstance(test, syntax.NameTest) and test.uri == "" and test.local is not None:
                found.setdefault(test.local, position(module.text, one.at))
        return found

    @property
    def tier(self) -> str:
        """What answers: `index`, `native`, `elementpath` or `saxon`."""
        if self.compiled.engine is not None:
            return self.compiled.engine.name
        return "index" if self.compiled.plan.choices and self.compiled.plan.exact == YES else "native"

    def shed(self) -> None:
        """Give back what a dear filter needs for its evaluation, where that is left to another process. `matches` makes it again."""
        if self.compiled.dear is not None:
            self.compiled.shed()

    def matches(self, document: Document, variables: Mapping[str, object] | None = None) -> bool:
        """Whether the effective boolean value of the filter is true (XPath 3.1 section 2.4.3), with the document node as context item.

        `variables` are the values of external variables by name: bool, int, float, Decimal, str, datetime; others are as if unset.
        Evaluates dear filters as well, whatever they take. Raises FilterError when the evaluation fails, which for the bus means: no match.
        """
        return self.compiled.matches(Event(document, variables), self.params)

    def explain(self, document: Document, variables: Mapping[str, object] | None = None) -> Explanation:
        """Which clauses of the filter hold for an event and which do not, with the values seen; takes as long as it takes."""
        return explain(self.text, self.compiled, self.tier, Event(document, variables), self.params)

    @property
    def conditions(self) -> tuple[str, ...]:
        """What the index looks for to find this filter; empty when it is asked for every event."""
        return tuple(describe(atom, self.params) for choice in self.compiled.plan.choices[:1] for atom in choice)


def compile_filter(text: str) -> Filter:
    """Compiles a filter in XQuery 3.1; raises FilterError with line, column, W3C code and a sentence (XQuery 3.1 section 2.3)."""
    try:
        return Filter(text, *template.compiled(text))
    except RecursionError as error:
        raise FilterError("CLXQ0002", "The filter is nested too deeply", 1, 1) from error
