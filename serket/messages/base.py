"""What every message can do, whatever its family."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol, Self

import torch
from torch import Tensor

__all__ = ["Compound", "Family", "Message", "per_row"]


class Family(StrEnum):
    """The families a variable can have."""

    GAUSSIAN = "gaussian"
    CATEGORICAL = "categorical"
    DIRICHLET = "dirichlet"


class Message(Protocol):
    """An unnormalised potential over one variable, a row per sample: batch dimensions first, event dimensions last."""

    @property
    def batch_shape(self) -> torch.Size:
        """Leading dimensions: ``(rows,)`` on an edge."""
        ...

    @property
    def size(self) -> int:
        """Dimensions of a Gaussian, categories of a categorical."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the natural parameters."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the natural parameters live."""
        ...

    def __mul__(self, other: Self) -> Self:
        """Multiply the potentials: natural parameters add."""
        ...

    def __truediv__(self, other: Self) -> Self:
        """Divide the potentials: natural parameters subtract; the quotient may be improper."""
        ...

    def __pow__(self, exponent: float | Tensor) -> Self:
        """Raise the potential to a power, one number or one per row."""
        ...

    def mask(self, rows: Tensor) -> Self:
        """Keep the rows that are true and make the others vacuous."""
        ...

    def where(self, rows: Tensor, other: Self) -> Self:
        """Take this message in the rows that are true and ``other`` elsewhere."""
        ...

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Select rows of the first batch dimension."""
        ...

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """Return the message in another type, on another device."""
        ...

    def expand(self, *batch: int) -> Self:
        """Broadcast the batch dimensions to ``batch``."""
        ...

    def is_semidefinite(self) -> Tensor:
        """Per row, whether the message may travel into a belief: no direction of it is negative."""
        ...

    def semidefinite_part(self) -> Self:
        """Make the negative directions vacuous and keep the others."""
        ...

    def clipped(self) -> Self:
        """Raise the negative directions to zero precision, and keep what the message says otherwise."""
        ...

    def is_proper(self) -> Tensor:
        """Per row, whether the potential can be normalised."""
        ...

    def is_vacuous(self) -> Tensor:
        """Per row, whether the potential says nothing at all."""
        ...

    def log_z(self) -> Tensor:
        """Log of the potential's integral, in nats, one number per row."""
        ...

    def kl(self, other: Self) -> Tensor:
        """Kullback-Leibler divergence KL(self || other) of the normalised potentials, in nats, one number per row."""
        ...

    def mean(self) -> Tensor:
        """Mean of the normalised potential (class probabilities for a categorical)."""
        ...

    def sample(self, generator: torch.Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw from the normalised potential."""
        ...

    def to_distribution(self) -> torch.distributions.Distribution:
        """Return the normalised potential as a torch distribution."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return the natural parameters by name: what is sent or stored."""
        ...


class Compound:
    """A message that holds a Gaussian factor and more: it leads in products with a Gaussian, from either side."""

    __slots__ = ()


def per_row(values: float | Tensor, like: Tensor, events: int) -> float | Tensor:
    """Shape one number per row so that it multiplies parameters with ``events`` trailing event dimensions."""
    if not isinstance(values, Tensor):
        return values
    values = values.to(like)
    return values.reshape(*values.shape, *(1,) * events) if values.dim() else values
