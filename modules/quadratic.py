"""Blocked Gibbs over observed points as two matrix products a sweep, all chains at once.

log N(z; mu_k, Sigma_k) is linear in the monomials phi(z) = (z_i z_j for i <= j, z_i, 1), so that the logits of all
components are one product of weights by monomials, and the sufficient statistics one of memberships by monomials. Rows
go in blocks that stay in cache, dimensions first: all between the two products runs along contiguous rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from serket.modules.mixture import Mixture
from serket.modules.niw import Prior, draw_gaussians, draw_weights, from_moments
from serket.modules.seen import Seen

__all__ = ["Design", "draw_labels", "statistics", "sweep", "weights"]

_ROWS = 4096
"""Rows a block on a CPU: 150 monomials of each in float32 are 2.5 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """Observed rows, dimensions first; a leading chain dimension C is allowed.

    Args:
        points: ``(D, N)``, standardised, zeros where absent.
        present: ``(N,)``, one or zero: rows with zero count for the weights only.
        bias: ``(K, N)``, nats, or None where every row and component has the same:
        level: that one, else 0.
        reach: ``(D,)``, the largest absolute value per dimension.
        owned: whether the weights are learnt.
    """

    points: Tensor
    present: Tensor
    bias: Tensor | None
    level: float
    reach: Tensor
    owned: bool

    @classmethod
    def of(cls, seen: Seen) -> Self:
        """Lay out what was seen."""
        assert seen.points is not None
        points, bias = seen.points, seen.bias
        flat = bool((bias == bias.flatten()[0]).all())
        told, level = (None, float(bias.flatten()[0])) if flat else (bias.mT.contiguous(), 0.0)
        reach = points.abs().flatten(0, -2).amax(0).double()
        return cls(points.mT.contiguous(), seen.present.to(points), told, level, reach, seen.owned)


def sweep(mixture: Mixture, design: Design, prior: Prior, generator: torch.Generator) -> tuple[Mixture, Tensor, Tensor]:
    """Draw k | theta, pi, then theta, pi | k.

    float32 rows are computed on in float32 unless a component is so narrow, where the data reach so far, that rounding
    could cost a hundredth of a nat: then in float64.

    Returns:
        The mixture, labels ``(C, N)`` and, ``(C,)``, the log-likelihood of theta and pi, k summed out, nats.
    """
    matrix, like = weights(mixture), design.points
    uniform = torch.rand(*matrix.shape[:1], like.shape[-1], generator=generator, dtype=like.dtype, device=like.device)
    far = _monomials(design.reach.unsqueeze(-1), design.reach.new_ones(1)).squeeze(-1)
    rounding = torch.finfo(like.dtype).eps
    exact = rounding * float((matrix.abs() * far).amax()) > 0.01
    labels, moments, score = statistics(matrix, design, uniform, torch.float64 if exact else like.dtype)
    law = from_moments(*moments[:3], prior)
    # What cancels in sum z z' - kappa m m' must not be all that is left.
    held = law.scatter.diagonal(dim1=-2, dim2=-1)
    if not exact and bool((rounding * moments[2].diagonal(dim1=-2, dim2=-1) > 0.01 * held).any()):
        labels, moments, score = statistics(matrix, design, uniform, torch.float64)
        law = from_moments(*moments[:3], prior)
    means, cholesky = draw_gaussians(law, generator)
    log_weights = draw_weights(moments[3], prior, generator) if design.owned else torch.zeros_like(moments[3])
    return Mixture(means.to(like), cholesky.to(like), log_weights.to(like)), labels, score


def draw_labels(mixture: Mixture, design: Design, generator: torch.Generator) -> Tensor:
    """Draw k | theta, pi, ``(C, N)``, in float64."""
    shape = len(mixture.means), design.points.shape[-1]
    like = design.points
    uniform = torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
    return statistics(weights(mixture), design, uniform, torch.float64)[0]


