"""Who is touched by a change, on graphs that ship; nothing is fitted."""

import numpy as np
import pytest
import yaml

import serket
from serket.graph import load_graph, parse_graph
from serket.training.touch import touched
from tests.growth.worlds import graph

JOINT = "{type: joint, objective: telbo, ports: {shared: shared, views: [z_a, z_b]}, thaw: [a]}"
KERNEL = "{type: kernel, ports: {shared: shared, views: [z_a, z_b]}}"
PRODUCT = "{type: product, ports: {shared: shared, views: [z_a, z_b]}}"


@pytest.mark.parametrize(
    ("described", "changed", "whole", "views"),
    [
        (graph(), "a", {"a"}, {"body": {"views[0]"}}),
        (graph(), "body", {"body", "concepts"}, {}),
        (graph(), "concepts", {"concepts"}, {}),
        (graph(KERNEL), "b", {"b", "body", "concepts"}, {}),
        (graph(PRODUCT), "b", {"b"}, {}),
        ("vae_gmm_speech", "vision", {"vision", "shapes"}, {}),
        ("vae_gmm_mlda", "shapes", {"shapes", "things"}, {}),
        ("vae_gmm_speech", "speech", {"speech"}, {}),
    ],
)
def test_who_learned_from_it_learns_again(described, changed, whole, views):
    described = parse_graph(described) if "\n" in described else load_graph(described)
    found = touched(described, described.build(), frozenset({changed}))
    assert {name for name, touch in found.items() if touch.views is None} == whole
    assert {name: set(touch.views) for name, touch in found.items() if touch.views} == views


def test_modules_that_a_composer_thaws_learn_on_with_it():
    described = parse_graph(graph(JOINT))
    found = touched(described, described.build(), frozenset({"b"}))
    assert found["a"].along == "body" and found["body"].views is None


def test_a_composer_of_one_view_has_none_that_keeps_its_meaning():
    alone = yaml.safe_load(graph("{type: linear_gaussian, ports: {shared: shared, views: [z_a]}, private: 0}"))
    del alone["variables"]["z_b"], alone["modules"]["b"]
    described = load_graph(alone)
    found = touched(described, described.build(), frozenset({"a"}))
    assert found["body"].views is None and found["concepts"].views is None


def test_a_new_sense_takes_on_the_names_that_are_there():
    """Counts under a category that a mixture named: the mixture keeps its state, the new one its own rows' names."""
    g = np.random.default_rng(0)
    label = g.integers(3, size=240)
    profile = np.array([[8, 1, 1, 1], [1, 8, 1, 1], [1, 1, 1, 8]])
    data = {"x": 6.0 * np.eye(3)[label] + g.normal(size=(240, 3)), "w": g.poisson(profile[label]).astype(float),
            "train": np.arange(160), "test": np.arange(160, 240)}  # fmt: skip
    old = serket.fit(parse_graph(
        "serket: 1\nvariables: {kind: {family: categorical, size: 3}}\nmodules:\n  seen: {type: gmm, data: x, "
        "ports: {component: kind}, fit: {sweeps: 30, restarts: 2}}\n"), data)  # fmt: skip
    sense = (
        "modules: {told: {type: multinomial_mixture, data: w, ports: {category: kind}, fit: {sweeps: 30, restarts: 3}}}"
    )
    new = serket.add(old, yaml.safe_load(sense), data)
    assert {name: row["how"] for name, row in new.changes[0]["states"].items()} == {
        "seen": "untouched",
        "told": "fitted",
    }
    names = [model.infer({key: data[key][160:]})["kind"].probs.argmax(-1) for model, key in ((old, "x"), (new, "w"))]
    assert float((names[0] == names[1]).double().mean()) > 0.9
