"""The recogniser: a known posterior recovered, its own prior divided out, who teaches it, and the gate."""

import math

import pytest
import torch

from serket.errors import DataError, GraphError
from serket.messages import Categorical
from serket.modules.recogniser import Recogniser
from serket.protocol import Evidence, extrinsic
from serket.testing.case import generator, parent

CATEGORY = "categorical"
MEANS = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, 2.0]])
LONG = (("epochs", 40), ("learning_rate", 1e-2), ("decay", 0.0))
PRIOR = torch.tensor([0.6, 0.3, 0.1])


def sample(rows, seed):
    """Three round Gaussian classes of deviation one, and log p(x | k) up to a constant."""
    g = generator(seed)
    label = torch.multinomial(PRIOR, rows, replacement=True, generator=g)
    x = MEANS[label] + torch.randn(rows, 2, generator=g)
    return x, label, -(x.unsqueeze(1) - MEANS).square().sum(-1) / 2


def told(label, size=3):
    return {"given": Categorical(torch.where(torch.nn.functional.one_hot(label, size) > 0, 0.0, -math.inf))}


def nothing(rows, size=3):
    return {"given": Categorical.vacuous((rows,), size)}


def fitted(x, inbox, sequence=None, fit=(("epochs", 60),), **options):
    module = Recogniser({"given": parent(inbox["given"].size, CATEGORY)}, **{"hidden": [], "noise": 0.0, **options})
    evidence = Evidence.of(x)
    module.fit(Evidence(evidence.row_id, evidence.values, evidence.observed, sequence), inbox,
               generator=generator(0), **dict(fit))  # fmt: skip
    return module


def said(module, x):
    """What leaves the module, as probabilities under a flat prior."""
    inbox = nothing(len(x), module.categories)
    reply = module.infer(inbox, Evidence.of(x), generator=generator(0))
    return extrinsic(reply, inbox, module.own_prior)["given"].probs, reply


@pytest.fixture(scope="module")
def classes():
    x, label, _ = sample(3000, 1)
    return fitted(x, told(label), fit=LONG)


def test_it_recovers_the_posterior_in_closed_form_and_its_own_prior_is_divided_out(classes):
    """What leaves is p(x | k) / p(x), whatever the frequencies of the categories that taught it."""
    x, label, log_likelihood = sample(2000, 2)
    ratio, reply = said(classes, x)
    assert (ratio - log_likelihood.softmax(-1)).abs().mean() < 0.03
    whole = reply.messages["given"].probs
    exact = (log_likelihood + PRIOR.log()).softmax(-1)
    assert (whole - exact).abs().mean() < 0.02
    # A reply with the prior left in would be off by more: the bound above tells them apart.
    assert (exact - log_likelihood.softmax(-1)).abs().mean() > 0.08
    torch.testing.assert_close(classes.own_prior["given"].probs, PRIOR, rtol=0, atol=0.03)


def test_two_categories_told_apart_by_the_logistic_function():
    """Classes N(-1, 1) and N(1, 1) taught nine to one: log-odds that leave are 2 x, not 2 x - log 9."""
    g = generator(3)
    label = (torch.rand(4000, generator=g) < 0.1).long()
    x = (2.0 * label - 1 + torch.randn(4000, generator=g)).unsqueeze(1)
    module = fitted(x, told(label, 2), fit=LONG)
    at = torch.linspace(-1.5, 1.5, 7).unsqueeze(1)
    ratio, _ = said(module, at)
    torch.testing.assert_close(ratio[:, 1].logit(), 2 * at.squeeze(1), rtol=0, atol=0.35)


def test_soft_labels_teach_as_shares_and_silence_teaches_nothing():
    x, label, _ = sample(600, 4)
    silent = torch.arange(600) % 2 == 0
    inbox = told(label)
    masked = {"given": inbox["given"].mask(~silent)}
    planted = torch.where(silent.unsqueeze(1), 0.5 * x, x)
    one = fitted(planted, masked, gate=None)
    # Nothing said, or the same said of all categories: no lesson. The units are of all rows that are present.
    flat = {"given": masked["given"].where(~silent, Categorical(torch.full((600, 3), -2.5)))}
    other = fitted(planted, flat, gate=None)
    assert all(torch.equal(value, other.state()[name]) for name, value in one.state().items())
    # Labels that are right in four of five: it is sure of no more.
    share = (0.8 * torch.eye(2) + 0.1)[torch.arange(400) % 2]
    apart = (2.0 * (torch.arange(400) % 2) - 1).unsqueeze(1)
    soft = fitted(apart, {"given": Categorical(share.log())}, fit=(("epochs", 120),))
    torch.testing.assert_close(said(soft, apart[:2])[0], share[:2], rtol=0, atol=0.05)


def test_sequences_are_held_out_whole_so_that_it_is_not_surer_than_it_is_right():
    """Episodes of eight like rows and labels of mere chance: rows held out one by one would look well known."""
    g = generator(5)
    label = torch.randint(2, (40,), generator=g).repeat_interleave(8)
    x = torch.randn(40, 20, generator=g).repeat_interleave(8, 0) + 0.01 * torch.randn(320, 20, generator=g)
    sequence = torch.arange(40).repeat_interleave(8)
    known, blind = (fitted(x, told(label, 2), s, hidden=[32], gate=None) for s in (sequence, None))
    new = torch.randn(200, 20, generator=g)
    assert said(known, new)[0].amax(-1).mean() < 0.62 < said(blind, new)[0].amax(-1).mean()


def test_rows_far_from_those_it_was_fitted_on_say_less_and_then_nothing(classes):
    near, far = torch.tensor([[1.0, 0.5]]), torch.tensor([[-300.0, -300.0]])
    clear, reply = said(classes, near)
    assert float(reply.info["widened"]) == 1 and float(reply.info["beyond"]) == 0 and clear.amax() > 0.5
    state = classes.state()
    outwards = near + torch.linspace(0, 1, 2001).unsqueeze(1) * (far - near) / 20
    _, reply = said(classes, outwards)
    scaled = (outwards - state["location"]) / state["scale"]
    place = torch.cat([scaled @ state["axes"], torch.zeros(2001, 1)], 1)
    times = ((place - state["centre"]) @ state["root"]).norm(dim=1) / state["limit"].sqrt()
    wanted = torch.where(times <= 1, 1.0, torch.where(times >= 2, 0.0, (2 - times) ** 2))
    torch.testing.assert_close(reply.info["widened"], wanted.to(reply.info["widened"]), rtol=0, atol=2e-3)
    assert ((wanted > 0.1) & (wanted < 0.9)).any() and reply.info["beyond"].tolist() == (wanted < 1).tolist()
    nothing, reply = said(classes, far)
    assert float(reply.info["widened"]) == 0 and float(reply.info["beyond"]) == 1
    torch.testing.assert_close(reply.messages["given"].probs, classes.own_prior["given"].probs.expand(1, -1))
    unbounded = Recogniser({"given": parent(3, CATEGORY)}, hidden=[], gate=None)
    unbounded.load(classes.state())
    assert said(unbounded, far)[0].amax() > 0.999 and not said(unbounded, far)[1].info


def test_mistakes_are_told():
    x, label, _ = sample(20, 6)
    with pytest.raises(DataError, match="nothing to learn from"):
        fitted(x, nothing(20))
    with pytest.raises(GraphError, match="out of range"):
        Recogniser({"given": parent(3, CATEGORY)}, members=0)
