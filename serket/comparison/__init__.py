"""Composers compared on the same frozen modules: one word of the graph changed, the rest to the bit as it was."""

from serket.comparison.run import compare
from serket.comparison.table import Cell, Comparison, Spread

__all__ = ["Cell", "Comparison", "Spread", "compare"]
