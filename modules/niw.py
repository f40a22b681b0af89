"""The normal-inverse-Wishart prior of a Gaussian's parameters: update and draws, batched over chains and components.

Sources: Murphy (2007), "Conjugate Bayesian analysis of the Gaussian distribution", section 9; Gelman et al., "Bayesian
Data Analysis" (3rd ed.), section 3.6.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "NormalInverseWishart",
    "Prior",
    "draw_dirichlet",
    "draw_gaussians",
    "draw_weights",
    "from_moments",
    "posterior",
]


@dataclass(frozen=True, slots=True)
class Prior:
    """NIW(0, kappa, scatter I, dof) on each component's (mu, Sigma), and on the weights a symmetric Dirichlet(alpha).

    With ``sticks``: pi_k = V_k prod_{l<k} (1 - V_l), V_k ~ Beta(1, alpha), V_K = 1, a Dirichlet process truncated at K.
    """

    alpha: float
    kappa: float
    scatter: float
    dof: float
    sticks: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class NormalInverseWishart:
    """Sigma ~ IW(scatter, dof), mu given Sigma ~ N(mean, Sigma / kappa), per chain and component."""

    mean: Tensor
    kappa: Tensor
    scatter: Tensor
    dof: Tensor


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


def from_moments(count: Tensor, total: Tensor, second: Tensor, prior: Prior) -> NormalInverseWishart:
    """Update the prior by counts ``(C, K)``, sums ``(C, K, D)`` and second moments ``(C, K, D, D)``, not centred.

    Psi_n = Psi + sum_n z_n z_n' - kappa_n m_n m_n', the same as in :func:`posterior`; cancels where means are far off.
    """
    kappa = prior.kappa + count
    mean = total / kappa.unsqueeze(-1)
    pull = (kappa.unsqueeze(-1) * mean).unsqueeze(-1) * mean.unsqueeze(-2)
    scatter = second - pull + prior.scatter * torch.eye(total.shape[-1]).to(total)
    return NormalInverseWishart(mean, kappa, scatter, prior.dof + count)


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


def draw_weights(counts: Tensor, prior: Prior, generator: torch.Generator) -> Tensor:
    """Draw log-weights given the rows of every component, ``(..., K)``.

    pi ~ Dirichlet(alpha + n); with sticks V_k ~ Beta(1 + n_k, alpha + sum_{l>k} n_l) (Ishwaran & James 2001, (21)).
    """
    if not prior.sticks:
        return draw_dirichlet(prior.alpha + counts, generator)
    after = counts.flip(-1).cumsum(-1).flip(-1)[..., 1:]
    broken = draw_dirichlet(torch.stack([1 + counts[..., :-1], prior.alpha + after], -1), generator)
    whole = torch.zeros_like(counts[..., :1])
    left = torch.cat([whole, broken[..., 1].cumsum(-1)], -1)
    return left + torch.cat([broken[..., 0], whole], -1)


def _gamma(shape: Tensor, generator: torch.Generator) -> Tensor:
    return torch._standard_gamma(shape, generator=generator)
