"""What a fit of a mixture knows of its rows: the rows that say anything, in units in which they spread by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self, cast

import torch
from torch import Tensor

from serket.errors import DataError, GraphError
from serket.messages import Categorical, Gaussian, Message, pooled_moments
from serket.modules.mixture import centre, in_units, shared
from serket.protocol import Evidence

__all__ = ["Seen", "complete", "look"]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a fit knows of N rows, shared by all chains (a leading chain dimension is allowed).

    Args:
        bias: ``(N, K)``, log-probabilities of the components, nats, from the rest of the graph.
        present: ``(N,)`` bool; other rows say nothing about z_n and stay out of the sufficient statistics.
        points: ``(N, D)``, the observed z_n; or None, and then the messages are
        info: ``(N, D)``, eta_n, and
        precision: ``(N, D, D)``, Lambda_n, or ``(1, D, D)`` where all rows share one.
        owned: whether the weights are this model's to learn; if not, ``bias`` alone speaks about k_n.
    """

    bias: Tensor
    present: Tensor
    points: Tensor | None = None
    info: Tensor | None = None
    precision: Tensor | None = None
    owned: bool = True

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation per dimension, ``(D,)``, pooled over the rows that are present.

        From messages: :func:`~serket.messages.pooled_moments`. A dimension that does not vary has the deviation 1.

        Raises:
            DataError: no dimension of the points varies.
        """
        if self.points is not None:
            points = self.points[self.present]
            wide = points.double()  # squares of large numbers, sums of many
            location, scale = wide.mean(0).to(points), wide.std(0).to(points)
            still = scale <= 4 * torch.finfo(points.dtype).eps * points.abs().amax(0)
            if bool(still.all()):
                raise DataError("the data do not vary", expected="rows that differ", found="equal rows",
                                fix="check the array, or leave the module out")  # fmt: skip
            return location, torch.where(still, 1.0, scale)
        assert self.info is not None and self.precision is not None
        message = Gaussian(self.info, self.precision.expand(len(self.info), -1, -1))
        location, variance = pooled_moments(message[self.present])
        return location, variance.sqrt()

    def standardised(self, location: Tensor, scale: Tensor) -> Self:
        """Express what is known in units u = (z - location) / scale; absent points stay zeros."""
        if self.points is not None:
            points = (self.points - location) / scale
            return replace(self, points=torch.where(self.present.unsqueeze(-1), points, 0.0))
        assert self.info is not None and self.precision is not None
        info, precision = in_units(self.info, self.precision, location, scale)
        return replace(self, info=info, precision=precision)

    def guess(self) -> Tensor:
        """Return the points, or the posterior means under N(0, I), ``(N, D)``; in standardised units."""
        if self.points is not None:
            return self.points
        assert self.info is not None and self.precision is not None
        return centre(self.info, self.precision)


def look(evidence: Evidence, inbox: Mapping[str, Message], components: int, owned: bool) -> Seen:
    """Gather what is known of the rows that say anything, in the units they came in.

    Raises:
        GraphError: there are both data and messages on ``observation``.
        DataError: neither, fewer rows than components or than two, or values that are not finite.
    """
    component = cast(Categorical, inbox["component"])
    bias = component.log_probs()
    if "observation" in inbox:
        if evidence.values is not None:
            raise GraphError(
                "a gmm has both data and an observation port",
                fix="leave out 'data:' (z comes from the module below) or the 'observation' port (x is data)",
            )
        message = cast(Gaussian, inbox["observation"])
        present = ~message.is_vacuous()
    else:
        if evidence.values is None:
            raise DataError("a gmm has nothing to fit", fix="give it 'data:' or bind its port 'observation'")
        message, present = None, complete(evidence)
    count = int(present.sum())
    if count < max(2, components):
        raise DataError(
            "too few rows to fit a gmm",
            expected=f"at least {max(2, components)} observed rows for {components} components",
            found=f"{count} of {len(present)}",
            fix="make the component variable smaller, or give more rows",
        )
    rows = present | (~component.is_vacuous() & owned)
    if message is not None:
        told = message[rows].full()
        return Seen(bias[rows], present[rows], info=told.info, precision=shared(told.precision), owned=owned)
    assert evidence.values is not None
    points = evidence.values[rows].to(bias)
    if not bool(points.isfinite().all()):
        raise DataError("data hold NaN or infinity in observed rows", fix="mask them: Evidence.of does")
    return Seen(bias[rows], present[rows], points=points, owned=owned)


def complete(evidence: Evidence) -> Tensor:
    """Per row, whether every dimension is observed, ``(rows,)`` bool."""
    return evidence.observed if evidence.observed.dim() == 1 else evidence.observed.all(-1)
