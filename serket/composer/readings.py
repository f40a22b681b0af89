"""Views as a network sees them: a message's mean and how well it is known, and what it makes of a prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from serket.errors import MessageError, listed
from serket.messages import Gaussian

__all__ = ["cubature", "features", "log_reading", "pushed", "semidefinite"]


def semidefinite(name: str, message: Gaussian) -> Gaussian:
    """Return the message, or raise: a direction of negative precision cannot be read."""
    wrong = ~message.is_semidefinite()
    if bool(wrong.any()):
        raise MessageError(
            "a message has negative precision: it cannot be read as a view",
            where=f"{name}, rows {listed(wrong.nonzero().flatten().tolist())}",
            expected="a positive semidefinite precision in every row",
            fix="send Gaussian.semidefinite_part() of the message",
        )
    return message


def features(message: Gaussian) -> Tensor:
    """Return mean and known share, ``(rows, 2 D)``, of N(0, I) times a message: 0 and 0 where it says nothing.

    Args:
        message: in units in which z has mean 0 and variance 1. The known share of a dimension is 1 - its variance.
    """
    if message.diagonal:
        whole = 1 + message.precision
        return torch.cat([message.info / whole, message.precision / whole], -1)
    factor = torch.linalg.cholesky(message.precision + torch.eye(message.size).to(message.precision))
    mean = torch.cholesky_solve(message.info.unsqueeze(-1), factor).squeeze(-1)
    return torch.cat([mean, 1 - torch.cholesky_inverse(factor).diagonal(dim1=-2, dim2=-1)], -1)


def log_reading(message: Gaussian, mean: Tensor, variance: Tensor) -> Tensor:
    """log of the integral of N(z; f, diag v) exp(eta' z - z' Lambda z / 2) over z, nats; exactly 0 for a vacuous row.

    eta' f - f' Lambda f / 2 + [g' (I + V Lambda V)^-1 g - log det (I + V Lambda V)] / 2, with V = v^(1/2) and
    g = V (eta - Lambda f).

    Args:
        message: eta and Lambda, ``(rows, D)``.
        mean: f, ``(..., rows, D)``.
        variance: v, ``(D,)``.
    """
    root = variance.sqrt()
    if message.diagonal:
        inflated = 1 + message.precision * variance
        error = message.info - message.precision * mean
        # eta f - Lambda f^2 / 2 = (eta + error) f / 2
        total = (message.info + error) * mean + variance * error.square() / inflated
        value: Tensor = (total.sum(-1) - inflated.log().sum(-1)) / 2
        return value
    error = message.info - (mean.unsqueeze(-2) @ message.precision).squeeze(-2)
    inflated = torch.eye(message.size).to(root) + root.unsqueeze(1) * message.precision * root
    factor = torch.linalg.cholesky(inflated)
    half = torch.linalg.solve_triangular(factor, (root * error).unsqueeze(-1), upper=False).squeeze(-1)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    total = ((message.info + error) * mean).sum(-1) + half.square().sum(-1)
    value = total / 2 - log_det
    return value


def cubature(size: int, like: Tensor) -> Tensor:
    """Return 2 D equally weighted points of N(0, I), ``(2 D, D)``: their averages of cubic polynomials are exact.

    Third-degree spherical cubature (Stroud 1971; Arasaratnam & Haykin 2009), plus and minus sqrt(D) along the cosine
    basis: every point lies as far out, and as evenly over the dimensions, as a draw would.
    """
    index = torch.arange(size, dtype=torch.float64)
    basis = (torch.pi / size * (index.unsqueeze(1) * (index + 0.5))).cos() * (2 / size) ** 0.5
    basis[:1] /= 2**0.5
    points: Tensor = size**0.5 * torch.cat([basis, -basis])
    return points.to(like)


def pushed(decoded: Tensor, variance: Tensor, location: Tensor, scale: Tensor) -> Gaussian:
    """Return the full Gaussian with the moments of location + scale u, u ~ N(f, v) evenly over points f.

    Args:
        decoded: f, ``(points, rows, D)``.
        variance: v, ``(D,)``.
        location: of z, ``(D,)``.
        scale: of z, ``(D,)``.
    """
    mean = decoded.mean(0)
    gap = (decoded - mean).transpose(0, 1)
    covariance = gap.mT @ gap / len(decoded) + variance.diag()
    # In units first: the scales of z may lie far apart.
    message = Gaussian.from_moments(mean, covariance)
    precision = message.precision / (scale.unsqueeze(1) * scale)
    offset = (precision @ location.expand_as(mean).unsqueeze(-1)).squeeze(-1)
    return Gaussian(message.info / scale + offset, precision)
