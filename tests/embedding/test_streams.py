"""Readings of a stream are embedded as the rows of the data were."""

import numpy as np
import pytest
import torch

from serket.data import load
from serket.fitting import fit
from serket.graph import load_graph
from serket.model import load as load_run
from serket.stream import from_arrays, open_stream
from tests.embedding import encoders
from tests.embedding.encoders import GRAPH, UNREAD, asked, rows_asked, sets


@pytest.fixture(scope="module")
def model():
    return fit(load_graph(GRAPH), load(sets(), ["image", "touch"]), workers=1)


def outputs(model, **arrays):
    asked.clear()
    pipeline = open_stream(model)
    made = list(pipeline.run(from_arrays(sets() | arrays, ("image", "touch"), hz=10)))
    return pipeline, [one.inference.beliefs["shared"].mean() for one in made]


@pytest.mark.parametrize("kind", [np.uint8, np.float32])  # a bag of images comes as float32
def test_a_stream_believes_what_a_batch_does(model, tmp_path, kind):
    model = load_run(model.save(tmp_path / "run"))
    _, beliefs = outputs(model, image=sets()["image"].astype(kind))
    assert all(batch.shape == (1, 4, 3, 2) and batch.dtype == torch.uint8 for batch in asked) and len(asked) == 40
    assert torch.allclose(torch.cat(beliefs), model.infer(sets())["shared"].mean(), atol=1e-5)


def test_what_the_encoder_cannot_read_is_counted_and_left_out(model):
    images = sets()["image"].copy()
    images[5, 0, 0, 0] = UNREAD
    pipeline, beliefs = outputs(model, image=images)
    count = pipeline.counts["image"]
    assert count.dropped["error"] == 1 and count.used == 39
    alone = model.infer({"touch": sets()["touch"][5:6]})["shared"].mean()
    assert torch.allclose(beliefs[5], alone, atol=1e-5) and all(one.isfinite().all() for one in beliefs)


def test_sound_of_another_scale_is_no_reading(model):
    pipeline, _ = outputs(model, image=sets()["image"] / np.float32(255))
    assert pipeline.counts["image"].dropped["error"] == 40 and rows_asked() == 0


def test_pictures_of_another_size_are_refused_at_the_door(model):
    pipeline, _ = outputs(model, image=sets()["image"][:, :2])
    assert pipeline.counts["image"].dropped["shape"] == 40 and rows_asked() == 0


def test_a_reading_used_again_is_not_embedded_again(model):
    from serket.graph.stream import StreamEntry

    asked.clear()
    pipeline = open_stream(model, StreamEntry.model_validate({"policy": "latest", "timeout_ms": 1000}))
    arrays = sets() | {"image": sets()["image"][:4], "image_stamp_ns": np.arange(4) * 10**9}
    arrays["touch_stamp_ns"] = np.arange(40) * 10**8 + 1
    assert len(list(pipeline.run(from_arrays(arrays, ("image", "touch"))))) == 44
    assert rows_asked() == 4


def test_an_encoder_that_raises_is_isolated(model, monkeypatch):
    from serket.graph.stream import StreamEntry

    def broken(self, values):
        raise RuntimeError("no")

    monkeypatch.setattr(encoders.Encoder, "embed", broken)
    pipeline = open_stream(model, StreamEntry.model_validate({"on_error": "skip"}))
    list(pipeline.run(from_arrays(sets(), ("image", "touch"), hz=10)))
    assert pipeline.counts["image"].dropped["error"] == 40 and pipeline.counts["touch"].used == 40
