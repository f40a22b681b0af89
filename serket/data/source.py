"""Where arrays come from: an embedded data set, an .npz file, or memory; read one at a time, never unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.lib.npyio import NpzFile

from serket.data.dataset import Array
from serket.data.generate import GENERATED
from serket.errors import DataError, suggestion

__all__ = ["EMBEDDED", "IMAGES", "Given", "Source", "opened"]

Given: TypeAlias = str | Path | Mapping[str, Any]

EMBEDDED = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.npz"))}
"""Data sets that ship with the package, by name."""

IMAGES = {"digits": {"pix": (15, 16)}}
"""Width and height of the arrays that are pictures, row after row."""

_FIX = 'np.savez_compressed("data.npz", pix=pix, fou=fou)'
_DAMAGED = (OSError, EOFError, ValueError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Source:
    """Names of the arrays that exist, and how to get one."""

    name: str
    names: tuple[str, ...]
    _read: Callable[[str], Any]

    def __contains__(self, key: str) -> bool:
        return key in self.names

    def read(self, key: str) -> Array:
        """Return one array, in the machine's byte order, contiguous and writable.

        Raises:
            DataError: it holds Python objects, is ragged or damaged.
        """
        where = f"{self.name}: {key}"
        try:
            raw = self._read(key)
            if isinstance(raw, torch.Tensor):
                raw = raw.detach().cpu()
                raw = raw.float() if raw.dtype == torch.bfloat16 else raw
            array = np.asarray(raw)
        except _DAMAGED as error:
            text = str(error)
            if "inhomogeneous" in text:
                raise DataError("rows of different lengths", where=where, fix="pad them") from None
            if "Object arrays" in text:
                raise _objects(where) from None
            raise DataError("the array cannot be read", where=where, found=text) from None
        if array.dtype.kind == "O":
            raise _objects(where)
        # torch takes native, contiguous arrays, and warns of read-only ones.
        return np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "W"])


def _objects(where: str) -> DataError:
    fix = "store numbers: np.asarray(array, dtype=float)"
    return DataError("Python objects are never read from data", where=where, expected="numbers", fix=fix)


@contextmanager
def opened(source: Given, near: Path | None = None) -> Iterator[Source]:
    """Open a source while it is read.

    Args:
        source: the name of an embedded data set, a path, or arrays by key.
        near: the folder tried after the current one for relative paths.

    Raises:
        DataError: no such file, or no .npz file.
    """
    if isinstance(source, Mapping):
        yield Source("data", tuple(source), source.__getitem__)
        return
    if source in GENERATED:
        arrays = GENERATED[str(source)]()
        yield Source(str(source), tuple(arrays), arrays.__getitem__)
        return
    path = _find(source, near)
    with ExitStack() as stack:
        try:
            file = np.load(stack.enter_context(path.open("rb")), allow_pickle=False)
        except _DAMAGED as error:
            raise DataError("no .npz file, or a damaged one", where=str(path), found=str(error), fix=_FIX) from None
        if not isinstance(file, NpzFile):
            found = f"a single array of shape {np.shape(file)}"
            raise DataError("no .npz file", where=str(path), expected="arrays by key", found=found, fix=_FIX)
        stack.enter_context(file)
        yield Source(str(source) if source in EMBEDDED else path.name, tuple(file.files), file.__getitem__)


def _find(source: str | Path, near: Path | None) -> Path:
    if source in EMBEDDED:
        return EMBEDDED[str(source)]
    path = Path(source).expanduser()
    tried = [path] if near is None else [path, near / path]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    files = [file.name for folder in tried for file in folder.parent.glob("*.npz")]
    raise DataError(
        f"no data set '{source}'",
        expected="the name of an embedded data set, or the path of an .npz file",
        found=f"nothing at {' or '.join(dict.fromkeys(str(candidate) for candidate in tried))}",
        available=[*EMBEDDED, *GENERATED],
        fix=suggestion(path.name, [*EMBEDDED, *GENERATED, *files]) or "check the path, or pass --data FILE",
    )
