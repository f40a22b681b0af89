"""From recordings to moments, each a picture and a tenth of a second: eight of an episode to learn from, or all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serket.data.tabletop.objects import CATEGORIES
from serket.data.tabletop.record import EPISODE_S, episode

__all__ = ["FRAMES", "PIXELS", "WINDOW", "compact", "joined", "moments", "shrunk", "streamed", "summary"]

Array = NDArray[Any]

PIXELS = 16
WINDOW = 10  # readings of forces and joints in a row: 100 ms
FRAMES = 3  # pictures in that time, of which the last is kept
STEPS = int(EPISODE_S * 100) // WINDOW
MOMENTS = 8


def compact(numbers: Iterable[int], seed: int, *, test: bool) -> dict[str, Array]:
    """Record episodes and keep eight moments of each, one drawn from each half second.

    Args:
        numbers: of the episodes.
        seed: of the data set.
        test: of the objects for testing.

    Returns:
        ``camera`` ``(rows, 16, 16, 4)`` uint8, ``touch`` ``(rows, 24)`` and ``joints`` ``(rows, 30)`` float16 (means,
        then deviations, of a tenth of a second), ``stamp_ns``, ``episode``, ``label``, and ``name``: the label in two
        of five training episodes, else -1.
    """
    keys = ("camera", "touch", "joints", "stamp_ns", "episode", "label", "name")
    rows: dict[str, list[Any]] = {key: [] for key in keys}
    for number in numbers:
        rng = np.random.default_rng([seed, number, test, 1])
        each = STEPS // MOMENTS
        steps = np.arange(MOMENTS) * each + rng.integers(each, size=MOMENTS)
        one = moments(seed, number, steps.tolist(), test=test)
        for key in ("camera", "touch", "joints"):
            rows[key].append(one[key])
        rows["stamp_ns"].append(one["camera_stamp_ns"])
        rows["episode"].append(np.full(MOMENTS, number))
        rows["label"].append(np.full(MOMENTS, one["label"]))
        told = not test and number // len(CATEGORIES) % 5 < 2
        rows["name"].append(np.full(MOMENTS, one["label"] if told else -1))
    return {key: np.concatenate(values) for key, values in rows.items()}


def moments(seed: int, number: int, steps: Sequence[int], *, test: bool) -> dict[str, Any]:
    """Record an episode and keep some of its forty tenths of a second.

    Args:
        seed: of the data set.
        number: of the episode.
        steps: which tenths, in order.
        test: of the objects for testing.

    Returns:
        A recording: ``camera`` ``(steps, 16, 16, 4)`` uint8, ``touch`` ``(steps, 24)`` and ``joints`` ``(steps, 30)``
        float16, and for each KEY ``KEY_stamp_ns``, when the last that is in it was measured; ``label``.
    """
    one = episode(seed, number, test=test, frames=[FRAMES * step + FRAMES - 1 for step in steps])
    kept = {"camera": shrunk(one["camera"]), "camera_stamp_ns": one["camera_stamp_ns"], "label": one["label"]}
    for key in ("touch", "joints"):
        kept[key] = summary(one[key])[steps].astype(np.float16)
        kept[f"{key}_stamp_ns"] = one[f"{key}_stamp_ns"][WINDOW - 1 :: WINDOW][steps]
    return kept


def streamed(seed: int, number: int) -> dict[str, Any]:
    """Return a test episode as the shipped graphs read it: all its :func:`moments`, ten a second."""
    return moments(seed, number, range(STEPS), test=True)


def shrunk(pictures: Array) -> Array:
    """Return pictures ``(F, 64, 64, 4)`` as ``(F, 16, 16, 4)``: means over squares of four pixels, uint8."""
    side = pictures.shape[1] // PIXELS
    blocks = pictures.reshape(len(pictures), PIXELS, side, PIXELS, side, -1).astype(np.float32)
    small: Array = np.round(blocks.mean((2, 4))).astype(np.uint8)
    return small


def summary(readings: Array) -> Array:
    """Return the means and standard deviations of every ten readings, ``(N, D)`` to ``(N / 10, 2 D)``."""
    windows = readings.reshape(-1, WINDOW, readings.shape[-1])
    return np.concatenate([windows.mean(1), windows.std(1)], -1)


def joined(train: dict[str, Array], test: dict[str, Array]) -> dict[str, Array]:
    """Return the arrays of the data set, from :func:`compact` episodes for training and for testing."""
    rows = {key: np.concatenate([train[key], test[key]]) for key in train}
    apart = int(train["episode"].max()) + 1  # so that no test episode has the number of another
    first = len(train["label"])
    rows["episode"][first:] += apart
    return {
        "camera": rows["camera"],
        "touch": rows["touch"],
        "joints": rows["joints"],
        "name": np.maximum(rows["name"], 0).astype(np.uint8)[:, None],
        "name_mask": rows["name"] >= 0,
        "camera_sequence": rows["episode"].astype(np.int32),
        "moment_ns": rows["stamp_ns"],
        "label": rows["label"].astype(np.uint8),
        "train": np.arange(first, dtype=np.int32),
        "test": np.arange(first, len(rows["label"]), dtype=np.int32),
    }
