"""Digits written and spoken, in the order of counting."""

from __future__ import annotations

from typing import Any

import numpy as np

from serket.data.generate.counting import counting

__all__ = ["spoken"]


def spoken(
    sequences: int = 40, sounds: float = 20.0, alike: float = 0.8, slips: float = 0.1, seed: int = 0
) -> dict[str, Any]:
    """Return ``image`` ``(rows, 240)`` and ``speech`` ``(rows, 60)``, counts of sounds, of the digits of counting.

    Images and order are those of ``counting``. A word for digit k is Poisson(sounds) sounds, a share ``alike`` of them
    from the profile of its pair, k // 2, the others from its own; profiles are Dirichlet(0.3). So 0 sounds like 1, and
    2 like 3, which look different. ``label`` is the digit, ``image_sequence`` the sequence.
    """
    arrays = counting(sequences, slips=slips, seed=seed)
    rng = np.random.default_rng([seed, 1])
    pairs, own = rng.dirichlet(np.full(60, 0.3), 5), rng.dirichlet(np.full(60, 0.3), 10)
    profile = alike * np.repeat(pairs, 2, axis=0) + (1 - alike) * own
    speech = rng.poisson(sounds * profile[arrays["label"]]).astype(np.float32)
    names = {"pix": "image", "pix_sequence": "image_sequence"}
    return {**{names.get(name, name): values for name, values in arrays.items()}, "speech": speech}
