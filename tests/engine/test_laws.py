"""Laws of the whole (DESIGN, section 3): modules meet only through messages, and missing is vacuous, to the bit."""

import numpy as np
import pytest
import safetensors.torch
import torch

from serket.engine import run
from serket.inputs import dtype_of, gather
from serket.messages import Categorical, Gaussian
from serket.protocol import Reply, Trainable
from tests.engine.models import SPECS, model, numbers, readings
from tests.engine.wire import pack, unpack

NAMES = list(SPECS)


def same_bits(one, other):
    left, right = numbers(one), numbers(other)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name
    assert (one.bound, one.reason, one.exact, one.converged) == (
        other.bound,
        other.reason,
        other.exact,
        other.converged,
    )


def evidence_of(name, missing=True):
    fitted, data = model(name), readings(name, rows=8, seed=1)
    if missing:
        for row, key in enumerate(data):
            data[key][[row, 5]] = np.nan  # row 5 has nothing at all
    dataset = fitted._dataset(data)
    return gather(fitted.graph, fitted.modules, dataset, dtype=dtype_of(dataset))


@pytest.mark.parametrize("name", NAMES)
def test_replies_may_travel_as_bytes(name):
    """Law 14: modules built apart, each from its own stored state, hear each other through bytes only."""
    fitted, evidence = model(name), evidence_of(name)
    apart = fitted.graph.build()
    for node, module in apart.items():
        if isinstance(module, Trainable):
            stored = safetensors.torch.save({k: v.contiguous() for k, v in fitted.modules[node].state().items()})
            module.load(safetensors.torch.load(stored))
    packets = []

    def relay(reply):
        packets.append(pack(reply))
        return unpack(packets[-1])

    same_bits(run(fitted.graph, fitted.modules, evidence), run(fitted.graph, apart, evidence, relay=relay))
    assert len(packets) >= len(fitted.graph.nodes) and all(isinstance(packet, bytes) for packet in packets)


def test_the_wire_carries_everything_of_a_reply():
    g = torch.Generator().manual_seed(0)
    lam = torch.rand(3, 2, generator=g) + 1
    messages = {"views[0]": Gaussian(lam, lam), "k": Categorical(torch.tensor([[0.0, -torch.inf]]).expand(3, 2))}
    sent = Reply(
        messages, {"k": frozenset({"inbox", "own_prior"})}, frozenset({"views[0]"}), lam[:, 0], "lower", {"e": 0.5}
    )
    got = unpack(pack(sent))
    assert (got.includes, got.tilted, got.bound) == (sent.includes, sent.tilted, sent.bound)
    assert torch.equal(got.log_evidence, sent.log_evidence) and float(got.info["e"]) == 0.5
    for port, message in messages.items():
        assert type(got.messages[port]) is type(message)
        assert all(torch.equal(v, got.messages[port].tensors()[part]) for part, v in message.tensors().items())


@pytest.mark.parametrize("name", NAMES)
def test_an_absent_sense_with_nan_planted_is_a_sense_skipped(name):
    """Law 3, to the bit, through everything a user touches."""
    fitted, data = model(name), readings(name, rows=7, seed=2)
    for key in data:
        others = {other: values for other, values in data.items() if other != key}
        skipped = fitted.infer(others)
        same_bits(fitted.infer({**others, key: np.full_like(data[key], np.nan)}), skipped)
        mask = np.zeros(7, dtype=bool)
        same_bits(fitted.infer({**data, f"{key}_mask": mask}), skipped)
        same_bits(fitted.infer(data, observe=list(others)), skipped)
        assert any(not torch.equal(v, numbers(skipped)[n]) for n, v in numbers(fitted.infer(data)).items())
    # Row by row: one absent in some rows leaves the others as they are.
    key = next(iter(data))
    some = {**data, key: np.where((np.arange(7) % 2 == 0)[:, None], np.nan, data[key])}
    mixed, full = numbers(fitted.infer(some)), numbers(fitted.infer(data))
    skipped = numbers(fitted.infer({other: values for other, values in data.items() if other != key}))
    for part, values in mixed.items():
        assert torch.equal(values[0::2], skipped[part][0::2]) and torch.equal(values[1::2], full[part][1::2]), part


@pytest.mark.parametrize("name", NAMES)
def test_nothing_observed_gives_the_prior(name):
    fitted = model(name)
    nothing = {key: np.full_like(values, np.nan) for key, values in readings(name, rows=3).items()}
    result = fitted.infer(nothing)
    assert not bool(result.present.any()) and bool((result.contribution == 0).all())
    assert bool((result.conflict == 0).all())
    if result.exact:
        torch.testing.assert_close(result.log_evidence, torch.zeros(3).double(), rtol=0, atol=1e-12)
    if name in ("position", "offers"):
        torch.testing.assert_close(result["x"].mean()[0], torch.tensor([1.0, 2.0]).double())
        torch.testing.assert_close(result["x"].covariance()[0], torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double())
    elif name == "rain":
        torch.testing.assert_close(result["rain"].probs[0], torch.tensor([0.8, 0.2]).double())
        torch.testing.assert_close(
            result["wet"].probs[0], torch.tensor([0.8 * 0.9 + 0.2 * 0.2, 0.8 * 0.1 + 0.2 * 0.8]).double()
        )
    elif name == "robust":
        for variable in result:
            torch.testing.assert_close(result[variable].mean(), torch.zeros(3, 2).double(), rtol=0, atol=1e-9)
            torch.testing.assert_close(result[variable].variance(), torch.ones(3, 2).double(), rtol=0, atol=1e-9)
    else:
        weights = fitted.modules["kinds"].own_prior["component"].probs
        torch.testing.assert_close(result["kind"].probs[1], weights, rtol=0, atol=1e-9)
    for belief in result.values():
        assert bool(belief.is_proper().all())


@pytest.mark.parametrize("name", NAMES)
def test_row_order_does_not_matter(name):
    fitted, evidence = model(name), evidence_of(name)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    straight = numbers(run(fitted.graph, fitted.modules, evidence))
    turned = numbers(run(fitted.graph, fitted.modules, {node: one[order] for node, one in evidence.items()}))
    for part, values in straight.items():
        torch.testing.assert_close(
            turned[part], values[order], rtol=1e-11, atol=1e-11, msg=lambda m, p=part: f"{p}: {m}"
        )
