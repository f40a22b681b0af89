"""Counts as modules read them: from data or from Dirichlet messages, checked, and cut down to a number of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from serket.errors import DataError, GraphError, MessageError, ShapeError, listed
from serket.messages import Dirichlet, Message
from serket.modules.labels import seeds
from serket.protocol import Evidence

__all__ = ["coefficient", "countable", "matched", "profile_seeds", "read_counts", "tempered"]

_TOKENS = 2**26
"""That samplers which take tokens one by one hold at once: some gigabytes."""


def read_counts(
    evidence: Evidence, inbox: Mapping[str, Message], port: str, *, like: Tensor, size: int | None = None
) -> Tensor:
    """Return counts ``(rows, V)`` in the dtype of ``like``: those at the port, or the data; zeros where there are none.

    A row is observed whole or not at all. An empty document is a row of zeros, and so says nothing.

    Raises:
        GraphError: there are both.
        DataError: negative or infinite counts, with their rows.
        MessageError: messages of fewer than no draws.
        ShapeError: another number of columns than ``size``.
    """
    if port in inbox:
        if evidence.values is not None:
            raise GraphError(
                f"counts come both as data and from the port '{port}'", fix="leave out 'data:' or the port"
            )
        told = cast(Dirichlet, inbox[port]).counts.to(like)
        wrong = ~(told >= 0).all(-1)
        if bool(wrong.any()):
            rows = listed(evidence.row_id[wrong].tolist())
            raise MessageError(
                "a message holds negative counts",
                where=f"{port}, rows {rows}",
                expected="alpha >= 1",
                fix="send what the words say of their distribution, without a prior",
            )
    elif evidence.values is None:
        return torch.zeros(len(evidence), size or 0, dtype=like.dtype, device=like.device)
    else:
        observed = evidence.observed if evidence.observed.dim() == 1 else evidence.observed.all(-1)
        values = evidence.values.to(like.device, like.dtype)
        told = torch.where(observed.unsqueeze(-1), values, torch.zeros_like(values))
        wrong = ~((told >= 0) & told.isfinite()).all(-1)
        if bool(wrong.any()):
            raise DataError(
                "counts are numbers that are not negative",
                where=f"rows {listed(evidence.row_id[wrong].tolist())}",
                found=f"{told[wrong][~((told >= 0) & told.isfinite())[wrong]][0].item():g}",
                fix="mask these rows, or shift the array",
            )
    if size is not None and told.shape[-1] != size:
        raise ShapeError("not the words this module was fitted on", expected=str(size), found=str(told.shape[-1]))
    return told


def tempered(counts: Tensor, tokens: float | None) -> Tensor:
    """Scale down the rows that hold more than so many tokens."""
    if tokens is None:
        return counts
    return counts * (tokens / counts.sum(-1, keepdim=True).clamp_min(tokens))


def countable(counts: Tensor) -> Tensor:
    """Return the counts; raises DataError where they are too many to be taken one by one."""
    total = float(counts.sum(dtype=torch.float64))
    if total > _TOKENS:
        raise DataError(
            "the counts are too many to be taken one by one",
            expected=f"{_TOKENS:.0e} tokens at most",
            found=f"{total:.3g} in {counts.flatten(0, -2).shape[0]} rows",
            fix="write tokens, the most a row may hold, or divide the array",
        )
    return counts


def coefficient(counts: Tensor) -> Tensor:
    """Log of how many orders the words of a document can stand in, nats: log N! - sum_v log c_v!."""
    return (counts.sum(-1) + 1).lgamma() - (counts + 1).lgamma().sum(-1)


def profile_seeds(profiles: Tensor, components: int, chains: int, generator: torch.Generator) -> Tensor:
    """Label rows by k-means on square-root profiles ``(N, D)``, in which Euclid's distance is Hellinger's: ``(C, N)``.

    Wide profiles are cut to their leading directions by a randomised range finder (Halko et al. 2011, section 4).
    """
    if profiles.shape[-1] > 2 * (rank := max(32, 2 * components)):
        test = torch.randn(profiles.shape[-1], rank, generator=generator, dtype=profiles.dtype, device=profiles.device)
        basis = torch.linalg.qr(profiles.mT @ ((profiles - profiles.mean(0)) @ test))[0]
        profiles = profiles @ basis
    present = torch.ones(len(profiles), dtype=torch.bool, device=profiles.device)
    return seeds(profiles, present, components, chains, generator)


def matched(mean: Tensor, square: Tensor) -> Dirichlet:
    """Return the Dirichlets with these E[pi] ``(..., V)`` and these E[sum_v pi_v^2] ``(...)``.

    The total variance sum_v Var pi_v of Dirichlet(a m) is (1 - sum m^2) / (a + 1).
    """
    alike = mean.square().sum(-1)
    least = 1e-6  # what varies less is as good as certain: more would be beyond float32
    spread = (square - alike) / (1 - alike).clamp_min(least)
    total = 1 / spread.clamp(least, 1.0) - 1
    return Dirichlet((total.unsqueeze(-1) * mean).clamp_min(1e-6) - 1)
