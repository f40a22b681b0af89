"""Gaussian-process regression on uncertain inputs, with its leave-one-out errors in closed form.

Targets are y_i = f(x_i) + noise with f a zero-mean process of covariance k, and readings of x are Gaussians. Then the
best linear prediction of y from all other targets uses the expected kernel between readings, and its own kernel, 1, on
the diagonal (Girard 2004, section 3; Dallaire, Besse & Chaib-draa 2009, equation 9).
Leave-one-out: Rasmussen & Williams 2006, section 5.4.2. Inducing points: deterministic training conditional,
Quinonero-Candela & Rasmussen 2005, section 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Kernel", "Posterior", "regress", "rooted", "tune"]

JITTER = 1e-8


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """k(x, y) = exp(-sum_d (x_d - y_d)^2 / (2 metric_d)) between two readings of usual variance.

    Args:
        metric: squared length scale plus twice the usual variance of a reading, ``(D,)``.
        usual: that variance, ``(D,)``: the expected kernel is taken in units of what two usual readings have.
    """

    metric: Tensor
    usual: Tensor

    def among(self, points: Tensor, others: Tensor) -> Tensor:
        """Return k between usual readings at means ``(N, D)`` and ``(M, D)``: ``(N, M)``."""
        return self.towards(points, self.usual.expand_as(points), others)

    def towards(self, mean: Tensor, variance: Tensor, points: Tensor) -> Tensor:
        """Return the expected kernel between readings N(mean, variance), ``(N, D)`` each, and usual ones ``(M, D)``.

        prod_d sqrt(metric_d / m_d) exp(-(x_d - y_d)^2 / 2 m_d),  m_d = metric_d + variance_d - usual_d.
        """
        wide = self.metric + (variance - self.usual)
        weight = 1 / wide
        distance = (mean.square() * weight).sum(-1, keepdim=True) + weight @ points.square().T
        distance = distance - 2 * (mean * weight) @ points.T
        shrunk = (self.metric / wide).log().sum(-1, keepdim=True)
        return torch.exp((shrunk - distance.clamp_min(0.0)) / 2)


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """f given the targets at ``points``, for any reading.

    Args:
        kernel: of readings.
        points: means of the basis, ``(M, D)``: all training rows, or inducing points.
        weights: ``(M, T)``: E[f(x)] = k(x, points) weights.
        noise: variance, in units of the kernel's.
        root: L with L L' = K + noise I, ``(M, M)``; with inducing points L L' = K_mm.
        inner: B with B B' = noise I + L^-1 K_mn K_nm L^-T, with inducing points only.
    """

    kernel: Kernel
    points: Tensor
    weights: Tensor
    noise: Tensor
    root: Tensor
    inner: Tensor | None = None

    def __call__(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of f ``(N, T)``, and the share of its prior variance that is left ``(N,)``, for readings.

        What is left is 1 - |L^-1 k|^2, and with inducing points + noise |B^-1 L^-1 k|^2.
        """
        cross = self.kernel.towards(mean, variance, self.points)
        spanned = _solve(self.root, cross.T)
        left = 1 - spanned.square().sum(0)
        if self.inner is not None:
            left = left + self.noise * _solve(self.inner, spanned).square().sum(0)
        return cross @ self.weights, left.clamp(0.0, 1.0)


def rooted(kernel: Kernel, points: Tensor, noise: float | Tensor) -> Tensor:
    """Return L with L L' = K + noise I, ``(M, M)``."""
    eye = torch.eye(len(points)).to(points)
    factor: Tensor = torch.linalg.cholesky(kernel.among(points, points) + noise * eye)
    return factor


