"""The flow's messages against quadrature and known truths, its draws, and the graph it earns its place in."""

import math
from dataclasses import replace
from functools import cache
from importlib.resources import files

import numpy as np
import pytest
import torch

import serket
from serket.data.generate import GENERATED
from serket.draws import draw_rows
from serket.errors import DataError, ShapeError, StateError
from serket.graph import parse_graph
from serket.messages import Categorical, Family
from serket.modules import Flow
from serket.protocol import Evidence, Port, Role

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.stat) for seed in range(1, 10))]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def flow(categories=2, **options):
    return Flow({"given": Port(Role.PARENT, Family.CATEGORICAL, categories)}, **options)


def nothing(rows, categories=2):
    return {"given": Categorical.vacuous((rows,), categories, dtype=torch.float64)}


def named(labels, categories=2):
    return {"given": Categorical.from_probs(torch.eye(categories, dtype=torch.float64)[labels])}


def answer(module, values, inbox=None):
    inbox = inbox or nothing(len(values), module.categories)
    return module.infer(inbox, Evidence.of(values), generator=generator())


def moons(rows, seed=0):
    """Two interleaved half circles; columns in units that are not one."""
    g = generator(seed)
    kind = torch.arange(rows) % 2
    angle = math.pi * torch.rand(rows, generator=g, dtype=torch.float64)
    points = torch.stack([torch.cos(angle) + kind, torch.sin(angle) * (1 - 2 * kind) + 0.5 * kind], -1)
    points = points + 0.1 * torch.randn(rows, 2, generator=g, dtype=torch.float64)
    return points * torch.tensor([10.0, 0.1], dtype=torch.float64), kind


@cache
def fitted():
    values, kind = moons(600)
    module = flow()
    module.fit(Evidence.of(values), named(kind), generator=generator(1), owned=frozenset({"given"}), epochs=40)
    return module


