"""One file of embeddings: keys and values of some rows, as safetensors, named by the SHA-256 of its bytes."""

from __future__ import annotations

import uuid
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from serket.errors import DataWarning
from serket.store.files import digest

__all__ = ["SMALL_BYTES", "keys_in", "read_segment", "write_segment"]

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


def keys_in(path: Path) -> Array | None:
    """Return the row keys in a file ``(n, 2)``, not checked yet; None if it is gone or no such file."""
    try:
        with safe_open(path, framework="numpy") as file:
            keys: Array = file.get_tensor("keys")
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError):
        _remove(path)
        return None
    return keys


def read_segment(path: Path) -> Array | None:
    """Return the embeddings in a file ``(n, E)``; None if it is gone or damaged, and then it is removed."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if digest(data) != path.stem:
        _remove(path)
        return None
    values: Array = safetensors.numpy.load(data)["values"]
    return values


def _remove(path: Path) -> None:
    warnings.warn(f"{path} is damaged and was removed: its rows are embedded again", DataWarning, stacklevel=3)
    path.unlink(missing_ok=True)
