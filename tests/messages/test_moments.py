"""The population that Gaussian messages are about: found, in any units, from diagonal and full messages alike."""

import pytest
import torch

from serket.errors import MessageError
from serket.messages import Gaussian, pooled_moments, some_of


def about(points, full, seed=0, precision=5.0):
    """A noisy message about each point."""
    g = torch.Generator().manual_seed(seed)
    lam = precision * (0.3 + torch.rand(points.shape, generator=g, dtype=torch.float64))
    noise = torch.randn(points.shape, generator=g, dtype=torch.float64) / lam.sqrt()
    message = Gaussian(lam * (points + noise), lam)
    return message.full() if full else message


def population(rows=1500, seed=1):
    g = torch.Generator().manual_seed(seed)
    location = torch.tensor([3.0, -50.0, 0.0], dtype=torch.float64)
    scale = torch.tensor([0.5, 2.0, 10.0], dtype=torch.float64)
    return location + scale * torch.randn(rows, 3, generator=g, dtype=torch.float64), location, scale


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
def test_a_planted_population_is_found(full):
    points, location, scale = population()
    found, variance = pooled_moments(about(points, full))
    torch.testing.assert_close((found - location) / scale, torch.zeros(3).double(), rtol=0, atol=0.1)
    torch.testing.assert_close(variance.sqrt() / scale, torch.ones(3).double(), rtol=0, atol=0.1)


def test_diagonal_and_full_messages_agree():
    points, _, _ = population(200)
    for a, b in zip(pooled_moments(about(points, False)), pooled_moments(about(points, True)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
def test_other_units_are_other_units(full):
    message = about(population(200)[0], full)
    scale = torch.tensor([1e-3, 1e4, 7.0], dtype=torch.float64)
    location = 1000 * scale
    precision = message.full().precision / (scale.unsqueeze(1) * scale)
    info = message.info / scale + precision @ location
    moved = Gaussian(info, precision if full else precision.diagonal(dim1=-2, dim2=-1))
    (a, v), (b, w) = pooled_moments(message), pooled_moments(moved)
    torch.testing.assert_close((b - location) / scale, a, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(w / scale.square(), v, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
def test_silence_carries_nothing(full):
    """Vacuous rows drop out, a dimension nobody speaks about is (0, 1), and one that stands still has variance 1."""
    points = population(50)[0]
    points[:, 2] = 4.0
    message = about(points, False)
    precision = message.precision * torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    info = torch.cat([message.info[:, :1], torch.zeros(50, 1).double(), 4 * precision[:, 2:]], 1)
    message = Gaussian(info, precision).full() if full else Gaussian(info, precision)
    location, variance = pooled_moments(message)
    torch.testing.assert_close(location[1:], torch.tensor([0.0, 4.0]).double())
    assert variance[1:].tolist() == [1.0, 1.0]
    silent = Gaussian(
        torch.cat([message.info, 0 * message.info]), torch.cat([message.precision, 0 * message.precision])
    )
    for a, b in zip(pooled_moments(silent), (location, variance), strict=True):
        assert torch.equal(a, b)
    location, variance = pooled_moments(Gaussian.vacuous((4,), 3))
    assert location.tolist() == [0.0] * 3 and variance.tolist() == [1.0] * 3


def test_diagonal_messages_count_per_dimension():
    """Rows that do not see a dimension leave its moments as if they were not there."""
    message = about(population(60)[0], False)
    seen = torch.arange(60) < 20
    holed = Gaussian(message.info.clone(), message.precision.clone())
    holed.info[~seen, 0], holed.precision[~seen, 0] = 0.0, 0.0
    for a, b in zip(pooled_moments(holed), pooled_moments(message[seen]), strict=True):
        torch.testing.assert_close(a[0], b[0])


def test_shared_precision_is_no_other_result_and_negative_precision_an_error():
    g = torch.Generator().manual_seed(3)
    info = torch.randn(30, 2, generator=g, dtype=torch.float64)
    same = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64).expand(30, 2, 2)
    nearly = same + 1e-12 * torch.arange(30).view(-1, 1, 1) * torch.eye(2)
    for a, b in zip(*(pooled_moments(Gaussian(info, lam)) for lam in (same, nearly)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    with pytest.raises(MessageError, match="negative precision"):
        pooled_moments(Gaussian(100 * info, same - 4 * torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()))


def test_rows_that_hardly_speak_do_not_make_a_population_wide():
    """z ~ N(0, 1), read with precisions that vary around 0.01: what is read varies by hundreds, the population by one."""
    g = torch.Generator().manual_seed(2)
    lam = 0.01 * torch.randn(2000, 1, generator=g, dtype=torch.float64).exp()
    z = torch.randn(2000, 1, generator=g, dtype=torch.float64)
    message = Gaussian(lam * z + lam.sqrt() * torch.randn(2000, 1, generator=g, dtype=torch.float64), lam)
    _, variance = pooled_moments(message)
    assert float(message.mean().var()) > 100 and 0.3 < float(variance) < 5


@pytest.mark.parametrize("turns", [2, 3])
def test_rows_that_come_in_turns_are_all_seen(turns):
    """Kinds one after the other, over and over: neither the moments nor any other part of the rows see one kind only."""
    rows = 2000 * turns - 1
    kind = torch.arange(rows) % turns
    location, variance = pooled_moments(about(10.0 * kind.double().unsqueeze(1), False))
    torch.testing.assert_close(location[0], 10 * kind.double().mean(), rtol=0.1, atol=0)
    torch.testing.assert_close(variance[0], 100 * kind.double().var(), rtol=0.1, atol=0)
    chosen = some_of(rows, 500)
    assert len(chosen) == 500 and bool((chosen.diff() > 0).all()) and torch.equal(chosen, some_of(rows, 500))
    assert int(kind[chosen].bincount().min()) > 500 / turns / 2
    assert torch.equal(some_of(500, 500), torch.arange(500))
