"""Regular expressions of XPath (Functions and Operators 3.1 section 5.6.1) for an engine that takes linear time.

`linear` translates to RE2, which cannot be made to backtrack, and gives None for what RE2 does not have (back-references, subtraction of
classes, named blocks) or when RE2 is not installed; `backtracking` translates to Python's `re`, whose time has no bound.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from .errors import FilterError

try:
    import re2
except ImportError:  # the package is optional: without it every regular expression counts as dear
    re2 = None

# Escapes as the inside of an RE2 class (section 5.6.1 and XML Schema 1.1 part 2, appendix G.4.2).
_CLASSES: Final = {
    "d": r"\p{Nd}", "D": r"\P{Nd}", "s": r" \t\n\r", "S": r"\x00-\x08\x0b\x0c\x0e-\x1f!-\x{10ffff}",
    "w": r"\p{L}\p{M}\p{N}\p{S}", "W": r"\p{P}\p{Z}\p{C}",
}  # fmt: skip
_NEGATED: Final = {"d": "D", "D": "d", "s": "S", "S": "s", "w": "W", "W": "w"}
_SINGLE: Final = {"n": r"\n", "r": r"\r", "t": r"\t", **{char: "\\" + char for char in r"\|.?*+(){}-[]^$"}}
_CATEGORIES: Final = frozenset(
    "L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po Z Zs Zl Zp S Sm Sc Sk So C Cc Cf Co".split()  # noqa: SIM905
)
_QUANTIFIER: Final = re.compile(r"(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??")
_FLAGS: Final = frozenset("smixq")

# Longer ones are nobody's; RE2 also bounds the memory of the compiled form.
MAX_PATTERN: Final = 2_000
# A counted repetition is copied, and every copy can be active at once: `a[ab]{100}c` takes 34 ms for 64 KiB, with {500} 150 ms.
MAX_COPIES: Final = 150
_MEMORY: Final = 1 << 20


# With the flag `i` patterns are of ASCII only; two more characters have a letter of it for their small or capital one.
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FAR_VARIANTS: Final = {"k": "\u212a", "s": "\u017f"}


def _without_space(pattern: str) -> str:
    """The pattern without white space outside of classes (section 5.6.2, flag x)."""
    return _SPACED.sub(lambda found: found[1] or "", pattern)


_SPACED: Final = re.compile(r"(\\.|\[(?:\\.|[^\]\\])*\]?)|[ \t\r\n]+", re.DOTALL)


class _Unsupported(Exception):
    """The expression may be right, but RE2 cannot run it."""


class _Sweep:
    """Whether finding one match behind the other takes linear time: what makes it quadratic is that each looks far beyond its own end.

    `x(.*y)?` finds every x of a text without y, and looks at the rest of it each time. The loops of a pattern (what may repeat for ever)
    look at nothing twice

    - where they are characters in a row of pieces without branches: a later match inside what was looked at in vain passes the loop as
      well, and would have been the end of the earlier match;
    - where they end their branch: then every repetition ends a match;
    - where each branch is tied to an end of the text: then there are no more matches than branches.
    """

    def __init__(self, lines: bool) -> None:
        self._lines = lines  # ^ and $ are of each line
        self._branches = 1
        self._loop = self._inner_loop = self._early_loop = self._loose = False
        self._pieces = ""  # of the branch: their first characters
        self._at_loop = False

    def piece(self, char: str, depth: int) -> None:
        """A piece of the pattern, or what opens and closes a group, or divides branches."""
        if depth == 0 and char == "|":
            self._end_branch()
            self._branches += 1
            return
        self._early_loop = self._early_loop or self._at_loop
        self._at_loop = False
        if depth == 0:
            self._pieces += char

    def repeated(self, quantifier: str, group: bool, depth: int) -> None:
        """The piece before is repeated; `group`: it is a group."""
        if quantifier[0] in "*+" or quantifier.rstrip("?").endswith(",}"):
            self._loop = True
            self._inner_loop = self._inner_loop or group or depth > 0
            self._early_loop = self._early_loop or depth > 0
            self._at_loop = depth == 0

    def _end_branch(self) -> None:
        tied = not self._lines and (self._pieces[:1] == "^" or self._pieces[-1:] == "$")
        self._loose = self._loose or not tied
        self._pieces, self._at_loop = "", False

    def linear(self) -> bool:
        """The answer, when all pieces have been told."""
        self._end_branch()
        in_a_row = self._branches == 1 and not self._inner_loop
        return not self._loop or in_a_row or not self._early_loop or not self._loose


class _Translator:
    """One pass over the pattern; `FORX0002` for what is no regular expression of XPath."""

    def __init__(self, pattern: str, flags: str) -> None:
        self.text = _without_space(pattern) if "x" in flags else pattern
        self.at = 0
        self.flags = flags
        self.depth = 0
        self._sizes = [0]  # of the open groups, in pieces
        self._piece_size = 0
        self._copies = 0
        self._sweep = _Sweep("m" in flags)

    def wrong(self, what: str) -> FilterError:
        return FilterError("FORX0002", f"{self.text[:60]!r}: {what} at character {self.at + 1}")

    def translate(self) -> str:
        out = []
        quantifiable = False
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in "*+?{":
                if not quantifiable:
                    raise self.wrong("nothing to repeat")
                quantifier = self._quantifier()
                out.append(quantifier)
                self._sweep.repeated(quantifier, self.text[self.at - len(quantifier) - 1] == ")", self.depth)
                quantifiable = False
                continue
            self._piece_size = 1
            self._sweep.piece(char, self.depth)
            piece, quantifiable = self._piece(char)
            self._sizes[-1] += self._piece_size
            out.append(piece)
        if self.depth:
            raise self.wrong("a parenthesis is not closed")
        return "".join(out)

    def sweeps(self) -> bool:
        """As the function below; asked after `translate`."""
        return self._sweep.linear()

    def _quantifier(self) -> str:
        found = _QUANTIFIER.match(self.text, self.at)
        if found is None:
            raise self.wrong("a wrong quantifier")
        low, _, high = found.group().strip("{}?").partition(",")
        if high and low.isdigit() and int(high) < int(low):
            raise self.wrong("a wrong quantifier")
        if low.isdigit():
            self._copies += self._piece_size * (max(int(low), int(high or 0)) - 1)
            self._sizes[-1] += self._piece_size * (max(int(low), int(high or 0)) - 1)
            if self._copies > MAX_COPIES:
                raise _Unsupported
        self.at = found.end()
        return found.group()

    def _piece(self, char: str) -> tuple[str, bool]:
        self.at += 1
        if char == ".":
            return (r"(?s:.)" if "s" in self.flags else r"[^\n\r]"), True
        if char == "^":
            return ("(?m:^)" if "m" in self.flags else r"\A"), False
        if char == "$":
            return ("(?m:$)" if "m" in self.flags else r"\z"), False
        if char == "|":
            return "|", False
        if char == "(":
            self.depth += 1
            self._sizes.append(0)
            self._piece_size = 0
            if self.text.startswith("?", self.at):
                if not self.text.startswith("?:", self.at):
                    raise self.wrong("`(?` is not known")
                self.at += 2
                return "(?:", False
            return "(", False
        if char == ")":
            self.depth -= 1
            if self.depth < 0:
                raise self.wrong("a parenthesis too many")
            self._piece_size = self._sizes.pop()
            return ")", True
        if char == "[":
            return self._class(), True
        if char == "\\":
            return self._escape(), True
        if char in "]}":
            raise self.wrong(f"`{char}` must be escaped")
        return re.escape(char) if char.isascii() and not char.isalnum() else char, True

    def _escape(self) -> str:
        single = self.text[self.at : self.at + 1] in _SINGLE
        inside = self._class_escape()
        return inside if single else self._exactly(f"[{inside}]")

    def _exactly(self, translated: str) -> str:
        """Without regard to the flag `i`, which has no effect on what stands for a category of characters (section 5.6.2)."""
        return f"(?-i:{translated})" if "i" in self.flags else translated

    def _class_escape(self) -> str:
        """What follows a backslash, as the inside of a class."""
        char = self.text[self.at : self.at + 1]
        self.at += 1
        if char in _SINGLE and char:
            return _SINGLE[char]
        if char in _CLASSES and char:
            return _CLASSES[char]
        if char in ("p", "P") and char:
            found = re.compile(r"\{([A-Za-z0-9\-]+)\}").match(self.text, self.at)
            if found is None:
                raise self.wrong("a wrong category")
            self.at = found.end()
            if found[1].startswith("Is"):
                raise _Unsupported
            if found[1] == "Cn":
                raise _Unsupported
            if found[1] not in _CATEGORIES:
                raise self.wrong("an unknown category")
            return rf"\{char}{{{found[1]}}}"
        if char in ("i", "I", "c", "C") or (char.isdigit() and char != "0"):
            raise _Unsupported
        raise self.wrong("an unknown escape")

    def _class(self) -> str:
        negated = self.text.startswith("^", self.at)
        self.at += negated
        out: list[str] = []
        first = True
        while True:
            if self.at >= len(self.text):
                raise self.wrong("a class is not closed")
            char = self.text[self.at]
            if char == "]" and not first:
                self.at += 1
                break
            if char == "-" and self.text.startswith("-[", self.at) and not first:
                raise _Unsupported  # subtraction
            out.append(self._member(first))
            first = False
        return self._exactly(f"[{'^' if negated else ''}{''.join(out)}]")

    def _member(self, first: bool) -> str:
        low = self._one(first)
        if low is None or not self.text.startswith("-", self.at):
            return self._many if low is None else low + self._variants(self._last, self._last)
        after = self.text[self.at + 1 : self.at + 2]
        if after in ("]", "[", ""):
            return low + self._variants(self._last, self._last)
        start = self._last
        self.at += 1
        high = self._one(False)
        if high is None or self._last < start:
            raise self.wrong("a wrong range")
        return f"{low}-{high}{self._variants(start, self._last)}"

    def _variants(self, low: str, high: str) -> str:
        """The characters that differ from those of a range in case only, where that does not matter."""
        if "i" not in self.flags:
            return ""
        letters = (char for char in _LETTERS if low <= char <= high)
        return "".join(char.swapcase() + _FAR_VARIANTS.get(char.lower(), "") for char in letters)

    _many = ""
    _last = ""

    def _one(self, first: bool) -> str | None:
        """One character of a class, or None with `_many` set for an escape that stands for several."""
        char = self.text[self.at : self.at + 1]
        self.at += 1
        if char == "\\":
            escape = self.text[self.at : self.at + 1]
            found = self._class_escape()
            if escape in _SINGLE:
                self._last = {"n": "\n", "r": "\r", "t": "\t"}.get(escape, escape)
                return found
            self._many = found
            return None
        if char in ("[", "") or (char == "]" and not first):
            raise self.wrong("`[` must be escaped in a class")
        if char == "]":
            raise self.wrong("an empty class")
        if char == "-" and not (first or self.text.startswith("]", self.at) or self.text.startswith("-[", self.at)):
            # XML Schema 1.1 allows a hyphen at the ends of a class only
            raise self.wrong("a hyphen in a class must be escaped")
        self._last = char
        return re.escape(char) if char.isascii() and not char.isalnum() else char


def check_flags(flags: str) -> None:
    """FORX0001 for flags that are not known (section 5.6.2)."""
    if not _FLAGS.issuperset(flags):
        raise FilterError("FORX0001", f"{flags[:20]!r}")


@lru_cache(maxsize=4096)  # patterns are few; the cache is for filters that are compiled again and again
def linear(pattern: str, flags: str) -> Any:
    """A compiled RE2 pattern with `search` and `sub`, or None; FORX0001 and FORX0002 for what is wrong."""
    check_flags(flags)
    if re2 is None or len(pattern) > MAX_PATTERN or ("i" in flags and not pattern.isascii()):
        return None
    try:
        translated = re.escape(pattern) if "q" in flags else _Translator(pattern, flags).translate()
    except _Unsupported:
        return None
    options = re2.Options()
    options.max_mem = _MEMORY
    options.log_errors = False
    if "i" in flags:
        translated = f"(?i){translated}"
    try:
        return re2.compile(translated, options)
    except re2.error:
        return None  # too large for the memory it may take, or a repetition of more than 1,000


@lru_cache(maxsize=4096)
def sweeps(pattern: str, flags: str) -> bool:
    """Whether all matches of a text, one behind the other, are found in linear time; for patterns that have a linear form."""
    if "q" in flags:
        return True
    translator = _Translator(pattern, flags)
    translator.translate()
    return translator.sweeps()


@lru_cache(maxsize=256)
def backtracking(pattern: str, flags: str) -> Any:
    """The pattern for Python's `re`, by elementpath's translation."""
    from elementpath.regex import RegexError, translate_pattern

    check_flags(flags)
    options = 0
    for letter, flag in (("s", re.DOTALL), ("m", re.MULTILINE), ("i", re.IGNORECASE)):
        if letter in flags:
            options |= flag
    if "x" in flags and "q" not in flags:
        pattern = _without_space(pattern)
    try:
        python = re.escape(pattern) if "q" in flags else translate_pattern(pattern, options, "1.1")
        return re.compile(python, options)
    except (RegexError, re.error, OverflowError, RecursionError) as error:
        raise FilterError("FORX0002", f"{pattern[:60]!r}: {error}") from error


def compiled(pattern: str, flags: str) -> Any:
    """The fastest engine that knows the pattern."""
    return linear(pattern, flags) or backtracking(pattern, flags)
