"""Rows that no fit sees: rounds are judged by them, and exponents fitted on them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from serket.errors import MessageError
from serket.graph.graph import Graph
from serket.protocol import Evidence, Module, couples_rows
from serket.rows import seeded

__all__ = ["VALIDATION", "divide", "kept_apart"]

VALIDATION = 0.15
"""The share of the training rows that are kept apart."""


def kept_apart(
    graph: Graph, modules: Mapping[str, Module], evidence: Mapping[str, Evidence], seed: int
) -> tuple[dict[str, Evidence], dict[str, Evidence]]:
    """Return what to learn from, and the rows no fit may see: a share of them with rounds or calibration, else none."""
    if not graph.holds_out:
        return dict(evidence), {}
    some = next(iter(evidence.values()))
    learn, judge = (
        rows.to(some.row_id.device) for rows in divide(some, VALIDATION, seed, together=couples_rows(modules))
    )
    return {name: one[learn] for name, one in evidence.items()}, {name: one[judge] for name, one in evidence.items()}


def divide(rows: Evidence, share: float, seed: int, *, together: bool = False) -> tuple[Tensor, Tensor]:
    """Return row numbers to learn from and to judge by: a share of the rows, or of whole sequences where there are any.

    Args:
        rows: of any module.
        share: to judge by, of the rows or sequences; one at least.
        seed: of the choice.
        together: rows without sequences are one that a module of the time plate joins: its end is held out.

    Raises:
        MessageError: there are fewer than two rows, or sequences, so that nothing is left to judge by.
    """
    groups = torch.arange(len(rows)) if rows.sequence is None else rows.sequence.cpu()
    names = groups.unique()
    if len(names) < 2:
        raise MessageError(
            "rounds and calibration need rows to judge by",
            expected="two training rows or more, or two sequences",
            found=f"{len(names)}",
            fix="give more rows, name shorter sequences in <key>_sequence, or write rounds: 0 and calibrate: none",
        )
    count = max(1, round(share * len(names)))
    if together and rows.sequence is None:
        chosen = names[-count:]
    else:
        chosen = names[torch.randperm(len(names), generator=seeded(seed, "validation"))[:count]]
    held = torch.isin(groups, chosen)
    return (~held).nonzero().flatten(), held.nonzero().flatten()
