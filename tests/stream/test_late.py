"""Late readings: dropped, or heard where they belong, as if they had come in time."""

import numpy as np
import pytest
import torch

from serket.engine.inference import Inference
from serket.engine.step import Stepper
from serket.graph.stream import StreamEntry
from serket.stream.observation import Observation
from serket.stream.pipeline import Pipeline
from tests.engine.test_step import corners

MS = 1_000_000
FRAME = 50 * MS


def pipeline(**options):
    fitted, _ = corners()
    engine = Stepper(fitted.graph, fitted.modules, dtype=torch.float64, frame_ns=FRAME)
    entry = {"tolerance_ms": 5.0, "timeout_ms": 20.0, "jump_ms": 5000.0} | options
    return Pipeline(StreamEntry.model_validate(entry), {"point": 2}, engine)


def frames(delays=None):
    """Eight readings, 50 ms apart; some arrive so many milliseconds late."""
    _, points = corners()
    found = [
        Observation("point", i * FRAME, i * FRAME + (delays or {}).get(i, 0) * MS, p) for i, p in enumerate(points)
    ]
    return sorted(found, key=lambda o: o.recv_ns)


def last(outputs):
    return outputs[-1].inference.beliefs["state"].logits.log_softmax(-1)


def test_dropped_late_readings_are_predicted_across():
    line = pipeline()
    outputs = list(line.run(frames({3: 120})))
    assert dict(line.counts["point"].dropped) == {"out_of_order": 1}
    assert len(outputs) == 7
    without = list(pipeline().run([o for o in frames() if o.stamp_ns != 3 * FRAME]))
    assert torch.equal(last(outputs), last(without))


def test_reprocessed_they_count_as_if_in_time():
    line = pipeline(late="reprocess", history_ms=400.0)
    outputs = list(line.run(frames({3: 120})))
    assert line.counts["point"].used == 8
    assert [o.revised for o in outputs].count(True) == line.revisions == 1
    torch.testing.assert_close(last(outputs), last(list(pipeline().run(frames()))))
    assert not torch.allclose(last(outputs), last(list(pipeline().run(frames({3: 120})))), atol=1e-6)


def test_a_revision_is_the_belief_at_the_present():
    line = pipeline(late="reprocess", history_ms=400.0)
    revised = next(o for o in line.run(frames({3: 120})) if o.revised)
    assert revised.time_ns == 5 * FRAME, "the latest set when it came, 270 ms"
    in_time = [o for o in frames() if o.stamp_ns <= 5 * FRAME]
    torch.testing.assert_close(last([revised]), last(list(pipeline().run(in_time))))


def test_beyond_the_window_it_is_late_for_good():
    line = pipeline(late="reprocess", history_ms=60.0)
    list(line.run(frames({2: 190})))
    assert dict(line.counts["point"].dropped) == {"out_of_order": 1}


def test_the_window_is_bounded():
    line = pipeline(late="reprocess", history_ms=200.0)
    point = np.zeros(2)
    for i in range(300):
        line.push(Observation("point", i * FRAME, i * FRAME, point))
    assert len(line._history._past) <= 200 // 50 + 1


def test_reprocessing_needs_a_window():
    with pytest.raises(ValueError, match="reprocess needs history_ms above zero"):
        StreamEntry.model_validate({"late": "reprocess"})


def test_what_comes_later_than_a_clock_is_believed_is_refused():
    with pytest.raises(ValueError, match=r"history_ms.*more than 1000 ms late \(jump_ms\).*write jump_ms: 5000"):
        StreamEntry.model_validate({"late": "reprocess", "history_ms": 5000.0})
    line = pipeline(late="reprocess", history_ms=5000.0, jump_ms=5000.0, silence_ms=10_000.0)
    line.push(frames()[0])
    line.push(Observation("point", 1600 * MS, 1600 * MS, np.zeros(2)))
    late = Observation("point", 100 * MS, 1610 * MS, np.zeros(2))
    assert [o.revised for o in line.push(late) + line.close()].count(True) == 1
    assert not line.counts["point"].dropped


@pytest.mark.parametrize(
    ("options", "ago"), [({"late": "reprocess", "history_ms": 5000.0}, 300), ({"sensors": {"point": {"reorder_ms": 5000.0}}}, 300)]
)  # fmt: skip
def test_a_repeat_is_known_as_long_as_late_readings_are_heard(options, ago):
    """At 100 Hz, one of three seconds ago."""
    line = pipeline(jump_ms=1e5, max_in_flight=1000, **options)
    for i in range(600):
        line.push(Observation("point", i * 10 * MS, i * 10 * MS, np.zeros(2)))
    line.push(Observation("point", (600 - ago) * 10 * MS, 6000 * MS, np.zeros(2)))
    line.close()
    count = line.counts["point"]
    assert count.dropped["duplicate"] == 1 and count.received == 601


