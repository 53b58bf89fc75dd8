"""Filters over XML events, in XQuery: `compile_filter(text)` gives a `Filter`, a `FilterIndex` holds many and says which match.

Pure: lxml trees in, answers out. Nothing here knows of messages, of agents or of processes, and a filter cannot reach anything but the
event and the variables it is given.
"""

from .errors import FilterError
from .explain import Clause, Explanation
from .filter import Filter, compile_filter
from .generate import generate
from .index import FilterIndex

__all__ = ["Clause", "Explanation", "Filter", "FilterError", "FilterIndex", "compile_filter", "generate"]
