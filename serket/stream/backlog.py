"""Sets that wait while the modules infer others: a few, and of more the oldest goes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from serket.stream.counters import Ledger
from serket.stream.estimator import Estimator
from serket.stream.output import Output
from serket.stream.synchroniser import Set

__all__ = ["Backlog"]


class Backlog:
    """A queue in front of an estimator, served whenever that is free.

    Args:
        estimator: infers one set after another.
        ledger: where readings of sets that went are settled.
        most: sets that run and wait.
    """

    def __init__(self, estimator: Estimator, ledger: Ledger, most: int) -> None:
        self._estimator, self._ledger, self._most = estimator, ledger, most
        self._waiting: deque[Set] = deque()

    def put(self, sets: Iterable[Set], now: int) -> list[Output]:
        """Send sets to the modules, or let them wait for those before."""
        outputs: list[Output] = []
        for one in sets:
            self._waiting.append(one)
            outputs += self.work(now)
            while self._waiting and len(self._waiting) + 1 > self._most:  # beside the one that runs
                self._ledger.settle(self._waiting.popleft().members, "overload")
        return outputs

    def due(self) -> int | None:
        """Return when the modules are free for what waits."""
        return self._estimator.busy_ns if self._waiting else None

    def work(self, now: int) -> list[Output]:
        """Infer what waits, as far as the modules are free."""
        outputs: list[Output] = []
        while self._waiting and self._estimator.busy_ns <= now:
            outputs.append(self._estimator.infer(self._waiting.popleft(), now))
        return outputs

    def clear(self, now: int) -> list[Output]:
        """Infer all that waits at once."""
        waiting, self._waiting = self._waiting, deque()
        return [self._estimator.infer(one, now) for one in waiting]

    def discard_oldest(self, name: str) -> bool:
        """Take a sensor's oldest reading out of its set; tell whether there was one."""
        for one in self._waiting:
            if one.members.pop(name, None) is not None:
                if not one.members:
                    self._waiting.remove(one)
                return True
        return False
