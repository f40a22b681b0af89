"""Between the thread that listens and the one that infers: bounded, in the order of receipt, nothing lost unseen."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping

from serket.errors import DataError
from serket.graph.stream import Queue
from serket.stream.observation import Observation

__all__ = ["Mailbox"]


class Mailbox:
    """Holds as many readings of each sensor as its queue has room for, while nobody takes them.

    A full queue loses its oldest, or with ``drop_newest`` what comes; ``error`` ends the stream. Whoever publishes
    cannot be made to wait, so ``block`` is as ``drop_oldest`` here. ``lost`` counts, by sensor and reason.
    """

    def __init__(self, queues: Mapping[str, Queue]) -> None:
        self._queues = queues
        self._held: dict[str, deque[Observation]] = {name: deque() for name in queues}
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._lost: Counter[tuple[str, str]] = Counter()

    def put(self, observation: Observation) -> None:
        """Take a reading in; from any thread."""
        name = observation.sensor
        queue, held = self._queues[name], self._held[name]
        with self._changed:
            if len(held) >= queue.size:
                if queue.policy == "error":
                    raise DataError(
                        f"the queue of '{name}' is full",
                        found=f"{queue.size} observations wait",
                        fix="a longer queue, a faster machine, or policy: drop_oldest",
                    )
                self._lost[name, "queue"] += 1
                if queue.policy == "drop_newest":
                    return
                held.popleft()
            held.append(observation)
            self._changed.notify()

    def reject(self, name: str, reason: str) -> None:
        """Count what was received and is no reading."""
        with self._changed:
            self._lost[name, reason] += 1
            self._changed.notify()

    def fail(self, error: Exception) -> None:
        """Raise this where readings are taken."""
        with self._changed:
            self._error = error
            self._changed.notify()

    def take(self, seconds: float) -> list[Observation]:
        """Return all there are, in the order of receipt; wait for the first, at most so long."""
        with self._changed:
            if not any(self._held.values()) and self._error is None:
                self._changed.wait(seconds)
            if self._error is not None:
                raise self._error
            found = [one for held in self._held.values() for one in held]
            for held in self._held.values():
                held.clear()
        return sorted(found, key=lambda one: one.recv_ns)

    def lost(self) -> Counter[tuple[str, str]]:
        """Return how many readings were lost since the last call, by sensor and reason."""
        with self._changed:
            lost, self._lost = self._lost, Counter()
        return lost
