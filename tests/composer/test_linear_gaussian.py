"""The linear-Gaussian composer as a module: exact in a graph, finds what was planted, uses unpaired rows."""

import itertools

import pytest
import torch

from serket.composer import LinearGaussianComposer
from serket.engine import run
from serket.errors import DataError, MessageError
from serket.graph import load_graph
from serket.messages import Family, Gaussian
from serket.protocol import Evidence, Port, Role
from tests.composer.problems import dense, draw, generator, messages_about, random, views_of, with_gaps
from tests.reference import dense_gaussian

NAMES = ("views[0]", "views[1]")


def build(sizes, shared, private):
    ports = {"shared": Port(Role.PARENT, Family.GAUSSIAN, shared)}
    ports |= {f"views[{m}]": Port(Role.CHILD, Family.GAUSSIAN, size) for m, size in enumerate(sizes)}
    return LinearGaussianComposer(ports, private)


def told(composer, views):
    """Give the composer these parameters, by its state."""
    parts = ("mean", "shared", "private", "noise")
    composer.load({f"views[{m}].{part}": getattr(view, part) for m, view in enumerate(views) for part in parts})
    return composer


def inbox_of(messages, shared):
    rows = len(messages[0].info)
    inbox = {"shared": Gaussian.vacuous((rows,), shared, dtype=torch.float64)}
    return inbox | {f"views[{m}]": message for m, message in enumerate(messages)}


def fitted(composer, messages, **options):
    inbox = inbox_of(messages, composer.size)
    report = composer.fit(Evidence.none(len(messages[0].info)), inbox, generator=generator(0), **options)
    return composer, report


def infer(composer, inbox):
    rows = len(inbox["shared"].info)
    return composer.infer(inbox, Evidence.none(rows), generator=generator(0))


