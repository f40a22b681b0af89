"""What integrating more senses may and may not do: precision never falls, intervals hold what they claim, liars widen."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serket.composer import Product
from serket.messages import Gaussian
from tests.composer.problems import draw, generator, messages_about, random, views_of
from tests.composer.test_linear_gaussian import build, fitted, inbox_of, infer, told
from tests.composer.test_product import ports

Z90 = 1.6449  # half a 90 % interval, in deviations


def beliefs(composer, messages, kept, size):
    """The belief at ``shared`` under N(0, I), given the views that are kept."""
    rows = len(messages[0].info)
    heard = [m.mask(torch.full((rows,), index in kept)) for index, m in enumerate(messages)]
    prior = Gaussian.standard((rows,), size, dtype=torch.float64)
    return prior * infer(composer, inbox_of(heard, size) | {"shared": prior}).messages["shared"]


def shrinks_most(composer, messages, size):
    """The least of eigenvalue over norm of what one view more adds to the precision, over views and rows."""
    least = math.inf
    for views in range(len(messages)):
        before = beliefs(composer, messages, set(range(views)), size).full().precision
        after = beliefs(composer, messages, set(range(views + 1)), size).full().precision
        norm = torch.linalg.matrix_norm(after, 2)
        least = min(least, float((torch.linalg.eigvalsh(after - before)[:, 0] / norm).min()))
    return least


def proper(g, rows, size, scale, full):
    """A random proper message, from nearly singular to well rounded, of any size of precision."""
    root = random(g, rows, size, size) * torch.logspace(0, -3, size).double()
    precision = scale * (root @ root.mT + 1e-9 * torch.eye(size))
    precision = precision if full else precision.diagonal(dim1=-2, dim2=-1).clone()
    return Gaussian(random(g, rows, size) * scale**0.5, precision)


worlds = given(
    seed=st.integers(0, 10_000),
    scales=st.lists(st.floats(-4, 4), min_size=2, max_size=5),
    full=st.booleans(),
)


@settings(max_examples=25, deadline=None, derandomize=True)
@worlds
def test_one_view_more_never_lowers_the_precision_of_a_product(seed, scales, full):
    g = generator(seed)
    messages = [proper(g, 5, 3, 10**scale, full) for scale in scales]
    assert shrinks_most(Product(ports(len(scales), 3)), messages, 3) >= -1e-10


@settings(max_examples=25, deadline=None, derandomize=True)
@worlds
def test_one_view_more_never_lowers_the_precision_of_a_linear_gaussian(seed, scales, full):
    g = generator(seed)
    sizes = [2 + index % 3 for index in range(len(scales))]
    messages = [proper(g, 5, size, 10**scale, full) for size, scale in zip(sizes, scales, strict=True)]
    composer = told(build(sizes, 3, 1), views_of(g, sizes, 3, 1))
    assert shrinks_most(composer, messages, 3) >= -1e-10


def covered(truth, belief):
    """The share of truths inside the 90 % intervals of a belief, per dimension and row."""
    return float(((truth - belief.mean()).abs() < Z90 * belief.variance().sqrt()).double().mean())


@pytest.mark.parametrize("views", [1, 2, 4, 8])
def test_intervals_of_a_product_hold_what_they_claim(views):
    """Sensors of precision 1/2 on s ~ N(0, 1). The naive product, of posteriors, counts the prior once per sensor:
    at eight its 90 % intervals hold 51 %."""
    g = generator(views)
    s = random(g, 20_000, 1)
    read = [s + random(g, 20_000, 1) / 0.5**0.5 for _ in range(views)]
    likelihoods = [Gaussian(0.5 * x, torch.full_like(x, 0.5)) for x in read]
    posteriors = [m * Gaussian.standard((20_000,), 1, dtype=torch.float64) for m in likelihoods]
    product = Product(ports(views))
    assert 0.88 < covered(s, beliefs(product, likelihoods, set(range(views)), 1)) < 0.92
    naive = covered(s, infer(product, inbox_of(posteriors, 1)).messages["shared"])
    assert 0.49 < naive < 0.53 if views == 8 else naive < 0.92
    if views > 1:
        assert naive < 0.85


@pytest.mark.parametrize("views", [1, 2, 4, 8])
def test_intervals_of_a_linear_gaussian_hold_what_they_claim(views):
    """Of s under the true parameters; of every view, from itself and the others and from the others, under fitted ones."""
    g = generator(30 + views)
    sizes = tuple(3 + index % 2 for index in range(views))
    truth = views_of(g, sizes, 2, 1)
    s, z = draw(g, truth, 9000)
    messages = messages_about(g, z)
    test = [m[3000:] for m in messages]
    assert 0.88 < covered(s[3000:], beliefs(told(build(sizes, 2, 1), truth), test, set(range(views)), 2)) < 0.92
    composer, _ = fitted(build(sizes, 2, 1), [m[:3000] for m in messages], iterations=30)
    inbox = inbox_of(test, 2) | {"shared": Gaussian.standard((6000,), 2, dtype=torch.float64)}
    reply = infer(composer, inbox).messages
    known = [covered(z[m][3000:], reply[f"views[{m}]"] * test[m]) for m in range(views)]
    predicted = [covered(z[m][3000:], reply[f"views[{m}]"]) for m in range(views)]
    for share in (*known, *predicted):
        assert 0.88 < share < 0.92, (known, predicted)


def test_one_sensor_of_three_that_lies_in_a_fifth_of_the_rows():
    """Shifted by ten deviations: believed, the intervals are worthless there; doubted, they hold, and are wider there."""
    g = generator(40)
    rows = 5000
    s = 3 * random(g, rows, 1)
    lies = torch.rand(rows, generator=g) < 0.2
    shift = 10 * lies.double().unsqueeze(1) * torch.where(torch.rand(rows, 1, generator=g) < 0.5, 1.0, -1.0).double()
    read = [s + random(g, rows, 1) + (shift if index == 1 else 0) for index in range(3)]
    heard = [Gaussian(x, torch.ones_like(x)) for x in read]
    prior = Gaussian(torch.zeros_like(s), torch.full_like(s, 1 / 9))
    found = {}
    for name, eps in (("believed", 0.0), ("doubted", 0.1)):
        said = infer(Product(ports(3), robust=eps), inbox_of(heard, 1) | {"shared": prior}).messages["shared"]
        belief = said * prior
        width = belief.variance().sqrt().squeeze(1)
        inside = ((s - belief.mean()).abs() < Z90 * belief.variance().sqrt()).squeeze(1).double()
        found[name] = (
            float(inside.mean()),
            float(inside[lies].mean()),
            float(width[lies].mean() / width[~lies].mean()),
        )
    assert found["believed"][0] < 0.8 and found["believed"][1] < 0.05 and found["believed"][2] == pytest.approx(1)
    assert found["doubted"][0] >= 0.85 and found["doubted"][1] >= 0.85 and found["doubted"][2] > 1.1, found
