"""Calibration: exponents on messages, fitted on held-out rows by how well the senses predict one another.

    b_S(z) = prior(z) prod_{m in S} m(z)^t_m,   p_S(x_m) = integral of p(x_m | z)^d_m / Z(d_m) times b_S(z)

t_m, one number per module, is what its extrinsic message counts for; d_m is the exponent of p(x_m | z) where a module
imagines. They maximise, over all proper subsets S of the senses and every sense m outside S,

    mean over (S, m), rows and dimensions of log p_S(x_md)  -  sum (log t)^2 / (2 rows),

a proper score of each dimension's prediction (Gneiting & Raftery 2007), so that one number per module has to serve all
subsets at once. A module that cannot imagine is predicted as a reading: u = z + noise of covariance (t L)^-1 has

    log p_S(u) = log [integral of b_S m^t] - log [integral of b_S] - log [integral of m^t],   m = exp(h'z - z'Lz/2)

Concepts, which have no data, get theirs once the senses have them (:mod:`serket.training.calibrate_concept`).

An exponent that gains less than two standard errors of its gain (over rows) is 1: exact evidence stays exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily

from serket.engine.exchange import Exchange
from serket.errors import DataError
from serket.graph.graph import Graph
from serket.messages import Categorical, Gaussian, projected
from serket.predictive import marginal_log_prob, seen, sharpened, varying
from serket.protocol import Evidence, Generative, Module, couples_rows
from serket.rows import runs, seeded
from serket.training.calibrate_concept import concept_exponents
from serket.training.exponents import ERRORS, LEAST, MOST, SWEEPS, passing, patterns

__all__ = ["calibrate", "patterns"]

Parameter = tuple[str, str]
"""A node, and what of it: ``message`` or ``data``."""
MOST_ROWS, RECALLED = 500, 4
Progress = Callable[[int, int, str], None]


def calibrate(
    graph: Graph,
    modules: Mapping[str, Module],
    held_out: Mapping[str, Evidence],
    *,
    seed: int,
    dtype: torch.dtype,
    concept: str | None = None,
    labelled: Mapping[str, Evidence] | None = None,
    labels: Tensor | None = None,
    progress: Progress | None = None,
) -> tuple[Graph, list[str]]:
    """Return the graph with exponents, and what could not be calibrated.

    Args:
        graph: what calibration it has is forgotten.
        modules: fitted; none is changed.
        held_out: rows that no module was fitted on, by node name.
        seed: of inference, and of which rows are drawn where there are more than 500.
        dtype: of the messages.
        concept: a categorical variable to calibrate as well.
        labelled: rows whose labels tell what a concept's probabilities are worth; held-out rows if None.
        labels: their labels, whole numbers from 0, ``(rows,)``; None: the reading of all senses stands for them.
        progress: called with (steps done, steps in all, text).

    Raises:
        DataError: there are fewer than two held-out rows, or fewer than two senses.
    """
    some = next(iter(held_out.values()), None)
    if some is not None and len(some) > MOST_ROWS:
        few = _drawn(some, couples_rows(modules), seed)
        held_out = {name: one[few] for name, one in held_out.items()}
        labels = labels if labels is None or labelled else labels[few]
    fitting = _Fitting(_stripped(graph), modules, held_out, seed, dtype)
    fitting.check()
    todo = [*fitting.parameters]
    for sweep in range(SWEEPS):
        for number, parameter in enumerate(todo):
            fitting.improve(parameter)
            if progress:
                text = f"{parameter[0]} {parameter[1]} {fitting.exponents[parameter]:.3g}"
                progress(sweep * len(todo) + number + 1, SWEEPS * len(todo) + 1, text)
    fitting.simplify()
    graph = fitting.calibrated()
    if concept is not None:
        graph = concept_exponents(graph, modules, labelled or held_out, labels, concept, seed, dtype)
    if progress:
        progress(SWEEPS * len(todo) + 1, SWEEPS * len(todo) + 1, "done")
    return graph, fitting.notes


@dataclass(slots=True)
class _Fitting:
    """Exponents of the senses as they stand, and everything that has been computed under them."""

    graph: Graph
    modules: Mapping[str, Module]
    evidence: Mapping[str, Evidence]
    seed: int
    dtype: torch.dtype
    exponents: dict[Parameter, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    senses: list[str] = field(default_factory=list)
    _scores: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _told: dict[Any, Any] = field(default_factory=dict)  # the last few passes and predictions: they are large

    def check(self) -> None:
        """Find the senses, and which parameters there are."""
        rows = len(next(iter(self.evidence.values()))) if self.evidence else 0
        if rows < 2:
            raise DataError("there are no held-out rows to calibrate on", expected="two rows or more", found=str(rows),
                            fix="give more training rows, or write calibrate: none")  # fmt: skip
        reading = [name for name, node in self.graph.nodes.items() if node.data is not None]
        for name in reading:
            if name in self.evidence and bool(self.evidence[name].present.any()):
                self.senses.append(name)
            else:
                self.notes.append(f"{name} speaks in no held-out row: it is not calibrated")
        while alone := self._alone():
            self.senses.remove(alone)
            self.notes.append(f"{alone} shares fewer than two held-out rows with other senses: it is not calibrated")
        if len(self.senses) < 2:
            raise DataError(
                "one sense alone cannot be calibrated",
                expected="two senses or more that share held-out rows: each is judged by how others predict it",
                found=", ".join(self.senses) or "none",
                fix="add a sense, or write calibrate: none",
            )
        for name in self.senses:
            if self._imagines(name):
                self.exponents[name, "data"] = 1.0
        for name in self.senses:
            self.exponents[name, "message"] = 1.0

    def _alone(self) -> str | None:
        """Return the sense that shares the fewest rows with others, if it is one at most: nothing would judge it."""
        if not self.senses:
            return None
        here = torch.stack([self.evidence[name].present for name in self.senses])
        least, index = (here & (here.sum(0) > 1)).sum(1).min(0)
        return self.senses[int(index)] if least < 2 else None

    @property
    def active(self) -> dict[str, Module]:
        """Return what stands below concepts: modules that read data, and composers; all, where none of these joins."""
        composers = any(node.kind == "composer" for node in self.graph.nodes.values())
        chosen = [n for n, node in self.graph.nodes.items() if node.data or node.kind == "composer" or not composers]
        return {name: self.modules[name] for name in chosen}

    @property
    def parameters(self) -> list[Parameter]:
        return list(self.exponents)

    def calibrated(self) -> Graph:
        """Return the graph under the exponents as they stand."""
        return _with(self.graph, self.exponents)

    def improve(self, parameter: Parameter) -> None:
        """Find the best value of one exponent, the others as they stand, between 1/50 and 20."""
        from scipy.optimize import minimize_scalar

        rows = len(next(iter(self.evidence.values())))

        def loss(log_exponent: float) -> float:
            self.exponents[parameter] = math.exp(log_exponent)
            return -float(self.scores().mean()) + log_exponent**2 / (2 * rows)

        start = math.log(self.exponents[parameter])
        found = minimize_scalar(
            loss, bounds=(math.log(LEAST), math.log(MOST)), method="bounded", options={"xatol": 0.01}
        )
        self.exponents[parameter] = math.exp(found.x if found.fun < loss(start) else start)
        self.exponents[parameter] = float(f"{self.exponents[parameter]:.4g}")

    def simplify(self) -> None:
        """Put exponents back to 1 that do not gain two standard errors over rows, the least useful first."""
        left = [parameter for parameter, exponent in self.exponents.items() if exponent != 1]
        while left:
            now, gains = self.scores(), {}
            for parameter in left:
                kept, self.exponents[parameter] = self.exponents[parameter], 1.0
                gain = now - self.scores()
                self.exponents[parameter] = kept
                gains[parameter] = float(gain.mean() / (gain.std() / math.sqrt(len(gain))).clamp_min(1e-30))
            worst = min(left, key=lambda parameter: gains[parameter])
            if gains[worst] >= ERRORS:
                return
            self.exponents[worst] = 1.0
            left.remove(worst)

    def scores(self) -> Tensor:
        """Return the score of every row in which some sense is predicted, ``(rows,)``, nats a dimension."""
        total, count = cast(Any, 0.0), cast(Any, 0.0)
        for subset in patterns(self.senses):
            for name in self.senses:
                if name not in subset:
                    score, here = self._score(subset, name)
                    total, count = total + torch.where(here, score, 0.0), count + here.double()
        return cast(Tensor, (total / count.clamp_min(1))[count > 0])

    def _score(self, subset: tuple[str, ...], name: str) -> tuple[Tensor, Tensor]:
        """Return how well a subset predicts a sense, and in which rows it does."""
        imagines = isinstance(self.modules[name], Generative)
        own = self.exponents.get((name, "data"), 1.0) if imagines else self.exponents[name, "message"]
        key = (subset, name, own, *(self.exponents[m, "message"] for m in subset))
        if key not in self._scores:
            here = self.evidence[name].present & torch.stack([self.evidence[m].present for m in subset]).any(0)
            if imagines:
                score = self._of_data(subset, name, own)
            else:
                score = self._of_reading(subset, name, own)
            self._scores[key] = torch.where(here, score.double(), 0.0), here & score.isfinite()
        return self._scores[key]

    def _of_data(self, subset: tuple[str, ...], name: str, exponent: float) -> Tensor:
        """Mean over observed dimensions of log p_S(x_d), NaN without one; those that never vary are left out."""
        values = cast(Tensor, self.evidence[name].values)
        observed = self.evidence[name].observed
        varies = varying(values, observed)
        found = marginal_log_prob(sharpened(self._predicted(subset, name), exponent), values)
        if found is None or not bool(varies.any()):
            return self._of_reading(subset, name, self.exponents[name, "message"])
        here = seen(values, observed)[:, varies]
        return torch.where(here, found[:, varies], 0.0).sum(-1) / here.sum(-1)

    def _of_reading(self, subset: tuple[str, ...], name: str, exponent: float) -> Tensor:
        """How the rest predicts what a module reads, from its message alone."""
        exchange, whole = self._passed(subset), self._passed(tuple(self.senses), raw=True)
        total = torch.zeros(exchange.rows, dtype=torch.float64)
        for port in self.graph.nodes[name].bindings:
            cavity, message = projected(exchange.cavity(name, port)), projected(whole.messages[name, port])
            if isinstance(message, Gaussian | Categorical):
                said = message**exponent
                score = (cavity * said).log_z() - cavity.log_z() - said.log_z()
                total = total + torch.where(message.is_vacuous(), math.nan, score.double()).cpu() / message.size
        return total

    def _imagines(self, name: str) -> bool:
        """Tell whether p(data | latents) can be sharpened apart from what is not known of the latents."""
        if not isinstance(self.modules[name], Generative) or len(self.senses) < 2:
            return False
        other = next(m for m in self.senses if m != name)
        predicted = self._predicted((other,), name)
        values = cast(Tensor, self.evidence[name].values)
        return isinstance(predicted, MixtureSameFamily) and marginal_log_prob(predicted, values) is not None

    def _predicted(self, subset: tuple[str, ...], name: str) -> Distribution:
        powers = tuple(self.exponents.get((m, "message"), 1.0) for m in subset)

        def predict() -> Distribution:
            exchange, node = self._passed(subset), self.graph.nodes[name]
            inbox = {port: projected(exchange.belief(variable)) for port, variable in node.bindings.items()}
            module = cast(Generative, self.modules[name])
            return module.predict(inbox, generator=seeded(self.seed, name, "imagine"))

        return cast(Distribution, self._recalled(("predicted", name, subset, *powers), predict))

    def _passed(self, subset: tuple[str, ...], raw: bool = False) -> Exchange:
        """Pass the messages of a subset; ``raw`` under exponents of 1."""
        exponents = {(m, "message"): 1.0 if raw else self.exponents.get((m, "message"), 1.0) for m in subset}
        graph = _with(self.graph, exponents)
        passed = partial(passing, graph, self.active, self.evidence, subset, self.seed, self.dtype)
        return cast(Exchange, self._recalled(("passed", subset, *exponents.values()), passed))

    def _recalled(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what is kept under a key, made now if nothing is; what was made first is forgotten first."""
        if key not in self._told:
            found = make()
            while len(self._told) >= RECALLED * len(self.senses) ** 2:
                del self._told[next(iter(self._told))]
            self._told[key] = found
        self._told[key] = self._told.pop(key)
        return self._told[key]


