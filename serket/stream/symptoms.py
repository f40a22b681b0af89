"""What may be wrong with a stream, at one output."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from serket.engine.inference import Inference
from serket.graph.stream import StreamEntry, nanoseconds
from serket.stream.counters import REASONS
from serket.stream.health import Found, Level
from serket.stream.intake import Intake

__all__ = ["Symptoms"]

HARMLESS = ("duplicate", "incomplete")  # the first is dropped rightly, the second told by what lacks
_Wrong = dict[tuple[str, str], tuple[Level, str]]


class Symptoms:
    """Collects what happens between outputs, and looks at each sensor's silence and rate at one.

    A sensor is silent after 2 / (its least rate) without anything received, or after ``silence_ms`` where no rate is
    expected; unused after as long without anything believed, and as readings may wait besides; slow or fast where the
    rate over five intervals between stamps is outside ``expect_hz`` by more than 10 %: those before which no reading is
    still to come, as late as any of the last fifty was.
    """

    def __init__(self, entry: StreamEntry, intakes: Mapping[str, Intake]) -> None:
        self._intakes = intakes
        self._hz = {name: entry.sensor(name).expect_hz for name in intakes}
        waits = 0.0 if entry.policy == "latest" else entry.timeout_ms  # for the rest of its set, and for its turn
        self._longest = {
            name: intake.patience + nanoseconds(waits + entry.sensor(name).reorder_ms)
            for name, intake in intakes.items()
        }
        self._required = {name: entry.sensor(name).required for name in intakes}
        self._least = entry.min_present
        self._silence = nanoseconds(entry.silence_ms)
        self._noted: _Wrong = {}
        self._heard: set[str] = set()  # sensors of which a reading was judged since the last output
        self._begun: int | None = None

    def dropped(self, name: str, reason: str) -> None:
        """Note that an observation was dropped."""
        if reason not in HARMLESS:
            self._heard.add(name)
            self._noted[name, reason] = (Level.DEGRADED, f"{name}: {REASONS[reason]}")

    def note(self, key: str, text: str) -> None:
        """Note anything else."""
        self._noted["", key] = (Level.DEGRADED, f"{key}: {text}")

    def found(
        self, now: int, came: Collection[str], lost: Collection[str], inferred: Collection[str], inference: Inference
    ) -> tuple[Found, Collection[str]]:
        """Return what is wrong now, and the sensors of which nothing was judged; what was noted is then forgotten.

        Args:
            now: receipt time.
            came: the sensors in the set.
            lost: those of them that were not believed.
            inferred: those of ``came`` whose readings the engine was given.
            inference: what it said.
        """
        found, self._noted = self._noted, {}
        heard, self._heard = self._heard.union(inferred), set()
        if self._begun is None:
            self._begun = now
        for name, intake in self._intakes.items():
            quiet = now - (self._begun if intake.last_recv is None else intake.last_recv)
            if quiet > intake.patience:
                found["", f"{name}.silent"] = (self._grave(name), f"{name}: silent for {_span(quiet)}")
                heard.add(name)  # what its last readings were like is forgotten then
            else:
                found |= self._pace(name, now - (self._begun if intake.last_used is None else intake.last_used))
            if self._required[name] and name not in came:
                found["", f"{name}.absent"] = (Level.ERROR, f"{name}: required, and not in the set")
            elif self._required[name] and name in lost:
                found["", f"{name}.absent"] = (Level.ERROR, f"{name}: required, and not believed in the set")
        count, least = len(came), f"min_present is {self._least}"
        if count < self._least:
            found["", "present"] = (Level.ERROR, f"{_number(count)} in the set, {least}")
        elif (left := count - len(lost)) < self._least and (self._least > 1 or self._starved(now)):
            found["", "present"] = (Level.ERROR, f"{left} of {_number(count)} in the set believed, {least}")
        return found | _told(inference), self._intakes.keys() - heard

    def _starved(self, now: int) -> bool:
        """Tell whether of no sensor anything was believed for ``silence_ms``: a lie alone in its set is no ERROR."""
        used = [intake.last_used for intake in self._intakes.values() if intake.last_used is not None]
        return now - max(used, default=self._begun or 0) > self._silence

    def _pace(self, name: str, idle: int) -> _Wrong:
        """Return what is wrong with when a sensor's readings come, though they do."""
        if idle > self._longest[name]:
            return {("", f"{name}.unused"): (self._grave(name), f"{name}: nothing usable for {_span(idle)}")}
        hz, rate = self._hz[name], self._intakes[name].rate_hz()
        if hz is None or rate is None or 0.9 * hz[0] <= rate <= 1.1 * hz[1]:
            return {}
        return {("", f"{name}.rate"): (Level.DEGRADED, f"{name}: {rate:.1f} Hz, expected {hz[0]:g} to {hz[1]:g}")}

    def _grave(self, name: str) -> Level:
        return Level.ERROR if self._required[name] else Level.DEGRADED


def _told(inference: Inference) -> _Wrong:
    """Return what the engine says of readings."""
    found: _Wrong = {}
    for name, away in inference.gated.items():
        text = f"{name}: {away:.1f} standard deviations from what was believed without it"
        found[name, "gate"] = (Level.DEGRADED, text)
    for name, power in inference.beyond.items():
        text = f"{name}: unlike what it was trained on, counts {_share(power)}"
        found[name, "beyond"] = (Level.DEGRADED, text)
    for name, honest in inference.doubted.items():
        text = f"{name}: contradicted by other views, {_share(honest)} likely to be honest"
        found[name, "robust"] = (Level.DEGRADED, text)
    for name, text in inference.failed.items():
        found[name, "error"] = (Level.DEGRADED, f"{name}: its module failed: {text}")
    return found


def _number(count: int) -> str:
    return f"{count} sensor" if count == 1 else f"{count} sensors"


def _share(power: float) -> str:
    return f"{power:.0%}" if power >= 0.005 else "less than 1%"


def _span(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e9:.1f} s" if nanoseconds >= 1e9 else f"{nanoseconds / 1e6:.0f} ms"
