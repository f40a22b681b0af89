"""What a mixture over count vectors predicts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Multinomial

from serket.modules.counts import coefficient, polya

__all__ = ["CountMixture"]


class CountMixture(Distribution):
    """Mixtures of multinomials, or of Dirichlet-multinomials, over counts of a given total, whole or not.

    Args:
        log_mixing: ``(rows, J)``, log-weights of the parts, which all rows share.
        probs: ``(J, V)``, word probabilities of the parts.
        total: tokens of a document; the density of a document is that given its own total.
        concentration: ``(J,)``, of Dirichlets about ``probs``; None is infinite.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, log_mixing: Tensor, probs: Tensor, total: Tensor, concentration: Tensor | None = None) -> None:
        self.log_mixing, self.probs, self.total, self.concentration = log_mixing, probs, total, concentration
        super().__init__(log_mixing.shape[:-1], probs.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Expected counts, ``(rows, V)``."""
        return self.total * (self.log_mixing.exp() @ self.probs)

    @property
    def variance(self) -> Tensor:
        """Variance of each count, ``(rows, V)``."""
        wider = torch.ones_like(self.probs[:, :1])
        if self.concentration is not None:  # of a Dirichlet-multinomial, over that of a multinomial
            wider = ((self.total + self.concentration) / (1 + self.concentration)).unsqueeze(-1)
        within = self.total * self.probs * (1 - self.probs) * wider
        second = self.log_mixing.exp() @ (within + (self.total * self.probs).square())
        return (second - self.mean.square()).clamp_min(0.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of counts ``(rows, V)`` given their total, nats."""
        counts = value.to(self.probs)
        if self.concentration is None:
            each = counts @ self.probs.clamp_min(torch.finfo(counts.dtype).tiny).log().mT
        else:
            each = polya(counts, self.concentration.unsqueeze(-1) * self.probs)
        return (self.log_mixing + each).logsumexp(-1) + coefficient(counts)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draw whole counts, ``(*sample_shape, rows, V)``, of the total rounded."""
        pick = torch.distributions.Categorical(logits=self.log_mixing).sample(torch.Size(sample_shape))
        probs = self.probs[pick]
        if self.concentration is not None:
            alpha = (self.concentration[pick].unsqueeze(-1) * probs).clamp_min(1e-6)
            probs = torch.distributions.Dirichlet(alpha).sample()
        drawn: Tensor = Multinomial(max(1, round(float(self.total))), probs).sample()
        return drawn
