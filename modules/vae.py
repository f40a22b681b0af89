"""A variational autoencoder whose encoder sends a potential."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt, MinLen
from torch import Tensor

from serket.errors import DataError, GraphError, MessageError, ShapeError
from serket.messages import Family, Gaussian, Message
from serket.modules.cavity import Cavity
from serket.modules.likelihoods import LIKELIHOODS, Imagined, LikelihoodName, follow
from serket.modules.network import Optimiser, initial, layers, maximise
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.registry import register
from serket.rows import row_normal

__all__ = ["VAE"]

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]
LEAST_PRECISION = 0.05  # of a dimension that is in use


@register("vae")
class VAE:
    """p(x | z) = likelihood(x; decoder(z)), and an encoder that sends a potential exp(eta' z - z' Lambda z / 2).

    Lambda(x) >= 0 is diagonal, and q(z | x) is the inbox times the potential (Johnson et al. 2016, structured VAEs).
    So the reply is the potential itself, whatever the inbox, and nothing is to be divided out of it. Trained on
    ELBO = E_q log p(x | z) - KL(q || inbox normalised), the inbox being N(0, I) unless a module above sends another.

    A dimension that the data came to say nothing of has next to no precision, and what little it sends is right under
    N(0, 1) only: a composer, which learns how wide latents are, would take it for a reading of something immense. So
    dimensions whose precision, the mean of training rows, is 0.05 or less (it narrows N(0, 1) by 2.5 %) are silent, as
    long as another one speaks.

    Args:
        ports: ``latent``, a Gaussian parent.
        hidden: widths of the hidden layers, encoder order; the decoder mirrors them.
        likelihood: gaussian, bernoulli (data in [0, 1]) or categorical (columns of category numbers).
        variance: of the Gaussian likelihood, in units of the data's overall variance. Unless given it follows the mean
            squared error, the likeliest there is (Rybkin et al. 2021, sigma-VAE): by gradient it lags, and what is
            below it, such as what tells two kinds apart that look alike, never reaches the latent.
        noise: standard deviation of the noise added to the encoder's scaled input while training (Im et al. 2017,
            denoising criterion): latents of similar inputs come to lie together, and a linear composer predicts them.
            ``auto`` starts at sqrt(columns) / 10, at most 0.8, as what is read off many columns averages their noise
            out, and falls to nothing with the epochs: fine differences are read in the end.
    """

    ports: Mapping[str, Port] = {"latent": Port(Role.PARENT, Family.GAUSSIAN)}
    evidence_draws = 4
    imagined_draws = 16
    warm: Mapping[str, int] = {"epochs": 10}

    def __init__(
        self,
        ports: Mapping[str, Port],
        hidden: Annotated[list[Count], MinLen(1)] = [256],  # noqa: B006
        likelihood: LikelihoodName = "gaussian",
        variance: Positive | Literal["learnt"] = "learnt",
        noise: Annotated[float, Ge(0)] | Literal["auto"] = "auto",
    ) -> None:
        if variance != "learnt" and likelihood != "gaussian":
            raise GraphError(
                f"'variance' of a vae is the Gaussian likelihood's, and {likelihood} has none",
                found=f"variance: {variance}, likelihood: {likelihood}",
                fix="leave variance out, or write likelihood: gaussian",
            )
        self.ports = ports
        self.size = ports["latent"].size or 0
        self.hidden, self.noise = list(hidden), noise
        self.variance = None if variance == "learnt" else variance
        self.likelihood = LIKELIHOODS[likelihood]
        self.weights: dict[str, Tensor] = {}
        self._cast: tuple[Mapping[str, Tensor], object, dict[str, Tensor]] | None = None  # weights as last asked for

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
        # Before the rest of the graph has spoken the inbox is improper: there is no evidence yet to compute.
        proper = above.is_proper()
        judged = bool(proper.any())
        log_evidence = above.log_z() if judged else torch.full_like(proper, math.inf, dtype=above.dtype)
        seen = int(evidence.present.sum()) if evidence.values is not None else 0
        if evidence.values is not None and seen:
            weights = self._weights(above)
            values = self._checked(evidence.values.to(above.dtype))
            inputs = self.likelihood.inputs(values, weights)
            info, precision = self._natural(weights, inputs)
            if (speaks := weights.get("speaks")) is not None:
                info, precision = info * speaks, precision * speaks
            told = Gaussian(info, precision)
            potential = told if seen == len(evidence) else told.mask(evidence.present)
            if judged:
                shape = (self.evidence_draws, self.size)
                draws = row_normal(generator, evidence.row_id, shape, dtype=above.dtype).transpose(0, 1)
                cavity = Cavity.of(above.where(proper, self._standard(above)))
                bound = self._elbo(weights, inputs, potential, cavity, draws)
                log_evidence = log_evidence + torch.where(evidence.present & proper, bound, 0.0)
        else:
            potential = Gaussian.vacuous((len(evidence),), self.size, dtype=above.dtype, device=above.device)
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
        optimiser: Optimiser = "adam",
        patience: Annotated[int, Ge(0)] = 0,
        held_out: Annotated[float, Gt(0), Lt(1)] = 0.1,
        alone: Annotated[float, Ge(0), Le(1)] = 0.0,
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
            alone: under an inbox that differs from row to row, the fraction of a batch's rows whose q is the potential
                times the average of all inboxes, still held against the row's own: KL(q || inbox). The sense learns to
                tell by itself what the others told it (the update of Neuro-SERKET, Taniguchi et al. 2020, section 3).

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
        learnt = {n: v.clone().requires_grad_(n != "log_variance") for n, v in self.weights.items() if self._learnt(n)}
        spread = learnt.get("log_variance")  # has no gradient: it follows the errors
        weights = {**constants, **learnt}
        inputs = self.likelihood.inputs(self._checked(values), weights)
        fading = self.noise == "auto"
        noise = min(0.8, math.sqrt(inputs.shape[1]) / 10) if self.noise == "auto" else self.noise
        cavity = Cavity.of(above)
        alike = bool((above.info == above.info[:1]).all() & (above.precision == above.precision[:1]).all())
        base = None if alike else cavity.pooled()

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=values.dtype, device=values.device)

        def told(latent: Tensor, seen: Tensor, left: float) -> Tensor:
            decoded = self._decode(weights, latent)
            if left and spread is not None:
                follow(spread, self.likelihood, decoded, seen, weights)
            return self.likelihood.log_prob(decoded, seen, weights).mean(0)

        def elbo(chosen: Tensor, left: float) -> Tensor:
            seen = inputs.index_select(0, chosen)
            loud = noise * left if fading else noise
            potential = self._encode(weights, seen + loud * normal(*seen.shape) if left and noise else seen)
            draws, first = normal(1, len(chosen), self.size), 0 if base is None else round(alone * len(chosen))
            latent, divergence = cavity[chosen[first:]].meet(potential[first:], draws[:, first:])
            total = (told(latent, seen[first:], left) - divergence).sum()
            if base is not None and first:
                mine = base * potential[:first]
                latent, divergence = cavity[chosen[:first]].judge(mine, draws[:, :first])
                total = total + (told(latent, seen[:first], left) - divergence).sum()
            return total / len(chosen)

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
        self.weights = {**constants, **best}
        self.weights = {**self.weights, "speaks": self._speaks(inputs)}  # another dictionary: `_cast` goes by it
        return report

    def state(self) -> Mapping[str, Tensor]:
        """Return weights and scaling."""
        return self._fitted()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take weights and scaling back."""
        self.weights = dict(state)

    def parameters(self) -> Mapping[str, Tensor]:
        """Return the weights: the part of the state that gradients may change."""
        return {name: value for name, value in self._fitted().items() if self._learnt(name)}

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
        self,
        weights: Mapping[str, Tensor],
        inputs: Tensor,
        potential: Gaussian,
        above: Cavity,
        draws: Tensor,
    ) -> Tensor:
        """Return the ELBO per row; ``inputs`` are the scaled data, draws standard normal ``(draws, rows, size)``."""
        latent, divergence = above.meet(potential, draws)
        decoded = self._decode(weights, latent)
        return self.likelihood.log_prob(decoded, inputs, weights).mean(0) - divergence

    def _natural(self, weights: Mapping[str, Tensor], inputs: Tensor) -> tuple[Tensor, Tensor]:
        info, raw = layers(weights, "encoder", inputs, len(self.hidden) + 1).chunk(2, -1)
        return info, F.softplus(raw)

    def _encode(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Gaussian:
        return Gaussian(*self._natural(weights, inputs))

    def _decode(self, weights: Mapping[str, Tensor], latent: Tensor) -> Tensor:
        return layers(weights, "decoder", latent, len(self.hidden) + 1)

    @torch.no_grad()
    def _speaks(self, inputs: Tensor) -> Tensor:
        """Return 1 for the dimensions that the data tell of, ``(D,)``, and 0 for others; 1 for all if there is none."""
        told = self._encode(self.weights, inputs).precision.mean(0) > LEAST_PRECISION
        return (told if bool(told.any()) else torch.ones_like(told)).to(inputs)

    def _standard(self, like: Gaussian) -> Gaussian:
        rows = len(like.info)
        return Gaussian.standard((), self.size, dtype=like.dtype, device=like.device).expand(rows)

    def _initial(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Fit the scaling; draw the weights."""
        weights = self.likelihood.fit_scaling(values, self.variance)
        width = self.likelihood.inputs(values[:1], weights).shape[-1]
        out = self.likelihood.outputs(weights)
        weights |= initial("encoder", [width, *self.hidden, 2 * self.size], values, generator)
        weights |= initial("decoder", [self.size, *self.hidden[::-1], out], values, generator)
        return weights

    def _learnt(self, name: str) -> bool:
        return name.startswith(("encoder.", "decoder.")) or (name == "log_variance" and self.variance is None)

    def _fitted(self) -> dict[str, Tensor]:
        if not self.weights:
            raise MessageError("the VAE was never fitted", fix="fit the graph, or load a run: serket.load(directory)")
        return self.weights

    def _weights(self, like: Gaussian) -> dict[str, Tensor]:
        """Return the state in the type and on the device of a message."""
        fitted, key = self._fitted(), (like.dtype, like.device)
        if self._cast is None or self._cast[0] is not fitted or self._cast[1] != key:
            self._cast = fitted, key, {name: value.to(like.device, like.dtype) for name, value in fitted.items()}
        return self._cast[2]

    def _checked(self, values: Tensor) -> Tensor:
        width = self.weights["location"].shape[0]
        if values.dim() != 2 or values.shape[1] != width:
            raise ShapeError(
                "data do not fit the VAE", expected=f"(rows, {width}), as in training", found=str(tuple(values.shape))
            )
        return values
