"""What concepts found without labels say of labels."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["label_shares"]


def label_shares(beliefs: Tensor, labels: Tensor, classes: int, steps: int = 50) -> Tensor:
    """Return T, ``(K, classes)``: the probability of each label in each concept, by maximum likelihood.

    A concept found without labels has no name, and may hold several: sum_k b(k) T[k, y] is what a belief says of label
    y. T maximises the sum over rows, and over the subsets of senses that beliefs are under, of its logarithm, by EM:

        r(k) = b(k) T[k, y] / sum_j b(j) T[j, y],    T[k, y] = sum of r(k) over rows of label y, normalised over y.

    Counting rows by their beliefs, the first step of it, takes what a belief leaves open for what the concept holds.
    One row more, shared evenly, stands in every concept.

    Args:
        beliefs: ``(subsets, rows, K)``, probabilities.
        labels: ``(rows,)``, whole numbers from 0.
        classes: how many labels there are.
        steps: of EM.
    """
    which = torch.nn.functional.one_hot(labels.long(), classes).to(beliefs)
    share = beliefs
    for _ in range(steps):
        counts = (share.mT @ which).mean(0) + 1 / classes
        naming = counts / counts.sum(1, keepdim=True)
        told = beliefs * (which @ naming.T)
        share = told / told.sum(-1, keepdim=True).clamp_min(1e-300)
    return naming
