"""How close two inference distributions are, row by row, in closed form: Gaussians with diagonal covariance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

__all__ = ["Code", "contrastive", "kl", "wasserstein"]


@dataclass(frozen=True, slots=True, eq=False)
class Code:
    """q(s | z_m) = N(mean, diag variance), both ``(rows, K)``: never wider than N(0, I) as an encoder gives it."""

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, outputs: Tensor) -> Code:
        """Read an encoder's outputs ``(rows, 2 K)``: mean, and a variance 1 / (1 + softplus(..)) below the prior's."""
        mean, gain = outputs.chunk(2, -1)
        return cls(mean, 1 / (1 + softplus(gain)))


def kl(q: Code, p: Code | None = None) -> Tensor:
    """KL(q || p), nats, ``(rows,)``: sum (v_q / v_p + (m_q - m_p)^2 / v_p - 1 + log v_p / v_q) / 2; no p is N(0, I).

    Between two encoders it is SCAN's term (Higgins et al. 2018).
    """
    if p is None:
        return (q.variance + q.mean.square() - 1 - q.variance.log()).sum(-1) / 2
    ratio = q.variance / p.variance
    return (ratio + (q.mean - p.mean).square() / p.variance - 1 - ratio.log()).sum(-1) / 2


def wasserstein(q: Code, p: Code) -> Tensor:
    """Squared 2-Wasserstein distance, ``(rows,)``: |m_q - m_p|^2 + |sqrt v_q - sqrt v_p|^2.

    CADA-VAE aligns distributions by its root (Schoenfeld et al. 2019); the square has a gradient at zero, too.
    """
    return (q.mean - p.mean).square().sum(-1) + (q.variance.sqrt() - p.variance.sqrt()).square().sum(-1)


def contrastive(q: Code, p: Code, paired: Tensor, log_scale: Tensor) -> Tensor:
    """InfoNCE both ways between unit mean vectors, nats, ``(rows,)``; zero in rows without both views.

    -(log softmax_n(t u_n' w_m) + log softmax_m(t u_n' w_m)) / 2 at m = n, over the paired rows of the batch: CLIP
    (Radford et al. 2021), with t = exp(log_scale), at most 100.
    """
    scores = log_scale.exp().clamp_max(100.0) * normalize(q.mean, dim=-1) @ normalize(p.mean, dim=-1).T
    scores = torch.where(paired & paired.unsqueeze(-1), scores, torch.finfo(scores.dtype).min)
    found = 2 * scores.diagonal() - scores.logsumexp(0) - scores.logsumexp(1)
    return torch.where(paired, -found / 2, 0.0)
