"""One sensor's way in: its clock, its order, each observation once."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from operator import attrgetter

from serket.graph.stream import SensorEntry, StreamEntry, nanoseconds
from serket.stream.counters import Count
from serket.stream.observation import Observation

__all__ = ["Intake"]

INTERVALS = 5  # between stamps, that tell the rate
KEPT = 50  # stamps looked through for readings that came out of order
RECENT = 256  # stamps remembered at least, to tell a duplicate from what is only out of order
_by_time = attrgetter("time_ns")


class Intake:
    """Takes the observations of one sensor as they come and releases them in the order of their stamps.

    Each stamp passes once. What comes after a later one has been released is refused, or, with ``history_ns``, passed
    on as late. A stamp is not believed when the lag between measuring and receiving differs from that of the last one
    believed by more than ``jump_ms``, until :meth:`trust` is called.
    """

    __slots__ = ("_buffer", "_clock", "_jump", "_order", "_passed", "_recent", "_released", "_reorder", "began",
                 "_tardy", "count", "doubted", "history", "lag", "last_recv", "last_used", "name", "newest",
                 "offset", "patience")  # fmt: skip

    def __init__(self, name: str, entry: SensorEntry, stream: StreamEntry) -> None:
        self.name, self.count = name, Count()
        self.offset, self._reorder = round(entry.offset_ms * 1e6), nanoseconds(entry.reorder_ms)
        self._jump = nanoseconds(stream.jump_ms)
        hz = entry.expect_hz
        self.patience = round(2e9 / hz[0]) if hz else nanoseconds(stream.silence_ms)  # then it is silent
        self.history = nanoseconds(stream.history_ms) if stream.late == "reprocess" else 0
        self._buffer: list[Observation] = []
        self._recent: set[int] = set()
        self._order: deque[int] = deque()
        self.lag: int | None = None  # from measuring to receiving, as it was last believed
        self.began: int | None = None  # when the first reading was measured
        self._released = self.newest = -(1 << 63)
        self._clock: str | None = None
        self.doubted = False
        self.last_recv: int | None = None
        self.last_used: int | None = None  # when a reading was last believed
        self._passed: list[int] = []  # the newest stamps that had their turn, in order, for the rate
        self._tardy: list[tuple[int, int]] = []  # those of them that came after a later one, and by how much

    def take(self, observation: Observation) -> tuple[list[Observation], str | None]:
        """Return what is released, in order, and why the observation was dropped, if it was."""
        count, time = self.count, observation.stamp_ns - self.offset
        observation.time_ns = time
        count.received += 1
        self.last_recv = observation.recv_ns
        lag = observation.recv_ns - time
        if self.lag is None:
            self.lag, self.began, self._clock = lag, time, observation.clock
        self.doubted = not -self._jump <= lag - self.lag <= self._jump or observation.clock != self._clock
        if self.doubted:
            return [], "clock"
        self.lag = lag
        if time in self._recent:
            return [], "duplicate"
        late = time <= self._released
        if late or not self._reorder:
            self._pass(time)
        if late and (not self.history or time < self.newest - self.history):
            return [], "out_of_order"
        self._remember(time)
        count.held += 1
        self.newest = max(self.newest, time)
        if late:
            return [observation], None
        if not self._reorder:
            self._released = time
            return [observation], None
        insort(self._buffer, observation, key=_by_time)
        return self.release(observation.recv_ns), None

    def release(self, now: int) -> list[Observation]:
        """Return what has waited for earlier ones long enough, by its stamp or by the clock."""
        if not self._buffer:
            return []
        settled, waited, ready = self.newest - self._reorder, now - self._reorder, 0
        for place, observation in enumerate(self._buffer, 1):
            if observation.time_ns <= settled or observation.recv_ns <= waited:
                ready = place
        released, self._buffer = self._buffer[:ready], self._buffer[ready:]
        for observation in released:
            self._released = observation.time_ns
            self._pass(self._released)
        return released

    def due(self) -> int | None:
        """Return when the first one waiting has to be released, in receipt time."""
        return min(o.recv_ns for o in self._buffer) + self._reorder if self._buffer else None

    def discard_oldest(self) -> Observation | None:
        """Give up the oldest one waiting here."""
        return self._buffer.pop(0) if self._buffer else None

    def speaks(self, now: int) -> bool:
        """Tell whether it has been heard, and is not silent."""
        return self.last_recv is not None and now - self.last_recv <= self.patience

    def trust(self) -> None:
        """Believe the clock as the next observation has it, forgetting what was."""
        self.lag, self.began, self.doubted = None, None, False
        self._released = self.newest = -(1 << 63)
        self._recent.clear()
        self._order.clear()
        self._passed.clear()
        self._tardy.clear()

    def rate_hz(self) -> float | None:
        """Return the rate at which it measures, over five intervals; None before there are as many.

        The last five, or, where readings of late came out of order, the last before which none is missing as yet.
        """
        passed = self._passed
        if self._tardy:
            passed = passed[: bisect_right(passed, passed[-1] - max(by for _, by in self._tardy))]
        if len(passed) <= INTERVALS:
            return None
        return INTERVALS * 1e9 / (passed[-1] - passed[-1 - INTERVALS])

    def _pass(self, time: int) -> None:
        passed = self._passed
        if passed and time <= passed[-1]:
            if time in passed:
                return
            self._tardy.append((time, passed[-1] - time))
        insort(passed, time)
        del passed[:-KEPT]
        if self._tardy:
            self._tardy = [one for one in self._tardy if one[0] >= passed[0]]

    def _remember(self, time: int) -> None:
        self._recent.add(time)
        self._order.append(time)
        oldest = self.newest - max(self.history, self._reorder)  # before it, none is taken
        while len(self._order) > RECENT and self._order[0] < oldest:
            self._recent.discard(self._order.popleft())
