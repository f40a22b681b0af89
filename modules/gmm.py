"""A Gaussian mixture, fitted by blocked Gibbs sampling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from serket.errors import DataError, GraphError, ShapeError, StateError
from serket.messages import Categorical, Family, Gaussian, Message, moment_match
from serket.modules.gibbs import Seen, draw_mixture, label_logits, sweep
from serket.modules.labels import matching, reference, revived, seeds
from serket.modules.mixture import Mixture, blocks, in_units, log_density, log_integral, shared
from serket.modules.niw import Prior
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.registry import register

__all__ = ["GaussianMixture"]

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]


@register("gmm")
class GaussianMixture:
    """p(z | component = k) = N(mu_k, Sigma_k), with z at the ``observation`` port, or observed as data.

    In units where the pooled mean is 0 and the pooled variance of every dimension 1,
    Sigma_k ~ IW(scatter I, D + 2), mu_k | Sigma_k ~ N(0, Sigma_k / kappa), and, if the weights are its own,
    pi ~ Dirichlet(alpha, ..., alpha) (Murphy 2007, section 9; Gelman et al., BDA3, section 3.6). So ``scatter`` is the
    fraction of the pooled variance expected inside a component; with ``kappa`` near it the means spread like the data.
    A dimension that does not vary keeps its own unit.

    The state is S label-aligned draws; ``infer`` averages over them and is deterministic:

    - to ``component``: log (1/S) sum_s of the integral of N(z; mu_k, Sigma_k) m(z), with m the bare inbox, or of
      N(x_n; mu_k, Sigma_k). The weights are not in it: they are ``own_prior``. Rows without evidence hear zeros.
    - to ``observation``: the mixture under the component inbox, projected onto its mean and covariance.

    The state keeps the dtype it was fitted in; ``infer`` computes and answers in that of its inbox.

    Args:
        ports: ``component`` (parent, K categories) and ``observation`` (child, D dimensions); without it, data.
        draws: S, kept draws.
        alpha: of the Dirichlet on the weights, per component.
        scatter: prior variance inside a component, as a fraction of the pooled variance.
        kappa: rows that the prior mean of a component counts for.

    Raises:
        GraphError: an option is not positive.
    """

    ports: Mapping[str, Port] = {
        "component": Port(Role.PARENT, Family.CATEGORICAL),
        "observation": Port(Role.CHILD, Family.GAUSSIAN, optional=True),
    }
    exact = False

    def __init__(
        self,
        ports: Mapping[str, Port],
        draws: Count = 8,
        alpha: Positive = 1.0,
        scatter: Positive = 0.1,
        kappa: Positive = 0.1,
    ) -> None:
        _positive(draws=draws, alpha=alpha, scatter=scatter, kappa=kappa)
        self.ports = ports
        self.draws, self.alpha, self.scatter, self.kappa = draws, alpha, scatter, kappa
        self.components = ports["component"].size or 0
        self._kept: Mixture | None = None
        self._units = torch.zeros(0), torch.zeros(0)  # location, scale

    @property
    def own_prior(self) -> Mapping[str, Message]:
        """The averaged weights, as a message on ``component``; uniform where the weights were given up."""
        if self._kept is None:
            return {"component": Categorical.vacuous((), self.components)}
        return {"component": Categorical(self._kept.log_weights.logsumexp(0).log_softmax(-1))}

    def fit(
        self,
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
        sweeps: Count = 200,
        restarts: Count = 5,
        restart: bool = False,
    ) -> FitReport:
        """Draw parameters by blocked Gibbs, all chains at once.

        The first time, ``restarts`` chains start from k-means++ and run half the sweeps; the one with the highest mean
        log-likelihood over the second quarter (component and z summed out) runs the other half, whose draws are kept.
        A refit continues from the last draw with one chain. Labels keep their identity, unless the inbox on
        ``component`` agrees with another naming better, by more than 0.1 of its probability a row.

        Args:
            evidence: rows of data, if ``observation`` is not bound; rows that are not observed are left out.
            inbox: log-bias on the component, once per row; messages on z, of which vacuous rows are left out.
            generator: the only source of randomness.
            owned: if ``component`` is in it, weights are learnt; else the inbox alone says what is likely.
            progress: called after every tenth sweep.
            sweeps: at least twice ``draws``.
            restarts: chains of a first fit.
            restart: forget the present state and fit as if for the first time.

        Raises:
            GraphError: an option is out of range, or there are both data and an ``observation`` port.
            DataError: fewer rows than components or than two, no variation at all, or values that are not finite.
            ShapeError: another size than at the fit that this one continues.
        """
        _positive(sweeps=sweeps, restarts=restarts)
        if sweeps < 2 * self.draws:
            raise GraphError("too few sweeps for the draws", expected=f"sweeps >= {2 * self.draws}", found=str(sweeps))
        raw = self._look(evidence, inbox, "component" in owned)
        location, scale = raw.pooled()
        seen = raw.standardised(location, scale)
        guess = seen.guess()
        prior = Prior(self.alpha, self.kappa, self.scatter, len(location) + 2)
        warm = None if restart else self._kept
        if warm is None:
            labels = seeds(guess, seen.present, self.components, restarts, generator)
            mixture = draw_mixture(guess, labels, self.components, seen, prior, generator)
        else:
            warm, *units = self._fitted(inbox["component"])
            _fits(len(location), len(units[0]), "data")
            mixture = _moved(warm[-1:], units, (location, scale))
            labels = label_logits(mixture, guess, seen, True).argmax(-1)
        order = matching(labels, reference(seen.bias, labels))
        mixture, labels = mixture.relabel(order), order.argsort(-1).gather(-1, labels)

        burn, stride = sweeps // 2, (sweeps - sweeps // 2) // self.draws
        points = guess.expand(len(labels), *guess.shape)
        history: list[float] = []
        total = torch.zeros(len(labels)).to(guess)
        kept: list[Mixture] = []
        drawn: list[Tensor] = []
        for step in range(1, sweeps + 1):
            integrate = step in (1, burn) or step % _pace(mixture, seen) == 0
            mixture, points, latest, score = sweep(mixture, points, seen, prior, generator, integrate=integrate)
            if step <= burn // 2:
                mixture = revived(mixture, points, latest, seen.present, generator)
            if integrate:
                history.append(float(score.max()) / len(guess))
                total = total + score if burn // 2 < step <= burn else total
            if step == burn:
                best = total.argmax().reshape(1)
                mixture, points, labels, total = mixture[best], points[best], labels[best], total[best]
            if step > burn and (sweeps - step) % stride == 0:
                kept.append(mixture)
                drawn.append(latest)
            if progress and step % 10 == 0:
                progress(step, sweeps, f"log-likelihood {history[-1]:.3f} a row")
        every = torch.cat(drawn[-self.draws :])
        order = matching(every, reference(seen.bias, labels if warm else every[-1:]))
        self._kept = Mixture.cat(kept[-self.draws :]).relabel(order)
        self._units = location, scale
        return FitReport(sweeps, history={"log_likelihood": history})

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Average over the kept draws; see the class for the formulas. Deterministic.

        ``info["monte_carlo_error"]`` ``(rows,)`` is the standard error of ``log_evidence`` over the draws, nats.

        Raises:
            StateError: the module was never fitted.
            ShapeError: data or messages of another size than those fitted.
            MessageError: an inbox with negative precision, or one that excludes every component.
        """
        component = cast(Categorical, inbox["component"])
        kept, location, scale = self._fitted(component)
        scores = self._scores(kept, location, scale, inbox, evidence)  # (S, rows, K)
        logits = _log_mean(scores)
        joint = (scores + component.logits).logsumexp(-1)
        log_evidence = _log_mean(joint)
        share = torch.where(log_evidence.isfinite(), joint - log_evidence, 0.0).exp()
        error = (share - 1).square().sum(0).sqrt() / max(1.0, math.sqrt(len(share) * (len(share) - 1)))
        messages: dict[str, Message] = {}
        asked = frozenset(self.ports) if ports is None else ports
        if "component" in asked:
            messages["component"] = Categorical(logits)
        if "observation" in asked:
            messages["observation"] = _projected(kept, component.log_probs(), location, scale)
        return Reply(messages, log_evidence=log_evidence, bound="estimate", info={"monte_carlo_error": error})

    def predict(
        self, inbox: Mapping[str, Message], *, generator: torch.Generator
    ) -> torch.distributions.MixtureSameFamily:
        """Return p(x | beliefs about the component): a mixture over components and draws, batch ``(rows,)``, event D.

        Raises:
            GraphError: an ``observation`` port is bound, so there are no data to imagine.
        """
        if "observation" in self.ports:
            raise GraphError(
                "a gmm with an observation port has no data to predict",
                fix="predict from the module below, or leave the port out and give the module data",
            )
        component = cast(Categorical, inbox["component"])
        kept, location, scale = self._fitted(component)
        each = torch.distributions.MultivariateNormal(
            (location + scale * kept.means).flatten(0, 1),
            scale_tril=(scale.unsqueeze(-1) * kept.cholesky).flatten(0, 1),
        )
        logits = component.log_probs().repeat(1, len(kept.means))
        mixing = torch.distributions.Categorical(logits=logits)
        return torch.distributions.MixtureSameFamily(mixing, each.expand(logits.shape))

    def relabel(self, port: str, order: Tensor) -> None:
        """Call the category that was ``order[k]`` by the name k, in every draw."""
        if self._kept is not None:
            self._kept = self._kept.relabel(order.to(self._kept.log_weights.device).expand(len(self._kept.log_weights), -1))

    def state(self) -> Mapping[str, Tensor]:
        """Return the draws, in standardised units, and the units; nothing before the first fit."""
        if self._kept is None:
            return {}
        return {**self._kept.tensors(), "location": self._units[0], "scale": self._units[1]}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a state back; raises StateError where a tensor is missing or of another shape."""
        if not state:
            self._kept = None
            return
        size = state["location"].shape[-1] if "location" in state else 0
        shapes = {
            "means": (self.components, size),
            "cholesky": (self.components, size, size),
            "log_weights": (self.components,),
            "location": (),
            "scale": (),
        }
        for name, shape in shapes.items():
            if name not in state or state[name].shape[1:] != shape:
                raise StateError(
                    f"the state of a gmm has no fitting '{name}'",
                    expected=f"(draws, {', '.join(map(str, shape))})" if shape else f"({size},)",
                    found=str(tuple(state[name].shape)) if name in state else "nothing",
                )
        self._kept = Mixture(state["means"], state["cholesky"], state["log_weights"])
        self._units = state["location"], state["scale"]

    def _fitted(self, like: Message) -> tuple[Mixture, Tensor, Tensor]:
        """Return the state in the dtype and on the device of a message."""
        if self._kept is None:
            raise StateError("a gmm has to be fitted before it can infer", fix="call fit, or load a state")
        parts = [part.to(like.device, like.dtype) for part in self.state().values()]
        return Mixture(*parts[:3]), parts[3], parts[4]

    def _scores(
        self, kept: Mixture, location: Tensor, scale: Tensor, inbox: Mapping[str, Message], evidence: Evidence
    ) -> Tensor:
        """Log-likelihood of each row's evidence per draw and component, ``(S, rows, K)``; zeros where there is none."""
        scores = torch.zeros(len(kept.means), len(evidence), self.components).to(location)
        if "observation" in self.ports:
            rows = ~inbox["observation"].is_vacuous()
            message = cast(Gaussian, inbox["observation"])[rows].full()
            _fits(message.size, len(location), "observation")
            info, precision = in_units(message.info, message.precision, location, scale)
            shift = (message.precision @ location.unsqueeze(-1)).squeeze(-1)
            constant = (location * (message.info - shift / 2)).sum(-1)  # log m(location)
            scores[:, rows] = log_integral(kept, info, shared(precision)) + constant.unsqueeze(-1)
        elif evidence.values is not None:
            _fits(evidence.values.shape[-1], len(location), "data")
            rows = _complete(evidence)
            points = (evidence.values[rows].to(location) - location) / scale
            scores[:, rows] = log_density(kept, points) - scale.log().sum()
        return scores

    def _look(self, evidence: Evidence, inbox: Mapping[str, Message], owned: bool) -> Seen:
        """Gather what is known of the rows that say anything, in the units they came in."""
        component = cast(Categorical, inbox["component"])
        bias = component.log_probs()
        if "observation" in self.ports:
            if evidence.values is not None:
                raise GraphError(
                    "a gmm has both data and an observation port",
                    fix="leave out 'data:' (z comes from the module below) or the 'observation' port (x is data)",
                )
            message = cast(Gaussian, inbox["observation"])
            present = ~message.is_vacuous()
        else:
            if evidence.values is None:
                raise DataError("a gmm has nothing to fit", fix="give it 'data:' or bind its port 'observation'")
            message, present = None, _complete(evidence)
        count = int(present.sum())
        if count < max(2, self.components):
            raise DataError(
                "too few rows to fit a gmm",
                expected=f"at least {max(2, self.components)} observed rows for {self.components} components",
                found=f"{count} of {len(present)}",
                fix="make the component variable smaller, or give more rows",
            )
        rows = present | (~component.is_vacuous() & owned)
        if message is not None:
            told = message[rows].full()
            return Seen(bias[rows], present[rows], info=told.info, precision=shared(told.precision), owned=owned)
        assert evidence.values is not None
        points = evidence.values[rows].to(bias)
        if not bool(points.isfinite().all()):
            raise DataError("data hold NaN or infinity in observed rows", fix="mask them: Evidence.of does")
        return Seen(bias[rows], present[rows], points=points, owned=owned)


