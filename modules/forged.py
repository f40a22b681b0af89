"""What a bidirectional GAN imagines, and how its inference network is calibrated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from serket.messages import Gaussian
from serket.modules.likelihoods import Imagined

__all__ = ["Forged", "calibrated"]


def calibrated(code: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Regress z on codes of what was generated from it, over half of the rows; measure what is left on the others.

    Args:
        code: E(G(z)), ``(rows, D)``.
        z: draws of N(0, I), ``(rows, D)``.

    Returns:
        A and, last, b, ``(D + 1, D)``; the covariance of what is left ``(D, D)``, at most I.
    """
    fit, check = code.split(len(z) // 2)
    mean, spread = fit.mean(0), fit.std(0).clamp_min(1e-6)
    # A ridge of a thousandth of a deviation, for codes that are nearly copies of one another.
    unit = torch.cat([(fit - mean) / spread, torch.ones_like(fit[:, :1])], -1)
    ridge = 1e-3 * len(fit) * torch.eye(unit.shape[-1]).to(fit)
    slope = torch.cholesky_solve(unit.mT @ z[: len(fit)], torch.linalg.cholesky(unit.mT @ unit + ridge))
    readout = torch.cat([slope[:-1] / spread.unsqueeze(-1), slope[-1:] - (mean / spread) @ slope[:-1]])
    left = z[len(fit) :] - check @ readout[:-1] - readout[-1]
    values, vectors = torch.linalg.eigh(left.mT @ left / len(left))
    # Never wider than the prior, by chance: a direction that is not read says nothing.
    residual = (vectors * values.clamp(1e-6, 1.0)) @ vectors.mT
    return readout, (residual + residual.mT) / 2


class Forged(Imagined):
    """What a gan imagines: moments and density of :class:`Imagined`, draws that are generated rows without noise."""

    category_probs = None

    def __init__(
        self, centre: Distribution, draws: Distribution, belief: Gaussian, made: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(centre, draws)
        self.uniforms, self._belief, self._made = belief.size, belief, made

    def from_uniform(self, uniform: Tensor) -> Tensor:
        """Turn uniform numbers ``(rows, samples, uniforms)`` into draws ``(rows, samples, D)``."""
        return self._made(self._belief.shift(torch.special.ndtri(uniform).transpose(0, 1))).transpose(0, 1)
