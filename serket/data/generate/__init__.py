"""Data sets that the project generates: a function each, the same arrays on every call, fast enough for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from serket.data.generate.corners import corners

__all__ = ["GENERATED"]

GENERATED: Mapping[str, Callable[[], dict[str, Any]]] = {"corners": corners}
"""By the name that ``data:`` and ``--data`` take."""
