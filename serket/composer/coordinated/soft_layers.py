"""A small network that a Gaussian passes through in closed form, so that uncertainty survives it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["SoftLayers"]


@dataclass(frozen=True, slots=True, eq=False)
class SoftLayers:
    """y(x) = A x + C erf((W x + b) / sqrt 2) + c: a linear map beside one hidden layer; no hidden unit is linear alone.

    For x ~ N(mu, V), with s_h = 1 + w_h' V w_h and a = W mu + b:
    E y = A mu + C erf(a / sqrt(2 s)) + c, and E dy/dx = A + C diag(g) W with g = sqrt(2 / (pi s)) exp(-a^2 / (2 s)).
    By Stein's lemma Cov(y, x) = E[dy/dx] V exactly, so E[dy/dx] V E[dy/dx]' is the covariance of y that x explains
    linearly: a lower bound of the whole.

    Args:
        direct: A, ``(out, in)``.
        inner: W, ``(hidden, in)``.
        bias: b, ``(hidden,)``.
        outer: C, ``(out, hidden)``.
        offset: c, ``(out,)``.
    """

    direct: Tensor
    inner: Tensor
    bias: Tensor
    outer: Tensor
    offset: Tensor

    @classmethod
    def random(cls, inputs: int, hidden: int, outputs: int, generator: torch.Generator, like: Tensor) -> SoftLayers:
        """Draw a network whose outputs are about as large as inputs of variance 1."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=like.dtype, device=like.device)

        wide = max(hidden, 1)
        return cls(
            normal(outputs, inputs) / math.sqrt(2 * inputs),
            normal(hidden, inputs) / math.sqrt(inputs),
            0.5 * normal(hidden),
            normal(outputs, hidden) / math.sqrt(2 * wide),
            torch.zeros_like(like.new_empty(outputs)),
        )

    @classmethod
    def linear(cls, matrix: Tensor, offset: Tensor) -> SoftLayers:
        """Return y = A x + c."""
        nothing = matrix.new_zeros(0, matrix.shape[1])
        return cls(matrix, nothing, nothing.new_zeros(0), matrix.new_zeros(len(matrix), 0), offset)

    def __call__(self, x: Tensor) -> Tensor:
        """Return y at points ``(rows, in)``, ``(rows, out)``."""
        hidden = torch.special.erf(torch.addmm(self.bias, x, self.inner.T) / math.sqrt(2))
        return torch.addmm(torch.addmm(self.offset, x, self.direct.T), hidden, self.outer.T)

    def features(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """Return E[x] and E[erf(..)] for x ~ N(mean, covariance), ``(rows, in + hidden)``: what y is linear in."""
        a, s = self._inside(mean, covariance)
        return torch.cat([mean, torch.special.erf(a / (2 * s).sqrt())], -1)

    def through(self, mean: Tensor, covariance: Tensor, sloped: int) -> tuple[Tensor, Tensor]:
        """Return E[y], ``(rows, out)``, and E[dy/dx] of the first outputs, ``(rows, sloped, in)``, x ~ N(mean, cov).

        Args:
            mean: ``(rows, in)``.
            covariance: ``(rows, in)`` if diagonal, else ``(rows, in, in)``.
            sloped: how many outputs have their slopes computed.
        """
        a, s = self._inside(mean, covariance)
        hidden = torch.special.erf(a / (2 * s).sqrt())
        slope = (2 / (math.pi * s)).sqrt() * (-a.square() / (2 * s)).exp()
        value = mean @ self.direct.T + hidden @ self.outer.T + self.offset
        return value, self.direct[:sloped] + (self.outer[:sloped] * slope.unsqueeze(-2)) @ self.inner

    def _inside(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        if covariance.dim() == mean.dim():
            spread = covariance @ self.inner.square().T
        else:
            spread = ((self.inner @ covariance) * self.inner).sum(-1)
        return mean @ self.inner.T + self.bias, 1 + spread

    @property
    def weights(self) -> Tensor:
        """[A, C], ``(out, in + hidden)``: y is this times :meth:`features`, plus c."""
        return torch.cat([self.direct, self.outer], 1)

    def with_outputs(self, weights: Tensor, offset: Tensor) -> SoftLayers:
        """Return the same hidden layer under y = weights (x, erf(..)) + offset, ``(out, in + hidden)``."""
        inputs = self.inner.shape[1]
        return SoftLayers(weights[:, :inputs], self.inner, self.bias, weights[:, inputs:], offset)

    def silenced(self) -> SoftLayers:
        """Return the same hidden layer under y = 0."""
        return self.with_outputs(torch.zeros_like(self.weights), torch.zeros_like(self.offset))

    def to(self, like: Tensor) -> SoftLayers:
        """Return the network in another type, on another device."""
        return SoftLayers(*(value.to(like) for value in self.tensors().values()))

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters by name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}
