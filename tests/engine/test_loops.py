"""Loops: rows stop when they have converged, and only what stalls is damped."""

import pytest
import torch

import serket
from serket.engine import run
from serket.graph import load_graph
from serket.protocol import Evidence


def frustrated(coupling):
    """Three binary variables that cannot all differ: messages around the triangle swing."""
    table = [[1 - coupling, coupling], [coupling, 1 - coupling]]
    variables = {name: {"family": "categorical", "size": 2} for name in "abc"}
    modules = {
        x + y: {
            "type": "table",
            "ports": {"given": [x, y]},
            "data": f"{x}{y}",
            "values": [[[1 - v, v] for v in row] for row in table],
        }
        for x, y in ("ab", "bc", "ca")
    }
    modules["tip"] = {"type": "table", "ports": {"given": ["a"]}, "data": "tip", "values": [[0.7, 0.3], [0.4, 0.6]]}
    return load_graph({"serket": 1, "variables": variables, "modules": modules})


def ones(*rows):
    return Evidence.of(torch.tensor(rows, dtype=torch.float64).unsqueeze(1))


def evidence(rows):
    nan = torch.nan
    return {
        "ab": ones(*[1.0 if hard else nan for hard in rows]),
        "bc": ones(*[1.0 if hard else nan for hard in rows]),
        "ca": ones(*[1.0 if hard else nan for hard in rows]),
        "tip": ones(*[0.0] * len(rows)),
    }


@pytest.mark.parametrize("coupling", [0.99, 0.9999])
def test_damping_is_switched_on_where_the_change_stalls(monkeypatch, coupling):
    """Measured: 64 sweeps against 316 at 0.99, 45 against none in 400 at 0.9999."""
    graph = frustrated(coupling)
    damped = run(graph, graph.build(), evidence([True]), on_no_convergence="ignore")
    assert damped.converged and damped.iterations < 100
    full_like = torch.full_like
    monkeypatch.setattr(torch, "full_like", lambda like, value: full_like(like, 0.0 if value == 0.5 else value))
    undamped = run(graph, graph.build(), evidence([True]), on_no_convergence="ignore")
    assert not undamped.converged


def test_an_easy_loop_is_not_damped(monkeypatch):
    graph = frustrated(0.8)
    damped = run(graph, graph.build(), evidence([True]))
    full_like = torch.full_like
    monkeypatch.setattr(torch, "full_like", lambda like, value: full_like(like, 0.0 if value == 0.5 else value))
    assert run(graph, graph.build(), evidence([True])).iterations == damped.iterations


def test_a_row_that_has_converged_is_frozen():
    graph = frustrated(0.99)
    easy = run(graph, graph.build(), evidence([False]), on_no_convergence="ignore")
    both = run(graph, graph.build(), evidence([False, True]), on_no_convergence="ignore")
    assert easy.iterations < both.iterations
    for name in "abc":
        assert torch.equal(easy[name].logits[0], both[name].logits[0])


def test_beliefs_are_right_where_the_loop_carries_nothing():
    graph = frustrated(0.9)
    result = run(graph, graph.build(), evidence([False]))
    torch.testing.assert_close(result["a"].probs[0], torch.tensor([0.7, 0.4]).double() / 1.1, rtol=1e-6, atol=1e-6)


def star(sensors):
    modules = {
        f"s{i}": {
            "type": "linear_gaussian",
            "ports": {"given": "x"},
            "data": f"s{i}",
            "matrix": [[1]],
            "noise": [[1 + i]],
        }
        for i in range(sensors)
    }
    return load_graph({"serket": 1, "variables": {"x": {"family": "gaussian", "size": 1}}, "modules": modules})


def test_cost_is_linear_in_the_modalities(monkeypatch):
    products = {}
    multiply = serket.Gaussian.__mul__
    for sensors in (20, 40):
        count = [0]

        def counted(a, b, count=count):
            count[0] += 1
            return multiply(a, b)

        with monkeypatch.context() as patch:
            patch.setattr(serket.Gaussian, "__mul__", counted)
            graph = star(sensors)
            run(graph, graph.build(), {f"s{i}": ones(1.0, 2.0) for i in range(sensors)})
        products[sensors] = count[0]
    assert products[40] <= 2.2 * products[20]


@pytest.mark.parametrize("sensors", [1, 2, 7])
def test_many_sensors_on_one_variable_are_a_weighted_mean(sensors):
    graph = star(sensors)
    result = run(graph, graph.build(), {f"s{i}": ones(float(i)) for i in range(sensors)})
    weights = [1.0] + [1 / (1 + i) for i in range(sensors)]
    mean = sum(weight * value for weight, value in zip(weights, [0, *range(sensors)], strict=True)) / sum(weights)
    assert float(result["x"].mean()) == pytest.approx(mean, rel=1e-12)
    assert float(result["x"].variance()) == pytest.approx(1 / sum(weights), rel=1e-12)
