"""One batch through a stranger's encoder: what it raises, and what it gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from serket.errors import DataError, SerketError

__all__ = ["embedded", "rows_are_apart"]

ALONE = 3  # rows
TOLERANCE = 1e-3  # of the length of an embedding: what sums in another order may differ by


def embedded(encode: Callable[[Tensor], Any], values: Tensor, where: str, expected: Callable[[], str | None]) -> Tensor:
    """Return the embeddings of a batch ``(rows, E)`` in float32 or float64, on the device of the rows.

    Raises:
        DataError: the encoder does not take the rows, or does not give one embedding a row.
    """
    try:
        with torch.no_grad():
            given = encode(values)
            found = given if isinstance(given, Tensor) else torch.as_tensor(given)
    except SerketError:
        raise
    except Exception as error:  # whatever a stranger's model raises, the user hears where, and what it was given
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            "the encoder does not take these rows",
            where=where,
            expected=expected(),
            found=f"rows of shape {tuple(values.shape[1:])}, {str(values.dtype).removeprefix('torch.')}: {told[:200]}",
            fix="give the rows the shape and type that the encoder was trained on",
        ) from error
    if not found.dim() or len(found) != len(values):
        raise DataError(
            "the encoder does not give one embedding a row",
            where=where,
            expected=f"({len(values)}, E)",
            found=str(tuple(found.shape)),
            fix="let it return an array of as many rows as it is given",
        )
    found = found.flatten(1) if found.dim() > 1 else found.unsqueeze(1)
    wide = found.dtype in (torch.float32, torch.float64)
    return (found if wide else found.to(torch.float32)).to(values.device)


def rows_are_apart(embed: Callable[[Tensor], Tensor], rows: Tensor, together: Tensor, where: str) -> bool:
    """Embed a few rows, each alone, and compare with what they were in their batch; false if none can be read.

    Raises:
        DataError: they differ.
    """
    fix = "put it in evaluation mode before it is exported or registered: model.eval()"
    readable = together.isfinite().all(-1).nonzero().flatten()
    for row in readable[:ALONE].tolist():
        try:
            alone = embed(rows[row : row + 1])[0]
        except DataError as error:
            error.problem, error.fix = "the encoder cannot embed a row alone", fix
            raise
        same = alone.shape == together[row].shape
        gap = float((alone - together[row]).norm()) / max(float(together[row].norm()), 1e-6) if same else 1.0
        if math.isnan(gap) or gap > TOLERANCE:
            raise DataError(
                "the encoder changes its answer with its batch",
                where=where,
                expected="the same embedding for a row alone and in a batch",
                found=f"they differ by {gap:.1%} of its length: dropout or batch statistics are left on",
                fix=fix,
            )
    return bool(len(readable))
