"""A small network on a latent, and the Gaussian message that what is seen of its output sends to the latent.

Everything is said in the coordinates of the inbox N(m, V): z = m + R e with R R' = V, so that e ~ N(0, I) and every row
has its own first layer. What is seen is p(seen | f(e)), and its derivatives in e are closed: no autograd in ``infer``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from serket.messages.gaussian import Gaussian

__all__ = ["FINE", "Labels", "Layers", "Observed", "Targets", "View", "forward", "rule"]

Layers = list[tuple[Tensor, Tensor]]
FINE = 2048
"""Points of the rule, without their mirror images, behind a message: moments to 0.01 in 16 dimensions."""
_NEWTON = 25


class Observed(Protocol):
    """What is seen of outputs f ``(rows, ..., K)``: nats, with gradient and Hessian in f."""

    def log_prob(self, output: Tensor) -> Tensor:
        """Return log p(seen | f), ``(rows, ...)``."""
        ...

    def slopes(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient, and the negative semidefinite part of the Hessian that Gauss-Newton keeps."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Log sum_y m(y) softmax(f)_y: an observed label is m(y) = [y = label]; bare ``logits`` of m, ``(rows, K)``."""

    logits: Tensor

    def log_prob(self, output: Tensor) -> Tensor:
        """Log of the sum over y."""
        return (_beside(self.logits, output) + output.log_softmax(-1)).logsumexp(-1)

    def slopes(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """r - p, with r the posterior of y;  -(diag p - p p')."""
        prior = output.softmax(-1)
        posterior = (_beside(self.logits, output) + output).softmax(-1)
        return posterior - prior, prior.unsqueeze(-1) * prior.unsqueeze(-2) - torch.diag_embed(prior)


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """N(y; f, diag exp(log_variance)), y ``(rows, K)``."""

    values: Tensor
    log_variance: Tensor

    def log_prob(self, output: Tensor) -> Tensor:
        """-sum_k [ (y - f)^2 / v + log(2 pi v) ] / 2."""
        square = (_beside(self.values, output) - output).square() / self.log_variance.exp()
        return -(square + self.log_variance + math.log(2 * math.pi)).sum(-1) / 2

    def slopes(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """(y - f) / v;  -1 / v."""
        precision = (-self.log_variance).exp()
        hessian = -torch.diag(precision).expand(*output.shape, output.shape[-1])
        return (_beside(self.values, output) - output) * precision, hessian


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A network as seen from Gaussians N(m, V) over its input, a row each: f(m + R e), e ~ N(0, I).

    Args:
        mean: m, ``(rows, D)``.
        factor: L with V^-1 = L L', ``(rows, D, D)``.
        layers: weights ``(rows, H, D)`` and biases ``(rows, 1, H)``, with R in the first.
    """

    mean: Tensor
    factor: Tensor
    layers: Layers

    @classmethod
    def of(cls, inbox: Gaussian, basis: Tensor, layers: Layers) -> View:
        """Look from proper messages on some z at a network on B z, B ``(D, size of z)``."""
        full = inbox.full()
        factor = torch.linalg.cholesky(full.precision)
        mean = torch.cholesky_solve(full.info.unsqueeze(-1), factor).squeeze(-1)
        # A matrix per row throughout: a row's bits must not depend on how many others are answered with it.
        basis = basis.expand(len(mean), *basis.shape)
        half = torch.linalg.solve_triangular(factor, basis.mT, upper=False)
        root, mean = torch.linalg.cholesky(half.mT @ half), _times(basis, mean)  # B V B' = root root'
        eye = torch.eye(mean.shape[-1]).to(root).expand_as(root)
        (weight, bias), *rest = [(w.expand(len(mean), *w.shape), b.expand(len(mean), 1, *b.shape)) for w, b in layers]
        first = weight @ root, _times(weight, mean).unsqueeze(1) + bias
        return cls(mean, torch.linalg.solve_triangular(root.mT, eye, upper=True), [first, *rest])

    def outputs(self, places: Tensor) -> Tensor:
        """Return f at e = places ``(points, D)``, the same for all rows: ``(rows, points, K)``."""
        return forward(self.layers, places)[-1]

    def laplace(self, observed: Observed) -> tuple[Gaussian, Tensor]:
        """Return the message exp(log p) to second order at the mode of inbox times p, and log of its integral.

        Newton's method with the Gauss-Newton Hessian, exact for a linear f and a hard label; a step that climbs is
        taken, one that does not is halved (MacKay 1992, the evidence framework).
        """
        mode, gradient, curvature = self._mode(observed)
        belief = Gaussian(gradient + _times(curvature, mode), torch.eye(mode.shape[-1]).to(mode) + curvature)
        height = observed.log_prob(self._at(mode)) - mode.square().sum(-1) / 2
        factor = torch.linalg.cholesky(belief.precision)
        log_integral = height - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return self._back(belief.info, curvature), log_integral

    def quadrature(self, observed: Observed) -> tuple[Gaussian, Tensor]:
        """Return the quotient of the moment projection of inbox times p by the inbox, and log of the integral.

        With g the gradient of log p and <.> the mean under inbox times p, the projection has, in e, mean <g> and
        covariance I + H, H = <e g'> - <g> <g>' (Stein's identity for N(0, I) times p): where p says little, little is
        left to be in error, and no second derivative is needed. The quotient has precision -H (I + H)^-1. The means are
        taken over points of the inbox and points about the mode, half and half, each weighed by the density of both
        (Veach & Guibas 1995, balance heuristic): several modes, and labels that contradict the inbox, are seen.
        """
        mode, _, curvature = self._mode(observed)
        factor = torch.linalg.cholesky(torch.eye(mode.shape[-1]).to(mode) + curvature)
        base, share = (part.to(mode) for part in rule(mode.shape[-1], FINE))
        spread = torch.linalg.solve_triangular(factor.mT, base.T.expand(len(mode), *base.T.shape), upper=True).mT
        places = torch.cat([base.expand_as(spread), mode.unsqueeze(1) + spread], 1)
        near = ((places - mode.unsqueeze(1)) @ factor).square().sum(-1) / 2
        inbox, log_det = places.square().sum(-1) / 2, factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        measure = share.repeat(2) - inbox - torch.logaddexp(-inbox, log_det.unsqueeze(-1) - near)
        *hidden, output = forward(self.layers, places)
        log_weight = observed.log_prob(output) + measure
        if is_grid(mode.shape[-1]):
            shift, change = _moments(log_weight, places)
            change = change - torch.eye(mode.shape[-1]).to(mode)
        else:
            gradient = observed.slopes(output)[0]
            for (weight, _), unit in zip(self.layers[::-1], [*hidden[::-1], None], strict=True):
                gradient = gradient @ weight
                gradient = gradient if unit is None else gradient * (1 - unit.square())
            weights = log_weight.softmax(-1).unsqueeze(-1)
            shift = (weights * gradient).sum(1)
            # Summed, not multiplied out as matrices: those bits depend on how many rows there are.
            lines = [(weights * place.unsqueeze(-1) * gradient).sum(1) for place in places.unbind(-1)]
            change = torch.stack(lines, 1) - shift.unsqueeze(-1) * shift.unsqueeze(-2)
        values, vectors = torch.linalg.eigh((change + change.mT) / 2)
        # A covariance is positive; what the rule misses of that must not turn the message round.
        wider = 1 + values.clamp_min(math.sqrt(torch.finfo(values.dtype).eps) - 1)
        precision = (vectors * ((1 - wider) / wider).unsqueeze(-2)) @ vectors.mT
        info = _times(vectors / wider.unsqueeze(-2), _times(vectors.mT, shift))
        return self._back(info, precision), log_weight.logsumexp(-1)

    def _mode(self, observed: Observed) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mode of inbox times p in e, and there the gradient of log p and minus its Gauss-Newton Hessian."""
        place = torch.zeros_like(self.mean)
        step = place.new_ones(len(place), 1)
        eye = torch.eye(place.shape[-1]).to(place)
        value, gradient, hessian = self._slopes(place.unsqueeze(1), observed)
        for _ in range(_NEWTON):
            rise = torch.cholesky_solve(
                (gradient[:, 0] - place).unsqueeze(-1), torch.linalg.cholesky(eye - hessian[:, 0])
            )
            there = place + step * rise.squeeze(-1)
            new = self._slopes(there.unsqueeze(1), observed)
            climbs = new[0][:, 0] - there.square().sum(-1) / 2 >= value[:, 0] - place.square().sum(-1) / 2
            step = torch.where(climbs.unsqueeze(-1), (2 * step).clamp_max(1.0), step / 2)
            place = torch.where(climbs.unsqueeze(-1), there, place)
            value = torch.where(climbs.unsqueeze(-1), new[0], value)
            gradient = torch.where(climbs[:, None, None], new[1], gradient)
            hessian = torch.where(climbs[:, None, None, None], new[2], hessian)
        return place, gradient[:, 0], -hessian[:, 0]

    def _at(self, places: Tensor) -> Tensor:
        """Return f at one e per row, ``(rows, K)``."""
        return forward(self.layers, places.unsqueeze(1))[-1].squeeze(1)

    def _slopes(self, places: Tensor, observed: Observed) -> tuple[Tensor, Tensor, Tensor]:
        """Return log p, its gradient and its Gauss-Newton Hessian in e, at places ``(rows, points, D)``.

        Backwards through the layers: gradient g -> W' g, Hessian h -> W' h W, and at a hidden unit t = tanh(a), with
        t' = 1 - t^2, g -> t' g and h -> t' h t'.
        """
        *hidden, output = forward(self.layers, places)
        gradient, hessian = observed.slopes(output)
        for (weight, _), unit in zip(self.layers[::-1], [*hidden[::-1], None], strict=True):
            gradient = gradient @ weight
            hessian = weight.mT.unsqueeze(1) @ hessian @ weight.unsqueeze(1)
            if unit is not None:
                slope = 1 - unit.square()
                hessian = slope.unsqueeze(-1) * hessian * slope.unsqueeze(-2)
                gradient = gradient * slope
        return observed.log_prob(output), gradient, hessian

    def _back(self, info: Tensor, precision: Tensor) -> Gaussian:
        """Turn a potential over e = L' (z - m) into one over z."""
        turned = self.factor @ precision @ self.factor.mT
        turned = (turned + turned.mT) / 2
        return Gaussian(_times(self.factor, info) + _times(turned, self.mean), turned)


def forward(layers: Layers, x: Tensor) -> list[Tensor]:
    """Return the hidden layers, tanh, and the output of a network at ``(..., points, D)``."""
    values = []
    for weight, bias in layers:
        x = x @ weight.mT + bias
        values.append(x)
        x = x.tanh()
    return [*(value.tanh() for value in values[:-1]), values[-1]]


@cache
def rule(size: int, count: int = 512) -> tuple[Tensor, Tensor]:
    """Return points ``(G, size)`` and log-weights ``(G,)`` for means under N(0, I), exact for mean and covariance.

    A grid in one and two dimensions, fine enough for moments; else ``count`` scrambled Sobol points, and as many mirror
    images.
    """
    if is_grid(size):
        line = torch.linspace(-7, 7, 281 if size == 1 else 71, dtype=torch.float64)
        grid = torch.cartesian_prod(*[line] * size).reshape(-1, size)
        return grid, (-grid.square().sum(-1) / 2).log_softmax(-1)
    count = max(count, 2 * size)
    half = torch.special.ndtri(
        SobolEngine(size, scramble=True, seed=0).draw(count, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    )
    factor = torch.linalg.cholesky(half.T @ half / count)
    half = torch.linalg.solve_triangular(factor, half.T, upper=False).T
    return torch.cat([half, -half]), torch.full((2 * count,), -math.log(2 * count), dtype=torch.float64)


def is_grid(size: int) -> bool:
    """Tell whether the rule for so many dimensions is a grid."""
    return size <= 2


def _moments(log_weight: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return weighted mean ``(rows, D)`` and covariance ``(rows, D, D)`` of values ``(rows, points, D)``."""
    weight = log_weight.softmax(-1).unsqueeze(-1)
    mean = (weight * values).sum(1)
    gap = values - mean.unsqueeze(1)
    return mean, ((weight * gap).unsqueeze(-1) * gap.unsqueeze(-2)).sum(1)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _beside(seen: Tensor, output: Tensor) -> Tensor:
    """Shape ``(rows, K)`` to stand beside ``(rows, ..., K)``."""
    return seen.reshape(len(seen), *(1,) * (output.dim() - 2), seen.shape[-1])
