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

ENTRIES = 2**22
"""Numbers that a block of subsets holds."""
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
    told, found = experts.mask(views), []
    size = max(1, ENTRIES // (2 ** len(views) * told.size))
    blocks = (whole.split(size, 1) for whole in (told.info, told.precision, views))
    for info, precision, here in zip(*blocks, strict=True):
        # Every subset, and with it every subset with one view more: sums, and whether all members are there.
        sums = [torch.zeros_like(info[:1]), torch.zeros_like(precision[:1])]
        there = torch.ones_like(here[:1])
        for view in range(len(views)):
            sums = [torch.cat([one, one + part[view]]) for one, part in zip(sums, (info, precision), strict=True)]
            there = torch.cat([there, there & here[view]])
        parts, there = Gaussian(sums[0][1:], sums[1][1:]), there[1:]
        found.append(_projected(parts.where(there, standard(parts.info)), there))
    return Gaussian(torch.cat([one.info for one in found]), torch.cat([one.precision for one in found]))


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
