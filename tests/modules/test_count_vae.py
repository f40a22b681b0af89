"""The count_vae: an ELBO that is one, counts that are the truth where the truth is a count; planted mistakes."""

import math

import pytest
import torch

from serket.errors import DataError, MessageError, ShapeError, StateError
from serket.messages import Dirichlet, Family
from serket.modules import CountVAE, count_vae
from serket.protocol import Evidence, Port, Role

ROWS = 6


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ports(size):
    return {"words": Port(Role.PARENT, Family.DIRICHLET, size)}


def normal(g, *shape):
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def untrained(size, seed=0, strength=3.0):
    """Random weights, stronger than those training starts from."""
    module = CountVAE(ports(size), hidden=[6], tokens=20.0)
    x = 3 * normal(generator(1), 30, 4) + 10
    words = {"words": Dirichlet.vacuous((30,), size, dtype=torch.float64)}
    module.fit(Evidence.of(x), words, generator=generator(seed), epochs=1, learning_rate=1e-9)
    state = {n: v * strength if n.endswith("weight") else v for n, v in module.state().items()}
    state["log_variance"] = torch.tensor(2.0, dtype=torch.float64)  # or the estimate is too noisy to test
    module.load(state)
    return module, state


def simplex(size):
    """Midpoints of cells of the simplex, and the logarithm of a cell's volume."""
    steps = 4000 if size == 2 else 300
    line = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    if size == 2:
        return torch.stack([line, 1 - line], -1), -math.log(steps)
    a, b = torch.cartesian_prod(line, line).unbind(-1)
    return torch.stack([a, b * (1 - a), (1 - b) * (1 - a)], -1), -2 * math.log(steps) + (1 - a).log()


def quadrature(state, size, x, inbox, counts):
    """ELBO, log evidence, and mean of the belief, by sums over the simplex, from the stored numbers alone."""
    pi, cell = simplex(size)
    hidden = torch.relu((size * pi - 1) @ state["decoder.0.weight"].T + state["decoder.0.bias"])
    out = hidden @ state["decoder.1.weight"].T + state["decoder.1.bias"]
    mean, deviation = state["location"] + state["unit"] * out, state["scale"] * (state["log_variance"] / 2).exp()
    log_p = torch.distributions.Normal(mean, deviation).log_prob(x.unsqueeze(1)).sum(-1)
    log_n = inbox.counts @ pi.log().T + cell
    log_q = (log_n + counts @ pi.log().T).log_softmax(-1)
    elbo = (log_q.exp() * (log_p + log_n - log_q)).sum(-1)
    joint = log_p + log_n
    return elbo, joint.logsumexp(-1), joint.softmax(-1) @ pi


def elbo_error(size, monkeypatch, draws=40_000):
    """Largest difference of the ELBO from quadrature, nats, under a uniform, an informed and a sparse inbox."""
    monkeypatch.setattr(CountVAE, "evidence_draws", draws)
    module, state = untrained(size)
    x = 3 * normal(generator(2), ROWS, 4) + 10
    worst = 0.0
    for counts in (
        torch.zeros(ROWS, size),
        4 * torch.rand(ROWS, size, generator=generator(3)),
        torch.full((ROWS, size), -0.3),
    ):
        inbox = Dirichlet(counts.double())
        reply = module.infer({"words": inbox}, Evidence.of(x), generator=generator())
        elbo, truth, _ = quadrature(state, size, x, inbox, reply.messages["words"].counts)
        assert reply.bound == "lower" and bool((reply.log_evidence < truth + 0.02).all())
        worst = max(worst, float((reply.log_evidence - elbo).abs().max()))
    return worst


@pytest.mark.parametrize("size", [2, 3])
def test_the_bound_is_the_elbo_and_below_the_evidence(size, monkeypatch):
    assert elbo_error(size, monkeypatch) < 0.05


