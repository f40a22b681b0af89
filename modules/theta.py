"""Integrals over a row's topic proportions: what counts say of the row's category, and of its topics."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from serket.modules.simplex import log_beta, moments, nearest, proposals, uniforms

__all__ = ["integrate"]

_SHARES = (0.0, 0.2, 0.5, 0.9)
"""Of the tokens, that first proposals believe: mean field is too sure, and in short documents finds one mode."""
_PILOTS, _PILOT = 3, 256
_LOOSE, _MOST = 0.0025, 2**12
_BLOCK = 2**19
"""Numbers in one array of mixed words: what stays in cache is several times faster."""


def integrate(
    counts: Tensor, phi: Tensor, bases: Tensor, points: int, extra: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Integrate prod_v (theta' phi_v)^c_v over theta ~ Dirichlet(base_k), per row, draw and category.

    By importance sampling with fixed quasi-random points, the same on every call, and every point serves every category
    (Veach & Guibas 1995, the balance heuristic). Pilots under the mean phi start from a mixture, over the categories,
    of the Dirichlets that mean field finds (Blei, Ng & Jordan 2003, eqs. 6 and 7), and go on from the moments they
    found (Cappe et al. 2004). Then half of the points come from the Dirichlet with the moments of all categories
    together, half from those of each. Each draw has points of its own: what is wanted is their mean. Rows in which a
    category's probability has a standard error above 0.0025 are given up to 4096 points.

    Args:
        counts: ``(N, V)``.
        phi: ``(S, Z, V)``, draws.
        bases: ``(K, Z)``, parameters of theta given a category.
        points: in all, shared among the draws and the parts of the proposal.
        extra: log-weights of draws and categories from elsewhere, ``(S, N, K)``, if moments are wanted.

    Returns:
        Log of the integrals ``(S, N, K)``, zero in rows without counts; and, if asked for, the moments of theta times
        the probability of each draw, E[theta] ``(S, N, Z)`` and E[theta theta'] ``(S, N, Z, Z)``.
    """
    categories, topics = bases.shape
    bases = bases.to(phi)
    if extra is None and not bool((counts > 0).any()):
        return counts.new_zeros(len(phi), len(counts), categories), None, None
    scores, mean, square, loose = _rows(counts, phi, bases, points, _PILOT, extra)
    if points < _MOST and len(some := loose.nonzero().flatten()):
        told = None if extra is None else extra[:, some]
        again = _rows(counts[some], phi, bases, _MOST, 2 * _PILOT, told)
        scores, mean, square = (
            a.index_copy(1, some, b) for a, b in zip((scores, mean, square), again[:3], strict=True)
        )
    return (scores, None, None) if extra is None else (scores, mean, square)


