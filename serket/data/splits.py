"""The same data split again, to tell what a figure owes to one split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from serket.data.dataset import Dataset
from serket.errors import DataError

__all__ = ["another_split"]


def another_split(data: Dataset, number: int) -> Dataset:
    """Return split ``number``: 0 is the data's own, any other draws as many test rows, or sequences, with it as seed.

    Rows that neither trained nor tested stay out.

    Raises:
        DataError: there are no test rows to begin with.
    """
    if not len(data.test):
        raise DataError("there are no test rows", where=data.name, fix="raise --test-fraction, or store 'test'")
    if number == 0:
        return data
    used = np.sort(np.concatenate([data.train, data.test]))
    group = (np.arange(data.rows) if data.sequence is None else data.sequence)[used]
    names = np.unique(group)
    share = min(max(round(len(names) * len(data.test) / len(used)), 1), len(names) - 1)
    held_out = np.isin(group, np.random.default_rng(number).permutation(names)[:share])
    return replace(data, train=used[~held_out], test=used[held_out])
