"""What one latent tells of another: a Gaussian potential, prediction over marginal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from serket.composer.kernel.gaussian_process import JITTER, Kernel, Posterior, regress, rooted
from serket.messages import Gaussian, pooled_moments, some_of

__all__ = ["LEAST", "LeftOut", "Population", "Reading", "Target", "Translator"]

LEAST_READ = 1 / 3
LEAST = 1e-4  # of a variance, over that of the population: float32 has to hold both
PARTS = ("metric", "usual", "points", "weights", "noise", "pull", "precision", "typical")


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A view as its messages and the population tell it, in units of the population.

    Args:
        mean: ``(rows, D)``.
        variance: ``(rows, D)``.
        present: ``(rows,)`` bool; where false the rest is that of the population.
    """

    mean: Tensor
    variance: Tensor
    present: Tensor

    def __getitem__(self, rows: Tensor) -> Reading:
        return Reading(self.mean[rows], self.variance[rows], self.present[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """z ~ N(mean, covariance), in units of its standard deviations: u = (z - mean) / scale ~ N(0, correlation)."""

    mean: Tensor
    scale: Tensor
    correlation: Tensor

    @classmethod
    def of(cls, message: Gaussian, steps: int = 4, most: int = 1000) -> Population:
        """Fit by EM for one Gaussian over the rows that speak, from the moments of each dimension by itself."""
        mean, variance = pooled_moments(message)
        population = cls(mean, variance.sqrt(), torch.eye(message.size).to(mean))
        told = (~message.is_vacuous()).nonzero().flatten()
        told = told[some_of(len(told), most)]
        if len(told) < 2:
            return population
        for _ in range(steps):
            reading, covariance = population.read(message[told])
            centre = reading.mean.mean(0)
            gap = reading.mean - centre
            second = gap.T @ gap / len(told) + covariance
            # A dimension that hardly varies keeps its scale: shrunk at every step it would vanish.
            spread = torch.where(second.diagonal() > LEAST, second.diagonal(), 1.0).sqrt()
            population = cls(
                population.mean + population.scale * centre,
                population.scale * spread,
                second / (spread.unsqueeze(1) * spread) + LEAST * torch.eye(len(spread)).to(spread),
            )
        return population

    def read(self, message: Gaussian) -> tuple[Reading, Tensor]:
        """Return the posterior of u, and its mean covariance ``(D, D)`` over the rows that speak."""
        present = ~message.is_vacuous()
        inner = torch.cholesky_inverse(torch.linalg.cholesky(self.correlation))
        info = message.info
        pulled = message.precision * self.mean if message.diagonal else message.precision @ self.mean
        precision = torch.diag_embed(message.precision) if message.diagonal else message.precision
        belief = Gaussian(self.scale * (info - pulled), self.scale.unsqueeze(1) * precision * self.scale + inner).where(
            present, Gaussian(torch.zeros_like(info), inner.expand_as(precision))
        )
        covariance = belief.covariance()
        mean = (covariance @ belief.info.unsqueeze(-1)).squeeze(-1)
        usual = covariance[present].mean(0) if bool(present.any()) else self.correlation
        return Reading(mean, covariance.diagonal(dim1=-2, dim2=-1), present), usual

    def out_of_units(self, message: Gaussian) -> Gaussian:
        """Express a full message over u as one over z."""
        precision = message.precision / (self.scale.unsqueeze(1) * self.scale)
        return Gaussian(message.info / self.scale + precision @ self.mean, precision)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What a translator is to predict, u ~ N(0, Sigma) in units of its population.

    Args:
        rows: ``(N,)`` those in which source and target are there.
        values: means of the target's readings, ``(N, T)``.
        marginal: Sigma, ``(T, T)``.
        unread: covariance of u given its reading, the mean over rows; None if it is read exactly.
        doubt: covariance of the values themselves, the mean over rows; None if they are certain.
    """

    rows: Tensor
    values: Tensor
    marginal: Tensor
    unread: Tensor | None = None
    doubt: Tensor | None = None

    @property
    def floor(self) -> Tensor:
        """Variance of each dimension that no prediction can explain, ``(T,)``."""
        some = [one.diagonal() for one in (self.unread, self.doubt) if one is not None]
        return sum(some, torch.full_like(self.marginal.diagonal(), 1e-6))


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """What a translator says of its training rows, each left out.

    Args:
        rows: ``(N,)``, rising.
        errors: of the process, ``(N, T)``.
        eta: ``(N, T)``, as :class:`Translator` returns it.
        weight: ``(N,)``, likewise.
        precision: ``(T, T)``, that weight 1 has.
    """

    rows: Tensor
    errors: Tensor
    eta: Tensor
    weight: Tensor
    precision: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Translator:
    """The potential N(u; f(x), R(x)) / N(u; 0, Sigma) of a target u, with R(x)^-1 = Sigma^-1 + w(x) (R^-1 - Sigma^-1).

    f is a Gaussian process and R the covariance of its leave-one-out errors. w is the precision that the process gains
    here, 1 / (Var f + noise) - 1 / (1 + noise), over what it gains at a training row left out, 1 at most: where x is
    unlike anything seen, or hardly read, the potential fades (as in Deisenroth & Ng 2015, equation 11, by entropy).
    Directions in which R is not below Sigma say nothing.

    Args:
        posterior: f.
        pull: R^-1, ``(T, T)``, where it tells more than Sigma.
        precision: R^-1 - Sigma^-1, ``(T, T)``, there.
        typical: precision gained at a training row left out, the mean.
    """

    posterior: Posterior
    pull: Tensor
    precision: Tensor
    typical: Tensor

    @classmethod
    def learn(
        cls, kernel: Kernel, inputs: Tensor, target: Target, noise: float, points: Tensor | None = None,
        root: Tensor | None = None,
    ) -> tuple[Translator, LeftOut]:  # fmt: skip
        """Learn from means of readings ``(N, D)`` and ``(N, T)``.

        Args:
            kernel: of the inputs.
            inputs: in units of their population.
            target: what is to be predicted.
            noise: of the process.
            points: inducing points.
            root: of the inputs' kernel plus noise, where it is known.

        Returns:
            The translator, and what it says of each row left out.
        """
        posterior, errors, left = regress(kernel, inputs, target.values, noise, points, root)
        gained = _gained(left, noise)
        typical = gained.mean().clamp_min(1e-12)
        weight = (gained / typical).clamp_max(1.0)
        root, predicted = weight.sqrt().unsqueeze(1), target.values - errors
        if target.unread is None:
            # Components are uncorrelated, and told one by one: joint errors would pull apart what lies together.
            residual = (root * errors).square().mean(0).diag()
        else:
            stretch = _unshrunk(target.marginal, target.unread)
            posterior = replace(posterior, weights=(posterior.weights @ stretch).contiguous())
            predicted = predicted @ stretch
            residual = _about(root * target.values, root * predicted, target)
        if target.doubt is not None:
            residual = residual + target.doubt
        size = len(residual)
        lower = torch.linalg.cholesky(target.marginal)
        inverse = torch.linalg.solve_triangular(lower, torch.eye(size).to(lower), upper=False)
        values, vectors = torch.linalg.eigh(inverse @ residual @ inverse.T)
        basis = inverse.T @ vectors
        told = values < 1
        values = values.clamp_min(LEAST)
        pull = (basis * torch.where(told, 1 / values, 0.0)) @ basis.T
        precision = (basis * torch.where(told, 1 / values - 1, 0.0)) @ basis.T
        found = cls(posterior, pull, precision, typical)
        return found, LeftOut(target.rows, errors, found._told(predicted, weight), weight, precision)

    def __call__(self, reading: Reading) -> tuple[Tensor, Tensor]:
        """Return eta ``(rows, T)`` and the weight w ``(rows,)`` of the precision; both zero where nothing is read."""
        mean, left = self.posterior(reading.mean, reading.variance)
        weight = torch.where(reading.present, (_gained(left, self.posterior.noise) / self.typical).clamp_max(1.0), 0.0)
        return torch.where((weight > 0).unsqueeze(1), self._told(mean, weight), 0.0), weight

    def _told(self, mean: Tensor, weight: Tensor) -> Tensor:
        # (1 / R - (1 - w) (1 / R - 1 / Sigma)) f: alone, the source is believed to the letter, its mean f.
        return mean @ self.pull - (1 - weight).unsqueeze(1) * (mean @ self.precision)

    def tensors(self) -> dict[str, Tensor]:
        """Return what :meth:`from_tensors` takes: without inducing points ``explained`` follows from the others."""
        one = self.posterior
        parts = (one.kernel.metric, one.kernel.usual, one.points, one.weights, one.noise)
        found = dict(zip(PARTS, (*parts, self.pull, self.precision, self.typical), strict=True))
        return found if one.inner is None else found | {"inner": one.inner}

    @classmethod
    def from_tensors(cls, parts: Mapping[str, Tensor], known: Iterable[Translator] = ()) -> Translator:
        """Take them back; ``known`` translators with the same basis lend its root."""
        metric, usual, points, weights, noise, *rest = (parts[part] for part in PARTS)
        kernel, inner = Kernel(metric, usual), parts.get("inner")
        root: Tensor | None = None
        for theirs in (one.posterior for one in known):
            if theirs.noise == noise and torch.equal(theirs.kernel.metric, metric):
                root = theirs.root if torch.equal(theirs.points, points) else root
        if root is None or inner is not None:
            root = rooted(kernel, points, noise if inner is None else JITTER)
        return cls(Posterior(kernel, points, weights, noise, root, inner), *rest)


def _gained(left: Tensor, noise: Tensor | float) -> Tensor:
    """Return precision over prior precision, 1 / (left + noise) - 1 / (1 + noise), zero or more."""
    left = left.clamp(0.0, 1.0)
    return (1 - left) / ((left + noise) * (1 + noise))


def _second(rows: Tensor) -> Tensor:
    """Return second moments ``(T, T)``, with a prior worth T + 1 rows on a diagonal: few tell no correlations."""
    scatter, size = rows.T @ rows, rows.shape[1]
    return (scatter + (size + 1) * (scatter.diagonal() / len(rows)).diag()) / (len(rows) + size + 1)


def _unshrunk(marginal: Tensor, unread: Tensor) -> Tensor:
    """Return T with E[u | x] = T' E[mean of reading | x].

    The mean of a reading is on average (1 - C / Sigma) u, and so are predictions of it. In directions of which less
    than a third is read, nothing tells noise from shrinkage, and the factor stays at 3.
    """
    lower = torch.linalg.cholesky(marginal)
    inverse = torch.linalg.solve_triangular(lower, torch.eye(len(lower)).to(lower), upper=False)
    values, vectors = torch.linalg.eigh(inverse @ unread @ inverse.T)
    stretch: Tensor = inverse.T @ (vectors / (1 - values).clamp(LEAST_READ, 1.0)) @ vectors.T @ lower.T
    return stretch


def _about(values: Tensor, predicted: Tensor, target: Target, steps: int = 20) -> Tensor:
    """Return Cov[u - f], by EM over readings of usual precision; what is never read stays as in the population.

    With C the covariance given a reading, L = C^-1 - Sigma^-1 its precision, and h = C^-1 mean - L f what it says
    beyond f:  S = (V^-1 + L)^-1,  V <- S + S <h h'> S.
    """
    assert target.unread is not None
    inner = torch.cholesky_inverse(torch.linalg.cholesky(target.unread))
    precision = inner - torch.cholesky_inverse(torch.linalg.cholesky(target.marginal))
    said = _second(values @ inner - predicted @ precision)
    covariance = target.marginal
    for _ in range(steps):
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
        spread = torch.cholesky_inverse(torch.linalg.cholesky(inverse + precision))
        covariance = spread + spread @ said @ spread
        covariance = (covariance + covariance.T) / 2
    return covariance
