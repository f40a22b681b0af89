"""Labels with parameters integrated out, from torch to numba and back: collapsed sweeps and split-merge moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from serket.errors import GraphError
from serket.modules.niw import NormalInverseWishart, Prior
from serket.modules.seen import Seen

__all__ = ["Collapsed"]

SCANS = 5
"""Restricted Gibbs scans before a split or merge is proposed (Jain & Neal 2004 find 4 to 6 enough)."""


class Collapsed:
    """The kernels on what was seen, ``(N, ...)`` or, per chain, ``(C, N, ...)``; float64 inside.

    Raises:
        GraphError: the rows are not on the CPU, where a sampler that takes one row at a time would have to run.
    """

    def __init__(self, seen: Seen, prior: Prior) -> None:
        if seen.bias.device.type != "cpu":
            raise GraphError(
                "collapsed Gibbs and split-merge moves run on the CPU only",
                found=str(seen.bias.device),
                fix="write method: blocked and split_merge: 0, or --device cpu",
            )
        from serket.modules.student import tables

        self.prior = prior
        self.bias = _numpy(seen.bias, 3)
        self.present = _numpy(seen.present, 2, np.bool_)
        self.kind = (2 if prior.sticks else 1) if seen.owned else 0
        told = seen.info if seen.points is None else seen.points
        assert told is not None
        self.tables = tables(prior, told.shape[-1], self.bias.shape[1])

    def sweep(self, points: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw every label given all others; returns labels ``(C, N)`` and, ``(C,)``, sums of log normalisers, nats."""
        from serket.modules import label_scan

        drawn = labels.numpy().copy()
        score = _call(label_scan.sweep, *self._inputs(points, drawn, generator))
        return torch.from_numpy(drawn), torch.from_numpy(score).to(points)

    def moves(self, points: Tensor, labels: Tensor, times: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Propose splits and merges; returns labels ``(C, N)``, and how many were accepted, ``(C,)``."""
        from serket.modules import split_merge

        drawn = labels.numpy().copy()
        accepted = _call(split_merge.moves, *self._inputs(points, drawn, generator), times, SCANS)
        return torch.from_numpy(drawn), torch.from_numpy(accepted)

    def law(self, points: Tensor, labels: Tensor) -> NormalInverseWishart:
        """Return the posterior of every component's parameters given labels, in float64."""
        from serket.modules import label_scan

        count, mean, factor = label_scan.fills(
            _numpy(points, 3), self.present, labels.numpy(), self.bias.shape[-1], self.tables
        )
        count, mean, lower = (torch.from_numpy(part) for part in (count, mean, factor))
        return NormalInverseWishart(mean, self.prior.kappa + count, lower @ lower.mT, self.prior.dof + count)

    def _inputs(self, points: Tensor, labels: Any, generator: torch.Generator) -> tuple[Any, ...]:
        seeds = torch.randint(2**62, (len(labels),), generator=generator).numpy().astype(np.uint64)
        points = _numpy(points, 3)
        return points, self.present, self.bias, labels, seeds, self.prior.alpha, self.kind, self.tables


def _call(compiled: Any, *arguments: Any) -> Any:
    return compiled(*arguments)


def _numpy(values: Tensor, dims: int, dtype: type = np.float64) -> Any:
    values = values if values.dim() == dims else values.unsqueeze(0)
    values = values[:1] if values.stride(0) == 0 else values  # the same for all chains
    return np.ascontiguousarray(values.numpy(), dtype)
