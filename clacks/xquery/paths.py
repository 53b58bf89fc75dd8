"""Paths and steps (XQuery 3.1 section 3.3) from tokens to the tree of `syntax.py`; the primary expressions in them are `parser.py`'s."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Final

from . import syntax as s
from .constructors import ConstructorParser
from .types import KINDS

# A longer path nests to the left; events have no more than a few levels.
MAX_STEPS: Final = 100

AXES: Final = frozenset(
    ("child", "descendant", "attribute", "self", "descendant-or-self", "following-sibling", "following", "parent", "ancestor",
     "preceding-sibling", "preceding", "ancestor-or-self")
)  # fmt: skip

ANY_NODE: Final = s.KindTest("node")


class PathParser(ConstructorParser):
    """The grammar from PathExpr (production 108) to predicates."""

    @abstractmethod
    def postfix(self) -> s.Expr: ...

    def path(self) -> s.Expr:
        token = self.token
        if self.accept("/"):
            root: s.Expr = s.Root(token.start)
            if not self._starts_step():
                return root
            return self._steps(s.Slash(token.start, root, self._step()))
        if self.accept("//"):
            root = s.Slash(token.start, s.Root(token.start), s.Step(token.start, "descendant-or-self", ANY_NODE))
            return self._steps(s.Slash(token.start, root, self._step()))
        return self._steps(self._step())

    def _steps(self, left: s.Expr) -> s.Expr:
        chain = 0
        while self.is_symbol("/", "//"):
            chain += 1
            if chain > MAX_STEPS:
                self.fail("CLXQ0002", f"A path has more than {MAX_STEPS} steps")
            slash = self.take()
            if slash.text == "//":
                left = s.Slash(slash.start, left, s.Step(slash.start, "descendant-or-self", ANY_NODE))
            left = s.Slash(slash.start, left, self._step())
        return left

    def _starts_step(self) -> bool:
        """Whether a step follows a leading slash (appendix A.1.2, leading-lone-slash)."""
        token = self.token
        if token.kind == "symbol":
            if token.text == "<":
                return self.starts_constructor()
            return token.text in ("*", "@", ".", "..", "(", "$", "[", "?", "``[", "%")
        return token.kind != "end"

    def _step(self) -> s.Expr:
        token = self.token
        if token.kind == "symbol":
            if token.text == "@":
                self.take()
                return self._axis_step(token.start, "attribute")
            if token.text == "..":
                self.take()
                return s.Step(token.start, "parent", ANY_NODE, self.predicates())
            if token.text == "*":
                return self._axis_step(token.start, "child")
        elif token.kind == "name":
            following = self.after(token)
            if following.kind == "symbol" and following.text == "::" and not self._prefixed(token):
                if token.text not in AXES:
                    self.fail("XPST0003" if token.text != "namespace" else "XPST0010", f"`{token.text}::` is not an axis")
                self.take()
                self.take()
                return self._axis_step(token.start, token.text)
            if not self._starts_primary(token, following.text):
                return self._axis_step(token.start, "child")
        return self.postfix()

    def _starts_primary(self, token: Any, following: str) -> bool:
        """Whether a name begins something other than a step: a call, a reference, a constructor."""
        if token.text == "Q" and self.text[token.end : token.end + 1] == "{":
            end = self.text.find("}", token.end) + 1
            return end > 0 and self._called(end)
        if self._prefixed(token):
            return self._called(token.end + 1)
        if following == "(":
            return token.text not in KINDS
        return following == "#" or self.starts_computed() or (following == "{" and token.text in ("map", "array", "ordered", "unordered"))

    def _called(self, at: int) -> bool:
        name = self._read(at)
        return name.kind == "name" and self.after(name).text in ("(", "#")

    def _axis_step(self, at: int, axis: str) -> s.Expr:
        if self.token.kind == "name" and self.token.text in KINDS and self.after(self.token).text == "(":
            kind = self.kind_test()
            test: s.NameTest | s.KindTest = kind
            if axis == "child" and kind.kind == "attribute":
                axis = "attribute"  # section 3.3.5, abbreviated syntax
        elif self.token.kind == "name" or self.is_symbol("*"):
            test = self.name_test("" if axis == "attribute" else self.element_namespace)
        else:
            self.unexpected("a step")
        return s.Step(at, axis, test, self.predicates())

    def predicates(self) -> tuple[s.Expr, ...]:
        found = []
        while self.accept("["):
            found.append(self.expr())
            self.expect("]")
        return tuple(found)
