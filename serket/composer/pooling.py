"""Equal mixtures of products of experts, as their moments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from serket.messages import Gaussian

__all__ = ["Pool", "evidence_bound", "experts", "subsets"]


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """So many components a row, weighing the same: their number, mean, and n times their covariance.

    Args:
        count: ``(rows,)``; rows without a component hold zeros.
        mean: ``(rows, D)``.
        scatter: ``(rows, D, D)``.
    """

    count: Tensor
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, like: Gaussian) -> Pool:
        """Return the pool that holds nothing."""
        return cls(like.info[:, 0] * 0, torch.zeros_like(like.info), torch.zeros_like(like.full().precision))

    @classmethod
    def of(cls, part: Gaussian, live: Tensor) -> Pool:
        """Return one component, in the rows that are true."""
        covariance = part.covariance()
        mean = (covariance @ part.info.unsqueeze(-1)).squeeze(-1)
        return cls(
            live.to(mean), torch.where(live[:, None], mean, 0.0), torch.where(live[:, None, None], covariance, 0.0)
        )

    def __or__(self, other: Pool) -> Pool:
        """Put two pools together; exact if one is empty (Chan, Golub & LeVeque 1979, eq. 2.1)."""
        count = self.count + other.count
        share = other.count / count.clamp_min(1)
        gap = other.mean - self.mean
        apart = (self.count * share)[:, None, None] * gap.unsqueeze(-1) * gap.unsqueeze(-2)
        return Pool(count, self.mean + share.unsqueeze(-1) * gap, self.scatter + other.scatter + apart)

    def projected(self, otherwise: Gaussian) -> Gaussian:
        """Return the Gaussian with the mixture's mean and covariance, full; ``otherwise`` where the pool is empty."""
        told = self.count > 0
        covariance = torch.where(
            told[:, None, None],
            self.scatter / self.count.clamp_min(1)[:, None, None],
            torch.eye(self.mean.shape[1]).to(self.mean),
        )
        return Gaussian.from_moments(self.mean, covariance).where(told, otherwise.full())


def experts(start: Gaussian, said: Mapping[str, Gaussian], asked: Sequence[str]) -> dict[str, Pool]:
    """Pool ``start`` times each view that speaks: all of them, and for each view asked for, the others.

    Linear in the views, by running pools from the left and from the right.

    Returns:
        A pool per view asked for, without that view, and one of all at ``shared``.
    """
    pools = {name: Pool.of(start * message, ~message.is_vacuous()) for name, message in said.items()}
    left = [Pool.empty(start)]
    for pool in pools.values():
        left.append(left[-1] | pool)
    found, right = {"shared": left.pop()}, Pool.empty(start)
    for name, before in zip(reversed(pools), reversed(left), strict=True):
        if name in asked:
            found[name] = before | right
        right = pools[name] | right
    return found


def subsets(start: Gaussian, said: Mapping[str, Gaussian], asked: Sequence[str]) -> dict[str, Pool]:
    """Pool ``start`` times the product of each subset of views, none empty, all of whose members speak.

    2^M - 1 products, whose moments are taken once and go to every view that is asked for and is no member.

    Returns:
        As :func:`experts` does.
    """
    found = {name: Pool.empty(start) for name in ("shared", *(name for name in asked if name != "shared"))}
    live = torch.ones(len(start.info), dtype=torch.bool, device=start.device)
    for members, part, rows in _growing(start, live, (), list(said.items())):
        pool = Pool.of(part, rows)
        for name in found:
            if name not in members:
                found[name] = found[name] | pool
    return found


def _growing(
    part: Gaussian, live: Tensor, members: tuple[str, ...], rest: Sequence[tuple[str, Gaussian]]
) -> Iterator[tuple[tuple[str, ...], Gaussian, Tensor]]:
    """Yield every subset that has more members than these, depth first: M products are held at a time."""
    for index, (name, message) in enumerate(rest):
        more, both, rows = (*members, name), part * message, live & ~message.is_vacuous()
        yield more, both, rows
        yield from _growing(both, rows, more, rest[index + 1 :])


def evidence_bound(belief: Gaussian, whole: Gaussian) -> Tensor:
    """Return E_q[log whole(s)] + H(q), nats, ``(rows,)``, for q the belief: log int whole at most, equal if q is whole.

    The evidence lower bound, with potentials bare: eta' mu - (tr Lambda Sigma + mu' Lambda mu) / 2 + log det(Sigma) / 2
    + D log(2 pi e) / 2. Of all q with these moments, the mixture itself too, the Gaussian has the most entropy.
    """
    mean, covariance, lam = belief.mean(), belief.covariance(), whole.full().precision
    pulled = (lam @ mean.unsqueeze(-1)).squeeze(-1)
    expected = ((whole.info - pulled / 2) * mean).sum(-1) - (lam * covariance).sum((-2, -1)) / 2
    entropy = belief.log_z() - (belief.info * mean).sum(-1) / 2 + belief.size / 2
    return expected + entropy
