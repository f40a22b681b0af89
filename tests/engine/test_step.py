"""One set after another: the beliefs of a batch of one row, and nothing kept but what is carried."""

import gc
import itertools
import tracemalloc
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

import serket
from serket.engine import run
from serket.engine.step import Stepper, deviations
from serket.errors import GraphError, MessageError, SerketError
from serket.messages import Categorical, Gaussian
from serket.protocol import Evidence, Port, Reply, Role
from tests.engine.models import SPECS, model, readings
from tests.engine.test_gaussian import every_pattern, problem

CORNERS = {
    "serket": 1,
    "variables": {"state": {"family": "categorical", "size": 4}},
    "modules": {
        "points": {"type": "gmm", "data": "point", "ports": {"component": "state"}, "draws": 3, "fit": {"sweeps": 20, "restarts": 2}},
        "order": {"type": "markov", "ports": {"state": "state"}, "draws": 3, "fit": {"method": "gibbs", "sweeps": 12}},
    },
}  # fmt: skip


def stepper(fitted, **options):
    return Stepper(fitted.graph, fitted.modules, seed=fitted.seed, dtype=torch.float64, **options)


def subsets(keys):
    return [c for size in range(len(keys) + 1) for c in itertools.combinations(keys, size)]


def alike(beliefs, result, row):
    for name, belief in beliefs.items():
        told = result.beliefs[name][row : row + 1]
        if isinstance(belief, Gaussian):
            belief, told = belief.full(), told.full()
            torch.testing.assert_close(belief.mean(), told.mean(), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(belief.covariance(), told.covariance(), rtol=1e-9, atol=1e-9)
        else:
            for part, values in belief.tensors().items():
                torch.testing.assert_close(values, told.tensors()[part], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SPECS)
def test_a_set_is_inferred_as_a_batch_of_one_row(name):
    fitted, data = model(name), readings(name, rows=5, seed=1)
    engine = stepper(fitted)
    for keys in subsets(list(data)):
        blind = {key: values if key in keys else np.full_like(values, np.nan) for key, values in data.items()}
        result = fitted.infer(blind)
        for row in (3, 0):
            found = engine.step({key: torch.from_numpy(data[key][row]) for key in keys})
            alike(found.beliefs, result, row)
            for place, node in enumerate(result.modules):
                key = fitted.graph.nodes[node].data
                assert found.contribution.get(key, 0.0) == pytest.approx(
                    float(result.contribution[row, place]), abs=1e-8
                )
            if len(keys) > 1:
                assert found.conflict == pytest.approx(float(result.conflict[row]), abs=1e-8)


def cycle():
    spec = {
        "serket": 1,
        "variables": {name: {"family": "categorical", "size": 2, "prior": [0.6, 0.4]} for name in "abc"},
        "modules": {
            **{f"{x}{y}": {"type": "table", "ports": {"given": [x, y]}, "data": f"{x}{y}",
                           "values": [[[0.8, 0.2], [0.4, 0.6]], [[0.3, 0.7], [0.1, 0.9]]]} for x, y in ("ab", "bc", "ac")},
            "eye": {"type": "table", "ports": {"given": ["a"]}, "data": "eye", "values": [[0.9, 0.1], [0.2, 0.8]]},
        },
    }  # fmt: skip
    graph = serket.load_graph(spec)
    modules = graph.build()
    return graph, modules, Stepper(graph, modules, dtype=torch.float64)


def test_on_a_cycle_a_set_like_the_last_takes_one_sweep():
    """Messages start where they were, and stand; a set that differs takes several."""
    _, modules, engine = cycle()
    infer, calls, counts = modules["bc"].infer, [], []
    modules["bc"].infer = lambda *args, **options: calls.append(1) or infer(*args, **options)
    engine._blanks = lambda priors: {}  # what each sensor says alone starts from nothing every time
    for seen in ({"ab": 1.0, "ac": 1.0}, {"ab": 1.0, "ac": 1.0}, {"ab": 0.0, "bc": 1.0}):
        calls.clear()
        engine.step({key: torch.tensor([value], dtype=torch.float64) for key, value in seen.items()})
        counts.append(len(calls))
    assert 0 < 2 * counts[1] < min(counts[0], counts[2])


def test_on_a_cycle_messages_start_where_they_were():
    graph, modules, engine = cycle()
    assert not engine.plan.tree
    for seen in ({"ab": 1.0, "eye": 0.0}, {"ab": 1.0, "bc": 0.0, "ac": 1.0}, {}):
        found = engine.step({key: torch.tensor([value], dtype=torch.float64) for key, value in seen.items()})
        evidence = {
            key: Evidence.of(torch.tensor([[seen.get(key, np.nan)]], dtype=torch.float64))
            for key in ("ab", "bc", "ac", "eye")
        }
        result = run(graph, modules, evidence)
        for name, belief in found.beliefs.items():
            torch.testing.assert_close(belief.probs, result.beliefs[name].probs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["head_to_tail", "big_tree", "collider_on_data"])
def test_gaussian_trees(name):
    graph, _, _, readers = problem(name, 5)
    evidence, data, rows = every_pattern(readers)
    modules = graph.build()
    result = run(graph, modules, evidence)
    engine = Stepper(graph, modules, dtype=torch.float64)
    whole = [
        row for row in range(rows) if all(one[row].isnan().all() or one[row].isfinite().all() for one in data.values())
    ]
    assert len(whole) == 2 ** len(readers)
    for row in whole:
        alike(engine.step({k: one[row] for k, one in data.items() if one[row].isfinite().all()}).beliefs, result, row)


@cache
def corners():
    rng = np.random.default_rng(0)
    states = np.arange(120) % 4
    points = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])[states] + rng.normal(size=(120, 2)) * 0.3
    data = {"point": points, "point_sequence": np.repeat([0, 1, 2], 40)}
    return serket.fit(CORNERS, data, seed=0, test_fraction=0.0, workers=1), points[40:48]


