"""Health of every output of disturbed streams, one disturbance or two at once, as predicted by hand (see simulation.py).

A reason counts from its second output on and is forgotten at the fifth without. Sets of 100 ms: all three sensors at 0,
the camera at 33 and 67, touch at 50. Settled, a set goes out at once; where one lacks, at its deadline of 100 ms.
Approximate, the sets between two full ones go out with the second, or at their deadlines.
"""

import numpy as np
import pytest

from serket.stream.health import Level
from serket.stream.observation import Observation
from tests.stream.simulation import HZ, SETS, frames, levels, play
from tests.stream.test_scenarios import burst, swapped


def changed(one, stamp=0, received=0, values=None):
    values = one.values if values is None else values
    return Observation(one.sensor, one.stamp_ns + stamp, one.recv_ns + received, values)


def doubled(observations):
    return [changed(o) for o in observations for _ in range(1 + (o.sensor == "camera"))]


def revived():
    """The camera is away from 5 to 7 s."""
    return [o for o in frames() if o.sensor != "camera" or not 5e9 <= o.stamp_ns < 7e9]


def jumped(sensors, by):
    """The clocks of some sensors jump at 5 s."""
    return [changed(o, by * (o.sensor in sensors and o.stamp_ns >= 5e9)) for o in frames()]


def spoilt(observations):
    """Every third frame of the camera is NaN."""
    return [
        changed(o, values=np.full(2, np.nan)) if o.sensor == "camera" and round(o.stamp_ns * 30 / 1e9) % 3 == 0 else o
        for o in observations
    ]


def dying(jitter):
    """The camera dies at 5 s."""
    return [o for o in frames(jitter_ms=jitter) if o.sensor != "camera" or o.stamp_ns < 4.99e9]


# What happens; from which output on, to which, health is DEGRADED, approximate and settled; and what is said, first, last.
CASES = {
    "duplicates": (lambda: doubled(frames()), (SETS, SETS), (SETS, SETS), "", ""),
    # The second pair comes at 150 ms: it is heard of at 166 ms.
    "reordering": (swapped, (3, SETS), (7, SETS), "touch: an observation with a later", "touch: an observation with"),
    # Silent is more than 100 ms: from 4.05 s, heard of by the set of 3.967, that waits until 4.067, or of 4.0, until 4.1.
    # At 5.0 s the sets of 4.933 to 5.0 go out, four; the fifth is that of 5.033. By its stamps its rate was right all
    # along. Nine sets of touch never were.
    "burst": (burst, (160, 192), (161, 192), "touch: silent for 1", "touch: silent for"),
    # Silent is more than 67 ms: from 5.033, heard of by the set of 4.95, that waits until 5.05, or of 5.0, until 5.1. The
    # rate is right at 7.167: the sets of 7.133 to 7.233 go out later, or 7.167 to 7.267. There are 40 sets fewer.
    "revival": (revived, (199, 249), (201, 251), "camera: silent for 1", "camera: 2.3 Hz, expected 30 to 30"),
    # Doubted at 5.0 and 5.033: heard of by the sets of 4.933 and 4.95, until 5.05; or of 5.0 and 5.05, until 5.15.
    "one clock jumps": (
        lambda: jumped({"camera"}, 10**10), (198, 300), (201, 300), "camera: its stamp is off", "camera: its stamp is off",
    ),
    # One reading of each is lost, and all are as good as new: told at once, of the set of 5.033, and four times more.
    "all clocks jump": (
        lambda: jumped(HZ, -3600 * 10**9), (200, 205), (200, 205), "clocks: all jumped, by -3600.0 s", "clocks: all jumped",
    ),
    # As without jitter, see test_a_sensor_that_dies_stops_nothing; touch, whose sets wait for the camera, is well.
    "death and jitter": (lambda: dying(2.0), (199, 300), (201, 300), "camera: silent", "camera: silent for 5.0 s"),
    # As without duplicates: the second frame of NaN, of 100 ms, counts.
    "NaN and duplicates": (lambda: spoilt(doubled(frames())), (1, SETS), (4, SETS), "camera: NaN", "camera: NaN"),
}  # fmt: skip


