"""The product of experts: multiplication, trust, and robustness against quadrature over who lies."""

import itertools
import math

import pytest
import torch

from serket.composer import Product
from serket.engine import run
from serket.errors import GraphError, ShapeError
from serket.graph import load_graph
from serket.messages import Family, Gaussian
from serket.protocol import Evidence, Port, Role, extrinsic
from tests.composer.problems import generator, random


def ports(views, size=1):
    shared = {"shared": Port(Role.PARENT, Family.GAUSSIAN, size)}
    return shared | {f"views[{m}]": Port(Role.CHILD, Family.GAUSSIAN, size) for m in range(views)}


def messages(g, views, size=1, rows=4, full=False):
    """Messages that partly conflict, over shared and over every view."""
    told = {}
    for name in ports(views, size):
        root = random(g, rows, size, size)
        lam = root @ root.mT + 0.5 * torch.eye(size) if full else random(g, rows, size) ** 2 + 0.5
        told[name] = Gaussian(4 * random(g, rows, size), lam)
    return told


def infer(module, inbox, asked=None):
    rows = len(inbox["shared"].info)
    return module.infer(inbox, Evidence.none(rows), generator=generator(0), ports=asked)


def same(a, b, tolerance=1e-12):
    a, b = a.full(), b.full()
    torch.testing.assert_close(a.info, b.info, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(a.precision, b.precision, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize("trust", [1.0, 0.3, [1.0, 0.5, 0.25]], ids=["plain", "trust", "trusts"])
def test_views_multiply_as_far_as_they_are_trusted(trust, full):
    inbox = messages(generator(0), 3, 2, full=full)
    a, b, c = (inbox[f"views[{m}]"] ** t for m, t in enumerate(trust if isinstance(trust, list) else [trust] * 3))
    reply = infer(Product(ports(3, 2), trust=trust), inbox)
    same(reply.messages["shared"], a * b * c)
    same(reply.messages["views[0]"], inbox["shared"] * b * c)
    same(reply.messages["views[2]"], inbox["shared"] * a * b)
    if trust == 1.0:
        assert reply.bound == "exact"
        torch.testing.assert_close(reply.log_evidence, (inbox["shared"] * a * b * c).log_z())
    else:
        assert reply.bound == "none" and reply.log_evidence is None


def normal(x, mean, variance):
    return torch.exp(-((x - mean) ** 2) / variance / 2) / math.sqrt(2 * math.pi * variance)


def quadrature(prior, said, eps, target):
    """Mean and variance of p(target | rest) in one dimension, by sums over a grid and over who lies.

    An honest view m multiplies m(s); one that lies multiplies the constant int n m, n the normalised prior. A view
    that is the target is s itself if it is honest, and a draw from the prior if it lies; its own message is no part.
    """
    s = torch.linspace(-60, 60, 240_001, dtype=torch.float64)
    step = float(s[1] - s[0])
    density = normal(s, *prior)
    others = [m for m in range(len(said)) if m != target]
    total = torch.zeros_like(s)
    for honest in itertools.product([True, False], repeat=len(others)):
        term = density.clone()
        for m, trusted in zip(others, honest, strict=True):
            potential = torch.exp(said[m][0] * s - said[m][1] * s**2 / 2)
            term = term * ((1 - eps[m]) * potential if trusted else eps[m] * (density * potential).sum() * step)
        total += term
    total = total / (total.sum() * step)
    if target is not None:
        total = (1 - eps[target]) * total + eps[target] * density
    mean = float((s * total).sum() * step)
    return mean, float(((s - mean) ** 2 * total).sum() * step)


@pytest.mark.parametrize(("views", "eps"), [(2, [0.1, 0.3]), (3, [0.2, 0.05, 0.4]), (3, [0.2, 0.0, 0.0])])
@pytest.mark.parametrize("seed", range(3))
def test_robust_beliefs_have_the_moments_of_the_mixture(views, eps, seed):
    inbox = messages(generator(seed), views)
    reply = infer(Product(ports(views), robust=eps), inbox)
    assert reply.tilted == {"shared"} and reply.bound == "none"
    outgoing = extrinsic(reply, inbox, {})
    belief = inbox["shared"] * outgoing["shared"]
    for row in range(4):
        prior = (float(inbox["shared"].mean()[row, 0]), float(inbox["shared"].variance()[row, 0]))
        said = [
            (float(inbox[f"views[{m}]"].info[row, 0]), float(inbox[f"views[{m}]"].precision[row, 0]))
            for m in range(views)
        ]
        mean, variance = quadrature(prior, said, eps, None)
        assert float(belief.mean()[row, 0]) == pytest.approx(mean, abs=1e-6)
        assert float(belief.variance()[row, 0]) == pytest.approx(variance, abs=1e-6)
        for m in range(views):
            mean, variance = quadrature(prior, said, eps, m)
            down = outgoing[f"views[{m}]"]
            assert float(down.mean()[row, 0]) == pytest.approx(mean, abs=1e-6)
            assert float(down.variance()[row, 0]) == pytest.approx(variance, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_each_view_is_honest_as_probably_as_by_summing_over_who_lies(seed):
    """p(view m honest | all), whichever ports are asked; a view that never lies is not asked about."""
    eps = [0.2, 0.05, 0.0]
    inbox = messages(generator(seed), 3)
    s = torch.linspace(-60, 60, 240_001, dtype=torch.float64)
    info = infer(Product(ports(3), robust=eps), inbox).info
    assert set(info) == {"honest.views[0]", "honest.views[1]"}
    downward = infer(Product(ports(3), robust=eps), inbox, frozenset({"views[0]", "views[2]"}))
    for row in range(4):
        density = normal(s, float(inbox["shared"].mean()[row, 0]), float(inbox["shared"].variance()[row, 0]))
        density = density / density.sum()
        told = [inbox[f"views[{m}]"] for m in range(3)]
        likely = [torch.exp(float(m.info[row, 0]) * s - float(m.precision[row, 0]) * s**2 / 2) for m in told]
        mass = {}
        for honest in itertools.product([True, False], repeat=3):
            term = density.clone()
            for m, trusted in enumerate(honest):
                term = term * ((1 - eps[m]) * likely[m] if trusted else eps[m] * (density * likely[m]).sum())
            mass[honest] = float(term.sum())
        for m in range(2):
            wanted = sum(value for honest, value in mass.items() if honest[m]) / sum(mass.values())
            assert float(info[f"honest.views[{m}]"][row]) == pytest.approx(wanted, abs=1e-9)
    for name, value in info.items():
        torch.testing.assert_close(downward.info[name], value)


def test_robust_and_trust_go_together():
    """Trust tempers a view's message before anyone asks whether it lies."""
    inbox = messages(generator(5), 2, 2, full=True)
    tempered = {**inbox, "views[0]": inbox["views[0]"] ** 0.5}
    one, other = infer(Product(ports(2, 2), [0.5, 1.0], 0.2), inbox), infer(Product(ports(2, 2), 1.0, 0.2), tempered)
    for name in inbox:
        same(one.messages[name], other.messages[name])


def test_robust_nought_is_plain():
    inbox = messages(generator(6), 3, 2)
    one, other = infer(Product(ports(3, 2), robust=0.0), inbox), infer(Product(ports(3, 2)), inbox)
    assert one.tilted == frozenset() and one.bound == "exact"
    for name in inbox:
        same(one.messages[name], other.messages[name])
    # And the limit is continuous: a view that hardly ever lies.
    agree = {name: Gaussian(message.precision, message.precision) for name, message in inbox.items()}
    hardly, plain = infer(Product(ports(3, 2), robust=1e-12), agree), infer(Product(ports(3, 2)), agree)
    for name in inbox:
        same(hardly.messages[name], plain.messages[name], 1e-8)


def test_a_silent_view_is_no_liar():
    """A vacuous view changes nothing, whatever its eps; all silent, and nothing is said."""
    inbox = messages(generator(7), 3, 2)
    rows = torch.tensor([True, False, True, False])
    inbox["views[2]"] = inbox["views[2]"].mask(torch.zeros(4, dtype=torch.bool))
    two = {name: inbox[name] for name in ("shared", "views[0]", "views[1]")}
    with_it, without = infer(Product(ports(3, 2), robust=0.3), inbox), infer(Product(ports(2, 2), robust=0.3), two)
    for name in two:
        same(with_it.messages[name], without.messages[name], 1e-10)
    silent = {name: m if name == "shared" else m.mask(rows & (name == "views[0]")) for name, m in inbox.items()}
    said = infer(Product(ports(3, 2), robust=0.3), silent).messages["shared"]
    assert said.is_vacuous().tolist() == [False, True, False, True]


def vote(robust):
    sensor = {"type": "linear_gaussian", "matrix": [[1]], "noise": [[1.0]]}
    return load_graph({
        "serket": 1,
        "variables": {name: {"family": "gaussian", "size": 1} for name in ("za", "zb", "zc")}
        | {"s": {"family": "gaussian", "size": 1, "prior": {"mean": [0], "covariance": [[100]]}}},
        "modules": {name: {**sensor, "data": name, "ports": {"given": f"z{name}"}} for name in "abc"},
        "composers": {"vote": {"type": "product", "robust": robust, "ports": {"shared": "s", "views": ["za", "zb", "zc"]}}},
    })  # fmt: skip


def test_one_liar_of_three_is_outvoted():
    """Sensors of deviation 1 at the truth 2, one of them shifted by ten deviations."""
    robust, plain = vote(0.05), vote(0.0)
    data = {"a": [2.1, 2.1], "b": [1.8, 1.8], "c": [2.2, 12.2]}
    evidence = {name: Evidence.of(torch.tensor(values).double().unsqueeze(1)) for name, values in data.items()}
    doubts, believes = run(robust, robust.build(), evidence)["s"], run(plain, plain.build(), evidence)["s"]
    assert abs(float(doubts.mean()[1, 0]) - 2) < 0.3 and abs(float(believes.mean()[1, 0]) - 2) > 3
    assert float(doubts.variance()[1, 0]) > 1.3 * float(believes.variance()[1, 0])
    # Where nobody lies, hardly anything is lost.
    assert abs(float(doubts.mean()[0, 0] - believes.mean()[0, 0])) < 0.05
    assert float(doubts.variance()[0, 0]) < 1.2 * float(believes.variance()[0, 0])


def test_cost_is_declared_where_it_is_not_linear():
    assert Product(ports(3)).cost == "linear" and "2^" in Product(ports(3), robust=0.1).cost
    assert (
        Product(ports(3)).exact and not Product(ports(3), robust=0.1).exact and not Product(ports(3), trust=0.5).exact
    )


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"trust": 0.0}, GraphError, "0 < trust <= 1"),
        ({"trust": 1.5}, GraphError, "0 < trust <= 1"),
        ({"trust": math.nan}, GraphError, "0 < trust <= 1"),
        ({"robust": 1.0}, GraphError, "0 <= robust < 1"),
        ({"robust": -0.1}, GraphError, "0 <= robust < 1"),
        ({"robust": math.nan}, GraphError, "0 <= robust < 1"),
        ({"trust": [0.5]}, ShapeError, r"(?s)trust.*one number, or 3.*found: 1"),
        ({"robust": [0.1] * 4}, ShapeError, r"(?s)robust.*one number, or 3.*found: 4"),
    ],
)
def test_numbers_out_of_range_are_refused(options, error, text):
    with pytest.raises(error, match=text):
        Product(ports(3), **options)


def test_views_have_the_size_of_what_they_share():
    mixed = ports(2, 2) | {"views[1]": Port(Role.CHILD, Family.GAUSSIAN, 3)}
    with pytest.raises(ShapeError, match=r"(?s)views\[1\]: .*size 2, as shared.*size 3.*linear_gaussian"):
        Product(mixed)
    Product(ports(10), robust=0.1)
    with pytest.raises(GraphError, match=r"(?s)at most 10 views.*found: 11"):
        Product(ports(11), robust=0.1)
    Product(ports(11))
