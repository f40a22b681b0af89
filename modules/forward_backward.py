"""Hidden Markov chains as algebra: forward, backward and backward sampling, in log space, many sequences at once.

Every parameter has a leading dimension C (restarts, chains, or kept draws). Rows come packed by time: the first rows of
all sequences, longest sequence first, then their second rows, and so on, so that step t + 1 is a prefix of step t and
nothing is padded. Loops run over time only. Sources: Rabiner 1989, section III; Scott 2002, "Bayesian methods for
hidden Markov models", section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from serket.modules.niw import draw_dirichlet

__all__ = [
    "Chain",
    "Filter",
    "advanced",
    "ahead",
    "backward",
    "counted",
    "draw_paths",
    "forward",
    "heard",
    "log_mean",
    "pairs",
    "smoothed",
    "sweep",
    "tallied",
]


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Parameters of C chains: log p(z_1) ``(C, K)`` and log p(z_t = j | z_t-1 = i) ``(C, K, K)``, i before j."""

    initial: Tensor
    transitions: Tensor

    def __getitem__(self, chains: slice | Tensor) -> Self:
        return type(self)(self.initial[chains], self.transitions[chains])


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """What online filtering carries for N sequences.

    Args:
        filtered: ``(C, N, K)``, log p(z_t | what came up to t), per kept draw.
        weight: ``(C, N)``, log-evidence of all that came, per kept draw.
    """

    filtered: Tensor
    weight: Tensor

    @property
    def logits(self) -> Tensor:
        """Log p(z_t | what came up to t), ``(N, K)``, the draws averaged by their evidence."""
        joint = self.filtered + self.weight.unsqueeze(-1)
        return joint.logsumexp(0).log_softmax(-1)


def advanced(chain: Chain, before: Filter | None, message: Tensor) -> tuple[Filter, Tensor, Tensor]:
    """Take in one message per sequence, ``(N, K)`` or ``(C, N, K)``; without a filter it is the first one.

    p(z_t | t) is proportional to m_t(z_t) sum_i p(i | t - 1) A[i, z_t] (Rabiner 1989, eq. 20). A message that excludes
    every state that is possible is passed over: its increment is -inf, and the chain goes on from its prediction.

    Returns:
        The filter, the prediction log p(z_t | before t) ``(C, N, K)``, the increment log p(m_t | before t) ``(C, N)``.
    """
    prediction = ahead(chain, before, 1, message.shape[-2])
    filtered, increment = heard(prediction, message)
    return filtered, prediction.filtered, increment


def ahead(chain: Chain, before: Filter | None, steps: int, sequences: int = 1) -> Filter:
    """Return the filter ``steps`` rows later, p(z_t) = sum_i p(z_t-1 = i) A[i, z_t]; with none before, pi."""
    if before is None:
        prediction = chain.initial.unsqueeze(-2).expand(-1, sequences, -1)
        before, steps = Filter(prediction, prediction.new_zeros(prediction.shape[:-1])), steps - 1
    filtered = before.filtered
    for _ in range(steps):
        filtered = _stepped(filtered, chain.transitions.mT)
    return Filter(filtered, before.weight)


def heard(prediction: Filter, message: Tensor) -> tuple[Filter, Tensor]:
    """Return the filter under one message per sequence, and the increments; see :func:`advanced`."""
    joint = prediction.filtered + message
    increment = joint.logsumexp(-1)
    possible = increment.isfinite()
    passed = torch.where(possible, increment, 0.0)
    filtered = torch.where(possible.unsqueeze(-1), joint - passed.unsqueeze(-1), prediction.filtered)
    return Filter(filtered, prediction.weight + passed), increment


@dataclass(frozen=True, slots=True, eq=False)
class Forward:
    """Of packed rows: filtered and predicted ``(C, rows, K)``, normalised; increments and ``before``, ``(C, rows)``.

    ``before`` is the log-evidence of all messages before t in the sequence.
    """

    filtered: Tensor
    predicted: Tensor
    increments: Tensor
    before: Tensor


