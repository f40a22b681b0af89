"""What several unimodal posteriors say together: their product, their mixture, or the mixture of their products.

Experts are diagonal Gaussians over s, stacked: ``(views, rows, S)``. A set of views is a mask ``(views, rows)``, one
set per row; what an expert outside of it holds never counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from serket.messages import Gaussian

__all__ = ["Rule", "combined", "divergence", "log_mixture", "product", "standard"]

Rule = Literal["product_with_prior", "product", "mixture", "mixture_of_products"]


def standard(like: Tensor) -> Gaussian:
    """Return N(0, I) in the shape of ``like``."""
    return Gaussian(torch.zeros_like(like), torch.ones_like(like))


def product(experts: Gaussian, views: Tensor) -> Gaussian:
    """Return the product over the views of a set, ``(rows, S)``, vacuous where it is empty."""
    told = experts.mask(views)
    return Gaussian(told.info.sum(0), told.precision.sum(0))


def combined(rule: Rule, experts: Gaussian, views: Tensor) -> Gaussian:
    """Return q(s | views of a set), ``(rows, S)``, by a rule; N(0, I) where the set is empty.

    product_with_prior: N(0, I) prod_j q_j.  product: prod_j q_j.  mixture: (1 / n) sum_j q_j.
    mixture_of_products: the even mixture of the products over all 2^n - 1 subsets that are not empty. Mixtures are
    projected: the Gaussian with their means and variances, dimension by dimension.
    """
    return _RULES[rule](experts, views)


def _product_with_prior(experts: Gaussian, views: Tensor) -> Gaussian:
    whole = product(experts, views)
    return whole * standard(whole.info)


def _product(experts: Gaussian, views: Tensor) -> Gaussian:
    whole = product(experts, views)
    return whole.where(views.any(0), standard(whole.info))


def _mixture(experts: Gaussian, views: Tensor) -> Gaussian:
    unit = standard(experts.info)
    return _projected(experts.where(views, unit), views)


def _mixture_of_products(experts: Gaussian, views: Tensor) -> Gaussian:
    count = len(views)
    parts, there = [], []
    for code in range(1, 2**count):
        chosen = torch.tensor([bool(code >> view & 1) for view in range(count)], device=views.device).unsqueeze(1)
        within = (views | ~chosen).all(0)  # the subset is one of the views that are there
        whole = product(experts, chosen & within)
        parts.append(whole.where(within, standard(whole.info)))
        there.append(within)
    stacked = Gaussian(torch.stack([p.info for p in parts]), torch.stack([p.precision for p in parts]))
    return _projected(stacked, torch.stack(there))


def _projected(parts: Gaussian, there: Tensor) -> Gaussian:
    """Return mean and variance of the even mixture of the parts that are there; N(0, I) if none is."""
    weight = (there / there.sum(0).clamp_min(1)).unsqueeze(-1)
    means, variances = parts.info / parts.precision, 1 / parts.precision
    mean = (weight * means).sum(0)
    variance = (weight * (variances + (means - mean).square())).sum(0)
    some = there.any(0).unsqueeze(-1)
    # The parts of one expert give it back to the bit.
    variance = torch.where(some, variance, 1.0)
    return Gaussian(mean / variance, 1 / variance)


_RULES: Mapping[Rule, Callable[[Gaussian, Tensor], Gaussian]] = {
    "product_with_prior": _product_with_prior,
    "product": _product,
    "mixture": _mixture,
    "mixture_of_products": _mixture_of_products,
}


def divergence(q: Gaussian, other: Gaussian) -> Tensor:
    """KL(q || other) of proper diagonal Gaussians, nats, ``(*batch,)``."""
    gap = q.info / q.precision - other.info / other.precision
    ratio = other.precision / q.precision
    total: Tensor = (ratio - ratio.log() - 1 + other.precision * gap.square()).sum(-1) / 2
    return total


def log_density(q: Gaussian, s: Tensor) -> Tensor:
    """log q(s) of a proper diagonal Gaussian, nats, ``(*batch,)``."""
    gap = s - q.info / q.precision
    constant = q.info.shape[-1] * math.log(2 * math.pi)
    total: Tensor = (q.precision.log() - q.precision * gap.square()).sum(-1) / 2 - constant / 2
    return total


def log_mixture(experts: Gaussian, views: Tensor, s: Tensor) -> Tensor:
    """log (1 / n) sum_j q_j(s) over the views of a set, for ``s`` of shape ``(draws, rows, S)``; ``(draws, rows)``."""
    experts = experts.where(views, standard(experts.info))
    each = log_density(Gaussian(experts.info.unsqueeze(1), experts.precision.unsqueeze(1)), s)
    each = each.masked_fill(~views.unsqueeze(1), -math.inf)
    return each.logsumexp(0) - views.sum(0).to(s).log()
