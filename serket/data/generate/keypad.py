"""Keys of a telephone, heard through noise and seen from afar."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["keypad"]


def keypad(rows: int = 1000, deviation: float = 0.6, seed: int = 0) -> dict[str, Any]:
    """Return keys 0 .. 11 (1 2 3 4 5 6 7 8 9 * 0 #) drawn uniformly: what was heard and what was seen of each.

    ``tones`` ``(rows, 7)`` is the energy in seven bands, one tone for the key's row (of four) and one for its column
    (of three), plus N(0, deviation^2); ``line`` ``(rows, 1)`` is the row of the key as a camera saw it, right in 7 of
    10 cases. ``label`` is the key. A tenth of each is missing; the last fourth of the rows are for testing.
    """
    rng = np.random.default_rng(seed)
    key = rng.integers(12, size=rows)
    tones = np.concatenate([np.eye(4)[key // 3], np.eye(3)[key % 3]], 1) + deviation * rng.normal(size=(rows, 7))
    missed = rng.random(rows) < 0.3
    line = ((key // 3 + missed * rng.integers(1, 4, size=rows)) % 4).astype(float)[:, None]
    tones[rng.random(rows) < 0.1] = np.nan
    line[rng.random(rows) < 0.1] = np.nan
    first_test = rows - rows // 4
    return {
        "tones": tones,
        "line": line,
        "label": key,
        "train": np.arange(first_test),
        "test": np.arange(first_test, rows),
    }
