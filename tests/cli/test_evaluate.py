"""What evaluate measures, on what, and what it says where it does not measure."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import serket.evaluate as measuring
from serket.data import load
from serket.evaluate import evaluate, integrated
from serket.graph import parse_graph
from serket.model import Model
from tests.cli.conftest import TINY


def fixed(views, above=True):
    """Return a model of sensors 0, 1, ... in which nothing is trained, with a shared latent; above moves its mean."""
    names = [f"d{i}" for i in range(views)]
    variables = "".join(f"  z_{name}: {{family: gaussian, size: 2}}\n" for name in names)
    modules = "".join(
        f"  {name}: {{type: linear_gaussian, data: {name}, ports: {{given: z_{name}}}, matrix: [[1, 0], [0, {i + 1}]],"
        f" noise: [[1, 0], [0, 1]]}}\n"
        for i, name in enumerate(names)
    )
    top = (
        "  above: {type: linear_gaussian, ports: {given: cause, child: shared}, matrix: [[3], [-1]],"
        " noise: [[0.1, 0], [0, 0.1]], offset: [2, 5]}\n"
    )
    text = (
        "serket: 1\nvariables:\n"
        f"{variables}  shared: {{family: gaussian, size: 2}}\n"
        f"{'  cause: {family: gaussian, size: 1}' if above else ''}\n"
        f"modules:\n{modules}{top if above else ''}"
        "composers:\n"
        f"  body: {{type: product, ports: {{shared: shared, views: [{', '.join(f'z_{n}' for n in names)}]}}}}\n"
    )
    graph = parse_graph(text, "fixed.yaml")
    return Model(graph, graph.build())


def seen(views, rows=30, **changes):
    g = np.random.default_rng(0)
    label = g.integers(0, 2, rows)
    arrays = {f"d{i}": g.normal(size=(rows, 2)) + label[:, None] for i in range(views)}
    return load({**arrays, "label": label, **changes}, [f"d{i}" for i in range(views)])


def test_scores_are_taken_below_the_concepts(monkeypatch):
    """The shared latent as senses and composers have it; what stands above moves its mean, and is not measured."""
    model, data = fixed(2), seen(2)
    below = integrated(model)
    assert below == {"d0", "d1", "body"}
    taught, scored = [], []
    probe, accuracy = measuring.probe, measuring.probe_accuracy
    monkeypatch.setattr(measuring, "probe", lambda f, y: taught.append(f) or probe(f, y))
    monkeypatch.setattr(measuring, "probe_accuracy", lambda p, f, y: scored.append(f) or accuracy(p, f, y))
    evaluate(model, data)

    def shared(rows, observe, active):
        return model.infer(data, rows=rows, observe=observe, active=active)["shared"].mean()

    def imagined(to, given, active):
        return model.generate(to, data, observe=[given], rows=data.test, active=active).mean

    expected = [shared(data.test, keys, below) for keys in (["d0"], ["d1"], ["d0", "d1"])]
    expected += [imagined("d0", "d1", below), imagined("d1", "d0", below)]
    assert torch.equal(taught[0], shared(data.train, None, below))
    assert len(scored) == 5 and all(map(torch.equal, scored, expected))
    others = [shared(data.test, ["d0"], None), imagined("d0", "d1", None)]
    assert not any(torch.allclose(one, scored[i]) for one, i in zip(others, (0, 3), strict=True))
    assert not torch.allclose(taught[0], shared(data.train, None, None))


def test_of_seven_senses_single_ones_all_but_one_and_all_are_measured_and_it_says_so():
    metrics = evaluate(fixed(7), seen(7))
    keys = [f"d{i}" for i in range(7)]
    but_one = ["+".join(k for k in keys if k != left) for left in reversed(keys)]
    assert list(metrics["subsets"]) == [*keys, *but_one, "+".join(keys)]
    assert metrics["notes"] == ["subsets: of 7 data keys only single ones, all but one, and all are measured"]
    assert len(metrics["coherence"]) == 7 * 6 + 1
    assert "notes" not in evaluate(fixed(6), seen(6)) and len(evaluate(fixed(3), seen(3))["subsets"]) == 7


def test_test_rows_that_lack_a_view_do_not_count_for_it():
    model, data = fixed(2), seen(2, rows=60)
    lacking = np.ones(60, bool)
    lacking[data.test[::3]] = False
    data = seen(2, rows=60, d0_mask=lacking)
    assert 0 < lacking[data.test].sum() < len(data.test)
    metrics = evaluate(model, data)
    having = evaluate(model, replace(data, test=data.test[lacking[data.test]]))
    for measure in ("reconstruction", "prediction", "contribution"):
        assert metrics["unlabelled"][measure]["d0"] == pytest.approx(having["unlabelled"][measure]["d0"], rel=1e-12)
    assert metrics["unlabelled"]["reconstruction"]["d1"] != having["unlabelled"]["reconstruction"]["d1"]
    assert "notes" not in metrics and set(metrics["coherence"]) == {"d0>d1", "d1>d0", "mean"}
    nowhere = np.ones(60, bool)
    nowhere[data.test] = False
    metrics = evaluate(model, seen(2, rows=60, d0_mask=nowhere))
    assert metrics["notes"] == ["d0: not measured as imagined, for no test row has it"]
    assert set(metrics["coherence"]) == {"d0>d1", "mean"} and set(metrics["subsets"]) == {"d1"}


def test_labels_that_leave_nothing_to_tell_apart_are_noted():
    data = seen(2, rows=60)
    one = evaluate(fixed(2), seen(2, rows=60, d0_mask=data.label == 1))
    assert one["notes"] == [
        "coherence of d0: not measured, for the training rows it is learned from have one label only, 1"
    ]
    assert set(one["coherence"]) == {"d0>d1", "mean"} and "probe_accuracy" in one["subsets"]["d0"]
    untaught = np.zeros(60, bool)
    untaught[data.test] = True
    none = evaluate(fixed(2), seen(2, rows=60, d0_mask=untaught))
    assert none["notes"] == ["coherence of d0: not measured, for the training rows it is learned from are none"]


def test_a_run_with_labels_of_one_class_is_written(serket, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    g = np.random.default_rng(0)
    a, b = g.normal(size=(40, 4)).astype("f4"), g.normal(size=(40, 3)).astype("f4")
    np.savez(tmp_path / "tiny.npz", a=a, b=b, label=np.full(40, 7))
    status, out, err = serket("run", "tiny.yaml", "--out", "r")
    assert status == 0, err
    metrics = json.loads((tmp_path / "r/metrics.json").read_text())
    about = "not measured, for the training rows it is learned from have one label only, 7"
    notes = [note for note in metrics["notes"] if "not measured" in note]
    assert notes == [f"{what}: {about}" for what in ("probe_accuracy", "coherence of a", "coherence of b")]
    assert metrics["coherence"] == {} and "evidence" in metrics["subsets"]["a+b"]
    assert "note: coherence of b: not measured" in out and max(map(len, out.splitlines())) <= 80
