"""How a workspace is trained: batches of rows or of sequences, views left out at random, a falling learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from serket.composer.workspace.latent import Space
from serket.composer.workspace.losses import Batch, losses_of
from serket.composer.workspace.reading import Reading
from serket.composer.workspace.slots import SlotSpace
from serket.composer.workspace.time import remembered
from serket.errors import MessageError
from serket.protocol import FitReport, Progress

__all__ = ["Plan", "subset", "train"]

DECAY = 0.02
"""Of the weights, per unit of learning rate (Loshchilov & Hutter 2019)."""
KEPT = 0.8
"""Share of the frames of a view that are remembered while fitting, and of sequences in which it is at all."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train: weight per loss, passes over the rows, rows per step, the rate it starts from."""

    losses: Mapping[str, float]
    epochs: int
    batch: int
    learning_rate: float
    detach: bool


def train(
    space: Space,
    weights: Mapping[str, Tensor],
    readings: Sequence[Reading],
    lengths: Tensor | None,
    plan: Plan,
    generator: torch.Generator,
    progress: Progress | None,
) -> tuple[dict[str, Tensor], FitReport]:
    """Descend the weighted sum of the losses, and return the weights.

    Args:
        space: what is trained.
        weights: where it stands.
        readings: one per view, of the rows to learn from.
        lengths: of their sequences, if the space remembers; None: every row is for itself.
        plan: how.
        generator: of the order, and of what is left out.
        progress: called after every epoch.

    Raises:
        MessageError: a loss is no longer a number.
    """
    learnt = {name: value.clone().requires_grad_() for name, value in weights.items()}
    descent = torch.optim.AdamW(list(learnt.values()), lr=plan.learning_rate, weight_decay=DECAY, fused=True)
    rows = len(readings[0])
    groups = rows if lengths is None else len(lengths)
    size = plan.batch if lengths is None else max(1, round(plan.batch * groups / rows))
    place = None if lengths is None else torch.arange(groups, device=lengths.device).repeat_interleave(lengths)
    history: dict[str, list[float]] = {name: [] for name in (*plan.losses, "total")}
    steps, done = plan.epochs * math.ceil(groups / size), 0
    for epoch in range(plan.epochs):
        sums: dict[str, float] = dict.fromkeys(history, 0.0)
        for chosen in torch.randperm(groups, generator=generator, device=generator.device).split(size):
            for group in descent.param_groups:
                group["lr"] = plan.learning_rate * (1 - done / steps)
            done += 1
            if place is not None and lengths is not None:
                of = torch.isin(place, chosen)
                part, here = [one[of.nonzero().flatten()] for one in readings], lengths[chosen.sort().values]
            else:
                part, here = [one[chosen] for one in readings], None
            batch = _batch(space, learnt, part, here, plan.detach, generator)
            found = losses_of(space, learnt, batch, plan.losses)
            total = torch.stack([plan.losses[name] * value for name, value in found.items()]).sum()
            descent.zero_grad(set_to_none=True)
            if total.requires_grad:  # else there was nothing to learn from
                total.backward()
                descent.step()
            for name, value in (*found.items(), ("total", total)):
                sums[name] += float(value.detach()) * len(part[0]) / rows
        for name, mean in sums.items():
            history[name].append(mean)
        if not math.isfinite(sums["total"]) or not all(bool(one.isfinite().all()) for one in learnt.values()):
            raise MessageError(f"training diverged in epoch {epoch + 1}: the losses are no numbers",
                               fix=f"lower fit.learning_rate, now {plan.learning_rate:g}")  # fmt: skip
        if progress:
            progress(epoch + 1, plan.epochs, f"loss {sums['total']:.4g}")
    return {name: value.detach() for name, value in learnt.items()}, FitReport(plan.epochs, history=history)


def subset(present: Tensor, generator: torch.Generator, *, empty: bool) -> Tensor:
    """Draw some of the views that are present in each row, ``(rows, M)`` bool: each size as likely as another.

    Args:
        present: ``(rows, M)`` bool.
        generator: of the draw.
        empty: whether none at all may be drawn.
    """
    drawn = torch.rand(present.shape, generator=generator, dtype=torch.float64, device=present.device)
    count = present.sum(1)
    share = torch.rand(len(present), generator=generator, dtype=torch.float64, device=present.device)
    size = (share * (count + 1)).floor() if empty else 1 + (share * count).floor()
    rank = torch.where(present, drawn, 2.0).argsort(1).argsort(1)
    return present & (rank < size.clamp_max(present.shape[1]).unsqueeze(1))


def _batch(
    space: Space,
    weights: Mapping[str, Tensor],
    readings: Sequence[Reading],
    lengths: Tensor | None,
    detach: bool,
    generator: torch.Generator,
) -> Batch:
    """Draw what a step leaves out, in which pairs, with which jitter; and remember what came before."""
    views = len(readings)
    present = torch.stack([one.present for one in readings], 1)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)

    jitter = [normal(one.mean) for one in readings]
    # Every view with one other: linear in the views, and over the steps every pair as often.
    turn = 1 + int(torch.randint(max(1, views - 1), (), generator=generator, device=generator.device))
    pairs = [(i, (i + turn) % views) for i in range(views)] if views > 1 else []
    keep = subset(present, generator, empty=lengths is not None)
    memory = None
    if lengths is not None:
        kept = torch.rand(present.shape, generator=generator, device=present.device) < KEPT
        there = torch.rand(len(lengths), views, generator=generator, device=present.device) < KEPT
        kept &= there.repeat_interleave(lengths, 0)
        strength = torch.stack([one.strength for one in readings], 1)
        tokens = [space.token(weights, m, one.inputs(jitter[m])) for m, one in enumerate(readings)]
        memory = remembered(cast(SlotSpace, space), weights, tokens, strength, present & kept, lengths, detach)
    return Batch(readings, pairs, keep, jitter, memory)
