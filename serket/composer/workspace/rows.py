"""Which rows a workspace is trained on, and by which it is judged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from serket.errors import DataError
from serket.rows import runs

__all__ = ["Part", "parted"]

SCARCE = 28
"""With fewer rows or sequences than this, all of them train and judge."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Row numbers, ``(rows,)``, and the lengths of their sequences, ``(sequences,)``; None: each is for itself."""

    rows: Tensor
    lengths: Tensor | None


def parted(
    told: Tensor, sequence: Tensor | None, remembers: bool, generator: torch.Generator
) -> tuple[Part, Part, Part]:
    """Return the rows that say anything, or are of a sequence that does: all, those to train on, those to judge by.

    Every seventh is to judge by, of those with pairs and of those without.

    Args:
        told: which views speak, ``(rows, M)`` bool.
        sequence: of the rows, ``(rows,)``, if any.
        remembers: whether sequences stay whole.
        generator: of the choice.

    Raises:
        DataError: fewer than two rows in which any view speaks.
    """
    speaks = told.any(1)
    if int(speaks.sum()) < 2:
        raise DataError("a composer needs rows to learn from", expected="two rows or more with some view present",
                        found=str(int(speaks.sum())), fix="check the masks and the row numbers in train")  # fmt: skip
    lengths = runs(sequence, len(told)).to(told.device) if remembers else torch.ones_like(speaks, dtype=torch.int64)
    place = torch.arange(len(lengths), device=told.device).repeat_interleave(lengths)

    def count(rows: Tensor) -> Tensor:
        return torch.zeros_like(lengths).index_add(0, place, rows.long())

    groups = count(speaks).nonzero().flatten()
    paired = count(told.sum(1) > 1)[groups]
    order = torch.randperm(len(groups), generator=generator, device=generator.device).to(told.device)
    order = order[paired[order].argsort(stable=True)]
    held = torch.zeros_like(paired, dtype=torch.bool)
    held[order[3::7]] = True

    def part(of: Tensor) -> Part:
        chosen = torch.isin(place, groups[of])
        return Part(chosen.nonzero().flatten(), lengths[groups[of]] if remembers else None)

    every = part(torch.ones_like(held))
    return (every, every, every) if len(groups) < SCARCE else (every, part(~held), part(held))
