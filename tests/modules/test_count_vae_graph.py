"""The graph count_vae: what a picture's words add to the concepts of shapes, on rows not fitted."""

import pytest
from sklearn.metrics import adjusted_rand_score

import serket
from serket.data.generate import GENERATED
from serket.graph import load_graph

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.stat) for seed in range(1, 10))]


def scores(seed):
    """Adjusted Rand index of the concept from both senses, from the shape alone, and from the picture alone."""
    data = GENERATED["digits_named"]()
    test = data["test"]
    model = serket.fit(load_graph("count_vae"), seed=seed)
    senses = {"fou": data["fou"][test], "pix": data["pix"][test]}
    found = []
    for chosen in (("fou", "pix"), ("fou",), ("pix",)):
        concept = model.infer({key: senses[key] for key in chosen})["concept"].probs.argmax(-1)
        found.append(adjusted_rand_score(data["label"][test], concept))
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_leaving_the_count_vae_out_costs_concepts(seed):
    both, without, alone = scores(seed)
    assert both > without + 0.05 and alone > 0.3
