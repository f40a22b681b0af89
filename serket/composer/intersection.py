"""Covariance intersection: what estimates say together if they may share any part of their evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from serket.messages import Gaussian

__all__ = ["intersected", "intersection_weights"]

STEPS, TOLERANCE = 50, 1e-6


def intersected(start: Gaussian, messages: Sequence[Gaussian]) -> Gaussian:
    """Return start times prod_m m^w_m, weights summing to 1 over those that speak: :func:`intersection_weights`."""
    weights = intersection_weights(messages).to(start.info) if messages else None
    for index, message in enumerate(messages):
        start = start * message ** cast(Tensor, weights)[:, index]
    return start


def intersection_weights(messages: Sequence[Gaussian]) -> Tensor:
    """Return the weights that maximise log det(sum_m w_m Lambda_m), ``(rows, M)``, float64 (Julier & Uhlmann 1997).

    Whatever the estimates' errors have in common, the covariance (sum_m w_m Lambda_m)^-1 is not too small, for any
    weights that look at precisions alone. The determinant is taken in the directions of which some view speaks; unlike
    a trace it does not depend on the units of z. Views that say nothing weigh 0.

    With g_m = tr(S Lambda_m), C_mk = tr(S Lambda_m S Lambda_k) and S = (sum_k w_k Lambda_k)^-1 the optimum has
    g_m + v_m = nu, w_m v_m = 0, w, v >= 0: primal-dual Newton steps with w_m v_m = mu on the way, a row at rest once
    max_m g_m - sum_k w_k g_k, which bounds what the log determinant lacks, is below 1e-6 nats (Boyd & Vandenberghe
    2004, section 11.7).
    """
    told = torch.stack([~message.is_vacuous() for message in messages], 1)
    slopes = _slopes([message.to(torch.float64, message.device) for message in messages])
    one, speaking = told.double(), told.sum(1, keepdim=True).clamp_min(1)
    weights = one / speaking
    gains, curvature = slopes(weights)
    slack = torch.where(told, gains.amax(1, keepdim=True) - gains + 0.1, 0.0)
    for _ in range(STEPS):
        moves = told & (gains.amax(1, keepdim=True) - (weights * gains).sum(1, keepdim=True) > TOLERANCE)
        if not bool(moves.any()):
            break
        target = 0.1 * (weights * slack).sum(1, keepdim=True) / speaking  # mu
        inside = torch.where(told, weights, 1.0)
        # (C + diag(v / w)) dw + nu = g + mu / w,  1' dw = 0
        newton = curvature + torch.diag_embed(torch.where(told, slack / inside, 1.0))
        right = torch.stack([torch.where(told, gains + target / inside, 0.0), one], -1)
        free, level = torch.linalg.solve(newton, right).unbind(-1)
        step = free - level * free.sum(1, keepdim=True) / torch.where(moves, level.sum(1, keepdim=True), 1.0)
        turn = target / inside - slack - slack / inside * step
        weights = torch.where(moves, weights + _reach(weights, step) * step, weights)
        slack = torch.where(moves, slack + _reach(slack, turn) * turn, slack)
        gains, curvature = slopes(weights)
    return weights


def _reach(at: Tensor, step: Tensor) -> Tensor:
    """Return how much of a step leaves a row positive, ``(rows, 1)``, at most all of it."""
    return (0.99 * torch.where(step < 0, -at / step, torch.inf).amin(1, keepdim=True)).clamp_max(1)


def _slopes(messages: Sequence[Gaussian]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return the function from weights to g, ``(rows, M)``, and C, ``(rows, M, M)``.

    With precisions in units of their sum; directions of which none speaks have precision 1 under any weights.
    """
    if all(message.diagonal for message in messages):
        precisions = torch.stack([message.precision for message in messages], 1)
        total = precisions.sum(1, keepdim=True)
        parts = torch.where(total > 0, precisions / torch.where(total > 0, total, 1.0), 0.0)
        blind = (total == 0).double()

        def along(weights: Tensor) -> tuple[Tensor, Tensor]:
            shares = parts / (blind + (weights.unsqueeze(-1) * parts).sum(1, keepdim=True))
            return shares.sum(-1), shares @ shares.mT

        return along
    precisions = torch.stack([message.full().precision for message in messages], 1)
    diagonal = precisions.diagonal(dim1=-2, dim2=-1).sum(1)
    unit = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()  # so that what is seen does not depend on the units
    precisions = unit[:, None, :, None] * precisions * unit[:, None, None, :]
    values, vectors = torch.linalg.eigh(precisions.sum(1))
    seen = values > 1e-12 * values[:, -1:]
    basis = (vectors * torch.where(seen, values, 1.0).rsqrt().unsqueeze(1) * seen.unsqueeze(1)).unsqueeze(1)
    wide, dark = basis.mT @ precisions @ basis, torch.diag_embed((~seen).double())

    def across(weights: Tensor) -> tuple[Tensor, Tensor]:
        factor = torch.linalg.cholesky(dark + torch.einsum("nm,nmij->nij", weights, wide))
        solved = torch.cholesky_inverse(factor).unsqueeze(1) @ wide
        return solved.diagonal(dim1=-2, dim2=-1).sum(-1), solved.flatten(2) @ solved.mT.flatten(2).mT

    return across
