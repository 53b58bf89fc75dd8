"""The expressions that begin with a word (XQuery 3.1 sections 3.12 to 3.17): FLWOR, quantifiers, conditionals, switches, try."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Final

from . import syntax as s
from .errors import error_at
from .names import shown
from .types import TypeParser

CODEPOINT: Final = "http://www.w3.org/2005/xpath-functions/collation/codepoint"

# Each clause opens a scope for those after it; filters written by hand have fewer than ten.
MAX_CLAUSES: Final = 200

Parameters = tuple[tuple[str, s.SequenceType | None], ...]


class ClauseParser(TypeParser):
    """Keyword expressions; the operators are `parser.py`'s."""

    empty_greatest = False

    @abstractmethod
    def expr(self) -> s.Expr: ...

    @abstractmethod
    def expr_single(self) -> s.Expr: ...

    @abstractmethod
    def enclosed(self) -> s.Expr: ...

    def keyword_expression(self) -> s.Expr | None:
        """Takes an expression that begins with a keyword, if one stands here."""
        text = self.token.text
        if self.words(text, "$") and text in ("for", "let", "some", "every"):
            return self._flwor() if text in ("for", "let") else self._quantified()
        if self.words("for", "tumbling", "sliding"):
            return self._flwor()
        if self.words("try", "{"):
            return self._try()
        table: dict[str, Callable[[], s.Expr]] = {"if": self._if, "switch": self._switch, "typeswitch": self._typeswitch}
        if text in table and self.words(text, "("):
            return table[text]()
        return None

    def variable_name(self) -> str:
        self.expect("$")
        return self.eqname("")

    def optional_type(self) -> s.SequenceType | None:
        return self.sequence_type() if self.accept("as") else None

    def signature(self) -> tuple[Parameters, s.SequenceType | None]:
        """Takes the parameters and the result type of a function (productions 33 to 35)."""
        self.expect("(")
        found: list[tuple[str, s.SequenceType | None]] = []
        while self.is_symbol("$"):
            at = self.token.start
            name = self.variable_name()
            if any(name == other for other, _ in found):
                raise error_at(self.text, at, "XQST0039", f"${shown(name)}")
            found.append((name, self.optional_type()))
            if not self.accept(","):
                break
        self.expect(")")
        return tuple(found), self.optional_type()

    # --- FLWOR ---------------------------------------------------------------------------------------------------------------------

    def _flwor(self) -> s.Expr:
        at = self.token.start
        clauses: list[s.Expr] = []
        while not self.is_word("return"):
            clauses.extend(self._clause())
            if len(clauses) > MAX_CLAUSES:
                self.fail("CLXQ0002", f"A FLWOR has more than {MAX_CLAUSES} clauses")
        self.take()
        return s.Flwor(at, tuple(clauses), self.expr_single())

    def _clause(self) -> list[s.Expr]:
        if self.words("for", "$"):
            return self._bindings(self._for)
        if self.words("let", "$"):
            return self._bindings(self._let)
        if self.words("for", "tumbling", "sliding"):
            return [self._window()]
        at = self.token.start
        if self.accept("where"):
            return [s.Where(at, self.expr_single())]
        if self.words("count", "$"):
            self.take()
            return [s.Count(at, self.variable_name())]
        if self.words("group", "by"):
            return [self._group_by()]
        if self.words("order", "by") or self.words("stable", "order"):
            return [self._order_by()]
        return self.unexpected("`return`")

    def _bindings(self, one: Callable[[], s.Expr]) -> list[s.Expr]:
        self.take()
        found = [one()]
        while self.accept(","):
            found.append(one())
        return found

    def _for(self) -> s.For:
        at = self.token.start
        name = self.variable_name()
        kind = self.optional_type()
        allowing = self.accept("allowing")
        if allowing:
            self.expect("empty")
        counter = self.variable_name() if self.accept("at") else None
        if counter == name:
            self.fail("XQST0089", f"${shown(name)}", at)
        self.expect("in")
        return s.For(at, name, kind, allowing, counter, self.expr_single())

    def _let(self) -> s.Expr:
        at = self.token.start
        name = self.variable_name()
        kind = self.optional_type()
        self.expect(":=")
        return s.Let(at, name, kind, self.expr_single())

    def _group_by(self) -> s.Expr:
        at = self.take().start
        self.take()
        keys: list[tuple[str, s.Expr | None, s.SequenceType | None]] = []
        while True:
            name = self.variable_name()
            kind = self.optional_type()
            if kind is not None and not self.is_symbol(":="):
                self.unexpected("`:=`")
            value = self.expr_single() if self.accept(":=") else None
            self._collation()
            keys.append((name, value, kind))
            if not self.accept(","):
                return s.GroupBy(at, tuple(keys))

    def _order_by(self) -> s.Expr:
        at = self.token.start
        self.accept("stable")
        self.take()
        self.expect("by")
        keys: list[tuple[s.Expr, bool, bool]] = []
        while True:
            value = self.expr_single()
            descending = self.accept("descending")
            if not descending:
                self.accept("ascending")
            greatest = self.empty_greatest
            if self.accept("empty"):
                greatest = self.accept("greatest")
                if not greatest:
                    self.expect("least")
            self._collation()
            keys.append((value, descending, greatest))
            if not self.accept(","):
                return s.OrderBy(at, tuple(keys))

    def _collation(self) -> None:
        if self.accept("collation"):
            at = self.token.start
            if self.string() != CODEPOINT:
                self.fail("XQST0076", at=at)

    def _window(self) -> s.Expr:
        at = self.take().start
        self.take()
        self.expect("window")
        names = [self.variable_name()]
        self.optional_type()
        self.expect("in")
        parts = [self.expr_single()]
        for word in ("start", "end"):
            if word == "end":
                self.accept("only")
                if not self.is_word("end"):
                    break
            self.expect(word)
            names.extend(self._window_variables())
            self.expect("when")
            parts.append(self.expr_single())
        return s.Window(at, tuple(parts), tuple(names))

    def _window_variables(self) -> list[str]:
        found = [self.variable_name()] if self.is_symbol("$") else []
        for word in ("at", "previous", "next"):
            if self.accept(word):
                found.append(self.variable_name())
        return found

    # --- the others ----------------------------------------------------------------------------------------------------------------

    def _quantified(self) -> s.Expr:
        token = self.token
        bindings = self._bindings(self._quantifier)
        self.expect("satisfies")
        return s.Quantified(token.start, token.text == "every", tuple(b for b in bindings if isinstance(b, s.For)), self.expr_single())

    def _quantifier(self) -> s.Expr:
        at = self.token.start
        name = self.variable_name()
        kind = self.optional_type()
        self.expect("in")
        return s.For(at, name, kind, False, None, self.expr_single())

    def _condition(self) -> s.Expr:
        self.take()
        self.expect("(")
        value = self.expr()
        self.expect(")")
        return value

    def _if(self) -> s.Expr:
        at = self.token.start
        condition = self._condition()
        self.expect("then")
        then = self.expr_single()
        self.expect("else")
        return s.If(at, condition, then, self.expr_single())

    def _switch(self) -> s.Expr:
        at = self.token.start
        operand = self._condition()
        cases: list[tuple[tuple[s.Expr, ...], s.Expr]] = []
        while self.is_word("case"):
            tests = []
            while self.accept("case"):
                tests.append(self.expr_single())
            self.expect("return")
            cases.append((tuple(tests), self.expr_single()))
        if not cases:
            self.unexpected("`case`")
        self.expect("default")
        self.expect("return")
        return s.Switch(at, operand, tuple(cases), self.expr_single())

    def _typeswitch(self) -> s.Expr:
        at = self.token.start
        operand = self._condition()
        cases: list[tuple[tuple[s.SequenceType, ...], str | None, s.Expr]] = []
        while self.accept("case"):
            name = self._case_variable(True)
            types = [self.sequence_type()]
            while self.accept("|"):
                types.append(self.sequence_type())
            self.expect("return")
            cases.append((tuple(types), name, self.expr_single()))
        if not cases:
            self.unexpected("`case`")
        self.expect("default")
        variable = self._case_variable(False)
        self.expect("return")
        return s.Typeswitch(at, operand, tuple(cases), variable, self.expr_single())

    def _case_variable(self, followed_by_as: bool) -> str | None:
        if not self.is_symbol("$"):
            return None
        name = self.variable_name()
        if followed_by_as:
            self.expect("as")
        return name

    def _try(self) -> s.Expr:
        at = self.take().start
        body = self.enclosed()
        catches: list[tuple[tuple[s.NameTest, ...], s.Expr]] = []
        while self.accept("catch"):
            tests = [self.name_test("")]
            while self.accept("|"):
                tests.append(self.name_test(""))
            catches.append((tuple(tests), self.enclosed()))
        if not catches:
            self.unexpected("`catch`")
        return s.Try(at, body, tuple(catches))
