"""What connects the modules: in which order, hearing what, owning what, and never seeing test rows."""

import copy

import numpy as np
import pytest
import torch

import serket
from serket.engine.run import pass_messages
from serket.graph import load_graph
from serket.inputs import dtype_of, gather
from serket.messages import Gaussian
from serket.protocol import Trainable
from serket.training.compose import alone, compose, listen
from tests.engine.models import DIGITS, model, readings

GMM = {"type": "gmm", "draws": 4, "fit": {"sweeps": 8, "restarts": 1}}


def evidence_of(graph, modules, data):
    dataset = serket.Model(graph, modules)._dataset(data)
    return gather(graph, modules, dataset, dtype=dtype_of(dataset))


def silent(sizes):
    """A linear-Gaussian sensor per variable."""
    return {
        f"see_{name}": {"type": "linear_gaussian", "data": name, "ports": {"given": name}, "matrix": np.eye(size).tolist(),
                        "noise": (0.1 * np.eye(size)).tolist()}
        for name, size in sizes.items()
    }  # fmt: skip


def body(shared, *views):
    return {"type": "linear_gaussian", "ports": {"shared": shared, "views": list(views)}, "private": 1}


def tower():
    """Composers over composers, written top first; concepts, written first of all, on the top and beside it."""
    sizes = {"a": 2, "b": 2, "c": 3, "d": 2, "e": 2}
    variables = {v: {"family": "gaussian", "size": k} for v, k in {**sizes, "left": 2, "right": 2, "top": 2}.items()}
    kind = {"family": "categorical", "size": 2}
    gmm = {**GMM, "ports": {"component": "kind", "observation": "top"}}
    spare = {**GMM, "ports": {"component": "other", "observation": "e"}}
    link = {"type": "table", "ports": {"given": ["kind"], "child": "other"}, "values": [[0.5, 0.5], [0.5, 0.5]]}
    return load_graph({
        "serket": 1,
        "variables": {"kind": kind, "other": kind, **variables},
        "modules": {"kinds": gmm, "spare": spare, "link": link, **silent(sizes)},
        "composers": {"roof": body("top", "left", "right"), "wall": body("right", "c", "d"), "door": body("left", "a", "b")},
    })  # fmt: skip


def correlated(sizes, rows=40):
    rng = np.random.default_rng(0)
    common = rng.normal(size=(rows, 2))
    return {
        name: common @ rng.normal(size=(2, size)) + 0.3 * rng.normal(size=(rows, size)) for name, size in sizes.items()
    }


def test_lower_composers_are_fitted_before_higher_ones_and_concepts_last():
    graph = tower()
    modules = graph.build()
    evidence = evidence_of(graph, modules, correlated({"a": 2, "b": 2, "c": 3, "d": 2, "e": 2}))
    order = []
    for task in compose(graph, modules, evidence, seed=0, dtype=torch.float64):
        children = [port for port in task.inbox if graph.nodes[task.name].ports[port].role == "child"]
        assert all(not bool(task.inbox[port].is_vacuous().any()) for port in children), f"{task.name} hears nothing"
        order.append(task.name)
        task.run()
    assert order == ["wall", "door", "roof", "kinds", "spare"]


