"""What users get wrong about streams: an error that says where and how to mend it, or a counted answer."""

import numpy as np
import pytest

from serket.errors import DataError, ShapeError
from serket.graph.stream import StreamEntry
from serket.stream import from_arrays
from serket.stream.observation import Observation
from tests.stream.simulation import HZ, frames, play, section

READING = np.zeros(2)


@pytest.mark.parametrize("stamp", [1.5, 1e18, True, "now", None, np.float64(3)])
def test_stamps_are_whole_nanoseconds(stamp):
    with pytest.raises(DataError, match="stamp_ns is no whole number of nanoseconds") as caught:
        Observation("camera", stamp, 0, READING)
    assert "round(seconds * 1e9)" in str(caught.value)
    with pytest.raises(DataError, match="recv_ns is no whole number"):
        Observation("camera", 0, stamp, READING)


def test_integers_of_numpy_are_whole():
    one = Observation("camera", np.int64(5), np.uint32(7), READING)
    assert (type(one.stamp_ns), one.stamp_ns, type(one.recv_ns)) == (int, 5, int)


def test_a_sensor_that_was_never_trained():
    with pytest.raises(DataError, match="no module was trained on a sensor 'camra'") as caught:
        play([Observation("camra", 0, 0, READING)])
    assert "camera" in str(caught.value)


def test_two_clocks_need_their_difference_stated():
    two = [Observation("camera", 0, 0, READING), Observation("touch", 7 * 10**9, 0, READING, clock="glove")]
    with pytest.raises(DataError, match="'touch' and 'camera' are stamped by two clocks") as caught:
        play(two)
    assert "offset_ms" in str(caught.value)
    outputs, _ = play(two, sensors={"touch": {"offset_ms": 7000.0}})
    assert outputs[0].present == ("camera", "touch")


DAY = 86_400 * 10**9


def test_two_clocks_are_found_by_what_they_say():
    """The camera counts from when the machine began, the others since 1970; all is received by the latter."""
    now = 20_000 * DAY
    stamps = {"touch": now, "camera": 5 * DAY}
    both = [Observation(name, stamps[name] + i, now + 10**8 + i, READING) for i in range(3) for name in stamps]
    with pytest.raises(DataError, match="'camera' and 'touch' are stamped by two clocks") as caught:
        play(both)
    fix = f"offset_ms: {(5 * DAY - now) // 10**6}"
    assert f"sensors: {{camera: {{{fix}}}}}" in str(caught.value)
    outputs, _ = play(both, sensors={"camera": {"offset_ms": (5 * DAY - now) / 1e6}}, timeout_ms=10.0, tolerance_ms=0.0)
    assert outputs[0].present == ("touch", "camera")


def test_a_sensor_that_comes_later_or_slower_has_no_other_clock():
    later = [Observation("camera", i * 10**8, i * 10**8, READING) for i in range(5)]
    later += [Observation("touch", 9 * 10**9 + i * 10**8, 9 * 10**9 + i * 10**8, READING) for i in range(5)]
    assert play(later)[1].counts["touch"].used == 5
    slow = [Observation("camera", i * 10**8, i * 10**8, READING) for i in range(30)]
    slow += [Observation("touch", 10**8, 29 * 10**8, READING)]  # a word is known when it has been said
    assert play(slow)[1].counts["touch"].dropped == {"late": 1}


def test_a_clock_that_changes_its_name_is_not_believed():
    odd = [
        Observation("camera", i, i, READING, clock="host" if i != 2 * 10**8 else "other")
        for i in range(0, 10**9, 10**8)
    ]
    _, pipeline = play([*odd, *[o for o in frames()[:30] if o.sensor != "camera"]][:10])
    assert pipeline.counts["camera"].dropped["clock"] == 1


