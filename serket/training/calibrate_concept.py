"""Calibration of a concept: exponents by how well subsets of the senses tell its labels.

    mean over subsets S of log sum_k b_S(k) T[k, y],    b_S = belief about the concept under the senses S

over held-out rows is a proper score of what probabilities of labels are worth. T[k, y] is the probability of label y in
concept k, by maximum likelihood (:func:`serket.naming.label_shares`), over these rows and others with labels: an impure
concept is never taken for a certain label. T is of concepts and not of subsets, so the belief under all senses tells
it: a poor sense that is too sure would pass for impurity, and blur what every other one says.

The score is maximised over the exponent of each sense's message, which widens what that sense alone leaves open, and
takes next to nothing from senses that are surer; then over one of what nodes without data say at the concept, the same
for every subset. Each has to gain what a likelihood does not gain by chance.

Without labels the reading of all senses stands for y, T is the identity, and senses keep the exponents they have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from serket.graph.graph import Graph
from serket.messages import Categorical
from serket.naming import label_shares
from serket.protocol import Evidence, Module, Role
from serket.training.exponents import (
    Parameter,
    by_errors,
    by_likelihood,
    improve,
    passing,
    patterns,
    raised,
    simplify,
)

__all__ = ["concept_exponents"]

TOLERANCE, SPANS = 0.05, (math.inf, 0.7)
"""Of log t, and how far a sweep may move it: hundreds of rows tell it to 0.2 or so; a trial passes messages anew."""


def concept_exponents(
    graph: Graph,
    modules: Mapping[str, Module],
    evidence: Mapping[str, Evidence],
    concept: str,
    seed: int,
    dtype: torch.dtype,
    *,
    labels: Tensor | None = None,
    held_out: Tensor | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[Parameter, float]:
    """Return exponents of what nodes without data say at the concept, and with labels of every sense's message.

    Args:
        graph: without exponents, or with those of the senses.
        modules: fitted; none is changed.
        evidence: rows, by node name.
        concept: a categorical variable.
        seed: of inference.
        dtype: of the messages.
        labels: of the rows, whole numbers from 0, ``(rows,)``; None: the reading of all senses stands for them.
        held_out: ``(rows,)``, true where a row is scored; the others help to name concepts. All if None.
        progress: called after every step.
    """
    fitting = _Fitting(graph, modules, evidence, concept, seed, dtype, labels, held_out)
    worth = by_errors if labels is None else by_likelihood
    for stage in (fitting.of_senses, fitting.of_concept):
        for span in SPANS[: len(stage)]:  # one exponent alone is found at once
            for parameter in stage:
                improve(fitting.exponents, parameter, fitting.scores, fitting.rows, tolerance=TOLERANCE, span=span)
                if progress:
                    progress(f"{concept}: {parameter[0]} {fitting.exponents[parameter]:.3g}")
        simplify(fitting.exponents, stage, fitting.scores, worth)
    return fitting.exponents


@dataclass(slots=True)
class _Fitting:
    """Exponents as they stand, and what is said at the concept under them."""

    graph: Graph
    modules: Mapping[str, Module]
    evidence: Mapping[str, Evidence]
    concept: str
    seed: int
    dtype: torch.dtype
    labels: Tensor | None
    held_out: Tensor | None
    exponents: dict[Parameter, float] = field(default_factory=dict)
    subsets: list[tuple[str, ...]] = field(default_factory=list)
    whole: tuple[str, ...] = ()
    scored: Mapping[str, Evidence] = field(default_factory=dict)
    of_senses: list[Parameter] = field(default_factory=list)
    of_concept: list[Parameter] = field(default_factory=list)
    _said: dict[tuple[tuple[str, ...], tuple[float, ...]], dict[Parameter, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes = self.graph.nodes
        self.whole = tuple(name for name, one in self.evidence.items() if nodes[name].data and bool(one.present.any()))
        self.subsets = patterns(self.whole)
        here = self.held_out
        self.scored = self.evidence if here is None else {name: one[here] for name, one in self.evidence.items()}
        if self.labels is not None or len(self.whole) == 1:
            self.subsets.append(self.whole)
        if self.labels is not None:
            self.of_senses = [(name, "message") for name in self.whole]
        edges = [(name, port) for name, port in self.graph.bound(self.concept) if nodes[name].data is None]
        self.of_concept = [edge for edge in edges if nodes[edge[0]].ports[edge[1]].role == Role.PARENT]
        self.exponents = dict.fromkeys([*self.of_senses, *self.of_concept], 1.0)

    @property
    def rows(self) -> int:
        """Return how many rows are scored."""
        return len(next(iter(self.scored.values())))

    def scores(self) -> Tensor:
        """Return the mean over subsets of log p(label), ``(held-out rows,)``."""
        rows = slice(None) if self.held_out is None else self.held_out
        whole = self._belief(self.whole)
        beliefs = torch.stack([whole[rows] if one == self.whole else self._belief(one) for one in self.subsets])
        if self.labels is None:
            # The whole as it is without exponents.
            target = sum(self._at_concept(self.whole).values(), torch.zeros(())).softmax(-1)
        else:
            classes = int(self.labels.max()) + 1
            beliefs = beliefs @ label_shares(whole, self.labels, classes)
            target = torch.nn.functional.one_hot(self.labels[rows].long(), classes).to(beliefs)
        return (target * beliefs.clamp_min(1e-30).log()).sum(-1).mean(0)

    def _belief(self, subset: tuple[str, ...]) -> Tensor:
        """Return the belief about the concept, ``(rows, K)``: of all senses in every row, of some in those scored."""
        said = self._at_concept(subset)
        tempered = [self.exponents.get(edge, 1.0) * logits for edge, logits in said.items()]
        return sum(tempered, torch.zeros(())).softmax(-1)

    def _at_concept(self, subset: tuple[str, ...]) -> dict[Parameter, Tensor]:
        """Return the log prior of the concept, and the logits of the messages at it by edge, in float64."""
        senses = {(m, "message"): self.exponents[m, "message"] for m in subset if (m, "message") in self.exponents}
        key = subset, tuple(senses.values())
        if key not in self._said:
            graph = raised(self.graph, senses)
            rows = self.evidence if subset == self.whole else self.scored
            exchange = passing(graph, self.modules, rows, subset, self.seed, self.dtype, self.concept)
            said = {("", ""): exchange.priors[self.concept]}
            said |= {edge: exchange.messages[edge] for edge in exchange.edges[self.concept]}
            self._said[key] = {edge: cast(Categorical, message).logits.double() for edge, message in said.items()}
        return self._said[key]
