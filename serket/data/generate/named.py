"""Digits of which few have a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["digits_named"]


def digits_named(names: int = 100, seed: int = 0) -> dict[str, Any]:
    """Return the digits with ``name`` ``(2000, 1)``, the numeral, observed in ``names`` rows of ``train``.

    As many of each numeral, drawn at random; ``name_mask`` tells which; elsewhere it is 0. ``label`` is for scores.
    """
    with np.load(Path(__file__).parents[1] / "digits.npz") as file:
        arrays = {key: file[key] for key in ("pix", "fou", "kar", "label", "train", "test")}
    order = np.random.default_rng(seed).permutation(arrays["train"])
    label = arrays["label"][order]
    place = np.zeros(len(order), dtype=int)  # of a row among those of its numeral
    for numeral in range(10):
        place[label == numeral] = np.arange((label == numeral).sum())
    told = order[np.lexsort((label, place))[:names]]
    mask = np.zeros(len(arrays["label"]), dtype=bool)
    mask[told] = True
    return {**arrays, "name": np.where(mask, arrays["label"], 0.0)[:, None], "name_mask": mask}