def two(engine=None, **options):
    """Camera and touch, every 100 ms; sets wait 20 ms."""
    entry = {"tolerance_ms": 5.0, "timeout_ms": 20.0, "jump_ms": 5000.0, "late": "reprocess", "history_ms": 1000.0}
    return Pipeline(StreamEntry.model_validate(entry | options), {"camera": 1, "touch": 1}, engine or Told())


class Told:
    """Its state is the number of sets; it tells what it was given, gates what is above 5 and fails at 9."""

    state, carries = 0, True

    def __init__(self):
        self.given = []

    def step(self, readings, time_ns, ages_ns):
        self.given.append((time_ns // MS, sorted(readings)))
        gated = {name: 7.0 for name, value in readings.items() if 5 < value[0] < 9}
        return Inference({}, gated=gated, failed={name: "no" for name, value in readings.items() if value[0] == 9})


def at(sensor, stamp, value=0.0, late=0):
    return Observation(sensor, stamp * MS, (stamp + late) * MS, np.array([value]))


def outputs_of(line, observations):
    found = []
    for one in sorted(observations, key=lambda o: o.recv_ns):
        found += line.push(one)
        assert all(count.balanced() for count in line.counts.values())
    return found + line.close()


@pytest.mark.parametrize(("value", "reason", "text"), [(6.0, "gate", "standard deviations"), (9.0, "error", "failed")])
def test_a_late_reading_that_is_not_believed_is_no_use(value, reason, text):
    """Of the camera at 0 and 100 ms both are beyond the gate, and come when touch is at 400."""
    line = two()
    late = [at("camera", 0, value, 410), at("camera", 100, value, 311)]
    outputs = outputs_of(line, [at("touch", 100 * i) for i in range(6)] + late)
    assert line.counts["camera"].used == 0
    assert dict(line.counts["camera"].dropped) == {reason: 2}
    revised = [o for o in outputs if o.revised]
    assert [o.present for o in revised] == [(), ()]
    assert any(text in told for told in revised[1].reasons), "the second in a row"


def test_a_required_reading_that_comes_late_completes_its_set():
    """What was withheld for want of it is heard with it, and is no loss any more."""
    line = two(sensors={"camera": {"required": True}})
    observations = [at(name, 100 * i) for i in range(6) for name in ("camera", "touch") if (name, i) != ("camera", 2)]
    outputs = outputs_of(line, [*observations, at("camera", 200, late=130)])
    assert line.counts["touch"].as_dict() == {"received": 6, "used": 6, "held": 0, "dropped": {}}
    assert line.counts["camera"].used == 6
    (revised,) = [o for o in outputs if o.revised]
    assert set(revised.present) == {"camera", "touch"}
    assert line.engine.given[2:6] == [(200, []), (300, ["camera", "touch"]), (200, ["camera", "touch"]), (300, ["camera", "touch"])]  # fmt: skip


def test_a_late_reading_whose_set_still_lacks_another_is_withheld():
    line = two(sensors={"camera": {"required": True}})
    observations = [at("touch", 0), *(at("camera", t) for t in (200, 400)), at("touch", 203, late=50)]
    outputs = outputs_of(line, [*observations, at("touch", 100, late=210)])
    assert dict(line.counts["touch"].dropped) == {"incomplete": 2}
    assert [o.present for o in outputs if o.revised] == [("touch",), ()]
    assert "camera: required, and not in the set" in [o for o in outputs if o.revised][1].reasons


def test_a_revision_is_not_reproached_with_what_its_set_had():
    line = two(sensors={"camera": {"required": True}})
    outputs = outputs_of(line, [at("camera", 100 * i) for i in range(6)] + [at("touch", 100, late=250)])
    (revised,) = [o for o in outputs if o.revised]
    assert "camera: required, and not in the set" not in revised.reasons


@pytest.mark.parametrize(
    ("stamp", "jitter", "own"), [(140, 0.0, True), (104, 0.0, False), (107, 0.0, True), (107, 3.0, False)]
)
@pytest.mark.parametrize("jittery", ["camera", "touch"])
def test_a_late_reading_joins_the_set_that_it_would_have_joined(stamp, jitter, own, jittery):
    """Within tolerance_ms and jitter_ms, however far apart sets are; else it is a set of its own, at its own time."""
    line = two(sensors={jittery: {"jitter_ms": jitter}})
    outputs_of(line, [*(at("camera", 100 * i) for i in range(4)), at("touch", stamp, late=220)])
    assert ((stamp, ["touch"]) in line.engine.given) == own
    assert ((100, ["camera", "touch"]) in line.engine.given) != own
