"""Embeddings that are kept: by the encoder's fingerprint and by the content of each row, in memory and on disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import warnings
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from serket.embedding.segments import SMALL_BYTES, keys_in, read_segment, write_segment
from serket.errors import DataWarning

__all__ = ["Cache", "Space", "cache_folder", "session"]

Array: TypeAlias = NDArray[Any]

VARIABLE = "SERKET_CACHE"
MEMORY_BYTES = 1 << 26  # of segments last read, where there is a disk to read them from again
ALONE_BYTES = 1 << 30  # where there is none
MOST_SMALL = 64  # files of a few rows, of as many calls; then they become one


def cache_folder() -> Path | None:
    """Return where embeddings are kept: ``SERKET_CACHE``, or the platform's folder for caches; None if it says off."""
    told = os.environ.get(VARIABLE, "")
    if told:
        return None if told.lower() == "off" else Path(told).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "serket" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "serket"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "serket"


def session() -> Cache:
    """Return the cache of this process at the folder that :func:`cache_folder` names now."""
    return _of(cache_folder())


@lru_cache(maxsize=4)
def _of(folder: Path | None) -> Cache:
    return Cache(folder)


class Cache:
    """Embeddings in a folder, or in memory only.

    Args:
        folder: made when it is first written to; None keeps them in memory, the last GiB of them.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = None if folder is None else folder / "embeddings"
        self._spaces: dict[str, Space] = {}

    def space(self, fingerprint: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Space:
        """Return what is kept of rows of one type and shape, embedded by what has this fingerprint."""
        name = hashlib.sha256(f"{fingerprint} {dtype.str} {shape}".encode()).hexdigest()
        if name not in self._spaces:
            self._spaces[name] = Space(None if self.folder is None else self.folder / name)
        self._spaces[name].scan()
        return self._spaces[name]

    def clear(self) -> int:
        """Remove all that is kept; return how many bytes that were on disk."""
        self._spaces.clear()
        if self.folder is None or not self.folder.is_dir():
            return 0
        size = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        shutil.rmtree(self.folder)
        return size


class Space:
    """Embeddings by row key. On disk: immutable files, named by their SHA-256, that many processes may add to.

    What two processes embed at once is written twice, and found once. A file that is not what its name says is removed,
    with a warning, and its rows are embedded again. Index: 24 bytes a row.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._files: list[Path | None] = []  # by segment number
        self._held: OrderedDict[int, Array] = OrderedDict()  # values of segments, the last used last
        self._runs: list[tuple[Array, Array, Array]] = []  # heads in order, tails, places: segment << 32 | row
        self._scanned = 0

    def scan(self) -> None:
        """Take in what other processes have written; many small files become one."""
        if self.folder is None or not self.folder.is_dir():
            return
        changed = self.folder.stat().st_mtime_ns
        if changed == self._scanned:
            return
        known = {path for path in self._files if path}
        there = set(self.folder.glob("*.safetensors"))
        for path in sorted(there - known):
            if (keys := keys_in(path)) is not None:
                self._index(keys, path)
        small = [path for path in there if path.is_file() and path.stat().st_size < SMALL_BYTES]
        if len(small) > MOST_SMALL:
            self._merge(small)
        self._scanned = self.folder.stat().st_mtime_ns

    def get(self, keys: Array) -> tuple[Array | None, Array]:
        """Return the embeddings of row keys ``(n, 2)``: ``(n, E)``, and which are there ``(n,)``; None if none is."""
        places = self._find(keys)
        values: Array | None = None
        for number in np.unique(places[places >= 0] >> 32).tolist():
            mine = (places >= 0) & (places >> 32 == number)
            part = self._segment(number)
            if part is None:
                places[mine] = -1
                continue
            if values is None:
                values = np.zeros((len(keys), part.shape[1]), dtype=part.dtype)
            values[mine] = part[places[mine] & 0xFFFFFFFF]
        return values, places >= 0

    def put(self, keys: Array, values: Array) -> None:
        """Keep embeddings ``(n, E)`` under row keys ``(n, 2)``; whole on disk when this returns."""
        path = None
        if self.folder is not None:
            try:
                path = write_segment(self.folder, keys, values)
                self._scanned = 0
            except OSError as error:
                text = f"embeddings are kept in memory only: {self.folder} cannot be written ({error.strerror})"
                warnings.warn(f"{text}; set {VARIABLE} to another folder, or to off", DataWarning, stacklevel=2)
                self.folder = None
        number = self._index(keys, path)
        if path is None:  # what is on disk is read when it is asked for again: the heap stays flat meanwhile
            self._hold(number, values)

    def _index(self, keys: Array, path: Path | None) -> int:
        number = len(self._files)
        self._files.append(path)
        order = np.argsort(keys[:, 0], kind="stable")
        run = keys[order, 0], keys[order, 1], (number << 32) | order
        # Runs grow by powers of two: there are few of them, however many segments there are.
        while self._runs and len(self._runs[-1][0]) <= 2 * len(run[0]):
            both = [np.concatenate(parts) for parts in zip(self._runs.pop(), run, strict=True)]
            order = np.argsort(both[0], kind="stable")
            run = both[0][order], both[1][order], both[2][order]
        self._runs.append(run)
        return number

    def _find(self, keys: Array) -> Array:
        """Return the places of keys, -1 where there is none. Two keys with one head are not told apart, but refused."""
        places = np.full(len(keys), -1, dtype=np.int64)
        for heads, tails, where in self._runs:
            at = np.searchsorted(heads, keys[:, 0]).clip(max=len(heads) - 1)
            hit = (heads[at] == keys[:, 0]) & (tails[at] == keys[:, 1])
            places[hit] = where[at[hit]]
        return places

    def _segment(self, number: int) -> Array | None:
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        path = self._files[number]
        values = None if path is None else read_segment(path)
        if values is not None:
            self._hold(number, values)
        return values

    def _hold(self, number: int, values: Array) -> None:
        self._held[number] = values
        most = ALONE_BYTES if self.folder is None else MEMORY_BYTES
        while len(self._held) > 1 and sum(one.nbytes for one in self._held.values()) > most:
            self._held.popitem(last=False)

    def _merge(self, small: list[Path]) -> None:
        """Write the rows of many small files into one, each key once, and remove them."""
        numbers = [number for number, path in enumerate(self._files) if path in small]
        parts = [(keys_in(path), self._segment(number)) for number in numbers if (path := self._files[number])]
        whole = [(keys, values) for keys, values in parts if keys is not None and values is not None]
        keys = np.concatenate([keys for keys, _ in whole])
        values = np.concatenate([values for _, values in whole])
        once = np.unique(keys, axis=0, return_index=True)[1]
        self.put(keys[once], values[once])
        for path in small:
            path.unlink(missing_ok=True)
        runs, self._runs = self._runs, []
        for heads, tails, places in runs:
            stays = ~np.isin(places >> 32, numbers)
            if stays.any():
                self._runs.append((heads[stays], tails[stays], places[stays]))
