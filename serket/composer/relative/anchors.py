"""Relative representations: a reading as weights over anchors, and what they are good for without any training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from serket.errors import DataError, ShapeError
from serket.messages import Categorical

__all__ = ["Near", "near", "retrieve", "spread", "vote"]

CELLS = 2**22  # similarities held at a time


class Near(NamedTuple):
    """The anchors a reading is near to and weights that sum to 1, ``(rows, k)``; how far to hear it, ``(rows,)``.

    The gain is in [0, 1], 0 where nothing was read.
    """

    which: Tensor
    weight: Tensor
    gain: Tensor

    def masked(self, rows: Tensor) -> Near:
        """Keep the rows that are true; the others were not read."""
        return Near(self.which, self.weight, torch.where(rows, self.gain, 0.0))


def near(points: Tensor, anchors: Tensor, gain: Tensor, *, keep: int, power: float, itself: bool = True) -> Near:
    """Return w_i ~ max(0, s_i)^p - max(0, s_(k+1))^p over the k anchors of the greatest cosine similarity s.

    Sparse relative representations (Norelli et al. 2023, section 2), but for the term in s_(k+1), the best similarity
    left out: with it weights fall to zero where the cut is, so that a reply is continuous in the reading.

    Args:
        points: ``(rows, D)``.
        anchors: ``(N, D)``.
        gain: ``(rows,)``.
        keep: k.
        power: p.
        itself: false if point n is anchor n, and is not to see itself.
    """
    unit = torch.nn.functional.normalize(anchors, dim=1)
    found = []
    step = max(1, CELLS // len(anchors))
    for start in range(0, len(points), step):
        like = torch.nn.functional.normalize(points[start : start + step], dim=1) @ unit.T
        if not itself:
            own = torch.arange(start, start + len(like), device=like.device)
            like = like.scatter(1, own.unsqueeze(1), -1.0)
        found.append(like.topk(min(keep + 1, len(anchors)), dim=1))
    which = torch.cat([part.indices for part in found])
    strength = torch.cat([part.values for part in found]).clamp_min(0.0) ** power
    if strength.shape[1] > keep:
        # All alike to the last digit: equal weights, not none.
        strength = strength - (1 - 1e-9) * strength[:, -1:]
        which, strength = which[:, :keep], strength[:, :keep]
    total = strength.sum(1, keepdim=True)
    read = (total > 0).squeeze(1)
    weight = torch.where(read.unsqueeze(1), strength / torch.where(total > 0, total, 1.0), 1 / which.shape[1])
    return Near(which, weight, torch.where(read, gain, 0.0))


def spread(sources: list[Near], anchors: int) -> Tensor:
    """Return the sources' mean weights over all anchors, ``(rows, N)``, by gain; zeros where none reads."""
    total = sum(source.gain for source in sources)
    assert isinstance(total, Tensor)
    whole = torch.zeros(len(total), anchors, dtype=total.dtype, device=total.device)
    for source in sources:
        share = source.gain / torch.where(total > 0, total, 1.0)
        whole = whole.scatter_add(1, source.which, share.unsqueeze(1) * source.weight)
    return whole


def retrieve(queries: Tensor, gallery: Tensor, count: int = 10) -> Tensor:
    """Return for each query the ``count`` most similar rows of the gallery, best first, ``(queries, count)``.

    By cosine: of relative representations from any two modalities (Norelli et al. 2023), or of the means of beliefs at
    a shared latent.

    Args:
        queries: ``(queries, F)``.
        gallery: ``(rows, F)``, F the number of anchors, or dimensions of the shared latent.
        count: how many, at most the rows there are.

    Raises:
        ShapeError: the two are over different anchors.
    """
    if queries.shape[1] != gallery.shape[1]:
        raise ShapeError(
            "queries and gallery are not over the same anchors",
            expected=f"(rows, {queries.shape[1]})",
            found=f"(rows, {gallery.shape[1]})",
            fix="represent both by the same composer",
        )
    unit = torch.nn.functional.normalize
    like = unit(queries, dim=1) @ unit(gallery, dim=1).T
    return like.topk(min(count, len(gallery)), dim=1).indices


def vote(representation: Tensor, labels: Tensor, categories: int) -> Categorical:
    """Return p(label) = sum_i r_i [label of anchor i], over the anchors that have one; vacuous where none is near.

    Args:
        representation: ``(rows, N)``, as of ``Relative.represent``.
        labels: ``(N,)``, whole numbers, negative where an anchor has no label.
        categories: how many labels there are.

    Raises:
        DataError: another number of labels than of anchors, or a label that is none of the categories.
    """
    if len(labels) != representation.shape[1] or int(labels.max()) >= categories:
        raise DataError(
            "labels do not fit the anchors",
            expected=f"{representation.shape[1]} labels below {categories}, negative where there is none",
            found=f"{len(labels)} labels up to {int(labels.max())}",
            fix="take them by row: labels[composer.anchor_rows]",
        )
    known = labels >= 0
    named = torch.nn.functional.one_hot(labels.long().clamp_min(0), categories).to(representation) * known.unsqueeze(1)
    votes = representation @ named
    return Categorical(votes.clamp_min(torch.finfo(votes.dtype).tiny).log()).mask(votes.sum(1) > 0)
