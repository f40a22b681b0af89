"""What every module whose categories have no names of their own promises of ``relabel``."""

from dataclasses import replace

import pytest
import torch

from serket.messages import Categorical
from serket.protocol import Relabels
from tests.contract.cases import TRAINABLE

NAMED = [
    pytest.param(case, port, id=f"{case}-{port}")
    for case in TRAINABLE
    if isinstance(case.fresh(), Relabels)
    for port, bound in case.ports.items()
    if bound.family == "categorical"
]


@pytest.mark.parametrize(("case", "port"), NAMED)
def test_beliefs_are_the_same_under_other_names(case, port):
    """Names of one variable permuted, in the module and in what it hears: all it says is the same, so permuted."""
    mlda = case.type == "mlda"  # whose points of integration are not the same under other names: many of them
    case = replace(case, options={**case.options, "points": 2**14}) if mlda else case
    module = case.fitted()
    inbox, evidence = case.inbox(1), case.evidence(0)
    before = case.infer(module, inbox, evidence)
    order = torch.randperm(case.ports[port].size, generator=torch.Generator().manual_seed(3)).roll(1)
    module.relabel(port, order)
    after = case.infer(module, {**inbox, port: Categorical(inbox[port].logits[:, order])}, evidence)
    far = 0.03 if mlda else 1e-6
    for name, message in before.messages.items():
        if isinstance(message, Categorical):
            said = message.probs[:, order] if name == port else message.probs
            torch.testing.assert_close(after.messages[name].probs, said, rtol=0, atol=far)
    if before.log_evidence is not None:
        torch.testing.assert_close(after.log_evidence, before.log_evidence, rtol=0, atol=4 * far)
    # And back: to the bit.
    module.relabel(port, order.argsort())
    again = case.infer(module, inbox, evidence)
    for name, message in before.messages.items():
        assert all(
            torch.equal(value, again.messages[name].tensors()[part]) for part, value in message.tensors().items()
        )
