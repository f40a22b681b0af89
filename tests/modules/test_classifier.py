"""The classifier's messages against dense quadrature; what few labels teach; planted mistakes."""

import math

import pytest
import torch

from serket.errors import DataError, GraphError, StateError
from serket.messages import Categorical, Family, Gaussian
from serket.modules import Classifier
from serket.modules import classifier as module_file
from serket.modules.head import Labels, View
from serket.protocol import Evidence, Port, Reply, Role

ROWS, CLASSES = 24, 3
SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.stat) for seed in range(3, 10))]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(g, *shape):
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def ports(size, label=0):
    latent = {"latent": Port(Role.PARENT, Family.GAUSSIAN, size)}
    return {**latent, "label": Port(Role.CHILD, Family.CATEGORICAL, label)} if label else latent


def loaded(size, hidden=(), label=True, strength=2.0, **options):
    """A module with random weights, and units that are not the identity."""
    g = generator(size + len(hidden))
    widths = [size, *hidden, CLASSES]
    state = {"location": normal(g, size), "scale": 0.5 + torch.rand(size, generator=g, dtype=torch.float64)}
    for layer, (into, to) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        state[f"weight.{layer}"] = strength * normal(g, to, into) / math.sqrt(into)
        state[f"bias.{layer}"] = normal(g, to)
    if options.get("targets") == "gaussian":
        state |= {"target_location": normal(g, CLASSES), "target_scale": 0.5 + normal(g, CLASSES) ** 2,
                  "log_variance": 1 + normal(g, CLASSES)}  # fmt: skip
    module = Classifier(ports(size, CLASSES if label else 0), hidden=list(hidden), **options)
    module.load(state)
    return module, state


