"""Gaussian mixtures as values: densities, and integrals against messages.

Every parameter has a leading dimension C: chains while fitting, kept draws while inferring; nothing loops over it, nor
over components or rows. Units are standardised: the prior mean is 0 and pooled variances are 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from serket.messages.gaussian import factored

__all__ = [
    "Mixture",
    "Whitened",
    "blocks",
    "centre",
    "in_units",
    "log_density",
    "log_integral",
    "rows_of",
    "shared",
    "solve",
    "triangular",
]

_BLOCK = 2**20
"""Numbers in one block of precision matrices: blocks that stay in cache are several times faster than one big array."""


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Parameters of C mixtures: means ``(C, K, D)``, Cholesky factors of covariances ``(C, K, D, D)``, ``(C, K)``."""

    means: Tensor
    cholesky: Tensor
    log_weights: Tensor

    def __getitem__(self, chains: slice | Tensor) -> Self:
        return type(self)(self.means[chains], self.cholesky[chains], self.log_weights[chains])

    @classmethod
    def cat(cls, mixtures: Sequence[Self]) -> Self:
        """Put chains, or draws, one after another."""
        return cls(*(torch.cat(parts) for parts in zip(*(m.tensors().values() for m in mixtures), strict=True)))

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters by name."""
        return {"means": self.means, "cholesky": self.cholesky, "log_weights": self.log_weights}

    def relabel(self, order: Tensor) -> Self:
        """Make component ``order[c, k]`` of mixture c its component k; ``order`` is ``(C, K)``."""
        chain = torch.arange(len(order), device=order.device).unsqueeze(-1)
        return type(self)(self.means[chain, order], self.cholesky[chain, order], self.log_weights[chain, order])

    def whitening(self) -> Tensor:
        """Return F = L^-1, lower triangular, with F' F = Sigma^-1 and Sigma = L L'."""
        eye = torch.eye(self.means.shape[-1]).to(self.means)
        return triangular(self.cholesky, eye.expand_as(self.cholesky))


@dataclass(frozen=True, slots=True, eq=False)
class Whitened:
    """What integrals need of a mixture, an axis for rows in it: mu ``(C, K, 1, D)``, F with F' F = Sigma^-1
    ``(C, K, D, D)``, Sigma^-1 ``(C, K, 1, D, D)``, log det F ``(C, K, 1)``."""

    means: Tensor
    factor: Tensor
    inverse: Tensor
    log_det: Tensor

    @classmethod
    def of(cls, mixture: Mixture) -> Self:
        """Invert the covariances of a mixture."""
        factor = mixture.whitening()
        inverse, log_det = factor.mT @ factor, factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return cls(mixture.means.unsqueeze(-2), factor, inverse.unsqueeze(-3), log_det.unsqueeze(-1))


def log_density(mixture: Mixture, points: Tensor) -> Tensor:
    """Log N(z_n; mu_k, Sigma_k), nats, ``(C, N, K)``, of points ``(N, D)`` or ``(C, N, D)``."""
    whiten = mixture.whitening()
    shift = (whiten @ mixture.means.unsqueeze(-1)).flatten(-3).unsqueeze(-2)
    white = points @ whiten.flatten(-3, -2).mT - shift  # L_k^-1 (z_n - mu_k), the components side by side
    square = white.square().reshape(*white.shape[:-1], *mixture.means.shape[-2:]).sum(-1)
    log_det = whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1).unsqueeze(-2)
    return log_det - (square + points.shape[-1] * math.log(2 * math.pi)) / 2


def log_integral(mixture: Mixture, info: Tensor, precision: Tensor, whitened: Whitened | None = None) -> Tensor:
    """Log of the integral of N(z; mu_k, Sigma_k) exp(eta_n' z - z' Lambda_n z / 2) dz, nats, ``(C, N, K)``.

    With c_n = (Lambda_n + I)^-1 eta_n the potential is exp(c_n' u - u' Lambda_n u / 2 + (eta_n + c_n)' c_n / 2) in
    u = z - c_n: centred where the row is, so that nothing large cancels. With m = mu_k - c_n, P = Sigma_k^-1 + Lambda_n
    and h = c_n + Sigma_k^-1 m: (h' P^-1 h - m' Sigma_k^-1 m - log det(Sigma_k P) + (eta_n + c_n)' c_n) / 2.

    Args:
        mixture: C mixtures.
        info: ``(N, D)`` or ``(C, N, D)``.
        precision: ``(N, D, D)`` or ``(C, N, D, D)``, positive semidefinite; N may be 1: shared, and then factored once.
        whitened: of the mixture, where it is known.

    Raises:
        MessageError: Sigma_k^-1 + Lambda_n is not positive definite.
    """
    known = whitened or Whitened.of(mixture)
    width = mixture.means.numel() * (1 if precision.shape[-3] == 1 else info.shape[-1])
    parts = []
    for rows in blocks(info.shape[-2], width):
        eta, message = info[..., rows, :], rows_of(precision, rows)
        middle = centre(eta, message)
        constant = ((eta + middle) * middle).sum(-1).unsqueeze(-2) / 2
        middle = middle.unsqueeze(-3)
        white = (known.means - middle) @ known.factor.mT
        factor = factored(known.inverse + message.unsqueeze(-4))
        pull = solve(factor, white @ known.factor + middle)
        log_ratio = known.log_det - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        parts.append((pull.square().sum(-1) - white.square().sum(-1)) / 2 + log_ratio + constant)
    return (torch.cat(parts, -1) if len(parts) > 1 else parts[0]).mT


def in_units(info: Tensor, precision: Tensor, location: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Express messages over z as messages over u = (z - location) / scale."""
    return scale * (info - precision @ location), scale.unsqueeze(-1) * precision * scale


def shared(precision: Tensor) -> Tensor:
    """Return ``(1, D, D)`` if all rows hold the same matrix, else the precision ``(N, D, D)`` as it is."""
    return precision[:1] if precision.shape[0] > 1 and bool((precision == precision[:1]).all()) else precision


def blocks(rows: int, width: int) -> list[slice]:
    """Cut rows into slices of at most 2**20 numbers, at ``width`` numbers a row."""
    step = max(1, _BLOCK // max(1, width))
    return [slice(start, start + step) for start in range(0, max(rows, 1), step)]


def centre(info: Tensor, precision: Tensor) -> Tensor:
    """Posterior means under N(0, I): (Lambda + I)^-1 eta."""
    factor = factored(precision + torch.eye(info.shape[-1], dtype=info.dtype, device=info.device))
    half = solve(factor, info)
    return solve(factor, half, transpose=True)


def solve(factor: Tensor, vectors: Tensor, transpose: bool = False) -> Tensor:
    """Solve L x = v, or L' x = v, for v ``(..., N, D)`` and L ``(..., N, D, D)``, or ``(..., 1, D, D)``: for all."""
    factor = factor.mT if transpose else factor
    if factor.shape[-3] == 1:
        return triangular(factor.squeeze(-3), vectors.mT, transpose).mT
    return triangular(factor, vectors.unsqueeze(-1), transpose).squeeze(-1)


def triangular(factor: Tensor, right: Tensor, upper: bool = False) -> Tensor:
    """Solve L x = right, for lower (or upper) triangular L."""
    solution: Tensor = torch.linalg.solve_triangular(factor, right, upper=upper)
    return solution


def rows_of(precision: Tensor, rows: slice) -> Tensor:
    """Select rows of ``(..., N, D, D)``; a shared ``(..., 1, D, D)`` stays as it is."""
    return precision if precision.shape[-3] == 1 else precision[..., rows, :, :]