def evidence_per_row(composer, messages):
    """Log evidence under N(0, I) on what is shared, nats."""
    rows = len(messages[0].info)
    prior = Gaussian.standard((rows,), composer.size, dtype=torch.float64)
    return infer(composer, inbox_of(messages, composer.size) | {"shared": prior}).log_evidence - prior.log_z()


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
def test_every_reply_is_an_integral_of_the_dense_gaussian(full):
    """Belief at a port is reply times inbox: it has to be the marginal, under any message from above."""
    g = generator(0)
    views = views_of(g, (3, 4), 2, 1)
    composer = told(build((3, 4), 2, 1), views)
    messages = with_gaps(g, messages_about(g, draw(g, views, 12)[1], full), 0.4)
    above = messages_about(g, [random(g, 12, 2)], full, precision=1.0)[0]
    reply = infer(composer, inbox_of(messages, 2) | {"shared": above})
    beliefs = {"shared": above * reply.messages["shared"]}
    beliefs |= {name: message * reply.messages[name] for name, message in zip(NAMES, messages, strict=True)}
    for row in range(12):
        mean, cov, log_z, at = dense(views, messages, row, prior=above)
        for name, where in zip(("shared", *NAMES), (at["s"], *at["z"]), strict=True):
            torch.testing.assert_close(beliefs[name].mean()[row], mean[where], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(beliefs[name].covariance()[row], cov[where, where], rtol=1e-9, atol=1e-9)
        assert float(reply.log_evidence[row]) == pytest.approx(log_z, rel=1e-9, abs=1e-9)
    assert reply.bound == "exact"


def test_a_view_hears_a_flat_shared_latent_as_far_as_it_can():
    """With nothing above and no other view, z is known only where A s does not reach."""
    views = views_of(generator(1), (3, 4), 2, 1)
    nothing = {
        name: Gaussian.vacuous((1,), size, dtype=torch.float64)
        for name, size in (("shared", 2), (NAMES[0], 3), (NAMES[1], 4))
    }
    down = infer(told(build((3, 4), 2, 1), views), nothing).messages[NAMES[0]]
    pulled = down.precision[0] @ views[0].shared
    assert float(pulled.abs().max()) < 1e-9 and bool(down.is_semidefinite())
    away = torch.linalg.svd(views[0].shared.T)[2][-1]  # orthogonal to A
    noise = views[0].private @ views[0].private.T + views[0].noise.diag()
    # p(away' z) = N(away' mu, away' C away), the precision of that in the direction that is left.
    assert float(1 / (away @ torch.linalg.pinv(down.precision[0], rtol=1e-9) @ away)) == pytest.approx(float(1 / (
        away @ torch.linalg.pinv(_outside(noise, views[0].shared), rtol=1e-9) @ away)), rel=1e-6)  # fmt: skip


def _outside(noise, loading):
    """P - P A (A' P A)^-1 A' P with P = C^-1."""
    inverse = torch.linalg.inv(noise)
    return inverse - inverse @ loading @ torch.linalg.inv(loading.T @ inverse @ loading) @ loading.T @ inverse


@pytest.mark.parametrize("seed", range(2))
def test_in_a_graph_of_sensors_beliefs_equal_the_dense_gaussian(seed):
    """Sensors under two views under what is shared, with every pattern of missing sensors: means, covariances, log Z."""
    g = generator(seed)
    sizes, readers = {"s": 2, "z0": 3, "z1": 2}, {"a": ("z0", 3), "b": ("z0", 1), "c": ("z1", 2)}
    views = views_of(g, (3, 2), 2, 1)
    spec = {"serket": 1, "variables": {v: {"family": "gaussian", "size": k} for v, k in sizes.items()}, "modules": {}}
    spec["composers"] = {
        "body": {"type": "linear_gaussian", "ports": {"shared": "s", "views": ["z0", "z1"]}, "private": 1}
    }
    sensors, readings, evidence = {}, {}, {}
    patterns = list(itertools.product([True, False], repeat=3))
    for column, (name, (variable, width)) in enumerate(readers.items()):
        matrix, offset = random(g, width, sizes[variable]), random(g, width)
        noise = 0.3 * torch.eye(width, dtype=torch.float64) + 0.1
        sensors[name] = (variable, offset, matrix, noise)
        spec["modules"][name] = {"type": "linear_gaussian", "data": name, "ports": {"given": variable},
                                 "matrix": matrix.tolist(), "noise": noise.tolist(), "offset": offset.tolist()}  # fmt: skip
        seen = torch.tensor([pattern[column] for pattern in patterns]).unsqueeze(1)
        readings[name] = torch.where(seen, 2 * random(g, len(patterns), width), torch.nan)
        evidence[name] = Evidence.of(readings[name])
    graph = load_graph(spec)
    modules = graph.build()
    told(modules["body"], views)
    result = run(graph, modules, evidence)
    assert result.exact and result.bound == "exact" and result.converged
    for row in range(len(patterns)):
        factors = [
            (["s"], torch.zeros(2).double(), torch.eye(2).double(), torch.eye(2).double(), torch.zeros(2).double())
        ]
        for name, view in zip(("z0", "z1"), views, strict=True):  # N(mu; z - A s, B B' + Psi)
            wide = torch.cat([-view.shared, torch.eye(len(view.mean)).double()], 1)
            spread = view.private @ view.private.T + view.noise.diag()
            factors.append((["s", name], torch.zeros(len(view.mean)).double(), wide, spread, view.mean))
        for name, (variable, offset, matrix, noise) in sensors.items():
            if not bool(readings[name][row].isnan().any()):
                factors.append(([variable], offset, matrix, noise, readings[name][row]))
        beliefs, log_z = dense_gaussian(sizes, factors)
        for variable, (mean, cov) in beliefs.items():
            torch.testing.assert_close(result[variable].mean()[row], mean, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(result[variable].covariance()[row], cov, rtol=1e-9, atol=1e-9)
        assert float(result.log_evidence[row]) == pytest.approx(log_z, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_subspace_is_found_and_predicts(seed):
    """Principal angles of the stacked loadings; then one view from the other, nearly as well as the truth does."""
    g = generator(20 + seed)
    views = views_of(g, (6, 5), 2, 1)
    _, z = draw(g, views, 700)
    messages = with_gaps(g, messages_about(g, z), 0.2)
    train, test = slice(0, 500), slice(500, 700)
    composer, _ = fitted(build((6, 5), 2, 1), [m[train] for m in messages], iterations=60)
    found, planted = (torch.linalg.qr(torch.cat([v.shared for v in vs]))[0] for vs in (composer.views.values(), views))
    assert float(torch.linalg.svdvals(found.T @ planted).min()) > 0.97
    clear = messages_about(g, [one[test] for one in z])
    for target in (1, 0):
        errors = []
        for one in (composer, told(build((6, 5), 2, 1), views)):
            inbox = inbox_of(clear, 2) | {"shared": Gaussian.standard((200,), 2, dtype=torch.float64)}
            inbox[NAMES[target]] = inbox[NAMES[target]].mask(torch.zeros(200, dtype=torch.bool))
            guess = infer(one, inbox).messages[NAMES[target]].mean()
            errors.append(float((z[target][test] - guess).square().sum()))
        about_the_mean = float((z[target][test] - z[target][train].mean(0)).square().sum())
        explained = [1 - error / about_the_mean for error in errors]
        assert explained[0] > 0.1 and explained[0] > explained[1] - 0.05, explained


def test_unpaired_rows_are_used():
    """30 pairs and 300 rows with one view each, against the 30 pairs alone: evidence of held-out pairs, over seeds."""
    gains = []
    for seed in range(7):
        g = generator(40 + seed)
        views = views_of(g, (6, 5), 2, 2)
        messages = messages_about(g, draw(g, views, 530)[1])
        rows = torch.arange(530)
        train = [
            messages[0].mask((rows < 30) | (rows % 2 == 0))[:330],
            messages[1].mask((rows < 30) | (rows % 2 == 1))[:330],
        ]
        both, _ = fitted(build((6, 5), 2, 2), train, iterations=30)
        pairs, _ = fitted(build((6, 5), 2, 2), [m[:30] for m in messages], iterations=30)
        held = [m[330:] for m in messages]
        gains.append(float((evidence_per_row(both, held) - evidence_per_row(pairs, held)).mean()))
    assert sorted(gains)[3] > 0, gains


def test_a_fit_goes_on_where_it_stood_and_reports_its_curve():
    g = generator(2)
    messages = messages_about(g, draw(g, views_of(g, (3, 4), 2, 1), 50)[1])
    whole, report = fitted(build((3, 4), 2, 1), messages, iterations=10)
    halves, first = fitted(build((3, 4), 2, 1), messages, iterations=5)
    _, second = fitted(halves, messages, iterations=5)
    for name, value in whole.state().items():
        torch.testing.assert_close(halves.state()[name], value, rtol=1e-9, atol=1e-9)  # units of z and back
    curve = report.history["log_evidence"]
    assert curve == pytest.approx(first.history["log_evidence"] + second.history["log_evidence"], rel=1e-9)
    assert curve[-1] > curve[0]
    # What is reported is what infer says of the training rows, under the parameters before the step.
    again, _ = fitted(build((3, 4), 2, 1), messages, iterations=9)
    assert curve[9] == pytest.approx(float(evidence_per_row(again, messages).mean()), rel=1e-9)


UNITS = {
    "1e-3": [1e-3] * 6,
    "1e-2": [1e-2] * 6,
    "100": [100.0] * 6,
    "1e4": [1e4] * 6,
    "mixed": [1e-3, 1e4, 1.0, 1e-2, 100.0, 1e3],
}


def in_other_units(message, scale, location):
    """What a message over z says of scale * z + location."""
    precision = message.precision / (scale.square() if message.diagonal else scale.unsqueeze(1) * scale)
    pulled = precision * location if message.diagonal else precision @ location
    return Gaussian(message.info / scale + pulled, precision)


@pytest.mark.parametrize("shift", [0.0, 1000.0])
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
def test_a_fit_does_not_depend_on_the_units_of_a_view(full, units, shift):
    """Each view predicted from the other on held-out rows, first fit and refit; and the curve is in the units of z."""
    g = generator(30)
    views = views_of(g, (6, 5), 2, 1)
    z = draw(g, views, 400)[1]
    messages = messages_about(g, z, full=full)
    train, test = slice(0, 300), slice(300, 400)
    scale = torch.tensor(UNITS[units], dtype=torch.float64)
    location = shift * scale
    moved = [in_other_units(messages[0], scale, location), messages[1]]
    results = []
    for told, unit, zero in ((messages, torch.ones(6).double(), torch.zeros(6).double()), (moved, scale, location)):
        gappy = [m[train] for m in told]
        gappy = [m.mask(torch.arange(300) % 5 != which) for which, m in enumerate(gappy)]
        composer, _ = fitted(build((6, 5), 2, 1), gappy, iterations=4)
        before = float(evidence_per_row(composer, gappy).mean())
        _, report = fitted(composer, gappy, iterations=4)
        assert report.history["log_evidence"][0] == pytest.approx(before, rel=1e-6)
        guesses, explained = [], []
        for target in (0, 1):
            inbox = inbox_of([m[test] for m in told], 2)
            inbox["shared"] = Gaussian.standard((100,), 2, dtype=torch.float64)
            inbox[NAMES[target]] = inbox[NAMES[target]].mask(torch.zeros(100, dtype=torch.bool))
            guess = infer(composer, inbox).messages[NAMES[target]].mean()
            guesses.append((guess - zero) / unit if target == 0 else guess)
            gap = z[target][test] - z[target][train].mean(0)
            explained.append(1 - float((z[target][test] - guesses[-1]).square().sum() / gap.square().sum()))
        results.append((guesses, explained))
    (one, good), (other, again) = results
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6)
    assert again == pytest.approx(good, rel=1e-6) and min(good) > 0.2, (good, again)


def test_float32_messages_are_fitted_in_float64():
    """Sums over rows of squares: float32 in, the same parameters out but for the rounding of the messages."""
    g = generator(3)
    messages = messages_about(g, draw(g, views_of(g, (3, 4), 2, 1), 300)[1])
    small = [Gaussian(m.info.float(), m.precision.float()) for m in messages]
    one, other = fitted(build((3, 4), 2, 1), messages)[0], fitted(build((3, 4), 2, 1), small)[0]
    for name, value in one.state().items():
        torch.testing.assert_close(other.state()[name], value, rtol=1e-4, atol=1e-4)


def test_nothing_to_learn_from_is_an_error():
    nothing = [Gaussian.vacuous((5,), size, dtype=torch.float64) for size in (3, 4)]
    with pytest.raises(DataError, match=r"(?s)two rows or more.*found: 0"):
        fitted(build((3, 4), 2, 1), nothing)
    with pytest.raises(MessageError, match="never fitted"):
        infer(build((3, 4), 2, 1), inbox_of(nothing, 2))
