"""What is retrieved, against closed forms and enumeration, and against a nearest neighbour that knows no covariance."""

import numpy as np
import pytest
import torch

import serket as library
from serket import retrieval
from serket.errors import DataError
from serket.graph import load_graph, parse_graph
from serket.messages import Gaussian
from tests.cli.conftest import serket  # noqa: F401
from tests.growth.worlds import graph, senses

PLACES = """\
serket: 1
variables:
  x: {family: gaussian, size: 2, prior: {mean: [0, 0], covariance: [[1, 0.6], [0.6, 2]]}}
modules:
  gps: {type: linear_gaussian, ports: {given: x}, data: gps, matrix: [[1, 0]], noise: [[0.01]]}
  map: {type: linear_gaussian, ports: {given: x}, data: map, matrix: [[1, 0], [0, 1]], noise: [[0.3, 0], [0, 0.001]]}
"""


def places():
    described = parse_graph(PLACES)
    return library.Model(described, described.build())


def drawn(rows, seed):
    g = np.random.default_rng(seed)
    x = g.multivariate_normal([0, 0], [[1, 0.6], [0.6, 2]], size=rows)
    return x, x[:, :1] + 0.1 * g.normal(size=(rows, 1)), x + g.normal(size=(rows, 2)) * np.sqrt([0.3, 0.001])


def test_scores_are_the_pointwise_mutual_information_in_closed_form():
    _, gps, _ = drawn(7, 0)
    _, _, examples = drawn(12, 1)
    found = places().retrieve("map", {"gps": gps}, {"map": examples}, top=12)
    normal = torch.distributions.MultivariateNormal
    cov = torch.tensor([[1.01, 1, 0.6], [1, 1.3, 0.6], [0.6, 0.6, 2.001]], dtype=torch.float64)
    joint = normal(torch.zeros(3).double(), cov)
    one, other = normal(torch.zeros(1).double(), cov[:1, :1]), normal(torch.zeros(2).double(), cov[1:, 1:])
    for row in range(7):
        both = torch.from_numpy(np.concatenate([np.repeat(gps[row : row + 1], 12, 0), examples], 1))
        truth = joint.log_prob(both) - one.log_prob(both[:, :1]) - other.log_prob(both[:, 1:])
        torch.testing.assert_close(found.scores[row], truth.sort(descending=True).values, rtol=0, atol=1e-9)
        assert torch.equal(found.places[row], truth.argsort(descending=True))


