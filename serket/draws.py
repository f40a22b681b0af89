"""Draws from a predictive distribution that belong to a row, whatever batch it travels in."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from serket.rows import row_normal, row_uniform

__all__ = ["draw_rows", "row_probs"]


@runtime_checkable
class FromUniform(Protocol):
    """A distribution that is a map of uniform numbers: its draws can come from the row's own stream."""

    uniforms: int
    category_probs: Tensor | None

    def from_uniform(self, uniform: Tensor) -> Tensor:
        """Turn uniform numbers ``(rows, samples, uniforms)`` into draws ``(rows, samples, D)``."""
        ...


def draw_rows(distribution: Distribution, samples: int, generator: torch.Generator, row_id: Tensor) -> Tensor:
    """Return ``(rows, samples, D)`` draws; each a function of (the generator's seed, row id, place) alone.

    Mixtures, normals, Bernoullis, categories and maps of uniform numbers are drawn from the row's own stream. Any
    other distribution is drawn by its own ``sample`` from torch's global stream, which is put back as it was; its draws
    depend on the batch.
    """
    if isinstance(distribution, FromUniform):
        shape = samples, distribution.uniforms
        return distribution.from_uniform(row_uniform(generator, row_id, shape, dtype=distribution.mean.dtype))
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    if isinstance(distribution, MixtureSameFamily):
        picks = _categories(distribution.mixture_distribution.probs.unsqueeze(1), samples, generator, row_id)
        parts = distribution.component_distribution
        inner = parts.base_dist if isinstance(parts, Independent) else parts
        where = picks.long()  # (rows, samples, 1)
        if isinstance(inner, Normal):
            mean, std = (part.gather(1, where.expand(-1, -1, part.shape[-1])) for part in (inner.loc, inner.scale))
            return mean + std * _normal(mean, generator, row_id, salt=1)
        if isinstance(inner, Bernoulli):
            probs = inner.probs.gather(1, where.expand(-1, -1, inner.probs.shape[-1]))
            return (_uniform(probs, generator, row_id, salt=1) < probs).to(probs)
        if isinstance(inner, Categorical):
            probs = inner.probs.gather(1, where.unsqueeze(-1).expand(-1, -1, *inner.probs.shape[-2:]))
            return (
                (_uniform(probs[..., 0], generator, row_id, salt=1).unsqueeze(-1) > probs.cumsum(-1)).sum(-1).to(probs)
            )
        if isinstance(inner, MultivariateNormal):
            mean = inner.loc.gather(1, where.expand(-1, -1, inner.loc.shape[-1]))
            rows = torch.arange(len(where), device=where.device).unsqueeze(1)
            root = inner.scale_tril[rows, where.squeeze(-1)]
            return mean + (root @ _normal(mean, generator, row_id, salt=1).unsqueeze(-1)).squeeze(-1)
    if isinstance(base, Normal):
        mean = base.loc.unsqueeze(1).expand(-1, samples, -1)
        return mean + base.scale.unsqueeze(1) * _normal(mean, generator, row_id)
    if isinstance(base, Categorical):
        return _categories(base.probs, samples, generator, row_id)
    if isinstance(base, MultivariateNormal):
        mean = base.loc.unsqueeze(1).expand(-1, samples, -1)
        noise = _normal(mean, generator, row_id).unsqueeze(-1)
        return mean + (base.scale_tril.unsqueeze(1) @ noise).squeeze(-1)
    with torch.random.fork_rng(devices=[row_id.device] if row_id.device.type == "cuda" else []):
        torch.manual_seed(generator.initial_seed() % 2**63)
        return distribution.sample((samples,)).transpose(0, 1)


def row_probs(distribution: Distribution) -> Tensor | None:
    """Return ``(rows, D, K)`` if the data are categories, else None."""
    if isinstance(distribution, FromUniform):
        return distribution.category_probs
    if isinstance(distribution, MixtureSameFamily):
        parts = getattr(distribution.component_distribution, "base_dist", None)
        return parts.probs.mean(1) if isinstance(parts, Categorical) else None
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    if not isinstance(base, Categorical):
        return None
    return base.probs if base.probs.dim() == 3 else base.probs.unsqueeze(1)


def _categories(probs: Tensor, samples: int, generator: torch.Generator, row_id: Tensor) -> Tensor:
    """Draw from ``(rows, D, K)`` by inversion: ``(rows, samples, D)``."""
    uniform = row_uniform(generator, row_id, (samples, probs.shape[1]), dtype=probs.dtype)
    reached = uniform.unsqueeze(-1) > probs.cumsum(-1).unsqueeze(1)
    return reached.sum(-1).clamp_max(probs.shape[-1] - 1).to(probs)


def _normal(like: Tensor, generator: torch.Generator, row_id: Tensor, salt: int = 0) -> Tensor:
    return row_normal(_salted(generator, salt), row_id, tuple(like.shape[1:]), dtype=like.dtype)


def _uniform(like: Tensor, generator: torch.Generator, row_id: Tensor, salt: int) -> Tensor:
    return row_uniform(_salted(generator, salt), row_id, tuple(like.shape[1:]), dtype=like.dtype)


def _salted(generator: torch.Generator, salt: int) -> torch.Generator:
    """Return another stream of the same seed, so that picks and noise are independent."""
    seed = (generator.initial_seed() + salt * 0x9E3779B97F4A7C15) % 2**63
    return torch.Generator(device=generator.device).manual_seed(seed)
