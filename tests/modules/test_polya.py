"""Bursty words: the kernel of the overdispersed mixture against Geweke's test and quadrature, its density and its use."""

import math

import pytest
import torch
from scipy.stats import dirichlet_multinomial
from sklearn.metrics import adjusted_rand_score
from torch.nn.functional import one_hot

from serket.errors import DataError
from serket.messages import Categorical, Dirichlet, Family
from serket.modules import polya
from serket.modules.multinomial import Heard, Prior, Profiles
from serket.modules.multinomial_mixture import MultinomialMixture
from serket.modules.polya import TYPICAL, Bursts, draw_concentration, log_rising
from serket.protocol import Evidence, Port, Role
from tests.statistical.checks import largest_z, uniform_p

PRIOR = Prior(words=0.8, tables=0.7, weights=1.5)
SAYS = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
WORDS, TOKENS = 3, 6


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gamma(shape, g):
    return torch._standard_gamma(shape, generator=g).clamp_min(1e-30)


def prior_draw(chains, rows, g):
    rate = -torch.rand(chains, 2, 1, generator=g).clamp_min(1e-7).log() / (TYPICAL / (WORDS * PRIOR.words))
    alpha = gamma(torch.full((chains, 2, WORDS), PRIOR.words), g) / rate
    weights = gamma(torch.full((chains, 2), PRIOR.weights), g)
    weights = weights / weights.sum(-1, keepdim=True)
    return Profiles(alpha.log(), (), weights.log()), weights.multinomial(rows, replacement=True, generator=g)


def observe(profiles, labels, g):
    """Words one after another, pi drawn and thrown away, the last row empty; a message from above."""
    alpha = profiles.words.exp()[torch.arange(len(labels)).unsqueeze(-1), labels]
    pi = gamma(alpha, g)
    words = (pi / pi.sum(-1, keepdim=True)).flatten(0, 1).multinomial(TOKENS, replacement=True, generator=g)
    counts = one_hot(words, WORDS).sum(-2).reshape(*labels.shape, WORDS).float()
    counts[:, -1] = 0
    above = (torch.rand(labels.shape, generator=g) > SAYS[labels, 0]).long()
    return Heard(SAYS.mT.log()[above], counts)


def functions(profiles, labels, heard):
    log_a, weights = profiles.words, profiles.log_weights.exp()
    mean, total = log_a.softmax(-1), log_a.logsumexp(-1)
    own = log_a[torch.arange(len(labels)).unsqueeze(-1), labels]
    return {
        "log a": log_a[:, 0, 0],
        "log a square": log_a[:, 1, 1] ** 2,
        "mean": mean[:, 0, 0],
        "mean square": mean[:, 1].square().sum(-1),
        "log total": total[:, 0],
        "log total square": total.square().mean(-1),
        "weight": weights[:, 0] ** 2,
        "share": (labels == 0).float().mean(-1) * weights[:, 0],
        "bursts": (heard.counts.square().sum(-1)).mean(-1) / 36,
        "bursts and total": heard.counts.square().sum((1, 2)) / 36 * total.mean(-1),
        "fit": (own.softmax(-1) * heard.counts).sum((1, 2)),
        "bias": heard.bias.gather(-1, labels.unsqueeze(-1)).sum((1, 2)),
    }