def _rows(
    counts: Tensor, phi: Tensor, bases: Tensor, points: int, pilot: int, extra: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Integrate block by block: scores, moments, and in which rows the points were too few."""
    draws, (categories, topics) = len(phi), bases.shape
    starts = [len(_SHARES)] + [3] * (_PILOTS - 1)
    pilots = [uniforms(parts * categories, pilot, topics, i).to(phi) for i, parts in enumerate(starts)]
    uniform = uniforms(2 * categories * draws, points, topics, _PILOTS).to(phi).unflatten(0, (draws, -1))
    points = 2 * categories * uniform.shape[2]  # a draw
    filled = int((counts > 0).sum(-1).max()) if len(counts) else 0
    step = max(1, _BLOCK // (max(pilot, points) * max(filled, topics, 1)))
    found = []
    for at in range(0, max(len(counts), 1), step):
        rows = slice(at, at + step)
        told = torch.zeros_like(phi[:, :1, :1]) if extra is None else extra[:, rows]
        found.append(_block(counts[rows], phi, bases, pilots, uniform, told))
    scores, mean, square, loose = zip(*found, strict=True)
    return torch.cat(scores, 1), torch.cat(mean, 1), torch.cat(square, 1), torch.cat(loose)


def _block(
    counts: Tensor, phi: Tensor, bases: Tensor, pilots: list[Tensor], uniform: Tensor, extra: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # Only words that occur, (N, L); what is left over in a row counts zero.
    width = max(1, int((counts > 0).sum(-1).max())) if len(counts) else 1
    order = (counts > 0).to(torch.int8).argsort(stable=True, dim=-1, descending=True)[:, :width]
    told = counts.gather(-1, order)
    parts = _adapted(told, phi.mean(0).mT[order], bases, pilots)
    points = [_weighed(told, one.mT[order], bases, parts, some) for one, some in zip(phi, uniform, strict=True)]
    theta, weights = torch.stack([one[0] for one in points]), torch.stack([one[1] for one in points])
    scores = weights.logsumexp(2) - math.log(theta.shape[2])
    scores = torch.where((counts > 0).any(-1, keepdim=True), scores, 0.0)
    # Standard error of p_k = sum of w_k over that of all w, points independent.
    each = (weights - weights.logsumexp((0, 2, 3), keepdim=True)).exp()
    total = each.sum((0, 2))
    error = (each - total.unsqueeze(1) * each.sum(-1, keepdim=True)).square().sum((0, 2)).sqrt()
    shares = (weights + extra.unsqueeze(2)).logsumexp(-1)
    shares = (shares - shares.logsumexp((0, 2), keepdim=True)).exp()  # (S, N, P)
    mean = torch.einsum("snp,snpz->snz", shares, theta)
    return scores, mean, torch.einsum("snp,snpy,snpz->snyz", shares, theta, theta), (error > _LOOSE).any(-1)


def _weighed(counts: Tensor, words: Tensor, bases: Tensor, parts: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Return points theta ``(N, P, Z)`` and their log-weights under each category ``(N, P, K)``."""
    log_theta, log_ratio = proposals(parts, uniform)
    theta = log_theta.exp()
    mixed = (theta @ words.mT).clamp_min_(torch.finfo(theta.dtype).tiny).log_() @ counts.unsqueeze(-1)
    return theta, mixed + log_ratio.unsqueeze(-1) + log_theta @ (bases - 1).mT - log_beta(bases)


def _adapted(counts: Tensor, words: Tensor, bases: Tensor, pilots: list[Tensor]) -> Tensor:
    """Parameters of proposals ``(N, 2 K, Z)``: K times that of all categories together, then that of each."""
    rough = _mean_field(counts, words, bases)
    guess = bases + 0.5 * (rough - bases)
    parts = torch.cat([bases + share * (rough - bases) for share in _SHARES], 1)
    for uniform in pilots:
        theta, weights = _weighed(counts, words, bases, parts, uniform)
        mean, square = moments(weights.mT, theta.unsqueeze(1), guess)
        share = weights.logsumexp(1).softmax(-1)
        both = nearest((share.unsqueeze(-1) * mean).sum(1), (share * square).sum(1)).unsqueeze(1)
        each = nearest(mean, square)
        # The last third is wide: what a pilot missed has to be found by the next.
        parts = torch.cat([both.expand(-1, len(bases), -1), each, bases + 0.3 * (each - bases).clamp_min(0.0)], 1)
    return parts[:, : 2 * len(bases)]


def _mean_field(counts: Tensor, words: Tensor, bases: Tensor, iterations: int = 12) -> Tensor:
    """Parameters of q(theta), ``(N, K, Z)``, of counts ``(N, L)`` of words with probabilities ``(N, L, Z)``."""
    gamma = bases + counts.sum(-1)[:, None, None] / bases.shape[-1]
    tiny = torch.finfo(words.dtype).tiny
    for _ in range(iterations):
        expected = (gamma.digamma() - gamma.sum(-1, keepdim=True).digamma()).exp()
        shares = counts.unsqueeze(-2) / (expected @ words.mT).clamp_min(tiny)  # (N, K, L)
        gamma = bases + expected * (shares @ words)
    return gamma
