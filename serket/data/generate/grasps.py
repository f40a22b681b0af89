"""Grasps of which the fingers touch rings and crescents, and a word for them."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["grasps"]


def grasps(rows: int = 1500, deviation: float = 0.15, seed: int = 0) -> dict[str, Any]:
    """Return ``contact`` ``(rows, 2)``, where a finger touched, of three kinds of grasp, and ``word`` ``(rows, 1)``.

    A power grasp (0) closes round a jar: a ring of radius 2. A pinch (1) and a hook (2) touch its lid, a ring of
    radius 1, each in two opposite arcs of 120 degrees, those of a hook turned by 90: half of an arc belongs to both.
    Radii vary with ``deviation``. The word is the kind, right in nine of ten rows and missing in half of them;
    ``label`` is the kind. The last third of the rows is for testing.
    """
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=rows)
    side = np.pi * rng.integers(2, size=rows)
    part = side + np.where(kind == 2, np.pi / 2, 0.0) + np.pi / 3 * rng.uniform(-1, 1, size=rows)
    angle = np.where(kind == 0, 2 * np.pi * rng.random(rows), part)
    radius = np.where(kind == 0, 2.0, 1.0) + deviation * rng.normal(size=rows)
    contact = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    word = ((kind + (rng.random(rows) < 0.1) * rng.integers(1, 3, size=rows)) % 3).astype(float)[:, None]
    heard = rng.random(rows) >= 0.5
    first_test = rows - rows // 3
    return {
        "contact": contact,
        "word": np.where(heard[:, None], word, 0.0),
        "word_mask": heard,
        "label": kind,
        "train": np.arange(first_test),
        "test": np.arange(first_test, rows),
    }
