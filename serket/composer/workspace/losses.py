"""The losses of a global workspace, over paired and unpaired rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from serket.composer.workspace.latent import Space
from serket.composer.workspace.reading import Reading
from serket.errors import GraphError, suggestion

__all__ = ["DEFAULT", "Batch", "Loss", "losses_of", "weights_of"]

Loss = Literal["translation", "demi_cycle", "cycle", "contrastive", "fused"]
DEFAULT: Mapping[Loss, float] = {"translation": 1.0, "demi_cycle": 1.0, "cycle": 1.0, "contrastive": 0.1, "fused": 1.0}
"""Weights as in Devillers, Maytie & VanRullen (2024); ``fused``: several views in, one out."""


def weights_of(losses: Mapping[Loss, float] | None) -> dict[str, float]:
    """Return the weights of the losses that count; those not named are off.

    Raises:
        GraphError: an unknown name, a weight that is no number from zero up, or none above zero.
    """
    chosen = dict(DEFAULT if losses is None else losses)
    for name, weight in chosen.items():
        if name not in DEFAULT:
            raise GraphError(f"a workspace knows no loss '{name}'", available=list(DEFAULT),
                             fix=suggestion(name, DEFAULT) or f"write one of these, or remove '{name}'")  # fmt: skip
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise GraphError(f"the weight of the loss '{name}' is out of range", expected="a number from zero up",
                             found=str(weight), fix=f"write {name}: {DEFAULT[name]:g}")  # fmt: skip
    if not any(chosen.values()):
        raise GraphError("a workspace has no loss to learn from", expected="a weight above zero",
                         found=str(losses), available=list(DEFAULT), fix="give one of these a weight")  # fmt: skip
    return {name: float(weight) for name, weight in chosen.items() if weight}


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows to learn from at one step.

    Args:
        readings: one per view.
        pairs: of views (i, j), i != j, that the losses over pairs go over.
        keep: ``(rows, M)`` bool, the views that go in together in ``fused``.
        jitter: standard normal numbers per view, or None.
        memory: of earlier frames, ``(rows, N, d)``, or None.
    """

    readings: Sequence[Reading]
    pairs: Sequence[tuple[int, int]]
    keep: Tensor
    jitter: Sequence[Tensor] | None = None
    memory: Tensor | None = None


def losses_of(
    space: Space, weights: Mapping[str, Tensor], batch: Batch, names: Mapping[str, float]
) -> dict[str, Tensor]:
    """Return each of the named losses, one number each; 0 where no row has what it needs.

    With e_i the state that view i alone leads to, d_j what a state says of view j, D the distance to what was read
    (:meth:`Reading.distance`), each the mean over the rows that have the views it needs, then over pairs or views:

    - translation: D(d_j(e_i(o_i)), o_j), of rows with both
    - demi_cycle: D(d_i(e_i(o_i)), o_i)
    - cycle: D(d_i(e_j(d_j(e_i(o_i)))), o_i), of rows with i
    - contrastive: (CE(t c_i c_j', I) + CE(t c_j c_i', I)) / 2, c the states about their rest at unit length, t a
      learned scale of at most 100, of rows with both
    - fused: D(d_j(e(o_m, m kept)), o_j), of rows with j.
    """
    views = range(len(batch.readings))
    present = torch.stack([one.present for one in batch.readings], 1)
    strength = torch.stack([one.strength for one in batch.readings], 1)
    moved = batch.jitter or [torch.zeros_like(one.mean) for one in batch.readings]
    tokens = [space.token(weights, m, batch.readings[m].inputs(moved[m])) for m in views]
    eye = torch.eye(len(views), dtype=torch.bool, device=present.device)
    single = {i: space.gather(weights, tokens, strength, present & eye[i], batch.memory)
              for i in (views if names.keys() - {"fused"} else ())}  # fmt: skip
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    if "demi_cycle" in names:
        for i in views:
            found["demi_cycle"].append(_over(_error(space, weights, batch, single[i], i), present[:, i]))
    for i, j in batch.pairs:
        both = present[:, i] & present[:, j]
        if "translation" in names or "cycle" in names:
            there = space.scatter(weights, single[i], j)
        if "translation" in names:
            found["translation"].append(_over(batch.readings[j].distance(there), both))
        if "cycle" in names:
            told = torch.cat([there, torch.ones_like(there)], -1)  # a translation is known for what it is
            token = [space.token(weights, j, told) if m == j else tokens[m] for m in views]
            alone = present[:, i : i + 1] & eye[j]
            back = space.gather(weights, token, torch.ones_like(strength), alone, batch.memory)
            found["cycle"].append(_over(_error(space, weights, batch, back, i), present[:, i]))
        if "contrastive" in names:
            found["contrastive"].append(_contrast(weights, single[i], single[j], both))
    if "fused" in names:
        state = space.gather(weights, tokens, strength, batch.keep & present, batch.memory)
        heard = (batch.keep & present).any(1) | (batch.memory is not None)
        for j in views:
            found["fused"].append(_over(_error(space, weights, batch, state, j), present[:, j] & heard))
    return {name: _mean(terms, batch.keep) for name, terms in found.items()}


def _error(space: Space, weights: Mapping[str, Tensor], batch: Batch, state: Tensor, view: int) -> Tensor:
    return batch.readings[view].distance(space.scatter(weights, state, view))


def _over(values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over some rows, 0 if there are none, and whether there are any."""
    kept = torch.where(rows, values, 0.0)
    return kept.sum() / rows.sum().clamp_min(1), rows.any()


def _contrast(weights: Mapping[str, Tensor], one: Tensor, other: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    left, right = (F.normalize((each - weights["rest"])[rows], dim=-1) for each in (one, other))
    if not len(left):
        return one.new_zeros(()), rows.any()
    scale = weights["contrast"].exp().clamp_max(100)
    logits, truth = scale * left @ right.mT, torch.arange(len(left), device=left.device)
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.mT, truth)) / 2, rows.any()


def _mean(terms: Sequence[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    """Return the mean of the terms that had rows."""
    if not terms:
        return torch.zeros((), device=like.device)
    count = torch.stack([any_rows for _, any_rows in terms]).sum().clamp_min(1)
    return torch.stack([value for value, _ in terms]).sum() / count
