"""Things that move steadily, seen now and then and felt all the time."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["tracking"]


def tracking(sequences: int = 20, length: int = 60, seed: int = 0) -> dict[str, Any]:
    """Return ``camera`` and ``wheel``, ``(rows, 2)``, of a thing at (x, y) that moves by (u, v) a row.

    Position and velocity start as N(0, I) and N(0, 0.01 I); a row adds the velocity to the position and
    N(0, 0.0004 I) to the velocity. The camera sees the position with variance 0.25, in one row of five; the wheel feels
    the velocity with variance 0.01, in all. ``camera_sequence`` tells the sequences; the last fourth is for testing.
    """
    rng = np.random.default_rng(seed)
    position = rng.normal(size=(sequences, 2))
    velocity = 0.1 * rng.normal(size=(sequences, 2))
    path, speed = np.empty((sequences, length, 2)), np.empty((sequences, length, 2))
    for step in range(length):
        path[:, step], speed[:, step] = position, velocity
        position = position + velocity
        velocity = velocity + 0.02 * rng.normal(size=velocity.shape)
    camera = path + 0.5 * rng.normal(size=path.shape)
    camera[:, np.arange(length) % 5 != 0] = np.nan
    wheel = speed + 0.1 * rng.normal(size=speed.shape)
    sequence = np.repeat(np.arange(sequences), length)
    held_out = sequence >= sequences - max(1, sequences // 4) if sequences > 1 else np.zeros(len(sequence), dtype=bool)
    return {
        "camera": camera.reshape(-1, 2),
        "wheel": wheel.reshape(-1, 2),
        "position": path.reshape(-1, 2),
        "camera_sequence": sequence,
        "train": np.flatnonzero(~held_out),
        "test": np.flatnonzero(held_out),
    }
