"""Expressions (XQuery 3.1 section 3) from tokens to the tree of `syntax.py`, by operator precedence.

No word is reserved in XQuery: a word is an operator only where an operand has just ended, and an operand everywhere else; the two tables
below are all there is to it. This file knows neither what functions exist nor what an expression costs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from . import syntax as s
from .clauses import ClauseParser
from .lexer import Token, number
from .names import FN, XS, split
from .paths import PathParser
from .types import KINDS

# Deeper nesting is refused: every level takes about five Python frames here and three when it is evaluated, and Python stops at 1,000.
MAX_DEPTH: Final = 60
# Chains of one operator without parentheses nest to the left, so they have a limit of their own; lists and or-chains have none.
MAX_CHAIN: Final = 100

GENERAL: Final = ("=", "!=", "<", "<=", ">", ">=")
VALUE: Final = {"eq": "=", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
NODE: Final = ("is", "<<", ">>")

# Binary operators by precedence (appendix A.4): symbol or word -> (level, kind). Levels without association are in ONCE.
BINARY: Final[dict[str, tuple[int, str]]] = {
    "or": (4, "or"), "and": (5, "and"), **dict.fromkeys(GENERAL, (6, "general")), **dict.fromkeys(VALUE, (6, "value")),
    **dict.fromkeys(NODE, (6, "node")), "||": (7, "concat"), "to": (8, "range"), "+": (9, "arith"), "-": (9, "arith"),
    "*": (10, "arith"), "div": (10, "arith"), "idiv": (10, "arith"), "mod": (10, "arith"), "union": (11, "union"), "|": (11, "union"),
    "intersect": (12, "set"), "except": (12, "set"), "instance": (13, "type"), "treat": (14, "type"), "castable": (15, "type"),
    "cast": (16, "type"), "=>": (17, "arrow"),
}  # fmt: skip
ONCE: Final = frozenset((6, 8, 13, 14, 15, 16))

# Names that cannot be called (appendix A.3): they introduce other constructs.
UNCALLABLE: Final = KINDS | {"empty-sequence", "function", "if", "item", "map", "array", "switch", "typeswitch"}


class Parser(ClauseParser, PathParser):
    """The grammar from Expr (production 39) down to primary expressions."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.function_namespace = FN
        self._depth = 0
        # Where operands begin and end, by the identity of their nodes; only `explain.py` asks for it.
        self.spans: dict[int, tuple[int, int]] | None = None

    def _span(self, expr: s.Expr, start: int) -> None:
        if self.spans is not None:
            self.spans[id(expr)] = (start, self.at)

    # --- levels 1 to 3 -------------------------------------------------------------------------------------------------------------

    def expr(self) -> s.Expr:
        """Expr: a comma list."""
        at = self.token.start
        first = self.expr_single()
        if not self.is_symbol(","):
            return first
        items = [first]
        while self.accept(","):
            items.append(self.expr_single())
        return s.Sequence(at, tuple(items))

    def expr_single(self) -> s.Expr:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self.fail("CLXQ0002", f"Expressions are nested more than {MAX_DEPTH} deep")
        try:
            token = self.token
            if token.kind == "name":
                keyword = self.keyword_expression()
                if keyword is not None:
                    self._span(keyword, token.start)
                    return keyword
            return self.binary(4)
        finally:
            self._depth -= 1

    # --- operators -----------------------------------------------------------------------------------------------------------------

    def _operator(self) -> tuple[str, int, str] | None:
        token = self.token
        if token.kind not in ("name", "symbol"):
            return None
        found = BINARY.get(token.text)
        return None if found is None else (token.text, *found)

    def binary(self, least: int) -> s.Expr:
        start = self.token.start
        left = self.unary()
        self._span(left, start)
        chain = 0
        last = 0
        while (found := self._operator()) is not None and found[1] >= least:
            op, level, kind = found
            if level in ONCE and last == level:
                self.unexpected("parentheses around one of two operators of the same kind")
            chain += kind not in ("or", "and", "union")
            if chain > MAX_CHAIN:
                self.fail("CLXQ0002", f"More than {MAX_CHAIN} operators follow each other")
            at = self.take().start
            left = self._combine(kind, op, at, left, level)
            self._span(left, start)
            last = level
        return left

    def _combine(self, kind: str, op: str, at: int, left: s.Expr, level: int) -> s.Expr:
        if kind == "type":
            return self._type_operator(op, at, left)
        if kind == "arrow":
            return self._arrow(at, left)
        right = self.binary(level + 1)
        make: dict[str, Callable[[], s.Expr]] = {
            "or": lambda: s.Or(at, (*(left.items if isinstance(left, s.Or) else (left,)), right)),
            "and": lambda: s.And(at, (*(left.items if isinstance(left, s.And) else (left,)), right)),
            "union": lambda: s.Union(at, (*(left.items if isinstance(left, s.Union) else (left,)), right)),
            "general": lambda: s.Compare(at, "general", op, left, right),
            "value": lambda: s.Compare(at, "value", VALUE[op], left, right),
            "node": lambda: s.Compare(at, "node", op, left, right),
            "concat": lambda: s.Concat(at, left, right),
            "range": lambda: s.Range(at, left, right),
            "arith": lambda: s.Arith(at, op, left, right),
            "set": lambda: s.SetOp(at, op, left, right),
        }
        return make[kind]()

    def _type_operator(self, op: str, at: int, left: s.Expr) -> s.Expr:
        if op == "instance":
            self.expect("of")
            return s.TypeExpr(at, op, left, self.sequence_type())
        self.expect("as")
        return s.TypeExpr(at, op, left, self.sequence_type() if op == "treat" else self.single_type())

    def _arrow(self, at: int, left: s.Expr) -> s.Expr:
        if self.is_symbol("$"):
            function: s.Expr = self._variable()
        elif self.is_symbol("("):
            function = self._parenthesized()
        else:
            name_at = self.token.start
            name = self.eqname(self.function_namespace)
            return s.Call(name_at, name, (left, *self._arguments()))
        return s.Dynamic(at, function, (left, *self._arguments()))

    def unary(self) -> s.Expr:
        signs = []
        while self.is_symbol("-", "+"):
            signs.append(self.take())
            if len(signs) > MAX_CHAIN:
                self.fail("CLXQ0002", f"More than {MAX_CHAIN} signs follow each other")
        if self.words("validate", "{", "lax", "strict", "type"):
            self.fail("XQST0009", "validate needs an imported schema")
        value = self._pragma() if self.is_symbol("(#") else self._simple_map()
        for sign in reversed(signs):
            value = s.Unary(sign.start, sign.text, value)
        return value

    def _pragma(self) -> s.Expr:
        """An extension expression (section 3.20): pragmas that nobody knows leave the expression itself."""
        while self.is_symbol("(#"):
            start = self.take().start
            self.eqname("")
            end = self.text.find("#)", self.at)
            if end < 0:
                self.fail("XPST0003", "The pragma is not closed", start)
            self.at = end + 2
        self.expect("{")
        if self.is_symbol("}"):
            self.fail("XQST0079", "The pragma has no expression")
        value = self.expr()
        self.expect("}")
        return value

    def _simple_map(self) -> s.Expr:
        left = self.path()
        chain = 0
        while self.is_symbol("!"):
            at = self.take().start
            chain += 1
            if chain > MAX_CHAIN:
                self.fail("CLXQ0002", f"More than {MAX_CHAIN} operators follow each other")
            left = s.SimpleMap(at, left, self.path())
        return left

    # --- primary and postfix expressions -------------------------------------------------------------------------------------------

    def postfix(self) -> s.Expr:
        base = self._primary()
        chain = 0
        while self.is_symbol("[", "(", "?"):
            chain += 1
            if chain > MAX_CHAIN:
                self.fail("CLXQ0002", f"More than {MAX_CHAIN} operators follow each other")
            at = self.token.start
            if self.is_symbol("["):
                base = s.Postfix(at, base, self.predicates())
            elif self.is_symbol("("):
                base = s.Dynamic(at, base, self._arguments())
            else:
                self.take()
                base = s.Lookup(at, base, self._lookup_key())
        return base

    def _primary(self) -> s.Expr:
        token = self.token
        if token.kind == "string":
            self.take()
            return s.Literal(token.start, self.unquote(token), "string", token.end)
        if token.kind in ("integer", "decimal", "double"):
            return self._number(token)
        if token.kind == "name":
            return self._named(token)
        table: dict[str, Callable[[], s.Expr]] = {
            "$": self._variable, "(": self._parenthesized, ".": self._context_item, "[": self._square_array, "?": self._unary_lookup,
            "``[": self.string_constructor, "%": self._inline,
        }  # fmt: skip
        if token.kind == "symbol" and token.text in table:
            return table[token.text]()
        if token.text == "<" and self.starts_constructor():
            return self.direct_constructor()
        return self.unexpected("an expression")

    def _number(self, token: Token) -> s.Expr:
        self.take()
        if len(token.text) > 1000:  # more digits than any number needs, and Python refuses to convert 4,301
            self.fail("FOAR0002", "A number has more than 1,000 digits", token.start)
        return s.Literal(token.start, number(token), token.kind, token.end)

    def _context_item(self) -> s.Expr:
        return s.ContextItem(self.take().start)

    def _variable(self) -> s.VarRef:
        at = self.expect("$").start
        return s.VarRef(at, self.eqname(""))

    def _parenthesized(self) -> s.Expr:
        at = self.expect("(").start
        if self.accept(")"):
            return s.Sequence(at, ())
        inner = self.expr()
        self.expect(")")
        # A path in parentheses is one operand: `(a/b)[1]` is not `a/b[1]`, which the tree shows by itself.
        return inner

    def _square_array(self) -> s.Expr:
        at = self.expect("[").start
        items = []
        if not self.is_symbol("]"):
            items.append(self.expr_single())
            while self.accept(","):
                items.append(self.expr_single())
        self.expect("]")
        return s.ArrayExpr(at, True, tuple(items))

    def _unary_lookup(self) -> s.Expr:
        at = self.expect("?").start
        return s.Lookup(at, None, self._lookup_key())

    def _lookup_key(self) -> s.Expr | None:
        token = self.token
        if self.accept("*"):
            return None
        if token.kind == "integer":
            return self._number(token)
        if self.is_symbol("("):
            return self._parenthesized()
        if token.kind != "name":
            self.unexpected("a key")
        self.take()
        return s.Literal(token.start, token.text, "string", -1)

    def _named(self, token: Any) -> s.Expr:
        following = self.after(token).text
        if not self._prefixed(token):
            if following == "{" and token.text in ("ordered", "unordered"):
                self.take()
                return self.enclosed()
            if following == "{" and token.text == "map":
                return self._map()
            if following == "{" and token.text == "array":
                self.take()
                return s.ArrayExpr(token.start, False, (self.enclosed(),))
            if following == "(" and token.text == "function":
                return self._inline()
            if self.starts_computed():
                return self.computed_constructor()
            if following in ("(", "#") and token.text in UNCALLABLE:
                self.fail("XPST0003", f"`{token.text}` cannot be called")
        name = self.eqname(self.function_namespace)
        if self.accept("#"):
            if self.token.kind != "integer":
                self.unexpected("the number of arguments")
            return s.NamedRef(token.start, name, int(self.take().text[:9]))
        arguments = self._arguments()
        if split(name)[0] == XS and arguments and arguments[0] is None and len(arguments) == 1:
            return s.NamedRef(token.start, name, 1)
        return s.Call(token.start, name, arguments)

    def _arguments(self) -> tuple[s.Expr | None, ...]:
        self.expect("(")
        found: list[s.Expr | None] = []
        if not self.is_symbol(")"):
            while True:
                if self.is_symbol("?") and self.after(self.token).text in (",", ")"):
                    self.take()
                    found.append(None)
                else:
                    found.append(self.expr_single())
                if not self.accept(","):
                    break
        self.expect(")")
        return tuple(found)

    def _map(self) -> s.Expr:
        at = self.take().start
        self.expect("{")
        entries = []
        if not self.is_symbol("}"):
            while True:
                key = self.expr_single()
                self.expect(":")
                entries.append((key, self.expr_single()))
                if not self.accept(","):
                    break
        self.expect("}")
        return s.MapExpr(at, tuple(entries))

    def _inline(self) -> s.Expr:
        self.annotations()
        at = self.expect("function").start
        params, result = self.signature()
        return s.Inline(at, params, result, self.enclosed())

    def enclosed(self) -> s.Expr:
        """EnclosedExpr (production 36): `{}` is the empty sequence."""
        at = self.expect("{").start
        if self.accept("}"):
            return s.Sequence(at, ())
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self.fail("CLXQ0002", f"Expressions are nested more than {MAX_DEPTH} deep")
        value = self.expr()
        self._depth -= 1
        self.expect("}")
        return value
