"""The parts of the coordinated composer against closed forms, quadrature and brute force, in float64."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats
import torch

from serket.composer.coordinated.canonical import directions, one_factor
from serket.composer.coordinated.closeness import Code, contrastive, kl, wasserstein
from serket.composer.coordinated.coordination import Autoencoder, terms
from serket.composer.coordinated.geometric_pool import pooled, potential
from serket.composer.coordinated.soft_layers import SoftLayers
from serket.composer.coordinated.translators import refined, residual_covariance
from serket.messages import Gaussian
from tests.composer.problems import generator, random


def network(g, inputs, hidden, outputs):
    return SoftLayers(random(g, outputs, inputs), random(g, hidden, inputs), random(g, hidden),
                      random(g, outputs, hidden), random(g, outputs))  # fmt: skip


@pytest.mark.parametrize("diagonal", [True, False])
def test_a_gaussian_passes_through_a_network_as_by_quadrature(diagonal):
    g = generator(0)
    net, mean, root = network(g, 2, 5, 3), random(g, 4, 2), random(g, 4, 2, 2)
    cov = torch.diag_embed(root[..., 0] ** 2 + 0.1) if diagonal else root @ root.mT + 0.1 * torch.eye(2)
    value, slope = net.through(mean, cov.diagonal(dim1=1, dim2=2) if diagonal else cov, 3)
    nodes = torch.linspace(-8, 8, 161, dtype=torch.float64)  # the trapezoid rule, which is exact here but for 1e-10
    grid = torch.cartesian_prod(nodes, nodes)
    mass = (-grid.square().sum(1) / 2).softmax(0)
    for row in range(4):
        x = mean[row] + grid @ torch.linalg.cholesky(cov[row]).T
        y = net(x)
        torch.testing.assert_close(value[row], mass @ y, rtol=0, atol=1e-8)
        covariance = ((y - value[row]) * mass.unsqueeze(1)).T @ (x - mean[row])  # Stein: E[dy/dx] V
        torch.testing.assert_close(slope[row] @ cov[row], covariance, rtol=0, atol=1e-8)
    features = net.features(mean, cov)
    torch.testing.assert_close(value, features @ net.weights.T + net.offset)
    torch.testing.assert_close(net.through(mean, 0 * cov, 3)[0], net(mean))


def codes(g, rows, size):
    return Code(random(g, rows, size), 0.05 + 0.9 * torch.rand(rows, size, generator=g, dtype=torch.float64))


def test_kl_is_the_integral_and_the_wasserstein_distance_that_of_quantiles():
    g = generator(1)
    q, p = codes(g, 3, 2), codes(g, 3, 2)
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    u = (torch.arange(200000, dtype=torch.float64) + 0.5) / 200000
    for row in range(3):
        divergence, against_prior, distance = 0.0, 0.0, 0.0
        for k in range(2):
            one, other = (torch.distributions.Normal(c.mean[row, k], c.variance[row, k].sqrt()) for c in (q, p))
            prior = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
            density = one.log_prob(x).exp()
            divergence += float(torch.trapezoid(density * (one.log_prob(x) - other.log_prob(x)), x))
            against_prior += float(torch.trapezoid(density * (one.log_prob(x) - prior.log_prob(x)), x))
            distance += float((one.icdf(u) - other.icdf(u)).square().mean())
        assert float(kl(q, p)[row]) == pytest.approx(divergence, abs=1e-7)
        assert float(kl(q)[row]) == pytest.approx(against_prior, abs=1e-7)
        assert float(wasserstein(q, p)[row]) == pytest.approx(distance, abs=1e-4)
        # and the closed form for any Gaussians (Dowson & Landau 1982)
        a, b = np.diag(q.variance[row]), np.diag(p.variance[row])
        cross = scipy.linalg.sqrtm(scipy.linalg.sqrtm(a) @ b @ scipy.linalg.sqrtm(a)).real
        closed = float((q.mean[row] - p.mean[row]).square().sum()) + np.trace(a + b - 2 * cross)
        assert float(wasserstein(q, p)[row]) == pytest.approx(closed, abs=1e-10)


def test_contrast_is_cross_entropy_among_the_paired_rows():
    g = generator(2)
    q, p, paired = codes(g, 5, 3), codes(g, 5, 3), torch.tensor([True, True, False, True, True])
    found = contrastive(q, p, paired, torch.tensor(math.log(7.0), dtype=torch.float64))
    kept = [0, 1, 3, 4]
    scores = [[7 * float(torch.cosine_similarity(q.mean[i], p.mean[j], dim=0)) for j in kept] for i in kept]
    for a, row in enumerate(kept):
        across = -math.log(math.exp(scores[a][a]) / sum(math.exp(s) for s in scores[a]))
        down = -math.log(math.exp(scores[a][a]) / sum(math.exp(line[a]) for line in scores))
        assert float(found[row]) == pytest.approx((across + down) / 2, abs=1e-12)
    assert float(found[2]) == 0.0
    hot = contrastive(q, p, paired, torch.tensor(9.0, dtype=torch.float64))
    torch.testing.assert_close(hot, contrastive(q, p, paired, torch.tensor(math.log(100.0), dtype=torch.float64)))


def test_every_term_equals_a_hand_calculation_on_a_linear_gaussian_toy():
    """Three views of unequal size, some absent; expectations over draws of s are exact at the points +-sqrt(K) e_k."""
    g = generator(3)
    sizes, shared, rows = (2, 3, 1), 2, 4
    views = [Autoencoder(network(g, d, 0, 2 * shared), network(g, shared, 0, d), 0.5 * random(g, d)) for d in sizes]
    z = [random(g, rows, d) for d in sizes]
    present = [torch.tensor(row).bool() for row in ([1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 0])]
    points = math.sqrt(shared) * torch.cat([torch.eye(shared), -torch.eye(shared)]).double()
    scale = torch.tensor(1.0, dtype=torch.float64)
    for shift in (1, 2):
        found = {}
        for point in points:
            noise = [point.expand(rows, shared)] * 3
            for name, value in terms(views, z, present, noise, scale, shift).items():
                found[name] = found.get(name, 0.0) + float(value) / len(points)
        expected = dict.fromkeys(found, 0.0)
        mean, variance = [], []
        for view, one in zip(views, z, strict=True):
            y = one @ view.encoder.direct.T + view.encoder.offset
            mean.append(y[:, :shared])
            variance.append(1 / (1 + (1 + y[:, shared:].exp()).log()))

        def surprise(view, row, target, m, mean=mean, variance=variance):
            """-E log N(z; A s + c, noise): the residual at the mean, and tr(A' noise^-1 A v)."""
            total, level = 0.0, view.log_noise.exp() + 1e-3
            for d in range(len(level)):
                gap = target[row, d] - view.decoder.direct[d] @ mean[m][row] - view.decoder.offset[d]
                spread = view.decoder.direct[d].square() @ variance[m][row]
                total += float((gap**2 + spread) / level[d] + (2 * math.pi * level[d]).log()) / 2
            return total

        for m, row in itertools.product(range(3), range(rows)):
            n = (m + shift) % 3
            here, both = int(present[m].sum()), int((present[m] & present[n]).sum())
            if present[m][row]:
                v, mu = variance[m][row], mean[m][row]
                expected["reconstruction"] += surprise(views[m], row, z[m], m) / here
                expected["prior"] += float((v + mu**2 - 1 - v.log()).sum()) / 2 / here
            if present[m][row] and present[n][row]:
                ratio, gap = variance[m][row] / variance[n][row], mean[m][row] - mean[n][row]
                expected["kl"] += float((ratio + gap**2 / variance[n][row] - 1 - ratio.log()).sum()) / 2 / both
                roots = variance[m][row].sqrt() - variance[n][row].sqrt()
                expected["wasserstein"] += float((gap**2 + roots**2).sum()) / both
                expected["cross_generation"] += surprise(views[n], row, z[n], m) / both
        for m in range(3):
            n = (m + shift) % 3
            both = present[m] & present[n]
            expected["contrastive"] += float(
                contrastive(Code(mean[m], variance[m]), Code(mean[n], variance[n]), both, scale).sum() / both.sum()
            )
        assert found == pytest.approx(expected, rel=1e-10)
    # What an absent row holds changes nothing.
    z[0][2] = 50.0
    again = terms(views, z, present, [points[0].expand(rows, shared)] * 3, scale, 1)
    z[0][2] = -3.0
    assert all(torch.equal(value, again[name]) for name, value in
               terms(views, z, present, [points[0].expand(rows, shared)] * 3, scale, 1).items())  # fmt: skip


def correlated(g, rows, sizes, shared=2):
    s = random(g, rows, shared)
    z = [s @ random(g, shared, d) + random(g, rows, d) @ (random(g, d, d) / d**0.5) for d in sizes]
    return s, [one - one.mean(0) for one in z]


def moments(z):
    rows = len(z[0])
    cross = [[left.T @ right / rows for right in z] for left in z]
    return [cross[m][m] for m in range(len(z))], cross


def test_canonical_directions_of_two_views_against_scipy():
    """rho are the singular values; the first pair is the best that an optimiser finds over all directions."""
    _, z = correlated(generator(4), 300, (3, 4))
    found = directions(*moments(z), 5)
    u = [one @ way for one, way in zip(z, found, strict=True)]
    rho = (u[0] * u[1]).mean(0)
    a, b = (scipy.linalg.fractional_matrix_power(m.numpy(), -0.5) for m in moments(z)[0])
    singular = scipy.linalg.svdvals(a @ (z[0].T @ z[1] / 300).numpy() @ b)
    np.testing.assert_allclose(rho[:3], singular, atol=1e-10)
    assert bool((found[0][:, 3:] == 0).all()), "there are three pairs only"
    for one in u:  # unit variance, and nothing across pairs
        torch.testing.assert_close(one[:, :3].T @ one[:, :3] / 300, torch.eye(3).double(), rtol=0, atol=1e-9)

    def lost(w):
        return -np.corrcoef(z[0].numpy() @ w[:3], z[1].numpy() @ w[3:])[0, 1]

    starts = np.random.default_rng(0).normal(size=(8, 7))
    best = min(scipy.optimize.minimize(lost, start, tol=1e-12).fun for start in starts)
    assert float(rho[0]) == pytest.approx(-best, abs=1e-7)


def test_of_three_views_they_are_those_nearest_to_one_variable():
    """MAXVAR by brute force: the unit vectors g over rows with the largest sum of |P_m g|^2, P_m onto the view's columns."""
    _, z = correlated(generator(5), 60, (2, 3, 2))
    found = directions(*moments(z), 2)
    onto = sum(one @ torch.linalg.pinv(one) for one in z)
    values, vectors = torch.linalg.eigh(onto)
    for k in range(2):
        nearest = vectors[:, -1 - k]
        for one, way in zip(z, found, strict=True):
            predicted = one @ torch.linalg.lstsq(one, nearest.unsqueeze(1)).solution.squeeze(1)
            u = one @ way[:, k]
            assert abs(float(torch.nn.functional.cosine_similarity(predicted, u, dim=0))) == pytest.approx(1, abs=1e-8)
    assert float(values[-1]) > 1


def test_one_factor_finds_its_loadings():
    r = torch.tensor([[0.9, 0.5, 0.7, 0.3], [0.2, 0.8, 0.6, 0.4]], dtype=torch.float64)
    outer = r.unsqueeze(-1) * r.unsqueeze(-2)
    correlation = torch.where(torch.eye(4).bool(), 1.0, outer)
    known = torch.ones(4, 4, dtype=torch.bool)
    torch.testing.assert_close(one_factor(correlation, known, 400), r, rtol=0, atol=1e-6)
    known[0, 3] = known[3, 0] = False  # never seen together
    correlation[:, 0, 3] = correlation[:, 3, 0] = -5.0
    torch.testing.assert_close(one_factor(correlation, known, 2000), r, rtol=0, atol=1e-5)
    pair = torch.tensor([[[1.0, 0.64], [0.64, 1.0]]], dtype=torch.float64)
    torch.testing.assert_close(one_factor(pair, known[:2, :2]), torch.full((1, 2), 0.8).double())
    apart = torch.eye(3, dtype=torch.float64).expand(1, 3, 3)
    assert bool((one_factor(apart, torch.ones(3, 3, dtype=torch.bool)) == 0).all())


def test_the_pool_is_the_geometric_mean_of_those_present():
    g = generator(6)
    said, weights = [codes(g, 3, 2) for _ in range(3)], torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    present = [torch.tensor(p) for p in ([True, True, False], [True, False, False], [True, True, False])]
    without, everything = pooled([potential(code) for code in said], present, weights)
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    prior = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0).log_prob(x)
    for pool, members in ((everything, (0, 1, 2)), (without[1], (0, 2)), (without[0], (1, 2))):
        belief = pool * Gaussian.standard((3,), 2, dtype=torch.float64)
        for row, k in itertools.product(range(2), range(2)):
            there = [m for m in members if present[m][row]]
            total = sum(float(weights[m]) for m in there)
            density = prior.clone()
            for m in there:
                normal = torch.distributions.Normal(said[m].mean[row, k], said[m].variance[row, k].sqrt())
                density += float(weights[m]) / total * (normal.log_prob(x) - prior)
            density = (density - density.max()).exp()
            mean = float((density * x).sum() / density.sum())
            variance = float((density * (x - mean) ** 2).sum() / density.sum())
            assert float(belief.mean()[row, k]) == pytest.approx(mean, abs=1e-6)
            assert float(belief.variance()[row, k]) == pytest.approx(variance, abs=1e-6)
        assert bool(pool.is_vacuous()[2])


