"""A model that grows: what is not touched keeps its state, and what does not hear the change its results, to the bit."""

import warnings
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
import yaml

import serket
from serket import store
from serket.errors import DataError, DataWarning, GraphError, SerketError, ShapeError
from serket.graph import parse_graph
from serket.growth import planned_add
from serket.protocol import Evidence
from serket.training.validation import VALIDATION, divide
from tests.growth.worlds import OTHER, SENSE, graph, senses


@pytest.fixture(scope="module")
def old():
    return serket.fit(parse_graph(graph()), senses(), seed=1, workers=1)


@pytest.fixture(scope="module")
def larger(old):
    return serket.add(old, yaml.safe_load(SENSE), senses())


def hashes(model):
    return {name: store.state_hash(m.state()) for name, m in model.modules.items() if isinstance(m, serket.Trainable)}


def numbers(result, variables, modules):
    """Every number of some beliefs, of the evidence, and of what some modules contributed."""
    found = {f"{v}.{part}": values for v in variables for part, values in result[v].tensors().items()}
    columns = [result.modules.index(name) for name in modules]
    found |= {"evidence": result.log_evidence, "conflict": result.conflict}
    return found | {"contribution": result.contribution[:, columns], "present": result.present[:, columns]}


def assert_same_results(before, after, keys, data):
    """Beliefs, evidence, contributions, conflict and what is imagined, from every subset of some senses, and none."""
    variables = [v for v in before.graph.variables if v in after.graph.variables and v not in after_only(before, after)]
    for size in range(len(keys) + 1):
        for subset in combinations(keys, size):
            given = {key: data[key] for key in subset} or {keys[0]: np.full_like(data[keys[0]], np.nan)}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataWarning)
                old, new = before.infer(given), after.infer(given)
            there = [name for name in old.modules if before.graph.nodes[name].data in keys]
            left, right = numbers(old, variables, there), numbers(new, variables, there)
            assert all(torch.equal(left[name], right[name]) for name in left), (subset, left.keys())
            assert (old.bound, old.reason) == (new.bound, new.reason)
            for to in set(keys) - set(subset):
                one, other = before.generate(to, given, samples=2), after.generate(to, given, samples=2)
                assert torch.equal(one.mean, other.mean) and torch.equal(one.samples, other.samples)


def after_only(before, after):
    """Variables that mean something else: those of modules that were swapped."""
    return {
        v for n, node in before.graph.nodes.items() if n in after.changes[-1]["modules"] for v in node.bindings.values()
    }


def kind_found(model, data, observe):
    """How often the nearest mean of a kind in the shared latent is the right one: taught by all, test rows of a few."""
    keys, label = [key for key in model.keys], data["label"]
    train, test = data["train"], data["test"]
    whole = model.infer({k: data[k][train] for k in keys})["shared"].mean()
    centres = torch.stack([whole[torch.from_numpy(label[train] == kind)].mean(0) for kind in range(3)])
    seen = model.infer({k: data[k][test] for k in observe})["shared"].mean()
    return float((torch.cdist(seen, centres).argmin(1).numpy() == label[test]).mean())


def test_a_sense_is_added_and_nothing_else_moves(old, larger):
    before, after = hashes(old), hashes(larger)
    assert {name for name in before if before[name] != after[name]} == {"body"} and set(after) - set(before) == {"c"}
    kept, grown = old.modules["body"].state(), larger.modules["body"].state()
    assert all(torch.equal(kept[name], grown[name]) for name in kept)
    assert {name.partition(".")[0] for name in grown.keys() - kept.keys()} == {"views[2]"}
    assert_same_results(old, larger, ["a", "b"], senses())


def test_the_new_sense_helps_and_stands_alone(old, larger):
    data = senses()
    data["c"] = np.where(data["c_mask"][:, None], data["c"], np.nan)
    with_two = kind_found(old, data, ["a", "b"])
    assert kind_found(larger, data, ["c"]) > 0.9 > 1 / 3 + 0.3
    assert kind_found(larger, data, ["a", "c"]) > kind_found(old, data, ["a"]) + 0.15
    assert kind_found(larger, data, ["a", "b", "c"]) >= with_two - 0.02
    # What c is imagined as, from the others, explains it; planted: c from rows in another order does not.
    truth = torch.from_numpy(senses()["c"][data["test"]])
    guess = larger.generate("c", {k: data[k][data["test"]] for k in "ab"}).mean
    gap = (truth - guess).square().mean() / (truth - truth.mean(0)).square().mean()
    assert gap < 0.5 < (truth.roll(7, 0) - guess).square().mean() / (truth - truth.mean(0)).square().mean()


def test_the_history_says_what_was_done(old, larger, tmp_path):
    (told,) = larger.changes
    assert old.changes == [] and told["what"] == "add" and told["modules"] == ["c"]
    assert {name: row["how"] for name, row in told["states"].items()} == {
        "a": "untouched", "b": "untouched", "concepts": "untouched", "c": "fitted", "body": "views[2] fitted"}  # fmt: skip
    larger.save(tmp_path / "r")
    files = store.read_run(tmp_path / "r").manifest["files"]
    assert all(files[f"modules/{name}.safetensors"] == row["after"] for name, row in told["states"].items())
    again = serket.load(tmp_path / "r")
    assert again.changes == larger.changes
    assert_same_results(larger, again, ["a", "b", "c"], senses())


