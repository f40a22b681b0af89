"""Which readings make a set, how long it waits, and what is told of them: by hand, a few readings at a time."""

import numpy as np
import pytest

from serket.engine.inference import Inference
from serket.stream.health import Level
from serket.stream.observation import Observation
from tests.stream.simulation import (
    ALL,
    HZ,
    MS,
    SECONDS,
    Nothing,
    dropped,
    frames,
    levels,
    masks,
    play,
    section,
)  # fmt: skip

FREE = {name: {"expect_hz": None} for name in HZ}  # no rate is expected, so that all is waited for


def read(sensor, stamp, recv=None):
    return Observation(sensor, round(stamp * MS), round((stamp if recv is None else recv) * MS), np.zeros(2))


@pytest.mark.parametrize("policy", ["exact", "approximate", "settled"])
def test_a_deadline_is_that_of_the_first_member_whoever_joins(policy):
    outputs, _ = play(
        [read("camera", 0), read("touch", 0, 60), read("camera", 300)], policy, sensors=FREE, tolerance_ms=5.0
    )
    assert [(o.present, o.emitted_ns // MS, o.latency_ns // MS) for o in outputs][:1] == [
        (("camera", "touch"), 100, 100)
    ]


def test_what_is_told_of_a_set_s_readings():
    """Age: emitted less measured. Skew: measured less the time of the set, which is that of the first that came."""
    outputs, _ = play([read("camera", 10, 20), read("touch", 13, 25), read("joints", 8, 31)], sensors=FREE)
    (output,) = outputs
    assert output.time_ns == 10 * MS and output.emitted_ns == 31 * MS
    assert output.age_ns == {"camera": 21 * MS, "touch": 18 * MS, "joints": 23 * MS}
    assert output.skew_ns == {"camera": 0, "touch": 3 * MS, "joints": -2 * MS}


@pytest.mark.parametrize("policy", ["approximate", "settled"])
@pytest.mark.parametrize("off", [-6, 6, -9, 9])
@pytest.mark.parametrize("first", ["camera", "touch"])
def test_jitter_is_allowed_for_whichever_comes_first(policy, off, first):
    """Touch may be 1 + 8 ms off the camera: 6 is, and 9; which of them opens the set does not matter."""
    sensors = {**FREE, "touch": {"expect_hz": None, "jitter_ms": 8.0}}
    pair = [read("camera", 100, 120), read("touch", 100 + off, 120)]
    found = sorted(pair, key=lambda o: o.sensor != first)
    outputs, pipeline = play(
        [*found, read("camera", 200), read("touch", 220)], policy, sensors=sensors, tolerance_ms=1.0
    )
    assert set(outputs[0].present) == {"camera", "touch"}
    assert not dropped(pipeline)


@pytest.mark.parametrize("policy", ["approximate", "settled"])
@pytest.mark.parametrize("order", [("camera", "touch"), ("touch", "camera")])
def test_beyond_jitter_they_are_two_sets(policy, order):
    sensors = {**FREE, "touch": {"expect_hz": None, "jitter_ms": 8.0}}
    stamps = {"camera": 100, "touch": 109.1}
    outputs, _ = play([read(name, stamps[name], 120) for name in order], policy, sensors=sensors, tolerance_ms=1.0)
    assert [o.present for o in outputs] == [("camera",), ("touch",)]


def test_a_set_that_a_jittery_sensor_opened_waits_for_all_that_may_join():
    """Settled: of a camera at 30 Hz, after 70 none is due until 97; touch opened at 94, so that one of 102 may join."""
    sensors = {**FREE, "touch": {"expect_hz": None, "jitter_ms": 8.0}, "camera": {}}
    found = [*(read(name, 70) for name in HZ), read("touch", 94), read("joints", 120), read("camera", 102, 121)]
    outputs, pipeline = play(found, "settled", sensors=sensors, tolerance_ms=1.0)
    assert [set(o.present) for o in outputs] == [set(HZ), {"touch", "camera"}, {"joints"}]
    assert not dropped(pipeline)


def test_late_for_a_set_that_a_jittery_sensor_opened():
    sensors = {**FREE, "touch": {"expect_hz": None, "jitter_ms": 8.0}}
    found = [read("touch", 94), read("joints", 300), read("camera", 100, 301), read("camera", 300, 302)]
    outputs, pipeline = play(found, sensors=sensors, tolerance_ms=1.0)
    assert dropped(pipeline) == {"camera": {"late": 1}}
    assert [o.present for o in outputs] == [("touch",), ("joints", "camera")]


@pytest.mark.parametrize("policy", ["exact", "approximate", "settled"])
def test_sets_of_too_few_are_predicted_only(policy):
    outputs, pipeline = play(frames(), policy, min_present=2)
    assert masks(outputs) == {ALL: 10 * SECONDS, frozenset(): 30 * SECONDS}
    assert dropped(pipeline) == {"camera": {"incomplete": 20 * SECONDS}, "touch": {"incomplete": 10 * SECONDS}}
    assert {o.level for o in outputs if not o.present} == {Level.ERROR}
    text = "1 sensor in the set, min_present is 2"
    assert all((text in o.reasons) != (text + " (before)" in o.reasons) for o in outputs[5:])
    assert all((text in o.reasons) != bool(o.present) for o in outputs[5:]), "of the set that it is true of"


def test_a_queue_has_room_for_what_waits_for_its_turn():
    """ceil(30 Hz (100 + 60 + 5 ms)) + 1 = 6."""
    waits = {"reorder_ms": 60.0, "queue": {"size": 5}}
    with pytest.raises(ValueError, match=r"queue of camera is too short.*wait 160 ms.*so 6 observations"):
        section(sensors={"camera": waits})
    section(sensors={"camera": waits | {"queue": {"size": 6}}})


def test_a_queue_has_room_for_what_waits_for_the_most_unsteady_of_the_others():
    """ceil(30 Hz (100 + 5 + 40 + 60 ms)) + 1 = 8: the set of touch's reading at 100 ms may be told at 40 to 160."""
    rough = {"camera": {"jitter_ms": 40.0, "queue": {"size": 7}}, "touch": {"jitter_ms": 60.0}}
    with pytest.raises(ValueError, match=r"queue of camera is too short.*105 ms of tolerance and jitter, so 8 obs"):
        section(sensors=rough)
    section(sensors=rough | {"camera": {"jitter_ms": 40.0, "queue": {"size": 8}}})


class Fails(Nothing):
    """The camera's module fails at every second reading."""

    def step(self, readings, time_ns, ages_ns):
        self.state += "camera" in readings
        return Inference({}, failed={"camera": "no"} if "camera" in readings and self.state % 2 else {})


def test_what_a_failing_module_was_given_is_counted_and_not_present():
    outputs, pipeline = play(frames(), engine=Fails())
    assert dropped(pipeline) == {"camera": {"error": 15 * SECONDS}}
    assert pipeline.counts["camera"].used == 15 * SECONDS
    assert sum("camera" in o.present for o in outputs) == 15 * SECONDS
    assert levels(outputs)[-1] == Level.DEGRADED


def test_latest_a_sensor_that_dies_is_used_until_it_is_too_old():
    """The camera's last is of 4.967 s, and may be 100 ms old: touch at 5.0 and 5.05 has it beside it, not at 5.1."""
    outputs, pipeline = play([o for o in frames() if o.sensor != "camera" or o.stamp_ns < 5e9], "latest")
    with_it = [o.time_ns // MS for o in outputs if "camera" in o.present and o.time_ns >= 5e9]
    assert with_it == [5000, 5000, 5050]
    assert not dropped(pipeline) and pipeline.counts["camera"].used == 5 * 30
    after = masks([o for o in outputs if o.time_ns >= 5.1e9])
    assert after == {frozenset({"touch", "joints"}): (20 + 10) * 5 - 3}


def test_latest_a_sensor_400_ms_late_is_used_as_old_as_it_is():
    outputs, pipeline = play(frames({"camera": 400}), "latest")
    assert not dropped(pipeline)
    assert len(outputs) == 60 * SECONDS
    beside = [o for o in outputs if o.time_ns == 5 * 10**9 and o.emitted_ns == 5 * 10**9]
    assert {o.age_ns["camera"] // MS for o in beside} == {400}, "received this moment, or 33 ms ago"
    own = next(o for o in outputs if o.time_ns == 5 * 10**9 and o.emitted_ns == 5.4e9)
    assert own.skew_ns["touch"] == 350 * MS and own.age_ns["touch"] == 50 * MS, "touch of 5.4 s is not here yet"


def test_latest_frames_of_nan_are_not_used_again():
    spoilt = [
        Observation(o.sensor, o.stamp_ns, o.recv_ns, o.values if o.sensor != "camera" else np.full(2, np.nan))
        for o in frames()
    ]
    outputs, pipeline = play(spoilt, "latest")
    assert dropped(pipeline) == {"camera": {"not_finite": 30 * SECONDS}}
    assert not any("camera" in o.present for o in outputs) and len(outputs) == 30 * SECONDS


@pytest.mark.parametrize("options", [{"min_present": 2}, {"sensors": {"camera": {"required": True}}}])
def test_latest_a_reading_used_again_is_there(options):
    """All of them are in every set but the first few: nothing lacks."""
    outputs, pipeline = play(frames(), "latest", **options)
    assert masks(outputs)[ALL] == len(outputs) - 2
    assert sum(count.dropped["incomplete"] for count in pipeline.counts.values()) <= 1
    assert {o.level for o in outputs[10:]} == {Level.OK}


def test_latest_a_required_sensor_that_dies_is_an_error_once_it_is_too_old():
    alive = [o for o in frames() if o.sensor != "camera" or o.stamp_ns < 5e9]
    outputs, pipeline = play(alive, "latest", sensors={"camera": {"required": True}})
    after = [o for o in outputs if o.time_ns >= 5.1e9]
    assert {(o.present, o.level) for o in after} == {((), Level.ERROR)}
    assert pipeline.counts["touch"].dropped["incomplete"] == 20 * 5 - 2


def test_latest_what_is_gated_or_fails_again_is_not_present():
    outputs, pipeline = play(frames(), "latest", engine=Fails())
    assert pipeline.counts["camera"].dropped["error"] + pipeline.counts["camera"].used == 30 * SECONDS
    calls = [o for o in outputs if o.inference.failed]
    assert calls and not any("camera" in o.present for o in calls)
