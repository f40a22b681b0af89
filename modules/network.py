"""Encoders and decoders as plain tensors by name, and the loop that trains them on an evidence lower bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from serket.errors import MessageError
from serket.protocol import FitReport, Progress

__all__ = ["Optimiser", "initial", "layers", "maximise"]

Optimiser = Literal["adam", "adamw", "sgd"]


def layers(weights: Mapping[str, Tensor], net: str, x: Tensor, count: int) -> Tensor:
    """Apply linear layers with rectifiers between them."""
    for layer in range(count):
        x = F.linear(x if layer == 0 else x.relu(), weights[f"{net}.{layer}.weight"], weights[f"{net}.{layer}.bias"])
    return x


def initial(net: str, sizes: Sequence[int], like: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw weights and biases uniformly within 1 / sqrt(inputs), as torch.nn.Linear does."""
    weights = {}
    for layer, (into, to) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        for name, shape in (("weight", (to, into)), ("bias", (to,))):
            drawn = torch.rand(*shape, generator=generator, dtype=like.dtype, device=like.device)
            weights[f"{net}.{layer}.{name}"] = (2 * drawn - 1) / math.sqrt(into)
    return weights


def maximise(
    elbo: Callable[[Tensor, float], Tensor],
    learnt: Mapping[str, Tensor],
    rows: int,
    *,
    generator: torch.Generator,
    progress: Progress | None,
    epochs: int,
    batch: int,
    learning_rate: float,
    optimiser: Optimiser,
    patience: int,
    held_out: float,
) -> tuple[dict[str, Tensor], FitReport]:
    """Climb the mean ELBO by minibatches in a fresh order; return the weights, the best of held-out rows if patient.

    Args:
        elbo: of rows ``(batch,)``, and of the share of epochs left, 0 where nothing is trained; a mean, in nats, with a
            gradient in ``learnt``.
        learnt: leaves that require gradients.
        rows: how many there are.
        generator: of the order.
        progress: called after every epoch.
        epochs: passes over the rows, at most.
        batch: rows per step.
        learning_rate: of the optimiser.
        optimiser: adam, adamw or sgd.
        patience: stop after so many epochs without a better ELBO on held-out rows, and keep the best; 0 is off.
        held_out: fraction of the rows held out, if patience is on.

    Raises:
        MessageError: the ELBO is no longer a number.
    """
    device = generator.device
    order = torch.randperm(rows, generator=generator, device=device)
    held = order[: max(1, int(held_out * rows))] if patience and rows > 1 else order[:0]
    train = order[len(held) :]
    steps = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    descent = steps[optimiser](list(learnt.values()), lr=learning_rate, fused=True)
    history: dict[str, list[float]] = {"elbo": [], "held_out": []}
    best = _Best(patience)

    def held_out_elbo() -> float:
        with torch.no_grad():
            return float(elbo(held, 0.0))

    if len(held):
        best.hopeful(held_out_elbo(), learnt)  # a refit never ends below where it began
    for epoch in range(epochs):
        total: Tensor | float = 0.0
        for chosen in train[torch.randperm(len(train), generator=generator, device=device)].split(batch):
            descent.zero_grad(set_to_none=True)
            value = elbo(chosen, 1 - epoch / epochs)
            (-value).backward()
            descent.step()
            total = total + value.detach() * len(chosen)
        history["elbo"].append(float(total) / len(train))
        if not (math.isfinite(history["elbo"][-1]) and all(bool(v.isfinite().all()) for v in learnt.values())):
            raise MessageError(
                f"training diverged in epoch {epoch + 1}: the ELBO is no number",
                fix=f"lower fit.learning_rate, now {learning_rate:g}",
            )
        if progress:
            progress(epoch + 1, epochs, f"ELBO {history['elbo'][-1]:.4g}")
        if len(held):
            history["held_out"].append(held_out_elbo())
            if not best.hopeful(history["held_out"][-1], learnt):
                break
    weights = best.weights if len(held) else {name: value.detach() for name, value in learnt.items()}
    return weights, FitReport(len(history["elbo"]), history=history)


class _Best:
    """The weights with the highest ELBO on held-out rows, and how many epochs ago that was."""

    def __init__(self, patience: int) -> None:
        self.patience, self.elbo, self.waited = patience, -math.inf, 0
        self.weights: dict[str, Tensor] = {}

    def hopeful(self, elbo: float, weights: Mapping[str, Tensor]) -> bool:
        """Take note of an epoch; tell whether a better one may still come."""
        self.waited += 1
        if elbo > self.elbo:
            self.elbo, self.waited = elbo, 0
            self.weights = {name: value.detach().clone() for name, value in weights.items()}
        return self.waited < self.patience
