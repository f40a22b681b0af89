"""Which rows tie views together, and in which units each is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from serket.errors import DataError
from serket.messages import Gaussian, pooled_moments

__all__ = ["hold_out", "linked", "units_of"]

FEWEST_HELD = 5


def linked(messages: Mapping[str, Gaussian]) -> dict[str, Gaussian]:
    """Return the rows in which any view speaks, if enough rows tie the views together.

    Raises:
        DataError: views that no chain of rows connects, two rows or more for each link.
    """
    present = {name: ~message.is_vacuous() for name, message in messages.items()}
    groups = {name: {name} for name in messages}
    for a, here in present.items():
        for b, there in present.items():
            if groups[a] is not groups[b] and int((here & there).sum()) > 1:
                groups |= dict.fromkeys(groups[a] | groups[b], groups[a] | groups[b])
    apart = sorted({tuple(sorted(group)) for group in groups.values()})
    if len(apart) > 1:
        raise DataError(
            "views that are never seen together cannot be coordinated",
            expected="two rows or more with both, from each view to the others, directly or by way of a third",
            found=f"{'; '.join(' and '.join(group) for group in apart)}: apart",
            fix="add rows in which they are seen together, or leave a view out of the composer",
        )
    speaks = torch.stack(list(present.values())).any(0)
    return {name: message[speaks] for name, message in messages.items()}


def units_of(message: Gaussian) -> tuple[Tensor, Tensor]:
    """Return location and standard deviation per dimension of what a view's messages are about, float64."""
    location, variance = pooled_moments(message.to(torch.float64, message.device))
    return location, variance.sqrt()


def hold_out(present: Sequence[Tensor], share: float, generator: torch.Generator) -> Tensor:
    """Choose a share of the rows in which two views or more are present, ``(rows,)`` bool; none if under five rows."""
    paired = (torch.stack(list(present)).sum(0) >= min(2, len(present))).nonzero().flatten()
    held = torch.zeros_like(present[0])
    count = round(share * len(paired))
    if count >= FEWEST_HELD:
        held[paired[torch.randperm(len(paired), generator=generator, device=paired.device)[:count]]] = True
    return held
