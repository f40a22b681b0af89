"""Observations to sets: which readings of different sensors belong together, and how long to wait for the rest."""

from __future__ import annotations

from collections.abc import Sequence

from serket.graph.stream import StreamEntry, nanoseconds
from serket.stream.observation import Observation

__all__ = ["Set", "Synchroniser"]

NEVER = -(1 << 63)
EARLIEST = 0.8  # of its period: no sensor delivers sooner after its last reading


class Set:
    """Readings that belong together: ``members`` by sensor, about the time of the first that came.

    ``reused`` are older readings that policy ``latest`` holds beside them; ``late`` marks readings whose set has gone.
    ``jitter_ns`` is by how much the time of the first may be off.
    """

    __slots__ = ("deadline_ns", "jitter_ns", "late", "members", "opened_ns", "reused", "time_ns")

    def __init__(self, first: Observation, timeout: int, jitter: int = 0, late: bool = False) -> None:
        self.members = {first.sensor: first}
        self.reused: dict[str, Observation] = {}
        self.time_ns, self.opened_ns, self.deadline_ns = first.time_ns, first.recv_ns, first.recv_ns + timeout
        self.jitter_ns, self.late = jitter, late


class Synchroniser:
    """Makes sets, by the policy of the graph's ``stream:`` section. It has no clock: it is told what time it is.

    - ``exact``: readings with one stamp. ``approximate``: within ``tolerance_ms`` of the first, more by the
      ``jitter_ms`` of either's sensor. A set goes out as soon as every sensor is in it, and those before it go with it;
      else at its deadline, ``timeout_ms`` after its first member came, never put off.
    - ``settled``: as approximate, but a set goes out as soon as nothing more can join: every sensor is in it, has
      delivered something later, or, by the greatest rate it is expected to have, cannot deliver anything so soon (with
      a fifth of its period to spare). The deadline stands.
    - ``latest``: every reading is a set of its own, beside the last of each other sensor, up to ``timeout_ms`` old.

    A sensor that was never heard is waited for until a first set has gone out at its deadline, then from its first
    reading on: what is for learning only, or was not switched on, holds nothing up. One that is ``required`` always is.

    Sets go out in the order of their time, except ``latest``. A reading for a set that has gone is late.

    Args:
        entry: the section.
        sensors: all that there may be.
    """

    def __init__(self, entry: StreamEntry, sensors: Sequence[str]) -> None:
        self.policy, self.timeout = entry.policy, nanoseconds(entry.timeout_ms)
        tolerance = 0 if self.policy == "exact" else nanoseconds(entry.tolerance_ms)
        exact = self.policy == "exact"
        self._jitter = {name: 0 if exact else nanoseconds(entry.sensor(name).jitter_ms) for name in sensors}
        self._window = {name: tolerance + jitter for name, jitter in self._jitter.items()}
        rates = {name: entry.sensor(name).expect_hz for name in sensors}
        self._pause = {name: round(EARLIEST * 1e9 / hz[1]) if hz else 0 for name, hz in rates.items()}
        self._open: list[Set] = []  # by time
        self._reached = dict.fromkeys(sensors, NEVER)  # the latest stamp of each
        self._required = {name for name in sensors if entry.sensor(name).required}
        self._waits, self._first = dict(self._window), True  # who is waited for; whether no deadline has come yet
        self._latest: dict[str, Observation] = {}
        self._gone: Set | None = None

    def offer(self, observation: Observation) -> tuple[list[Set], bool]:
        """Take a reading; return the sets that go out for it, and whether it came too late for any."""
        sensor, time = observation.sensor, observation.time_ns
        if self.policy == "latest":
            return [self._beside(observation)], False
        window, found, nearest = self._window[sensor], None, 0
        self._waits[sensor] = window
        for candidate in self._open:
            away, most = abs(candidate.time_ns - time), window + candidate.jitter_ns
            if away <= most and sensor not in candidate.members and (found is None or away < nearest):
                found, nearest = candidate, away
        if found is None:
            gone = self._gone
            if gone is not None and time <= gone.time_ns + (0 if sensor in gone.members else window + gone.jitter_ns):
                return [], True
            found = Set(observation, self.timeout, self._jitter[sensor])
            place = len(self._open)
            while place and self._open[place - 1].time_ns > time:
                place -= 1
            self._open.insert(place, found)
        else:
            found.members[sensor] = observation
        if time > self._reached[sensor]:
            self._reached[sensor] = time
        if self.policy == "settled":
            return self._settled(), False
        return (self._release(found) if len(found.members) == len(self._waits) else []), False

    def window(self, sensor: str, opener: str) -> int:
        """Return how far a sensor's reading may be from a set that another's opened, in nanoseconds."""
        return self._window[sensor] + self._jitter[opener]

    def due(self) -> int | None:
        """Return the first deadline, in receipt time."""
        return min([one.deadline_ns for one in self._open]) if self._open else None

    def expire(self, now: int) -> list[Set]:
        """Return the sets whose deadline has come, and those before them."""
        over = [one for one in self._open if one.deadline_ns <= now]
        if over and self._first:
            heard = self._required | {name for name, time in self._reached.items() if time > NEVER}
            self._waits, self._first = {name: self._window[name] for name in self._window if name in heard}, False
        return self._release(over[-1]) if over else []

    def flush(self) -> list[Set]:
        """Return all that is open, and forget what has gone: time starts anew."""
        out, self._open, self._gone = self._open, [], None
        self._latest.clear()
        self._reached = dict.fromkeys(self._reached, NEVER)
        self._waits, self._first = dict(self._window), True
        return out

    def discard_oldest(self, sensor: str) -> Observation | None:
        """Take a sensor's oldest reading out of its set."""
        for one in self._open:
            if sensor in one.members:
                gone = one.members.pop(sensor)
                if not one.members:
                    self._open.remove(one)
                return gone
        return None

    def _settled(self) -> list[Set]:
        pause, reached, count = self._pause, self._reached, 0
        for one in self._open:
            last, members = one.time_ns + one.jitter_ns, one.members
            if any([
                reached[name] + pause[name] <= last + window
                for name, window in self._waits.items()
                if name not in members
            ]):  # fmt: skip
                break
            count += 1
        return self._release(self._open[count - 1]) if count else []

    def _release(self, last: Set) -> list[Set]:
        count = self._open.index(last) + 1
        out, self._open = self._open[:count], self._open[count:]
        self._gone = last
        return out

    def _beside(self, observation: Observation) -> Set:
        made = Set(observation, self.timeout)
        oldest = observation.recv_ns - self.timeout
        made.reused = {n: o for n, o in self._latest.items() if n != observation.sensor and o.recv_ns >= oldest}
        self._latest[observation.sensor] = observation
        return made
