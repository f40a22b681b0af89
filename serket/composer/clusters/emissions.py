"""What a view looks like under each value of a concept: Gaussian, counts or categories, in front of a message.

Each is a value with the same verbs: ``score``, the log of the integral of p(z | k) m(z); ``improve``, the M-step under
responsibilities, with its prior; ``log_prior``, of that; ``reply``, the mixture over k projected onto the family. What
they see of messages are natural parameters, a row each: :class:`Seen`, counts ``(rows, V)`` or logits ``(rows, J)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from serket.errors import MessageError, listed
from serket.messages import Categorical, Dirichlet, Gaussian, Message

__all__ = ["Categories", "Counts", "Covariance", "Emission", "Normal", "Seen"]

Covariance = Literal["full", "diagonal", "tied"]
CHUNK = 1024
UNSEEN = 1e-8
"""Responsibility below which a row is left out of a component's covariance."""


class Seen(NamedTuple):
    """Gaussian messages: ``(rows, D)``, and ``(rows, D)`` or ``(rows, D, D)``, or one row of it that all rows share."""

    info: Tensor
    precision: Tensor


class Emission(Protocol):
    """See the head of the file."""

    def score(self, seen: Any) -> Tensor:
        """Log of the integral of p(z | k) times the message, nats, ``(rows, K)``."""
        ...

    def begin(self, seen: Any, share: Tensor) -> Self:
        """Fit to messages under responsibilities alone, whatever the parameters are."""
        ...

    def improve(self, seen: Any, share: Tensor) -> Self:
        """Fit to messages under responsibilities ``(rows, K)``, zero in rows that do not count."""
        ...

    def log_prior(self) -> float:
        """Log of the prior density of the parameters, nats, up to a constant."""
        ...

    def reply(self, probs: Tensor) -> Message:
        """Project sum_k probs_k p(z | k), with ``(rows, K)``, by moments."""
        ...

    def relabelled(self, order: Tensor) -> Self:
        """Make component ``order[k]`` component k."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the parameters by name."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Normal:
    """p(z | k) = N(mu_k, Sigma_k), in units u = (z - location) / scale, in which the pooled variance is 1.

    A component's prior is that of ``strength`` rows of covariance ``scatter`` I and ``kappa`` rows at mean 0:
    Sigma_k = (strength scatter I + S_k + kappa mu_k mu_k') / (n_k + strength), where S_k sums E[(u - mu)(u - mu)'],
    and mu_k = sum E[u] / (n_k + kappa) (Fraley & Raftery 2007 with an inverse Wishart of that strength).

    Args:
        mean: ``(K, D)``.
        covariance: ``(K, D, D)``; equal matrices where tied.
        shape: what the covariances are.
        scatter, strength, kappa: of the prior.
    """

    mean: Tensor
    covariance: Tensor
    shape: Covariance = "full"
    scatter: float = 0.1
    strength: float = 1.0
    kappa: float = 0.1

    def score(self, seen: Seen) -> Tensor:
        """mu' h - mu' L mu / 2 + |R^-1 C'(h - L mu)|^2 / 2 - log det R; Sigma = C C', R R' = I + C' L C."""
        mean, root = self.mean, self._root()
        parts = []
        for rows in _chunks(len(seen.info)):
            eta, lam = _rows(seen, rows)
            columns = []
            for k in range(len(mean)):
                pulled = _times(lam, mean[k].expand(len(lam), -1))
                white, log_det = _whitened(root[k], lam, eta - pulled)
                columns.append((eta - pulled / 2) @ mean[k] + white.square().sum(-1) / 2 - log_det)
            parts.append(torch.stack(columns, 1))
        return torch.cat(parts)

    def begin(self, seen: Seen, share: Tensor) -> Normal:
        """Improve on N(0, I), the pooled population: a wide start."""
        eye = torch.eye(self.mean.shape[1]).to(self.mean).expand_as(self.covariance)
        return replace(self, mean=torch.zeros_like(self.mean), covariance=eye).improve(seen, share)

    def improve(self, seen: Seen, share: Tensor) -> Normal:
        """Moments of u given each component and the message, exact."""
        root, size = self._root(), self.mean.shape[1]
        first, second = torch.zeros_like(self.mean), torch.zeros_like(self.covariance)
        for k in range(len(self.mean)):
            rows = (share[:, k] > UNSEEN).nonzero().flatten()
            for part in _chunks(len(rows)):
                eta, lam = _rows(seen, rows[part])
                weight = share[rows[part], k]
                error = eta - _times(lam, self.mean[k].expand(len(lam), -1))
                offset, spread = _posterior(root[k], lam, error)
                first[k] += weight @ offset
                second[k] += (offset * weight.unsqueeze(1)).T @ offset
                second[k] += (
                    (weight.sum() * spread[0]) if len(spread) == 1 else torch.einsum("n,nij->ij", weight, spread)
                )
        count = share.sum(0)
        # offsets are from the old mean: shift them to the new one
        mean = (first + count.unsqueeze(1) * self.mean) / (count + self.kappa).unsqueeze(1)
        shift = mean - self.mean
        across = first.unsqueeze(2) * shift.unsqueeze(1)
        scatter = second - across - across.mT + count[:, None, None] * _outer(shift) + self.kappa * _outer(mean)
        scatter = scatter + self.strength * self.scatter * torch.eye(size).to(mean)
        count = count + self.strength
        if self.shape == "tied":
            covariance = (scatter.sum(0) / count.sum()).expand_as(scatter)
        else:
            covariance = scatter / count[:, None, None]
        if self.shape == "diagonal":
            covariance = torch.diag_embed(covariance.diagonal(dim1=1, dim2=2))
        return replace(self, mean=mean, covariance=(covariance + covariance.mT) / 2)

    def log_prior(self) -> float:
        """-(strength (log det Sigma_k + scatter tr Sigma_k^-1) + kappa mu_k' Sigma_k^-1 mu_k) / 2, summed over k."""
        root = self._root()
        inverse = torch.cholesky_inverse(root)
        log_det = 2 * root.diagonal(dim1=1, dim2=2).log().sum()
        trace = inverse.diagonal(dim1=1, dim2=2).sum()
        pull = torch.einsum("ki,kij,kj->", self.mean, inverse, self.mean)
        return -float(self.strength * (log_det + self.scatter * trace) + self.kappa * pull) / 2

    def reply(self, probs: Tensor) -> Gaussian:
        """Mean and covariance of the mixture, in units u; linear in rows, for no row holds K matrices."""
        mean = probs @ self.mean
        second = probs @ (self.covariance + _outer(self.mean)).flatten(1)
        return Gaussian.from_moments(mean, second.view(len(mean), *self.covariance.shape[1:]) - _outer(mean))

    def relabelled(self, order: Tensor) -> Normal:
        """Reorder."""
        return replace(self, mean=self.mean[order], covariance=self.covariance[order])

    def tensors(self) -> Mapping[str, Tensor]:
        """Return ``mean`` and ``covariance``."""
        return {"mean": self.mean, "covariance": self.covariance}

    def _root(self) -> Tensor:
        root: Tensor = torch.linalg.cholesky(self.covariance)
        return root


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """A message of counts c about symbol probabilities pi. p(pi | k) = Dirichlet(alpha_k), or pi = phi_k where fixed.

    Then the integral is B(alpha_k + c) / B(alpha_k), the overdispersed (Dirichlet-multinomial) likelihood of a bag, or
    prod phi_k^c, the multinomial one. alpha improves by Minka's fixed point (2000, eq. 55) under alpha ~ Gamma(1 +
    ``smoothing``, 0.001); phi = (sum c + smoothing) / (sum over symbols).

    Args:
        alpha: ``(K, V)``; phi itself where ``fixed``.
        fixed: whether the bag is multinomial.
        smoothing: pseudo-counts per symbol.
    """

    alpha: Tensor
    fixed: bool
    smoothing: float = 0.5

    def score(self, counts: Tensor) -> Tensor:
        """Return sum c log phi_k, or log B(alpha_k + c) - log B(alpha_k)."""
        if self.fixed:
            return counts @ self.alpha.log().T
        if bool((counts < 0).any()):
            rows = listed((counts < 0).any(1).nonzero().flatten().tolist())
            raise MessageError("an overdispersed view hears counts below zero", where=f"rows {rows}",
                               expected="counts, whole or not, from 0",
                               fix="write counts: multinomial, or send Dirichlet.clipped()")  # fmt: skip
        total = counts.sum(1)
        columns = []
        for alpha in self.alpha:
            each = ((counts + alpha).lgamma() - alpha.lgamma()).sum(1)
            columns.append(each - (total + alpha.sum()).lgamma() + alpha.sum().lgamma())
        return torch.stack(columns, 1)

    def begin(self, counts: Tensor, share: Tensor) -> Counts:
        """Sum counts; overdispersed, from there with as much concentration as a bag has counts."""
        phi = Counts(self.alpha, True, self.smoothing).improve(counts, share).alpha
        if self.fixed:
            return replace(self, alpha=phi)
        mean = counts.sum() / len(counts)
        return replace(self, alpha=(phi * mean).clamp_min(1e-3)).improve(counts, share).improve(counts, share)

    def improve(self, counts: Tensor, share: Tensor) -> Counts:
        """Sum counts, or take five steps of the fixed point: each one climbs."""
        if self.fixed:
            summed = share.T @ counts + self.smoothing
            return replace(self, alpha=summed / summed.sum(1, keepdim=True))
        total, alphas = counts.sum(1), []
        for alpha, part in zip(self.alpha, share.T, strict=True):
            rows = part > UNSEEN
            weight, here, sums = part[rows], counts[rows], total[rows]
            for _ in range(5):
                up = weight @ ((here + alpha).digamma() - alpha.digamma())
                down = weight @ ((sums + alpha.sum()).digamma() - alpha.sum().digamma())
                alpha = (self.smoothing + alpha * up) / (1e-3 + down)
            alphas.append(alpha)
        return replace(self, alpha=torch.stack(alphas))

    def log_prior(self) -> float:
        """smoothing times sum log alpha, less 0.001 sum alpha where that is free."""
        free = 0.0 if self.fixed else 1e-3 * float(self.alpha.sum())
        return self.smoothing * float(self.alpha.log().sum()) - free

    def reply(self, probs: Tensor) -> Dirichlet:
        """Match mean and total variance: sum alpha = (1 - |mean|^2) / variance - 1, between 1e-3 and 1e6."""
        total = self.alpha.sum(1, keepdim=True)
        each = self.alpha / total
        squares = each.square() if self.fixed else each * (self.alpha + 1) / (total + 1)
        mean = probs @ each
        room = 1 - mean.square().sum(1)
        variance = (probs @ squares.sum(1) - mean.square().sum(1)).clamp_min(1e-12)
        strength = (room / variance - 1).clamp(1e-3, 1e6)
        return Dirichlet(strength.unsqueeze(1) * mean - 1)

    def relabelled(self, order: Tensor) -> Counts:
        """Reorder."""
        return replace(self, alpha=self.alpha[order])

    def tensors(self) -> Mapping[str, Tensor]:
        """Return ``alpha``."""
        return {"alpha": self.alpha}


@dataclass(frozen=True, slots=True, eq=False)
class Categories:
    """p(z = j | k) = table[k, j], under Dirichlet(1 + smoothing) per row of the table."""

    table: Tensor
    smoothing: float = 0.5

    def score(self, logits: Tensor) -> Tensor:
        """Log sum_j table[k, j] m(j)."""
        return (self.table.log() + logits.unsqueeze(1)).logsumexp(-1)

    def begin(self, logits: Tensor, share: Tensor) -> Categories:
        """Improve on even tables."""
        return replace(self, table=torch.full_like(self.table, 1 / self.table.shape[1])).improve(logits, share)

    def improve(self, logits: Tensor, share: Tensor) -> Categories:
        """Count the categories in expectation: share[n, k] p(j | k, m_n)."""
        joint = self.table.log() + logits.unsqueeze(1)
        summed = (share.unsqueeze(2) * joint.softmax(-1)).sum(0) + self.smoothing
        return replace(self, table=summed / summed.sum(1, keepdim=True))

    def log_prior(self) -> float:
        """Smoothing times sum log table."""
        return self.smoothing * float(self.table.log().sum())

    def reply(self, probs: Tensor) -> Categorical:
        """Exact: sum_k probs_k table[k, j]."""
        return Categorical.from_probs(probs @ self.table)

    def relabelled(self, order: Tensor) -> Categories:
        """Reorder."""
        return replace(self, table=self.table[order])

    def renamed(self, order: Tensor) -> Categories:
        """Reorder the view's own categories."""
        return replace(self, table=self.table[:, order])

    def tensors(self) -> Mapping[str, Tensor]:
        """Return ``table``."""
        return {"table": self.table}


def _whitened(root: Tensor, lam: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """Return R^-1 C' e ``(n, D)`` and log det R ``(n,)`` or ``(1,)``."""
    factor = _factor(root, lam)
    return _solved(factor, error @ root), factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _posterior(root: Tensor, lam: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean less mu ``(n, D)`` and covariance ``(n or 1, D, D)`` of u given a component and the message."""
    factor = _factor(root, lam)
    eye = torch.eye(len(root)).to(root).expand_as(factor)
    half = torch.linalg.solve_triangular(factor, eye, upper=False) @ root.T  # R^-1 C'
    spread = half.mT @ half
    return _times(spread, error), spread


def _factor(root: Tensor, lam: Tensor) -> Tensor:
    """Return R with R R' = I + C' L C, ``(n or 1, D, D)``; L ``(n or 1, D)`` if diagonal."""
    inner = (root.T * lam.unsqueeze(1)) @ root if lam.dim() == 2 else root.T @ lam @ root
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(inner + torch.eye(len(root)).to(root))
    if bool(failed.any()):
        raise MessageError("a Gaussian message has negative precision: a cluster cannot be integrated against it",
                           expected="a positive semidefinite precision in every row",
                           fix="send Gaussian.semidefinite_part() of the message")  # fmt: skip
    return factor


def _solved(factor: Tensor, vectors: Tensor) -> Tensor:
    if len(factor) == 1:
        together: Tensor = torch.linalg.solve_triangular(factor[0], vectors.T, upper=False)
        return together.T
    apart: Tensor = torch.linalg.solve_triangular(factor, vectors.unsqueeze(-1), upper=False).squeeze(-1)
    return apart


def _rows(seen: Seen, rows: slice | Tensor) -> Seen:
    """Select rows; a precision that all rows share stays as it is."""
    return Seen(seen.info[rows], seen.precision if len(seen.precision) == 1 else seen.precision[rows])


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix times vector per row; a matrix of two dimensions is a diagonal."""
    if matrix.dim() == 2:
        return matrix * vector
    return vector @ matrix[0] if len(matrix) == 1 else (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _outer(vector: Tensor) -> Tensor:
    return vector.unsqueeze(-1) * vector.unsqueeze(-2)


def _chunks(rows: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, max(rows, 1), CHUNK)]
