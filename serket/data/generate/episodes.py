"""Episodes: one object, or one place, seen in many frames."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["episodes", "landmarks"]


def episodes(count: int = 120, deviation: float = 0.3, seed: int = 0) -> dict[str, Any]:
    """Return ``view`` ``(rows, 2)``: of 3 to 10 frames an episode, each about the corner of its object's category.

    Each row is one of the corners of the unit square plus N(0, deviation^2 I); ``label`` is the category, the same in
    all rows of an episode, ``view_sequence`` the episode. The last fourth of the episodes is for testing.
    """
    rng = np.random.default_rng(seed)
    sequence, held_out = _frames(count, rng)
    label = rng.integers(4, size=count)[sequence]
    centre = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    return {
        "view": centre[label] + deviation * rng.normal(size=(len(sequence), 2)),
        "view_sequence": sequence,
        "label": label,
        "train": np.flatnonzero(~held_out),
        "test": np.flatnonzero(held_out),
    }


def landmarks(count: int = 60, seed: int = 0) -> dict[str, Any]:
    """Return places that were surveyed once, and seen in 3 to 10 frames by a camera that tells one coordinate.

    ``place`` ``(rows, 2)`` ~ N(0, 4 I) is the truth, which nothing reads; ``camera`` is its first coordinate plus
    N(0, 1), in every row; ``survey`` is the place plus N(0, 0.25 I), the same numbers in all rows of an episode.
    """
    rng = np.random.default_rng(seed)
    sequence, held_out = _frames(count, rng)
    place = 2 * rng.normal(size=(count, 2))
    return {
        "survey": (place + 0.5 * rng.normal(size=place.shape))[sequence],
        "camera": place[sequence, :1] + rng.normal(size=(len(sequence), 1)),
        "camera_sequence": sequence,
        "place": place[sequence],
        "train": np.flatnonzero(~held_out),
        "test": np.flatnonzero(held_out),
    }


def _frames(count: int, rng: np.random.Generator) -> tuple[Any, Any]:
    sequence = np.repeat(np.arange(count), rng.integers(3, 11, size=count))
    return sequence, sequence >= count - count // 4
