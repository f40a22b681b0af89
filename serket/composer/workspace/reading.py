"""What messages say of a view's latent, as a network can take it in: shrunken means, and how far they are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from serket.messages import Gaussian
from serket.messages.gaussian import factored

__all__ = ["Reading", "Units", "read", "typical"]

TYPICAL = 0.1
"""A message counts in full from this quantile of the strengths met in training."""


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """Location and scale of a view's latent, ``(D,)``, and the strength from which its messages count in full."""

    location: Tensor
    scale: Tensor
    typical: Tensor

    def into(self, message: Gaussian) -> Gaussian:
        """Return the potential over (z - location) / scale."""
        return self._affine(message, self.location, self.scale)

    def out(self, message: Gaussian) -> Gaussian:
        """Return the potential over z."""
        return self._affine(message, -self.location / self.scale, 1 / self.scale)

    def to(self, like: Tensor) -> Self:
        """Return them in another type, on another device."""
        return type(self)(self.location.to(like), self.scale.to(like), self.typical.to(like))

    @staticmethod
    def _affine(message: Gaussian, location: Tensor, scale: Tensor) -> Gaussian:
        if message.diagonal:
            return Gaussian((message.info - message.precision * location) * scale, message.precision * scale**2)
        pulled = (message.precision @ location.unsqueeze(-1)).squeeze(-1)
        return Gaussian((message.info - pulled) * scale, scale.unsqueeze(-1) * message.precision * scale)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A view as read: zeros, bit for bit, in rows in which it says nothing.

    Args:
        mean: mu, ``(rows, D)``, of N(0, I) times the potential.
        told: W = I - Sigma, ``(rows, D)`` if diagonal, else ``(rows, D, D)``: 0 where nothing is told, 1 where all is.
        best: ``(rows,)``, x' W x of the potential's own mean x, the least that :meth:`distance` takes off.
        strength: ``(rows,)``, r in [0, 1]: the trace of W over a typical one.
        present: ``(rows,)`` bool.
    """

    mean: Tensor
    told: Tensor
    best: Tensor
    strength: Tensor
    present: Tensor

    def __getitem__(self, rows: Tensor) -> Self:
        return type(self)(self.mean[rows], self.told[rows], self.best[rows], self.strength[rows], self.present[rows])

    def __len__(self) -> int:
        return len(self.mean)

    def to(self, dtype: torch.dtype) -> Self:
        """Return it in another type."""
        mean, told, best, strength = (one.to(dtype) for one in (self.mean, self.told, self.best, self.strength))
        return type(self)(mean, told, best, strength, self.present)

    @property
    def shares(self) -> Tensor:
        """The diagonal of W, ``(rows, D)``."""
        return self.told if self.told.dim() == 2 else self.told.diagonal(dim1=-2, dim2=-1)

    def inputs(self, jitter: Tensor | None = None) -> Tensor:
        """Return [mu, diag W], ``(rows, 2 D)``; moved as another reading of the same z would have been.

        Given z, mu has the variance W (I - W): that times ``jitter``, standard normal numbers ``(rows, D)``.
        """
        shares = self.shares
        moved = self.mean if jitter is None else self.mean + (shares * (1 - shares)).clamp_min(0).sqrt() * jitter
        return torch.cat([moved, shares], -1)

    def distance(self, guess: Tensor) -> Tensor:
        """Return (x - guess)' W (x - guess) / D, ``(rows,)``: the squared error, as far as z is told.

        W = (I + Lambda^-1)^-1 is what -2 log of the potential, smoothed by N(0, I), weighs errors by. W x = mu.
        """
        pulled = self.told * guess if self.told.dim() == 2 else (self.told @ guess.unsqueeze(-1)).squeeze(-1)
        value = (guess * (pulled - 2 * self.mean)).sum(-1) + self.best
        return value.clamp_min(0) / guess.shape[-1]


def read(message: Gaussian, units: Units) -> Reading:
    """Read messages about z, ``(rows, D)``; raises MessageError where a precision is negative."""
    here = units.into(message)
    present = ~message.is_vacuous()
    if here.diagonal:
        told = here.precision / (1 + here.precision)
        mean = here.info / (1 + here.precision)
        best = torch.where(told > 0, mean.square() / torch.where(told > 0, told, 1.0), 0.0).sum(-1)
        trace = told.sum(-1)
    else:
        eye = torch.eye(here.size).to(here.precision)
        factor = factored(here.precision + eye)
        told = eye - torch.cholesky_inverse(factor)
        mean = torch.cholesky_solve(here.info.unsqueeze(-1), factor).squeeze(-1)
        slack = torch.finfo(told.dtype).eps ** 0.5
        half = torch.linalg.solve_triangular(factored(told + slack * eye), mean.unsqueeze(-1), upper=False)
        best = half.squeeze(-1).square().sum(-1)
        trace = told.diagonal(dim1=-2, dim2=-1).sum(-1)
    strength = torch.where(present, (trace / units.typical).clamp(0, 1), 0.0)
    wide = present.unsqueeze(-1)
    told = torch.where(wide if here.diagonal else wide.unsqueeze(-1), told, 0.0)
    return Reading(torch.where(wide, mean, 0.0), told, torch.where(present, best, 0.0), strength, present)


def typical(readings: Reading) -> Tensor:
    """Return the trace of W from which a message counts in full; 1 where nothing was ever told."""
    traces = readings.shares.sum(-1)[readings.present]
    if not len(traces):
        return readings.mean.new_ones(())
    return traces.quantile(TYPICAL).clamp_min(1e-3 * readings.mean.shape[-1])
