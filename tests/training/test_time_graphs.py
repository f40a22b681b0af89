"""What the modules of the time plate are worth: the graphs that ship, with them and without, on held-out rows."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import serket
from serket.data import load
from serket.data.generate.corners import corners
from serket.data.generate.counting import counting
from serket.data.generate.episodes import episodes, landmarks


def held_out(name, arrays, keys, seed, **fit):
    graph = serket.load_graph(name)
    for module, options in fit.items():
        graph.nodes[module].fit.update(options)
    data = load(arrays, keys)
    return serket.fit(graph, data, seed=seed, workers=1), data


def categories(model, data, variable, active=None):
    return model.infer(data, rows=data.test, active=active)[variable].probs.argmax(-1).numpy()


def accuracy(label, found):
    table = np.zeros((4, 4))
    np.add.at(table, (label, found), 1)
    return table[linear_sum_assignment(-table)].sum() / len(label)


def chain(seed):
    """Corners that overlap: accuracy with the chain, and by the mixture alone."""
    model, data = held_out("hmm", corners(12, 50, 0.3, seed), ["point"], seed)
    truth = data.label[data.test]
    return [accuracy(truth, categories(model, data, "state", active)) for active in (None, frozenset({"points"}))]


def pool(seed):
    """An object seen in many frames: accuracy of the episode's category, and of each frame's by itself."""
    model, data = held_out("episodes", episodes(seed=seed), ["view"], seed)
    truth = data.label[data.test]
    alone = categories(model, data, "seen", frozenset({"eyes"}))
    return [accuracy(truth, categories(model, data, "object")), accuracy(truth, alone)]


def broadcast(seed):
    """Where a frame's place is: root mean square error with what the episode knows, and by its camera alone."""
    arrays = landmarks(seed=seed)
    model, data = held_out("landmarks", arrays, ["survey", "camera"], seed)
    truth = arrays["place"][data.test]
    found = [model.infer(data, rows=data.test, active=active)["seen"].mean().numpy()
             for active in (None, frozenset({"camera"}))]  # fmt: skip
    return [float(np.sqrt(np.square(mean - truth).mean())) for mean in found]


def counted(seed, epochs=100):
    """Digits in the order of counting, every third test image hidden: with the chain, and by the mixture alone.

    Returns how many of the hidden digits are named right; a component is named by its training rows.
    """
    arrays = counting(seed=seed)
    hidden = arrays["test"][::3]
    arrays["pix_mask"] = ~np.isin(np.arange(len(arrays["pix"])), hidden)
    model, data = held_out("vae_gmm_markov", arrays, ["pix"], seed, pix={"epochs": epochs})
    found = []
    for active in (None, frozenset({"pix", "shapes"})):
        taught = model.infer(data, rows=data.train, active=active)["digit"].probs.argmax(-1).numpy()
        names = np.zeros((10, 10))
        np.add.at(names, (taught, data.label[data.train]), 1)
        told = model.infer(data, rows=data.test, active=active)
        right = names.argmax(1)[told["digit"].probs.argmax(-1).numpy()] == data.label[data.test]
        found.append(right[::3].mean())
    return found


def medians(measure, seeds):
    return np.median([measure(seed) for seed in range(seeds)], axis=0)


@pytest.mark.parametrize("measure", [chain, pool])
def test_leaving_it_out_costs(measure):
    together, alone = medians(measure, 2)
    assert together > 0.97 and together - alone > 0.07


def test_leaving_broadcast_out_costs():
    together, alone = medians(broadcast, 3)
    assert together < 0.5 and alone > 1.2


def test_leaving_the_chain_of_digits_out_costs():
    named, by_chance = counted(0, epochs=20)
    assert named - by_chance > 0.4


@pytest.mark.stat
@pytest.mark.parametrize("measure", [chain, pool])
def test_leaving_it_out_costs_long(measure):
    found = np.array([measure(seed) for seed in range(10)])
    assert (found[:, 0] > found[:, 1]).all() and np.median(found[:, 0] - found[:, 1]) > 0.07


@pytest.mark.stat
def test_leaving_broadcast_out_costs_long():
    together, alone = np.array([broadcast(seed) for seed in range(10)]).T
    assert (together < 0.5 * alone).all()


@pytest.mark.stat
def test_leaving_the_chain_of_digits_out_costs_long():
    named, by_chance = medians(counted, 10)
    assert named - by_chance > 0.4


@pytest.mark.parametrize(("make", "options"), [(corners, {}), (counting, {}), (episodes, {}), (landmarks, {})])
def test_generated_data_are_the_same_on_every_call(make, options):
    first, again, other = make(**options), make(**options), make(**options, seed=1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(len(first[name]) != len(other[name]) or not np.array_equal(first[name], other[name]) for name in first)
    ids = next(first[name] for name in first if name.endswith("_sequence"))
    assert set(ids[first["train"]]).isdisjoint(ids[first["test"]]) and len(first["test"])
