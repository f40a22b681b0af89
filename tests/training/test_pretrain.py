"""Every module alone: the same bytes side by side as one after another, and errors that name the module."""

import multiprocessing

import pytest
import safetensors.torch
import torch

import serket
from serket.errors import DataError, MessageError
from serket.protocol import FitReport
from serket.testing.case import Case
from serket.training import Task, pretrain
from serket.training.compose import alone
from tests.contract.cases import TRAINABLE
from tests.engine.models import DIGITS, SPECS, readings

WORKERS = pytest.mark.parametrize("workers", [1, 2])
VAES = [case for case in TRAINABLE if case.type == "vae"]


def tasks_of(cases: list[Case], seed=0):
    tasks = []
    for index, case in enumerate(cases):
        rows = 20 + 10 * index
        tasks.append(Task(f"m{index}", case.fresh(), case.evidence(5, rows), case.training_inbox(rows), frozenset(),
                          case.fit_options, seed))  # fmt: skip
    return tasks


def states(tasks):
    return {
        task.name: safetensors.torch.save({k: v.contiguous() for k, v in task.module.state().items()}) for task in tasks
    }


def test_in_parallel_the_bytes_are_the_same():
    one_by_one, side_by_side = tasks_of(TRAINABLE), tasks_of(TRAINABLE)
    first = {fitted.name: fitted for fitted in pretrain(one_by_one, workers=1)}
    second = {fitted.name: fitted for fitted in pretrain(side_by_side, workers=3)}
    assert states(one_by_one) == states(side_by_side)
    assert first.keys() == second.keys() == {task.name for task in one_by_one}
    for name, fitted in first.items():
        assert fitted.report == second[name].report and fitted.seconds > 0 and second[name].seconds > 0


def run_all(tasks):
    list(pretrain(tasks))
    return tasks


def test_a_module_is_fitted_alike_whoever_else_is():
    """Its stream derives from the seed and its own name."""
    together, alone_ = tasks_of(VAES), tasks_of(VAES)[1:2]
    assert states(run_all(together))["m1"] == states(run_all(alone_))["m1"]
    same_data = tasks_of([VAES[0], VAES[0]])
    same_data[1] = Task(
        "m1", VAES[0].fresh(), same_data[0].evidence, same_data[0].inbox, frozenset(), VAES[0].fit_options, 0
    )
    both = states(run_all(same_data))
    assert both["m0"] != both["m1"], "two modules must not draw the same numbers"


@WORKERS
def test_progress_names_the_module(workers):
    told = []
    list(pretrain(tasks_of(VAES[:2]), workers=workers, report=lambda *step: told.append(step)))
    for name in ("m0", "m1"):
        assert [step[1:3] for step in told if step[0] == name] == [(1, 3), (2, 3), (3, 3)]


class Fails:
    """A trainable that fails as it is told, or writes down that it was fitted."""

    ports = {}

    def __init__(self, error=None):
        self.error, self.weight = error, torch.zeros(1)

    def infer(self, inbox, evidence, *, generator, ports=None):
        raise NotImplementedError

    def fit(self, evidence, inbox, *, generator, owned=frozenset(), progress=None):
        if self.error is not None:
            raise self.error
        self.weight = torch.ones(1)
        return FitReport(1)

    def state(self):
        return {"weight": self.weight}

    def load(self, state):
        self.weight = state["weight"]


def failing(error):
    nothing = serket.Evidence.none(3)
    modules = {"fine": Fails(), "broken": Fails(error)}
    return [Task(name, module, nothing, {}, frozenset(), {}, 0) for name, module in modules.items()]


@WORKERS
def test_a_mistake_names_its_module_and_keeps_its_parts(workers):
    mistake = DataError("no rows", where="pix", expected="one", found="none", available=["a", "b"], fix="give some")
    with pytest.raises(DataError) as caught:
        list(pretrain(failing(mistake), workers=workers))
    error = caught.value
    assert error.where == "broken: pix" and str(error).startswith("broken: pix: no rows")
    assert (error.expected, error.found, error.available, error.fix) == ("one", "none", ("a", "b"), "give some")
    assert multiprocessing.active_children() == []


@WORKERS
def test_a_mistake_without_a_place_gets_one(workers):
    with pytest.raises(DataError, match=r"^broken: no rows"):
        list(pretrain(failing(DataError("no rows")), workers=workers))


@WORKERS
def test_a_crash_is_not_swallowed(workers):
    with pytest.raises(MessageError, match=r"(?s)broken: .*raised ZeroDivisionError: by design.*test_pretrain.py"):
        list(pretrain(failing(ZeroDivisionError("by design")), workers=workers))
    assert multiprocessing.active_children() == []


def test_the_whole_fit_is_the_same_with_more_workers():
    models = [serket.fit(DIGITS, readings("digits"), seed=3, test_fraction=0.25, workers=w) for w in (1, 2)]
    for name in ("a", "b", "body", "kinds"):
        for part, value in models[0].modules[name].state().items():
            assert torch.equal(value, models[1].modules[name].state()[part]), f"{name}.{part}"


def test_tasks_are_the_trainable_readers_under_silence():
    for name in SPECS:
        model = serket.fit(SPECS[name], readings(name), seed=0, test_fraction=0.0, workers=1)
        evidence = {
            node: serket.Evidence.of(torch.zeros(4, 1).double())
            for node in model.graph.nodes
            if model.graph.nodes[node].data
        }
        tasks = alone(model.graph, model.modules, evidence, seed=0, dtype=torch.float64)
        assert [task.name for task in tasks] == (["a", "b"] if name == "digits" else [])
        for task in tasks:
            assert all(bool((message.mean() == 0).all()) for message in task.inbox.values())  # N(0, I), by default
            assert task.options == {"epochs": 4, "batch": 16}
