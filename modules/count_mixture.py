"""What a mixture over count vectors predicts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Dirichlet, Distribution, Multinomial

from serket.modules.counts import coefficient
from serket.modules.polya import Bursts, log_rising

__all__ = ["CountMixture"]


class CountMixture(Distribution):
    """Mixtures over counts of one sense or more, each of a given total, whole or not; the senses side by side.

    A part is a multinomial per sense, or a Dirichlet-multinomial. Its density is that of counts given their own total.

    Args:
        log_mixing: ``(rows, J)``, log-weights of the parts, which all rows share.
        means: per sense ``(J, V_m)``, word probabilities of the parts.
        totals: tokens of a document, per sense, ``(M,)``.
        concentrations: per sense ``(J,)``, of Dirichlets about the means; none is infinite.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(
        self,
        log_mixing: Tensor,
        means: Sequence[Tensor],
        totals: Tensor,
        concentrations: Sequence[Tensor] | None = None,
    ) -> None:
        self.log_mixing, self.means, self.totals, self.concentrations = log_mixing, means, totals, concentrations
        words = sum(part.shape[-1] for part in means)
        super().__init__(log_mixing.shape[:-1], torch.Size([words]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Expected counts, ``(rows, V)``."""
        return self.log_mixing.exp() @ self._expected()

    @property
    def variance(self) -> Tensor:
        """Variance of each count, ``(rows, V)``."""
        within = []
        for m, (probs, total) in enumerate(zip(self.means, self.totals, strict=True)):
            wider = torch.ones_like(probs[:, :1])
            if self.concentrations is not None:  # of a Dirichlet-multinomial, over that of a multinomial
                whole = self.concentrations[m].unsqueeze(-1)
                wider = (total + whole) / (1 + whole)
            within.append(total * probs * (1 - probs) * wider)
        second = self.log_mixing.exp() @ (torch.cat(within, -1) + self._expected().square())
        return (second - self.mean.square()).clamp_min(0.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of counts ``(rows, V)`` given their totals, nats."""
        score = self.log_mixing
        for m, counts in enumerate(value.to(self.log_mixing).split([part.shape[-1] for part in self.means], -1)):
            probs = self.means[m].clamp_min(torch.finfo(counts.dtype).tiny)
            if self.concentrations is None:
                each = counts @ probs.log().mT
            else:
                alpha = self.concentrations[m].unsqueeze(-1) * probs
                each = log_rising(alpha.unsqueeze(0), Bursts.of(counts)).squeeze(0)
            score = score + each + coefficient(counts).unsqueeze(-1)
        return score.logsumexp(-1)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draw whole counts, ``(*sample_shape, rows, V)``, of the totals rounded."""
        pick = torch.distributions.Categorical(logits=self.log_mixing).sample(torch.Size(sample_shape))
        drawn = []
        for m, total in enumerate(self.totals.tolist()):
            probs = self.means[m][pick]
            if self.concentrations is not None:
                probs = Dirichlet((self.concentrations[m][pick].unsqueeze(-1) * probs).clamp_min(1e-6)).sample()
            drawn.append(Multinomial(max(1, round(total)), probs).sample())
        return torch.cat(drawn, -1)

    def _expected(self) -> Tensor:
        return torch.cat([total * probs for total, probs in zip(self.totals, self.means, strict=True)], -1)
