"""Gaussian-process translators against textbook forms, brute force, and a linear-Gaussian truth."""

import pytest
import torch

from serket.composer.kernel.composer import KernelComposer
from serket.composer.kernel.gaussian_process import Kernel, regress, tune
from serket.errors import DataError
from serket.messages import Gaussian
from serket.protocol import Evidence, Port, Role

F64 = torch.float64


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def problem(rows=12, dims=3, usual=0.2):
    spread = usual * (1 + torch.arange(dims, dtype=F64))
    kernel = Kernel(1.7 + 2 * spread, spread)
    inputs = normal(0, rows, dims)
    return kernel, inputs, torch.stack([inputs.sum(1).sin(), inputs[:, 0]], 1)


def expected(mean, variance, other, usual, length):
    """E k(x, y) over both readings, by definition: a product over dimensions of Gaussian integrals by quadrature."""
    grid = torch.linspace(-9, 9, 801, dtype=F64)
    value = 1.0
    for m, v, o, u in zip(mean, variance, other, usual, strict=True):
        gap, spread = m - o, v + u  # x - y ~ N(gap, spread)
        density = torch.exp(-((grid - gap) ** 2) / (2 * spread)) / (2 * torch.pi * spread).sqrt()
        value = value * torch.trapezoid(density * torch.exp(-(grid**2) / (2 * length)), grid)
    return value


def test_the_kernel_is_the_expected_one_of_two_readings():
    kernel, inputs, _ = problem()
    variance = kernel.usual * torch.tensor([0.3, 1.0, 4.0], dtype=F64)
    unit = expected(inputs[0], kernel.usual, inputs[0], kernel.usual, 1.7)  # of two usual ones at one place
    for row, other in ((0, 1), (2, 5)):
        found = kernel.towards(inputs[row][None], variance[None], inputs[other][None])
        wanted = expected(inputs[row], variance, inputs[other], kernel.usual, 1.7) / unit
        torch.testing.assert_close(found[0, 0], wanted, rtol=1e-9, atol=0)


def test_the_predictive_is_that_of_the_textbook():
    """Rasmussen & Williams 2006, equations 2.23 and 2.24, by explicit inverse."""
    kernel, inputs, targets = problem()
    posterior, _, _ = regress(kernel, inputs, targets, 0.1)
    at = normal(1, 5, 3)
    usual = kernel.usual.expand_as(at)
    cross = torch.exp(-((at[:, None] - inputs[None]) ** 2 / (2 * kernel.metric)).sum(-1))
    gram = torch.exp(-((inputs[:, None] - inputs[None]) ** 2 / (2 * kernel.metric)).sum(-1))
    inverse = torch.linalg.inv(gram + 0.1 * torch.eye(12, dtype=F64))
    mean, left = posterior(at, usual)
    torch.testing.assert_close(mean, cross @ inverse @ targets, rtol=0, atol=1e-10)
    torch.testing.assert_close(left, 1 - (cross @ inverse @ cross.T).diagonal(), rtol=0, atol=1e-10)
    # Hardly read, it falls back to the prior: mean 0, all variance left.
    mean, left = posterior(at, usual + 1e9)
    assert float(mean.abs().max()) < 1e-9 and float((1 - left).max()) < 1e-9


@pytest.mark.parametrize("inducing", [None, 5, 12])
def test_leave_one_out_is_a_refit_without_the_row(inducing):
    kernel, inputs, targets = problem()
    points = None if inducing is None else inputs[:inducing]
    _, errors, left = regress(kernel, inputs, targets, 0.1, points)
    for row in range(12):
        keep = torch.arange(12) != row
        refit, _, _ = regress(kernel, inputs[keep], targets[keep], 0.1, inputs[keep] if points is None else points)
        mean, rest = refit(inputs[row][None], kernel.usual[None])
        torch.testing.assert_close(targets[row] - mean[0], errors[row], rtol=0, atol=1e-6)
        torch.testing.assert_close(rest[0], left[row], rtol=0, atol=1e-6)


