"""The black box against enumeration and quadrature, in all its forms; its user's mistakes; planted bugs."""

import math

import pytest
import torch

import serket
from serket.errors import GraphError, MessageError
from serket.graph import load_graph
from serket.messages import Categorical, Dirichlet, Family, Gaussian, Particles
from serket.model import Model
from serket.modules import black_box, shares
from serket.modules.black_box import BlackBox
from serket.protocol import Evidence, Port, Role, extrinsic, traits
from serket.registry import hypotheses_of

F64, ROWS, LISTED = torch.float64, 5, 6
METHODS = ["exact", "sir", "mh"]
DRAWS = {"exact": {}, "sir": {"survivors": 8000}, "mh": {"survivors": 8000, "steps": 60}}
GAUSS = {"mean": [0.5, -0.5], "covariance": [[2.0, 0.3], [0.3, 1.0]]}
PRIORS = {"categorical": [0.5, 0.2, 0.2, 0.1], "gaussian": GAUSS, "dirichlet": [2.0, 0.7, 1.0]}


@serket.hypotheses("by_value")
def by_value(values, generator):
    """Six hypotheses a row, deterministic in its values; the last place of the list is empty."""
    kind = values[:, 1].long()[0].item()
    place = torch.arange(LISTED, dtype=values.dtype)
    weights = torch.cos(3 * values[:, :1] + place).index_fill(1, torch.tensor([LISTED - 1]), -math.inf)
    wave = torch.stack([torch.sin(values[:, :1] + 2 * place), torch.cos(2 * values[:, :1] - place)], -1)
    offers = {
        0: (place + values[:, :1].round().abs()) % 3,  # category 3 is never named, others more than once
        1: 1.5 * wave,
        2: (4 * torch.cat([wave, wave[..., :1] * wave[..., 1:]], -1).abs()).round(),
    }[kind]
    return offers, weights


KINDS = {"categorical": 0, "gaussian": 1, "dirichlet": 2}
SIZES = {"categorical": 4, "gaussian": 2, "dirichlet": 3}


def box(family, size=None, **options):
    port = Port(Role.PARENT, Family(family), size or SIZES[family])
    return BlackBox({"hypothesis": port}, options.pop("function", "by_value"), **options)


def evidence(family, absent=(1,)):
    values = torch.stack(
        [torch.linspace(-1, 2, ROWS, dtype=F64), torch.full((ROWS,), float(KINDS[family]), dtype=F64)], 1
    )
    values[list(absent)] = math.nan
    return Evidence.of(values, row_id=10 + torch.arange(ROWS))


def inbox(family, seed=0):
    g = torch.Generator().manual_seed(seed)
    if family == "categorical":
        return Categorical(torch.randn(ROWS, 4, generator=g, dtype=F64))
    if family == "dirichlet":
        return Dirichlet(3 * torch.rand(ROWS, 3, generator=g, dtype=F64) - 0.5)
    return Gaussian(torch.randn(ROWS, 2, generator=g, dtype=F64), torch.rand(ROWS, 2, generator=g, dtype=F64) + 0.5)


def solved(module, family, cavity=None, given=None):
    """The belief, cavity times message, as the engine forms it; and the reply."""
    cavity = cavity or inbox(family)
    heard = {"hypothesis": cavity}
    reply = module.infer(heard, given or evidence(family), generator=torch.Generator().manual_seed(7))
    return cavity * extrinsic(reply, heard, traits(module).own_prior)["hypothesis"], reply


def listed(family, row):
    """What the function offers of one row, in the places that are not empty."""
    values = evidence(family, absent=()).values
    offers, weights = by_value(values, None)
    return offers[row, : LISTED - 1], weights[row, : LISTED - 1]


def log_beta(alpha):
    return alpha.lgamma().sum(-1) - alpha.sum(-1).lgamma()


