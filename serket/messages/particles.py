"""Weighted points: what a list of hypotheses says about a vector."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from serket.messages.atoms import Atoms
from serket.messages.gaussian import Gaussian

__all__ = ["Particles", "systematic"]


@dataclass(frozen=True, slots=True, eq=False)
class Particles(Atoms):
    """The potential factor(z) sum_l w_l delta(z - z_l) over L points, one row per sample; factor(z) where not present.

    It is proper iff some log-weight is finite. Products and quotients with Gaussians are exact; two sets of points in
    one row have no product, and a power tempers the weights: sum_l w_l^t delta(z - z_l).

    Args:
        points: z_l, ``(*batch, L, D)``.
        log_weights: log w_l, ``(*batch, L)``, nats; -inf excludes a point.
        present: ``(*batch,)`` bool; elsewhere the points are not looked at.
        info: information vector of the factor, ``(*batch, D)``.
        precision: its precision, ``(*batch, D)`` or ``(*batch, D, D)``.

    Raises:
        ShapeError: they do not describe the same rows and size.
    """

    points: Tensor
    log_weights: Tensor
    present: Tensor
    info: Tensor
    precision: Tensor

    @classmethod
    def of(
        cls, points: Tensor, log_weights: Tensor, present: Tensor | None = None, factor: Gaussian | None = None
    ) -> Self:
        """Build from points and log-weights: present everywhere and without a factor, unless said otherwise.

        Rows that are not present may hold anything, NaN too: they come out as zeros.
        """
        shape = points.shape[:-2]
        present = torch.ones(shape, dtype=torch.bool, device=points.device) if present is None else present
        factor = factor or Gaussian.vacuous(shape, points.shape[-1], dtype=points.dtype, device=points.device)
        points = torch.where(present[..., None, None], points, 0.0)
        return cls(points, torch.where(present[..., None], log_weights, 0.0), present, factor.info, factor.precision)

    @classmethod
    def absent(cls, factor: Gaussian) -> Self:
        """Return the message that is this Gaussian, with no row present."""
        none = torch.zeros(factor.batch_shape, dtype=torch.bool, device=factor.device)
        points = factor.info.new_zeros(*factor.batch_shape, 1, factor.size)
        return cls(points, points[..., 0], none, factor.info, factor.precision)

    def cloud(self) -> tuple[Tensor, Tensor]:
        """Return points and log-weights, the factor not yet in them."""
        return self.points, self.log_weights

    def particles(self) -> Particles:
        """Return the message itself."""
        return self

    def padded(self, count: int) -> Self:
        """Return the same message with ``count`` points, the new ones at the origin with weight zero."""
        more = count - self.points.shape[-2]
        excluded = torch.where(self.present.unsqueeze(-1), -math.inf, self.log_weights.new_zeros(more))
        points = torch.nn.functional.pad(self.points, (0, 0, 0, more))
        return replace(self, points=points, log_weights=torch.cat([self.log_weights, excluded], -1))

    def resampled(self, source: torch.Generator | Tensor, count: int) -> Self:
        """Draw ``count`` points by systematic resampling, of equal weight, with the same integral (SIR).

        Point l is taken count p_l times, rounded up or down (:func:`systematic`). The factor is in the points then, and
        is vacuous; rows without points keep theirs.

        Args:
            source: the generator, or one uniform number per row, ``(*batch,)``.
            count: points to draw.
        """
        if isinstance(source, torch.Generator):
            source = torch.rand(self.batch_shape, generator=source, dtype=self.dtype, device=self.device)
        index = systematic(self.weights(), source, count).unsqueeze(-1)
        level = (self.log_z() - math.log(count)).unsqueeze(-1).expand(*self.batch_shape, count)
        factor = Gaussian.vacuous(self.batch_shape, self.size, dtype=self.dtype, device=self.device)
        points = self.points.gather(-2, index.expand(*index.shape[:-1], self.size))
        return type(self).of(points, level, self.present, factor.where(self.present, self.factor))

    def _tempered(self, power: Tensor) -> Self:
        excluded = torch.isneginf(self.log_weights)
        scaled = torch.where(excluded, -math.inf, self.log_weights * power.unsqueeze(-1))
        return replace(self, log_weights=scaled)


def systematic(weights: Tensor, uniforms: Tensor, count: int) -> Tensor:
    """Return ``(*batch, count)`` indices drawn by systematic resampling (Kitagawa 1996).

    Index l is taken as often as the positions (u + i) / count, i = 0 .. count - 1, fall into its share of the
    cumulative weights: count p_l times, rounded up or down.

    Args:
        weights: p_l, ``(*batch, L)``, normalised.
        uniforms: u, ``(*batch,)``, in [0, 1).
        count: indices to draw.
    """
    shares = weights.cumsum(-1)
    whole = shares[..., -1:]  # one, but for rounding
    positions = (uniforms.unsqueeze(-1) + torch.arange(count, device=weights.device)) / count * whole
    # A position that rounds up to the whole belongs to the last share above zero.
    last = (shares < whole).sum(-1, keepdim=True)
    return torch.minimum(torch.searchsorted(shares.contiguous(), positions.contiguous(), right=True), last)
