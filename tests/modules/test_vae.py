"""What the VAE replies: a potential, and an ELBO that is one. Weights set by hand, truth by quadrature."""

import math

import pytest
import torch
import torch.nn.functional as F

from serket.errors import DataError, GraphError, MessageError, ShapeError
from serket.messages import Family, Gaussian
from serket.modules import VAE, CountVAE
from serket.protocol import Evidence, Port, Role

ROWS, WIDTH = 3, 4
STEP = 0.05
DRAWS = 150_000


def latent(size):
    return {"latent": Port(Role.PARENT, Family.GAUSSIAN, size)}


def random(g, *shape):
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def untrained(size, likelihood="gaussian", seed=0, **options):
    """A VAE with the random weights of the start of training, and a scaling that is not the identity."""
    g = torch.Generator().manual_seed(seed)
    module = VAE(latent(size), hidden=[6], likelihood=likelihood, **options)
    x = data(likelihood, 30)
    rows = Gaussian.vacuous((30,), size, dtype=torch.float64)
    module.fit(Evidence.of(x), {"latent": rows}, generator=g, epochs=1, learning_rate=1e-9)
    return module


def data(likelihood, rows, seed=1):
    g = torch.Generator().manual_seed(seed)
    if likelihood == "gaussian":
        return 3 * random(g, rows, WIDTH) + 10
    return torch.randint(2 if likelihood == "bernoulli" else 3, (rows, WIDTH), generator=g).double()


def decoded_log_density(module, likelihood, x, z):
    """Log p(x_n | z_g), (rows, points), from the stored numbers alone: nothing of the module is called."""
    s = module.state()
    hidden = F.relu(z @ s["decoder.0.weight"].T + s["decoder.0.bias"])
    out = (hidden @ s["decoder.1.weight"].T + s["decoder.1.bias"]).unsqueeze(0)
    x = x.unsqueeze(1)
    if likelihood == "gaussian":
        mean, variance = s["location"] + s["unit"] * out, s["scale"] ** 2 * s["log_variance"].exp()
        return -((x - mean) ** 2 / variance + torch.log(2 * math.pi * variance)).sum(-1) / 2
    if likelihood == "bernoulli":
        p = 1 / (1 + torch.exp(-out))
        return torch.where(x == 1, p, 1 - p).log().sum(-1)
    probs = out.unflatten(-1, (WIDTH, 3)).softmax(-1).expand(len(x), -1, -1, -1)
    picked = probs.gather(-1, x.long().expand(-1, len(z), -1).unsqueeze(-1))
    return picked.squeeze(-1).log().sum(-1)


def potential_of(message, z):
    """exp(eta' z - z' Lambda z / 2) in logs, (rows, points)."""
    full = message.full()
    return full.info @ z.T - torch.einsum("gi,nij,gj->ng", z, full.precision, z) / 2


def grid():
    line = torch.arange(-7, 7, STEP, dtype=torch.float64)
    return torch.cartesian_prod(line, line)


def inboxes():
    g = torch.Generator().manual_seed(3)
    root = random(g, ROWS, 2, 2)
    return {
        "standard": Gaussian.standard((ROWS,), 2, dtype=torch.float64),
        "diagonal": Gaussian(random(g, ROWS, 2), random(g, ROWS, 2) ** 2 + 0.7),
        "full": Gaussian(random(g, ROWS, 2), root @ root.mT + 0.7 * torch.eye(2, dtype=torch.float64)),
    }


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "categorical"])
@pytest.mark.parametrize("above", ["standard", "diagonal", "full"])
def test_the_bound_is_the_elbo_and_below_the_evidence(likelihood, above, monkeypatch):
    """E_q log p - KL(q, inbox) + log int inbox, against sums over a grid of z; and <= log int p(x | z) inbox(z)."""
    monkeypatch.setattr(VAE, "evidence_draws", DRAWS)
    module, x, inbox = untrained(2, likelihood), data(likelihood, ROWS, seed=2), inboxes()[above]
    reply = module.infer({"latent": inbox}, Evidence.of(x), generator=torch.Generator().manual_seed(0))
    assert reply.bound == "lower"
    z = grid()
    log_p, log_n = decoded_log_density(module, likelihood, x, z), potential_of(inbox, z)
    log_m = potential_of(reply.messages["latent"], z)
    q = (log_n + log_m).softmax(-1)
    log_q, log_prior = q.log() - 2 * math.log(STEP), log_n - (log_n.logsumexp(-1, keepdim=True) + 2 * math.log(STEP))
    elbo = (q * torch.where(q > 0, log_p - log_q + log_prior, 0.0)).sum(-1)
    truth = (log_p + log_n).logsumexp(-1) + 2 * math.log(STEP)
    spread = ((q * log_p**2).sum(-1) - (q * log_p).sum(-1) ** 2).sqrt() / DRAWS**0.5
    assert float(spread.max()) < 3e-3, "the estimate is too noisy to test"
    torch.testing.assert_close(reply.log_evidence, elbo + inbox.log_z(), rtol=0, atol=1e-2)
    # Below the evidence, and strictly: an encoder that was not trained has a gap.
    assert bool((reply.log_evidence < truth - 0.01).all())


