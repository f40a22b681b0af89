"""Toys that are seen and heard: bags of visual words and of sound words."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["objects"]


def objects(
    rows: int = 900, kinds: int = 6, glimpse: float = 14.0, noise: float = 7.0, seed: int = 0
) -> dict[str, Any]:
    """Return counts of words, ``vision`` ``(rows, 40)`` and ``sound`` ``(rows, 25)``, and ``label``, the kind.

    A row's words come from topics, most of them from that of its kind, the others from what stands nearby: theta ~
    Dirichlet(0.3 + 4 [z = kind]), phi ~ Dirichlet(0.3), totals Poisson(glimpse) and Poisson(noise). So few words leave
    either sense unsure, and both together tell the kind better. The last third of the rows are for testing.
    """
    rng = np.random.default_rng(seed)
    label = rng.integers(kinds, size=rows)
    theta = np.stack([rng.dirichlet(0.3 + 4.0 * (np.arange(kinds) == kind)) for kind in label])
    data = {}
    for key, words, tokens in (("vision", 40, glimpse), ("sound", 25, noise)):
        phi = rng.dirichlet(np.full(words, 0.3), kinds)
        data[key] = rng.poisson(tokens * theta @ phi).astype(np.int64)
    train = 2 * rows // 3
    return {**data, "label": label, "train": np.arange(train), "test": np.arange(train, rows)}
