"""Scores against hand calculations, and the table."""

import numpy as np
import pytest

from serket.comparison import Cell, Comparison, pictures
from serket.comparison.scores import calibration_error, clustered, clustering, explained, probe_scores, strict
from serket.comparison.specs import Spec
from serket.data import another_split, load
from serket.errors import DataError
from serket.report.metrics import concept_ari


def test_calibration_error_by_hand():
    # Bin 0.9 to 1: two rows, one right, mean confidence 0.95; bin 0.5 to 0.6: one row, right, at 0.5.
    error = calibration_error(np.array([0.92, 0.98, 0.5]), np.array([True, False, True]))
    assert error == pytest.approx(2 / 3 * abs(0.5 - 0.95) + 1 / 3 * abs(1 - 0.5))
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0


def test_a_probe_reads_what_it_is_taught():
    g = np.random.default_rng(0)
    y = g.integers(0, 3, 200)
    x = np.eye(3)[y] * 4 + g.normal(size=(200, 3))
    scores = probe_scores(x[:100], y[:100], {"same": x[100:], "noise": g.normal(size=(100, 3))}, y[100:])
    assert scores["accuracy"]["same"] > 0.9 > 0.6 > scores["accuracy"]["noise"]
    assert np.mean(scores["right"]["same"]) == scores["accuracy"]["same"] and len(scores["right"]["same"]) == 100
    assert scores["calibration"]["same"] < 0.1 < scores["calibration"]["noise"]


def test_clusters_are_found_in_any_units():
    g = np.random.default_rng(0)
    y = g.integers(0, 3, 300)
    x = np.stack([2.0 * y + 0.3 * g.normal(size=300), g.normal(size=300)], 1)
    for scale in (1.0, 1e-4):
        assert concept_ari(y[200:], clustered(x[:200] * scale, x[200:] * scale, 3, 0)) > 0.95


def test_explained_variance_and_strict_mean_by_hand():
    truth = np.array([[0.0, 0.0], [2.0, 0.0]])
    assert explained(truth, truth) == 1 and explained(truth, truth.mean(0) + 0 * truth) == 0
    assert explained(truth, np.array([[0.0, 1.0], [2.0, 0.0]])) == pytest.approx(1 - 1 / 2)
    assert strict({"a": 0.5, "b": 0.7, "a+b": 1.0}, "a+b") == pytest.approx(0.6)


def test_options_need_no_quoting():
    spec = Spec.parse("product:trust=0.5+1:fit.epochs=3")
    assert (spec.type, spec.options) == ("product", {"trust": [0.5, 1], "fit.epochs": 3})
    assert Spec.parse("joint:thaw=pix+:fit.noise=1e+2").options == {"thaw": ["pix"], "fit.noise": 100.0}
    assert not set(spec.text) & set(" $&|;<>()[]{}*?!~\"'\\`#")


def test_splits_are_others_of_the_same_size_and_keep_sequences_whole():
    whole = load({"x": np.arange(40.0), "test": np.arange(10), "train": np.arange(10, 38)}, ["x"])
    assert another_split(whole, 0) is whole
    one, two, again = another_split(whole, 1), another_split(whole, 2), another_split(whole, 1)
    assert set(one.test) != set(two.test) != set(whole.test) and (one.test == again.test).all()
    assert sorted([*one.train, *one.test]) == list(range(38)) and len(one.test) == 10
    sequence = np.repeat(np.arange(8), 5)
    timed = another_split(load({"x": np.arange(40.0), "x_sequence": sequence, "test": np.arange(10)}, ["x"]), 3)
    assert not set(sequence[timed.train]) & set(sequence[timed.test]) and len(timed.test) == 10
    with pytest.raises(DataError, match="no test rows"):
        another_split(load({"x": np.arange(4.0)}, ["x"], test_fraction=0), 1)


def table(composers, cells, views=("a", "b", "c")):
    return Comparison("toy", "toy", views, composers, ("all rows",), True, tuple(cells), {"train": 8, "test": 4})


def test_the_table_shows_spread_and_fits_the_terminal():
    long = "coordinated:criterion=cross_generation"
    values = {"joint": 0.9, "strict": 0.8, "ari": 0.7, "coherence": 0.6, "calibration": 0.05, "explained": 0.3,
              "validation": 0.9, "cpu_seconds": 1.0, "parameters": 10, "subsets": {"a": 0.5, "a+b": 0.6, "a+b+c": 0.9}}  # fmt: skip
    cells = [Cell(long, "all rows", split, 0, {**values, "joint": 0.9 + 0.02 * split}) for split in (0, 1, 2)]
    cells += [Cell("product", "all rows", 0, 0, {"cannot": "a reason that is " + "long " * 40})]
    made = table((long, "product"), cells)
    spread = made.spread(long, "joint")
    assert (spread.mean, spread.sd, spread.n) == (pytest.approx(0.92), pytest.approx(0.02), 3)
    text = str(made)
    assert "0.920 ±0.020" in text and "0.600 ±0.000" in text and max(map(len, text.splitlines())) <= 80
    assert made.best() == long and made.spread("product", "joint") is None
    assert made.as_dict()["table"]["all rows"][long]["subsets.a"]["n"] == 3