def test_counts_are_those_of_the_truth(monkeypatch):
    """If p(x | pi) = pi_x the exact message is one word x: moments of the belief to 1e-2."""
    monkeypatch.setattr(CountVAE, "_decode", lambda self, weights, drawn: drawn.clamp_min(1e-30).log())
    module = CountVAE(ports(3), hidden=[16], likelihood="categorical")
    x = (torch.arange(300) % 3).double().unsqueeze(1)
    nothing = Dirichlet.vacuous((300,), 3, dtype=torch.float64)
    for rate in (2e-2, 2e-3):
        module.fit(Evidence.of(x), {"words": nothing}, generator=generator(), epochs=60, batch=100, learning_rate=rate)
    told = module.infer({"words": nothing[:3]}, Evidence.of(x[:3]), generator=generator())
    truth = Dirichlet(torch.eye(3, dtype=torch.float64))
    belief = nothing[:3] * told.messages["words"]
    variance = [one.to_distribution().variance for one in (belief, truth)]
    found = float((belief.mean() - truth.mean()).abs().max()), float((variance[0] - variance[1]).abs().max())
    assert max(found) < 1e-2


def learnt(size, rows=400, **options):
    """A decoder and an encoder trained on mixtures of V patterns with noise; the data, and the shares of the patterns."""
    g = generator(4)
    pi = Dirichlet(torch.zeros(rows, size, dtype=torch.float64)).sample(g)
    x = 6 * pi @ normal(g, size, 4) + 0.5 * normal(g, rows, 4)
    module = CountVAE(ports(size), hidden=[16], **options)
    nothing = Dirichlet.vacuous((rows,), size, dtype=torch.float64)
    module.fit(Evidence.of(x), {"words": nothing}, generator=generator(), epochs=150, batch=50, learning_rate=5e-3)
    return module, x, pi


def mean_error(module, x, inbox):
    """Largest error of the belief's mean per row, against quadrature."""
    told = module.infer({"words": inbox}, Evidence.of(x), generator=generator()).messages["words"]
    assert bool((told.counts >= 0).all()) and bool((told.counts.sum(-1) <= module.tokens + 1e-9).all())
    return ((inbox * told).mean() - quadrature(module.state(), inbox.size, x, inbox, told.counts)[2]).abs().amax(-1)


@pytest.mark.parametrize("size", [2, 3])
def test_the_message_of_a_fitted_decoder_equals_quadrature(size):
    """Under a uniform inbox every row's belief has the mean of the exact one; under others it is near."""
    module, x, pi = learnt(size)
    nothing = Dirichlet.vacuous((30,), size, dtype=torch.float64)
    exact = float(mean_error(module, x[:30], nothing).max())
    assert exact < 1e-2
    says = Dirichlet(4 * torch.rand(30, size, generator=generator(3)).double())
    found = mean_error(module, x[:30], says)
    assert float(found.median()) < 0.03 and float(found.max()) < 0.1, "no Dirichlet is right under every inbox"
    told = module.infer({"words": nothing}, Evidence.of(x[:30]), generator=generator()).messages["words"]
    assert float(told.mean().var(0).mean()) > 0.3 * float(pi.var(0).mean()), "the counts collapsed"
    module.points = 0  # the encoder's own counts: what is put right
    assert float(mean_error(module, x[:30], nothing).max()) > max(5e-3, 2 * exact)


def sampled_error(size, rows=16):
    """As above on more words, where the truth is importance sampling with half a million points from the prior."""
    module, x, _ = learnt(size)
    state, inbox = module.state(), Dirichlet.vacuous((rows,), size, dtype=torch.float64)
    pi = inbox[:1].sample(generator(9), (500_000,)).squeeze(1)
    hidden = torch.relu((size * pi - 1) @ state["decoder.0.weight"].T + state["decoder.0.bias"])
    mean = state["location"] + state["unit"] * (hidden @ state["decoder.1.weight"].T + state["decoder.1.bias"])
    law = torch.distributions.Normal(mean, state["scale"] * (state["log_variance"] / 2).exp())
    truth = torch.stack([law.log_prob(row).sum(-1).softmax(0) @ pi for row in x[:rows]])
    found = []
    for points in (module.points, 0):
        module.points = points
        told = module.infer({"words": inbox}, Evidence.of(x[:rows]), generator=generator()).messages["words"]
        found.append((told.mean() - truth).abs().amax(-1))
    return found