def regress(
    kernel: Kernel,
    inputs: Tensor,
    targets: Tensor,
    noise: float,
    points: Tensor | None = None,
    root: Tensor | None = None,
) -> tuple[Posterior, Tensor, Tensor]:
    """Fit targets ``(N, T)`` at inputs ``(N, D)``, and predict each row from the others.

    With G = (K + noise I)^-1: weights G y, errors [G y]_i / G_ii, variance left 1 / G_ii - noise. With inducing points
    H = K_nm (noise K_mm + K_mn K_nm)^-1 K_mn smooths, G_ii is (1 - H_ii) / noise; what the points do not span is left.

    Args:
        kernel: of inputs.
        inputs: means of readings of usual variance.
        targets: with prior mean zero.
        noise: variance, in units of the kernel's.
        points: inducing points ``(M, D)``; None is all inputs, without approximation.
        root: of all inputs, where it is known.

    Returns:
        The posterior; the leave-one-out errors ``(N, T)``; the variance of f that a row's others leave, ``(N,)``.
    """
    level = torch.tensor(noise).to(inputs)
    if points is None:
        root = rooted(kernel, inputs, noise) if root is None else root
        weights = torch.cholesky_solve(targets, root).contiguous()
        own = _solve(root, torch.eye(len(inputs)).to(inputs)).square().sum(0)
        return Posterior(kernel, inputs, weights, level, root), weights / own.unsqueeze(-1), 1 / own - noise
    root = rooted(kernel, points, JITTER)
    cross = kernel.among(inputs, points)
    spanned = _solve(root, cross.T)
    inner = torch.linalg.cholesky(noise * torch.eye(len(points)).to(points) + spanned @ spanned.T)
    smoothing = _solve(inner, spanned)
    weights = torch.linalg.solve_triangular(inner.T, smoothing @ targets, upper=True)  # B^-T B^-1 L^-1 K_mn y
    weights = torch.linalg.solve_triangular(root.T, weights, upper=True).contiguous()
    smoothed = smoothing.square().sum(0)
    away = (1 - smoothed).clamp_min(1e-12)
    errors = (targets - cross @ weights) / away.unsqueeze(-1)
    left = noise * smoothed / away + (1 - spanned.square().sum(0)).clamp_min(0.0)
    return Posterior(kernel, points, weights, level, root, inner), errors, left


def _solve(root: Tensor, columns: Tensor) -> Tensor:
    """Return L^-1 times columns."""
    solution: Tensor = torch.linalg.solve_triangular(root, columns, upper=False)
    return solution


def tune(
    inputs: Tensor,
    usual: Tensor,
    targets: Mapping[str, tuple[Tensor, Tensor]],
    scales: Iterable[float],
    noises: Iterable[float],
) -> dict[str, tuple[Kernel, float]]:
    """Choose a kernel and a noise for every target by leave-one-out predictive density.

    Per dimension that is -log(mean squared leave-one-out error + floor) / 2 at its best amplitude. One
    eigendecomposition per length scale serves all targets and noises.

    Args:
        inputs: ``(N, D)``, means of readings.
        usual: ``(D,)``, their usual variance.
        targets: by name ``(N, T)``, and the variance ``(T,)`` with which they are read.
        scales: squared length scales, as multiples of the inputs' total variance.
        noises: variances, in units of the kernel's.
    """
    total = inputs.var(0, correction=0).sum().clamp_min(1e-12)
    best: dict[str, tuple[float, Kernel, float]] = {}
    for scale in scales:
        kernel = Kernel(scale * total + 2 * usual, usual.contiguous())
        values, vectors = torch.linalg.eigh(kernel.among(inputs, inputs))
        squares = vectors.square()
        rotated = {name: vectors.T @ each for name, (each, _) in targets.items()}
        for noise in noises:
            shrunk = 1 / (values.clamp_min(0.0) + noise)
            own = squares @ shrunk
            for name, (_, floor) in targets.items():
                errors = (vectors @ (shrunk.unsqueeze(-1) * rotated[name])) / own.unsqueeze(-1)
                density = -float((errors.square().mean(0) + floor).log().sum()) / 2
                if name not in best or density > best[name][0]:
                    best[name] = density, kernel, noise
    return {name: (kernel, noise) for name, (_, kernel, noise) in best.items()}
