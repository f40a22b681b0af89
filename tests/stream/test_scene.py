"""A Rerun recording, read back: the numbers and the nanoseconds are those of the stream."""

import sys

import numpy as np
import pytest

from serket.errors import DataError, SerketError
from serket.graph import load_graph
from serket.model import Model
from serket.stream import Observation, from_arrays, open_stream
from serket.stream.play import play
from serket.stream.scene import Scene, _pixels
from tests.cli.conftest import RAIN
from tests.stream.test_session import KEYS, model, recording

pytest.importorskip("rerun")


class Keep(list):
    def put(self, output):
        self.append(output)


def read(path):
    """Return {entity: (times in ns, {component: values})}, and the entities that are static."""
    from rerun.chunk import RrdReader

    found, static = {}, set()
    for chunk in RrdReader(str(path)).stream():
        batch, path = chunk.to_record_batch(), str(chunk.entity_path)
        if chunk.is_static:
            static.add(path)
            continue
        times, parts = found.setdefault(path, ([], {}))
        times += np.asarray(batch.column("measured")).astype(np.int64).tolist()
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if ":" in name:
                parts.setdefault(name.rsplit(":", 1)[1], []).extend(column.to_pylist())
    return found, static


def test_what_was_seen_and_believed(tmp_path):
    pipeline, outputs = open_stream(model()), Keep()
    readings = list(from_arrays(recording(), KEYS))
    with Scene(tmp_path / "a.rrd", pipeline) as scene:
        play(pipeline, readings, [scene, outputs], heard=scene.heard)
    found, static = read(tmp_path / "a.rrd")
    times, parts = found["/beliefs/motion/mean"]
    assert times == [output.time_ns for output in outputs]
    beliefs = [output.inference.beliefs["motion"] for output in outputs]
    np.testing.assert_array_equal(parts["scalars"], [b.mean()[0].double().numpy() for b in beliefs])
    deviations = np.sqrt([b.covariance()[0].diagonal().double().numpy() for b in beliefs])
    np.testing.assert_allclose(found["/beliefs/motion/deviation"][1]["scalars"], deviations, rtol=1e-6)
    ellipses = np.array(found["/beliefs/motion/trajectory"][1]["half_sizes"])[:, 0]
    np.testing.assert_allclose(ellipses, 2 * deviations[:, :2], rtol=1e-6)
    wheel = [one for one in readings if one.sensor == "wheel"]
    assert found["/sensors/wheel"][0] == [one.stamp_ns for one in wheel]
    np.testing.assert_array_equal(found["/sensors/wheel"][1]["scalars"], [one.values for one in wheel])
    told = [output for output in outputs if "camera" in output.inference.contribution]
    assert found["/contribution/camera"][0] == [output.time_ns for output in told]
    nats = [[output.inference.contribution["camera"]] for output in told]
    np.testing.assert_array_equal(found["/contribution/camera"][1]["scalars"], nats)
    seen = [[float("camera" in output.present)] for output in outputs]
    assert found["/present/camera"][1]["scalars"] == seen and {0.0, 1.0} == {one for (one,) in seen}
    assert {"/beliefs/motion/mean", "/present/camera"} <= static, "lines have colours and names"


def test_a_category_and_a_sensor_that_dies(tmp_path):
    (tmp_path / "rain.yaml").write_text(RAIN + "stream: {sensors: {reading: {expect_hz: [9, 11]}}}\n")
    graph = load_graph(str(tmp_path / "rain.yaml"))
    pipeline, outputs = open_stream(Model(graph, graph.build(), 0, "cpu")), Keep()
    begun = 1_800_000_000_123_456_789
    with Scene(tmp_path / "a.rrd", pipeline) as scene:
        stamps = [begun + k * 10**8 for k in (*range(10), 60)]
        readings = [Observation("reading", stamp, stamp, np.array([k % 2])) for k, stamp in enumerate(stamps)]
        play(pipeline, readings, [scene, outputs], heard=scene.heard)
    found, _ = read(tmp_path / "a.rrd")
    times, parts = found["/beliefs/rain/over_time"]
    assert times == [output.time_ns for output in outputs] and times[0] == begun
    np.testing.assert_array_equal(
        parts["scalars"], [o.inference.beliefs["rain"].probs[0].double().numpy() for o in outputs]
    )
    bars = found["/beliefs/rain/probabilities"][1]["values"]
    assert len(bars) == len(outputs)
    levels = {0.0: "OK", 1.0: "DEGRADED", 2.0: "ERROR"}
    assert [levels[v] for (v,) in found["/health/level"][1]["scalars"]] == [o.level.value for o in outputs]
    texts = [text for (text,) in found["/health/reasons"][1]["text"]]
    assert texts[0] == "OK" and any("silent" in text for text in texts)


def test_images_as_they_were(tmp_path):
    """A reading with the shape of an image is one; a stamp off its clock does not stretch the picture by years."""
    pipeline = open_stream(model())
    grey, colour = np.arange(6, dtype="f4") / 7, np.random.default_rng(0).integers(0, 256, 12)
    with Scene(tmp_path / "a.rrd", pipeline) as scene:
        for sensor, stamp, values, shape in [
            ("wheel", 6, colour, (2, 2, 3)),
            ("camera", 5, grey, (2, 3)),
            ("camera", 10**18, grey, (2, 3)),
        ]:
            one = Observation(sensor, stamp, stamp % 10**9 + 1, values, shape=shape)
            pipeline.push(one)
            scene.heard(one)
    found, _ = read(tmp_path / "a.rrd")
    for sensor, moment, size, content in [
        ("camera", 5, (3, 2), grey.tobytes()),
        ("wheel", 6, (2, 2), colour.astype(np.uint8).tobytes()),
    ]:
        times, parts = found[f"/sensors/{sensor}"]
        assert times == [moment]
        assert bytes(np.asarray(parts["buffer"][0][0], dtype=np.uint8)) == content
        assert (parts["format"][0][0]["width"], parts["format"][0][0]["height"]) == size


@pytest.mark.parametrize("values", [[0.0, 0.5, 1.0], [0, 128, 255], [np.nan, 300, -1]])
def test_colours_are_bytes(values):
    told = _pixels(np.array(values, dtype="f4").reshape(1, 1, 3))
    assert told.dtype == np.uint8
    assert told.tolist()[0][0] == ([0, 255, 0] if np.isnan(values[0]) else [0, 128, 255])


def test_mistakes(tmp_path, monkeypatch):
    pipeline = open_stream(model())
    with pytest.raises(DataError, match="cannot be written") as caught:
        Scene(tmp_path / "none" / "a.rrd", pipeline)
    assert "--rerun" in str(caught.value)
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(SerketError, match=r"rerun-sdk") as caught:
        Scene(tmp_path / "a.rrd", pipeline)
    assert "serket-perception[rerun]" in str(caught.value)
