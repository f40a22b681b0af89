"""Something that circles, seen and heard in turn."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["orbit"]


def orbit(sequences: int = 80, length: int = 20, deviation: float = 0.1, seed: int = 0) -> dict[str, Any]:
    """Return ``eye`` and ``ear``, both ``(rows, 6)``: each tells one coordinate of a point on the unit circle.

    Six receptors with centres from -1 to 1 answer exp(-(x - centre)^2 / 0.5) to the coordinate, plus
    N(0, deviation^2). Either sense is silent while the other speaks, in turn, but for one frame in ten with both. The
    point turns by 0.2 to 0.5 a frame, either way round, give or take 0.05. ``label`` is its quadrant: a frame by itself
    tells half of it, and the frames before the other half. The last fourth of the sequences is for testing.
    """
    rng = np.random.default_rng(seed)
    turn = rng.uniform(0.2, 0.5, size=sequences) * rng.choice([-1, 1], size=sequences)
    steps = turn[:, None] + 0.05 * rng.normal(size=(sequences, length))
    angle = (rng.uniform(0, 2 * np.pi, size=(sequences, 1)) + steps.cumsum(1)).reshape(-1)
    place = np.stack([np.cos(angle), np.sin(angle)], 1)
    answers = np.exp(-np.square(place[..., None] - np.linspace(-1, 1, 6)) / 0.5)
    answers += deviation * rng.normal(size=answers.shape)
    frame = np.tile(np.arange(length), sequences)
    alone = rng.random(len(frame)) >= 0.1
    for sense in (0, 1):
        answers[alone & (frame % 2 != sense), sense] = np.nan
    sequence = np.repeat(np.arange(sequences), length)
    held_out = sequence >= sequences - sequences // 4
    return {
        "eye": answers[:, 0],
        "ear": answers[:, 1],
        "eye_sequence": sequence,
        "label": (place[:, 0] > 0) * 2 + (place[:, 1] > 0),
        "place": place,
        "train": np.flatnonzero(~held_out),
        "test": np.flatnonzero(held_out),
    }
