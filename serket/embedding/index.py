"""Where the embedding of each row lies: sorted runs; the long ones in files, so that memory stays flat in rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from serket.data.room import room

__all__ = ["Index"]

Words: TypeAlias = NDArray[np.uint64]

STEP = 1 << 16  # rows of a run that are looked at in one go


class Index:
    """Places by row key, 64 bits each: which segment, and which row of it.

    A run holds first halves of keys in order, second halves, and places, ``(3, rows)``. Runs grow by powers of two, so
    there are few of them. Two keys with one first half are not told apart, but refused: the last put is found.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.runs: list[Words] = []

    def add(self, keys: Words, number: int) -> None:
        """Take in the keys ``(n, 2)`` of the rows of a segment."""
        order = np.argsort(keys[:, 0], kind="stable")
        run = np.stack([keys[order, 0], keys[order, 1], np.uint64(number << 32) | order.astype(np.uint64)])
        while self.runs and self.runs[-1].shape[1] <= 2 * run.shape[1]:
            run = self._merged(run, self.runs.pop())
        self.runs.append(run)

    def find(self, keys: Words) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the segment of each key ``(n, 2)``, -1 where there is none, and its row there."""
        places = np.full(len(keys), -1, dtype=np.int64)
        for heads, tails, where in self.runs:
            at = np.searchsorted(heads, keys[:, 0]).clip(max=len(heads) - 1)
            hit = (heads[at] == keys[:, 0]) & (tails[at] == keys[:, 1])
            places[hit] = where[at[hit]]
        return places >> 32, places & 0xFFFFFFFF

    def forget(self, numbers: set[int]) -> None:
        """Let go of all rows of some segments."""
        gone = np.array(sorted(numbers), dtype=np.uint64)
        stays = partial(_others, gone)
        self.runs = [left for run in self.runs if (left := _keep(run, stays)).shape[1]]

    def _merged(self, new: Words, old: Words) -> Words:
        """Return both runs as one; of rows with one first half the newest."""
        both = room((3, new.shape[1] + old.shape[1]), self.folder)
        for part in _parts(new):
            both[:, np.arange(part.start, part.stop) + np.searchsorted(old[0], new[0, part], "left")] = new[:, part]
        for part in _parts(old):
            both[:, np.arange(part.start, part.stop) + np.searchsorted(new[0], old[0, part], "right")] = old[:, part]
        return _keep(both, _first)


def _others(gone: Words, columns: Words, before: Words) -> NDArray[np.bool_]:
    return ~np.isin(columns[2] >> np.uint64(32), gone)


def _first(columns: Words, before: Words) -> NDArray[np.bool_]:
    heads = np.concatenate([before[0], columns[0]])
    first: NDArray[np.bool_] = heads[1:] != heads[:-1]
    return first


def _keep(run: Words, stays: Callable[[Words, Words], NDArray[np.bool_]]) -> Words:
    """Move the columns that stay to the front, in place; return these. Told of some, and of the one before them."""
    count = 0
    before = ~run[:, :1]
    for part in _parts(run):
        columns = run[:, part].copy()
        left = columns[:, stays(columns, before)]
        run[:, count : count + left.shape[1]] = left
        count, before = count + left.shape[1], columns[:, -1:]
    return run[:, :count]


def _parts(run: Words) -> Iterator[slice]:
    yield from (slice(start, min(start + STEP, run.shape[1])) for start in range(0, run.shape[1], STEP))
