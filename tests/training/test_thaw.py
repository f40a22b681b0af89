"""Modules that learn on with their composer: one objective, through messages alone, and nobody else is touched."""

import json

import pytest
import torch

import serket
from serket.composer import JointComposer
from serket.errors import DataError, GraphError
from serket.graph import check, load_graph
from serket.messages import Family, Gaussian
from serket.protocol import Evidence, Port, Role, Thawable, Thaws
from serket.registry import lookup
from serket.testing.case import generator
from serket.training.thaw import _speak, thaw
from tests.contract.cases import CASES

VIEWS = ("a", "b")


def data(rows=240):
    """Two views, curves of two numbers; a tenth of the rows lack one."""
    g = generator(0)
    s = torch.randn(rows, 2, generator=g)
    views = {v: torch.tanh(s @ torch.randn(2, 6, generator=g)) + 0.1 * torch.randn(rows, 6, generator=g) for v in VIEWS}
    views["a"][:12], views["b"][12:24] = torch.nan, torch.nan
    order = torch.randperm(rows, generator=g).numpy()
    return {
        **{v: one.numpy() for v, one in views.items()},
        "train": order[: rows * 3 // 4],
        "test": order[rows * 3 // 4 :],
    }


def graph(thaw=(), objective="mvae", **modules):
    vae = {"type": "vae", "hidden": [12], "fit": {"epochs": 20, "batch": 32}}
    return {
        "serket": 1,
        "variables": {name: {"family": "gaussian", "size": 3} for name in (*VIEWS, "s")},
        "modules": {v: modules.get(v, {**vae, "data": v, "ports": {"latent": v}}) for v in VIEWS},
        "composers": {"body": {"type": "joint", "objective": objective, "hidden": [12], "thaw": list(thaw),
                               "ports": {"shared": "s", "views": list(VIEWS)}, "fit": {"epochs": 20, "batch": 32}}},
    }  # fmt: skip


def evidence(model):
    """Of the rows that nobody learnt from, mean nats a row, by the engine."""
    arrays = data()
    result = model.infer({view: arrays[view][arrays["test"]] for view in VIEWS})
    return float(result.log_evidence.double().mean())


def test_a_thawed_module_learns_on_and_no_other_does():
    frozen, thawed = (serket.fit(graph(thaw), data(), workers=1) for thaw in ((), ("a",)))
    before, after = ({n: m.state() for n, m in model.modules.items()} for model in (frozen, thawed))
    assert all(torch.equal(before["b"][part], after["b"][part]) for part in before["b"])
    moved = {part for part in before["a"] if not torch.equal(before["a"][part], after["a"][part])}
    assert moved == set(thawed.modules["a"].parameters())  # weights; the scaling of its data stands
    kept = [part for part in before["body"] if part.endswith((".location", ".scale"))]
    assert len(kept) == 4 and all(torch.equal(before["body"][part], after["body"][part]) for part in kept)
    assert any(not torch.equal(before["body"][part], after["body"][part]) for part in before["body"])
    assert not any(value.requires_grad for state in after.values() for value in state.values())
    curve = thawed.histories["body"]["thawed"]
    assert len(curve) > 2 and max(curve) > curve[0] + 0.1 and "thawed" not in frozen.histories["body"]
    # The engine's evidence of rows that nobody learnt from knows nothing of that objective.
    assert evidence(thawed) > evidence(frozen)


def test_a_single_row_is_too_few_to_thaw_on():
    """One learns from some rows, and judges by others."""
    model = serket.fit(graph(), data(60), workers=1)
    body = model.modules["body"]
    body.thaw = ("a",)
    seen = {view: Evidence.of(torch.zeros(1, 6)) for view in VIEWS}
    with pytest.raises(DataError, match="too few rows to thaw on") as caught:
        thaw(load_graph(graph(("a",))), {**model.modules, "body": body}, seen, "body", {}, seed=0)
    assert "body.thaw: a" in str(caught.value) and caught.value.found == "1" and caught.value.fix


SLOW = [pytest.param(kind, marks=pytest.mark.stat) for kind in ("telbo", "mmvae", "mopoe", "mvtcae", "mmjsd", "dmvae")]


@pytest.mark.parametrize("objective", ["jmvae", "mmvae_plus", *SLOW])
def test_what_is_kept_is_never_worse_on_held_out_rows(objective):
    model = serket.fit(graph(VIEWS, objective), data(120), workers=1)
    curve = model.histories["body"]["thawed"]
    assert max(curve) > curve[0]
    again = serket.fit(graph(VIEWS, objective), data(120), workers=1)
    assert again.histories["body"]["thawed"] == curve


LINEAR = {"matrix": [[1.0, 0.5], [0.3, -2.0], [0.2, 0.1]], "noise": [[0.5, 0.2, 0.0], [0.2, 0.4, 0.0], [0.0, 0.0, 1.0]]}


def spoken(rows=5):
    """An exact module, its data, and a composer with some weights."""
    module = lookup("linear_gaussian", "module")(ports={"given[0]": Port(Role.PARENT, Family.GAUSSIAN, 2)}, **LINEAR)
    seen = Evidence.of(torch.randn(rows, 3, generator=generator(1), dtype=torch.float64))
    flat = Gaussian.vacuous((rows,), 2, dtype=torch.float64)
    message, read = _speak(module, seen, flat, generator(0))
    ports = {"shared": Port(Role.PARENT, Family.GAUSSIAN, 2)}
    ports |= {f"views[{m}]": Port(Role.CHILD, Family.GAUSSIAN, 2) for m in range(2)}
    return message, read, ports


@pytest.mark.parametrize("objective", ["jmvae", "mmvae", "mmjsd", "mmvae_plus"])
def test_what_a_module_reads_is_its_message_to_a_constant(objective):
    """For an exact module p(x | z) = c m(z): the objective differs by log c per row, whatever is drawn."""
    message, read, ports = spoken()
    other = Gaussian(*torch.rand(2, 5, 2, generator=generator(2), dtype=torch.float64))
    inbox = {"shared": Gaussian.standard((5,), 2, dtype=torch.float64), "views[0]": message, "views[1]": other}
    composer = JointComposer(ports, objective=objective, hidden=[4])
    composer.fit(Evidence.none(5), inbox, generator=generator(3), epochs=2)
    gaps = []
    for seed in (0, 1):
        plain, told = (composer.value(inbox, one, generator=generator(seed)) for one in ({}, {"views[0]": read}))
        gaps.append(told - plain)
    torch.testing.assert_close(gaps[0], gaps[1], rtol=0, atol=1e-9)
    prior = inbox["shared"]
    constant = read(prior) - ((prior * message).log_z() - prior.log_z())
    torch.testing.assert_close(gaps[0], constant, rtol=0, atol=1e-9)


def test_gradients_flow_through_messages_and_evidence():
    """Against finite differences in a module's weight."""
    case = next(case for case in CASES if case.type == "vae" and case.name == "gaussian")
    module, rows = case.fitted(), case.evidence(0, absent=())
    flat = Gaussian.vacuous((len(rows),), 3, dtype=torch.float64)
    ports = {"shared": Port(Role.PARENT, Family.GAUSSIAN, 2), "views[0]": Port(Role.CHILD, Family.GAUSSIAN, 3)}
    composer = JointComposer(ports, hidden=[4])
    inbox = {"shared": Gaussian.standard((len(rows),), 2, dtype=torch.float64)}
    first, _ = _speak(module, rows, flat, generator(0))
    composer.fit(Evidence.none(len(rows)), inbox | {"views[0]": first}, generator=generator(0), epochs=2)
    state = dict(module.state())

    def value(weight):
        module.load({**state, "encoder.0.weight": weight})
        message, read = _speak(module, rows, flat, generator(0))
        return composer.value(inbox | {"views[0]": message}, {"views[0]": read}, generator=generator(1)).sum()

    weight = state["encoder.0.weight"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(weight), weight)
    step = torch.zeros_like(weight)
    step.view(-1)[slope.abs().argmax()] = 1e-6  # where no rectifier is shut
    with torch.no_grad():
        around = (value(weight + step) - value(weight - step)) / 2e-6
    assert float((slope * step).sum() / 1e-6) == pytest.approx(float(around), rel=1e-5) and abs(float(around)) > 1e-3


@pytest.mark.parametrize("case", [c for c in CASES if isinstance(c.fresh(), Thawable)], ids=str)
def test_thawable_modules_give_gradients_on_request_only(case):
    module, inbox, rows = case.fitted(), case.inbox(1), case.evidence(0)
    state, learnt = dict(module.state()), module.parameters()
    assert learnt and all(learnt[part] is state[part] for part in learnt)
    cold = case.infer(module, inbox, rows)
    assert not cold.log_evidence.requires_grad
    if isinstance(module, Thaws):
        return  # a composer gives gradients by its value
    module.load({**state, **{part: value.clone().requires_grad_() for part, value in learnt.items()}})
    warm = case.infer(module, inbox, rows)
    assert warm.log_evidence.requires_grad and torch.equal(warm.log_evidence.detach(), cold.log_evidence)


FIXED = {
    "type": "linear_gaussian",
    "data": "a",
    "ports": {"given": ["a"]},
    "matrix": [[1.0, 0.0, 0.0]],
    "noise": [[1.0]],
}


@pytest.mark.parametrize("thaw, modules, said", [
    (["aa"], {}, ["'aa' cannot be thawed", "no such module", "available: a, b", "composers.body"]),
    (["a"], {"a": FIXED}, ["a linear_gaussian under it", "available: b"]),
    (["body"], {}, ["a joint", "available: a, b"]),
])  # fmt: skip
def test_what_cannot_be_thawed_is_refused_when_built(thaw, modules, said):
    with pytest.raises(GraphError) as caught:
        check(load_graph(graph(thaw, **modules)))
    assert all(word in str(caught.value) for word in said), str(caught.value)


def test_check_says_who_is_thawed():
    assert any("body: thaws a, b" in note for note in check(load_graph(graph(VIEWS))).warnings)
    assert not any("thaws" in note for note in check(load_graph(graph())).warnings)
    assert json.dumps(check(load_graph(graph(VIEWS))).as_dict())
