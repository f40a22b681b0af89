"""A Markov chain over the time plate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from serket.errors import DataError, GraphError, StateError
from serket.messages import Categorical, Family, Message
from serket.modules.forward_backward import Chain, Filter, advanced, ahead, counted, heard, log_mean, smoothed, sweep
from serket.modules.layout import Layout
from serket.modules.sweeps import enough
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.registry import register

__all__ = ["Markov"]

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]


@register("markov")
class Markov:
    """p(z_1, ..., z_T) = pi[z_1] prod_t A[z_t-1, z_t] over the rows of each sequence: it owns the prior of every z_t.

    With m_t the inbox of row t, the reply at row t is what the other rows say of z_t,
    sum over z_1..T but z_t of p(z_1..T) prod_{u != t} m_u(z_u): the forward prediction times the backward message
    (Rabiner 1989, section III A). Under a mixture at a ``parent`` port of the same variable it is a hidden Markov
    model. A row without data hears its neighbours. The evidence of row t is the increment
    log p(m_t | m_1, ..., m_t-1): the sum over rows is exact, a row's own value is how well it was predicted.

    Rows of pi and A have the prior Dirichlet(alpha, ..., alpha). By Baum-Welch (the default) they are
    (expected count + alpha) / (sum + K alpha), the posterior mean given the counts; by Gibbs sampling S draws are kept,
    and replies average over them, in probability and whole sequences at a time. Computed in float64.

    Args:
        ports: ``state`` (child, K categories).
        draws: S, kept draws of Gibbs sampling.
        alpha: rows that every transition counts for beforehand.

    Raises:
        GraphError: an option is not positive.
    """

    ports: Mapping[str, Port] = {"state": Port(Role.CHILD, Family.CATEGORICAL)}
    plate = "time"

    def __init__(self, ports: Mapping[str, Port], draws: Count = 8, alpha: Positive = 0.1) -> None:
        _positive(draws=draws, alpha=alpha)
        self.ports, self.draws, self.alpha = ports, draws, alpha
        self.states = ports["state"].size or 0
        self._kept: Chain | None = None

    @property
    def exact(self) -> bool:
        """Whether replies are exact given the state: with a single draw, and before the first fit."""
        return self._kept is None or len(self._kept.initial) == 1

    def fit(
        self,
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
        method: Literal["baum_welch", "gibbs"] = "baum_welch",
        sweeps: Count = 100,
        tolerance: Positive = 1e-6,
        restart: bool = False,
    ) -> FitReport:
        """Learn pi and A from what the rest of the graph says of every row, continuing from where they stand.

        States are those of the inbox, so labels need no alignment. Sequences of which nothing is said are left out.
        From sequences of length one pi is learnt, and A stays what its prior says: uniform.

        Args:
            evidence: tells the sequences.
            inbox: messages on ``state``; vacuous rows are missing.
            generator: of Gibbs sampling; Baum-Welch uses none.
            owned: nothing here.
            progress: called after every tenth sweep.
            method: ``baum_welch`` stops where the evidence per row gains less than ``tolerance``; ``gibbs`` keeps draws
                from the second half of its sweeps: filter forward, sample backward, draw pi and A.
            sweeps: at most, of Baum-Welch; at least twice ``draws`` for Gibbs.
            tolerance: nats per row.
            restart: forget the present state, and start from uniform pi and A.

        Raises:
            DataError: the messages say nothing at all.
            GraphError: an option is out of range.
        """
        _positive(sweeps=sweeps, tolerance=tolerance)
        self.check_fit(method=method, sweeps=sweeps)
        told = ~inbox["state"].is_vacuous() | (self.states == 1)  # of one state there is nothing to say
        if not bool(told.any()):
            raise DataError(
                "a markov chain hears nothing of its states",
                expected="messages in some rows",
                found=f"none in {len(told)} rows",
                fix="bind 'state' to a variable that a module with data speaks about, such as the component of a gmm",
            )
        rows = Layout.of(evidence).spoken(told)
        layout = Layout.of(evidence[rows])
        messages = layout.packed(cast(Categorical, inbox["state"][rows]).log_probs().double())
        chain = self._start(messages, restart)
        history: list[float] = []
        kept, stride, objective = [chain], (sweeps - sweeps // 2) // self.draws, -torch.inf
        for step in range(1, sweeps + 1):
            if method == "gibbs":
                chain, _, evidence_now = sweep(chain, messages, layout.steps, self.alpha, generator)
            else:
                first, moves, evidence_now, _ = counted(chain, messages, layout.steps)
            history.append(float(evidence_now) / len(messages))
            if progress and step % 10 == 0:
                progress(step, sweeps, f"log-evidence {history[-1]:.3f} a row")
            if method == "gibbs":
                kept += [chain] if step > sweeps // 2 and (sweeps - step) % stride == 0 else []
                continue
            # What cannot fall: the evidence and alpha sum log theta, Dirichlet(alpha) seen through the softmax.
            now = history[-1] + self.alpha * float(chain.initial.sum() + chain.transitions.sum()) / len(messages)
            if now - objective < tolerance:
                break
            objective = now
            chain = Chain((first + self.alpha).log().log_softmax(-1), (moves + self.alpha).log().log_softmax(-1))
        kept = kept[-self.draws :] if method == "gibbs" else [chain]
        self._kept = Chain(torch.cat([one.initial for one in kept]), torch.cat([one.transitions for one in kept]))
        return FitReport(len(history), len(history) < sweeps or method == "gibbs", {"log_evidence": history})

    def check_fit(self, *, method: str, sweeps: int, **_: Any) -> None:
        """Refuse too few sweeps; see :class:`serket.protocol.ChecksFit`."""
        enough(sweeps, self.draws, 2 * self.draws if method == "gibbs" else 1)

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Answer what the other rows of its sequence say of each row; see the class for the formula. Deterministic."""
        state = cast(Categorical, inbox["state"])
        layout = Layout.of(evidence)
        messages = layout.packed(state.logits.double())
        others, increments = smoothed(self._fitted(state.device), messages, layout.steps)
        asked = ports is None or "state" in ports
        reply: dict[str, Message] = {"state": Categorical(layout.unpacked(others).to(state.dtype))} if asked else {}
        log_evidence = layout.unpacked(increments.unsqueeze(-1)).squeeze(-1).to(state.dtype)
        return Reply(reply, log_evidence=log_evidence, bound="exact" if self.exact else "estimate")

    def step(self, before: Filter | None, message: Categorical) -> tuple[Filter, Tensor]:
        """Filter online: take in one message per sequence, and return the filter and log p(m_t | before t) ``(N,)``.

        Args:
            before: what the last step returned; None for the first row of the sequences.
            message: ``(N,)`` rows, one per sequence, as the inbox of ``state``; vacuous where nothing came.
        """
        filtered, _, increment = advanced(self._fitted(message.device), before, message.logits.double())
        earlier = torch.zeros_like(increment) if before is None else before.weight
        return filtered, log_mean(earlier + increment) - log_mean(earlier)

    def predicted(self, before: Filter | None, steps: int = 1) -> Filter:
        """Carry the filter on by so many rows of which nothing is heard; None is before the first row."""
        chain = self._fitted(torch.device("cpu") if before is None else before.weight.device)
        return ahead(chain, before, steps)

    def told(self, carried: Filter) -> Mapping[str, Message]:
        """Return log p(z_t | what came before t), averaged over the draws by their evidence."""
        return {"state": Categorical(carried.logits)}

    def updated(self, predicted: Filter, inbox: Mapping[str, Message]) -> Filter:
        """Take in the messages of this row."""
        return heard(predicted, cast(Categorical, inbox["state"]).logits.double())[0]

    def state(self) -> Mapping[str, Tensor]:
        """Return the draws of log pi and log A, ``(S, K)`` and ``(S, K, K)``; nothing before the first fit."""
        if self._kept is None:
            return {}
        return {"log_initial": self._kept.initial, "log_transitions": self._kept.transitions}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a state back; raises StateError where a tensor is missing or of another shape."""
        if not state:
            self._kept = None
            return
        for name, shape in (("log_initial", (self.states,)), ("log_transitions", (self.states, self.states))):
            if name not in state or state[name].shape[1:] != shape:
                raise StateError(
                    f"the state of a markov chain has no fitting '{name}'",
                    expected=f"(draws, {', '.join(map(str, shape))})",
                    found=str(tuple(state[name].shape)) if name in state else "nothing",
                )
        self._kept = Chain(state["log_initial"].double(), state["log_transitions"].double())

    def _fitted(self, device: torch.device) -> Chain:
        if self._kept is None:
            raise StateError("a markov chain has to be fitted before it can infer", fix="call fit, or load a state")
        return Chain(self._kept.initial.to(device), self._kept.transitions.to(device))

    def _start(self, messages: Tensor, restart: bool) -> Chain:
        """Start from the mean of the kept draws, or from uniform ones."""
        if self._kept is None or restart:
            flat = messages.new_zeros(1, self.states, self.states).log_softmax(-1)
            return Chain(flat[:, 0], flat)
        kept = self._fitted(messages.device)
        return Chain(log_mean(kept.initial).unsqueeze(0), log_mean(kept.transitions).unsqueeze(0))


def _positive(**options: float) -> None:
    for name, value in options.items():
        if not value > 0:
            raise GraphError(f"'{name}' of markov is out of range", expected="a number above zero", found=str(value))
