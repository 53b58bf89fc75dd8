"""The functions a filter may call: an allow-list, because a filter is untrusted text.

Everything that reads files, the network, the environment or other modules is missing from it, and so is everything nobody has looked at.
"""

from __future__ import annotations

from typing import Final


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Functions and Operators 3.1; the sections follow its table of contents.
FN_FUNCTIONS: Final = _names(
    # 2 accessors, 3 errors
    "node-name nilled string data base-uri document-uri error "
    # 4 numbers
    "abs ceiling floor round round-half-to-even number format-integer format-number "
    # 5 strings
    "codepoints-to-string string-to-codepoints compare codepoint-equal collation-key contains-token concat string-join substring"
    " string-length normalize-space normalize-unicode upper-case lower-case translate contains starts-with ends-with substring-before"
    " substring-after matches replace tokenize "
    # 6 URIs, 7 booleans
    "resolve-uri encode-for-uri iri-to-uri escape-html-uri true false boolean not "
    # 8 and 9 durations, dates and times
    "years-from-duration months-from-duration days-from-duration hours-from-duration minutes-from-duration seconds-from-duration"
    " dateTime year-from-dateTime month-from-dateTime day-from-dateTime hours-from-dateTime minutes-from-dateTime seconds-from-dateTime"
    " timezone-from-dateTime year-from-date month-from-date day-from-date timezone-from-date hours-from-time minutes-from-time"
    " seconds-from-time timezone-from-time adjust-dateTime-to-timezone adjust-date-to-timezone adjust-time-to-timezone format-dateTime"
    " format-date format-time parse-ietf-date "
    # 10 names
    "resolve-QName QName prefix-from-QName local-name-from-QName namespace-uri-from-QName namespace-uri-for-prefix in-scope-prefixes "
    # 13 nodes
    "name local-name namespace-uri lang root path has-children innermost outermost "
    # 14 sequences
    "empty exists head tail insert-before remove reverse subsequence unordered distinct-values index-of deep-equal zero-or-one"
    " one-or-more exactly-one count avg max min sum id element-with-id idref generate-id "
    # 15 context, 16 higher-order functions
    "position last current-dateTime current-date current-time implicit-timezone default-collation default-language static-base-uri"
    " function-name function-arity for-each filter fold-left fold-right for-each-pair sort apply"
)
MATH_FUNCTIONS: Final = _names("pi exp exp10 log log10 pow sqrt sin cos tan asin acos atan atan2")
MAP_FUNCTIONS: Final = _names("merge size keys contains get find put entry remove for-each")
ARRAY_FUNCTIONS: Final = _names(
    "size get put append subarray remove insert-before head tail reverse join for-each filter fold-left fold-right for-each-pair "
    "sort flatten"
)

# Refused by name so that the sentence says why. trace() writes to a log, parse-xml() and json-to-xml() build documents of any size.
OUTSIDE: Final = _names(
    "doc doc-available collection uri-collection unparsed-text unparsed-text-lines unparsed-text-available json-doc "
    "environment-variable available-environment-variables transform load-xquery-module function-lookup trace parse-xml "
    "parse-xml-fragment serialize put random-number-generator"
)
