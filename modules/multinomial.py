"""One sweep of blocked Gibbs sampling over a mixture of multinomials, all chains at once.

Every parameter has a leading dimension C: chains while fitting, kept draws while inferring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from serket.modules.gibbs import draw_labels
from serket.modules.niw import draw_dirichlet

__all__ = [
    "Heard",
    "Prior",
    "Profiles",
    "draw_profiles",
    "draw_tables",
    "label_logits",
    "revived",
    "sweep",
    "word_scores",
]


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What a fit knows of N rows, shared by all chains (a leading chain dimension is allowed).

    Args:
        bias: ``(N, K)``, log-probabilities of the categories, nats, from the rest of the graph: once per row.
        counts: ``(N, V)``, not negative; a row of zeros says nothing.
        views: per module below ``(N, Y_j)``, how likely its evidence is under each of its categories.
        owned: whether the weights are this model's to learn; if not, ``bias`` alone speaks about the category.
    """

    bias: Tensor
    counts: Tensor
    views: tuple[Tensor, ...] = ()
    owned: bool = True


@dataclass(frozen=True, slots=True)
class Prior:
    """Pseudo-counts of the Dirichlet priors: per word, per cell of a table, per category."""

    words: float = 1.0
    tables: float = 1.0
    weights: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Profiles:
    """Parameters of C mixtures: log word probabilities ``(C, K, V)``, tables of logs ``(C, K, Y_j)``, ``(C, K)``."""

    words: Tensor
    tables: tuple[Tensor, ...]
    log_weights: Tensor

    def __getitem__(self, chains: slice | Tensor) -> Self:
        return self._map(lambda part: part[chains])

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Put chains, or draws, one after another."""
        tables = tuple(torch.cat(each) for each in zip(*(part.tables for part in parts), strict=True))
        words, weights = (torch.cat([getattr(part, name) for part in parts]) for name in ("words", "log_weights"))
        return cls(words, tables, weights)

    def relabel(self, order: Tensor) -> Self:
        """Make category ``order[c, k]`` of mixture c its category k; ``order`` is ``(C, K)``."""
        chain = torch.arange(len(order), device=order.device).unsqueeze(-1)
        return self._map(lambda part: part[chain, order])

    def to(self, like: Tensor) -> Self:
        """Return the parameters in the dtype and on the device of a tensor."""
        return self._map(lambda part: part.to(like))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(change(self.words), tuple(change(part) for part in self.tables), change(self.log_weights))


def sweep(
    profiles: Profiles, heard: Heard, prior: Prior, generator: torch.Generator, power: float = 1.0
) -> tuple[Profiles, Tensor, Tensor]:
    """Draw k | theta, pi, then theta, pi | k.

    Args:
        profiles: where C chains stand.
        heard: what is known of the rows.
        prior: the hyper-parameters.
        generator: the source of randomness.
        power: exponent on the likelihood while labels are drawn; below 1 while a fit looks for its mode.

    Returns:
        The parameters, labels ``(C, N)`` and, ``(C,)``, the log-likelihood of theta and pi before the sweep.
    """
    logits = label_logits(profiles, heard, power)
    labels = draw_labels(logits, generator)
    profiles = draw_profiles(labels, profiles.tables, heard, prior, generator)
    return profiles, labels, logits.logsumexp(-1).sum(-1)


def label_logits(profiles: Profiles, heard: Heard, power: float = 1.0) -> Tensor:
    """Log p(k_n = k | ...) up to a constant, ``(C, N, K)``: bias + log pi_k + log p(counts and messages of n | k)."""
    scores = word_scores(profiles.words, heard.counts)
    for table, view in zip(profiles.tables, heard.views, strict=True):
        scores = scores + (view @ table.exp().mT).log()
    return power * scores + heard.bias + profiles.log_weights.unsqueeze(-2)


def word_scores(words: Tensor, counts: Tensor) -> Tensor:
    """sum_v c_nv log phi_kv, ``(C, N, K)``, of words ``(C, K, V)``; one product for all chains."""
    if counts.dim() > 2:
        return torch.matmul(counts, words.mT)
    scores: Tensor = (counts @ words.flatten(0, 1).mT).unflatten(-1, words.shape[:2]).movedim(-2, 0)
    return scores


def draw_profiles(
    labels: Tensor, tables: Sequence[Tensor], heard: Heard, prior: Prior, generator: torch.Generator
) -> Profiles:
    """Draw theta, pi given labels ``(C, N)``; weights that are not owned are uniform."""
    members = one_hot(labels, heard.bias.shape[-1]).to(heard.bias)
    words = draw_dirichlet(prior.words + members.mT @ heard.counts, generator)
    drawn = draw_tables(labels, members, tables, heard.views, prior.tables, generator)
    rows = members.sum(-2)
    return Profiles(words, drawn, draw_dirichlet(prior.weights + rows, generator) if heard.owned else 0 * rows)


def draw_tables(
    labels: Tensor,
    members: Tensor,
    tables: Sequence[Tensor],
    views: Sequence[Tensor],
    pseudo: float,
    generator: torch.Generator,
) -> tuple[Tensor, ...]:
    """Draw y_jn | k_n, its message and the tables, then the tables given k and y; silent rows have no y."""
    drawn = []
    chain = torch.arange(len(labels), device=labels.device).unsqueeze(-1)
    for table, view in zip(tables, views, strict=True):
        told = (view != view[..., :1]).any(-1).unsqueeze(-1)
        y = draw_labels(table[chain, labels] + view.log(), generator)
        drawn.append(draw_dirichlet(pseudo + members.mT @ (one_hot(y, view.shape[-1]) * told).to(members), generator))
    return tuple(drawn)


def revived(profiles: Profiles, labels: Tensor, heard: Heard, generator: torch.Generator) -> Profiles:
    """Split categories: one without rows moves half-way onto some row, with the weight of that row's own.

    The prior does not place an empty category near data in many dimensions. The move does not leave the posterior
    invariant, and so belongs to the beginning of a fit.
    """
    components = heard.bias.shape[-1]
    empty = one_hot(labels, components).sum(-2) < 2
    pick = torch.randint(heard.counts.shape[-2], empty.shape, generator=generator, device=labels.device)
    chain = torch.arange(len(labels), device=labels.device).unsqueeze(-1)
    split = profiles.relabel(labels[chain, pick])
    chosen = heard.counts[pick] + 0.01
    own = (split.words.exp() + chosen / chosen.sum(-1, keepdim=True)).log().log_softmax(-1)
    kept, moved = profiles._map(lambda part: part), replace(split, words=own)

    def choose(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(empty if a.dim() == 2 else empty.unsqueeze(-1), b, a)

    return Profiles(
        choose(kept.words, moved.words),
        tuple(map(choose, kept.tables, moved.tables)),
        choose(kept.log_weights, moved.log_weights),
    )
