"""A predictive distribution dimension by dimension: its log density, its quantiles, the same one sharpened, and which
values there are to score."""

from __future__ import annotations

from copy import copy
from typing import Any, cast

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

__all__ = ["marginal_cdf", "marginal_log_prob", "seen", "sharpened", "varying"]


def seen(values: Tensor, observed: Tensor) -> Tensor:
    """Return which values are observed, in their shape: the others hold zeros, which nobody measured.

    ``observed`` is a mask of rows or of values, as in :class:`serket.Evidence`.
    """
    wide = observed if observed.dim() == values.dim() else observed.reshape(-1, *(1,) * (values.dim() - 1))
    return wide.expand(values.shape)


def varying(values: Tensor, observed: Tensor) -> Tensor:
    """Return which dimensions take more than one value among those observed, in the shape of one row."""
    here, values = seen(values, observed), values.double()
    if not len(values):
        return torch.zeros(values.shape[1:], dtype=torch.bool, device=values.device)
    return torch.where(here, values, -torch.inf).amax(0) > torch.where(here, values, torch.inf).amin(0)


def sharpened(distribution: Distribution, exponent: float) -> Distribution:
    """Return p(x | z)^t, normalised over x, for every z the distribution mixes over: its mean stays where it was.

    N(f, v) becomes N(f, v / t); logits of categories and of Bernoulli variables are multiplied by t. Whatever else is
    returned as it is: it cannot be calibrated.
    """
    d = distribution
    if exponent == 1:
        return d
    if isinstance(d, MixtureSameFamily):
        sharp: Any = copy(d)  # of the same class, with all else it holds
        sharp._component_distribution = sharpened(d.component_distribution, exponent)
        if hasattr(d, "centre"):  # a mixture over draws of z that knows what the mean of z decodes to
            sharp.centre = sharpened(d.centre, exponent)
        return cast(Distribution, sharp)
    if isinstance(d, Independent):
        return Independent(sharpened(d.base_dist, exponent), d.reinterpreted_batch_ndims)
    if isinstance(d, Normal):
        return Normal(d.loc, d.scale / exponent**0.5)
    if isinstance(d, MultivariateNormal):
        return MultivariateNormal(d.loc, scale_tril=d.scale_tril / exponent**0.5)
    if isinstance(d, Bernoulli | Categorical):
        return type(d)(logits=d.logits * exponent)
    return d


def marginal_log_prob(distribution: Distribution, values: Tensor) -> Tensor | None:
    """Return log p(x_d), nats, of every dimension by itself, ``(rows, D)``; None where the distribution has none."""
    return _marginal(distribution, values, "log_prob")


def marginal_cdf(distribution: Distribution, values: Tensor) -> Tensor | None:
    """Return the probability of less than x_d, ``(rows, D)``; None but for mixtures of normal distributions."""
    return _marginal(distribution, values, "cdf")


def _marginal(distribution: Distribution, values: Tensor, what: str) -> Tensor | None:
    d = distribution
    if isinstance(d, MixtureSameFamily):
        parts = _marginal(d.component_distribution, values.unsqueeze(1), what)
        if parts is None:
            return None
        weights = d.mixture_distribution.logits.log_softmax(-1).unsqueeze(-1)
        if what == "cdf":
            return (weights.exp() * parts).sum(1)
        return (weights + parts).logsumexp(1)
    if isinstance(d, MultivariateNormal):
        return _marginal(Normal(d.loc, d.variance.sqrt()), values, what)
    base = d.base_dist if isinstance(d, Independent) else d
    if not isinstance(base, Normal) and (what == "cdf" or not isinstance(base, Bernoulli | Categorical)):
        return None
    wide = torch.broadcast_to(values, torch.broadcast_shapes(values.shape, base.batch_shape)).to(base.mean)
    found: Tensor = getattr(base, what)(wide)
    return found
