"""One file of embeddings: keys and values of some rows, as safetensors, named by the SHA-256 of its bytes."""

from __future__ import annotations

import hashlib
import json
import uuid
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from serket.errors import DataWarning
from serket.store.files import digest

__all__ = ["SMALL_BYTES", "keys_in", "mapped", "remove", "write_segment"]

Array: TypeAlias = NDArray[Any]

SMALL_BYTES = 1 << 18


def write_segment(folder: Path, keys: Array, values: Array) -> Path:
    """Write a file in one step; what a crash leaves of it has another name, or bytes that do not fit its name."""
    data = safetensors.numpy.save({"keys": np.ascontiguousarray(keys), "values": np.ascontiguousarray(values)})
    path = folder / f"{digest(data)}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{uuid.uuid4().hex}.part"
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def keys_in(path: Path) -> tuple[Array, int] | None:
    """Return the row keys in a file ``(n, 2)``, not checked yet, and its bytes; None if it is gone or no such file."""
    try:
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor("keys"), path.stat().st_size
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError):
        _damaged(path)
        return None


def mapped(path: Path) -> Array | None:
    """Return the embeddings in a file ``(n, E)``, checked and mapped; None if it is gone or damaged, and removed."""
    try:
        data = np.memmap(path, mode="r")
    except OSError:
        return None
    except ValueError:  # no bytes at all
        _damaged(path)
        return None
    if hashlib.sha256(data.data).hexdigest() != path.stem:
        _damaged(path)
        return None
    # Safetensors would copy the whole file, which is: eight bytes, how long the header is; the header; the arrays.
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    values = json.loads(data[8:start].tobytes())["values"]
    first, end = values["data_offsets"]
    dtype = np.dtype(f"<f{int(values['dtype'][1:]) // 8}")
    return np.asarray(data[start + first : start + end]).view(dtype).reshape(values["shape"])


def remove(path: Path) -> None:
    """Remove a file, if it is there and may be removed."""
    with suppress(OSError):
        path.unlink()


def _damaged(path: Path) -> None:
    warnings.warn(f"{path} is damaged and was removed: its rows are embedded again", DataWarning, stacklevel=3)
    remove(path)
