"""The last sets and the states before them, so that late readings can still be heard."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from serket.engine.inference import Inference
from serket.stream.observation import Observation
from serket.stream.output import Engine

__all__ = ["History", "Revision"]


@dataclass(slots=True)
class _Past:
    time_ns: int
    state: Any  # of the engine, before it
    readings: dict[str, Any]
    ages: dict[str, int]
    withheld: dict[str, Observation]  # of a set that is not complete


@dataclass(frozen=True, slots=True)
class Revision:
    """What a late reading changed.

    Args:
        inference: of the latest set, about ``time_ns``.
        own: of the set that it joined.
        heard: the readings that entered now: none while the set is not complete, and all others with what completes it.
        there: the sensors in it.
    """

    inference: Inference
    time_ns: int
    own: Inference
    heard: Mapping[str, Observation]
    there: Collection[str]


class History:
    """A lag window: what was inferred in the last ``span`` nanoseconds, and from where, to infer it again.

    Bounded by time: sets older than the window are forgotten, and what belongs to them is late for good.

    Args:
        engine: whose state is kept.
        span: nanoseconds.
        complete: tells whether a set of these sensors may be inferred.
        window: returns how far a sensor's reading may be from a set that another's opened.
    """

    def __init__(
        self,
        engine: Engine,
        span: int,
        complete: Callable[[Collection[str]], bool],
        window: Callable[[str, str], int],
    ) -> None:
        self._engine, self._span, self._complete, self._window = engine, span, complete, window
        self._past: list[_Past] = []

    def keep(
        self, readings: Mapping[str, Any], time: int, ages: Mapping[str, int], withheld: Mapping[str, Observation]
    ) -> None:
        """Remember a set that is about to be inferred; what is withheld is heard once late readings complete it."""
        self._past.append(_Past(time, self._engine.state, dict(readings), dict(ages), dict(withheld)))
        while self._past[0].time_ns < time - self._span:
            self._past.pop(0)

    def forget(self) -> None:
        """Forget all sets: time starts anew."""
        self._past.clear()

    def covers(self, time: int) -> bool:
        """Tell whether a reading of this time can still be heard."""
        return bool(self._past) and self._past[0].time_ns <= time

    def revise(self, late: Observation) -> Revision:
        """Hear a late reading where it belongs, and infer again from there on.

        It joins the nearest set that it would have joined in time, or becomes a set of its own.
        """
        name, time = late.sensor, late.time_ns
        near = [past for past in self._past if self._joins(late, past)]
        if near:
            place = self._past.index(min(near, key=lambda past: abs(past.time_ns - time)))
        else:
            place = bisect_left([past.time_ns for past in self._past], time)
            state = self._past[place].state if place < len(self._past) else self._engine.state
            self._past.insert(place, _Past(time, state, {}, {}, {}))
        own, heard = self._past[place], {}
        own.withheld[name] = late
        there = own.readings.keys() | own.withheld.keys()
        if self._complete(there):
            heard, own.withheld = own.withheld, {}
            own.readings |= {name: one.values for name, one in heard.items()}
        self._engine.state = own.state
        found: list[Inference] = []
        for past in self._past[place:]:
            past.state = self._engine.state
            found.append(self._engine.step(past.readings, past.time_ns, past.ages))
        return Revision(found[-1], self._past[-1].time_ns, found[0], heard, there)

    def _joins(self, late: Observation, past: _Past) -> bool:
        there = [*past.readings, *past.withheld]
        opener = there[0] if there else late.sensor
        return late.sensor not in there and abs(past.time_ns - late.time_ns) <= self._window(late.sensor, opener)
