"""Messages on points against sums over the points; Dirichlet normalisers against quadrature."""

import math

import pytest
import torch

from serket.errors import MessageError, ShapeError
from serket.messages import Dirichlet, Gaussian, Particles, Point, leave_one_out

F64 = torch.float64


def cloud(rows=3, count=5, size=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(rows, count, size, generator=generator, dtype=F64)
    return points, torch.randn(rows, count, generator=generator, dtype=F64)


def gaussian(rows=3, size=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(rows, size, size, generator=generator, dtype=F64)
    return Gaussian(torch.randn(rows, size, generator=generator, dtype=F64), root @ root.mT + torch.eye(size).to(F64))


def brute(points, log_weights, factor):
    """Integral, mean and covariance of one row, point by point."""
    total, first, second = 0.0, torch.zeros(2, dtype=F64), torch.zeros(2, 2, dtype=F64)
    for z, log_w in zip(points, log_weights, strict=True):
        w = math.exp(float(log_w + factor.info[0] @ z - z @ factor.full().precision[0] @ z / 2))
        total, first, second = total + w, first + w * z, second + w * torch.outer(z, z)
    mean = first / total
    return math.log(total), mean, second / total - torch.outer(mean, mean)


def test_moments_integral_and_sample_size_are_sums_over_the_points():
    points, weights = cloud()
    product = gaussian() * Particles.of(points, weights)
    for row in range(3):
        total, mean, covariance = brute(points[row], weights[row], gaussian()[row : row + 1])
        torch.testing.assert_close(product.log_z()[row], torch.tensor(total, dtype=F64), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(product.mean()[row], mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(product.covariance()[row], covariance, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(product.variance(), product.covariance().diagonal(dim1=-2, dim2=-1))
    assert Particles.of(points, torch.zeros(3, 5, dtype=F64)).effective_sample_size().tolist() == pytest.approx(
        [5.0] * 3
    )
    sure = Particles.of(points, torch.tensor([0.0, -math.inf, -math.inf, -math.inf, -math.inf], dtype=F64).expand(3, 5))
    assert sure.effective_sample_size().tolist() == [1.0] * 3 and torch.equal(sure.mean(), points[:, 0])


def test_rows_without_points_are_their_factor_and_nan_in_them_changes_no_bit():
    points, weights = cloud()
    present = torch.tensor([True, False, True])
    clean = Particles.of(points, weights, present) * gaussian()
    points[1], weights[1] = math.nan, math.nan
    planted = Particles(points, weights, present, *gaussian().tensors().values())
    for name in ("mean", "covariance", "log_z", "is_proper", "effective_sample_size"):
        assert torch.equal(getattr(planted, name)(), getattr(clean, name)()), name
    assert torch.equal(clean.mean()[1], gaussian().mean()[1]) and torch.equal(clean.log_z()[1], gaussian().log_z()[1])
    assert torch.equal(planted.projected().info[1], gaussian().info[1])
    assert torch.equal(planted.projected().precision[1], gaussian().precision[1])
    assert planted.mask(torch.tensor([True, False, False])).is_vacuous().tolist() == [False, True, True]
    assert Particles.vacuous((2,), 3).projected().is_vacuous().all() and Point.vacuous((2,), 3).is_vacuous().all()
    drawn = planted.sample(torch.Generator().manual_seed(0), (4000,))
    torch.testing.assert_close(drawn.mean(0), planted.mean(), atol=0.08, rtol=0)
    assert bool((drawn[:, 0].unsqueeze(1) == points[0]).all(-1).any(-1).all())


def test_projection_keeps_the_moments_and_says_what_a_degenerate_cloud_becomes():
    cloudy = Particles.of(*cloud()) * gaussian()
    flat = cloudy.projected()
    torch.testing.assert_close(flat.mean(), cloudy.mean(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(flat.covariance(), cloudy.covariance(), rtol=1e-10, atol=1e-10)
    eps = torch.finfo(F64).eps
    line = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]], dtype=F64)  # variance 1 along the first axis, none along the second
    covariance = Particles.of(line, torch.zeros(1, 2, dtype=F64)).projected().covariance()[0]
    torch.testing.assert_close(covariance, torch.diag(torch.tensor([1.0, eps**0.5], dtype=F64)), rtol=1e-6, atol=1e-12)
    for value, scale in (([3.0, 4.0], 25.0), ([0.0, 0.0], 1.0)):
        one = Point.of(torch.tensor([value], dtype=F64))
        assert torch.equal(one.covariance(), torch.zeros(1, 2, 2, dtype=F64)) and one.mean().tolist() == [value]
        torch.testing.assert_close(one.projected().mean(), one.mean(), rtol=1e-6, atol=1e-12)
        assert one.projected().variance().flatten().tolist() == pytest.approx([scale * eps**0.5] * 2, rel=1e-6)


def test_impossible_points_are_named_and_mended_to_vacuous():
    points, weights = cloud()
    weights[1] = -math.inf
    none = Particles.of(points, weights) * gaussian()
    assert none.is_proper().tolist() == [True, False, True] == none.is_semidefinite().tolist()
    assert none.log_z()[1] == -math.inf
    with pytest.raises(MessageError, match="rows 1: every point has weight zero"):
        none.mean()
    assert none.semidefinite_part().is_vacuous().tolist() == [False, True, False]
    assert none.kl(none).tolist() == [0.0, math.inf, 0.0]


def test_two_sets_of_points_have_no_product_but_where_they_never_meet():
    points, weights = cloud()
    left, right = torch.tensor([True, False, False]), torch.tensor([False, True, False])
    a, b = Particles.of(points, weights, left), Particles.of(points[:, :2], weights[:, :2], right)
    product = a * b * gaussian()
    assert torch.equal(product.mean()[0], (a * gaussian()).mean()[0])
    assert torch.equal(product.mean()[1], (b * gaussian()).mean()[1])
    assert torch.equal(product.mean()[2], gaussian().mean()[2])
    mixed = a * Point.of(points[:, 0], right) * gaussian()
    assert isinstance(mixed, Particles) and torch.equal(mixed.mean()[1], points[1, 0])
    with pytest.raises(MessageError, match=r"rows 0: .*no product\n.*\n.*projected\(\)"):
        a * Particles.of(points, weights)
    with pytest.raises(MessageError, match="no inverse"):
        gaussian() / a
    with pytest.raises(MessageError, match="no inverse"):
        a / a
    assert torch.equal((gaussian() / Particles.vacuous((3,), 2, dtype=F64)).info, gaussian().info)


def test_certain_values_agree_or_contradict():
    value = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=F64)
    a = Point.of(value)
    assert torch.equal((a * a).mean(), value) and torch.equal((gaussian(2) * a).mean(), value)
    assert torch.equal((a * Point.of(value + 1, torch.tensor([False, False]))).mean(), value)
    other = value.clone()
    other[1, 0] = 9.0
    with pytest.raises(MessageError, match=r"rows 1: two certain values(.|\n)*\[3.0, 4.0\] and \[9.0, 4.0\] in row 1"):
        a * Point.of(other)
    with pytest.raises(MessageError, match="no inverse"):
        a / a
    with pytest.raises(MessageError, match="no product"):
        a * Particles.of(*cloud(2))
    assert a.kl(a).tolist() == [0.0, 0.0] and bool((a.kl(Point.of(other))[1] > 0).all())
    assert bool(a.kl(gaussian(2)).isfinite().all()) and bool(gaussian(2).kl(a).isfinite().all())


def test_systematic_resampling_takes_each_point_as_often_as_its_share():
    points, weights = cloud(rows=2, count=4)
    full = Particles.of(points, weights, torch.tensor([True, False])) * gaussian(2)
    shares = full.weights()[0]
    for uniform in (1e-7, 0.3, 1 - 1e-7):
        picked = full.resampled(torch.full((2,), uniform, dtype=F64), 50)
        counts = (picked.points[0].unsqueeze(1) == points[0]).all(-1).sum(0)
        assert bool(((counts - 50 * shares).abs() < 1).all()) and int(counts.sum()) == 50
        torch.testing.assert_close(picked.log_z(), full.log_z(), rtol=1e-12, atol=1e-12)
    assert picked.present.tolist() == [True, False] and torch.equal(picked.mean()[1], full.mean()[1])
    again = [full.resampled(torch.Generator().manual_seed(5), 7).points for _ in range(2)]
    assert torch.equal(*again)
    tail = Particles.of(points.float(), torch.tensor([[0.0, 0.0, -math.inf, -math.inf]]).expand(2, 4))
    last = tail.resampled(torch.full((2,), 1 - 1e-7), 3).points[:, -1]
    assert torch.equal(last, points[:, 1].float())  # never a point of weight zero


def test_leave_one_out_carries_points_into_every_product_but_one():
    points, weights = cloud()
    parts = [gaussian(seed=2), Particles.of(points, weights), gaussian(seed=3)]
    without, whole = leave_one_out(gaussian(seed=4), parts)
    assert isinstance(without[0], Particles) and isinstance(without[1], Gaussian) and isinstance(whole, Particles)
    torch.testing.assert_close(whole.mean(), (without[0] * parts[0]).mean(), rtol=1e-12, atol=1e-12)


def test_shapes_that_do_not_fit_are_refused():
    points, weights = cloud()
    with pytest.raises(ShapeError, match=r"expected: points \(3, 'L', 2\)"):
        Particles.of(points, weights[:, :4])
    with pytest.raises(ShapeError):
        Point.of(points[:, 0], torch.tensor([True]))


@pytest.mark.parametrize("alpha", [[0.7, 2.5], [3.0, 1.2]])
def test_dirichlet_log_z_and_kl_against_quadrature(alpha):
    alpha, other = torch.tensor([alpha], dtype=F64), torch.tensor([[1.5, 2.0]], dtype=F64)
    # pi = sin^2(t) takes the edges' infinite densities away: d pi = 2 sin t cos t dt
    t = (torch.arange(200_000, dtype=F64) + 0.5) / 200_000 * math.pi / 2
    pi = torch.stack([t.sin() ** 2, t.cos() ** 2], -1)
    width = 2 * t.sin() * t.cos() * (math.pi / 2 / 200_000)
    p, q = Dirichlet(alpha - 1), Dirichlet(other - 1)
    density = (pi.log() * p.counts).sum(-1).exp() * width
    torch.testing.assert_close(p.log_z()[0], density.sum().log(), rtol=1e-7, atol=1e-7)
    ratio = (pi.log() * (p.counts - q.counts)).sum(-1) - p.log_z() + q.log_z()
    torch.testing.assert_close(p.kl(q)[0], (density * ratio).sum() / density.sum(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(p.mean()[0], (density.unsqueeze(-1) * pi).sum(0) / density.sum(), rtol=1e-7, atol=1e-7)