def test_densities_integrate_to_one_and_evidence_is_their_mixture():
    """By quadrature over a grid, in the data's own units."""
    module = fitted()
    x, y = torch.linspace(-25, 35, 301, dtype=torch.float64), torch.linspace(-0.25, 0.25, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(x, y)
    cell = float((x[1] - x[0]) * (y[1] - y[0]))
    inbox = {"given": Categorical(torch.tensor([[0.3, -1.0]], dtype=torch.float64)).expand(len(grid))}
    reply = answer(module, grid, inbox)
    assert reply.bound == "exact" and not reply.includes
    torch.testing.assert_close(
        cell * reply.messages["given"].logits.exp().sum(0), torch.ones(2).double(), rtol=0, atol=2e-3
    )
    total = inbox["given"].logits[0].exp().sum()
    torch.testing.assert_close(cell * reply.log_evidence.exp().sum(), total, rtol=0, atol=5e-3)


def test_draws_come_from_the_density():
    """x = T(u) has the density 1 / |det dT/du| at u: by differences of the draws alone, column by column."""
    imagined = fitted().predict(named(torch.tensor([0, 1])), generator=generator())
    uniform = torch.rand(2, 40, 3, generator=generator(5), dtype=torch.float64) * 0.9 + 0.05
    uniform[..., 0] = 0.5
    step, columns = 1e-6, []
    for column in (1, 2):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[column] = step
        columns.append((imagined.from_uniform(uniform + shift) - imagined.from_uniform(uniform - shift)) / (2 * step))
    slope = torch.stack(columns, -1).det().abs()
    density = imagined.log_prob(imagined.from_uniform(uniform).transpose(0, 1)).T
    torch.testing.assert_close(density, -slope.log(), rtol=0, atol=1e-3)


def test_moments_and_rows_of_draws():
    belief = {"given": Categorical(torch.tensor([[0.0, 1.0], [3.0, 0.0], [0.0, 0.0]], dtype=torch.float64))}
    imagined = fitted().predict(belief, generator=generator())
    row_id = torch.tensor([7, 3, 11])
    drawn = draw_rows(imagined, 20_000, generator(2), row_id)
    scale = torch.tensor([10.0, 0.1], dtype=torch.float64)
    torch.testing.assert_close(drawn.mean(1) / scale, imagined.mean / scale, rtol=0, atol=0.1)
    torch.testing.assert_close(drawn.var(1) / scale**2, imagined.variance / scale**2, rtol=0, atol=0.1)
    alone = fitted().predict({"given": belief["given"][1:2]}, generator=generator())
    torch.testing.assert_close(draw_rows(alone, 20_000, generator(2), row_id[1:2])[0], drawn[1], rtol=1e-9, atol=1e-9)
    torch.manual_seed(0)
    sampled = imagined.sample((20_000,))
    torch.testing.assert_close(sampled.mean(0) / scale, imagined.mean / scale, rtol=0, atol=0.1)


def test_a_known_truth_is_found():
    """Two kinds, one Gaussian and one two Gaussians, told by their quantiles: no chance in the data."""
    normal = torch.distributions.Normal(torch.tensor(0.0).double(), 1.0)
    share = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    grid = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    split = (normal.cdf((grid - 2) / 0.7) + normal.cdf((grid + 2) / 0.7)) / 2
    second = torch.from_numpy(np.interp(share.numpy(), split.numpy(), grid.numpy()))
    values = torch.cat([1.5 * normal.icdf(share), second]).unsqueeze(-1)
    kind = (torch.arange(800) >= 400).long()
    module = flow(noise=0.0)
    module.fit(
        Evidence.of(values), named(kind), generator=generator(0), epochs=400, patience=0, batch=800, learning_rate=1e-2
    )
    places = torch.linspace(-4, 4, 401, dtype=torch.float64)
    one = normal.log_prob(places / 1.5) - math.log(1.5)
    other = torch.stack([normal.log_prob((places - c) / 0.7) for c in (-2, 2)]).logsumexp(0) - math.log(2 * 0.7)
    truth = torch.stack([one, other], -1)
    found = answer(module, places.unsqueeze(-1)).messages["given"]
    mixture = truth.exp().sum(-1, keepdim=True) / 2
    gap = (found.probs - truth.softmax(-1)).abs()
    assert float((mixture * gap).sum(0)[0] * 0.02) < 1e-2  # of the belief, where the data are
    assert float((truth.exp() * (truth - found.logits)).sum(0).max() * 0.02) < 1e-2  # KL, nats


def test_weights_are_the_shares_of_the_categories():
    values, kind = moons(300)
    keep = (kind == 0) | (torch.arange(300) % 10 == 1)
    module = flow(hidden=[4], bins=4)
    options = {"generator": generator(), "epochs": 1, "patience": 0}
    module.fit(Evidence.of(values[keep]), named(kind[keep]), owned=frozenset({"given"}), **options)
    counts = torch.bincount(kind[keep]) + 1.0
    torch.testing.assert_close(module.own_prior["given"].probs, (counts / counts.sum()).double())
    module.fit(Evidence.of(values[keep]), named(kind[keep]), **options)
    assert bool(module.own_prior["given"].is_vacuous())


def test_without_a_word_categories_are_clusters():
    g = generator(3)
    kind = torch.arange(240) % 3
    values = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]], dtype=torch.float64)[kind]
    values = values + torch.randn(240, 2, generator=g, dtype=torch.float64)
    module = flow(3, hidden=[16])
    module.fit(Evidence.of(values), nothing(240, 3), generator=g, owned=frozenset({"given"}), epochs=40)
    found = answer(module, values).messages["given"].logits.argmax(-1)
    table = torch.zeros(3, 3).index_put((kind, found), torch.ones(240), accumulate=True)
    assert bool((table.amax(1) >= 78).all()) and len(table.argmax(1).unique()) == 3


def test_a_few_words_name_the_clusters():
    values, kind = moons(600)
    told = Categorical(torch.where((torch.arange(600) < 60).unsqueeze(-1), named(kind)["given"].logits, 0.0))
    module = flow()
    module.fit(Evidence.of(values), {"given": told}, generator=generator(1), epochs=60)
    fresh, truth = moons(400, seed=9)
    found = answer(module, fresh).messages["given"].logits.argmax(-1)
    assert float((found == truth).double().mean()) > 0.9


