"""Mixtures of experts and of products of experts: every component written out, and a density on a grid."""

import itertools
import math

import pytest
import torch

from serket.composer import MixtureOfExperts, MixtureOfProducts, Product
from serket.engine import run
from serket.errors import GraphError, ShapeError
from serket.graph import load_graph
from serket.messages import Family, Gaussian
from serket.protocol import Evidence, Port, Role, extrinsic
from tests.composer.problems import generator
from tests.composer.test_product import infer, messages, normal, ports, same

LARGEST = {MixtureOfExperts: 1, MixtureOfProducts: 9}
both = pytest.mark.parametrize("rule", LARGEST, ids=lambda rule: rule.__name__)


def with_silence(inbox, views):
    """Rows in which all views speak, some, one, and none."""
    quiet = {0: [], 1: [views - 1], 2: list(range(1, views)), 3: list(range(views))}
    return inbox | {
        f"views[{m}]": inbox[f"views[{m}]"].mask(torch.tensor([m not in quiet[row] for row in range(4)]))
        for m in range(views)
    }


def components(rule, inbox, row, without=None):
    """(mean, covariance) of the prior times each subset of the views that speak, by matrix inversion."""
    speaking = [n for n in inbox if n not in ("shared", without) and not bool(inbox[n].is_vacuous()[row])]
    found = []
    for size in range(1, min(LARGEST[rule], len(speaking)) + 1):
        for members in itertools.combinations(speaking, size):
            told = [inbox[name] for name in ("shared", *members)]
            covariance = torch.linalg.inv(sum(m.full().precision[row] for m in told))
            found.append((covariance @ sum(m.info[row] for m in told), covariance))
    prior = inbox["shared"]
    return found or [(prior.mean()[row], prior.covariance()[row])]


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize("views", [2, 4])
@both
def test_replies_have_the_moments_of_the_mixture(rule, views, full):
    inbox = with_silence(messages(generator(views), views, 3, full=full), views)
    reply = infer(rule(ports(views, 3)), inbox)
    assert reply.tilted == {"shared"}
    outgoing = extrinsic(reply, inbox, {})
    told = outgoing | {"shared": outgoing["shared"] * inbox["shared"]}
    for row, name in itertools.product(range(4), inbox):
        parts = components(rule, inbox, row, without=name)
        mean = torch.stack([m for m, _ in parts]).mean(0)
        covariance = sum(c + torch.outer(m - mean, m - mean) for m, c in parts) / len(parts)
        torch.testing.assert_close(told[name].mean()[row], mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(told[name].covariance()[row], covariance, rtol=1e-9, atol=1e-9)
    assert outgoing["shared"].is_vacuous().tolist() == [False, False, False, True]


@both
def test_evidence_is_a_lower_bound_on_the_products(rule):
    """The evidence lower bound of the projection, by quadrature; tight where one view speaks or none."""
    inbox = with_silence(messages(generator(1), 3), 3)
    bound, exact = infer(rule(ports(3)), inbox), infer(Product(ports(3)), inbox).log_evidence
    assert bound.bound == "lower"
    belief = inbox["shared"] * bound.messages["shared"]
    s = torch.linspace(-60, 60, 240_001, dtype=torch.float64)
    for row in range(4):
        q = normal(s, float(belief.mean()[row, 0]), float(belief.variance()[row, 0]))
        whole = sum(m.info[row, 0] * s - m.precision[row, 0] * s**2 / 2 for m in inbox.values())
        value = float((q * (whole - q.clamp_min(1e-300).log())).sum() * (s[1] - s[0]))
        assert float(bound.log_evidence[row]) == pytest.approx(value, abs=1e-6)
    torch.testing.assert_close(bound.log_evidence[2:], exact[2:], rtol=1e-12, atol=1e-12)
    assert bool((bound.log_evidence[:2] < exact[:2] - 1e-3).all())


@both
def test_a_view_that_stands_alone_or_is_silent(rule):
    inbox = messages(generator(2), 3, 2, full=True)
    alone = {"shared": inbox["shared"], "views[0]": inbox["views[0]"]}
    one = infer(rule(ports(1, 2)), alone)
    same(one.messages["shared"], alone["views[0]"], 1e-10)  # the product
    same(one.messages["views[0]"], alone["shared"])
    # A silent third view changes no bit of what two say.
    two = {name: inbox[name] for name in ("shared", "views[0]", "views[1]")}
    three = inbox | {"views[2]": inbox["views[2]"].mask(torch.zeros(4, dtype=torch.bool))}
    with_it, without = infer(rule(ports(3, 2)), three), infer(rule(ports(2, 2)), two)
    for name in two:
        assert torch.equal(with_it.messages[name].info, without.messages[name].info)
        assert torch.equal(with_it.messages[name].precision, without.messages[name].precision)


@both
def test_where_nothing_is_above_the_own_prior_stands_in(rule):
    inbox = messages(generator(3), 2, 2)
    silent = inbox | {"shared": inbox["shared"].mask(torch.tensor([True, True, False, False]))}
    stood = inbox | {"shared": silent["shared"].where(silent["shared"].is_proper(), Gaussian.standard(
        (4,), 2, dtype=torch.float64))}  # fmt: skip
    one, other = infer(rule(ports(2, 2)), silent), infer(rule(ports(2, 2)), stood)
    for name in inbox:
        same(one.messages[name], other.messages[name])


@both
def test_far_apart_and_sure_views_keep_their_digits(rule):
    """Two views a million deviations apart: the projection's variance is that between them; alone, a view's own."""
    far = torch.tensor([[1e6], [1e6]], dtype=torch.float64)
    inbox = {
        "shared": Gaussian.standard((2,), 1, dtype=torch.float64) ** 1e-12,
        "views[0]": Gaussian(far, torch.ones_like(far)),
        "views[1]": Gaussian(-far, torch.ones_like(far)).mask(torch.tensor([True, False])),
    }
    reply = infer(rule(ports(2)), inbox)
    belief = inbox["shared"] * reply.messages["shared"]
    spread = {MixtureOfExperts: 1e12 + 1, MixtureOfProducts: 2e12 / 3 + 5 / 6}[rule]
    assert float(belief.variance()[0, 0]) == pytest.approx(spread, rel=1e-9)
    assert float(belief.variance()[1, 0]) == pytest.approx(1, rel=1e-9)
    assert float(belief.mean()[1, 0]) == pytest.approx(1e6, rel=1e-9)


def test_conflict_widens_a_mixture_and_not_a_product():
    spread = []
    for gap in (0.0, 1.0, 5.0):
        one = torch.full((1, 1), gap, dtype=torch.float64)
        inbox = {"shared": Gaussian(one * 0, one * 0 + 0.01), "views[0]": Gaussian(one, one * 0 + 1),
                 "views[1]": Gaussian(-one, one * 0 + 1)}  # fmt: skip
        rules = (Product, MixtureOfProducts, MixtureOfExperts)
        said = [infer(rule(ports(2)), inbox).messages["shared"] * inbox["shared"] for rule in rules]
        spread.append([float(one.variance()[0, 0]) for one in said])
    plain, products, experts = (list(column) for column in zip(*spread, strict=True))
    assert plain[0] == pytest.approx(plain[2]) and products == sorted(products) and experts == sorted(experts)
    assert products[2] > 10 * products[0] and experts[2] > products[2]


@both
def test_in_a_graph_evidence_is_called_an_estimate(rule):
    """Its reply is tilted, so the engine vouches for nothing more; the belief is the mixture under the prior there."""
    sensor = {"type": "linear_gaussian", "matrix": [[1]], "noise": [[1.0]]}
    kind = {MixtureOfExperts: "mixture_of_experts", MixtureOfProducts: "mixture_of_products"}[rule]
    graph = load_graph({
        "serket": 1,
        "variables": {name: {"family": "gaussian", "size": 1} for name in ("za", "zb")}
        | {"s": {"family": "gaussian", "size": 1, "prior": {"mean": [3], "covariance": [[100]]}}},
        "modules": {name: {**sensor, "data": name, "ports": {"given": f"z{name}"}} for name in "ab"},
        "composers": {"body": {"type": kind, "ports": {"shared": "s", "views": ["za", "zb"]}}},
    })  # fmt: skip
    evidence = {"a": [2.0, 2.0], "b": [4.0, math.nan]}
    seen = {name: Evidence.of(torch.tensor(values).double().unsqueeze(1)) for name, values in evidence.items()}
    result = run(graph, graph.build(), seen)
    assert result.bound == "estimate" and not result.exact and result.converged
    precision = torch.tensor([1.01, 1.01, 2.01]).double()
    means = torch.tensor([2.03, 4.03, 6.03]).double() / precision
    used = slice(0, 2 if rule is MixtureOfExperts else 3)
    mean = means[used].mean()
    assert float(result["s"].mean()[0, 0]) == pytest.approx(float(mean))
    spread = (1 / precision[used] + (means[used] - mean) ** 2).mean()
    assert float(result["s"].variance()[0, 0]) == pytest.approx(float(spread))
    assert float(result["s"].mean()[1, 0]) == pytest.approx(2.03 / 1.01)
    assert float(result["s"].variance()[1, 0]) == pytest.approx(1 / 1.01)


def test_costs_and_limits_are_declared():
    assert getattr(MixtureOfExperts(ports(11)), "cost", "linear") == "linear"
    assert "2^views" in MixtureOfProducts(ports(10)).cost
    with pytest.raises(GraphError, match=r"(?s)at most 10 views.*found: 11 views, 2047 subsets.*mixture_of_experts"):
        MixtureOfProducts(ports(11))
    mixed = ports(2, 2) | {"views[1]": Port(Role.CHILD, Family.GAUSSIAN, 3)}
    for rule in LARGEST:
        with pytest.raises(ShapeError, match=r"(?s)views\[1\]: a mixture of .* size.*linear_gaussian"):
            rule(mixed)


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize(
    "build",
    [MixtureOfExperts, MixtureOfProducts, lambda p: Product(p, robust=0.1),
     lambda p: Product(p, rule="covariance_intersection")],
    ids=["experts", "products", "robust", "intersection"],
)  # fmt: skip
def test_negative_precision_is_mended_in_its_row_and_said(build, full):
    """The direction says nothing, other rows are as they were; where it can be borne a mixture leaves it alone."""
    inbox = messages(generator(3), 3, 2, full=full)
    eye = torch.eye(2, dtype=torch.float64)
    bent = inbox["views[1]"].full() if full else inbox["views[1]"]
    negative = torch.tensor([-9.0, 3.0], dtype=torch.float64)
    there = torch.tensor([False, True, False, False])
    spoilt = bent.where(~there, Gaussian(bent.info, ((eye * negative) if full else negative).expand_as(bent.precision)))
    module = build(ports(3, 2))
    reply = infer(module, inbox | {"views[1]": spoilt})
    mild = infer(module, inbox | {"views[1]": spoilt.where(~there, spoilt.semidefinite_part())})
    clean = infer(module, inbox | {"views[1]": bent})
    assert reply.info["mended.views[1]"].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert not any(name.startswith("mended") for name in (*mild.info, *clean.info))
    for name, message in reply.messages.items():
        same(message, mild.messages[name])
        same(message[~there], clean.messages[name][~there])
