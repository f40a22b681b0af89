"""Clusters: exact given parameters, found better together than alone, whatever is missing."""

import itertools
import re

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from serket.composer import Clusters
from serket.composer.clusters import emissions
from serket.composer.clusters.emissions import Normal
from serket.composer.clusters.expectation import Rules, begun, climb, look_of
from serket.engine import run
from serket.errors import DataError, GraphError, MessageError, ShapeError, StateError
from serket.graph import load_graph
from serket.messages import FAMILIES, Categorical, Dirichlet, Family, Gaussian
from serket.protocol import Evidence, Port, Role
from tests.reference import enumerate_tables

GAUSSIAN, CATEGORY, BAG = Family.GAUSSIAN, Family.CATEGORICAL, Family.DIRICHLET


def generator(seed):
    return torch.Generator().manual_seed(seed)


def random(g, *shape):
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def build(views, size=3, **options):
    ports = {"concept": Port(Role.PARENT, CATEGORY, size)}
    ports |= {f"views[{m}]": Port(Role.CHILD, family, width) for m, (family, width) in enumerate(views)}
    return Clusters(ports, **options)


def inbox_of(composer, messages, above=None):
    rows = len(messages[0].tensors().popitem()[1])
    above = Categorical.vacuous((rows,), composer.components, dtype=torch.float64) if above is None else above
    return {"concept": above, **dict(zip(composer.names, messages, strict=True))}


def infer(composer, messages, above=None):
    inbox = inbox_of(composer, messages, above)
    return composer.infer(inbox, Evidence.none(len(inbox["concept"].logits)), generator=generator(0))


def fitted(composer, messages, seed=0, above=None, **options):
    inbox = inbox_of(composer, messages, above)
    evidence = Evidence.none(len(inbox["concept"].logits))
    report = composer.fit(evidence, inbox, generator=generator(seed), owned=frozenset({"concept"}), **options)
    return composer, report


def labels(composer, messages, only=None):
    rows = len(messages[0].tensors().popitem()[1])
    shut = [
        one if only in (None, m) else one.mask(torch.zeros(rows, dtype=torch.bool)) for m, one in enumerate(messages)
    ]
    prior = composer.own_prior["concept"].expand(rows)
    return (infer(composer, shut).messages["concept"] * prior).logits.argmax(1)


def test_a_damaged_state_is_named():
    composer = told()
    state = dict(composer.state())
    for name in ("views[0].mean", "views[0].scale", "views[1].alpha", "log_weights", "exponents"):
        with pytest.raises(StateError, match=rf"(?s)no fitting '{re.escape(name)}'.*nothing.*fit again"):
            composer.load({key: value for key, value in state.items() if key != name})
        with pytest.raises(StateError, match=r"(?s)no fitting.*found: \("):
            composer.load({**state, name: state[name][:-1]})


SMALL = ((GAUSSIAN, 1), (BAG, 2), (CATEGORY, 4))


def told(counts="overdispersed", **options):
    """Three concepts with known parameters, in units that are not those of z."""
    composer, g = build(SMALL, counts=counts, **options), generator(7)
    alpha = 0.5 + 3 * torch.rand(3, 2, generator=g, dtype=torch.float64)
    composer.load({
        "log_weights": torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log(),
        "exponents": torch.tensor(composer.exponents, dtype=torch.float64),
        "views[0].mean": random(g, 3, 1), "views[0].covariance": 0.2 + torch.rand(3, 1, 1, generator=g).double(),
        "views[0].location": torch.tensor([3.0]).double(), "views[0].scale": torch.tensor([2.0]).double(),
        "views[1].alpha": alpha / alpha.sum(1, keepdim=True) if counts == "multinomial" else alpha,
        "views[2].table": random(g, 3, 4).softmax(1),
    })  # fmt: skip
    return composer


