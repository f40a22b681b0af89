"""Dirichlet messages, held as alpha - 1: pseudo-counts about a vector of probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from serket.errors import MessageError, listed
from serket.messages.base import per_row

__all__ = ["Dirichlet"]


@dataclass(frozen=True, slots=True, eq=False)
class Dirichlet:
    """The potential prod_k pi_k^counts_k over the simplex, one row per sample; proper iff every count is above -1.

    With counts = alpha - 1 it is Dirichlet(alpha); with counts >= 0 it is also, as a function of pi, the likelihood of
    that many draws from pi, whole or not: what a bag of words says about its word distribution (Minka 2000).

    Args:
        counts: alpha - 1, ``(*batch, K)``.
    """

    counts: Tensor

    @classmethod
    def vacuous(
        cls,
        batch: tuple[int, ...],
        size: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Return the message that says nothing: no counts, the uniform Dirichlet(1, ..., 1)."""
        return cls(torch.zeros(*batch, size, dtype=dtype, device=device))

    @property
    def batch_shape(self) -> torch.Size:
        """Leading dimensions."""
        return self.counts.shape[:-1]

    @property
    def size(self) -> int:
        """Number of categories K."""
        return self.counts.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Floating type."""
        return self.counts.dtype

    @property
    def device(self) -> torch.device:
        """Where the counts live."""
        return self.counts.device

    @property
    def concentration(self) -> Tensor:
        """The parameter alpha = counts + 1, ``(*batch, K)``."""
        return self.counts + 1

    def __mul__(self, other: Self) -> Self:
        """Multiply potentials: counts add."""
        return type(self)(self.counts + self._same(other).counts)

    def __truediv__(self, other: Self) -> Self:
        """Divide potentials: counts subtract; the quotient may be improper."""
        return type(self)(self.counts - self._same(other).counts)

    def __pow__(self, exponent: float | Tensor) -> Self:
        """Scale the counts by one number, or by one per row."""
        return type(self)(self.counts * per_row(exponent, self.counts, 1))

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Select rows of the first batch dimension."""
        return type(self)(self.counts[rows])

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """Return the message in another type, on another device."""
        return type(self)(self.counts.to(device, dtype))

    def expand(self, *batch: int) -> Self:
        """Broadcast the batch dimensions to ``batch``."""
        return type(self)(self.counts.expand(*batch, self.size))

    def mask(self, rows: Tensor) -> Self:
        """Make the rows that are false vacuous, whatever they hold (NaN too)."""
        return type(self)(torch.where(rows.unsqueeze(-1), self.counts, 0.0))

    def where(self, rows: Tensor, other: Self) -> Self:
        """Take this message in the rows that are true and ``other`` elsewhere."""
        return type(self)(torch.where(rows.unsqueeze(-1), self.counts, other.counts))

    def is_proper(self) -> Tensor:
        """Per row, whether alpha > 0 throughout."""
        return (self.counts > -1).all(-1)

    def is_vacuous(self) -> Tensor:
        """Per row, whether there are no counts."""
        return (self.counts == 0).all(-1)

    def is_semidefinite(self) -> Tensor:
        """Per row, whether the message may enter a belief: the same as :meth:`is_proper`."""
        return self.is_proper()

    def semidefinite_part(self) -> Self:
        """Make the categories with alpha <= 0 say nothing and keep the others."""
        return type(self)(torch.where(self.counts > -1, self.counts, 0.0))

    def clipped(self) -> Self:
        """Raise negative counts to none: what fewer than no draws would say."""
        return type(self)(self.counts.clamp_min(0.0))

    def log_z(self) -> Tensor:
        """Log of the integral over the simplex, nats: log B(alpha); +inf in improper rows."""
        alpha = torch.where(self.is_proper().unsqueeze(-1), self.concentration, 1.0)
        value = alpha.lgamma().sum(-1) - alpha.sum(-1).lgamma()
        return torch.where(self.is_proper(), value, torch.inf)

    def kl(self, other: Self) -> Tensor:
        """KL(self || other), nats: log B(b) - log B(a) + sum_k (a_k - b_k) (psi(a_k) - psi(sum a)); inf if improper."""
        a, b = self, self._same(other)
        same = (a.counts == b.counts).all(-1)
        proper = a.is_proper() & b.is_proper()
        alpha = torch.where(proper.unsqueeze(-1), a.concentration, 1.0)
        expected = alpha.digamma() - alpha.sum(-1, keepdim=True).digamma()
        gap = torch.where(proper.unsqueeze(-1), a.counts - b.counts, 0.0)
        value = (b.log_z() - a.log_z() + (gap * expected).sum(-1)).clamp_min(0.0)
        return torch.where(same, 0.0, torch.where(proper, value, torch.inf))

    def mean(self) -> Tensor:
        """Mean alpha / sum alpha, ``(*batch, K)``.

        Raises:
            MessageError: rows with alpha <= 0.
        """
        alpha = self._require_proper("mean").concentration
        return alpha / alpha.sum(-1, keepdim=True)

    def sample(self, generator: torch.Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw ``(*shape, *batch, K)`` probabilities; raises like :meth:`mean`."""
        alpha = self._require_proper("sample").concentration.expand(*shape, *self.counts.shape)
        gamma = torch._standard_gamma(alpha, generator=generator).clamp_min(torch.finfo(alpha.dtype).tiny)
        return gamma / gamma.sum(-1, keepdim=True)

    def to_distribution(self) -> torch.distributions.Distribution:
        """Return the normalised potential as a torch distribution."""
        return torch.distributions.Dirichlet(self._require_proper("to_distribution").concentration)

    def tensors(self) -> dict[str, Tensor]:
        """Return ``counts``."""
        return {"counts": self.counts}

    def _require_proper(self, what: str) -> Self:
        if not bool((proper := self.is_proper()).all()):
            rows = listed((~proper).reshape(-1).nonzero().flatten().tolist())
            raise MessageError(
                f"Dirichlet.{what} of a potential that cannot be normalised",
                where=f"rows {rows}",
                expected="counts above -1",
                fix="multiply by a prior first, or select the rows where is_proper() is true",
            )
        return self

    def _same(self, other: Self) -> Self:
        if not isinstance(other, Dirichlet) or self.size != other.size:
            found = f"{type(other).__name__}({getattr(other, 'size', '?')})"
            raise MessageError("messages over different variables", expected=f"Dirichlet({self.size})", found=found)
        return other
