"""Points that walk round the corners of a square."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["corners"]


def corners(sequences: int = 12, length: int = 100, deviation: float = 0.2, seed: int = 0) -> dict[str, Any]:
    """Return ``point`` ``(rows, 2)`` about the corners of the unit square, states cycling 0, 1, 2, 3, 0, ...

    Each row is its corner plus N(0, deviation^2 I); ``label`` is the state, ``point_sequence`` the sequence of a row.
    Every sequence starts in a corner drawn at random; the last fourth of the sequences are for testing.
    """
    rng = np.random.default_rng(seed)
    state = (rng.integers(4, size=(sequences, 1)) + np.arange(length)) % 4
    centre = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    point = centre[state] + deviation * rng.normal(size=(sequences, length, 2))
    sequence = np.repeat(np.arange(sequences), length)
    held_out = sequence >= sequences - max(1, sequences // 4) if sequences > 1 else np.zeros(len(sequence), dtype=bool)
    return {
        "point": point.reshape(-1, 2),
        "point_sequence": sequence,
        "label": state.reshape(-1),
        "train": np.flatnonzero(~held_out),
        "test": np.flatnonzero(held_out),
    }
