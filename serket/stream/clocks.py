"""Two clocks that nobody has compared: sensors whose stamps have no time in common."""

from __future__ import annotations

from collections.abc import Mapping

from serket.errors import DataError

__all__ = ["check_spans", "gap", "two_clocks"]

Span = tuple[int, int]


def gap(a: Span, b: Span) -> int:
    """Return the nanoseconds between two spans of time, (first, last); none where they overlap."""
    return max(a[0] - b[1], b[0] - a[1], 0)


def check_spans(spans: Mapping[str, Span], most: int, where: str) -> None:
    """Refuse a recording without times of receipt in which two sensors are farther apart than ``most`` nanoseconds.

    Args:
        spans: first and last stamp less its offset, by sensor.
        most: nanoseconds.
        where: the recording.
    """
    for place, (name, span) in enumerate(spans.items()):
        for other, far in list(spans.items())[:place]:
            if gap(span, far) > most:
                raise two_clocks(
                    name,
                    other,
                    f"{_told(other, far)}, {_told(name, span)}: no time in common",
                    span[0] - far[0],
                    where=where,
                    more=f" if they began together; if one did end before the other began, give {name}_recv_ns and "
                    f"{other}_recv_ns",
                )


def two_clocks(
    name: str, other: str, found: str, offset: int | None = None, *, where: str | None = None, more: str = ""
) -> DataError:
    """Return the error of two clocks whose difference nobody has stated; ``offset`` is what it seems to be, in ns."""
    seems = "..." if offset is None else f"{offset / 1e6:.0f}"
    return DataError(
        f"'{name}' and '{other}' are stamped by two clocks",
        where=where,
        found=found,
        fix=f"state by how much they differ: stream: {{sensors: {{{name}: {{offset_ms: {seems}}}}}}}{more}",
    )


def _told(name: str, span: Span) -> str:
    return f"{name} from {span[0] / 1e9:.3f} to {span[1] / 1e9:.3f} s"
