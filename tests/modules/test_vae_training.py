"""How the VAE learns: every likelihood, stopping, warm starts, inboxes, and odd data. Claims over seeds."""

import math

import pytest
import torch

from serket.errors import DataError, MessageError, ShapeError
from serket.messages import Family, Gaussian, pooled_moments
from serket.modules import VAE
from serket.protocol import Evidence, Port, Role

PORTS = {"latent": Port(Role.PARENT, Family.GAUSSIAN, 2)}
SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.stat) for seed in range(3, 10))]
FIT = {"epochs": 60, "batch": 32, "learning_rate": 5e-3}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def nothing(rows, dtype=torch.float64):
    return {"latent": Gaussian.vacuous((rows,), 2, dtype=dtype)}


def world(likelihood, seed, rows=300):
    """Latents (rows, 2) and data (rows, 8) that they determine but for noise; nonlinear."""
    g = generator(100 + seed)
    z = torch.randn(rows, 2, generator=g, dtype=torch.float64)
    weight = torch.randn(2, 8, generator=g, dtype=torch.float64)
    if likelihood == "categorical":
        scores = 4 * (z @ torch.randn(2, 24, generator=g, dtype=torch.float64)).unflatten(1, (8, 3))
        race = torch.empty_like(scores).exponential_(generator=g).log()
        return z, (scores - race).argmax(-1).double()
    x = torch.tanh(z @ weight)
    if likelihood == "bernoulli":
        return z, (torch.sigmoid(5 * x) > torch.rand(x.shape, generator=g, dtype=torch.float64)).double()
    return z, 20 * x + 2 * torch.randn(x.shape, generator=g, dtype=torch.float64) + 100


def fitted(x, seed=0, inbox=None, options=None, module=None, **fit):
    module = module or VAE(PORTS, hidden=[32], **{"noise": 0.2, **(options or {})})
    report = module.fit(Evidence.of(x), inbox or nothing(len(x)), generator=generator(seed), **{**FIT, **fit})
    return module, report


def reconstruction(module, x, above=None):
    """Mean log density of rows under what is imagined from the belief they give rise to."""
    above = above or Gaussian.standard((len(x),), 2, dtype=torch.float64)
    reply = module.infer({"latent": above}, Evidence.of(x), generator=generator())
    return float(module.predict({"latent": above * reply.messages["latent"]}, generator=generator()).log_prob(x).mean())


def guess(likelihood, train, test):
    """The same of the training rows' frequencies or moments."""
    if likelihood == "gaussian":
        return float(torch.distributions.Normal(train.mean(0), train.std(0)).log_prob(test).sum(-1).mean())
    rates = torch.stack([(train == k).double().mean(0).clamp_min(1e-3) for k in range(int(train.max()) + 1)])
    return float(rates.log().gather(0, test.long()).sum(-1).mean())


@pytest.mark.parametrize(
    ("likelihood", "options"),
    [("gaussian", {}), ("gaussian", {"variance": 0.05}), ("bernoulli", {}), ("categorical", {})],
    ids=["gaussian", "fixed-variance", "bernoulli", "categorical"],
)
@pytest.mark.parametrize("seed", SEEDS)
def test_held_out_rows_are_reconstructed_better_than_guessed(likelihood, options, seed):
    _, x = world(likelihood, seed)
    train, test = x[:200], x[200:]
    options = {"likelihood": likelihood, **options}
    start, _ = fitted(train, seed, options=options, epochs=1, learning_rate=1e-9)
    module, report = fitted(train, seed, options=options)
    after = reconstruction(module, test)
    assert after > guess(likelihood, train, test) + 0.5
    assert after > reconstruction(start, test) + 0.5
    assert report.history["elbo"][-1] > report.history["elbo"][0] and report.steps == len(report.history["elbo"])
    if "variance" in options:
        assert float(module.state()["log_variance"]) == pytest.approx(math.log(0.05))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_learnt_variance_is_that_of_the_noise(seed):
    _, x = world("gaussian", seed)
    module, _ = fitted(x, seed, epochs=100)
    state = module.state()
    deviation = float(state["scale"] * (state["log_variance"] / 2).exp())
    assert 1.5 < deviation < 4.0  # the noise has 2, the data about 12


