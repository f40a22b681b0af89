"""The Gaussian mixture: its sampler against exact posteriors and Geweke's test, its replies against quadrature."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import gammaln
from sklearn.metrics import adjusted_rand_score

from serket.errors import DataError, GraphError, MessageError, ShapeError, StateError
from serket.graph import load_graph
from serket.messages import Categorical, Family, Gaussian
from serket.messages.gaussian import factored
from serket.modules import gibbs, gmm
from serket.modules.gmm import GaussianMixture
from serket.protocol import Evidence, Port, Role

OWN = frozenset({"component"})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def build(components, size=None, **options):
    ports = {"component": Port(Role.PARENT, Family.CATEGORICAL, components)}
    if size:
        ports["observation"] = Port(Role.CHILD, Family.GAUSSIAN, size)
    return GaussianMixture(ports, **options)


def vacuous(rows, components, dtype=torch.float64):
    return Categorical.vacuous((rows,), components, dtype=dtype)


def loaded(draws, components, size, seed=0, port=True):
    """A module with a random state, and messages, biases and points to try it on."""
    g = generator(seed)
    root = torch.randn(draws, components, size, size, generator=g, dtype=torch.float64)
    state = {
        "means": 1.5 * torch.randn(draws, components, size, generator=g, dtype=torch.float64),
        "cholesky": torch.linalg.cholesky(root @ root.mT + 0.3 * torch.eye(size, dtype=torch.float64)),
        "log_weights": torch.randn(draws, components, generator=g, dtype=torch.float64).log_softmax(-1),
        "location": torch.randn(size, generator=g, dtype=torch.float64),
        "scale": torch.rand(size, generator=g, dtype=torch.float64) + 0.5,
    }
    module = build(components, size if port else None)
    module.load(state)
    return module, state


def messages(rows, size, seed=1, dtype=torch.float64):
    g = generator(seed)
    root = torch.randn(rows, size, size, generator=g, dtype=dtype)
    return Gaussian(torch.randn(rows, size, generator=g, dtype=dtype), root @ root.mT)


def inbox_of(rows, components, size=None, seed=1, dtype=torch.float64):
    boxes = {"component": Categorical(torch.randn(rows, components, generator=generator(seed), dtype=dtype))}
    return {**boxes, "observation": messages(rows, size, seed, dtype)} if size else boxes


def clusters(seed, rows=200, spread=8.0, dtype=torch.float64):
    """Four separated clusters in the plane, and their labels."""
    corners = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=dtype) * spread
    labels = torch.arange(rows) % 4
    return corners[labels] + torch.randn(rows, 2, generator=generator(seed), dtype=dtype), labels


def as_messages(points, precision=4.0):
    noise = torch.randn(points.shape, generator=generator(99), dtype=points.dtype) / precision**0.5
    return Gaussian(precision * (points + noise), torch.full_like(points, precision))


def labels_of(module, evidence, inbox):
    return module.infer(inbox, evidence, generator=generator()).messages["component"].logits.argmax(-1)


# ---- The sampler -----------------------------------------------------------------------------------------------------


def log_marginal(x, prior):
    """log p(x_1..x_n) of one component in one dimension: Murphy 2007, section 9, eq. for p(D); mean 0."""
    n = len(x)
    kappa, dof = prior.kappa + n, prior.dof + n
    scatter = prior.scatter + (x**2).sum() - (x.sum() ** 2 / kappa)
    return (
        -n / 2 * math.log(math.pi)
        + gammaln(dof / 2)
        - gammaln(prior.dof / 2)
        + prior.dof / 2 * math.log(prior.scatter)
        - dof / 2 * math.log(scatter)
        + math.log(prior.kappa / kappa) / 2
    )


def co_assignment_exact(x, bias, prior):
    rows, components = bias.shape
    total, weights = np.zeros((rows, rows)), []
    configurations = [np.array(c) for c in itertools.product(range(components), repeat=rows)]
    for labels in configurations:
        counts = np.bincount(labels, minlength=components)
        value = gammaln(prior.alpha + counts).sum() + bias[np.arange(rows), labels].sum()
        weights.append(value + sum(log_marginal(x[labels == k], prior) for k in range(components) if counts[k]))
    weights = np.exp(np.array(weights) - np.max(weights))
    for labels, weight in zip(configurations, weights / weights.sum(), strict=True):
        total += weight * (labels[:, None] == labels)
    return total


def co_assignment_error(rows, components, chains, sweeps):
    prior = gibbs.Prior(alpha=0.7, kappa=0.3, scatter=0.2, dof=3.0)
    x = torch.tensor([-1.2, -1.0, -0.7, 0.1, 0.4, 1.1, 1.3, 1.5], dtype=torch.float64)[:rows]
    bias = torch.randn(rows, components, generator=generator(3), dtype=torch.float64)
    seen = gibbs.Seen(bias, torch.ones(rows, dtype=torch.bool), points=x.unsqueeze(-1))
    g = generator(4)
    labels = torch.randint(components, (chains, rows), generator=g)
    mixture = gibbs.draw_mixture(seen.points, labels, components, seen, prior, g)
    total, burn = torch.zeros(rows, rows, dtype=torch.float64), sweeps // 5
    for step in range(sweeps):
        mixture, _, labels, _ = gibbs.sweep(mixture, seen.points, seen, prior, g)
        if step >= burn:
            total += (labels.unsqueeze(-1) == labels.unsqueeze(-2)).to(total).mean(0)
    return np.abs(total.numpy() / (sweeps - burn) - co_assignment_exact(x.numpy(), bias.numpy(), prior)).max()


def test_co_assignments_are_those_of_the_exact_posterior():
    assert co_assignment_error(rows=6, components=3, chains=400, sweeps=150) < 0.02


@pytest.mark.stat
def test_co_assignments_are_those_of_the_exact_posterior_long():
    assert co_assignment_error(rows=8, components=3, chains=1000, sweeps=400) < 0.01


ROWS, SIZE = 6, 2
PRESENT = torch.arange(ROWS) > 0
GEWEKE_PRIOR = gibbs.Prior(alpha=1.5, kappa=0.5, scatter=1.0, dof=SIZE + 8.0)
SAYS = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)  # p(o | k): what a module above sees of k


def geweke(form, seed, chains=1000, sweeps=30):
    """Largest |z| between chains of {data | parameters; kernel} and fresh draws from the prior (REFERENCE, 10)."""
    g = generator(seed)
    precision = torch.tensor([[2.0, 0.5], [0.5, 0.4]], dtype=torch.float64).expand(ROWS, SIZE, SIZE)
    per_row = torch.linspace(0.3, 2.0, ROWS, dtype=torch.float64)[:, None, None] * precision
    precision = precision[:1] if form == "shared" else per_row

    def fresh():
        # Not by the code under test: neither draw_gaussians nor draw_dirichlet.
        scatter = GEWEKE_PRIOR.scatter * torch.eye(SIZE, dtype=torch.float64).expand(chains, 2, SIZE, SIZE)
        sigma = wishart_inverse(scatter, GEWEKE_PRIOR.dof, g)
        cholesky = torch.linalg.cholesky(sigma)
        noise = torch.randn(chains, 2, SIZE, 1, generator=g, dtype=torch.float64)
        means = (cholesky @ noise).squeeze(-1) / math.sqrt(GEWEKE_PRIOR.kappa)
        gammas = torch._standard_gamma(torch.full((chains, 2), GEWEKE_PRIOR.alpha).double(), generator=g)
        mixture = gibbs.Mixture(means, cholesky, (gammas / gammas.sum(-1, keepdim=True)).log())
        labels = (gammas / gammas.sum(-1, keepdim=True)).multinomial(ROWS, replacement=True, generator=g)
        return mixture, labels, points(mixture, labels)

    def points(mixture, labels):
        at = torch.arange(chains).unsqueeze(-1)
        noise = torch.randn(chains, ROWS, SIZE, 1, generator=g, dtype=torch.float64)
        return mixture.means[at, labels] + (mixture.cholesky[at, labels] @ noise).squeeze(-1)

    def data(mixture, labels, z):
        heard = torch.rand(chains, ROWS, generator=g, dtype=torch.float64) < SAYS[labels, 0]
        bias = torch.where(heard.unsqueeze(-1), SAYS[:, 0], SAYS[:, 1]).log()
        if form == "points":
            z = points(mixture, labels)
            return gibbs.Seen(bias, PRESENT, points=torch.where(PRESENT.unsqueeze(-1), z, 0.0)), z
        noise = torch.randn(chains, ROWS, SIZE, 1, generator=g, dtype=torch.float64)
        y = z + torch.linalg.solve_triangular(torch.linalg.cholesky(precision).mT, noise, upper=True).squeeze(-1)
        return gibbs.Seen(bias, PRESENT, info=(precision @ y.unsqueeze(-1)).squeeze(-1), precision=precision), z

    def functions(mixture, labels, z, seen):
        sigma = mixture.cholesky @ mixture.cholesky.mT
        mu, weights = mixture.means, mixture.log_weights.exp()
        return torch.stack(
            [
                mu[:, 0, 0],
                mu[:, 1, 1],
                mu[:, 0, 0] ** 2,
                mu.abs().sum((1, 2)),
                mu[:, 0, 0] * mu[:, 0, 1],
                mixture.cholesky.diagonal(dim1=-2, dim2=-1).log().sum((1, 2)),
                sigma[:, 0, 0, 0].log(),
                sigma[:, 0, 1, 1].log(),
                sigma[:, 1, 0, 1] / (sigma[:, 1, 0, 0] * sigma[:, 1, 1, 1]).sqrt(),
                mu[:, 0, 0] ** 2 / sigma[:, 0, 0, 0],
                weights[:, 0],
                weights[:, 0] ** 2,
                (labels == 0).double().mean(-1) * weights[:, 0],
                (labels[:, 1] == labels[:, 2]).double(),
                z[:, 1, 0].tanh(),
                z[:, 1:, 0].square().mean(-1).log(),
                (z[:, 1, 0] - z[:, 2, 0]).abs().log(),
                seen.bias.gather(-1, labels.unsqueeze(-1)).sum((1, 2)),
                seen.bias[:, 0].gather(-1, labels[:, :1]).squeeze(-1),
            ],
            -1,
        )

    mixture, labels, z = fresh()
    for step in range(sweeps):
        seen, z = data(mixture, labels, z)
        mixture, z, labels, _ = gibbs.sweep(mixture, z, seen, GEWEKE_PRIOR, g, integrate=form != "given z" or step == 0)
        if form != "points":  # rows that are not present are drawn anew: their z is nobody's
            z = torch.where(PRESENT.unsqueeze(-1), z, points(mixture, labels))
    other = fresh()
    told, points_of_other = data(*other)
    a, b = functions(mixture, labels, z, seen), functions(*other[:2], points_of_other, told)
    return float(((a.mean(0) - b.mean(0)) / ((a.var(0) + b.var(0)) / chains).sqrt()).abs().max())


def wishart_inverse(scatter, dof, g):
    """Sigma ~ IW(scatter, dof) for an integer dof, as the inverse of a sum of outer products."""
    root = torch.linalg.cholesky(torch.linalg.inv(scatter))
    noise = torch.randn(*scatter.shape[:-1], int(dof), generator=g, dtype=scatter.dtype)
    draws = root @ noise
    return torch.linalg.inv(draws @ draws.mT)


FORMS = ["points", "per row", "shared", "given z"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_kernel_leaves_the_joint_invariant(form, seed):
    assert geweke(form, seed) <= 4


def variance_as_deviation(patch):
    right = gibbs.draw_gaussians
    patch.setattr(gibbs, "draw_gaussians", lambda law, g: right(replace(law, kappa=law.kappa**2), g))


def prior_dropped_from_the_mean(patch):
    right = gibbs.posterior

    def wrong(points, members, labels, prior):
        law, count = right(points, members, labels, prior), members.sum(-2)
        return replace(law, mean=law.mean * (law.kappa / count.clamp_min(0.1)).unsqueeze(-1))

    patch.setattr(gibbs, "posterior", wrong)


def stale_mean(patch):
    right = gibbs.draw_gaussians
    patch.setattr(gibbs, "draw_gaussians", lambda law, g: (law.mean, right(law, g)[1]))


def scatter_without_prior(patch):
    right = gibbs.posterior

    def wrong(points, members, labels, prior):
        return right(points, members, labels, replace(prior, scatter=0.3 * prior.scatter))

    patch.setattr(gibbs, "posterior", wrong)


def degrees_off_by_one(patch):
    right = gibbs.draw_gaussians
    patch.setattr(gibbs, "draw_gaussians", lambda law, g: right(replace(law, dof=law.dof + 1), g))


def message_twice(patch):
    right = gibbs.draw_latents
    patch.setattr(gibbs, "draw_latents", lambda m, labels, eta, lam, g: right(m, labels, 2 * eta, 2 * lam, g))


def weights_twice(patch):
    right = gibbs.label_logits
    patch.setattr(gibbs, "label_logits", lambda m, z, s, i: right(m, z, s, i) + m.log_weights.unsqueeze(-2))


def bias_twice(patch):
    right = gibbs.label_logits
    patch.setattr(gibbs, "label_logits", lambda m, z, s, i: right(m, z, s, i) + s.bias)


@pytest.mark.parametrize(
    ("mutation", "form"),
    [
        (variance_as_deviation, "points"),
        (prior_dropped_from_the_mean, "points"),
        (stale_mean, "points"),
        (scatter_without_prior, "points"),
        (degrees_off_by_one, "points"),
        (weights_twice, "points"),
        (bias_twice, "points"),
        (message_twice, "per row"),
        (message_twice, "given z"),
        (stale_mean, "shared"),
    ],
)
def test_planted_mistakes_are_caught(monkeypatch, mutation, form):
    mutation(monkeypatch)
    assert geweke(form, 0, chains=3000) > 4


# ---- Replies ---------------------------------------------------------------------------------------------------------


def quadrature(state, message, points):
    """Log (1/S) sum_s of the integral of N(z; mu_k, Sigma_k) m(z), on a grid ``(G, D)`` of volume one cell each."""
    grid, cell = points
    means = state["location"] + state["scale"] * state["means"]
    factors = state["scale"].unsqueeze(-1) * state["cholesky"]
    density = torch.distributions.MultivariateNormal(means.unsqueeze(-2), scale_tril=factors.unsqueeze(-3))
    log_n = density.log_prob(grid)  # (S, K, G)
    potential = message.info @ grid.mT - ((grid @ message.precision) * grid).sum(-1) / 2  # (rows, G)
    each = (log_n.unsqueeze(0) + potential[:, None, None] + math.log(cell)).logsumexp(-1)  # (rows, S, K)
    weights = (log_n.unsqueeze(0) + math.log(cell)).exp()
    return each.logsumexp(1) - math.log(len(means)), weights


def grid(size):
    line = torch.linspace(-40, 40, 8001 if size == 1 else 1001, dtype=torch.float64)
    cell = float(line[1] - line[0])
    return torch.cartesian_prod(*[line] * size).reshape(-1, size), cell**size


@pytest.mark.parametrize(("size", "draws"), [(1, 1), (1, 3), (2, 1), (2, 3)])
def test_replies_equal_quadrature(size, draws):
    module, state = loaded(draws, 3, size)
    inbox = inbox_of(4, 3, size)
    reply = module.infer(inbox, Evidence.none(4), generator=generator())
    exact, weights = quadrature(state, inbox["observation"], grid(size))
    torch.testing.assert_close(reply.messages["component"].logits, exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(reply.log_evidence, (inbox["component"].logits + exact).logsumexp(-1), rtol=0, atol=1e-6)
    density = (inbox["component"].probs[:, None, :, None] * weights).mean(1).sum(1)  # (rows, G)
    mean = density @ grid(size)[0]
    second = torch.einsum("ng,gi,gj->nij", density, grid(size)[0], grid(size)[0])
    torch.testing.assert_close(reply.messages["observation"].mean(), mean, rtol=0, atol=1e-6)
    covariance = second - mean.unsqueeze(-1) * mean.unsqueeze(-2)
    torch.testing.assert_close(reply.messages["observation"].covariance(), covariance, rtol=1e-6, atol=1e-6)


def test_reply_from_data_is_the_averaged_density():
    module, state = loaded(3, 4, 2, port=False)
    x = torch.randn(5, 2, generator=generator(5), dtype=torch.float64)
    inbox = inbox_of(5, 4)
    reply = module.infer(inbox, Evidence.of(x), generator=generator())
    factors = state["scale"].unsqueeze(-1) * state["cholesky"]
    density = torch.distributions.MultivariateNormal(
        state["location"] + state["scale"] * state["means"], None, None, factors
    )
    exact = density.log_prob(x[:, None, None]).logsumexp(1) - math.log(3)
    torch.testing.assert_close(reply.messages["component"].logits, exact, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(reply.log_evidence, (exact + inbox["component"].logits).logsumexp(-1))
    normalised = {"component": Categorical(inbox["component"].log_probs())}
    expected = module.infer(normalised, Evidence.of(x), generator=generator()).log_evidence
    torch.testing.assert_close(module.predict(inbox, generator=generator()).log_prob(x), expected)
    assert reply.bound == "estimate" and (reply.info["monte_carlo_error"] > 0).all()


def test_replies_do_not_echo_their_own_inbox():
    module, _ = loaded(3, 3, 2)
    a, b = inbox_of(6, 3, 2, seed=1), inbox_of(6, 3, 2, seed=2)
    ask = lambda box: module.infer(box, Evidence.none(6), generator=generator()).messages  # noqa: E731
    one, other = ask(a), ask({**a, "component": b["component"]})
    assert torch.equal(one["component"].logits, other["component"].logits)
    other = ask({**a, "observation": b["observation"]})
    assert torch.equal(one["observation"].info, other["observation"].info)
    assert torch.equal(one["observation"].precision, other["observation"].precision)


def test_rows_that_say_nothing_hear_nothing():
    module, _ = loaded(3, 3, 2)
    told = torch.tensor([True, False, True, False])
    inbox = inbox_of(4, 3, 2)
    masked = {**inbox, "observation": inbox["observation"].mask(told)}
    reply = module.infer(masked, Evidence.none(4), generator=generator())
    full = module.infer(inbox, Evidence.none(4), generator=generator())
    assert bool((reply.messages["component"].logits[~told] == 0).all())
    torch.testing.assert_close(reply.messages["component"].logits[told], full.messages["component"].logits[told])
    torch.testing.assert_close(reply.log_evidence[~told], inbox["component"].log_z()[~told])

    module, _ = loaded(3, 3, 2, port=False)
    x = torch.randn(4, 2, dtype=torch.float64, generator=generator())
    hole = torch.where(told.unsqueeze(-1), x, math.nan)
    reply = module.infer(inbox_of(4, 3), Evidence.of(hole), generator=generator())
    skipped = module.infer(inbox_of(4, 3), Evidence.of(x, told), generator=generator())
    assert torch.equal(reply.messages["component"].logits, skipped.messages["component"].logits)
    assert bool((reply.messages["component"].logits[~told] == 0).all())
    for evidence in (Evidence.none(4), Evidence.of(x).nothing()):
        assert bool(
            module.infer(inbox_of(4, 3), evidence, generator=generator()).messages["component"].is_vacuous().all()
        )


@pytest.mark.parametrize("port", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_a_batch_is_its_rows(port, same):
    module, _ = loaded(3, 4, 3, port=port)
    inbox = inbox_of(7, 4, 3 if port else None)
    if port and same:
        inbox["observation"] = Gaussian(inbox["observation"].info, inbox["observation"].precision[:1].expand(7, 3, 3))
    if port:
        inbox["observation"] = inbox["observation"].mask(torch.arange(7) != 2)
    evidence = Evidence.none(7) if port else Evidence.of(torch.randn(7, 3, dtype=torch.float64, generator=generator()))
    whole = module.infer(inbox, evidence, generator=generator())
    for row in range(7):
        one = slice(row, row + 1)
        alone = module.infer({name: m[one] for name, m in inbox.items()}, evidence[one], generator=generator())
        torch.testing.assert_close(alone.log_evidence, whole.log_evidence[one], rtol=1e-12, atol=1e-12)
        for name, message in alone.messages.items():
            for key, values in message.tensors().items():
                torch.testing.assert_close(values, whole.messages[name][one].tensors()[key], rtol=1e-12, atol=1e-12)


def test_only_what_is_asked_for_is_answered():
    module, _ = loaded(2, 3, 2)
    inbox = inbox_of(3, 3, 2)
    for asked in (frozenset(), frozenset({"component"}), frozenset({"observation"})):
        reply = module.infer(inbox, Evidence.none(3), generator=generator(), ports=asked)
        assert set(reply.messages) == asked and reply.log_evidence is not None
    module, _ = loaded(2, 3, 2, port=False)
    assert set(module.infer(inbox_of(3, 3), Evidence.none(3), generator=generator()).messages) == {"component"}


def test_single_precision_follows_double():
    module, _ = loaded(3, 3, 4)
    double = inbox_of(20, 3, 4)
    double["observation"] = Gaussian(1e3 * double["observation"].info, 1e3 * double["observation"].precision)
    single = {"component": Categorical(double["component"].logits.float())}
    single["observation"] = Gaussian(*(part.float() for part in double["observation"].tensors().values()))
    double = {"component": Categorical(single["component"].logits.double())}
    double["observation"] = Gaussian(*(part.double() for part in single["observation"].tensors().values()))
    a = module.infer(single, Evidence.none(20), generator=generator())
    b = module.infer(double, Evidence.none(20), generator=generator())
    logits, exact = a.messages["component"].log_probs(), b.messages["component"].log_probs()
    assert logits.dtype == torch.float32 and a.messages["observation"].dtype == torch.float32
    assert float((logits - exact).abs().max() / exact.abs().max()) < 1e-3
    torch.testing.assert_close(
        a.messages["observation"].mean().double(), b.messages["observation"].mean(), rtol=1e-4, atol=1e-4
    )


# ---- Fitting ---------------------------------------------------------------------------------------------------------


def fitted(points, seed=0, form="points", bias=None, owned=OWN, components=4, module=None, **options):
    rows = len(points)
    inbox = {"component": bias or vacuous(rows, components, points.dtype)}
    evidence = Evidence.of(points)
    if form == "messages":
        inbox["observation"], evidence = as_messages(points), Evidence.none(rows)
    module = module or build(components, points.shape[1] if form == "messages" else None)
    options = {"sweeps": 60, "restarts": 3, **options}
    report = module.fit(evidence, inbox, generator=generator(seed), owned=owned, **options)
    assert all(math.isfinite(value) for value in report.history["log_likelihood"])
    return module, labels_of(module, evidence, inbox)


@pytest.mark.parametrize("form", ["points", "messages"])
@pytest.mark.parametrize("seed", range(5))
def test_separated_clusters_are_recovered(form, seed):
    points, truth = clusters(seed)
    _, labels = fitted(points, seed, form)
    assert adjusted_rand_score(truth, labels) > 0.95


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [2, 6])
def test_empty_clusters_come_back(monkeypatch, seed, size):
    monkeypatch.setattr(gmm, "seeds", lambda z, p, k, chains, g: torch.zeros(chains, len(z), dtype=torch.int64))
    points, truth = clusters(seed)
    others = [clusters(seed + 10 * copy)[0] for copy in range(1, size // 2)]  # the same clusters, seen by more sensors
    _, labels = fitted(torch.cat([points, *others], 1), seed, sweeps=200)
    assert adjusted_rand_score(truth, labels) > 0.95


def test_the_same_seed_gives_the_same_bytes():
    points, _ = clusters(0)
    one, other = fitted(points, 3)[0].state(), fitted(points, 3)[0].state()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["means"], fitted(points, 4)[0].state()["means"])


@pytest.mark.parametrize("form", ["points", "messages"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_round_trip_is_bit_equal(form, dtype):
    points, _ = clusters(0, dtype=dtype)
    module, _ = fitted(points, form=form, sweeps=20)
    assert all(values.dtype == dtype and values.isfinite().all() for values in module.state().values())
    copy = build(4, 2 if form == "messages" else None)
    copy.load({name: values.clone() for name, values in module.state().items()})
    inbox = inbox_of(200, 4, 2 if form == "messages" else None, dtype=dtype)
    evidence = Evidence.none(200) if form == "messages" else Evidence.of(points)
    a = module.infer(inbox, evidence, generator=generator())
    b = copy.infer(inbox, evidence, generator=generator(1))
    assert torch.equal(a.log_evidence, b.log_evidence)
    assert torch.equal(module.own_prior["component"].logits, copy.own_prior["component"].logits)
    for name, message in a.messages.items():
        assert message.dtype == dtype
        for key, values in message.tensors().items():
            assert torch.equal(values, b.messages[name].tensors()[key])


@pytest.mark.parametrize("form", ["points", "messages"])
def test_a_warm_start_keeps_labels_and_a_restart_does_not_depend_on_it(form):
    points, _ = clusters(1)
    module, before = fitted(points, 0, form)
    _, after = fitted(points + 0.3, 7, form, module=module)
    assert float((before == after).double().mean()) > 0.98
    with pytest.raises(ShapeError):
        fitted(torch.cat([points, points], 1), 0, module=fitted(points, 0)[0])
    fitted(points.float(), 0, form, module=module)  # a refit may come in another precision
    assert module.state()["means"].dtype == torch.float32
    _, again = fitted(points, 11, form, module=module, restart=True)
    _, first = fitted(points, 11, form)
    assert torch.equal(again, first)


@pytest.mark.parametrize("warm", [False, True])
def test_labels_follow_an_informative_message(warm):
    points, truth = clusters(1)
    module = fitted(points, 0)[0] if warm else None
    names = torch.tensor([2, 0, 3, 1])[truth]
    says = torch.nn.functional.one_hot(names, 4).double() * 2.0
    says[::2] = 0.0  # half of the rows say nothing
    for owned in (OWN, frozenset()):
        _, labels = fitted(points, 5, bias=Categorical(says), owned=owned, module=module)
        assert float((labels == names).double().mean()) > 0.98


def test_draws_are_aligned_and_weights_are_learnt_only_if_owned():
    points, truth = clusters(2)
    points = torch.cat([points, points[truth == 0]] * 2)
    module, _ = fitted(points, 0)
    means = module.state()["means"]
    assert float((means - means[:1]).abs().max()) < 0.5
    probs = module.own_prior["component"].probs.sort().values
    torch.testing.assert_close(probs, torch.tensor([0.2, 0.2, 0.2, 0.4], dtype=probs.dtype), rtol=0, atol=0.05)
    module, _ = fitted(points, 0, owned=frozenset())
    assert bool(module.own_prior["component"].is_vacuous())


def test_missing_rows_do_not_matter():
    points, truth = clusters(3)
    hole = torch.cat([points, torch.full((50, 2), math.nan, dtype=points.dtype)])
    one, _ = fitted(points, 0)
    other, labels = fitted(hole, 0)
    assert all(torch.equal(one.state()[name], other.state()[name]) for name in one.state())
    # ... unless another module knows their class: then they count for the weights, and for nothing else.
    says = torch.zeros(250, 4, dtype=torch.float64)
    says[200:, 1] = 20.0
    module, _ = fitted(hole, 0, bias=Categorical(says))
    assert float(module.own_prior["component"].probs[1]) > 0.3


def test_degenerate_messages_are_taken():
    g = generator(0)
    points, truth = clusters(4)
    line = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    first = torch.arange(200) < 150
    precision = torch.where(first[:, None, None], 9 * torch.eye(2).double(), 9 * line.mT @ line)
    info = (precision @ points.unsqueeze(-1)).squeeze(-1)
    module = build(4, 2)
    inbox = {"component": vacuous(200, 4), "observation": Gaussian(info, precision).mask(torch.arange(200) < 190)}
    module.fit(Evidence.none(200), inbox, generator=g, owned=OWN, sweeps=40)
    logits = module.infer(inbox, Evidence.none(200), generator=g).messages["component"].logits
    assert bool(logits.isfinite().all()) and bool((logits[190:] == 0).all())
    assert adjusted_rand_score(truth[:150], logits[:150].argmax(-1)) > 0.95


@pytest.mark.parametrize("strength", [1.0, 1e4, 1e6])
@pytest.mark.parametrize("seed", range(8))
def test_messages_of_fewer_rows_than_dimensions_are_taken(seed, strength):
    """Three rows, four dimensions, a rank of one to three: rounding makes some eigenvalues of the sums negative."""
    g = generator(seed)
    root = (strength**0.5 * torch.randn(3, 4, 1 + seed % 3, generator=g)).float()
    precision = root @ root.mT
    info = (precision @ torch.randn(3, 4, 1, generator=g)).squeeze(-1)
    inbox = {"component": vacuous(3, 2, torch.float32), "observation": Gaussian(info, precision)}
    module = build(2, 4, draws=4)
    module.fit(Evidence.none(3), inbox, generator=g, owned=OWN, sweeps=16, restarts=2)
    reply = module.infer(inbox, Evidence.none(3), generator=g)
    assert bool(reply.messages["component"].logits.isfinite().all()) and bool(reply.log_evidence.isfinite().all())


def test_factors_forgive_rounding_and_nothing_more():
    """An exactly singular matrix, minus what rounding takes: slack in that row only, and an error beyond."""
    singular = torch.tensor([[1.0, 1.0], [1.0, 1.0]]) - 3e-7 * torch.eye(2)
    fine = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    factors = factored(torch.stack([fine, 1e8 * singular]))
    assert torch.equal(factors[0], torch.linalg.cholesky(fine))
    torch.testing.assert_close(factors[1] @ factors[1].mT, 1e8 * singular, rtol=1e-4, atol=0)
    with pytest.raises(MessageError, match="negative precision"):
        factored(torch.stack([fine, fine - 2 * torch.eye(2)]))


def test_options_carry_their_bounds(tmp_path):
    """`serket check` refuses them where they stand, before anything runs."""
    for name, options in (("sweeps", "fit: {sweeps: 0}"), ("restarts", "fit: {restarts: 0}"), ("draws", "draws: 0"),
                          ("alpha", "alpha: 0.0"), ("scatter", "scatter: -1.0"), ("kappa", "kappa: 0.0")):  # fmt: skip
        path = tmp_path / f"{name}.yaml"
        path.write_text(
            "serket: 1\nvariables:\n  kind: {family: categorical, size: 3}\nmodules:\n"
            f"  kinds: {{type: gmm, data: x, ports: {{component: kind}}, {options}}}\n"
        )
        with pytest.raises(GraphError, match=rf"(?s)(?=.*{name})(?=.*{path.name}:5:\d+)"):
            load_graph(path)


def test_odd_data_are_taken_or_refused():
    points, _ = clusters(0)
    constant = torch.cat([points, torch.full((200, 1), 3.0).double()], 1)
    _, labels = fitted(constant, 0)
    assert adjusted_rand_score(clusters(0)[1], labels) > 0.95
    fitted(points[:4], 0, sweeps=20)
    fitted(points, 0, components=1, sweeps=20)
    for wrong, error in (
        (torch.ones(20, 2).double(), DataError),
        (points[:3], DataError),
        (points[:1], DataError),
        (torch.full_like(points, math.nan), DataError),
    ):
        with pytest.raises(error):
            fitted(wrong, 0)
    with pytest.raises(DataError):
        build(4, 2).fit(
            Evidence.none(9),
            {"component": vacuous(9, 4), "observation": Gaussian.vacuous((9,), 2)},
            generator=generator(),
        )


def test_mistakes_are_named():
    points, _ = clusters(0)
    for options in ({"alpha": 0.0}, {"draws": 0}, {"scatter": -1.0}, {"kappa": math.nan}):
        with pytest.raises(GraphError, match=next(iter(options))):
            build(4, **options)
    for options in ({"sweeps": 0}, {"sweeps": 10}, {"restarts": 0}):
        with pytest.raises(GraphError, match=next(iter(options))):
            fitted(points, 0, **options)
    module = build(4)
    with pytest.raises(StateError, match="fitted"):
        module.infer(inbox_of(3, 4), Evidence.of(points[:3]), generator=generator())
    assert module.state() == {} and bool(module.own_prior["component"].is_vacuous())
    with pytest.raises(StateError, match="cholesky"):
        module.load({"means": torch.zeros(8, 4, 2), "location": torch.zeros(2), "scale": torch.ones(2)})
    module, state = loaded(2, 3, 2)
    with pytest.raises(ShapeError):
        module.infer(inbox_of(3, 3, 5), Evidence.none(3), generator=generator())
    with pytest.raises(MessageError, match="negative"):
        bad = Gaussian(torch.zeros(1, 2).double(), torch.full((1, 2), -100.0).double())
        module.infer({"component": vacuous(1, 3), "observation": bad}, Evidence.none(1), generator=generator())
    with pytest.raises(GraphError, match="observation"):
        module.predict(inbox_of(3, 3, 2), generator=generator())
    with pytest.raises(GraphError, match="both"):
        module.fit(
            Evidence.of(points), {"component": vacuous(200, 3), "observation": messages(200, 2)}, generator=generator()
        )


def test_predictions_can_be_sampled():
    points, _ = clusters(0)
    module, _ = fitted(points, 0, sweeps=20)
    says = Categorical(torch.tensor([[20.0, 0, 0, 0], [0, 0, 20.0, 0]], dtype=torch.float64))
    predicted = module.predict({"component": says}, generator=generator())
    assert predicted.batch_shape == (2,) and predicted.event_shape == (2,)
    reply = module.infer({"component": says}, Evidence.of(predicted.mean), generator=generator())
    assert reply.messages["component"].logits.argmax(-1).tolist() == [0, 2]
