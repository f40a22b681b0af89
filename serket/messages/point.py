"""A certain value of a vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from serket.errors import MessageError, listed
from serket.messages.atoms import Atoms
from serket.messages.gaussian import Gaussian
from serket.messages.particles import Particles

__all__ = ["Point"]


@dataclass(frozen=True, slots=True, eq=False)
class Point(Atoms):
    """The potential factor(z) delta(z - value), one row per sample; factor(z) where not present. It is always proper.

    Times a Gaussian it is the same point, with the Gaussian in its factor. Two points in one row agree or contradict
    each other; nothing is divided by a point.

    Args:
        value: ``(*batch, D)``, finite.
        present: ``(*batch,)`` bool; elsewhere the value is not looked at.
        info: information vector of the factor, ``(*batch, D)``.
        precision: its precision, ``(*batch, D)`` or ``(*batch, D, D)``.

    Raises:
        ShapeError: they do not describe the same rows and size.
    """

    value: Tensor
    present: Tensor
    info: Tensor
    precision: Tensor

    @classmethod
    def of(cls, value: Tensor, present: Tensor | None = None, factor: Gaussian | None = None) -> Self:
        """Build from values: present everywhere and without a factor, unless said otherwise; absent rows become 0."""
        present = torch.ones(value.shape[:-1], dtype=torch.bool, device=value.device) if present is None else present
        factor = factor or Gaussian.vacuous(value.shape[:-1], value.shape[-1], dtype=value.dtype, device=value.device)
        return cls(torch.where(present.unsqueeze(-1), value, 0.0), present, factor.info, factor.precision)

    @classmethod
    def absent(cls, factor: Gaussian) -> Self:
        """Return the message that is this Gaussian, with no row present."""
        none = torch.zeros(factor.batch_shape, dtype=torch.bool, device=factor.device)
        return cls(torch.zeros_like(factor.info), none, factor.info, factor.precision)

    def cloud(self) -> tuple[Tensor, Tensor]:
        """Return the value as the only point, with weight one."""
        return self.value.unsqueeze(-2), torch.zeros_like(self.value[..., :1])

    def particles(self) -> Particles:
        """Return the same message as one particle of weight one."""
        return Particles(*self.cloud(), self.present, self.info, self.precision)

    def _meet(self, other: Atoms, rows: Tensor) -> None:
        if not isinstance(other, Point):
            super(Point, self)._meet(other, rows)
            return
        apart = rows & (self.value != other.value).any(-1)
        if bool(apart.any()):
            found = apart.reshape(-1).nonzero().flatten().tolist()
            row = (
                self.value.reshape(-1, self.size)[found[0]].tolist(),
                other.value.reshape(-1, self.size)[found[0]].tolist(),
            )
            raise MessageError(
                "two certain values contradict each other",
                where=f"rows {listed(found)}",
                expected="the same value in both, or one that is uncertain",
                found=f"{row[0]} and {row[1]} in row {found[0]}",
                fix="send one of them with its uncertainty: Gaussian.from_moments(value, variance)",
            )
