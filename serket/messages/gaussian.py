"""Gaussian messages, diagonal or full, held as information vector and precision."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Self, cast

import torch
from torch import Tensor

from serket.errors import MessageError, ShapeError, listed
from serket.messages.base import Compound, per_row

__all__ = ["Gaussian"]


put = object.__setattr__  # of a frozen instance


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Gaussian:
    """The potential exp(eta' z - z' Lambda z / 2), one row per sample.

    It is bare: no normaliser is stored, so zero and negative precision can travel (pyro.ops.gaussian and
    Ortiz's gbp hold the same form). It is proper iff Lambda is positive definite.

    Args:
        info: information vector eta = Lambda mu, ``(*batch, D)``.
        precision: Lambda, ``(*batch, D)`` if diagonal, ``(*batch, D, D)`` and symmetric if full.

    Raises:
        ShapeError: the two do not describe the same batch and size.
    """

    info: Tensor
    precision: Tensor
    diagonal: bool = field(init=False, repr=False)
    """Whether the precision is held as its diagonal."""

    def __init__(self, info: Tensor, precision: Tensor) -> None:
        eta, lam = info.shape, precision.shape
        diagonal = lam == eta
        if not diagonal and (lam[:-1] != eta or lam[-1] != eta[-1]):
            expected = f"{tuple(eta)} (diagonal) or {(*eta, *eta[-1:])} (full)"
            raise ShapeError("precision does not fit the information vector", expected=expected, found=str(tuple(lam)))
        put(self, "info", info)
        put(self, "precision", precision)
        put(self, "diagonal", diagonal)

    @classmethod
    def vacuous(
        cls,
        batch: tuple[int, ...],
        size: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Return the message that says nothing: zero precision, held diagonal."""
        zeros = torch.zeros(*batch, size, dtype=dtype, device=device)
        return cls(zeros, zeros)

    @classmethod
    def from_moments(cls, mean: Tensor, covariance: Tensor) -> Self:
        """Build from a mean ``(*batch, D)`` and variances ``(*batch, D)`` or a covariance ``(*batch, D, D)``.

        Lambda = Sigma^-1, eta = Lambda mu.
        """
        if covariance.dim() == mean.dim():
            return cls(mean / covariance, 1 / covariance)
        precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
        return cls((precision @ mean.unsqueeze(-1)).squeeze(-1), precision)

    @classmethod
    def standard(
        cls,
        batch: tuple[int, ...],
        size: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Return N(0, I)."""
        zeros = torch.zeros(*batch, size, dtype=dtype, device=device)
        return cls(zeros, torch.ones_like(zeros))

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
        """Where the parameters live."""
        return self.info.device

    def full(self) -> Self:
        """Return the same message with its precision as a matrix."""
        return type(self)(self.info, torch.diag_embed(self.precision)) if self.diagonal else self

    def __mul__(self, other: Self) -> Self:
        """Multiply potentials: information vectors and precisions add; points take the Gaussian in as their factor."""
        if isinstance(other, Compound):
            return cast(Self, cast(Any, other).times(self))
        mine, theirs = self._precisions(other)
        return type(self)(self.info + other.info, mine + theirs)

    def __truediv__(self, other: Self) -> Self:
        """Divide potentials: information vectors and precisions subtract; may be improper, never raises on values."""
        if isinstance(other, Compound):  # refuses, in rows with points
            return cast(Self, cast(Any, type(other)).absent(self) / other)
        mine, theirs = self._precisions(other)
        return type(self)(self.info - other.info, mine - theirs)

    def __pow__(self, exponent: float | Tensor) -> Self:
        """Scale both natural parameters by one number, or by one per row."""
        events = 1 if self.diagonal else 2
        return type(self)(
            self.info * per_row(exponent, self.info, 1), self.precision * per_row(exponent, self.info, events)
        )

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Select rows of the first batch dimension."""
        return type(self)(self.info[rows], self.precision[rows])

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """Return the message in another type, on another device."""
        return type(self)(self.info.to(device, dtype), self.precision.to(device, dtype))

    def expand(self, *batch: int) -> Self:
        """Broadcast the batch dimensions to ``batch``."""
        events = self.precision.shape[len(self.batch_shape) :]
        return type(self)(self.info.expand(*batch, self.size), self.precision.expand(*batch, *events))

    def mask(self, rows: Tensor) -> Self:
        """Make the rows that are false vacuous, whatever they hold (NaN too)."""
        return self.where(rows, type(self)(torch.zeros_like(self.info), torch.zeros_like(self.precision)))

    def where(self, rows: Tensor, other: Self) -> Self:
        """Take this message in the rows that are true and ``other`` elsewhere."""
        if isinstance(other, Compound):
            return cast(Self, cast(Any, other).where(~rows, self))
        a, b = self._alike(other)
        pick = rows if a.diagonal else rows.unsqueeze(-1)
        return type(self)(
            torch.where(rows.unsqueeze(-1), a.info, b.info), torch.where(pick.unsqueeze(-1), a.precision, b.precision)
        )

    def is_proper(self) -> Tensor:
        """Per row, whether Lambda is positive definite (for a matrix: its Cholesky factor exists)."""
        if self.diagonal:
            return (self.precision > 0).all(-1)
        return self._factored()[1]

    def is_vacuous(self) -> Tensor:
        """Per row, whether eta and Lambda are zero."""
        events = tuple(range(-1 if self.diagonal else -2, 0))
        return (self.info == 0).all(-1) & (self.precision == 0).all(dim=events)

    def is_semidefinite(self) -> Tensor:
        """Per row, whether Lambda has no negative direction; vacuous rows have none.

        Integrating dimensions out cancels digits: what is below eps^(3/4) of the largest diagonal entry is rounding.
        """
        if self.diagonal:
            return (self.precision >= 0).all(-1)
        return torch.eq(torch.linalg.cholesky_ex(with_slack(self.precision))[1], 0)

    def semidefinite_part(self) -> Self:
        """Drop the directions of negative precision: they become vacuous, the others stay as they were."""
        if self.diagonal:
            keep = self.precision >= 0
            return type(self)(torch.where(keep, self.info, 0.0), torch.where(keep, self.precision, 0.0))
        values, vectors = torch.linalg.eigh(self.precision)
        keep = (values > 0).to(self.info)
        basis = vectors * keep.unsqueeze(-2)
        info = (basis @ (basis.mT @ self.info.unsqueeze(-1))).squeeze(-1)
        return type(self)(info, (basis * values.unsqueeze(-2)) @ basis.mT)

    def marginal(self, dims: slice) -> Self:
        """Integrate the other dimensions out: Lambda_aa - Lambda_ab Lambda_bb^+ Lambda_ba, and likewise for eta.

        Exact too where Lambda_bb is singular, as long as Lambda is positive semidefinite: a direction about which
        nothing is known carries nothing over (the pseudo-inverse, taken in those rows only).
        """
        if self.diagonal:
            return type(self)(self.info[..., dims], self.precision[..., dims])
        keep = torch.zeros(self.size, dtype=torch.bool, device=self.device)
        keep[dims] = True
        a, b = keep.nonzero().flatten(), (~keep).nonzero().flatten()
        if not len(b):
            return self
        across = self.precision[..., b, :][..., a]
        rest = self.precision[..., b, :][..., b]
        right = torch.cat([self.info[..., b].unsqueeze(-1), across], -1)
        factor, failed = torch.linalg.cholesky_ex(rest)
        # A tiny pivot is a singular matrix too.
        pivots = factor.diagonal(dim1=-2, dim2=-1) ** 2
        scale = rest.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
        regular = (failed == 0) & (pivots > 1e3 * torch.finfo(self.dtype).eps * scale).all(-1)
        eye = torch.eye(len(b)).to(factor)
        solved = torch.cholesky_solve(right, torch.where(regular[..., None, None], factor, eye))
        if not bool(regular.all()):
            loose = torch.linalg.pinv(rest, rtol=1e-12 if self.dtype == torch.float64 else 1e-5, hermitian=True) @ right
            solved = torch.where(regular[..., None, None], solved, loose)
        pulled = across.mT @ solved
        precision = self.precision[..., a, :][..., a] - pulled[..., 1:]
        return type(self)(self.info[..., a] - pulled[..., 0], (precision + precision.mT) / 2)

    def clipped(self) -> Self:
        """Raise negative precisions to zero and keep the information: the directions tilt, but never blow up."""
        if self.diagonal:
            return type(self)(self.info, self.precision.clamp_min(0))
        return type(self)(self.info, self.semidefinite_part().precision)

    def log_z(self) -> Tensor:
        """Log of the integral, nats: eta' mu / 2 - log det(Lambda) / 2 + D log(2 pi) / 2; +inf in improper rows."""
        constant = self.size * math.log(2 * math.pi)
        if self.diagonal:
            proper = self.precision > 0
            lam = torch.where(proper, self.precision, 1.0)
            value = (self.info**2 / lam - lam.log()).sum(-1)
            return torch.where(proper.all(-1), (value + constant) / 2, math.inf)
        factor, regular = self._factored()
        half = torch.linalg.solve_triangular(factor, self.info.unsqueeze(-1), upper=False).squeeze(-1)
        value = half.square().sum(-1) - 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return torch.where(regular, (value + constant) / 2, math.inf)

    def kl(self, other: Self) -> Tensor:
        """KL(self || other), nats; +inf where a side is improper, unless both hold the same numbers.

        (log det Sigma_b - log det Sigma_a + tr(Lambda_b Sigma_a) + (mu_a - mu_b)' Lambda_b (mu_a - mu_b) - D) / 2.
        Points are projected onto a Gaussian first.
        """
        if isinstance(other, Compound):
            other = cast(Any, other).projected()
        a, b = self._alike(other)
        same = (a.info == b.info).all(-1) & (a.precision == b.precision).flatten(a.info.dim() - 1).all(-1)
        if a.diagonal and b.diagonal:
            proper = a.is_proper() & b.is_proper()
            unit = type(self).standard((), self.size, dtype=self.dtype, device=self.device).expand(*self.batch_shape)
            a, b = a.where(proper, unit), b.where(proper, unit)
            gap = a.mean() - b.mean()
            ratio = b.precision / a.precision
            value = (ratio - ratio.log() - 1 + b.precision * gap**2).sum(-1) / 2
        else:
            (left, first), (right, second) = a._factored(), b._factored()
            proper = first & second
            gap = (_mean(left, a.info) - _mean(right, b.info)).unsqueeze(-1)
            # tr(Lambda_b Sigma_a) = || L_a^-1 L_b ||^2 with Lambda = L L'
            mixed = torch.linalg.solve_triangular(left, right, upper=False)
            dets = left.diagonal(dim1=-2, dim2=-1).log() - right.diagonal(dim1=-2, dim2=-1).log()
            pull = (right.mT @ gap).squeeze(-1)
            value = (mixed.square().sum((-2, -1)) + pull.square().sum(-1) - self.size) / 2 + dets.sum(-1)
        value = value.clamp_min(0.0)
        return torch.where(same, 0.0, torch.where(proper, value, math.inf))

    def mean(self) -> Tensor:
        """Mean mu = Lambda^-1 eta, ``(*batch, D)``.

        Raises:
            MessageError: rows whose precision is not positive definite.
        """
        factor = self._require_proper("mean")
        return self.info / self.precision if factor is None else _mean(factor, self.info)

    def covariance(self) -> Tensor:
        """Covariance Lambda^-1, ``(*batch, D, D)``.

        Raises:
            MessageError: rows whose precision is not positive definite.
        """
        factor = self._require_proper("covariance")
        return torch.diag_embed(1 / self.precision) if factor is None else torch.cholesky_inverse(factor)

    def variance(self) -> Tensor:
        """Marginal variances, ``(*batch, D)``; raises like :meth:`covariance`."""
        factor = self._require_proper("variance")
        return 1 / self.precision if factor is None else torch.cholesky_inverse(factor).diagonal(dim1=-2, dim2=-1)

    def sample(self, generator: torch.Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw ``(*shape, *batch, D)`` from the normalised potential; raises like :meth:`mean`."""
        noise = torch.randn(
            *shape, *self.batch_shape, self.size, generator=generator, dtype=self.dtype, device=self.device
        )
        return self.shift(noise)

    def shift(self, noise: Tensor) -> Tensor:
        """Turn standard normal noise ``(..., *batch, D)`` into draws: mu + L^-T noise, with Lambda = L L'."""
        factor = self._require_proper("mean")
        if factor is None:
            return self.info / self.precision + noise / self.precision.sqrt()
        spread: Tensor = torch.linalg.solve_triangular(factor.mT, noise.unsqueeze(-1), upper=True)
        return _mean(factor, self.info) + spread.squeeze(-1)

    def to_distribution(self) -> torch.distributions.Distribution:
        """Return the normalised potential as a torch distribution with event dimension one."""
        factor = self._require_proper("to_distribution")
        if factor is None:
            normal = torch.distributions.Normal(self.info / self.precision, self.precision.rsqrt())
            return torch.distributions.Independent(normal, 1)
        return torch.distributions.MultivariateNormal(_mean(factor, self.info), precision_matrix=self.precision)

    def tensors(self) -> dict[str, Tensor]:
        """Return ``info`` and ``precision``."""
        return {"info": self.info, "precision": self.precision}

    def _precisions(self, other: Self) -> tuple[Tensor, Tensor]:
        """Return both precisions, as matrices unless both are diagonal."""
        if not isinstance(other, Gaussian) or self.info.shape[-1] != other.info.shape[-1]:
            found = f"{type(other).__name__}({getattr(other, 'size', '?')})"
            raise MessageError("messages over different variables", expected=f"Gaussian({self.size})", found=found)
        if self.diagonal == other.diagonal:
            return self.precision, other.precision
        if self.diagonal:
            return torch.diag_embed(self.precision), other.precision
        return self.precision, torch.diag_embed(other.precision)

    def _alike(self, other: Self) -> tuple[Self, Self]:
        mine, theirs = self._precisions(other)
        if self.diagonal == other.diagonal:
            return self, other
        return type(self)(self.info, mine), type(self)(other.info, theirs)

    def _factored(self) -> tuple[Tensor, Tensor]:
        """Return L with Lambda = L L', for a full message, the identity in improper rows; and which rows are proper."""
        factor, failed = torch.linalg.cholesky_ex(self.precision)
        proper = torch.eq(failed, 0)
        if not bool(proper.all()):
            factor = torch.where(proper[..., None, None], factor, torch.eye(self.size).to(factor))
        return factor, proper

    def _require_proper(self, what: str) -> Tensor | None:
        """Raise unless every row is proper; return the Cholesky factor of a full precision, None for a diagonal one."""
        factor, proper = (None, self.is_proper()) if self.diagonal else self._factored()
        if not bool(proper.all()):
            rows = listed((~proper).reshape(-1).nonzero().flatten().tolist())
            raise MessageError(
                f"Gaussian.{what} of a potential that cannot be normalised",
                where=f"rows {rows}",
                expected="a positive definite precision",
                fix="multiply by a prior first, or select the rows where is_proper() is true",
            )
        return factor


def with_slack(matrices: Tensor) -> Tensor:
    """Add eps^(3/4) of the largest diagonal entry to the diagonal, ``(*batch, D, D)``: what rounding may have taken."""
    eps = torch.finfo(matrices.dtype).eps
    diagonal = matrices.diagonal(dim1=-2, dim2=-1)
    scale = diagonal.abs().amax(-1, keepdim=True).clamp_min(eps)
    return matrices + torch.diag_embed((eps**0.75 * scale).expand_as(diagonal))


def factored(matrices: Tensor) -> Tensor:
    """Return Cholesky factors, ``(*batch, D, D)``, of sums of precisions; with slack where one fails by rounding.

    Raises:
        MessageError: a matrix is not positive definite, by more than rounding.
    """
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrices)
    loose = failed != 0
    if bool(loose.any()):
        again, failed = torch.linalg.cholesky_ex(with_slack(matrices[loose]))
        if bool(failed.any()):
            raise MessageError(
                "a Gaussian message has negative precision: component times message cannot be integrated",
                expected="a positive semidefinite precision in every row",
                fix="send Gaussian.semidefinite_part() of the message; if precisions are huge, use float64",
            )
        factor = factor.index_put((loose,), again)
    return factor


def _mean(factor: Tensor, info: Tensor) -> Tensor:
    """Solve L L' mu = eta, ``(*batch, D)``."""
    return torch.cholesky_solve(info.unsqueeze(-1), factor).squeeze(-1)
