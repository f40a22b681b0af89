"""Messages that stand on points: what a cloud of weighted points and one certain value have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor

from serket.errors import MessageError, ShapeError, listed
from serket.messages.base import Compound, Message
from serket.messages.gaussian import Gaussian

if TYPE_CHECKING:
    from serket.messages.particles import Particles

__all__ = ["Atoms", "alike", "projected"]


class Atoms(Compound):
    """The potential factor(z) sum_l w_l delta(z - z_l) in the rows that are present, and factor(z) alone elsewhere.

    The factor is a Gaussian potential, so that products and quotients with Gaussians change it and nothing else. All
    that is asked of the points uses their effective weights w_l factor(z_l). A point has no density: what is not
    defined between points and a density (a divergence) is taken between the Gaussians of the same moments.
    """

    __slots__ = ()
    present: Tensor
    info: Tensor
    precision: Tensor

    def __post_init__(self) -> None:
        points, log_weights = self.cloud()
        batch = self.factor.batch_shape
        found = {"points": points.shape[:-2], "log_weights": log_weights.shape[:-1], "present": self.present.shape}
        wrong = [name for name, shape in found.items() if shape != batch]
        if wrong or points.shape[-1] != self.size or points.shape[:-1] != log_weights.shape:
            raise ShapeError(
                "points, weights and factor do not describe the same rows",
                expected=f"points {(*batch, 'L', self.size)}, log_weights {(*batch, 'L')}, present {tuple(batch)}",
                found=f"{tuple(points.shape)}, {tuple(log_weights.shape)}, {tuple(self.present.shape)}",
            )

    @classmethod
    def vacuous(
        cls,
        batch: tuple[int, ...],
        size: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Return the message that says nothing: no row is present, and the factor is vacuous."""
        return cls.absent(Gaussian.vacuous(batch, size, dtype=dtype, device=device))

    @classmethod
    def absent(cls, factor: Gaussian) -> Self:
        """Return the message that is this Gaussian, with no row present."""
        raise NotImplementedError

    def cloud(self) -> tuple[Tensor, Tensor]:
        """Return points ``(*batch, L, D)`` and log-weights ``(*batch, L)``, the factor not yet in them."""
        raise NotImplementedError

    def particles(self) -> Particles:
        """Return the same message as particles."""
        raise NotImplementedError

    @property
    def factor(self) -> Gaussian:
        """The Gaussian potential that multiplies the points, and stands alone where there are none."""
        return Gaussian(self.info, self.precision)

    @property
    def diagonal(self) -> bool:
        """Whether the factor's precision is held as its diagonal."""
        return self.precision.dim() == self.info.dim()

    @property
    def batch_shape(self) -> torch.Size:
        """Leading dimensions."""
        return self.info.shape[:-1]

    @property
    def size(self) -> int:
        """Number of dimensions D."""
        return self.info.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Floating type."""
        return self.info.dtype

    @property
    def device(self) -> torch.device:
        """Where the points live."""
        return self.info.device

    def times(self, other: Gaussian) -> Self:
        """Multiply the factor by a Gaussian, on either side."""
        return self._with(self.factor * other)

    def __mul__(self, other: Self | Gaussian) -> Self:
        """Multiply potentials: a Gaussian goes into the factor; of two with points, one at most has them in each row.

        Raises:
            MessageError: both have points in a row, unless they are one and the same certain value.
        """
        if not isinstance(other, Atoms):
            return self.times(other)
        rows = self.present & other.present
        if bool(rows.any()):
            self._meet(other, rows)
        return self.where(self.present, other)._with(self.factor * other.factor)

    def __truediv__(self, other: Self | Gaussian) -> Self:
        """Divide potentials: a Gaussian leaves the factor.

        Raises:
            MessageError: the divisor has points: dividing by what is zero nearly everywhere undoes nothing.
        """
        if isinstance(other, Atoms):
            if bool(other.present.any()):
                raise MessageError(
                    f"division by {type(other).__name__}: a potential on points is zero elsewhere, and has no inverse",
                    where=f"rows {_rows(other.present)}",
                    expected="a Gaussian",
                    fix="leave the message out of the product (leave_one_out), or divide by its projected()",
                )
        return self._with(self.factor / (other.factor if isinstance(other, Atoms) else other))

    def __pow__(self, exponent: float | Tensor) -> Self:
        """Temper weights and factor, by one number or one per row: the points stay; the power 0 is vacuous."""
        power = torch.as_tensor(exponent, dtype=self.dtype, device=self.device).expand(self.batch_shape)
        return self._tempered(power)._with(self.factor**power).mask(power != 0)

    def _tempered(self, power: Tensor) -> Self:
        return self

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Select rows of the first batch dimension."""
        return self._each(lambda values: values[rows])

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """Return the message in another type, on another device."""
        return self._each(lambda values: values.to(device, dtype if values.is_floating_point() else values.dtype))

    def expand(self, *batch: int) -> Self:
        """Broadcast the batch dimensions to ``batch``."""
        return self._each(lambda values: values.expand(*batch, *values.shape[len(self.batch_shape) :]))

    def mask(self, rows: Tensor) -> Self:
        """Make the rows that are false vacuous, whatever they hold (NaN too)."""
        return self.where(rows, type(self).vacuous(self.batch_shape, self.size, dtype=self.dtype, device=self.device))

    def where(self, rows: Tensor, other: Self | Gaussian) -> Self:
        """Take this message in the rows that are true and ``other``, a Gaussian or one with points, elsewhere."""
        a, b = alike([self, other])
        return cast(Self, a)._each(
            lambda mine, its: torch.where(rows.reshape(*rows.shape, *(1,) * (mine.dim() - rows.dim())), mine, its), b
        )

    def full(self) -> Self:
        """Return the same message with the factor's precision as a matrix."""
        return self._with(self.factor.full())

    def effective(self) -> Tensor:
        """Return log(w_l factor(z_l)), ``(*batch, L)``, nats; zeros in rows without points."""
        points, log_weights = self.cloud()
        if self.factor.diagonal:
            quadratic = (points * points * self.precision.unsqueeze(-2)).sum(-1)
        else:
            quadratic = ((points @ self.precision) * points).sum(-1)
        potential = (points @ self.info.unsqueeze(-1)).squeeze(-1) - quadratic / 2
        return torch.where(self.present.unsqueeze(-1), log_weights + potential, 0.0)

    def is_proper(self) -> Tensor:
        """Per row, whether some effective weight is finite (none NaN or +inf); without points, as the factor."""
        weights = self.effective()
        fine = weights.isfinite().any(-1) & ~(weights.isnan() | weights.isposinf()).any(-1)
        return torch.where(self.present, fine, self.factor.is_proper())

    def is_vacuous(self) -> Tensor:
        """Per row, whether there are no points and a vacuous factor."""
        return ~self.present & self.factor.is_vacuous()

    def is_semidefinite(self) -> Tensor:
        """Per row, whether the message may enter a belief: on points any factor will do."""
        return torch.where(self.present, self.is_proper(), self.factor.is_semidefinite())

    def semidefinite_part(self) -> Self:
        """Make rows vacuous in which no point is possible; without points, the factor's positive directions."""
        return self._mended(self.factor.semidefinite_part())

    def clipped(self) -> Self:
        """Make rows vacuous in which no point is possible; without points, the factor with precisions >= 0."""
        return self._mended(self.factor.clipped())

    def log_z(self) -> Tensor:
        """Log of the integral, nats: logsumexp of the effective weights; without points, the factor's own."""
        return torch.where(self.present, self.effective().logsumexp(-1), self.factor.log_z())

    def effective_sample_size(self) -> Tensor:
        """Per row, 1 / sum_l p_l^2 of the normalised effective weights; 0 without points (Kong, Liu & Wong 1994)."""
        return torch.where(self.present, 1 / self.weights().square().sum(-1), 0.0)

    def weights(self) -> Tensor:
        """Return the normalised effective weights p_l, ``(*batch, L)``; in rows without points they are equal.

        Raises:
            MessageError: rows in which every point has weight zero.
        """
        weights = self.effective()
        none = self.present & ~self.is_proper()
        if bool(none.any()):
            raise MessageError(
                "every point has weight zero: nothing that was offered is possible",
                where=f"rows {_rows(none)}",
                expected="at least one point with a finite log-weight",
                fix="give every hypothesis some weight, or make the row absent",
            )
        return weights.softmax(-1)

    def mean(self) -> Tensor:
        """Mean sum_l p_l z_l, ``(*batch, D)``; without points, the factor's.

        Raises:
            MessageError: rows without a possible point, or without points and with an improper factor.
        """
        return torch.where(self.present.unsqueeze(-1), self._moments()[0], self._alone().mean())

    def covariance(self) -> Tensor:
        """Covariance sum_l p_l (z_l - mu)(z_l - mu)', ``(*batch, D, D)``, singular if the points are few."""
        return torch.where(self.present[..., None, None], self._moments()[1], self._alone().covariance())

    def variance(self) -> Tensor:
        """Marginal variances, ``(*batch, D)``."""
        return self.covariance().diagonal(dim1=-2, dim2=-1)

    def projected(self) -> Gaussian:
        """Return the Gaussian with the same mean and covariance; rows without points keep their factor to the bit.

        Points that leave a direction without spread (one point; no more points than dimensions) have no precision
        there: variances are raised to sqrt(eps) of the row's largest one or, if no point differs from the mean, of
        the mean's squared length, or of 1 at the origin.
        """
        if not bool(self.present.any()):
            return self.factor
        mean, covariance = self._moments()
        values, vectors = torch.linalg.eigh(covariance)
        eps, length = torch.finfo(self.dtype).eps, mean.square().sum(-1)
        scale = torch.where(values[..., -1] > eps * length, values[..., -1], torch.where(length > 0, length, 1.0))
        scaled = vectors / values.clamp_min(eps**0.5 * scale.unsqueeze(-1)).unsqueeze(-2)
        precision = scaled @ vectors.mT
        return Gaussian((precision @ mean.unsqueeze(-1)).squeeze(-1), precision).where(self.present, self.factor)

    def kl(self, other: Self | Gaussian) -> Tensor:
        """KL(self || other), nats: sum_l p_l log(p_l / q_l) in rows with the same points, else of the projections.

        It is +inf where q excludes what p allows, and where a side has no possible point.
        """
        a, b = alike([self, other])
        none = (a.present & ~a.is_proper()) | (b.present & ~b.is_proper())
        a, b = a.mask(~none), b.mask(~none)
        same = a.present & b.present & (a.cloud()[0] == b.cloud()[0]).flatten(self.info.dim() - 1).all(-1)
        logs = a.effective().log_softmax(-1), b.effective().log_softmax(-1)
        terms = torch.where(torch.isneginf(logs[0]), 0.0, logs[0].exp() * (logs[0] - logs[1]))
        value = terms.sum(-1).clamp_min(0.0)
        if not bool(same.all()):
            value = torch.where(same, value, a.projected().kl(b.projected()))
        return torch.where(none, torch.inf, value)

    def sample(self, generator: torch.Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw ``(*shape, *batch, D)``: points by their weights; without points, from the factor."""
        shares = self.weights().cumsum(-1)
        uniform = torch.rand(*shape, *self.batch_shape, 1, generator=generator, dtype=self.dtype, device=self.device)
        index = (shares[..., :-1] <= uniform * shares[..., -1:]).sum(-1)[..., None, None]
        points = self.cloud()[0].expand(*shape, *shares.shape, self.size)
        drawn = points.gather(-2, index.expand(*index.shape[:-1], self.size)).squeeze(-2)
        return torch.where(self.present.unsqueeze(-1), drawn, self._alone().sample(generator, shape))

    def to_distribution(self) -> torch.distributions.Distribution:
        """Return the Gaussian of the same moments as a torch distribution: torch has none on points."""
        return self.projected().to_distribution()

    def tensors(self) -> dict[str, Tensor]:
        """Return what is held, by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}  # type: ignore[attr-defined]

    def _meet(self, other: Atoms, rows: Tensor) -> None:
        raise MessageError(
            f"{type(self).__name__} times {type(other).__name__}: two sets of points have no product",
            where=f"rows {_rows(rows)}",
            expected="points in one of the factors at most; the others Gaussian",
            fix="project one of them onto a Gaussian: message.projected()",
        )

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the points; zeros in rows without."""
        weights = self.weights().unsqueeze(-1)
        points = torch.where(self.present[..., None, None], self.cloud()[0], 0.0)
        mean = (weights * points).sum(-2)
        gap = points - mean.unsqueeze(-2)
        return mean, (weights * gap).mT @ gap

    def _alone(self) -> Gaussian:
        """Return the factor, a standard one where there are points: it is not looked at there."""
        unit = Gaussian.standard((), self.size, dtype=self.dtype, device=self.device).expand(*self.batch_shape)
        return unit.where(self.present, self.factor)

    def _mended(self, factor: Gaussian) -> Self:
        return self.where(self.present, factor).mask(~self.present | self.is_proper())

    def _with(self, factor: Gaussian) -> Self:
        return cast(Self, replace(cast(Any, self), info=factor.info, precision=factor.precision))

    def _each(self, change: Callable[..., Tensor], *others: Atoms) -> Self:
        parts = [other.tensors() for other in others]
        return type(self)(**{name: change(v, *(part[name] for part in parts)) for name, v in self.tensors().items()})


def alike(messages: Sequence[Atoms | Gaussian]) -> list[Any]:
    """Return messages over one variable as of one type, with tensors of the same shape: their rows can be mixed."""
    if not all([message.diagonal for message in messages]):
        messages = [message.full() for message in messages]
    kinds = {type(message) for message in messages if isinstance(message, Atoms)}
    if not kinds:
        return list(messages)
    (kind, *more) = kinds
    as_points = [m if isinstance(m, Atoms) else kind.absent(m) for m in messages]
    if not more and not any("points" in m.tensors() for m in as_points):
        return as_points
    clouds = [message.particles() for message in as_points]
    most = max(cloud.points.shape[-2] for cloud in clouds)
    return [cloud.padded(most) for cloud in clouds]


def projected(message: Message) -> Message:
    """Return what a module hears of a message: points as the Gaussian of the same moments, anything else as it is."""
    return message.projected() if isinstance(message, Atoms) else message


def _rows(rows: Tensor) -> str:
    return listed(rows.reshape(-1).nonzero().flatten().tolist())
