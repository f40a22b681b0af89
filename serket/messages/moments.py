"""Projection of a Gaussian mixture onto one Gaussian."""

from __future__ import annotations

from torch import Tensor

from serket.messages.gaussian import Gaussian

__all__ = ["moment_match"]


def moment_match(log_weights: Tensor, means: Tensor, covariances: Tensor) -> Gaussian:
    """Project a mixture onto the Gaussian with its mean and covariance, the closest one in KL(mixture || Gaussian).

    mu = sum_k w_k mu_k,  Sigma = sum_k w_k (Sigma_k + (mu_k - mu)(mu_k - mu)')   (Bishop 2006, section 10.7).

    Args:
        log_weights: ``(*batch, K)``, nats, any constant per row.
        means: ``(*batch, K, D)``, or broadcastable to it.
        covariances: ``(*batch, K, D, D)``, or broadcastable to it.

    Returns:
        A full Gaussian ``(*batch, D)``.
    """
    weights = log_weights.softmax(-1).unsqueeze(-1)
    mean = (weights * means).sum(-2)
    gap = means - mean.unsqueeze(-2)
    spread = (weights * gap).mT @ gap
    return Gaussian.from_moments(mean, (weights.unsqueeze(-1) * covariances).sum(-3) + spread)
