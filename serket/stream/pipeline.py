"""From observations to beliefs, one set after another, by any clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType

import numpy as np

from serket.engine.inference import Inference
from serket.errors import DataError, suggestion
from serket.graph.stream import StreamEntry, nanoseconds
from serket.stream.clocks import gap, two_clocks
from serket.stream.counters import Count
from serket.stream.health import Health
from serket.stream.history import History
from serket.stream.intake import Intake
from serket.stream.observation import Observation
from serket.stream.output import Engine, Output
from serket.stream.symptoms import Symptoms
from serket.stream.synchroniser import Set, Synchroniser

__all__ = ["Pipeline"]

NOTHING: Mapping[str, Observation] = MappingProxyType({})
MOST_PREDICTIONS = 10  # in one step of time: a clock that jumps by years is not followed second by second


class Pipeline:
    """Intake, synchroniser, engine and health of one graph. It has no clock and no thread: time is what it is told.

    Nothing waits for ever: a set goes out at its deadline with what it has, and when nothing usable has come for
    ``silence_ms`` a prediction goes out. Nothing is lost without a reason: ``counts`` add up after every call.

    Args:
        entry: the section ``stream:``.
        widths: numbers per reading, by sensor; None, and the first reading tells.
        engine: infers from a set.
        service: nanoseconds that the inference of a set takes, from the seconds that it took here: while one runs,
            others wait, ``max_in_flight`` at most, and the oldest goes. None: no time passes, as in a replay.
    """

    def __init__(
        self,
        entry: StreamEntry,
        widths: Mapping[str, int | None],
        engine: Engine,
        *,
        service: Callable[[float], int] | None = None,
    ) -> None:
        self.entry, self.engine, self.widths, self._service = entry, engine, dict(widths), service
        self.intakes = {name: Intake(name, entry.sensor(name), entry) for name in widths}
        self.synchroniser = Synchroniser(entry, list(widths))
        self.counts: dict[str, Count] = {name: intake.count for name, intake in self.intakes.items()}
        self.sets = self.missed_deadlines = self.clock_resets = self.revisions = 0
        self._queues = {name: entry.sensor(name).queue for name in widths}
        self._required = frozenset(name for name in widths if entry.sensor(name).required)
        self._symptoms, self._health = Symptoms(entry, self.intakes), Health()
        self._history = None
        if entry.late == "reprocess":
            self._history = History(engine, nanoseconds(entry.history_ms), self._complete, self.synchroniser.window)
        self._ready: deque[Set] = deque()
        self._clocks: dict[str, str] = {}
        self._believed: dict[str, int] = {}  # when what was last believed of a sensor was measured
        self._now = self._busy = -(1 << 63)
        self._silence = nanoseconds(entry.silence_ms)
        self._speaks: int | None = None  # when something was last taken in or said
        self._newest: tuple[int, int] | None = None  # the latest stamp, and when it was received

    def run(self, observations: Iterable[Observation]) -> Iterator[Output]:
        """Take observations in the order of receipt, until there are no more."""
        for observation in observations:
            yield from self.push(observation)
        yield from self.close()

    def push(self, observation: Observation) -> list[Output]:
        """Take one observation; return what goes out until it was received, and for it."""
        outputs = self.advance(observation.recv_ns)
        name = observation.sensor
        intake = self.intakes.get(name)
        if intake is None:
            raise DataError(
                f"no module was trained on a sensor '{name}'",
                where=f"stamp {observation.stamp_ns}",
                available=list(self.intakes),
                fix=suggestion(name, self.intakes) or "name its topic: stream: {sensors: {KEY: {topic: ...}}}",
            )
        self._check_clock(observation)
        if self._speaks is None:
            self._speaks = self._now
        released, reason = intake.take(observation)
        if reason:
            self._drop(name, reason)
            if reason == "clock" and all(other.doubted for other in self.intakes.values() if other.speaks(self._now)):
                outputs += self._start_anew(observation)
        if reason != "clock" and (self._newest is None or observation.time_ns >= self._newest[0]):
            self._newest = observation.time_ns, observation.recv_ns
        for one in released:
            outputs += self._enter(one)
        return outputs

    def advance(self, now: int) -> list[Output]:
        """Let time pass until ``now``: deadlines first come, first served."""
        outputs: list[Output] = []
        predicted = 0
        while (due := self._due()) is not None and due <= now:
            self._now = max(self._now, due)
            for intake in self.intakes.values():
                for one in intake.release(self._now):
                    outputs += self._enter(one)
            outputs += self._go(self.synchroniser.expire(self._now))
            outputs += self._work()
            if self._speaks is not None and self._now >= self._speaks + self._silence:
                predicted += 1
                self._speaks = self._now if predicted < MOST_PREDICTIONS else now
                outputs.append(self._emit(self._measured(self._now), {}, {}, self._now, ()))
        self._now = max(self._now, now)
        return outputs

    def lose(self, name: str, reason: str, number: int) -> None:
        """Count observations of a sensor that got lost on the way here."""
        self.counts[name].received += number
        for _ in range(number):
            self._drop(name, reason)

    def close(self) -> list[Output]:
        """Send out all that is held."""
        outputs: list[Output] = []
        for intake in self.intakes.values():
            for one in intake.release(1 << 62):
                outputs += self._enter(one)
        outputs += self._go(self.synchroniser.flush())
        while self._ready:
            self._now = max(self._now, self._busy)
            outputs += self._work()
        return outputs

    def _due(self) -> int | None:
        due = [self.synchroniser.due()]
        if self._ready:
            due.append(self._busy)
        if self._speaks is not None:
            due.append(self._speaks + self._silence)
        due += [intake.due() for intake in self.intakes.values() if intake._buffer]
        return min((one for one in due if one is not None), default=None)

    def _enter(self, one: Observation) -> list[Output]:
        """Put a reading into its set."""
        outputs: list[Output] = []
        name, count = one.sensor, self.counts[one.sensor]
        if self.widths[name] is None and getattr(one.values, "ndim", None) == 1:
            self.widths[name] = one.values.shape[0]
        if bad := _malformed(one, self.widths[name]):
            self._drop(name, bad, held=True)
            return outputs
        queue = self._queues[name]
        if count.held > queue.size:
            if queue.policy == "error":
                raise DataError(f"the queue of '{name}' is full", found=f"{queue.size} observations wait",
                                fix="a longer queue, a shorter timeout_ms, or policy: drop_oldest")  # fmt: skip
            if queue.policy == "drop_newest":
                self._drop(name, "queue", held=True)
                return outputs
            while queue.policy == "block" and count.held > queue.size:  # the source waits until a set has gone
                due = self._due()
                assert due is not None
                outputs += self.advance(max(due, self._now))
            while count.held > queue.size:
                self._discard_oldest(name)
        sets, late = self.synchroniser.offer(one)
        if late:
            if self._history is None or not self._history.covers(one.time_ns):
                self._drop(name, "late", held=True)
                return outputs
            sets = [Set(one, 0, late=True)]
        self._speaks = self._now
        return outputs + self._go(sets)

    def _go(self, sets: list[Set]) -> list[Output]:
        """Send sets to the modules, or let them wait for those before."""
        outputs: list[Output] = []
        for one in sets:
            self._ready.append(one)
            outputs += self._work()
            while self._ready and len(self._ready) + 1 > self.entry.max_in_flight:  # beside the one that runs
                self._settle(self._ready.popleft(), "overload")
        return outputs

    def _work(self) -> list[Output]:
        outputs: list[Output] = []
        while self._ready and self._busy <= self._now:
            one = self._ready.popleft()
            outputs.append(self._infer(one))
        return outputs

    def _infer(self, one: Set) -> Output:
        there = {**one.reused, **one.members}
        if one.late:
            return self._revise(one)
        if self._complete(there):
            return self._emit(one.time_ns, one.members, one.reused, one.opened_ns, there)
        self._settle(one, "incomplete")
        return self._emit(one.time_ns, {}, {}, one.opened_ns, there, withheld=one.members)

    def _complete(self, names: Collection[str]) -> bool:
        return len(names) >= self.entry.min_present and self._required.issubset(names)

    def _emit(
        self,
        moment: int,
        members: Mapping[str, Observation],
        reused: Mapping[str, Observation],
        opened: int,
        there: Collection[str],
        withheld: Mapping[str, Observation] = NOTHING,
    ) -> Output:
        start = time.perf_counter()
        again = {} if reused and self.engine.carries else reused  # what is carried has heard them
        readings = {name: one.values for name, one in {**members, **again}.items()}
        ages = {name: self._now - one.time_ns for name, one in again.items()}
        if self._history is not None:
            self._history.keep(readings, moment, ages, withheld)
        inference = self.engine.step(readings, moment, ages)
        self._spend(start)
        used = self._account(members, inference)
        used |= {n: one for n, one in again.items() if n not in inference.gated and n not in inference.failed}
        return self._output(moment, inference, inference, used, there, members, opened)

    def _revise(self, late: Set) -> Output:
        assert self._history is not None
        start = time.perf_counter()
        (one,) = late.members.values()
        found = self._history.revise(one)
        self._spend(start)
        self.revisions += 1
        if not found.heard:
            self._settle(late, "incomplete")
        for name in found.heard.keys() - late.members.keys():  # dropped until now, for its set was not complete
            self.counts[name].dropped["incomplete"] -= 1
            self.counts[name].held += 1
        used = self._account(found.heard, found.own)
        moment, there, heard = found.time_ns, found.there, found.heard
        return self._output(moment, found.inference, found.own, used, there, heard, late.opened_ns, revised=True)

    def _spend(self, start: float) -> None:
        if self._service is not None:
            self._busy = self._now + self._service(time.perf_counter() - start)

    def _output(
        self,
        moment: int,
        inference: Inference,
        own: Inference,
        used: Mapping[str, Observation],
        there: Collection[str],
        judged: Collection[str],
        opened: int,
        revised: bool = False,
    ) -> Output:
        """Make an output: the health is that of the set that was heard, ``own``."""
        latency = max(self._busy, self._now) - opened
        if self.entry.deadline_ms is not None and latency > nanoseconds(self.entry.deadline_ms):
            self.missed_deadlines += 1
            self._symptoms.note("deadline", f"{latency / 1e6:.0f} ms, deadline_ms is {self.entry.deadline_ms:g}")
        self.sets += 1
        level, reasons = self._health.update(*self._symptoms.found(self._now, there, judged, own))
        took = {} if self._service is None else {name: round(1e9 * s) for name, s in inference.seconds.items()}
        return Output(
            moment, self._now, inference, tuple(used),
            {n: self._now - t for n, t in (self._believed | {n: one.time_ns for n, one in used.items()}).items()},
            {name: one.time_ns - moment for name, one in used.items()},
            level, reasons, latency, revised, took,
        )  # fmt: skip

    def _account(self, members: Mapping[str, Observation], inference: Inference) -> dict[str, Observation]:
        """Settle readings that were inferred from; return those that were believed."""
        believed = {}
        for name, one in members.items():
            count = self.counts[name]
            count.held -= 1
            if name in inference.failed:
                count.dropped["error"] += 1
            elif name in inference.gated:
                count.dropped["gate"] += 1
            else:
                count.used += 1
                self.intakes[name].last_used = self._now
                self._believed[name] = max(self._believed.get(name, one.time_ns), one.time_ns)
                believed[name] = one
        return believed

    def _start_anew(self, first: Observation) -> list[Output]:
        """Every clock has jumped: send out what is open, and believe the clocks as they are now."""
        outputs = self._go(self.synchroniser.flush())
        while self._ready:
            outputs.append(self._infer(self._ready.popleft()))
        for intake in self.intakes.values():
            intake.trust()
        self._believed.clear()
        self.engine.start_anew()
        if self._history is not None:
            self._history.forget()
        jump = first.time_ns - self._measured(first.recv_ns)
        self._symptoms.note("clocks", f"all jumped, by {jump / 1e9:.1f} s; time started anew")
        self._newest = first.time_ns, first.recv_ns
        self.clock_resets += 1
        return outputs

    def _measured(self, now: int) -> int:
        """Return what the sensors' clocks say when it is ``now`` by receipt."""
        return now if self._newest is None else self._newest[0] + now - self._newest[1]

    def _check_clock(self, observation: Observation) -> None:
        """Refuse two clocks whose difference nobody has stated, by their names, or by what they say.

        Of a sensor's first reading both are far off another's: what it was measured after, and how long before it came.
        """
        name, clock = observation.sensor, observation.clock
        if name in self._clocks:
            return
        self._clocks[name] = clock
        others = {other: c for other, c in self._clocks.items() if c != clock}
        stated = self.entry.sensor(name).offset_ms
        unstated = [other for other in others if not stated and not self.entry.sensor(other).offset_ms]
        if unstated:
            raise two_clocks(name, unstated[0], f"{clock} and {self._clocks[unstated[0]]}")
        time = observation.stamp_ns - self.intakes[name].offset
        lag = observation.recv_ns - time
        most = nanoseconds(self.entry.jump_ms)
        for other, intake in self.intakes.items():
            if intake.lag is None or intake.began is None:
                continue
            apart = gap((time, time), (intake.began, max(intake.began, intake.newest)))
            if min(apart, abs(lag - intake.lag)) > most:
                lags = f"{intake.lag / 1e9:.3f} s after its stamp, {name} {lag / 1e9:.3f} s"
                offset = intake.lag - lag + self.intakes[name].offset
                raise two_clocks(name, other, f"{other} was received {lags}", offset)

    def _discard_oldest(self, name: str) -> None:
        """Drop what has waited longest of a sensor, wherever it waits."""
        waiting = next((one for one in self._ready if name in one.members), None)
        if waiting is not None:
            waiting.members.pop(name)
            if not waiting.members:
                self._ready.remove(waiting)
        elif self.synchroniser.discard_oldest(name) is None:
            self.intakes[name].discard_oldest()
        self._drop(name, "queue", held=True)

    def _settle(self, one: Set, reason: str) -> None:
        for name in one.members:
            self._drop(name, reason, held=True)

    def _drop(self, name: str, reason: str, held: bool = False) -> None:
        count = self.counts[name]
        count.dropped[reason] += 1
        count.held -= held
        self._symptoms.dropped(name, reason)


def _malformed(one: Observation, width: int | None) -> str | None:
    """Return why a reading cannot be used, or None."""
    values = one.values
    if getattr(values, "shape", None) != (width,):
        return "shape"
    finite = np.isfinite(values).all() if isinstance(values, np.ndarray) else values.isfinite().all()
    return None if finite else "not_finite"