def _drawn(rows: Evidence, whole: bool, seed: int) -> Tensor:
    """Return the numbers of at most 500 rows, ascending, or of one sequence that is longer; sequences may stay whole.

    Drawn at random: a file may be sorted by class or time, and its beginning then says little of the rest.
    """
    lengths = runs(rows.sequence, len(rows)) if whole else torch.ones(len(rows), dtype=torch.int64)
    order = torch.randperm(len(lengths), generator=seeded(seed, "calibrate"))
    kept = order[: max(int((lengths.cpu()[order].cumsum(0) <= MOST_ROWS).sum()), 1)]
    chosen = torch.zeros(len(lengths), dtype=torch.bool).scatter(0, kept, True)
    return chosen.repeat_interleave(lengths.cpu()).nonzero().squeeze(1).to(rows.row_id.device)


def _stripped(graph: Graph) -> Graph:
    return replace(graph, nodes={name: replace(node, calibration={}) for name, node in graph.nodes.items()})


def _with(graph: Graph, exponents: Mapping[Parameter, float]) -> Graph:
    """Return the graph with these exponents on every port of a node, and on its data."""
    nodes = dict(graph.nodes)
    for (name, what), exponent in exponents.items():
        ports = ["data"] if what == "data" else nodes[name].ports
        nodes[name] = replace(nodes[name], calibration={**nodes[name].calibration, **dict.fromkeys(ports, exponent)})
    return replace(graph, nodes=nodes)
