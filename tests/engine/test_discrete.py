"""Discrete trees and loops against the exponentially large joint."""

import itertools

import pytest
import torch

from serket.engine import run
from serket.engine.run import pass_messages
from serket.errors import ConvergenceWarning
from serket.graph import load_graph
from serket.protocol import Evidence
from tests.reference import enumerate_tables


def table(generator, *sizes):
    raw = torch.rand(*sizes, generator=generator, dtype=torch.float64) + 0.05
    return raw / raw.sum(-1, keepdim=True)


def problem(name, seed):
    """A graph with random tables, and its factors: (graph, sizes, {factor: (scope, table)}, readers)."""
    g = torch.Generator().manual_seed(seed)
    # name: variables, {module: (parents, child or data)}, who has a prior of its own
    shapes = {
        "head_to_tail": ({"y": 2, "z": 3, "x": 4}, {"top": (["y"], "z"), "mid": (["z"], "x"), "low": (["x"], "d1:3")}),
        "tail_to_tail": ({"z": 3}, {"a": (["z"], "d1:2"), "b": (["z"], "d2:4"), "c": (["z"], "d3:3")}),
        "head_to_head": (
            {"a": 2, "b": 3, "x": 2},
            {"pa": (["a"], "d1:2"), "pb": (["b"], "d2:2"), "f": (["a", "b"], "x"), "low": (["x"], "d3:2")},
        ),
        "collider_on_data": ({"a": 2, "b": 3}, {"f": (["a", "b"], "d1:2"), "pb": (["b"], "d2:3")}),
        "no_parent": ({"z": 3}, {"root": ([], "z"), "low": (["z"], "d1:2")}),
        "big_tree": (
            {"r": 2, "s": 3, "t": 2, "u": 2, "v": 3},
            {"rs": (["r"], "s"), "st": (["s"], "t"), "tuv": (["t", "u"], "v"), "o1": (["s"], "d1:2"),
             "o2": (["v"], "d2:3"), "o3": (["u"], "d3:2"), "o4": (["v"], "d4:2")},
        ),
        "loop": (
            {"a": 2, "b": 2, "c": 2},
            {"ab": (["a"], "b"), "abc": (["a", "b"], "c"), "o1": (["b"], "d1:2"), "o2": (["c"], "d2:2")},
        ),
    }  # fmt: skip
    sizes, modules = shapes[name]
    spec = {
        "serket": 1,
        "variables": {v: {"family": "categorical", "size": k} for v, k in sizes.items()},
        "modules": {},
    }
    factors, readers = {}, {}
    for module, (given, target) in modules.items():
        data = target.partition(":")
        last = int(data[2]) if data[1] else sizes[target]
        values = table(g, *(sizes[v] for v in given), last)
        entry = {"type": "table", "ports": {"given": given} if given else {}, "values": values.tolist()}
        if data[1]:
            entry["data"] = data[0]
            readers[module] = last
        else:
            entry["ports"]["child"] = target
        spec["modules"][module] = entry
        factors[module] = (given, target if not data[1] else None, values)
    owned = {target for _, target, _ in factors.values() if target}
    for index, variable in enumerate(v for v in sizes if v not in owned):
        if index % 2 == 0:  # the others stay uniform by default
            prior = table(g, sizes[variable])
            spec["variables"][variable]["prior"] = prior.tolist()
            factors[f"prior {variable}"] = ([], variable, prior)
        else:
            uniform = torch.full((sizes[variable],), 1 / sizes[variable], dtype=torch.float64)
            factors[f"prior {variable}"] = ([], variable, uniform)
    return load_graph(spec), sizes, factors, readers


def every_pattern(readers, seed=0):
    """One row for every pattern of missing data, with random readings; NaN is planted where nothing is observed."""
    patterns = list(itertools.product([True, False], repeat=len(readers)))
    g = torch.Generator().manual_seed(seed)
    evidence, readings = {}, {}
    for column, (module, size) in enumerate(readers.items()):
        observed = torch.tensor([pattern[column] for pattern in patterns])
        drawn = torch.randint(size, (len(patterns), 1), generator=g).double()
        readings[module] = torch.where(observed.unsqueeze(1), drawn, torch.nan)
        evidence[module] = Evidence.of(readings[module])
    return patterns, evidence, readings


def truth(sizes, factors, readings, row):
    scopes = []
    for name, (given, target, values) in factors.items():
        if target is not None:
            scopes.append(([*given, target], values))
        elif not bool(readings[name][row].isnan()):
            scopes.append((given, values[..., int(readings[name][row])]))
    return enumerate_tables(sizes, scopes)


