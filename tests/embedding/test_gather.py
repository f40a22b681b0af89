"""Raw data reach a module that embeds as embeddings: of observed rows, in the array's own shape, once."""

import numpy as np
import pytest
import torch

from serket.data import load
from serket.errors import DataError, DataWarning
from serket.fitting import fit
from serket.inputs import dtype_of, gather, raw_keys
from tests.embedding.encoders import GRAPH, UNREAD, asked, rows_asked, sets


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SERKET_CACHE", str(tmp_path / "cache"))
    asked.clear()


@pytest.fixture
def graph():
    from serket.graph import load_graph

    return load_graph(GRAPH)


def seen(graph, data, rows=None, **options):
    return gather(graph, graph.build(), data, rows, dtype=torch.float32, **options)["eye"]


def alone(graph, array):
    """What the encoder makes of an array, past every cache."""
    made = graph.build()["eye"].embed(torch.from_numpy(array))
    asked.pop()
    return made


def test_values_are_the_embeddings_of_observed_rows(graph):
    arrays = sets()
    data = load(arrays | {"image_mask": np.arange(40) % 3 > 0}, ["image", "touch"])
    evidence = seen(graph, data, [5, 3, 4, 0])
    assert evidence.observed.tolist() == [True, False, True, False]
    assert asked[0].shape == (2, 4, 3, 2) and asked[0].dtype == torch.uint8 and rows_asked() == 2
    expected = alone(graph, arrays["image"][[5, 4]])
    assert torch.equal(evidence.values[[0, 2]], expected) and not evidence.values[[1, 3]].any()
    assert evidence.row_id.tolist() == [5, 3, 4, 0]


def test_masked_rows_are_not_embedded_and_keys_that_are_not_looked_at_neither(graph):
    data = load(sets() | {"image_mask": np.zeros(40, bool)}, ["image", "touch"])
    assert seen(graph, data).values is None
    seen(graph, load(sets(), ["image", "touch"]), observe=["touch"])
    silent = seen(graph, load({"touch": sets()["touch"]}, ["image", "touch"], missing_ok=True))
    assert not silent.observed.any() and not asked


def test_rows_that_cannot_be_read_are_missing_and_named_once(graph):
    arrays = sets()
    arrays["image"][[7, 12], 0, 0, 0] = UNREAD
    data = load(arrays, ["image", "touch"])
    with pytest.warns(DataWarning, match=r"eye: NaN or Inf from the encoder in 2 of 40 rows of image \(7, 12\)"):
        evidence = seen(graph, data)
    assert (~evidence.observed).nonzero().flatten().tolist() == [7, 12] and evidence.values.isfinite().all()
    assert not evidence.values[[7, 12]].any() and data.unread == {"eye": {7: "image", 12: "image"}}
    again = seen(graph, data, [7, 8])  # warnings are errors
    assert again.observed.tolist() == [False, True] and rows_asked() == 40


def test_a_model_embeds_once_whatever_is_asked_of_it(graph):
    arrays = sets() | {"label": np.arange(40) % 2}
    data = load(arrays, ["image", "touch"])
    model = fit(graph, data, workers=1)
    assert rows_asked() == len(data.train)
    from serket.evaluate import evaluate

    metrics = evaluate(model, data)
    assert rows_asked() == 40 and "image" in metrics["subsets"] and "touch>image" not in metrics["coherence"]
    first = model.infer({"image": arrays["image"][3:9]})
    assert rows_asked() == 40
    assert torch.equal(first["shared"].mean(), model.infer(data, rows=range(3, 9), observe=["image"])["shared"].mean())
    with pytest.raises(DataError, match="no module can imagine 'image'"):
        model.generate("image", data)
    assert model.generate("touch", data, observe=["image"]).mean.shape == (40, 2)


def test_notes_name_rows_that_could_not_be_read(graph):
    from serket.evaluate import evaluate

    arrays = sets()
    arrays["image"][[1, 30], 0, 0, 0] = UNREAD
    data = load(arrays, ["image", "touch"])
    with pytest.warns(DataWarning):
        metrics = evaluate(fit(graph, data, workers=1), data)
    assert "eye: NaN or Inf from its encoder in 2 rows of image (1, 30), so missing" in metrics["notes"]


def test_what_only_encoders_read_does_not_choose_the_type_of_messages(graph):
    data = load(sets(), ["image", "touch"])
    assert raw_keys(graph) == {"image"} and dtype_of(data, raw_keys(graph)) == torch.float32
    wide = load(sets() | {"image": sets()["image"].astype(float)}, ["image", "touch"])
    assert dtype_of(wide, raw_keys(graph)) == torch.float32 and dtype_of(wide) == torch.float64
    assert dtype_of(load(sets(), ["image"]), raw_keys(graph)) == torch.float32


def test_text_becomes_bytes_and_goes_to_encoders_only(graph):
    words = np.array(["tea", "ca\N{LATIN SMALL LETTER E WITH ACUTE}"] * 20)
    data = load(sets() | {"image": words}, ["image", "touch"])
    evidence = seen(graph, data)
    assert asked[0].tolist() == [[116, 101, 97, 0], [99, 97, 195, 169]]  # each of the two once
    assert torch.equal(evidence.values[0], evidence.values[38])
    with pytest.raises(DataError, match="not numbers"):
        data.evidence("image")
