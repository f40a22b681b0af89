"""What the mixture tells a continuous child: three forms, against quadrature of the exact belief."""

import math

import pytest
import torch

from serket.messages import Categorical, Gaussian, Particles
from serket.modules.replies import Fitted
from serket.protocol import Evidence
from tests.modules.gmm.test_replies import quadrature
from tests.modules.gmm.toys import build, generator, inbox_of, loaded


def exact(size, draws, inbox):
    """Mean and covariance of p(z) m(z), and of p(z), by quadrature, ``(rows, D)`` and ``(rows, D, D)``."""
    _, state = loaded(draws, 3, size)
    line = torch.linspace(-40, 40, 4001 if size == 1 else 301, dtype=torch.float64)
    points, cell = torch.cartesian_prod(*[line] * size).reshape(-1, size), float(line[1] - line[0]) ** size
    _, density = quadrature(state, inbox["observation"], (points, cell))  # (1, S, K, G)
    mixture = torch.einsum("nk,skg->ng", inbox["component"].probs, density[0]) / draws
    message = inbox["observation"].full()
    log_m = message.info @ points.mT - ((points @ message.precision) * points).sum(-1) / 2
    found = []
    for weights in (mixture * (log_m - log_m.amax(-1, keepdim=True)).exp(), mixture):
        weights = weights / weights.sum(-1, keepdim=True)
        mean = weights @ points
        gap = points - mean.unsqueeze(-2)
        found.append((mean, torch.einsum("ng,ngi,ngj->nij", weights, gap, gap)))
    return found


def replied(size, draws, inbox, **options):
    module, state = loaded(draws, 3, size)
    other = build(3, size, **options)
    other.load(state)
    reply = other.infer(inbox, Evidence.none(4), generator=generator())
    assert reply.tilted == (frozenset({"observation"}) if options["downward"] == "tilted" else frozenset())
    return reply.messages["observation"]


def compare(belief, mean, covariance, tolerance):
    torch.testing.assert_close(belief.mean(), mean, rtol=0, atol=tolerance)
    torch.testing.assert_close(belief.covariance(), covariance, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("size", "draws"), [(1, 1), (1, 3), (2, 2)])
def test_moments_are_those_of_the_mixture(size, draws):
    inbox = inbox_of(4, 3, size)
    compare(replied(size, draws, inbox, downward="moments"), *exact(size, draws, inbox)[1], 1e-6)


@pytest.mark.parametrize(("size", "draws"), [(1, 1), (1, 3), (2, 2)])
def test_tilted_beliefs_have_the_moments_of_the_exact_belief(size, draws):
    inbox = inbox_of(4, 3, size)
    reply = replied(size, draws, inbox, downward="tilted")
    compare(reply * inbox["observation"], *exact(size, draws, inbox)[0], 1e-6)
    single = {name: one.to(torch.float32, "cpu") for name, one in inbox.items()}
    again = replied(size, draws, single, downward="tilted")
    assert again.dtype == torch.float32
    compare((again * single["observation"]).to(torch.float64, "cpu"), *exact(size, draws, inbox)[0], 1e-2)


def test_moments_would_not_do():
    """The projected mixture times the message is not the belief: what the tilted form is for."""
    inbox = inbox_of(4, 3, 1)
    belief = replied(1, 3, inbox, downward="moments") * inbox["observation"]
    assert float((belief.mean() - exact(1, 3, inbox)[0][0]).abs().max()) > 0.05


def test_tilted_replies_may_be_improper_and_silence_hears_the_moments():
    module, state = loaded(1, 3, 1)
    state = {
        **state,
        "means": torch.tensor([[[-3.0], [3.0], [0.0]]]).double(),
        "cholesky": 0.3 * torch.ones(1, 3, 1, 1).double(),
    }
    state |= {"location": torch.zeros(1).double(), "scale": torch.ones(1).double()}
    module = build(3, 1, downward="tilted")
    module.load(state)
    says = Categorical(torch.tensor([[0.0, 0.0, -math.inf]]).double().expand(2, 3))
    inbox = {
        "component": says,
        "observation": Gaussian(torch.zeros(2, 1), torch.tensor([[1.0], [0.0]])).to(torch.float64, "cpu"),
    }
    reply = module.infer(inbox, Evidence.none(2), generator=generator()).messages["observation"]
    assert not bool(reply.is_proper()[0])  # between two modes the belief is wider than the message
    belief = reply * inbox["observation"]
    assert bool(belief.is_proper().all()) and float(belief.variance()[0]) > 1
    torch.testing.assert_close(belief.variance()[1], torch.tensor([9.09]).double())


@pytest.mark.parametrize(("size", "draws"), [(1, 3), (2, 2)])
def test_particles_times_the_message_have_the_moments_of_the_exact_belief(size, draws):
    inbox = inbox_of(4, 3, size)
    inbox["observation"] = Gaussian(
        0.1 * inbox["observation"].info, 0.3 * inbox["observation"].precision + 0.1 * torch.eye(size)
    )
    reply = replied(size, draws, inbox, downward="particles")
    assert isinstance(reply, Particles) and reply.points.shape == (4, 2048, size)
    (mean, covariance), (_, pooled) = exact(size, draws, inbox)
    belief = reply * inbox["observation"]
    white = torch.linalg.inv(torch.linalg.cholesky(pooled))
    gap, spread = white @ (belief.mean() - mean).unsqueeze(-1), white @ (belief.covariance() - covariance) @ white.mT
    assert float(gap.abs().max()) < 1e-2 and float(spread.abs().max()) < 1e-2
    compare(reply, *exact(size, draws, inbox)[1], 1e-6)  # by themselves they have the moments of the mixture
    few = replied(size, draws, inbox, downward="particles", particles=64)
    assert few.points.shape == (4, 64, size)


def test_particles_belong_to_their_row():
    module, state = loaded(2, 3, 2)
    module = build(3, 2, downward="particles", particles=8)
    module.load(state)
    inbox = inbox_of(5, 3, 2)
    evidence = Evidence(torch.tensor([7, 3, 9, 1, 4]), None, torch.zeros(5, dtype=torch.bool))
    whole = module.infer(inbox, evidence, generator=generator()).messages["observation"]
    some = torch.tensor([4, 1])
    part = module.infer({n: m[some] for n, m in inbox.items()}, evidence[some], generator=generator())
    torch.testing.assert_close(part.messages["observation"].points, whole.points[some], rtol=0, atol=1e-12)
    assert not torch.equal(whole.points[0], whole.points[1])


@pytest.mark.parametrize("mistake", ["scores", "component", "message"])
def test_planted_mistakes_are_caught(monkeypatch, mistake):
    """The evidence left out of the weights, the parent left out, the message not divided out."""
    right = Fitted.tilted

    def wrong(self, log_probs, scores, message):
        scores = torch.zeros_like(scores) if mistake == "scores" else scores
        log_probs = torch.zeros_like(log_probs) if mistake == "component" else log_probs
        reply = right(self, log_probs, scores, message)
        return reply * message if mistake == "message" else reply

    monkeypatch.setattr(Fitted, "tilted", wrong)
    with pytest.raises(AssertionError):
        test_tilted_beliefs_have_the_moments_of_the_exact_belief(1, 3)
