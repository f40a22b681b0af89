"""Written digits in the order of counting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["counting"]


def counting(sequences: int = 40, length: int = 40, slips: float = 0.1, seed: int = 0) -> dict[str, Any]:
    """Return ``pix`` ``(rows, 240)``, images of the embedded digits in the order 0, 1, ..., 9, 0, ...

    Each sequence starts with a digit drawn at random, and with probability ``slips`` any digit follows. No image is
    shown twice. ``label`` is the digit, ``pix_sequence`` the sequence; the last fourth of the sequences is for testing.
    """
    rng = np.random.default_rng(seed)
    with np.load(Path(__file__).parents[1] / "digits.npz", allow_pickle=False) as file:
        pix, label = file["pix"], file["label"]
    left = [list(rng.permutation(np.flatnonzero(label == digit))) for digit in range(10)]
    chosen = []
    for _ in range(sequences):
        digit = rng.integers(10)
        for _ in range(length):
            while not left[digit]:  # all images of it were shown
                digit = (digit + 1) % 10
            chosen.append(left[digit].pop())
            digit = rng.integers(10) if rng.random() < slips else (digit + 1) % 10
    sequence = np.repeat(np.arange(sequences), length)
    held_out = sequence >= sequences - sequences // 4
    return {
        "pix": pix[chosen].astype(np.float32),
        "pix_sequence": sequence,
        "label": label[chosen],
        "train": np.flatnonzero(~held_out),
        "test": np.flatnonzero(held_out),
    }