@pytest.mark.parametrize("seed", SEEDS)
def test_the_variance_is_that_of_the_errors_however_slow_the_optimiser(seed):
    """By gradient it would have moved by 0.06 at most: Adam's steps are no longer than the learning rate."""
    _, x = world("gaussian", seed)
    module, _ = fitted(x, seed, options={"noise": 0.0}, learning_rate=1e-4)
    reply = module.infer({"latent": standard(x)}, Evidence.of(x), generator=generator())
    belief = standard(x) * reply.messages["latent"]
    drawn = belief.mean() + torch.randn(x.shape[0], 2, generator=generator(9), dtype=x.dtype) * belief.variance().sqrt()
    state = module.state()
    hidden = torch.relu(drawn @ state["decoder.0.weight"].T + state["decoder.0.bias"])
    mean = state["location"] + state["unit"] * (hidden @ state["decoder.1.weight"].T + state["decoder.1.bias"])
    error = float(((x - mean) / state["scale"]).square().mean().log())
    assert float(state["log_variance"]) == pytest.approx(error, abs=0.1)
    assert abs(error + 1) > 0.2, "-1 is where it starts"


@pytest.mark.parametrize("noise, last", [("auto", 0.04), (0.8, 0.8)])
def test_automatic_noise_falls_to_nothing_and_a_number_stays(noise, last, monkeypatch):
    heard, encode = [], VAE._encode
    monkeypatch.setattr(
        VAE, "_encode", lambda self, weights, x: heard.append(float(x.var())) or encode(self, weights, x)
    )
    x = torch.randn(100, 64, generator=generator(), dtype=torch.float64)
    fitted(x, options={"noise": noise}, epochs=20, batch=100)
    *told, plain = heard  # the last time for which dimensions speak
    assert [told[0] - plain, told[-1] - plain] == pytest.approx([0.8**2, last**2], abs=0.05)


def standard(x):
    return Gaussian.standard((len(x),), 2, dtype=torch.float64)


def test_early_stopping_stops_and_keeps_the_best():
    _, x = world("gaussian", 0, rows=40)
    module, report = fitted(x, options={"noise": 0.0}, epochs=400, patience=10, held_out=0.4, learning_rate=2e-2)
    curve = report.history["held_out"]
    best = max(range(len(curve)), key=curve.__getitem__)
    assert report.steps == len(curve) == best + 11 < 400
    # The same run, cut where it was best, ends in the same state.
    cut, _ = fitted(x, options={"noise": 0.0}, epochs=best + 1, patience=400, held_out=0.4, learning_rate=2e-2)
    assert same(module, cut)


def same(one, other):
    return all(torch.equal(value, other.state()[name]) for name, value in one.state().items())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_warm_start_goes_on_where_it_stood(seed):
    _, x = world("gaussian", seed)
    module, first = fitted(x, seed)
    _, second = fitted(x, seed + 1, module=module, epochs=5)
    climbed = first.history["elbo"][-1] - first.history["elbo"][0]
    assert climbed > 1
    assert min(second.history["elbo"]) > first.history["elbo"][-1] - 0.1 * climbed


def test_divergence_is_an_error_that_names_the_cure():
    _, x = world("gaussian", 0)
    with pytest.raises(MessageError, match=r"(?s)diverged in epoch \d+.*learning_rate, now 1e\+30"):
        fitted(x, learning_rate=1e30, optimiser="sgd")


@pytest.mark.parametrize("optimiser", ["adam", "adamw", "sgd"])
def test_every_optimiser_climbs(optimiser):
    _, x = world("gaussian", 0)
    _, report = fitted(x, optimiser=optimiser, learning_rate=1e-3, epochs=20)
    assert report.history["elbo"][-1] > report.history["elbo"][0] + 0.1


def test_progress_is_told_every_epoch():
    told = []
    _, x = world("gaussian", 0)
    fitted(x, epochs=3, progress=lambda *step: told.append(step))
    assert [step[:2] for step in told] == [(1, 3), (2, 3), (3, 3)] and "ELBO" in told[-1][2]


