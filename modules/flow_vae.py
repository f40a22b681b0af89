"""A variational autoencoder whose posterior is a normalising flow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt, MinLen
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

from serket.errors import DataError, ShapeError, StateError
from serket.messages import Family, Gaussian, Message
from serket.modules.bijection import Bijection
from serket.modules.likelihoods import LIKELIHOODS, Imagined, LikelihoodName, follow
from serket.modules.mixture import blocks
from serket.modules.network import Optimiser, initial, layers, maximise
from serket.protocol import Evidence, FitReport, Includes, Port, Progress, Reply, Role
from serket.registry import register
from serket.rows import row_normal

__all__ = ["FlowVAE"]

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]


@register("flow_vae")
class FlowVAE:
    """p(x | z) = likelihood(x; decoder(z)), z ~ N(0, I), and q(z | x) a flow: z = mu(x) + sigma(x) T(eps; h(x)).

    T is a chain of inverse autoregressive affine maps (Kingma et al. 2016, section 3; of the library zuko) on
    eps ~ N(0, I): unlike that of a ``vae``, q may have correlated dimensions and bends. Trained on
    ELBO = E_q [log p(x | z) + log N(z; 0, I) - log q(z | x)].

    The message is the Gaussian with mean and full covariance of the posterior, by two populations of 256 quasi-random
    draws (Cappe et al. 2004): of q, and of the Gaussian that those come to, widened so that it covers bends, too; where
    it fits badly, by less than half as many draws that count, q's are kept. Draws of r are weighted by (p(x, z) /
    r(z))^t: t = 1 where half of them count, and else as large as leaves half. It contains N(0, I), which is divided
    out. Evidence under an inbox m, log
    1/K sum_k p(x | z_k) m(z_k) / q(z_k | x) over K draws (Burda et al. 2016, eq. 8), is a lower bound in the mean.

    Args:
        ports: ``latent``, a Gaussian parent.
        hidden: widths of the hidden layers, encoder order; the decoder mirrors them.
        likelihood: gaussian, bernoulli (data in [0, 1]) or categorical (columns of category numbers).
        noise: standard deviation of the noise added to the encoder's scaled input while training.
        transforms: maps in the chain, orders of the dimensions alternating.
        context: numbers in h(x).
    """

    ports: Mapping[str, Port] = {"latent": Port(Role.PARENT, Family.GAUSSIAN)}
    warm: Mapping[str, int] = {"epochs": 10}
    message_draws, evidence_draws, imagined_draws = 256, 16, 16

    def __init__(
        self,
        ports: Mapping[str, Port],
        hidden: Annotated[list[Count], MinLen(1)] = [256],  # noqa: B006
        likelihood: LikelihoodName = "gaussian",
        noise: Annotated[float, Ge(0)] = 0.8,
        transforms: Count = 2,
        context: Count = 32,
    ) -> None:
        self.ports = ports
        self.size = ports["latent"].size or 0
        self.hidden, self.noise = list(hidden), noise
        self.transforms, self.context = transforms, context
        self.likelihood = LIKELIHOODS[likelihood]
        self.weights: dict[str, Tensor] = {}
        self._flow = Bijection(self._build)

    @property
    def own_prior(self) -> Mapping[str, Message]:
        """N(0, I), which q was trained under."""
        return {"latent": Gaussian.standard((), self.size)}

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Reply with the moments of q, own prior included; N(0, I) where there are no data.

        Raises:
            StateError: the module was never fitted.
            ShapeError: the data have another width than in training.
        """
        above = cast(Gaussian, inbox["latent"])
        weights = self._fitted(above)
        message = Gaussian.standard((len(evidence),), self.size, dtype=above.dtype, device=above.device).full()
        log_evidence, asked = above.log_z(), ports is None or "latent" in ports
        if evidence.values is not None and bool(evidence.present.any()):
            inputs = self.likelihood.inputs(self._checked(evidence.values.to(above.dtype)), weights)
            with torch.no_grad():
                if asked:
                    message = self._projected(weights, inputs).where(evidence.present, message)
                # Before the rest of the graph has spoken the inbox is improper: there is no evidence yet to compute.
                proper = above.is_proper()
                told = above.where(proper, Gaussian.standard((len(evidence),), self.size).to(above.dtype, above.device))
                noise = row_normal(generator, evidence.row_id, (self.evidence_draws, self.size), dtype=above.dtype)
                z, log_q = self._draw(weights, inputs, noise.transpose(0, 1))
                decoded = self.likelihood.log_prob(self._decode(weights, z), inputs, weights)
                bound = (decoded + _bare(told, z) - log_q).logsumexp(0) - math.log(self.evidence_draws)
                log_evidence = torch.where(evidence.present & proper, bound, log_evidence)
        messages: dict[str, Message] = {"latent": message} if asked else {}
        included: Mapping[str, frozenset[Includes]] = {"latent": frozenset({"own_prior"})}
        return Reply(messages, included, log_evidence=log_evidence, bound="lower")

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
        """Maximise the ELBO under N(0, I) over the rows present, by minibatches; continues from where it stood.

        Args:
            evidence: training rows; those not present are left out.
            inbox: not used: q is trained under N(0, I).
            generator: of weights, order and noise.
            owned: not used.
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
            raise DataError("a flow_vae cannot be fitted without data", expected="at least one row",
                            found="none present")  # fmt: skip
        values = evidence.values[evidence.present]
        values = values if values.is_floating_point() else values.to(torch.get_default_dtype())
        if not self.weights:
            self.weights = self._initial(values, generator)
        weights = {name: value.to(values) for name, value in self.weights.items()}
        learnt = {n: v.clone().requires_grad_(n != "log_variance") for n, v in weights.items() if n.startswith(_LEARNT)}
        weights |= learnt
        inputs = self.likelihood.inputs(self._checked(values), weights)

        def normal(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)

        def elbo(chosen: Tensor, left: float) -> Tensor:
            seen = inputs.index_select(0, chosen)
            heard = seen + self.noise * normal(seen) if left and self.noise else seen
            z, log_q = self._draw(weights, heard, normal(seen.new_empty(len(seen), self.size)))
            decoded = self._decode(weights, z)
            if left and "log_variance" in learnt:
                follow(learnt["log_variance"], self.likelihood, decoded, seen, weights)
            return (self.likelihood.log_prob(decoded, seen, weights) + _log_normal(z) - log_q).mean()

        best, report = maximise(elbo, learnt, len(inputs), generator=generator, progress=progress, epochs=epochs,
                                batch=batch, learning_rate=learning_rate, optimiser=optimiser, patience=patience,
                                held_out=held_out)  # fmt: skip
        self.weights = {**weights, **best}
        return report

    def predict(self, inbox: Mapping[str, Message], *, generator: torch.Generator) -> torch.distributions.Distribution:
        """Return p(x | belief of z): a mixture over 16 decoded draws of z, about the decoding of its mean."""
        belief = cast(Gaussian, inbox["latent"])
        weights = self._fitted(belief)
        point = torch.zeros(1, dtype=torch.int64, device=belief.device)
        draws = row_normal(generator, point, (self.imagined_draws, 1, self.size), dtype=belief.dtype)[0]
        with torch.no_grad():
            decoded = self._decode(weights, belief.shift(draws.expand(-1, len(belief.info), -1))).transpose(0, 1)
            centre = self._decode(weights, belief.mean())
        return Imagined(self.likelihood.distribution(centre, weights), self.likelihood.distribution(decoded, weights))

    def state(self) -> Mapping[str, Tensor]:
        """Return weights and scaling; nothing before the first fit."""
        return dict(self.weights)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take weights and scaling back."""
        self.weights = dict(state)

    def _projected(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Gaussian:
        """Return the Gaussian with the mean and covariance of the posterior, row by row."""
        uniform = SobolEngine(self.size, scramble=True, seed=0).draw(2 * self.message_draws, dtype=torch.float64)
        normal = torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9)).to(inputs).unsqueeze(1)
        noise, more = normal.chunk(2)
        # Of a Gaussian posterior 0.75 of the draws count then, of one of 16 dimensions 0.57.
        wide = 1 + math.sqrt(2 / self.size)
        means, covariances = [], []
        for some in blocks(len(inputs), self.message_draws * max(self.size, *self.hidden)):
            seen = inputs[some]

            def weighed(z: Tensor, log_r: Tensor, seen: Tensor = seen) -> tuple[Tensor, Tensor, Tensor]:
                log_p = self.likelihood.log_prob(self._decode(weights, z), seen, weights) + _log_normal(z)
                return *_moments(z, _tempered(log_p - log_r)), _count(log_p - log_r)

            mean, covariance, count = weighed(*self._draw(weights, seen, noise.expand(-1, len(seen), -1)))
            factor = torch.linalg.cholesky(wide * covariance)
            log_r = _log_normal(more) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            again = weighed(mean + (factor @ more.unsqueeze(-1)).squeeze(-1), log_r)
            fits = 2 * again[2] > count
            means.append(torch.where(fits.unsqueeze(-1), again[0], mean))
            covariances.append(torch.where(fits[:, None, None], again[1], covariance))
        return Gaussian.from_moments(torch.cat(means), torch.cat(covariances))

    def _draw(self, weights: Mapping[str, Tensor], inputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Turn normal noise ``(..., rows, D)`` into draws of q and their log-densities ``(..., rows)``."""
        told = layers(weights, "encoder", inputs, len(self.hidden) + 1)
        mean, raw, context = told.split([self.size, self.size, self.context], -1)
        scale = F.softplus(raw)
        bent, log_det = self._flow(weights, noise, context.expand(*noise.shape[:-1], self.context), "forward")
        return mean + scale * bent, _log_normal(noise) - log_det - scale.log().sum(-1)

    def _decode(self, weights: Mapping[str, Tensor], latent: Tensor) -> Tensor:
        return layers(weights, "decoder", latent, len(self.hidden) + 1)

    def _build(self, size: int, context: int) -> nn.Module:
        from zuko.flows import MAF  # not before it is needed

        flow: nn.Module = MAF(size, context, transforms=self.transforms, hidden_features=[64])
        return flow

    def _initial(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Fit the scaling; draw the weights."""
        weights = self.likelihood.fit_scaling(values, None)
        width = self.likelihood.inputs(values[:1], weights).shape[-1]
        told = 2 * self.size + self.context
        weights |= initial("encoder", [width, *self.hidden, told], values, generator)
        weights |= initial(
            "decoder", [self.size, *self.hidden[::-1], self.likelihood.outputs(weights)], values, generator
        )
        return weights | self._flow.initial(values.new_empty(1, self.size), self.context, generator)

    def _fitted(self, like: Message) -> dict[str, Tensor]:
        if not self.weights:
            raise StateError("a flow_vae has to be fitted before it can infer", fix="call fit, or load a state")
        return {name: value.to(like.device, like.dtype) for name, value in self.weights.items()}

    def _checked(self, values: Tensor) -> Tensor:
        width = self.weights["location"].shape[0]
        if values.dim() != 2 or values.shape[1] != width:
            raise ShapeError("data do not fit the flow_vae", expected=f"(rows, {width}), as in training",
                             found=str(tuple(values.shape)))  # fmt: skip
        return values


_LEARNT = ("encoder.", "decoder.", "net.", "log_variance")


def _count(log_weights: Tensor) -> Tensor:
    """Return how many draws ``(K, rows)`` count, (sum w)^2 / sum w^2."""
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()


def _moments(z: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and covariance of draws ``(K, rows, D)`` by their shares ``(K, rows)``."""
    mean = (share.unsqueeze(-1) * z).sum(0)
    gap = (z - mean).transpose(0, 1)
    return mean, (share.mT.unsqueeze(-1) * gap).mT @ gap


def _tempered(log_weights: Tensor, least: float = 0.5) -> Tensor:
    """Return shares w^t / sum w^t of draws ``(K, rows)``, t <= 1 the largest with (sum w^t)^2 / sum w^2t >= K / 2."""
    low, high = torch.zeros_like(log_weights[0]), torch.ones_like(log_weights[0])
    goal = math.log(least * len(log_weights))
    for step in range(20):
        t = high if step == 0 else (low + high) / 2
        raised = t * log_weights
        enough = 2 * raised.logsumexp(0) - (2 * raised).logsumexp(0) >= goal
        low, high = torch.where(enough, t, low), torch.where(enough, high, t)
    return (low * log_weights).softmax(0)


def _log_normal(z: Tensor) -> Tensor:
    return -(z.square() + math.log(2 * math.pi)).sum(-1) / 2


def _bare(message: Gaussian, z: Tensor) -> Tensor:
    """Return eta' z - z' Lambda z / 2, ``(..., rows)``."""
    pulled = message.precision * z if message.diagonal else (message.precision @ z.unsqueeze(-1)).squeeze(-1)
    return ((message.info - pulled / 2) * z).sum(-1)
