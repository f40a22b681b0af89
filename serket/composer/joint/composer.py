"""The joint composer: a small VAE over the modules' latents, trained on any of nine objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from serket.composer.joint.experts import combined, standard
from serket.composer.joint.latent_vae import Draws, Networks, Views, seen
from serket.composer.joint.networks import Schedule, climb
from serket.composer.joint.objectives import OBJECTIVES, chosen
from serket.composer.joint.replies import log_evidence, over_prior, predicted
from serket.composer.minibatch import Minibatch
from serket.errors import DataError, GraphError, MessageError
from serket.messages import Family, Gaussian, Message, pooled_moments
from serket.protocol import Evidence, FitReport, Port, Progress, Reader, Reply, Role
from serket.registry import register
from serket.rows import row_normal

__all__ = ["JointComposer"]

MOST_VIEWS = 10
Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0)]
Name = Literal["jmvae", "telbo", "mvae", "mmvae", "mopoe", "mvtcae", "mmjsd", "mmvae_plus", "dmvae"]


@register("joint", kind="composer")
class JointComposer:
    """p(s) prod_m N(z_m; f_m(s, w_m), diag v_m), inferred by encoders that read the views' messages.

    The data of this VAE are messages: log p(x_m | s) is the log of the integral of p(z_m | s) m_m(z_m) over z_m, in
    closed form, so that a message counts by its precision, and one that says nothing counts 0. Objectives: see
    :mod:`serket.composer.joint.objectives`; survey: Suzuki & Matsuo (2022). Replies are Gaussian projections.

    Args:
        ports: ``shared`` (parent) and ``views`` (children), Gaussian, of any sizes.
        objective: what is maximised, and with it how a subset of the views is inferred.
        hidden: widths of the hidden layers, encoder order; none makes every network a linear map.
        private: dimensions each view keeps to itself (mmvae_plus, dmvae).
        alpha: weight of the divergences from unimodal encoders (jmvae; mvtcae, at most 1).
        beta: weight of the divergences from the prior; 1 is a bound.
        samples: importance samples a row (mmvae, mmvae_plus).
        thaw: modules that learn on, together with this composer, once it is fitted.

    Raises:
        GraphError: an option without effect on the objective, or out of its range; mopoe of more than 10 views.
    """

    ports: Mapping[str, Port] = {
        "shared": Port(Role.PARENT, Family.GAUSSIAN),
        "views": Port(Role.CHILD, Family.GAUSSIAN, many=True),
    }
    warm: Mapping[str, int] = {"epochs": 30}
    choices: Mapping[str, tuple[Any, ...]] = {"objective": ("jmvae", "mvae"), "fit.noise": (0.3, 0.6)}
    evidence_draws = 16

    def __init__(
        self,
        ports: Mapping[str, Port],
        objective: Name = "jmvae",
        hidden: list[Count] = [128],  # noqa: B006
        private: Count | None = None,
        alpha: Share | None = None,
        beta: Positive = 1.0,
        samples: Count | None = None,
        thaw: list[str] = [],  # noqa: B006
    ) -> None:
        self.ports = ports
        self.names = tuple(name for name in ports if name != "shared")
        self.size = ports["shared"].size or 0
        self.objective, self.spec = objective, OBJECTIVES[objective]
        self.hidden, self.beta, self.thaw = list(hidden), beta, tuple(thaw)
        self.private = int(chosen(objective, "private", private) or 0)
        self.alpha = chosen(objective, "alpha", alpha) or 0.0
        self.samples = int(chosen(objective, "samples", samples) or 1)
        if objective == "mvtcae" and self.alpha > 1:
            raise GraphError(
                "alpha is out of range: beyond 1 mvtcae pays for what its decoders cannot read, without bound",
                where="alpha",
                expected="a number from 0 to 1",
                found=f"{self.alpha:g}",
                fix="write alpha: 0.9, or leave it out",
            )
        if self.spec.rule == "mixture_of_products" and len(self.names) > MOST_VIEWS:
            raise GraphError(
                f"{objective} takes at most {MOST_VIEWS} views, for it infers by a component per subset",
                found=f"{len(self.names)} views, {2 ** len(self.names) - 1} subsets",
                fix="use objective: mmvae or mvtcae, whose cost is linear, or combine some views first",
            )
        self.cost = "exponential in views" if self.spec.rule == "mixture_of_products" else "linear"
        self.weights: dict[str, Tensor] = {}

    @property
    def own_prior(self) -> Mapping[str, Gaussian]:
        """N(0, V) of ``shared``: V is 1 where q holds N(0, I), else what mixtures of experts come to, 1 or more."""
        variance = self.weights.get("prior", torch.ones(self.size))
        return {"shared": Gaussian(torch.zeros_like(variance), 1 / variance)}

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Reply with q(s | views) over the prior towards s, with p(z | s's inbox, other views) towards a view.

        A view hears the moments of its decoder over cubature points of q(s | others), its private part drawn from
        N(0, I). ``log_evidence`` is a lower bound, by importance samples from q(s | views) (Burda et al. 2016). Where
        the inbox of s and the views leave s improper, N(0, I) joins in.
        """
        above = cast(Gaussian, inbox["shared"])
        networks = self._networks(self._fitted(), above.info)
        views, units = seen(self.names, inbox, networks.weights)
        with torch.no_grad():
            experts, privates = networks.encode(views)
            told = self._told(networks, views, experts, views.present)
            messages: dict[str, Message] = {}
            for name in (name for name in self.ports if ports is None or name in ports):
                if name == "shared":
                    messages[name] = told
                    continue
                others = views.present.clone()
                others[self.names.index(name)] = False
                rest = self._told(networks, views, experts, others)
                messages[name] = predicted(networks, name, above * rest)
            shape = (self.evidence_draws, self.size + self.private * len(self.names))
            noise = row_normal(generator, evidence.row_id, shape, dtype=above.dtype).transpose(0, 1)
            bound = log_evidence(networks, views, privates, above, told, noise)
        return Reply(messages, log_evidence=bound + units.sum(0), bound="lower")

    def fit(
        self,
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
        epochs: Count = 150,
        batch: Count = 256,
        learning_rate: Positive = 3e-3,
        schedule: Schedule = "cosine",
        noise: Share = 0.3,
        clip: Share = 0.0,
        decay: Share = 0.0,
    ) -> FitReport:
        """Maximise the objective over all rows in which any view speaks, by minibatches, from where it stood.

        Args:
            evidence: not used: a composer has no data.
            inbox: the views' messages; a missing view is vacuous. What the inbox says of ``shared`` is not used.
            generator: of weights, order and noise.
            owned: not used: N(0, I) has nothing to learn.
            progress: called after every epoch.
            epochs: passes over the rows.
            batch: rows per step.
            learning_rate: of Adam, at the start.
            schedule: ``cosine`` lets it fall to zero, ``constant`` leaves it.
            noise: deviation of the noise added to what encoders see, in units of each latent's deviation.
            clip: the largest norm of a step's gradient; 0 is no limit.
            decay: of the weights (AdamW).

        Raises:
            DataError: fewer than two rows in which any view speaks; no complete row for a joint encoder.
            MessageError: the objective is no longer a number.
        """
        if not self.weights:
            self.weights = self._initial(inbox, generator)
        like = cast(Gaussian, inbox["shared"]).info
        fixed = {name: value.to(like) for name, value in self.weights.items() if name not in self.parameters()}
        learnt = {name: value.to(like).clone().requires_grad_() for name, value in self.parameters().items()}
        networks = self._networks({**fixed, **learnt}, like)
        views, _ = seen(self.names, inbox, fixed)
        speaks = views.present.any(0).nonzero().flatten()
        self._check(views.present[:, speaks])
        views, draws = views[speaks], Draws(generator)

        def value(rows: Tensor) -> Tensor:
            part = views[rows]
            return self._value(networks, part.noisy(noise, draws) if noise else part, draws)

        report = climb(
            value,
            learnt,
            len(speaks),
            generator=generator,
            progress=progress,
            epochs=epochs,
            batch=batch,
            learning_rate=learning_rate,
            schedule=schedule,
            clip=clip,
            decay=decay,
        )
        self.weights = {**fixed, **{name: value.detach() for name, value in learnt.items()}}
        self.weights["prior"] = self._spread(networks, views)
        return report

    def state(self) -> Mapping[str, Tensor]:
        """Return the weights, and the units of each view."""
        return self._fitted()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take them back."""
        self.weights = dict(state)

    def parameters(self) -> Mapping[str, Tensor]:
        """Return the part of the state that gradients may change: all but the units, and the prior of s."""
        return {n: value for n, value in self._fitted().items() if not n.endswith((".location", ".scale", "prior"))}

    def value(
        self, inbox: Mapping[str, Message], readers: Mapping[str, Reader], *, generator: torch.Generator
    ) -> Tensor:
        """Return the objective of every row, nats, with gradients; see :class:`serket.protocol.Thaws`."""
        networks = self._networks(self._fitted(), cast(Gaussian, inbox["shared"]).info)
        views, units = seen(self.names, inbox, networks.weights)
        return self._value(networks, replace(views, constants=units, readers=readers), Draws(generator))

    def _value(self, networks: Networks, views: Views, draws: Draws) -> Tensor:
        return self.spec.value(Minibatch(networks, views, draws, self.alpha, self.beta, self.samples))

    def _told(self, networks: Networks, views: Views, experts: Gaussian, chosen: Tensor) -> Gaussian:
        """Return what a set of views says of s: nothing where it is empty."""
        q = self._posterior(networks, views, experts, chosen)
        return over_prior(q, self.own_prior["shared"]).mask(chosen.any(0))

    def _posterior(self, networks: Networks, views: Views, experts: Gaussian, chosen: Tensor) -> Gaussian:
        """Return q(s | a set of views), N(0, I) where it is empty."""
        q = combined(self.spec.rule, experts, chosen)
        if not self.spec.joint or not bool(chosen.all(0).any()):
            return q
        everything = networks.encode_all(views)
        return (everything * standard(everything.info)).where(chosen.all(0), q)

    def _spread(self, networks: Networks, views: Views) -> Tensor:
        """Return the variances of the prior of s: second moments of q given one view or all, 1 at least."""
        found = torch.ones(self.size).to(views.constants)
        if self.spec.rule == "product_with_prior":
            return found
        with torch.no_grad():
            experts, _ = networks.encode(views)
            alone = torch.eye(len(self.names), dtype=torch.bool, device=views.present.device)
            own = [views.present & one.unsqueeze(1) for one in alone]
            for chosen in (views.present, *own):
                q = self._posterior(networks, views, experts, chosen)[chosen.any(0)]
                if len(q.info):
                    found = torch.maximum(found, (1 / q.precision + (q.info / q.precision).square()).mean(0))
        return found

    def _initial(self, inbox: Mapping[str, Message], generator: torch.Generator) -> dict[str, Tensor]:
        """Fit the units; draw the weights."""
        sizes = {name: self.ports[name].size or 0 for name in self.names}
        like = cast(Gaussian, inbox["shared"]).info
        drawn = Networks.initial(sizes, self.hidden, self.size, self.private, self.spec.joint, like, generator)
        weights = dict(drawn.weights) | {"prior": torch.ones(self.size).to(like)}
        for name in self.names:
            location, variance = pooled_moments(cast(Gaussian, inbox[name]))
            weights |= {f"{name}.location": location, f"{name}.scale": variance.sqrt()}
            if self.objective == "mmvae_plus":
                weights[f"{name}.log_auxiliary"] = like.new_zeros(self.private)
        return weights

    def _check(self, present: Tensor) -> None:
        rows = present.shape[1]
        if rows < 2:
            raise DataError(
                "a composer needs rows to learn from",
                expected="two rows or more with some view present",
                found=str(rows),
                fix="check the masks and the row numbers in train",
            )
        if self.spec.joint and not bool(present.all(0).any()):
            others = ", ".join(name for name, spec in OBJECTIVES.items() if not spec.joint)
            raise DataError(
                f"no row has every view, so the joint encoder of {self.objective} has nothing to learn from",
                expected="rows in which all views are present",
                found=f"{rows} rows, all of them incomplete",
                fix=f"choose an objective without a joint encoder: {others}",
            )

    def _networks(self, weights: Mapping[str, Tensor], like: Tensor) -> Networks:
        here = {name: value.to(like) for name, value in weights.items()}
        return Networks(self.names, here, len(self.hidden) + 1, self.size, self.private)

    def _fitted(self) -> dict[str, Tensor]:
        if not self.weights:
            raise MessageError(
                "the composer was never fitted", fix="fit the graph, or load a run: serket.load(directory)"
            )
        return self.weights
