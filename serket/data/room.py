"""Room for numbers that grow with the rows: in a file, when they are many."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["room"]

IN_MEMORY_BYTES = 1 << 22


def room(shape: tuple[int, ...], folder: Path | None = None) -> NDArray[np.uint64]:
    """Return zeros, uint64: above 4 MiB in a file without a name, whose pages the system may write out and drop.

    Args:
        shape: of the array.
        folder: where the file goes; None is the system's folder for such. Where it cannot be, or the disk is full, the
            array is in memory.
    """
    size = 8 * math.prod(shape)
    if size > IN_MEMORY_BYTES:
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                if hasattr(os, "posix_fallocate"):  # now, and not when a page is written, is the disk found to be full
                    os.posix_fallocate(file.fileno(), 0, size)
                return np.asarray(np.memmap(file, np.uint64, "r+", shape=shape))
        except OSError:
            pass
    return np.zeros(shape, dtype=np.uint64)
