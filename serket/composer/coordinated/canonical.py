"""Canonical correlation of two views or more, in closed form, and what each view alone then says."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from serket.composer.coordinated.soft_layers import SoftLayers
from serket.composer.coordinated.view import Reading

__all__ = ["canonical", "directions", "named_as_before", "one_factor"]

MOST = 1 - 1e-4  # of a squared correlation: nothing is known without error


def directions(covariances: Sequence[Tensor], cross: Sequence[Sequence[Tensor]], size: int) -> list[Tensor]:
    """Return unit directions a view, ``(D_m, size)``, such that z_m' direction has variance 1: MAXVAR, Kettenring 1971.

    R is the correlation matrix of the whitened views, v its leading eigenvectors: a_m = Sigma_m^(-1/2) v_m / |v_m|. For
    two views they are Hotelling's canonical directions, the eigenvalues 1 + rho. Directions with an eigenvalue of
    1 or less correlate with nothing, and are zero.

    Args:
        covariances: Sigma_m, ``(D_m, D_m)``.
        cross: Sigma_mn for m < n, at ``[m][n]``; zero where no row has both.
        size: how many to return.
    """
    whitenings = [_inverse_root(one) for one in covariances]
    sizes = [len(one) for one in covariances]
    starts = [sum(sizes[:m]) for m in range(len(sizes) + 1)]
    at = [slice(a, b) for a, b in zip(starts[:-1], starts[1:], strict=True)]
    correlation = torch.eye(starts[-1]).to(covariances[0])
    for m in range(len(sizes)):
        for n in range(m + 1, len(sizes)):
            correlation[at[m], at[n]] = whitenings[m] @ cross[m][n] @ whitenings[n]
            correlation[at[n], at[m]] = correlation[at[m], at[n]].T
    values, vectors = torch.linalg.eigh(correlation)
    values, vectors = values.flip(0)[:size], vectors.flip(1)[:, :size]
    # The largest entry is positive: eigenvectors have no sign.
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    vectors = torch.where(values > 1 + 1e-9, vectors * largest.sign(), 0.0)
    found = []
    for whitening, where in zip(whitenings, at, strict=True):
        part = vectors[where]
        norm = part.norm(dim=0)
        unit = torch.where(norm > 1e-6, part / norm.clamp_min(1e-6), 0.0)
        found.append(torch.nn.functional.pad(whitening @ unit, (0, size - unit.shape[1])))
    return found


def one_factor(correlation: Tensor, known: Tensor, iterations: int = 60) -> Tensor:
    """Return loadings r ``(K, M)`` with corr(u_m, u_n) = r_m r_n as near as can be, by principal factor iterations.

    Two views leave only r_1 r_2 = rho to be told: both are its root, as in Bach & Jordan (2005). Pairs of views that
    were never seen together are filled in by r_m r_n.

    Args:
        correlation: ``(K, M, M)``.
        known: ``(M, M)`` bool.
        iterations: of the fixed point.
    """
    views = correlation.shape[-1]
    eye = torch.eye(views, dtype=torch.bool, device=correlation.device)
    r = torch.where(eye | ~known, 0.0, correlation).clamp_min(0.0).amax(-1).sqrt()
    for _ in range(iterations):
        outer = r.unsqueeze(-1) * r.unsqueeze(-2)
        values, vectors = torch.linalg.eigh(torch.where(known & ~eye, correlation, outer))
        leading = vectors[..., -1] * values[..., -1:].clamp_min(0.0).sqrt()
        r = (leading * leading.sum(-1, keepdim=True).sign()).clamp(0.0, MOST**0.5)
    return r


def canonical(readings: Sequence[Reading], held: Tensor, size: int, shrinkage: float) -> list[SoftLayers]:
    """Return linear encoders E[s_k | z_m] = r_mk a_mk' z_m with variance 1 - r_mk^2, directions a, loadings r.

    With two views and exact z this is the posterior of probabilistic CCA given one view (Bach & Jordan 2005, section
    4.1, with M_1 = M_2 = P^(1/2)). The directions come from the rows to learn from, whitened by all rows of a view,
    paired or not; the loadings from those held out.

    Args:
        readings: what is known of z in every row.
        held: ``(rows,)`` bool; none means that the same rows do for both.
        size: K.
        shrinkage: rows that the unit covariance counts for.
    """
    mean, variance = [one.mean for one in readings], [one.variance for one in readings]
    present = [one.present for one in readings]
    views, some = range(len(mean)), bool(held.any())
    learn, judge = ~held, held if some else ~held
    covariances, centred = [], []
    for z, spread, here in zip(mean, variance, present, strict=True):
        rows = here & learn
        centred.append(torch.where(here.unsqueeze(-1), z - z[rows].mean(0), 0.0))
        second = centred[-1][rows].T @ centred[-1][rows] + spread[rows].sum(0).diag()
        eye = torch.eye(len(second)).to(second)
        covariances.append((second + shrinkage * eye) / (rows.sum() + shrinkage))
    both = [[present[m] & present[n] for n in views] for m in views]
    cross = [[_cross(centred[m], centred[n], both[m][n] & learn) for n in views] for m in views]
    found = directions(covariances, cross, size)
    u = [z @ one for z, one in zip(centred, found, strict=True)]
    scale = []
    for m in views:
        rows = present[m] & judge
        rows = rows if int(rows.sum()) > 1 else present[m]
        second = u[m][rows].square().mean(0) + variance[m][rows].mean(0) @ found[m].square()
        scale.append(torch.where(second > 0, second, 1.0).sqrt())
    told = [[both[m][n] & judge if int((both[m][n] & judge).sum()) > 1 else both[m][n] for n in views] for m in views]
    known = torch.tensor([[bool(told[m][n].any()) for n in views] for m in views], device=held.device)
    unit = [one / of for one, of in zip(u, scale, strict=True)]
    correlation = torch.stack(
        [
            torch.stack([(unit[m] * unit[n])[told[m][n]].sum(0) / told[m][n].sum().clamp_min(1) for n in views])
            for m in views
        ]
    )
    loadings = one_factor(correlation.permute(2, 0, 1), known)
    encoders = []
    for m in views:
        r = loadings[:, m]
        matrix = (found[m] * (r / scale[m])).T
        # softplus(gain) = r^2 / (1 - r^2), so that the variance is 1 - r^2; log expm1 x overflows, this does not
        odds = (r.square() / (1 - r.square())).clamp_min(1e-12)
        gain = odds + (-(-odds).expm1()).log()
        centre = mean[m][present[m] & learn].mean(0)
        encoders.append(
            SoftLayers.linear(torch.cat([matrix, torch.zeros_like(matrix)]), torch.cat([-matrix @ centre, gain]))
        )
    return encoders


def named_as_before(
    encoders: Sequence[SoftLayers], before: Sequence[SoftLayers], readings: Sequence[Reading]
) -> list[SoftLayers]:
    """Return the encoders with directions in the order and with the signs in which they encode most as before.

    Hungarian matching of the covariances, over rows and views, of the encodings now and then.
    """
    size = len(before[0].offset) // 2
    overlap = torch.zeros(size, size).to(readings[0].mean)
    for now, then, one in zip(encoders, before, readings, strict=True):
        here = one.mean[one.present]
        overlap = overlap + then(here)[:, :size].T @ now(here)[:, :size]
    old, new = linear_sum_assignment(overlap.abs().cpu().numpy(), maximize=True)
    order = torch.as_tensor(new, device=overlap.device)
    sign = torch.where(overlap[torch.as_tensor(old, device=overlap.device), order] < 0, -1.0, 1.0)
    outputs, turned = torch.cat([order, order + size]), torch.cat([sign, torch.ones_like(sign)])
    return [SoftLayers.linear(one.direct[outputs] * turned[:, None], one.offset[outputs] * turned) for one in encoders]


def _cross(left: Tensor, right: Tensor, rows: Tensor) -> Tensor:
    return left[rows].T @ right[rows] / rows.sum().clamp_min(1)


def _inverse_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp_min(1e-9).rsqrt()) @ vectors.T
    return root
