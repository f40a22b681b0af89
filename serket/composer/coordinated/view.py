"""One view of a coordinated composer: its units, its way into the shared space and its way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from serket.composer.coordinated.closeness import Code
from serket.composer.coordinated.soft_layers import SoftLayers
from serket.messages import Gaussian

__all__ = ["CoordinatedView", "Reading"]


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """q(z) = a view's marginal times a message, in units of the marginal, ``(rows, D)``; present, ``(rows,)`` bool."""

    mean: Tensor
    variance: Tensor
    present: Tensor

    def at(self, rows: Tensor) -> Reading:
        """Select rows."""
        return Reading(self.mean[rows], self.variance[rows], self.present[rows])

    def to(self, dtype: torch.dtype) -> Reading:
        """Return the reading in another type."""
        return Reading(self.mean.to(dtype), self.variance.to(dtype), self.present)


@dataclass(frozen=True, slots=True, eq=False)
class CoordinatedView:
    """Parameters of a view, float64.

    Args:
        location: mean of its marginal, ``(D,)``.
        spread: standard deviation of its marginal, ``(D,)``: inside, z is in units of these.
        log_noise: of the decoder that the encoder was trained with, ``(D,)``.
        residual: covariance R of what predictions from one, two, three or more others leave, ``(B, D, D)``.
        carried: share of the uncertainty of s that reaches predictions, likewise, ``(B,)``.
        encoder: from z to mean and gain of s, ``2 K`` outputs.
        decoder: from s to z.
    """

    location: Tensor
    spread: Tensor
    log_noise: Tensor
    residual: Tensor
    carried: Tensor
    encoder: SoftLayers
    decoder: SoftLayers

    def read(self, message: Gaussian) -> Reading:
        """Return mean and variance per dimension of the marginal times a message."""
        present = ~message.is_vacuous()
        belief = message.mask(present).to(torch.float64, message.device) * self.marginal(len(present))
        return Reading((belief.mean() - self.location) / self.spread, belief.variance() / self.spread.square(), present)

    def marginal(self, rows: int) -> Gaussian:
        """Return N(location, diag spread^2), in every row."""
        return Gaussian.from_moments(self.location, self.spread.square()).expand(rows)

    def encode(self, reading: Reading) -> Code:
        """Return E q(s | z) over q(z) as a diagonal Gaussian: v = E v(z) + Var m(z)."""
        outputs, slope = self.encoder.through(reading.mean, reading.variance, len(self.encoder.offset) // 2)
        code = Code.of(outputs)
        carried = (slope.square() @ reading.variance.unsqueeze(-1)).squeeze(-1)
        return Code(code.mean, code.variance + carried)

    def predict(self, belief: Gaussian, others: Tensor) -> Gaussian:
        """Return the integral of p(z | s) over a proper belief of s: N(E z, t G V G' + R), full.

        Args:
            belief: of s, ``(rows, K)``.
            others: how many views it comes from, ``(rows,)``: R and the share t are theirs.
        """
        wide = belief.full()
        covariance = wide.covariance()
        mean, slope = self.decoder.through(wide.mean(), covariance, len(self.location))
        case = (others - 1).clamp(0, len(self.carried) - 1)
        spread = self.carried[case][:, None, None] * (slope @ covariance @ slope.mT) + self.residual[case]
        unit = self.spread.unsqueeze(-1) * self.spread
        return Gaussian.from_moments(self.location + self.spread * mean, unit * spread)

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters by name."""
        found: dict[str, Tensor] = {}
        for name in (part.name for part in fields(self)):
            value = getattr(self, name)
            inside = value.tensors() if isinstance(value, SoftLayers) else {"": value}
            found |= {f"{name}.{key}".rstrip("."): one for key, one in inside.items()}
        return found

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> CoordinatedView:
        """Undo :meth:`tensors`."""
        encoder, decoder = (
            SoftLayers(*(tensors[f"{name}.{part.name}"] for part in fields(SoftLayers)))
            for name in ("encoder", "decoder")
        )
        plain = (tensors[name] for name in ("location", "spread", "log_noise", "residual", "carried"))
        location, spread, log_noise, residual, carried = plain
        return cls(location, spread, log_noise, residual, carried, encoder, decoder)

    def to(self, like: Tensor) -> CoordinatedView:
        """Return the view in another type, on another device."""
        return self.of({name: value.to(like) for name, value in self.tensors().items()})
