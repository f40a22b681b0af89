"""Integrals over a row's topic proportions: what counts say of the row's category, and of its topics."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from serket.modules.simplex import log_beta, proposals, uniforms

__all__ = ["integrate"]

_SHARES = (0.0, 0.2, 0.5, 0.9)
"""Of the tokens, that proposals believe: mean field is too sure of itself, and in short documents finds one mode."""
_BLOCK = 2**24


def integrate(
    counts: Tensor, phi: Tensor, bases: Tensor, points: int, extra: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Integrate prod_v (theta' phi_v)^c_v over theta ~ Dirichlet(base_k), per row, draw and category.

    By importance sampling with fixed quasi-random points, the same on every call: the proposal is a mixture, over the
    categories, of the Dirichlets that mean field finds (Blei, Ng & Jordan 2003, eqs. 6 and 7), and every point serves
    every category (Veach & Guibas 1995, the balance heuristic). A smooth function of its arguments.

    Args:
        counts: ``(N, V)``.
        phi: ``(S, Z, V)``, draws.
        bases: ``(K, Z)``, parameters of theta given a category.
        points: in all, shared among the K parts of the proposal.
        extra: log-weights of draws and categories from elsewhere, ``(S, N, K)``, if moments are wanted.

    Returns:
        Log of the integrals ``(S, N, K)``, zero in rows without counts; and, if asked for, the moments of theta times
        the probability of each draw, E[theta] ``(S, N, Z)`` and E[theta theta'] ``(S, N, Z, Z)``.
    """
    categories, topics = bases.shape
    bases = bases.to(phi)
    if extra is None and not bool((counts > 0).any()):
        return counts.new_zeros(len(phi), len(counts), categories), None, None
    parts = len(_SHARES) * categories
    uniform = uniforms(parts, points, topics).to(phi)
    each = uniform.shape[1]
    filled = int((counts > 0).sum(-1).max()) if len(counts) else 0
    step = max(1, _BLOCK // max(1, each * parts * max(filled, topics * categories)))
    found = []
    for at in range(0, max(len(counts), 1), step):
        rows = slice(at, at + step)
        more = None if extra is None else extra[:, rows]
        found.append(_block(counts[rows], phi, bases, uniform, more))
    scores, first, second = zip(*found, strict=True)
    if extra is None:
        return torch.cat(scores, 1), None, None
    return torch.cat(scores, 1), torch.cat(first, 1), torch.cat(second, 1)


def _block(
    counts: Tensor, phi: Tensor, bases: Tensor, uniform: Tensor, extra: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    # Only words that occur, (N, L); what is left over in a row counts zero.
    width = max(1, int((counts > 0).sum(-1).max())) if len(counts) else 1
    order = (counts > 0).to(torch.int8).argsort(stable=True, dim=-1, descending=True)[:, :width]
    told = counts.gather(-1, order)
    log_theta, log_ratio = proposals(_mean_field(told, phi.mean(0).mT[order], bases), uniform)
    target = log_ratio.unsqueeze(-1) + log_theta @ (bases - 1).mT - log_beta(bases)  # (N, P, K)
    theta, tiny = log_theta.exp(), torch.finfo(phi.dtype).tiny
    weights = []
    for one in phi:
        mixed = theta @ one.mT[order].mT  # (N, P, L)
        weights.append((mixed.clamp_min(tiny).log() @ told.unsqueeze(-1)) + target)
    scores = torch.stack([each.logsumexp(1) for each in weights]) - math.log(theta.shape[1])
    scores = torch.where((counts > 0).any(-1, keepdim=True), scores, 0.0)
    if extra is None:
        return scores, None, None
    shares = torch.stack([(each + more.unsqueeze(1)).logsumexp(-1) for each, more in zip(weights, extra, strict=True)])
    shares = shares.movedim(0, 1).flatten(1).softmax(-1).unflatten(-1, (len(phi), -1))  # (N, S, P)
    first = torch.einsum("nsp,npz->snz", shares, theta)
    return scores, first, torch.einsum("nsp,npy,npz->snyz", shares, theta, theta)


def _mean_field(counts: Tensor, words: Tensor, bases: Tensor, iterations: int = 12) -> Tensor:
    """Parameters of q(theta), ``(N, K, Z)``, of counts ``(N, L)`` of words with probabilities ``(N, L, Z)``."""
    gamma = bases + counts.sum(-1)[:, None, None] / bases.shape[-1]
    tiny = torch.finfo(words.dtype).tiny
    for _ in range(iterations):
        expected = (gamma.digamma() - gamma.sum(-1, keepdim=True).digamma()).exp()
        shares = counts.unsqueeze(-2) / (expected @ words.mT).clamp_min(tiny)  # (N, K, L)
        gamma = bases + expected * (shares @ words)
    return torch.cat([bases + share * (gamma - bases) for share in _SHARES], 1)
