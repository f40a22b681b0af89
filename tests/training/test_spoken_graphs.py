"""VAE, mixture, mlda and chain: what each is worth on held-out rows; and on real pairs of images and sounds."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import serket
from serket.data import load
from serket.data.generate.spoken import spoken
from serket.graph import load_graph

REAL = Path(__file__).parents[3] / "shared" / "data" / "image_speech_digits.npz"


def fitted(name, arrays, seed, **epochs):
    graph = load_graph(name)
    graph.nodes["vision"].fit.update(epochs)
    data = load(arrays, ["image", "speech"])
    return serket.fit(graph, data, seed=seed, workers=1), data


def ari(model, data, variable="digit", keys=None, active=None):
    found = model.infer(data, rows=data.test, observe=keys, active=active)[variable].logits.argmax(-1)
    return adjusted_rand_score(data.label[data.test], found)


def test_leaving_the_mlda_or_the_chain_out_costs():
    model, data = fitted("vae_gmm_mlda_markov", spoken(sequences=24), 0, epochs=20)
    plain = frozenset(model.graph.nodes) - {"order"}
    both, image, speech = (ari(model, data, keys=keys, active=plain) for keys in (None, ["image"], ["speech"]))
    assert both > max(image, speech), "what the mlda joins tells more than either sense: by 0.04 in the long form"
    assert ari(model, data) > both + 0.05


def connected(seed):
    """Held-out ARI of the digit: with the chain; without it, from both senses and from each; and of the shapes."""
    arrays = spoken(seed=seed)
    chain, data = fitted("vae_gmm_mlda_markov", arrays, seed)
    plain, _ = fitted("vae_gmm_mlda", arrays, seed)
    image, speech = (ari(plain, data, keys=[key]) for key in ("image", "speech"))
    return ari(chain, data), ari(plain, data), image, speech, ari(plain, data, "shape", ["image"])


@pytest.mark.stat
def test_leaving_the_mlda_or_the_chain_out_costs_long():
    found = np.array([connected(seed) for seed in range(10)])
    chain, both, best = found[:, 0], found[:, 1], found[:, 2:].max(1)
    assert np.median(both - best) > 0.04 and np.median(chain - both) > 0.05, found


@pytest.mark.stat
@pytest.mark.parametrize("seed", range(10) if REAL.exists() else [])
def test_real_digits_written_and_spoken_tell_more_together(seed):
    with np.load(REAL) as file:
        arrays = dict(file)
    order = np.random.default_rng(seed).permutation(len(arrays["label"]))
    model, data = fitted("vae_gmm_mlda", {**arrays, "train": order[:1600], "test": order[1600:]}, seed)
    both, image, speech = (ari(model, data, keys=keys) for keys in (None, ["image"], ["speech"]))
    assert both >= max(image, speech), (both, image, speech)


def test_spoken_digits_are_the_same_on_every_call():
    first, again, other = spoken(), spoken(), spoken(seed=1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["speech"], other["speech"])
    assert set(first["image_sequence"][first["train"]]).isdisjoint(first["image_sequence"][first["test"]])
