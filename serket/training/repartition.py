"""Other ways to divide two concepts that are hard to tell apart, proposed from nothing but messages.

Modules that refit in turn climb to the nearest mode: two concepts that both hold half of two classes stay so, for every
module hears from the others that the border is right. As in split-merge sampling (Jain & Neal 2004; Ueda et al. 2000
for EM) the cure is a proposal that moves many rows at once: pool the rows of two concepts and divide them anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Proposal", "proposals", "separation"]


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


def proposals(
    messages: Sequence[Tensor], labels: Tensor, generator: torch.Generator, *, most_pairs: int = 4, draws: int = 2
) -> Iterator[Proposal]:
    """Yield divisions of the pairs that are hardest to tell apart, the nearest pair first.

    A module's message is a row's profile: how well each concept explains it. Of each pair the rows are divided by two
    means on every module's profiles, and by random directions through all profiles together.

    Args:
        messages: ``(rows, K)`` logits per module.
        labels: ``(rows,)``.
        generator: of the random directions.
        most_pairs: pairs tried.
        draws: random directions per pair.
    """
    apart = separation(messages, labels)
    size = len(apart)
    pairs = sorted((float(apart[i, j]), i, j) for i in range(size) for j in range(i) if apart[i, j].isfinite())
    profiles = [one - one.mean(-1, keepdim=True) for one in messages]
    for _, i, j in pairs[:most_pairs]:
        rows = ((labels == i) | (labels == j)).nonzero().flatten()
        for number, profile in enumerate(profiles):
            side = _two_means(profile[rows], generator)
            if 0 < int(side.sum()) < len(rows):
                yield Proposal(_named(labels, rows, side, i, j), f"{i} and {j} by two means of message {number}")
        together = torch.cat([profile[rows] for profile in profiles], -1)
        together = (together - together.mean(0)) / together.std(0).clamp_min(torch.finfo(together.dtype).eps)
        for _ in range(draws):
            direction = torch.randn(together.shape[-1], generator=generator, dtype=torch.float64)
            across = together @ direction.to(together)
            yield Proposal(_named(labels, rows, across > across.median(), i, j), f"{i} and {j} at random")


def _named(labels: Tensor, rows: Tensor, side: Tensor, i: int, j: int) -> Tensor:
    named = labels.clone()
    named[rows] = torch.where(side, torch.full_like(rows, i), torch.full_like(rows, j))
    return named


def _two_means(points: Tensor, generator: torch.Generator) -> Tensor:
    """Divide rows by k-means with two centres: true on one side."""
    from sklearn.cluster import KMeans

    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    if len(points) < 3:
        return torch.zeros(len(points), dtype=torch.bool, device=points.device)
    found = KMeans(2, n_init=4, random_state=seed).fit(points.double().cpu().numpy()).labels_
    return torch.as_tensor(found, device=points.device) == 1
