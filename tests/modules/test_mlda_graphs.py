"""Two MLDAs under a third, and an MLDA above a Gaussian mixture: what the module on top is good for."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

import serket
from serket.data.generate.objects import objects
from serket.graph import load_graph, parse_graph
from serket.training.compose import listen


def scores(seed, rows):
    """Held-out ARI of each sense's own category: with the object above and the other sense, and without."""
    data = objects(rows=rows, seed=seed)
    test = data["test"]
    model = serket.fit(load_graph("mlda_hierarchy"), data, seed=seed)
    together = model.infer({key: data[key][test] for key in ("vision", "sound")})
    found = {}
    for key, variable in (("vision", "look"), ("sound", "noise")):
        alone = model.infer({key: data[key][test]})  # without the top it is the same: the other sense is not heard
        for how, beliefs in (("with", together), ("without", alone)):
            labels = np.asarray(beliefs[variable].probs).argmax(-1)
            found[variable, how] = adjusted_rand_score(data["label"][test], labels)
    return found


def test_without_the_top_sounds_are_told_worse():
    found = scores(0, 600)
    assert found["noise", "with"] - found["noise", "without"] > 0.1


@pytest.mark.stat
def test_without_the_top_every_sense_loses():
    found = [scores(seed, 900) for seed in range(10)]
    gain = {v: np.array([one[v, "with"] - one[v, "without"] for one in found]) for v in ("look", "noise")}
    assert np.median(gain["look"]) > 0.03 and gain["look"].min() > -0.02, gain
    assert np.median(gain["noise"]) > 0.15 and gain["noise"].min() > 0.05, gain


MIXED = """
serket: 1
variables:
  blob:   {family: categorical, size: 3}
  object: {family: categorical, size: 3}
modules:
  shapes: {type: gmm, data: point, ports: {component: blob}, fit: {sweeps: 40, restarts: 2}}
  things: {type: mlda, data: words, ports: {category: object, categories: [blob]}, points: 256, fit: {sweeps: 30}}
"""


def test_an_mlda_may_stand_above_a_mixture_and_replies_with_its_table():
    rng = np.random.default_rng(0)
    truth = np.arange(240) % 3
    profiles = np.array([[8, 1, 1, 0.5], [1, 8, 0.5, 1], [0.5, 1, 8, 4]])
    data = {
        "point": np.array([[0, 0], [3, 0], [0, 3]])[truth] + rng.normal(size=(240, 2)),
        "words": rng.poisson(profiles[truth]),
        "train": np.arange(160),
        "test": np.arange(160, 240),
    }
    graph = parse_graph(MIXED)
    model = serket.fit(graph, data, seed=0)
    # Each alone knows nothing of the other, and the table says so; a refit under what the mixture says learns it.
    assert bool((model.modules["things"].state()["table0"] == -np.log(3).astype(np.float32)).all())
    rows = torch.arange(160)
    evidence = {
        "shapes": serket.Evidence.of(torch.from_numpy(data["point"][:160]), None, rows),
        "things": serket.Evidence.of(torch.from_numpy(data["words"][:160]), None, rows),
    }
    both = frozenset(("shapes", "things"))
    listen(graph, model.modules, evidence, "things", both, seed=0, dtype=torch.float64).run()
    heard = model.infer({"point": data["point"][160:], "words": data["words"][160:]})
    assert adjusted_rand_score(truth[160:], np.asarray(heard["object"].probs).argmax(-1)) > 0.8
    # What words say of the mixture's component is p(object | words) times the table; draws differ a little.
    module, state = model.modules["things"], model.modules["things"].state()
    words = torch.as_tensor(data["words"][160:], dtype=torch.float64)
    box = {
        "category": serket.Categorical.vacuous((80,), 3, dtype=torch.float64),
        "categories[0]": serket.Categorical.vacuous((80,), 3, dtype=torch.float64),
    }
    reply = module.infer(box, serket.Evidence.of(words), generator=torch.Generator())
    table = state["table0"].exp().double().mean(0)
    expected = reply.messages["category"].probs @ table
    torch.testing.assert_close(reply.messages["categories[0]"].probs, expected, rtol=0, atol=0.12)
    assert float(table.amax(-1).min()) > 0.6  # each object has a blob of its own
