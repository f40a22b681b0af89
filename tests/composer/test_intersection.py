"""Covariance intersection: weights against a grid, and honesty under every correlation of errors."""

import itertools
import math
from functools import reduce
from operator import mul

import pytest
import torch

from serket.composer import Product
from serket.composer.intersection import intersection_weights
from serket.engine import run
from serket.errors import GraphError
from serket.messages import Gaussian
from serket.protocol import Evidence
from tests.composer.problems import generator, random
from tests.composer.test_product import infer, messages, ports, same, vote

RULE = {"rule": "covariance_intersection"}


def log_det(told, weights):
    """Log det of the weighted precisions, ``(rows,)``."""
    return torch.logdet(sum(w.reshape(-1, 1, 1) * m.full().precision for w, m in zip(weights.T, told, strict=True)))


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_weights_are_the_best_of_a_grid(size, full):
    told = [m ** (1.0 + i) for i, m in enumerate(messages(generator(size), 3, size, rows=20, full=full).values())][1:]
    weights = intersection_weights(told)
    assert bool((weights >= 0).all())
    torch.testing.assert_close(weights.sum(1), torch.ones(20).double(), rtol=0, atol=1e-12)
    best = log_det(told, weights)
    for a, b in itertools.product(range(31), repeat=2):
        if a + b <= 30:
            point = torch.tensor([[a, b, 30 - a - b]]).double() / 30
            assert bool((best >= log_det(told, point.expand(20, 3)) - 2e-6).all())
    if size == 1:  # the surest speaks alone
        assert (
            weights.argmax(1).tolist() == torch.stack([m.full().precision[:, 0, 0] for m in told], 1).argmax(1).tolist()
        )
        assert float(weights.amax(1).min()) > 1 - 1e-4


def test_directions_that_one_view_alone_sees():
    """Half to each of two that see one dimension each, nothing to one that is silent, and nobody sees the third."""
    see = torch.eye(3, dtype=torch.float64)[:, None, :]
    told = [Gaussian(see[0] * 0, 5 * see[0]), Gaussian(see[0] * 0, see[1] / 7), Gaussian(see[0] * 0, see[0] * 0)]
    expected = torch.tensor([[0.5, 0.5, 0.0]]).double()
    torch.testing.assert_close(intersection_weights(told), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(intersection_weights([m.full() for m in told]), expected, rtol=0, atol=1e-6)
    assert not bool(intersection_weights([told[2]] * 2).any())


def test_weights_do_not_depend_on_the_units():
    told = list(messages(generator(3), 3, 3, rows=10, full=True).values())[1:]
    scale = torch.tensor([1e-4, 1.0, 1e5]).double()
    moved = [Gaussian(m.info, m.precision * scale.unsqueeze(1) * scale) for m in told]
    torch.testing.assert_close(intersection_weights(moved), intersection_weights(told), rtol=1e-6, atol=1e-6)


def test_replies_intersect_the_others():
    inbox = messages(generator(4), 3, 2, full=True)
    inbox["views[2]"] = inbox["views[2]"].mask(torch.tensor([True, True, False, False]))
    reply = infer(Product(ports(3, 2), **RULE), inbox)
    assert reply.bound == "none" and reply.log_evidence is None and not reply.tilted
    views = [inbox[f"views[{m}]"] for m in range(3)]
    for name, told, start in (("shared", views, None), ("views[0]", views[1:], inbox["shared"])):
        weights = intersection_weights(told)
        whole = reduce(mul, (m**w for m, w in zip(told, weights.T, strict=True)))
        same(reply.messages[name], whole if start is None else whole * start, 1e-12)
    assert torch.equal(reply.messages["views[0]"].precision[2:],
                       (inbox["shared"] * inbox["views[1]"]).full().precision[2:])  # fmt: skip
    alone = infer(Product(ports(1, 2), **RULE), {name: inbox[name] for name in ("shared", "views[0]")})
    same(alone.messages["shared"], inbox["views[0]"])
    same(alone.messages["views[0]"], inbox["shared"])


def test_the_same_data_twice_count_once():
    inbox = messages(generator(5), 2, 3, full=True)
    inbox["views[1]"] = inbox["views[0]"]
    crossed, multiplied = infer(Product(ports(2, 3), **RULE), inbox), infer(Product(ports(2, 3)), inbox)
    same(crossed.messages["shared"], inbox["views[0]"])
    same(multiplied.messages["shared"], inbox["views[0]"] ** 2.0)


def test_the_belief_is_not_too_narrow_whatever_the_errors_share():
    """True error covariance of the fused mean under correlations -1 to 1: within the one claimed; a product's is not."""
    g = generator(6)
    roots = [random(g, 2, 2) + torch.eye(2), random(g, 2, 2) + torch.eye(2)]
    told = [Gaussian.from_moments(torch.zeros(1, 2).double(), (r @ r.T)[None]) for r in roots]
    inbox = {"shared": Gaussian.vacuous((1,), 2, dtype=torch.float64), "views[0]": told[0], "views[1]": told[1]}
    overdone = []
    for rule in ("covariance_intersection", "product"):
        claimed = infer(Product(ports(2, 2), rule=rule), inbox).messages["shared"].covariance()[0]
        weights = intersection_weights(told)[0] if rule != "product" else torch.ones(2).double()
        gains = [claimed @ (w * m.precision[0]) for w, m in zip(weights, told, strict=True)]
        worst = []
        for shared in torch.linspace(-1, 1, 21).double():
            for turn in torch.linspace(0, math.pi, 13).double():
                spin = torch.stack([torch.stack([turn.cos(), -turn.sin()]), torch.stack([turn.sin(), turn.cos()])])
                cross = shared * roots[0] @ spin @ roots[1].T
                actual = sum(k @ r @ r.T @ k.T for k, r in zip(gains, roots, strict=True))
                actual = actual + gains[0] @ cross @ gains[1].T + gains[1] @ cross.T @ gains[0].T
                worst.append(float(torch.linalg.eigvalsh(claimed - actual).min()))
        overdone.append(min(worst))
    assert overdone[0] > -1e-9 and overdone[1] < -1e-2, overdone


def test_evidence_is_none_and_says_why():
    graph = vote(0.0)
    told = {name: Evidence.of(torch.zeros(1, 1).double()) for name in "abc"}
    modules = graph.build() | {"vote": Product(graph.nodes["vote"].ports, **RULE)}
    result = run(graph, modules, told)
    assert result.bound == "none" and "vote offers no evidence: its views are intersected" in result.reason
    assert not modules["vote"].exact and "times views" in modules["vote"].cost
    both = Product(ports(2), trust=0.5, **RULE)
    assert "trusted with" in both.note and "intersected" in both.note
    inbox = messages(generator(7), 2, 2)
    half = {n: m if n == "shared" else m**0.5 for n, m in inbox.items()}
    one, other = infer(Product(ports(2, 2), trust=0.5, **RULE), inbox), infer(Product(ports(2, 2), **RULE), half)
    same(one.messages["shared"], other.messages["shared"])
    with pytest.raises(GraphError, match=r"(?s)robust views cannot be intersected.*rule covariance_intersection.*fix:"):
        Product(ports(2), robust=0.1, **RULE)