TREES = ["head_to_tail", "tail_to_tail", "head_to_head", "collider_on_data", "no_parent", "big_tree"]


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("seed", range(3))
def test_trees_equal_enumeration(name, seed):
    graph, sizes, factors, readers = problem(name, seed)
    patterns, evidence, readings = every_pattern(readers, seed)
    result = run(graph, graph.build(), evidence)
    assert result.exact and result.converged and result.bound == "exact" and result.reason is None
    for row in range(len(patterns)):
        marginals, log_z = truth(sizes, factors, readings, row)
        for variable, marginal in marginals.items():
            torch.testing.assert_close(result[variable].probs[row], marginal, rtol=1e-10, atol=1e-10)
        assert abs(float(result.log_evidence[row]) - log_z) < 1e-10
    assert torch.equal(result.present, torch.tensor(patterns))


@pytest.mark.parametrize("name", TREES)
def test_ten_more_rounds_on_a_tree_change_nothing(name):
    graph, _, _, readers = problem(name, 1)
    _, evidence, _ = every_pattern(readers)
    modules = graph.build()
    once = pass_messages(graph, modules, evidence, dtype=torch.float64)
    more = pass_messages(graph, modules, evidence, dtype=torch.float64, extra_sweeps=10)
    for variable in graph.variables:
        torch.testing.assert_close(
            once.exchange.belief(variable).probs, more.exchange.belief(variable).probs, rtol=0, atol=1e-10
        )


def test_each_module_is_called_at_most_twice_on_a_tree():
    graph, _, _, readers = problem("big_tree", 0)
    _, evidence, _ = every_pattern(readers)
    modules, calls = graph.build(), []
    for name, module in modules.items():
        infer = module.infer
        module.infer = lambda *a, _name=name, _infer=infer, **k: calls.append(_name) or _infer(*a, **k)
    pass_messages(graph, modules, evidence, dtype=torch.float64)
    assert max(calls.count(name) for name in modules) <= 2 and set(calls) == set(modules)


def test_a_loop_says_so_and_is_near_the_truth():
    graph, sizes, factors, readers = problem("loop", 0)
    patterns, evidence, readings = every_pattern(readers)
    result = run(graph, graph.build(), evidence)
    assert not result.exact and result.converged and result.iterations > 1
    assert result.bound == "estimate" and "cycle" in result.reason
    for row in range(len(patterns)):
        marginals, _ = truth(sizes, factors, readings, row)
        for variable, marginal in marginals.items():
            assert float((result[variable].probs[row] - marginal).abs().max()) < 0.15


def test_a_loop_that_does_not_converge_warns_with_advice():
    graph, _, _, readers = problem("loop", 0)
    _, evidence, _ = every_pattern(readers)
    with pytest.warns(ConvergenceWarning, match=r"2 sweeps.*trust"):
        result = run(graph, graph.build(), evidence, max_iterations=2, tolerance=1e-30)
    assert not result.converged


def test_conflict_is_the_pointwise_mutual_information():
    graph, sizes, factors, readers = problem("tail_to_tail", 0)
    rows = list(itertools.product(range(2), range(4)))
    evidence = {
        "a": Evidence.of(torch.tensor([[r[0]] for r in rows]).double()),
        "b": Evidence.of(torch.tensor([[r[1]] for r in rows]).double()),
    }
    result = run(graph, graph.build(), evidence)
    for row, (a, b) in enumerate(rows):
        readings = {"a": torch.tensor([[float(a)]]), "b": torch.tensor([[float(b)]]), "c": torch.tensor([[torch.nan]])}
        nan = torch.tensor([[torch.nan]])
        both = truth(sizes, factors, readings, 0)[1]
        only_a = truth(sizes, factors, {**readings, "b": nan}, 0)[1]
        only_b = truth(sizes, factors, {**readings, "a": nan}, 0)[1]
        assert abs(float(result.conflict[row]) - (both - only_a - only_b)) < 1e-10


def test_contribution_is_zero_where_absent_and_the_gain_elsewhere():
    graph, sizes, factors, readers = problem("tail_to_tail", 2)
    patterns, evidence, readings = every_pattern(readers)
    result = run(graph, graph.build(), evidence)
    assert bool((result.contribution[~result.present] == 0).all())
    row = patterns.index((True, True, True))
    full, _ = truth(sizes, factors, readings, row)
    without = dict(readings, a=torch.full_like(readings["a"], torch.nan))
    rest, _ = truth(sizes, factors, without, row)
    gain = float((full["z"] * (full["z"] / rest["z"]).log()).sum())
    assert abs(float(result.contribution[row, 0]) - gain) < 1e-10
