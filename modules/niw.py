"""Gaussian mixtures under a normal-inverse-Wishart prior: integrals against messages, and the steps of a Gibbs sweep.

Every parameter has a leading dimension C: chains while fitting, kept draws while inferring; nothing loops over it, nor
over components or rows. Units are standardised: the prior mean is 0 and pooled variances are 1.

Sources: Murphy (2007), "Conjugate Bayesian analysis of the Gaussian distribution", section 9; Gelman et al., "Bayesian
Data Analysis" (3rd ed.), section 3.6 and, for blocked Gibbs, chapter 22.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from serket.errors import DataError, MessageError

__all__ = [
    "Mixture",
    "NormalInverseWishart",
    "Prior",
    "Seen",
    "blocks",
    "draw_dirichlet",
    "draw_gaussians",
    "draw_labels",
    "draw_latents",
    "draw_mixture",
    "in_units",
    "label_logits",
    "log_density",
    "log_integral",
    "posterior",
    "shared",
    "sweep",
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
        return _triangular(self.cholesky, eye.expand_as(self.cholesky))


@dataclass(frozen=True, slots=True)
class Prior:
    """NIW(0, kappa, scatter I, dof) on each component's (mu, Sigma), symmetric Dirichlet(alpha) on the weights."""

    alpha: float
    kappa: float
    scatter: float
    dof: float


