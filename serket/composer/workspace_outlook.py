"""What a view is told of itself, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from serket.messages import Gaussian

__all__ = ["Outlook", "outlook", "residual_covariance", "spread"]

ENTRIES = 2**19
"""Numbers that a block of states moved in every direction holds."""
ENOUGH = 2000
"""Rows that a covariance is measured on, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """How sure a view is of what it hears: N(d(s), gain G G' + noise), G what the spread of s makes of d.

    Args:
        gain: a number from 0 to 1.
        noise: ``(D, D)``.
        population: ``(D, D)``, covariance of the view's latent where nothing is known.
        paired: whether any row told how the view relates to the others.
    """

    gain: Tensor
    noise: Tensor
    population: Tensor
    paired: Tensor

    def to(self, like: Tensor) -> Self:
        """Return it in another type, on another device."""
        numbers = {name: getattr(self, name).to(like) for name in ("gain", "noise", "population")}
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
    stride = 1 + len(guess) // ENOUGH
    about = _about(told[::stride], guess[::stride])
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


def outlook(told: Gaussian, guess: Tensor, moved: Tensor, population: Tensor) -> Outlook:
    """Return the gain and the noise under which messages about z are likeliest, z ~ N(guess, gain G G' + noise).

    Args:
        told: messages about the view, ``(rows, D)``.
        guess: d(s), ``(rows, D)``.
        moved: G, ``(rows, D, S)``.
        population: the covariance where nothing is known.
    """
    if not len(guess):
        return Outlook(guess.new_ones(()), population, population, guess.new_zeros(()).bool())
    whole = residual_covariance(told, guess)
    wide = moved @ moved.mT
    root = torch.linalg.cholesky(whole)
    half = torch.linalg.solve_triangular(root, wide.mean(0), upper=False)
    values, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(root, half.mT, upper=False))
    about = _about(told, guess)
    best, found = -torch.inf, None
    for gain in (0.25, 0.5, 0.75, 1.0):
        # What the spread of s does not account for; at least a tenth of the variance in every direction.
        left = root @ vectors @ (1 - gain * values).clamp_min(0.1).diag() @ (root @ vectors).mT
        prior = Gaussian.from_moments(torch.zeros_like(guess), gain * wide + left)
        likelihood = float(((prior * about).log_z() - prior.log_z()).mean())
        if likelihood > best:
            best = likelihood
            found = Outlook(guess.new_tensor(gain), left, population, guess.new_ones(()).bool())
    assert found is not None, "a likelihood is a number"
    return found


def _about(told: Gaussian, guess: Tensor) -> Gaussian:
    """Return messages about z as messages about z - guess, full."""
    wide = told.full().precision
    return Gaussian(told.info - (wide @ guess.unsqueeze(-1)).squeeze(-1), wide)
