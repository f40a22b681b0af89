"""A category read off data: a small network that is taught by what the graph says of the category."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, cast

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from serket.errors import DataError, GraphError, ShapeError, StateError
from serket.messages import Categorical, Family, Message
from serket.modules.density import varying
from serket.modules.frozen.scaling import distances, region
from serket.modules.network import Optimiser, initial, maximise
from serket.protocol import Evidence, FitReport, Includes, Port, Progress, Reply, Role
from serket.registry import register

__all__ = ["Recogniser"]

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]
FOLDS = 5  # of the rows, each left out by one member
COMPONENTS = 16  # principal directions that the gate looks at
KNOWN = 0.05  # of 1, a category for certain: rows of which less is known teach nothing


@register("recogniser")
class Recogniser:
    """p(k | x) by an ensemble of networks: what x says of the category ``given``, told apart and not described.

    With q(k | x) the mean of the members' softmax outputs and pi the frequencies of the categories that taught them,
    the reply is log pi(k) + (log q(k | x) - log pi(k)) / T, which includes pi, its ``own_prior``: what leaves is a
    likelihood up to a factor, (q / pi)^(1 / T) (Bourlard & Morgan 1994, chapter 7). It says nothing of x, so there is
    no evidence. A row without data says nothing.

    It is taught by the inbox m_n(k) in training, soft labels: sum_n w_n sum_k m_n(k) log q(k | x_n), where
    w_n = 1 - H(m_n) / log K tells how much the inbox knows, so that rows of which it says nothing teach nothing; pi is
    sum_n w_n m_n, normalised. Every member learns without a fifth of the sequences (of the rows, where there are
    none); on these T is chosen, so that a reply is as sure as it is right (Guo et al. 2017).

    Far from the rows it was fitted on a network is sure of anything, the surer the farther. Where the Mahalanobis
    distance d of a row, in the leading principal components and the length of the rest, is beyond the limit, within
    which the ``gate`` share of rows lies, what leaves is raised to (2 - d / limit)^2, and from twice the limit on says
    nothing: a power that only fades would be outweighed. ``Reply.info`` has the power, ``widened``, and 1 where it is
    below one, ``beyond``.

    Args:
        ports: ``given`` (parent, K categories).
        hidden: units per hidden layer; none is a linear model.
        members: networks in the ensemble.
        noise: standard deviation of what is added to inputs in training, in units of their own deviations.
        gate: share of rows that count as known; None: no gate.

    Raises:
        GraphError: an option is out of range.
    """

    ports: Mapping[str, Port] = {"given": Port(Role.PARENT, Family.CATEGORICAL)}
    listens = True
    note = "p(k | x) says how likely a category is, not how likely the data are"
    warm: Mapping[str, int] = {"epochs": 10}

    def __init__(
        self,
        ports: Mapping[str, Port],
        hidden: list[Count] | None = None,
        members: Count = 5,
        noise: Annotated[float, Ge(0)] = 0.3,
        gate: Annotated[float, Gt(0), Lt(1)] | None = 0.99,
    ) -> None:
        if members < 1 or noise < 0 or (gate is not None and not 0 < gate < 1):
            raise GraphError("an option of recogniser is out of range",
                             expected="members >= 1, noise >= 0, gate between 0 and 1",
                             found=f"members {members}, noise {noise}, gate {gate}")  # fmt: skip
        self.ports, self.members, self.noise, self.gate = ports, members, noise, gate
        self.hidden = [64] if hidden is None else hidden
        self.categories = ports["given"].size or 0
        self.weights: dict[str, Tensor] = {}

    @property
    def own_prior(self) -> Mapping[str, Message]:
        """The frequencies of what taught it, as a message on ``given``; uniform before."""
        prior = self.weights.get("log_prior", torch.zeros(self.categories))
        return {"given": Categorical(prior)}

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Reply with log p(k | x), the own prior in it; see the class for the formula. Deterministic.

        Raises:
            StateError: the module was never fitted.
            ShapeError: the data have another width than in training.
        """
        given = cast(Categorical, inbox["given"])
        if not self.weights:
            raise StateError("a recogniser has to be fitted before it can infer", fix="call fit, or load a state")
        weights = {name: value.to(given.device, given.dtype) for name, value in self.weights.items()}
        told, power = evidence.present, given.logits.new_ones(len(evidence))
        ratio = torch.zeros_like(given.logits)
        if evidence.values is not None:
            inputs = self._inputs(weights, evidence.values.to(given.dtype))
            ratio = (self._log_q(weights, inputs) - weights["log_prior"]) / weights["temperature"]
            if self.gate is not None:
                squared = distances(_place(weights, inputs), weights["centre"], weights["root"]) / weights["limit"]
                power = torch.where(told, (2 - squared.sqrt()).clamp(0, 1).square(), 1.0)
            ratio = torch.where(told.unsqueeze(-1), ratio * power.unsqueeze(-1), 0.0)
        info = {} if self.gate is None else {"widened": power, "beyond": (power < 1).to(given.dtype)}
        reply = {"given": Categorical(weights["log_prior"] + ratio)} if ports is None or "given" in ports else {}
        return Reply(reply, {"given": frozenset[Includes]({"own_prior"})}, info=info)

    def fit(
        self,
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
        epochs: Count = 40,
        batch: Count = 128,
        learning_rate: Positive = 2e-3,
        optimiser: Optimiser = "adam",
        decay: Annotated[float, Ge(0)] = 1e-3,
    ) -> FitReport:
        """Learn from the rows of which the inbox says something; continues from where it stood.

        Args:
            evidence: training rows; those not present are left out. Its sequences tell what is held out together.
            inbox: what the rest of the graph says of the category.
            generator: of weights, folds, order and noise.
            owned: not used: the own prior is learnt in any case.
            progress: called after every epoch.
            epochs: passes over the rows.
            batch: rows per step.
            learning_rate: of the optimiser.
            optimiser: adam, adamw or sgd.
            decay: half of it times the squared length of a member's weights is taken off its mean log-likelihood.

        Raises:
            DataError: nothing is known of the category, or data that are not finite.
            ShapeError: another width than at the fit that this one continues.
            MessageError: the likelihood is no longer a number.
        """
        known, certain, everyone, taught = self._learnable(evidence, cast(Categorical, inbox["given"]))
        first = not self.weights
        if first:
            location, scale = varying(everyone)
            self.weights = {"location": location, "scale": scale, **_axes((everyone - location) / scale)}
            sizes = [everyone.shape[1], *self.hidden, self.categories]
            drawn = [initial("net", sizes, everyone, generator) for _ in range(self.members)]
            self.weights |= {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}
        weights = {name: value.to(everyone) for name, value in self.weights.items()}
        inputs, all_inputs = (self._inputs(weights, rows) for rows in (everyone[taught], everyone))
        fold = _folds(None if evidence.sequence is None else evidence.sequence[evidence.present][taught],
                      len(inputs), generator)  # fmt: skip
        learns = certain * (fold != torch.arange(self.members, device=fold.device).unsqueeze(1))  # (members, rows)
        learnt = {n: v.clone().requires_grad_() for n, v in weights.items() if n.startswith("net.")}

        def objective(chosen: Tensor, left: float) -> Tensor:
            seen = inputs[chosen].expand(self.members, -1, -1)
            noise = torch.randn(seen.shape, generator=generator, dtype=seen.dtype, device=seen.device)
            log_q = self._outputs(learnt, seen + self.noise * noise)
            told, share = (known[chosen] * log_q).sum(-1), learns[:, chosen]
            length = torch.stack([w.square().sum() for n, w in learnt.items() if n.endswith("weight")]).sum()
            return ((share * told).sum(-1) / share.sum(-1).clamp_min(0.1)).sum() - decay / 2 * length

        best, report = maximise(
            objective, learnt, len(inputs), generator=generator, progress=progress, epochs=epochs, batch=batch,
            learning_rate=learning_rate, optimiser=optimiser, patience=0, held_out=0.1,
        )  # fmt: skip
        weights |= best
        with torch.no_grad():
            # Half a row more each: a category that nobody has named yet is not ruled out.
            weights["log_prior"] = (certain @ known + 0.5).log().log_softmax(-1)
            weights["temperature"] = self._temperature(weights, inputs, known * certain.unsqueeze(-1), fold)
            weights["centre"], weights["root"], weights["limit"] = region(
                _place(weights, all_inputs), self.gate or 0.99
            )
        self.weights = weights
        history = {"log_likelihood": report.history["elbo"], "temperature": [float(weights["temperature"])]}
        return FitReport(report.steps, history=history)

    def state(self) -> Mapping[str, Tensor]:
        """Return units, weights, own prior, temperature and where the fitted rows lie; nothing before the first fit."""
        return dict(self.weights)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a state back."""
        self.weights = dict(state)

    def _outputs(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return every member's log-probabilities of inputs ``(members, rows, D)``."""
        for layer in range(len(self.hidden) + 1):
            weight, bias = weights[f"net.{layer}.weight"], weights[f"net.{layer}.bias"]
            x = torch.baddbmm(bias.unsqueeze(1), x, weight.mT)
            x = x.relu() if layer < len(self.hidden) else x
        return x.log_softmax(-1)

    def _log_q(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        each = self._outputs(weights, inputs.expand(self.members, -1, -1))
        return each.logsumexp(0) - math.log(self.members)

    def _temperature(self, weights: Mapping[str, Tensor], inputs: Tensor, known: Tensor, fold: Tensor) -> Tensor:
        """Return the T of a grid, 1/4 to 16, under which held-out rows are likeliest, each by who has not seen it."""
        rows = (fold < self.members).nonzero().flatten()
        if not len(rows):
            return inputs.new_ones(())
        each = self._outputs(weights, inputs.expand(self.members, -1, -1))
        ratio = each[fold[rows], rows] - weights["log_prior"]
        grid = torch.logspace(-2, 4, 61, base=2.0).to(inputs)
        told = (weights["log_prior"] + ratio / grid[:, None, None]).log_softmax(-1)
        return grid[(known[rows] * told).sum(-1).mean(-1).argmax()]

    def _inputs(self, weights: Mapping[str, Tensor], values: Tensor) -> Tensor:
        values = values.flatten(1)
        if values.shape[1] != len(weights["location"]):
            raise ShapeError("data do not fit the recogniser", found=str(tuple(values.shape)),
                             expected=f"(rows, {len(weights['location'])}), as in training")  # fmt: skip
        return (values - weights["location"]) / weights["scale"]

    def _learnable(self, evidence: Evidence, given: Categorical) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what is known of those taught ``(taught, K)``, how well, the rows present, and who is taught."""
        here = evidence.present
        probs = given.probs
        certain = 1 - torch.special.entr(probs).sum(-1) / math.log(max(2, self.categories))
        informed = here & (certain > KNOWN)
        if evidence.values is None or not bool(informed.any()) or int(here.sum()) < 2:
            raise DataError(
                "a recogniser has nothing to learn from",
                expected="two rows with data, and something said of the category of one",
                found=f"{int(here.sum())} rows with data, {int(informed.sum())} of them with a category",
                fix="name some rows, or leave the module out",
            )
        values = evidence.values[here].flatten(1)
        values = values if values.is_floating_point() else values.to(torch.get_default_dtype())
        if not bool(values.isfinite().all()):
            raise DataError("data hold values that are not finite", expected="numbers, or rows masked as missing",
                            found="NaN or Inf", fix="mask those rows")  # fmt: skip
        return probs[informed].to(values), certain[informed].to(values), values, informed[here]


def _folds(sequence: Tensor | None, rows: int, generator: torch.Generator) -> Tensor:
    """Deal sequences, or rows, out to folds, ``(rows,)``."""
    place = torch.arange(rows, device=generator.device)
    if sequence is not None and len(sequence.unique()) >= FOLDS:
        place = sequence.unique(return_inverse=True)[1]
    count = int(place.max()) + 1
    return (torch.randperm(count, generator=generator, device=generator.device) % FOLDS)[place]


def _axes(inputs: Tensor) -> dict[str, Tensor]:
    """Return the leading principal directions of inputs in their units, ``(D, P)``."""
    size = min(COMPONENTS, *inputs.shape)
    if inputs.shape[0] > inputs.shape[1]:
        vectors = torch.linalg.eigh(inputs.mT @ inputs)[1].flip(1)
    else:
        vectors = torch.linalg.svd(inputs, full_matrices=False)[2].mT
    return {"axes": vectors[:, :size].contiguous()}


def _place(weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Return coordinates along the axes and the length of what they leave, ``(rows, P + 1)``."""
    along = inputs @ weights["axes"]
    rest = (inputs.square().sum(-1) - along.square().sum(-1)).clamp_min(0).sqrt()
    return torch.cat([along, rest.unsqueeze(-1)], -1)
