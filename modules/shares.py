"""How well hypotheses fit the others, how much of the belief each gets by sampling, and their mixture projected."""

from __future__ import annotations

import torch
from torch import Tensor

from serket.messages import Dirichlet, Gaussian, Message, Particles, systematic
from serket.rows import row_uniform, seeded

__all__ = ["by_metropolis_hastings", "by_resampling", "fit_of", "projection"]


def fit_of(message: Message, offers: Tensor) -> Tensor:
    """Log of the message at vectors, or of its integral against counts, log B(alpha + c): ``(rows, L)``, nats, bare."""
    if isinstance(message, Dirichlet):
        return Dirichlet(message.counts.unsqueeze(-2) + offers).log_z()
    assert isinstance(message, Gaussian)
    return (Particles.of(offers, torch.zeros_like(offers[..., 0])) * message).effective()


def projection(cavity: Message, offers: Tensor, shares: Tensor, told: Tensor) -> Message:
    """Return the mixture of the hypotheses under the cavity as one message; the cavity in rows that are not told.

    Vectors: the Gaussian of the same moments. Counts: the mixture of Dir(alpha + c_l) becomes Dir(A m) with its mean m
    and its total variance, sum_v Var z_v = (1 - sum_v m_v^2) / (A + 1).
    """
    if isinstance(cavity, Gaussian):
        return Particles.of(offers, shares.log(), told).projected().where(told, cavity)
    assert isinstance(cavity, Dirichlet)
    alpha, share = cavity.concentration.unsqueeze(-2) + offers, shares.unsqueeze(-1)
    total = alpha.sum(-1, keepdim=True)
    means = alpha / total
    mean = (share * means).sum(-2)
    within = (share * (1 - means.square().sum(-1, keepdim=True)) / (total + 1)).sum(-2)
    between = (share * (means - mean.unsqueeze(-2)).square()).sum((-2, -1)).unsqueeze(-1)
    precision = (1 - mean.square().sum(-1, keepdim=True)) / (within + between) - 1
    return Dirichlet(precision * mean - 1).where(told, cavity)


def by_resampling(
    log_weights: Tensor, log_fit: Tensor, generator: torch.Generator, row_id: Tensor, survivors: int
) -> Tensor:
    """Return the shares of hypotheses ``(rows, L)`` among the survivors of importance resampling.

    Weights w_l f_l, of the offer and of how it fits what the others say, then systematic resampling (Rubin 1988; in
    SERKET, Nakamura, Nagai & Taniguchi 2018).
    """
    weights = (log_weights + log_fit).softmax(-1)
    uniform = row_uniform(generator, row_id, (1,), dtype=weights.dtype).squeeze(-1)
    return _shares(systematic(weights, uniform, survivors), weights)


def by_metropolis_hastings(
    log_weights: Tensor, log_fit: Tensor, generator: torch.Generator, row_id: Tensor, chains: int, steps: int
) -> tuple[Tensor, Tensor]:
    """Return the shares of hypotheses ``(rows, L)`` in the second half of Metropolis-Hastings chains; their acceptance.

    Proposals are drawn from the offer, w_l, whatever the chain's state, so that only the fit is left in the ratio:
    min(1, f(l*) / f(l)) (Hastings 1970 for independent proposals; in SERKET, Nakamura, Nagai & Taniguchi 2018).
    """
    cumulative = log_weights.softmax(-1).cumsum(-1)
    whole = cumulative[:, -1:]
    last = (cumulative < whole).sum(-1, keepdim=True)  # of those with a weight
    state, shares = torch.zeros_like(last).expand(-1, chains), torch.zeros_like(log_weights)
    accepted = log_fit.new_zeros(len(log_fit))
    for step in range(steps + 1):  # the first only draws where chains start
        again = seeded(generator.initial_seed(), str(step), device=generator.device)
        where, ratio = row_uniform(again, row_id, (2, chains), dtype=log_weights.dtype).unbind(1)
        proposal = torch.minimum(torch.searchsorted(cumulative, where * whole, right=True), last)
        move = ratio.log() < log_fit.gather(-1, proposal) - log_fit.gather(-1, state)
        state = torch.where(move, proposal, state) if step else proposal
        accepted = accepted + (move.to(log_fit).mean(-1) / steps if step else 0.0)
        shares = shares + (_shares(state, log_weights) if step > steps // 2 else 0.0)
    return shares / (steps - steps // 2), accepted


def _shares(index: Tensor, like: Tensor) -> Tensor:
    ones = torch.ones_like(index, dtype=like.dtype)
    return torch.zeros_like(like).scatter_add(-1, index, ones) / index.shape[-1]