def weights(mixture: Mixture) -> Tensor:
    """Return W in float64, ``(C, K, F)``: log pi_k + log N(z; mu_k, Sigma_k) = W_k phi, with phi of :class:`Design`.

    By P = Sigma^-1: -P_ii / 2 and -P_ij on the squares, P mu on z, log N(0; mu, Sigma) on presence, log pi on one.
    """
    means, cholesky, log_weights = (part.double() for part in mixture.tensors().values())
    whiten = Mixture(means, cholesky, log_weights).whitening()
    precision = whiten.mT @ whiten
    linear = (precision @ means.unsqueeze(-1)).squeeze(-1)
    row, column = torch.triu_indices(*precision.shape[-2:], device=means.device)
    square = -precision[..., row, column] * torch.where(row == column, 0.5, 1.0).to(means)
    constant = whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = constant - ((linear * means).sum(-1) + means.shape[-1] * math.log(2 * math.pi)) / 2
    return torch.cat([square, linear, constant.unsqueeze(-1), log_weights.unsqueeze(-1)], -1)


def statistics(
    matrix: Tensor, design: Design, uniform: Tensor, dtype: torch.dtype
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Draw labels from softmax(W phi + bias) by the inverse distribution function, and add up what they share.

    Args:
        matrix: W, ``(C, K, F)``.
        design: the rows.
        uniform: ``(C, N)`` in [0, 1).
        dtype: of the products; blocks are added up in float64.

    Returns:
        Labels ``(C, N)``; counts of present rows ``(C, K)``, sums ``(C, K, D)``, second moments ``(C, K, D, D)`` and
        counts of all rows ``(C, K)``; and the logs of the normalisers, summed over rows, ``(C,)``.
    """
    (chains, components, width), (size, rows) = matrix.shape, design.points.shape[-2:]
    narrow = matrix.to(dtype)
    ones = torch.ones(components, components).tril().to(narrow)
    block = min(rows, _ROWS if matrix.device.type == "cpu" else 64 * _ROWS)
    room = narrow.new_empty(*design.points.shape[:-2], width, block)
    total, score = torch.zeros_like(matrix), matrix.new_full((chains,), rows * design.level)
    labels = torch.empty(chains, rows, dtype=torch.int64, device=matrix.device)
    for start in range(0, rows, block):
        part = slice(start, start + block)
        phi = _monomials(design.points[..., part].to(dtype), design.present[..., part].to(dtype), room)
        logits = narrow @ phi
        if design.bias is not None:
            logits += design.bias[..., part]
        top = logits.amax(-2, keepdim=True)
        above = ones @ logits.sub_(top).exp_()  # cumulative: the last is the normaliser
        last = above[..., -1:, :]
        threshold = uniform[:, part].to(dtype).unsqueeze(-2) * last
        step = torch.gt(above, threshold, out=torch.empty_like(above))  # one from the drawn label on
        labels[:, part] = components - step.sum(-2).to(torch.int64)
        score += (top + last.log()).double().sum((-2, -1))
        members = torch.diff(step, dim=-2, prepend=torch.zeros_like(last))
        total += members @ phi.mT
    row, column = torch.triu_indices(size, size, device=matrix.device)
    second = matrix.new_empty(chains, components, size, size)
    second[..., row, column] = second[..., column, row] = total[..., : len(row)]
    return labels, (total[..., -2], total[..., len(row) : -2], second, total[..., -1]), score


def _monomials(points: Tensor, present: Tensor, room: Tensor | None = None) -> Tensor:
    """Phi of ``(..., D, n)``: products in the order of ``triu_indices``, then z, presence, one; ``(..., F, n)``."""
    *chains, size, rows = points.shape
    width = size * (size + 3) // 2 + 2
    room = points.new_empty(*chains, width, rows) if room is None else room
    phi, at = room[..., :rows], 0
    for i in range(size):
        torch.mul(points[..., i:, :], points[..., i : i + 1, :], out=phi[..., at : at + size - i, :])
        at += size - i
    phi[..., at : at + size, :] = points
    phi[..., -2, :] = present
    phi[..., -1, :] = 1.0
    return phi