def test_with_a_chain_the_belief_of_each_frame_is_filtered():
    fitted, points = corners()
    engine = stepper(fitted)
    for end in range(1, len(points) + 1):
        found = engine.step({"point": torch.from_numpy(points[end - 1])})
        told = fitted.infer({"point": points[:end]})  # the last row of a sequence hears no later one
        torch.testing.assert_close(
            found.beliefs["state"].probs[0], told.beliefs["state"].probs[-1], rtol=1e-6, atol=1e-9
        )


def test_a_gap_is_predicted_across():
    fitted, points = corners()
    frame = 50_000_000
    engine = stepper(fitted, frame_ns=frame)
    engine.step({"point": torch.from_numpy(points[0])}, 1000)
    found = engine.step({"point": torch.from_numpy(points[1])}, 1000 + 3 * frame + 7)
    seen = np.full((4, 2), np.nan)
    seen[0], seen[3] = points[0], points[1]
    told = fitted.infer({"point": seen})
    torch.testing.assert_close(found.beliefs["state"].probs[0], told.beliefs["state"].probs[-1], rtol=1e-6, atol=1e-9)


def test_without_a_reading_the_belief_spreads_and_never_sharpens():
    fitted, points = corners()
    engine = stepper(fitted)
    engine.step({"point": torch.from_numpy(points[0])})
    entropies = [engine.step({}).beliefs["state"].to_distribution().entropy().item() for _ in range(6)]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(entropies))


def test_what_is_carried_can_be_taken_up_again():
    fitted, points = corners()
    engine = stepper(fitted)
    engine.step({"point": torch.from_numpy(points[0])})
    kept = engine.state
    first = engine.step({"point": torch.from_numpy(points[1])}).beliefs["state"].logits
    engine.step({"point": torch.from_numpy(points[2])})
    engine.state = kept
    assert torch.equal(engine.step({"point": torch.from_numpy(points[1])}).beliefs["state"].logits, first)


def test_two_modules_on_one_sensor_are_refused():
    spec = {**SPECS["rain"], "modules": {name: {**entry} for name, entry in SPECS["rain"]["modules"].items()}}
    spec["modules"]["b"] = {**spec["modules"]["b"], "data": "a"}
    graph = serket.load_graph(spec)
    with pytest.raises(GraphError, match="a and b read one sensor, 'a'"):
        Stepper(graph, graph.build())


@pytest.mark.parametrize("size", [1, 2, 16])
def test_deviations_are_those_of_a_normal_of_the_same_tail(size):
    """d^2 of a chi-squared tail probability p is as far out as a normal's one-sided tail of p, nearly."""
    unit = Gaussian.standard((1,), size, dtype=torch.float64)
    for z in (1.0, 3.0, 5.0):
        squared = stats.chi2.isf(stats.norm.sf(z), size)
        shift = torch.zeros(1, size, dtype=torch.float64)
        shift[0, 0] = np.sqrt(2 * squared)  # the variances of both add
        message = Gaussian(shift, torch.ones_like(shift))
        assert deviations(message, unit) == pytest.approx(z, rel=0.15)
        assert deviations(message.full(), unit) == pytest.approx(deviations(message, unit), rel=1e-9)


def test_a_lying_sensor_is_gated_and_the_belief_is_that_without_it():
    spec = {
        "serket": 1,
        "variables": {"x": {"family": "gaussian", "size": 2}},
        "modules": {key: {"type": "linear_gaussian", "ports": {"given": "x"}, "data": key,
                          "matrix": [[1, 0], [0, 1]], "noise": [[0.1, 0], [0, 0.1]]} for key in "abc"},
    }  # fmt: skip
    graph = serket.load_graph(spec)
    engine = Stepper(graph, graph.build(), dtype=torch.float64, gates=dict.fromkeys("abc", 5.0))
    here, far = torch.tensor([0.3, -0.2], dtype=torch.float64), torch.tensor([6.0, -0.2], dtype=torch.float64)
    found = engine.step({"a": here, "b": far, "c": here + 0.1})
    assert set(found.gated) == {"b"}, "the others are near once the liar is gone"
    without = engine.step({"a": here, "c": here + 0.1})
    assert not without.gated
    assert torch.equal(found.beliefs["x"].info, without.beliefs["x"].info)
    assert "b" not in found.contribution


