"""The cases composers are compared in: all rows complete, few of them, or views missing at random."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from serket.comparison.measures import Array
from serket.data import Dataset, few_pairs, missing_at_random
from serket.errors import SerketError

__all__ = ["VALIDATION", "Case", "cases", "divided"]

VALIDATION = 0.15
"""The share of the training rows that options and composers are chosen by."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is left of the training rows: so many complete ones (None: all), or each view but a share."""

    pairs: int | None = None
    missing: float = 0.0

    def __str__(self) -> str:
        if self.missing:
            return f"{self.missing:.3g} of the views missing"
        return "all rows" if self.pairs is None else f"{self.pairs} pairs"

    def of(self, data: Dataset, seed: int) -> Dataset:
        """Return the data so reduced; the test rows stay whole."""
        if self.missing:
            return missing_at_random(data, self.missing, seed=seed)
        return data if self.pairs is None else few_pairs(data, self.pairs, seed=seed)


def cases(pairs: Iterable[int | str], missing: float | None) -> list[Case]:
    """Read numbers of pairs, such as ``[50, 200, "all"]``, fewest first, and a share of views.

    Raises:
        SerketError: none of these.
    """
    found: list[Case] = []
    for given in pairs:
        text = str(given).strip()
        if text == "all":
            found.append(Case())
        elif text.isdecimal():
            found.append(Case(pairs=int(text)))
        else:
            raise SerketError("no such number of pairs", expected="whole numbers, or all", found=text, fix="50,200,all")
    if missing is not None:
        found.append(Case(missing=missing))
    unique = list(dict.fromkeys(found)) or [Case()]
    return sorted(unique, key=lambda case: (case.missing, np.inf if case.pairs is None else case.pairs))


def divided(data: Dataset, seed: int) -> tuple[Array, Array]:
    """Return training rows to learn from and to judge by: a share of the complete ones and of the others alike.

    Of sequences, whole ones.
    """
    whole = np.asarray(np.stack([mask.reshape(data.rows, -1).any(1) for mask in data.masks.values()]).all(0))
    group = np.arange(data.rows) if data.sequence is None else data.sequence
    generator = np.random.default_rng([seed, 15])
    judged = []
    for part in (whole, ~whole) if data.sequence is None else (np.ones(data.rows, dtype=bool),):
        names = generator.permutation(np.unique(group[data.train[part[data.train]]]))
        judged.append(names[: max(round(VALIDATION * len(names)), 1) if len(names) > 1 else 0])
    judge = np.isin(group[data.train], np.concatenate(judged))
    return data.train[~judge], data.train[judge]
