"""What the rules that need no training share: views of one size, numbers per view, a prior to lean on."""

from __future__ import annotations

from collections.abc import Mapping

from serket.errors import ShapeError
from serket.messages import Gaussian
from serket.protocol import Port

__all__ = ["of_one_size", "per_view", "propped"]


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
