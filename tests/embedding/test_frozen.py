"""A shipped encoder, from its file to a run and back: what it has embedded once is not asked of it again."""

import numpy as np
import pytest
import torch

from serket.data import load
from serket.evaluate import evaluate
from serket.fitting import fit
from serket.graph import load_graph
from serket.model import load as load_run
from serket.modules.frozen.onnx import Onnx
from tests.contract.cases import FROZEN

GRAPH = {
    "serket": 1,
    "variables": {name: {"family": "gaussian", "size": 2} for name in ("z_a", "z_b", "shared")},
    "modules": {
        "a": {"type": "onnx", "file": str(FROZEN / "linear.onnx"), "data": "a", "ports": {"latent": "z_a"}},
        "b": {"type": "vae", "data": "b", "ports": {"latent": "z_b"}, "hidden": [4], "fit": {"epochs": 2}},
    },
    "composers": {"body": {"type": "linear_gaussian", "ports": {"shared": "shared", "views": ["z_a", "z_b"]}}},
}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_encoder_runs_once_a_row(tmp_path, monkeypatch, workers):
    monkeypatch.setenv("SERKET_CACHE", str(tmp_path / "cache"))
    rows = []
    embed = Onnx.embed

    def counted(self, values):
        rows.append(len(values))
        return embed(self, values)

    monkeypatch.setattr(Onnx, "embed", counted)
    g = np.random.default_rng(0)
    shared = g.normal(size=(80, 2))
    arrays = {"a": np.c_[shared, shared.sum(1)].astype("f4"), "b": (shared @ g.normal(size=(2, 3))).astype("f4")}
    data = load(arrays | {"label": (shared[:, 0] > 0).astype(int)}, ["a", "b"])
    model = fit(load_graph(GRAPH), data, workers=workers)
    metrics = evaluate(model, data)
    assert sum(rows) == 80 and metrics["subsets"]["a"]["probe_accuracy"] > 0.8
    again = load_run(model.save(tmp_path / "run"))
    means = [one.infer(data, observe=["a"])["shared"].mean() for one in (model, again)]
    assert torch.equal(*means) and sum(rows) == 80