def test_the_message_on_more_words_is_as_near_as_stated():
    """Five words in four dimensions: most rows within 0.01, all within 0.03; the encoder's own are not."""
    found, encoder = sampled_error(5)
    assert float(found.median()) < 1e-2 and float(found.max()) < 0.03
    assert float(encoder.max()) > float(found.max())


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0, 3.0, 50.0])
def test_draws_of_a_row_are_dirichlet(alpha):
    concentration = alpha * torch.tensor([[1.0, 2.0, 0.5]], dtype=torch.float64)
    drawn = count_vae._row_dirichlet(generator(), torch.tensor([7]), 50_000, concentration)[:, 0]
    exact = torch.distributions.Dirichlet(concentration[0])
    spread = exact.variance.sqrt() / 50_000**0.5
    assert bool(((drawn.mean(0) - exact.mean).abs() < 5 * spread).all())
    torch.testing.assert_close(drawn.var(0), exact.variance, rtol=0.05, atol=1e-6)


def test_a_warm_start_goes_on_and_tokens_are_a_limit():
    x = torch.cat([normal(generator(5), 60, 4) + shift for shift in (0, 8)])
    module, nothing = CountVAE(ports(4), hidden=[8], tokens=5.0), Dirichlet.vacuous((120,), 4, dtype=torch.float64)
    first = module.fit(
        Evidence.of(x), {"words": nothing}, generator=generator(), epochs=40, batch=30, learning_rate=5e-3
    )
    again = module.fit(Evidence.of(x), {"words": nothing}, generator=generator(1), epochs=2, batch=30)
    curve = first.history["elbo"]
    assert again.history["elbo"][0] > curve[-1] - 0.2 * (curve[-1] - curve[0])
    told = module.infer({"words": nothing}, Evidence.of(x), generator=generator()).messages["words"].counts
    assert float(told.sum(-1).max()) <= 5.0 + 1e-9 and float(told.min()) >= 0


def test_odd_data():
    module, nothing = CountVAE(ports(3), hidden=[8]), Dirichlet.vacuous((20,), 3, dtype=torch.float64)
    flat = torch.full((20, 4), 2.0).double()
    module.fit(Evidence.of(flat), {"words": nothing}, generator=generator(), epochs=5)
    reply = module.infer({"words": nothing}, Evidence.of(flat), generator=generator())
    assert bool(reply.messages["words"].counts.isfinite().all()) and bool(reply.log_evidence.isfinite().all())
    with pytest.raises(DataError, match="without data"):
        module.fit(Evidence.of(flat * torch.nan), {"words": nothing}, generator=generator())
    with pytest.raises(ShapeError, match="as in training"):
        module.infer({"words": nothing}, Evidence.of(flat[:, :2]), generator=generator())
    with pytest.raises(StateError, match="has to be fitted"):
        CountVAE(ports(3)).infer({"words": nothing}, Evidence.of(flat), generator=generator())
    with pytest.raises(MessageError, match="lower fit.learning_rate"):
        module.fit(
            Evidence.of(normal(generator(), 20, 4)), {"words": nothing}, generator=generator(), learning_rate=1e30
        )


@pytest.mark.parametrize("factor", [0.0, 2.0], ids=["dropped", "doubled"])
def test_a_divergence_that_is_dropped_or_doubled_is_caught(monkeypatch, factor):
    true = Dirichlet.kl
    monkeypatch.setattr(Dirichlet, "kl", lambda self, other: factor * true(self, other))
    with pytest.raises(AssertionError):
        assert elbo_error(2, monkeypatch, draws=4000) < 0.2
