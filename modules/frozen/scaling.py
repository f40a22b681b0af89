"""From embeddings to the coordinates of a variable, and how far from the fitted rows a row lies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from serket.errors import DataError

__all__ = ["Scaling", "distances", "principal", "region"]

Scaling = str


def principal(rows: Tensor, size: int, scaling: Scaling) -> tuple[Tensor, Tensor, float]:
    """Return a centre ``(E,)``, a projection ``(size, E)`` and the share of variance kept: u = W (x - m).

    W = diag(s) V', with V the leading eigenvectors of the covariance of the rows and l their eigenvalues:

    - ``whiten``: s_j = l_j^-1/2, every direction of variance one. Directions that the rows do not vary in are 0.
    - ``overall``: s_j = (mean l)^-1/2, distances keep their proportions: noise drowns directions that vary little.
    - ``none``: u = x; the embedding has the size of the variable.

    Signs are fixed: the largest entry of an eigenvector is positive.

    Raises:
        DataError: fewer than two rows, or embeddings that are too short.
    """
    count, width = rows.shape
    if scaling == "none":
        if width != size:
            raise DataError(
                "scaling: none takes embeddings as they are",
                expected=f"{size} numbers a row, the size of the variable",
                found=str(width),
                fix=f"size: {width}, or leave scaling out",
            )
        return torch.zeros_like(rows[0]) if count else rows.new_zeros(width), torch.eye(width).to(rows), 1.0
    if count < 2:
        raise DataError(
            "there are too few rows to learn a scaling from",
            expected="two observed rows or more",
            found=str(count),
            fix="give more rows",
        )
    if width < size:
        raise DataError(
            "the embedding is smaller than its variable",
            expected=f"{size} numbers a row, or more",
            found=str(width),
            fix=f"make the variable's size {width} or less",
        )
    centre = rows.mean(0)
    centred = rows - centre
    if count > width:
        variances, vectors = torch.linalg.eigh(centred.mT @ centred / (count - 1))
        variances, vectors = variances.flip(0).clamp_min(0), vectors.flip(1)
    else:
        _, lengths, transposed = torch.linalg.svd(centred, full_matrices=False)
        variances, vectors = lengths**2 / (count - 1), transposed.mT
    total = variances.sum()
    missing = size - len(variances)
    if missing > 0:
        variances = torch.cat([variances, variances.new_zeros(missing)])
        vectors = torch.cat([vectors, vectors.new_zeros(width, missing)], 1)
    kept, vectors = variances[:size], vectors[:, :size]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    vectors = vectors * torch.where(largest < 0, -1.0, 1.0)
    floor = 1e-9 * total.clamp_min(torch.finfo(rows.dtype).tiny)
    mean = kept.mean().clamp_min(floor)
    if scaling == "whiten":
        scales = torch.where(kept > floor, kept.clamp_min(floor).rsqrt(), 0.0)
    else:
        scales = mean.rsqrt().expand(size)
    return centre, (vectors * scales).mT.contiguous(), float(kept.sum() / total) if float(total) else 1.0


def region(points: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return centre, root and limit of where the fitted rows lie, so that about ``share`` of new rows lie inside.

    With S the covariance of the points and L L' = S^-1, a row's squared Mahalanobis distance is |L' (u - c)|^2. The
    limit is the quantile of the distances of the fitted rows, each from the others: by the Sherman-Morrison formula
    d_-i = (n - 2) a^2 h / (1 - a h), a = n / (n - 1), h_i = d_i / (n - 1). In-sample distances would be too small.
    """
    count, size = points.shape
    centre = points.mean(0) if count else points.new_zeros(size)
    if count < 3:
        return centre, torch.eye(size).to(points), points.new_tensor(math.inf)
    covariance = (points - centre).mT @ (points - centre) / (count - 1)
    ridge = 1e-3 * covariance.diagonal().mean().clamp_min(1e-12)
    root = torch.linalg.cholesky(torch.linalg.inv(covariance + ridge * torch.eye(size).to(points)))
    leverage = distances(points, centre, root) / (count - 1)
    again = count / (count - 1)
    others = (count - 2) * again**2 * leverage / (1 - again * leverage).clamp_min(1e-6)
    return centre, root, others.quantile(share)


def distances(points: Tensor, centre: Tensor, root: Tensor) -> Tensor:
    """Return squared Mahalanobis distances |L' (u - c)|^2, ``(rows,)``."""
    return ((points - centre) @ root).square().sum(-1)
