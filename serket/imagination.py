"""What a module imagines of its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily

from serket.draws import draw_rows, row_probs

__all__ = ["Imagination", "imagined"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Imagination:
    """What a module imagines: ``mean`` and ``std`` ``(rows, D)``, and ``samples`` ``(rows, S, D)`` if asked for.

    ``decoded`` holds the means of draws of the latent ``(rows, draws, D)``: samples without observation noise. Of
    categories ``probs`` ``(rows, D, K)`` holds the probabilities, and ``mean`` the most probable one.
    """

    mean: Tensor
    std: Tensor
    samples: Tensor | None = None
    decoded: Tensor | None = None
    probs: Tensor | None = None

    def __repr__(self) -> str:
        parts = {"mean": self.mean, "std": self.std, "samples": self.samples, "probs": self.probs}
        return f"Imagination({', '.join(f'{n} {tuple(p.shape)}' for n, p in parts.items() if p is not None)})"

    @classmethod
    def joined(cls, parts: Sequence[Imagination]) -> Imagination:
        """Put imaginations of consecutive rows together."""
        names = ("mean", "std", "samples", "decoded", "probs")
        mean, std, *rest = (_cat([getattr(part, name) for part in parts]) for name in names)
        return cls(cast(Tensor, mean), cast(Tensor, std), *rest)


def imagined(distribution: Distribution, samples: int, generator: torch.Generator, row_id: Tensor) -> Imagination:
    """Take mean, deviation and draws."""
    drawn = draw_rows(distribution, samples, generator, row_id) if samples else None
    probs = row_probs(distribution)
    if probs is not None:
        numbers = torch.arange(probs.shape[-1], device=probs.device, dtype=probs.dtype)
        centre = (probs * numbers).sum(-1, keepdim=True)
        std = (probs * (numbers - centre).square()).sum(-1).sqrt()
        return Imagination(probs.argmax(-1).to(probs), std, drawn, None, probs)
    decoded = distribution.component_distribution.mean if isinstance(distribution, MixtureSameFamily) else None
    return Imagination(distribution.mean, distribution.variance.clamp_min(0).sqrt(), drawn, decoded)


def _cat(parts: list[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None
