"""The bootstrap of benchmarks/peers.py, and its Rand index."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from serket.comparison import Cell, Comparison
from serket.data import another_split, load
from serket.report.metrics import concept_ari

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import peers_score  # noqa: E402

ROWS = 200


def method(kind, share, seed):
    """Tell so large a share of the rows right, in any view, over two splits and two seeds."""
    g = np.random.default_rng(seed)
    made = peers_score.Method(kind)
    for split in (0, 1):
        for s in (0, 1):
            truth = np.random.default_rng(split).integers(0, 3, ROWS)
            right = {name: (g.random(ROWS) < share).astype(int) for name in ("a", "b", "a+b")}
            named = np.where(g.random(ROWS) < share, truth, g.integers(0, 3, ROWS))
            figures = {"joint": right["a+b"].mean(), "a": right["a"].mean(), "b": right["b"].mean(),
                       "strict": (right["a"] + right["b"]).mean() / 2, "coherence": right["a"].mean(),
                       "ari": concept_ari(truth, named), "cpu_seconds": 1.0, "parameters": 3}  # fmt: skip
            made.cells[split, s] = {
                "figures": figures, "right": right, "coherent": {"a>b": right["a"]}, "named": named, "truth": truth}  # fmt: skip
    return made


def test_the_rand_index_is_that_of_the_library():
    g = np.random.default_rng(0)
    for _ in range(20):
        one, other = g.integers(0, 4, 50), g.integers(3, 9, 50)
        assert peers_score.rand_index(one, other) == pytest.approx(concept_ari(one, other), abs=1e-12)
    assert peers_score.rand_index(one, one) == 1


def test_a_difference_counts_if_splits_and_rows_drawn_anew_keep_it(monkeypatch):
    monkeypatch.setattr(peers_score, "REPLICATES", 300)
    good, bad, like = method("composer", 0.95, 0), method("peer", 0.8, 1), method("peer", 0.95, 2)
    for column in ("joint", "a", "strict", "ari", "coherence"):
        mean, low, high = peers_score.bootstrap(good, bad, column)
        assert 0 < low < mean < high
        assert mean == pytest.approx(good.spread(column)[0] - bad.spread(column)[0])
        assert peers_score.bootstrap(bad, good, column)[2] < 0
    mean, low, high = peers_score.bootstrap(good, like, "strict")
    assert low < 0 < high
    # One column by hand: the sd of a mean of per-row differences, seeds averaged, over two splits of the same rate.
    _, low, high = peers_score.bootstrap(good, bad, "joint")
    rows = [
        np.mean([good.cells[s, k]["right"]["a+b"] - bad.cells[s, k]["right"]["a+b"] for k in (0, 1)], 0) for s in (0, 1)
    ]
    within = np.sqrt(sum(d.var() / ROWS for d in rows)) / 2
    between = abs(rows[0].mean() - rows[1].mean()) / 2 / np.sqrt(2)
    assert (high - low) / 3.92 == pytest.approx(np.hypot(within, between), rel=0.25)


def test_the_table_has_both_halves_and_the_rows():
    methods = {"VAE": method("peer", 0.8, 1), "kernel": method("composer", 0.95, 0)}
    methods["odd"] = peers_score.Method("composer", cannot="views of two sizes")
    methods[peers_score.CHOSEN] = peers_score.Method("chosen", methods["kernel"].cells)
    judged = {"chosen": {0: "kernel", 1: "odd"}, "validation": {}, "columns": {}}
    text, numbers = peers_score.table(methods, judged, "about")
    assert "| odd | cannot: views of two sizes |" in text and "split 0: kernel; split 1: odd" in text
    assert re.search(r"\| VAE \|.*\| 1\.0 \| - \| 3 \| 4 \|", text) and "| choosing CPU s |" in text
    cell = json.loads(numbers)["methods"]["VAE"]["cells"][0]
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(cell["right"]["a+b"]), np.uint8))[:ROWS]
    assert (bits == methods["VAE"].cells[0, 0]["right"]["a+b"]).all()


def tables_of(data, composers, validation):
    """Make a table a split; ``composers``: by name, the share told right; ``validation``: by name, one a split."""
    tables = []
    for split in (0, 1):
        truth, cells = data.label[another_split(data, split).test], []
        for number, (name, share) in enumerate(composers.items()):
            for seed in (0, 1):
                g = np.random.default_rng([number, split, seed])
                right = {key: (g.random(len(truth)) < share).astype(int).tolist() for key in ("a", "b", "a+b")}
                named, other = (np.where(g.random(len(truth)) < s, truth, 9).tolist() for s in (share, share - 0.2))
                accuracy = {key: float(np.mean(rows)) for key, rows in right.items()}
                cells.append(Cell(name, "all rows", split, seed, {
                    "subsets": accuracy, "right": right, "joint": accuracy["a+b"], "strict": (accuracy["a"] + accuracy["b"]) / 2,
                    "named": other, "ari": concept_ari(truth, np.array(other)),
                    "kmeans": {"named": named, "ari": concept_ari(truth, np.array(named))},
                    "coherent": {"a>b": right["a"]}, "coherence": accuracy["a"], "validation": validation[name][split],
                    "cpu_seconds": 1.0, "choosing_cpu_seconds": 2.0, "parameters": 3}))  # fmt: skip
        tables.append(Comparison("toy", "toy", ("a", "b"), (*composers, "odd"), ("all rows",), True, (
            *cells, Cell("odd", "all rows", split, 0, {"cannot": "two sizes"})), {"train": 9, "test": 9}))  # fmt: skip
    return tables


@pytest.fixture
def judged_by(monkeypatch):
    """Judge composers of known worth, chosen as told, against peers that tell 80 and 85 % right."""
    monkeypatch.setattr(peers_score, "REPLICATES", 300)
    g = np.random.default_rng(5)
    data = load({"a": np.zeros((2500, 1)), "label": g.integers(0, 3, 2500), "test": np.arange(1500)}, ["a"])

    def run(composers, validation):
        tables = tables_of(data, composers, validation)
        methods = peers_score.scored(data, {}, tables)
        for number, (name, share) in enumerate({"worse": 0.8, "peer": 0.85}.items()):
            of = peers_score.scored(data, {}, tables_of(data, {"z" * number: 0.0, name: share}, {name: [1, 1], "z" * number: [0, 0]}))  # fmt: skip
            methods[name] = peers_score.Method("peer", of[name].cells)
        return methods, peers_score.judge(methods, tables)

    return run


def test_a_method_equal_to_the_best_peer_is_even_and_one_better_by_5_points_above(judged_by):
    _, like = judged_by({"x": 0.85}, {"x": [0.9, 0.9]})
    assert {column["mark"] for column in like["columns"].values()} == {"even"}
    assert {column["peer"] for column in like["columns"].values()} == {"peer"}
    _, better = judged_by({"x": 0.9}, {"x": [0.9, 0.9]})
    assert {column["mark"] for column in better["columns"].values()} == {"above"}
    assert all(c["low"] < 0.05 < c["high"] for name, c in better["columns"].items() if name != "ari")
    _, worse = judged_by({"x": 0.8}, {"x": [0.9, 0.9]})
    assert {column["mark"] for column in worse["columns"].values()} == {"below"}


def test_each_split_is_scored_with_the_composer_its_own_validation_rows_choose(judged_by):
    methods, judged = judged_by({"x": 0.95, "y": 0.75}, {"x": [0.9, 0.5], "y": [0.2, 0.6]})
    assert judged["chosen"] == {0: "x", 1: "y"} and judged["validation"][1] == {"x": 0.5, "y": 0.6}
    chosen = methods[peers_score.CHOSEN]
    assert sorted(chosen.cells) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(chosen.cells[s, k] is methods["xy"[s]].cells[s, k] for s, k in chosen.cells)
    assert judged["columns"]["joint"]["difference"] == pytest.approx(
        chosen.spread("joint")[0] - methods["peer"].spread("joint")[0]
    )
    text, _ = peers_score.table(methods, judged, "about")
    assert "split 0: x; split 1: y" in text and "| odd | cannot: two sizes |" in text
    assert re.search(r"\| x \|.*\| 1\.0 \| 2\.0 \| 3 \| 4 \|", text)


def test_a_method_is_credited_with_the_better_of_two_ways_to_cluster(judged_by):
    methods, _ = judged_by({"x": 0.9}, {"x": [0.9, 0.9]})
    for cell in methods["x"].cells.values():
        assert cell["figures"]["ari"] == pytest.approx(concept_ari(cell["truth"], cell["named"]))
        assert cell["figures"]["ari"] > 0.7, "that of k-means"
