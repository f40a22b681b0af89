"""The gan's message against quadrature over its own generator, what it covers, and the graph it earns its place in."""

from dataclasses import replace
from functools import cache
from importlib.resources import files

import pytest
import torch

import serket
from serket.data.generate import GENERATED
from serket.draws import draw_rows
from serket.errors import DataError, ShapeError, StateError
from serket.graph import parse_graph
from serket.messages import Family, Gaussian
from serket.modules import GAN
from serket.protocol import Evidence, Port, Role, extrinsic

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.stat) for seed in range(1, 10))]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gan(size, **options):
    return GAN({"latent": Port(Role.PARENT, Family.GAUSSIAN, size)}, **options)


def standard(rows, size):
    return {"latent": Gaussian.standard((rows,), size, dtype=torch.float64)}


def fit(module, values, **options):
    return module.fit(Evidence.of(values), standard(len(values), module.size), generator=generator(1), **options)


def answer(module, values):
    return module.infer(standard(len(values), module.size), Evidence.of(values), generator=generator())


@cache
def fitted():
    """Two clumps on a line in the plane, one wider, in units that are not one; fitted on one latent dimension."""
    g = generator(3)
    kind = torch.arange(400) % 2
    along = torch.where(kind == 0, -2.0, 2.0) + 0.5 * (1 + kind) * torch.randn(400, generator=g)
    across = 0.05 * torch.randn(400, generator=g)
    values = torch.stack([along + across + 7, 3 * along - 3 * across], -1).double()
    module = gan(1, hidden=[32, 32])
    fit(module, values[:300], epochs=100)
    return module, values


def test_the_covariance_is_that_of_the_inference_network_on_what_is_generated():
    """Of z ~ N(0, 1) against the message about G(z), by quadrature: left-over mean and variance."""
    module, _ = fitted()
    z = torch.linspace(-6, 6, 2001, dtype=torch.float64).unsqueeze(-1)
    weight = torch.softmax(-z[:, 0].square() / 2, 0)
    certain = {"latent": Gaussian(1e12 * z, torch.full_like(z, 1e12))}
    reply = answer(module, module.predict(certain, generator=generator()).mean)
    assert reply.includes == {"latent": frozenset({"own_prior"})} and reply.log_evidence is None
    posterior = reply.messages["latent"]
    left = (z - posterior.mean())[:, 0]
    variance = posterior.covariance()[:, 0, 0]
    assert float(variance.max()) < 0.2, "else this says little"
    assert abs(float((weight * left).sum())) < 1e-2
    assert abs(float((weight * (left.square() - variance)).sum())) < 1e-2


def test_the_prior_is_divided_out_and_absent_rows_are_vacuous():
    module, values = fitted()
    planted = values[:4].clone()
    planted[2] = torch.nan
    reply = answer(module, planted)
    message = extrinsic(reply, {}, module.own_prior)["latent"]
    assert message.is_vacuous().tolist() == [False, False, True, False]
    torch.testing.assert_close((message * standard(4, 1)["latent"]).mean(), reply.messages["latent"].mean())


def test_what_is_generated_looks_like_what_was_held_out():
    """Energy distance (Szekely & Rizzo 2013) as between real rows, both clumps as often; draws belong to their rows."""
    module, values = fitted()
    imagined = module.predict(standard(400, 1), generator=generator())
    drawn = draw_rows(imagined, 1, generator(4), torch.arange(400))[:, 0]

    def distance(a, b):
        return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())

    assert distance(drawn, values[300:]) < 0.05 * distance(values[:200:2], values[1:200:2])
    assert 0.4 < float((drawn[:, 0] > 7).double().mean()) < 0.6
    alone = module.predict(standard(1, 1), generator=generator())
    torch.testing.assert_close(draw_rows(alone, 1, generator(4), torch.arange(5, 6))[0, 0], drawn[5])
    # And mean and deviation, given the row itself, cover it.
    seen = module.predict({"latent": answer(module, values[300:]).messages["latent"]}, generator=generator())
    score = ((values[300:] - seen.mean).square() / seen.variance).mean(0)
    assert float(score.max()) < 2