@pytest.mark.parametrize("make", [
    lambda x: x[:1], lambda x: torch.cat([x, torch.full_like(x, 7.0)], 1), lambda x: torch.full_like(x, 7.0),
    lambda x: x[:2],
], ids=["one-row", "constant-columns", "all-constant", "two-rows"])  # fmt: skip
@pytest.mark.parametrize("patience", [0, 3])
def test_odd_data_make_finite_weights(make, patience):
    x = make(world("gaussian", 0, rows=20)[1])
    module, report = fitted(x, epochs=10, patience=patience)
    assert all(bool(value.isfinite().all()) for value in module.state().values())
    assert math.isfinite(reconstruction(module, x)) and report.steps > 0


def test_whole_number_arrays_are_data():
    _, x = world("categorical", 0)
    module, _ = fitted(x.to(torch.uint8), options={"likelihood": "categorical"}, epochs=2)
    reply = module.infer(nothing(5), Evidence.of(x[:5].to(torch.uint8)), generator=generator())
    assert reply.messages["latent"].dtype == torch.float64


@pytest.mark.parametrize("seed", SEEDS)
def test_a_module_above_shapes_the_latent(seed):
    """Fitted under N(z_n, 0.05), z is what the inbox says: data are imagined from the inbox alone, unlike without it."""
    z, x = world("gaussian", seed)
    train, test = slice(0, 200), slice(200, 300)
    told = Gaussian.from_moments(z, torch.full_like(z, 0.05))
    module, _ = fitted(x[train], seed, {"latent": told[train]})
    alone, _ = fitted(x[train], seed)
    errors = [m.predict({"latent": told[test]}, generator=generator()).mean - x[test] for m in (module, alone)]
    left = [float(e.square().sum() / (x[test] - x[train].mean(0)).square().sum()) for e in errors]
    assert left[0] < 0.3 < left[1]


def test_full_and_diagonal_inboxes_teach_the_same():
    z, x = world("gaussian", 0)
    told = Gaussian.from_moments(z, torch.full_like(z, 0.2))
    diagonal, first = fitted(x, inbox={"latent": told}, epochs=10)
    full, second = fitted(x, inbox={"latent": told.full()}, epochs=10)
    assert first.history["elbo"] == pytest.approx(second.history["elbo"], rel=1e-6)
    for name, value in diagonal.state().items():
        torch.testing.assert_close(full.state()[name], value, rtol=1e-4, atol=1e-5)
    # A correlated inbox is another prior: the ELBO is KL against it, so it matters.
    lam = torch.tensor([[5.0, 4.0], [4.0, 5.0]]).double().expand(len(z), 2, 2)
    _, third = fitted(x, inbox={"latent": Gaussian((lam @ z.unsqueeze(-1)).squeeze(-1), lam)}, epochs=10)
    assert abs(third.history["elbo"][-1] - second.history["elbo"][-1]) > 1e-3


def test_rows_without_a_message_are_under_the_standard_normal():
    z, x = world("gaussian", 0)
    heard = torch.arange(len(z)) % 2 == 0
    told = Gaussian.from_moments(z, torch.full_like(z, 0.2))
    spelt = told.where(heard, Gaussian.standard((), 2, dtype=torch.float64).expand(len(z)))
    assert same(
        fitted(x, inbox={"latent": told.mask(heard)}, epochs=3)[0], fitted(x, inbox={"latent": spelt}, epochs=3)[0]
    )


def test_data_of_another_width_or_none_are_refused():
    _, x = world("gaussian", 0)
    module, _ = fitted(x, epochs=1)
    with pytest.raises(ShapeError, match=r"(?s)\(rows, 8\), as in training.*\(300, 5\)"):
        fitted(x[:, :5], module=module)
    for empty in (Evidence.none(3), Evidence.of(torch.full((3, 8), torch.nan))):
        with pytest.raises(DataError, match="at least one row"):
            VAE(PORTS).fit(empty, nothing(3), generator=generator())
    with pytest.raises(DataError, match=r"(?s)outside \[0, 1\].*0 to 1"):
        fitted(x, options={"likelihood": "bernoulli"})
    with pytest.raises(DataError, match="whole numbers from 0"):
        fitted(x, options={"likelihood": "categorical"})


