"""How sure several sources are together: their errors have much in common, and a product would count that again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from serket.composer.kernel.translation import LeftOut, Target
from serket.messages import Gaussian, some_of

__all__ = ["Overlap"]

ROWS = 512
LEAST_SHARE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Overlap:
    """What of the precision that k sources add up to is left, by k: measured on rows left out.

    Args:
        shares: ``(K,)``, in (0, 1], for k = 1 .. K.
    """

    shares: Tensor

    def counted(self, told: Gaussian, prior: Gaussian, sources: Tensor) -> Gaussian:
        """Return a potential with that share of the precision of ``told``, and the same mean times the prior.

        Args:
            told: the product of what the sources say, ``(rows, T)``.
            prior: of the target, without batch dimensions.
            sources: their number, ``(rows,)``; between two numbers the share is between theirs.
        """
        if not len(self.shares):
            return told
        at = (sources - 1).clamp(0, len(self.shares) - 1)
        low = at.long()
        high = (low + 1).clamp_max(len(self.shares) - 1)
        share = self.shares[low].lerp(self.shares[high], at - low).unsqueeze(1)
        mean = (told * prior.expand(len(told.info))).mean()
        info = share * told.info + (1 - share) * (mean @ prior.precision)
        return Gaussian(info, share.unsqueeze(2) * told.precision)

    @classmethod
    def measure(cls, said: Sequence[LeftOut], target: Target) -> Overlap:
        """Choose shares so that the errors of k sources are as large as told, k of those that speak drawn per row.

        With W the precision of their product, mu its mean, C its covariance with a share t of W, and d = m - K mu, of m
        the mean of the reading and K the share of it that is read:  sum tr W (K C K' + noise of d) = sum d' W d.
        A prior worth T + 1 rows has it that one more source tells nothing new.
        """
        if not said:
            return cls(target.values.new_zeros(0))
        some = some_of(len(target.rows), ROWS)
        rows, values, size = target.rows[some], target.values[some], target.values.shape[1]
        eta, weight = values.new_zeros(len(said), *values.shape), values.new_zeros(len(said), len(values))
        for one, there, strength in zip(said, eta, weight, strict=True):
            at = torch.searchsorted(one.rows, rows).clamp_max(len(one.rows) - 1)
            here = one.rows[at] == rows
            there[here], strength[here] = one.eta[at[here]], one.weight[at[here]]
        lower = torch.linalg.cholesky(target.marginal)
        precisions = torch.stack([lower.T @ one.precision @ lower for one in said])  # where the prior is N(0, I)
        read, noise = _reading(target, lower)
        values = torch.linalg.solve_triangular(lower, values.T, upper=False).T
        eta, present = eta @ lower, weight > 0
        order = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)).to(weight)
        rank = torch.where(present, order, 2.0).argsort(0).argsort(0)
        found: list[Tensor] = []
        for count in range(1, len(said) + 1):
            usual = found[-1] * (count - 1) / count if found else values.new_ones(())
            enough = present.sum(0) >= count
            taken = (rank < count)[:, enough]
            if not bool(enough.any()):
                found.append(usual)
                continue
            wide = torch.einsum("mn,mij->nij", taken * weight[:, enough], precisions)
            info = (taken.unsqueeze(2) * eta[:, enough]).sum(0)
            gains, vectors = torch.linalg.eigh(wide)
            gains = gains.clamp_min(0.0)
            mean = (vectors @ ((vectors.mT @ info.unsqueeze(2)) / (1 + gains).unsqueeze(2))).squeeze(2)
            error = values[enough] - mean @ read.T
            seen = ((wide @ error.unsqueeze(2)).squeeze(2) * error).sum() - (wide * noise).sum()
            turned = vectors.mT @ read.T @ wide @ read @ vectors
            found.append(_share(gains, turned.diagonal(dim1=-2, dim2=-1), seen, usual, size + 1))
        return cls(torch.stack(found))


def _reading(target: Target, lower: Tensor) -> tuple[Tensor, Tensor]:
    """Return K and the noise, ``(T, T)`` each, of m = K u + noise, where the prior of u is N(0, I)."""

    def into(covariance: Tensor) -> Tensor:
        half = torch.linalg.solve_triangular(lower, covariance, upper=False)
        both: Tensor = torch.linalg.solve_triangular(lower, half.T, upper=False)
        return both

    read, noise = torch.eye(len(lower)).to(lower), torch.zeros_like(lower)
    if target.unread is not None:
        unread = into(target.unread)
        read, noise = read - unread, unread - unread @ unread
    return read, noise if target.doubt is None else noise - into(target.doubt)


def _share(gains: Tensor, weights: Tensor, seen: Tensor, usual: Tensor, doubt: int) -> Tensor:
    """Return t in (0, 1] with sum weights / (1 + t gains) = seen, by bisection."""

    def expected(share: Tensor) -> Tensor:
        return (weights / (1 + share * gains)).sum()

    seen = seen + expected(usual) * doubt / len(gains)
    low, high = torch.full_like(seen, LEAST_SHARE).log(), torch.zeros_like(seen)
    for _ in range(40):
        middle = (low + high) / 2
        wider = expected(middle.exp()) * (1 + doubt / len(gains)) < seen
        low, high = torch.where(wider, low, middle), torch.where(wider, middle, high)
    return high.exp()
