"""A bidirectional generative adversarial network: samples that look like data, and an inference network with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt, MinLen
from torch import Tensor
from torch.distributions import Independent, Normal

from serket.errors import DataError, MessageError, ShapeError, StateError
from serket.messages import Family, Gaussian, Message
from serket.modules.density import varying
from serket.modules.forged import Forged, calibrated
from serket.modules.network import initial, layers
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.registry import register
from serket.rows import row_normal

__all__ = ["GAN"]

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]


@register("gan")
class GAN:
    """x = G(z) with z ~ N(0, I), and an inference network E, trained against a discriminator of pairs (BiGAN).

    D tells (x, E(x)) from (G(z), z): max_D  E log s(D(x, E(x))) + E log s(-D(G(z), z)), s the logistic function, while
    G and E climb the same with its signs turned (Donahue et al. 2017, eq. 3; Dumoulin et al. 2017). On small data it
    stays stable by the penalty on D's slope at data (R1, Mescheder et al. 2018, eq. 9), averaged weights, and, for E
    alone, -cycle / 2 E |E(G(z)) - z|^2 (Li et al. 2017).

    The message is N(A E(x) + b, R), which contains N(0, I): A, b regress z on E(G(z)) over draws of z, and R is the
    covariance of what is left on other draws. So it is calibrated on what the network generates, not on data. There is
    no likelihood, and no evidence.

    Args:
        ports: ``latent``, a Gaussian parent.
        hidden: widths of the hidden layers of all three networks; those of G are in reverse.
        penalty: weight of the R1 penalty.
        cycle: weight of the inference network's own error.
    """

    ports: Mapping[str, Port] = {"latent": Port(Role.PARENT, Family.GAUSSIAN)}
    note = "a gan has no likelihood"
    warm: Mapping[str, int] = {"epochs": 30}
    imagined_draws = 16
    calibration_draws = 4000

    def __init__(
        self,
        ports: Mapping[str, Port],
        hidden: Annotated[list[Count], MinLen(1)] = [128, 128],  # noqa: B006
        penalty: Annotated[float, Ge(0)] = 1.0,
        cycle: Annotated[float, Ge(0)] = 1.0,
    ) -> None:
        self.ports = ports
        self.size = ports["latent"].size or 0
        self.hidden, self.penalty, self.cycle = list(hidden), penalty, cycle
        self.weights: dict[str, Tensor] = {}

    @property
    def own_prior(self) -> Mapping[str, Message]:
        """N(0, I), which z was drawn from in training."""
        return {"latent": Gaussian.standard((), self.size)}

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Reply with N(A E(x) + b, R), own prior included; N(0, I) where there are no data. Deterministic.

        Raises:
            StateError: the module was never fitted.
            ShapeError: the data have another width than in training.
        """
        like = inbox["latent"]
        weights = self._fitted(like)
        message = Gaussian.standard((len(evidence),), self.size, dtype=like.dtype, device=like.device).full()
        if evidence.values is not None and bool(evidence.present.any()):
            values = self._checked(evidence.values.to(like.dtype))
            with torch.no_grad():
                code = self._code(weights, (values - weights["location"]) / weights["scale"])
            precision = torch.cholesky_inverse(torch.linalg.cholesky(weights["residual"]))
            told = Gaussian(code @ precision, precision.expand(len(code), -1, -1))
            message = told.where(evidence.present, message)
        asked = ports is None or "latent" in ports
        return Reply({"latent": message} if asked else {}, includes={"latent": frozenset({"own_prior"})})

    def fit(
        self,
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
        epochs: Count = 200,
        batch: Count = 64,
        learning_rate: Positive = 5e-4,
        held_out: Annotated[float, Gt(0), Lt(1)] = 0.1,
        average: Annotated[float, Ge(0), Lt(1)] = 0.995,
    ) -> FitReport:
        """Train the three networks in turn on the rows present; continues from where they stood.

        Args:
            evidence: training rows; those not present are left out.
            inbox: not used: z is drawn from N(0, I).
            generator: of weights, order and draws.
            owned: not used.
            progress: called after every tenth epoch.
            epochs: passes over the rows.
            batch: rows per step.
            learning_rate: of Adam, for all three networks.
            held_out: fraction of the rows kept from training, on which the noise of what is imagined is measured.
            average: of the weights of G and E over steps, by an exponential average, at first a plain one; 0 is off.

        Raises:
            DataError: fewer than two rows, rows that do not differ, or values that are not finite.
            MessageError: a network's output is no longer a number.
        """
        rows = evidence.present.nonzero().flatten()
        if evidence.values is None or len(rows) < 2:
            raise DataError("there are too few rows to fit a gan on", expected="2 rows at least",
                            found=f"{len(rows)} with data", fix="give it more rows")  # fmt: skip
        values = evidence.values[rows]
        values = values if values.is_floating_point() else values.to(torch.get_default_dtype())
        if not bool(values.isfinite().all()):
            raise DataError("data hold values that are not finite", expected="numbers, or rows masked as missing",
                            found="NaN or Inf", fix="mask those rows")  # fmt: skip
        anew = not self.weights
        if anew:
            self.weights = self._initial(values, generator)
        weights = {name: value.to(values) for name, value in self.weights.items()}
        x = (self._checked(values) - weights["location"]) / weights["scale"]
        order = torch.randperm(len(x), generator=generator, device=x.device)
        held, train = order[: max(1, int(held_out * len(x)))], order[max(1, int(held_out * len(x))) :]
        nets = {name: value.clone().requires_grad_() for name, value in weights.items() if name.startswith("net")}
        judge = [value for name, value in nets.items() if name.startswith("netD")]
        forger = {name: value for name, value in nets.items() if not name.startswith("netD")}
        steady = {name: value.detach().clone() for name, value in forger.items()}
        beat = torch.optim.Adam(judge, lr=learning_rate, betas=(0.5, 0.99), fused=True)
        fool = torch.optim.Adam(list(forger.values()), lr=learning_rate, betas=(0.5, 0.99), fused=True)
        history: dict[str, list[float]] = {"told_apart": [], "cycle": []}
        steps = 0

        def draw(count: int) -> Tensor:
            return torch.randn(count, self.size, generator=generator, dtype=x.dtype, device=x.device)

        for epoch in range(epochs):
            apart = error = torch.zeros((), dtype=x.dtype, device=x.device)
            for chosen in train[torch.randperm(len(train), generator=generator, device=x.device)].split(batch):
                real, z = x[chosen], draw(len(chosen))
                with torch.no_grad():
                    pair, forged = self._read(nets, real), self._make(nets, z)
                seen = torch.cat([real, pair], -1).requires_grad_(self.penalty > 0)
                told = self._judge(nets, seen)
                loss = F.softplus(-told).mean() + F.softplus(self._judge(nets, torch.cat([forged, z], -1))).mean()
                if self.penalty:
                    (slope,) = torch.autograd.grad(told.sum(), seen, create_graph=True)
                    loss = loss + self.penalty / 2 * slope.square().sum(-1).mean()
                beat.zero_grad(set_to_none=True)
                loss.backward()
                beat.step()
                z = draw(len(chosen))
                forged, code = self._make(nets, z), self._read(nets, real)
                told, fake = (self._judge(nets, torch.cat(one, -1)) for one in ((real, code), (forged, z)))
                cycle = (self._read(nets, forged.detach()) - z).square().mean()
                fool.zero_grad(set_to_none=True)
                (F.softplus(told).mean() + F.softplus(-fake).mean() + self.cycle / 2 * cycle).backward()
                fool.step()
                steps += 1
                with torch.no_grad():
                    for name, value in forger.items():
                        # Random weights to start from are no part of the average; fitted ones are.
                        steady[name].lerp_(value, max(1 - average, 1 / steps if anew else 0.0))
                    apart, error = apart + ((told > 0).sum() + (fake < 0).sum()) / 2, error + cycle * len(chosen)
            history["told_apart"].append(float(apart) / max(1, len(train)))
            history["cycle"].append(float(error) / max(1, len(train)))
            if not all(bool(value.isfinite().all()) for value in nets.values()):
                raise MessageError(f"training diverged in epoch {epoch + 1}: a weight is no number",
                                   fix=f"lower fit.learning_rate, now {learning_rate:g}")  # fmt: skip
            if progress and (epoch + 1) % 10 == 0:
                progress(epoch + 1, epochs, f"told apart {history['told_apart'][-1]:.2f}")
        weights |= {name: value.detach() for name, value in nets.items()} | steady
        self.weights = self._calibrated(weights, x[held], draw(self.calibration_draws))
        return FitReport(epochs, history=history)

    def predict(self, inbox: Mapping[str, Message], *, generator: torch.Generator) -> Forged:
        """Return x = G(z) under the belief of z: draws are generated rows, as they are.

        Mean and density are those of a mixture over 16 of them, about that of the belief's mean, with the deviation per
        column of held-out rows from the rows generated from their codes.
        """
        belief = cast(Gaussian, inbox["latent"])
        weights = self._fitted(belief)
        point = torch.zeros(1, dtype=torch.int64, device=belief.device)
        draws = row_normal(generator, point, (self.imagined_draws, 1, self.size), dtype=belief.dtype)[0]

        def made(z: Tensor) -> Tensor:
            with torch.no_grad():
                return weights["location"] + weights["scale"] * self._make(weights, z)

        drawn = made(belief.shift(draws.expand(-1, len(belief.info), -1))).transpose(0, 1)
        centre, error = made(belief.mean()), weights["deviation"]
        return Forged(Independent(Normal(centre, error.expand_as(centre)), 1),
                      Independent(Normal(drawn, error.expand_as(drawn)), 1), belief, made)  # fmt: skip

    def state(self) -> Mapping[str, Tensor]:
        """Return weights, units and calibration; nothing before the first fit."""
        return dict(self.weights)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a state back."""
        self.weights = dict(state)

    def _calibrated(self, weights: dict[str, Tensor], x: Tensor, z: Tensor) -> dict[str, Tensor]:
        """Add A, b and R, from draws z, and the deviation of G at rows x."""
        with torch.no_grad():
            readout, residual = calibrated(self._read(weights, self._make(weights, z)), z)
            weights = {**weights, "readout": readout, "residual": residual}
            made = self._make(weights, self._code(weights, x))
        weights["deviation"] = ((x - made).square().mean(0) + 1e-6).sqrt() * weights["scale"]
        return weights

    def _code(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """A E(x) + b."""
        return self._read(weights, x) @ weights["readout"][:-1] + weights["readout"][-1]

    def _make(self, weights: Mapping[str, Tensor], z: Tensor) -> Tensor:
        return layers(weights, "netG", z, len(self.hidden) + 1)

    def _read(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return layers(weights, "netE", x, len(self.hidden) + 1)

    def _judge(self, weights: Mapping[str, Tensor], pair: Tensor) -> Tensor:
        return layers(weights, "netD", pair, len(self.hidden) + 1).squeeze(-1)

    def _initial(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        location, _ = varying(values)
        width, scale = values.shape[-1], values.var(0, correction=0).mean().sqrt()  # one scale keeps the proportions
        weights = {"location": location, "scale": scale}
        for net, sizes in (
            ("netG", [self.size, *self.hidden[::-1], width]),
            ("netE", [width, *self.hidden, self.size]),
            ("netD", [width + self.size, *self.hidden, 1]),
        ):
            weights |= initial(net, sizes, values, generator)
        return weights

    def _fitted(self, like: Message) -> dict[str, Tensor]:
        if not self.weights:
            raise StateError("a gan has to be fitted before it can infer", fix="call fit, or load a state")
        return {name: value.to(like.device, like.dtype) for name, value in self.weights.items()}

    def _checked(self, values: Tensor) -> Tensor:
        width = len(self.weights["location"])
        if values.dim() != 2 or values.shape[1] != width:
            raise ShapeError(
                "data do not fit the gan", expected=f"(rows, {width}), as in training", found=str(tuple(values.shape))
            )
        return values
