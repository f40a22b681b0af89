"""The algebra of messages, as laws over random operands (DESIGN, section 5)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serket.errors import MessageError, ShapeError
from serket.messages import Atoms, Categorical, Dirichlet, Gaussian, Particles, Point, moment_match

ROWS, SIZE = 3, 4
FAMILIES = ["diagonal", "full", "categorical", "dirichlet", "particles", "point"]


@st.composite
def messages(draw, family=None, proper=False, largest=2):
    """A random message in float64; precisions may be zero or negative unless proper. Some rows have no points."""
    family = family or draw(st.sampled_from(FAMILIES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    scale = 10 ** draw(st.floats(-2, largest))
    if family == "categorical":
        return Categorical(scale * torch.randn(ROWS, SIZE, generator=generator, dtype=torch.float64))
    if family == "dirichlet":
        low = -0.9 if proper else draw(st.sampled_from([-0.9, -3.0]))
        return Dirichlet(low + scale * torch.rand(ROWS, SIZE, generator=generator, dtype=torch.float64))
    if family in ("particles", "point"):
        factor = draw(messages(draw(st.sampled_from(["diagonal", "full"])), proper, largest))
        present = torch.rand(ROWS, generator=generator) < 0.7
        points = torch.randn(ROWS, draw(st.integers(1, 6)), SIZE, generator=generator, dtype=torch.float64)
        if family == "point":
            return Point.of(points[:, 0], present, factor)
        weights = scale * torch.randn(points.shape[:-1], generator=generator, dtype=torch.float64)
        return Particles.of(points, weights, present, factor)
    info = scale * torch.randn(ROWS, SIZE, generator=generator, dtype=torch.float64)
    root = torch.randn(ROWS, SIZE, SIZE, generator=generator, dtype=torch.float64)
    shift = 0.1 if proper else draw(st.sampled_from([0.1, 0.0, -1.0]))
    if family == "diagonal":
        return Gaussian(info, scale * (root[..., 0] ** 2 + shift))
    return Gaussian(info, scale * (root @ root.mT + shift * torch.eye(SIZE)))


@st.composite
def pairs(draw, number=2, proper=False, largest=2):
    """Messages that have a product: of those over a Gaussian variable, the first may stand on points."""
    first = draw(st.sampled_from(FAMILIES))
    rest = [first] if first in ("categorical", "dirichlet") else ["diagonal", "full"]
    chosen = [first, *(draw(st.sampled_from(rest)) for _ in range(number - 1))]
    return [draw(messages(family, proper, largest)) for family in chosen]


def same(a, b, rtol=1e-10):
    if isinstance(a, Gaussian | Atoms):
        a, b = a.full(), b.full()
    assert type(a) is type(b)
    for name, left in a.tensors().items():
        left, right = left.double(), b.tensors()[name].double()
        scale = max(1.0, float(left.abs().max()), float(right.abs().max()))
        torch.testing.assert_close(left, right, rtol=rtol, atol=rtol * scale)


@given(pairs(3), st.permutations([0, 1, 2]))
def test_products_commute_and_associate(abc, order):
    a, b, c = (abc[i] for i in order)
    same(a * b, b * a)
    same((a * b) * c, a * (b * c))


@given(messages())
def test_vacuous_is_the_identity(a):
    nothing = type(a).vacuous((ROWS,), SIZE, dtype=torch.float64)
    for name, values in (a * nothing).tensors().items():
        assert torch.equal(values, a.tensors()[name])
    assert bool(nothing.is_vacuous().all())


@given(pairs())
def test_division_undoes_a_product(ab):
    a, b = ab
    same((a * b) / b, a)


@given(messages(), st.floats(-3, 3), st.floats(-3, 3))
def test_powers_add_and_multiply(a, s, t):
    if not isinstance(a, Atoms):
        same(a**s * a**t, a ** (s + t), rtol=1e-9)
    if s and t:
        same((a**s) ** t, a ** (s * t), rtol=1e-9)
    same(a**1.0, a)
    assert bool((a**0.0).is_vacuous().all())


@given(messages())
def test_power_per_row(a):
    powers = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    per_row = a**powers
    for row, power in enumerate(powers.tolist()):
        same(per_row[row : row + 1], a[row : row + 1] ** power)


@given(messages(proper=True))
def test_kl_is_zero_to_itself_and_positive_to_others(a):
    assert torch.equal(a.kl(a), torch.zeros(ROWS, dtype=torch.float64))
    more = type(a.factor if isinstance(a, Atoms) else a)
    other = a * more(**{n: 0.1 * v.abs() for n, v in a.tensors().items() if n in more.__dataclass_fields__})
    if bool(other.is_proper().all()):
        assert bool((a.kl(other) >= 0).all())


@given(pairs(proper=True, largest=0))  # torch clamps probabilities at 1e-16
def test_kl_agrees_with_torch(ab):
    a, b = ab
    if isinstance(a, Atoms):
        a, b = (Categorical((a * b.full()).effective()), Categorical(a.effective()))
        same_points = ab[0].present
        truth = torch.distributions.kl_divergence(a.to_distribution(), b.to_distribution())
        found = (ab[0] * ab[1]).kl(ab[0])
        torch.testing.assert_close(found[same_points], truth[same_points], rtol=1e-7, atol=1e-9)
        return
    truth = torch.distributions.kl_divergence(_full(a).to_distribution(), _full(b).to_distribution())
    torch.testing.assert_close(a.kl(b), truth, rtol=1e-7, atol=1e-9)


def _full(a):
    return a.full() if isinstance(a, Gaussian) else a


@given(messages(proper=True, largest=0))
def test_log_z_normalises(a):
    distribution = a.to_distribution()
    if isinstance(a, Atoms):
        return  # no density; see test_points.py
    if isinstance(a, Dirichlet):
        point = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).expand(ROWS, SIZE)
        potential = (a.counts * point.log()).sum(-1)
    elif isinstance(a, Categorical):
        point = torch.tensor([0, 1, 3])
        potential = a.logits.gather(1, point.unsqueeze(1)).squeeze(1)
    else:
        point = torch.linspace(-1, 1, ROWS * SIZE, dtype=torch.float64).reshape(ROWS, SIZE)
        lam = a.full().precision
        potential = (a.info * point).sum(-1) - torch.einsum("ni,nij,nj->n", point, lam, point) / 2
    torch.testing.assert_close(potential - a.log_z(), distribution.log_prob(point), rtol=1e-9, atol=1e-8)


@given(messages("full", proper=True), st.integers(1, SIZE - 1))
def test_marginal_is_the_block_of_the_covariance(a, k):
    part = a.marginal(slice(0, k))
    torch.testing.assert_close(part.mean(), a.mean()[:, :k], rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(part.covariance(), a.covariance()[:, :k, :k], rtol=1e-7, atol=1e-9)


def test_marginal_over_a_direction_nobody_knows_carries_nothing():
    # z1 - z2 is known, z2 is not: nothing is known of z1.
    info, lam = torch.tensor([[1.0, -1.0]]).double(), torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]]).double()
    assert bool(Gaussian(info, lam).marginal(slice(0, 1)).is_vacuous().all())
    # Of three, z3 is unknown and touches nothing: z1 keeps all it has.
    wide = torch.block_diag(torch.tensor([[2.0]]), torch.zeros(2, 2)).double().unsqueeze(0)
    part = Gaussian(torch.tensor([[3.0, 0.0, 0.0]]).double(), wide).marginal(slice(0, 1))
    assert float(part.precision) == 2.0 and float(part.info) == 3.0


def test_structural_zeros_have_their_own_laws():
    a = Categorical(torch.tensor([[0.0, -math.inf, 1.0]]))
    b = Categorical(torch.tensor([[-1.0, 2.0, 0.5]]))
    assert not bool((a * a).logits.isnan().any()) and torch.equal((a / a).logits, torch.tensor([[0.0, -math.inf, 0.0]]))
    assert torch.equal((a**2).logits, torch.tensor([[0.0, -math.inf, 2.0]]))
    assert torch.equal((a**0).logits, torch.zeros(1, 3))
    assert float(b.kl(a)) == math.inf and bool(torch.isfinite(a.kl(b)))
    assert float((a * b).probs[0, 1]) == 0.0
    torch.testing.assert_close(
        Categorical.from_probs(torch.tensor([[0.5, 0.0, 0.5]])).probs, torch.tensor([[0.5, 0, 0.5]])
    )


def test_impossible_rows_are_named():
    none = Categorical(torch.full((3, 2), -math.inf))
    with pytest.raises(MessageError, match="rows 0, 1, 2"):
        none.probs  # noqa: B018
    with pytest.raises(MessageError, match="rows 1"):
        Gaussian(torch.zeros(2, 1), torch.tensor([[1.0], [-1.0]])).mean()


def test_mask_survives_nan():
    rows = torch.tensor([True, False])
    bad = torch.tensor([[1.0, 2.0], [math.nan, math.inf]])
    for message in (Gaussian(bad, bad), Gaussian(bad, bad.unsqueeze(-1).expand(2, 2, 2)), Categorical(bad)):
        masked = message.mask(rows)
        assert masked.is_vacuous().tolist() == [False, True]


def test_semidefinite_part_keeps_the_good_directions():
    diagonal = Gaussian(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]]))
    kept = diagonal.semidefinite_part()
    assert kept.info.tolist() == [[1.0, 0.0]] and kept.precision.tolist() == [[3.0, 0.0]]
    same(diagonal.full().semidefinite_part(), kept.full(), rtol=1e-6)
    assert diagonal.is_semidefinite().tolist() == [False] and kept.is_semidefinite().tolist() == [True]
    assert Gaussian.vacuous((2,), 3).full().is_semidefinite().tolist() == [True, True]


def test_improper_log_z_is_infinite_and_kl_too():
    nothing = Gaussian.vacuous((1,), 2)
    assert float(nothing.log_z()) == math.inf and float(nothing.full().log_z()) == math.inf
    assert float(Gaussian.standard((1,), 2).kl(nothing)) == math.inf and float(nothing.kl(nothing)) == 0.0


def test_samples_have_the_moments():
    generator = torch.Generator().manual_seed(0)
    covariance = torch.tensor([[[2.0, 0.8], [0.8, 0.5]]], dtype=torch.float64)
    message = Gaussian.from_moments(torch.tensor([[1.0, -1.0]], dtype=torch.float64), covariance)
    draws = message.sample(generator, (20000,))[:, 0]
    torch.testing.assert_close(draws.mean(0), message.mean()[0], atol=0.05, rtol=0)
    torch.testing.assert_close(draws.T.cov(), covariance[0], atol=0.06, rtol=0)
    picks = Categorical.from_probs(torch.tensor([[0.7, 0.3]])).sample(generator, (4000,))
    assert picks.shape == (4000, 1) and abs(float((picks == 0).float().mean()) - 0.7) < 0.03


def test_moment_match_against_sums():
    generator = torch.Generator().manual_seed(1)
    weights = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
    means = torch.randn(1, 3, 2, generator=generator, dtype=torch.float64)
    roots = torch.randn(1, 3, 2, 2, generator=generator, dtype=torch.float64)
    covariances = roots @ roots.mT + torch.eye(2)
    mean = sum(weights[0, k] * means[0, k] for k in range(3))
    second = sum(weights[0, k] * (covariances[0, k] + torch.outer(means[0, k], means[0, k])) for k in range(3))
    projected = moment_match(weights.log() + 5.0, means, covariances)
    torch.testing.assert_close(projected.mean()[0], mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(projected.covariance()[0], second - torch.outer(mean, mean), rtol=1e-9, atol=1e-9)


def test_messages_over_different_variables_do_not_multiply():
    with pytest.raises(MessageError, match="different variables"):
        Gaussian.vacuous((1,), 2) * Gaussian.vacuous((1,), 3)
    with pytest.raises(ShapeError):
        Gaussian(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    a = Gaussian.standard((2,), 3, dtype=dtype)
    assert (a * a.full()).dtype == (a**0.5).dtype == a.log_z().dtype == a.mean().dtype == dtype
