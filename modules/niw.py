"""The normal-inverse-Wishart prior of a Gaussian's parameters: update and draws, batched over chains and components.

Sources: Murphy (2007), "Conjugate Bayesian analysis of the Gaussian distribution", section 9; Gelman et al., "Bayesian
Data Analysis" (3rd ed.), section 3.6.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["NormalInverseWishart", "Prior", "draw_dirichlet", "draw_gaussians", "posterior"]


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


def _gamma(shape: Tensor, generator: torch.Generator) -> Tensor:
    return torch._standard_gamma(shape, generator=generator)
