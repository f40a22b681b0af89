"""The two products of a blocked sweep: what they compute, and when float32 will not do."""

import math

import pytest
import torch

from serket.modules import quadratic
from serket.modules.gibbs import draw_mixture, label_logits
from serket.modules.niw import Prior, from_moments, posterior
from serket.modules.seen import Seen
from tests.modules.gmm.toys import generator


def problem(rows=300, size=3, components=4, chains=2, flat=False, dtype=torch.float64, seed=0):
    g = generator(seed)
    bias = torch.randn(rows, components, generator=g, dtype=dtype).log_softmax(-1)
    bias = torch.zeros_like(bias).log_softmax(-1) if flat else bias
    present = torch.rand(rows, generator=g) > 0.1
    points = torch.randn(rows, size, generator=g, dtype=dtype) + 2 * (torch.arange(rows) % 2).unsqueeze(-1)
    seen = Seen(bias, present, points=torch.where(present.unsqueeze(-1), points, 0.0))
    prior = Prior(1.0, 0.3, 0.2, size + 2.0)
    labels = torch.randint(components, (chains, rows), generator=g)
    return seen, prior, draw_mixture(seen.points, labels, components, seen, prior, g)


@pytest.mark.parametrize("flat", [False, True])
def test_labels_and_statistics_are_those_of_the_densities(monkeypatch, flat):
    monkeypatch.setattr(quadratic, "_ROWS", 64)  # five blocks, the last one short
    seen, prior, mixture = problem(flat=flat)
    design = quadratic.Design.of(seen)
    uniform = torch.rand(2, 300, generator=generator(1), dtype=torch.float64)
    labels, moments, score = quadratic.statistics(quadratic.weights(mixture), design, uniform, torch.float64)
    logits = label_logits(mixture, seen.points, seen, False)
    torch.testing.assert_close(score, logits.logsumexp(-1).sum(-1), rtol=1e-12, atol=1e-9)
    shares = logits.softmax(-1).cumsum(-1)
    assert torch.equal(labels, (shares <= uniform.unsqueeze(-1)).sum(-1))
    members = torch.nn.functional.one_hot(labels, 4).double()
    told = members * seen.present.unsqueeze(-1)
    torch.testing.assert_close(moments[0], told.sum(-2))
    torch.testing.assert_close(moments[3], members.sum(-2))
    right, found = posterior(seen.points.expand(2, -1, -1), told, labels, prior), from_moments(*moments[:3], prior)
    for name in ("mean", "kappa", "scatter", "dof"):
        torch.testing.assert_close(getattr(found, name), getattr(right, name), rtol=1e-10, atol=1e-10)


def test_single_precision_follows_double():
    seen, prior, mixture = problem(rows=3000, flat=True)
    single = Seen(seen.bias.float(), seen.present, points=seen.points.float())
    uniform = torch.rand(2, 3000, generator=generator(1), dtype=torch.float64)
    exact = quadratic.statistics(quadratic.weights(mixture), quadratic.Design.of(seen), uniform, torch.float64)
    other = quadratic.statistics(quadratic.weights(mixture), quadratic.Design.of(single), uniform, torch.float32)
    assert float((exact[0] == other[0]).double().mean()) > 0.999
    torch.testing.assert_close(other[2], exact[2], rtol=1e-5, atol=0)


def narrow(dtype, deviation=3e-5):
    """Clusters of a deviation that float32 squares would lose, far from the mean."""
    g = generator(3)
    labels = torch.arange(4000) % 4
    centres = torch.tensor([[1.5, 0.0], [1.5, 4 * deviation], [-1.5, 0.0], [-1.5, 4 * deviation]], dtype=torch.float64)
    points = centres[labels] + deviation * torch.randn(4000, 2, generator=g, dtype=torch.float64)
    points = points.to(dtype)
    bias = torch.zeros(4000, 4, dtype=dtype).log_softmax(-1)
    seen = Seen(bias, torch.ones(4000, dtype=torch.bool), points=points)
    prior = Prior(1.0, 1e-9, 1e-9, 4.0)
    return seen, prior, draw_mixture(points, labels.unsqueeze(0), 4, seen, prior, generator(5)), labels


def test_narrow_clusters_are_computed_in_double(monkeypatch):
    used = []
    right = quadratic.statistics

    def spied(matrix, design, uniform, dtype):
        used.append(dtype)
        return right(matrix, design, uniform, dtype)

    monkeypatch.setattr(quadratic, "statistics", spied)
    seen, prior, mixture, truth = narrow(torch.float32)
    design = quadratic.Design.of(seen)
    _, labels, _ = quadratic.sweep(mixture, design, prior, generator())
    assert used == [torch.float64] and float((labels[0] == truth).double().mean()) > 0.9
    rough, _, _ = right(quadratic.weights(mixture), design, torch.rand(1, 4000, generator=generator()), torch.float32)
    assert float((rough[0] == truth).double().mean()) < 0.9  # why
    used.clear()
    seen, prior, mixture = problem(dtype=torch.float32, flat=True)
    quadratic.sweep(mixture, quadratic.Design.of(seen), prior, generator())
    assert used == [torch.float32]


def test_components_that_turn_narrow_in_a_sweep_are_computed_in_double():
    """Wide parameters before, narrow statistics after: what is left of them would be rounding."""
    seen, prior, mixture, truth = narrow(torch.float32, 1e-5)
    wide = type(mixture)(mixture.means, 0.01 * torch.eye(2).expand(1, 4, 2, 2), mixture.log_weights)
    after, labels, _ = quadratic.sweep(wide, quadratic.Design.of(seen), prior, generator())
    assert bool(after.means.isfinite().all()) and bool(after.cholesky.isfinite().all())
    assert float(after.cholesky.diagonal(dim1=-2, dim2=-1).max()) < 1e-4


def test_columns_that_do_not_vary_stay_finite_in_single_precision():
    seen, prior, _ = problem(rows=5000, dtype=torch.float32, flat=True)
    still = torch.cat([seen.points, torch.zeros(5000, 1)], 1)
    seen = Seen(seen.bias, seen.present, points=still)
    prior = Prior(1.0, 0.1, 0.1, 6.0)
    labels = torch.randint(4, (1, 5000), generator=generator())
    mixture = draw_mixture(still, labels, 4, seen, prior, generator())
    design, g = quadratic.Design.of(seen), generator(1)
    for _ in range(50):
        mixture, labels, score = quadratic.sweep(mixture, design, prior, g)
    assert math.isfinite(float(score)) and all(bool(part.isfinite().all()) for part in mixture.tensors().values())