@pytest.mark.parametrize("key", ["nobody", "a"])
def test_what_cannot_be_gated(key):
    graph = serket.load_graph(SPECS["rain"])
    with pytest.raises(SerketError, match=f"'{key}' cannot be gated"):
        Stepper(graph, graph.build(), gates={key: 5.0})


class Faulty:
    """Says NaN, raises, or answers."""

    ports = {"given": Port(Role.PARENT, "categorical", 2)}

    def __init__(self, moods):
        self.moods = list(moods)

    def infer(self, inbox, evidence, *, generator, ports=None):
        mood = self.moods.pop(0) if self.moods else "well"
        if mood == "raises":
            raise ValueError("the camera driver is gone")
        logits = torch.tensor([[0.0, float("nan") if mood == "nan" else 1.0]], dtype=torch.float64)
        return Reply({"given": Categorical(logits)})


def faulty(moods, on_error, **options):
    fitted = model("rain")
    modules = {**fitted.modules, "a": Faulty(moods)}
    return Stepper(fitted.graph, modules, dtype=torch.float64, on_error={"a": on_error}, **options)


ONE = {"a": torch.ones(1, dtype=torch.float64), "b": torch.ones(1, dtype=torch.float64)}


@pytest.mark.parametrize("mood", ["raises", "nan"])
def test_a_failing_module_is_skipped_and_the_rest_goes_on(mood):
    engine = faulty([mood], "skip")
    found = engine.step(ONE)
    assert set(found.failed) == {"a"}
    assert ("driver is gone" if mood == "raises" else "not finite") in found.failed["a"]
    without = engine.step({"b": ONE["b"]})
    assert torch.equal(found.beliefs["rain"].logits, without.beliefs["rain"].logits)
    assert not engine.step(ONE).failed


def test_a_failing_module_fails_loudly_where_told_to():
    with pytest.raises(MessageError, match="driver is gone"):
        faulty(["raises"], "fail").step(ONE)


def test_a_failing_module_is_made_anew_three_times_at_most():
    made = []

    def reload(name):
        made.append(name)
        return Faulty(["raises"])

    engine = faulty(["raises"], "restart", reload=reload)
    for _ in range(6):
        engine.step(ONE)
    assert made == ["a"] * 3


def test_memory_does_not_grow():
    fitted, points = corners()
    engine = stepper(fitted)
    reading = {"point": torch.from_numpy(points[0])}

    def after(steps):
        for _ in range(steps):
            engine.step(reading)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    after(50)
    before = after(50)
    grown = after(400) - before
    tracemalloc.stop()
    assert grown < 2000


class Watched:
    """A module that notes which ports it is asked for, and fails the first few times."""

    def __init__(self, module, failures=0):
        self.module, self.failures, self.asked = module, failures, []
        self.ports, self.own_prior = module.ports, getattr(module, "own_prior", {})

    def infer(self, inbox, evidence, *, generator, ports=None):
        self.asked.append(ports)
        if len(self.asked) <= self.failures:
            raise ValueError("not yet")
        return self.module.infer(inbox, evidence, generator=generator, ports=ports)


def row_of(data, keys, row=0):
    return {key: torch.from_numpy(data[key][row]) for key in keys}


def test_what_no_sensor_can_change_is_asked_for_once():
    fitted, data = model("digits"), readings("digits", rows=5, seed=1)
    kinds, body = Watched(fitted.modules["kinds"]), Watched(fitted.modules["body"])
    engine = Stepper(fitted.graph, {**fitted.modules, "kinds": kinds, "body": body}, dtype=torch.float64)
    engine.step(row_of(data, "ac"))
    kinds.asked.clear(), body.asked.clear()
    found = engine.step(row_of(data, "ac", row=1))
    assert kinds.asked == [{"component"}], "the mixture over the latent is the same for every set"
    up, down = body.asked
    assert up == {"shared"} and len(down) == 3, "two others speak to the silent one's latent, and one to each of them"
    alike(
        found.beliefs, fitted.infer({key: v if key in "ac" else np.full_like(v, np.nan) for key, v in data.items()}), 1
    )
    body.asked.clear()
    engine.step(row_of(data, "a"))
    assert [len(ports) for ports in body.asked] == [1, 2], "nobody but a speaks to a's latent"


def test_what_a_module_said_while_another_failed_is_not_kept():
    fitted, data = model("digits"), readings("digits", rows=5, seed=1)
    for failures in range(1, 4):
        modules = {**fitted.modules, "kinds": Watched(fitted.modules["kinds"], failures)}
        engine = Stepper(fitted.graph, modules, dtype=torch.float64, on_error={"kinds": "skip"})
        for _ in range(4):
            found = engine.step(row_of(data, "ab"))
        assert not found.failed
        expected = stepper(fitted).step(row_of(data, "ab"))
        for name, belief in found.beliefs.items():
            for part, values in belief.tensors().items():
                assert torch.equal(values, expected.beliefs[name].tensors()[part])
        assert (found.contribution, found.conflict) == (expected.contribution, expected.conflict)