def test_it_beats_the_euclidean_neighbour():
    """The example that was seen with the reading, among 400: how far up it stands."""
    _, gps, examples = drawn(400, 2)
    model = places()
    found = model.retrieve("map", {"gps": gps}, {"map": examples}, top=400)
    rank = (found.places == torch.arange(400)[:, None]).double().argmax(1)
    read = model.infer({"map": examples})["x"].mean()
    plain = torch.cdist(model.infer({"gps": gps})["x"].mean(), read).argsort(1)
    euclid = (plain == torch.arange(400)[:, None]).double().argmax(1)
    assert rank.double().mean() < 0.75 * euclid.double().mean()
    # Blocks of pairs change nothing.
    alone = model.retrieve("map", {"gps": gps[5:6]}, {"map": examples}, top=3)
    assert torch.equal(alone.places[0], found.places[5, :3])


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pairs", [1, 40, 200])
def test_blocks_of_the_store_change_nothing_and_stay_small(monkeypatch, full, pairs):
    g = torch.Generator().manual_seed(0)
    precision = torch.eye(3).double().expand(60, 3, 3) * 2 if full else torch.full((60, 3), 2.0).double()
    some = Gaussian(torch.randn(60, 3, generator=g).double(), precision)
    blank = Gaussian.standard((1,), 3, dtype=torch.float64)
    shelf = Gaussian(torch.randn(60, 3, generator=g).double(), torch.rand(60, 3, generator=g).double())
    which, scores = retrieval._ranked(some[:7], blank, shelf, 5)
    held, factor = [], Gaussian.log_z
    monkeypatch.setattr(Gaussian, "log_z", lambda one: held.append(one.batch_shape.numel()) or factor(one))
    width = 12 if full else 6
    monkeypatch.setattr(retrieval, "PAIRS", pairs)
    again, same = retrieval._ranked(some[:7], blank, shelf, 5)
    assert torch.equal(which, again) and torch.equal(scores, same)
    assert max(held) <= max(1, pairs // width)


def test_categories_are_retrieved_by_enumeration():
    described = parse_graph(
        "serket: 1\nvariables:\n  rain: {family: categorical, size: 2, prior: [0.8, 0.2]}\n"
        "modules:\n"
        "  lawn: {type: table, ports: {given: [rain]}, data: wet, values: [[0.9, 0.1], [0.2, 0.8]]}\n"
        "  sky: {type: table, ports: {given: [rain]}, data: sky, values: [[0.7, 0.2, 0.1], [0.05, 0.15, 0.8]]}\n"
    )
    model = library.Model(described, described.build())
    found = model.retrieve("sky", {"wet": np.array([0, 1])}, {"sky": np.array([0, 1, 2])}, top=3)
    prior, lawn = np.array([0.8, 0.2]), np.array([[0.9, 0.1], [0.2, 0.8]])
    sky = np.array([[0.7, 0.2, 0.1], [0.05, 0.15, 0.8]])
    for wet in (0, 1):
        joint = prior[:, None] * lawn[:, [wet]] * sky
        truth = np.log(joint.sum(0) / joint.sum() / (prior @ sky))
        np.testing.assert_allclose(found.scores[wet].numpy(), np.sort(truth)[::-1], atol=1e-12)
        assert found.places[wet].tolist() == np.argsort(-truth).tolist()


def test_a_module_without_a_decoder_is_retrieved_and_generate_says_how():
    """The recogniser of keys imagines no tones; the camera's line calls up tones of the keys of that line."""
    described = load_graph("nbest")
    model = library.Model(described, described.build())
    data = model.dataset()
    with pytest.raises(DataError) as caught:
        model.generate("tones", data, observe="line", rows=data.test[:5])
    assert "retrieve" in caught.value.fix
    found = model.retrieve("tones", data, data, top=1, observe="line", rows=data.test, among_rows=data.train)
    lines = data.arrays["line"].reshape(-1)
    same = (lines[found.places[:, 0].numpy()] == lines[data.test]).mean()
    assert same > 0.4 > 2 * sum((lines[data.train] == line).mean() ** 2 for line in range(4)) / 2 + 0.1


def test_missing_rows_are_no_examples_and_nothing_given_tells_nothing():
    _, gps, examples = drawn(6, 3)
    examples[[1, 4]] = np.nan
    data = {"gps": np.full((2, 1), np.nan)}
    found = places().retrieve("map", data, {"map": examples, "row_id": 10 + np.arange(6)}, top=9)
    assert found.scores.shape == (2, 4) and float(found.scores.abs().max()) < 1e-9
    assert set(found.examples.flatten().tolist()) == {10, 12, 13, 15}


def test_mistakes_are_told():
    model, (_, gps, examples) = places(), drawn(3, 0)
    with pytest.raises(DataError, match="cannot be imagined from itself"):
        model.retrieve("map", {"gps": gps}, {"map": examples}, observe="map")
    with pytest.raises(DataError, match="no stored example"):
        model.retrieve("map", {"gps": gps}, {"map": examples * np.nan})
    with pytest.raises(DataError, match="top of 1"):
        model.retrieve("map", {"gps": gps}, {"map": examples}, top=0)
    with pytest.raises(DataError) as caught:
        model.retrieve("mop", {"gps": gps}, {"map": examples})
    assert "did you mean 'map'" in caught.value.fix


def test_the_right_kind_is_retrieved_after_a_fit_and_from_the_command_line(serket, tmp_path):  # noqa: F811
    data = senses()
    np.savez(tmp_path / "things.npz", **data)
    (tmp_path / "things.yaml").write_text(graph())
    assert serket("run", "things.yaml", "--out", "r", "--quiet")[0] == 0
    status, out, err = serket("retrieve", "r", "--given", "b", "--to", "a", "--top", "3", "--out", "f.npz",
                              "--picture", "f.png")  # fmt: skip
    assert status == 0, err
    assert "score, nats" in out and "90 more rows" in out and max(map(len, out.splitlines())) <= 80
    assert (tmp_path / "f.png").stat().st_size > 1000
    with np.load(tmp_path / "f.npz") as found:
        assert found["a"].shape == (100, 3, 6) and found["a.row_id"].shape == found["score"].shape == (100, 3)
        assert (found["row_id"] == data["test"]).all() and (np.diff(found["score"], axis=1) <= 0).all()
        np.testing.assert_array_equal(found["a"], data["a"][found["a.row_id"]])
        assert set(found["a.row_id"].flatten()) <= set(data["train"])
        label = data["label"]
        # b tells kind 0 from the others; a tells kind 2 from the others: of b's kind 0, never a 2.
        zero = label[data["test"]] == 0
        assert (label[found["a.row_id"][zero, 0]] == 2).mean() < 0.1 < (label[data["train"]] == 2).mean()
    status, out, err = serket("retrieve", "r", "--given", "bb", "--to", "a")
    assert status == 2 and "no array 'bb'" in err or "no data called" in err
    assert serket("retrieve", "r", "--to", "c")[0] == 2
