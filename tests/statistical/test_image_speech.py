"""A written and a spoken digit under one concept, where the data are at hand: what mutual learning is worth."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import serket

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "image_speech_digits.npz"
spec = importlib.util.spec_from_file_location("mutual_benchmark", ROOT / "benchmarks" / "mutual.py")
benchmark = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)


def test_the_monolithic_reference_learns_what_it_is_shown():
    """The yardstick itself: three classes of two clear senses are found."""
    g = np.random.default_rng(0)
    label = np.arange(300) % 3
    words = np.full((3, 12), 0.2) + 3 * np.kron(np.eye(3), np.ones(4))
    data = {
        "image": g.normal(size=(300, 20)) + 4 * np.eye(20)[label],
        "speech": g.poisson(words[label]).astype(float) + 0.01,
        "label": label,
        "train": np.arange(200),
        "test": np.arange(200, 300),
    }
    found = benchmark.monolithic(data, 0, components=5, starts=3)
    assert found["both"] > 0.2  # ten clusters for three classes


if DATA.exists():

    def short(kind, seed=0):
        data = benchmark.arrays(DATA, seed, 900)
        graph = serket.load_graph(benchmark.GRAPH)
        brief = {
            "vision": {"epochs": 40},
            "shapes": {"sweeps": 40, "restarts": 3},
            "speech": {"sweeps": 40, "restarts": 3},
        }
        nodes = {n: replace(node, fit=brief[n], feedback=kind == "joint") for n, node in graph.nodes.items()}
        model = serket.fit(replace(graph, nodes=nodes, rounds=1, explore=2), data, seed=seed, workers=1)
        return benchmark.scores(model, data), model

    def test_feedback_teaches_the_image_what_speech_hears():
        apart, _ = short("apart")
        joint, model = short("joint")
        assert joint["image"] > apart["image"] + 0.1 and joint["both"] > max(apart.values()) - 0.02
        assert any(step.kept for step in model.rounds)

    @pytest.mark.stat
    def test_every_sense_is_better_for_the_other_over_seeds():
        rows = {kind: [benchmark.job(kind, DATA, seed, 1600) for seed in range(10)] for kind in ("apart", "joint")}
        median = {kind: {n: np.median([row[n] for row in rows[kind]]) for n in benchmark.SUBSETS} for kind in rows}
        assert all(j["both"] >= max(a["speech"], a["image"]) for j, a in zip(rows["joint"], rows["apart"], strict=True))
        assert sum(bool(row["accepted"]) for row in rows["joint"]) >= 8
        assert median["joint"]["image"] - median["apart"]["image"] >= 0.15
        assert median["joint"]["both"] >= 0.97 and median["joint"]["speech"] >= 0.94 and median["joint"]["image"] >= 0.8
