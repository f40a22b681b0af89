"""Where chains start, how dead components come back, and which label means what."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from serket.messages.matching import matching, reference
from serket.modules.mixture import Mixture

__all__ = ["matching", "reference", "revived", "seeds"]

_RUNS = 10
"""Runs of k-means per chain."""


def seeds(points: Tensor, present: Tensor, components: int, chains: int, generator: torch.Generator) -> Tensor:
    """Label rows by the best of many runs of k-means from k-means++ (Arthur & Vassilvitskii 2007), ``(C, N)``."""
    chosen, tiny = points[present], torch.finfo(points.dtype).tiny
    nearest = chosen.new_ones(_RUNS * chains, len(chosen))
    centres = chosen.new_zeros(_RUNS * chains, 0, chosen.shape[-1])
    for component in range(components):
        seed = chosen[nearest.multinomial(1, generator=generator)]  # (runs, 1, D)
        away = (chosen - seed).square().sum(-1) + tiny
        nearest = torch.minimum(nearest, away) if component else away
        centres = torch.cat([centres, seed], 1)
    for _ in range(20):
        members = one_hot(_distances(chosen, centres).argmin(-1), components).to(points)
        counts = members.sum(-2).unsqueeze(-1)
        centres = torch.where(counts > 0, members.mT @ chosen / counts.clamp_min(1), centres)
    inertia = _distances(chosen, centres).amin(-1).sum(-1)
    return _distances(points, centres[inertia.topk(chains, largest=False).indices]).argmin(-1)


def _distances(points: Tensor, centres: Tensor) -> Tensor:
    """Squared distances ``(C, N, K)``, less the squared norm of the points."""
    return centres.square().sum(-1).unsqueeze(-2) - 2 * points @ centres.mT


def revived(mixture: Mixture, points: Tensor, labels: Tensor, present: Tensor, generator: torch.Generator) -> Mixture:
    """Split components: one with under three rows moves onto some row, with the shape and weight of that row's own.

    The prior rarely places an empty component near data in many dimensions. The move does not leave the posterior
    invariant, and so belongs to the first quarter of a fit.
    """
    components = mixture.means.shape[-2]
    rows, chain = present.nonzero().flatten(), torch.arange(len(labels), device=labels.device).unsqueeze(-1)
    pick = rows[torch.randint(len(rows), (len(labels), components), generator=generator, device=rows.device)]
    empty = labels.new_zeros(len(labels), components).scatter_add_(-1, labels, torch.ones_like(labels)) < 3
    split = replace(mixture.relabel(labels[chain, pick]), means=points[chain, pick])
    return Mixture(
        torch.where(empty.unsqueeze(-1), split.means, mixture.means),
        torch.where(empty[..., None, None], split.cholesky, mixture.cholesky),
        torch.where(empty, split.log_weights, mixture.log_weights),
    )