def test_a_decoder_is_refined_by_ridge_regression_with_the_best_penalty_left_out():
    g = generator(7)
    rows, net = 25, network(g, 3, 4, 2)
    belief = Code(random(g, rows, 3), torch.rand(rows, 3, generator=g, dtype=torch.float64))
    target = belief.mean @ random(g, 3, 2) + 2 * random(g, rows, 2)
    found = refined(net, [belief], [target])
    features = net.features(belief.mean, belief.variance)
    left = target - features @ net.weights.T - net.offset

    def solved(kept, penalty):
        f, y = features[kept], left[kept]
        f, y = f - f.mean(0), y - y.mean(0)
        w = torch.linalg.solve(f.T @ f + penalty * torch.eye(7), f.T @ y)
        return w, left[kept].mean(0) - features[kept].mean(0) @ w

    errors = {}
    for penalty in (1.0, 10.0, 100.0, 1000.0, 10000.0):
        total = 0.0
        for out in range(rows):
            kept = [row for row in range(rows) if row != out]
            w, level = solved(kept, penalty)
            total += float((left[out] - features[out] @ w - level).square().sum())
        errors[penalty] = total
    w, level = solved(list(range(rows)), min(errors, key=errors.get))
    torch.testing.assert_close(found.weights - net.weights, w.T, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.offset - net.offset, level, rtol=1e-8, atol=1e-8)


