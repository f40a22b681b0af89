"""One Gaussian for many: the projection of a mixture, and the population that messages are about."""

from __future__ import annotations

import torch
from torch import Tensor

from serket.messages.gaussian import Gaussian, factored

__all__ = ["moment_match", "pooled_moments", "some_of"]


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


def some_of(rows: int, most: int) -> Tensor:
    """Return ``most`` of the numbers 0 .. rows - 1, rising, drawn with a fixed seed; all of them if there are no more.

    Not every n-th: where rows come in turns, of kinds or of sensors, that would be rows of one kind.
    """
    if rows <= most:
        return torch.arange(rows)
    return torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:most].sort().values


def pooled_moments(message: Gaussian, steps: int = 20) -> tuple[Tensor, Tensor]:
    """Return mean and variance per dimension, ``(D,)``, of the population that the rows of a message are about.

    By EM for one Gaussian with diagonal covariance, over 2000 rows at most, from precision-weighted mean and moments:
    shifting or rescaling a dimension of z does the same to the result. Rows that say nothing carry nothing.

    Args:
        message: ``(rows, D)``, positive semidefinite.
        steps: of EM.

    Returns:
        Location and variance: (0, 1) for a dimension of which no row speaks, variance 1 for one that does not vary.

    Raises:
        MessageError: a full row has negative precision, by more than the population makes up for.
    """
    rows = (~message.is_vacuous()).nonzero().flatten()
    message = message[rows[some_of(len(rows), 2000)]]
    info, precision = message.info, message.precision
    if not len(info):
        return info.new_zeros(message.size), info.new_ones(message.size)
    diagonal = precision if message.diagonal else precision.diagonal(dim1=-2, dim2=-1)
    told = diagonal > 0
    spoken, total = told.any(0), diagonal.clamp_min(0.0).sum(0)
    total = torch.where(spoken, total, 1.0)
    if message.diagonal:
        location = torch.where(told, info, 0.0).sum(0) / total
        rest = info - precision * location
    else:
        # (sum Lambda) mu = sum eta in units of its diagonal, so that the pseudo-inverse knows no units.
        unit = total.rsqrt()
        scaled = unit.unsqueeze(-1) * precision.sum(0) * unit
        cutoff = torch.finfo(info.dtype).eps ** 0.75
        location = unit * (torch.linalg.pinv(scaled, rtol=cutoff, hermitian=True) @ (unit * info.sum(0)))
        rest = info - (precision @ location.unsqueeze(-1)).squeeze(-1)
        if bool((precision == precision[:1]).all()):
            precision = precision[:1]  # factored once for all rows
    location = torch.where(spoken, location, 0.0)
    # Second moment of eta / Lambda about the mean, weighted by Lambda: a wide start, from which steps take for ever
    # where rows hardly speak. There sum (rest^2 - Lambda) / sum Lambda^2, by what readings vary beyond noise, is near.
    spread = torch.where(told, rest.square() / torch.where(told, diagonal, 1.0), 0.0).sum(0) / total
    varies = spoken & (spread.sqrt() > 64 * torch.finfo(info.dtype).eps * location.abs())
    squares = torch.where(spoken, diagonal.clamp_min(0.0).square().sum(0), 1.0)
    beyond = (torch.where(told, rest.square() - diagonal, 0.0).sum(0) / squares).clamp_min(0.05 * total / squares)
    variance = torch.where(varies, torch.minimum(spread, beyond), 1.0)
    # Dimensions of diagonal messages are independent: rows that do not see one drop out. Others carry the belief over.
    weight = told.to(info) if message.diagonal else torch.ones_like(info)
    weight = weight / weight.sum(0).clamp_min(1)
    eye = torch.eye(message.size).to(info)
    for _ in range(steps):
        if message.diagonal:
            covariance = 1 / (precision.clamp_min(0.0) + 1 / variance)
            mean = covariance * (info + location / variance)
        else:
            factor = factored(precision + torch.diag_embed(1 / variance))
            inverse = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
            mean = (inverse.mT @ (inverse @ (info + location / variance).unsqueeze(-1))).squeeze(-1)
            covariance = inverse.square().sum(-2)
        location = torch.where(spoken, (weight * mean).sum(0), 0.0)
        second = (weight * ((mean - location).square() + covariance)).sum(0)
        variance = torch.where(varies, second, 1.0)
    return location, variance
