"""From a set to an output: inferred, settled, judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from serket.engine.inference import Inference
from serket.graph.stream import StreamEntry, nanoseconds
from serket.stream.counters import Ledger
from serket.stream.health import Health
from serket.stream.history import History
from serket.stream.intake import Intake
from serket.stream.observation import Observation
from serket.stream.output import Engine, Output
from serket.stream.symptoms import Symptoms
from serket.stream.synchroniser import Set

__all__ = ["Estimator"]

NOTHING: Mapping[str, Observation] = MappingProxyType({})


class Estimator:
    """Infers sets and makes an output of each: its readings settled, its latency measured, its health judged.

    Args:
        entry: the section ``stream:``.
        engine: infers from a set.
        intakes: by sensor.
        ledger: where readings are settled.
        symptoms: of which ``ledger`` is told.
        window: see :class:`serket.stream.history.History`.
        service: see :class:`serket.stream.pipeline.Pipeline`.
    """

    def __init__(
        self,
        entry: StreamEntry,
        engine: Engine,
        intakes: Mapping[str, Intake],
        ledger: Ledger,
        symptoms: Symptoms,
        window: Callable[[str, str], int],
        service: Callable[[float], int] | None,
    ) -> None:
        self._entry, self._engine, self._intakes, self._service = entry, engine, intakes, service
        self._ledger, self._symptoms, self._health = ledger, symptoms, Health()
        self._required = frozenset(name for name in intakes if entry.sensor(name).required)
        self.history = None
        if entry.late == "reprocess":
            self.history = History(engine, nanoseconds(entry.history_ms), self._complete, window)
        self.sets = self.missed_deadlines = self.revisions = 0
        self.busy_ns = -(1 << 63)  # until when the modules infer
        self._believed: dict[str, int] = {}  # when what was last believed of a sensor was measured
        self._refused: dict[str, int] = {}  # and what was not

    def infer(self, one: Set, now: int) -> Output:
        """Infer a set; only predict, where it is not complete."""
        if one.late:
            return self._revise(one, now)
        there = {**one.reused, **one.members}
        if self._complete(there):
            return self._step(now, one.time_ns, one.opened_ns, there, one.members, one.reused)
        self._ledger.settle(one.members, "incomplete")
        return self._step(now, one.time_ns, one.opened_ns, there, withheld=one.members)

    def predict(self, moment: int, now: int) -> Output:
        """Predict what is believed at a moment, by the sensors' clocks, of which nothing was heard."""
        return self._step(now, moment, now, ())

    def start_anew(self, jump: int) -> None:
        """Let time go on from the next set, after all clocks have jumped by so many nanoseconds."""
        self._believed.clear()
        self._engine.start_anew()
        if self.history is not None:
            self.history.forget()
        self._symptoms.note("clocks", f"all jumped, by {jump / 1e9:.1f} s; time started anew")

    def _complete(self, names: Collection[str]) -> bool:
        return len(names) >= self._entry.min_present and self._required.issubset(names)

    def _step(
        self,
        now: int,
        moment: int,
        opened: int,
        there: Collection[str],
        members: Mapping[str, Observation] = NOTHING,
        reused: Mapping[str, Observation] = NOTHING,
        withheld: Mapping[str, Observation] = NOTHING,
    ) -> Output:
        start = time.perf_counter()
        heard = reused if reused and self._engine.carries else {}  # what is carried has heard them
        again = {} if heard else reused
        readings = {name: one.values for name, one in {**members, **again}.items()}
        ages = {name: now - one.time_ns for name, one in again.items()}
        if self.history is not None:
            self.history.keep(readings, moment, ages, withheld)
        inference = self._engine.step(readings, moment, ages)
        self._spend(now, start)
        used = self._settle(now, members, inference)
        used |= {n: one for n, one in again.items() if n not in inference.gated and n not in inference.failed}
        refused = [name for name, one in heard.items() if self._refused.get(name) == one.time_ns]
        return self._output(now, moment, opened, inference, used, there, members, refused=refused)

    def _revise(self, late: Set, now: int) -> Output:
        assert self.history is not None
        start = time.perf_counter()
        (one,) = late.members.values()
        found = self.history.revise(one)
        self._spend(now, start)
        self.revisions += 1
        if not found.heard:
            self._ledger.settle(late.members, "incomplete")
        for name in found.heard.keys() - late.members.keys():
            self._ledger.take_back(name, "incomplete")
        used = self._settle(now, found.heard, found.own)
        return self._output(
            now, found.time_ns, late.opened_ns, found.inference, used, found.there, found.heard, revised=found.own
        )

    def _spend(self, now: int, start: float) -> None:
        if self._service is not None:
            self.busy_ns = now + self._service(time.perf_counter() - start)

    def _settle(self, now: int, members: Mapping[str, Observation], inference: Inference) -> dict[str, Observation]:
        """Settle readings that were inferred from; return those that were believed."""
        believed = {}
        for name, one in members.items():
            reason = "error" if name in inference.failed else "gate" if name in inference.gated else None
            self._ledger.judge(name, reason)
            if reason is None:
                self._intakes[name].last_used = now
                self._believed[name] = max(self._believed.get(name, one.time_ns), one.time_ns)
                believed[name] = one
            else:
                self._refused[name] = one.time_ns
        return believed

    def _output(
        self,
        now: int,
        moment: int,
        opened: int,
        inference: Inference,
        used: Mapping[str, Observation],
        there: Collection[str],
        judged: Collection[str],
        revised: Inference | None = None,
        refused: Collection[str] = (),
    ) -> Output:
        """Make an output; where a set was ``revised``, its health is that of what was inferred there.

        Readings that stand beside the set and were ``refused`` when they were heard are not believed now.
        """
        latency = max(self.busy_ns, now) - opened
        if self._entry.deadline_ms is not None and latency > nanoseconds(self._entry.deadline_ms):
            self.missed_deadlines += 1
            self._symptoms.note("deadline", f"{latency / 1e6:.0f} ms, deadline_ms is {self._entry.deadline_ms:g}")
        self.sets += 1
        told = revised or inference
        lost = [n for n in there if n in told.gated or n in told.failed or n in refused]
        level, reasons = self._health.update(*self._symptoms.found(now, there, lost, judged, told))
        measured = self._believed | {name: one.time_ns for name, one in used.items()}
        return Output(
            moment,
            now,
            inference,
            tuple(used),
            {name: now - time_ns for name, time_ns in measured.items()},
            {name: one.time_ns - moment for name, one in used.items()},
            level,
            reasons,
            latency,
            revised is not None,
            {} if self._service is None else {name: round(1e9 * s) for name, s in inference.seconds.items()},
        )
