"""One latent of a relative composer: its units, its anchors in them, and how far wrong the anchors are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from serket.composer.relative.anchors import Near
from serket.messages import Gaussian, pooled_moments

__all__ = ["Reading", "Space", "over_prior", "principal_coordinates"]

FLOOR = 1e-4  # of a variance, as a fraction of the population's
Reading = tuple[Tensor, Tensor, Tensor]
"""Mean ``(rows, D)`` and covariance of q(z), in units of the population, and how far it is to be heard, ``(rows,)``."""


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """The population N(location, scale^2) of a latent z, in units of which all else is, and the anchors in it.

    Args:
        location: ``(D,)``.
        scale: ``(D,)``.
        anchors: ``(N, D)``, posterior means.
        open: ``(D, D)``, what the anchors' own messages leave open on average.
        told: share of variance that the least informed anchor resolves.
        errors: ``(P, D, D)``, covariance of the errors made for anchors left out, by the number of sources.
        stretch: ``(P,)``, what makes the anchors' scatter as large.
    """

    location: Tensor
    scale: Tensor
    anchors: Tensor
    open: Tensor
    told: Tensor
    errors: Tensor
    stretch: Tensor

    @classmethod
    def of(cls, message: Gaussian, rows: Tensor) -> Space:
        """Return the space of a view, with these rows of its messages as anchors and errors still to be measured."""
        location, variance = pooled_moments(message.to(torch.float64, message.device))
        scale, size = variance.sqrt(), message.size
        blank = cls(
            location, scale, location, torch.zeros(size, size).to(scale), torch.ones(()).to(scale), scale, scale
        )
        mean, covariance, told = blank.read(message[rows], prior_inside=False)
        return replace(blank, anchors=mean, open=covariance.mean(0), told=told.sqrt().amin().clamp_min(FLOOR))

    @classmethod
    def at(cls, coordinates: Tensor, scale: Tensor) -> Space:
        """Return the space of a latent N(0, scale^2), from the anchors' coordinates ``(N, D)`` in units of scale."""
        zeros, one = torch.zeros_like(scale), torch.ones(()).to(scale)
        return cls(zeros, scale, coordinates, torch.diag(zeros), one, zeros, zeros)

    def read(self, message: Gaussian, *, prior_inside: bool) -> Reading:
        """Read q(z): the message itself if it holds a prior (and is proper), else the population times the message.

        A reading is heard as the squared share of variance it resolves, over that of the least informed anchor, at most
        1: whispers count for little, and nothing for nothing.
        """
        told = message.to(torch.float64, message.device)
        whole = told * Gaussian.from_moments(self.location, self.scale.square()).expand(len(told.info))
        belief = told.where(told.is_proper(), whole) if prior_inside else whole
        covariance = belief.covariance() / self.scale.unsqueeze(1) / self.scale
        share = 1 - covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
        heard = (share / self.told).clamp(0, 1).square()
        heard = torch.where(message.is_vacuous() | (heard < 1e-6), 0.0, heard)  # by rounding a prior tells something
        return (belief.mean() - self.location) / self.scale, covariance, heard

    def to(self, device: torch.device) -> Space:
        """Return the space on another device."""
        return Space(*(getattr(self, part.name).to(device) for part in fields(self)))

    def around(self, sources: Sequence[Near]) -> Reading:
        """Return mean and scatter of the anchors that the sources are near to, and the sources' gain in all."""
        total = torch.stack([source.gain for source in sources]).sum(0)
        mean = self.anchors.new_zeros(len(total), self.anchors.shape[1])
        second = mean.unsqueeze(-1) * mean.unsqueeze(-2)
        for source in sources:
            share = torch.where(source.gain > 0, source.gain / torch.where(total > 0, total, 1.0), 0.0)
            chosen = self.anchors[source.which]
            weighed = (share.unsqueeze(1) * source.weight).unsqueeze(-1) * chosen
            mean, second = mean + weighed.sum(1), second + weighed.mT @ chosen
        return mean, second - mean.unsqueeze(-1) * mean.unsqueeze(-2), total

    def measured(self, sources: Sequence[Near]) -> Space:
        """Return the space with errors and stretch, from sources of which none saw the anchor it reads for.

        For each number P of sources, anchor n is predicted from P of them, from the n-th on in turn: no subset is left
        to chance, and all together cost the square of the sources, not 2 to their number.
        """
        count, size = self.anchors.shape
        turn, many = torch.arange(count, device=self.anchors.device), len(sources)
        errors, stretch = [], []
        for used in range(1, many + 1):
            some = [source.masked((place - turn) % many < used) for place, source in enumerate(sources)]
            mean, scatter, _ = self.around(some)
            gap = self.anchors - mean
            error = gap.T @ gap / count
            # Few anchors say little of how errors go together.
            error = (count * error + size * error.diagonal().diag()) / (count + size)
            error = error + FLOOR * torch.eye(size).to(error)
            width = scatter.mean(0).trace()
            wide = bool(width > FLOOR * size)  # one anchor a reading has no scatter
            errors.append(error if wide else 2 * error)
            stretch.append(error.trace() / width if wide else torch.zeros_like(width))
        return replace(self, errors=torch.stack(errors), stretch=torch.stack(stretch))

    def predict(self, sources: Sequence[Near]) -> tuple[Tensor, Tensor]:
        """Return mean and covariance of z, in units of the population, which is the answer where nothing is read.

        N(m, (c S + R) / 2 + open) with m, S mean and scatter of the anchors near, R the errors and c their stretch. The
        sources are about this row with probability G = 1 - prod_m (1 - gain_m), else z is anybody's: the mixture with
        the population, projected.
        """
        mean, scatter, _ = self.around(sources)
        speak = torch.stack([source.gain > 0 for source in sources]).sum(0)
        kind = (speak - 1).clamp(0, len(self.errors) - 1)
        covariance = (self.stretch[kind, None, None] * scatter + self.errors[kind]) / 2 + self.open
        heard = (1 - torch.stack([1 - source.gain for source in sources]).prod(0))[:, None]
        wide = heard.unsqueeze(-1)
        apart = (wide * (1 - wide)) * mean.unsqueeze(-1) * mean.unsqueeze(-2)
        mixed = wide * covariance + (1 - wide) * torch.eye(mean.shape[1]).to(mean) + apart
        return heard * mean, mixed

    def out_of_units(self, mean: Tensor, covariance: Tensor) -> Gaussian:
        """Return a prediction in the units of z."""
        return Gaussian.from_moments(
            self.location + self.scale * mean, covariance * self.scale.unsqueeze(1) * self.scale
        )


