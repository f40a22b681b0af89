"""What is common to the fits of calibration exponents: how one is found, and a pass under some senses.

Exponents maximise a mean over rows of a score, less sum (log t)^2 / (2 rows). One that gains no more than by
chance is 1: what was right stays exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TypeAlias

import torch
from torch import Tensor

from serket.engine.exchange import Exchange
from serket.engine.run import pass_messages
from serket.graph.graph import Graph
from serket.protocol import Evidence, Module

__all__ = ["SWEEPS", "Parameter", "by_errors", "by_likelihood", "improve", "passing", "patterns", "raised", "simplify"]

Parameter: TypeAlias = tuple[str, str]
"""A node, and what of it: ``message`` (of every port), ``data``, or one port."""

LEAST, MOST = 0.02, 20.0  # exponents
MOST_SENSES = 6
SWEEPS = 2
ERRORS = 2.0  # standard errors that an exponent has to gain
NATS = 1.92  # the same of a log likelihood: half of the 95 % quantile of chi-squared with one degree of freedom


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
    about: str | None = None,
) -> Exchange:
    """Pass the messages of some senses, the others silent; those that reach one variable, or all."""
    given = {name: one if name in subset else one.nothing() for name, one in evidence.items() if name in modules}
    return pass_messages(graph, modules, given, seed=seed, dtype=dtype, about=about).exchange


def improve(
    exponents: dict[Parameter, float],
    parameter: Parameter,
    scores: Callable[[], Tensor],
    rows: int,
    *,
    tolerance: float = 0.01,
    span: float = math.inf,
) -> None:
    """Find the best value of one exponent, the others as they stand, between 1/50 and 20.

    Args:
        exponents: where it stands, and is put.
        parameter: which.
        scores: of the exponents as they stand, one for every row that has one.
        rows: how many there are.
        tolerance: of its logarithm.
        span: how far its logarithm may move.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_exponent: float) -> float:
        exponents[parameter] = math.exp(log_exponent)
        return -float(scores().mean()) + log_exponent**2 / (2 * rows)

    start = math.log(exponents[parameter])
    bounds = max(math.log(LEAST), start - span), min(math.log(MOST), start + span)
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": tolerance})
    exponents[parameter] = float(f"{math.exp(found.x if found.fun < loss(start) else start):.4g}")


def simplify(
    exponents: dict[Parameter, float],
    parameters: Collection[Parameter],
    scores: Callable[[], Tensor],
    worth: Callable[[Tensor], float],
) -> None:
    """Put exponents back to 1 whose gain over rows is worth less than 1, that of the least worth first."""
    left = [parameter for parameter in parameters if exponents[parameter] != 1]
    while left:
        now, gains = scores(), {}
        for parameter in left:
            kept, exponents[parameter] = exponents[parameter], 1.0
            gains[parameter] = worth(now - scores())
            exponents[parameter] = kept
        worst = min(left, key=lambda parameter: gains[parameter])
        if gains[worst] >= 1:
            return
        exponents[worst] = 1.0
        left.remove(worst)


def by_errors(gain: Tensor) -> float:
    """Return the mean gain of any score over rows, ``(rows,)``, in twos of its standard error."""
    return float(gain.mean() / (ERRORS * gain.std() / math.sqrt(len(gain))).clamp_min(1e-30))


def by_likelihood(gain: Tensor) -> float:
    """Return the total gain of a log likelihood over rows, ``(rows,)``, in 1.92 nats (Wilks 1938).

    Of an exponent z standard errors from 1 it is z^2 / 2, give or take z: this asks for z = 1.96, :func:`by_errors` for
    4. A mean of log likelihoods that depend on one another gains less by chance (Varin, Reid & Firth 2011).
    """
    return float(gain.sum()) / NATS


def raised(graph: Graph, exponents: Mapping[Parameter, float]) -> Graph:
    """Return the graph with these exponents."""
    nodes = dict(graph.nodes)
    for (name, what), exponent in exponents.items():
        ports = nodes[name].ports if what == "message" else [what]
        nodes[name] = replace(nodes[name], calibration={**nodes[name].calibration, **dict.fromkeys(ports, exponent)})
    return replace(graph, nodes=nodes)