@pytest.mark.parametrize("policy", ["approximate", "settled"])
@pytest.mark.parametrize("case", CASES)
def test_health_of_every_output(case, policy):
    happens, approximate, settled, early, late = CASES[case]
    first, last = approximate if policy == "approximate" else settled
    outputs, pipeline = play(happens(), policy)
    bad = [Level.DEGRADED] * (last - first)
    assert levels(outputs) == [Level.OK] * first + bad + [Level.OK] * (len(outputs) - last)
    if bad:
        assert any(reason.startswith(early) for reason in outputs[first].reasons)
        assert any(reason.startswith(late) for reason in outputs[last - 1].reasons)
        sensors = {reason.split(": ")[0] for o in outputs for reason in o.reasons}
        assert sensors == {early.split(": ")[0]}, "nobody else is blamed"


@pytest.mark.parametrize("policy", ["approximate", "settled"])
def test_readings_that_wait_for_their_turn_are_well(policy):
    """Three pairs within 200 ms are 25 Hz by the times of receipt, and 20 by their stamps."""
    outputs, _ = play(swapped(), policy, sensors={"touch": {"reorder_ms": 60.0}}, timeout_ms=200.0)
    assert levels(outputs) == [Level.OK] * SETS


def late(by, every):
    """Each so-manieth reading of touch comes by so many of its intervals later."""
    return sorted(
        [
            changed(o, received=round(by * 50e6) * (o.sensor == "touch" and o.stamp_ns % (every * 50_000_000) == 0))
            for o in frames()
        ],
        key=lambda o: o.recv_ns,
    )


@pytest.mark.parametrize("policy", ["approximate", "settled"])
@pytest.mark.parametrize("more", [{}, {"late": "reprocess", "history_ms": 1000.0}])
@pytest.mark.parametrize(("by", "every"), [(1.5, 2), (1.5, 3), (2.5, 4), (2.5, 30), (3.5, 10), (None, 0)])
def test_readings_out_of_order_at_the_right_rate_are_not_told_to_be_too_few(policy, more, by, every):
    """Nor of double ones too many. What is missing before it was ever late may be told, until it came."""
    happens = swapped() if by is None else late(by, every)
    for observations in (happens, [changed(o) for o in happens for _ in range(2)]):
        outputs, _ = play(observations, policy, **more)
        assert [r for o in outputs[20:] for r in o.reasons if "Hz" in r] == []
        assert more or any("an observation with a later stamp" in r for o in outputs for r in o.reasons) or every > 5


@pytest.mark.parametrize("policy", ["approximate", "settled"])
def test_out_of_order_hides_no_rate_that_is_wrong(policy):
    """Every fifth reading is gone, others come late: 16 Hz, told within a second."""
    outputs, _ = play([o for o in late(1.5, 3) if o.sensor != "touch" or o.stamp_ns % 250_000_000], policy)
    assert all(any("Hz, expected 20 to 20" in r for r in o.reasons) for o in outputs[40:])


def test_a_rate_is_that_of_measuring():
    """Touch, received in pairs in order, is well; when it measures at 16 Hz it is not, though it is received at 20."""

    def paired(hz):
        touch = [o for o in frames() if o.sensor == "touch"]
        return sorted(
            [o for o in frames() if o.sensor != "touch"]
            + [
                Observation("touch", round(i * 1e9 / hz), touch[i | 1].recv_ns, one.values)
                for i, one in enumerate(touch)
            ],
            key=lambda o: o.recv_ns,
        )

    outputs, _ = play(paired(20), timeout_ms=200.0)
    assert levels(outputs) == [Level.OK] * SETS
    outputs, _ = play(paired(16), timeout_ms=200.0, jump_ms=10_000.0)
    assert {r for o in outputs[20:] for r in o.reasons if "Hz" in r} == {"touch: 16.0 Hz, expected 20 to 20"}