def linear_toy(size=1):
    """x = location + scale (a z + b) + noise: a rectifier far above zero is linear; the encoder is the exact one."""
    g = torch.Generator().manual_seed(0)
    a, b, variance, lift = random(g, WIDTH), random(g, WIDTH), 0.5, 1000.0
    location, scale = random(g, WIDTH), torch.tensor(2.0, dtype=torch.float64)
    lam = a @ a / variance
    row = torch.zeros(1, WIDTH, dtype=torch.float64) + a / variance
    module = VAE(latent(1), hidden=[1], variance=variance)
    module.load({
        "location": location, "unit": scale.expand(WIDTH), "scale": scale, "log_variance": torch.tensor(variance, dtype=torch.float64).log(),
        "encoder.0.weight": row, "encoder.0.bias": torch.tensor([lift]).double() - row @ b,
        "encoder.1.weight": torch.tensor([[1.0], [0.0]]).double(),
        "encoder.1.bias": torch.stack([torch.tensor(-lift).double(), torch.expm1(lam).log()]),
        "decoder.0.weight": torch.ones(1, 1).double(), "decoder.0.bias": torch.tensor([lift]).double(),
        "decoder.1.weight": a.unsqueeze(1), "decoder.1.bias": b - lift * a,
    })  # fmt: skip
    return module, location + scale * b, scale * a, scale**2 * variance


@pytest.mark.parametrize("mean, variance", [(0.0, 1.0), (1.5, 0.3)], ids=["standard", "informed"])
def test_the_bound_is_tight_where_the_potential_is_exact(mean, variance, monkeypatch):
    """A linear decoder has a closed form: the ELBO is log N(x; W m + b, W V W' + R), constants and scaling included."""
    monkeypatch.setattr(VAE, "evidence_draws", 200_000)
    module, offset, weight, noise = linear_toy()
    x = offset + random(torch.Generator().manual_seed(1), ROWS, WIDTH)
    inbox = Gaussian.from_moments(torch.full((ROWS, 1), mean).double(), torch.full((ROWS, 1), variance).double())
    reply = module.infer({"latent": inbox}, Evidence.of(x), generator=torch.Generator())
    total = variance * torch.outer(weight, weight) + noise * torch.eye(WIDTH)
    truth = torch.distributions.MultivariateNormal(offset + weight * mean, total).log_prob(x)
    torch.testing.assert_close(reply.log_evidence, truth + inbox.log_z(), rtol=0, atol=1e-2)
    told = Gaussian((x - offset) @ weight.unsqueeze(1) / noise, (weight @ weight / noise).expand(ROWS, 1))
    torch.testing.assert_close(reply.messages["latent"].info, told.info)
    torch.testing.assert_close(reply.messages["latent"].precision, told.precision)


def test_the_reply_is_a_potential():
    """Whatever the inbox, the same; and never of negative precision, whatever the data."""
    module = untrained(2)
    x = torch.cat([data("gaussian", 50), 1e4 * data("gaussian", 50), -1e4 * data("gaussian", 50)])
    replies = []
    for inbox in (Gaussian.vacuous((150,), 2, dtype=torch.float64), inboxes()["full"][:1].expand(150)):
        reply = module.infer({"latent": inbox}, Evidence.of(x), generator=torch.Generator())
        assert reply.includes == {} and reply.tilted == frozenset()
        replies.append(reply.messages["latent"])
    assert torch.equal(replies[0].info, replies[1].info) and torch.equal(replies[0].precision, replies[1].precision)
    assert bool((replies[0].precision >= 0).all()) and replies[0].diagonal


