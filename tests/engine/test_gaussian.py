"""Linear-Gaussian trees and loops against one dense Gaussian."""

import itertools

import pytest
import torch

from serket.engine import run
from serket.graph import load_graph
from serket.protocol import Evidence
from tests.reference import dense_gaussian

TREES = {
    # variables, {module: (parents, child or None, dims of data)}, variables with a prior of the graph
    "tail_to_tail": ({"x": 2}, {"gps": (["x"], None, 1), "wheel": (["x"], None, 2)}, ["x"]),
    "head_to_tail": ({"y": 2, "z": 3}, {"top": (["y"], "z", 0), "low": (["z"], None, 2), "side": (["y"], None, 1)}, []),
    "head_to_head": (
        {"a": 1, "b": 2, "x": 2},
        {"f": (["a", "b"], "x", 0), "pa": (["a"], None, 1), "low": (["x"], None, 3)},
        ["a"],
    ),
    "collider_on_data": ({"a": 2, "b": 2}, {"f": (["a", "b"], None, 2), "pb": (["b"], None, 1)}, ["b"]),
    "big_tree": (
        {"r": 1, "s": 2, "t": 2, "u": 1, "v": 3},
        {"rs": (["r"], "s", 0), "st": (["s"], "t", 0), "tuv": (["t", "u"], "v", 0), "o1": (["s"], None, 2),
         "o2": (["v"], None, 2), "o3": (["u"], None, 1)},
        ["u"],
    ),
    "loop": (
        {"a": 1, "b": 1, "c": 1},
        {"ab": (["a"], "b", 0), "abc": (["a", "b"], "c", 0), "o": (["c"], None, 1)},
        [],
    ),
}  # fmt: skip


def covariance(g, size):
    root = torch.randn(size, size, generator=g, dtype=torch.float64)
    return root @ root.T + 0.3 * torch.eye(size, dtype=torch.float64)


def problem(name, seed):
    g = torch.Generator().manual_seed(seed)
    sizes, modules, priors = TREES[name]
    spec = {"serket": 1, "variables": {v: {"family": "gaussian", "size": k} for v, k in sizes.items()}, "modules": {}}
    factors, readers = {}, {}
    owned = {child for _, child, _ in modules.values() if child}
    for variable, size in sizes.items():
        if variable not in owned:
            mean, cov = torch.zeros(size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)
            if variable in priors:
                mean, cov = torch.randn(size, generator=g, dtype=torch.float64), covariance(g, size)
                spec["variables"][variable]["prior"] = {"mean": mean.tolist(), "covariance": cov.tolist()}
            factors[f"prior {variable}"] = ([variable], None, torch.eye(size, dtype=torch.float64), cov, mean)
    for module, (given, child, data) in modules.items():
        out = sizes[child] if child else data
        matrix = torch.randn(out, sum(sizes[v] for v in given), generator=g, dtype=torch.float64)
        noise, offset = covariance(g, out), torch.randn(out, generator=g, dtype=torch.float64)
        entry = {"type": "linear_gaussian", "ports": {"given": given}, "matrix": matrix.tolist(), "noise": noise.tolist(),
                 "offset": offset.tolist()}  # fmt: skip
        if child:
            entry["ports"]["child"] = child
        else:
            entry["data"] = module
            readers[module] = out
        spec["modules"][module] = entry
        factors[module] = (given, child, matrix, noise, offset)
    return load_graph(spec), sizes, factors, readers


def every_pattern(readers, seed=0):
    """One row per pattern of missing data, per dimension; NaN where nothing is observed."""
    columns = [(module, d) for module, size in readers.items() for d in range(size)]
    patterns = list(itertools.product([True, False], repeat=len(columns)))
    g = torch.Generator().manual_seed(seed)
    evidence, readings = {}, {}
    for module, size in readers.items():
        observed = torch.tensor([[p[columns.index((module, d))] for d in range(size)] for p in patterns])
        drawn = 2 * torch.randn(len(patterns), size, generator=g, dtype=torch.float64)
        readings[module] = torch.where(observed, drawn, torch.nan)
        evidence[module] = Evidence.of(readings[module], observed)
    return evidence, readings, len(patterns)


def truth(sizes, factors, readings, row):
    parts = []
    for name, (given, child, matrix, noise, offset) in factors.items():
        if name.startswith("prior"):
            parts.append((given, torch.zeros(len(offset), dtype=torch.float64), matrix, noise, offset))
        elif child:  # N(child; W x + b, R) as N(b; child - W x, R)
            size = sizes[child]
            wide = torch.cat([-matrix, torch.eye(size, dtype=torch.float64)], 1)
            parts.append(([*given, child], torch.zeros(size, dtype=torch.float64), wide, noise, offset))
        else:
            y = readings[name][row]
            seen = ~y.isnan()
            if bool(seen.any()):
                parts.append((given, offset[seen], matrix[seen], noise[seen][:, seen], y[seen]))
    return dense_gaussian(sizes, parts)


@pytest.mark.parametrize("name", [name for name in TREES if name != "loop"])
@pytest.mark.parametrize("seed", range(3))
def test_trees_equal_the_dense_gaussian(name, seed):
    graph, sizes, factors, readers = problem(name, seed)
    evidence, readings, rows = every_pattern(readers, seed)
    result = run(graph, graph.build(), evidence)
    assert result.exact and result.bound == "exact" and result.converged
    for row in range(rows):
        beliefs, log_z = truth(sizes, factors, readings, row)
        for variable, (mean, cov) in beliefs.items():
            torch.testing.assert_close(result[variable].mean()[row], mean, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(result[variable].covariance()[row], cov, rtol=1e-10, atol=1e-10)
        assert abs(float(result.log_evidence[row]) - log_z) < 1e-10 * max(1, abs(log_z))


def test_a_loop_has_exact_means_and_says_it_is_not_exact():
    graph, sizes, factors, readers = problem("loop", 0)
    evidence, readings, rows = every_pattern(readers)
    result = run(graph, graph.build(), evidence)
    assert not result.exact and result.bound == "estimate"
    for row in range(rows):
        beliefs, _ = truth(sizes, factors, readings, row)
        for variable, (mean, _) in beliefs.items():
            if result.converged:  # loopy Gaussian message passing: right means, wrong variances
                torch.testing.assert_close(result[variable].mean()[row], mean, rtol=1e-4, atol=1e-4)


def test_trust_is_an_exponent_and_takes_the_evidence_away():
    spec = {
        "serket": 1,
        "variables": {"x": {"family": "gaussian", "size": 1}},
        "modules": {
            "a": {"type": "linear_gaussian", "ports": {"given": {"variable": "x", "trust": 0.5}}, "data": "a",
                  "matrix": [[1]], "noise": [[0.5]]},
            "b": {"type": "linear_gaussian", "ports": {"given": "x"}, "data": "b", "matrix": [[1]], "noise": [[0.5]]},
        },
    }  # fmt: skip
    graph = load_graph(spec)
    data = {name: Evidence.of(torch.tensor([[value]], dtype=torch.float64)) for name, value in (("a", 1.0), ("b", 3.0))}
    result = run(graph, graph.build(), data)
    assert float(result["x"].variance()) == pytest.approx(1 / (1 + 0.5 * 2 + 2))
    assert float(result["x"].mean()) == pytest.approx((0.5 * 2 * 1 + 2 * 3) / 4)
    assert result.log_evidence is None and result.bound == "none" and "a is trusted with 0.5" in result.reason
    assert not result.exact