def geweke(seed, chains=1000, sweeps=30, rows=4):
    g = generator(seed)
    profiles, labels = prior_draw(chains, rows, g)
    for _ in range(sweeps):
        heard = observe(profiles, labels, g)
        profiles, labels, _ = polya.sweep(profiles, heard, Bursts.of(heard.counts), PRIOR, g)
    other = prior_draw(chains, rows, g)
    return largest_z(functions(profiles, labels, heard), functions(*other, observe(*other, g)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_kernel_leaves_the_joint_invariant(seed):
    assert geweke(seed) <= 4


def calibration(replications, draws=49, thin=4, burn=60):
    """Ranks of the truth among draws, each replication a chain that starts elsewhere; no function knows labels."""
    g = generator(11)
    truth = prior_draw(replications, 6, g)
    heard = observe(*truth, g)
    bursts, names = Bursts.of(heard.counts), ["log total square", "fit", "bias"]

    def seen(profiles, labels):
        found = functions(profiles, labels, heard)
        return torch.stack([found[name] for name in names] + [profiles.words.softmax(-1).square().sum((1, 2))], -1)

    goal = seen(*truth)
    profiles, labels = prior_draw(replications, 6, g)
    less, equal = torch.zeros(goal.shape), torch.zeros(goal.shape)
    for step in range(burn + draws * thin):
        profiles, labels, _ = polya.sweep(profiles, heard, bursts, PRIOR, g)
        if step >= burn and (step - burn) % thin == 0:
            now = seen(profiles, labels)
            less, equal = less + (now < goal), equal + (now == goal)
    # Among equals the truth is as likely at any place: one coin for all of them, not one each.
    ranks = less + (torch.rand(goal.shape, generator=g) * (equal + 1)).floor()
    return uniform_p(ranks, draws, bins=10)


def test_ranks_of_the_truth_are_uniform():
    assert calibration(200) > 0.001


@pytest.mark.stat
def test_ranks_of_the_truth_are_uniform_long():
    assert calibration(1000, thin=60, burn=1500) > 0.001


def prior_dropped(patch):
    right = polya.draw_concentration
    patch.setattr(polya, "draw_concentration", lambda a, k, b, pseudo, g: right(a, k, b, 0.7 * pseudo, g))


def totals_forgotten(patch):
    right = polya._minus_log_beta
    patch.setattr(polya, "_minus_log_beta", lambda a, b, g: 0 * right(a, b, g))


def every_token_a_table(patch):
    right = polya.draw_concentration
    patch.setattr(
        polya, "draw_concentration",
        lambda a, k, b, pseudo, g: right(a, k, Bursts(b.row, b.word, 0 * b.before, b.parts, b.totals), pseudo, g),
    )  # fmt: skip


def bias_per_token(patch):
    right = polya.label_logits
    patch.setattr(polya, "label_logits", lambda p, h, power=1.0: right(p, h, power) + (TOKENS - 1) * h.bias)


def label_off_by_one(patch):
    right = polya.draw_labels
    patch.setattr(polya, "draw_labels", lambda logits, g: 1 - right(logits, g))


@pytest.mark.parametrize(
    "mutation", [prior_dropped, totals_forgotten, every_token_a_table, bias_per_token, label_off_by_one]
)
def test_planted_mistakes_are_caught(monkeypatch, mutation):
    mutation(monkeypatch)
    assert geweke(0, chains=3000) > 4


@pytest.mark.parametrize("mutation", [totals_forgotten, every_token_a_table, bias_per_token, label_off_by_one])
def test_ranks_catch_planted_mistakes(monkeypatch, mutation):
    mutation(monkeypatch)
    assert calibration(200) < 1e-6


def concentration_error(sweeps, chains=4000):
    """Moments of log a under counts that are not whole, two words, one category: chains against a grid."""
    counts = torch.tensor([[2.5, 0.25], [0.4, 0.0], [1.0, 1.75]])
    pseudo, rate = 0.8, TYPICAL / 1.6
    grid = torch.linspace(-9, 13, 1200, dtype=torch.float64)
    log_a = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    a = log_a.exp()
    # r summed out: the integral of r^(2 pseudo) exp(-r (rate + A)) dr.
    density = pseudo * log_a.sum(-1) - (2 * pseudo + 1) * (rate + a.sum(-1)).log()
    for row in counts.double():
        density += ((a + row).lgamma() - a.lgamma()).sum(-1)
        density += a.sum(-1).lgamma() - (a.sum(-1) + row.sum()).lgamma()
    weight = density.softmax(0)
    found = lambda x, w: torch.stack([w @ x[:, 0], w @ x[:, 1], w @ x.logsumexp(-1), w @ x.softmax(-1)[:, 0]])  # noqa: E731
    g, bursts = generator(1), Bursts.of(counts.expand(chains, 3, 2).double())
    alpha = torch.full((chains, 1, 2), 3.0, dtype=torch.float64)
    labels, total = torch.zeros(chains, 3, dtype=torch.long), 0.0
    for step in range(sweeps):
        alpha = draw_concentration(alpha, labels, bursts, pseudo, g)
        if step >= sweeps // 3:
            total = total + found(alpha.log().squeeze(1), torch.full((chains,), 1 / chains, dtype=torch.float64))
    return (total / (sweeps - sweeps // 3) - found(log_a, weight)).abs()


def test_concentrations_are_those_of_the_exact_posterior_for_real_counts():
    error = concentration_error(150)
    assert float(error[:3].max()) < 0.05 and float(error[3]) < 0.01, error


def test_planted_mistakes_in_fractions_are_caught(monkeypatch):
    right = polya._minus_log_beta
    monkeypatch.setattr(polya, "_minus_log_beta", lambda a, b, g: right(a, b, g) * (b.dim() < 1 or b.max() > 1))
    assert float(concentration_error(60)[:3].max()) > 0.1


def test_the_density_is_that_of_scipy_and_of_gammas():
    g = generator(2)
    alpha = torch.rand(1, 2, 4, generator=g, dtype=torch.float64) * 3 + 0.1
    counts = torch.tensor([[3.0, 0, 1, 2], [0, 0, 0, 0], [1, 1, 7, 0]], dtype=torch.float64)
    order = torch.lgamma(counts.sum(-1) + 1) - torch.lgamma(counts + 1).sum(-1)
    found = log_rising(alpha, Bursts.of(counts))[0] + order.unsqueeze(-1)
    for k in range(2):
        exact = dirichlet_multinomial.logpmf(counts.long().numpy(), alpha[0, k].numpy(), counts.sum(-1).long().numpy())
        torch.testing.assert_close(found[:, k], torch.from_numpy(exact))
    real = counts + torch.tensor([0.3, 0, 0.9, 0.01])
    exact = ((alpha[0] + real.unsqueeze(1)).lgamma() - alpha[0].lgamma()).sum(-1)
    exact += alpha[0].sum(-1).lgamma() - (alpha[0].sum(-1) + real.sum(-1, keepdim=True)).lgamma()
    torch.testing.assert_close(log_rising(alpha, Bursts.of(real))[0], exact)


def bursty(seed, rows=240, words=40, categories=4, tokens=80, concentration=12.0):
    g = generator(seed)
    phi = gamma(torch.full((categories, words), 0.5), g)
    truth = torch.arange(rows) % categories
    pi = gamma(concentration * (phi / phi.sum(-1, keepdim=True))[truth], g)
    return torch.poisson(tokens * pi / pi.sum(-1, keepdim=True), generator=g), truth


def fitted(counts, seed=0, module=None, **options):
    module = module or MultinomialMixture({"category": Port(Role.PARENT, Family.CATEGORICAL, 4)}, **options)
    box = {"category": Categorical.vacuous((len(counts),), 4, dtype=torch.float64)}
    module.fit(Evidence.of(counts), box, generator=generator(seed), owned=frozenset(("category",)))
    return module, module.infer(box, Evidence.of(counts), generator=generator())


def test_bursty_rows_are_told_and_are_not_surer_than_they_are_right():
    found = {}
    for overdispersed in (False, True):
        scores, surprise = [], []
        for seed in range(3):
            counts, truth = bursty(seed)
            _, reply = fitted(counts, overdispersed=overdispersed)
            logits = reply.messages["category"].log_probs()
            labels = logits.argmax(-1)
            scores.append(adjusted_rand_score(truth, labels))
            surprise.append(float(logits.amax(-1).exp().mean()) - max(scores[-1], 0.0))
        found[overdispersed] = sum(scores) / 3, sum(surprise) / 3
    assert found[True][0] > found[False][0] - 0.02, found
    assert found[True][1] < found[False][1], found


def test_leaving_the_bursts_out_costs_evidence_on_rows_that_were_not_fitted():
    """Nats a row of held-out documents under the overdispersed mixture, and under the plain one."""
    gained = []
    for seed in range(3):
        counts, _ = bursty(seed, rows=360)
        box = {"category": Categorical.vacuous((120,), 4, dtype=torch.float64)}
        found = []
        for overdispersed in (True, False):
            module, _ = fitted(counts[:240], overdispersed=overdispersed)
            prior = {"category": box["category"] * module.own_prior["category"].to(torch.float64, "cpu").expand(120)}
            found.append(
                float(module.infer(prior, Evidence.of(counts[240:]), generator=generator()).log_evidence.mean())
            )
        gained.append(found[0] - found[1])
    assert min(gained) > 3, gained


def test_the_concentration_is_learnt_a_warm_start_keeps_it_and_words_are_told_of_it():
    counts, truth = bursty(3)
    module, reply = fitted(counts, overdispersed=True)
    total = module.state()["words"].logsumexp(-1).exp().mean(0)
    assert bool(((total > 6) & (total < 24)).all()), total
    before = reply.messages["category"].logits.argmax(-1)
    _, reply = fitted(counts, 5, module)
    assert float((before == reply.messages["category"].logits.argmax(-1)).float().mean()) > 0.95
    assert adjusted_rand_score(truth, before) > 0.8
    # Downward the total variance of pi given a category is that of Dirichlet(a_k), the draws averaged.
    ports = {**module.ports, "words": Port(Role.CHILD, Family.DIRICHLET, 40)}
    above = MultinomialMixture(ports, overdispersed=True)
    above.load(module.state())
    sure = Categorical(torch.tensor([[60.0, 0, 0, 0]], dtype=torch.float64))
    box = {"category": sure, "words": Dirichlet.vacuous((1,), 40, dtype=torch.float64)}
    reply = above.infer(box, Evidence.none(1), generator=generator()).messages["words"]
    each = torch.distributions.Dirichlet(module.state()["words"][:, 0].double().exp())
    mean = each.mean.mean(0)
    spread = (each.variance + each.mean.square()).mean(0).sum() - mean.square().sum()
    heard = torch.distributions.Dirichlet(reply.concentration[0])
    torch.testing.assert_close(heard.mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(heard.variance.sum(), spread, rtol=1e-4, atol=0)
    predicted = module.predict({"category": sure}, generator=generator())
    draws = predicted.sample((3000,))
    torch.testing.assert_close(draws.var(0).sum(), predicted.variance.sum(), rtol=0.1, atol=0)
    assert math.isclose(float(predicted.mean.sum()), float(counts.sum(-1).mean()), rel_tol=1e-4)


def test_more_tokens_than_memory_holds_are_refused():
    with pytest.raises(DataError, match=r"(?s)too many.*fix: write tokens"):
        Bursts.of(torch.tensor([[1e12, 3.0]]))