def test_a_module_is_swapped_for_one_of_another_size_and_key(old):
    changed = serket.swap(old, "b", yaml.safe_load(OTHER), senses())
    before, after = hashes(old), hashes(changed)
    assert {name for name in before if before[name] != after[name]} == {"b", "body"}
    kept, grown = old.modules["body"].state(), changed.modules["body"].state()
    assert all(torch.equal(kept[name], grown[name]) for name in kept if not name.startswith("views[1]"))
    assert grown["views[1].mean"].shape == (3,) and changed.keys == ("a", "c")
    assert_same_results(old, changed, ["a"], senses())
    # What c tells of shared is what a and c have in common: more than what a tells is not to be had from a alone.
    assert kind_found(changed, senses(), ["c"]) > 0.7


@pytest.mark.parametrize("fresh", [False, True])
def test_a_module_is_refitted_warm_or_fresh(old, fresh):
    changed = serket.refit(old, "b", senses(), fresh=fresh)
    before, after = hashes(old), hashes(changed)
    # The same rows and seed: what forgets learns the same again. The composer's view has other neighbours than it had.
    assert {name for name in before if before[name] != after[name]} == ({"body"} if fresh else {"b", "body"})
    assert_same_results(old, changed, ["a"], senses())
    assert kind_found(changed, senses(), ["a", "b"]) > 0.85
    # Warm, it goes on: the first epoch begins near where the last fit ended. Fresh, it begins at the beginning.
    first, last = changed.histories["b"]["elbo"][0], old.histories["b"]["elbo"][-1]
    begun = old.histories["b"]["elbo"][0]
    assert abs(first - begun) < 1e-3 * abs(begun) if fresh else abs(first - last) < abs(begun - last) / 4


def test_a_concept_is_refitted_alone(old):
    changed = serket.refit(old, "concepts", senses())
    assert {n for n, one in hashes(old).items() if one != hashes(changed)[n]} <= {"concepts"}


def test_a_composer_that_cannot_take_a_view_is_fitted_again_and_says_so_before():
    text = graph("{type: relative, ports: {shared: shared, views: [z_a, z_b]}, keep: 5}")
    before = serket.fit(parse_graph(text), senses(), seed=1, workers=1)
    told = (
        "composer 'body' (relative) cannot take a view alone: it is fitted again, and the results of all subsets change"
    )
    change = planned_add(before, yaml.safe_load(SENSE))
    assert change.warnings[0].startswith("'concepts' (gmm) learned from shared") and change.warnings[1] == told
    with pytest.warns(DataWarning) as caught:
        after = serket.add(before, yaml.safe_load(SENSE), senses())
    assert told in [str(one.message) for one in caught]
    same = {n for n, one in hashes(before).items() if one == hashes(after)[n]}
    assert same == {"a", "b"}


def test_a_sensor_on_a_variable_that_is_there_is_added():
    """Nothing is fitted: two readings of one position, then three; the bits of the two, and the closed form of three."""
    text = """\
serket: 1
variables:
  x: {family: gaussian, size: 2, prior: {mean: [0, 0], covariance: [[1, 0], [0, 1]]}}
modules:
  gps:   {type: linear_gaussian, ports: {given: x}, data: gps,   matrix: [[1, 0]], noise: [[0.5]]}
  wheel: {type: linear_gaussian, ports: {given: x}, data: wheel, matrix: [[0, 1]], noise: [[0.1]]}
"""
    described = parse_graph(text)
    before = serket.Model(described, described.build())
    both = "modules: {tape: {type: linear_gaussian, ports: {given: x}, data: tape, matrix: [[1, 1]], noise: [[0.2]]}}"
    g = np.random.default_rng(0)
    data = {key: g.normal(size=(20, 1)) for key in ("gps", "wheel", "tape")}
    after = serket.add(before, yaml.safe_load(both), data)
    assert_same_results(before, after, ["gps", "wheel"], data)
    matrix, noise = np.array([[1, 0], [0, 1], [1, 1]]), np.diag([0.5, 0.1, 0.2])
    x = np.concatenate([data[key] for key in ("gps", "wheel", "tape")], 1)
    gain = matrix.T @ np.linalg.inv(matrix @ matrix.T + noise)
    np.testing.assert_allclose(after.infer(data)["x"].mean().numpy(), x @ gain.T, rtol=1e-10)


