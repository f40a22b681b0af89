"""Files that are either whole on disk or not there, and tensors as bytes without pickle."""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from serket.errors import StateError

__all__ = ["digest", "line", "naming", "pack", "plain", "rendered", "sync", "unpack", "write"]


def write(path: Path, data: bytes) -> None:
    """Put a file in place of the old one in a single step; after a crash there is the one or the other."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.waiting")
    with naming(path):
        try:
            beside.write_bytes(data)
            sync(beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        sync(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the system name what was to be written: a full disk names nothing, a rename the hidden file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # else there is a text only, and a name would replace it
            error.filename = str(path)
        raise


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def pack(state: Mapping[str, Tensor]) -> bytes:
    """Return a state as safetensors."""
    return safetensors.torch.save({key: tensor.detach().cpu().clone().contiguous() for key, tensor in state.items()})


def unpack(data: bytes, where: Path) -> dict[str, Tensor]:
    """Return the state in safetensors bytes.

    Raises:
        StateError: they are no safetensors.
    """
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise StateError("no safetensors", where=str(where), found=str(error), fix="fit again") from None


def rendered(value: Any) -> bytes:
    """Return JSON for people and machines: indented, numbers of any library, null for what is not finite."""
    return (json.dumps(plain(value), indent=2, default=str) + "\n").encode()


def line(value: Any) -> bytes:
    """Return JSON on one line."""
    return (json.dumps(plain(value), default=str) + "\n").encode()


def plain(value: Any) -> Any:
    """Return a value as what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