def test_predictions_are_as_wide_as_their_errors():
    g = generator(8)
    net, rows = network(g, 2, 3, 2), 4000
    belief = Code(random(g, rows, 2), 0.3 * torch.rand(rows, 2, generator=g, dtype=torch.float64))
    spread = 0.2 * torch.rand(rows, 2, generator=g, dtype=torch.float64)
    value, slope = net.through(belief.mean, belief.variance, 2)
    target = value + 3 * random(g, rows, 2) @ torch.tensor([[1.0, 0.5], [0.0, 0.7]], dtype=torch.float64)
    residual, carried = residual_covariance(net, belief, target, spread)
    error = (target - value).T @ (target - value) / rows + spread.mean(0).diag()
    explained = (slope @ torch.diag_embed(belief.variance) @ slope.mT).mean(0)
    assert float(carried) == pytest.approx(1)
    torch.testing.assert_close(explained + residual, error, rtol=5e-3, atol=5e-3)
    # Errors smaller than the encoder's doubts: only a part of those gets through, and the mean is right still.
    target = value + 0.02 * (target - value)
    residual, carried = residual_covariance(net, belief, target, 0 * spread)
    assert 0 < float(carried) < 0.9 and bool((torch.linalg.eigvalsh(residual) > 0).all())
    error = (target - value).T @ (target - value) / rows
    torch.testing.assert_close(carried * explained + residual, error, rtol=5e-3, atol=1e-4)
