"""Whose mistake it was: errors inside a module become errors that name it."""

from __future__ import annotations

import traceback
from types import TracebackType

import torch

from serket.errors import MessageError, SerketError

__all__ = ["blamed"]


class blamed:  # noqa: N801
    """Name the module in whatever goes wrong inside a ``with``; a fault in code not ours is its author's to mend.

    Raises:
        SerketError: of the module itself, its place added.
        MessageError: a matrix that cannot be factored, or any exception of a user's own module.
    """

    __slots__ = ("module", "name")

    def __init__(self, name: str, module: object) -> None:
        self.name, self.module = name, module

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or not isinstance(error, Exception):
            return
        if isinstance(error, SerketError):
            error.where = f"{self.name}: {error.where}" if error.where else self.name
        elif isinstance(error, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            raise MessageError(
                "a matrix cannot be factored: parameters or messages have blown up",
                where=self.name,
                found=str(error).split("\n")[0][:100],
                fix="lower fit.learning_rate, or rescale the data; for float32 data try float64",
            ) from error
        elif not type(self.module).__module__.startswith("serket."):
            frame = traceback.extract_tb(trace)[-1]
            raise MessageError(
                f"{type(self.module).__name__} raised {type(error).__name__}: {error}",
                where=self.name,
                found=f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}",
                fix="mend the module",
            ) from error
