"""Fruit that look and sound alike, but not both."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["fruit"]


def fruit(rows: int = 800, deviation: float = 0.5, seed: int = 0) -> dict[str, Any]:
    """Return ``look`` and ``sound``, ``(rows, 2)``, of four kinds of fruit; ``label`` is the kind.

    Each is its kind's centre plus N(0, deviation^2 I). Kinds 0 and 1 look alike, kinds 2 and 3 sound alike (centres 0.5
    apart, others 2 or more). The last fourth is for testing.
    """
    rng = np.random.default_rng(seed)
    kind, order = rng.integers(4, size=rows), np.arange(rows)
    look = np.array([[0.0, 0.0], [0.5, 0.0], [3.0, 0.0], [0.0, 3.0]])
    sound = np.array([[3.0, 0.0], [0.0, 3.0], [0.0, 0.0], [0.5, 0.0]])
    return {
        "look": look[kind] + deviation * rng.normal(size=(rows, 2)),
        "sound": sound[kind] + deviation * rng.normal(size=(rows, 2)),
        "label": kind,
        "train": order[: rows * 3 // 4],
        "test": order[rows * 3 // 4 :],
    }
