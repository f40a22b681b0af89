"""What a Gaussian mixture, averaged over kept draws, answers: scores upwards, and its mixture as one Gaussian."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import cast

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from serket.errors import ShapeError
from serket.messages import Gaussian, Message, Particles, moment_match
from serket.messages.gaussian import factored
from serket.modules.mixture import Mixture, Whitened, blocks, in_units, log_density, log_integral, shared, triangular
from serket.modules.seen import complete
from serket.protocol import Evidence
from serket.rows import row_uniform

__all__ = ["Fitted", "log_mean"]


class Fitted:
    """Kept draws in standardised units, u = (z - location) / scale."""

    def __init__(self, kept: Mixture, location: Tensor, scale: Tensor) -> None:
        self.kept, self.location, self.scale = kept, location, scale

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Fitted:
        """Return the same in another type, on another device."""
        if self.location.dtype == dtype and self.location.device == torch.device(device):
            return self
        kept = Mixture(*(part.to(device, dtype) for part in self.kept.tensors().values()))
        return Fitted(kept, self.location.to(device, dtype), self.scale.to(device, dtype))

    @cached_property
    def whitened(self) -> Whitened:
        """Inverses of the covariances, the same for every row of every call."""
        return Whitened.of(self.kept)

    def moved(self, location: Tensor, scale: Tensor) -> Mixture:
        """Express the draws in other units."""
        means = (self.location + self.scale * self.kept.means - location) / scale
        return Mixture(means, (self.scale / scale).unsqueeze(-1) * self.kept.cholesky, self.kept.log_weights)

    def scores(self, inbox: Mapping[str, Message], evidence: Evidence) -> Tensor:
        """Log-likelihood of each row's evidence per draw and component, ``(S, rows, K)``; zeros where there is none."""
        draws, components, _ = self.kept.means.shape
        if "observation" in inbox:
            message = cast(Gaussian, inbox["observation"])
            self.fits(message.size, "observation")
            vacuous = message.is_vacuous()
            if not bool(vacuous.any()):
                return self._integrals(message)
            rows = ~vacuous
            told = self._integrals(message[rows])
        elif evidence.values is not None:
            self.fits(evidence.values.shape[-1], "data")
            rows = complete(evidence)
            points = (evidence.values[rows].to(self.location) - self.location) / self.scale
            parts = [log_density(self.kept, points[some]) for some in blocks(len(points), self.kept.means.numel())]
            told = torch.cat(parts, 1) - self.scale.log().sum()
        else:
            return self.location.new_zeros(draws, len(evidence), components)
        scores = self.location.new_zeros(draws, len(evidence), components)
        scores[:, rows] = told
        return scores

    def _integrals(self, message: Gaussian) -> Tensor:
        """Log of the integral of each component times each row's message, ``(S, rows, K)``."""
        message = message.full()
        info, precision = in_units(message.info, message.precision, self.location, self.scale)
        constant = (self.location * (message.info + info / self.scale)).sum(-1) / 2  # log m(location)
        return log_integral(self.kept, info, shared(precision), self.whitened) + constant.unsqueeze(-1)

    def projected(self, log_probs: Tensor) -> Gaussian:
        """Project sum_k p_k (1/S) sum_s N(mu_k, Sigma_k) onto one Gaussian per row; the draws of a component first."""
        means = self.kept.means.mean(0)
        gap = self.kept.means - means
        covariances = (self.kept.cholesky @ self.kept.cholesky.mT + gap.unsqueeze(-1) * gap.unsqueeze(-2)).mean(0)
        parts = [
            moment_match(log_probs[rows], means, covariances) for rows in blocks(len(log_probs), covariances.numel())
        ]
        return self._out(Gaussian(torch.cat([p.info for p in parts]), torch.cat([p.precision for p in parts])))

    def tilted(self, log_probs: Tensor, scores: Tensor, message: Gaussian) -> Gaussian:
        """Project mixture times message onto a Gaussian and divide by the message (Minka 2001, EP).

        Component k of draw s weighs p_k times the integral of N(z; mu_k, Sigma_k) m(z) and becomes, with
        P = Sigma_k^-1 + Lambda, N(P^-1 (Sigma_k^-1 mu_k + eta), P^-1). Where the message splits the mixture, some
        directions of the quotient have negative precision. The quotient is taken in float64.
        """
        double = self.to(torch.float64, message.device)
        kept, full = double.kept, message.to(torch.float64, message.device).full()
        info, precision = in_units(full.info, full.precision, double.location, double.scale)
        whiten = kept.whitening().flatten(0, 1)
        inverse = whiten.mT @ whiten
        pull = (inverse @ kept.means.flatten(0, 1).unsqueeze(-1)).squeeze(-1)
        log_weights = (scores.double() + log_probs.double()).transpose(0, 1).flatten(1)  # (rows, S K)
        parts = []
        for rows in blocks(len(info), inverse.numel()):
            factor = factored(inverse + precision[rows].unsqueeze(1))
            half = triangular(factor, torch.eye(info.shape[-1]).to(factor).expand_as(factor))
            covariance = half.mT @ half
            mean = (covariance @ (pull + info[rows].unsqueeze(1)).unsqueeze(-1)).squeeze(-1)
            parts.append(moment_match(log_weights[rows], mean, covariance))
        belief = Gaussian(torch.cat([p.info for p in parts]), torch.cat([p.precision for p in parts]))
        return (double._out(belief) / full).to(message.dtype, message.device)

    def particles(self, log_probs: Tensor, row_id: Tensor, count: int, generator: torch.Generator) -> Particles:
        """Points from sum_k p_k (1/S) sum_s N(mu_k, Sigma_k) per row, of equal weight, from the row's own stream.

        Quasi-random over components and Gaussians: one Sobol sequence for all rows, shifted by a random vector of each
        row's (Cranley & Patterson 1976). Where there are more than four per dimension they are then stretched to have
        the mixture's mean and covariance exactly.
        """
        size, dtype = len(self.location), log_probs.dtype
        base = SobolEngine(1 + size, scramble=True, seed=0).draw(count, dtype=torch.float64).to(row_id.device)
        shift = row_uniform(generator, row_id, (1, 1 + size), dtype=torch.float64)
        projected = self.projected(log_probs)
        centre, spread = projected.mean().unsqueeze(1), torch.linalg.cholesky(projected.covariance())
        shares = log_probs.double().softmax(-1).repeat_interleave(len(self.kept.means), -1).cumsum(-1)
        means = (self.location + self.scale * self.kept.means).transpose(0, 1).flatten(0, 1)
        factors = (self.scale.unsqueeze(-1) * self.kept.cholesky).transpose(0, 1).flatten(0, 1)
        parts = []
        for rows in blocks(len(row_id), count * size**2):
            uniform = (base + shift[rows]) % 1
            index = torch.searchsorted(shares[rows], uniform[..., 0] * shares[rows, -1:], right=True)
            noise = torch.special.ndtri(uniform[..., 1:].clamp(1e-9, 1 - 1e-9)).to(dtype).unsqueeze(-1)
            points = means[index] + (factors[index] @ noise).squeeze(-1)
            if count > 4 * size:
                points = points - points.mean(1, keepdim=True)
                own = torch.linalg.cholesky(points.mT @ points / count)
                points = centre[rows] + triangular(own, points.mT).mT @ spread[rows].mT
            parts.append(points)
        weights = torch.full((len(row_id), count), -math.log(count), dtype=dtype, device=row_id.device)
        return Particles.of(torch.cat(parts), weights)

    def fits(self, found: int, where: str) -> None:
        """Raise ShapeError unless a size is the fitted one."""
        if found != self.location.shape[0]:
            expected = str(len(self.location))
            raise ShapeError("not the size this gmm was fitted on", where=where, expected=expected, found=str(found))

    def _out(self, message: Gaussian) -> Gaussian:
        """Express a message over u as one over z."""
        precision = message.precision / (self.scale.unsqueeze(-1) * self.scale)
        return Gaussian(message.info / self.scale + (precision @ self.location.unsqueeze(-1)).squeeze(-1), precision)


def log_mean(scores: Tensor) -> Tensor:
    """Log of the mean of exp, over draws."""
    return scores.logsumexp(0) - math.log(scores.shape[0])
