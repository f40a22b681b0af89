"""What is common to the fits of calibration exponents: bounds, subsets of senses, and a pass under some senses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch

from serket.engine.exchange import Exchange
from serket.engine.run import pass_messages
from serket.graph.graph import Graph
from serket.protocol import Evidence, Module

__all__ = ["ERRORS", "LEAST", "MOST", "SWEEPS", "passing", "patterns"]

LEAST, MOST = 0.02, 20.0  # exponents
MOST_SENSES = 6
SWEEPS = 2
ERRORS = 2.0  # standard errors that an exponent has to gain


def patterns(senses: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the non-empty proper subsets of the senses; of more than six, single ones and all but one."""
    sizes = range(1, len(senses)) if len(senses) <= MOST_SENSES else (1, len(senses) - 1)
    return [subset for size in sizes for subset in combinations(senses, size)]


def passing(
    graph: Graph,
    modules: Mapping[str, Module],
    evidence: Mapping[str, Evidence],
    subset: tuple[str, ...],
    seed: int,
    dtype: torch.dtype,
) -> Exchange:
    """Pass the messages of some senses, the others silent."""
    given = {name: one if name in subset else one.nothing() for name, one in evidence.items() if name in modules}
    return pass_messages(graph, modules, given, seed=seed, dtype=dtype).exchange