def _projected(kept: Mixture, log_probs: Tensor, location: Tensor, scale: Tensor) -> Gaussian:
    """Project sum_k p_k (1/S) sum_s N(mu_k, Sigma_k) onto one Gaussian per row; the draws of a component first."""
    means = kept.means.mean(0)
    gap = kept.means - means
    covariances = (kept.cholesky @ kept.cholesky.mT + gap.unsqueeze(-1) * gap.unsqueeze(-2)).mean(0)
    parts = [moment_match(log_probs[rows], means, covariances) for rows in blocks(len(log_probs), covariances.numel())]
    precision = torch.cat([part.precision for part in parts]) / (scale.unsqueeze(-1) * scale)
    info = torch.cat([part.info for part in parts]) / scale + (precision @ location.unsqueeze(-1)).squeeze(-1)
    return Gaussian(info, precision)


def _moved(mixture: Mixture, old: Sequence[Tensor], new: Sequence[Tensor]) -> Mixture:
    """Express a mixture in other units, given as (location, scale)."""
    means = (old[0] + old[1] * mixture.means - new[0]) / new[1]
    return Mixture(means, (old[1] / new[1]).unsqueeze(-1) * mixture.cholesky, mixture.log_weights)


def _pace(mixture: Mixture, seen: Seen) -> int:
    """Every how many sweeps z is integrated out: every one where that is cheap, else every tenth."""
    per_row = seen.precision is not None and len(seen.precision) > 1
    return 10 if per_row and mixture.means.numel() * len(seen.bias) > 2**18 else 1


def _log_mean(scores: Tensor) -> Tensor:
    return scores.logsumexp(0) - math.log(len(scores))


def _complete(evidence: Evidence) -> Tensor:
    return evidence.observed if evidence.observed.dim() == 1 else evidence.observed.all(-1)


def _fits(found: int, expected: int, where: str) -> None:
    if found != expected:
        raise ShapeError("not the size this gmm was fitted on", where=where, expected=str(expected), found=str(found))


def _positive(**options: float) -> None:
    for name, value in options.items():
        if not value > 0:
            raise GraphError(f"'{name}' of a gmm is out of range", expected="a number above zero", found=str(value))
