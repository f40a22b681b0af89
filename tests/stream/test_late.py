"""Late readings: dropped, or heard where they belong, as if they had come in time."""

import numpy as np
import pytest
import torch

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
