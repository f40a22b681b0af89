"""How agents that share nothing but symbols settle on one: proposals, verdicts, unanimity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from serket.messages import Categorical

__all__ = ["Agent", "Games", "Speaks", "play", "unanimous", "yes_to_all"]


class Speaks(Protocol):
    """All that a game knows of an agent: symbols it proposes, and how likely it is to accept one."""

    def propose(self, uniform: Tensor) -> Tensor:
        """Return a symbol for each uniform number, ``(rows, chains)``."""
        ...

    def accept(self, proposed: Tensor, present: Tensor) -> Tensor:
        """Return the probability of taking the proposed symbol for the present one, ``(rows, chains)``."""
        ...


class Agent:
    """One agent: it proposes from P(w | z), and accepts by min(1, P(z | w*) / P(z | w)) (Hagiwara et al. 2019).

    Args:
        likelihood: ``(rows, K)``, log P(z | w) up to a constant per row: the agent's own, which stays inside.
        prior: ``(K,)``, log P(w).

    Raises:
        MessageError: rows in which prior and likelihood exclude every symbol.
    """

    def __init__(self, likelihood: Tensor, prior: Tensor) -> None:
        self._likelihood = likelihood
        self._reached = Categorical(prior + likelihood).probs.cumsum(-1)

    def propose(self, uniform: Tensor) -> Tensor:
        """Invert the distribution function of P(w | z)."""
        # Up to rounding the last sum is 1; a symbol of probability zero is never reached.
        return torch.searchsorted(self._reached, uniform * self._reached[:, -1:])

    def accept(self, proposed: Tensor, present: Tensor) -> Tensor:
        """Compare likelihoods; anything is better than a present symbol that is impossible."""
        old, new = self._likelihood.gather(-1, present), self._likelihood.gather(-1, proposed)
        return torch.where(torch.isneginf(old), 1.0, (new - old).clamp_max(0.0).exp())


Verdict = Callable[[Sequence[Speaks], Tensor, Tensor], Tensor]
"""From (listeners, proposed, present) to the probability that the name changes."""


def unanimous(listeners: Sequence[Speaks], proposed: Tensor, present: Tensor) -> Tensor:
    """Let the name change if every listener accepts, each by itself: prod_b min(1, P(z_b | w*) / P(z_b | w)).

    As min(1, r) / min(1, 1 / r) = r, the product keeps detailed balance under P(w) prod_a P(z_a | w), for any number of
    agents (factorised Metropolis: Michel, Kapfer & Krauth 2014, eq. 5): no agent needs another's ratio.
    """
    chance = torch.ones_like(proposed, dtype=torch.float64)
    for listener in listeners:
        chance = chance * listener.accept(proposed, present)
    return chance


def yes_to_all(listeners: Sequence[Speaks], proposed: Tensor, present: Tensor) -> Tensor:
    """Let the name change whatever the listeners see: the control."""
    return torch.ones_like(proposed, dtype=torch.float64)


class Games(NamedTuple):
    """How often each name was held, ``(rows, K)``; mean probability of acceptance, ``(rows,)``; names, all chains'."""

    held: Tensor
    acceptance: Tensor
    names: Tensor


def play(
    agents: Sequence[Speaks],
    symbols: int,
    verdict: Verdict,
    draw: Callable[[int], Tensor],
    games: int,
    burn_in: int = 0,
    names: Tensor | None = None,
) -> Games:
    """Play in all rows and chains at once, the agents speaking in turn.

    A game counts for the name after it in expectation, a at the proposal and 1 - a at the present name, where a is the
    probability of acceptance: Rao-Blackwellised over the verdict (Frenkel 2004).

    Args:
        agents: two or more.
        symbols: K.
        verdict: the rule.
        draw: from the number of a game to uniforms ``(rows, chains, 2)``, float64: proposal and verdict.
        games: that count, 1 or more.
        burn_in: before those.
        names: ``(rows, chains)`` at the start; else what the first agent proposes.
    """
    names = agents[0].propose(draw(0)[..., 0].contiguous()) if names is None else names
    held = torch.zeros(len(names), symbols, dtype=torch.float64, device=names.device)
    accepted = held.new_zeros(len(names))
    for game in range(1, burn_in + games + 1):
        turn = game % len(agents)
        uniform = draw(game)
        proposed = agents[turn].propose(uniform[..., 0].contiguous())
        chance = verdict([agent for a, agent in enumerate(agents) if a != turn], proposed, names)
        if game > burn_in:
            held = held.scatter_add(1, proposed, chance).scatter_add(1, names, 1 - chance)
            accepted = accepted + chance.mean(1)
        names = torch.where(uniform[..., 1] < chance, proposed, names)
    return Games(held / (games * names.shape[1]), accepted / games, names)
