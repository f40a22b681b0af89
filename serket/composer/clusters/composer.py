"""Clusters: one discrete concept behind Gaussian, count and categorical views (multimodal categorisation)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from serket.composer.clusters.emissions import Categories, Counts, Covariance, Emission, Normal, Seen
from serket.composer.clusters.expectation import Rules, Standing, begun, climb, look_of, share_of, starting
from serket.composer.clusters.tempering import tempered
from serket.composer.factor_analysis import in_units
from serket.errors import DataError, GraphError, MessageError, ShapeError, StateError
from serket.messages import Categorical, Dirichlet, Family, Gaussian, Message, leave_one_out, pooled_moments
from serket.messages.matching import matching, reference
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.registry import register

__all__ = ["Clusters"]

FINALISTS, HEAT = 3, 4
Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]


@register("clusters", kind="composer")
class Clusters:
    """p(z_1 .. z_M | concept = k) = prod_m p_m(z_m | k): a discrete concept, SERKET's multimodal categorisation.

    By the family of its variable a view is N(mu_k, Sigma_k), or symbol probabilities under a bag of counts,
    Dirichlet(alpha_k) (or fixed, phi_k: multinomial), or a category from a table (Nakamura, Nagai & Taniguchi 2018).
    Fitted on the views' messages, as uncertain and as patchy as they are, by expectation maximisation with priors.
    Given the parameters, a point:

    - to ``concept``: sum_m t_m log of the integral of p_m(z | k) times the message, exact. Weights are ``own_prior``.
    - to a view: the mixture over the concept's posterior given the inbox of ``concept`` and the other views, projected
      by moments (a table: exact).
    - evidence: exact, but none where a view is tempered, t_m other than 1.

    A view of which no row ever spoke is N(0, I), an even table or an even bag under every concept.

    Args:
        ports: ``concept`` (parent, K categories) and ``views`` (children, any family).
        covariance: of a Gaussian view: ``full``, ``diagonal``, or ``tied``, one matrix for all concepts.
        counts: ``overdispersed`` (Dirichlet-multinomial) or ``multinomial``.
        weights: t_m in [0, 1], the exponent of a view's likelihood: one number, or one per view in order.
        scatter: prior variance inside a concept, as a fraction of the pooled variance.
        strength: rows which that counts for.
        smoothing: pseudo-counts per symbol and category.
        alpha: of the Dirichlet on the concepts' weights, per concept, above one.

    Raises:
        ShapeError: another number of weights than of views.
        GraphError: a weight out of range.
    """

    ports: Mapping[str, Port] = {
        "concept": Port(Role.PARENT, Family.CATEGORICAL),
        "views": Port(Role.CHILD, None, many=True),
    }

    def __init__(
        self,
        ports: Mapping[str, Port],
        covariance: Covariance = "full",
        counts: Literal["overdispersed", "multinomial"] = "overdispersed",
        weights: float | list[float] = 1.0,
        scatter: Positive = 0.1,
        strength: Positive = 1.0,
        smoothing: Positive = 0.5,
        alpha: Positive = 1.0,
    ) -> None:
        self.ports, self.alpha = ports, alpha
        self.names = tuple(name for name in ports if name != "concept")
        self.components = ports["concept"].size or 0
        self.exponents = tuple(weights) if isinstance(weights, list) else (weights,) * len(self.names)
        if len(self.exponents) != len(self.names):
            raise ShapeError("weights do not fit the views", expected=f"one number, or {len(self.names)}",
                             found=str(len(self.exponents)))  # fmt: skip
        if not all(0 <= value <= 1 for value in self.exponents):
            raise GraphError("a view's weight is out of range", expected="0 <= weight <= 1", found=str(weights))
        self.exact = all(ports[name].family == Family.CATEGORICAL for name in self.names)
        self._blank: dict[str, Emission] = {}
        for name in self.names:
            flat = torch.ones(self.components, ports[name].size or 0, dtype=torch.float64)
            if ports[name].family == Family.GAUSSIAN:
                eye = torch.eye(flat.shape[1], dtype=torch.float64).repeat(self.components, 1, 1)
                self._blank[name] = Normal(torch.zeros_like(flat), eye, covariance, scatter, strength)
            elif ports[name].family == Family.DIRICHLET:
                fixed = counts == "multinomial"
                self._blank[name] = Counts(flat / flat.shape[1] if fixed else flat, fixed, smoothing)
            else:
                self._blank[name] = Categories(flat / flat.shape[1], smoothing)
        self._standing: Standing | None = None
        self._units: dict[str, tuple[Tensor, Tensor]] = {}  # location and scale of the Gaussian views

    @property
    def note(self) -> str:
        """Why there is no evidence, if there is none."""
        if set(self.exponents) == {1.0}:
            return ""
        return f"its views weigh {', '.join(f'{value:g}' for value in self.exponents)}, so no log evidence is reported"

    @property
    def own_prior(self) -> Mapping[str, Message]:
        """The weights, as a message on ``concept``; uniform where they were given up."""
        if self._standing is None:
            return {"concept": Categorical.vacuous((), self.components)}
        return {"concept": Categorical(self._standing.log_weights)}

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Integrate the views out towards the concept, and concept and other views out towards a view.

        Inside, all is float64. Raises MessageError for messages that cannot be integrated, or contradict each other.
        """
        asked = [name for name in self.ports if ports is None or name in ports]
        given = cast(Categorical, inbox["concept"])
        above = given.to(torch.float64, given.device)
        emissions = dict(zip(self.names, self._fitted(given.device).emissions, strict=True))
        scores: dict[str, Tensor] = {}
        for name, emission in emissions.items():
            seen, constant = self._seen(name, inbox[name])
            told = ~inbox[name].is_vacuous()
            scores[name] = torch.where(told.unsqueeze(1), emission.score(seen), 0.0) + constant.unsqueeze(1)
        heard = [Categorical(t * one) for t, one in zip(self.exponents, scores.values(), strict=True)]
        others, belief = leave_one_out(above, heard)
        messages: dict[str, Message] = {}
        for name in asked:
            if name == "concept":
                said: Message = leave_one_out(above**0, heard)[1]
            else:
                said = emissions[name].reply(others[self.names.index(name)].probs)
                if isinstance(said, Gaussian):
                    location, scale = (part.to(given.device) for part in self._units[name])
                    said = in_units(said, -location / scale, 1 / scale)[0]
            messages[name] = said.to(given.dtype, given.device)
        if self.note:
            return Reply(messages)
        return Reply(messages, log_evidence=belief.log_z().to(given.dtype), bound="exact")

    def fit(
        self,
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
        starts: Count = 10,
        iterations: Count = 20,
        temper: Literal["given", "auto"] = "given",
        restart: bool = False,
    ) -> FitReport:
        """Fit by expectation maximisation, first from many starts, then on from where it stands.

        The first time, k-means++ over all views together gives ``starts`` labellings, from which EM climbs roughly; the
        best three go four exact steps each, and the one that stands highest goes on. A refit only goes on. Labels keep
        their identity, unless the inbox of ``concept`` agrees with another naming better, by more than 0.1 of its
        probability a row. The history is the log-likelihood a row before each exact step, nats, in the units of z.

        Args:
            evidence: not used: a composer has no data.
            inbox: the views' messages, vacuous where missing; a log-bias on the concept.
            generator: the only source of randomness.
            owned: if ``concept`` is in it, weights are learnt; else the inbox alone says what is likely.
            progress: called after every exact step.
            starts: of a first fit.
            iterations: exact steps, of the one that goes on.
            temper: ``auto`` chooses the views' weights by untempered prediction across views on held-out rows, from
                those given downwards; of a first fit.
            restart: forget the present state and fit as if for the first time.

        Raises:
            DataError: fewer rows than concepts, or than two, in which any view speaks; counts below zero.
        """
        told = torch.stack([~inbox[name].is_vacuous() for name in self.names]).any(0)
        if int(told.sum()) < max(2, self.components):
            raise DataError("too few rows to find concepts", found=f"{int(told.sum())} of {len(told)}",
                            expected=f"at least {max(2, self.components)} rows with some view, for {self.components}",
                            fix="make the concept variable smaller, or give more rows")  # fmt: skip
        concept = cast(Categorical, inbox["concept"])
        concept.log_probs()  # raises where every concept is excluded
        bias = concept.logits.to(torch.float64)[told]
        warm = None if restart else self._standing
        messages: list[Message] = []
        total, units = torch.zeros_like(bias[:, 0]), {}
        for name in self.names:
            message = inbox[name][told]
            message = message.to(torch.float64, message.device)
            if isinstance(message, Gaussian):
                location, variance = pooled_moments(message)
                units[name] = location, variance.sqrt()
                message, constant = in_units(message, *units[name])
                total = total + constant
            messages.append(message)
        looks = [look_of(message) for message in messages]
        rules = Rules(bias, "concept" in owned, self.alpha, self.exponents)
        curve: list[float] = []

        def heard(value: float) -> None:
            curve.append(value + float(total.mean()))
            if progress:
                progress(len(curve), iterations, f"log-likelihood {curve[-1]:.4g} a row")

        if warm is None:
            blank = [_on(self._blank[name], bias.device) for name in self.names]
            if temper == "auto":
                rules = replace(rules, exponents=tempered(blank, looks, rules, generator, self.components))
            shares = starting(blank, looks, rules, generator, components=self.components, starts=starts)
            climbed = [climb(begun(blank, one, looks, rules), looks, rules, HEAT) for one in shares[:FINALISTS]]
            standing = max(climbed, key=lambda one: one[1])[0]
        else:
            parts = []
            for name, one in zip(self.names, self._fitted(bias.device).emissions, strict=True):
                parts.append(_moved(one, self._units[name], units[name]) if isinstance(one, Normal) else one)
            standing = self._aligned(Standing(tuple(parts), warm.log_weights.to(bias.device)), looks, rules)
        standing, _, _ = climb(standing, looks, rules, iterations, told=heard)
        self._standing, self._units = self._aligned(standing, looks, rules), units
        self.exponents = rules.exponents
        return FitReport(iterations, history={"log_likelihood": curve})

    def relabel(self, port: str, order: Tensor) -> None:
        """Call the concept that was ``order[k]`` by the name k, or the category of a view."""
        if self._standing is None:
            return
        order = order.to(self._standing.log_weights.device)
        if port == "concept":
            self._standing = self._standing.relabelled(order)
        else:
            parts = list(self._standing.emissions)
            parts[self.names.index(port)] = cast(Categories, parts[self.names.index(port)]).renamed(order)
            self._standing = replace(self._standing, emissions=tuple(parts))

    def state(self) -> Mapping[str, Tensor]:
        """Return the parameters of every view, the units of Gaussian ones, log-weights, and the views' weights."""
        if self._standing is None:
            return {}
        found = {"log_weights": self._standing.log_weights,
                 "exponents": torch.tensor(self.exponents, dtype=torch.float64)}  # fmt: skip
        for name, emission in zip(self.names, self._standing.emissions, strict=True):
            found |= {f"{name}.{part}": value for part, value in emission.tensors().items()}
        for name, (location, scale) in self._units.items():
            found |= {f"{name}.location": location, f"{name}.scale": scale}
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the parameters back; raises StateError where a tensor is missing or of another shape."""
        if not state:
            self._standing = None
            return
        shapes: dict[str, tuple[int, ...]] = {"log_weights": (self.components,), "exponents": (len(self.names),)}
        for name, blank in self._blank.items():
            shapes |= {f"{name}.{part}": tuple(value.shape) for part, value in blank.tensors().items()}
            if isinstance(blank, Normal):
                shapes |= {f"{name}.{part}": (self.ports[name].size or 0,) for part in ("location", "scale")}
        for name, shape in shapes.items():
            if name not in state or tuple(state[name].shape) != shape:
                found = str(tuple(state[name].shape)) if name in state else "nothing"
                raise StateError(f"the state of clusters has no fitting '{name}'", expected=str(shape), found=found,
                                 fix="restore the file, or fit again")  # fmt: skip
        parts = []
        for name, blank in self._blank.items():
            parts.append(replace(cast(Any, blank), **{part: state[f"{name}.{part}"] for part in blank.tensors()}))
            if isinstance(blank, Normal):
                self._units[name] = state[f"{name}.location"], state[f"{name}.scale"]
        self._standing = Standing(tuple(parts), state["log_weights"])
        self.exponents = tuple(state["exponents"].tolist())

    def _fitted(self, device: torch.device) -> Standing:
        if self._standing is None:
            raise MessageError("clusters were never fitted", fix="fit the graph, or load a run: serket.load(directory)")
        parts = tuple(_on(one, device) for one in self._standing.emissions)
        return Standing(parts, self._standing.log_weights.to(device))

    def _seen(self, name: str, message: Message) -> tuple[Any, Tensor]:
        """Return a message as its emission takes it, and what its integrals lack, nats, ``(rows,)``."""
        wide = message.to(torch.float64, message.device)
        none = torch.zeros(wide.batch_shape, dtype=torch.float64, device=wide.device)
        if isinstance(wide, Gaussian):
            moved, constant = in_units(wide, *(part.to(wide.device) for part in self._units[name]))
            return Seen(moved.info, moved.precision), constant
        if isinstance(wide, Dirichlet):
            return wide.counts, none
        logits = cast(Categorical, wide).logits
        return logits, torch.where(wide.is_vacuous(), logits[:, 0], 0.0)

    def _aligned(self, standing: Standing, looks: Any, rules: Rules) -> Standing:
        """Name the components by the inbox of the concept, where it tells."""
        share = share_of(standing, [one.seen for one in looks], [one.present for one in looks], rules)[0]
        labels = share.argmax(1).unsqueeze(0)
        return standing.relabelled(matching(labels, reference(rules.bias.log_softmax(1), labels))[0])


def _on(emission: Emission, device: torch.device) -> Emission:
    moved: Emission = replace(cast(Any, emission), **{n: one.to(device) for n, one in emission.tensors().items()})
    return moved


def _moved(emission: Normal, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> Normal:
    """Express the clusters of (z - location) / scale in other units, each given as (location, scale)."""
    ratio = old[1].to(new[1]) / new[1]
    mean = (old[0].to(new[0]) - new[0]) / new[1] + ratio * emission.mean
    return replace(emission, mean=mean, covariance=ratio.unsqueeze(1) * emission.covariance * ratio)
