"""`python -m clacks.cli` is `clacks`."""

from . import clacks

clacks()
