"""From observations to beliefs, one set after another, by any clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from serket.errors import DataError, suggestion
from serket.graph.stream import StreamEntry, nanoseconds
from serket.stream.backlog import Backlog
from serket.stream.clocks import Clocks
from serket.stream.counters import Count, Ledger
from serket.stream.estimator import Estimator
from serket.stream.intake import Intake
from serket.stream.observation import Observation
from serket.stream.output import Engine, Output
from serket.stream.symptoms import Symptoms
from serket.stream.synchroniser import Set, Synchroniser

__all__ = ["Pipeline"]

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
        self.entry, self.engine, self.widths = entry, engine, dict(widths)
        self.intakes = {name: Intake(name, entry.sensor(name), entry) for name in widths}
        self.synchroniser = Synchroniser(entry, list(widths))
        self.counts: dict[str, Count] = {name: intake.count for name, intake in self.intakes.items()}
        self.clock_resets = 0
        self._queues = {name: entry.sensor(name).queue for name in widths}
        symptoms = Symptoms(entry, self.intakes)
        self._ledger, self._clocks = Ledger(self.counts, symptoms.dropped), Clocks(entry, self.intakes)
        window = self.synchroniser.window
        self._estimator = Estimator(entry, engine, self.intakes, self._ledger, symptoms, window, service)
        self._history = self._estimator.history
        self._backlog = Backlog(self._estimator, self._ledger, entry.max_in_flight)
        self._now = -(1 << 63)
        self._silence = nanoseconds(entry.silence_ms)
        self._speaks: int | None = None  # when something was last taken in or said

    @property
    def sets(self) -> int:
        """How many sets went out."""
        return self._estimator.sets

    @property
    def missed_deadlines(self) -> int:
        """How many of them later than ``deadline_ms``."""
        return self._estimator.missed_deadlines

    @property
    def revisions(self) -> int:
        """How many of them because of late readings."""
        return self._estimator.revisions

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
        self._clocks.check(observation)
        if self._speaks is None:
            self._speaks = self._now
        released, reason = intake.take(observation)
        if reason:
            self._ledger.drop(name, reason)
        if reason != "clock":
            self._clocks.hear(observation)
        elif self._clocks.jumped(self._now):
            outputs += self._start_anew(observation)
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
            outputs += self._backlog.put(self.synchroniser.expire(self._now), self._now)
            outputs += self._backlog.work(self._now)
            if self._speaks is not None and self._now >= self._speaks + self._silence:
                predicted += 1
                self._speaks = self._now if predicted < MOST_PREDICTIONS else now
                outputs.append(self._estimator.predict(self._clocks.measured(self._now), self._now))
        self._now = max(self._now, now)
        return outputs

    def lose(self, name: str, reason: str, number: int) -> None:
        """Count observations of a sensor that got lost on the way here."""
        self.counts[name].received += number
        for _ in range(number):
            self._ledger.drop(name, reason)

    def close(self) -> list[Output]:
        """Send out all that is held."""
        outputs: list[Output] = []
        for intake in self.intakes.values():
            for one in intake.release(1 << 62):
                outputs += self._enter(one)
        outputs += self._backlog.put(self.synchroniser.flush(), self._now)
        while (due := self._backlog.due()) is not None:
            self._now = max(self._now, due)
            outputs += self._backlog.work(self._now)
        return outputs

    def _due(self) -> int | None:
        due = [self.synchroniser.due(), self._backlog.due(), *[intake.due() for intake in self.intakes.values()]]
        if self._speaks is not None:
            due.append(self._speaks + self._silence)
        return min([one for one in due if one is not None], default=None)

    def _enter(self, one: Observation) -> list[Output]:
        """Put a reading into its set."""
        name = one.sensor
        if self.widths[name] is None and getattr(one.values, "ndim", None) == 1:
            self.widths[name] = one.values.shape[0]
        if bad := _malformed(one, self.widths[name]):
            self._ledger.drop(name, bad, held=True)
            return []
        outputs = self._make_room(name)
        if outputs is None:
            self._ledger.drop(name, "queue", held=True)
            return []
        sets, late = self.synchroniser.offer(one)
        if late:
            if self._history is None or not self._history.covers(one.time_ns):
                self._ledger.drop(name, "late", held=True)
                return outputs
            sets = [Set(one, 0, late=True)]
        self._speaks = self._now
        return outputs + self._backlog.put(sets, self._now)

    def _make_room(self, name: str) -> list[Output] | None:
        """Treat a queue that is too full as its policy says; None, and it is the newest that goes."""
        queue, count = self._queues[name], self.counts[name]
        outputs: list[Output] = []
        if count.held <= queue.size:
            return outputs
        if queue.policy == "error":
            raise DataError(f"the queue of '{name}' is full", found=f"{queue.size} observations wait",
                            fix="a longer queue, a shorter timeout_ms, or policy: drop_oldest")  # fmt: skip
        if queue.policy == "drop_newest":
            return None
        while queue.policy == "block" and count.held > queue.size:  # the source waits until a set has gone
            due = self._due()
            assert due is not None
            outputs += self.advance(max(due, self._now))
        while count.held > queue.size:
            self._discard_oldest(name)
        return outputs

    def _start_anew(self, first: Observation) -> list[Output]:
        """Every clock has jumped: send out what is open, and believe the clocks as they are now."""
        outputs = self._backlog.put(self.synchroniser.flush(), self._now) + self._backlog.clear(self._now)
        self._estimator.start_anew(self._clocks.start_anew(first))
        self.clock_resets += 1
        return outputs

    def _discard_oldest(self, name: str) -> None:
        """Drop what has waited longest of a sensor, wherever it waits."""
        if not self._backlog.discard_oldest(name) and self.synchroniser.discard_oldest(name) is None:
            self.intakes[name].discard_oldest()
        self._ledger.drop(name, "queue", held=True)


def _malformed(one: Observation, width: int | None) -> str | None:
    """Return why a reading cannot be used, or None."""
    values = one.values
    if getattr(values, "shape", None) != (width,):
        return "shape"
    finite = np.isfinite(values).all() if isinstance(values, np.ndarray) else values.isfinite().all()
    return None if finite else "not_finite"