def patterns(g):
    """Messages in which every subset of the three views is there once."""
    seen = torch.tensor(list(itertools.product([True, False], repeat=3)))
    lam = 0.3 + torch.rand(8, 1, generator=g, dtype=torch.float64)
    messages = [Gaussian(lam * (3 + 2 * random(g, 8, 1)), lam),
                Dirichlet(5 * torch.rand(8, 2, generator=g, dtype=torch.float64)), Categorical(random(g, 8, 4))]  # fmt: skip
    return [one.mask(seen[:, m]) for m, one in enumerate(messages)], Categorical(random(g, 8, 3))


def by_quadrature(composer, messages):
    """Per view: log of the integral ``(8, 3)``, points, and per concept their weights without the message."""
    state, found = composer.state(), []
    z = torch.linspace(-25, 30, 20001, dtype=torch.float64)
    mean = 3 + 2 * state["views[0].mean"][:, 0]
    deviation = 2 * state["views[0].covariance"][:, 0, 0].sqrt()
    density = torch.distributions.Normal(mean.unsqueeze(1), deviation.unsqueeze(1)).log_prob(z).exp() * (z[1] - z[0])
    potential = (messages[0].info * z - messages[0].precision * z.square() / 2).exp()
    found.append(((potential @ density.T).log(), z.unsqueeze(1), density))
    alpha = state["views[1].alpha"]
    x = (torch.arange(40000, dtype=torch.float64) + 0.5) / 40000
    pi = torch.stack([x, 1 - x], 1)
    weight = torch.distributions.Dirichlet(alpha.unsqueeze(1)).log_prob(pi).exp() / 40000
    found.append((((messages[1].counts @ pi.log().T).exp() @ weight.T).log(), pi, weight))
    table = state["views[2].table"]
    found.append(((messages[2].logits.exp() @ table.T).log(), torch.eye(4).double(), table))
    return found


def test_replies_and_evidence_are_integrals_whatever_is_missing():
    composer = told()
    messages, above = patterns(generator(1))
    reply = infer(composer, messages, above)
    views = by_quadrature(composer, messages)
    scores = [score for score, _, _ in views]
    said = reply.messages["concept"].logits
    torch.testing.assert_close(said, sum(scores), rtol=0, atol=2e-5)
    joint = above.logits + sum(scores)
    torch.testing.assert_close(reply.log_evidence, joint.logsumexp(1), rtol=0, atol=2e-5)
    assert reply.bound == "exact" and not composer.exact  # projected downwards
    for m, (score, points, weights) in enumerate(views):
        density = (joint - score).softmax(1) @ weights  # of z_m given all but its own message
        mean = density @ points
        heard = reply.messages[f"views[{m}]"]
        torch.testing.assert_close(heard.mean(), mean, rtol=0, atol=2e-4)
        if m < 2:
            second = density @ points.square() - mean.square()
            variance = heard.to_distribution().variance
            torch.testing.assert_close(variance.sum(1), second.sum(1), rtol=1e-3, atol=2e-5)


