"""What a view is told of itself, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from serket.messages import Gaussian, some_of

__all__ = ["Outlook", "outlook", "residual_covariance", "spread"]

ENTRIES = 2**19
"""Numbers that a block of states moved in every direction holds."""
ENOUGH = 2000
"""Rows that a covariance is measured on, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """How sure a view is of what it hears: N(d(s), exp([1, c] wider) (gain G G' + noise)).

    G is what the spread of s makes of d, c_m how strongly each view was heard, at most 1.

    Args:
        gain: a number from 0 to 1.
        noise: ``(D, D)``.
        wider: ``(1 + M,)``, of all replies, and of those that hear view m.
        population: ``(D, D)``, covariance of the view's latent where nothing is known.
        paired: whether any row told how the view relates to the others.
    """

    gain: Tensor
    noise: Tensor
    wider: Tensor
    population: Tensor
    paired: Tensor

    def covariance(self, moved: Tensor, strength: Tensor) -> Tensor:
        """Return it for G, ``(rows, D, S)``, and views that were heard as strongly, ``(rows, M)``."""
        factor = (self.wider[0] + strength.clamp_max(1) @ self.wider[1:]).exp()
        return factor[:, None, None] * (self.gain * moved @ moved.mT + self.noise)

    def to(self, like: Tensor) -> Self:
        """Return it in another type, on another device."""
        numbers = {name: getattr(self, name).to(like) for name in ("gain", "noise", "wider", "population")}
        return type(self)(**numbers, paired=self.paired.to(like.device))


def spread(scatter: Callable[[Tensor], Tensor], states: Tensor, steps: Tensor) -> Tensor:
    """Return G, ``(rows, D, S)``: half of what a step of one deviation up and down changes in d.

    Args:
        scatter: d, from states ``(..., S)``.
        states: ``(rows, S)``.
        steps: ``(rows, S, S)``, a step per row of each matrix: together a root of the covariance of the states.
    """
    parts, block = [], max(1, ENTRIES // states.shape[-1] ** 2)
    for here, step in zip(states.split(block), steps.split(block), strict=True):
        up, down = (scatter(here.unsqueeze(1) + side * step) for side in (1, -1))
        parts.append((up - down).mT / 2)
    return torch.cat(parts)


def residual_covariance(told: Gaussian, guess: Tensor, steps: int = 15) -> Tensor:
    """Return C, ``(D, D)``, of z ~ N(guess, C), z known by the messages ``told``, by EM; with a little shrinkage.

    C = mean of Sigma_n + m_n m_n', the moments of N(0, C) times the message about z - guess.
    """
    some = some_of(len(guess), ENOUGH)
    about = _about(told[some], guess[some])
    info, precision = about.info, about.precision
    eye = torch.eye(told.size).to(info)
    covariance = eye
    for _ in range(steps):
        inverse = torch.linalg.inv(eye + covariance @ precision) @ covariance
        mean = (inverse @ info.unsqueeze(-1)).squeeze(-1)
        second = inverse.sum(0) + mean.mT @ mean
        # As if D more rows had been seen, with the same variances, but uncorrelated, and one of N(0, I).
        share = len(info) / (len(info) + told.size)
        second = (second + eye) / (len(info) + 1)
        covariance = share * second + (1 - share) * second.diagonal().diag()
        covariance = (covariance + covariance.T) / 2
    return covariance


def outlook(told: Gaussian, guess: Tensor, moved: Tensor, strength: Tensor, population: Tensor) -> Outlook:
    """Return the gain and the noise under which messages about z are likeliest, z ~ N(guess, gain G G' + noise).

    Args:
        told: messages about the view, ``(rows, D)``.
        guess: d(s), ``(rows, D)``.
        moved: G, ``(rows, D, S)``.
        strength: c_m, ``(rows, M)``.
        population: the covariance where nothing is known.
    """
    if not len(guess):
        still = guess.new_zeros(1 + strength.shape[1])
        return Outlook(guess.new_ones(()), population, still, population, guess.new_zeros(()).bool())
    whole = residual_covariance(told, guess)
    wide = moved @ moved.mT
    root = torch.linalg.cholesky(whole)
    half = torch.linalg.solve_triangular(root, wide.mean(0), upper=False)
    values, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(root, half.mT, upper=False))
    about = _about(told, guess)
    best, found = -torch.inf, None
    still = guess.new_zeros(1 + strength.shape[1])
    for gain in (0.25, 0.5, 0.75, 1.0):
        # What the spread of s does not account for; at least a tenth of the variance in every direction.
        left = root @ vectors @ (1 - gain * values).clamp_min(0.1).diag() @ (root @ vectors).mT
        prior = Gaussian.from_moments(torch.zeros_like(guess), gain * wide + left)
        likelihood = float(((prior * about).log_z() - prior.log_z()).mean())
        if likelihood > best:
            best = likelihood
            found = Outlook(guess.new_tensor(gain), left, still, population, guess.new_ones(()).bool())
    assert found is not None, "a likelihood is a number"
    return replace(found, wider=_wider(about, found.covariance(moved, strength), strength))


def _wider(about: Gaussian, covariance: Tensor, strength: Tensor) -> Tensor:
    """Return w such that errors, known by messages about them, are likeliest under N(0, exp([1, c] w) covariance)."""
    seen = torch.cat([torch.ones_like(strength[:, :1]), strength.clamp_max(1)], 1)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    wider = seen.new_zeros(seen.shape[1])
    for _ in range(5):  # expectation maximisation; inside, Newton's steps on log f + r / f, f = exp(seen w)
        believed = Gaussian(about.info, about.precision + inverse * (-seen @ wider).exp()[:, None, None])
        mean, spread = believed.mean(), believed.covariance()
        ratio = (
            (inverse * spread).sum((1, 2)) + ((inverse @ mean.unsqueeze(-1)).squeeze(-1) * mean).sum(1)
        ) / about.size
        for _ in range(10):
            over = ratio * (-seen @ wider).exp()
            # Ten rows' worth of doubt: w ~ N(0, 1 / 10 D).
            slope = (seen * (1 - over).unsqueeze(1)).sum(0) + 10 * wider
            bend = seen.T @ (seen * over.unsqueeze(1)) + 10 * torch.eye(len(wider)).to(wider)
            wider = wider - torch.linalg.solve(bend, slope).clamp(-1, 1)
    return wider.clamp(-3, 3)


def _about(told: Gaussian, guess: Tensor) -> Gaussian:
    """Return messages about z as messages about z - guess, full."""
    wide = told.full().precision
    return Gaussian(told.info - (wide @ guess.unsqueeze(-1)).squeeze(-1), wide)
