"""Every way a filter can be wrong, once: W3C code and sentence in one table.

The codes are those of XPath/XQuery 3.1 appendix F and of Functions and Operators 3.1 appendix B; the two `CLXQ` codes are ours. This
file knows nothing of parsing or evaluating: whoever raises gives the code, the detail and the position.
"""

from __future__ import annotations

from typing import Final

# code -> what is wrong, and the next thing to try. The detail of the single case is put in front of it.
SENTENCES: Final[dict[str, str]] = {
    "XPST0001": "A part of the static context is missing. Declare it in the prolog.",
    "XPST0003": "This is not the syntax of XQuery 3.1. Compare the text around the position with the examples of the guide.",
    "XPST0005": "This step can never select anything. Correct the path.",
    "XPST0008": "The name is not declared. Declare a variable with `declare variable $name external;`.",
    "XPST0010": "The axis is not supported. Write the step with another axis.",
    "XPST0017": "No function of this name takes this many arguments. Check the spelling and the number of arguments.",
    "XPST0051": "The type is not known. Use one of the xs: types.",
    "XPST0080": "xs:NOTATION and xs:anyAtomicType cannot be cast to. Name a concrete type.",
    "XPST0081": "The prefix is not declared. Declare it with `declare namespace prefix='...';`.",
    "XPDY0002": "A variable or the context item has no value for this event. Send the application property, or declare a default value.",
    "XPDY0050": "The value is not of the type that `treat as` promises.",
    "XPTY0004": "A value has a type that does not fit here. Convert it, for example with xs:string() or number().",
    "XPTY0018": "A path ends in nodes and in values. Let it select one kind only.",
    "XPTY0019": "A step before the last one selects values, not nodes. Correct the path.",
    "XPTY0020": "A step starts from a value, not from a node. Correct the path.",
    "XQST0009": "Schemas cannot be imported. Leave the import out; the agent validates events itself.",
    "XQST0013": "The pragma is not known. Leave it out.",
    "XQST0016": "Modules cannot be imported. Write the functions into the filter.",
    "XQST0022": "A namespace attribute must be a literal. Write the URI itself.",
    "XQST0031": "Only XQuery 1.0, 3.0 and 3.1 are known. Write `xquery version \"3.1\";`.",
    "XQST0032": "The base URI is declared twice. Keep one of the declarations.",
    "XQST0033": "The prefix is declared twice. Keep one of the declarations.",
    "XQST0034": "The function is declared twice. Rename one of them.",
    "XQST0038": "Only the codepoint collation is known. Leave the collation out.",
    "XQST0039": "Two parameters have the same name. Rename one of them.",
    "XQST0045": "The namespace of the function is reserved. Use the prefix local:, or one of your own.",
    "XQST0049": "The variable is declared twice. Rename one of them.",
    "XQST0052": "The type of a cast must be atomic. Use one of the xs: types.",
    "XQST0055": "The declaration appears twice. Keep one of them.",
    "XQST0059": "No module or schema is available. Write the functions into the filter.",
    "XQST0060": "A declared function needs a namespace. Use the prefix local:.",
    "XQST0079": "An extension expression needs an expression in its braces. Write one.",
    "XQST0065": "The ordering mode is declared twice. Keep one of the declarations.",
    "XQST0066": "A default namespace is declared twice. Keep one of the declarations.",
    "XQST0067": "The construction mode is declared twice. Keep one of the declarations.",
    "XQST0068": "The boundary-space policy is declared twice. Keep one of the declarations.",
    "XQST0069": "The empty order is declared twice. Keep one of the declarations.",
    "XQST0070": "The prefixes xml and xmlns, and their namespaces, cannot be declared otherwise. Use another prefix.",
    "XQST0076": "Only the codepoint collation is known. Leave the collation out.",
    "XQST0085": "A prefix cannot be undeclared. Name a namespace.",
    "XQST0087": "The encoding is not a valid name. Leave it out.",
    "XQST0089": "The variable and its position variable have the same name. Rename one of them.",
    "XQST0090": "The character reference is not a character of XML. Correct it.",
    "XQST0094": "A grouping variable must be bound in the same FLWOR. Bind it with let first.",
    "XQST0097": "The decimal format is wrong. Leave it out.",
    "XQST0099": "The context item is declared twice. Keep one of the declarations.",
    "XQST0106": "The annotations contradict each other. Keep one of them.",
    "XQST0111": "The decimal format is declared twice. Keep one of them.",
    "XQST0114": "The decimal format repeats a property. Keep one of them.",
    "XQST0118": "The closing tag has another name than the opening one. Correct it.",
    "XQST0125": "The annotation is not allowed here. Leave it out.",
    "XQDY0054": "A variable's value depends on itself. Break the circle.",
    "XQDY0061": "The value does not validate.",
    "XQDY0137": "A map has the same key twice. Remove one.",
    "FOAR0001": "Division by zero.",
    "FOAR0002": "A number is too large or too small.",
    "FOCA0001": "A number is too large for xs:decimal.",
    "FOCA0002": "The value has no such form.",
    "FOCA0003": "A number is too large for xs:integer.",
    "FOCA0005": "NaN cannot be used here.",
    "FOCA0006": "A number has too many digits.",
    "FOCH0001": "The code point is not a character of XML.",
    "FOCH0002": "Only the codepoint collation is known. Leave the collation out.",
    "FOCH0003": "The normalization form is not known.",
    "FODC0001": "The node is in no document.",
    "FODT0001": "A date or time is out of range.",
    "FODT0002": "A duration is out of range.",
    "FODT0003": "The timezone is not valid.",
    "FOER0000": "The filter called error().",
    "FONS0004": "The prefix is not in scope.",
    "FORG0001": "The text cannot be read as this type. Test it with `castable as` first.",
    "FORG0002": "The URI is not valid.",
    "FORG0003": "zero-or-one() was given several items.",
    "FORG0004": "one-or-more() was given nothing.",
    "FORG0005": "exactly-one() was given nothing or several items.",
    "FORG0006": "The value has no effective boolean value, or an argument has the wrong type. Compare it, or use exists().",
    "FORG0008": "The two arguments of dateTime() have different timezones.",
    "FORX0001": "The flags of the regular expression are not valid. Use s, m, i, x or q.",
    "FORX0002": "The regular expression is not valid. Check it against XML Schema's regular expressions.",
    "FORX0003": "The regular expression matches the empty string, which is not allowed here.",
    "FORX0004": "The replacement string is not valid. Write \\$ and \\\\ for the characters themselves.",
    "FOTY0012": "The node has no typed value.",
    "FOTY0013": "A function has no string value.",
    "FOTY0014": "A function has no string value.",
    "FOTY0015": "Functions cannot be compared.",
    "FOAY0001": "The array has no such member.",
    "FOAY0002": "The length is negative.",
    "FOXT0004": "Transformations are not available.",
    "CLXQ0001": "Filters cannot read the outside world. Use the event and its application properties only.",
    "CLXQ0002": "The filter is too large. Shorten it.",
    "CLXQ0003": "This construct needs the full engine. Install the extra: pip install 'clacks[xquery]'.",
    "CLXQ0004": "The evaluation took more than its budget. Make the filter cheaper.",
}  # fmt: skip