def test_a_column_that_does_not_vary_is_no_infinite_evidence():
    values, kind = moons(100)
    values = torch.cat([values, torch.full((100, 1), 7.0, dtype=torch.float64)], -1)
    module = flow(hidden=[8], bins=4)
    module.fit(Evidence.of(values), named(kind), generator=generator(), epochs=60, patience=0)
    reply = answer(module, values)
    assert bool(reply.log_evidence.isfinite().all())
    bare = flow(hidden=[8], bins=4)
    bare.fit(Evidence.of(values[:, :2]), named(kind), generator=generator(), epochs=60, patience=0)
    least = answer(bare, values[:, :2]).log_evidence.mean() - math.log(0.05 * math.sqrt(2 * math.pi))
    assert float(reply.log_evidence.mean()) < float(least) + 1.0  # what noise of 0.05 allows
    away = torch.cat([values[:, :2], torch.full((100, 1), 1e4, dtype=torch.float64)], -1)
    assert bool(answer(module, away).log_evidence.isfinite().all())


BAD = {
    "one row": (torch.ones(1, 2), 1, "2 rows at least"),
    "fewer rows than categories": (torch.randn(3, 2, generator=generator()), 4, "4 rows at least, for 4 categories"),
    "equal rows": (torch.ones(9, 2), 2, "rows that differ"),
    "nothing": (torch.full((9, 2), torch.nan), 2, "2 rows at least"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_learnt_from_is_refused(name):
    values, categories, expected = BAD[name]
    with pytest.raises(DataError) as caught:
        flow(categories).fit(Evidence.of(values.double()), nothing(len(values), categories), generator=generator())
    assert expected in str(caught.value) and caught.value.fix


def test_mistakes_are_named():
    values, kind = moons(50)
    with pytest.raises(DataError, match="not finite"):
        planted = replace(Evidence.of(values), values=values / 0)
        flow().fit(planted, named(kind), generator=generator())
    with pytest.raises(ShapeError, match=r"\(50, 1\)"):
        answer(fitted(), values[:, :1])
    with pytest.raises(StateError):
        answer(flow(), values)


def truth(contact):
    """log p(contact | kind) of the data set ``grasps``, ``(rows, 3)``, from its description."""
    radius, angle = np.hypot(*contact.T), np.arctan2(contact[:, 1], contact[:, 0])
    ring = {
        size: np.exp(-((radius - size) ** 2) / (2 * 0.15**2)) / (0.15 * math.sqrt(2 * math.pi)) / radius
        for size in (1, 2)
    }
    turn = np.abs((angle + np.pi / 2) % np.pi - np.pi / 2)  # from the nearer end of the line 0 .. 180 degrees
    arcs = [turn < np.pi / 3, turn > np.pi / 6]
    with np.errstate(divide="ignore"):
        return np.log(np.stack([ring[2] / (2 * np.pi), *(arc * ring[1] / (4 * np.pi / 3) for arc in arcs)], -1))


GRAPH = (files("serket") / "graphs" / "grasps.yaml").read_text()
PLAIN = GRAPH.replace("type: flow, data: contact, ports: {given:", "type: gmm, data: contact, ports: {component:")


def told_by_touch(graph, seed):
    """Held-out rows: log p(kind | contact) in nats a row, and the share of kinds named rightly."""
    data = GENERATED["grasps"]()
    test = data["test"]
    belief = serket.fit(parse_graph(graph), seed=seed).infer({"contact": data["contact"][test]})["grasp"]
    label = data["label"][test]
    says = belief.log_probs().numpy()
    return says[np.arange(len(test)), label].mean(), (says.argmax(1) == label).mean()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gaussian_in_place_of_the_flow_costs_kinds(seed):
    data = GENERATED["grasps"]()
    exact = truth(data["contact"][data["test"]])
    label = data["label"][data["test"]]
    best = (exact.argmax(1) == label).mean()
    flow_says, flow_right = told_by_touch(GRAPH, seed)
    gmm_says, gmm_right = told_by_touch(PLAIN, seed)
    assert flow_says > gmm_says + 0.5 and flow_right > gmm_right + 0.2
    assert flow_right > best - 0.05
