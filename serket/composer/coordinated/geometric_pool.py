"""The log-linear pool: what several encoders say of the shared latent, none counted in full."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from serket.composer.coordinated.closeness import Code
from serket.messages import Gaussian, leave_one_out

__all__ = ["pooled", "potential", "under_standard"]


def potential(code: Code) -> Gaussian:
    """Divide N(0, I) out of an encoder's answer; a dimension in which it is no narrower says nothing."""
    told = code.variance < 1
    variance = torch.where(told, code.variance, 1.0)
    return Gaussian(torch.where(told, code.mean / variance, 0.0), 1 / variance - 1)


def pooled(codes: Sequence[Gaussian], present: Sequence[Tensor], weights: Tensor) -> tuple[list[Gaussian], Gaussian]:
    """Return the pool of all views but one, for each of them, and the pool of all: prod_m potential_m^(w_m / sum w).

    The sum is over the views present in a row, so that q / N(0, I) is a geometric mean (log-linear pool; Genest & Zidek
    1986): encoders that copy each other do not count twice. A row in which none is present is vacuous.

    Args:
        codes: a potential per view, ``(rows, K)``, diagonal.
        present: per view, ``(rows,)`` bool.
        weights: ``(M,)``, positive.
    """
    # One more dimension carries the weight: the sums of both are taken in one order.
    shares = []
    for code, here, weight in zip(codes, present, weights, strict=True):
        one = torch.ones_like(code.info[:, :1])
        share = Gaussian(torch.cat([code.info, one], 1), torch.cat([code.precision, one], 1)) ** weight
        shares.append(share.mask(here))
    nothing = Gaussian.vacuous((len(codes[0].info),), codes[0].size + 1, dtype=codes[0].dtype, device=codes[0].device)
    without, everything = leave_one_out(nothing, shares)
    return [_normalised(one) for one in without], _normalised(everything)


def under_standard(message: Gaussian) -> Code:
    """Return the belief N(0, I) times a diagonal potential."""
    return Code(message.info / (1 + message.precision), 1 / (1 + message.precision))


def _normalised(sum_of_shares: Gaussian) -> Gaussian:
    total = sum_of_shares.precision[:, -1:]
    total = torch.where(total > 0, total, 1.0)
    return Gaussian(sum_of_shares.info[:, :-1] / total, sum_of_shares.precision[:, :-1] / total)