class FilterError(Exception):
    """A filter that does not compile, or that fails on an event.

    `code` is the W3C code (for example XPST0003), `sentence` says in plain words what is wrong and what to try next, `line` and `column`
    count from 1 and point into the filter's text (0, 0 where no position applies). `detail` is the part of the sentence that belongs to
    this case alone.
    """

    def __init__(self, code: str, detail: str = "", line: int = 0, column: int = 0) -> None:
        self.code = code
        self.detail = detail.strip()
        self.line = line
        self.column = column
        advice = SENTENCES.get(code, "")
        if self.detail and self.detail[-1] not in ".!?":
            self.detail += "."
        self.sentence = f"{self.detail} {advice}".strip() if self.detail else advice
        super().__init__(code, self.sentence)

    def __str__(self) -> str:
        where = f"line {self.line}, column {self.column}: " if self.line else ""
        return f"{where}[{self.code}] {self.sentence}"


def position(text: str, offset: int) -> tuple[int, int]:
    """Line and column of `offset` in `text`, both counted from 1."""
    before = text[:offset]
    return before.count("\n") + 1, offset - before.rfind("\n")


def error_at(text: str, offset: int, code: str, detail: str = "") -> FilterError:
    """The error `code` at a place of the filter's text."""
    return FilterError(code, detail, *position(text, offset))
