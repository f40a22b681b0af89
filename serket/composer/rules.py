"""What the rules that need no training share: views of one size, numbers per view, a prior to lean on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from serket.errors import GraphError, ShapeError
from serket.messages import Gaussian
from serket.protocol import Port

__all__ = ["no_effect", "of_one_size", "per_view", "propped", "tamed"]


def no_effect(options: Mapping[str, object], belongs: str, found: str) -> None:
    """Refuse options that are not None.

    Args:
        options: by name, as written in a graph.
        belongs: what they belong to.
        found: what they were written with.

    Raises:
        GraphError: one of them would have no effect.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if given:
        names = ", ".join(given)
        raise GraphError(
            f"{names} would have no effect: {belongs}",
            where=names,
            expected=f"no {names} with {found}",
            found=", ".join(f"{name}: {value}" for name, value in given.items()),
            fix=f"remove {names}, or change {found}",
        )


def of_one_size(ports: Mapping[str, Port], rule: str) -> tuple[str, ...]:
    """Return the names of the views.

    Raises:
        ShapeError: one has another size than ``shared``.
    """
    views = tuple(name for name in ports if name != "shared")
    for name in views:
        if ports[name].size != ports["shared"].size:
            raise ShapeError(
                f"a {rule} needs views of one size",
                where=name,
                expected=f"size {ports['shared'].size}, as shared",
                found=f"size {ports[name].size}",
                fix="use linear_gaussian, which maps views of any size",
            )
    return views


def per_view(name: str, value: float | list[float], views: int) -> tuple[float, ...]:
    """Return a number for each view.

    Raises:
        ShapeError: there are not as many numbers as views.
    """
    values = tuple(value) if isinstance(value, list) else (value,) * views
    if len(values) != views:
        raise ShapeError(f"{name} does not fit the views", expected=f"one number, or {views}", found=str(len(values)))
    return values


def propped(above: Gaussian) -> Gaussian:
    """Return what is above, times N(0, I) in rows where it is no distribution by itself."""
    standard = Gaussian.standard((), above.size, dtype=above.dtype, device=above.device).expand(len(above.info))
    return above.where(above.is_proper(), above * standard)


def tamed(
    said: Mapping[str, Gaussian], reference: Gaussian | None = None
) -> tuple[Mapping[str, Gaussian], dict[str, Tensor]]:
    """Return messages without their directions of negative precision, in rows where these would do harm.

    Args:
        said: by view.
        reference: harm is done where it, times every negative part, is improper: else all subsets of the messages are
            proper with it. None: by any negative direction.

    Returns:
        The messages, and under ``mended.VIEW`` 1 in the rows in which that view's was mended; only if any was.
    """
    bent = {name: ~message.is_semidefinite() for name, message in said.items()}
    if not any(bool(rows.any()) for rows in bent.values()):
        return said, {}
    parts = {name: message.where(~bent[name], message.semidefinite_part()) for name, message in said.items()}
    harm = torch.stack([*bent.values()]).any(0)
    if reference is not None:
        least = reference.full()
        for name, message in said.items():
            least = least * (message.full() / parts[name].full()).mask(bent[name])
        harm = harm & ~least.is_proper()
    mended = {name: rows & harm for name, rows in bent.items()}
    told = {name: message.where(~mended[name], parts[name]) for name, message in said.items()}
    return told, {f"mended.{name}": rows.to(told[name].info) for name, rows in mended.items() if bool(rows.any())}
