"""What a density under categories imagines: a mixture that is drawn by mapping uniform numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

__all__ = ["ClassMixture"]


class ClassMixture(Distribution):
    """p(x) = sum_k w_k p(x | k), batch ``(rows,)``, event ``(D,)``.

    Args:
        log_weights: log w_k, ``(rows, K)``.
        scores: log p(x | k), ``(..., K)``, of x ``(..., D)``.
        draw: draws ``(..., D)`` from uniform numbers ``(..., D)`` and categories ``(...)``.
        drawn: draws of each category ``(K, draws, D)``, of which mean and variance are taken.
        category_probs: ``(K, D, C)`` if the data are categories.
    """

    has_rsample = False
    arg_constraints = {}

    def __init__(
        self,
        log_weights: Tensor,
        scores: Callable[[Tensor], Tensor],
        draw: Callable[[Tensor, Tensor], Tensor],
        drawn: Tensor,
        category_probs: Tensor | None = None,
    ) -> None:
        self.log_weights, self._scores, self._draw, self._drawn = log_weights, scores, draw, drawn
        self._category_probs = category_probs
        super().__init__(log_weights.shape[:-1], drawn.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Mean, ``(rows, D)``."""
        return self.log_weights.exp() @ self._drawn.mean(1)

    @property
    def variance(self) -> Tensor:
        """Variance, ``(rows, D)``: within categories and between their means."""
        weights, means = self.log_weights.exp(), self._drawn.mean(1)
        between = (weights.unsqueeze(-1) * (means - self.mean.unsqueeze(-2)).square()).sum(-2)
        return weights @ self._drawn.var(1, correction=0) + between

    @property
    def category_probs(self) -> Tensor | None:
        """Probabilities of the categories ``(rows, D, C)``, if the data are categories."""
        return (
            None
            if self._category_probs is None
            else torch.einsum("nk,kdc->ndc", self.log_weights.exp(), self._category_probs)
        )

    @property
    def uniforms(self) -> int:
        """How many uniform numbers a draw takes."""
        return 1 + self._drawn.shape[-1]

    def from_uniform(self, uniform: Tensor) -> Tensor:
        """Turn uniform numbers ``(rows, samples, uniforms)`` into draws ``(rows, samples, D)``."""
        shares = self.log_weights.exp().cumsum(-1)
        category = (uniform[..., :1] > shares.unsqueeze(-2)).sum(-1).clamp_max(shares.shape[-1] - 1)
        return self._draw(uniform[..., 1:].contiguous(), category)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(x), nats, of ``(..., rows, D)``."""
        return (self._scores(value) + self.log_weights).logsumexp(-1)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draw ``(*sample_shape, rows, D)``, from torch's global stream as its distributions do."""
        count = torch.Size(sample_shape).numel()
        uniform = torch.rand(len(self.log_weights), count, self.uniforms).to(self.log_weights).clamp(1e-7, 1 - 1e-7)
        return self.from_uniform(uniform).transpose(0, 1).reshape(*sample_shape, *self.batch_shape, -1)
