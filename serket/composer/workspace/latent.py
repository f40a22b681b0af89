"""A latent workspace: an encoder and a decoder per view, into and out of one space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LatentSpace", "Space", "layers", "linear"]

Weights = Mapping[str, Tensor]


class Space(Protocol):
    """How views come into a shared state, and go out of it."""

    def initial(self, like: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw weights, in the type and on the device of ``like``."""
        ...

    def token(self, weights: Weights, view: int, inputs: Tensor) -> Tensor:
        """Encode what is read of a view, ``(rows, 2 D)``, by itself: ``(rows, T)``."""
        ...

    def gather(
        self, weights: Weights, tokens: Sequence[Tensor], strength: Tensor, keep: Tensor, memory: Tensor | None = None
    ) -> Tensor:
        """Return the state that the views that are kept lead to, ``(rows, S)``.

        Args:
            weights: of the space.
            tokens: one per view; what they hold in rows that are not kept changes nothing, to the bit.
            strength: r of each view, ``(rows, M)``.
            keep: ``(rows, M)`` bool.
            memory: what earlier frames left behind, if the space has any.
        """
        ...

    def scatter(self, weights: Weights, state: Tensor, view: int) -> Tensor:
        """Return what a state says of a view, ``(rows, D)``."""
        ...


@dataclass(frozen=True, slots=True)
class LatentSpace:
    """s = (c + sum_m r_m w_m e_m(o_m)) / (1 + sum_m r_m w_m), per dimension; z_m = d_m(s).

    The simplex of Devillers, Maytie & VanRullen (2024, fusion of the workspace's inputs) with a share for the state at
    rest, c: a view weighs as much as its message is strong, r_m, and as it was found to be reliable, w_m > 0.

    Args:
        sizes: D of every view.
        shared: S.
        hidden: units of the hidden layer of each encoder and decoder.
    """

    sizes: tuple[int, ...]
    shared: int
    hidden: int

    def initial(self, like: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw weights; decoders start at zero, the population's mean."""
        weights = {"rest": torch.zeros(self.shared).to(like),
                   "reliable": torch.ones(len(self.sizes), self.shared).to(like)}  # fmt: skip
        for view, size in enumerate(self.sizes):
            weights |= linear(f"encoder.{view}", (2 * size, self.hidden, self.shared), like, generator)
            weights |= linear(f"decoder.{view}", (self.shared, self.hidden, size), like, generator, silent=True)
        return weights

    def token(self, weights: Weights, view: int, inputs: Tensor) -> Tensor:
        """Return e_m(o_m), ``(rows, S)``."""
        return layers(weights, f"encoder.{view}", inputs)

    def gather(
        self, weights: Weights, tokens: Sequence[Tensor], strength: Tensor, keep: Tensor, memory: Tensor | None = None
    ) -> Tensor:
        """Return the weighted mean of rest and views, ``(rows, S)``."""
        total, weight = weights["rest"], torch.ones_like(weights["rest"])
        for view, token in enumerate(tokens):
            kept = keep[:, view : view + 1]
            # softplus(1 + x): a view weighs about 1.3 times what the state at rest does, to begin with.
            share = torch.where(kept, strength[:, view : view + 1] * F.softplus(weights["reliable"][view]), 0.0)
            total = total + share * torch.where(kept, token, 0.0)
            weight = weight + share
        return total / weight

    def scatter(self, weights: Weights, state: Tensor, view: int) -> Tensor:
        """Return d_m(s)."""
        return layers(weights, f"decoder.{view}", state)


def layers(weights: Weights, net: str, x: Tensor) -> Tensor:
    """Apply two linear layers with a rectifier, smoothed, between them."""
    hidden = F.gelu(F.linear(x, weights[f"{net}.0.weight"], weights[f"{net}.0.bias"]))
    return F.linear(hidden, weights[f"{net}.1.weight"], weights[f"{net}.1.bias"])


def linear(
    net: str, sizes: Sequence[int], like: Tensor, generator: torch.Generator, *, silent: bool = False
) -> dict[str, Tensor]:
    """Draw linear layers uniformly within 1 / sqrt(inputs), as torch.nn.Linear does; the last is zero if ``silent``."""
    weights = {}
    for layer, (into, to) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        quiet = silent and layer == len(sizes) - 2
        for name, shape in (("weight", (to, into)), ("bias", (to,))):
            drawn = torch.rand(*shape, generator=generator, dtype=like.dtype, device=like.device)
            weights[f"{net}.{layer}.{name}"] = (0.0 if quiet else 1.0) * (2 * drawn - 1) / math.sqrt(into)
    return weights
