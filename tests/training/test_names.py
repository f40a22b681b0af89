"""Modules that are fitted apart and share a variable: one name for one thing, before anything learns from them."""

import numpy as np
import pytest

import serket

CORNERS = np.array([[0.0, 0.0], [0.0, 8.0], [8.0, 0.0], [8.0, 8.0]])
MIXTURE = {"type": "gmm", "ports": {"component": "corner"}, "fit": {"sweeps": 40}}


def walk(rows=400):
    g, corner = np.random.default_rng(0), np.arange(rows) % 4
    counts = np.stack([g.multinomial(40, np.roll([0.7, 0.1, 0.1, 0.1], k)) for k in corner])
    x, y = (CORNERS[corner] + g.normal(size=(rows, 2)) for _ in range(2))
    return {"x": x, "y": y, "c": counts.astype(float), "x_sequence": np.arange(rows) // 40}


def fitted(modules, data, seed=0):
    variables = {"corner": {"family": "categorical", "size": 4}}
    return serket.fit({"serket": 1, "variables": variables, "modules": modules}, data, seed=seed, workers=1)


OTHERS = {
    "hmm": {"type": "hmm", "data": "y", "ports": {"state": "corner"}},
    "mlda": {"type": "mlda", "data": "c", "ports": {"category": "corner"}, "fit": {"sweeps": 20}},
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("other", OTHERS)
def test_two_senses_alone_give_the_same_names(other, first):
    data = walk()
    entries = {"eyes": {**MIXTURE, "data": "x"}, "other": OTHERS[other]}
    model = fitted(dict(sorted(entries.items(), reverse=not first)), data)
    eyes, rest = (model.infer({key: data[key]})["corner"].probs.argmax(-1) for key in ("x", OTHERS[other]["data"]))
    assert float((eyes == rest).double().mean()) > 0.97


@pytest.mark.parametrize("seed", range(2))
def test_a_chain_learns_from_senses_that_agree_on_names(seed):
    """Over two mixtures whose names were not matched yet it would learn transitions between confusions: 0.4 to 0.9."""
    modules = {name: {**MIXTURE, "data": key} for name, key in (("eyes", "x"), ("ears", "y"))}
    model = fitted({**modules, "order": {"type": "markov", "ports": {"state": "corner"}}}, walk(), seed)
    moves = model.modules["order"].state()["log_transitions"][0].exp()
    assert float(moves.amax(-1).min()) > 0.98 and set(moves.argmax(-1).tolist()) == {0, 1, 2, 3}
