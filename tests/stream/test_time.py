"""What time it is on a stream of something that moves, and that readings enter a module over time once."""

import numpy as np
import pytest
import torch

import serket
from serket.graph.stream import StreamEntry
from serket.model import Model
from serket.stream import Observation, open_stream
from serket.stream.health import Level
from tests.engine.test_frames import MOVES, ByHand

MS, S = 1_000_000, 1_000_000_000
FRAME = 100 * MS


def moving(**options):
    graph = serket.load_graph(MOVES)
    entry = StreamEntry.model_validate({"frame_ms": 100.0, "tolerance_ms": 1.0, "timeout_ms": 50.0} | options)
    return open_stream(Model(graph, graph.build(), dtype=torch.float64), entry)


def read(sensor, stamp, value, recv=None):
    return Observation(sensor, stamp, stamp if recv is None else recv, np.array([float(value)]))


def motion(output):
    belief = output.inference.beliefs["motion"]
    return belief.mean()[0].numpy(), belief.covariance()[0].numpy()


def as_by_hand(output, hand):
    mean, cov = motion(output)
    np.testing.assert_allclose(mean, hand.mean, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(cov, hand.cov, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("ms", [40, 100, 150])
def test_a_graph_s_frame_ms_is_the_time_of_a_row(ms):
    line, hand = moving(), ByHand()
    for time in range(0, 2 * S, ms * MS):
        hand.step({"wheel": 1.0}, time)
    outputs = list(line.run(read("wheel", time, 1) for time in range(0, 2 * S, ms * MS)))
    as_by_hand(outputs[-1], hand)


@pytest.mark.parametrize("start", [0, 10**9 * 3600 * 24])
def test_a_prediction_in_silence_is_of_the_sensors_time(start):
    """Stamps are since the machine was switched on, and are received 20 ms later by the clock on the wall."""
    wall = 1_760_000_000 * S + 20 * MS
    line, hand = moving(), ByHand()
    outputs = []
    for i in range(10):
        outputs += line.push(read("wheel", start + i * FRAME, 1, wall + i * FRAME))
        hand.step({"wheel": 1.0}, i * FRAME)
    outputs += line.advance(wall + 9 * FRAME + 2 * S + 1)
    silent = [o for o in outputs if not o.present]
    assert [o.time_ns - start for o in silent] == [9 * FRAME + S, 9 * FRAME + 2 * S]
    assert [o.emitted_ns - wall for o in silent] == [9 * FRAME + S, 9 * FRAME + 2 * S]
    hand.step({}, 29 * FRAME)
    as_by_hand(silent[-1], hand)
    (back,) = [
        o for o in line.push(read("wheel", start + 31 * FRAME, 1, wall + 31 * FRAME)) + line.close() if o.present
    ]
    hand.step({"wheel": 1.0}, 31 * FRAME)
    as_by_hand(back, hand)


def test_when_every_clock_jumps_the_belief_goes_on():
    """As when a recording of two seconds is played again: what moves goes on moving, and does not stand for two seconds.

    The first of the second time is not believed, and one that comes late there belongs to the second time.
    """
    line, hand, outputs = moving(late="reprocess", history_ms=500.0), ByHand(), []
    found = [read("wheel", i % 20 * FRAME, i, i * FRAME + 250 * MS * (i == 24)) for i in range(38)]
    for one in sorted(found, key=lambda o: o.recv_ns):
        outputs += line.push(one)
    for i in range(38):
        if i != 20:
            hand.step({"wheel": float(i)}, (i - (i > 20)) * FRAME)
    outputs += line.advance(38 * FRAME)
    assert line.clock_resets == line.revisions == 1 and line.counts["wheel"].used == 37
    as_by_hand(outputs[-1], hand)
    assert outputs[-1].time_ns == 17 * FRAME
    (silent,) = line.advance(37 * FRAME + S)
    assert silent.time_ns == 17 * FRAME + S


def latest(**options):
    return moving(policy="latest", timeout_ms=5000.0, **options)


def test_a_module_over_time_hears_a_reading_once_with_policy_latest_too():
    """One of the camera, then fourteen of the wheel: the camera counts once, as it does when sets are settled."""
    line, hand = latest(), ByHand()
    outputs = line.push(read("camera", 0, 5))
    hand.step({"camera": 5.0}, 0)
    for i in range(1, 15):
        outputs += line.push(read("wheel", i * FRAME, 0))
        hand.step({"wheel": 0.0}, i * FRAME)
    as_by_hand(outputs[-1], hand)
    assert [o.present for o in outputs] == [("camera",)] + [("wheel",)] * 14
    assert "camera" not in outputs[-1].skew_ns and "camera" not in outputs[-1].inference.contribution


def test_a_camera_heard_once_still_completes_the_sets_that_need_it():
    line = latest(sensors={"camera": {"required": True}}, silence_ms=10_000.0)
    outputs = line.push(read("camera", 0, 5))
    for i in range(1, 60):
        outputs += line.push(read("wheel", i * FRAME, 0))
    assert [o.present for o in outputs] == [("camera",)] + [("wheel",)] * 50 + [()] * 9, "until it is five seconds old"
    assert {o.level for o in outputs[6:51]} == {Level.OK}
    assert line.counts["wheel"].dropped["incomplete"] == 9