def test_inducing_points_at_all_rows_change_nothing():
    kernel, inputs, targets = problem()
    dense, sparse = regress(kernel, inputs, targets, 0.1), regress(kernel, inputs, targets, 0.1, inputs)
    at = normal(1, 5, 3)
    variance = kernel.usual * torch.tensor([[1.0], [1.0], [0.5], [3.0], [9.0]], dtype=F64)
    for a, b in zip((*dense[0](at, variance), *dense[1:]), (*sparse[0](at, variance), *sparse[1:]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


def test_tuning_finds_the_best_of_the_grid():
    _, inputs, targets = problem(40)
    usual, floor = torch.full((3,), 0.1, dtype=F64), torch.tensor([0.05, 0.2], dtype=F64)
    scales, noises = (0.3, 1.0, 3.0), (0.01, 0.1, 1.0)
    kernel, noise = tune(inputs, usual, {"y": (targets, floor)}, scales, noises)["y"]
    total = inputs.var(0, correction=0).sum()
    density = {}
    for scale in scales:
        for level in noises:
            one = Kernel(scale * total + 2 * usual, usual)
            _, errors, _ = regress(one, inputs, targets, level)
            density[scale, level] = -float((errors.square().mean(0) + floor).log().sum())
    scale, level = max(density, key=density.get)
    assert level == noise and torch.allclose(kernel.metric, scale * total + 2 * usual)


def composer(*sizes, shared=3):
    ports = {"shared": Port(Role.PARENT, "gaussian", shared)}
    ports |= {f"views[{m}]": Port(Role.CHILD, "gaussian", size) for m, size in enumerate(sizes)}
    return KernelComposer(ports)


def inbox_of(module, potentials):
    """The engine's inbox: the composer owns the prior of s."""
    rows = len(potentials[0].info)
    prior = module.own_prior["shared"].to(F64, "cpu").expand(rows)
    return {"shared": prior, **{f"views[{m}]": one for m, one in enumerate(potentials)}}


def fit(module, potentials, **options):
    inbox = inbox_of(module, potentials)
    return module.fit(Evidence.none(len(potentials[0].info)), inbox, generator=torch.Generator(), **options)


def infer(module, potentials, port="shared"):
    rows = len(potentials[0].info)
    reply = module.infer(inbox_of(module, potentials), Evidence.none(rows), generator=torch.Generator(), ports={port})
    return reply.messages[port]


class Truth:
    """Three views of four dimensions over two shared ones, each read with noise: everything jointly Gaussian."""

    def __init__(self, rows, seed=0):
        self.loadings = 1.5 * normal(90, 3, 4, 2)
        self.z = (normal(seed, rows, 2) @ self.loadings.mT) + 0.5 * normal(seed + 1, 3, rows, 4)
        self.noise = 0.3 * (1 + torch.arange(4, dtype=F64) / 4)
        self.read = self.z + self.noise.sqrt() * normal(seed + 2, 3, rows, 4)

    def potentials(self, *missing):
        precision = (1 / self.noise).expand(self.read.shape[1], 4)
        found = [Gaussian(one * precision, precision) for one in self.read]
        return [one.mask(torch.full((len(one.info),), number not in missing)) for number, one in enumerate(found)]

    def exact(self, target, sources):
        """Mean ``(rows, 4)`` and covariance of p(z_target | readings of the sources), from the joint Gaussian."""
        stacked = torch.cat(list(self.loadings))
        joint = stacked @ stacked.T + 0.25 * torch.eye(12, dtype=F64)
        place = torch.cat([torch.arange(4 * source, 4 * source + 4) for source in sources])
        own = slice(4 * target, 4 * target + 4)
        seen = joint[place][:, place] + self.noise.repeat(len(sources)).diag()
        gain = joint[own, place] @ torch.linalg.inv(seen)
        read = torch.cat([self.read[source] for source in sources], 1)
        return read @ gain.T, joint[own, own] - gain @ joint[place, own]


def coverage(message, truth):
    """Share of coordinates within the central 90 %."""
    return float(((truth - message.mean()).abs() < 1.6449 * message.variance().sqrt()).double().mean())


def test_a_linear_gaussian_truth_is_nearly_recovered():
    module, test = composer(4, 4, 4), Truth(400, seed=10)
    fit(module, Truth(400).potentials())
    for sources in ((1,), (1, 2)):
        missing = [m for m in range(3) if m not in sources]
        found = infer(module, test.potentials(*missing), "views[0]")
        mean, covariance = test.exact(0, sources)
        total = test.z[0].var(0).sum()
        assert float((found.mean() - mean).square().sum(1).mean() / total) < 0.03
        assert 0.8 < float(found.variance().mean() / covariance.diagonal().mean()) < 1.2
        assert 0.86 < coverage(found, test.z[0]) < 0.94
    # Nothing said: the marginal.
    nothing = infer(module, test.potentials(0, 1, 2), "views[0]")
    marginal = test.loadings[0] @ test.loadings[0].T + 0.25 * torch.eye(4, dtype=F64)
    assert 0.86 < coverage(nothing, test.z[0]) < 0.94
    assert float((nothing.covariance()[0] - marginal).norm() / marginal.norm()) < 0.25


@pytest.mark.parametrize("views", [2, 4, 8])
def test_many_sources_are_not_surer_than_they_are_right(views):
    """What is open about a view once s is known is an error of all sources alike: a product would count it away."""
    loadings = normal(150 + views, views, 2, 4)

    def world(seed, rows):
        z = normal(seed, rows, 2) @ loadings + 0.5 * normal(seed + 1, views, rows, 4)
        return [Gaussian(100 * one, torch.full_like(one, 100.0)) for one in z], z[0]

    module, (messages, z) = composer(*[4] * views, shared=4), world(30, 1500)
    fit(module, world(10, 400)[0])
    for sources in {1, views // 2, views - 1}:
        heard = [one.mask(torch.full((1500,), 0 < place <= sources)) for place, one in enumerate(messages)]
        assert 0.88 <= coverage(infer(module, heard, "views[0]"), z) <= 0.92, sources


def test_sources_that_fade_are_no_sources():
    """Of two, one that is unlike anything seen: what is left is what the other says alone."""
    module, test = composer(4, 4, 4), Truth(50, seed=10)
    fit(module, Truth(300).potentials())
    alone = infer(module, test.potentials(0, 2), "views[0]")
    test.read[2] += 40
    both = infer(module, test.potentials(0), "views[0]")
    torch.testing.assert_close(both.precision, alone.precision, rtol=1e-6, atol=0)
    torch.testing.assert_close(both.mean(), alone.mean(), rtol=0, atol=1e-3)


def test_a_view_unlike_any_seen_fades():
    module, test = composer(4, 4, 4), Truth(50, seed=10)
    fit(module, Truth(200).potentials())
    usual = test.potentials(0, 2)
    precision = [
        infer(module, usual, port).precision.diagonal(dim1=-2, dim2=-1).mean() for port in ("shared", "views[0]")
    ]
    test.read = test.read + 40
    away = test.potentials(0, 2)
    assert float(infer(module, away).precision.abs().max()) < 1e-6 * float(precision[0])
    assert float(infer(module, away, "views[0]").precision.diagonal(dim1=-2, dim2=-1).mean()) < float(precision[1])
    # A hazier reading says less.
    hazy = [one**0.1 for one in usual]
    assert float(infer(module, hazy).precision.diagonal(dim1=-2, dim2=-1).mean()) < 0.9 * float(precision[0])
    assert bool(infer(module, hazy).is_semidefinite().all())


def curved(rows, seed=0):
    """Two views of two dimensions: an angle and a radius, and their sine and cosine."""
    at = 3 * normal(seed, rows, 2)
    views = [at, torch.stack([at[:, 0].sin() * 2, at[:, 1].cos() * 2], 1)]
    return [Gaussian(100 * view, torch.full_like(view, 100.0)) for view in views], views


def explained(module, messages, views):
    reply = infer(module, [messages[0], messages[1] ** 0.0], "views[1]")
    return 1 - float((reply.mean() - views[1]).square().sum() / (views[1] - views[1].mean(0)).square().sum())


def test_bends_are_followed_and_unpaired_rows_help():
    few, test = 40, curved(200, seed=5)
    messages, _ = curved(400)
    gains = {}
    for name, pairs in (("all", 400), ("few", few)):
        module = composer(2, 2)
        here = torch.arange(400) < pairs
        first, second = messages
        # Rows beyond the pairs have one view each.
        odd = torch.arange(400) % 2 == 0
        fit(module, [first.mask(here | odd), second.mask(here | ~odd)])
        gains[name] = explained(module, *test)
    assert gains["all"] > 0.9 and 0.2 < gains["few"] < gains["all"]


def test_a_refit_keeps_what_the_shared_space_means():
    module, data = composer(4, 4, 4), Truth(200).potentials()
    fit(module, data)
    before = (infer(module, data) * module.own_prior["shared"].expand(200)).mean()
    fit(module, Truth(200, seed=20).potentials())
    after = (infer(module, data) * module.own_prior["shared"].expand(200)).mean()
    assert float((after - before).square().sum() / before.square().sum()) < 0.05


def test_many_rows_take_inducing_points():
    module, data = composer(2, 2, shared=2), curved(3100)
    fit(module, data[0], inducing=150)
    assert 100 < len(module.state()["views[0]>views[1].points"]) <= 150
    assert explained(module, *curved(200, seed=5)) > 0.8


@pytest.mark.parametrize(
    ("rows", "kinds", "spread"), [(1500, 2, 1.0), (3100, 4, 0.2)], ids=["population-and-tuning", "inducing"]
)
def test_rows_may_come_in_turns(rows, kinds, spread):
    """Kinds one after the other, over and over: every second or fourth row is of one kind, and any stride is blind."""
    centres, slopes = 2 * normal(5, 2, kinds, 2), normal(6, kinds, 2, 2)

    def world(seed, count, order):
        kind, inner = order % kinds, spread * normal(seed, count, 2)[order]
        second = (inner[:, None] @ slopes[kind]).squeeze(1) + 0.1 * normal(seed + 1, count, 2)[order]
        views = [centres[0][kind] + inner, centres[1][kind] + second]
        return [Gaussian(100 * view, torch.full_like(view, 100.0)) for view in views], views

    gains = []
    for order in (torch.arange(rows), torch.randperm(rows, generator=torch.Generator().manual_seed(0))):
        module = composer(2, 2, shared=2)
        fit(module, world(1, rows, order)[0], inducing=130)
        gains.append(explained(module, *world(9, 200, torch.arange(200))))
    assert gains[0] > gains[1] - 0.05 and gains[0] > 0.5


@pytest.mark.parametrize(
    "case",
    ["one view", "same data", "a single row", "constant", "exact", "unequal"],
    ids=lambda case: case.replace(" ", "-"),
)
def test_odd_data_are_answered(case):
    messages = Truth(60).potentials()
    if case == "one view":
        messages = messages[:1]
    elif case == "same data":
        messages = [messages[0], messages[0]]
    elif case == "a single row":
        messages[2] = messages[2].mask(torch.arange(60) == 7)
    elif case == "constant":
        messages[1] = Gaussian(3e6 * torch.ones(60, 4, dtype=F64), 1e6 * torch.ones(60, 4, dtype=F64))
    elif case == "exact":
        messages = [Gaussian(1e8 * one.info / one.precision, one.precision * 0 + 1e8) for one in messages]
    elif case == "unequal":
        messages[1] = Gaussian(messages[1].info[:, :1], messages[1].precision[:, :1])
    module = composer(*(one.size for one in messages), shared=6)
    fit(module, messages)
    for port in module.ports:
        reply = infer(module, messages, port)
        assert bool(reply.info.isfinite().all()) and bool(reply.is_semidefinite().all())
        assert port == "shared" or bool(reply.is_proper().all())
        assert port == "shared" or bool(Gaussian(reply.info.float(), reply.precision.float()).is_proper().all())
    if case == "same data":
        other = infer(module, [messages[0], messages[1] ** 0.0], "views[1]").mean()
        assert float((other - messages[0].mean()).square().mean() / messages[0].mean().var()) < 0.1


@pytest.mark.parametrize("together", [0, 1])
def test_views_never_seen_together_cannot_be_composed(together):
    first, second, _ = Truth(40).potentials()
    here = torch.arange(40) < 20
    module = composer(4, 4)
    with pytest.raises(DataError) as caught:
        fit(module, [first.mask(here), second.mask(torch.arange(40) >= 20 - together)])
    assert "views" in str(caught.value) and caught.value.fix
    with pytest.raises(DataError):
        fit(module, [first.mask(here & ~here), second.mask(here & ~here)])
