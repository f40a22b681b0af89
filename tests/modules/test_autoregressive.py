"""The autoregressive network's messages against enumeration, its order, its draws, and the graph it earns its place in."""

import itertools
import math
from functools import cache
from importlib.resources import files

import numpy as np
import pytest
import torch

import serket
from serket.data.generate import GENERATED
from serket.draws import draw_rows, row_probs
from serket.errors import DataError, ShapeError
from serket.graph import parse_graph
from serket.messages import Categorical, Family
from serket.modules import Autoregressive
from serket.protocol import Evidence, Port, Role

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.stat) for seed in range(1, 10))]
KINDS = ("bernoulli", "categorical", "gaussian")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(categories=2, likelihood="bernoulli", **options):
    return Autoregressive(
        {"given": Port(Role.PARENT, Family.CATEGORICAL, categories)}, likelihood=likelihood, **options
    )


def nothing(rows, categories=2):
    return {"given": Categorical.vacuous((rows,), categories, dtype=torch.float64)}


def named(labels, categories=2):
    return {"given": Categorical.from_probs(torch.eye(categories, dtype=torch.float64)[labels])}


def logits(module, values):
    inbox = nothing(len(values), module.categories)
    return module.infer(inbox, Evidence.of(values), generator=generator()).messages["given"].logits


def patterns(size, states=2):
    return torch.tensor(list(itertools.product(range(states), repeat=size)), dtype=torch.float64)


@cache
def rough(likelihood):
    """Fitted a little, on three columns, of two categories."""
    g = generator(2)
    values = torch.randint(3 if likelihood == "categorical" else 2, (80, 3), generator=g).double()
    values = values + torch.randn(80, 3, generator=g, dtype=torch.float64) if likelihood == "gaussian" else values
    module = network(likelihood=likelihood, hidden=[16, 8])
    inbox = named((values[:, 0] > values[:, 1]).long())
    module.fit(Evidence.of(values), inbox, generator=g, owned=frozenset({"given"}), epochs=20, patience=0)
    return module, values


@pytest.mark.parametrize(("likelihood", "states"), [("bernoulli", 2), ("categorical", 3)])
def test_probabilities_add_up_to_one(likelihood, states):
    module, _ = rough(likelihood)
    every = patterns(3, states)
    torch.testing.assert_close(logits(module, every).exp().sum(0), torch.ones(2).double(), rtol=0, atol=1e-12)
    inbox = {"given": Categorical(torch.tensor([[0.3, -1.0]], dtype=torch.float64)).expand(len(every))}
    reply = module.infer(inbox, Evidence.of(every), generator=generator())
    total = inbox["given"].logits[0].exp().sum()
    assert reply.bound == "exact" and not reply.includes
    torch.testing.assert_close(reply.log_evidence.exp().sum(), total, rtol=0, atol=1e-12)


