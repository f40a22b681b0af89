"""Other ways to divide concepts that are hard to tell apart, proposed from nothing but messages.

Modules that refit in turn climb to the nearest mode: two concepts that both hold half of two classes stay so, for every
module hears from the others that the border is right. As in split-merge sampling (Jain & Neal 2004; Ueda et al. 2000
for EM) the cure is a proposal that moves many rows at once. Where to cut is what the senses agree on: within a concept
they are independent, so what still correlates between their messages is a class that the concept does not know yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Proposal", "agreement", "proposals", "same_division", "separation"]

_RIDGE = 0.01  # of the mean variance of a profile: directions with less count for less


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """Rows named anew: ``labels`` ``(rows,)``; and how they came about, for people."""

    labels: Tensor
    text: str


def separation(messages: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Return how well concepts i and j are told apart, nats, ``(K, K)``; +inf on the diagonal and where one is empty.

    d_ij = mean over rows n of i of sum_m (l_mni - l_mnj), plus the same with i and j exchanged, where l_m are the log
    messages of module m: the symmetric divergence of the two concepts as the modules see them.

    Args:
        messages: ``(rows, K)`` logits per module.
        labels: ``(rows,)``, the present concept of each row.
    """
    total = torch.stack(list(messages)).sum(0)
    size = total.shape[-1]
    members = torch.nn.functional.one_hot(labels, size).to(total)
    counts = members.sum(0)
    mean = members.mT @ total / counts.clamp_min(1).unsqueeze(-1)  # row i: mean messages of the rows of i
    gain = mean.diagonal().unsqueeze(-1) - mean
    apart = gain + gain.mT
    empty = (counts == 0).unsqueeze(-1) | (counts == 0)
    return torch.where(empty | torch.eye(size, dtype=torch.bool, device=total.device), torch.inf, apart)


def agreement(profiles: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return what several profiles of the same rows agree on most, ``(rows,)``, and how much, between 0 and 1.

    With W_m the profiles of module m, centred and whitened with a ridge, the first left singular vector of
    [W_1 ... W_M] / sqrt(rows): generalised canonical correlation by maximal variance (Kettenring 1971). Its singular
    value s is sqrt(1 + (M - 1) r), with r the canonical correlation if M = 2. Of one profile: its first principal axis.

    Args:
        profiles: ``(rows, D)`` per module.
    """
    white = []
    for profile in profiles:
        centred = (profile - profile.mean(0)).double()
        values, vectors = torch.linalg.eigh(centred.mT @ centred / len(centred))
        ridge = _RIDGE * values.mean().clamp_min(torch.finfo(values.dtype).tiny)
        white.append(centred @ vectors if len(profiles) == 1 else centred @ (vectors * (values + ridge).rsqrt()))
    left, values, _ = torch.linalg.svd(torch.cat(white, -1) / len(white[0]) ** 0.5, full_matrices=False)
    strength = (values[0].square() - 1) / (len(profiles) - 1) if len(profiles) > 1 else torch.zeros(())
    return left[:, 0].to(profiles[0]), strength.clamp(0, 1)


def proposals(messages: Sequence[Tensor], labels: Tensor, generator: torch.Generator) -> Iterator[Proposal]:
    """Yield divisions, the most promising first.

    A module's message is a row's profile: how well each concept explains it. In turn, for the pairs of concepts that
    are hardest to tell apart: their rows are pooled and cut in two along what the profiles agree on; or the pair
    becomes one concept, and its second name goes to half of another one, whose rows are cut likewise, those concepts
    first in which the profiles agree most. Names that no row has go to such halves before any. At the end pairs are cut
    along random directions.

    Args:
        messages: ``(rows, K)`` logits per module.
        labels: ``(rows,)``.
        generator: of the random directions.
    """
    apart, size = separation(messages, labels), messages[0].shape[-1]
    pairs = sorted((float(apart[i, j]), i, j) for i in range(size) for j in range(i) if apart[i, j].isfinite())
    profiles = [one - one.mean(-1, keepdim=True) for one in messages]
    members = {k: (labels == k).nonzero().flatten() for k in range(size)}
    strength = {k: float(agreement([p[rows] for p in profiles])[1]) for k, rows in members.items() if len(rows) > 2}
    inner = sorted(strength, key=lambda k: -strength[k])
    unused = [k for k in range(size) if not len(members[k])][:1]
    for j, k in [(j, k) for j in unused for k in inner[:2]]:
        if (side := _cut(agreement([p[members[k]] for p in profiles])[0])) is not None:
            yield Proposal(_named(labels, members[k], side, k, j), f"{k} cut in two, {j} was empty")
    for _, i, j in pairs[:4]:
        rows = torch.cat([members[i], members[j]])
        if (side := _cut(agreement([p[rows] for p in profiles])[0])) is not None:
            yield Proposal(_named(labels, rows, side, i, j), f"{i} and {j} cut anew")
        for k in [k for k in inner if k not in (i, j)][:2]:
            if (side := _cut(agreement([p[members[k]] for p in profiles])[0])) is not None:
                merged = torch.where(labels == j, i, labels)
                yield Proposal(_named(merged, members[k], side, k, j), f"{j} joins {i}, {k} cut in two")
    for _, i, j in pairs[:4]:
        rows = torch.cat([members[i], members[j]])
        together = torch.cat([p[rows] for p in profiles], -1)
        together = (together - together.mean(0)) / together.std(0).clamp_min(torch.finfo(together.dtype).eps)
        direction = torch.randn(together.shape[-1], generator=generator, dtype=torch.float64).to(together)
        if (side := _cut(together @ direction)) is not None:
            yield Proposal(_named(labels, rows, side, i, j), f"{i} and {j} cut at random")


def same_division(one: Tensor, other: Tensor, size: int) -> bool:
    """Tell whether labels ``(rows,)`` below ``size`` divide 99 of 100 rows alike, whatever the names."""
    shared = torch.bincount(one * size + other, minlength=size * size).reshape(size, size)
    return bool(torch.minimum(shared.amax(0).sum(), shared.amax(1).sum()) >= 0.99 * len(one))


def _named(labels: Tensor, rows: Tensor, side: Tensor, i: int, j: int) -> Tensor:
    named = labels.clone()
    named[rows] = torch.where(side, torch.full_like(rows, i), torch.full_like(rows, j))
    return named


def _cut(values: Tensor) -> Tensor | None:
    """Divide numbers by two means: where the sum of squares within is least; None if they are all one."""
    order = values.double().sort().values
    count = torch.arange(1, len(order)).to(order)
    below = order.cumsum(0)[:-1]
    between = below.square() / count + (order.sum() - below).square() / (len(order) - count)
    place = int(between.argmax()) if len(order) > 1 else 0
    side = values.double() > order[place]
    return side if bool(side.any()) and not bool(side.all()) else None
