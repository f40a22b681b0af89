"""Observations through a pipeline to sinks, as fast as they come or as fast as they can."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from serket.stream.observation import Observation
from serket.stream.output import Output
from serket.stream.pipeline import Pipeline

__all__ = ["Sink", "follow", "play"]

NAP_S = 0.02  # between looks at the clock while nothing is due


class Sink(Protocol):
    """Takes outputs."""

    def put(self, output: Output) -> None:
        """Take one."""
        ...


def play(
    pipeline: Pipeline,
    observations: Iterable[Observation],
    sinks: Iterable[Sink],
    *,
    rate: float | None = None,
    heard: Callable[[Observation], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run a recording to its end, and send every output to every sink.

    Args:
        pipeline: from :func:`serket.stream.open_stream`.
        observations: in the order of receipt.
        sinks: what takes outputs.
        rate: 1.0 as it was received, 2.0 twice as fast; None is as fast as the machine can, by a virtual clock.
        heard: called with every observation when the pipeline has taken it.
        sleep: waits so many seconds.
        clock: seconds.
    """
    follow(pipeline, paced(observations, rate, sleep, clock), sinks, heard=heard)


def follow(
    pipeline: Pipeline,
    events: Iterable[tuple[int, Observation | None]],
    sinks: Iterable[Sink],
    *,
    heard: Callable[[Observation], None] | None = None,
    lost: Callable[[], Mapping[tuple[str, str], int]] | None = None,
) -> None:
    """Run what comes to its end, and send every output to every sink.

    Args:
        pipeline: from :func:`serket.stream.open_stream`.
        events: observations by when they were received, and, where None, what time it is.
        sinks: what takes outputs.
        heard: called with every observation when the pipeline has taken it.
        lost: returns how many observations got lost on the way here since it was last asked, by sensor
            and reason.
    """
    takers = list(sinks)

    def send(outputs: Iterable[Output]) -> None:
        for output in outputs:
            for sink in takers:
                sink.put(output)

    for moment, observation in events:
        if lost is not None:
            for (name, reason), count in lost().items():
                pipeline.lose(name, reason, count)
        if observation is None:
            send(pipeline.advance(moment))
            continue
        outputs = pipeline.push(observation)
        if heard:
            heard(observation)
        send(outputs)
    send(pipeline.close())


def paced(
    observations: Iterable[Observation],
    rate: float | None,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> Iterator[tuple[int, Observation | None]]:
    """Yield observations when they are due, and, while nothing is, what time it is."""
    begun: tuple[float, int] | None = None
    for observation in observations:
        if rate is not None:
            begun = begun or (clock(), observation.recv_ns)
            while (left := (observation.recv_ns - begun[1]) / 1e9 / rate - (clock() - begun[0])) > 0:
                sleep(min(left, NAP_S))
                yield min(begun[1] + round((clock() - begun[0]) * rate * 1e9), observation.recv_ns), None
        yield observation.recv_ns, observation