def test_a_fixed_bag_is_multinomial():
    composer = told("multinomial")
    messages, _ = patterns(generator(1))
    alone = [messages[0].mask(torch.zeros(8, dtype=torch.bool)), messages[1], messages[2].mask(torch.zeros(8) > 0)]
    phi = composer.state()["views[1].alpha"]
    torch.testing.assert_close(infer(composer, alone).messages["concept"].logits, messages[1].counts @ phi.log().T)
    heard = infer(composer, messages, Categorical(torch.tensor([[0.0, -torch.inf, -torch.inf]]).double().expand(8, 3)))
    torch.testing.assert_close(heard.messages["views[1]"].mean(), phi[:1].expand(8, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("covariance", ["full", "diagonal", "tied"])
def test_wide_gaussian_views_integrate_as_messages_do(covariance, full):
    """log of the integral of N(mu, Sigma) m is log Z of their product less that of the first: another formula."""
    g = generator(3)
    root = random(g, 40, 4, 4)
    lam = root @ root.mT if full else root[..., 0].square()
    centre = 3 * random(g, 4, 4)[torch.arange(40) % 4] + random(g, 40, 4)
    precise = (lam @ centre.unsqueeze(-1)).squeeze(-1) if full else lam * centre
    messages = [Gaussian(precise + random(g, 40, 4) * 0.1, lam)]
    composer, _ = fitted(build([(GAUSSIAN, 4)], covariance=covariance), messages, starts=2, iterations=5)
    state = {name.removeprefix("views[0]."): value for name, value in composer.state().items()}
    mean = state["location"] + state["scale"] * state["mean"]
    sigma = state["scale"].unsqueeze(1) * state["covariance"] * state["scale"]
    if covariance == "tied":
        assert torch.equal(sigma[0], sigma[1])
    if covariance == "diagonal":
        assert float((sigma - torch.diag_embed(sigma.diagonal(dim1=1, dim2=2))).abs().max()) == 0
    said = infer(composer, messages).messages["concept"].logits
    for k in range(3):
        prior = Gaussian.from_moments(mean[k], sigma[k]).expand(40)
        expected = (prior * messages[0].full()).log_z() - prior.log_z()
        torch.testing.assert_close(said[:, k], expected, rtol=1e-8, atol=1e-8)


def world(seed, rows=300, size=4, gaps=0.2, repeats=1):
    """Concepts that no sense tells apart alone: the Gaussian view merges two, the bag two others, the words all a bit."""
    g = generator(seed)
    concept = torch.randint(size, (rows,), generator=g)
    centres = torch.tensor([[0.0, 0.0], [0.5, 0.0], [3.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    z = centres[concept] + 0.7 * random(g, rows, 2)
    lam = 0.5 + 6 * torch.rand(rows, 2, generator=g, dtype=torch.float64)
    noisy = z + random(g, rows, 2) / lam.sqrt()
    profile = torch.tensor([[6, 1, 1, 1, 1], [1, 6, 1, 1, 1], [1, 1, 3, 3, 1], [1, 1, 3, 3, 1]], dtype=torch.float64)
    bag = torch.stack([torch.bincount(profile[k].multinomial(12, replacement=True, generator=g), minlength=5)
                       for k in concept]).double()  # fmt: skip
    word = (torch.eye(4).double()[concept] + 0.25).multinomial(1, generator=g).squeeze(1)
    messages = [Gaussian(lam * noisy, lam), Dirichlet(repeats * bag), Categorical(4 * torch.eye(4).double()[word])]
    keep = torch.rand(rows, 3, generator=g) >= gaps
    keep[torch.arange(rows), torch.randint(3, (rows,), generator=g)] = True
    return concept, [one.mask(keep[:, m]) for m, one in enumerate(messages)]


KINDS = ((GAUSSIAN, 2), (BAG, 5), (CATEGORY, 4))


def scores_of(seed, **options):
    """Adjusted Rand index on rows not fitted: all views together, and each fitted and read alone."""
    concept, messages = world(seed, 900, gaps=0.1)
    train, test = slice(0, 500), slice(500, 900)

    def score(views):
        composer, _ = fitted(build([KINDS[m] for m in views], 4, **options), [messages[m][train] for m in views])
        return adjusted_rand_score(concept[test], labels(composer, [messages[m][test] for m in views]))

    return score((0, 1, 2)), [score((m,)) for m in range(3)]


@pytest.mark.parametrize("seed", [0, 1, *[pytest.param(seed, marks=pytest.mark.stat) for seed in range(2, 10)]])
def test_together_is_better_than_the_best_alone(seed):
    together, alone = scores_of(seed)
    assert together > max(alone) + 0.1 and together > 0.6, (together, alone)


@pytest.mark.parametrize("options", [{}, {"counts": "multinomial", "covariance": "tied", "weights": [1.0, 0.3, 0.5]}])
def test_every_step_climbs(options):
    """The log-likelihood plus log-priors never falls, tempered or not, with rows patchy and messages uncertain."""
    _, messages = world(3, 120)
    composer = build(KINDS, 4, **options)
    looks = [look_of(one) for one in messages]
    rules = Rules(torch.zeros(120, 4).double(), True, 1.0, composer.exponents)
    share = random(generator(0), 120, 4).softmax(1)
    standing, heights = begun(list(composer._blank.values()), share, looks, rules), []
    for _ in range(40):
        standing, height, _ = climb(standing, looks, rules, 1)
        heights.append(height)
    assert all(b >= a - 1e-7 for a, b in itertools.pairwise(heights)), heights
    assert heights[-1] > heights[0] + 1


def test_the_curve_is_what_infer_says():
    _, messages = world(4, 100)
    composer, report = fitted(build(KINDS, 4), messages, iterations=6)
    again, longer = fitted(build(KINDS, 4), messages, iterations=7)
    assert longer.history["log_likelihood"][:6] == pytest.approx(report.history["log_likelihood"])
    prior = composer.own_prior["concept"].expand(100)
    assert longer.history["log_likelihood"][6] == pytest.approx(
        float(infer(composer, messages, prior).log_evidence.mean())
    )


def test_uncertainty_is_not_mistaken_for_spread():
    """Messages wider than a cluster, by up to 20 times in variance, still find how wide it is."""
    g = generator(5)
    side = torch.arange(4000) % 2
    z = torch.where(side == 0, -2.0, 2.0).double().unsqueeze(1) + 0.3 * random(g, 4000, 1)
    lam = torch.where(torch.rand(4000, 1, generator=g) < 0.5, 0.5, 4.0).double()
    message = Gaussian(lam * (z + random(g, 4000, 1) / lam.sqrt()), lam)
    composer, _ = fitted(build([(GAUSSIAN, 1)], 2), [message], iterations=60)
    state = composer.state()
    deviation = (state["views[0].scale"] * state["views[0].covariance"][:, 0, 0].sqrt()).sort().values
    assert deviation.tolist() == pytest.approx([0.3, 0.3], abs=0.1)
    place = (state["views[0].location"] + state["views[0].scale"] * state["views[0].mean"][:, 0]).sort().values
    assert place.tolist() == pytest.approx([-2.0, 2.0], abs=0.1)


def without_spread(self, seen, share):
    """Take the middle of every message for the point itself."""
    return kept(self, emissions.Seen(1e6 * seen.info / seen.precision, torch.full_like(seen.precision, 1e6)), share)


def off_by_a_determinant(self, seen):
    return truth(self, seen) + torch.linalg.slogdet(self.covariance)[1] / 2


kept, truth = Normal.improve, Normal.score


@pytest.mark.parametrize("name, bug, test", [
    ("improve", without_spread, test_uncertainty_is_not_mistaken_for_spread),
    ("score", off_by_a_determinant, test_replies_and_evidence_are_integrals_whatever_is_missing),
])  # fmt: skip
def test_planted_bugs_are_caught(monkeypatch, name, bug, test):
    monkeypatch.setattr(Normal, name, bug)
    with pytest.raises(AssertionError):
        test()


def test_the_order_of_views_does_not_matter():
    concept, messages = world(6)
    straight, _ = fitted(build(KINDS, 4), messages)
    turned, _ = fitted(build(KINDS[::-1], 4), messages[::-1])
    assert adjusted_rand_score(labels(straight, messages), labels(turned, messages[::-1])) > 0.99
    assert adjusted_rand_score(concept, labels(straight, messages)) > 0.5


def test_units_of_a_view_do_not_matter():
    _, messages = world(6)
    scale, shift = torch.tensor([1e3, 1e-2]).double(), torch.tensor([5e3, -1.0]).double()
    lam = messages[0].precision / scale.square()
    moved = [Gaussian(messages[0].info / scale + lam * shift, lam), *messages[1:]]
    straight, turned = fitted(build(KINDS, 4), messages)[0], fitted(build(KINDS, 4), moved)[0]
    a, b = (infer(one, said).messages["concept"].probs for one, said in ((straight, messages), (turned, moved)))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_a_refit_goes_on_and_labels_keep_their_names():
    concept, messages = world(7, 400)
    composer, first = fitted(build(KINDS, 4), [one[:300] for one in messages])
    before = labels(composer, messages)
    _, second = fitted(composer, [one[100:] for one in messages], seed=5)
    assert float((labels(composer, messages) == before).double().mean()) > 0.9
    assert len(second.history["log_likelihood"]) == 20
    _, third = fitted(composer, messages, restart=True)
    assert third.history["log_likelihood"][0] != pytest.approx(second.history["log_likelihood"][0])


def test_names_are_those_of_the_inbox_where_it_tells():
    """A first fit and a refit take over a naming from outside, even a turned one."""
    concept, messages = world(8)
    for turn in (0, 1):
        named = Categorical(2 * torch.eye(4).double()[(concept + turn) % 4])
        composer = fitted(build(KINDS, 4), messages, above=named)[0] if turn == 0 else composer  # noqa: F821
        fitted(composer, messages, above=named)
        assert float((labels(composer, messages) == (concept + turn) % 4).double().mean()) > 0.75


def test_tempering_is_chosen_by_prediction_across_views():
    """Every word 40 times over says no more than once: auto believes the bag less, and finds the concepts again."""
    concept, messages = world(9, 600, gaps=0, repeats=40)
    options = {"counts": "multinomial"}
    plain, _ = fitted(build(KINDS, 4, **options), messages)
    auto, _ = fitted(build(KINDS, 4, **options), messages, temper="auto")
    assert auto.exponents[1] < 0.1 and auto.exponents[2] == 1.0, auto.exponents
    found = [adjusted_rand_score(concept, labels(one, messages)) for one in (plain, auto)]
    assert found[1] > found[0] + 0.1, found
    assert infer(auto, messages).bound == "none" and "weigh" in auto.note
    again = build(KINDS, 4, **options)
    again.load(auto.state())
    assert again.exponents == pytest.approx(auto.exponents)


def test_a_constant_view_and_a_view_that_is_never_there_say_nothing():
    concept, messages = world(10)
    rows = len(concept)
    still = Gaussian(torch.full((rows, 1), 50.0).double(), torch.full((rows, 1), 10.0).double())
    views = [*KINDS, (GAUSSIAN, 1), (GAUSSIAN, 2), (BAG, 3), (CATEGORY, 2)]
    absent = [FAMILIES[family].vacuous((rows,), size, dtype=torch.float64) for family, size in views[4:]]
    composer, _ = fitted(build(views, 4), [*messages, still, *absent])
    bare, _ = fitted(build(KINDS, 4), messages)
    reply = infer(composer, [*messages, still, *absent])
    assert adjusted_rand_score(labels(composer, [*messages, still, *absent]), labels(bare, messages)) > 0.95
    for one in reply.messages.values():
        assert not any(bool(value.isnan().any()) for value in one.tensors().values())
    torch.testing.assert_close(
        reply.messages["views[3]"].mean(), torch.full((rows, 1), 5.0).double(), rtol=0, atol=1e-3
    )
    torch.testing.assert_close(reply.messages["views[4]"].mean(), torch.zeros(rows, 2).double())
    torch.testing.assert_close(reply.messages["views[5]"].mean(), torch.full((rows, 3), 1 / 3).double())
    torch.testing.assert_close(reply.messages["views[6]"].probs, torch.full((rows, 2), 0.5).double())
    # and a message that comes late is heard, without an opinion
    late = Gaussian(torch.ones(rows, 2).double(), torch.ones(rows, 2).double())
    after = infer(composer, [*messages, still, late, *absent[1:]]).messages["concept"].probs
    torch.testing.assert_close(after, reply.messages["concept"].probs)


def test_mistakes():
    _, messages = world(0, 3)
    with pytest.raises(DataError, match=r"(?s)at least 4 rows.*found: 3 of 3.*concept variable smaller"):
        fitted(build(KINDS, 4), messages)
    with pytest.raises(DataError, match=r"at least 2 rows"):
        fitted(build(KINDS, 1), [one[:1] for one in messages])
    with pytest.raises(DataError, match=r"(?s)rows 0, 1.*counts below zero"):
        fitted(build([(BAG, 3)], 2), [Dirichlet(torch.full((2, 3), -0.5).double())])
    with pytest.raises(MessageError, match=r"(?s)rows 0.*below zero"):
        infer(told(), [one[:1] if m != 1 else Dirichlet(torch.full((1, 2), -0.5).double())
                       for m, one in enumerate(patterns(generator(1))[0])])  # fmt: skip
    with pytest.raises(MessageError, match="never fitted"):
        infer(build(KINDS, 4), messages)
    with pytest.raises(ShapeError, match=r"(?s)weights.*found: 2"):
        build(KINDS, weights=[1.0, 0.5])
    with pytest.raises(GraphError, match="out of range"):
        build(KINDS, weights=1.5)


def test_empty_bags_are_as_good_as_none():
    _, messages = world(2)
    composer, _ = fitted(build(KINDS, 4), messages)
    empty = Dirichlet(torch.zeros_like(messages[1].counts))
    said = infer(composer, [messages[0], empty, messages[2]]).messages["concept"].logits
    assert bool(said.isfinite().all())
    fitted(build(KINDS, 4), [messages[0], empty, messages[2]], iterations=2)


def test_in_a_graph_beliefs_equal_enumeration():
    """Three tables under one concept, with every pattern of missing readings: beliefs and evidence, exact."""
    g = generator(2)
    tables = [random(g, 3, 3).softmax(1) for _ in range(3)]
    spec = {
        "serket": 1,
        "variables": {"kind": {"family": "categorical", "size": 3, "prior": [0.5, 0.3, 0.2]},
                      **{f"v{m}": {"family": "categorical", "size": 3} for m in range(3)}},
        "modules": {f"s{m}": {"type": "table", "ports": {"given": f"v{m}"}, "data": f"x{m}",
                              "values": tables[m].tolist()} for m in range(3)},
        "composers": {"all": {"type": "clusters", "ports": {"concept": "kind", "views": ["v0", "v1", "v2"]}}},
    }  # fmt: skip
    graph = load_graph(spec)
    modules = graph.build()
    inner = [random(g, 3, 3).softmax(1) for _ in range(3)]
    modules["all"].load({"log_weights": torch.zeros(3).double(), "exponents": torch.ones(3).double(),
                         **{f"views[{m}].table": inner[m] for m in range(3)}})  # fmt: skip
    seen = torch.tensor(list(itertools.product([True, False], repeat=3)))
    values = torch.randint(3, (8, 3), generator=g).double()
    evidence = {f"s{m}": Evidence.of(torch.where(seen[:, m], values[:, m], torch.nan).unsqueeze(1)) for m in range(3)}
    result = run(graph, modules, evidence)
    assert result.exact and result.bound == "exact"
    for row in range(8):
        factors = [(["kind"], torch.tensor([0.5, 0.3, 0.2]))]
        factors += [(["kind", f"v{m}"], inner[m]) for m in range(3)]
        factors += [([f"v{m}"], tables[m][:, int(values[row, m])]) for m in range(3) if seen[row, m]]
        truth, log_z = enumerate_tables({"kind": 3, "v0": 3, "v1": 3, "v2": 3}, factors)
        for name, probs in truth.items():
            torch.testing.assert_close(result[name].probs[row], probs, rtol=0, atol=1e-7)
        assert float(result.log_evidence[row]) == pytest.approx(log_z, abs=1e-7)
