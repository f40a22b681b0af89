"""A hidden Markov model with Gaussian emissions, in one module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn.functional import one_hot

from serket.errors import DataError, GraphError, ShapeError, StateError
from serket.messages import Categorical, Family, Message
from serket.modules.forward_backward import Chain, Filter, advanced, counted, smoothed
from serket.modules.labels import matching, reference, seeds
from serket.modules.layout import Layout
from serket.modules.mixture import Mixture, log_density
from serket.modules.seen import Seen
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.registry import register

__all__ = ["HiddenMarkov"]

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]


@register("hmm")
class HiddenMarkov:
    """p(x_1..T, z_1..T) = pi[z_1] prod_t A[z_t-1, z_t] prod_t N(x_t; mu_z_t, Sigma_z_t) over the rows of each sequence.

    It owns the prior of every z_t, and its reply at row t is log p(z_t, all x of the sequence, inboxes of other rows):
    its own x_t is in it, the row's own inbox is not. What ``gmm`` and ``markov`` are together, fitted together, and
    with the same answers given the same parameters. The evidence of row t is the increment log p(x_t, m_t | rows
    before t): the sum over rows is exact. Computed in float64.

    Parameters are those that maximise the evidence times their priors, by Baum-Welch (Rabiner 1989, section III C):
    those of ``gmm``, normal-inverse-Wishart in units where the pooled variance is 1, and of ``markov``.

    Args:
        ports: ``state`` (child, K categories).
        alpha: rows that every transition counts for beforehand.
        scatter: prior variance inside a state, as a fraction of the pooled variance.
        kappa: rows that the prior mean of a state counts for.

    Raises:
        GraphError: an option is not positive.
    """

    ports: Mapping[str, Port] = {"state": Port(Role.CHILD, Family.CATEGORICAL)}
    plate = "time"
    exact = True

    def __init__(
        self, ports: Mapping[str, Port], alpha: Positive = 0.1, scatter: Positive = 0.1, kappa: Positive = 0.1
    ) -> None:
        _positive(alpha=alpha, scatter=scatter, kappa=kappa)
        self.ports = ports
        self.alpha, self.scatter, self.kappa = alpha, scatter, kappa
        self.states = ports["state"].size or 0
        self._fit: tuple[Chain, Mixture] | None = None  # one of each, in the units of the data

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
        tolerance: Positive = 1e-6,
        restart: bool = False,
    ) -> FitReport:
        """Maximise by Baum-Welch, all restarts at once, and keep the one with the most evidence.

        The first time each restart begins with the states of a run of k-means; a refit continues, with one. States are
        named as the inbox names them, where it does. Sequences without data or messages are left out.

        Args:
            evidence: data; rows that are not observed are missing.
            inbox: what else is said of ``state``, once per row.
            generator: of k-means.
            owned: nothing here.
            progress: called after every tenth sweep.
            sweeps: at most.
            restarts: of a first fit.
            tolerance: stop where the evidence per row changes by less, nats.
            restart: forget the present state and fit as if for the first time.

        Raises:
            DataError: no data, fewer rows than states or than two, no variation, or values that are not finite.
            ShapeError: another size than at the fit that this one continues.
        """
        _positive(sweeps=sweeps, restarts=restarts, tolerance=tolerance)
        state = cast(Categorical, inbox["state"])
        rows = Layout.of(evidence).spoken(self._present(evidence) | ~state.is_vacuous())
        layout, evidence = Layout.of(evidence[rows]), evidence[rows]
        raw = self._seen(evidence, state[rows])
        location, scale = raw.pooled()
        seen = raw.standardised(location, scale)
        assert seen.points is not None
        points, steps = layout.packed(seen.points), layout.steps
        told, bias = layout.packed(seen.present.unsqueeze(-1)), layout.packed(seen.bias)
        prior = torch.eye(points.shape[-1]).to(points) * self.scatter
        if self._fit is None or restart:
            labels = seeds(points, told.squeeze(-1), self.states, restarts, generator)
            order = matching(labels, reference(bias, labels))
            labels = order.argsort(-1).gather(-1, labels)
            mixture = self._emissions(one_hot(labels, self.states).to(points) * told, points, prior)
            flat = points.new_zeros(restarts, self.states, self.states).log_softmax(-1)
            chain = Chain(flat[:, 0], flat)
        else:
            chain, mixture = self._fitted(points.device, points.shape[-1])
            mixture = _rescaled(mixture, -location / scale, 1 / scale)
        history: list[float] = []
        last: Tensor | None = None
        for step in range(1, sweeps + 1):
            messages = torch.where(told, log_density(mixture, points), 0.0) + bias
            first, moves, total, posterior = counted(chain, messages, steps)
            history.append(float(total.max()) / len(points))
            if progress and step % 10 == 0:
                progress(step, sweeps, f"log-evidence {history[-1]:.3f} a row")
            if step == sweeps or (last is not None and float((total - last).abs().max()) < tolerance * len(points)):
                break
            last = total
            mixture = self._emissions(posterior() * told, points, prior)
            chain = Chain((first + self.alpha).log().log_softmax(-1), (moves + self.alpha).log().log_softmax(-1))
        best = total.argmax().reshape(1)
        self._fit = chain[best], _rescaled(mixture[best], location, scale)
        return FitReport(len(history), len(history) < sweeps, {"log_evidence": history})

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Answer what its data and the other rows of its sequence say of each row; see the class. Deterministic.

        Raises:
            StateError: the module was never fitted.
            ShapeError: data of another size than those fitted.
        """
        state = cast(Categorical, inbox["state"])
        chain, own = self._likelihood(state, evidence.values, self._present(evidence))
        layout = Layout.of(evidence)
        others, increments = smoothed(chain, layout.packed(state.logits.double() + own), layout.steps)
        asked = ports is None or "state" in ports
        reply = {"state": Categorical((layout.unpacked(others) + own).to(state.dtype))} if asked else {}
        log_evidence = layout.unpacked(increments.unsqueeze(-1)).squeeze(-1).to(state.dtype)
        return Reply(reply, log_evidence=log_evidence, bound="exact")

    def step(
        self, before: Filter | None, values: Tensor | None, message: Categorical | None = None
    ) -> tuple[Filter, Tensor]:
        """Filter online: take in one row per sequence, and return the filter and log p(x_t, m_t | before t) ``(N,)``.

        Args:
            before: what the last step returned; None for the first row of the sequences.
            values: ``(N, D)``, a row per sequence; one with NaN is missing. None: all are missing.
            message: the inbox of ``state``, if there is one.
        """
        count = len(values) if values is not None else len(message.logits) if message is not None else 1
        like = values if values is not None else torch.zeros(0, dtype=torch.float64)
        told = message or Categorical.vacuous((count,), self.states, dtype=torch.float64, device=like.device)
        seen = None if values is None else Evidence.of(values)
        present = torch.zeros(count, dtype=torch.bool, device=like.device) if seen is None else seen.present
        chain, own = self._likelihood(told, None if seen is None else seen.values, present)
        filtered, _, increment = advanced(chain, before, told.logits.double() + own)
        return filtered, increment.squeeze(0)

    def predict(
        self, inbox: Mapping[str, Message], *, generator: torch.Generator
    ) -> torch.distributions.MixtureSameFamily:
        """Return p(x_t | beliefs about z_t): a mixture over states, batch ``(rows,)``, event D."""
        state = cast(Categorical, inbox["state"])
        mixture = self._fitted(state.device)[1]
        means, factors = (part.squeeze(0).to(state.dtype) for part in (mixture.means, mixture.cholesky))
        each = torch.distributions.MultivariateNormal(means, scale_tril=factors)
        mixing = torch.distributions.Categorical(logits=state.log_probs())
        return torch.distributions.MixtureSameFamily(mixing, each.expand(mixing.logits.shape))

    def relabel(self, port: str, order: Tensor) -> None:
        """Call the state that was ``order[k]`` by the name k."""
        if self._fit is not None:
            chain, mixture = self._fit
            order = order.to(chain.initial.device)
            transitions = chain.transitions[:, order][..., order]
            self._fit = Chain(chain.initial[:, order], transitions), mixture.relabel(order.unsqueeze(0))

    def state(self) -> Mapping[str, Tensor]:
        """Return log pi, log A, the means and Cholesky factors of the emissions; nothing before the first fit."""
        if self._fit is None:
            return {}
        chain, mixture = self._fit
        return {
            "log_initial": chain.initial[0],
            "log_transitions": chain.transitions[0],
            "means": mixture.means[0],
            "cholesky": mixture.cholesky[0],
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a state back; raises StateError where a tensor is missing or of another shape."""
        if not state:
            self._fit = None
            return
        states, size = self.states, state["means"].shape[-1] if "means" in state else 0
        shapes = {"log_initial": (states,), "log_transitions": (states, states), "means": (states, size)}
        for name, shape in {**shapes, "cholesky": (states, size, size)}.items():
            if name not in state or state[name].shape != shape:
                raise StateError(
                    f"the state of an hmm has no fitting '{name}'",
                    expected=str(shape),
                    found=str(tuple(state[name].shape)) if name in state else "nothing",
                )
        initial, transitions, means, cholesky = (
            state[name].double().unsqueeze(0) for name in ("log_initial", "log_transitions", "means", "cholesky")
        )
        self._fit = Chain(initial, transitions), Mixture(means, cholesky, torch.zeros_like(initial))

    def _fitted(self, device: torch.device, size: int | None = None) -> tuple[Chain, Mixture]:
        if self._fit is None:
            raise StateError("an hmm has to be fitted before it can infer", fix="call fit, or load a state")
        chain, mixture = self._fit
        if size not in (None, mixture.means.shape[-1]):
            expected = str(mixture.means.shape[-1])
            raise ShapeError("not the size this hmm was fitted on", where="data", expected=expected, found=str(size))
        moved = (part.to(device) for part in mixture.tensors().values())
        return Chain(chain.initial.to(device), chain.transitions.to(device)), Mixture(*moved)

    def _likelihood(self, state: Message, values: Tensor | None, present: Tensor) -> tuple[Chain, Tensor]:
        """Return the chain and log p(x_t | z_t) ``(rows, K)``, zeros where nothing is observed."""
        chain, mixture = self._fitted(state.device, None if values is None else values.shape[-1])
        own = torch.zeros(len(present), self.states, dtype=torch.float64, device=state.device)
        if values is not None:
            own[present] = log_density(mixture, values[present].double()).squeeze(0)
        return chain, own

    def _present(self, evidence: Evidence) -> Tensor:
        return evidence.observed if evidence.observed.dim() == 1 else evidence.observed.all(-1)

    def _seen(self, evidence: Evidence, state: Categorical) -> Seen:
        if evidence.values is None:
            raise DataError("an hmm has nothing to fit", fix="give it 'data:', or use markov over another module's")
        present, points = self._present(evidence), evidence.values.double()
        if int(present.sum()) < max(2, self.states):
            raise DataError(
                "too few rows to fit an hmm",
                expected=f"at least {max(2, self.states)} observed rows for {self.states} states",
                found=f"{int(present.sum())} of {len(present)}",
                fix="make the state variable smaller, or give more rows",
            )
        if not bool(points[present].isfinite().all()):
            raise DataError("data hold NaN or infinity in observed rows", fix="mask them: Evidence.of does")
        return Seen(state.log_probs().double(), present, points=points)

    def _emissions(self, members: Tensor, points: Tensor, prior: Tensor) -> Mixture:
        """Return the mode of the normal-inverse-Wishart posterior given soft members ``(C, rows, K)``."""
        size, count = points.shape[-1], members.sum(-2)
        mean = (members.mT @ points) / count.clamp_min(1e-300).unsqueeze(-1)
        gap = points.unsqueeze(-2) - mean.unsqueeze(-3)  # (C, rows, K, D)
        spread = torch.einsum("cnk,cnkd,cnke->ckde", members, gap, gap)
        share = (self.kappa * count / (self.kappa + count))[..., None, None]
        scatter = prior + spread + share * mean.unsqueeze(-1) * mean.unsqueeze(-2)
        means = (count / (self.kappa + count)).unsqueeze(-1) * mean
        # The mode of NIW(dof = D + 2) is Psi_n / (dof + n + D + 2).
        cholesky = torch.linalg.cholesky(scatter / (count + 2 * size + 4)[..., None, None])
        return Mixture(means, cholesky, torch.zeros_like(count))


def _rescaled(mixture: Mixture, location: Tensor, scale: Tensor) -> Mixture:
    """Express a mixture over u as one over location + scale u."""
    return Mixture(location + scale * mixture.means, scale.unsqueeze(-1) * mixture.cholesky, mixture.log_weights)


def _positive(**options: float) -> None:
    for name, value in options.items():
        if not value > 0:
            raise GraphError(f"'{name}' of an hmm is out of range", expected="a number above zero", found=str(value))
