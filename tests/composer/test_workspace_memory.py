"""What memory is worth: `serket run orbit`, where senses alternate, with slots that are carried and slots that are not."""

import numpy as np
import pytest

import serket
from serket.data import load
from serket.data.generate.orbit import orbit
from serket.evaluate import evaluate
from serket.graph import parse_graph


def quadrants(seed, memory, epochs, **sizes):
    """How often a probe on the shared latent names the quadrant of rows not fitted."""
    text = serket.load_graph("orbit").source
    assert ", memory: true" in text
    graph = parse_graph(text if memory else text.replace(", memory: true", ""))
    graph.nodes["stage"].fit.update(epochs=epochs)
    for sense in ("eye", "ear"):
        graph.nodes[sense].fit.update(epochs=epochs)
    data = load(orbit(seed=seed, **sizes), ["eye", "ear"])
    model = serket.fit(graph, data, seed=seed, workers=1)
    return evaluate(model, data)["subsets"]["ear+eye"]["probe_accuracy"]


def test_leaving_memory_out_costs():
    together, alone = (quadrants(0, memory, 40, sequences=60) for memory in (True, False))
    assert together > alone + 0.15


@pytest.mark.stat
def test_leaving_memory_out_costs_long():
    found = np.array([[quadrants(seed, memory, 80) for memory in (True, False)] for seed in range(3)])
    assert (found[:, 0] > found[:, 1] + 0.2).all() and np.median(found[:, 0]) > 0.8


def test_the_data_alternate_and_are_the_same_on_every_call():
    first, again, other = orbit(), orbit(), orbit(seed=1)
    assert all(np.array_equal(first[name], again[name], equal_nan=True) for name in first if name != "label")
    assert not np.array_equal(first["place"], other["place"])
    seen, heard = (np.isfinite(first[name]).all(1) for name in ("eye", "ear"))
    assert (seen | heard).all() and 0.05 < (seen & heard).mean() < 0.15
    ids = first["eye_sequence"]
    assert set(ids[first["train"]]).isdisjoint(ids[first["test"]])
    # The two coordinates of a frame have nothing to do with each other: a frame alone tells half of the quadrant.
    assert abs(np.corrcoef(first["place"].T)[0, 1]) < 0.1
