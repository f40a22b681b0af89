"""A variational autoencoder whose encoder sends a potential."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt, MinLen
from torch import Tensor

from serket.errors import DataError, MessageError, ShapeError
from serket.messages import Family, Gaussian, Message
from serket.modules.likelihoods import LIKELIHOODS, Imagined, LikelihoodName
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.registry import register
from serket.rows import row_normal

__all__ = ["VAE"]

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]


@register("vae")
class VAE:
    """p(x | z) = likelihood(x; decoder(z)), and an encoder that sends a potential exp(eta' z - z' Lambda z / 2).

    Lambda(x) >= 0 is diagonal, and q(z | x) is the inbox times the potential (Johnson et al. 2016, structured VAEs).
    So the reply is the potential itself, whatever the inbox, and nothing is to be divided out of it. Trained on
    ELBO = E_q log p(x | z) - KL(q || inbox normalised), the inbox being N(0, I) unless a module above sends another.

    Args:
        ports: ``latent``, a Gaussian parent.
        hidden: widths of the hidden layers, encoder order; the decoder mirrors them.
        likelihood: gaussian, bernoulli (data in [0, 1]) or categorical (columns of category numbers).
        variance: of the Gaussian likelihood, in units of the data's overall variance; learnt unless given.
        noise: standard deviation of the noise added to the encoder's scaled input while training (Im et al. 2017,
            denoising criterion): latents of similar inputs come to lie together, and other senses can predict them.
    """

    ports: Mapping[str, Port] = {"latent": Port(Role.PARENT, Family.GAUSSIAN)}
    evidence_draws = 4
    imagined_draws = 16

    def __init__(
        self,
        ports: Mapping[str, Port],
        hidden: Annotated[list[Count], MinLen(1)] = [256],  # noqa: B006
        likelihood: LikelihoodName = "gaussian",
        variance: Positive | Literal["learnt"] = "learnt",
        noise: Annotated[float, Ge(0)] = 0.8,
    ) -> None:
        self.ports = ports
        self.size = ports["latent"].size or 0
        self.hidden, self.noise = list(hidden), noise
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
        """Reply with the potential; ``log_evidence`` is the ELBO under the inbox, a lower bound, by four draws a row.

        Raises:
            ShapeError: the data have another width than in training.
            MessageError: there are data, but the module was never fitted.
        """
        above = cast(Gaussian, inbox["latent"])
        potential = Gaussian.vacuous((len(evidence),), self.size, dtype=above.dtype, device=above.device)
        log_evidence = above.log_z()
        if evidence.values is not None and bool(evidence.present.any()):
            weights = {name: value.to(above.device, above.dtype) for name, value in self._fitted().items()}
            values = self._checked(evidence.values.to(above.dtype))
            with torch.no_grad():
                potential = self._encode(weights, self.likelihood.inputs(values, weights)).mask(evidence.present)
                # Before the rest of the graph has spoken the inbox is improper: there is no evidence yet to compute.
                proper = above.is_proper()
                if bool(proper.any()):
                    shape = (self.evidence_draws, self.size)
                    draws = row_normal(generator, evidence.row_id, shape, dtype=above.dtype).transpose(0, 1)
                    bound = self._elbo(weights, values, potential, above.where(proper, self._standard(above)), draws)
                    log_evidence = log_evidence + torch.where(evidence.present & proper, bound, 0.0)
        asked = ports is None or "latent" in ports
        return Reply({"latent": potential} if asked else {}, log_evidence=log_evidence, bound="lower")

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
        optimiser: Literal["adam", "adamw", "sgd"] = "adam",
        patience: Annotated[int, Ge(0)] = 0,
        held_out: Annotated[float, Gt(0), Lt(1)] = 0.1,
    ) -> FitReport:
        """Maximise the ELBO over the rows present, by minibatches in a fresh order; continues from where it stood.

        Args:
            evidence: training rows; those not present are left out.
            inbox: what the graph says of the latent; N(0, I) joins in the rows where that is not proper.
            generator: of weights, order and noise.
            owned: not used: a VAE has no prior of its own to learn.
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
            raise DataError("a VAE cannot be fitted without data", expected="at least one row", found="none present")
        rows = evidence.present.nonzero().flatten()
        floating = evidence.values.is_floating_point()
        values = evidence.values[rows].to(evidence.values.dtype if floating else torch.get_default_dtype())
        above = cast(Gaussian, inbox["latent"])[rows]
        above = Gaussian(above.info.to(values), above.precision.to(values))
        standard = self._standard(above)
        above = standard if bool(above.is_vacuous().all()) else above.where(above.is_proper(), above * standard)
        if not self.weights:
            self.weights = self._initial(values, generator)
        self.weights = {name: value.to(values) for name, value in self.weights.items()}
        constants = {n: v for n, v in self.weights.items() if not self._learnt(n)}
        learnt = {n: v.clone().requires_grad_() for n, v in self.weights.items() if self._learnt(n)}
        weights = {**constants, **learnt}
        inputs = self.likelihood.inputs(self._checked(values), weights)
        order = torch.randperm(len(rows), generator=generator, device=rows.device)
        held = order[: max(1, int(held_out * len(rows)))] if patience and len(rows) > 1 else order[:0]
        train = order[len(held) :]
        steps = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
        descent = steps[optimiser](list(learnt.values()), lr=learning_rate, fused=True)
        history: dict[str, list[float]] = {"elbo": [], "held_out": []}
        best = _Best(patience)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=values.dtype, device=values.device)

        def elbo(chosen: Tensor, noise: float) -> Tensor:
            seen = inputs[chosen]
            potential = self._encode(weights, seen + noise * normal(*seen.shape) if noise else seen)
            draws = normal(1, len(chosen), self.size)
            return self._elbo(weights, values[chosen], potential, above[chosen], draws).mean()

        def held_out_elbo() -> float:
            with torch.no_grad():
                return float(elbo(held, 0.0))

        if len(held):
            best.hopeful(held_out_elbo(), learnt)  # a refit never ends below where it began
        for epoch in range(epochs):
            total = torch.zeros((), dtype=values.dtype, device=values.device)
            for chosen in train[torch.randperm(len(train), generator=generator, device=rows.device)].split(batch):
                descent.zero_grad(set_to_none=True)
                value = elbo(chosen, self.noise)
                (-value).backward()
                descent.step()
                total += value.detach() * len(chosen)
            history["elbo"].append(float(total) / len(train))
            if not (math.isfinite(history["elbo"][-1]) and all(bool(v.isfinite().all()) for v in learnt.values())):
                raise MessageError(
                    f"training diverged in epoch {epoch + 1}: the ELBO is no number",
                    fix=f"lower fit.learning_rate, now {learning_rate:g}",
                )
            if progress:
                progress(epoch + 1, epochs, f"ELBO {history['elbo'][-1]:.4g}")
            if len(held):
                history["held_out"].append(held_out_elbo())
                if not best.hopeful(history["held_out"][-1], learnt):
                    break
        self.weights = {**constants, **(best.weights if len(held) else {n: v.detach() for n, v in learnt.items()})}
        return FitReport(len(history["elbo"]), history=history)

    def state(self) -> Mapping[str, Tensor]:
        """Return weights and scaling."""
        return self._fitted()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take weights and scaling back."""
        self.weights = dict(state)

    def predict(self, inbox: Mapping[str, Message], *, generator: torch.Generator) -> torch.distributions.Distribution:
        """Return p(x | belief of z): a mixture over 16 decoded draws of z, about the decoding of its mean."""
        belief = cast(Gaussian, inbox["latent"])
        weights = {name: value.to(belief.device, belief.dtype) for name, value in self._fitted().items()}
        # One set of points for all rows: what a row imagines does not depend on its place in a batch.
        point = torch.zeros(1, dtype=torch.int64, device=belief.device)
        draws = row_normal(generator, point, (self.imagined_draws, 1, self.size), dtype=belief.dtype)[0]
        draws = draws.expand(-1, len(belief.info), -1)
        with torch.no_grad():
            decoded = self._decode(weights, belief.shift(draws)).transpose(0, 1)
            centre = self._decode(weights, belief.mean())
        return Imagined(self.likelihood.distribution(centre, weights), self.likelihood.distribution(decoded, weights))

    def _elbo(
        self, weights: Mapping[str, Tensor], values: Tensor, potential: Gaussian, above: Gaussian, draws: Tensor
    ) -> Tensor:
        """Return the ELBO per row; draws are standard normal, ``(draws, rows, size)``."""
        if above.diagonal:
            # KL(q || n) for diagonal q = n m, spelt out: it is half the time of a small network's step otherwise.
            precision = above.precision + potential.precision
            mean = (above.info + potential.info) / precision
            ratio = above.precision / precision
            gap = above.precision * (mean - above.info / above.precision).square()
            divergence = (ratio - 1 - ratio.log() + gap).sum(-1) / 2
            latent = mean + draws * precision.rsqrt()
        else:
            q = above * potential
            latent, divergence = q.shift(draws), q.kl(above)
        return self.likelihood.log_prob(self._decode(weights, latent), values, weights).mean(0) - divergence

    def _encode(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Gaussian:
        info, raw = _layers(weights, "encoder", inputs, len(self.hidden) + 1).chunk(2, -1)
        return Gaussian(info, F.softplus(raw))

    def _decode(self, weights: Mapping[str, Tensor], latent: Tensor) -> Tensor:
        return _layers(weights, "decoder", latent, len(self.hidden) + 1)

    def _standard(self, like: Gaussian) -> Gaussian:
        rows = len(like.info)
        return Gaussian.standard((), self.size, dtype=like.dtype, device=like.device).expand(rows)

    def _initial(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Fit the scaling; draw weights and biases uniformly within 1 / sqrt(inputs), as torch.nn.Linear does."""
        weights = self.likelihood.fit_scaling(values, self.variance)
        width = self.likelihood.inputs(values[:1], weights).shape[-1]
        out = self.likelihood.outputs(weights)
        shapes = {"encoder": [width, *self.hidden, 2 * self.size], "decoder": [self.size, *self.hidden[::-1], out]}
        for net, sizes in shapes.items():
            for layer, (into, to) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
                for name, shape in (("weight", (to, into)), ("bias", (to,))):
                    drawn = torch.rand(*shape, generator=generator, dtype=values.dtype, device=values.device)
                    weights[f"{net}.{layer}.{name}"] = (2 * drawn - 1) / math.sqrt(into)
        return weights

    def _learnt(self, name: str) -> bool:
        return name.startswith(("encoder.", "decoder.")) or (name == "log_variance" and self.variance is None)

    def _fitted(self) -> dict[str, Tensor]:
        if not self.weights:
            raise MessageError("the VAE was never fitted", fix="fit the graph, or load a run: serket.load(directory)")
        return self.weights

    def _checked(self, values: Tensor) -> Tensor:
        width = self.weights["location"].shape[0]
        if values.dim() != 2 or values.shape[1] != width:
            raise ShapeError(
                "data do not fit the VAE", expected=f"(rows, {width}), as in training", found=str(tuple(values.shape))
            )
        return values


class _Best:
    """The weights with the highest ELBO on held-out rows, and how many epochs ago that was."""

    def __init__(self, patience: int) -> None:
        self.patience, self.elbo, self.waited = patience, -math.inf, 0
        self.weights: dict[str, Tensor] = {}

    def hopeful(self, elbo: float, weights: Mapping[str, Tensor]) -> bool:
        """Take note of an epoch; tell whether a better one may still come."""
        self.waited += 1
        if elbo > self.elbo:
            self.elbo, self.waited = elbo, 0
            self.weights = {name: value.detach().clone() for name, value in weights.items()}
        return self.waited < self.patience


def _layers(weights: Mapping[str, Tensor], net: str, x: Tensor, layers: int) -> Tensor:
    """Apply linear layers with rectifiers between them."""
    for layer in range(layers):
        x = F.linear(x, weights[f"{net}.{layer}.weight"], weights[f"{net}.{layer}.bias"])
        x = F.relu(x) if layer < layers - 1 else x
    return x
