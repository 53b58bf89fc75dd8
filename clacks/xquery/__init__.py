"""Filters over XML events, in XQuery: `compile_filter(text)` gives a `Filter`, a `FilterIndex` holds many and says which match.

Pure: lxml trees in, answers out. Nothing here knows of messages, of agents or of processes, and a filter cannot reach anything but the
event and the variables it is given.

The life of a filter, by file:

- text to tree: `lexer`, `types`, `constructors`, `paths`, `clauses`, `parser`, `module`; the tree is `syntax`
- tree to something that answers: `static` (names, the allow-list of `functions`, what is native), `normal` (one form for equal questions),
  `cost` (provably linear or not), `needs` and `plans` (conditions for the index), `evaluate` with `constructs` and their like (closures);
  `template` does all that once for filters that differ in literals only
- event to answer: `trie`, `conditions` and `buckets` find the filters whose condition holds, `index` decides; `frames`, `tree` and `axes`
  are what closures look at; `compare`, `values`, `dates`, `arithmetic`, `strings`, `sequences` and `regex` are the data model
- for people: `explain`, `generate`, and `errors`, the one table of codes and sentences
- what is not native: `engines` chooses between `saxon` and `fallback` (elementpath)
"""

from .errors import FilterError
from .explain import Clause, Explanation
from .filter import Filter, compile_filter
from .generate import generate
from .index import FilterIndex, Kinds

__all__ = ["Clause", "Explanation", "Filter", "FilterError", "FilterIndex", "Kinds", "compile_filter", "generate"]