def test_where_some_cells_failed_the_row_says_in_how_many():
    cells = [Cell("x", "all rows", 0, 0, {"joint": 0.5}), Cell("x", "all rows", 1, 0, {"cannot": "no"})]
    assert table(("x",), cells).cannot("x", "all rows") == "in 1 of 2 cells no"


def test_each_split_is_scored_by_the_composer_that_its_own_validation_rows_choose():
    def cell(name, split, seed, validation, joint):
        return Cell(name, "all rows", split, seed, {"validation": validation, "joint": joint})

    cells = [cell("x", 0, seed, 0.9, 0.6) for seed in (0, 1)] + [cell("x", 1, seed, 0.9, 0.8) for seed in (0, 1)]
    cells += [cell("y", 0, seed, 0.5 + 0.1 * seed, 0.9) for seed in (0, 1)]
    cells += [cell("y", 1, 0, 0.99, 0.7), cell("y", 1, 1, 0.97, 0.7)]
    made = table(("x", "y"), cells)
    assert made.best() == "x" and made.chosen() == {0: "x", 1: "y"}
    assert made.spread("(chosen)", "joint").mean == pytest.approx(0.65) and made.spread("(chosen)", "joint").n == 4
    assert "chosen on validation rows: x in split 0; y in split 1" in str(made) and "(chosen)" in str(made)
    assert made.as_dict()["chosen_by_split"] == {"all rows": {"0": "x", "1": "y"}}
    part = table(("x", "y"), [*cells[:-1], Cell("y", "all rows", 1, 1, {"cannot": "no"})])
    assert part.chosen() == {0: "x", 1: "x"}, "who did not serve every seed is not chosen"
    assert "(chosen)" not in str(table(("x", "y"), [c for c in cells if c.split == 0])), "one split: its row is there"


def test_k_means_is_told_beside_a_mixture():
    g = np.random.default_rng(0)
    y = g.integers(0, 2, 300)
    x = np.stack([5 * g.normal(size=300), 3.0 * y + 0.3 * g.normal(size=300)], 1)
    found = clustering(x[:200], x[200:], y[200:], 2, 0)
    assert found["ari"] > 0.95 > 0.3 > found["kmeans"]["ari"], "two long clusters side by side"
    assert found["kmeans"]["ari"] == pytest.approx(concept_ari(y[200:], np.array(found["kmeans"]["named"])))
    assert found["ari"] == pytest.approx(concept_ari(y[200:], np.array(found["named"])))


def test_the_pictures_show_the_numbers_of_the_table(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "save_picture", lambda figure, path: figures.append(figure))
    shares = {"x": {"a": 0.5, "b": 0.6, "c": 0.7, "a+b": 0.8}, "y": {"a": 0.4, "b": 0.65, "c": 0.75, "a+b": 0.7}}
    both = {"b+c": 0.81, "a+c": 0.82, "a+b+c": 0.9}
    cells = []
    for case, less in (("50 pairs", 0.2), ("all rows", 0.0)):
        for name, share in shares.items():
            for split in (0, 1):
                subset = {key: value - less + 0.02 * split for key, value in (share | both).items()}
                values = {"subsets": subset, "strict": subset["a"], "coherence": subset["b"]}
                if name == "x" and split == 0:
                    values["examples"] = {"to": "b", "given": "a", "true": [[0.0, 1.0], [2.0, 3.0]],
                                          "mean": [[0.1, 0.9], [1.9, 2.9]], "drawn": [[[4.0, 5.0]], [[6.0, 7.0]]]}  # fmt: skip
                cells.append(Cell(name, case, split, 0, values))
    cells.append(Cell("z", "all rows", 0, 0, {"cannot": "no"}))
    made = Comparison("toy", "toy", ("a", "b", "c"), ("x", "y", "z"), ("50 pairs", "all rows"), True, tuple(cells),
                      {"train": 8, "test": 4}, (2, 1))  # fmt: skip

    assert pictures.by_subset(tmp_path / "subsets.png", made)
    axis = figures[-1].axes[0]
    columns = [text.get_text().replace("\n", "") for text in axis.get_xticklabels()]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["x", "y"], "who cannot serve is not drawn"
    expected = [[(shares[name] | both)[column] + 0.01 for column in columns] for name in "xy"]
    np.testing.assert_allclose(axis.images[0].get_array(), expected)
    assert {(t.get_position(), t.get_text()) for t in axis.texts} == {
        ((column, row), f"{expected[row][column]:.3f}") for row in (0, 1) for column in range(len(columns))
    }

    assert pictures.by_pairs(tmp_path / "pairs.png", made)
    strict_axis, coherence_axis = figures[-1].axes
    for axis, key in ((strict_axis, "a"), (coherence_axis, "b")):
        assert [text.get_text() for text in axis.get_xticklabels()] == ["50 pairs", "all rows"]
        for line, name in zip((box.lines[0] for box in axis.containers), "xy", strict=True):
            assert list(line.get_xdata()) == [0, 1]
            assert list(line.get_ydata()) == pytest.approx([shares[name][key] - 0.19, shares[name][key] + 0.01])

    assert pictures.side_by_side(tmp_path / "imagined.png", made)
    shown = [np.asarray(axis.images[0].get_array()).ravel().tolist() for axis in figures[-1].axes]
    assert shown == [[0, 1], [2, 3], [0, 1], [2, 3], [0.1, 0.9], [1.9, 2.9], [4, 5], [6, 7]], "true twice; means, draws"
