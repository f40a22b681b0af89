"""A place known by its distances to three beacons on a wall, and a word for some of the places."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["beacons"]


def beacons(rows: int = 1500, deviation: float = 0.1, seed: int = 0) -> dict[str, Any]:
    """Return ``range`` ``(rows, 3)``, distances to beacons at (-1, 0), (0, 0) and (1, 0), and ``word`` ``(rows, 1)``.

    A place (x, y) ~ N(0, I) has distance d_b to beacon b, measured with ``deviation``: three readings of two causes,
    curved in both, so that what they leave open of x and y bends and is correlated. ``label`` is the nearest beacon;
    the word is the label, missing in nine of ten rows. The last third of the rows is for testing.
    """
    rng = np.random.default_rng(seed)
    place = rng.normal(size=(rows, 2))
    posts = np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    distance = np.linalg.norm(place[:, None] - posts, axis=-1)
    label = distance.argmin(1)
    heard = rng.random(rows) < 0.1
    first_test = rows - rows // 3
    return {
        "range": distance + deviation * rng.normal(size=distance.shape),
        "word": np.where(heard[:, None], label[:, None].astype(float), 0.0),
        "word_mask": heard,
        "label": label,
        "place": place,
        "train": np.arange(first_test),
        "test": np.arange(first_test, rows),
    }