@pytest.mark.parametrize("change", ["load", "fit"])
def test_weights_in_another_type_are_those_that_stand(change):
    module, other = untrained(2), untrained(2, seed=9)
    rows = Evidence.of(data("gaussian", ROWS))
    inbox = {"latent": Gaussian.vacuous((ROWS,), 2, dtype=torch.float32)}  # the weights are in double precision

    def said():
        return module.infer(inbox, rows, generator=torch.Generator()).messages["latent"].info

    before = said()
    if change == "load":
        module.load(other.state())
    else:
        own = Gaussian.vacuous((ROWS,), 2, dtype=torch.float64)
        module.fit(rows, {"latent": own}, generator=torch.Generator().manual_seed(0), epochs=20, learning_rate=0.1)
    after = said()
    module.load({name: value.float() for name, value in module.state().items()})
    assert before.dtype == torch.float32
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, said())


def test_draws_belong_to_rows():
    """The ELBO of a row depends on its id, not on its place; another id gives other draws."""
    module, x = untrained(2), data("gaussian", 1).expand(4, WIDTH)
    inbox = {"latent": Gaussian.standard((4,), 2, dtype=torch.float64)}
    ids = torch.tensor([5, 6, 5, 7])
    bound = module.infer(inbox, Evidence.of(x, row_id=ids), generator=torch.Generator().manual_seed(1)).log_evidence
    assert bound[0] == bound[2] and len(set(bound.tolist())) == 3
    other = module.infer(inbox, Evidence.of(x, row_id=ids), generator=torch.Generator().manual_seed(2)).log_evidence
    assert not torch.equal(bound, other)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "categorical"])
def test_imagined_data_follow_the_belief(likelihood):
    """The mean is the decoding of the belief's mean; the mixture spreads as the belief does."""
    module = untrained(2, likelihood)
    sharp, wide = (Gaussian.from_moments(random(torch.Generator().manual_seed(1), 5, 2), torch.full((5, 2), v).double())
                   for v in (1e-8, 1.0))  # fmt: skip
    narrow, broad = (module.predict({"latent": b}, generator=torch.Generator()) for b in (sharp, wide))
    x = data(likelihood, 5)
    truth = decoded_log_density(module, likelihood, x, sharp.mean()).diagonal()
    torch.testing.assert_close(narrow.log_prob(x), truth, rtol=1e-3, atol=1e-3)
    if likelihood == "gaussian":
        assert torch.equal(
            narrow.mean, module.predict({"latent": sharp}, generator=torch.Generator().manual_seed(5)).mean
        )
        assert bool((broad.variance > 1.05 * narrow.variance).any(1).all())


def test_wrong_widths_and_unfitted_modules_are_named():
    with pytest.raises(MessageError, match="never fitted"):
        VAE(latent(2)).infer(
            {"latent": Gaussian.standard((1,), 2)}, Evidence.of(torch.zeros(1, 3)), generator=torch.Generator()
        )
    with pytest.raises(MessageError, match="never fitted"):
        VAE(latent(2)).state()
    inbox = {"latent": Gaussian.standard((1,), 2)}
    with pytest.raises(ShapeError, match=r"(?s)\(rows, 4\), as in training.*\(1, 3\)"):
        untrained(2).infer(inbox, Evidence.of(torch.zeros(1, 3)), generator=torch.Generator())
    with pytest.raises(DataError, match=r"(?s)never seen in training.*0 to 2"):
        untrained(2, "categorical").infer(inbox, Evidence.of(torch.full((1, 4), 3.0)), generator=torch.Generator())


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical"])
def test_a_variance_that_no_likelihood_reads_is_refused(likelihood):
    for kind, port in (
        (VAE, Port(Role.PARENT, Family.GAUSSIAN, 2)),
        (CountVAE, Port(Role.PARENT, Family.DIRICHLET, 2)),
    ):
        ports = {"latent" if kind is VAE else "words": port}
        with pytest.raises(GraphError, match=f"(?s){likelihood} has none.*leave variance out"):
            kind(ports, likelihood=likelihood, variance=0.1)
        kind(ports, likelihood=likelihood, variance="learnt")
