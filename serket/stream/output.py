"""What goes out for every set, and what a pipeline asks of an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from serket.engine.inference import Inference
from serket.stream.health import Level

__all__ = ["Engine", "Output"]


class Engine(Protocol):
    """Infers from one set after another; its state is what it carries from one to the next.

    ``carries`` tells whether that is what readings said: then each may enter once.
    """

    state: Any
    carries: bool

    def step(self, readings: Mapping[str, Any], time_ns: int, ages_ns: Mapping[str, int]) -> Inference:
        """Infer from readings by sensor, about the time ``time_ns``.

        Args:
            readings: values by sensor; none, and the belief is predicted.
            time_ns: the time of the set.
            ages_ns: of readings that are used again, how old they are; others are fresh.
        """
        ...

    def start_anew(self) -> None:
        """The sensors' clocks have jumped: let time go on from the next set, whatever its time is."""
        ...


@dataclass(slots=True)
class Output:
    """One set, inferred.

    Args:
        time_ns: the time of the set, by its first member's stamp less its offset.
        emitted_ns: when it went to the modules, in receipt time.
        inference: beliefs and what else the engine says.
        present: the sensors in it that were believed.
        age_ns: by sensor, emitted less measured: of its reading in the set, else of its last one that was believed.
        skew_ns: by sensor in it, measured less ``time_ns``.
        level: the health.
        reasons: why it is not OK, worst first.
        latency_ns: from the receipt of the first member until its inference was done.
        revised: whether late readings changed what had gone out.
        module_ns: by module, how long it took; none where no time passes, so that a replay is the same to the byte.
    """

    time_ns: int
    emitted_ns: int
    inference: Inference
    present: tuple[str, ...]
    age_ns: dict[str, int]
    skew_ns: dict[str, int]
    level: Level
    reasons: tuple[str, ...]
    latency_ns: int
    revised: bool = False
    module_ns: Mapping[str, int] = field(default_factory=dict)