def test_densities_integrate_to_one():
    module, values = rough("gaussian")
    axes = [torch.linspace(float(v.min()) - 4, float(v.max()) + 4, 61, dtype=torch.float64) for v in values.T]
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    total = cell * logits(module, torch.cartesian_prod(*axes)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(2).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("likelihood", KINDS)
def test_a_column_follows_those_before_it_and_no_other(likelihood):
    """A column's own factor, as the network puts it out, moves with what stands before it, and with the category."""
    module, values = rough(likelihood)
    weights, inputs = module.weights, module._inputs(module.weights, values)
    own = torch.eye(2, dtype=torch.float64)[torch.zeros(80, dtype=torch.int64)]
    before = module._outputs(weights, inputs, own).unflatten(-1, (3, -1))
    assert (
        float(
            (module._outputs(weights, inputs, own.flip(-1)).unflatten(-1, (3, -1)) - before)
            .abs()
            .amin(0)
            .amax(-1)
            .min()
        )
        > 0
    )
    for column in range(3):
        changed = inputs.unflatten(-1, (3, -1)).clone()
        changed[:, column] += 1.0
        moved = (module._outputs(weights, changed.flatten(1), own).unflatten(-1, (3, -1)) - before).abs().amax((0, 2))
        assert float(moved[: column + 1].sum()) == 0 and (column == 2 or float(moved[column + 1 :].min()) > 0)


@pytest.mark.parametrize("likelihood", KINDS)
def test_draws_come_from_the_probabilities(likelihood):
    module, values = rough(likelihood)
    belief = {"given": Categorical(torch.tensor([[0.0, 1.0], [3.0, 0.0]], dtype=torch.float64))}
    imagined = module.predict(belief, generator=generator())
    drawn = draw_rows(imagined, 20_000, generator(2), torch.tensor([4, 1]))
    if likelihood == "gaussian":
        torch.testing.assert_close(drawn.mean(1), imagined.mean, rtol=0, atol=0.15)
        torch.testing.assert_close(drawn.var(1), imagined.variance, rtol=0, atol=0.4)
        return
    states = 3 if likelihood == "categorical" else 2
    every = patterns(3, states)
    probs = torch.stack([imagined.log_prob(one.expand(2, 3)).exp() for one in every], 1)  # (2, patterns)
    code = (drawn @ states ** torch.arange(2, -1, -1).double()).long()
    found = torch.stack([torch.bincount(row, minlength=states**3) for row in code]) / 20_000
    torch.testing.assert_close(found.double(), probs, rtol=0, atol=0.015)
    if likelihood == "categorical":
        shares = torch.einsum("np,pdc->ndc", probs, torch.nn.functional.one_hot(every.long(), 3).double())
        torch.testing.assert_close(row_probs(imagined), shares, rtol=0, atol=0.07)
    else:
        torch.testing.assert_close(imagined.mean, probs @ every, rtol=0, atol=0.07)


def test_a_known_truth_is_found():
    """Patterns of three lamps as often as they are probable: the message is log p(x | k) of the truth, within 0.01."""
    every = patterns(3)
    odd = every.sum(-1).long() % 2
    counts = torch.stack([torch.where(odd == 0, 36, 4), torch.where(odd == 0, 8, 32)], -1)  # of 160 per mode
    counts[0] += torch.tensor([16, -4])
    counts[3] += torch.tensor([-16, 4])
    truth = (counts / counts.sum(0)).log().double()
    values = torch.cat([every.repeat_interleave(counts[:, mode], 0) for mode in range(2)])
    mode = torch.arange(2).repeat_interleave(160)
    module = network()
    module.fit(
        Evidence.of(values), named(mode), generator=generator(), epochs=400, patience=0, learning_rate=1e-2, batch=320
    )
    found = logits(module, every)
    assert float((found - truth).abs().max()) < 1e-2
    assert float((found.softmax(-1) - truth.softmax(-1)).abs().max()) < 1e-2


def test_constant_columns_and_values_never_seen_are_finite():
    for likelihood in KINDS:
        values = torch.cat([torch.arange(60).double().unsqueeze(-1) % 2, torch.ones(60, 1).double()], -1)
        module = network(likelihood=likelihood, hidden=[8])
        module.fit(Evidence.of(values), nothing(60), generator=generator(), epochs=30, patience=0)
        assert bool(logits(module, torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double()).isfinite().all())
    assert float(logits(module, torch.tensor([[1e6, -1e6]]).double()).max()) > -torch.inf


BAD = {
    "out of range": ("bernoulli", [[0.0, 2.0], [1.0, 0.0]], "0 to 1"),
    "no category number": ("categorical", [[0.0, 1.5], [1.0, 0.0]], "whole numbers from 0"),
    "negative": ("categorical", [[0.0, -1.0], [1.0, 0.0]], "whole numbers from 0"),
    "one row": ("bernoulli", [[0.0, 1.0]], "2 rows at least"),
    "equal rows": ("gaussian", [[0.5, 1.0]] * 5, "rows that differ"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_learnt_from_is_refused(name):
    likelihood, rows, expected = BAD[name]
    values = torch.tensor(rows, dtype=torch.float64)
    with pytest.raises(DataError) as caught:
        network(likelihood=likelihood).fit(Evidence.of(values), nothing(len(values)), generator=generator())
    assert expected in str(caught.value)


def test_mistakes_are_named():
    module, _ = rough("categorical")
    with pytest.raises(DataError, match="never seen"):
        logits(module, torch.tensor([[0.0, 1.0, 3.0]]).double())
    with pytest.raises(DataError, match="outside"):
        logits(rough("bernoulli")[0], torch.tensor([[0.0, 1.0, 7.0]]).double())
    with pytest.raises(ShapeError, match=r"\(1, 2\)"):
        logits(module, torch.zeros(1, 2).double())
    with pytest.raises(DataError, match="4 rows at least, for 4 categories"):
        network(4).fit(Evidence.of(patterns(1)), nothing(2, 4), generator=generator())


GRAPH = (files("serket") / "graphs" / "panels.yaml").read_text()
PLAIN = GRAPH.replace(
    "type: autoregressive, data: lamps, ports: {given:", "type: multinomial_mixture, data: lamps, ports: {category:"
)


def told_by_lamps(graph, seed):
    """Held-out rows: log p(mode | lamps) in nats a row, and the share of modes named rightly."""
    data = GENERATED["panels"]()
    test = data["test"]
    says = serket.fit(parse_graph(graph), seed=seed).infer({"lamps": data["lamps"][test]})["mode"].log_probs().numpy()
    label = data["label"][test]
    return says[np.arange(len(test)), label].mean(), (says.argmax(1) == label).mean()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mixture_of_independents_in_place_of_it_costs_modes(seed):
    says, right = told_by_lamps(GRAPH, seed)
    plain_says, plain_right = told_by_lamps(PLAIN, seed)
    # Of five pairs, each tells the mode with probability 0.82: the majority is right in 0.954.
    alike = 1 - 2 * 0.1 * 0.9
    best = sum(math.comb(5, n) * alike**n * (1 - alike) ** (5 - n) for n in range(3, 6))
    assert right > best - 0.03 and right > plain_right + 0.3
    assert says > plain_says + 0.4