def test_a_concept_hears_the_composer_and_no_prior():
    """Its inbox is the composer's likelihood message: N(0, I) is its own to replace."""
    fitted = model("digits")
    evidence = evidence_of(fitted.graph, fitted.modules, readings("digits", rows=9, seed=3))
    standing = frozenset(fitted.modules) - {"kinds"}
    task = listen(fitted.graph, fitted.modules, evidence, "kinds", standing, seed=0, dtype=torch.float64)
    beliefs = fitted.infer(readings("digits", rows=9, seed=3), active=standing)
    heard = task.inbox["observation"] * Gaussian.standard((9,), 2, dtype=torch.float64)
    torch.testing.assert_close(heard.mean(), beliefs["shared"].mean(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(heard.covariance(), beliefs["shared"].covariance(), rtol=1e-9, atol=1e-9)
    assert bool(task.inbox["component"].is_vacuous().all())
    assert task.evidence.values is None and len(task.evidence) == 9


def test_a_composer_hears_likelihoods_and_silence_where_rows_are_missing():
    fitted, data = model("digits"), readings("digits", rows=12, seed=4)
    data["a"][[2, 5]] = np.nan
    data["c"][5:8] = np.nan
    evidence = evidence_of(fitted.graph, fitted.modules, data)
    standing = frozenset({"a", "b", "c"})
    task = listen(fitted.graph, fitted.modules, evidence, "body", standing, seed=0, dtype=torch.float64)
    assert task.inbox["views[0]"].is_vacuous().nonzero().flatten().tolist() == [2, 5]
    assert task.inbox["views[1]"].is_vacuous().nonzero().flatten().tolist() == []
    assert task.inbox["views[2]"].is_vacuous().nonzero().flatten().tolist() == [5, 6, 7]
    assert bool(task.inbox["shared"].is_vacuous().all())
    for port, name in (("views[0]", "a"), ("views[1]", "b"), ("views[2]", "c")):
        inbox = {
            p: Gaussian.vacuous((12,), port_.size, dtype=torch.float64)
            for p, port_ in fitted.modules[name].ports.items()
        }
        said = fitted.modules[name].infer(inbox, evidence[name], generator=torch.Generator()).messages
        assert torch.equal(task.inbox[port].full().precision, next(iter(said.values())).full().precision)
    report = task.run().report
    assert report.history["log_evidence"][-1] > report.history["log_evidence"][0]


def test_a_composer_fitted_with_rows_missing_is_near_the_one_fitted_with_all():
    data = {key: values for key, values in readings("digits", rows=200).items() if key != "c"}
    gaps = {key: values.copy() for key, values in data.items()}
    for index, values in enumerate(gaps.values()):
        values[np.arange(200) % 5 == index] = np.nan
    test = {key: values[150:] for key, values in data.items()}
    data, gaps = ({key: values[:150] for key, values in one.items()} for one in (data, gaps))
    whole, holed = (serket.fit(_sensors_only(), d, seed=0, test_fraction=0.0, workers=1) for d in (data, gaps))
    loss = float((whole.infer(test).log_evidence - holed.infer(test).log_evidence).mean())
    shuffled = {**data, "b": data["b"][::-1].copy()}
    worse = serket.fit(_sensors_only(), shuffled, seed=0, test_fraction=0.0, workers=1)
    assert loss < 0.2 * float((whole.infer(test).log_evidence - worse.infer(test).log_evidence).mean())


def _sensors_only():
    sizes = {"a": 6, "b": 4}
    variables = {v: {"family": "gaussian", "size": k} for v, k in {**sizes, "s": 2}.items()}
    return load_graph(
        {"serket": 1, "variables": variables, "modules": silent(sizes), "composers": {"body": body("s", "a", "b")}}
    )


@pytest.mark.parametrize(
    ("changes", "owned"),
    [
        ({}, {"component"}),
        ({"variables": {"kind": {"family": "categorical", "size": 3, "prior": [0.2, 0.3, 0.5]}}}, set()),
        ({"variables": {"why": {"family": "categorical", "size": 2}}, "modules": {"cause": {
            "type": "table", "ports": {"given": ["why"], "child": "kind"}, "values": [[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]}}}, set()),
        ({"modules": {"sign": {"type": "table", "data": "c", "ports": {"given": ["kind"]}, "values": [[1.0]] * 3}}}, set()),
    ],
    ids=["nobody", "graph-prior", "child-port", "two-parents"],
)  # fmt: skip
def test_a_mixture_owns_its_weights_only_if_nobody_else_speaks_of_them(changes, owned):
    spec = copy.deepcopy(DIGITS)
    del spec["modules"]["c"], spec["variables"]["z_c"]
    spec["composers"]["body"]["ports"]["views"] = ["z_a", "z_b"]
    for section, entries in changes.items():
        spec[section] = {**spec[section], **entries}
    graph = load_graph(spec)
    modules, data = graph.build(), readings("digits")
    evidence = evidence_of(
        graph, modules, {"a": data["a"], "b": data["b"], **({"c": np.zeros((60, 1))} if "sign" in graph.nodes else {})}
    )
    for task in alone(graph, modules, evidence, seed=0, dtype=torch.float64):
        assert task.owned == frozenset()
        task.run()
    tasks = {}
    for task in compose(graph, modules, evidence, seed=0, dtype=torch.float64):
        tasks[task.name] = task.owned
        task.run()
    assert tasks == {"body": {"shared"}, "kinds": owned}
    weights = modules["kinds"].own_prior["component"].probs
    assert bool((weights == weights[0]).all()) == (not owned)


def test_a_mixture_on_data_learns_its_weights_though_another_module_owns_them_later():
    """Alone means alone: who is above it is heard when it is composed, not while it is pretrained."""
    cause = {
        "type": "table",
        "ports": {"given": ["why"], "child": "kind"},
        "values": [[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]],
    }
    spec = {
        "serket": 1,
        "variables": {"kind": {"family": "categorical", "size": 3}, "why": {"family": "categorical", "size": 2}},
        "modules": {"kinds": {**GMM, "data": "a", "ports": {"component": "kind"}}, "cause": cause},
    }
    graph = load_graph(spec)
    modules = graph.build()
    evidence = evidence_of(graph, modules, {"a": readings("digits")["a"]})
    (task,) = alone(graph, modules, evidence, seed=0, dtype=torch.float64)
    assert task.owned == {"component"}


def test_test_rows_are_never_seen():
    """Other values in the test rows, labels and all: the same states, to the bit."""
    split = {"train": np.arange(0, 45), "test": np.arange(45, 60)}
    data = {**readings("digits"), **split, "label": np.arange(60) % 3}
    other = {key: values.copy() for key, values in data.items()}
    for key in ("a", "b", "c"):
        other[key][45:] = 1e3 * np.random.default_rng(5).normal(size=other[key][45:].shape)
    other["label"] = other["label"][::-1].copy()
    seen = {key: values.copy() for key, values in data.items()}
    seen["a"][44] += 1.0
    states = []
    for one in (data, other, seen):
        fitted = serket.fit(DIGITS, one, seed=0, workers=1)
        states.append(
            {(n, k): v for n, m in fitted.modules.items() if isinstance(m, Trainable) for k, v in m.state().items()}
        )
    assert {name for name, _ in states[0]} == {"a", "b", "body", "kinds"}
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    for name in ("a", "body", "kinds"):  # a training row does matter, all the way up
        assert any(not torch.equal(value, states[2][key]) for key, value in states[0].items() if key[0] == name)


def test_fitting_leaves_the_data_alone():
    data = readings("digits")
    data["a"][3] = np.nan
    copies = {key: values.copy() for key, values in data.items()}
    serket.fit(DIGITS, data, seed=0, workers=1)
    assert all(np.array_equal(values, copies[key], equal_nan=True) for key, values in data.items())


def test_a_module_that_closes_a_cycle_hears_all_the_others():
    """Without the silent module the graph is a tree; its passes must reach both of its variables."""
    table = [[0.9, 0.1], [0.2, 0.8]]
    graph = serket.load_graph(
        {
            "serket": 1,
            "variables": {name: {"family": "categorical", "size": 2} for name in "xyz"},
            "modules": {
                "sx": {"type": "table", "ports": {"given": "x"}, "data": "sx", "values": table},
                "xy": {"type": "table", "ports": {"given": "x", "child": "y"}, "values": table},
                "yz": {"type": "table", "ports": {"given": "y", "child": "z"}, "values": table},
                "xz": {"type": "table", "ports": {"given": ["x", "z"]}, "data": "xz", "values": [table, table]},
            },
        }
    )
    evidence = {name: serket.Evidence.of(torch.tensor([[1.0]], dtype=torch.float64)) for name in ("sx", "xz")}
    modules = graph.build()
    heard = pass_messages(graph, modules, evidence, dtype=torch.float64, silent="xz").exchange.inbox("xz")
    matrix = torch.tensor(table, dtype=torch.float64)
    x = matrix[:, 1] / matrix[:, 1].sum()
    torch.testing.assert_close(heard["given[0]"].probs[0], x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(heard["given[1]"].probs[0], x @ matrix @ matrix, rtol=1e-10, atol=1e-10)