@dataclass(frozen=True, slots=True, eq=False)
class NormalInverseWishart:
    """Sigma ~ IW(scatter, dof), mu given Sigma ~ N(mean, Sigma / kappa), per chain and component."""

    mean: Tensor
    kappa: Tensor
    scatter: Tensor
    dof: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a fit knows of N rows, shared by all chains (a leading chain dimension is allowed).

    Args:
        bias: ``(N, K)``, log-probabilities of the components, nats, from the rest of the graph.
        present: ``(N,)`` bool; other rows say nothing about z_n and stay out of the sufficient statistics.
        points: ``(N, D)``, the observed z_n; or None, and then the messages are
        info: ``(N, D)``, eta_n, and
        precision: ``(N, D, D)``, Lambda_n, or ``(1, D, D)`` where all rows share one.
        owned: whether the weights are this model's to learn; if not, ``bias`` alone speaks about k_n.
    """

    bias: Tensor
    present: Tensor
    points: Tensor | None = None
    info: Tensor | None = None
    precision: Tensor | None = None
    owned: bool = True

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation per dimension, ``(D,)``, pooled over the rows that are present.

        From messages: by twenty steps of EM for one Gaussian with diagonal covariance, over 2000 rows at most.
        A dimension that does not vary has the deviation 1.

        Raises:
            DataError: no dimension of the points varies.
        """
        if self.points is not None:
            points = self.points[self.present]
            location, scale = points.mean(0), points.std(0)
            still = scale <= 4 * torch.finfo(points.dtype).eps * points.abs().amax(0)
            if bool(still.all()):
                raise DataError("the data do not vary", expected="rows that differ", found="equal rows")
            return location, torch.where(still, 1.0, scale)
        assert self.info is not None and self.precision is not None
        rows = self.present.nonzero().flatten()
        rows = rows[:: 1 + len(rows) // 2000]
        info = self.info[rows]
        precision = self.precision[rows] if len(self.precision) > 1 else self.precision
        diagonal = precision.diagonal(dim1=-2, dim2=-1).expand_as(info)
        told = diagonal > 0
        # Second moment of eta / Lambda, weighted by Lambda: a wide start.
        heavy = torch.where(told, info.square() / torch.where(told, diagonal, 1.0), 0.0).sum(0)
        total = diagonal.clamp_min(0.0).sum(0)
        variance = torch.where(total * heavy > 0, heavy / torch.where(total > 0, total, 1.0), 1.0)
        location = torch.zeros_like(variance)
        eye = torch.eye(len(variance)).to(info)
        for _ in range(20):
            factor = _factor(precision + torch.diag_embed(1 / variance))
            inverse = _triangular(factor, eye.expand_as(factor))
            mean = (inverse.mT @ (inverse @ (info + location / variance).unsqueeze(-1))).squeeze(-1)
            location = mean.mean(0)
            variance = ((mean - location).square() + inverse.square().sum(-2)).mean(0)
        return location, variance.sqrt()

    def standardised(self, location: Tensor, scale: Tensor) -> Self:
        """Express what is known in units u = (z - location) / scale; absent points stay zeros."""
        if self.points is not None:
            points = (self.points - location) / scale
            return replace(self, points=torch.where(self.present.unsqueeze(-1), points, 0.0))
        assert self.info is not None and self.precision is not None
        info, precision = in_units(self.info, self.precision, location, scale)
        return replace(self, info=info, precision=precision)

    def guess(self) -> Tensor:
        """Return the points, or the posterior means under N(0, I), ``(N, D)``; in standardised units."""
        if self.points is not None:
            return self.points
        assert self.info is not None and self.precision is not None
        return _centre(self.info, self.precision)


def sweep(
    mixture: Mixture,
    points: Tensor,
    seen: Seen,
    prior: Prior,
    generator: torch.Generator,
    integrate: bool = True,
) -> tuple[Mixture, Tensor, Tensor, Tensor]:
    """Draw k | theta, pi, then z | k, theta, then theta, pi | k, z.

    Args:
        mixture: where C chains stand.
        points: ``(C, N, D)``, z at present.
        seen: what is known of the rows.
        prior: the hyper-parameters.
        generator: the source of randomness.
        integrate: draw k_n with z_n integrated out: mixes faster, but factors K matrices a row instead of one.

    Returns:
        The mixture, points, labels ``(C, N)`` and, ``(C,)``, the log of the normalisers the labels were drawn with:
        the log-likelihood of theta and pi, if z is integrated out or observed.
    """
    logits = label_logits(mixture, points, seen, integrate)
    labels = draw_labels(logits, generator)
    if seen.info is not None and seen.precision is not None:
        points = draw_latents(mixture, labels, seen.info, seen.precision, generator)
    mixture = draw_mixture(points, labels, mixture.means.shape[-2], seen, prior, generator)
    return mixture, points, labels, logits.logsumexp(-1).sum(-1)


def draw_mixture(
    points: Tensor, labels: Tensor, components: int, seen: Seen, prior: Prior, generator: torch.Generator
) -> Mixture:
    """Draw theta, pi given points ``(C, N, D)`` and labels ``(C, N)``; weights that are not owned are uniform."""
    members = torch.nn.functional.one_hot(labels, components).to(points)
    told = torch.where(seen.present.unsqueeze(-1), members, 0.0)
    means, cholesky = draw_gaussians(posterior(points.expand(*labels.shape, -1), told, labels, prior), generator)
    counts = members.sum(-2)
    log_weights = draw_dirichlet(prior.alpha + counts, generator) if seen.owned else torch.zeros_like(counts)
    return Mixture(means, cholesky, log_weights)


def label_logits(mixture: Mixture, points: Tensor, seen: Seen, integrate: bool) -> Tensor:
    """Log p(k_n = k | ...) up to a constant, ``(C, N, K)``: bias + log pi_k + log p(z_n or its message | k)."""
    if integrate and seen.info is not None and seen.precision is not None:
        likelihood = log_integral(mixture, seen.info, seen.precision)
    else:
        likelihood = log_density(mixture, points)
    likelihood = torch.where(seen.present.unsqueeze(-1), likelihood, 0.0)
    return likelihood + seen.bias + mixture.log_weights.unsqueeze(-2)


def draw_labels(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from the categorical of each row by an exponential race: the largest logit minus log E, E ~ Exp(1)."""
    return (logits - torch.empty_like(logits).exponential_(generator=generator).log()).argmax(-1)


def draw_latents(
    mixture: Mixture, labels: Tensor, info: Tensor, precision: Tensor, generator: torch.Generator
) -> Tensor:
    """Draw z_n | k_n = k ~ N(P^-1 (Sigma_k^-1 mu_k + eta_n), P^-1), P = Sigma_k^-1 + Lambda_n, ``(C, N, D)``."""
    whiten = mixture.whitening()
    inverse = whiten.mT @ whiten
    shift = (inverse @ mixture.means.unsqueeze(-1)).squeeze(-1)
    chain = torch.arange(len(labels), device=labels.device).unsqueeze(-1)
    target = shift[chain, labels] + info
    noise = torch.randn(target.shape, generator=generator, dtype=target.dtype, device=target.device)
    parts = []
    for rows in blocks(labels.shape[-1], len(labels) * info.shape[-1] ** 2):
        factor = _factor(inverse[chain, labels[:, rows]] + _rows(precision, rows))
        half = _solve(factor, target[:, rows]) + noise[:, rows]
        parts.append(_solve(factor, half, transpose=True))
    return torch.cat(parts, -2)


def posterior(points: Tensor, members: Tensor, labels: Tensor, prior: Prior) -> NormalInverseWishart:
    """Update the prior by sufficient statistics (Murphy 2007, section 9: kappa_n, m_n, nu_n, Psi_n; prior mean 0).

    Psi_n = Psi + sum_n (z_n - zbar_k)(z_n - zbar_k)' + kappa n_k / (kappa + n_k) zbar_k zbar_k'.

    Args:
        points: ``(C, N, D)``.
        members: ``(C, N, K)``, one-hot rows, or zeros for rows that do not count.
        labels: ``(C, N)``.
        prior: the hyper-parameters.
    """
    count, size = members.sum(-2), points.shape[-1]
    average = (members.mT @ points) / count.clamp_min(1).unsqueeze(-1)
    gap = points - average.gather(-2, labels.unsqueeze(-1).expand(*labels.shape, size))
    spread = (members.unsqueeze(-1) * gap.unsqueeze(-2)).flatten(-2).mT @ gap
    kappa = prior.kappa + count
    pull = (prior.kappa * count / kappa)[..., None, None] * average.unsqueeze(-1) * average.unsqueeze(-2)
    scatter = spread.reshape(pull.shape) + pull + prior.scatter * torch.eye(size).to(points)
    return NormalInverseWishart((count / kappa).unsqueeze(-1) * average, kappa, scatter, prior.dof + count)


def draw_gaussians(law: NormalInverseWishart, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw (mu, Cholesky factor of Sigma) from normal-inverse-Wishart laws (BDA3, section 3.6, by Bartlett's factor).

    With Psi = L L' and B lower triangular, B_ii^2 ~ chi^2(dof - D + 1 + i), B_ij ~ N(0, 1) below: the precision is
    (B L^-1)' (B L^-1), so the factor of Sigma is L B^-1.
    """
    size, like = law.mean.shape[-1], law.scatter
    lower = torch.linalg.cholesky(like)
    degrees = law.dof.unsqueeze(-1) - size + 1 + torch.arange(size).to(like)
    normal = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    bartlett = normal.tril(-1) + torch.diag_embed((2 * _gamma(degrees / 2, generator)).sqrt())
    cholesky = torch.linalg.solve_triangular(bartlett, lower, upper=False, left=False)
    noise = torch.randn(law.mean.shape, generator=generator, dtype=like.dtype, device=like.device)
    offset = (cholesky @ noise.unsqueeze(-1)).squeeze(-1)
    return law.mean + offset / law.kappa.sqrt().unsqueeze(-1), cholesky


def draw_dirichlet(alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Draw log-weights from Dirichlet(alpha), ``(..., K)``, finite for any alpha: Gamma(a) = Gamma(a + 1) U^(1/a)."""
    uniform = torch.rand(alpha.shape, generator=generator, dtype=alpha.dtype, device=alpha.device)
    uniform = uniform.clamp_min(torch.finfo(alpha.dtype).tiny)
    return (_gamma(alpha + 1, generator).log() + uniform.log() / alpha).log_softmax(-1)


def log_density(mixture: Mixture, points: Tensor) -> Tensor:
    """Log N(z_n; mu_k, Sigma_k), nats, ``(C, N, K)``, of points ``(N, D)`` or ``(C, N, D)``."""
    whiten = mixture.whitening()
    centre = (whiten @ mixture.means.unsqueeze(-1)).flatten(-3).unsqueeze(-2)
    white = points @ whiten.flatten(-3, -2).mT - centre  # L_k^-1 (z_n - mu_k), the components side by side
    square = white.square().reshape(*white.shape[:-1], *mixture.means.shape[-2:]).sum(-1)
    log_det = whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1).unsqueeze(-2)
    return log_det - (square + points.shape[-1] * math.log(2 * math.pi)) / 2


def log_integral(mixture: Mixture, info: Tensor, precision: Tensor) -> Tensor:
    """Log of the integral of N(z; mu_k, Sigma_k) exp(eta_n' z - z' Lambda_n z / 2) dz, nats, ``(C, N, K)``.

    With c_n = (Lambda_n + I)^-1 eta_n the potential is exp(c_n' u - u' Lambda_n u / 2 + (eta_n + c_n)' c_n / 2) in
    u = z - c_n: centred where the row is, so that nothing large cancels. With m = mu_k - c_n, P = Sigma_k^-1 + Lambda_n
    and h = c_n + Sigma_k^-1 m: (h' P^-1 h - m' Sigma_k^-1 m - log det(Sigma_k P) + (eta_n + c_n)' c_n) / 2.

    Args:
        mixture: C mixtures.
        info: ``(N, D)`` or ``(C, N, D)``.
        precision: ``(N, D, D)`` or ``(C, N, D, D)``, positive semidefinite; N may be 1: shared, and then factored once.

    Raises:
        MessageError: Sigma_k^-1 + Lambda_n is not positive definite.
    """
    whiten = mixture.whitening()
    inverse = (whiten.mT @ whiten).unsqueeze(-3)
    log_det = whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1).unsqueeze(-1)
    width = mixture.means.numel() * (1 if precision.shape[-3] == 1 else info.shape[-1])
    parts = []
    for rows in blocks(info.shape[-2], width):
        eta, message = info[..., rows, :], _rows(precision, rows)
        centre = _centre(eta, message)
        constant = ((eta + centre) * centre).sum(-1).unsqueeze(-2) / 2
        centre = centre.unsqueeze(-3)
        white = (mixture.means.unsqueeze(-2) - centre) @ whiten.mT
        factor = _factor(inverse + message.unsqueeze(-4))
        pull = _solve(factor, white @ whiten + centre)
        log_ratio = log_det - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        parts.append((pull.square().sum(-1) - white.square().sum(-1)) / 2 + log_ratio + constant)
    return torch.cat(parts, -1).mT


def in_units(info: Tensor, precision: Tensor, location: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Express messages over z as messages over u = (z - location) / scale."""
    shift = (precision @ location.unsqueeze(-1)).squeeze(-1)
    return scale * (info - shift), scale.unsqueeze(-1) * precision * scale


def shared(precision: Tensor) -> Tensor:
    """Return ``(1, D, D)`` if all rows hold the same matrix, else the precision ``(N, D, D)`` as it is."""
    return precision[:1] if len(precision) and bool((precision == precision[:1]).all()) else precision


def blocks(rows: int, width: int) -> list[slice]:
    """Cut rows into slices of at most 2**20 numbers, at ``width`` numbers a row."""
    step = max(1, _BLOCK // max(1, width))
    return [slice(start, start + step) for start in range(0, max(rows, 1), step)]


def _centre(info: Tensor, precision: Tensor) -> Tensor:
    """Posterior means under N(0, I): (Lambda + I)^-1 eta."""
    factor = _factor(precision + torch.eye(info.shape[-1]).to(info))
    half = _solve(factor, info)
    return _solve(factor, half, transpose=True)


def _solve(factor: Tensor, vectors: Tensor, transpose: bool = False) -> Tensor:
    """Solve L x = v, or L' x = v, for v ``(..., N, D)`` and L ``(..., N, D, D)``, or ``(..., 1, D, D)``: for all."""
    factor = factor.mT if transpose else factor
    if factor.shape[-3] == 1:
        return _triangular(factor.squeeze(-3), vectors.mT, transpose).mT
    return _triangular(factor, vectors.unsqueeze(-1), transpose).squeeze(-1)


def _triangular(factor: Tensor, right: Tensor, upper: bool = False) -> Tensor:
    solution: Tensor = torch.linalg.solve_triangular(factor, right, upper=upper)
    return solution


def _rows(precision: Tensor, rows: slice) -> Tensor:
    return precision if precision.shape[-3] == 1 else precision[..., rows, :, :]


def _factor(matrices: Tensor) -> Tensor:
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrices)
    if bool(failed.any()):
        raise MessageError(
            "a Gaussian message has negative precision: component times message cannot be integrated",
            expected="a positive semidefinite precision in every row",
            fix="send Gaussian.semidefinite_part() of the message; if precisions are huge, use float64",
        )
    return factor


def _gamma(shape: Tensor, generator: torch.Generator) -> Tensor:
    return torch._standard_gamma(shape, generator=generator)
