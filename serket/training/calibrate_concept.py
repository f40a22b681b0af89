"""Calibration of a concept: exponents of what nodes without data say at it.

Concepts, which have no data, get an exponent t_c on every message at the concept, once the senses have theirs: with
labels y it maximises the mean over all subsets of log sum_k T[k, y] b_S(k), where T[k, y] is the share of label y in
concept k, that goes best with the exponent (:func:`serket.naming.label_shares`): an impure concept is never taken for a
certain label. Without labels the reading of all senses stands for y, and T is the identity.

An exponent that gains less than two standard errors of its gain (over rows) is 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from serket.graph.graph import Graph
from serket.messages import Categorical
from serket.naming import label_shares
from serket.protocol import Evidence, Module, Role
from serket.rows import chunks
from serket.training.align import CHUNK
from serket.training.exponents import ERRORS, LEAST, MOST, SWEEPS, passing, patterns

__all__ = ["concept_exponents"]


def concept_exponents(
    graph: Graph,
    modules: Mapping[str, Module],
    evidence: Mapping[str, Evidence],
    labels: Tensor | None,
    concept: str,
    seed: int,
    dtype: torch.dtype,
) -> Graph:
    """Return the graph with exponents of what is said at a concept by nodes without data.

    Args:
        graph: with the exponents of the senses.
        modules: fitted; none is changed.
        evidence: rows to fit on, by node name.
        labels: of these rows, whole numbers from 0, ``(rows,)``; None: the reading of all senses stands for them.
        concept: a categorical variable.
        seed: of inference.
        dtype: of the messages.
    """
    from scipy.optimize import minimize_scalar

    senses = [name for name in evidence if bool(evidence[name].present.any())]
    tempered = [edge for edge in graph.bound(concept) if graph.nodes[edge[0]].data is None]
    tempered = [edge for edge in tempered if graph.nodes[edge[0]].ports[edge[1]].role == Role.PARENT]
    whole = tuple(senses)
    subsets = [*patterns(senses), *([whole] if labels is not None or len(senses) == 1 else [])]
    said = {subset: _at_concept(graph, modules, evidence, subset, concept, seed, dtype) for subset in {*subsets, whole}}
    everything = _belief(said[whole], {}).exp()
    if labels is None:
        target = everything
    else:
        target = torch.nn.functional.one_hot(labels.long()).to(everything)
    exponents = dict.fromkeys(tempered, 1.0)
    for edge in tempered * (1 if len(tempered) == 1 else SWEEPS):

        def scores(exponent: float, edge: tuple[str, str] = edge) -> Tensor:
            powers = {**exponents, edge: exponent}
            beliefs = torch.stack([_belief(said[subset], powers).exp() for subset in subsets])
            if labels is not None:
                beliefs = beliefs @ label_shares(beliefs, labels, target.shape[1])
            return (target * beliefs.clamp_min(1e-30).log()).sum(-1).mean(0)

        bounds = math.log(LEAST), math.log(MOST)
        found = minimize_scalar(
            lambda value, scores=scores: -float(scores(math.exp(value)).mean()) + value**2 / (2 * len(target)),
            bounds=bounds,
            method="bounded",
            options={"xatol": 0.005},
        )
        best = float(f"{math.exp(found.x):.4g}")
        gain = scores(best) - scores(1.0)
        sure = float(gain.mean()) >= ERRORS * float(gain.std()) / math.sqrt(len(gain))
        exponents[edge] = best if sure else 1.0
    nodes = dict(graph.nodes)
    for (name, port), exponent in exponents.items():
        nodes[name] = replace(nodes[name], calibration={**nodes[name].calibration, port: exponent})
    return replace(graph, nodes=nodes)


def _at_concept(
    graph: Graph,
    modules: Mapping[str, Module],
    evidence: Mapping[str, Evidence],
    subset: tuple[str, ...],
    concept: str,
    seed: int,
    dtype: torch.dtype,
) -> dict[tuple[str, str], Tensor]:
    """Return the log prior of a concept and the logits of the messages at it, by edge, in float64."""
    some = next(iter(evidence.values()))
    parts: list[dict[tuple[str, str], Tensor]] = []
    for chunk in chunks(len(some), CHUNK):
        rows = {name: one[chunk] for name, one in evidence.items()}
        exchange = passing(graph, modules, rows, subset, seed, dtype)
        said = {edge: exchange.messages[edge] for edge in exchange.edges[concept]}
        parts.append({("", ""): exchange.priors[concept], **said})  # type: ignore[dict-item]
    return {edge: torch.cat([cast(Categorical, part[edge]).logits.double() for part in parts]) for edge in parts[0]}


def _belief(said: Mapping[tuple[str, str], Tensor], powers: Mapping[tuple[str, str], float]) -> Tensor:
    return sum((powers.get(edge, 1.0) * logits for edge, logits in said.items()), torch.zeros(())).log_softmax(-1)
