"""Whose mistake it was: errors inside a module become errors that name it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from serket.errors import MessageError, SerketError

__all__ = ["blamed"]


@contextmanager
def blamed(name: str, module: object) -> Iterator[None]:
    """Name the module in whatever goes wrong inside it; a fault in code that is not ours is its author's to mend.

    Raises:
        SerketError: of the module itself, its place added.
        MessageError: a matrix that cannot be factored, or any exception of a user's own module.
    """
    try:
        yield
    except SerketError as error:
        error.where = f"{name}: {error.where}" if error.where else name
        raise
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise MessageError(
            "a matrix cannot be factored: parameters or messages have blown up",
            where=name,
            found=str(error).split("\n")[0][:100],
            fix="lower fit.learning_rate, or rescale the data; for float32 data try float64",
        ) from error
    except Exception as error:
        if type(module).__module__.startswith("serket."):
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise MessageError(
            f"{type(module).__name__} raised {type(error).__name__}: {error}",
            where=name,
            found=f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}",
            fix="mend the module",
        ) from error
