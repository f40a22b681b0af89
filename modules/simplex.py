"""Weighted points on the simplex, and the bag of words that a likelihood over it amounts to."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

__all__ = ["bag_of", "log_beta", "moments", "nearest", "proposals", "uniforms"]

_SHARES = (0.0, 0.3, 1.0)
"""Of the words, that proposals believe: a first guess is often too sure, and what it misses has to be found."""
_SLACK = 0.005
"""Of a mean, given up to say less: that words are surely absent cannot be told by counts above zero."""
_TRUST = 8.0
"""Points that the first guess is worth: where fewer than that carry the weight, it decides."""


def bag_of(log_prob: Callable[[Tensor], Tensor], guess: Tensor, points: int, most: float) -> Tensor:
    """Return counts c >= 0, ``(rows, V)``, with Dirichlet(1 + c) nearest to exp(log_prob), normalised on the simplex.

    Nearest in the mean, to 0.005, and, as far as counts that are not negative allow, in the total variance. On two and
    three words moments are sums over a lattice; else by importance sampling, twice, from mixtures of Dirichlets that
    believe the guess, and then what was found with it, more and less (Cappe et al. 2004, population Monte Carlo). The
    points are fixed, so that the answer is.

    Args:
        log_prob: of points ``(P, rows, V)``, or ``(P, 1, V)`` for all rows, nats, ``(P, rows)``.
        guess: counts ``(rows, V)``.
        points: a round, of the sampling.
        most: the largest sum of a row's counts.
    """
    size, alpha = guess.shape[-1], 1 + guess
    if size == 1:
        return guess
    if size <= 3:
        places = _lattice(size).to(guess)
        return _counts(*_sums(log_prob(places.unsqueeze(1)).mT, places), most)
    mean, square, shares = alpha, alpha[..., 0], torch.tensor(_SHARES).to(guess).unsqueeze(-1)
    for start in range(2):
        uniform = uniforms(len(_SHARES), points, size, start).to(guess)
        log_pi, log_ratio = proposals(1 + shares * (alpha.unsqueeze(1) - 1), uniform)
        log_weight = log_prob(log_pi.exp().transpose(0, 1)).mT + log_ratio
        mean, square = moments(log_weight, log_pi.exp(), 1 + guess)
        alpha = nearest(mean, square)
    return _counts(mean, square, most)


def uniforms(parts: int, points: int, size: int, seed: int = 0) -> Tensor:
    """Scrambled Sobol points for :func:`proposals`, at least so many in all: ``(parts, each, 2, size)``, float64."""
    each = -(-points // parts)
    drawn = SobolEngine(2 * size, scramble=True, seed=seed).draw(each * parts, dtype=torch.float64)
    return drawn.clamp(1e-6, 1 - 1e-6).reshape(parts, each, 2, size)


def proposals(gammas: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Points log theta ``(N, P, Z)`` of a mixture of Dirichlets ``(N, K, Z)``, and minus their log-density ``(N, P)``.

    A Gamma(a + 1) is near (a + 2/3) (1 + c x)^3 with x normal (Marsaglia & Tsang 2000); instead of being rejected, a
    point has the ratio of both densities as a weight, which is part of the second result.
    """
    a = gammas.unsqueeze(-2)  # (N, K, 1, Z)
    d = a + 2 / 3
    x, u = torch.special.ndtri(uniform[:, :, 0]), uniform[:, :, 1]  # (K, P, Z)
    c = (9 * d).rsqrt()
    log_v = 3 * (1 + c * x).clamp_min(1e-6).log()
    log_weight = x.square() / 2 + d * (log_v - log_v.exp()) + a * d.log() + (3 * d * c).log() - (a + 1).lgamma()
    log_weight = (log_weight + math.log(2 * math.pi) / 2).sum(-1).flatten(1)
    log_theta = (d.log() + log_v + u.log() / a).log_softmax(-1).flatten(1, 2)  # Gamma(a) = Gamma(a + 1) U^(1/a)
    density = log_theta @ (gammas - 1).mT - log_beta(gammas).unsqueeze(-2)  # (N, P, K)
    return log_theta, log_weight - (density.logsumexp(-1) - math.log(gammas.shape[-2]))


def log_beta(alpha: Tensor) -> Tensor:
    """Log of the integral of prod_v pi_v^(alpha_v - 1) over the simplex."""
    return alpha.lgamma().sum(-1) - alpha.sum(-1).lgamma()


@cache
def _lattice(size: int) -> Tensor:
    """Midpoints of 512 cells of equal size, or of 1600 triangles: ``(P, size)``."""
    if size == 2:
        line = (torch.arange(512, dtype=torch.float64) + 0.5) / 512
        return torch.stack([line, 1 - line], -1)
    steps = 40
    corner = torch.cartesian_prod(torch.arange(steps), torch.arange(steps)).double()
    cells = [(corner + third) / steps for third in (1 / 3, 2 / 3)]
    inside = torch.cat([one[one.sum(-1) < 1] for one in cells])
    return torch.cat([inside, 1 - inside.sum(-1, keepdim=True)], -1)


def moments(log_weight: Tensor, places: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
    """E[pi] ``(..., V)`` and E[sum_v pi_v^2] ``(...)`` of points ``(..., P, V)``, and of a guess where they are few.

    The moments of Dirichlet(guess) join with the weight of eight points, where P of them are worth 1 / sum_p w_p^2.
    """
    total = guess.sum(-1)
    known = guess / total.unsqueeze(-1)
    known_square = (total * known.square().sum(-1) + 1) / (total + 1)
    mean, square = _sums(log_weight, places)
    share = _TRUST / (1 / log_weight.softmax(-1).square().sum(-1) + _TRUST)
    return torch.lerp(mean, known, share.unsqueeze(-1)), torch.lerp(square, known_square, share)


def nearest(mean: Tensor, square: Tensor) -> Tensor:
    """Return alpha of the Dirichlet with this mean and total variance, a density to draw from: not below 0.05."""
    return (_concentration(mean, square) * mean).clamp_min(0.05)


def _sums(log_weight: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    weight = log_weight.softmax(-1)
    return (weight.unsqueeze(-1) * places).sum(-2), (weight * places.square().sum(-1)).sum(-1)


def _concentration(mean: Tensor, square: Tensor) -> Tensor:
    """A, ``(..., 1)``: Dirichlet(A mean) has the total variance sum_v Var pi_v = (1 - sum mean^2) / (A + 1)."""
    alike = mean.square().sum(-1, keepdim=True)
    spread = (square.unsqueeze(-1) - alike) / (1 - alike).clamp_min(1e-6)
    return 1 / spread.clamp(1e-6, 1.0) - 1


def _counts(mean: Tensor, square: Tensor, most: float) -> Tensor:
    """c = A mean - 1, with A large enough that no mean moves by more than the slack where c is cut off at zero."""
    least = 1 / (mean.amin(-1, keepdim=True) + _SLACK)
    counts = (torch.maximum(_concentration(mean, square), least) * mean - 1).clamp_min(0.0)
    return counts * (most / counts.sum(-1, keepdim=True).clamp_min(most))
