"""A Gaussian mixture, fitted by blocked or collapsed Gibbs sampling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from serket.errors import GraphError, StateError
from serket.messages import Categorical, Family, Gaussian, Message
from serket.modules.chains import Plan, run
from serket.modules.mixture import Mixture
from serket.modules.niw import Prior
from serket.modules.replies import Fitted, log_mean
from serket.modules.seen import look
from serket.modules.sweeps import enough
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.registry import register

__all__ = ["GaussianMixture"]

Count = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]


@register("gmm")
class GaussianMixture:
    """p(z | component = k) = N(mu_k, Sigma_k), with z at the ``observation`` port, or observed as data.

    In units where the pooled mean is 0 and the pooled variance of every dimension 1,
    Sigma_k ~ IW(scatter I, D + 2), mu_k | Sigma_k ~ N(0, Sigma_k / kappa), and, if the weights are its own,
    pi ~ Dirichlet(alpha, ..., alpha) (Murphy 2007, section 9; Gelman et al., BDA3, section 3.6). So ``scatter`` is the
    fraction of the pooled variance expected inside a component; with ``kappa`` near it the means spread like the data.
    A dimension that does not vary keeps its own unit.

    With ``weights: stick_breaking`` pi comes from a Dirichlet process truncated at K (:class:`Prior`).
    The state is S label-aligned draws; ``infer`` averages over them:

    - to ``component``: log (1/S) sum_s of the integral of N(z; mu_k, Sigma_k) m(z), with m the bare inbox, or of
      N(x_n; mu_k, Sigma_k). The weights are not in it: they are ``own_prior``. Rows without evidence hear zeros.
    - to ``observation``: the mixture p(z) under the component inbox, by ``downward``: ``moments``, projected onto its
      mean and covariance; ``tilted``, p(z) m(z) projected, divided by m(z), which follows the inbox; ``particles``,
      points drawn from p(z), row by row. By default the moments of their product with a message are within 0.01,
      in the mixture's units, in one and two dimensions, unless the message is narrow or far from all of them.

    The state keeps the dtype it was fitted in; ``infer`` computes and answers in that of its inbox.

    Args:
        ports: ``component`` (parent, K categories) and ``observation`` (child, D dimensions); without it, data.
        draws: S, kept draws.
        alpha: of the Dirichlet on the weights, per component; concentration of the Dirichlet process.
        scatter: prior variance inside a component, as a fraction of the pooled variance.
        kappa: rows that the prior mean of a component counts for.
        weights: their prior.
        downward: form of the reply to ``observation``.
        particles: points per row, where it is particles; none is 2048.

    Raises:
        GraphError: an option is not positive, or would be of no effect.
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
        weights: Literal["dirichlet", "stick_breaking"] = "dirichlet",
        downward: Literal["moments", "tilted", "particles"] = "moments",
        particles: Count | None = None,
    ) -> None:
        count = 2048 if particles is None else particles
        _positive(draws=draws, alpha=alpha, scatter=scatter, kappa=kappa, particles=count)
        _one_of("weights", weights, "dirichlet", "stick_breaking")
        _one_of("downward", downward, "moments", "tilted", "particles")
        if downward != "moments" and "observation" not in ports:
            raise GraphError(
                "'downward' of a gmm is the form of its reply to 'observation', which is not bound",
                found=f"downward: {downward}",
                fix="bind the port 'observation', or leave downward out",
            )
        if particles is not None and downward != "particles":
            raise GraphError(
                "'particles' of a gmm counts what it does not send",
                found=f"particles: {particles}, downward: {downward}",
                fix="write downward: particles, or leave particles out",
            )
        self.ports = ports
        self.draws, self.alpha, self.scatter, self.kappa = draws, alpha, scatter, kappa
        self.weights, self.downward, self.particles = weights, downward, count
        self.components = ports["component"].size or 0
        self.warm = {"sweeps": max(20, 2 * draws)}
        self._kept: Fitted | None = None

    @property
    def own_prior(self) -> Mapping[str, Message]:
        """The averaged weights, as a message on ``component``; uniform where the weights were given up."""
        if self._kept is None:
            return {"component": Categorical.vacuous((), self.components)}
        return {"component": Categorical(self._kept.kept.log_weights.logsumexp(0).log_softmax(-1))}

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
        method: Literal["blocked", "collapsed"] = "blocked",
        split_merge: Natural | None = None,
    ) -> FitReport:
        """Draw parameters by Gibbs sampling, several chains at once: :func:`~serket.modules.chains.kernel`.

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
            method: labels given parameters, all at once, or one at a time with parameters integrated out.
            split_merge: moves a sweep that part or join components; one if ``collapsed``, else none.

        Raises:
            GraphError: an option is out of range, there are both data and an ``observation`` port, or ``collapsed`` or
                split-merge moves are asked for on another device than the CPU.
            DataError: fewer rows than components or than two, no variation at all, or values that are not finite.
            ShapeError: another size than at the fit that this one continues.
        """
        _positive(sweeps=sweeps, restarts=restarts)
        _one_of("method", method, "blocked", "collapsed")
        self.check_fit(sweeps=sweeps)
        raw = look(evidence, inbox, self.components, "component" in owned)
        location, scale = raw.pooled()
        prior = Prior(self.alpha, self.kappa, self.scatter, len(location) + 2, self.weights == "stick_breaking")
        warm = None
        if self._kept is not None and not restart:
            stood = self._fitted(inbox["component"])
            stood.fits(len(location), "data")
            warm = stood.moved(location, scale)[-1:]
        collapsed = method == "collapsed"
        moves = int(collapsed) if split_merge is None else split_merge
        plan = Plan(self.components, self.draws, sweeps, restarts, collapsed, moves)
        kept, history = run(raw.standardised(location, scale), prior, warm, plan, generator, progress)
        self._kept = Fitted(kept, location, scale)
        return FitReport(sweeps, history={"log_likelihood": history})

    def check_fit(self, *, sweeps: int, **_: Any) -> None:
        """Refuse too few sweeps; see :class:`serket.protocol.ChecksFit`."""
        enough(sweeps, self.draws, 2 * self.draws)

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Average over the kept draws; see the class for the formulas. Deterministic but for particles.

        ``info["monte_carlo_error"]`` ``(rows,)`` is the standard error of ``log_evidence`` over the draws, nats.

        Raises:
            StateError: the module was never fitted.
            ShapeError: data or messages of another size than those fitted.
            MessageError: an inbox with negative precision, or one that excludes every component.
        """
        component = cast(Categorical, inbox["component"])
        fitted = self._fitted(component)
        scores = fitted.scores(inbox, evidence)  # (S, rows, K)
        logits = log_mean(scores)
        joint = (scores + component.logits).logsumexp(-1)
        log_evidence, draws = log_mean(joint), joint.shape[0]
        share = torch.where(log_evidence.isfinite(), joint - log_evidence, 0.0).exp()
        error = (share - 1).square().sum(0).sqrt() / max(1.0, math.sqrt(draws * (draws - 1)))
        messages: dict[str, Message] = {}
        asked = frozenset(self.ports) if ports is None else ports
        if "component" in asked:
            messages["component"] = Categorical(logits)
        tilted = asked & {"observation"} if self.downward == "tilted" else frozenset()
        if tilted:
            message = cast(Gaussian, inbox["observation"])
            messages["observation"] = fitted.tilted(component.log_probs(), scores, message)
        elif "observation" in asked and self.downward == "particles":
            drawn = fitted.particles(component.log_probs(), evidence.row_id, self.particles, generator)
            messages["observation"] = drawn
        elif "observation" in asked:
            messages["observation"] = fitted.projected(component.log_probs())
        info = {"monte_carlo_error": error}
        return Reply(messages, tilted=tilted, log_evidence=log_evidence, bound="estimate", info=info)

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
        fitted = self._fitted(component)
        kept, location, scale = fitted.kept, fitted.location, fitted.scale
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
            fitted = self._kept
            orders = order.to(fitted.location.device).expand(len(fitted.kept.means), -1)
            self._kept = Fitted(fitted.kept.relabel(orders), fitted.location, fitted.scale)

    def state(self) -> Mapping[str, Tensor]:
        """Return the draws, in standardised units, and the units; nothing before the first fit."""
        if self._kept is None:
            return {}
        return {**self._kept.kept.tensors(), "location": self._kept.location, "scale": self._kept.scale}

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
        kept = Mixture(state["means"], state["cholesky"], state["log_weights"])
        self._kept = Fitted(kept, state["location"], state["scale"])

    def _fitted(self, like: Message) -> Fitted:
        """Return the state in the dtype and on the device of a message."""
        if self._kept is None:
            raise StateError("a gmm has to be fitted before it can infer", fix="call fit, or load a state")
        return self._kept.to(like.dtype, like.device)


def _positive(**options: float) -> None:
    for name, value in options.items():
        if not value > 0:
            raise GraphError(f"'{name}' of a gmm is out of range", expected="a number above zero", found=str(value))


def _one_of(name: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        raise GraphError(f"no such '{name}' of a gmm", expected=" or ".join(allowed), found=str(value))
