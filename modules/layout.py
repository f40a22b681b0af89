"""Rows of many sequences, packed by time: the first rows of all, longest sequence first, then their second rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from serket.protocol import Evidence
from serket.rows import runs

__all__ = ["Layout"]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where rows stand in time.

    Args:
        order: ``(rows,)``, row numbers packed by step.
        sequence: ``(rows,)``, of packed rows, the place of their sequence in every step.
        steps: a slice of the packed rows per step.
    """

    order: Tensor
    sequence: Tensor
    steps: tuple[slice, ...]

    @classmethod
    def of(cls, evidence: Evidence) -> Self:
        """Lay out the rows of some evidence; raises DataError where the rows of a sequence are apart."""
        rows, device = len(evidence), evidence.row_id.device
        lengths = runs(evidence.sequence, rows).to(device)
        starts = lengths.cumsum(0) - lengths
        time = torch.arange(rows, device=device) - starts.repeat_interleave(lengths)
        rank = lengths.argsort(descending=True, stable=True).argsort().repeat_interleave(lengths)
        order = (time * max(1, len(lengths)) + rank).argsort()
        ends = [0, *time.bincount().cumsum(0).tolist()]
        return cls(order, rank[order], tuple(slice(a, b) for a, b in zip(ends, ends[1:], strict=False)))

    def packed(self, values: Tensor) -> Tensor:
        """Bring ``(..., rows, K)`` into the order of time."""
        return values.index_select(-2, self.order)

    def unpacked(self, values: Tensor) -> Tensor:
        """Bring ``(..., rows, K)`` back."""
        return values.index_select(-2, self.order.argsort())

    def spoken(self, told: Tensor) -> Tensor:
        """Tell per row whether its sequence has any row that is told of, ``(rows,)`` bool."""
        count = told.new_zeros(len(told), dtype=torch.int64).index_add(0, self.sequence, told[self.order].long())
        return (count > 0)[self.sequence][self.order.argsort()]
