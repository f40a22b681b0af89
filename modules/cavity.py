"""The inbox of a latent, factored once, for many steps of a network that multiplies its potential into it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from serket.messages import Gaussian

__all__ = ["Cavity"]


@dataclass(frozen=True, slots=True, eq=False)
class Cavity:
    """Proper Gaussians n, a row each, with what KL(n m || n) needs of them.

    Args:
        info: Lambda_0 mu_0, ``(rows, D)``.
        precision: Lambda_0, ``(rows, D)`` or ``(rows, D, D)``.
        mean: mu_0, ``(rows, D)``.
        log_det: log det Lambda_0, ``(rows,)``.
    """

    info: Tensor
    precision: Tensor
    mean: Tensor
    log_det: Tensor

    @classmethod
    def of(cls, inbox: Gaussian) -> Cavity:
        """Factor the rows of a proper message."""
        if inbox.diagonal:
            return cls(inbox.info, inbox.precision, inbox.info / inbox.precision, inbox.precision.log().sum(-1))
        factor = torch.linalg.cholesky(inbox.precision)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return cls(
            inbox.info, inbox.precision, torch.cholesky_solve(inbox.info.unsqueeze(-1), factor).squeeze(-1), log_det
        )

    def __getitem__(self, rows: Tensor) -> Cavity:
        parts = (self.info, self.precision, self.mean, self.log_det)
        return Cavity(*(part.index_select(0, rows) for part in parts))

    def meet(self, potential: Gaussian, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws of q = n m, for a diagonal potential m, and KL(q || n) in nats, ``(rows,)``.

        With Lambda = Lambda_0 + diag(lambda) and mu - mu_0 = Lambda^-1 (eta - lambda mu_0):
        KL = [ log det Lambda - log det Lambda_0 - sum_i lambda_i (Lambda^-1)_ii + |mu - mu_0|^2_Lambda_0 ] / 2.

        Args:
            potential: m, ``(rows, D)``, diagonal.
            noise: standard normal, ``(..., rows, D)``.
        """
        eta = potential.info - potential.precision * self.mean
        if self.precision.dim() == self.info.dim():
            precision = self.precision + potential.precision
            gap, variance, log_det = eta / precision, 1 / precision, precision.log().sum(-1)
            spread, pulled = noise * precision.rsqrt(), self.precision * gap
        else:
            # One Cholesky factor and its inverse W serve the mean, the draws, the trace and the determinant.
            factor, _ = torch.linalg.cholesky_ex(self.precision + torch.diag_embed(potential.precision))
            inverse = torch.linalg.solve_triangular(factor, torch.eye(factor.shape[-1]).to(factor), upper=False)
            gap = _times(inverse.mT, _times(inverse, eta))
            variance, log_det = inverse.square().sum(-2), 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            spread, pulled = _times(inverse.mT, noise), _times(self.precision, gap)
        divergence = (gap * pulled - potential.precision * variance).sum(-1) + log_det - self.log_det
        return self.mean + gap + spread, divergence / 2

    def pooled(self) -> Gaussian:
        """Return the diagonal Gaussian with mean and variance of all rows together, ``(D,)``."""
        if self.precision.dim() == self.info.dim():
            variance = 1 / self.precision
        else:
            variance = torch.linalg.inv(self.precision).diagonal(dim1=-2, dim2=-1)
        total = variance.mean(0) + self.mean.var(0, correction=0)
        return Gaussian.from_moments(self.mean.mean(0), total)

    def judge(self, q: Gaussian, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws of any diagonal q ``(rows, D)`` and KL(q || n): what :meth:`meet` does where q is not n m."""
        mean, variance = q.info / q.precision, 1 / q.precision
        gap = mean - self.mean
        if self.precision.dim() == self.info.dim():
            diagonal, pulled = self.precision, self.precision * gap
        else:
            diagonal, pulled = self.precision.diagonal(dim1=-2, dim2=-1), _times(self.precision, gap)
        divergence = (diagonal * variance - 1 + gap * pulled + q.precision.log()).sum(-1) - self.log_det
        return mean + noise * variance.sqrt(), divergence / 2


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
