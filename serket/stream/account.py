"""What a stream came to: sets, health, times, and where every observation went."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from serket.stream.health import BEFORE
from serket.stream.output import Output
from serket.stream.pipeline import Pipeline

__all__ = ["Account"]

KEPT = 10_000  # the last outputs, of which times are told
MOST_REASONS, TOLD_REASONS = 100, 10
_AMOUNT = re.compile(r"(less than )?\d[\d.]*( m?s\b)?")  # what differs from one output to the next


class Account:
    """Counts outputs as they go out, in bounded memory."""

    def __init__(self) -> None:
        self.levels: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()  # without their numbers
        self._words: dict[str, str] = {}  # as each was last told
        self._latency: deque[int] = deque(maxlen=KEPT)
        self._seconds: dict[str, deque[float]] = {}
        self._first: int | None = None
        self._last = 0

    def put(self, output: Output) -> None:
        """Count one."""
        self.levels[output.level.value] += 1
        for told in output.reasons:
            reason = told.removesuffix(BEFORE)
            who, colon, what = reason.partition(": ")
            kind = who + colon + _AMOUNT.sub("..", what)
            if kind in self.reasons or len(self.reasons) < MOST_REASONS:
                self.reasons[kind] += 1
                self._words[kind] = reason
        self._latency.append(output.latency_ns)
        for name, seconds in output.inference.seconds.items():
            self._seconds.setdefault(name, deque(maxlen=KEPT)).append(seconds)
        self._first = output.emitted_ns if self._first is None else self._first
        self._last = output.emitted_ns

    def summary(self, pipeline: Pipeline) -> dict[str, Any]:
        """Return plain data.

        ``reasons`` are those that most sets had, as last told; ``sensors`` is the account of each; ``ms`` percentiles,
        over the last 10 000 sets.
        """
        span = (self._last - (self._first or 0)) / 1e9
        return {
            "sets": pipeline.sets,
            "per_second": round((pipeline.sets - 1) / span, 2) if span > 0 else None,
            "levels": dict(self.levels),
            "reasons": {self._words[kind]: count for kind, count in self.reasons.most_common(TOLD_REASONS)},
            "sensors": {name: count.as_dict() for name, count in pipeline.counts.items()},
            "missed_deadlines": pipeline.missed_deadlines,
            "clock_resets": pipeline.clock_resets,
            "revisions": pipeline.revisions,
            "ms": {"latency": percentiles([ns / 1e6 for ns in self._latency])}
            | {name: percentiles([1e3 * s for s in seconds]) for name, seconds in self._seconds.items()},
        }


def percentiles(values: list[float]) -> Mapping[str, float]:
    """Return the median, the 95th and 99th percentile and the greatest."""
    if not values:
        return {}
    found = np.percentile(values, [50, 95, 99, 100]).round(3)
    return dict(zip(("p50", "p95", "p99", "max"), found.tolist(), strict=True))
