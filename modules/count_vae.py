"""A variational autoencoder whose latent is a distribution over words, and whose encoder sends counts of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt, MinLen
from torch import Tensor

from serket.errors import DataError, GraphError, ShapeError, StateError
from serket.messages import Dirichlet, Family, Message
from serket.modules.likelihoods import LIKELIHOODS, Imagined, LikelihoodName
from serket.modules.network import Optimiser, initial, layers, maximise
from serket.modules.simplex import bag_of
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.registry import register
from serket.rows import row_normal, row_uniform

__all__ = ["CountVAE"]

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]

_BLOCK = 2**22
"""Numbers in one layer at the points of so many rows as are projected at once."""


@register("count_vae")
class CountVAE:
    """p(x | pi) = likelihood(x; decoder(pi)), pi on the simplex, and an encoder that sends prod_v pi_v^c_v(x).

    The potential is a bag of c_v(x) >= 0 real-valued words: what a topic model or a mixture above counts. In training
    q(pi | x) is the inbox times the encoder's, a Dirichlet, and ELBO = E_q log p(x | pi) - KL(q || inbox normalised) is
    climbed, draws having implicit gradients (Figurnov et al. 2018). The inbox is uniform on the simplex unless the
    graph's ``prior:`` or a module above says otherwise.

    An encoder is one function for all rows, and errs in each. So what is sent is not its counts, but those that the
    decoder stands for: for which Dirichlet(1 + c) has the mean and the total variance of p(x | pi), normalised
    (:func:`~serket.modules.simplex.bag_of`), found from the encoder's. Error of the belief's mean under a uniform
    inbox: below 0.01 on two and three words, where sums are over a lattice; on five, 0.01 in the median and up to 0.03.
    The potential is the same under every inbox, and no Dirichlet is right under all: under those that say something,
    0.03 in the median and up to 0.1.

    Args:
        ports: ``words``, a Dirichlet parent of V words.
        hidden: widths of the hidden layers, encoder order; the decoder mirrors them.
        likelihood: gaussian, bernoulli (data in [0, 1]) or categorical (columns of category numbers).
        variance: of the Gaussian likelihood, in units of the data's overall variance; learnt unless given.
        tokens: the most words a row can hold; a row with more is scaled down.
        points: of the sampling, on four words and more; 0 sends the encoder's counts.
    """

    ports: Mapping[str, Port] = {"words": Port(Role.PARENT, Family.DIRICHLET)}
    evidence_draws = 8
    imagined_draws = 16
    warm: Mapping[str, int] = {"epochs": 10}

    def __init__(
        self,
        ports: Mapping[str, Port],
        hidden: Annotated[list[Count], MinLen(1)] = [256],  # noqa: B006
        likelihood: LikelihoodName = "gaussian",
        variance: Positive | Literal["learnt"] = "learnt",
        tokens: Positive = 200.0,
        points: Annotated[int, Ge(0)] = 384,
    ) -> None:
        if variance != "learnt" and likelihood != "gaussian":
            raise GraphError(
                f"'variance' of a count_vae is the Gaussian likelihood's, and {likelihood} has none",
                found=f"variance: {variance}, likelihood: {likelihood}",
                fix="leave variance out, or write likelihood: gaussian",
            )
        self.ports = ports
        self.size = ports["words"].size or 0
        self.hidden, self.tokens, self.points = list(hidden), tokens, points
        self.variance = None if variance == "learnt" else variance
        self.likelihood = LIKELIHOODS[likelihood]
        self.weights: dict[str, Tensor] = {}

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Reply with the counts; ``log_evidence`` is the ELBO under the inbox, a lower bound, by eight draws a row.

        Raises:
            ShapeError: the data have another width than in training.
            StateError: the module was never fitted.
        """
        above = cast(Dirichlet, inbox["words"])
        potential, log_evidence = above.mask(torch.zeros_like(evidence.present)), above.log_z()
        if evidence.values is not None and bool(evidence.present.any()):
            weights = self._fitted(above)
            with torch.no_grad():
                inputs = self.likelihood.inputs(self._checked(evidence.values.to(above.dtype), weights), weights)
                potential = Dirichlet(self._bag(weights, inputs)).mask(evidence.present)
                cavity = above.mask(above.is_proper())
                q = cavity * potential
                drawn = _row_dirichlet(generator, evidence.row_id, self.evidence_draws, q.concentration)
                bound = self._score(weights, inputs, drawn).mean(0) - q.kl(cavity)
                log_evidence = log_evidence + torch.where(evidence.present & above.is_proper(), bound, 0.0)
        asked = ports is None or "words" in ports
        return Reply({"words": potential} if asked else {}, log_evidence=log_evidence, bound="lower")

    def fit(
        self,
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
        epochs: Count = 100,
        batch: Count = 128,
        learning_rate: Positive = 1e-3,
        optimiser: Optimiser = "adam",
        patience: Annotated[int, Ge(0)] = 0,
        held_out: Annotated[float, Gt(0), Lt(1)] = 0.1,
    ) -> FitReport:
        """Maximise the ELBO over the rows present, by minibatches in a fresh order; continues from where it stood.

        Args:
            evidence: training rows; those not present are left out.
            inbox: what the graph says of the words; uniform in rows where that is not proper.
            generator: of weights, order and draws.
            owned: not used: a count_vae has no prior of its own to learn.
            progress: called after every epoch.
            epochs: passes over the rows, at most.
            batch: rows per step.
            learning_rate: of the optimiser.
            optimiser: adam, adamw or sgd.
            patience: stop after so many epochs without a better ELBO on held-out rows, and keep the best; 0 is off.
            held_out: fraction of the rows held out, if patience is on.

        Raises:
            DataError: no row is present.
            MessageError: the ELBO is no longer a number.
        """
        if evidence.values is None or not bool(evidence.present.any()):
            raise DataError(
                "a count_vae cannot be fitted without data", expected="one row at least", found="none present"
            )
        rows = evidence.present.nonzero().flatten()
        floating = evidence.values.is_floating_point()
        values = evidence.values[rows].to(evidence.values.dtype if floating else torch.get_default_dtype())
        above = Dirichlet(cast(Dirichlet, inbox["words"])[rows].counts.to(values))
        above = above.mask(above.is_proper())
        if not self.weights:
            self.weights = self._initial(values, generator)
        weights = {name: value.to(values) for name, value in self.weights.items()}
        learnt = {n: v.clone().requires_grad_() for n, v in weights.items() if self._learnt(n)}
        weights |= learnt
        inputs = self.likelihood.inputs(self._checked(values, weights), weights)

        def elbo(chosen: Tensor, left: float) -> Tensor:
            seen, cavity = inputs.index_select(0, chosen), above[chosen]
            q = cavity * Dirichlet(self._counts(weights, seen))
            # Gammas of small alpha underflow.
            gamma = torch._standard_gamma(q.concentration, generator=generator).clamp_min(torch.finfo(seen.dtype).tiny)
            drawn = gamma / gamma.sum(-1, keepdim=True)
            return (self._score(weights, seen, drawn) - q.kl(cavity)).mean()

        best, report = maximise(
            elbo,
            learnt,
            len(rows),
            generator=generator,
            progress=progress,
            epochs=epochs,
            batch=batch,
            learning_rate=learning_rate,
            optimiser=optimiser,
            patience=patience,
            held_out=held_out,
        )
        self.weights = {**weights, **best}
        return report

    def state(self) -> Mapping[str, Tensor]:
        """Return weights and scaling; nothing before the first fit."""
        return dict(self.weights)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take weights and scaling back."""
        self.weights = dict(state)

    def predict(self, inbox: Mapping[str, Message], *, generator: torch.Generator) -> torch.distributions.Distribution:
        """Return p(x | belief of pi): a mixture over 16 decoded draws, about the decoding of the mean."""
        belief = cast(Dirichlet, inbox["words"])
        weights = self._fitted(belief)
        # The same random numbers for all rows: what a row imagines does not depend on its place in a batch.
        alike = torch.zeros(len(belief.counts), dtype=torch.int64, device=belief.device)
        with torch.no_grad():
            drawn = _row_dirichlet(generator, alike, self.imagined_draws, belief.concentration)
            decoded = self._decode(weights, drawn).transpose(0, 1)
            centre = self._decode(weights, belief.mean())
        return Imagined(self.likelihood.distribution(centre, weights), self.likelihood.distribution(decoded, weights))

    def _score(self, weights: Mapping[str, Tensor], inputs: Tensor, drawn: Tensor) -> Tensor:
        """Return log p(x | pi), nats, ``(..., rows)``."""
        return self.likelihood.log_prob(self._decode(weights, drawn), inputs, weights)

    def _counts(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        counts = F.softplus(layers(weights, "encoder", inputs, len(self.hidden) + 1))
        return counts * (self.tokens / counts.sum(-1, keepdim=True).clamp_min(self.tokens))

    def _bag(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the counts that are sent, ``(rows, V)``."""
        guess = self._counts(weights, inputs)
        if not self.points:
            return guess
        width = max(*self.hidden, self.size, self.likelihood.outputs(weights))
        step = max(1, _BLOCK // (max(self.points, 1600) * width))
        found = []
        for seen, some in zip(inputs.split(step), guess.split(step), strict=True):

            def log_prob(pi: Tensor, seen: Tensor = seen) -> Tensor:
                output = self._decode(weights, pi)  # once, where all rows look at the same points
                return self.likelihood.log_prob(output.expand(-1, len(seen), -1), seen, weights)

            found.append(bag_of(log_prob, some, self.points, self.tokens))
        return torch.cat(found)

    def _decode(self, weights: Mapping[str, Tensor], drawn: Tensor) -> Tensor:
        # Around zero, of order one, whatever V.
        return layers(weights, "decoder", self.size * drawn - 1, len(self.hidden) + 1)

    def _initial(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Fit the scaling; draw the weights."""
        weights = self.likelihood.fit_scaling(values, self.variance)
        width = self.likelihood.inputs(values[:1], weights).shape[-1]
        out = self.likelihood.outputs(weights)
        weights |= initial("encoder", [width, *self.hidden, self.size], values, generator)
        weights |= initial("decoder", [self.size, *self.hidden[::-1], out], values, generator)
        return weights

    def _learnt(self, name: str) -> bool:
        return name.startswith(("encoder.", "decoder.")) or (name == "log_variance" and self.variance is None)

    def _fitted(self, like: Message) -> dict[str, Tensor]:
        if not self.weights:
            raise StateError("a count_vae has to be fitted before it can infer", fix="call fit, or load a state")
        return {name: value.to(like.device, like.dtype) for name, value in self.weights.items()}

    def _checked(self, values: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        width = weights["location"].shape[0]
        if values.dim() != 2 or values.shape[1] != width:
            expected = f"(rows, {width}), as in training"
            raise ShapeError("data do not fit the count_vae", expected=expected, found=str(tuple(values.shape)))
        return values


def _row_dirichlet(generator: torch.Generator, row_id: Tensor, draws: int, alpha: Tensor) -> Tensor:
    """Draw from Dirichlet(alpha), ``(rows, V)``, by numbers that belong to the rows: ``(draws, rows, V)``.

    Gamma(alpha) = Gamma(alpha + 1) u^(1 / alpha), and that by the first of four proposals accepted (Marsaglia & Tsang
    2000): in 1e-6 of the draws at most none is, and the last one stands. Logarithms carry small alpha.
    """
    shape = (draws, 4, alpha.shape[-1])
    normal = row_normal(generator, row_id, shape, dtype=torch.float64).transpose(0, 1)
    uniform = row_uniform(generator, row_id + 2**40, (draws, 5, alpha.shape[-1]), dtype=torch.float64).transpose(0, 1)
    shift = (alpha + 2 / 3).to(torch.float64).unsqueeze(-2)
    cube = (1 + normal / (9 * shift).sqrt()).clamp_min(1e-8) ** 3
    accepted = uniform[:, :, :4].log() < normal.square() / 2 + shift * (1 - cube + cube.log())
    first = torch.where(accepted.any(-2), accepted.to(torch.int8).argmax(-2), 3)
    log_gamma = (shift * cube.gather(-2, first.unsqueeze(-2))).squeeze(-2).log() + uniform[:, :, 4].log() / alpha
    return log_gamma.softmax(-1).to(alpha)
