"""What probabilities are worth: error and its quantile by hand, coverage of truths that are known, the picture."""

import numpy as np
import pytest

import serket
from serket.report.metrics import joined
from serket.report.reliability import calibration_error, error_quantile, reliability
from serket.report.table import tables
from serket.report.trust import reliability_diagram
from tests.training.test_calibrate import pairs, position, readings, vaes


def test_quantile_of_one_bin_is_that_of_a_binomial():
    # 400 answers of confidence 0.9 share a bin: the error is |k / n - 0.9| with k binomial.
    draws = np.abs(np.random.default_rng(1).binomial(400, 0.9, 200_000) / 400 - 0.9)
    found = error_quantile(np.full(400, 0.9), draws=20_000)
    assert found == pytest.approx(np.quantile(draws, 0.95), abs=0.0026)  # a step of 1/400


def test_a_calibrated_model_stays_below_its_quantile_as_often_as_it_says():
    random = np.random.default_rng(2)
    below = []
    for _ in range(300):
        confidence = random.uniform(0.4, 1, 400)
        right = random.random(400) < confidence
        below.append(calibration_error(confidence, right) <= error_quantile(confidence, draws=400))
    # Binomial(300, 0.95): standard deviation 0.0126.
    assert np.mean(below) == pytest.approx(0.95, abs=4 * 0.0126)


def test_an_over_confident_model_is_above():
    random = np.random.default_rng(3)
    confidence = np.full(400, 0.98)
    right = random.random(400) < 0.9
    assert calibration_error(confidence, right) > error_quantile(confidence)


@pytest.fixture(scope="module")
def exact():
    return serket.fit(position(), readings(30), test_fraction=0.2)


@pytest.mark.parametrize("seed", range(2))
def test_intervals_of_an_exact_model_cover_what_they_say(exact, seed):
    from serket.data import load

    data = load(readings(2000, seed + 10), ["a", "b", "c"], test_fraction=0.5)
    found = reliability(exact, data)["coverage"]
    assert set(found) == {"a>b", "a>c", "b>a", "b>c", "c>a", "c>b", "a+b>c", "a+c>b", "b+c>a"}
    # 1000 rows of two dimensions: standard deviation at most 0.0095, were both the same.
    assert all(share == pytest.approx(0.9, abs=4 * 0.0095) for share in found.values())


@pytest.mark.parametrize("masked", ["a dimension", "a row"])
def test_coverage_is_that_of_observed_values(masked):
    """Slots that are not observed hold zeros, far from what is predicted there; a constant dimension is not counted."""
    from serket.data import load

    graph = position()
    graph["variables"]["x"]["prior"] = {"mean": [20.0, 20.0], "covariance": [[1.0, 0.0], [0.0, 1.0]]}
    graph["modules"]["c"] |= {"matrix": [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], "noise": (0.3 * np.eye(3)).tolist()}
    values = {name: one + 20 for name, one in readings(800).items()}
    values["c"] = np.concatenate([values["c"], np.full((800, 1), 7.0)], 1)
    values["c_mask"] = np.ones((800, 3), dtype=bool)
    if masked == "a row":
        values["c_mask"][[0, 30]] = False
    else:
        values["c_mask"][::2, 1] = False
    model = serket.fit(graph, load(values, ["a", "b", "c"], test_fraction=0.5))
    found = reliability(model, load(values, ["a", "b", "c"], test_fraction=0.5))["coverage"]
    assert all(share == pytest.approx(0.9, abs=4 * 0.015) for share in found.values())


def test_a_calibrated_run_measures_and_draws_itself(tmp_path):
    from serket.evaluate import evaluate

    model = serket.fit(vaes(calibrate="labels"), pairs(), test_fraction=0.25)
    from serket.data import load

    data = load(pairs(), ["a", "b"], test_fraction=0.25)
    metrics = evaluate(model, data)
    told = metrics["reliability"]
    assert set(told["concepts"]) == {joined(s) for s in (("a",), ("b",), ("a", "b"))}
    assert set(told["coverage"]) == {"a>b", "b>a"} and set(told["exponents"]) == {"a", "b", "kinds"}
    for one in told["concepts"].values():
        rows = np.array([count for count, _, _ in one["bins"]])
        gaps = np.array([abs(share - confidence) for _, confidence, share in one["bins"]])
        assert (rows @ gaps) / rows.sum() == pytest.approx(one["error"])
    assert len(tables(metrics)) >= 3
    reliability_diagram(tmp_path / "one.png", told)
    reliability_diagram(tmp_path / "other.png", told)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