def weighed(family, row, cavity, prior):
    """Log-weight of every hypothesis under a cavity, its own prior divided out, by the formulas of the class."""
    offers, weights = listed(family, row)
    if family == "gaussian":
        potential = (offers * cavity.info[row]).sum(-1) - (offers.square() * cavity.precision[row]).sum(-1) / 2
        own = torch.distributions.MultivariateNormal(*(torch.tensor(part, dtype=F64) for part in GAUSS.values()))
        return offers, weights + potential - (own.log_prob(offers) if prior else 0.0)
    alpha = cavity.counts[row] + 1
    own = torch.tensor(PRIORS["dirichlet"], dtype=F64)
    weights = weights - (log_beta(own + offers) - log_beta(own) if prior else 0.0)
    return offers, weights + log_beta(alpha + offers)


@pytest.mark.parametrize("prior", [False, True], ids=["likelihoods", "posteriors"])
@pytest.mark.parametrize("missing", [None, 0.0, 0.2])
def test_a_categorical_list_against_enumeration(prior, missing):
    own = {"includes_prior": True, "prior": PRIORS["categorical"]} if prior else {}
    module, cavity = box("categorical", missing=missing, **own), inbox("categorical")
    belief, reply = solved(module, "categorical", cavity)
    for row in (0, 2, 3, 4):
        offers, weights = listed("categorical", row)
        total = weights.exp().sum()
        truth = torch.zeros(4, dtype=F64)
        for k in range(4):
            named = weights.exp()[offers == k].sum()
            truth[k] = named if named > 0 else (1e-3 if missing is None else missing) * total
            truth[k] /= PRIORS["categorical"][k] if prior else 1.0
        truth = truth * cavity.logits[row].exp()
        torch.testing.assert_close(belief.probs[row], truth / truth.sum(), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(reply.log_evidence[row], truth.sum().log(), rtol=1e-12, atol=1e-12)
    assert torch.equal(belief.logits[1], cavity.logits[1])
    torch.testing.assert_close(reply.log_evidence[1], cavity.log_z()[1])
    assert traits(module).exact and not reply.tilted


@pytest.mark.parametrize("prior", [False, True], ids=["likelihoods", "posteriors"])
@pytest.mark.parametrize("method", METHODS)
def test_a_list_of_vectors_against_enumeration(method, prior):
    own = {"includes_prior": True, "prior": GAUSS} if prior else {}
    module, cavity = box("gaussian", method=method, **DRAWS[method], **own), inbox("gaussian")
    belief, reply = solved(module, "gaussian", cavity)
    tolerance = 1e-10 if method == "exact" else 1e-2
    for row in (0, 2, 3, 4):
        offers, weights = weighed("gaussian", row, cavity, prior)
        share = weights.softmax(-1)
        mean = share @ offers
        covariance = (offers - mean).T @ (share[:, None] * (offers - mean))
        torch.testing.assert_close(belief.mean()[row], mean, rtol=0, atol=tolerance)
        torch.testing.assert_close(belief.covariance()[row], covariance, rtol=0, atol=tolerance)
        torch.testing.assert_close(reply.log_evidence[row], weights.logsumexp(-1), rtol=1e-10, atol=1e-10)
        assert float(reply.info["effective_sample_size"][row]) == pytest.approx(float(1 / share.square().sum()))
    torch.testing.assert_close(belief.mean()[1], cavity.mean()[1], rtol=1e-12, atol=1e-12)
    assert isinstance(belief, Particles if method == "exact" else Gaussian)
    if method != "exact":
        assert 0 < float(reply.info["monte_carlo_error"][0]) < 1e-2 and float(reply.info["monte_carlo_error"][1]) == 0
    if method == "mh":
        rate = reply.info["acceptance_rate"]
        assert bool((rate[[0, 2, 3, 4]] > 0.3).all()) and float(rate[1]) == 0


@pytest.mark.parametrize("prior", [False, True], ids=["likelihoods", "posteriors"])
@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("method", METHODS)
def test_a_list_of_bags_against_enumeration(method, missing, prior):
    own = {"includes_prior": True, "prior": PRIORS["dirichlet"]} if prior else {}
    module, cavity = box("dirichlet", method=method, missing=missing, **DRAWS[method], **own), inbox("dirichlet")
    belief, reply = solved(module, "dirichlet", cavity)
    tolerance = 1e-10 if method == "exact" else 1e-2
    for row in (0, 2, 3, 4):
        offers, weights = weighed("dirichlet", row, cavity, prior)
        alpha = cavity.counts[row] + 1
        if missing:
            offers = torch.cat([offers, torch.zeros(1, 3, dtype=F64)])
            rest = listed("dirichlet", row)[1].logsumexp(-1) + math.log(missing) + log_beta(alpha)
            weights = torch.cat([weights, rest.reshape(1)])
        share = weights.softmax(-1)
        parts = [torch.distributions.Dirichlet(alpha + offer) for offer in offers]
        mean = sum(s * part.mean for s, part in zip(share, parts, strict=True))
        second = sum(s * (part.variance + part.mean**2) for s, part in zip(share, parts, strict=True))
        found = belief.to_distribution()
        torch.testing.assert_close(found.mean[row], mean, rtol=0, atol=tolerance)
        torch.testing.assert_close(found.variance[row].sum(), (second - mean**2).sum(), rtol=0, atol=tolerance)
        torch.testing.assert_close(reply.log_evidence[row], weights.logsumexp(-1), rtol=1e-10, atol=1e-10)
    assert torch.equal(belief.counts[1], cavity.counts[1]) and reply.tilted == {"hypothesis"}


def test_bags_against_quadrature():
    """Two words: the mixture's density on a grid, without a formula for it."""

    @serket.hypotheses("two_bags")
    def two_bags(values, generator):
        return torch.tensor([[[3.0, 0.0], [1.0, 4.0]]]), torch.tensor([[0.2, 1.1]])

    cavity = Dirichlet(torch.tensor([[0.4, 0.9]], dtype=F64))
    given = Evidence.of(torch.zeros(1, 1, dtype=F64))
    belief, reply = solved(box("dirichlet", size=2, function="two_bags"), "dirichlet", cavity, given)
    x = (torch.arange(100_000, dtype=F64) + 0.5) / 100_000
    pi = torch.stack([x, 1 - x], -1)
    bags, weights = two_bags(None, None)
    density = (weights[0].double().exp() * (pi.log() @ bags[0].T.double()).exp()).sum(-1) * (
        pi.log() @ cavity.counts[0]
    ).exp()
    mean = (density * x).sum() / density.sum()
    torch.testing.assert_close(belief.mean()[0, 0], mean, rtol=0, atol=1e-7)
    variance = (density * (x - mean) ** 2).sum() / density.sum()
    torch.testing.assert_close(belief.to_distribution().variance[0, 0], variance, rtol=0, atol=1e-7)
    torch.testing.assert_close(reply.log_evidence[0], density.mean().log(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("family", SIZES)
def test_posteriors_under_its_own_prior_are_the_belief_where_nobody_else_speaks(family):
    """Alone at its variable the module owns the prior: prior times posterior over prior is the posterior."""
    own = {"type": "black_box", "function": "by_value", "data": "x", "ports": {"hypothesis": "z"}, "missing": 0.0,
           "includes_prior": True, "prior": PRIORS[family]}  # fmt: skip
    graph = load_graph(
        {"serket": 1, "variables": {"z": {"family": family, "size": SIZES[family]}}, "modules": {"m": own}}
    )
    belief = Model(graph, graph.build(), 0, "cpu").infer({"x": evidence(family).values})["z"]
    prior = box(family, includes_prior=True, prior=PRIORS[family]).own_prior["hypothesis"]
    for row in (0, 2, 3, 4):
        offers, weights = listed(family, row)
        share = weights.softmax(-1)
        if family == "categorical":
            truth = torch.stack([share[offers == k].sum() for k in range(4)])
        elif family == "gaussian":
            truth = share @ offers
        else:  # a list of bags, each with its posterior over the words
            truth = share @ torch.distributions.Dirichlet(prior.concentration + offers).mean
        torch.testing.assert_close(belief.mean()[row], truth, rtol=1e-9, atol=1e-9)


def test_one_hypothesis_and_none():
    for family in SIZES:
        one, silent = box(family, function="one_place"), box(family, function="empty_places")
        belief = solved(one, family)[0]
        if family == "gaussian":
            torch.testing.assert_close(belief.mean()[0], torch.full((2,), 2.0, dtype=F64))
        elif family == "dirichlet":
            torch.testing.assert_close(belief.counts[0], inbox(family).counts[0] + 2.0)
        else:
            assert int(belief.probs[0].argmax()) == 2
        belief = solved(silent, family)[0]
        assert torch.equal(belief.mean(), inbox(family).mean())


@serket.hypotheses("one_place")
def one_place(values, generator):
    family = list(KINDS)[int(values[0, 1])]
    width = () if family == "categorical" else (SIZES[family],)
    return torch.full((len(values), 1, *width), 2.0), torch.zeros(len(values), 1)


@serket.hypotheses("empty_places")
def empty_places(values, generator):
    offers, weights = one_place(values, generator)
    return offers * math.nan, weights - math.inf


def test_a_draw_of_the_function_is_the_same_in_every_sweep():
    @serket.hypotheses("random")
    def random(values, generator):
        return torch.randn(len(values), 3, 2, generator=generator), torch.zeros(len(values), 3)

    module, generator = box("gaussian", function="random"), torch.Generator().manual_seed(3)
    first, again = (
        module.infer({"hypothesis": inbox("gaussian")}, evidence("gaussian"), generator=generator) for _ in range(2)
    )
    assert torch.equal(first.messages["hypothesis"].points, again.messages["hypothesis"].points)


MISTAKES = {
    "raises": (lambda v, g: v.nonsense, r"raised AttributeError(.|\n)*test_black_box.py:\d+ in <lambda>: "),
    "no_pair": (lambda v, g: v, r"no hypotheses with(.|\n)*\(4, L, 2\) and log_weights \(4, L\)(.|\n)*found: Tensor"),
    "other_rows": (lambda v, g: (v[:2, None], v[:2, :1]), r"found: \(2, 1, 2\) and \(2, 1\)"),
    "flat": (lambda v, g: (v, v[:, :1]), r"found: \(4, 2\) and \(4, 1\)"),
    "nan": (
        lambda v, g: (v[:, None] * math.nan, v[:, :1]),
        r"hypotheses that the variable cannot be(.|\n)*nan, in rows 10, 12, 13, 14",
    ),
    "heavy": (lambda v, g: (v[:, None], v[:, :1] + math.inf), r"no log-weights(.|\n)*below infinity"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_of_the_function_name_it_and_its_line(name):
    function, text = MISTAKES[name]
    serket.hypotheses(name)(function)
    with pytest.raises(MessageError, match=text) as caught:
        solved(box("gaussian", function=name), "gaussian")
    assert f"'{name}'" in str(caught.value) and "test_black_box.py:" in caught.value.where and caught.value.fix


@pytest.mark.parametrize(("family", "value", "kind"), [("categorical", 4.0, "from 0 to 3"), ("categorical", 1.5, "from 0 to 3"),
                                                        ("dirichlet", -1.0, "counts of 0 or more")])  # fmt: skip
def test_hypotheses_that_the_family_does_not_have_are_refused(family, value, kind):
    @serket.hypotheses(f"wrong {family} {value}")
    def wrong(values, generator):
        offers, weights = one_place(values, generator)
        return torch.full_like(offers, value), weights

    with pytest.raises(MessageError, match=f"{kind}(.|\n)*{value:g}, in rows"):
        solved(box(family, function=f"wrong {family} {value}"), family)


@pytest.mark.parametrize(
    ("family", "options", "text"),
    [
        ("gaussian", {"function": "by_valu"}, "did you mean 'by_value'"),
        ("gaussian", {"method": "gibbs"}, "no such method"),
        ("categorical", {"method": "sir"}, "nothing to sample"),
        ("gaussian", {"missing": 0.1}, "everywhere"),
        ("categorical", {"missing": 1.5}, "no share"),
        ("gaussian", {"method": "sir", "survivors": 0}, "nothing would be drawn"),
        ("gaussian", {"survivors": 9}, "leave survivors out, or write method: sir or mh"),
        ("gaussian", {"method": "sir", "steps": 9}, "leave steps out, or write method: mh"),
        ("categorical", {"includes_prior": True}, "belong together"),
        ("categorical", {"prior": [0.25] * 4}, "belong together"),
        ("categorical", {"includes_prior": True, "prior": [0.5, 0.5, 0.0, 0.0]}, "4 probabilities above 0"),
        ("categorical", {"includes_prior": True, "prior": [0.5, 0.5]}, "size 4"),
        ("gaussian", {"includes_prior": True, "prior": [1.0, 2.0]}, "mean"),
        (
            "gaussian",
            {"includes_prior": True, "prior": {**GAUSS, "covariance": [[1.0, 2.0], [2.0, 1.0]]}},
            "covariance",
        ),
        ("gaussian", {"includes_prior": True, "prior": {**GAUSS, "precision": 3}}, "covariance"),
        ("dirichlet", {"includes_prior": True, "prior": [1.0, -1.0, 1.0]}, "alpha above 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(family, options, text):
    with pytest.raises(GraphError, match=text):
        box(family, **options)


def test_a_name_belongs_to_one_function():
    assert hypotheses_of("by_value") is by_value
    with pytest.raises(GraphError, match="two functions are registered as 'by_value'(.|\n)*test_black_box.py"):
        serket.hypotheses("by_value")(one_place)


def _inverted(log_weights, log_fit, *rest):
    return METROPOLIS(log_weights, -log_fit, *rest)


def _twice(log_weights, log_fit, *rest):
    return RESAMPLING(log_weights, log_weights + log_fit, *rest)


def _proposals_in_ratio(log_weights, log_fit, *rest):
    return METROPOLIS(log_weights, log_fit + log_weights, *rest)


METROPOLIS, RESAMPLING = shares.by_metropolis_hastings, shares.by_resampling
PLANTED = {
    "acceptance ratio inverted": ("by_metropolis_hastings", _inverted, "mh"),
    "proposal left in the ratio": ("by_metropolis_hastings", _proposals_in_ratio, "mh"),
    "weights counted twice": ("by_resampling", _twice, "sir"),
    "cavity not in the weights": ("by_resampling", lambda w, f, *rest: RESAMPLING(w, 0 * f, *rest), "sir"),
    "bare counts for bags": ("fit_of", lambda m, offers: 0 * shares.fit_of(m, offers), "bags"),
    "prior not divided out": ("", None, "prior"),
    "inbox not divided out": ("", None, "inbox"),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_caught(bug, monkeypatch):
    name, wrong, test = PLANTED[bug]
    if wrong:
        monkeypatch.setattr(black_box, name, wrong)
    else:
        keep = frozenset()
        infer = BlackBox.infer

        def forgets(self, *args, **kwargs):
            reply = infer(self, *args, **kwargs)
            object.__setattr__(reply, "includes", {"hypothesis": keep})
            return reply

        monkeypatch.setattr(BlackBox, "infer", forgets)
    run = {
        "mh": lambda: test_a_list_of_vectors_against_enumeration("mh", False),
        "sir": lambda: test_a_list_of_vectors_against_enumeration("sir", False),
        "bags": lambda: test_a_list_of_bags_against_enumeration("exact", 0.0, False),
        "prior": lambda: test_a_list_of_vectors_against_enumeration("exact", True),
        "inbox": lambda: test_a_list_of_vectors_against_enumeration("sir", False),
    }[test]
    with pytest.raises(AssertionError):
        run()
