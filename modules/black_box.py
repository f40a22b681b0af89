"""A function of the user's that offers weighted hypotheses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor

from serket.errors import GraphError, SerketError
from serket.messages import Categorical, Dirichlet, Family, Gaussian, Message, Particles
from serket.modules.offers import asked
from serket.modules.shares import by_metropolis_hastings, by_resampling, fit_of, projection
from serket.protocol import Evidence, Includes, Port, Reply, Role
from serket.registry import hypotheses_of, register

__all__ = ["BlackBox"]

Method = Literal["exact", "sir", "mh"]


@register("black_box")
class BlackBox:
    """Hypotheses h_1, ..., h_L with weights w_l: a recogniser's n-best list, a detector's boxes, a sampler's draws.

    The factor is sum_l w_l p(h_l | z), with z the variable at the port. What a hypothesis says depends on the family:

    - categorical, h a category: [z = h]. The message is log sum_{l: h_l = k} w_l, exact; a category that is not named
      gets ``missing`` times the sum of all weights.
    - Gaussian, h a vector: delta(z - h). The exact message is the points (:class:`serket.Particles`).
    - Dirichlet, h counts c (a bag of words): prod_v z_v^c_v. Under the inbox Dir(alpha) that is the mixture of
      Dir(alpha + c_l) with weights w_l B(alpha + c_l) / B(alpha); the reply is the Dirichlet with its mean and total
      variance, divided by the inbox. ``missing`` times the sum of all weights goes to an empty bag.

    ``sir`` and ``mh`` estimate the shares of the hypotheses in the belief by sampling (Neuro-SERKET, Taniguchi et al.
    2020) and send the Gaussian or Dirichlet of the same moments, divided by the inbox. Replies that depend on their
    inbox are tilted, and divide ``prior`` out of the weights themselves. A row without data, or in which every weight
    is 0, is vacuous. ``info``: the effective sample size of the weights under the inbox; the total variation between
    sampled and exact shares; the acceptance rate.

    Args:
        ports: ``hypothesis``, a parent of any family.
        function: its name, given by ``@serket.hypotheses(name)``.
        method: ``exact``, ``sir`` or ``mh``; on a categorical port only ``exact``.
        missing: weight of what the list does not name, of the weight of the list; 0.001 on categorical ports, else 0.
        includes_prior: whether the weights are posteriors under the recogniser's own prior, which is divided out.
        prior: that prior: probabilities, ``{mean, covariance}`` or alpha.
        survivors: of resampling, or chains of Metropolis-Hastings; none is 200.
        steps: of a chain; the second half counts; none is 50.

    Raises:
        GraphError: no such function, or options that do not fit the family.
    """

    ports: Mapping[str, Port] = {"hypothesis": Port(Role.PARENT, None)}

    def __init__(
        self,
        ports: Mapping[str, Port],
        function: str,
        method: Method = "exact",
        missing: float | None = None,
        includes_prior: bool = False,
        prior: list[float] | dict[str, Any] | None = None,
        survivors: int | None = None,
        steps: int | None = None,
    ) -> None:
        self.ports, self.name, self.method = ports, function, method
        _unused(method, survivors, steps)
        self.survivors, self.steps = 200 if survivors is None else survivors, 50 if steps is None else steps
        self.function = hypotheses_of(function)
        port = ports["hypothesis"]
        self.family, self.size = cast(Family, port.family), cast(int, port.size)
        self.missing = (1e-3 if self.family == Family.CATEGORICAL else 0.0) if missing is None else missing
        self.own_prior: dict[str, Message] = {}
        _check(self, includes_prior, prior)
        if includes_prior:
            self.own_prior["hypothesis"] = _prior(self.family, self.size, prior)
        self.tilted = self.family == Family.DIRICHLET or method != "exact"
        self.exact = not self.tilted

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Ask the function for hypotheses and reply as the class says. Evidence is that of the exact factor."""
        cavity = inbox["hypothesis"]
        offers, log_weights, told = asked(self.name, self.function, self.family, evidence, cavity, generator)
        own = self.own_prior.get("hypothesis")
        own = None if own is None else own.to(cavity.dtype, cavity.device).expand(len(told))
        info: dict[str, Tensor] = {}
        message: Message
        if isinstance(cavity, Categorical):
            weights, message = log_weights, self._categories(log_weights, offers).mask(told)
            likelihood = message if own is None else (message / cast(Categorical, own)).mask(told)
            log_evidence = (cavity * likelihood).log_z()
        else:
            if self.missing:
                offers, log_weights = _with_an_empty_bag(offers, log_weights, self.missing)
            log_fit = fit_of(cavity, offers)
            log_fit = log_fit if own is None else log_fit - fit_of(own, offers) + own.log_z().unsqueeze(-1)
            weights = log_weights + log_fit
            log_evidence = torch.where(told, weights.logsumexp(-1), cavity.log_z())
            if self.tilted:
                shares, info = self._shares(log_weights, log_fit, generator, evidence.row_id)
                message = projection(cavity, offers, shares, told)
            else:
                message = Particles.of(offers, log_weights, told)
        included: frozenset[Includes] = frozenset({"inbox"} if self.tilted else ())
        if own is not None and not self.tilted:  # where nothing is offered, a quotient by it says nothing
            included, message = frozenset({"own_prior"}), message.where(told, own)
        info["effective_sample_size"] = 1 / weights.softmax(-1).square().sum(-1)
        return Reply(
            {"hypothesis": message} if ports is None or "hypothesis" in ports else {},
            {"hypothesis": included},
            tilted=frozenset({"hypothesis"} if self.tilted else ()),
            log_evidence=log_evidence,
            bound="exact",
            info={name: torch.where(told, values, 0.0) for name, values in info.items()},
        )

    def _shares(
        self, log_weights: Tensor, log_fit: Tensor, generator: torch.Generator, row_id: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return each hypothesis' share in the belief, and how far sampling is from the exact one."""
        exact = (log_weights + log_fit).softmax(-1)
        if self.method == "exact":
            return exact, {}
        info = {}
        if self.method == "sir":
            shares = by_resampling(log_weights, log_fit, generator, row_id, self.survivors)
        else:
            shares, info["acceptance_rate"] = by_metropolis_hastings(
                log_weights, log_fit, generator, row_id, self.survivors, self.steps
            )
        return shares, {**info, "monte_carlo_error": (shares - exact).abs().sum(-1) / 2}

    def _categories(self, log_weights: Tensor, offers: Tensor) -> Categorical:
        """Sum the weights of each category; give the rest to what is not named."""
        named = offers.unsqueeze(-1) == torch.arange(self.size, device=offers.device)
        logits = torch.where(named, log_weights.unsqueeze(-1), -math.inf).logsumexp(-2)
        rest = log_weights.logsumexp(-1, keepdim=True) + (math.log(self.missing) if self.missing else -math.inf)
        return Categorical(torch.where(torch.isneginf(logits), rest, logits))


def _with_an_empty_bag(offers: Tensor, log_weights: Tensor, missing: float) -> tuple[Tensor, Tensor]:
    rest = log_weights.logsumexp(-1, keepdim=True) + math.log(missing)
    return torch.cat([offers, torch.zeros_like(offers[:, :1])], 1), torch.cat([log_weights, rest], 1)


def _unused(method: str, survivors: int | None, steps: int | None) -> None:
    """Refuse numbers that a method does not read."""
    given = {
        "survivors": survivors if method == "exact" else None,
        "steps": steps if method in ("exact", "sir") else None,
    }
    for name, value in given.items():
        if value is not None:
            raise GraphError(
                f"'{name}' of a black_box counts what method {method} does not draw",
                found=f"{name}: {value}, method: {method}",
                fix=f"leave {name} out, or write method: {'sir or mh' if name == 'survivors' else 'mh'}",
            )


def _check(box: BlackBox, includes_prior: bool, prior: object) -> None:
    if box.method not in ("exact", "sir", "mh"):
        raise GraphError("no such method", found=str(box.method), available=("exact", "sir", "mh"))
    if box.family == Family.CATEGORICAL and box.method != "exact":
        raise GraphError(
            f"method {box.method} on a categorical variable: its categories are summed, there is nothing to sample",
            fix="leave method out",
        )
    if box.family == Family.GAUSSIAN and box.missing:
        raise GraphError(
            "missing on a Gaussian variable: what a list of points does not name is everywhere",
            fix="leave missing out, or let the function offer a point more",
        )
    if not 0 <= box.missing < 1:
        raise GraphError("missing is no share", expected="a number from 0 up to 1", found=f"{box.missing:g}")
    if box.survivors < 1 or box.steps < 1:
        raise GraphError("nothing would be drawn", expected="survivors and steps of 1 or more")
    if includes_prior != (prior is not None):
        raise GraphError(
            "includes_prior and prior belong together",
            expected="the prior under which the weights are posteriors",
            fix="give prior, too" if includes_prior else "add includes_prior: true, or leave prior out",
        )


def _prior(family: Family, size: int, prior: Any) -> Message:
    """Return the recogniser's own prior as a message without batch dimensions, in float64."""
    try:
        if family == Family.GAUSSIAN:
            mean, covariance = (torch.tensor(prior[part], dtype=torch.float64) for part in ("mean", "covariance"))
            message: Message = Gaussian.from_moments(mean, covariance)
        else:
            numbers = torch.tensor(prior, dtype=torch.float64)
            categorical = family == Family.CATEGORICAL
            message = Categorical(numbers.log()) if categorical else Dirichlet(numbers - 1)
            if not bool((numbers > 0).all()) or (categorical and abs(float(numbers.sum()) - 1) > 1e-6):
                raise ValueError(f"{prior}")
        if message.size != size or message.batch_shape or set(prior) - {"mean", "covariance"} and family == "gaussian":
            raise ValueError(f"{prior}")
    except (TypeError, ValueError, KeyError, RuntimeError, SerketError) as error:
        written = {
            Family.CATEGORICAL: f"{size} probabilities above 0 that sum to 1",
            Family.DIRICHLET: f"{size} numbers alpha above 0",
            Family.GAUSSIAN: f"{{mean: [{size} numbers], covariance: [[{size} x {size}]]}}",
        }
        raise GraphError(
            f"prior is none of a {family} variable of size {size}", expected=written[family], found=f"{prior}"
        ) from error
    return message