def test_columns_in_other_units_are_learnt_as_well_as_any():
    """Two causes seen by six columns, one of them in thousandths: in units of all together five would be silence."""
    g = torch.Generator().manual_seed(3)
    causes = torch.tensor([[1.0, 0.8, 0.0, 0.6, -1.0, 0.5], [0.0, 0.6, 1.0, -0.8, 0.5, -1.0]])
    x = torch.randn(600, 2, generator=g) @ causes + 0.1 * torch.randn(600, 6, generator=g)
    found = []
    for unit in (1.0, 1000.0):
        scaled = x * torch.tensor([1.0, unit, 1.0, 1.0, 1.0, 1.0]) + 5
        module = VAE({"latent": Port(Role.PARENT, Family.GAUSSIAN, 2)}, hidden=[32], noise=0.1)
        above = {"latent": Gaussian.vacuous((500,), 2)}
        module.fit(Evidence.of(scaled[:500]), above, generator=torch.Generator().manual_seed(0), epochs=60)
        standard = {"latent": Gaussian.standard((100,), 2)}
        potential = module.infer(standard, Evidence.of(scaled[500:]), generator=g).messages["latent"]
        seen = module.predict({"latent": potential * standard["latent"]}, generator=g)
        left = (seen.mean - scaled[500:]).square().mean(0) / scaled[500:].var(0)
        found.append(left)
        inputs = module.likelihood.inputs(scaled[500:], module.weights)
        told = module.likelihood.log_prob(torch.zeros_like(inputs), inputs, module.weights)
        law = module.likelihood.distribution(torch.zeros_like(inputs), module.weights)
        torch.testing.assert_close(told, law.log_prob(scaled[500:]), rtol=1e-4, atol=1e-3)
    assert bool((found[1] < 0.3).all()), found
    assert len(module.weights["scale"]) == 6 and found[0].max() < 0.3


def test_a_dimension_that_the_data_say_nothing_of_is_silent():
    """One cause, six latent dimensions: what a composer learns of their spread is about that of N(0, 1), or nothing."""
    g = torch.Generator().manual_seed(4)
    x = torch.randn(600, 1, generator=g) * torch.tensor([1.0, -1.0, 0.5, 0.8, 1.0, 0.7]) + 0.3 * torch.randn(
        600, 6, generator=g
    )
    module = VAE({"latent": Port(Role.PARENT, Family.GAUSSIAN, 6)}, hidden=[32], noise=0.3)
    above = {"latent": Gaussian.vacuous((600,), 6)}
    module.fit(Evidence.of(x), above, generator=torch.Generator().manual_seed(0), epochs=200, learning_rate=5e-3)
    speaks = module.state()["speaks"].bool()
    potential = module.infer(above, Evidence.of(x), generator=g).messages["latent"]
    assert 1 <= int(speaks.sum()) < 6
    assert bool((potential.precision[:, ~speaks] == 0).all() & (potential.info[:, ~speaks] == 0).all())
    assert bool((potential.precision[:, speaks].mean(0) > 0.05).all())
    _, variance = pooled_moments(potential)
    assert 0.3 < float(variance[speaks].min()) and float(variance.max()) < 5


@pytest.mark.parametrize("seed", SEEDS)
def test_small_columns_are_no_noise(seed):
    """Three columns in thousandths of the others weigh nothing in the loss; they are told no worse than by their mean."""
    _, x = world("gaussian", seed)
    x[:, 5:] /= 1000
    module, _ = fitted(x[:200], seed)
    above = Gaussian.standard((100,), 2, dtype=torch.float64)
    reply = module.infer({"latent": above}, Evidence.of(x[200:]), generator=generator())
    made = module.predict({"latent": above * reply.messages["latent"]}, generator=generator()).mean
    left = (made - x[200:]).square().mean(0) / x[200:].var(0)
    assert (left < 1.05).all()
