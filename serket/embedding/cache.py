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

from serket.embedding.index import Index
from serket.embedding.segments import SMALL_BYTES, keys_in, mapped, remove, write_segment
from serket.errors import DataWarning

__all__ = ["Cache", "Space", "cache_folder", "session"]

Array: TypeAlias = NDArray[Any]

VARIABLE = "SERKET_CACHE"
ALONE_BYTES = 1 << 30  # of embeddings that are on no disk
MOST_SMALL = 64  # segments of a few rows, of as many calls; then they become one


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
    with a warning, and its rows are embedded again; each is checked when it is first read.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._count = 0  # of segments that ever were; each has a number
        self._files: dict[int, Path] = {}
        self._maps: dict[int, Array] = {}  # values of files that were read
        self._held: OrderedDict[int, Array] = OrderedDict()  # values without a file, the last used last
        self._bytes = 0  # of these
        self._small: dict[int, Array] = {}  # their keys
        self._index = Index(folder)
        self._scanned: int | None = None

    def scan(self) -> None:
        """Take in what other processes have written or removed; many small segments become one."""
        if self.folder is not None:
            try:
                changed = self.folder.stat().st_mtime_ns
            except OSError:  # nothing was written yet, or all was removed
                changed = 0
            if changed != self._scanned:
                there = set(self.folder.glob("*.safetensors"))
                self._drop({number for number, path in self._files.items() if path not in there})
                for path in sorted(there - set(self._files.values())):
                    if (found := keys_in(path)) is not None:
                        self._files[self._taken(found[0], found[1] < SMALL_BYTES)] = path
                self._scanned = changed
        if len(self._small) > MOST_SMALL:
            self._merge()

    def get(self, keys: Array) -> tuple[Array | None, Array]:
        """Return the embeddings of row keys ``(n, 2)``: ``(n, E)``, and which are there ``(n,)``; None if none is."""
        segments, rows = self._index.find(keys)
        found = segments >= 0
        parts = {number: self._segment(number) for number in np.unique(segments[found]).tolist()}
        if dead := {number for number, part in parts.items() if part is None}:
            self._drop(dead)
            return self.get(keys)
        values: Array | None = None
        for number, part in parts.items():
            assert part is not None
            mine = segments == number
            if values is None:
                values = np.zeros((len(keys), part.shape[1]), dtype=part.dtype)
            values[mine] = part[rows[mine]]
        return values, found

    def put(self, keys: Array, values: Array) -> None:
        """Keep embeddings ``(n, E)`` under row keys ``(n, 2)``; whole on disk when this returns."""
        path = None
        if self.folder is not None:
            try:
                path = write_segment(self.folder, keys, values)
                self._scanned = None
            except OSError as error:
                text = f"embeddings are kept in memory only: {self.folder} cannot be written ({error.strerror})"
                warnings.warn(f"{text}; set {VARIABLE} to another folder, or to off", DataWarning, stacklevel=2)
                self.folder = None
        number = self._taken(keys, values.nbytes < SMALL_BYTES)
        if path is not None:  # what is on disk is read when it is asked for again: the heap stays flat meanwhile
            self._files[number] = path
        else:
            self._held[number] = values
            self._bytes += values.nbytes
            while self._bytes > ALONE_BYTES and len(self._held) > 1:
                self._drop({next(iter(self._held))})
        if len(self._small) > MOST_SMALL:
            self._merge()

    def _taken(self, keys: Array, small: bool) -> int:
        number = self._count
        self._count += 1
        if small:
            self._small[number] = keys
        self._index.add(keys, number)
        return number

    def _segment(self, number: int) -> Array | None:
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        if number in self._files and number not in self._maps and (values := mapped(self._files[number])) is not None:
            self._maps[number] = values
        return self._maps.get(number)

    def _drop(self, numbers: set[int]) -> None:
        """Forget segments: their rows are found in others, or nowhere."""
        if numbers:
            self._let_go(numbers)
            self._index.forget(numbers)

    def _let_go(self, numbers: set[int]) -> None:
        for number in numbers:
            self._small.pop(number, None)
            self._files.pop(number, None)
            self._maps.pop(number, None)
            if (values := self._held.pop(number, None)) is not None:
                self._bytes -= values.nbytes

    def _merge(self) -> None:
        """Put the rows of small segments into one, each key once; what is not in it, or is it, stays."""
        small, self._small = self._small, {}
        keys = np.unique(np.concatenate(list(small.values())), axis=0)
        values, found = self.get(keys)
        if values is None:  # another process has merged them meanwhile
            return
        files = {self._files[number] for number in small if number in self._files}
        self.put(keys[found], values[found])
        if files and self.folder is None:  # the disk is full
            return
        files.discard(self._files.get(self._count - 1, Path()))
        self._let_go(set(small))  # what is new hides their places
        for path in files:
            remove(path)
