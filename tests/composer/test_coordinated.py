"""The coordinated composer: what its optima are, what it may be trusted with, what it refuses."""

import math

import pytest
import sklearn.decomposition
import torch

from serket.composer import Coordinated
from serket.composer.coordinated import composer as coordinated
from serket.composer.coordinated.closeness import Code, kl
from serket.composer.coordinated.coordination import Autoencoder
from serket.errors import DataError, GraphError, MessageError
from serket.graph import load_graph
from serket.messages import Family, Gaussian
from serket.protocol import Evidence, Port, Role
from tests.composer.problems import generator, random

LONG = {"epochs": 500, "batch": 1000, "learning_rate": 3e-2, "validation": 0.0}
MEASURES = ("kl", "wasserstein", "contrastive", "cross_generation", "cca")


def build(sizes, shared, measure="cca", **options):
    ports = {"shared": Port(Role.PARENT, Family.GAUSSIAN, shared)}
    ports |= {f"views[{m}]": Port(Role.CHILD, Family.GAUSSIAN, size) for m, size in enumerate(sizes)}
    chosen = {"criterion": measure} if measure == "cross_generation" else {"distance": measure}
    if measure == "cca":
        options.pop("hidden", None)
    return Coordinated(ports, **chosen, **options)


def about(z, precision=1e8, present=None):
    """Messages that know z, or, in rows where it is not present, nothing."""
    told = [Gaussian(precision * one, torch.full_like(one, precision)) for one in z]
    return told if present is None else [one.mask(here) for one, here in zip(told, present, strict=True)]


def inbox_of(composer, messages):
    nothing = Gaussian.vacuous((len(messages[0].info),), composer.size, dtype=messages[0].dtype)
    return {"shared": nothing} | dict(zip(composer.names, messages, strict=True))


def fitted(composer, messages, seed=0, **options):
    rows = len(messages[0].info)
    if not composer.losses:  # canonical correlation is a closed form
        options = {name: value for name, value in options.items() if name in ("validation", "shrinkage")}
    report = composer.fit(Evidence.none(rows), inbox_of(composer, messages), generator=generator(seed), **options)
    return composer, report


def trained(composer, messages, **options):
    """The views as training leaves them, before anything is calibrated, and what they read."""
    seen = []

    def spy(views, readings, held, g, real=coordinated.calibrated):
        seen.extend([views, readings])
        return real(views, readings, held, g)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordinated, "calibrated", spy)
        fitted(composer, messages, **options)
    return seen


def replies(composer, messages):
    rows = len(messages[0].info)
    return composer.infer(inbox_of(composer, messages), Evidence.none(rows), generator=generator(0)).messages


def alone(messages, *kept):
    silent = torch.zeros(len(messages[0].info), dtype=torch.bool)
    return [one if m in kept else one.mask(silent) for m, one in enumerate(messages)]


def belief(composer, messages):
    """q(s) under N(0, I)."""
    potential = replies(composer, messages)["shared"]
    return potential * Gaussian.standard((len(potential.info),), composer.size, dtype=potential.dtype)


def inside(truth, believed, level=0.9):
    half = float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor((1 + level) / 2))) * believed.variance().sqrt()
    return float(((truth - believed.mean()).abs() < half).double().mean())


def factors(g, rows, sizes, shared=1, noise=0.6):
    """z_m = s A_m + noise, views independent given s."""
    s = random(g, rows, shared)
    loadings = [random(g, shared, d) for d in sizes]
    return s, [s @ one + noise * random(g, rows, one.shape[1]) + 3 for one in loadings]


