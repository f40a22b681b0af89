"""Where arrays come from: an embedded data set, a file, a folder, or memory; read one at a time, never unpickled."""

from __future__ import annotations

import struct
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

IMAGES = {"digits": {"pix": (15, 16)}, "tabletop": {"camera": (16, 16)}}
"""Width and height of the arrays that are pictures, row after row; colours and depth of a point side by side."""

MAPPED_BYTES = 1 << 26  # from here on an array in a file is mapped into memory, and read as its rows are needed

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
            array = np.asanyarray(raw)
        except _DAMAGED as error:
            text = str(error)
            if "inhomogeneous" in text:
                raise DataError("rows of different lengths", where=where, fix="pad them") from None
            if "Object arrays" in text:
                raise _objects(where) from None
            raise DataError("the array cannot be read", where=where, found=text) from None
        if array.dtype.kind == "O":
            raise _objects(where)
        if isinstance(array, np.memmap) and array.dtype.isnative and array.flags.c_contiguous:
            return array
        # torch takes native, contiguous arrays, and warns of read-only ones.
        return np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "W"])


def _objects(where: str) -> DataError:
    fix = "store numbers: np.asarray(array, dtype=float)"
    return DataError("Python objects are never read from data", where=where, expected="numbers", fix=fix)


@contextmanager
def opened(source: Given, near: Path | None = None, option: str = "--data") -> Iterator[Source]:
    """Open a source while it is read.

    Args:
        source: the name of an embedded data set, the path of an .npz file or of a folder of .npy files, or arrays by
            key. Large arrays in a folder, or stored uncompressed in a file, stay on disk and are mapped.
        near: the folder tried after the current one for relative paths.
        option: of the command line, that names another source.

    Raises:
        DataError: no such file, or no .npz file, or a folder without .npy files.
    """
    if isinstance(source, Mapping):
        yield Source("data", tuple(source), source.__getitem__)
        return
    if source in GENERATED:
        arrays = GENERATED[str(source)]()
        yield Source(str(source), tuple(arrays), arrays.__getitem__)
        return
    path = _find(source, near, option)
    if path.is_dir():
        yield Source(path.name, tuple(sorted(file.stem for file in path.glob("*.npy"))), lambda key: _array(path, key))
        return
    with ExitStack() as stack:
        try:
            file = np.load(stack.enter_context(path.open("rb")), allow_pickle=False)
        except _DAMAGED as error:
            raise DataError("no .npz file, or a damaged one", where=str(path), found=str(error), fix=_FIX) from None
        if not isinstance(file, NpzFile):
            found = f"a single array of shape {np.shape(file)}"
            raise DataError("no .npz file", where=str(path), expected="arrays by key", found=found, fix=_FIX)
        stack.enter_context(file)
        name = str(source) if source in EMBEDDED else path.name
        yield Source(name, tuple(file.files), lambda key: file[key] if (one := _mapped(path, key)) is None else one)


def _array(folder: Path, key: str) -> Array:
    file = folder / f"{key}.npy"
    mode: Any = "r" if file.stat().st_size >= MAPPED_BYTES else None
    array: Array = np.load(file, mmap_mode=mode, allow_pickle=False)
    return array


def _mapped(path: Path, key: str) -> Array | None:
    """Return a large member of an .npz file where it lies, None if it is small or compressed."""
    with zipfile.ZipFile(path) as whole:
        member = whole.getinfo(f"{key}.npy" if f"{key}.npy" in whole.NameToInfo else key)
    if member.compress_type != zipfile.ZIP_STORED or member.file_size < MAPPED_BYTES or member.flag_bits & 1:
        return None
    with path.open("rb") as file:
        # A local header is 30 bytes, a name and an extra field; the lengths of both are its last four bytes.
        file.seek(member.header_offset + 26)
        file.seek(sum(struct.unpack("<HH", file.read(4))), 1)
        major, _ = np.lib.format.read_magic(file)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}.get(major)
        if read is None:
            return None
        shape, fortran, dtype = read(file)
        if fortran or dtype.hasobject:
            return None
        return np.memmap(path, dtype, "r", file.tell(), shape)


def _find(source: str | Path, near: Path | None, option: str) -> Path:
    if source in EMBEDDED:
        return EMBEDDED[str(source)]
    path = Path(source).expanduser()
    tried = [path] if near is None else [path, near / path]
    for candidate in tried:
        if candidate.is_file() or (candidate.is_dir() and any(candidate.glob("*.npy"))):
            return candidate
    streamed = ", or of a ROS 2 bag, or ros2 for live topics" if option == "--source" else ""
    files = [file.name for folder in tried for file in folder.parent.glob("*.npz")]
    raise DataError(
        f"no data set '{source}'",
        expected="the name of an embedded data set, or the path of an .npz file or of a folder of .npy files"
        + streamed,
        found=f"nothing at {' or '.join(dict.fromkeys(str(candidate) for candidate in tried))}",
        available=[*EMBEDDED, *GENERATED],
        fix=suggestion(path.name, [*EMBEDDED, *GENERATED, *files]) or f"check the path, or pass {option} FILE",
    )
