"""The last sets and the states before them, so that late readings can still be heard."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serket.engine.inference import Inference
from serket.stream.observation import Observation
from serket.stream.output import Engine

__all__ = ["History"]


@dataclass(slots=True)
class _Past:
    time_ns: int
    state: Any  # of the engine, before it
    readings: dict[str, Any]
    ages: dict[str, int]


class History:
    """A lag window: what was inferred in the last ``span`` nanoseconds, and from where, to infer it again.

    Bounded by time: sets older than the window are forgotten, and what belongs to them is late for good.
    """

    def __init__(self, engine: Engine, span: int) -> None:
        self._engine, self._span = engine, span
        self._past: list[_Past] = []

    def keep(self, readings: Mapping[str, Any], time: int, ages: Mapping[str, int]) -> None:
        """Remember a set that is about to be inferred."""
        self._past.append(_Past(time, self._engine.state, dict(readings), dict(ages)))
        while self._past[0].time_ns < time - self._span:
            self._past.pop(0)

    def covers(self, time: int) -> bool:
        """Tell whether a reading of this time can still be heard."""
        return bool(self._past) and self._past[0].time_ns <= time

    def revise(self, members: Mapping[str, Observation], time: int) -> tuple[Inference, int]:
        """Hear late readings where they belong, infer again from there on; return the present inference and its time.

        They join the set of the nearest time that lacks them, or become a set of their own.
        """
        lacking = [past for past in self._past if not members.keys() & past.readings.keys()]
        nearest = min(lacking, key=lambda past: abs(past.time_ns - time), default=None)
        place = bisect_left([past.time_ns for past in self._past], time)
        spacing = [abs(b.time_ns - a.time_ns) for a, b in zip(self._past, self._past[1:], strict=False)]
        if nearest is not None and 2 * abs(nearest.time_ns - time) <= min(spacing, default=self._span):
            nearest.readings |= {name: one.values for name, one in members.items()}
            place = self._past.index(nearest)
        else:
            state = self._past[place].state if place < len(self._past) else self._engine.state
            self._past.insert(place, _Past(time, state, {n: o.values for n, o in members.items()}, {}))
        self._engine.state = self._past[place].state
        inference = None
        for past in self._past[place:]:
            past.state = self._engine.state
            inference = self._engine.step(past.readings, past.time_ns, past.ages)
        assert inference is not None
        return inference, self._past[-1].time_ns