def test_cca_given_one_view_is_the_posterior_of_probabilistic_cca():
    """Bach & Jordan (2005), section 4.1: E[s|z] = P^(1/2) U' (z - mu), cov I - P; the pool is wide, by (1 + rho) / 2."""
    _, z = factors(generator(0), 500, (3, 4), shared=2)
    composer, _ = fitted(build((3, 4), 3), about(z), validation=0.0, shrinkage=0.0)
    centred = [one - one.mean(0) for one in z]
    whiten = []
    for one in centred:
        values, vectors = torch.linalg.eigh(one.T @ one / 500)
        whiten.append(vectors @ values.rsqrt().diag() @ vectors.T)
    left, rho, right = torch.linalg.svd(whiten[0] @ centred[0].T @ centred[1] @ whiten[1] / 500, full_matrices=False)
    u = [centred[0] @ whiten[0] @ left, centred[1] @ whiten[1] @ right.T]
    for m in range(2):
        found = belief(composer, alone(about(z), m))
        signs = (found.mean() * u[m]).sum(0).sign()
        torch.testing.assert_close(found.mean(), rho.sqrt() * u[m] * signs, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.variance(), (1 - rho).expand(500, 3), rtol=1e-5, atol=1e-5)
    both = belief(composer, about(z))
    exact = rho.sqrt() * (u[0] + u[1]) / (1 + rho) * signs
    torch.testing.assert_close(both.mean(), exact * (1 + rho) / 2, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(both.precision, (1 / (1 - rho)).expand(500, 3), rtol=1e-5, atol=1e-5)
    assert bool((both.variance() > (1 - rho) / (1 + rho)).all()), "never too sure"


def test_reconstruction_alone_finds_the_posterior_of_factor_analysis():
    """With linear layers the bound is tight, so that the loss is -log p of factor analysis; KL of equal views is zero."""
    g = generator(1)
    loadings = torch.tensor([0.8, -0.7, 0.6, 0.75], dtype=torch.float64)
    z = random(g, 600, 1) * loadings + random(g, 600, 4) * (1 - loadings**2).sqrt()
    z = (z - z.mean(0)) / z.std(0, correction=0)
    composer = build((4, 4), 1, "kl", hidden=0, losses={"kl": 1})
    _, report = fitted(composer, about([z, z]), **(LONG | {"learning_rate": 0.1}))
    losses = {name: sum(curve[-10:]) / 10 for name, curve in report.history.items()}
    truth = sklearn.decomposition.FactorAnalysis(1, tol=1e-8, max_iter=5000).fit(z.numpy())
    assert losses["kl"] < 0.01
    assert (losses["reconstruction"] + losses["prior"]) / 2 == pytest.approx(-truth.score(z.numpy()), abs=0.02)
    exact = torch.as_tensor(truth.transform(z.numpy()))
    found = belief(composer, about([z, z]))
    assert abs(float(torch.corrcoef(torch.cat([found.mean(), exact], 1).T)[0, 1])) > 0.999
    wide = 1 / (1 + truth.components_[0] @ (truth.components_[0] / truth.noise_variance_))
    assert float(found.variance().mean()) == pytest.approx(wide, rel=0.1)


def test_cross_generation_is_as_sure_as_if_the_other_view_had_been_seen():
    """Its optimum is q(s|z_1) ~ N(0, I) exp E[log p(z_2|s) | z_1]: the mean is right, the width that of p(s|z_2)."""
    _, z = factors(generator(2), 800, (4, 4), noise=0.5)
    z = [(one - one.mean(0)) / one.std(0, correction=0) for one in z]
    losses = {"reconstruction": 0, "cross_generation": 1}
    composer = build((4, 4), 1, "cross_generation", hidden=0, losses=losses)
    views, readings = trained(composer, about(z), **LONG)
    slope = torch.linalg.lstsq(z[0], z[1]).solution
    decoder, noise = views[1].decoder, views[1].log_noise.exp() + 1e-3
    pull = decoder.direct[:, 0] / noise
    precision = 1 + float(pull @ decoder.direct[:, 0])
    expected = (z[0] @ slope - decoder.offset) @ pull / precision
    code = views[0].encode(readings[0])
    assert precision > 2, "the toy is no collapse"
    torch.testing.assert_close(code.mean[:, 0], expected, rtol=0, atol=0.06)
    assert float(code.variance.mean()) == pytest.approx(1 / precision, rel=0.1)


@pytest.mark.parametrize("measure", ["kl", "wasserstein"])
def test_distances_keep_what_is_shared_and_do_not_collapse(measure):
    """One dimension of s for views with two columns of what they share and three of their own: distance decides."""
    g = generator(3)
    shared = random(g, 600, 1)
    z = [
        torch.cat([shared.expand(600, 2), random(g, 600, 1).expand(600, 3)], 1) + 0.3 * random(g, 600, 5) for _ in "ab"
    ]
    found = {}
    for weight in (0, 3):
        composer, report = fitted(
            build((5, 5), 1, measure, hidden=0, losses={measure: weight / 10}), about(z), **(LONG | {"epochs": 200})
        )
        mean = belief(composer, alone(about(z), 0)).mean()
        found[weight] = abs(float(torch.corrcoef(torch.cat([mean, shared], 1).T)[0, 1]))
        assert report.history["prior"][-1] > 0.5, "the encoders are no constants"
    assert found[0] < 0.3 and found[3] > 0.75, found


@pytest.mark.parametrize("measure", MEASURES)
def test_intervals_about_a_view_hold_what_they_say(measure):
    """Nominal 90 %: of a view from another, on average over which, and from two; on rows that were never seen."""
    g = generator(4)
    _, z = factors(g, 2400, (4, 3, 5), shared=2)
    train, test = [about([one[:1200] for one in z]), about([one[1200:] for one in z])]
    composer, _ = fitted(build((4, 3, 5), 2, measure, hidden=8), train, epochs=40, batch=256, learning_rate=1e-2)
    guesses = [replies(composer, alone(test, *kept))["views[0]"] for kept in ((1,), (2,), (1, 2))]
    covered = [inside(z[0][1200:], guess) for guess in guesses]
    assert 0.87 < (covered[0] + covered[1]) / 2 < 0.93 and min(covered) > 0.82, covered
    assert 0.87 < covered[2] < 0.93
    errors = [float((guess.mean() - z[0][1200:]).square().mean() / z[0].var()) for guess in guesses]
    assert max(errors) < 0.75 and errors[2] < 0.65, "and say something"


@pytest.mark.stat
@pytest.mark.parametrize("views", [2, 4, 8])
@pytest.mark.parametrize("measure", MEASURES)
def test_intervals_about_a_view_over_seeds(measure, views):
    """Nominal 90 %: of one view from a single other, from half of them and from all, mean over three worlds."""
    counts, covered = sorted({1, views // 2, views - 1}), []
    for seed in range(3):
        _, z = factors(generator(40 + seed), 2400, (4,) * views, shared=2)
        train, test = [about([one[:1200] for one in z]), about([one[1200:] for one in z])]
        composer, _ = fitted(build((4,) * views, 2, measure, hidden=8), train, epochs=40, batch=256, learning_rate=1e-2)
        guesses = [replies(composer, alone(test, *range(1, 1 + count)))["views[0]"] for count in counts]
        covered.append([inside(z[0][1200:], guess) for guess in guesses])
    means = torch.tensor(covered).mean(0)
    assert bool((means > 0.85).all()) and bool((means < 0.95).all()), covered


def test_intervals_of_cca_about_what_is_shared():
    """Nominal 90 % of one factor, four views: exact from one, wider than need be from several (a geometric mean)."""
    s, z = factors(generator(5), 6000, (3,) * 4)
    train, test = about([one[:3000] for one in z]), about([one[3000:] for one in z])
    composer, _ = fitted(build((3,) * 4, 1), train)
    truth = s[3000:] * (belief(composer, test).mean() * s[3000:]).sum().sign()
    for m in range(4):
        assert 0.87 < inside(truth, belief(composer, alone(test, m))) < 0.935, m
    for most in (2, 4):
        assert 0.92 < inside(truth, belief(composer, alone(test, *range(most)))) <= 1, most


def test_copies_do_not_count_twice():
    _, (z,) = factors(generator(6), 400, (3,))
    noisy = about([z, z], precision=4.0)
    for measure in ("cca", "kl"):
        composer, _ = fitted(build((3, 3), 2, measure, hidden=0), noisy, epochs=100, batch=400, learning_rate=1e-2)
        one, two = belief(composer, alone(noisy, 0)), belief(composer, noisy)
        assert bool((two.precision <= 1.3 * one.precision + 0.1).all())
    for shrinkage in (0.0, 1.0):  # no correlation is believed beyond 1 - 1e-4
        composer, _ = fitted(build((3, 3), 2), about([z, z]), shrinkage=shrinkage)
        assert 100 < float(belief(composer, about([z, z])).precision.max()) < 1.01e4


def test_a_view_that_knows_nothing_weighs_little():
    g = generator(7)
    _, z = factors(g, 800, (3, 3, 3))
    z[2] = random(g, 800, 3)
    for measure in ("cca", "contrastive"):
        composer, _ = fitted(build((3, 3, 3), 2, measure, hidden=0), about(z), epochs=20)
        assert float(composer.weights.sum()) == pytest.approx(1) and float(composer.weights[2]) < 0.25
    composer, _ = fitted(build((3, 3), 2), about(z[:2]))
    assert composer.weights.tolist() == [0.5, 0.5]


def test_a_wide_message_says_less_and_a_vacuous_one_nothing():
    _, z = factors(generator(8), 400, (3, 4))
    composer, _ = fitted(build((3, 4), 2, "contrastive", hidden=8), about(z), epochs=20)
    precisions = [
        float(belief(composer, alone(about(z, precision), 0)).precision.mean()) for precision in (1e-3, 0.3, 3.0, 1e4)
    ]
    assert precisions == sorted(precisions) and precisions[0] < 1.05 < precisions[3]
    silent = replies(composer, alone(about(z)))
    assert bool(silent["shared"].is_vacuous().all())
    marginal = silent["views[1]"]
    torch.testing.assert_close(marginal.mean(), z[1].mean(0).expand(400, 4), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(marginal.variance(), z[1].var(0, correction=0).expand(400, 4), rtol=1e-3, atol=1e-3)
    under = inbox_of(composer, alone(about(z))) | {"shared": Gaussian.standard((400,), 2, dtype=torch.float64)}
    same = composer.infer(under, Evidence.none(400), generator=generator(0)).messages["views[1]"]
    assert torch.equal(same.info, marginal.info) and torch.equal(same.precision, marginal.precision)


def test_unpaired_rows_teach():
    """Twenty pairs in eight dimensions: rows of one view alone lower the bound of that view on rows never seen."""
    _, z = factors(generator(20), 1500, (8, 8), noise=1.0)
    paired = torch.arange(1500) < 20
    halves = [paired | ((torch.arange(1500) % 2 == m) & (torch.arange(1500) < 1000)) for m in range(2)]
    bounds = []
    for present in (halves, [paired, paired]):
        views, _ = trained(build((8, 8), 1, "kl", hidden=0), about(z, present=present), **(LONG | {"epochs": 150}))
        view, test = views[0], about([z[0][1000:]])[0]
        code = Code.of(view.encoder(view.read(test).mean))
        noise = random(generator(0), 500, 1)
        draw = code.mean + code.variance.sqrt() * noise
        loss = Autoencoder(view.encoder, view.decoder, view.log_noise).surprise(view.read(test).mean, draw) + kl(code)
        bounds.append(float((loss + view.spread.log().sum()).mean()))
    assert bounds[0] < bounds[1] - 0.3, bounds


@pytest.mark.parametrize("measure", ["cca", "cross_generation"])
def test_no_row_is_complete(measure):
    """Views 0 and 2 never meet but by way of 1: yet one predicts the other."""
    _, z = factors(generator(9), 1200, (3, 3, 3))
    half = torch.arange(1200) % 2 == 0
    present = [half, torch.ones(1200, dtype=torch.bool), ~half]
    composer, _ = fitted(
        build((3, 3, 3), 1, measure, hidden=0), about(z, present=present), epochs=200, batch=1200, learning_rate=3e-2
    )
    guess = replies(composer, alone(about(z), 0))["views[2]"].mean()
    assert float((guess - z[2]).square().mean() / z[2].var(0).mean()) < 0.8


def test_fitting_goes_on_from_where_it_stood():
    _, z = factors(generator(10), 400, (3, 4))
    composer, first = fitted(build((3, 4), 2, "contrastive", hidden=8), about(z), epochs=40)
    _, second = fitted(composer, about(z), epochs=1)
    assert second.history["reconstruction"][0] < 0.5 * (
        first.history["reconstruction"][0] + first.history["reconstruction"][-1]
    )


def test_canonical_directions_keep_their_names():
    """On other rows their order and signs may come out otherwise: a refit encodes as before."""
    s, z = factors(generator(12), 3000, (5, 5, 5), shared=3)
    composer, _ = fitted(build((5, 5, 5), 3), about([one[:1000] for one in z]))
    before = belief(composer, about(z)).mean()
    for seed in range(3):
        fitted(composer, about([one[1000 * seed : 1000 * seed + 1000] for one in z]), seed)
        after = belief(composer, about(z)).mean()
        assert bool(((before * after).mean(0) / (before.std(0) * after.std(0)) > 0.5).all()), seed


def test_bad_data_are_refused_or_answered():
    g = generator(11)
    s, z = factors(g, 200, (3, 4))
    everywhere, never = torch.ones(200, dtype=torch.bool), torch.zeros(200, dtype=torch.bool)
    one_row = torch.arange(200) == 7
    for present in ([everywhere, never], [everywhere, one_row], [torch.arange(200) < 100, torch.arange(200) >= 100]):
        with pytest.raises(DataError) as caught:
            fitted(build((3, 4), 2), about(z, present=present))
        assert "views[0]; views[1]: apart" in str(caught.value) and caught.value.fix
    negative = about(z)
    negative[1] = negative[1].where(~one_row, negative[1] ** -1.0)
    composer, _ = fitted(build((3, 4), 2), about(z))
    for use in (fitted, replies):
        with pytest.raises(MessageError, match=r"views\[1\], rows 7"):
            use(composer, negative)
    z[0][:, 1] = 2.0  # a constant dimension
    for measure in MEASURES:
        composer, _ = fitted(build((3, 4), 2, measure, hidden=4), about(z), epochs=3)
        for reply in replies(composer, about(z)).values():
            assert all(bool(values.isfinite().all()) for values in reply.tensors().values()), measure
    constant = [torch.ones(200, 3, dtype=torch.float64), z[1]]  # a latent that never varies
    composer, _ = fitted(build((3, 4), 2, "kl", hidden=4), about(constant), epochs=3)
    assert bool(replies(composer, about(constant))["views[0]"].is_proper().all())


def test_options_that_make_no_sense_are_refused():
    ports = build((3, 4), 2).ports
    with pytest.raises(GraphError, match="two views or more"):
        Coordinated({name: ports[name] for name in ("shared", "views[0]")}, distance="cca")
    for options, text in (
        ({"losses": {"translation": 1}}, "no loss is called 'translation'"),
        ({"losses": {"kl": -1}}, "out of range"),
        ({"losses": {"prior": math.nan}}, "out of range"),
        ({"losses": {"prior": 0}}, "constant encoders"),
        ({"losses": {"reconstruction": 0}, "distance": "wasserstein"}, "constant encoders"),
        ({"criterion": "cross_generation", "distance": "kl"}, "distance belongs to"),
        ({"distance": "cca", "losses": {"kl": 1}}, "closed form"),
        ({"distance": "cca", "hidden": 128}, "hidden would have no effect"),
    ):
        with pytest.raises(GraphError, match=text) as caught:
            Coordinated(ports, **options)
        assert caught.value.fix
    with pytest.raises(GraphError) as caught:
        Coordinated(ports, losses={"cross_gen": 1})
    assert "cross_generation" in str(caught.value), "the error names what there is"
    assert Coordinated(ports, losses={"kl": 2}).losses == Coordinated(ports, losses={"kl": 2.0}).losses


@pytest.mark.parametrize(("measure", "option", "value"), [
    ("cca", "epochs", 100), ("cca", "batch", 128), ("cca", "learning_rate", 3e-3), ("kl", "shrinkage", 1.0),
])  # fmt: skip
def test_options_of_a_fit_without_effect_are_refused(measure, option, value):
    composer, messages = build((3, 4), 2, measure), about([random(generator(0), 20, size) for size in (3, 4)])
    with pytest.raises(GraphError, match=f"fit.{option} would have no effect") as caught:
        composer.fit(Evidence.none(20), inbox_of(composer, messages), generator=generator(0), **{option: value})
    assert "cca" in str(caught.value) and caught.value.fix


@pytest.mark.parametrize("wrong", ["criterion: closeness", "distance: cosine"])
def test_unknown_words_in_yaml_are_named_with_the_known_ones(wrong):
    key, value = wrong.split(": ")
    variables = {name: {"family": "gaussian", "size": 2} for name in ("s", "a", "b")}
    body = {"type": "coordinated", "ports": {"shared": "s", "views": ["a", "b"]}, key: value}
    eye = {"type": "vae", "data": "x", "ports": {"latent": "a"}}
    with pytest.raises(GraphError) as caught:
        load_graph({"serket": 1, "variables": variables, "modules": {"eye": eye}, "composers": {"body": body}})
    known = ("distance", "cross_generation") if key == "criterion" else ("kl", "wasserstein", "contrastive", "cca")
    assert all(name in str(caught.value) for name in known), str(caught.value)