def forward(chain: Chain, messages: Tensor, steps: tuple[slice, ...]) -> Forward:
    """Filter packed messages ``(rows, K)`` or ``(C, rows, K)``."""
    state: Filter | None = None
    found: list[tuple[Tensor, ...]] = []
    for step in steps:
        now = messages[..., step, :]
        state = state and Filter(state.filtered[:, : now.shape[-2]], state.weight[:, : now.shape[-2]])
        before = state.weight if state else now.new_zeros(len(chain.initial), now.shape[-2])
        state, predicted, increment = advanced(chain, state, now)
        found.append((state.filtered, predicted, increment, before))
    if not found:
        none = messages.new_zeros(len(chain.initial), 0, messages.shape[-1])
        return Forward(none, none, none[..., 0], none[..., 0])
    filtered, predicted, increments, earlier = (torch.cat(part, 1) for part in zip(*found, strict=True))
    return Forward(filtered, predicted, increments, earlier)


def backward(chain: Chain, messages: Tensor, steps: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
    """Log p(messages after t | z_t) of packed rows, ``(C, rows, K)``, less its maximum, and that maximum ``(C, rows)``.

    beta_t(i) = sum_j A[i, j] m_t+1(j) beta_t+1(j) (Rabiner 1989, eq. 25); 1 at the end of a sequence. Where what comes
    after excludes every state, it says nothing.
    """
    shape = (len(chain.initial), *messages.shape[-2:])
    after, scale = messages.new_zeros(shape), messages.new_zeros(shape[:-1])
    for earlier, step in reversed(list(zip(steps, steps[1:], strict=False))):
        told = slice(earlier.start, earlier.start + step.stop - step.start)
        beta = _stepped(messages[..., step, :] + after[:, step], chain.transitions)
        top = beta.amax(-1)
        possible = top.isfinite()
        top = torch.where(possible, top, 0.0)
        after[:, told] = torch.where(possible.unsqueeze(-1), beta - top.unsqueeze(-1), 0.0)
        scale[:, told] = top + scale[:, step]
    return after, scale


def smoothed(chain: Chain, messages: Tensor, steps: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
    """Log of what all other rows say of z_t, ``(rows, K)``, normalised, and the evidence increments ``(rows,)``.

    Per draw p(z_t, messages at other rows) = prediction times backward message: the own message of the row is not in
    it. Draws are averaged in probability, whole sequences at a time: those that explain the other rows better weigh
    more. Increments are log p(m_t | before t) under the same average, so that they sum to log (1/S) sum_s p(m | s).
    """
    ahead = forward(chain, messages, steps)
    after, scale = backward(chain, messages, steps)
    joint = ahead.predicted + after + (ahead.before + scale).unsqueeze(-1)
    increments = log_mean(ahead.before + ahead.increments) - log_mean(ahead.before)
    return log_mean(joint).log_softmax(-1), increments


def pairs(
    chain: Chain, ahead: Forward, after: Tensor, messages: Tensor, steps: tuple[slice, ...]
) -> Iterator[tuple[slice, Tensor]]:
    """Yield per step but the first p(z_t-1 = i, z_t = j | all messages), ``(C, rows of the step, K, K)``."""
    for earlier, step in zip(steps, steps[1:], strict=False):
        first = ahead.filtered[:, earlier.start : earlier.start + step.stop - step.start]
        second = messages[..., step, :] + after[:, step]
        joint = first.unsqueeze(-1) + chain.transitions.unsqueeze(-3) + second.unsqueeze(-2)
        total = joint.logsumexp((-2, -1), keepdim=True)
        yield step, torch.where(total.isfinite(), joint - total, -torch.inf).exp()


def counted(
    chain: Chain, messages: Tensor, steps: tuple[slice, ...]
) -> tuple[Tensor, Tensor, Tensor, Callable[[], Tensor]]:
    """Count what a chain is expected to have done: the E-step of Baum and Welch.

    Returns:
        First states ``(C, K)``, transitions ``(C, K, K)``, the log-evidence of all rows ``(C,)``, and a function that
        gives the posteriors of the packed rows, ``(C, rows, K)``.
    """
    ahead = forward(chain, messages, steps)
    after, _ = backward(chain, messages, steps)
    moves = torch.zeros_like(chain.transitions)
    for _, pair in pairs(chain, ahead, after, messages, steps):
        moves = moves + pair.sum(1)

    def posterior() -> Tensor:
        return (ahead.filtered + after).softmax(-1)

    first = (ahead.filtered[:, steps[0]] + after[:, steps[0]]).softmax(-1).sum(1)
    return first, moves, ahead.increments.sum(-1), posterior


def draw_paths(
    chain: Chain, messages: Tensor, steps: tuple[slice, ...], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw z_1..T from its posterior, packed ``(C, rows)``: filter forward, sample backward (Scott 2002, eq. 10).

    Returns:
        The states, and the log-evidence of all rows, ``(C,)``.
    """
    ahead = forward(chain, messages, steps)
    # An exponential race: the largest of logit - log E, E ~ Exp(1), has the probabilities of the logits.
    race = ahead.filtered - torch.empty_like(ahead.filtered).exponential_(generator=generator).log()
    states = torch.zeros_like(race[..., 0], dtype=torch.int64)
    number = torch.arange(len(chain.initial), device=states.device).unsqueeze(-1)
    later: slice | None = None
    for step in reversed(steps):
        logits = race[:, step]
        if later is not None:
            into = chain.transitions.mT[number, states[:, later]]  # log A[i, z_t+1], (C, rows, K)
            logits = torch.cat([logits[:, : into.shape[1]] + into, logits[:, into.shape[1] :]], 1)
        states[:, step] = logits.argmax(-1)
        later = step
    return states, ahead.increments.sum(-1)


def tallied(states: Tensor, size: int, steps: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
    """Count first states ``(C, K)`` and transitions ``(C, K, K)`` of packed paths ``(C, rows)``."""
    lengths = [step.stop - step.start for step in steps]
    earlier = [states[:, step.start : step.start + n] for step, n in zip(steps, lengths[1:], strict=False)]
    later = states[:, lengths[0] :]
    number = torch.arange(len(states), device=states.device).unsqueeze(-1)
    moves = (number * size + torch.cat([later[:, :0], *earlier], 1)) * size + later
    counts = moves.flatten().bincount(minlength=len(states) * size * size).reshape(-1, size, size)
    return one_hot(states[:, steps[0]], size).sum(1).double(), counts.double()


def sweep(
    chain: Chain, messages: Tensor, steps: tuple[slice, ...], alpha: float, generator: torch.Generator
) -> tuple[Chain, Tensor, Tensor]:
    """Draw paths given pi and A, then pi and A given the paths, by blocked Gibbs sampling (Scott 2002, section 2.2).

    Returns:
        The chain, packed states ``(C, rows)``, and the log-evidence ``(C,)`` under the chain before.
    """
    states, evidence = draw_paths(chain, messages, steps, generator)
    first, moves = tallied(states, messages.shape[-1], steps)
    return Chain(draw_dirichlet(first + alpha, generator), draw_dirichlet(moves + alpha, generator)), states, evidence


def log_mean(scores: Tensor) -> Tensor:
    """Log of the mean over the first dimension."""
    return scores.logsumexp(0) - torch.tensor(float(len(scores))).log().to(scores)


def _stepped(logits: Tensor, into: Tensor) -> Tensor:
    """Log sum_j into[i, j] exp(logits_j), for ``(C, N, K)`` and ``(C, K, K)``."""
    return (logits.unsqueeze(-2) + into.unsqueeze(-3)).logsumexp(-1)
