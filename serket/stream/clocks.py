"""The sensors' clocks: what time it is by them, whether all have jumped, and two that nobody has compared."""

from __future__ import annotations

from collections.abc import Mapping

from serket.errors import DataError
from serket.graph.stream import StreamEntry, nanoseconds
from serket.stream.intake import Intake
from serket.stream.observation import Observation

__all__ = ["Clocks", "check_spans"]

Span = tuple[int, int]


class Clocks:
    """What the clocks of a stream's sensors say.

    Args:
        entry: the section ``stream:``.
        intakes: by sensor; each doubts its own clock.
    """

    def __init__(self, entry: StreamEntry, intakes: Mapping[str, Intake]) -> None:
        self._entry, self._intakes = entry, intakes
        self._names: dict[str, str] = {}  # by sensor that was heard
        self._newest: tuple[int, int] | None = None  # the latest stamp, and when it was received

    def check(self, observation: Observation) -> None:
        """Refuse two clocks whose difference nobody has stated, by their names, or by what they say.

        Of a sensor's first reading both are far off another's: what it was measured after, and how long before it came.

        Raises:
            DataError: it is of another clock.
        """
        name = observation.sensor
        if name in self._names:
            return
        self._names[name] = observation.clock
        self._check_name(name)
        offset = self._intakes[name].offset
        time = observation.stamp_ns - offset
        lag = observation.recv_ns - time
        for other, intake in self._intakes.items():
            if intake.lag is None or intake.began is None:
                continue
            apart = _gap((time, time), (intake.began, max(intake.began, intake.newest)))
            if min(apart, abs(lag - intake.lag)) > nanoseconds(self._entry.jump_ms):
                lags = f"{other} was received {intake.lag / 1e9:.3f} s after its stamp, {name} {lag / 1e9:.3f} s"
                raise _two_clocks(name, other, lags, intake.lag - lag + offset)

    def hear(self, observation: Observation) -> None:
        """Take the time from a reading whose clock is believed."""
        if self._newest is None or observation.time_ns >= self._newest[0]:
            self._newest = observation.time_ns, observation.recv_ns

    def measured(self, now: int) -> int:
        """Return what the clocks say when it is ``now`` by receipt."""
        return now if self._newest is None else self._newest[0] + now - self._newest[1]

    def jumped(self, now: int) -> bool:
        """Tell whether no clock of a sensor that speaks is believed."""
        return all(intake.doubted for intake in self._intakes.values() if intake.speaks(now))

    def start_anew(self, first: Observation) -> int:
        """Believe the clocks as they are now; return by how much they have jumped, in nanoseconds."""
        jump = first.time_ns - self.measured(first.recv_ns)
        for intake in self._intakes.values():
            intake.trust()
        self._newest = first.time_ns, first.recv_ns
        return jump

    def _check_name(self, name: str) -> None:
        clock = self._names[name]
        if self._entry.sensor(name).offset_ms:
            return
        for other, its in self._names.items():
            if its != clock and not self._entry.sensor(other).offset_ms:
                raise _two_clocks(name, other, f"{clock} and {its}")


def check_spans(spans: Mapping[str, Span], most: int, where: str) -> None:
    """Refuse a recording without times of receipt in which two sensors are farther apart than ``most`` nanoseconds.

    Args:
        spans: first and last stamp less its offset, by sensor.
        most: nanoseconds.
        where: the recording.
    """
    for place, (name, span) in enumerate(spans.items()):
        for other, far in list(spans.items())[:place]:
            if _gap(span, far) > most:
                raise _two_clocks(
                    name,
                    other,
                    f"{_told(other, far)}, {_told(name, span)}: no time in common",
                    span[0] - far[0],
                    where=where,
                    more=f" if they began together; if one did end before the other began, give {name}_recv_ns and "
                    f"{other}_recv_ns",
                )


def _two_clocks(
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


def _gap(a: Span, b: Span) -> int:
    """Return the nanoseconds between two spans of time, (first, last); none where they overlap."""
    return max(a[0] - b[1], b[0] - a[1], 0)
