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
    """What late readings changed.

    Args:
        inference: of the latest set, about ``time_ns``.
        own: of the set that they joined.
        heard: the readings that entered now: none while it is not complete, and with those that complete it all others.
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
    """

    def __init__(self, engine: Engine, span: int, complete: Callable[[Collection[str]], bool]) -> None:
        self._engine, self._span, self._complete = engine, span, complete
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

    def revise(self, members: Mapping[str, Observation], time: int) -> Revision:
        """Hear late readings where they belong, and infer again from there on.

        They join the set of the nearest time that lacks them, or become a set of their own.
        """
        lacking = [past for past in self._past if not members.keys() & (past.readings.keys() | past.withheld.keys())]
        nearest = min(lacking, key=lambda past: abs(past.time_ns - time), default=None)
        place = bisect_left([past.time_ns for past in self._past], time)
        spacing = [abs(b.time_ns - a.time_ns) for a, b in zip(self._past, self._past[1:], strict=False)]
        if nearest is not None and 2 * abs(nearest.time_ns - time) <= min(spacing, default=self._span):
            place = self._past.index(nearest)
        else:
            state = self._past[place].state if place < len(self._past) else self._engine.state
            self._past.insert(place, _Past(time, state, {}, {}, {}))
        own, heard = self._past[place], {}
        own.withheld |= members
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
