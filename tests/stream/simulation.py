"""Sensors at 30, 20 and 10 Hz under a virtual clock, and what may happen to them."""

from dataclasses import replace  # noqa: F401

import numpy as np

from serket.engine.inference import Inference
from serket.graph.stream import StreamEntry
from serket.stream.observation import Observation
from serket.stream.pipeline import Pipeline

HZ = {"camera": 30, "touch": 20, "joints": 10}
SECONDS = 10
MS = 1_000_000
# In 100 ms: all three at 0, the camera at 33 and 67, touch at 50 ms.
SETS = 40 * SECONDS
ALL, CAMERA, TOUCH = frozenset(HZ), frozenset({"camera"}), frozenset({"touch"})


class Nothing:
    """An engine that believes nothing, and counts."""

    state, carries = 0, False

    def start_anew(self):
        pass

    def step(self, readings, time_ns, ages_ns):
        self.state += 1
        return Inference({})


def frames(latency_ms=None, jitter_ms=0.0):
    """Every sensor's observations, in the order of receipt."""
    found = []
    for sensor, hz in HZ.items():
        for i in range(SECONDS * hz):
            wobble = round(jitter_ms * MS * ((i * 7 % 5) / 2 - 1))
            stamp = round(i * 1e9 / hz) + wobble
            found.append(Observation(sensor, stamp, stamp + round((latency_ms or {}).get(sensor, 0) * MS), np.zeros(2)))
    return ordered(found)


def ordered(observations):
    return sorted(observations, key=lambda o: (o.recv_ns, o.stamp_ns, list(HZ).index(o.sensor)))


def section(policy="settled", sensors=None, **options):
    rates = {name: {"expect_hz": [float(hz), float(hz)]} for name, hz in HZ.items()}
    for name, more in (sensors or {}).items():
        rates[name] = rates[name] | more
    base = {"policy": policy, "tolerance_ms": 5.0, "timeout_ms": 100.0, "sensors": rates}
    return StreamEntry.model_validate(base | options)


def play(observations, policy="settled", service=None, engine=None, **options):
    """Run it all; every account must add up."""
    pipeline = Pipeline(section(policy, **options), dict.fromkeys(HZ, 2), engine or Nothing(), service=service)
    outputs = []
    for one in observations:
        outputs += pipeline.push(one)
        assert all(count.balanced() for count in pipeline.counts.values())
    outputs += pipeline.close()
    received = {name: sum(one.sensor == name for one in observations) for name in HZ}
    for name, count in pipeline.counts.items():
        assert (count.received, count.held, count.balanced()) == (received[name], 0, True)
    return outputs, pipeline


def masks(outputs):
    """How many sets had which sensors."""
    found = {}
    for output in outputs:
        found[frozenset(output.present)] = found.get(frozenset(output.present), 0) + 1
    return found


def dropped(pipeline):
    return {name: dict(count.dropped) for name, count in pipeline.counts.items() if count.dropped}


def levels(outputs):
    return [output.level for output in outputs]
