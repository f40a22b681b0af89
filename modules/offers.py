"""What a user's function offers: asked in the rows that are observed, and checked."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from serket.errors import MessageError, SerketError, listed
from serket.messages import Family, Message
from serket.protocol import Evidence
from serket.registry import place_of

__all__ = ["asked"]


def asked(
    name: str,
    function: Callable[..., Any],
    family: Family,
    evidence: Evidence,
    cavity: Message,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return hypotheses ``(rows, L, ...)``, log-weights ``(rows, L)``, and the rows in which something is offered.

    The function sees the observed rows, and a generator of its own that starts from the same seed each time. Where
    nothing is offered stand zeros.

    Raises:
        MessageError: the function fails, or returns something else; the error names it, its file and line.
    """
    width = () if family == Family.CATEGORICAL else (cavity.size,)
    rows = evidence.present.nonzero().flatten()
    if evidence.values is None or not len(rows):
        nothing = torch.zeros(len(evidence), 1, *width, dtype=cavity.dtype, device=cavity.device)
        return nothing, nothing.flatten(1)[:, :1], torch.zeros_like(evidence.row_id, dtype=torch.bool)
    again = torch.Generator(device=generator.device).manual_seed(generator.initial_seed())
    try:
        offered = function(evidence.values[rows], again)
    except SerketError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise MessageError(
            f"the function '{name}' raised {type(error).__name__}: {error}",
            where=place_of(function),
            found=f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}",
            fix="mend the function",
        ) from error
    try:
        offers, weights = _checked(offered, family, cavity.size, width, evidence.row_id[rows])
    except MessageError as error:
        error.problem, error.where = f"the function '{name}' returned {error.problem}", place_of(function)
        raise
    told = torch.zeros_like(evidence.row_id, dtype=torch.bool).index_put((rows,), ~torch.isneginf(weights).all(-1))
    weights = torch.where(torch.isneginf(weights).all(-1, keepdim=True), 0.0, weights)
    placed = [
        torch.zeros(len(evidence), *part.shape[1:], dtype=cavity.dtype, device=cavity.device).index_put(
            (rows,), part.to(cavity.device, cavity.dtype)
        )
        for part in (offers, weights)
    ]
    return placed[0], placed[1], told


def _checked(offered: Any, family: Family, size: int, width: tuple[int, ...], row_id: Tensor) -> tuple[Tensor, Tensor]:
    """Check that these are hypotheses and log-weights that fit the port."""
    rows = len(row_id)
    pair = isinstance(offered, tuple | list) and len(offered) == 2 and all(isinstance(part, Tensor) for part in offered)
    shapes = [tuple(part.shape) for part in offered] if pair else []
    count = shapes[1][1:] if pair else ()
    if len(count) != 1 or not count[0] or shapes != [(rows, *count, *width), (rows, *count)]:
        wide = "".join(f", {number}" for number in width)
        raise MessageError(
            "no hypotheses with their log-weights",
            expected=f"a pair of tensors, hypotheses ({rows}, L{wide}) and log_weights ({rows}, L), L at least 1",
            found=f"{shapes[0]} and {shapes[1]}" if pair else type(offered).__name__,
            fix="end the function with: return hypotheses, log_weights",
        )
    weights = offered[1].to(torch.float64)
    offers = torch.where(torch.isneginf(weights).reshape(*weights.shape, *(1 for _ in width)), 0.0, offered[0].double())
    wrong, kind = ~offers.isfinite(), "finite numbers"
    if family == Family.CATEGORICAL:
        wrong = wrong | (offers < 0) | (offers >= size) | (offers != offers.floor())
        kind = f"whole numbers from 0 to {size - 1}"
    elif family == Family.DIRICHLET:
        wrong, kind = wrong | (offers < 0), "counts of 0 or more"
    bad = weights.isnan() | weights.isposinf()
    limits = "numbers below infinity; -inf where a place of the list is empty"
    parts = (("hypotheses that the variable cannot be", offers, wrong, kind), ("no log-weights", weights, bad, limits))
    for problem, values, faults, expected in parts:
        if bool(faults.any()):
            found = row_id[faults.reshape(rows, -1).any(-1)].tolist()
            raise MessageError(
                problem,
                expected=expected,
                found=f"{values[faults][0].item():g}, in rows {listed(found)}",
                fix="mend the function",
            )
    return offers, weights
