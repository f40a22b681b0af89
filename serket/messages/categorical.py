"""Categorical messages, held as logits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from serket.errors import MessageError, listed
from serket.messages.base import per_row

__all__ = ["Categorical"]


@dataclass(frozen=True, slots=True, eq=False)
class Categorical:
    """The potential exp(logit_k) over K categories, one row per sample; proper iff some logit is finite.

    A logit of -inf is a structural zero: it survives products, quotients and positive powers. Probabilities that are
    merely small have finite logits, down to the floor log(tiny) of their dtype (-87.3 in float32, -708.4 in float64).

    Args:
        logits: ``(*batch, K)``, nats, defined up to a constant per row.
    """

    logits: Tensor

    @classmethod
    def vacuous(
        cls,
        batch: tuple[int, ...],
        size: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Return the message that says nothing: all logits zero."""
        return cls(torch.zeros(*batch, size, dtype=dtype, device=device))

    @classmethod
    def from_probs(cls, probs: Tensor) -> Self:
        """Build from non-negative weights ``(*batch, K)``; an exact zero becomes a structural zero."""
        floor = torch.finfo(probs.dtype).tiny
        return cls(torch.where(probs > 0, probs.clamp_min(floor).log(), -math.inf))

    @property
    def batch_shape(self) -> torch.Size:
        """Leading dimensions."""
        return self.logits.shape[:-1]

    @property
    def size(self) -> int:
        """Number of categories K."""
        return self.logits.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Floating type."""
        return self.logits.dtype

    @property
    def device(self) -> torch.device:
        """Where the logits live."""
        return self.logits.device

    @property
    def probs(self) -> Tensor:
        """Normalised probabilities, ``(*batch, K)``.

        Raises:
            MessageError: rows in which every category is a structural zero.
        """
        return self.log_probs().exp()

    def log_probs(self) -> Tensor:
        """Normalised log-probabilities, ``(*batch, K)``; raises like :attr:`probs`."""
        proper = self.is_proper()
        if not bool(proper.all()):
            rows = listed((~proper).reshape(-1).nonzero().flatten().tolist())
            raise MessageError(
                "every category is excluded: the messages contradict each other",
                where=f"rows {rows}",
                expected="at least one category with a finite logit",
                fix="replace exact zeros in tables and priors by small probabilities",
            )
        return self.logits.log_softmax(-1)

    def __mul__(self, other: Self) -> Self:
        """Multiply potentials: logits add."""
        return type(self)(self.logits + self._same(other).logits)

    def __truediv__(self, other: Self) -> Self:
        """Divide potentials: logits subtract; a structural zero on either side stays one. Never raises on values."""
        a, b = self.logits, self._same(other).logits
        zero = torch.isneginf(a) | torch.isneginf(b)
        return type(self)(torch.where(zero, -math.inf, a - b))

    def __pow__(self, exponent: float | Tensor) -> Self:
        """Scale the logits by one number, or by one per row; structural zeros stay, but for the power 0: vacuous."""
        power = per_row(exponent, self.logits, 1)
        none = torch.as_tensor(power == 0, device=self.device)
        scaled = torch.where(torch.isneginf(self.logits), -math.inf, self.logits * power)
        return type(self)(torch.where(none, 0.0, scaled))

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Select rows of the first batch dimension."""
        return type(self)(self.logits[rows])

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """Return the message in another type, on another device."""
        return type(self)(self.logits.to(device, dtype))

    def expand(self, *batch: int) -> Self:
        """Broadcast the batch dimensions to ``batch``."""
        return type(self)(self.logits.expand(*batch, self.size))

    def mask(self, rows: Tensor) -> Self:
        """Make the rows that are false vacuous, whatever they hold (NaN too)."""
        return type(self)(torch.where(rows.unsqueeze(-1), self.logits, 0.0))

    def where(self, rows: Tensor, other: Self) -> Self:
        """Take this message in the rows that are true and ``other`` elsewhere."""
        return type(self)(torch.where(rows.unsqueeze(-1), self.logits, other.logits))

    def is_proper(self) -> Tensor:
        """Per row, whether some logit is finite (and none is NaN or +inf)."""
        return self.logits.isfinite().any(-1) & ~(self.logits.isnan() | self.logits.isposinf()).any(-1)

    def is_vacuous(self) -> Tensor:
        """Per row, whether all logits are equal and finite."""
        return self.logits.isfinite().all(-1) & (self.logits == self.logits[..., :1]).all(-1)

    def is_semidefinite(self) -> Tensor:
        """Per row, whether the message may enter a belief at all: the same as :meth:`is_proper`."""
        return self.is_proper()

    def semidefinite_part(self) -> Self:
        """Lift structural zeros to the floor under the largest logit; make rows in which nothing is finite vacuous."""
        none = torch.isneginf(self.logits)
        floor = math.log(torch.finfo(self.dtype).tiny)
        top = torch.where(none, -math.inf, self.logits).amax(-1, keepdim=True)
        return type(self)(torch.where(none, top + floor, self.logits)).mask(self.is_proper())

    def clipped(self) -> Self:
        """Return :meth:`semidefinite_part`: logits have no precision to clip."""
        return self.semidefinite_part()

    def log_z(self) -> Tensor:
        """Log of the sum of the potential, nats: logsumexp of the logits."""
        return self.logits.logsumexp(-1)

    def kl(self, other: Self) -> Tensor:
        """KL(self || other) = sum_k p_k (log p_k - log q_k), nats; +inf where q excludes what p allows."""
        p, q = self.log_probs(), self._same(other).log_probs()
        terms = torch.where(torch.isneginf(p), 0.0, p.exp() * (p - q))
        return terms.sum(-1).clamp_min(0.0)

    def mean(self) -> Tensor:
        """Return the probabilities: the mean of the one-hot vector; raises like :attr:`probs`."""
        return self.probs

    def sample(self, generator: torch.Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw category indices ``(*shape, *batch)``; raises like :attr:`probs`."""
        flat = self.probs.reshape(-1, self.size)
        draws = torch.multinomial(flat, max(1, math.prod(shape)), replacement=True, generator=generator)
        return draws.T.reshape(*shape, *self.batch_shape)

    def to_distribution(self) -> torch.distributions.Distribution:
        """Return the normalised potential as a torch distribution."""
        return torch.distributions.Categorical(probs=self.probs)

    def tensors(self) -> dict[str, Tensor]:
        """Return ``logits``."""
        return {"logits": self.logits}

    def _same(self, other: Self) -> Self:
        if not isinstance(other, Categorical) or self.size != other.size:
            found = f"{type(other).__name__}({getattr(other, 'size', '?')})"
            raise MessageError("messages over different variables", expected=f"Categorical({self.size})", found=found)
        return other
