"""A network between a latent and labels or targets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, Normal
from torch.nn.functional import one_hot

from serket.errors import DataError, GraphError, MessageError, ShapeError, StateError, listed
from serket.messages import Categorical, Family, Gaussian, Message, pooled_moments
from serket.modules.head import FINE, Labels, Layers, Observed, Targets, View, forward, rule
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.registry import register

__all__ = ["Classifier"]

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]


@register("classifier")
class Classifier:
    """p(y | z) = softmax(f(z))_y, or N(y; f(z), noise): y at a ``label`` port or data, in most rows missing.

    Let n be the inbox on z, normalised, and m what is known of y: [y = data], or the inbox on ``label``.

    - to ``latent``: sum_y m(y) p(y | z) as a Gaussian message (expectation propagation, Minka 2001), declared tilted.
      ``quadrature`` projects n(z) sum_y m(y) p(y | z) onto its mean and covariance and divides by n; ``laplace``
      expands at the mode. Rows in which nothing is known of y, or n is improper, hear nothing.
    - to ``label``: log of the integral of p(y | z) n(z), by quasi-random points.

    f is trained on the rows in which y is known, for the mean of log sum_y m(y) p(y | z) over draws of z from n: on
    what it will be asked about, uncertainty included.

    Args:
        ports: ``latent`` (parent, Gaussian) and ``label`` (child, categorical); leave ``label`` out if y is data.
        hidden: widths of tanh layers; none is a linear classifier, which is what few labels allow.
        targets: ``categorical``: data are category numbers from 0. ``gaussian``: data are real numbers.
        classes: categories of data; the largest seen plus one unless given.
        upward: how the message to the latent is made.

    Raises:
        GraphError: real targets at a port, or ``classes`` where there are none to count.
    """

    ports: Mapping[str, Port] = {
        "latent": Port(Role.PARENT, Family.GAUSSIAN),
        "label": Port(Role.CHILD, Family.CATEGORICAL, optional=True),
    }
    listens = True

    def __init__(
        self,
        ports: Mapping[str, Port],
        hidden: list[Count] = [],  # noqa: B006
        targets: Literal["categorical", "gaussian"] = "categorical",
        classes: Annotated[int, Ge(2)] | Literal["seen"] = "seen",
        upward: Literal["quadrature", "laplace"] = "quadrature",
    ) -> None:
        if "label" in ports and targets == "gaussian":
            raise GraphError("a label port is categorical", found="targets: gaussian", fix="make the targets data")
        if classes != "seen" and ("label" in ports or targets == "gaussian"):
            raise GraphError(
                "'classes' of a classifier counts the categories of data",
                found=f"classes: {classes}, and {'a label port' if 'label' in ports else 'real targets'}",
                fix="leave classes out",
            )
        self.ports, self.hidden, self.targets, self.upward = ports, list(hidden), targets, upward
        self.size = ports["latent"].size or 0
        self.classes = ports["label"].size if "label" in ports else None if classes == "seen" else classes
        self.weights: dict[str, Tensor] = {}

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Answer by the formulas of the class, deterministic; evidence is the integral of sum_y m(y) p(y | z) n(z).

        Raises:
            StateError: the module was never fitted.
            ShapeError: targets of another width than in training.
            DataError: data that are no category numbers.
        """
        above = cast(Gaussian, inbox["latent"])
        weights = self._fitted(above)
        known, told = self._known(inbox, evidence, above, self._width(evidence))
        asked = frozenset(self.ports) if ports is None else ports
        proper = above.is_proper()
        standard = Gaussian.standard((), self.size, dtype=above.dtype, device=above.device)
        inside = above.where(proper, standard.expand(len(told)))  # stands in where the inbox is improper
        info, precision = above.full().mask(torch.zeros_like(told)).tensors().values()
        log_evidence = above.log_z()
        answered = (told & proper).nonzero().flatten()
        basis, layers = self._seen_of(weights)
        for rows in answered.split(self._block(len(basis))):
            view = View.of(inside[rows], basis, layers)
            message, log_integral = getattr(view, self.upward)(self._seen(known[rows], weights))
            back = basis.mT.expand(len(rows), *basis.mT.shape)
            info = info.index_put((rows,), (back @ message.info.unsqueeze(-1)).squeeze(-1))
            precision = precision.index_put((rows,), back @ message.precision @ back.mT)
            log_evidence = log_evidence.index_put((rows,), log_evidence[rows] + log_integral)
        messages: dict[str, Message] = {"latent": Gaussian(info, precision)} if "latent" in asked else {}
        if "label" in self.ports:
            # Where the latent is known p(y | z) sums to one over y; where it is not, the factor says nothing.
            silent = torch.where(proper, known[:, 0], known.logsumexp(-1))
            log_evidence = log_evidence + torch.where(told & proper, 0.0, silent)
            if "label" in asked:
                output, share = self._outputs(inside, weights)
                logits = (output.log_softmax(-1) + share.unsqueeze(-1)).logsumexp(1)
                messages["label"] = Categorical(logits).mask(proper)
        return Reply(messages, tilted=frozenset({"latent"}), log_evidence=log_evidence, bound="estimate")

    def fit(
        self,
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
        epochs: Count = 200,
        batch: Count = 128,
        learning_rate: Positive = 1e-2,
        decay: Annotated[float, Ge(0)] = 1.0,
    ) -> FitReport:
        """Maximise the log-likelihood of what is known of y over draws of z from the inbox; continues where it stood.

        Args:
            evidence: training rows; those without y, and without a word on ``label``, are left out.
            inbox: what the graph says of z (N(0, I) joins in rows where that is not proper) and of y.
            generator: of weights, order and draws.
            owned: not used: a classifier has no prior to learn.
            progress: called after every tenth epoch.
            epochs: passes over the rows.
            batch: rows per step.
            learning_rate: of Adam.
            decay: precision of the prior N(0, 1 / decay) on the weights, in units of the latent's and target's spread.

        Raises:
            DataError: nothing is known of y, or data that are no category numbers, or all the same one.
            MessageError: the likelihood is no longer a number.
        """
        above = cast(Gaussian, inbox["latent"])
        known, told = self._known(inbox, evidence, above, self._width(evidence))
        if not bool(told.any()):
            raise DataError(
                "a classifier has nothing to learn from",
                expected="a label in two training rows at least",
                found=f"none in {len(evidence)} rows",
                fix="label some rows, or leave the module out",
            )
        known, above = known[told], above[told]
        if self.targets == "categorical" and "label" not in self.ports and not bool((known != known[:1]).any()):
            raise DataError(
                "a classifier has one category only to learn from",
                expected="rows of two categories at least",
                found=f"{len(known)} rows of category {int(known[0].argmax())}",
                fix="label rows of another category, or leave the module out",
            )
        standard = Gaussian.standard((), self.size, dtype=above.dtype, device=above.device).expand(len(known))
        above = above.where(above.is_proper(), above * standard)
        if not self.weights:
            self.weights = self._initial(above, known, generator)
        weights = self._fitted(above)
        learnt = {name: value.clone().requires_grad_() for name, value in weights.items() if name not in _UNITS}
        weights = {**weights, **learnt}
        mean, spread = above.mean(), _spread(above)
        descent = torch.optim.Adam(list(learnt.values()), lr=learning_rate, fused=True)
        history: list[float] = []
        for epoch in range(epochs):
            total = torch.zeros((), dtype=mean.dtype, device=mean.device)
            for rows in torch.randperm(len(known), generator=generator, device=mean.device).split(batch):
                noise = torch.randn(len(rows), self.size, generator=generator, dtype=mean.dtype, device=mean.device)
                z = mean[rows] + (spread[rows] @ noise.unsqueeze(-1)).squeeze(-1)
                output = forward(self._layers(weights), z)[-1]
                value = self._seen(known[rows], weights).log_prob(output).mean()
                norm = torch.stack([w.square().sum() for name, w in learnt.items() if name.startswith("weight")]).sum()
                descent.zero_grad(set_to_none=True)
                (decay / len(known) * norm / 2 - value).backward()
                descent.step()
                total += value.detach() * len(rows)
            history.append(float(total) / len(known))
            if not math.isfinite(history[-1]):
                raise MessageError(
                    f"training diverged in epoch {epoch + 1}: the likelihood is no number",
                    fix=f"lower fit.learning_rate, now {learning_rate:g}",
                )
            if progress and (epoch + 1) % 10 == 0:
                progress(epoch + 1, epochs, f"log-likelihood {history[-1]:.3f}")
        self.weights = {name: value.detach() for name, value in weights.items()}
        return FitReport(epochs, history={"log_likelihood": history})

    def predict(self, inbox: Mapping[str, Message], *, generator: torch.Generator) -> Distribution:
        """Return p(y | belief of z): category probabilities, or a mixture of normals; event shape as the data.

        Raises:
            GraphError: y is at a port, so there are no data to predict.
        """
        if "label" in self.ports:
            raise GraphError(
                "a classifier with a label port has no data to predict", fix="read the belief of the label"
            )
        belief = cast(Gaussian, inbox["latent"])
        weights = self._fitted(belief)
        output, share = self._outputs(belief, weights)
        if self.targets == "categorical":
            return Independent(
                torch.distributions.Categorical(
                    probs=(output.softmax(-1) * share.exp().unsqueeze(-1)).sum(1, keepdim=True)
                ),
                1,
            )
        deviation = (weights["log_variance"] / 2).exp() * weights["target_scale"]
        mixing = torch.distributions.Categorical(logits=share.expand(output.shape[:-1]))
        return MixtureSameFamily(mixing, Independent(Normal(output, deviation.expand_as(output)), 1))

    def state(self) -> Mapping[str, Tensor]:
        """Return weights and units; nothing before the first fit."""
        return dict(self.weights)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take weights and units back."""
        self.weights = dict(state)

    def _known(
        self, inbox: Mapping[str, Message], evidence: Evidence, like: Message, width: int
    ) -> tuple[Tensor, Tensor]:
        """Return what is known of y ``(rows, K)``, log m(y) or real targets, and the rows in which anything is."""
        if "label" in self.ports:
            if evidence.values is not None:
                fix = "leave out 'data:' (y is a variable) or the 'label' port (y is data)"
                raise GraphError("a classifier has both data and a label port", fix=fix)
            label = cast(Categorical, inbox["label"])
            return label.logits, ~label.is_vacuous()
        told = evidence.present
        if evidence.values is None:
            return torch.zeros(len(evidence), width).to(like.device, like.dtype), told
        columns = evidence.values if evidence.values.dim() > 1 else evidence.values.unsqueeze(-1)
        values = columns.flatten(1).to(like.device, like.dtype)
        if self.targets == "gaussian":
            if values.shape[1] != width:
                raise ShapeError(
                    "targets do not fit the classifier", expected=f"(rows, {width})", found=str(values.shape)
                )
            return values, told
        wrong = told & ((values[:, 0] < 0) | (values[:, 0] >= width) | (values[:, 0] != values[:, 0].floor()))
        if values.shape[1] != 1 or bool(wrong.any()):
            rows = evidence.row_id[wrong].tolist()
            raise DataError(
                "a classifier's data are category numbers",
                where=f"rows {listed(rows)}" if rows else None,
                expected=f"one whole number from 0 to {width - 1} per row",
                found=f"{values.shape[1]} columns" if values.shape[1] != 1 else f"{values[wrong, 0][0].item():g}",
                fix="number the categories from 0, raise classes, or write targets: gaussian for real numbers",
            )
        return torch.where(one_hot(torch.where(told, values[:, 0], 0.0).long(), width) > 0, 0.0, -math.inf).to(
            values
        ), told

    def _width(self, evidence: Evidence) -> int:
        """Outputs of the network: categories, or columns of targets."""
        if self.weights:
            return len(self.weights[f"bias.{len(self.hidden)}"])
        if self.classes is not None or evidence.values is None:
            return self.classes or 1
        if self.targets == "gaussian":
            return evidence.values.reshape(len(evidence), -1).shape[1]
        seen = evidence.values[evidence.present]
        return int(seen.max()) + 1 if seen.numel() and bool(seen.isfinite().all()) else 1

    def _initial(self, above: Gaussian, known: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Fit the units; draw weights within 1 / sqrt(inputs), but none of the last layer: at first all is even."""
        location, variance = pooled_moments(above)
        weights = {"location": location, "scale": variance.sqrt()}
        sizes = [self.size, *self.hidden, known.shape[1]]
        for layer, (into, to) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            drawn = torch.rand(to, into, generator=generator, dtype=known.dtype, device=known.device)
            last = layer == len(self.hidden)
            weights[f"weight.{layer}"] = torch.zeros_like(drawn) if last else (2 * drawn - 1) / math.sqrt(into)
            weights[f"bias.{layer}"] = drawn.new_zeros(to)
        if self.targets == "gaussian":
            spread = known.std(0, correction=0)
            weights["target_location"] = known.mean(0)
            weights["target_scale"] = torch.where(spread > 0, spread, torch.ones_like(spread))
            weights["log_variance"] = torch.zeros_like(spread)
        return weights

    def _layers(self, weights: Mapping[str, Tensor]) -> Layers:
        """Return the network from z to y in their own units: the units go into the first and the last layer."""
        layers = [(weights[f"weight.{i}"], weights[f"bias.{i}"]) for i in range(len(self.hidden) + 1)]
        weight, bias = layers[0]
        weight = weight / weights["scale"]
        layers[0] = weight, bias - weight @ weights["location"]
        if self.targets == "gaussian":
            weight, bias = layers[-1]
            scale = weights["target_scale"]
            layers[-1] = scale.unsqueeze(-1) * weight, scale * bias + weights["target_location"]
        return layers

    def _seen(self, known: Tensor, weights: Mapping[str, Tensor]) -> Observed:
        if self.targets == "categorical":
            return Labels(known)
        return Targets(known, weights["log_variance"] + 2 * weights["target_scale"].log())

    def _outputs(self, belief: Gaussian, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return f at the points of a rule under beliefs, ``(rows, points, K)``, and the points' log-weights."""
        basis, layers = self._seen_of(weights)
        places, share = (part.to(belief.info) for part in rule(len(basis)))
        blocks = torch.arange(len(belief.info), device=belief.device).split(self._block(len(basis)))
        return torch.cat([View.of(belief[rows], basis, layers).outputs(places) for rows in blocks]), share

    def _seen_of(self, weights: Mapping[str, Tensor]) -> tuple[Tensor, Layers]:
        """Return what f sees of z: orthonormal directions B, ``(R, D)``, and the network from B z to y.

        A linear classifier sees one direction less than it has categories, for a softmax does not hear what all its
        inputs share. Integrals over R dimensions instead of D are exact for the rest, on which f does not depend.
        """
        layers = self._layers(weights)
        weight, bias = layers[0]
        if not self.hidden and self.targets == "categorical":
            weight = weight - weight.mean(0)
        _, values, basis = torch.linalg.svd(weight, full_matrices=False)
        seen = values > 10 * torch.finfo(values.dtype).eps * values.amax()
        basis = basis[: max(1, int(seen.sum()))]
        return basis, [(weight @ basis.mT, bias), *layers[1:]]

    def _block(self, size: int) -> int:
        """Rows at a time, so that a layer at their points stays in some tens of megabytes."""
        width = max([size, *self.hidden, self.classes or 10])
        return max(1, 2**22 // (len(rule(size, FINE)[0]) * width))

    def _fitted(self, like: Message) -> dict[str, Tensor]:
        if not self.weights:
            raise StateError("a classifier has to be fitted before it can infer", fix="call fit, or load a state")
        return {name: value.to(like.device, like.dtype) for name, value in self.weights.items()}


_UNITS = ("location", "scale", "target_location", "target_scale")


def _spread(message: Gaussian) -> Tensor:
    """Return R, ``(rows, D, D)``, with R R' the covariance of a row: mean + R noise is a draw of it."""
    if message.diagonal:
        return torch.diag_embed(message.precision.rsqrt())
    factor = torch.linalg.cholesky(message.precision)
    inverse: Tensor = torch.linalg.solve_triangular(
        factor, torch.eye(message.size).to(factor).expand_as(factor), upper=False
    )
    return inverse.mT
