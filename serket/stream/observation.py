"""One reading of one sensor, with the times at which it was measured and received."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from serket.errors import DataError

__all__ = ["Observation"]


@dataclass(slots=True, eq=False)
class Observation:
    """A reading, its stamps in whole nanoseconds.

    Args:
        sensor: the data key it is for.
        stamp_ns: when it was measured, by the sensor's clock.
        recv_ns: when it was received, by the clock of this machine.
        values: the reading: a vector ``(D,)``.
        clock: the name of the clock that stamped it.
        shape: what the vector was, if more than a vector: an image of ``(H, W)`` or ``(H, W, C)``.

    Raises:
        DataError: a stamp is no whole number: float seconds lose nanoseconds after a few months.
    """

    sensor: str
    stamp_ns: int
    recv_ns: int
    values: Any
    clock: str = "host"
    shape: tuple[int, ...] = ()
    time_ns: int = field(default=0, init=False)
    """The stamp less the sensor's offset: set on arrival."""

    @classmethod
    def of(cls, sensor: str, stamp_ns: int, recv_ns: int, values: Any) -> Self:
        """Return the observation of an array in its own shape."""
        return cls(sensor, stamp_ns, recv_ns, values.reshape(-1), shape=values.shape if values.ndim > 1 else ())

    def __post_init__(self) -> None:
        if type(self.stamp_ns) is not int or type(self.recv_ns) is not int:
            self.stamp_ns, self.recv_ns = _whole("stamp_ns", self.stamp_ns), _whole("recv_ns", self.recv_ns)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise DataError(
            f"{name} is no whole number of nanoseconds",
            expected="an integer, such as 1_700_000_000_000_000_000",
            found=f"{type(value).__name__} {value!r}",
            fix="stamp_ns=round(seconds * 1e9); better, take the nanoseconds the driver gives",
        )
    return int(value)
