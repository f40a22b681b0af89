"""Nothing waits for ever: where nothing usable comes, predictions go out and say why, and a dead sensor holds up no other."""

import numpy as np
import pytest

from serket.stream.health import Level
from serket.stream.observation import Observation
from tests.stream.simulation import HZ, MS, Nothing, dropped, frames, play

S = 10**9


@pytest.mark.parametrize(
    ("values", "reason", "text"),
    [(np.full(2, np.nan), "not_finite", "NaN or infinity"), (np.zeros(3), "shape", "not as many numbers")],
)
def test_when_nothing_is_usable_predictions_go_out_and_say_why(values, reason, text):
    outputs, pipeline = play([Observation(o.sensor, o.stamp_ns, o.recv_ns, values) for o in frames()])
    assert [o.time_ns for o in outputs] == [s * S for s in range(1, 10)], "after each second of silence"
    assert {o.level for o in outputs} == {Level.ERROR}
    assert all(any(text in reason for reason in o.reasons) for o in outputs[1:]), "from the second output on"
    assert dropped(pipeline) == {name: {reason: 10 * hz} for name, hz in HZ.items()}


def test_what_comes_too_late_to_be_used_is_silence():
    """The camera stops at 2 s; what comes of it is older than its last frame, and changes nothing."""
    early = [Observation("camera", i * S // 30, i * S // 30, np.zeros(2)) for i in range(60)]
    stale = [Observation("camera", S + i * MS, 2 * S + i * S // 10, np.zeros(2)) for i in range(1, 41)]
    outputs, _ = play([*early, *stale], jump_ms=10_000.0)
    silent = [o for o in outputs if not o.present]
    assert [o.emitted_ns for o in silent] == [early[-1].recv_ns + s * S for s in (1, 2, 3, 4)]


def leaping(dead, *, later=5.0, leap=10 * S):
    """Some die at 3 s; at 5 s the clocks of all others leap."""
    return [
        Observation(o.sensor, o.stamp_ns + leap * (o.stamp_ns >= later * S), o.recv_ns, o.values)
        for o in frames()
        if o.sensor not in dead or o.stamp_ns < 3 * S
    ]


@pytest.mark.parametrize("policy", ["approximate", "settled"])
@pytest.mark.parametrize("dead", [["joints"], ["touch", "joints"]])
def test_a_dead_sensor_vouches_for_no_clock(policy, dead):
    outputs, pipeline = play(leaping(dead), policy)
    alive = [name for name in HZ if name not in dead]
    assert pipeline.clock_resets == 1
    assert dropped(pipeline) == {name: {"clock": 1} for name in alive}
    assert outputs[-1].time_ns > 19 * S


def test_a_sensor_of_a_slow_rate_is_not_dead_between_its_readings():
    """One in five seconds, as it is expected: the camera's leap is the camera's alone."""
    slow = [Observation("joints", i * 5 * S, i * 5 * S, np.zeros(2)) for i in range(2)]
    found = [o for o in leaping([], later=3.0) if o.sensor == "camera"] + slow
    _, pipeline = play(
        sorted(found, key=lambda o: o.recv_ns),
        sensors={"joints": {"expect_hz": [0.19, 0.21], "queue": {"size": 4}}},
    )
    assert pipeline.clock_resets == 0
    assert dropped(pipeline) == {"camera": {"clock": 7 * 30}}


def test_sets_that_wait_for_the_modules_go_before_time_starts_anew():
    """Each takes 80 ms, so that some wait when the clocks go back an hour: they are of the time before."""
    told = []

    class Watch(Nothing):
        def start_anew(self):
            told.append("anew")

        def step(self, readings, time_ns, ages_ns):
            told.append(time_ns)
            return super().step(readings, time_ns, ages_ns)

    play(leaping([], leap=-3600 * S), engine=Watch(), service=lambda _: 80 * MS)
    at = told.index("anew")
    assert told.count("anew") == 1
    assert min(told[:at]) == 0 and max(told[at + 1 :]) < 0
