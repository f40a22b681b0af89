"""A bag of counts: its evidence is an integral over the simplex, and bad counts say where they are."""

import math

import pytest
import torch

from serket.errors import DataError, ShapeError
from serket.messages import Dirichlet, Family
from serket.modules.bag import Bag
from serket.protocol import Evidence, Port, Role


def infer(values, inbox):
    bag = Bag({"symbols": Port(Role.PARENT, Family.DIRICHLET, inbox.size)})
    return bag.infer({"symbols": inbox}, Evidence.of(values), generator=torch.Generator())


def test_evidence_is_the_integral_of_counts_times_inbox():
    """By quadrature for two symbols; and by the chance of an order of draws for three, under a flat inbox."""
    counts = torch.tensor([[3.0, 1.5], [0.0, 0.0], [torch.nan, 1.0]], dtype=torch.float64)
    inbox = Dirichlet(torch.tensor([[0.5, 1.0]]).double().expand(3, 2))
    reply = infer(counts, inbox)
    x = (torch.arange(200000, dtype=torch.float64) + 0.5) / 200000
    for row, (a, b) in enumerate([(3.0, 1.5), (0.0, 0.0), (0.0, 0.0)]):
        expected = (x ** (a + 0.5) * (1 - x) ** (b + 1.0)).mean().log()
        assert float(reply.log_evidence[row]) == pytest.approx(float(expected), abs=1e-8)
    assert reply.messages["symbols"].is_vacuous().tolist() == [False, True, True]
    flat = Dirichlet(torch.zeros(1, 3).double())
    # Polya's urn: 2 of the first, 1 of the second: (1/3)(2/4)(1/5); the flat inbox integrates to 1/2
    assert float(infer(torch.tensor([[2.0, 1.0, 0.0]]).double(), flat).log_evidence) == pytest.approx(
        math.log(1 / 3 * 2 / 4 * 1 / 5 / 2)
    )


def test_mistakes():
    flat = Dirichlet(torch.zeros(2, 3).double())
    with pytest.raises(DataError, match=r"(?s)rows 1.*below zero"):
        infer(torch.tensor([[1.0, 0.0, 2.0], [0.0, -1.0, 0.0]]).double(), flat)
    with pytest.raises(ShapeError, match=r"(?s)expected: 3.*found: 2"):
        infer(torch.ones(2, 2).double(), flat)