def test_constant_columns_are_no_trouble():
    values = torch.cat([fitted()[1][:60], torch.full((60, 1), 5.0, dtype=torch.float64)], -1)
    module = gan(2, hidden=[8])
    fit(module, values, epochs=5)
    assert bool(answer(module, values).messages["latent"].mean().isfinite().all())


BAD = {"one row": (torch.ones(1, 2), "2 rows at least"), "equal rows": (torch.ones(9, 2), "rows that differ"),
       "nothing": (torch.full((9, 2), torch.nan), "2 rows at least")}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_learnt_from_is_refused(name):
    values, expected = BAD[name]
    with pytest.raises(DataError) as caught:
        fit(gan(2), values.double())
    assert expected in str(caught.value) and caught.value.fix


def test_mistakes_are_named():
    module, values = fitted()
    with pytest.raises(ShapeError, match=r"\(400, 1\)"):
        answer(module, values[:, :1])
    with pytest.raises(StateError):
        answer(gan(1), values)
    with pytest.raises(DataError, match="not finite"):
        planted = replace(Evidence.of(values), values=values / 0)
        gan(1).fit(planted, standard(400, 1), generator=generator())


GRAPH = (files("serket") / "graphs" / "numerals.yaml").read_text()


def written(graph, seed):
    """Forty of each numeral, written by name: their energy distance to held-out rows, and how many of these come near.

    Near is within the distance of a row's fifth neighbour among real rows (Naeem et al. 2020, coverage).
    """
    data = GENERATED["digits_named"]()
    real = torch.tensor(data["kar"][data["test"]]).double()
    model = serket.fit(parse_graph(graph), seed=seed)
    names = torch.arange(10.0).unsqueeze(-1).numpy()
    drawn = model.generate("kar", given={"name": names}, samples=40).samples.flatten(0, 1).double()
    own, across = torch.cdist(real, real), torch.cdist(real, drawn)
    energy = 2 * across.mean() - own.mean() - torch.cdist(drawn, drawn).mean()
    reach = own.topk(6, largest=False).values[:, -1]
    return float(energy), float((across < reach.unsqueeze(-1)).any(1).double().mean())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_vae_in_place_of_the_gan_costs_likeness(seed):
    # In CI half of the training, and so half of the likeness.
    brief = "ports: {latent: z}, fit: {epochs: 100}}\n  names"
    graph = GRAPH if seed else GRAPH.replace("ports: {latent: z}}\n  names", brief)
    energy, coverage = written(graph, seed)
    plain_energy, plain_coverage = written(GRAPH.replace("type: gan", "type: vae"), seed)
    assert energy < plain_energy / (2 if seed else 1) and coverage > plain_coverage + 0.3


def test_random_weights_are_no_part_of_the_average():
    """Few steps: most of an exponential average would be what it started from. A refit goes on from what it fitted."""
    z = torch.randn(30, 1, generator=generator(2), dtype=torch.float64)
    values = torch.cat([2 * z, -z], 1) + 3

    def spread(module):
        latent = Gaussian.standard((2000,), 1, dtype=torch.float64)
        return float(module.predict({"latent": latent}, generator=generator()).sample().std(0)[0])

    last, averaged = (gan(1, hidden=[32, 32]) for _ in range(2))
    fit(last, values, epochs=100, average=0.0)
    fit(averaged, values, epochs=100)
    assert spread(averaged) > 0.8 * spread(last)
    before = {name: value.clone() for name, value in averaged.state().items() if name.startswith("netG")}
    fit(averaged, values, epochs=1, learning_rate=0.1)
    moved = [float((averaged.state()[name] - value).abs().max()) for name, value in before.items()]
    assert max(moved) < 0.005