def over_prior(mean: Tensor, covariance: Tensor, scale: Tensor) -> Gaussian:
    """Return N(mean, covariance) / N(0, I), at most as wide in any direction, as a message about scale times that."""
    values, vectors = torch.linalg.eigh(covariance)
    precision = 1 / values.clamp(max=1.0)
    info = (vectors * precision.unsqueeze(-2)) @ (vectors.mT @ mean.unsqueeze(-1))
    told = (vectors * (precision - 1).unsqueeze(-2)) @ vectors.mT
    return Gaussian(info.squeeze(-1) / scale, told / (scale.unsqueeze(1) * scale))


def principal_coordinates(points: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the rows' principal components in units of their deviations, ``(N, size)``, and those, ``(size,)``.

    Components that there are too few rows for are zero, in units of the last one there is.

    Signs are such that the largest loading of a component is positive.
    """
    centred = points - points.mean(0)
    left, values, right = torch.linalg.svd(centred, full_matrices=False)
    kept = values > 1e-6 * values.amax().clamp_min(torch.finfo(values.dtype).tiny)
    sign = right.gather(1, right.abs().argmax(1, keepdim=True)).sign().squeeze(1)
    whole = torch.zeros(len(points), size).to(points)
    some = min(size, len(values))
    whole[:, :some] = (left * (kept * sign) * len(points) ** 0.5)[:, :some]
    scale = values / len(points) ** 0.5
    least = scale[kept].amin() if bool(kept.any()) else torch.ones(()).to(scale)
    deviations = least.expand(size).clone()
    deviations[:some] = torch.where(kept, scale, least)[:some]
    return whole, deviations
