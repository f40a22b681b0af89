"""Panels of lamps that mean something only together."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["panels"]


def panels(rows: int = 1500, flips: float = 0.1, seed: int = 0) -> dict[str, Any]:
    """Return ``lamps`` ``(rows, 10)``, on or off, of a machine in one of two modes, and ``word`` ``(rows, 1)``.

    The lamps are five pairs, each on or off by chance; in mode 0 the two of a pair are alike, in mode 1 they differ: no
    lamp alone tells the mode. Then each lamp is read wrongly with probability ``flips``. The word is the mode, right in
    nine of ten rows and missing in half of them; ``label`` is the mode. The last third of the rows is for testing.
    """
    rng = np.random.default_rng(seed)
    mode = rng.integers(2, size=rows)
    first = rng.integers(2, size=(rows, 5))
    lamps = np.stack([first, (first + mode[:, None]) % 2], -1).reshape(rows, 10)
    lamps = (lamps + (rng.random((rows, 10)) < flips)) % 2
    word = ((mode + (rng.random(rows) < 0.1)) % 2).astype(float)[:, None]
    heard = rng.random(rows) >= 0.5
    first_test = rows - rows // 3
    return {
        "lamps": lamps.astype(float),
        "word": np.where(heard[:, None], word, 0.0),
        "word_mask": heard,
        "label": mode,
        "train": np.arange(first_test),
        "test": np.arange(first_test, rows),
    }
