"""Complete data made scarce, to ask what few pairs or missing views cost; test rows stay whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from serket.data.dataset import Array, Dataset
from serket.errors import DataError

__all__ = ["few_pairs", "missing_at_random"]


def few_pairs(data: Dataset, pairs: int, *, seed: int = 0) -> Dataset:
    """Keep so many complete training rows; of the others every view stands in a row of its own, in shuffled order.

    From n complete training rows of M views come ``pairs`` complete rows and M (n - pairs) rows of a single view.
    Labels follow the views, and new rows have new ids: nothing tells which belonged together. With one seed the rows
    kept for fewer pairs are among those kept for more.

    Args:
        data: with two views or more, and no sequences.
        pairs: complete rows to keep, from 0.
        seed: which rows, and in what order.

    Raises:
        DataError: too few complete rows, a single view, or rows that are steps of sequences.
    """
    if data.sequences:
        raise DataError("rows that are steps in time are not shuffled", where=data.name, fix="leave out _sequence")
    if len(data.arrays) < 2:
        raise DataError("a pair needs two views", where=data.name, found=", ".join(data.arrays), fix="load another key")
    generator = np.random.default_rng(seed)
    observed = _observed(data)
    complete = data.train[np.stack([seen[data.train] for seen in observed.values()]).all(0)]
    if not 0 <= pairs <= len(complete):
        found = f"{pairs}, of {len(complete)} complete training rows"
        raise DataError("no such number of pairs", where=data.name, expected=f"0 to {len(complete)}", found=found)
    together = np.sort(generator.permutation(complete)[:pairs])
    apart = np.setdiff1d(data.train, together)
    alone = {key: generator.permutation(apart[seen[apart]]) for key, seen in observed.items()}
    kept = np.setdiff1d(np.arange(data.rows), apart)
    source = np.concatenate([kept, *alone.values()])
    # Whose row it is: the number of its only view, or -1 where all stay.
    only = np.repeat(np.arange(-1, len(alone)), [len(kept), *map(len, alone.values())])
    made = data.subset(source)
    views = {key: (only == -1) | (only == number) for number, key in enumerate(alone)}
    first = int(data.row_id.max(initial=-1)) + 1
    return replace(
        made,
        arrays={
            key: np.where(_wide(views[key], array), array, np.zeros_like(array)) for key, array in made.arrays.items()
        },
        masks={key: mask & _wide(views[key], mask) for key, mask in made.masks.items()},
        row_id=np.where(only == -1, made.row_id, first + np.arange(len(source)) - len(kept)),
        train=np.flatnonzero((only >= 0) | np.isin(source, together)),
        notes=(*data.notes, f"{pairs} complete training rows, {len(source) - len(kept)} of a single view"),
    )


def missing_at_random(data: Dataset, share: float = 0.5, *, seed: int = 0) -> Dataset:
    """Take every view of every training row away with probability ``share``; a row that would lose all keeps one.

    Args:
        data: its test rows stay as they are.
        share: between 0 and 1.
        seed: which slots, and which view stays.

    Raises:
        DataError: no such share.
    """
    if not 0 <= share <= 1:
        raise DataError("no such share of views", where=data.name, expected="0 <= share <= 1", found=str(share))
    generator = np.random.default_rng(seed)
    observed = np.stack([*_observed(data).values()])[:, data.train]
    left = observed & (generator.random(observed.shape) >= share)
    last = np.where(observed, generator.random(observed.shape), -1.0).argmax(0)
    left |= observed & (np.arange(len(observed))[:, None] == last) & ~left.any(0)
    masks, arrays = {}, {}
    for (key, array), mine in zip(data.arrays.items(), left, strict=True):
        stays = np.ones(data.rows, dtype=bool)
        stays[data.train] = mine
        masks[key] = data.masks[key] & _wide(stays, data.masks[key])
        arrays[key] = np.where(_wide(stays, array), array, np.zeros_like(array))
    gone = observed.sum() - left.sum()
    note = f"{gone} of {observed.sum()} slots of training rows taken away at random"
    return replace(data, arrays=arrays, masks=masks, notes=(*data.notes, note))


def _observed(data: Dataset) -> dict[str, Array]:
    """Return per view the rows in which anything of it is observed."""
    return {key: np.asarray(mask.reshape(data.rows, -1).any(1)) for key, mask in data.masks.items()}


def _wide(rows: Array, like: Array) -> Array:
    return rows.reshape(-1, *(1,) * (like.ndim - 1))
