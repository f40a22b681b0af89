"""Fitting as users call it: priors, threads, batches, and what comes out of rows and chunks."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import serket
from serket.errors import SerketError, StateError

SENSES = {
    "serket": 1,
    "variables": {
        "z_a": {"family": "gaussian", "size": 2},
        "z_b": {"family": "gaussian", "size": 2},
        "shared": {"family": "gaussian", "size": 2},
    },
    "modules": {
        "a": {"type": "vae", "data": "a", "ports": {"latent": "z_a"}, "hidden": [8], "fit": {"epochs": 3}},
        "b": {"type": "vae", "data": "b", "ports": {"latent": "z_b"}, "hidden": [8], "fit": {"epochs": 3}},
    },
    "composers": {
        "body": {"type": "linear_gaussian", "ports": {"shared": "shared", "views": ["z_a", "z_b"]}, "private": 1}
    },
}


def senses(rows, seed=0):
    g = np.random.default_rng(seed)
    s = g.normal(size=(rows, 2))
    return {"a": (s @ g.normal(size=(2, 4))).astype("f4"), "b": (s @ g.normal(size=(2, 3))).astype("f4")}


@pytest.fixture(scope="module")
def model():
    return serket.fit(SENSES, senses(80), test_fraction=0.0)


def test_a_graph_prior_is_the_inbox_of_the_fit():
    """A mixture told how common its components are must not learn them anew from few rows."""
    g = np.random.default_rng(0)
    x = np.concatenate([g.normal(0, 1, 190), g.normal(2.0, 1, 10)])[:, None]
    graph = {
        "serket": 1,
        "variables": {"k": {"family": "categorical", "size": 2, "prior": [0.95, 0.05]}},
        "modules": {
            "mix": {"type": "gmm", "data": "x", "ports": {"component": "k"}, "fit": {"sweeps": 60, "restarts": 2}}
        },
    }
    with_prior = serket.fit(graph, {"x": x}, test_fraction=0.0).infer({"x": x})
    share = with_prior["k"].probs.mean(0)
    assert float(share.max()) > 0.8
    flat = {**graph, "variables": {"k": {"family": "categorical", "size": 2, "prior": [0.5, 0.5]}}}
    even = serket.fit(flat, {"x": x}, test_fraction=0.0)
    assert float(with_prior.log_evidence.mean()) > float(even.infer({"x": x}).log_evidence.mean())


def test_a_vae_is_fitted_under_the_graphs_prior():
    graph = {
        "serket": 1,
        "variables": {"z": {"family": "gaussian", "size": 1, "prior": {"mean": [5], "covariance": [[0.01]]}}},
        "modules": {"a": {"type": "vae", "data": "a", "ports": {"latent": "z"}, "hidden": [8], "fit": {"epochs": 40}}},
    }
    data = {"a": senses(200)["a"]}
    told = serket.fit(graph, data, test_fraction=0.0)
    plain = serket.fit({**graph, "variables": {"z": {"family": "gaussian", "size": 1}}}, data, test_fraction=0.0)
    evidence = told.infer(data).log_evidence.mean()
    told.modules["a"].load(plain.modules["a"].state())
    assert float(evidence) > float(told.infer(data).log_evidence.mean()) + 1


def test_what_a_row_imagines_does_not_depend_on_its_batch(model):
    data = {**senses(60), "row_id": np.arange(60) + 9}
    whole = model.generate("b", given={k: v for k, v in data.items() if k != "b"}, samples=3)
    alone = model.generate("b", given={"a": data["a"][41:42], "row_id": data["row_id"][41:42]}, samples=3)
    for part in ("mean", "std", "samples", "decoded"):
        torch.testing.assert_close(getattr(whole, part)[41:42], getattr(alone, part), rtol=1e-5, atol=1e-5)
    draws = model.generate("b", given={"a": data["a"]}, samples=400)
    torch.testing.assert_close(draws.samples.std(1), draws.std, rtol=0.35, atol=0.05)
    assert float((draws.samples.mean(1) - draws.decoded.mean(1)).abs().max()) < 4 * float(draws.std.max()) / 20


def test_chunks_are_put_together_in_order(model, monkeypatch):
    data = senses(50)
    data["a"][7] = np.nan
    whole = model.infer(data)
    monkeypatch.setattr("serket.model.CHUNK", 8)
    parts = model.infer(data)
    for name in whole:
        torch.testing.assert_close(parts[name].mean(), whole[name].mean(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(parts[name].covariance(), whole[name].covariance(), rtol=1e-5, atol=1e-5)
    for part in ("conflict", "contribution", "log_evidence"):
        torch.testing.assert_close(getattr(parts, part), getattr(whole, part), rtol=1e-4, atol=1e-4)
    assert torch.equal(parts.row_id, whole.row_id) and torch.equal(parts.present, whole.present)


def test_a_fit_hears_in_chunks_what_it_hears_at_once(monkeypatch):
    data = {key: value.astype("f8") for key, value in senses(50).items()}
    whole = serket.fit(SENSES, data, test_fraction=0.0)
    monkeypatch.setattr(sys.modules["serket.training.compose"], "CHUNK", 8)
    parts = serket.fit(SENSES, data, test_fraction=0.0)
    for name, value in whole.modules["body"].state().items():
        torch.testing.assert_close(parts.modules["body"].state()[name], value, rtol=1e-8, atol=1e-8)


def test_a_composed_elbo_is_a_lower_bound_and_says_so(model):
    assert model.infer(senses(5)).bound == "lower"


def test_parallel_fits_do_not_hang_after_threads_have_run(tmp_path):
    """Forking after OpenMP has started threads hangs children that start some, too: seen with four threads."""
    script = (
        "import numpy as np, torch, serket\n"
        "torch.set_num_threads(4)\n"
        "torch.randn(600, 600) @ torch.randn(600, 600); torch.randn(4000, 4000).exp().sum()\n"
        f"graph = {SENSES!r}\n"
        "g = np.random.default_rng(0)\n"
        "data = {'a': g.normal(size=(3000, 60)).astype('f4'), 'b': g.normal(size=(3000, 60)).astype('f4')}\n"
        "for entry in graph['modules'].values(): entry.update(hidden=[256], fit={'epochs': 1})\n"
        "print(serket.fit(graph, data, workers=2))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith("Model("), done.stderr


def test_values_are_short_to_look_at(model):
    beliefs = model.infer(senses(100))
    for value in (model, beliefs, model.generate("a", given={"b": senses(100)["b"]})):
        assert len(repr(value)) < 250


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda m: serket.fit(SENSES, senses(9), seed=-1), "a whole number from 0"),
        (lambda m: serket.fit(SENSES, senses(9), device="warp"), "no device 'warp'"),
        (lambda m: m.infer(np.zeros((2, 4))), "arrays by key"),
        (lambda m: m.infer(senses(2), max_iteration=3), "did you mean 'max_iterations'"),
        (lambda m: m.generate("a", senses(2), observe=["a"]), "imagined from itself"),
        (lambda m: m.infer(senses(2), observe="aa"), "no data called 'aa'"),
    ],
)
def test_mistakes_in_python_are_told_too(model, call, text):
    with pytest.raises(SerketError, match=text):
        call(model)


def test_a_run_is_not_replaced_by_accident(model, tmp_path):
    model.save(tmp_path / "r")
    with pytest.raises(StateError, match="overwrite"):
        model.save(tmp_path / "r")
    model.save(tmp_path / "r", overwrite=True)
    again = serket.load(tmp_path / "r")
    assert again.dtype == torch.float32
    assert torch.equal(again.infer(senses(4))["shared"].mean(), model.infer(senses(4))["shared"].mean())
