"""Small networks as plain tensors by name, and the loop that trains them on a bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from serket.errors import MessageError
from serket.protocol import FitReport, Progress

__all__ = ["Schedule", "climb", "initial", "layers"]

Schedule = Literal["cosine", "constant"]


def layers(weights: Mapping[str, Tensor], net: str, x: Tensor, count: int) -> Tensor:
    """Apply linear layers with smooth rectifiers (SiLU) between them; one layer is a linear map."""
    for layer in range(count):
        x = F.linear(x, weights[f"{net}.{layer}.weight"], weights[f"{net}.{layer}.bias"])
        x = F.silu(x) if layer < count - 1 else x
    return x


def initial(net: str, sizes: Sequence[int], like: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw weights uniformly within 1 / sqrt(inputs), as torch.nn.Linear does; biases are zero."""
    weights = {}
    for layer, (into, to) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        drawn = torch.rand(to, into, generator=generator, dtype=like.dtype, device=like.device)
        weights[f"{net}.{layer}.weight"] = (2 * drawn - 1) / math.sqrt(into)
        weights[f"{net}.{layer}.bias"] = like.new_zeros(to)
    return weights


def climb(
    value: Callable[[Tensor], Tensor],
    learnt: Mapping[str, Tensor],
    rows: int,
    *,
    generator: torch.Generator,
    progress: Progress | None,
    epochs: int,
    batch: int,
    learning_rate: float,
    schedule: Schedule,
    clip: float,
    decay: float,
) -> FitReport:
    """Climb the mean of a value by minibatches in a fresh order with Adam, in place.

    Args:
        value: of rows ``(batch,)``, nats a row, ``(batch,)``, with a gradient in ``learnt``.
        learnt: leaves that require gradients.
        rows: how many there are.
        generator: of the order.
        progress: called after every epoch.
        epochs: passes over the rows.
        batch: rows per step; batches of an epoch are equal to within a row.
        learning_rate: at the start.
        schedule: ``cosine`` lets the rate fall to zero, ``constant`` leaves it.
        clip: the largest norm of a step's gradient; 0 is no limit.
        decay: of the weights, per unit of learning rate (Loshchilov & Hutter 2019).

    Raises:
        MessageError: the value is no longer a number.
    """
    device = generator.device
    leaves = list(learnt.values())
    descent = torch.optim.AdamW(leaves, lr=learning_rate, weight_decay=decay, fused=True)
    parts = math.ceil(rows / batch)
    curve: list[float] = []
    for epoch in range(epochs):
        total = torch.zeros((), dtype=torch.float64, device=device)
        for part, chosen in enumerate(torch.randperm(rows, generator=generator, device=device).tensor_split(parts)):
            if schedule == "cosine":
                done = (epoch * parts + part) / (epochs * parts)
                descent.param_groups[0]["lr"] = learning_rate * (1 + math.cos(math.pi * done)) / 2
            descent.zero_grad(set_to_none=True)
            found = value(chosen)
            (-found.mean()).backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(leaves, clip)
            descent.step()
            total += found.detach().sum()
        curve.append(float(total) / rows)
        if not (math.isfinite(curve[-1]) and all(bool(leaf.isfinite().all()) for leaf in leaves)):
            raise MessageError(
                f"training diverged in epoch {epoch + 1}: the objective is no number",
                fix=f"lower fit.learning_rate, now {learning_rate:g}",
            )
        if progress:
            progress(epoch + 1, epochs, f"objective {curve[-1]:.4g}")
    return FitReport(epochs, history={"objective": curve})
