"""Kernels against enumerated posteriors, and simulation-based calibration."""

import pytest
import torch

from serket.modules import quadratic
from serket.modules.collapsed import Collapsed
from tests.modules.gmm.planted import plant
from tests.modules.gmm.sampling import KERNELS, co_assignment_error, sbc_ranks, tiny
from tests.modules.gmm.toys import generator
from tests.statistical.checks import co_assignment, uniform_p

POINTS = [name for name, (form, *_) in KERNELS.items() if form == "points"]
CALIBRATED = [name for name in KERNELS if name not in ("shared", "given z")]


@pytest.mark.parametrize("kernel", POINTS)
def test_co_assignments_are_those_of_the_exact_posterior(kernel):
    assert co_assignment_error(kernel, rows=6, chains=300, sweeps=100) < 0.025


@pytest.mark.stat
@pytest.mark.parametrize("kernel", POINTS)
def test_co_assignments_are_those_of_the_exact_posterior_long(kernel):
    assert co_assignment_error(kernel, rows=8, chains=1000, sweeps=400) < 0.01


def squares_not_halved(patch):
    right = quadratic.weights

    def wrong(mixture):
        matrix = right(mixture)
        matrix[..., 0] *= 2  # -P_ii in the place of -P_ii / 2
        return matrix

    patch.setattr(quadratic, "weights", wrong)


def test_a_mistake_in_the_design_is_caught(monkeypatch):
    squares_not_halved(monkeypatch)
    assert co_assignment_error("blocked", rows=6, chains=300, sweeps=100) > 0.025


@pytest.mark.stat
def test_the_own_datum_left_in_the_counts_is_caught(monkeypatch):
    plant(monkeypatch, "label_scan", "bank.total[old] -= 1", "pass")
    assert co_assignment_error("collapsed", rows=6, chains=1000, sweeps=400) > 0.02


def split_merge_error(rows, sticks, chains, times):
    """Split-merge alone does not mix over all labels: chains start as draws of the posterior, and have to stay so."""
    seen, prior, configurations, weights, exact = tiny(rows, 3, sticks)
    g = generator(5)
    labels = configurations[weights.multinomial(chains, replacement=True, generator=g)]
    before = co_assignment(labels)
    after, accepted = Collapsed(seen, prior).moves(seen.points, labels, times, g)
    assert 0.02 < float(accepted.mean()) / times and float((after != labels).double().mean()) > 0.2
    return float((co_assignment(after) - exact).abs().max()), float((before - exact).abs().max())


@pytest.mark.parametrize("sticks", [False, True])
def test_split_merge_leaves_the_posterior_invariant(sticks):
    error, _ = split_merge_error(6, sticks, chains=10_000, times=20)
    assert error < 0.02


@pytest.mark.stat
@pytest.mark.parametrize("sticks", [False, True])
def test_split_merge_leaves_the_posterior_invariant_long(sticks):
    error, _ = split_merge_error(8, sticks, chains=100_000, times=50)
    assert error < 0.006


@pytest.mark.parametrize("kernel", CALIBRATED)
def test_ranks_are_uniform(kernel):
    assert uniform_p(sbc_ranks(kernel, 200), 19) > 1e-4


@pytest.mark.stat
@pytest.mark.parametrize("kernel", CALIBRATED)
def test_ranks_are_uniform_long(kernel):
    assert uniform_p(sbc_ranks(kernel, 1000, burn=200, thin=20), 19) > 1e-4


def test_what_the_long_forms_compare_is_normalised():
    for sticks in (False, True):
        assert float(tiny(4, 3, sticks)[3].sum()) == pytest.approx(1.0)
        assert torch.equal(tiny(4, 3, sticks)[4].diagonal().round(decimals=12), torch.ones(4).double())
