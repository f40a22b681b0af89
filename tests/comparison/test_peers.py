"""The bootstrap of benchmarks/peers.py, and its Rand index."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

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
    judged = {"chosen": "kernel", "validation": {"kernel": 0.9}, "columns": {}}
    text, numbers = peers_score.table(methods, judged, "about")
    assert "| odd | cannot: views of two sizes |" in text and "**kernel**" in text
    cell = json.loads(numbers)["methods"]["VAE"]["cells"][0]
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(cell["right"]["a+b"]), np.uint8))[:ROWS]
    assert (bits == methods["VAE"].cells[0, 0]["right"]["a+b"]).all()
