"""Densities p(x | k) of data under a category, of whatever network: what they learn, answer and imagine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, cast

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor
from torch.nn.functional import one_hot

from serket.errors import DataError, ShapeError, StateError
from serket.messages import Categorical, Family, Message
from serket.modules.imagined import ClassMixture
from serket.modules.labels import seeds
from serket.modules.network import Optimiser, maximise
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.rows import row_uniform

__all__ = ["ClassDensity", "varying"]

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]


class ClassDensity(ABC):
    """A module p(x | given = k) whose density is a network that takes k as input: exact message, exact evidence.

    - to ``given``: log p(x_n | k), zeros where x_n is absent. The weights are not in it: they are ``own_prior``.
    - evidence: log sum_k m(k) p(x_n | k), with m the bare inbox.

    It is fitted on sum_n log sum_k pi_k m_n(k) p(x_n | k): the inbox m_n says what is known of a row's category, from
    nothing to all. ``noise`` is the deviation, in units of the data, of what is added to them while training: the
    smoothed density is learnt, which is bounded (Rothfuss et al. 2019).
    """

    ports: Mapping[str, Port] = {"given": Port(Role.PARENT, Family.CATEGORICAL)}
    exact = True
    listens = True
    warm: Mapping[str, int] = {"epochs": 10}
    moment_draws = 512

    def __init__(self, ports: Mapping[str, Port], noise: float) -> None:
        self.ports, self.noise = ports, noise
        self.categories = ports["given"].size or 0
        self.weights: dict[str, Tensor] = {}

    @abstractmethod
    def _initial(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Fit units on training rows ``(rows, D)``, ``location`` ``(D, ...)`` among them; draw ``net.`` weights."""

    @abstractmethod
    def _inputs(self, weights: Mapping[str, Tensor], values: Tensor) -> Tensor:
        """Turn data ``(rows, D)`` into what the network sees."""

    @abstractmethod
    def _log_prob(self, weights: Mapping[str, Tensor], inputs: Tensor, given: Tensor) -> Tensor:
        """Return log p(x | k) in the units of the data, nats, ``(rows,)``; ``given`` is k, one-hot, ``(rows, K)``."""

    @abstractmethod
    def _map(self, weights: Mapping[str, Tensor], uniform: Tensor, given: Tensor) -> Tensor:
        """Turn uniform numbers ``(rows, D)`` into draws of p(x | k), in the units of the data."""

    def _category_probs(self, weights: Mapping[str, Tensor], drawn: Tensor) -> Tensor | None:
        """Return ``(K, D, C)``, shares of the categories among ``(K, draws, D)``, if the data are categories."""
        return None

    @property
    def own_prior(self) -> Mapping[str, Message]:
        """The weights, as a message on ``given``; uniform where they were given up."""
        if not self.weights:
            return {"given": Categorical.vacuous((), self.categories)}
        return {"given": Categorical(self.weights["log_weights"].log_softmax(-1))}

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Reply with log p(x | k); see the class for the formulas. Deterministic.

        Raises:
            StateError: the module was never fitted.
            ShapeError: the data have another width than in training.
        """
        given = cast(Categorical, inbox["given"])
        weights = self._fitted(given)
        logits = given.logits.new_zeros(len(evidence), self.categories)
        if evidence.values is not None and bool(evidence.present.any()):
            values = self._checked(evidence.values.to(given.dtype))
            logits = torch.where(evidence.present.unsqueeze(-1), self._scores(weights, values), 0.0)
        log_evidence = (logits + given.logits).logsumexp(-1)
        asked = ports is None or "given" in ports
        messages: dict[str, Message] = {"given": Categorical(logits)} if asked else {}
        return Reply(messages, log_evidence=log_evidence, bound="exact")

    def fit(
        self,
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
        epochs: Count = 300,
        batch: Count = 128,
        learning_rate: Positive = 3e-3,
        optimiser: Optimiser = "adam",
        patience: Annotated[int, Ge(0)] = 50,
        held_out: Annotated[float, Gt(0), Lt(1)] = 0.1,
    ) -> FitReport:
        """Maximise the log-likelihood of the rows present, k summed out; continues from where it stood.

        The first time, if the inbox tells no row's category from another's, half the epochs go to the categories that
        k-means finds; the other half, like every refit, goes to the likelihood.

        Args:
            evidence: training rows; those not present are left out.
            inbox: log-bias on the category, once per row.
            generator: of weights, order and noise.
            owned: if ``given`` is in it, weights are learnt; else the inbox alone says what is likely.
            progress: called after every epoch.
            epochs: passes over the rows, at most.
            batch: rows per step.
            learning_rate: of the optimiser.
            optimiser: adam, adamw or sgd.
            patience: stop after so many epochs without a better likelihood of held-out rows, keep the best; 0 is off.
            held_out: fraction of the rows held out, if patience is on.

        Raises:
            DataError: fewer rows than categories or than two, or values that cannot be of this density.
            ShapeError: another width than at the fit that this one continues.
            MessageError: the likelihood is no longer a number.
        """
        values, told = self._learnable(evidence, cast(Categorical, inbox["given"]))
        first = not self.weights
        if first:
            none = values.new_zeros(self.categories)
            order = torch.arange(self.categories, device=values.device)
            self.weights = {**self._initial(values, generator), "log_weights": none, "order": order}
        weights = _cast(self.weights, values)
        inputs = self._inputs(weights, self._checked(values))
        options = {"generator": generator, "batch": batch, "learning_rate": learning_rate, "optimiser": optimiser,
                   "patience": patience, "held_out": held_out, "progress": progress}  # fmt: skip
        curve: dict[str, list[float]] = {"log_likelihood": [], "held_out": []}

        def climb(bias: Tensor, epochs: int) -> int:
            learnt = {n: v.clone().requires_grad_() for n, v in weights.items() if n.startswith("net.")}
            objective = self._objective({**weights, **learnt}, inputs, bias, generator)
            best, report = maximise(objective, learnt, len(inputs), epochs=epochs, **options)  # type: ignore[arg-type]
            weights.update(best)
            curve["log_likelihood"] += report.history["elbo"]
            curve["held_out"] += report.history["held_out"]
            return report.steps

        steps = 0
        if first and self.categories > 1 and bool((told == told[:1]).all()):
            everyone = torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)
            guess = one_hot(seeds(inputs, everyone, self.categories, 1, generator)[0], self.categories).to(inputs)
            steps += climb(told + (0.9 * guess + 0.1 / self.categories).log(), max(1, epochs // 2))
            epochs = max(1, epochs - epochs // 2)
        steps += climb(told + weights["log_weights"], epochs)
        if "given" in owned:
            with torch.no_grad():
                weights["log_weights"] = _shares(self._scores(weights, values) + told)
        else:
            weights["log_weights"] = torch.zeros_like(weights["log_weights"])
        self.weights = weights
        return FitReport(steps, history=curve)

    def predict(self, inbox: Mapping[str, Message], *, generator: torch.Generator) -> ClassMixture:
        """Return p(x | belief of k), the mixture; its moments are those of 512 draws per category."""
        given = cast(Categorical, inbox["given"])
        weights = self._fitted(given)
        size = len(weights["location"])
        context = torch.eye(self.categories).to(given.logits)[weights["order"]]
        categories = torch.arange(self.categories, device=given.device)
        uniform = row_uniform(generator, categories, (self.moment_draws, size), dtype=given.dtype)

        def draw(uniform: Tensor, category: Tensor) -> Tensor:
            flat = self._map(weights, uniform.flatten(0, -2), context[category.flatten()])
            return flat.reshape(uniform.shape)

        def scores(values: Tensor) -> Tensor:
            return self._scores(weights, self._checked(values))

        drawn = draw(uniform, categories.unsqueeze(-1).expand(-1, self.moment_draws))
        return ClassMixture(given.log_probs(), scores, draw, drawn, self._category_probs(weights, drawn))

    def relabel(self, port: str, order: Tensor) -> None:
        """Call the category that was ``order[k]`` by the name k."""
        if self.weights:
            order = order.to(self.weights["order"].device)
            self.weights = {**self.weights, **{n: self.weights[n][order] for n in ("order", "log_weights")}}

    def state(self) -> Mapping[str, Tensor]:
        """Return units, weights and the order of categories; nothing before the first fit."""
        return dict(self.weights)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a state back."""
        self.weights = dict(state)

    def _objective(
        self, weights: Mapping[str, Tensor], inputs: Tensor, bias: Tensor, generator: torch.Generator
    ) -> Callable[[Tensor, float], Tensor]:
        """Return the mean log-likelihood of chosen rows; categories that are ruled out cost no time."""
        context = torch.eye(self.categories).to(inputs)[weights["order"]]

        def objective(chosen: Tensor, left: float) -> Tensor:
            seen, told = inputs[chosen], bias[chosen]
            if left and self.noise:
                drawn = torch.randn(seen.shape, generator=generator, dtype=seen.dtype, device=seen.device)
                seen = seen + self.noise * drawn
            row, category = told.isfinite().nonzero(as_tuple=True)
            each = self._log_prob(weights, seen[row], context[category]) + told[row, category]
            return torch.full_like(told, -torch.inf).index_put((row, category), each).logsumexp(-1).mean()

        return objective

    @torch.no_grad()
    def _scores(self, weights: Mapping[str, Tensor], values: Tensor) -> Tensor:
        """Return log p(x | k), nats, ``(rows, K)``; of every batch dimension that ``values`` has."""
        context = torch.eye(self.categories).to(values)[weights["order"]]
        inputs = self._inputs(weights, values.flatten(0, -2))
        parts = [
            self._log_prob(weights, some.repeat_interleave(self.categories, 0), context.repeat(len(some), 1))
            for some in inputs.split(max(1, 2**14 // self.categories))
        ]
        return torch.cat(parts).reshape(*values.shape[:-1], self.categories)

    def _learnable(self, evidence: Evidence, given: Categorical) -> tuple[Tensor, Tensor]:
        """Return the rows that can be learnt from: values ``(rows, D)``, log-probabilities of their categories."""
        rows = evidence.present.nonzero().flatten()
        least = max(2, self.categories)
        if evidence.values is None or len(rows) < least:
            raise DataError(
                "there are too few rows to fit a density on",
                expected=f"{least} rows at least, for {self.categories} categories",
                found=f"{len(rows)} with data",
                fix="give it more rows, or fewer categories",
            )
        values = evidence.values[rows]
        values = values if values.is_floating_point() else values.to(torch.get_default_dtype())
        if not bool(values.isfinite().all()):
            raise DataError("data hold values that are not finite", expected="numbers, or rows masked as missing",
                            found="NaN or Inf", fix="mask those rows")  # fmt: skip
        return values, given.log_probs()[rows].to(values)

    def _fitted(self, like: Message) -> dict[str, Tensor]:
        if not self.weights:
            raise StateError("the density has to be fitted before it can infer", fix="call fit, or load a state")
        return _cast(self.weights, like)

    def _checked(self, values: Tensor) -> Tensor:
        width = len(self.weights["location"])
        if values.shape[-1] != width:
            raise ShapeError(
                "data do not fit the density",
                expected=f"(rows, {width}), as in training",
                found=str(tuple(values.shape)),
            )
        return values


def varying(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation per column ``(D,)``; the deviation 1 for a column that does not vary.

    Raises:
        DataError: no column varies.
    """
    wide = values.double()
    location, scale = wide.mean(0).to(values), wide.std(0, correction=0).to(values)
    still = scale <= 4 * torch.finfo(values.dtype).eps * values.abs().amax(0)
    if bool(still.all()):
        raise DataError("the data do not vary", expected="rows that differ", found="equal rows",
                        fix="check the array, or leave the module out")  # fmt: skip
    return location, torch.where(still, 1.0, scale)


def _shares(scores: Tensor, steps: int = 50) -> Tensor:
    """Return log-weights ``(K,)`` by EM from scores ``(rows, K)``; one row more each, so that none is ruled out."""
    log_weights = torch.zeros_like(scores[0])
    for _ in range(steps):
        log_weights = ((scores + log_weights).softmax(-1).sum(0) + 1).log().log_softmax(-1)
    return log_weights


def _cast(weights: Mapping[str, Tensor], like: Tensor | Message) -> dict[str, Tensor]:
    """Move to a dtype and device; whole numbers keep their type."""
    return {
        name: value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)
        for name, value in weights.items()
    }
