"""A lawn that is wet for one of two reasons."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["lawn"]


def lawn(rows: int = 400, seed: int = 0) -> dict[str, Any]:
    """Return ``wet`` and ``meter``, 0 or 1, ``(rows, 1)``; ``label`` is whether it rained.

    Rain with probability 0.3, and the hose, independent of it, with 0.4. The lawn is wet with probability 0.02, 0.9
    (rain), 0.9 (hose) or 0.99 (both); the hose's water meter tells right in 95 of 100 rows. The last fourth is for
    testing.
    """
    rng = np.random.default_rng(seed)
    rain, hose = rng.random(rows) < 0.3, rng.random(rows) < 0.4
    chance = np.array([[0.02, 0.9], [0.9, 0.99]])[rain.astype(int), hose.astype(int)]
    order = np.arange(rows)
    return {
        "wet": (rng.random(rows) < chance).astype(np.int64)[:, None],
        "meter": np.where(rng.random(rows) < 0.95, hose, ~hose).astype(np.int64)[:, None],
        "label": rain.astype(np.int64),
        "train": order[: rows * 3 // 4],
        "test": order[rows * 3 // 4 :],
    }
