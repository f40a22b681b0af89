"""What every trainable module promises of ``fit``, ``state`` and ``load`` (DESIGN, laws 4, 5, 11)."""

import pytest
import safetensors.torch
import torch

from serket.errors import SerketError
from serket.messages import Gaussian
from serket.protocol import FitReport, Trainable
from serket.testing.case import FIT_ROWS
from serket.testing.infer import same_bits
from serket.testing.run import expect, only

trainable = only(lambda case: isinstance(case.fresh(), Trainable))
diagonal = only(
    lambda case: (
        isinstance(case.fresh(), Trainable)
        and not case.full
        and any(port.family == "gaussian" for port in case.ports.values())
    )
)


@trainable
def test_same_seed_same_bytes(case):
    states = []
    for seed, unrelated in ((3, 0), (3, 1), (4, 0)):
        torch.manual_seed(unrelated)
        module = case.fresh()
        case.fit(module, seed)
        states.append(dict(module.state()))
    first, again, other = states
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    if not case.deterministic:
        assert any(not torch.equal(first[name], other[name]) for name in first), "the seed has no say"


@trainable
def test_state_round_trip(case):
    fitted = case.fitted()
    stored = safetensors.torch.save({name: value.contiguous() for name, value in fitted.state().items()})
    fresh = case.fresh()
    fresh.load(safetensors.torch.load(stored))
    same_bits(case.infer(fitted, case.inbox(1), case.evidence(0)), case.infer(fresh, case.inbox(1), case.evidence(0)),
              slice(None), "after load(state()) a fresh module replies as the fitted one",
              "return everything that infer needs from state, and take all of it back in load")  # fmt: skip
    for port, prior in getattr(fitted, "own_prior", {}).items():
        for part, values in prior.tensors().items():
            assert torch.equal(values, fresh.own_prior[port].tensors()[part]), "own_prior belongs to the state"


@trainable
def test_a_state_is_not_tied_to_its_module(case):
    module = case.fitted()
    kept = module.state()
    copies = {name: value.clone() for name, value in kept.items()}
    case.fit(module, seed=9, rows=36)  # other rows, for fits in closed form
    assert all(torch.equal(kept[name], copies[name]) for name in kept), "fit wrote into a state handed out before"
    assert any(not torch.equal(value, copies[name]) for name, value in module.state().items()), "fit changed nothing"


@trainable
def test_fit_changes_nothing_but_the_module(case):
    evidence, inbox = case.evidence(100, FIT_ROWS), case.training_inbox(FIT_ROWS)
    held = {f"{name}.{part}": values for name, one in inbox.items() for part, values in one.tensors().items()}
    held |= {"observed": evidence.observed, "row_id": evidence.row_id}
    held |= {} if evidence.values is None else {"values": evidence.values}
    copies, shared = {name: values.clone() for name, values in held.items()}, torch.get_rng_state()
    report = case.fit(case.fresh(), evidence=evidence, inbox=inbox)
    assert all(torch.equal(values, copies[name]) for name, values in held.items())
    assert torch.equal(torch.get_rng_state(), shared)
    told = f"fit returned {type(report).__name__}" if not isinstance(report, FitReport) else str(report)
    expect(isinstance(report, FitReport) and report.steps > 0 and report.history,
           f"fit returns a FitReport with the steps taken and a curve: {told}",
           'end fit with return serket.FitReport(steps, history={"likelihood": [...]})')  # fmt: skip
    assert all(torch.tensor(curve).isfinite().all() for curve in report.history.values())


@trainable
def test_absent_rows_teach_nothing(case):
    """A fit on rows (sequences, on the time plate) with some absent equals a fit without, whatever they hold."""
    keep = torch.ones(FIT_ROWS, dtype=torch.bool)
    keep[torch.tensor([0, 1, 2, 15, 22, 23] if case.time else [0, 7, 20, 21])] = False
    evidence, inbox = case.evidence(100, FIT_ROWS, absent=()), case.training_inbox(FIT_ROWS)
    states = []
    for trash in (1.0, -50.0):
        masked = evidence
        if case.data is not None:
            values = torch.where(keep.unsqueeze(1), evidence.values, torch.full_like(evidence.values, trash))
            masked = type(evidence).of(values, keep, evidence.row_id, evidence.sequence)
        module = case.fresh()
        case.fit(module, evidence=masked, inbox={name: one.mask(keep) for name, one in inbox.items()})
        states.append(module.state())
    alone = case.fresh()
    case.fit(alone, evidence=evidence[keep], inbox={name: one[keep] for name, one in inbox.items()})
    for name, value in alone.state().items():
        assert torch.equal(states[0][name], states[1][name])
        torch.testing.assert_close(states[0][name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@trainable
def test_fit_takes_both_precisions(case, dtype):
    evidence = case.evidence(100, FIT_ROWS, dtype=dtype)
    inbox = {}
    for name, one in case.training_inbox(FIT_ROWS).items():
        inbox[name] = type(one)(**{part: values.to(dtype) for part, values in one.tensors().items()})
    module = case.fresh()
    case.fit(module, evidence=evidence, inbox=inbox)
    reply = case.infer(module, case.inbox(1, dtype=dtype), case.evidence(0, dtype=dtype))
    for one in reply.messages.values():
        assert one.dtype == dtype and all(not bool(values.isnan().any()) for values in one.tensors().values())
    case.fit(module, seed=1, evidence=evidence, inbox=inbox)  # and goes on from there


@trainable
def test_an_unfitted_module_says_so(case):
    with pytest.raises(SerketError) as caught:
        case.infer(case.fresh(), case.inbox(1), case.evidence(0))
    assert caught.value.fix


@diagonal
def test_full_and_diagonal_messages_are_the_same_messages(case):
    module, evidence, inbox = case.fitted(), case.evidence(0), case.inbox(1)
    full = {name: one.full() if isinstance(one, Gaussian) else one for name, one in inbox.items()}
    for a, b in zip(case.infer(module, inbox, evidence).messages.values(),
                    case.infer(module, full, evidence).messages.values(), strict=True):  # fmt: skip
        a, b = (one.full() if isinstance(one, Gaussian) else one for one in (a, b))
        for part, values in a.tensors().items():
            torch.testing.assert_close(values, b.tensors()[part], rtol=1e-9, atol=1e-9)
