"""Chains of Gibbs sampling over a Gaussian mixture, from where they start to the draws that are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from serket.modules import gibbs, quadratic
from serket.modules.collapsed import Collapsed
from serket.modules.labels import matching, reference, revived, seeds
from serket.modules.mixture import Mixture
from serket.modules.niw import Prior, draw_gaussians, draw_weights
from serket.modules.seen import Seen
from serket.protocol import Progress

__all__ = ["Chains", "Plan", "kernel", "run"]

_ENOUGH = 20_000
"""Rows that k-means, which runs many times, is given."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to sample: see :meth:`GaussianMixture.fit`."""

    components: int
    draws: int
    sweeps: int
    restarts: int
    collapsed: bool
    moves: int


@dataclass(frozen=True, slots=True, eq=False)
class Chains:
    """Where C chains stand: parameters, z ``(C, N, D)``, labels ``(C, N)``, and the last score ``(C,)``, nats."""

    mixture: Mixture
    points: Tensor
    labels: Tensor
    score: Tensor

    def __getitem__(self, chains: Tensor) -> Chains:
        return Chains(self.mixture[chains], self.points[chains], self.labels[chains], self.score[chains])


def run(
    seen: Seen, prior: Prior, warm: Mixture | None, plan: Plan, generator: torch.Generator, progress: Progress | None
) -> tuple[Mixture, list[float]]:
    """Sample, and keep label-aligned draws and the curve of log-likelihoods per row.

    The first half is for coming to rest: from k-means++, all chains at once, of which the one with the highest mean
    score over the second quarter goes on; or from ``warm``, in one chain. Draws are kept from the second half.
    """
    chains = _start(seen, prior, warm, plan, generator)
    step = kernel(seen, prior, plan, generator)
    burn, stride = plan.sweeps // 2, (plan.sweeps - plan.sweeps // 2) // plan.draws
    total = torch.zeros_like(chains.score)
    first = chains.labels
    history: list[float] = []
    kept: list[Mixture] = []
    drawn: list[Tensor] = []
    for now in range(1, plan.sweeps + 1):
        scored = now in (1, burn) or now % _pace(chains.mixture, seen) == 0
        keep = now > burn and (plan.sweeps - now) % stride == 0
        chains = step(chains, scored, keep)
        if now <= burn // 2 and not plan.collapsed:
            mixture = revived(chains.mixture, chains.points, chains.labels, seen.present, generator)
            chains = replace(chains, mixture=mixture)
        if scored:
            history.append(float(chains.score.max()) / len(seen.bias))
            total = total + chains.score if burn // 2 < now <= burn else total
        if now == burn:
            best = total.argmax().reshape(1)
            chains, first, total = chains[best], first[best], total[best]
        if keep:
            kept.append(chains.mixture)
            drawn.append(chains.labels)
        if progress and now % 10 == 0:
            progress(now, plan.sweeps, f"log-likelihood {history[-1]:.3f} a row")
    every = torch.cat(drawn[-plan.draws :])
    order = matching(every, reference(seen.bias, first if warm else every[-1:]))
    return Mixture.cat(kept[-plan.draws :]).relabel(order), history


def kernel(seen: Seen, prior: Prior, plan: Plan, generator: torch.Generator) -> Callable[[Chains, bool, bool], Chains]:
    """Return one sweep: a function of where the chains stand, whether to score, and whether parameters are wanted.

    - Blocked, of points: k | theta, pi; then theta, pi | k, by :func:`quadratic.sweep`.
    - Blocked, of messages: k | theta, pi, z integrated out; z | k, theta; then theta, pi | k, z.
    - Collapsed: k | z, theta and pi integrated out, and theta, pi | k, z where wanted. Of messages, z and k are drawn
      first as in the blocked form: k and z together given theta, k again given z, and theta given both.
    - Split-merge moves act on k given z, before theta and pi are drawn.
    """
    design = quadratic.Design.of(seen) if seen.points is not None and not plan.collapsed else None
    integrated = Collapsed(seen, prior) if plan.collapsed or plan.moves else None

    def step(chains: Chains, score: bool, keep: bool) -> Chains:
        if design is not None:
            mixture, labels, scores = quadratic.sweep(chains.mixture, design, prior, generator)
            chains = Chains(mixture, chains.points, labels, scores)
        elif seen.info is not None:
            chains = Chains(*gibbs.sweep(chains.mixture, chains.points, seen, prior, generator, integrate=score))
        if integrated is None:
            return chains
        labels, scores = chains.labels, chains.score
        if plan.collapsed:
            labels, found = integrated.sweep(chains.points, labels, generator)
            scores = scores if seen.info is not None else found
        if plan.moves:
            labels, _ = integrated.moves(chains.points, labels, plan.moves, generator)
        mixture = chains.mixture
        if keep or seen.points is None or not plan.collapsed:
            mixture = _parameters(integrated, chains.points, labels, seen, prior, generator)
        return Chains(mixture, chains.points, labels, scores)

    return step


def _parameters(
    integrated: Collapsed, points: Tensor, labels: Tensor, seen: Seen, prior: Prior, generator: torch.Generator
) -> Mixture:
    """Draw theta, pi | k, z from the statistics in float64."""
    means, cholesky = draw_gaussians(integrated.law(points, labels), generator)
    counts = torch.nn.functional.one_hot(labels, means.shape[-2]).sum(-2).to(means)
    log_weights = draw_weights(counts, prior, generator) if seen.owned else torch.zeros_like(counts)
    return Mixture(means.to(points), cholesky.to(points), log_weights.to(points))


def _start(seen: Seen, prior: Prior, warm: Mixture | None, plan: Plan, generator: torch.Generator) -> Chains:
    guess, labels = seen.guess(), None
    if warm is not None:
        mixture = warm
    elif seen.points is None or int(seen.present.sum()) <= _ENOUGH:
        labels = seeds(guess, seen.present, plan.components, plan.restarts, generator)
        mixture = gibbs.draw_mixture(guess, labels, plan.components, seen, prior, generator)
    else:
        rows = seen.present.nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator, device=rows.device)[:_ENOUGH]]
        some = replace(seen, bias=seen.bias[rows], present=seen.present[rows], points=seen.points[rows])
        mixture = _start(some, prior, None, plan, generator).mixture
    if labels is None and seen.points is not None:
        labels = quadratic.draw_labels(mixture, quadratic.Design.of(seen), generator)
    elif labels is None:
        labels = gibbs.label_logits(mixture, guess, seen, True).argmax(-1)
    order = matching(labels, reference(seen.bias, labels))
    points = guess.expand(len(labels), *guess.shape)
    labels = order.argsort(-1).gather(-1, labels)
    return Chains(mixture.relabel(order), points, labels, torch.zeros(len(labels)).to(guess))


def _pace(mixture: Mixture, seen: Seen) -> int:
    """Every how many sweeps z is integrated out: every one where that is cheap, else every tenth."""
    per_row = seen.precision is not None and len(seen.precision) > 1
    return 10 if per_row and mixture.means.numel() * len(seen.bias) > 2**18 else 1