def test_stamps_that_run_backwards_are_counted_never_silent():
    backwards = [Observation("camera", (9 - i) * 10**7, i * 10**6, READING) for i in range(10)]
    outputs, pipeline = play(backwards, jump_ms=1e6)
    assert dict(pipeline.counts["camera"].dropped) == {"out_of_order": 9}
    assert len(outputs) == 1


@pytest.mark.parametrize("policy", ["drop_oldest", "error"])
def test_a_queue_too_short_for_the_rate_is_refused(policy):
    """ceil(30 Hz (100 + 5 ms)) + 1 = 5."""
    queue = {"size": 4, "policy": policy}
    with pytest.raises(ValueError, match=r"queue of camera is too short.*so 5 observations"):
        section(sensors={"camera": {"queue": queue}})
    assert section(sensors={"camera": {"queue": queue | {"size": 5}}}).sensor("camera").queue.size == 5


def test_a_full_queue_may_be_an_error():
    wave = [Observation("touch", i * 10**8, 10**9, READING) for i in range(4)]
    with pytest.raises(DataError, match="the queue of 'touch' is full"):
        play(wave, sensors={"touch": {"queue": {"size": 3, "policy": "error"}, "expect_hz": None}}, jump_ms=1e6)


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ({"polcy": "exact"}, "Extra inputs"),
        ({"policy": "newest"}, "exact"),
        ({"tau_ms": 10.0}, "tau_ms is of policy latest"),
        ({"sensors": {"a": {"expect_hz": [30.0, 10.0]}}}, "the least first"),
        ({"timeout_ms": -1.0}, "greater than or equal to 0"),
        ({"sensors": {"a": {"queue": {"size": 0}}}}, "greater than or equal to 1"),
        ({"min_present": 0}, "greater than or equal to 1"),
    ],
)
def test_sections_are_strict(section, match):
    with pytest.raises(ValueError, match=match):
        StreamEntry.model_validate(section)


def test_a_receipt_clock_that_jumps_by_years_is_not_followed_second_by_second():
    outputs, _ = play([Observation("camera", 0, 0, READING), Observation("camera", 10**18, 10**18, READING)])
    assert len(outputs) == 12


def test_nothing_at_all():
    outputs, pipeline = play([])
    assert outputs == []
    assert set(pipeline.counts) == set(HZ)


@pytest.mark.parametrize("received", [{}, {"camera_recv_ns": np.arange(6) * 10**8 + 5}])
def test_rows_that_the_mask_says_were_not_measured_are_no_readings(received):
    arrays = {"camera": np.arange(12.0).reshape(6, 2), "camera_stamp_ns": np.arange(6) * 10**8} | received
    arrays["camera"][5] = np.nan
    rows = np.array([True, False, True, True, False, True])
    parts = np.stack([rows, np.array([True, True, False, True, True, True])], axis=1)
    for mask, kept in ((rows, [0, 2, 3, 5]), (parts, [0, 3, 5])):
        found = list(from_arrays(arrays | {"camera_mask": mask}, ("camera",)))
        assert [one.stamp_ns // 10**8 for one in found] == kept, "a row of NaN with a stamp came, and is counted"
        assert all(one.recv_ns - one.stamp_ns == (5 if received else 0) for one in found)
        np.testing.assert_array_equal([one.values for one in found], arrays["camera"][kept])


@pytest.mark.parametrize("hz", [None, 10])
def test_a_mask_that_is_none(hz):
    arrays = {"camera": np.zeros((6, 2)), "camera_stamp_ns": np.arange(6) * 10**8}
    arrays = arrays if hz is None else {"camera": arrays["camera"]}
    with pytest.raises(ShapeError, match="the mask does not fit its array"):
        list(from_arrays(arrays | {"camera_mask": np.ones(5, dtype=bool)}, ("camera",), hz=hz))
    with pytest.raises(DataError, match=r"not a mask[\s\S]*camera_mask.astype\(bool\)"):
        list(from_arrays(arrays | {"camera_mask": np.ones(6)}, ("camera",), hz=hz))