FEW = yaml.safe_load(SENSE)
MISTAKES = {
    "renamed": ({**FEW, "composers": {"body": {"ports": {"views": ["z_c", "z_b", "z_a"]}}}}, GraphError, "views[0]"),
    "undeclared": ({**FEW, "composers": {"body": {"ports": {"views": ["z_aa", "z_b", "z_c"]}}}}, GraphError, "z_a"),
    "another size": ({**FEW, "variables": {**FEW["variables"], "z_a": {"size": 5}}}, ShapeError, "size 2"),
    "a changed module": ({**FEW, "modules": {**FEW["modules"], "a": {"hidden": [7]}}}, GraphError, "hidden"),
    "nothing new": ({"composers": {"body": {"private": 1}}}, GraphError, "no module that the run does not have"),
    "unknown section": ({"moduls": {}}, GraphError, "modules"),
    "no key": ({**FEW, "modules": {"c": {**FEW["modules"]["c"], "data": "cc"}}}, DataError, "no array 'cc'"),
    "not connected": ({**FEW, "composers": {}}, GraphError, "z_c"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_fragment_that_does_not_fit_is_refused(old, name):
    fragment, kind, text = MISTAKES[name]
    with pytest.raises(kind) as caught:
        serket.add(old, fragment, senses())
    assert text in str(caught.value) and caught.value.fix


def test_a_sense_without_any_pair_is_refused(old):
    data = senses()
    rows = np.arange(300)
    for key in "ab":
        data[f"{key}_mask"] = rows % 3 != 0
    data["c_mask"] = rows % 3 == 0
    with pytest.raises(DataError) as caught:
        serket.add(old, yaml.safe_load(SENSE), data)
    assert "no rows pair z_c with what is there" in str(caught.value) and "0 of 67 rows" in str(caught.value)
    data["c_mask"] = np.zeros(300, bool)
    with pytest.raises(DataError, match="'c' has no row to learn from"):
        serket.add(old, yaml.safe_load(SENSE), data)


def test_unknown_modules_and_misplaced_ones_are_refused(old):
    for call in (lambda: serket.refit(old, "bb", senses()), lambda: serket.swap(old, "bb", OTHER, senses())):
        with pytest.raises(SerketError) as caught:
            call()
        assert caught.value.available == tuple(old.modules) and "did you mean 'b'" in caught.value.fix
    with pytest.raises(GraphError) as caught:
        serket.swap(old, "a", yaml.safe_load(OTHER), senses())
    assert "no module 'a' to take its place" in str(caught.value) and caught.value.available == ("b",)
    other = yaml.safe_load(OTHER)
    other["variables"]["z_a"] = {"family": "gaussian", "size": 5}
    with pytest.raises(ShapeError, match="z_a"):
        serket.swap(old, "b", other, senses())
    shared = {"modules": {"b": {"type": "vae", "data": "b", "ports": {"latent": "shared"}}}}
    with pytest.raises(SerketError):
        serket.swap(old, "b", shared, senses())


def test_a_module_that_learns_nothing_pins_no_type():
    module = "{{type: linear_gaussian, ports: {{given: x}}, data: {0}, matrix: [[1]], noise: [[0.3]]{1}}}"
    old = parse_graph(
        "serket: 1\nvariables:\n  x: {family: gaussian, size: 1, prior: {mean: [0], covariance: [[1]]}}\n"
        "modules:\n  a: " + module.format("a", "")
    )
    before = serket.Model(old, old.build())
    data = {"a": np.ones((9, 1)), "b": np.ones((9, 1))}
    after = serket.add(before, yaml.safe_load("modules: {b: " + module.format("b", "") + "}"), data)
    some = {"a": np.full((2, 1), 0.7, "f4")}
    assert after.dtype is None and torch.equal(before.infer(some)["x"].mean(), after.infer(some)["x"].mean())


@pytest.mark.parametrize("calibrate", ["senses", "none"])
def test_rows_that_exponents_are_fitted_on_are_in_no_later_fit_either(old, calibrate):
    """What stands in them does not matter to a refit; without calibration every training row counts."""
    data = senses()
    model = replace(old, graph=replace(old.graph, calibrate=calibrate))
    train = torch.from_numpy(data["train"])
    judge = divide(Evidence.of(torch.zeros(len(train), 1)), VALIDATION, 1)[1]
    other = {**data, "a": data["a"].copy()}
    other["a"][train[judge]] += 50
    first, second = (hashes(serket.refit(model, "a", some, fresh=True))["a"] for some in (data, other))
    assert (first == second) == (calibrate == "senses")


def test_exponents_that_a_fragment_states_are_kept():
    old = parse_graph(
        "serket: 1\nvariables: {k: {family: categorical, size: 2}}\n"
        "modules: {a: {type: gmm, data: a, ports: {component: k}, fit: {sweeps: 16, restarts: 1}}}"
    )
    data = {"a": np.random.default_rng(0).normal(size=(30, 2))}
    model = serket.fit(old, data)
    entry = {"type": "gmm", "data": "a", "ports": {"component": "k"}, "fit": {"sweeps": 16, "restarts": 1}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swapped = serket.swap(model, "a", {"modules": {"a": {**entry, "calibration": {"component": 0.5}}}}, data)
    assert swapped.graph.nodes["a"].calibration == {"component": 0.5}
    with pytest.warns(DataWarning, match="exponents are gone"):
        assert serket.refit(swapped, "a", data).graph.nodes["a"].calibration == {}