def inboxes(size, seed=5):
    g = generator(seed)
    root = normal(g, ROWS, size, size)
    covariance = 0.3 * root @ root.mT + 0.3 * torch.eye(size)
    latent = Gaussian.from_moments(normal(g, ROWS, size), covariance)
    logits = 3 * normal(g, ROWS, CLASSES)
    hard = Categorical.from_probs(torch.eye(CLASSES, dtype=torch.float64)[torch.arange(ROWS // 2) % CLASSES])
    logits[: ROWS // 2] = hard.logits
    return {"latent": latent, "label": Categorical(logits)}


def network(state, z):
    """f(z) from the stored numbers: nothing of the module is called."""
    x, last = (z - state["location"]) / state["scale"], max(int(name[-1]) for name in state if name[:4] == "bias")
    for layer in range(last + 1):
        x = x @ state[f"weight.{layer}"].T + state[f"bias.{layer}"]
        x = torch.tanh(x) if layer < last else x
    return state["target_location"] + state["target_scale"] * x if "target_scale" in state else x


def dense(state, inbox, log_p):
    """Log integral, mean and covariance of inbox (normalised) times p, by sums over a grid of e, z = m + R e."""
    size = inbox.size
    line = torch.linspace(-7, 7, 2801 if size == 1 else 281, dtype=torch.float64)
    e = torch.cartesian_prod(*[line] * size).reshape(-1, size)
    factor = torch.linalg.cholesky(inbox.covariance())
    z = inbox.mean().unsqueeze(1) + e @ factor.mT
    log_n = -(e.square().sum(-1) + size * math.log(2 * math.pi)) / 2 + size * math.log(float(line[1] - line[0]))
    joint = log_p(network(state, z)) + log_n
    weight = joint.softmax(-1).unsqueeze(-1)
    mean = (weight * z).sum(1)
    gap = z - mean.unsqueeze(1)
    return joint.logsumexp(-1), mean, (weight * gap).mT @ gap


def infer(module, inbox, values=None):
    evidence = Evidence.none(ROWS) if values is None else Evidence.of(values)
    return module.infer({name: inbox[name] for name in module.ports}, evidence, generator=generator())


def errors(reply, inbox, state, log_p):
    """Largest error of the belief's mean and covariance in units of the inbox, and of the evidence in nats."""
    log_z, mean, covariance = dense(state, inbox, log_p)
    belief = inbox * reply.messages["latent"]
    whiten = torch.linalg.cholesky(inbox.precision).mT
    gap = (whiten @ (belief.mean() - mean).unsqueeze(-1)).squeeze(-1)
    spread = whiten @ (belief.covariance() - covariance) @ whiten.mT
    return (
        float(gap.abs().max()),
        float(spread.abs().max()),
        float((reply.log_evidence - inbox.log_z() - log_z).abs().max()),
    )


FORMS = [(1, ()), (2, ()), (1, (6,)), (2, (6,)), (2, (5, 4))]


def label_errors(size, hidden, upward):
    module, state = loaded(size, hidden, upward=upward)
    inbox = inboxes(size)
    reply = infer(module, inbox)
    assert reply.tilted == {"latent"} and reply.bound == "estimate"
    m = inbox["label"].logits.unsqueeze(1)
    return errors(reply, inbox["latent"], state, lambda f: (m + f.log_softmax(-1)).logsumexp(-1))


@pytest.mark.parametrize(("size", "hidden"), FORMS)
def test_the_message_equals_quadrature(size, hidden):
    """Hard labels in the first rows, soft ones in the others, some against all that the inbox says."""
    found = label_errors(size, hidden, "quadrature")
    assert max(found) < 1e-2


@pytest.mark.parametrize(("size", "hidden", "most"), [(1, (), 0.3), (2, (), 0.6), (2, (6,), 1.0)])
def test_the_error_of_laplace_is_as_stated(size, hidden, most):
    found = label_errors(size, hidden, "laplace")
    assert 1e-3 < max(found) < most


@pytest.mark.parametrize("upward", ["quadrature", "laplace"])
@pytest.mark.parametrize("hidden", [(), (5,)])
def test_real_targets(hidden, upward):
    """Linear: the closed form, exactly. With a hidden layer: quadrature."""
    module, state = loaded(2, hidden, label=False, targets="gaussian", upward=upward)
    inbox, g = inboxes(2)["latent"], generator(1)
    deviation = state["target_scale"] * (state["log_variance"] / 2).exp()
    y = network(state, inbox.sample(g)) + deviation * normal(g, ROWS, CLASSES)
    reply = infer(module, {"latent": inbox}, y)
    found = errors(
        reply, inbox, state, lambda f: torch.distributions.Normal(f, deviation).log_prob(y.unsqueeze(1)).sum(-1)
    )
    assert max(found) < (1e-2 if upward == "quadrature" or not hidden else 1.5)
    if not hidden:
        weight = state["target_scale"].unsqueeze(-1) * state["weight.0"] / state["scale"]
        told = weight.T @ (weight / deviation.square().unsqueeze(-1))
        torch.testing.assert_close(reply.messages["latent"].precision, told.expand(ROWS, 2, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "hidden"), FORMS)
def test_what_a_label_hears_equals_quadrature(size, hidden):
    module, state = loaded(size, hidden)
    inbox = inboxes(size)
    reply = infer(module, inbox).messages["label"]
    each = [dense(state, inbox["latent"], lambda f, k=k: f.log_softmax(-1)[..., k])[0] for k in range(CLASSES)]
    found = float((reply.probs - torch.stack(each, -1).exp()).abs().max())
    assert found < 1e-2


def test_data_and_an_observed_port_are_the_same():
    module, state = loaded(2)
    other = Classifier(ports(2))
    other.load(state)
    inbox = inboxes(2)
    rows = torch.arange(ROWS) < ROWS // 2
    values = torch.where(rows, inbox["label"].logits.argmax(-1).double(), torch.nan).unsqueeze(1)
    at_port, as_data = infer(module, inbox), infer(other, inbox, values)
    assert torch.equal(as_data.messages["latent"].precision[rows], at_port.messages["latent"].precision[rows])
    assert torch.equal(as_data.log_evidence[rows], at_port.log_evidence[rows])
    assert bool(as_data.messages["latent"].is_vacuous()[~rows].all())
    torch.testing.assert_close(as_data.log_evidence[~rows], inbox["latent"].log_z()[~rows])


@pytest.mark.parametrize(("size", "hidden"), [(3, ()), (16, ()), (64, ()), (16, (6,))])
def test_many_dimensions(size, hidden):
    """f looks at two directions of many: moments there are those of two dimensions, elsewhere the message is silent."""
    small, state = loaded(2, hidden, strength=1.0)
    g = generator(7)
    turn = torch.linalg.qr(normal(g, size, size)).Q
    look = turn[:2]  # (2, D): what f sees of z
    large = Classifier(ports(size, CLASSES), hidden=list(hidden))
    weight = state["weight.0"] / state["scale"]
    bias = state["bias.0"] - weight @ state["location"]
    units = {"location": torch.zeros(size).double(), "scale": torch.ones(size).double()}
    large.load({**state, **units, "weight.0": weight @ look, "bias.0": bias})
    inbox = inboxes(2)
    precision = torch.eye(size).double() + look.mT @ (inbox["latent"].precision - torch.eye(2)) @ look
    wide = Gaussian((look.mT @ inbox["latent"].info.unsqueeze(-1)).squeeze(-1), precision)
    told = infer(large, {**inbox, "latent": wide}).messages["latent"]
    blind = turn[2:]
    assert float((told.precision @ blind.mT).abs().max()) < 1e-9 and float((told.info @ blind.mT).abs().max()) < 1e-9
    seen = Gaussian(told.info @ look.mT, look @ told.precision @ look.mT)
    log_z = infer(large, {**inbox, "latent": wide}).log_evidence - wide.log_z() + inbox["latent"].log_z()
    m = inbox["label"].logits.unsqueeze(1)
    reply = Reply({"latent": seen}, log_evidence=log_z, bound="estimate")
    found = errors(reply, inbox["latent"], state, lambda f: (m + f.log_softmax(-1)).logsumexp(-1))
    assert max(found) < 1e-2


@pytest.mark.parametrize(("size", "hidden", "classes"), [(9, (), 8), (16, (6,), 3), (16, (32,), 3)])
def test_many_directions(monkeypatch, size, hidden, classes):
    """f looks at 7, 6 and 16 directions: against importance sampling with 2e5 points of the mode's Gaussian, widened."""
    monkeypatch.setattr("tests.modules.test_classifier.CLASSES", classes)
    module, state = loaded(size, hidden, strength=1.0)
    inbox = inboxes(size)
    inbox = {name: one[::6] for name, one in inbox.items()}
    reply = module.infer(inbox, Evidence.none(ROWS // 6), generator=generator())
    e = torch.special.ndtri(
        torch.quasirandom.SobolEngine(size, scramble=True, seed=7).draw(2**17).double().clamp(1e-6, 1 - 1e-6)
    )
    for row in range(ROWS // 6):
        one, label = inbox["latent"][row : row + 1], inbox["label"].logits[row]
        about = one * reply.messages["latent"][row : row + 1].clipped() ** 0.5
        factor, whiten = torch.linalg.cholesky(about.covariance()[0]), torch.linalg.cholesky(one.precision[0]).mT
        z = about.mean() + e @ factor.mT
        log_p = (label + network(state, z).log_softmax(-1)).logsumexp(-1)
        log_n = torch.distributions.MultivariateNormal(one.mean()[0], one.covariance()[0]).log_prob(z)
        weight = (log_p + log_n + e.square().sum(-1) / 2).unsqueeze(-1)
        log_z = (
            weight.logsumexp(0) - math.log(len(e)) + factor.diagonal().log().sum() + size / 2 * math.log(2 * math.pi)
        )
        weight = weight.softmax(0)
        mean = (weight * z).sum(0)
        covariance = (weight * (z - mean)).T @ (z - mean)
        belief = one * reply.messages["latent"][row : row + 1]
        assert float((whiten @ (belief.mean()[0] - mean)).abs().max()) < 1e-2
        assert float((whiten @ (belief.covariance()[0] - covariance) @ whiten.mT).abs().max()) < 1e-2
        assert float((reply.log_evidence[row] - one.log_z() - log_z).abs()) < 1e-2


def test_a_label_of_which_nothing_is_said_costs_no_evidence():
    """p(y | z) sums to one over y: as the message on y fades, the evidence goes to that of the inbox."""
    module, _ = loaded(2)
    inbox = inboxes(2)
    for scale in (1e-9, 0.0):
        faded = infer(module, {**inbox, "label": Categorical(scale * inbox["label"].logits.clamp_min(-9) + 2)})
        torch.testing.assert_close(faded.log_evidence, inbox["latent"].log_z() + 2)


def test_an_improper_inbox_is_answered_by_silence():
    module, _ = loaded(2)
    inbox = inboxes(2)
    inbox["latent"] = inbox["latent"].mask(torch.arange(ROWS) % 2 == 0)
    reply = infer(module, inbox)
    for one in reply.messages.values():
        assert one.is_vacuous().tolist() == [row % 2 == 1 for row in range(ROWS)]


def test_a_belief_is_proper_where_label_and_inbox_conflict():
    """Soft labels on a wiggly network widen: negative precision, but never a negative belief."""
    for seed in range(5):
        module, _ = loaded(2, (6,), strength=6.0)
        inbox = inboxes(2, seed)
        inbox["latent"] = inbox["latent"] ** 0.2
        told = infer(module, inbox).messages["latent"]
        assert bool((inbox["latent"] * told).is_proper().all())
    assert bool((torch.linalg.eigvalsh(told.precision) < -1e-3).any()), "no row of this test is wider"


# ---- Learning --------------------------------------------------------------------------------------------------------


def world(seed, rows=400):
    """Three groups in four dimensions seen with noise: beliefs, and the group of each row."""
    g = generator(seed)
    centres = 2.5 * normal(g, CLASSES, 4)
    group = torch.arange(rows) % CLASSES
    z = centres[group] + normal(g, rows, 4)
    precision = 1 + 3 * torch.rand(rows, 4, generator=g, dtype=torch.float64)
    return Gaussian(precision * (z + normal(g, rows, 4) / precision.sqrt()), precision), group


def taught(belief, group, labelled, seed=0, **options):
    hidden = options.pop("hidden", [])
    module = Classifier(ports(belief.size), hidden=hidden, classes=options.pop("classes", "seen"))
    values = torch.where(torch.arange(len(group)) < labelled, group.double(), torch.nan).unsqueeze(1)
    report = module.fit(Evidence.of(values), {"latent": belief}, generator=generator(seed), **options)
    return module, report


def accuracy(module, belief, group):
    probs = module.predict({"latent": belief}, generator=generator()).base_dist.probs.squeeze(1)
    return float((probs.argmax(-1) == group).double().mean())


@pytest.mark.parametrize("hidden", [[], [8]])
@pytest.mark.parametrize("seed", SEEDS)
def test_fifteen_labels_are_enough(seed, hidden):
    belief, group = world(seed)
    module, report = taught(belief, group, 15, seed, hidden=hidden)
    assert accuracy(module, belief[100:], group[100:]) > 0.75
    assert report.history["log_likelihood"][-1] > report.history["log_likelihood"][0]


@pytest.mark.parametrize("seed", SEEDS)
def test_wide_beliefs_make_unsure_classifiers(seed):
    """Trained on draws, not on means: the same means with a wide inbox teach less."""
    belief, group = world(seed)
    sharp, _ = taught(Gaussian.from_moments(belief.mean(), 0.01 * torch.ones(400, 4).double()), group, 60, seed)
    wide, _ = taught(Gaussian.from_moments(belief.mean(), 9 * torch.ones(400, 4).double()), group, 60, seed)
    norms = [float((m.state()["weight.0"] / m.state()["scale"]).square().sum()) for m in (sharp, wide)]
    assert norms[1] < 0.5 * norms[0]


def test_a_warm_start_goes_on_where_it_stood():
    belief, group = world(0)
    module, first = taught(belief, group, 60)
    values = torch.where(torch.arange(400) < 60, group.double(), torch.nan).unsqueeze(1)
    again = module.fit(Evidence.of(values), {"latent": belief}, generator=generator(1), epochs=2)
    assert again.history["log_likelihood"][0] > first.history["log_likelihood"][-1] - 0.1
    assert again.history["log_likelihood"][0] > first.history["log_likelihood"][0] + 0.2


def test_real_targets_are_learnt():
    belief, _ = world(0)
    y = 100 + 5 * belief.mean()[:, :1] + 0.5 * normal(generator(3), 400, 1)
    y[40:] = torch.nan
    module = Classifier(ports(4), targets="gaussian")
    module.fit(Evidence.of(y), {"latent": belief}, generator=generator(), epochs=400)
    imagined = module.predict({"latent": belief}, generator=generator())
    truth = 100 + 5 * belief.mean()[40:, :1]
    assert float((imagined.mean[40:] - truth).square().mean()) < 0.1 * float(truth.var())
    assert bool((imagined.variance > 0).all())


# ---- Odd data --------------------------------------------------------------------------------------------------------


def test_a_class_that_was_never_seen_is_unlikely_but_possible():
    belief, group = world(0)
    module, _ = taught(belief, group, 60, classes=5)
    probs = module.predict({"latent": belief}, generator=generator()).base_dist.probs
    assert bool(probs.isfinite().all()) and float(probs[..., 3:].max()) < 0.2 and bool((probs > 0).all())


def test_constant_columns_teach_nothing():
    belief, group = world(0)
    flat = Gaussian.from_moments(belief.mean() * torch.tensor([1.0, 1, 1, 0]), 1 / belief.precision)
    module, _ = taught(flat, group, 60)
    assert all(bool(value.isfinite().all()) for value in module.state().values())
    assert accuracy(module, flat, group) > 0.5


def test_mistakes_are_named():
    belief, group = world(0)
    with pytest.raises(StateError, match="has to be fitted"):
        infer(Classifier(ports(4)), {"latent": belief[:ROWS]}, torch.zeros(ROWS, 1))
    with pytest.raises(DataError, match=r"(?s)nothing to learn from.*none in 400 rows"):
        taught(belief, group, 0)
    with pytest.raises(DataError, match=r"(?s)one category only.*9 rows of category 0"):
        taught(belief, torch.zeros_like(group), 9)
    with pytest.raises(DataError, match=r"(?s)rows 2, 5.*category numbers.*from 0 to 1.*2"):
        taught(belief, group, 6, classes=2)
    with pytest.raises(DataError, match="category numbers"):
        taught(belief, group + 0.5, 6)
    with pytest.raises(GraphError, match="label port is categorical"):
        Classifier(ports(2, 3), targets="gaussian")
    for where, options in ((ports(2, 3), {}), (ports(2), {"targets": "gaussian"})):
        with pytest.raises(GraphError, match="'classes' of a classifier"):
            Classifier(where, classes=4, **options)
    module, _ = loaded(2)
    with pytest.raises(GraphError, match="both data and a label port"):
        infer(module, inboxes(2), torch.zeros(ROWS, 1))
    with pytest.raises(GraphError, match="no data to predict"):
        module.predict(inboxes(2), generator=generator())


# ---- Planted mistakes ------------------------------------------------------------------------------------------------


def belief_for_message(monkeypatch):
    """The inbox is not divided out: it is counted twice."""
    true = View.quadrature

    def wrong(self, observed):
        message, log_z = true(self, observed)
        precision = self.factor @ self.factor.mT
        return message * Gaussian((precision @ self.mean.unsqueeze(-1)).squeeze(-1), precision), log_z

    monkeypatch.setattr(View, "quadrature", wrong)


def label_twice(monkeypatch):
    true = Labels.log_prob
    monkeypatch.setattr(Labels, "log_prob", lambda self, f: true(Labels(2 * self.logits), f))


def variance_for_deviation(monkeypatch):
    """Points spread by the covariance of the inbox, not by its root."""
    true = View.of.__func__

    def wrong(cls, inbox, *network):
        return true(cls, Gaussian.from_moments(inbox.mean(), inbox.covariance() @ inbox.covariance()), *network)

    monkeypatch.setattr(View, "of", classmethod(wrong))


def dropped_spread_of_the_gradient(monkeypatch):
    """H = <h> without the covariance of g: the belief is too sharp."""
    monkeypatch.setattr(module_file.View, "quadrature", View.laplace)


@pytest.mark.parametrize(
    "mutation", [belief_for_message, label_twice, variance_for_deviation, dropped_spread_of_the_gradient]
)
def test_planted_mistakes_are_caught(monkeypatch, mutation):
    mutation(monkeypatch)
    assert max(label_errors(2, (), "quadrature")) > 1e-2
